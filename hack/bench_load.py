"""Measures the operator under load: `life`, `burst`, `steady`, `list`, `failover`, `stop`, `soak`.

The API server, etcd and the controller are real processes. The market is the simulator with
machines in name only, and one process plays the kubelet and all drivers; both talk as the real
ones do. `compare` shows two files with results beside each other.
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO
from itertools import pairwise
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.integration.parts import eventually

from bench_driver import at
from loadbench import audit
from loadbench.plant import one_that_runs, plant
from loadbench.stage import PATIENCE_SECONDS, Stage, a_job, machine, say, stage
from localcluster.control_plane import Audit

QUIET_SECONDS = 5.0
"""How long nothing has to be written until a life counts as over."""

Found = dict[str, Any]
"""Figures by name; what is no number is for people."""


def life(options: argparse.Namespace, folder: Path) -> Found:
    """One life of a job on an idle cluster, with each write and what it changed."""
    quick = {"GPUJOB_LIST_LAG_SECONDS": "5", "GPUJOB_POLL_SECONDS": "5"}
    quick |= {"GPUJOB_LOG_LEVEL": "DEBUG"}
    with stage(folder, offers=50, audit=Audit.BODIES, settings=quick) as made:
        made.play(options.run)
        made.start()
        time.sleep(QUIET_SECONDS)
        made.audit.new()
        logged = len(made.controller.log)
        began = time.monotonic()
        made.post("gpujobs", a_job("life"))
        asked = []

        def over() -> bool:
            asked.extend(made.audit.new())
            node = made.kubectl.get("gpunode", "life-0-1", made.namespace) or {}
            return bool(node.get("status", {}).get("releasedAt"))

        eventually("the life is over", over, PATIENCE_SECONDS)
        took = time.monotonic() - began
        time.sleep(QUIET_SECONDS)
        asked += made.audit.new()
        told = [one for one in made.controller.log[logged:].splitlines() if '"reconciled"' in one]
        of_nodes = sum('"kind": "GpuNode"' in one for one in told)
        say(f"one life, {took:.0f} s, its workload {options.run:g} s; times from the first write:")
        for line in audit.table([one for one in asked if one.kind != "leases"]):
            say(f"  {line}")
        found: Found = {
            "object and status writes": audit.object_writes(asked),
            "status writes": sum(one.kind.endswith("/status") for one in asked),
            "events": sum(one.kind == "events" for one in asked),
            "reads": sum(one.verb in ("get", "list") for one in asked),
            "passes over the job": len(told) - of_nodes,
            "passes over the node": of_nodes,
            "seconds": took,
        }
        return found | {"requests": audit.counts(asked)} | limits(made)


def limits(made: Stage) -> Found:
    """Returns the limits in force that are not a release's."""
    return {"limits": made.controller.limits}


