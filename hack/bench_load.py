"""Measures the operator under load: `life`, `burst`, `steady`, `list`, `failover`, `stop`, `soak`.

The API server, etcd and the controller are real processes. The market is the simulator with
machines in name only, and one process plays the kubelet and all drivers; both talk as the real
ones do. `compare` shows two files with results beside each other.
"""

import argparse
import json
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import asdict
from io import StringIO
from itertools import pairwise
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.integration.client import connect, path_of
from tests.integration.parts import eventually

from bench_driver import at
from bench_due import finished_status
from loadbench import audit
from loadbench.plant import ORIGINAL, as_stored, one_that_runs, plant
from loadbench.stage import PATIENCE_SECONDS, Controller, Stage, a_job, machine, say, stage
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
            name = f"j-{number}" if number else ORIGINAL
            created[name] = time.time()
            uids[made.post("gpujobs", a_job(name))["metadata"]["uid"]] = name

        say(f"the controller is process {made.controller.pid}")
        used, plane = made.cpu(), made.plane_cpu()
        made.many(create, range(count))
        storing = time.time() - min(created.values())
        say(f"{count} jobs stored in {storing:.1f} s")

        eventually("all have driver pods", lambda: len(made.pods_seen()) >= count, PATIENCE_SECONDS)
        cpu, plane = made.cpu() - used, made.plane_cpu() - plane
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
            "API server and etcd, CPU ms per job": plane / count * 1000,
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
        return found | bare(made, count, requests) | {"requests": requests} | limits(made)


def bare(made: Stage, count: int, requests: dict[str, int]) -> Found:
    """What the API server alone needs for the same writes: nothing could be faster."""
    original = as_stored(made)
    made.controller.kill()
    if made.pods is not None:
        made.pods.kill()
        made.pods = None
    per_job = {name: round(number / count) for name, number in requests.items()}
    asked = {"original": asdict(original), "per_job": per_job, "count": count}
    command = [sys.executable, "-m", "loadbench.bare"]
    command += ["--admin", str(made.plane.kubeconfig), "--operator", str(made.operators)]
    used = made.plane_cpu()
    done = subprocess.run(
        command, input=json.dumps(asked), text=True, check=True, stdout=subprocess.PIPE
    )
    took = float(done.stdout)
    return {
        "bare client: jobs/s": count / took,
        "bare client: API server and etcd, CPU ms per job": (made.plane_cpu() - used)
        / count
        * 1000,
    }


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


def stored_list(options: argparse.Namespace, folder: Path) -> Found:
    """`kubectl get gpujobs -A` with many stored: the API server's part, and the client's."""
    count: int = options.jobs
    with stage(folder, offers=1) as made:
        body = a_job("x")

        def store(number: int) -> None:
            job = made.post("gpujobs", body | {"metadata": {"name": f"j-{number}"}})
            path = path_of("gpujobs", f"j-{number}", made.namespace)
            operator = made.client(operator=True)
            code, _ = operator.send("PUT", f"{path}/status", job | {"status": finished_status()})
            assert code == 200

        made.many(store, range(count))
        say(f"{count} jobs stored")
        times, clients, servers, sizes = [], [], [], []
        for _ in range(options.times):
            before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
            made.kubectl("get", "gpujobs", "-A")
            times.append(time.monotonic() - began)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            clients.append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
            seconds, size = _pages(made)
            servers.append(seconds)
            sizes.append(size)
        return {
            "jobs": count,
            "kubectl get, s": statistics.median(times),
            "kubectl, CPU s": statistics.median(clients),
            "API server, all pages as tables, s": statistics.median(servers),
            "answers, MiB": statistics.median(sizes) / 2**20,
        } | limits(made)


def _pages(made: Stage) -> tuple[float, int]:
    """Reads the tables that kubectl asks for; returns the seconds waited for, and the bytes."""
    line, headers = connect(made.plane.kubeconfig)
    headers["Accept"] = "application/json;as=Table;v=v1;g=meta.k8s.io"
    waited, size, token = 0.0, 0, ""
    while True:
        began = time.monotonic()
        more = f"&continue={token}" if token else ""
        line.request("GET", f"/apis/gpujob.dev/v1alpha1/gpujobs?limit=500{more}", headers=headers)
        with line.getresponse() as answer:
            raw = answer.read()
        waited, size = waited + time.monotonic() - began, size + len(raw)
        token = json.loads(raw)["metadata"].get("continue", "")
        if not token:
            line.close()
            return waited, size


def failover(options: argparse.Namespace, folder: Path) -> Found:
    """The leader crashes, or is stopped: seconds until another replica decides about a job."""
    with stage(folder, offers=50) as made:
        config, url = made.operators, made.market.url
        other = Controller(folder, config, url, {}, "other")
        replicas = {"operator": made.controller, "other": other}
        found: Found = {}
        try:
            for how in ("crash", "stop"):
                took = [_fail_over(made, replicas, f"{how}-{n}", how) for n in range(options.times)]
                found[f"{how}: median s until another decides"] = statistics.median(took)
                found[f"{how}: at most, s"] = max(took)
        finally:
            if other.runs:
                other.kill()
        return found | limits(made)


