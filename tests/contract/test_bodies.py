"""What the bodies of all requests of a listener hold together, and who gives way."""

import asyncio
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from gpujob.web import bodies
from gpujob.web.bodies import SHARES, HeldBodies, read_body
from gpujob.web.problems import LastResort

MOST = 64_000
SHARE = MOST // SHARES


async def take(request: Request) -> Response:
    return PlainTextResponse(str(await read_body(request, SHARE, len)))


def listener() -> Starlette:
    """Returns an application that takes bodies."""
    routes = [Route("/", take, methods=["POST"])]
    held = Middleware(HeldBodies, bytes_max=MOST)
    return Starlette(routes=routes, middleware=[Middleware(LastResort), held])


class Sender:
    """Sends the body of a request piece by piece, and knows when each was read."""

    def __init__(self, app: Starlette, address: str, size: int) -> None:
        self._left, self._status = size, 0
        self._pieces = asyncio.Queue[dict[str, Any]]()
        self._waits = asyncio.Event()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(size).encode()),
        ]
        scope = {
            **{"type": "http", "http_version": "1.1", "method": "POST", "scheme": "http"},
            **{"asgi": {"version": "3.0", "spec_version": "2.4"}, "query_string": b""},
            **{"path": "/", "raw_path": b"/", "root_path": "", "headers": headers},
            "client": (address, 1),
        }
        self._answering = asyncio.ensure_future(app(scope, self._receive, self._send))

    async def _receive(self) -> dict[str, Any]:
        if self._pieces.empty():
            self._waits.set()
        return await self._pieces.get()

    async def _send(self, message: Any) -> None:
        self._status = message.get("status", self._status)

    async def sends(self, count: int) -> "Sender":
        """Sends so many bytes, and returns once they are read, or there is an answer."""
        self._left -= count
        self._waits.clear()
        piece = {"type": "http.request", "body": b"x" * count, "more_body": self._left > 0}
        self._pieces.put_nowait(piece)
        waiting = asyncio.ensure_future(self._waits.wait())
        await asyncio.wait([waiting, self._answering], return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        return self

    async def status(self) -> int:
        """Returns the status of the answer."""
        await self._answering
        return self._status


async def answered(app: Starlette, address: str, size: int) -> int:
    """Sends a whole body, and returns the status of the answer."""
    return await (await Sender(app, address, size).sends(size)).status()


async def test_nobody_takes_the_place_of_all() -> None:
    """One caller has a share of it; what he sends beside that is sent away at once."""
    app = listener()
    slow = await Sender(app, "one", SHARE).sends(SHARE - 100)
    assert await Sender(app, "one", 101).status() == 503
    assert await answered(app, "two", 100) == 200
    assert await (await slow.sends(100)).status() == 200
    assert await answered(app, "one", SHARE) == 200


async def test_slow_bodies_give_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of it is taken by what hardly arrives: then the first one that is slow has to go."""
    app = listener()
    monkeypatch.setattr(bodies, "SLOW_SECONDS", 60.0)
    hogs = [await Sender(app, f"hog {at}", SHARE).sends(SHARE - 1) for at in range(SHARES)]
    assert await answered(app, "honest", 1000) == 503

    monkeypatch.setattr(bodies, "SLOW_SECONDS", 0.0)
    assert await answered(app, "honest", 1000) == 200

    assert await hogs[0].status() == 408
    assert await (await hogs[1].sends(1)).status() == 200
    for hog in hogs[2:]:
        await (await hog.sends(1)).status()


async def test_what_is_declared_too_large_is_not_kept() -> None:
    """It is refused before any of it is read."""
    app = listener()
    assert await Sender(app, "one", 4 * SHARE).status() == 413
    assert await answered(app, "one", SHARE) == 200