def burst(options: argparse.Namespace, folder: Path) -> Found:
    """Many jobs at once: how fast they get their driver pods, and are rented for.

    Unless they are together, no pod starts before all are there: so the first figures show what
    it takes to make the pods, and nothing else.
    """
    count: int = options.jobs
    with stage(folder, offers=count + 200) as made:
        made.play(100_000, go=options.together)
        made.start()
        time.sleep(QUIET_SECONDS)
        made.audit.new()
        created: dict[str, float] = {}
        uids: dict[str, str] = {}

        def create(number: int) -> None:
            name = f"j-{number}"
            created[name] = time.time()
            uids[made.post("gpujobs", a_job(name))["metadata"]["uid"]] = name

        say(f"the controller is process {made.controller.pid}")
        used = made.cpu()
        made.many(create, range(count))
        storing = time.time() - min(created.values())
        say(f"{count} jobs stored in {storing:.1f} s")

        eventually("all have driver pods", lambda: len(made.pods_seen()) >= count, PATIENCE_SECONDS)
        cpu = made.cpu() - used
        pods, first = made.pods_seen(), min(created.values())
        waited = sorted(pods[name] - created[name] for name in created)
        asked = made.audit.new()
        took = max(pods.values()) - first
        found: Found = {
            "jobs": count,
            "jobs/s, create to driver pod": count / took,
            "first pod after, s": min(pods.values()) - first,
            "create to pod, p50 s": at(waited, 0.5),
            "create to pod, p99 s": at(waited, 0.99),
            "controller CPU, ms per job": cpu / count * 1000,
            "controller cores": cpu / took,
            "controller RSS, MiB": made.rss(),
            "requests per job": len(asked) / count,
            "object and status writes per job": audit.object_writes(asked) / count,
            "longest stall, ms": made.metrics()["gpujob_longest_stall_seconds"] * 1000,
        }
        requests = audit.counts(asked)
        going = time.time()
        made.let_go()
        deadline = time.monotonic() + options.rents

        def rents() -> dict[str, float]:
            marks = ((one["label"], one["created_at"]) for one in made.market.ledger())
            return {uids[label.rpartition("/")[2]]: when for label, when in marks}

        while len(rented := rents()) < count and time.monotonic() < deadline:
            time.sleep(1)
        since = "apply" if options.together else "pods start"
        begun = created if options.together else dict.fromkeys(created, going)
        rent_waits = sorted(rented[name] - begun[name] for name in rented)
        found["rented in time"] = len(rented)
        if rented:
            found[f"{since} to rent, p50 s"] = at(rent_waits, 0.5)
            found[f"{since} to rent, p99 s"] = at(rent_waits, 0.99)
        return found | {"requests": requests} | limits(made)


def steady(options: argparse.Namespace, folder: Path) -> Found:
    """Many jobs that run, and nothing happens: what it takes to keep an eye on them."""
    found: Found = {}
    for count in options.jobs:
        found |= _steady(options, folder / str(count), count)
    cores = [found[f"{count} jobs: controller cores"] for count in options.jobs]
    sizes = [found[f"{count} jobs: controller RSS, MiB"] for count in options.jobs]
    for at_, (fewer, more) in enumerate(pairwise(options.jobs)):
        step = f"from {fewer} to {more} jobs"
        found[f"{step}: mcores per job"] = (cores[at_ + 1] - cores[at_]) / (more - fewer) * 1000
        found[f"{step}: KiB per job"] = (sizes[at_ + 1] - sizes[at_]) / (more - fewer) * 1024
    return found


def _steady(options: argparse.Namespace, folder: Path, count: int) -> Found:
    folder.mkdir()
    with stage(folder, offers=50) as made:
        made.play(100_000)
        original = one_that_runs(made)
        began = time.monotonic()
        plant(made, original, [f"j-{number}" for number in range(count - 1)])
        say(f"{count} running jobs stored in {time.monotonic() - began:.0f} s")
        made.start()
        say(f"the controller is process {made.controller.pid}")
        eventually("all drivers run", lambda: made.pods_started() >= count, PATIENCE_SECONDS)
        time.sleep(options.settle)
        made.audit.new()
        before, used, begun = made.metrics(), made.cpu(), time.monotonic()
        rss, stall = made.rss(), 0.0
        while (passed := time.monotonic() - begun) < options.seconds:
            time.sleep(min(10.0, options.seconds - passed + 0.01))
            stall = max(stall, made.metrics()["gpujob_longest_stall_seconds"])
        after, cpu = made.metrics(), made.cpu() - used
        asked = made.audit.new()
        nodes = made.kubectl.client.items("gpunodes", made.namespace)
        ended = sum("end" in node["status"] for node in nodes)
        passes = {
            lane: after[f"gpujob_passes_total {lane}"] - before[f"gpujob_passes_total {lane}"]
            for lane in ("machines", "nodes", "jobs")
        }
        name = f"{count} jobs: "
        figures = {
            "controller cores": cpu / passed,
            "controller RSS, MiB": made.rss(),
            "RSS grew in the meantime, MiB": made.rss() - rss,
            "requests/s": len(asked) / passed,
            "object and status writes/s": audit.object_writes(asked) / passed,
            "node pass interval, s": passed * count / max(passes["machines"], 1),
            "passes over jobs/s": passes["jobs"] / passed,
            "longest stall, ms": stall * 1000,
            "ended (must be 0)": ended,
            "requests/s by verb": {
                verb: round(number / passed, 2) for verb, number in audit.counts(asked).items()
            },
        }
        return {name + key: value for key, value in figures.items()} | limits(made)