def _fail_over(made: Stage, replicas: dict[str, Controller], job: str, how: str) -> float:
    for one in replicas.values():
        if not one.runs:
            one.start()

    def leader() -> str:
        lease = made.kubectl.get("lease", "gpujob", "gpujob-system") or {"spec": {}}
        name: str = lease["spec"].get("holderIdentity", "").partition("_")[0]
        led = name in replicas and replicas[name].probe("readyz")[0] == 200
        return name if led and all(one.runs for one in replicas.values()) else ""

    leads = replicas[eventually("one leads", leader, PATIENCE_SECONDS)]
    time.sleep(QUIET_SECONDS)
    began = time.monotonic()
    if how == "crash":
        leads.kill()
    else:
        leads.stop()
    made.post("gpujobs", a_job(job, suspend=True))

    def is_decided() -> bool:
        found = made.kubectl.get("gpujob", job, made.namespace) or {}
        return bool(found.get("status", {}).get("conditions"))

    while not is_decided():
        time.sleep(0.05)
    return time.monotonic() - began


def stop(options: argparse.Namespace, folder: Path) -> Found:
    """Many jobs that run are deleted at once, at the provider's real pace of destroys."""
    count: int = options.machines
    # A deadline leaves the time to destroy as many as there may be: more would cost too much.
    paced = {"GPUJOB_REQUEST_SPACING": "1", "GPUJOB_MAX_LEASES": str(count)}
    with stage(folder, offers=50, threshold_scale=1.0, settings=paced) as made:
        made.play(100_000)
        original = one_that_runs(made)
        plant(made, original, [f"j-{number}" for number in range(count - 1)])
        made.start()
        eventually("all drivers run", lambda: made.pods_started() >= count, PATIENCE_SECONDS)
        time.sleep(QUIET_SECONDS)
        jobs = made.kubectl.client.items("gpujobs", made.namespace)
        names = [one["metadata"]["name"] for one in jobs]
        began = time.time()

        def delete(number: int) -> None:
            made.client().delete("gpujobs", names[number], made.namespace)

        made.many(delete, range(count))

        def sent() -> list[float]:
            asked = [one for one in made.market.requests() if one["method"] == "DELETE"]
            first = {one["path"]: one["time"] - began for one in reversed(asked)}
            return sorted(first.values())

        eventually("all are destroyed", lambda: len(sent()) >= count, PATIENCE_SECONDS)
        waits = sent()
        eventually(
            "all jobs are gone",
            lambda: not made.kubectl.client.items("gpujobs", made.namespace),
            PATIENCE_SECONDS,
        )
        requests = made.market.requests()
        return {
            "machines": count,
            "first destroy sent after, s": waits[0],
            "last destroy sent after, s": waits[-1],
            "s between two": (waits[-1] - waits[0]) / max(count - 1, 1),
            "all jobs gone after, s": time.time() - began,
            "destroys refused for the pace": sum(
                one["method"] == "DELETE" and one["status"] == 429 for one in requests
            ),
        } | limits(made)


def soak(options: argparse.Namespace, folder: Path) -> Found:
    """Jobs come, run and go for long: whether memory grows."""
    quick = {"GPUJOB_LIST_LAG_SECONDS": "2", "GPUJOB_POLL_SECONDS": "2"}
    quick |= {"GPUJOB_NODE_RETENTION_SECONDS": "60"}
    with stage(folder, offers=500, settings=quick) as made:
        made.play(5)
        made.start()
        began, made_so_far = time.monotonic(), 0
        samples: list[tuple[float, float]] = []
        while (passed := time.monotonic() - began) < options.minutes * 60:
            if made_so_far < passed / 60 * options.rate:
                spec = a_job(f"j-{made_so_far}", ttlSecondsAfterFinished=30)
                made.post("gpujobs", spec)
                made_so_far += 1
            else:
                time.sleep(0.2)
            if not samples or passed - samples[-1][0] >= 5:
                samples.append((passed, made.rss()))
        late = samples[len(samples) // 2 :]
        slope, _ = statistics.linear_regression(*zip(*late, strict=True))
        jobs = made.kubectl.client.items("gpujobs", made.namespace)
        over = sum(bool(one.get("status", {}).get("completionTime")) for one in jobs)
        return {
            "jobs made": made_so_far,
            "jobs stored at the end": len(jobs),
            "of these over": over,
            "controller RSS at the start, MiB": samples[0][1],
            "in the middle, MiB": late[0][1],
            "at the end, MiB": late[-1][1],
            "slope of the second half, MiB per hour": slope * 3600,
            "controller cores": made.cpu() / (time.monotonic() - began),
        } | limits(made)


PARTS: dict[str, Callable[[argparse.Namespace, Path], Found]] = {
    "life": life,
    "burst": burst,
    "steady": steady,
    "list": stored_list,
    "failover": failover,
    "stop": stop,
    "soak": soak,
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
        if name == "list":
            one.add_argument("--jobs", type=int, default=10_000)
        if name in ("list", "failover"):
            one.add_argument("--times", type=int, default=3)
        if name == "stop":
            one.add_argument("--machines", type=int, default=20)
        if name == "soak":
            one.add_argument("--minutes", type=float, default=30.0)
            one.add_argument("--rate", type=float, default=20.0, help="jobs per minute")
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
