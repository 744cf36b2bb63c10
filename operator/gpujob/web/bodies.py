"""The one reader of request bodies: bounded in bytes, in time, and in what all hold together."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Receive, Scope, Send

from gpujob.web.problems import Problem

BODY_SECONDS = 30.0
"""How long a body may take to arrive."""
SLOW_SECONDS = 1.0
"""After so long, a body that still arrives gives way if others need its place."""
HELD_BYTES_MAX = 16 << 20
"""Of all bodies of a listener that arrive or are parsed."""
SHARES = 4
"""One caller gets no more than this part of it, so that others are still served."""
AT_ONCE_BYTES = 16 << 10
"""A body up to this size is parsed in milliseconds, so nobody has to wait for it."""

JSON = "application/json"

Parsed = TypeVar("Parsed")

_parser = ThreadPoolExecutor(1, "parser")


class _Body:
    """The body of one request, as far as it is held."""

    def __init__(self, whose: str, since: float) -> None:
        self.whose, self.since = whose, since
        self.size = 0
        self.patience = asyncio.timeout(BODY_SECONDS)


class HeldBodies:
    """Bounds what the bodies of all requests of a listener hold together."""

    def __init__(self, app: ASGIApp, bytes_max: int = HELD_BYTES_MAX) -> None:
        self._app, self._most = app, bytes_max
        self._by_caller: Counter[str] = Counter()
        self._arriving: dict[_Body, None] = {}
        """The oldest comes first."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, which finds this in `state.bodies`."""
        if scope["type"] == "http":
            scope.setdefault("state", {})["bodies"] = self
        await self._app(scope, receive, send)

    @asynccontextmanager
    async def held(self, request: Request, bytes_max: int) -> AsyncIterator[bytes]:
        """Reads a whole body, and counts it until the block ends; raises Problem."""
        caller = getattr(request.state, "caller", None)
        # An address is all that is known of whoever shows no token.
        whose = caller.name if caller else (request.client.host if request.client else "")
        body = _Body(whose, asyncio.get_running_loop().time())
        try:
            yield await self._arrived(body, request, bytes_max)
        finally:
            self._by_caller[whose] -= body.size
            self._by_caller += Counter()  # Drops what is zero.

    async def _arrived(self, body: _Body, request: Request, bytes_max: int) -> bytes:
        too_large = Problem(413, f"the body is larger than {bytes_max} bytes")
        declared = _declared(request)
        if declared > bytes_max:
            raise too_large
        self._demand(body, declared)
        self._arriving[body] = None
        raw = bytearray()
        try:
            async with body.patience:
                async for chunk in request.stream():
                    if body.size + len(chunk) > bytes_max:
                        raise too_large
                    self._demand(body, len(chunk))
                    self._by_caller[body.whose] += len(chunk)
                    body.size += len(chunk)
                    raw += chunk
        except TimeoutError:
            words = f"the body did not arrive within {BODY_SECONDS:g} s"
            if asyncio.get_running_loop().time() - body.since < BODY_SECONDS:
                words = "the body arrived too slowly for all that are being read now"
            raise Problem(408, words) from None
        except ClientDisconnect:
            # Nobody sees this answer. It keeps a broken connection from being logged as our
            # failure.
            raise Problem(400, "the body is incomplete") from None
        finally:
            del self._arriving[body]
        return bytes(raw)

    def _demand(self, body: _Body, more: int) -> None:
        """Raises Problem if there is no room for more bytes of a body."""
        too_many_of_his = self._by_caller[body.whose] + more > self._most // SHARES
        if too_many_of_his or not self._has_room(body, more):
            words = "too many requests are being read now; try again later"
            raise Problem(503, words, headers={"Retry-After": "1"})

    def _has_room(self, body: _Body, more: int) -> bool:
        """Whether there is room, or will be at once because slow bodies have to give way."""
        now = asyncio.get_running_loop().time()
        left = self._most - self._by_caller.total()
        for one in self._arriving:
            if left >= more or now - one.since < SLOW_SECONDS:
                break
            if one is not body and not one.patience.expired():
                one.patience.reschedule(now)
                left += one.size
        return left >= more


def content_type(request: Request) -> str:
    """Returns what a request declares its body to be, without parameters; empty = nothing."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def read_body(
    request: Request,
    bytes_max: int,
    parse: Callable[[bytes], Parsed],
    *,
    types: tuple[str, ...] = (JSON,),
    at_once: int = AT_ONCE_BYTES,
) -> Parsed:
    """Returns what `parse` makes of the body of a request that declares it as one of these types.

    It may raise Problem, and so does this. What has more bytes than `at_once` may take longer than
    others should wait. It is parsed in another thread, one body after the other, so that all
    together take no more memory than the largest needs.
    """
    if content_type(request) not in types:
        raise Problem(415, f"the Content-Type must be {' or '.join(types)}")
    bodies: HeldBodies = request.state.bodies
    async with bodies.held(request, bytes_max) as raw:
        if len(raw) <= at_once:
            return parse(raw)
        return await asyncio.get_running_loop().run_in_executor(_parser, parse, raw)


def _declared(request: Request) -> int:
    """Returns how long a body says that it is; 0 = it does not say."""
    told = request.headers.get("content-length", "")
    return int(told) if told.isascii() and told.isdecimal() and len(told) <= 18 else 0
