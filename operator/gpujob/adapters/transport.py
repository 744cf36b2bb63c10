"""The controller, as a driver reports to it: HTTP/1.1 by h11, over one TLS connection that is kept.

aiohttp, which the other programs use, would take 10 MiB of each driver's memory, a quarter of all.
"""

import asyncio
import ssl
from dataclasses import dataclass
from urllib.parse import urlsplit

import h11

from gpujob.adapters.errors import ControllerUnavailable, NotTheDriver

ANSWER_SECONDS = 5.0
"""How long an answer is waited for that the controller does not keep back: its loop may stand still
for a while."""
READ_BYTES = 1 << 16


@dataclass(frozen=True)
class _Line:
    """An open connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    http: h11.Connection


class UntrustedAuthorities(ValueError):
    """A text holds no certificates of authorities."""


def trust_in(authorities: str) -> ssl.SSLContext:
    """Returns the TLS context of a client that trusts these authorities (PEM), and no others.

    Nobody is spoken to before the certificate was verified: its chain, its dates and its name.
    Raises UntrustedAuthorities.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # Both ends are ours, so a proposal of an older version is no mistake.
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    try:
        context.load_verify_locations(cadata=authorities)
    except (ssl.SSLError, TypeError, ValueError) as error:
        raise UntrustedAuthorities(f"no certificates of authorities: {error}") from error
    return context


class TransportClient:
    """Posts to the controller; one request at a time."""

    def __init__(self, url: str, authorities: str) -> None:
        """Trusts these authorities, as PEM; raises UntrustedAuthorities."""
        self._url = urlsplit(url)
        self._trust = trust_in(authorities)
        self._kept: _Line | None = None

    def trust(self, authorities: str) -> None:
        """Trusts others in all connections to come; raises UntrustedAuthorities."""
        self._trust = trust_in(authorities)

    async def post(
        self, path: str, body: bytes, *, token: str, bytes_max: int, held_seconds: float = 0.0
    ) -> bytes:
        """Returns the body of an answer with status 200, which may be kept back for so long.

        Raises NotTheDriver if the controller will not hear of this pod, and else
        ControllerUnavailable if there is no such answer, or its body is longer than `bytes_max`.
        """
        headers = [
            (b"Host", self._url.netloc.encode()),
            (b"Authorization", b"Bearer " + token.encode()),
            (b"Content-Type", b"application/json"),
            (b"Content-Length", b"%d" % len(body)),
        ]
        try:
            request = h11.Request(method="POST", target=self._url.path + path, headers=headers)
            async with asyncio.timeout(held_seconds + ANSWER_SECONDS):
                return await self._exchange(request, body, bytes_max)
        except (OSError, h11.ProtocolError) as error:
            raise ControllerUnavailable(f"no answer: {error!r}") from error

    def close(self) -> None:
        """Closes the connection."""
        if self._kept is not None:
            self._kept.writer.close()
            self._kept = None

    async def _exchange(self, request: h11.Request, body: bytes, bytes_max: int) -> bytes:
        line = await self._line()
        try:
            for event in (request, h11.Data(data=body), h11.EndOfMessage()):
                line.writer.write(line.http.send(event) or b"")
            await line.writer.drain()
            answer = await _answer(line, bytes_max)
            if line.http.our_state is line.http.their_state is h11.DONE:
                line.http.start_next_cycle()
                self._kept = line
            return answer
        finally:
            # Whatever went wrong: the next report finds its own way to a controller that leads.
            if self._kept is not line:
                line.writer.close()

    async def _line(self) -> _Line:
        """Returns the connection that was kept, or a new one."""
        kept, self._kept = self._kept, None
        if kept is not None:
            if not kept.reader.at_eof():
                return kept
            kept.writer.close()
        streams = await asyncio.open_connection(
            self._url.hostname, self._url.port or 443, ssl=self._trust
        )
        return _Line(*streams, h11.Connection(h11.CLIENT))


async def _answer(line: _Line, bytes_max: int) -> bytes:
    body = bytearray()
    while not isinstance(event := line.http.next_event(), h11.EndOfMessage):
        if event is h11.NEED_DATA:
            line.http.receive_data(await line.reader.read(READ_BYTES))
        elif isinstance(event, h11.Response) and event.status_code == 403:
            raise NotTheDriver("another pod is recorded as this node's driver")
        elif isinstance(event, h11.Response) and event.status_code != 200:
            raise ControllerUnavailable(f"it answered {event.status_code}")
        elif isinstance(event, h11.Data):
            body += event.data
            if len(body) > bytes_max:
                raise ControllerUnavailable(f"its answer is longer than {bytes_max} bytes")
        elif isinstance(event, h11.ConnectionClosed):
            raise ControllerUnavailable("the connection was closed before an answer")
    return bytes(body)
