"""Measures how the controller starts while very much is stored.

Finished jobs, released nodes and jobs with a machine are stored as a controller leaves them. Then
the controller is started again and again, as a process of its own with a release's limits, before
a real API server and the simulator. Just before each start a job is created in another namespace;
that it has a status is the first decision. The machines load for ever: nothing runs on them.
"""

import argparse
import base64
import json
import os
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from http.client import HTTPConnection
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import yaml

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.integration.client import Client, path_of
from tests.integration.conftest import control_plane
from tests.integration.parts import (
    LIMITS,
    Kubectl,
    Operator,
    Simulator,
    eventually,
    operators_config,
)

from bench_driver import cpu_seconds, memory
from bench_due import a_job, say
from gpujob.api.meta import FINALIZER, LABEL_JOB, LABEL_MANAGED_BY, MANAGER

ROOT = Path(__file__).parents[1]
STORED = ROOT / "tests/unit/stored/v1alpha1"
WRITTEN_AT_ONCE = 100
"""etcd takes up to 128 writes in one transaction."""
LOOK_SECONDS = 0.25
QUIET_SECONDS = 2.0
QUIET_CORES = 0.1
"""A controller that uses less of a core for so long has done what it began with."""
GOAL_SECONDS = 10.0
NAMESPACE, ELSEWHERE = "team", "others"
PLENTY_USD = "5000.000000"

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


class World(NamedTuple):
    """What the controller is started in."""

    kubectl: Kubectl
    simulator: Simulator
    operator: Operator
    """It knows how the controller is started, and asks its probes."""


class Store:
    """Writes objects: one of a kind through the API server, and any number like it into etcd."""

    def __init__(self, world: World, etcd_port: int) -> None:
        self._etcd_port = etcd_port
        self.user = Client(world.kubectl.kubeconfig)
        # The policies let nobody else write nodes and statuses.
        self.operator = Client(Path(world.operator.environment["KUBECONFIG"]))

    def create(self, plural: str, body: Body, namespace: str = NAMESPACE) -> Body:
        """Creates an object, and returns it."""
        line = self.operator if plural == "gpunodes" else self.user
        path = path_of(plural, "", namespace).rstrip("/")
        code, answer = line.send("POST", path, body)
        assert code == 201, answer
        return answer

    def tell(self, plural: str, stored: Body, status: Body) -> None:
        """Writes a status as the operator does."""
        path = path_of(plural, stored["metadata"]["name"], NAMESPACE)
        body = stored | {"status": status}
        code, answer = self.operator.send("PUT", f"{path}/status", body)
        assert code == 200, answer

    def multiply(self, plural: str, name: str, variants: Iterable[Mapping[str, str]]) -> None:
        """Stores more objects like one; each has other texts in place of some of that one's."""
        prefix = f"/registry/gpujob.dev/{plural}/{NAMESPACE}/"
        (found,) = self._ask("range", {"key": in_base64(prefix + name)})["kvs"]
        raw = base64.b64decode(found["value"]).decode()
        puts = []
        for variant in variants:
            key, value = prefix + name, raw
            for old, new in variant.items():
                key, value = key.replace(old, new), value.replace(old, new)
            puts.append({"requestPut": {"key": in_base64(key), "value": in_base64(value)}})
        for at in range(0, len(puts), WRITTEN_AT_ONCE):
            self._ask("txn", {"success": puts[at : at + WRITTEN_AT_ONCE]})
        count = len(puts) + 1
        eventually(
            f"the API server shows {count} {plural}",
            lambda: len(self.user.items(plural, NAMESPACE)) >= count,
        )

    def _ask(self, what: str, body: Body) -> Body:
        line = HTTPConnection("127.0.0.1", self._etcd_port, timeout=60)
        line.request("POST", f"/v3/kv/{what}", json.dumps(body))
        answer = line.getresponse()
        told: Body = json.loads(answer.read())
        assert answer.status == 200, told
        line.close()
        return told


def in_base64(text: str) -> str:
    """Returns a text as etcd's gateway takes bytes."""
    return base64.b64encode(text.encode()).decode()


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
        "spec": {"jobRef": {"name": name, "uid": uid}, "attempt": 1, "reservedUSD": PLENTY_USD},
    }


