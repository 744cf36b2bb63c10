"""Answers that come before a request has come whole: who still sends sees them, and then ends."""

import asyncio
import socket
import ssl
import time
from collections.abc import Callable
from contextlib import closing

import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from tests.authority import certificate, listening

from gpujob.web import lingering
from gpujob.web.bodies import read_body
from gpujob.web.listener import http_server, listener_app
from gpujob.web.problems import Problem
from localcluster.control_plane import free_port

MADE = certificate("127.0.0.1")
BODY = b"x" * 300_000
LARGEST = 1_000
PATIENCE_SECONDS = 30.0
"""Nothing takes so long; what does has failed."""


async def refuse(_: Request) -> Response:
    raise Problem(401, "who are you?")


async def take(request: Request) -> Response:
    return PlainTextResponse(str(await read_body(request, LARGEST, len)))


async def ignore(_: Request) -> Response:
    return PlainTextResponse("ignored")


def asked(story: Callable[["Client"], None], *, secured: bool) -> None:
    """Plays a story beside a listener, in another thread."""

    async def life() -> None:
        port = free_port()
        app = listener_app(
            Route("/refuse", refuse, methods=["POST"]),
            Route("/take", take, methods=["POST"]),
            Route("/ignore", ignore, methods=["POST"]),
        )
        tls = listening(MADE) if secured else None
        server = http_server(app, "127.0.0.1", port, tls)
        serving = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        line: socket.socket = socket.create_connection(("127.0.0.1", port), PATIENCE_SECONDS)
        try:
            await asyncio.to_thread(play, line)
        finally:
            server.should_exit = True
            await asyncio.wait_for(serving, PATIENCE_SECONDS)

    def play(line: socket.socket) -> None:
        if secured:
            trusting = ssl.create_default_context(cadata=MADE.authority)
            line = trusting.wrap_socket(line, server_hostname="127.0.0.1")
        with closing(line):
            story(Client(line))

    asyncio.run(life())


class Client:
    """Sends first and reads afterwards, as clients that block do."""

    def __init__(self, line: socket.socket) -> None:
        self._line, self._come = line, b""

    def send(self, what: bytes) -> None:
        """Sends all of it."""
        self._line.sendall(what)

    def head(self, path: str, *more: str, length: int | None = len(BODY)) -> None:
        """Sends the head of a request with a body of this length; None = it comes in chunks."""
        told = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
        lines = [f"POST {path} HTTP/1.1", "Host: x", "Content-Type: application/json", told, *more]
        self.send("\r\n".join([*lines, "", ""]).encode())

    def wait(self) -> None:
        """Returns once the answer begins to come."""
        self._come = self._line.recv(1)

    def is_cut_off(self, piece: bytes, pause: float) -> bool:
        """Sends the same again and again, and returns whether that ends."""
        began = time.monotonic()
        try:
            while time.monotonic() < began + PATIENCE_SECONDS:
                self.send(piece)
                time.sleep(pause)
        except ConnectionError:
            return True
        return False

    def read(self) -> bytes:
        """Returns one whole answer, or what there is of it when the connection ends."""
        answer, self._come = self._come, b""
        while (missing := _missing(answer)) and (more := self._line.recv(missing)):
            answer += more
        return answer

    def is_closed(self) -> bool:
        """Waits for more, and returns whether it was the end."""
        return self._line.recv(1) == b""


def _missing(answer: bytes) -> int:
    head, ended, body = answer.partition(b"\r\n\r\n")
    if not ended:
        return 1
    lengths = [one for one in head.lower().split(b"\r\n") if one.startswith(b"content-length:")]
    return int(lengths[0].partition(b":")[2]) - len(body)


def status(answer: bytes) -> int:
    """Returns the status of an answer."""
    return int(answer.split(b" ")[1])


REFUSED = {"refuse": 401, "take": 413, "ignore": 200, "nothing": 404}


@pytest.mark.parametrize("path", REFUSED)
@pytest.mark.parametrize("secured", [False, True], ids=["plain", "tls"])
def test_who_still_sends_sees_the_answer(path: str, secured: bool) -> None:
    """The answer begins before most of the body; it is read only after all of that was sent."""

    def story(client: Client) -> None:
        client.head(f"/{path}")
        client.send(BODY[:2_000])
        client.wait()
        for start in range(2_000, len(BODY), 50_000):
            client.send(BODY[start : start + 50_000])
        assert status(client.read()) == REFUSED[path]
        assert client.is_closed()

    asked(story, secured=secured)


@pytest.mark.parametrize("path", ["ignore", "nothing", "take"])
def test_a_body_that_comes_whole_leaves_the_connection_open(
    monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """Nobody connects again for each refusal."""
    monkeypatch.setattr(lingering, "ARRIVAL_SECONDS", PATIENCE_SECONDS)

    def story(client: Client) -> None:
        for _ in range(3):
            client.head(f"/{path}", length=2_000)
            client.send(BODY[:2_000])
            assert status(client.read()) == REFUSED[path]

    asked(story, secured=False)


@pytest.mark.parametrize("path", REFUSED)
@pytest.mark.parametrize("length", [10**12, None], ids=["declared", "chunked"])
def test_an_endless_body_ends(
    monkeypatch: pytest.MonkeyPatch, path: str, length: int | None
) -> None:
    """A stranger sends for ever where nobody reads: he is cut off after some time."""
    monkeypatch.setattr(lingering, "LINGER_SECONDS", 0.5)

    def story(client: Client) -> None:
        client.head(f"/{path}", length=length)
        assert client.is_cut_off(b"2\r\nxx\r\n" if length is None else b"x", pause=0.001)

    asked(story, secured=False)


def test_a_long_body_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """However fast it comes."""
    monkeypatch.setattr(lingering, "LINGER_BYTES_MAX", 1 << 20)
    monkeypatch.setattr(lingering, "LINGER_SECONDS", 4 * PATIENCE_SECONDS)

    def story(client: Client) -> None:
        client.head("/refuse", length=10**12)
        assert client.is_cut_off(BODY, pause=0)

    asked(story, secured=False)


@pytest.mark.parametrize("path", REFUSED)
def test_nobody_is_told_to_send_what_nobody_reads(path: str) -> None:
    """A client that asks first (RFC 9110, section 10.1.1) has its answer, and no `100 Continue`."""

    def story(client: Client) -> None:
        client.head(f"/{path}", "Expect: 100-continue")
        assert status(client.read()) == REFUSED[path]
        assert client.is_closed()

    asked(story, secured=False)


def test_who_waits_for_the_answer_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """He keeps the body back until then, and leaves."""
    monkeypatch.setattr(lingering, "LINGER_SECONDS", 2 * PATIENCE_SECONDS)

    def story(client: Client) -> None:
        client.head("/refuse")
        assert status(client.read()) == 401

    asked(story, secured=False)
