"""The ports that a rent request asks for in its environment, as `-p 8000:8000` or
`-p 8081:8081/udp` (vastsim/FACTS.md, Ports).
"""

import asyncio
import re
import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import cast

from vastsim.sockets import INSIDE, bound, port_of

FORM = re.compile(r"-p +(?:(\d{1,6}):)?(\d{1,6})(?:/(tcp|udp))?")
IDENTITY = 70_000
"""From this number on a port stands for one that has the same number outside and inside."""
PORTS_MAX = 64
CALLERS_MAX = 256
"""Who has sent datagrams to one port: the earliest is forgotten for one more."""


@dataclass(frozen=True)
class Port:
    """A port that was asked for."""

    number: int
    """Inside the container; from `IDENTITY` on only a name."""
    protocol: str

    @property
    def is_identical(self) -> bool:
        """Whether it has the same number outside and inside."""
        return self.number >= IDENTITY

    @property
    def variable(self) -> str:
        """The variable of the container's environment that says its number outside."""
        return f"VAST_{self.protocol.upper()}_PORT_{self.number}"


def ports_in(environment: Mapping[str, str]) -> tuple[Port, ...]:
    """Returns the ports that an environment asks for; raises ValueError."""
    found = {}
    for name in environment:
        if not name.startswith("-p"):
            continue
        match = FORM.fullmatch(name.strip())
        if match is None:
            raise ValueError(f"{name!r} is not of the form -p OUTSIDE:INSIDE")
        number, protocol = int(match[2]), match[3] or "tcp"
        if not (0 < number < 65_536 or number >= IDENTITY):
            raise ValueError(f"there is no port {number}")
        found[number, protocol] = Port(number, protocol)
    if len(found) > PORTS_MAX:
        raise ValueError(f"more than {PORTS_MAX} ports")
    return tuple(found.values())


class Forwarded:
    """One port of a machine: what comes to it outside is carried to the container."""

    def __init__(self, port: Port, host: str, free: range | None) -> None:
        self._port, self._host = port, host
        kind = socket.SOCK_STREAM if port.protocol == "tcp" else socket.SOCK_DGRAM
        self._held = bound(host, free, kind)
        self._server: asyncio.Server | None = None
        self._relay: asyncio.DatagramTransport | None = None
        self._lines: set[asyncio.StreamWriter] = set()
        self.outside = port_of(self._held)

    @property
    def name(self) -> str:
        """What it is called in the row of its machine."""
        number = self.outside if self._port.is_identical else self._port.number
        return f"{number}/{self._port.protocol}"

    @property
    def variable(self) -> str:
        """The variable that says its number outside."""
        return self._port.variable

    async def open(self) -> None:
        """Begins to carry; where the numbers are the same, the container itself listens."""
        if self._port.is_identical or self._server or self._relay:
            return
        if self._port.protocol == "tcp":
            self._server = await asyncio.start_server(self._carry, self._host, self.outside)
        else:
            loop = asyncio.get_running_loop()
            self._relay, _ = await loop.create_datagram_endpoint(
                lambda: _Relay(self._port.number), sock=self._held.dup()
            )

    def shut(self) -> None:
        """Carries no more, and cuts what it carried; the port stays bound."""
        if self._server is not None:
            self._server.close()
            self._server = None
        if self._relay is not None:
            self._relay.close()
            self._relay = None
        for line in list(self._lines):
            line.transport.abort()

    def close(self) -> None:
        """Gives the port back."""
        self.shut()
        self._held.close()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await carry(reader, writer, self._port.number, self._lines)


async def carry(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    port: int,
    lines: set[asyncio.StreamWriter],
) -> None:
    """Carries a connection to a port inside until either side ends it.

    `lines` holds the connections that are carried now.
    """
    lines.add(writer)
    try:
        there, back = await asyncio.open_connection(INSIDE, port)
        lines.add(back)
        await asyncio.gather(_pump(reader, back), _pump(there, writer))
    except OSError:
        # Nobody listens inside: there is nothing to say.
        pass
    finally:
        for line in (writer, *(one for one in lines if one.is_closing())):
            lines.discard(line)
            line.close()


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await source.read(1 << 20):
            sink.write(data)
            await sink.drain()
    sink.close()


class _Relay(asyncio.DatagramProtocol):
    """Carries datagrams to a port inside, and the answers back to whoever asked."""

    def __init__(self, inside: int) -> None:
        self._inside = inside
        self._outside: asyncio.DatagramTransport | None = None
        self._callers: dict[tuple[str, int], socket.socket] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # It is one, though asyncio's own class of them does not say so in Python 3.11.
        self._outside = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        if addr not in self._callers:
            if len(self._callers) >= CALLERS_MAX:
                self._forget(next(iter(self._callers)))
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            sock.setblocking(False)
            sock.connect((INSIDE, self._inside))
            self._callers[addr] = sock
            asyncio.get_running_loop().add_reader(sock, self._answer, addr)
        with suppress(OSError):
            self._callers[addr].send(data)

    def _answer(self, addr: tuple[str, int]) -> None:
        with suppress(OSError):
            data = self._callers[addr].recv(65_536)
            if self._outside is not None:
                self._outside.sendto(data, addr)

    def connection_lost(self, exc: Exception | None) -> None:
        for addr in list(self._callers):
            self._forget(addr)

    def _forget(self, addr: tuple[str, int]) -> None:
        sock = self._callers.pop(addr)
        asyncio.get_running_loop().remove_reader(sock)
        sock.close()
