"""The two addresses of a machine's SSH server: a port of its own, and one of the provider's proxy.

Each can be open, `refused` (nobody listens there), or bad in its own way: packets to the machine's
own port can be `filtered`, as a firewall drops them, and the proxy can be `broken`: it accepts
connections and closes them.
"""

import asyncio
import socket

from vastsim.ports import Forwarded, Port, carry
from vastsim.sockets import INSIDE, bound, port_of

DIRECT_STATES = ("open", "refused", "filtered")
PROXY_STATES = ("open", "refused", "broken")


class Doors:
    """What one machine keeps from its first start to its end: its ports, and how they are."""

    def __init__(self, host: str, ports: range | None, wanted: tuple[Port, ...] = ()) -> None:
        self._host = host
        self._direct = bound(host, ports)
        self._inside = bound(INSIDE, None)
        self._outside = bound(host, ports)
        self._callers: list[socket.socket] = []
        self._proxy: asyncio.Server | None = None
        self._lines: set[asyncio.StreamWriter] = set()
        self._proxy_state = "open"
        self.direct_state = "open"
        self.mapped = [Forwarded(port, host, ports) for port in wanted]
        """The other ports that were asked for."""

    @property
    def port(self) -> int:
        """The machine's own port, which is the same after a stop and a start."""
        return port_of(self._direct)

    @property
    def proxy_port(self) -> int:
        """The machine's port of the proxy."""
        return port_of(self._outside)

    @property
    def listen(self) -> str:
        """The lines of the server's configuration that say where it listens."""
        places = [f"{INSIDE}:{port_of(self._inside)}"]
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
        for port in self.mapped:
            port.close()
        for held in (self._direct, self._inside, self._outside):
            held.close()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._proxy_state == "open":
            await carry(reader, writer, port_of(self._inside), self._lines)
        else:
            writer.close()
