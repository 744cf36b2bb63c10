"""Measures how the controller starts while very much is stored.

Finished jobs, released nodes and jobs with a machine are stored as a controller leaves them. Then
the controller is started again and again, as a process of its own with a release's limits, before
a real API server and the simulator. Just before each start a job is created; that it has a status
is the first decision. The machines load for ever: nothing runs on them.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout
from copy import deepcopy
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.integration.client import Client, path_of
from tests.integration.conftest import World, control_plane, staged
from tests.integration.parts import LIMITS, Simulator

from bench_driver import cpu_seconds, memory
from bench_due import a_job, say
from gpujob.api.meta import FINALIZER, LABEL_JOB, LABEL_MANAGED_BY, MANAGER

ROOT = Path(__file__).parents[1]
STORED = ROOT / "tests/unit/stored/v1alpha1"
WRITERS = 8
LOOK_SECONDS = 0.25
QUIET_SECONDS = 2.0
QUIET_CORES = 0.1
"""A controller that uses less of a core for so long has done what it began with."""
GOAL_SECONDS = 10.0

Body = dict[str, Any]


@dataclass(frozen=True)
class Start:
    """One start of the controller; its times count from there, None = not reached."""

    lock_seconds: float | None
    decision_seconds: float | None
    ready_seconds: float | None
    quiet_seconds: float | None
    cpu_seconds: float
    """Until it was quiet, or else in all."""
    rss_mib: float
    peak_mib: float
    is_started: bool
    """Whether it has decided, and lived to the end of its time."""


class Store:
    """Writes objects, for any number of threads."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._lines = threading.local()

    def line(self, config: Path) -> Client:
        """Returns this thread's connection as the user of a kubeconfig."""
        if not hasattr(self._lines, config.name):
            setattr(self._lines, config.name, Client(config))
        found: Client = getattr(self._lines, config.name)
        return found

    def create(self, plural: str, body: Body, status: Body) -> Body:
        """Creates an object as the operator leaves it."""
        # The policies let nobody else write nodes and statuses.
        line = self.line(Path(self._world.operator.environment["KUBECONFIG"]))
        user = line if plural == "gpunodes" else self.line(self._world.kubectl.kubeconfig)
        path = path_of(plural, body["metadata"]["name"], self._world.namespace)
        code, answer = user.send("POST", path.rpartition("/")[0], body)
        assert code == 201, answer
        code, answer = line.send("PUT", f"{path}/status", answer | {"status": status})
        assert code == 200, answer
        return answer

    def many(self, make: Callable[[int], object], count: int) -> None:
        """Makes so many objects."""
        with ThreadPoolExecutor(WRITERS) as pool:
            for _ in pool.map(make, range(count)):
                pass


def ago(hours: float) -> str:
    """Returns a time as it is stored."""
    return (datetime.now(UTC) - timedelta(hours=hours)).strftime("%Y-%m-%dT%H:%M:%SZ")


def stored(name: str) -> Body:
    """Returns an object that an API server has once stored."""
    found: Body = yaml.safe_load((STORED / f"{name}.yaml").read_text())
    return found


def node_of(job: Body, *, finalizers: list[str]) -> Body:
    """Returns the node of a job's first attempt, without a status."""
    name, uid = job["metadata"]["name"], job["metadata"]["uid"]
    owner = {"apiVersion": job["apiVersion"], "kind": "GpuJob", "name": name, "uid": uid}
    return {
        "apiVersion": job["apiVersion"],
        "kind": "GpuNode",
        "metadata": {
            "name": f"{name}-0-1",
            "finalizers": finalizers,
            "labels": {LABEL_JOB: name, LABEL_MANAGED_BY: MANAGER},
            "ownerReferences": [owner | {"controller": True, "blockOwnerDeletion": True}],
        },
        "spec": {"jobRef": {"name": name, "uid": uid}, "attempt": 1, "reservedUSD": "2.000000"},
    }