def fill(world: World, store: Store, options: argparse.Namespace) -> None:
    """Stores all that the controller starts with."""
    finished, released = (stored(f"{kind}-complete")["status"] for kind in ("gpujob", "gpunode"))
    job = store.create("gpujobs", a_job("finished-1"))
    node = store.create("gpunodes", node_of(job, finalizers=[]))
    # What has been over for so long has left the watch; nodes are kept for a day.
    store.tell("gpujobs", job, finished | {"completionTime": ago(3), "closed": True})
    store.tell("gpunodes", node, released | {"releasedAt": ago(3), "closed": True})
    uids = [one["metadata"]["uid"] for one in (job, node)]
    variants = [
        {"finished-1": f"finished-{number}"} | {uid: str(uuid.uuid4()) for uid in uids}
        for number in range(2, max(options.finished, options.released) + 1)
    ]
    store.multiply("gpujobs", "finished-1", variants)
    store.multiply("gpunodes", "finished-1-0-1", variants[: options.released - 1])
    world.simulator.faults(slow_boot={"count": -1, "seconds": 1e9})
    numbers = [world.simulator.rent_by_hand("") for _ in range(options.running)]
    if not numbers:
        return
    of_job, of_node = (stored(f"{kind}-running")["status"] for kind in ("gpujob", "gpunode"))
    body = a_job("running-1", cost={"ceiling": PLENTY_USD})
    body["metadata"]["finalizers"] = [FINALIZER]
    job = store.create("gpujobs", body)
    node = store.create("gpunodes", node_of(job, finalizers=[FINALIZER]))
    uids = [one["metadata"]["uid"] for one in (job, node)]
    given = {"nodeName": "running-1-0-1", "nodeUID": uids[1], "nodeReservedUSD": PLENTY_USD}
    store.tell("gpujobs", job, of_job | given)
    now = ago(0)
    # Whatever its machine costs was agreed.
    rates = {"gpuUSDPerHour": "50.000000", "fuseUSD": PLENTY_USD}
    times = {"requestedAt": now, "notAfter": now, "moneyDeadlineSeconds": 300_000}
    of_node["rent"] |= rates | times
    of_node["lease"] |= {"recordedAt": now, "usdPerHour": "51.000000", "instanceID": numbers[0]}
    for part in ("machine", "run"):
        del of_node[part]
    store.tell("gpunodes", node, of_node)
    variants = [
        {"running-1": f"running-{at}", f":{numbers[0]}": f":{number}"}
        | {uid: str(uuid.uuid4()) for uid in uids}
        for at, number in enumerate(numbers[1:], 2)
    ]
    store.multiply("gpujobs", "running-1", variants)
    store.multiply("gpunodes", "running-1-0-1", variants)
    namespace = world.kubectl.get("namespace", "kube-system", "") or {}
    for number, variant in zip(numbers, ({uid: uid for uid in uids}, *variants), strict=True):
        mark = "/".join((namespace["metadata"]["uid"], variant[uids[1]], variant[uids[0]]))
        world.simulator.ask("PUT", f"/api/v0/instances/{number}/", {"label": mark})


def start(
    world: World,
    store: Store,
    number: int,
    environment: dict[str, str],
    log: Path,
    seconds: float,
) -> Start:
    """Starts the controller once, watches it for a while, and stops it."""
    probe = f"probe-{number}"
    path = path_of("gpujobs", probe, ELSEWHERE)
    store.create("gpujobs", a_job(probe, cost={"ceiling": "0.01"}), ELSEWHERE)
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
        lease = store.user.send(
            "GET", "/apis/coordination.k8s.io/v1/namespaces/gpujob-system/leases/gpujob"
        )[1]
        holder = (lease.get("spec") or {}).get("holderIdentity") or ""
        return str(holder).startswith(f"start-{number}_")

    def decided() -> bool:
        found = store.user.send("GET", path)[1].get("status") or {}
        return bool(found.get("conditions"))

    looks: dict[str, Callable[[], bool]] = {
        "lock": holds,
        "decision": decided,
        # One that does not lead says more than that.
        "ready": lambda: world.operator.probe("readyz") == (200, "ok"),
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
    store.user.send("DELETE", path)
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
        kubectl = Kubectl(plane, plane.kubeconfig)
        for namespace in (NAMESPACE, ELSEWHERE):
            kubectl("create", "namespace", namespace)
        config = operators_config(plane, folder / "operator.kubeconfig")
        operator = Operator(folder, config, simulator.url)
        world = World(kubectl, simulator, operator)
        said = f"{options.finished} finished jobs, {options.released} released nodes and "
        say(f"storing {said}{options.running} jobs with a machine")
        began = time.monotonic()
        store = Store(world, int((folder / "plane/etcd.port").read_text()))
        fill(world, store, options)
        say(f"stored in {time.monotonic() - began:.0f} s")
        log = options.log or folder / "start.log"
        own = {f"GPUJOB_{name}" for name in LIMITS}
        given = {key: one for key, one in world.operator.environment.items() if key not in own}
        row("start", ["lock s", "decision s", "ready s", "quiet s", "CPU s", "RSS MiB", "peak"])
        starts = []
        for number in range(1, options.starts + 1):
            found = start(world, store, number, given, log, options.seconds)
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
