"""Measures decisions about machines alone: how long they take of the CPU, and how they grow.

The objects are those of the tests: machines that run and whose counters rise with each listing. A
pass over a node is made with as many listings as are kept; `waiting` has asked for a machine that
no listing shows, and `ending` waits until its own is gone. The gate has `hack/bench gate`.
"""

import argparse
import os
import sys
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))
from tests import builders

from gpujob.core.cost.leased import Fleet
from gpujob.core.market.history import LISTINGS_KEPT, Listings
from gpujob.core.market.listings import Address, Lease, Mark
from gpujob.core.node.plan import plan_node
from gpujob.core.observation import NodeMemory, NodeObservation, World

POLL = 15.0
EARLIER = builders.MONOTONIC - 1000
STATUSES = {
    "running": builders.running(-1000, -900),
    "ending": builders.ended(builders.running(-1000, -900)),
    "waiting": builders.renting(-1000),
}


def row(number: int, seconds: float) -> Lease:
    """A machine in a listing after this time; number 0 is that of the tests' node."""
    mark = Mark(builders.CLUSTER, f"n-{number}", f"j-{number}") if number else builders.MARK
    return builders.a_lease(
        instance_id=builders.INSTANCE + number,
        label=str(mark),
        env_mark=str(mark),
        addresses=(Address(f"direct-{number}", 22), Address(f"proxy-{number}", 22)),
        download_gb=Fraction(f"{seconds * 0.001:.6f}"),
        upload_gb=Fraction(f"{seconds * 0.0001:.6f}"),
    )


def listed(machines: int, took: list[float]) -> Listings:
    """All listings that are kept; appends the CPU seconds of taking in each."""
    listings = Listings()
    for number in range(LISTINGS_KEPT):
        rows = [row(one, number * POLL) for one in range(machines)]
        listing = builders.a_listing(*rows, ago=1 + POLL * (LISTINGS_KEPT - 1 - number))
        began = time.process_time()
        listings = listings.and_then(listing)
        took.append(time.process_time() - began)
    return listings


def seconds_of(decide: Callable[[], Any], times: int) -> list[float]:
    """Returns the CPU seconds of each of so many decisions, shortest first."""
    found = []
    for _ in range(times):
        began = time.process_time()
        decide()
        found.append(time.process_time() - began)
    return sorted(found)


def show(what: str, of: str, took: list[float]) -> None:
    """Prints a line of figures."""
    p50, p99 = (took[min(int(len(took) * share), len(took) - 1)] * 1000 for share in (0.5, 0.99))
    print(f"{what:<34}{of:>18}{p50:>12.3f}{p99:>12.3f}", flush=True)


def planned_anew(seen: NodeObservation) -> None:
    """Makes one plan."""
    plan_node(replace(seen))


def planned(machines: int, rounds: int) -> None:
    """Measures passes over a node, and what the listings hold of each machine."""
    tracemalloc.start()
    kept = listed(machines, [])
    held = tracemalloc.get_traced_memory()[0] / machines / 1024
    tracemalloc.stop()
    del kept  # It was taken in slowly, because what it holds was counted.
    took: list[float] = []
    fleet = Fleet(listings=listed(machines, took), nodes=(), jobs=(), cluster_id=builders.CLUSTER)
    world: World = replace(builders.a_world(), fleet=fleet)
    memory = NodeMemory(marker_seen_at=EARLIER, destroy_sent_at=EARLIER, watched_since=EARLIER)
    for name, status in STATUSES.items():
        uid = builders.NODE_UID if name != "waiting" else "unlisted"
        node = builders.a_node(status, uid=uid)
        seen = builders.node_observation(world=world, node=node, memory=memory)
        # What is reckoned once per listing is not part of a pass; what an observation keeps is.
        plan_node(seen)
        passes = seconds_of(partial(planned_anew, seen), rounds)
        show(f"plan_node, {name}", f"{machines} machines", passes)
    show("take in a listing", f"{machines} machines", sorted(took))
    print(f"{LISTINGS_KEPT} listings hold {held:.1f} KiB of each machine", flush=True)


def main() -> int:
    """Measures, and prints figures."""
    parser = argparse.ArgumentParser(prog="hack/bench decisions", description=__doc__)
    parser.add_argument("--machines", type=int, nargs="+", default=[100, 1000, 5000])
    parser.add_argument("--rounds", type=int, default=500, help="decisions of each kind")
    given: Any = parser.parse_args()
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    print(f"{'decision':<34}{'of':>18}{'p50 CPU ms':>12}{'p99 CPU ms':>12}")
    for machines in given.machines:
        planned(machines, given.rounds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