def fill(world: World, options: argparse.Namespace) -> None:
    """Stores all that the controller starts with."""
    store = Store(world)
    finished, released = (stored(f"{kind}-complete")["status"] for kind in ("gpujob", "gpunode"))
    # What has been over for so long has left the watch; nodes are kept for a day.
    finished |= {"completionTime": ago(3), "closed": True}
    released |= {"releasedAt": ago(3), "closed": True}

    def finish(number: int) -> None:
        job = store.create("gpujobs", a_job(f"finished-{number}"), finished)
        if number < options.released:
            store.create("gpunodes", node_of(job, finalizers=[]), released)

    store.many(finish, max(options.finished, options.released))
    namespace = json.loads(world.kubectl("get", "namespace", "kube-system", "-o", "json"))
    cluster = namespace["metadata"]["uid"]
    running = [stored(f"{kind}-running")["status"] for kind in ("gpujob", "gpunode")]
    uids: dict[int, str] = {}

    def run(number: int) -> None:
        of_job, of_node = deepcopy(running)
        body = a_job(f"running-{number}")
        body["metadata"]["finalizers"] = [FINALIZER]
        job = store.create("gpujobs", body, {"phase": "Waiting"})
        for part in ("machine", "run", "measured"):
            of_node.pop(part, None)
        now = ago(0)
        of_node["rent"] |= {"requestedAt": now, "notAfter": now, "moneyDeadlineSeconds": 100_000}
        of_node["lease"] |= {"recordedAt": now, "instanceID": numbers[number]}
        node = store.create("gpunodes", node_of(job, finalizers=[FINALIZER]), of_node)
        name, uid = node["metadata"]["name"], node["metadata"]["uid"]
        path = path_of("gpujobs", body["metadata"]["name"], world.namespace)
        of_job |= {"nodeName": name, "nodeUID": uid}
        operator = store.line(Path(world.operator.environment["KUBECONFIG"]))
        code, answer = operator.send("PUT", f"{path}/status", job | {"status": of_job})
        assert code == 200, answer
        uids[number] = f"{cluster}/{uid}/{job['metadata']['uid']}"

    world.simulator.faults(slow_boot={"count": -1, "seconds": 1e9})
    numbers = [world.simulator.rent_by_hand("") for _ in range(options.running)]
    store.many(run, options.running)
    for number, mark in uids.items():
        world.simulator.ask("PUT", f"/api/v0/instances/{numbers[number]}/", {"label": mark})


def start(
    world: World, number: int, environment: dict[str, str], log: Path, seconds: float
) -> Start:
    """Starts the controller once, watches it for a while, and stops it."""
    probe = f"probe-{number}"
    store = Store(world)
    made = a_job(probe, cost={"ceiling": "0.01"})
    path = path_of("gpujobs", probe, world.namespace)
    user = store.line(world.kubectl.kubeconfig)
    assert user.send("POST", path.rpartition("/")[0], made)[0] == 201
    with log.open("ab") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "gpujob"],
            stdout=stream,
            stderr=stream,
            env={"PATH": os.environ["PATH"], "PYTHONPATH": os.environ["PYTHONPATH"]}
            | environment
            | {"GPUJOB_POD_NAME": f"start-{number}"},
        )
    began = time.monotonic()
    at: dict[str, float] = {}
    used: list[tuple[float, float]] = [(0.0, 0.0)]
    rss = peak = quiet_cpu = 0.0

    def holds() -> bool:
        lease = store.line(world.kubectl.kubeconfig).send(
            "GET", "/apis/coordination.k8s.io/v1/namespaces/gpujob-system/leases/gpujob"
        )[1]
        holder = (lease.get("spec") or {}).get("holderIdentity") or ""
        return str(holder).startswith(f"start-{number}_")

    def decided() -> bool:
        found = user.send("GET", path)[1].get("status") or {}
        return bool(found.get("conditions"))

    looks: dict[str, Callable[[], bool]] = {
        "lock": holds,
        "decision": decided,
        "ready": lambda: world.operator.probe("readyz")[0] == 200,
    }
    while (now := time.monotonic() - began) < seconds and process.poll() is None:
        for name, look in looks.items():
            if name not in at and look():
                at[name] = time.monotonic() - began
        try:
            rss, peak = memory(process.pid, "VmRSS"), memory(process.pid, "VmHWM")
            used.append((now, cpu_seconds(process.pid)))
        except (OSError, LookupError):
            break
        earlier = [one for one in used if one[0] <= now - QUIET_SECONDS]
        is_quiet = earlier and used[-1][1] - earlier[-1][1] < QUIET_CORES * QUIET_SECONDS
        if is_quiet and "quiet" not in at and len(at) == len(looks):
            at["quiet"], quiet_cpu = earlier[-1]
        time.sleep(LOOK_SECONDS)
    is_alive = process.poll() is None
    process.terminate()
    process.wait(60)
    user.send("DELETE", path)
    return Start(
        lock_seconds=at.get("lock"),
        decision_seconds=at.get("decision"),
        ready_seconds=at.get("ready"),
        quiet_seconds=at.get("quiet"),
        cpu_seconds=quiet_cpu or used[-1][1],
        rss_mib=rss,
        peak_mib=peak,
        is_started=is_alive and "decision" in at,
    )


