"""The workload's ports: a connection to a port of the driver goes on to the machine's, over SSH."""

import asyncio
import errno
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

from gpujob.adapters.errors import MachineError
from gpujob.adapters.ssh import READ_BYTES, Connection

Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], None]
CONNECTIONS_MAX = 32
"""At the same time. Each may hold a window's worth of memory, of which the driver has little."""
SILENCE_SECONDS = 60
"""After this time without data, TCP asks whether the caller still exists: callers that are gone
must not use up `CONNECTIONS_MAX`."""


async def carry_ports(connection: Connection, ports: Mapping[int, int]) -> None:
    """Listens until it is cancelled; raises OSError if a port is not free."""
    calls: set[asyncio.Task[None]] = set()

    def answer(port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(calls) >= CONNECTIONS_MAX:
            writer.transport.abort()
            return
        call = asyncio.create_task(_carry(connection, port, reader, writer))
        calls.add(call)
        call.add_done_callback(calls.discard)

    servers: list[asyncio.Server] = []
    try:
        for ours, theirs in ports.items():
            servers += await _listen(ours, partial(answer, theirs))
        await asyncio.Event().wait()
    finally:
        for server in servers:
            server.close()
        for call in tuple(calls):
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)


async def _listen(port: int, answer: Answer) -> list[asyncio.Server]:
    """Listens on all addresses of the pod, of each address family that it has."""
    servers = []
    for host in ("0.0.0.0", "::"):  # noqa: S104 - NetworkPolicies say who reaches the pod
        try:
            servers.append(await asyncio.start_server(answer, host, port))
        except OSError as error:
            if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                raise
    return servers


async def _carry(
    connection: Connection,
    port: int,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
) -> None:
    caller: socket.socket = writer.get_extra_info("socket")
    caller.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    caller.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, SILENCE_SECONDS)
    try:
        # If nothing listens there, or one side is gone, the other side sees its connection end.
        with suppress(MachineError, OSError):
            async with connection.reach(port) as (far_reader, far_writer):
                pumps = [
                    asyncio.create_task(_pump(reader, far_writer)),
                    asyncio.create_task(_pump(far_reader, writer)),
                ]
                try:
                    await asyncio.gather(*pumps)
                finally:
                    for pump in pumps:
                        pump.cancel()
                    await asyncio.gather(*pumps, return_exceptions=True)
            writer.close()
            await writer.wait_closed()
    finally:
        writer.transport.abort()


async def _pump(source: Any, target: Any) -> None:
    """Copies one direction to its end, no faster than it is read; the other direction goes on."""
    while data := await source.read(READ_BYTES):
        target.write(data)
        await target.drain()
    target.write_eof()