PARTS: dict[str, Callable[[argparse.Namespace, Path], Found]] = {
    "life": life,
    "burst": burst,
    "steady": steady,
}


def show(found: Found) -> None:
    """Prints figures as a table."""
    width = max(len(name) for name in found)
    for name, value in found.items():
        if isinstance(value, dict):
            told = ", ".join(f"{key} {one}" for key, one in value.items())
            say(f"{name}: {told or 'as a release has them'}")
        else:
            shown = f"{value:,.2f}" if isinstance(value, float) else str(value)
            say(f"{name:{width}}  {shown}")


def compare(first: Path, second: Path) -> None:
    """Prints the figures of two files beside each other."""
    before, after = (json.loads(one.read_text()) for one in (first, second))
    for name in ("bench", "machine", "limits"):
        if before.get(name) != after.get(name):
            say(f"{name}: {before.get(name)} | {after.get(name)}")
    figures, others = before["figures"], after["figures"]
    names = [name for name in figures if name in others]
    width = max((len(name) for name in names), default=0)
    for name in names:
        old, new = figures[name], others[name]
        if isinstance(old, int | float) and isinstance(new, int | float):
            change = f"{(new - old) / old * 100:+.0f} %" if old else ""
            say(f"{name:{width}}  {old:>12,.2f}  {new:>12,.2f}  {change:>7}")


def main() -> int:
    """Reads the options, measures, and writes the file if there is to be one."""
    parser = argparse.ArgumentParser(prog="hack/bench", description=__doc__)
    parts = parser.add_subparsers(dest="bench", required=True)
    for name, part in PARTS.items():
        one = parts.add_parser(name, description=part.__doc__)
        one.add_argument("--json", type=Path, help="file for the figures")
        one.add_argument("--keep", type=Path, help="folder for the logs of all programs")
        if name == "life":
            one.add_argument("--run", type=float, default=10.0, help="seconds of the workload")
        if name == "steady":
            one.add_argument("--jobs", type=int, nargs="+", default=[100, 1000])
            one.add_argument("--seconds", type=float, default=120.0, help="of the measurement")
            one.add_argument("--settle", type=float, default=30.0, help="seconds before it")
        if name == "burst":
            one.add_argument("--jobs", type=int, default=100)
            one.add_argument("--together", action="store_true", help="pods start as they come")
            one.add_argument("--rents", type=float, default=60.0, help="seconds to wait for rents")
    both = parts.add_parser("compare", description=compare.__doc__)
    both.add_argument("first", type=Path)
    both.add_argument("second", type=Path)
    options = parser.parse_args()
    if options.bench == "compare":
        compare(options.first, options.second)
        return 0
    facts = machine()
    say(" ".join(f"{name} {value}" for name, value in facts.items()))
    with (
        tempfile.TemporaryDirectory(prefix="gpujob-load-") as folder,
        redirect_stdout(StringIO()),
    ):
        try:
            found = PARTS[options.bench](options, Path(folder))
        finally:
            if options.keep is not None:
                options.keep.mkdir(parents=True, exist_ok=True)
                for log in Path(folder).rglob("*.log"):
                    shutil.copy(log, options.keep)
    show(found)
    if options.json is not None:
        in_force, requests = found.pop("limits"), found.pop("requests", {})
        told = {"bench": options.bench, "machine": facts, "limits": in_force, "figures": found}
        options.json.write_text(json.dumps(told | {"requests": requests}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