def row(number: int | str, cells: list[str]) -> None:
    """Prints one row of the table."""
    say(f"{number!s:>5}" + "".join(f"{one:>11}" for one in cells))


def shown(seconds: float | None) -> str:
    """Returns a time in words."""
    return "never" if seconds is None else f"{seconds:.1f}"


def about(log: str) -> Body:
    """Returns what was measured: the commit, the machine, and the limits in force."""
    lines = (json.loads(one) for one in log.splitlines() if one.startswith("{"))
    told: Body = next((one for one in lines if one.get("event") == "controller_started"), {})
    git = ["git", "-C", str(ROOT), "describe", "--always", "--abbrev=40", "--dirty"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    total = int(Path("/proc/meminfo").read_text().split()[1])
    return {
        "commit": commit,
        "cores": len(os.sched_getaffinity(0)),
        "memory_mib": total // 1024,
        "limits": told.get("limits"),
    }


def measure(options: argparse.Namespace, folder: Path) -> Body:
    """Prints a table of all starts, and returns it."""
    with control_plane(folder / "plane") as plane:
        simulator = Simulator(folder)
        simulator.start()
        with staged(plane, simulator, folder) as world:
            said = f"{options.finished} finished jobs, {options.released} released nodes and "
            say(f"storing {said}{options.running} jobs with a machine")
            began = time.monotonic()
            fill(world, options)
            say(f"stored in {time.monotonic() - began:.0f} s")
            log = options.log or folder / "start.log"
            own = {f"GPUJOB_{name}" for name in LIMITS}
            given = {key: one for key, one in world.operator.environment.items() if key not in own}
            row("start", ["lock s", "decision s", "ready s", "quiet s", "CPU s", "RSS MiB", "peak"])
            starts = []
            for number in range(1, options.starts + 1):
                found = start(world, number, given, log, options.seconds)
                starts.append(found)
                times = (found.lock_seconds, found.decision_seconds, found.ready_seconds)
                cells = [shown(one) for one in (*times, found.quiet_seconds, found.cpu_seconds)]
                cells += [f"{found.rss_mib:.0f}", f"{found.peak_mib:.0f}"]
                row(number, [*cells, "" if found.is_started else "not started"])
            told = log.read_text()
        simulator.stop()
    count = sum(one.is_started for one in starts)
    latest = max((one.decision_seconds or float("inf") for one in starts), default=0.0)
    say(f"started {count} times of {len(starts)}, the first decision after at most {latest:.1f} s")
    say(f"goal: always, within {GOAL_SECONDS:.0f} s")
    stored_now = {name: getattr(options, name) for name in ("finished", "released", "running")}
    return about(told) | {"stored": stored_now, "starts": [asdict(one) for one in starts]}


def main() -> int:
    """Reads the options and measures."""
    parser = argparse.ArgumentParser(prog="hack/bench start", description=__doc__)
    parser.add_argument("--finished", type=int, default=10_000)
    parser.add_argument("--released", type=int, default=2_000)
    parser.add_argument("--running", type=int, default=200)
    parser.add_argument("--starts", type=int, default=10)
    parser.add_argument(
        "--seconds", type=float, default=40.0, help="for how long each start is watched"
    )
    parser.add_argument("--json", type=Path, help="write the figures to this file, too")
    parser.add_argument("--log", type=Path, help="let the controller print into this file")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="gpujob-start-") as folder,
        redirect_stdout(StringIO()),
    ):
        found = measure(options, Path(folder))
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
