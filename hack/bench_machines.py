"""Measures what idle machines of the simulator cost.

Each is a container behind OpenSSH's server. Some are rented with a start script that does nothing,
and as many with the operator's, whose watchdog never sleeps for long: the difference is what a
watchdog costs, on a rented machine as well. All CPU time counts, that of ended processes too.
"""

import argparse
import asyncio
import csv
import json
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import asyncssh
from pydantic import SecretStr

from bench_driver import KEY, NONCE, new_folder, process
from gpujob.adapters.clock import SystemClock
from gpujob.adapters.door import Door
from gpujob.adapters.vast import VastClient
from gpujob.core.machine.start_script import SETUP_VARIABLE, start_script
from localcluster.project_images import machine_root

MARKET = Path(__file__).parents[1] / "operator/vastsim/market.csv"
SETTLE_SECONDS = 15.0
PATIENCE_SECONDS = 600.0
_TICKS = os.sysconf("SC_CLK_TCK")


def descendants(pid: int) -> list[int]:
    """Returns a process and all that descend from it."""
    tree = [pid]
    for one in tree:
        with suppress(OSError):
            tree += map(int, Path(f"/proc/{one}/task/{one}/children").read_text().split())
    return tree


def used(pid: int) -> tuple[float, float, int]:
    """Returns CPU seconds, private MiB and number of a process and all that descend from it."""
    ticks = pages = count = 0
    for one in descendants(pid):
        with suppress(OSError):
            fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
            # With those of children that have ended and were waited for.
            ticks += sum(map(int, fields[11:15]))
            resident, shared = map(int, Path(f"/proc/{one}/statm").read_text().split()[1:3])
            pages += resident - shared
            count += 1
    return ticks / _TICKS, pages * os.sysconf("SC_PAGE_SIZE") / 2**20, count


def large_market(folder: Path, offers: int) -> Path:
    """Writes a market with the simulator's own offers again and again; returns its file."""
    with MARKET.open(newline="") as stream:
        head, *rows = list(csv.reader(stream))
    path = folder / "market.csv"
    with path.open("w", newline="") as stream:
        # The first column is the machine's number.
        more = ([str(at + 1), *rows[at % len(rows)][1:]] for at in range(offers))
        csv.writer(stream).writerows([head, *more])
    return path


@asynccontextmanager
async def rented(count: int, folder: Path, *, does_nothing: bool) -> AsyncIterator[int]:
    """Rents machines; gives the simulator's process id when all of them run."""
    quick = ["--port", "0", "--boot-seconds", "0.3", "0.6", "--root", str(machine_root())]
    quick += ["--market", str(large_market(folder, 5 * count)), "--search-cap", str(count)]
    quick += ["--threshold-scale", "0"]
    variables = {"VASTSIM_API_KEY": KEY, "TMPDIR": str(folder)}
    async with process("vastsim", *quick, folder=folder, **variables) as simulator:
        assert simulator.stdout is not None, "asked for as a pipe"
        url = json.loads(await simulator.stdout.readline())["url"]
        public = asyncssh.generate_private_key("ssh-ed25519").export_public_key("openssh")
        started = start_script(
            ssh_public_key=public.decode().strip(),
            nonce=NONCE,
            provider_url=url,
            born_before=datetime.now(UTC) + timedelta(hours=1),
            money_deadline_seconds=100_000,
            heartbeat_stale_seconds=100_000,
            max_download_gb=1000,
            max_upload_gb=1000,
        )
        body = {
            "image": "python:3.11",
            "disk": 10,
            "onstart": ":" if does_nothing else started.script,
            "env": {SETUP_VARIABLE: started.setup},
        }
        headers = {"Authorization": f"Bearer {KEY}"}
        async with aiohttp.ClientSession(url, headers=headers, raise_for_status=True) as session:
            query = {"limit": count, "type": "on-demand", "order": [["dph_total", "asc"]]}
            async with session.post("/api/v0/bundles/", json=query) as answer:
                offers = (await answer.json())["offers"]
            for offer in offers:
                async with session.put(f"/api/v0/asks/{offer['id']}/", json=body) as answer:
                    await answer.read()
        vast = VastClient(url, SecretStr(KEY), SystemClock(), Door(SystemClock(), spacing=0))
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                while await _still(vast):  # noqa: ASYNC110 - the provider tells nobody
                    await asyncio.sleep(1)
        finally:
            await vast.close()
        yield simulator.pid


async def _still(vast: VastClient) -> int:
    """Returns how many machines do not run yet."""
    return sum(one.status != "running" for one in (await vast.list_leases()).leases)


async def measure(count: int, seconds: float, scratch: Path) -> None:
    """Rents machines of both kinds, one after the other, and prints what they cost."""
    for what in ("do nothing", "watch over themselves"):
        folder = new_folder(scratch, what.replace(" ", "-"))
        async with rented(count, folder, does_nothing=what == "do nothing") as pid:
            await asyncio.sleep(SETTLE_SECONDS)
            before, began = used(pid), time.monotonic()
            await asyncio.sleep(seconds)
            cpu, private, processes = used(pid)
            took = time.monotonic() - began
        cores = (cpu - before[0]) / took
        print(
            f"{count} machines that {what}: {cores:.1%} of a core, {cores / count * 1e6:.0f} "
            f"microseconds a second each; {private / count:.1f} MiB and "
            f"{processes / count:.1f} processes each"
        )


def main() -> int:
    """Measures, and prints figures."""
    parser = argparse.ArgumentParser(prog="hack/bench machines", description=__doc__)
    parser.add_argument("--machines", type=int, default=500, help="number of each kind")
    parser.add_argument("--seconds", type=float, default=60, help="length of each measurement")
    given: Any = parser.parse_args()
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory(prefix="gpujob-bench-") as scratch:
        asyncio.run(measure(given.machines, given.seconds, Path(scratch)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
