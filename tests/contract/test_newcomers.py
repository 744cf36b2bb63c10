"""Connections that never come to a request: half-open handshakes, plain text, garbage, silence."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random

import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from tests.authority import certificate, listening

from gpujob.web import listener
from gpujob.web.listener import http_server, listener_app
from gpujob.web.problems import Problem
from localcluster.control_plane import free_port

MADE = certificate("127.0.0.1")
MOST = 8
HONEST, HOSTILE = "127.0.0.2", "127.0.0.3"
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
PATIENCE_SECONDS = 30
"""Nothing takes so long; what does has failed."""

Line = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def hello(_: Request) -> PlainTextResponse:
    return PlainTextResponse("hello")


async def refuse(_: Request) -> PlainTextResponse:
    raise Problem(401, "who are you?")


class Clients:
    """Whoever connects to a listener."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._writers: list[asyncio.StreamWriter] = []

    async def raw(self, host: str = HOSTILE) -> Line:
        """Opens a connection, and sends nothing."""
        return await self._opened(host, None)

    async def secured(self, host: str = HONEST) -> Line:
        """Opens a connection, and speaks TLS on it; the listener has answered by then."""
        return await self._opened(host, ssl.create_default_context(cadata=MADE.authority))

    async def _opened(self, host: str, trusting: ssl.SSLContext | None) -> Line:
        opening = asyncio.open_connection(
            "127.0.0.1", self._port, local_addr=(host, 0), ssl=trusting
        )
        line = await asyncio.wait_for(opening, PATIENCE_SECONDS)
        self._writers.append(line[1])
        return line

    async def close(self) -> None:
        """Closes all connections."""
        for writer in self._writers:
            writer.transport.abort()
        await asyncio.sleep(0)


@asynccontextmanager
async def served() -> AsyncIterator[Clients]:
    """A listener over TLS, and who connects to it."""
    port = free_port()
    app = listener_app(Route("/", hello), Route("/refused", refuse))
    server = http_server(app, "127.0.0.1", port, listening(MADE))
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    clients = Clients(port)
    try:
        yield clients
    finally:
        await clients.close()
        server.should_exit = True
        await asyncio.wait_for(serving, PATIENCE_SECONDS)


async def asked(line: Line, request: bytes = GET) -> bytes:
    """Sends a request, and returns what is answered, as far as the first piece of it."""
    reader, writer = line
    writer.write(request)
    return await asyncio.wait_for(reader.read(4096), PATIENCE_SECONDS)


async def is_closed(line: Line) -> bool:
    """Waits until a connection is closed, and returns whether nothing was answered on it."""
    try:
        return await asyncio.wait_for(line[0].read(), PATIENCE_SECONDS) == b""
    except ConnectionError:
        return True


def first_flight() -> bytes:
    """Returns what a client sends first."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname="x")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


@pytest.mark.parametrize("sent", [b"", b"\x16", first_flight()[:-1]], ids=["no", "one", "most"])
async def test_a_handshake_has_its_time(monkeypatch: pytest.MonkeyPatch, sent: bytes) -> None:
    """However much of it has come."""
    monkeypatch.setattr(listener, "HANDSHAKE_SECONDS", 0.2)
    async with served() as clients:
        line = await clients.raw()
        line[1].write(sent)

        assert await is_closed(line)


async def test_a_handshake_is_followed_by_a_request_in_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Who has spoken TLS and says no more has no place either."""
    monkeypatch.setattr(listener, "HEAD_SECONDS", 0.2)
    async with served() as clients:
        line = await clients.secured()

        assert await is_closed(line)


async def test_half_open_handshakes_keep_nobody_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has most gives way to others, oldest first; he himself gets no more."""
    monkeypatch.setattr(listener, "NEWCOMERS_MAX", MOST)
    monkeypatch.setattr(listener, "HANDSHAKE_SECONDS", 600)
    async with served() as clients:
        hostile = [await clients.raw() for _ in range(MOST)]
        more = await clients.raw()
        assert await is_closed(more)
        # Nobody asks yet: whoever was answered would take no place.
        others = []
        for at in range(MOST // 2):
            others.append(await clients.secured(f"127.0.0.{10 + at}"))
            assert await is_closed(hostile[at])
        for line in others:
            assert b"hello" in await asked(line)


async def test_who_was_answered_is_a_newcomer_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drivers hold their connections: many of them are no reason to close one."""
    monkeypatch.setattr(listener, "NEWCOMERS_MAX", MOST)
    async with served() as clients:
        for _ in range(MOST * 2):
            assert b"hello" in await asked(await clients.secured())


async def test_who_shows_no_token_holds_no_connection() -> None:
    """Else strangers could hold as many as they like, with a bad request on each."""
    async with served() as clients:
        line = await clients.secured()
        answer = await asked(line, GET.replace(b"/ ", b"/refused "))

        assert answer.startswith(b"HTTP/1.1 401")
        # Without it, each would be closed only after seconds in which nothing more is asked.
        assert b"\r\nconnection: close\r\n" in answer.lower()
        await asyncio.wait_for(line[0].read(), PATIENCE_SECONDS)
        assert line[0].at_eof()


async def test_plain_text_is_not_answered() -> None:
    """Neither HTTP nor anything else; and the next one is served."""
    async with served() as clients:
        for sent in (GET, b"\x00" * 4096, b"\x16\x03\x01\xff\xff" + b"\xff" * 70_000):
            line = await clients.raw()
            line[1].write(sent)
            answer = await asyncio.wait_for(_all_of(line), PATIENCE_SECONDS)
            assert b"HTTP" not in answer

        assert b"hello" in await asked(await clients.secured())


async def _all_of(line: Line) -> bytes:
    try:
        return await line[0].read()
    except ConnectionError:
        return b""


async def test_broken_first_flights_end_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a client begins with: it is closed, and a good one after it is answered."""
    monkeypatch.setattr(listener, "HANDSHAKE_SECONDS", 0.2)
    random, whole = Random(20_261_130), first_flight()
    async with served() as clients:
        for _ in range(60):
            bent = bytearray(whole)
            for _ in range(random.randint(1, 4)):
                bent[random.randrange(len(bent))] = random.randrange(256)
            line = await clients.raw()
            line[1].write(bytes(bent[: random.randint(1, len(bent))]))
            if random.random() < 0.5:
                line[1].write_eof()
            assert b"HTTP" not in await asyncio.wait_for(_all_of(line), PATIENCE_SECONDS)

        assert b"hello" in await asked(await clients.secured())
