"""A proxy that holds a request, or its answer, until it is told what to do with it.

Put between the operator and the API server or the provider, it stops the operator from outside at
one exact request: whoever holds the request may kill the sender, and then let the request go on as
if it had been under way all along, or drop it as if it had never left. It may change answers too.
"""

import asyncio
import json
import ssl
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
from aiohttp import web
from tests.integration.parts import PATIENCE_SECONDS
from yarl import URL

HOP_BY_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "te", "upgrade", "host"})
BODY_BYTES = 16 * 2**20
NO_SPACE = {
    "kind": "Status",
    "apiVersion": "v1",
    "status": "Failure",
    "message": "etcdserver: mvcc: database space exceeded",
    "code": 500,
}
"""An API server's answer to a write when its etcd has no space left."""

T = TypeVar("T")


@dataclass(frozen=True)
class Seen:
    """A request that came."""

    method: str
    path: str
    body: bytes
    at: float
    """When, in seconds since the epoch."""

    @property
    def document(self) -> dict[str, Any]:
        """Its body as a JSON object; empty if it is none."""
        with suppress(ValueError):
            read = json.loads(self.body)
            if isinstance(read, dict):
                return read
        return {}


@dataclass
class Passed:
    """An answer on its way back, which may be changed."""

    body: bytes
    headers: dict[str, str]


@dataclass
class Hold:
    """The next request that matches, held before it is sent on or, with `answer`, after."""

    matches: Callable[[Seen], bool]
    answer: bool
    _loop: asyncio.AbstractEventLoop
    _caught: threading.Event = field(default_factory=threading.Event)
    _told: asyncio.Event = field(default_factory=asyncio.Event)
    _goes_on: bool = False

    def await_caught(self) -> None:
        """Waits until such a request is held."""
        assert self._caught.wait(PATIENCE_SECONDS), "no such request came"

    def release(self) -> None:
        """Lets it go on its way."""
        self._goes_on = True
        self._loop.call_soon_threadsafe(self._told.set)

    def drop(self) -> None:
        """Cuts the connection: the request never arrives, or its answer is lost."""
        self._loop.call_soon_threadsafe(self._told.set)

    async def _keep(self) -> bool:
        """Holds the request; returns whether it goes on."""
        self._caught.set()
        await self._told.wait()
        return self._goes_on


class Proxy:
    """A plain HTTP server before some other server, in a thread of its own."""

    def __init__(
        self, upstream: str, ca: Path | None = None, alter: Callable[[Passed], None] | None = None
    ) -> None:
        self._alter = alter
        self.rewrites: Callable[[bytes], bytes] = lambda lines: lines
        """What becomes of the lines of an answer, as they come."""
        self._upstream = upstream.rstrip("/")
        self._tls = ssl.create_default_context(cafile=str(ca)) if ca else None
        self._loop = asyncio.new_event_loop()
        self._holds: list[Hold] = []
        self.requests: list[Seen] = []
        """What came, held or not."""
        self.delay: Callable[[Seen], float] = lambda _: 0.0
        """How many seconds a request is on its way."""
        self.refuses: Callable[[Seen], bool] = lambda _: False
        """What is answered with 500 and goes no further."""
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.url: str = self._do(self._start())

    def hold(self, matches: Callable[[Seen], bool], *, answer: bool = False) -> Hold:
        """Holds the next request that matches."""
        made = Hold(matches, answer, self._loop)
        self._holds.append(made)
        return made

    def close(self) -> None:
        """Cuts all connections and ends."""
        self._do(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    async def _start(self) -> str:
        connector = aiohttp.TCPConnector(limit=0, ssl=self._tls or True)
        self._client = aiohttp.ClientSession(
            connector=connector,
            timeout=aiohttp.ClientTimeout(total=None),
            auto_decompress=False,
            trust_env=False,
        )
        app = web.Application(client_max_size=BODY_BYTES)
        app.router.add_route("*", "/{path:.*}", self._serve)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        return f"http://{host}:{port}"

    async def _stop(self) -> None:
        # First: what is under way then loses its connection at once, without a parting word.
        await self._client.close()
        # A held request would never end by itself.
        under_way = asyncio.all_tasks() - {asyncio.current_task()}
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)
        await self._runner.cleanup()
        for _ in range(3):
            # An aborted connection closes its socket in one of the loop's next turns.
            await asyncio.sleep(0)

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        seen = Seen(request.method, request.path_qs, await request.read(), time.time())
        self.requests.append(seen)
        if seconds := self.delay(seen):
            await asyncio.sleep(seconds)
        if self.refuses(seen):
            return web.json_response(NO_SPACE, status=500)
        held = next((hold for hold in self._holds if hold.matches(seen)), None)
        if held is not None:
            self._holds.remove(held)
            if not held.answer and not await held._keep():
                raise _cut(request)
        try:
            return await self._forward(request, seen, held if held and held.answer else None)
        except (aiohttp.ClientError, OSError):
            raise _cut(request) from None

    async def _forward(
        self, request: web.Request, seen: Seen, held: Hold | None
    ) -> web.StreamResponse:
        url = URL(self._upstream + seen.path, encoded=True)
        headers = _passed_on(request.headers.items())
        async with self._client.request(
            seen.method, url, headers=headers, data=seen.body or None, allow_redirects=False
        ) as answer:
            if held is not None:
                await answer.read()
                if not await held._keep():
                    raise _cut(request)
            if self._alter is not None:
                changed = Passed(await answer.read(), dict(_passed_on(answer.headers.items())))
                self._alter(changed)
                changed.headers.pop("Content-Length", None)
                return web.Response(
                    status=answer.status, body=changed.body, headers=changed.headers
                )
            passed = web.StreamResponse(status=answer.status)
            for name, value in _passed_on(answer.headers.items()):
                passed.headers.add(name, value)
            await passed.prepare(request)
            if held is not None:
                await passed.write(await answer.read())
            else:
                # A watch goes on for minutes: each piece is passed on as it comes.
                rest = b""
                async for piece in answer.content.iter_any():
                    lines, line_feed, rest = (rest + piece).rpartition(b"\n")
                    if line_feed:
                        await passed.write(self.rewrites(lines + line_feed))
                if rest:
                    await passed.write(self.rewrites(rest))
            await passed.write_eof()
            return passed


@contextmanager
def proxy(
    upstream: str, ca: Path | None = None, alter: Callable[[Passed], None] | None = None
) -> Iterator[Proxy]:
    """A proxy that is closed afterwards; `alter` is called in its thread."""
    made = Proxy(upstream, ca, alter)
    try:
        yield made
    finally:
        made.close()


def _cut(request: web.Request) -> Exception:
    if request.transport is not None:
        request.transport.abort()
    return web.HTTPServiceUnavailable()


def _passed_on(headers: Any) -> list[tuple[str, str]]:
    return [(name, value) for name, value in headers if name.lower() not in HOP_BY_HOP]
