"""The driver's HTTP client, over real sockets: kept connections, broken ones, wrong answers."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
from tests.authority import certificate, listening

from gpujob.adapters import transport
from gpujob.adapters.errors import ControllerUnavailable
from gpujob.adapters.transport import TransportClient, UntrustedAuthorities

OURS = certificate("127.0.0.1")
OTHER = certificate("gpujob.other.svc")
ELSEWHERE = certificate("127.0.0.2")
EXPIRED = certificate("127.0.0.1", ends_in_seconds=-60)
TRUSTED = "".join(one.authority for one in (OURS, OTHER, ELSEWHERE, EXPIRED))
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
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0, ssl=listening(OURS))
    made.url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
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
    client = TransportClient(peer.url, OURS.authority)
    answers = [await post(client) for _ in range(3)]
    client.close()

    assert answers == [b"{}"] * 3
    assert len(peer.connections) == 1
    assert peer.requests[2].startswith(b"POST /v1/sync HTTP/1.1\r\n")
    assert b"Authorization: Bearer the-token\r\n" in peer.requests[2]


async def test_a_connection_that_the_server_closed_is_replaced(peer: Peer) -> None:
    """Without a failure: servers close connections that are idle for a while."""
    peer.answers = [GOOD]
    client = TransportClient(peer.url, OURS.authority)
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
    client = TransportClient(peer.url, OURS.authority)

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
    client = TransportClient(peer.url, OURS.authority)
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
        await post(TransportClient(peer.url, OURS.authority))


def downgraded() -> ssl.SSLContext:
    """A listener with our own certificate that does not speak the latest version."""
    context = listening(OURS, ssl.TLSVersion.TLSv1_2)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    return context


FALSE = {
    "its own authority, the right name": listening(certificate("127.0.0.1")),
    "our authority, another name": listening(OTHER),
    "our authority, another address": listening(ELSEWHERE),
    "expired": listening(EXPIRED),
    "plain HTTP": None,
    "an older TLS": downgraded(),
}


class Tap:
    """Leads callers on to a listener, and keeps the very bytes that they send."""

    def __init__(self) -> None:
        self.sent = b""

    @asynccontextmanager
    async def before(self, port: int) -> AsyncIterator[int]:
        """Leads on to this port; gives the port to call."""

        leading: list[asyncio.Task[None] | None] = []

        async def lead(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            leading.append(asyncio.current_task())
            there, back = await asyncio.open_connection("127.0.0.1", port)

            async def forth() -> None:
                with suppress(ConnectionError):
                    while data := await reader.read(65536):
                        self.sent += data
                        back.write(data)
                back.write_eof()

            async def home() -> None:
                with suppress(ConnectionError):
                    while data := await there.read(65536):
                        writer.write(data)
                writer.close()

            await asyncio.gather(forth(), home())
            back.close()
            await asyncio.gather(back.wait_closed(), writer.wait_closed())

        server = await asyncio.start_server(lead, "127.0.0.1", 0)
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            server.close()
            await asyncio.gather(*(one for one in leading if one is not None))


@pytest.mark.parametrize("false", FALSE)
async def test_a_false_controller_learns_nothing(false: str) -> None:
    """Neither a token nor a byte of a report: whoever answers, is verified before all else.

    What it received is looked at after its TLS, and on the wire as well.
    """
    peer, tap = Peer(), Tap()
    peer.answers = [GOOD]
    received: list[bytes] = []

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            received.append(await reader.read(65536))
            writer.write(GOOD)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(take, "127.0.0.1", 0, ssl=FALSE[false])
    port = server.sockets[0].getsockname()[1]
    async with tap.before(port) as asked:
        client = TransportClient(f"https://127.0.0.1:{asked}", TRUSTED)
        with pytest.raises(ControllerUnavailable, match="no answer"):
            await post(client)
    server.close()

    assert tap.sent.startswith(b"\x16\x03"), "with a hello of TLS"
    assert FALSE[false] is None or not any(received), "nothing came through TLS"
    assert b"the-token" not in tap.sent
    assert b"report" not in tap.sent
    assert b"POST" not in tap.sent


async def test_the_true_one_is_believed_among_all_these(peer: Peer) -> None:
    """Else the test above would show nothing: same client, same trust."""
    peer.answers = [GOOD]

    assert await post(TransportClient(peer.url, TRUSTED)) == b"{}"


async def test_others_are_trusted_from_the_next_connection_on(peer: Peer) -> None:
    """The one that is open was verified; whatever comes after it is verified anew."""
    peer.answers = [GOOD, GOOD]
    client = TransportClient(peer.url, OURS.authority)
    await post(client)
    client.trust(OTHER.authority)
    assert await post(client) == b"{}"
    client.close()
    peer.answers = [GOOD]
    with pytest.raises(ControllerUnavailable, match="CERTIFICATE_VERIFY_FAILED"):
        await post(client)
    client.trust(OTHER.authority + OURS.authority)

    assert await post(client) == b"{}"
    with pytest.raises(UntrustedAuthorities):
        client.trust("no certificate")
    client.close()
    peer.answers = [GOOD]
    assert await post(client) == b"{}", "what was trusted before is trusted still"


async def test_nobody_there_is_no_answer() -> None:
    """A refused connection."""
    with pytest.raises(ControllerUnavailable, match="no answer"):
        await post(TransportClient("https://127.0.0.1:1", OURS.authority))
