"""Forwards a port of the host's loopback interface into the node's network namespace.

A socket stays in the namespace in which it was created. So this process first listens on the host,
and then enters the node's namespace and opens its connections there.
"""

import asyncio
import contextlib
import ctypes
import os
import socket
import sys

CLONE_NEWNET = 0x40000000


def enter_network(pid: int) -> None:
    """Moves this process into the network namespace of another one; raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    handle = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
    try:
        if libc.setns(handle, CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "setns")
    finally:
        os.close(handle)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        # Close only this direction, because the other one may still carry data.
        writer.write_eof()


async def main(listen_port: int, pid: int, target_port: int) -> None:
    """Forwards connections until the process ends."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", listen_port))
    listener.listen(512)
    enter_network(pid)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            there_reader, there_writer = await asyncio.open_connection("127.0.0.1", target_port)
            await asyncio.gather(_pump(reader, there_writer), _pump(there_reader, writer))
            there_writer.close()
        writer.close()

    async with await asyncio.start_server(serve, sock=listener) as server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(*(int(argument) for argument in sys.argv[1:4])))
