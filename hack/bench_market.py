"""Measures searches in the simulator's living market, as several clients send them.

The simulator is a process of its own, and searches are asked one after the other over one
connection of loopback. Each latency holds the transfer of the answer, which is read whole. The CPU
time is the simulator's for a search: it hangs less than the latency on what else runs here.
"""

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import aiohttp

from bench_driver import KEY, process
from bench_machines import used
from gpujob.adapters.vast import OFFERS_WANTED

QUERIES: dict[str, dict[str, Any]] = {
    "the operator's": {
        "rentable": {"eq": True},
        "order": [["dph_total", "asc"]],
        "type": "on-demand",
        "limit": OFFERS_WANTED,
        "allocated_storage": 50,
        "gpu_name": {"in": ["RTX 4090", "A100 PCIE"]},
        "verified": {"eq": True},
    },
    "the command line's": {
        "verified": {"eq": True},
        "external": {"eq": False},
        "rentable": {"eq": True},
        "num_gpus": {"eq": "1"},
        "reliability": {"gt": "0.9"},
        "geolocation": {"in": ["US", "CA"]},
        "order": [["score", "desc"]],
        "type": "on-demand",
        "allocated_storage": 5.0,
    },
    "gpuhunt's": {
        "cpu_cores": {"gte": 2},
        "cpu_ram": {"gte": 8000},
        "num_gpus": {"gte": 1, "lte": 8},
        "disk_space": {"gte": 100},
        "rentable": {"eq": True},
        "rented": {"eq": False},
        "order": [["dph_base", "asc"]],
        "direct_port_count": {"gte": 1},
        "reliability2": {"gte": 0.9},
        "inet_down": {"gt": 128},
        "cuda_max_good": {"gte": 11.8},
        "compute_cap": {"gte": 600},
    },
    "one for bids": {"type": "bid", "order": [["min_bid", "asc"]], "num_gpus": {"gte": 1}},
    "one for all": {"order": [["score", "desc"]]},
}


async def measure(offers: int, searches: int, folder: Path) -> None:
    """Searches, and prints how long it took."""
    options = ["--port", "0", "--seed", "1", "--living", str(offers)]
    options += ["--threshold-scale", "0", "--daily-search-rows", "0"]
    variables = {"VASTSIM_API_KEY": KEY, "TMPDIR": str(folder)}
    async with process("vastsim", *options, folder=folder, **variables) as simulator:
        assert simulator.stdout is not None, "asked for as a pipe"
        url = json.loads(await simulator.stdout.readline())["url"]
        print(f"{offers} offers, {searches} searches of each kind")
        print(f"{'search':<22}{'offers':>8}{'p50 ms':>9}{'p99 ms':>9}{'worst':>9}{'CPU ms':>9}")
        every: list[float] = []
        cpu_of_all = 0.0
        async with aiohttp.ClientSession(url, raise_for_status=True) as session:
            for name, query in QUERIES.items():
                took: list[float] = []
                before = used(simulator.pid)[0]
                for _ in range(searches):
                    began = time.monotonic()
                    async with session.post("/api/v0/bundles/", json=query) as answer:
                        body = await answer.read()
                    took.append(time.monotonic() - began)
                cpu = used(simulator.pid)[0] - before
                show(name, len(json.loads(body)["offers"]), took, cpu)
                every += took
                cpu_of_all += cpu
        show("all of them", "", every, cpu_of_all)


def show(name: str, found: object, took: list[float], cpu_seconds: float) -> None:
    """Prints a line of figures."""
    took = sorted(took)
    p50, p99, worst = (
        took[min(int(len(took) * share), len(took) - 1)] * 1000 for share in (0.5, 0.99, 1)
    )
    cpu = cpu_seconds / len(took) * 1000
    print(f"{name:<22}{found:>8}{p50:>9.1f}{p99:>9.1f}{worst:>9.1f}{cpu:>9.1f}", flush=True)


def main() -> int:
    """Measures, and prints figures."""
    parser = argparse.ArgumentParser(prog="hack/bench market", description=__doc__)
    parser.add_argument("--offers", type=int, default=5000, help="offers on the market")
    parser.add_argument("--searches", type=int, default=200, help="searches of each kind")
    given: Any = parser.parse_args()
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory(prefix="gpujob-bench-") as scratch:
        asyncio.run(measure(given.offers, given.searches, Path(scratch)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
