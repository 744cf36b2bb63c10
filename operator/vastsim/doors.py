"""The two addresses of a machine's SSH server: a port of its own, and one of the provider's proxy.

Each can be open, `refused` (nobody listens there), or bad in its own way: packets to the machine's
own port can be `filtered`, as a firewall drops them, and the proxy can be `broken`: it accepts
connections and closes them.
"""

import asyncio
import socket
from contextlib import suppress

DIRECT_STATES = ("open", "refused", "filtered")
PROXY_STATES = ("open", "refused", "broken")
INSIDE = "127.0.0.1"
"""Where the machine's server listens for the proxy."""


class Doors:
    """What one machine keeps from its first start to its end: its ports, and how they are."""

    def __init__(self, host: str, ports: range | None) -> None:
        self._host = host
        self._direct = _bound(host, ports)
        self._inside = _bound(INSIDE, None)
        self._outside = _bound(host, ports)
        self._callers: list[socket.socket] = []
        self._proxy: asyncio.Server | None = None
        self._lines: set[asyncio.StreamWriter] = set()
        self._proxy_state = "open"
        self.direct_state = "open"

    @property
    def port(self) -> int:
        """The machine's own port, which is the same after a stop and a start."""
        return _port(self._direct)

    @property
    def proxy_port(self) -> int:
        """The machine's port of the proxy."""
        return _port(self._outside)

    @property
    def listen(self) -> str:
        """The lines of the server's configuration that say where it listens."""
        places = [f"{INSIDE}:{_port(self._inside)}"]
        places += [f"{self._host}:{self.port}"] if self.direct_state == "open" else []
        return "".join(f"ListenAddress {place}\n" for place in places)

    def set_direct(self, state: str) -> None:
        """Changes how the machine's own port is, but for its server, which is not ours."""
        if state == self.direct_state:
            return
        if self.direct_state == "filtered":
            # It no longer listens, but is still bound.
            self._direct.shutdown(socket.SHUT_RDWR)
            while self._callers:
                self._callers.pop().close()
        self.direct_state = state

    def filter(self) -> None:
        """Lets nobody in, if that is asked for, once the machine's server does not listen there.

        The kernel drops what comes to a port that has no room for another connection.
        """
        if self.direct_state == "filtered" and not self._callers:
            self._direct.listen(0)
            self._callers.append(socket.create_connection((self._host, self.port)))

    async def set_proxy(self, state: str) -> None:
        """Changes how the proxy is; cuts what it carries."""
        await self.close_proxy()
        self._proxy_state = state
        await self.open_proxy()

    async def open_proxy(self) -> None:
        """Lets the proxy listen, if it does at all."""
        if self._proxy is None and self._proxy_state != "refused":
            self._proxy = await asyncio.start_server(self._carry, self._host, self.proxy_port)

    async def close_proxy(self) -> None:
        """Lets the proxy listen no more, and cuts what it carries."""
        if self._proxy is not None:
            self._proxy.close()
            self._proxy = None
        for line in list(self._lines):
            line.transport.abort()

    async def close(self) -> None:
        """Gives all ports back."""
        self.set_direct("refused")
        await self.close_proxy()
        for held in (self._direct, self._inside, self._outside):
            held.close()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._lines.add(writer)
        try:
            if self._proxy_state == "open":
                there, back = await asyncio.open_connection(INSIDE, _port(self._inside))
                self._lines.add(back)
                await asyncio.gather(_pump(reader, back), _pump(there, writer))
        except OSError:
            # The machine's server does not listen: the proxy has nothing to say.
            pass
        finally:
            for line in (writer, *(one for one in self._lines if one.is_closing())):
                self._lines.discard(line)
                line.close()


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await source.read(1 << 20):
            sink.write(data)
            await sink.drain()
    sink.close()


def _bound(host: str, ports: range | None) -> socket.socket:
    """Returns a socket that holds a port from now on; another one may listen on it, too."""
    for port in (0,) if ports is None else ports:
        held = socket.socket()
        try:
            held.bind((host, port))
        except OSError:
            held.close()
            continue
        # Only now: before, it would share the port with whoever holds it in the same way.
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        return held
    raise RuntimeError("no SSH port is free; give a wider range with --ssh-ports")


def _port(held: socket.socket) -> int:
    port: int = held.getsockname()[1]
    return port
