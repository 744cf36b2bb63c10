"""Measures how fast the driver copies files from a machine and to it, beside the line itself.

The machine is one of the simulator, over real SSH. The line's own rates are those of `cat` in each
direction, over the same connection and in the same rounds: other work on this computer changes all.
"""

import argparse
import asyncio
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from statistics import median
from typing import Any

from bench_driver import new_folder, rented_machine
from gpujob.adapters.ssh import READ_BYTES, Connection, connect
from gpujob.api.data import Copy
from gpujob.driver.files import Allowance
from gpujob.driver.pulling import pull
from gpujob.driver.pushing import push

FILL = """
import os, pathlib, sys
count, size, large = map(int, sys.argv[1:])
for at in range(count):
    path = pathlib.Path("small", str(at % 50), str(at))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(os.urandom(size))
pathlib.Path("large").mkdir()
with open("large/file", "wb") as stream:
    for _ in range(large):
        stream.write(os.urandom(1_000_000))
"""
PATIENCE_SECONDS = 600.0
THERE = "/bench"
"""Folder on the machine; a relative one is below the image's, and not where a session begins."""


async def cat(connection: Connection) -> None:
    """Reads the large file as the line brings it."""
    async with connection.open(f"cat {THERE}/large/file") as process:
        while await process.stdout.read(READ_BYTES):
            pass


async def cat_to(connection: Connection, megabytes: int) -> None:
    """Writes a large file as the line takes it."""

    async def chunks() -> AsyncIterator[bytes]:
        data = os.urandom(1_000_000)
        for _ in range(megabytes):
            yield data

    await connection.send(f"cat > {THERE}/large-there", chunks())


async def copied(copying: Awaitable[tuple[str, ...]]) -> None:
    """Copies a folder; raises RuntimeError if anything was not copied."""
    if problems := await copying:
        raise RuntimeError(f"not copied: {problems[:3]}")


async def seconds_of(work: Awaitable[None]) -> float:
    """Returns how long something takes."""
    began = time.perf_counter()
    await work
    return time.perf_counter() - began


async def measure(files: int, size: int, megabytes: int, rounds: int, scratch: Path) -> None:
    """Copies in rounds, and prints the medians."""
    plenty = Allowance(10**15, "")
    took: dict[str, list[float]] = {}
    async with rented_machine(new_folder(scratch, "machine")) as machine:
        place = machine.place
        async with connect(
            place.host, place.port, place.user, machine.key_file, place.host_key
        ) as connection:
            script = f"mkdir {THERE} && cd {THERE} && exec python3 - {files} {size} {megabytes}"
            await connection.run(script, FILL.encode(), timeout_seconds=PATIENCE_SECONDS)
            for number in range(rounds):
                large, small = (
                    Copy(folder=str(scratch / f"{name}-{number}"), path=f"{THERE}/{name}")
                    for name in ("large", "small")
                )
                works = {
                    "cat": cat(connection),
                    "cat to": cat_to(connection, megabytes),
                    "from": copied(pull(connection, large, plenty)),
                    "small from": copied(pull(connection, small, plenty)),
                    "small to": copied(
                        push(
                            connection,
                            small.model_copy(update={"path": f"{THERE}/b{number}"}),
                            plenty,
                        )
                    ),
                    "to": copied(
                        push(
                            connection,
                            large.model_copy(update={"path": f"{THERE}/c{number}"}),
                            plenty,
                        )
                    ),
                }
                for name, work in works.items():
                    took.setdefault(name, []).append(await seconds_of(work))
                if (Path(large.folder) / "file").stat().st_size != megabytes * 10**6:
                    raise RuntimeError("the large file did not arrive")
    rates = {name: megabytes / median(took[name]) for name in ("cat", "cat to", "from", "to")}
    for line, name, words in (("cat", "from", "from there"), ("cat to", "to", "to there  ")):
        print(f"the line itself, {words} {rates[line]:8.1f} MB/s")
        print(f"a large file, {words}    {rates[name]:8.1f} MB/s, {rates[name] / rates[line]:.0%}")
        rate = files / median(took[f"small {name}"])
        print(f"small files, {words}     {rate:8.0f} files/s, {rate * size / 1e6:.1f} MB/s")


def main() -> int:
    """Measures, and prints figures."""
    parser = argparse.ArgumentParser(prog="hack/bench files", description=__doc__)
    parser.add_argument("--files", type=int, default=5000, help="number of small files")
    parser.add_argument("--bytes", type=int, default=1000, help="size of each small file")
    parser.add_argument("--megabytes", type=int, default=500, help="size of the large file")
    parser.add_argument("--rounds", type=int, default=3, help="how often each is copied")
    given: Any = parser.parse_args()
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; medians of {given.rounds}")
    with tempfile.TemporaryDirectory(prefix="gpujob-bench-") as scratch:
        asyncio.run(measure(given.files, given.bytes, given.megabytes, given.rounds, Path(scratch)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
