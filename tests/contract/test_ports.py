"""Ports of the workload, reached through a real driver and a real machine."""

import asyncio
import hashlib
import random
from pathlib import Path
from typing import Any

from tests.contract.test_driver import (
    EXIT,
    Cable,
    Controller,
    Driver,
    controller,
    machine,
    run,
    until,
)
from tests.contract.test_machines import Machine

from gpujob.driver.ports import CONNECTIONS_MAX
from localcluster.control_plane import free_port

__all__ = ["controller", "machine"]

ECHO = """
import asyncio, sys
async def answer(reader, writer):
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.write(b"the end")
    writer.close()
async def main():
    server = await asyncio.start_server(answer, "127.0.0.1", int(sys.argv[1]))
    print("listens", flush=True)
    await server.serve_forever()
asyncio.run(main())
"""


async def asked(port: int, text: bytes) -> bytes:
    """Says something, ends its half, and returns all that is answered."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)

    async def say() -> None:
        writer.write(text)
        await writer.drain()
        writer.write_eof()

    try:
        _, answer = await asyncio.gather(say(), reader.read(-1))
        return answer
    finally:
        writer.close()


async def is_answered(port: int) -> bool:
    """Whether somebody answers."""
    try:
        async with asyncio.timeout(5):
            return await asked(port, b"hello") == b"hellothe end"
    except (OSError, TimeoutError):
        return False


async def answers(port: int) -> None:
    """Waits until somebody answers."""
    async with asyncio.timeout(240):
        while not await is_answered(port):
            await asyncio.sleep(0.1)


async def test_ports_are_carried_both_ways(
    machine: Machine, controller: tuple[Controller, str], tmp_path: Path
) -> None:
    """Whole and in order, over a cut line too; what listens nowhere is closed, not kept waiting."""
    held, url = controller
    cable = Cable(machine.port)
    server = await cable.lay()
    ours, theirs, nobody, nowhere = (free_port() for _ in range(4))
    ports = f"{ours}:{theirs},{nobody}:{nowhere}"
    driver = Driver(tmp_path, url, machine.key, GPUJOB_PORTS=ports)
    held.answer = run(machine, cable.port, "python3", "-c", ECHO, str(theirs))
    await driver.start()
    await until(lambda: b"listens" in driver.out)
    await answers(ours)
    text = random.Random(1).randbytes(8_000_000)
    digest = hashlib.sha256(text + b"the end").digest()
    both = await asyncio.gather(asked(ours, text), asked(ours, text))

    assert [hashlib.sha256(one).digest() for one in both] == [digest, digest]
    assert await asked(nobody, b"") == b""
    cable.cut()
    await answers(ours)
    held.answer = EXIT
    assert await driver.ended() == 0
    assert not await is_answered(ours)
    server.close()


async def test_a_crowd_is_turned_away_and_leaves_room_again(
    machine: Machine, controller: tuple[Controller, str], tmp_path: Path
) -> None:
    """Callers hold memory of the driver: there are only so many; who ends makes room."""
    held, url = controller
    ours, theirs = free_port(), free_port()
    driver = Driver(tmp_path, url, machine.key, GPUJOB_PORTS=f"{ours}:{theirs}")
    held.answer = run(machine, machine.port, "python3", "-c", ECHO, str(theirs))
    await driver.start()
    await until(lambda: b"listens" in driver.out)
    await answers(ours)
    lines: list[Any] = []
    for _ in range(CONNECTIONS_MAX):
        reader, writer = await asyncio.open_connection("127.0.0.1", ours)
        writer.write(b"x")
        assert await reader.readexactly(1) == b"x"
        lines.append(writer)

    assert not await is_answered(ours)
    for writer in lines:
        writer.close()
    await answers(ours)
    held.answer = EXIT
    assert await driver.ended() == 0
