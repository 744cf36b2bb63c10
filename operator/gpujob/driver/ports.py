"""The workload's ports: whoever connects to one of ours is connected to the machine's, over SSH."""

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
"""At a time: each may hold its window's worth of memory, of which the driver has little."""
SILENCE_SECONDS = 60
"""After which a caller's machine is asked whether it still stands: the dead keep no place."""


async def carry_ports(connection: Connection, ports: Mapping[int, int]) -> None:
    """Listens until it is cancelled; raises OSError if one of our ports is not free."""
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
    """Listens on all addresses of those families that the pod has."""
    servers = []
    for host in ("0.0.0.0", "::"):  # noqa: S104 - whoever may reach the pod is to reach the port
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
        # Nothing listens there, or one side has gone: the other is told by the end of its own.
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
    """Carries one direction to its end, no faster than it is taken; the other one goes on."""
    while data := await source.read(READ_BYTES):
        target.write(data)
        await target.drain()
    target.write_eof()
