"""The driver's HTTP client, over real sockets: kept connections, broken ones, wrong answers."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest

from gpujob.adapters import transport
from gpujob.adapters.errors import ControllerUnavailable
from gpujob.adapters.transport import TransportClient

GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


class Peer:
    """Answers each request with the next of its answers, whatever it is."""

    def __init__(self) -> None:
        self.answers: list[bytes] = []
        self.requests: list[bytes] = []
        self.connections: list[asyncio.StreamWriter] = []
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serves one connection until its end, or until the answers are used up."""
        self.connections.append(writer)
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while self.answers:
                head = await reader.readuntil(b"\r\n\r\n")
                self.requests.append(head + await reader.readexactly(len(b"report")))
                writer.write(self.answers.pop(0))
                await writer.drain()
        writer.close()


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    """A server on the loopback."""
    made = Peer()
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    yield made
    server.close()
    for connection in made.connections:
        connection.close()


async def post(client: TransportClient) -> bytes:
    """Posts a report."""
    return await client.post("/v1/sync", b"report", token="the-token", bytes_max=100)


async def test_one_connection_carries_all_reports(peer: Peer) -> None:
    """A name is looked up and a connection made once, not with each report."""
    peer.answers = [GOOD, GOOD, GOOD, GOOD]
    client = TransportClient(peer.url)
    answers = [await post(client) for _ in range(3)]
    client.close()

    assert answers == [b"{}"] * 3
    assert len(peer.connections) == 1
    assert peer.requests[2].startswith(b"POST /v1/sync HTTP/1.1\r\n")
    assert b"Authorization: Bearer the-token\r\n" in peer.requests[2]


async def test_a_connection_that_the_server_closed_is_replaced(peer: Peer) -> None:
    """Without a failure: servers close connections that are idle for a while."""
    peer.answers = [GOOD]
    client = TransportClient(peer.url)
    await post(client)
    await peer.connections[0].wait_closed()
    await asyncio.sleep(0.05)
    peer.answers = [GOOD]

    assert await post(client) == b"{}"
    client.close()


async def test_an_answer_in_chunks_is_read_whole(peer: Peer) -> None:
    """However the server divides it."""
    peer.answers = [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n1\r\n}\r\n0\r\n\r\n"
    ]
    client = TransportClient(peer.url)

    assert await post(client) == b"{}"
    client.close()


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n", "it answered 503"),
        (b"HTTP/1.1 307 X\r\nLocation: /\r\nContent-Length: 0\r\n\r\n", "it answered 307"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 101\r\n\r\n" + b"x" * 101, "longer than 100"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}", "no answer"),
        (b"", "no answer|closed"),
        (b"SSH-2.0-OpenSSH\r\n", "no answer"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000, "no answer"),
    ],
)
async def test_whatever_else_comes_is_no_answer(peer: Peer, answer: bytes, words: str) -> None:
    """And the next report has a connection of its own."""
    peer.answers = [answer]
    client = TransportClient(peer.url)
    with pytest.raises(ControllerUnavailable, match=words):
        await post(client)
    peer.answers = [GOOD]

    assert await post(client) == b"{}"
    assert len(peer.connections) == 2
    client.close()


async def test_a_silent_server_is_not_waited_for(
    peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The driver has its outcome to report to another one."""
    monkeypatch.setattr(transport, "ANSWER_SECONDS", 0.2)
    peer.answers = [b"", GOOD]

    with pytest.raises(ControllerUnavailable, match="TimeoutError"):
        await post(TransportClient(peer.url))


async def test_nobody_there_is_no_answer() -> None:
    """A refused connection."""
    with pytest.raises(ControllerUnavailable, match="no answer"):
        await post(TransportClient("http://127.0.0.1:1"))
