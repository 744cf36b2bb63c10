"""Runs the whole product: a cluster, the simulator, the chart, four GpuJobs, and a checked result.

The end-to-end tests run the same story with their own checks.
"""

import argparse
import contextlib
import json
import re
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import yaml

from localcluster import binaries, kind, project_images
from localcluster.node import Node
from localcluster.paths import ROOT, cache, environment
from localcluster.patience import told

PARTS = ROOT / "hack/demo.d"
JOBS = ("train", "too-cheap", "overdue", "unlucky")
LAG_CAP_SECONDS = 60
"""destroyLagCapSeconds of hack/demo.d/values.yaml."""
STORY_SECONDS = 400
SILENCE_SECONDS = 8
"""After which it is said what is waited for."""
LIVELY = ("--living=2000", "--seed=328")
"""A market of strangers; with this seed none of the first eight hosts rented fails to boot."""
HOST_DIES = {"host_dies": {"count": 1, "seconds": 6, "image": "demo/host-dies"}}

Object = dict[str, Any]


class DemoError(Exception):
    """The demo did not end as promised; the message says what is wrong."""


@dataclass
class Stage:
    """A cluster with the simulator and the operator on it."""

    name: str
    token: str = field(default_factory=lambda: f"canary-{secrets.token_hex(24)}", repr=False)

    def __post_init__(self) -> None:
        self.cluster = kind.Kind(self.name) if kind.engine() else Node(self.name)

    def up(self) -> None:
        """Starts everything; idempotent."""
        self.start(*LIVELY)
        self.install()

    def start(self, *simulator_options: str) -> None:
        """Starts the cluster, and the simulator in it."""
        self.cluster.up()
        with tempfile.TemporaryDirectory(dir=cache()) as scratch:
            for archive in project_images.built(Path(scratch)):
                self.cluster.load(archive)
        self.apply_secret("vastsim")
        self.apply_secret("gpujob-system")
        *others, pod = yaml.safe_load_all((PARTS / "vastsim.yaml").read_text())
        pod["spec"]["containers"][0]["args"] += simulator_options
        self.apply({"apiVersion": "v1", "kind": "List", "items": [*others, pod]})
        with told("waiting for the simulator", say):
            self.kubectl(
                "wait", "-n", "vastsim", "--for=condition=Ready", "pod/vastsim", "--timeout=120s"
            )
        say("the simulator is running in the cluster; it shows its market at /sim/")

    def install(self, *options: str) -> None:
        """Installs the operator with its chart. The options are passed to helm."""
        self.namespace("demo")
        with told("installing the chart, and waiting for the operator", say):
            self.helm(
                "upgrade",
                "--install",
                "gpujob",
                str(ROOT / "helm/gpujob"),
                "--namespace=gpujob-system",
                f"--values={PARTS / 'values.yaml'}",
                "--wait",
                "--timeout=180s",
                *options,
            )
        say("the chart is installed, and the operator is ready")

    def down(self) -> None:
        """Removes everything."""
        self.cluster.down()

    def namespace(self, name: str) -> None:
        """Creates a namespace that enforces the restricted Pod Security profile."""
        labels = {"pod-security.kubernetes.io/enforce": "restricted"}
        manifest = {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": name, "labels": labels},
        }
        self.apply(manifest)

    def apply_secret(self, namespace: str) -> None:
        """Creates the Secret with the account's API key in a namespace."""
        self.namespace(namespace)
        self.apply(
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {"name": "vast", "namespace": namespace},
                "stringData": {"api-key": self.token},
            }
        )

    def apply(self, manifest: Object) -> None:
        """Applies one object."""
        self.kubectl("apply", "-f", "-", text=json.dumps(manifest))

    def kubectl(self, *arguments: str, text: str | None = None) -> str:
        """Runs kubectl and returns what it printed; raises DemoError."""
        return self._run("kubectl", *arguments, text=text)

    def helm(self, *arguments: str) -> str:
        """Runs helm and returns what it printed; raises DemoError."""
        return self._run("helm", *arguments)

    def command(self, program: str, *arguments: str) -> list[str]:
        """Returns a command line for this cluster."""
        return [str(binaries.folder() / program), f"--kubeconfig={self.kubeconfig}", *arguments]

    @property
    def kubeconfig(self) -> Path:
        """Path of the administrator's kubeconfig."""
        return self.cluster.kubeconfig

    def get(self, kinds: str, namespace: str) -> list[Object]:
        """Returns objects."""
        found = json.loads(self.kubectl("get", kinds, "-n", namespace, "-o", "json"))
        items: list[Object] = found["items"]
        return items

    def simulator(self, path: str, body: Object | None = None, *, posts: bool = False) -> Object:
        """Calls the simulator's own control API, through the API server."""
        url = f"/api/v1/namespaces/vastsim/pods/vastsim:8000/proxy/sim/{path}"
        if body is None:
            answer = self.kubectl("get", "--raw", url)
        else:
            verb = "create" if posts else "replace"
            answer = self.kubectl(verb, "--raw", url, "-f", "-", text=json.dumps(body))
        found: Object = json.loads(answer)
        return found

    def ledger(self) -> list[Object]:
        """Returns the simulator's ledger."""
        leases: list[Object] = self.simulator("ledger")["leases"]
        return leases

    def _run(self, program: str, *arguments: str, text: str | None = None) -> str:
        done = subprocess.run(
            self.command(program, *arguments),
            input=text if text is not None else "",
            capture_output=True,
            text=True,
            env=environment(),
        )
        if done.returncode != 0:
            raise DemoError(f"{program} {' '.join(arguments)}:\n{done.stderr.strip()}")
        return done.stdout


# --- The story ------------------------------------------------------------------------------


def play(stage: Stage, on_look: Callable[[dict[str, Object]], None] = lambda _: None) -> None:
    """Applies the four jobs and follows them until each one has reached its end."""
    stage.simulator("faults", HOST_DIES)
    for name in JOBS:
        stage.kubectl("apply", "-f", str(PARTS / f"{name}.yaml"))
        say(f"kubectl apply -f hack/demo.d/{name}.yaml")
    shown: dict[str, str] = {}
    figures = re.compile(r"[0-9.]+")
    table_due = time.monotonic() + 15
    deadline = time.monotonic() + STORY_SECONDS
    with _log_of_train(stage):
        while True:
            jobs = {job["metadata"]["name"]: job for job in stage.get("gpujobs", "demo")}
            for name, job in jobs.items():
                line = _line(job)
                # A refusal is repeated with the figures of each new look at the market.
                if figures.sub("", shown.get(name, "")) != figures.sub("", line):
                    shown[name] = line
                    say(f"{name}: {line}")
            if time.monotonic() - _said_at > SILENCE_SECONDS:
                rest = [name for name, job in jobs.items() if not is_settled(name, job)]
                say(f"waiting for the end of {' and '.join(rest)}")
            on_look(jobs)
            if time.monotonic() > table_due:
                table_due = float("inf")
                show(stage)
            if all(is_settled(name, job) for name, job in jobs.items()):
                break
            if time.monotonic() > deadline:
                show(stage)
                raise DemoError(f"the jobs did not end within {STORY_SECONDS} s: {shown}")
            time.sleep(1)
    show(stage)


def is_settled(name: str, job: Object) -> bool:
    """Whether a job of the demo has reached the end that it demonstrates."""
    if name == "too-cheap":
        return condition(job, "Admitted").get("reason") == "CeilingExceeded"
    return any(condition(job, kind).get("status") == "True" for kind in ("Complete", "Failed"))


def condition(thing: Object, kind: str) -> Object:
    """Returns a condition, or an empty object if there is none of that type."""
    found = thing.get("status", {}).get("conditions", [])
    return next((one for one in found if one["type"] == kind), {})


def _line(job: Object) -> str:
    ready = condition(job, "Ready")
    return f"{ready.get('reason', '')}: {ready.get('message', '')}".rstrip(": ")


def show(stage: Stage) -> None:
    """Prints what a user would look at."""
    print("\n$ kubectl get gpujobs,gpunodes -n demo")
    print(stage.kubectl("get", "gpujobs,gpunodes", "-n", "demo"), flush=True)


def driver_of(job: Object) -> str:
    """Returns the driver pod of a job's current attempt, or of its last one."""
    status = job["status"]
    node = status.get("nodeName") or status["attempts"][-1]["nodeName"]
    return f"{node}-driver"


@contextlib.contextmanager
def _log_of_train(stage: Stage) -> Iterator[None]:
    """Prints the driver's log of the first job while it grows."""
    ended = threading.Event()
    held: list[subprocess.Popen[str]] = []

    def follow() -> None:
        # Its first attempt may have lost its offer to another job, so the pod's name is not known.
        pods = "-lgpujob.dev/job=train"
        command = stage.command("kubectl", "logs", "-n", "demo", "-f", "--tail=-1", pods)
        found = False
        while not found and not ended.wait(0.5):
            with subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                env=environment(),
            ) as process:
                held[:] = [process]
                assert process.stdout is not None, "it was requested as a pipe"
                for line in process.stdout:
                    found = True
                    say(f"  train's log | {line.rstrip()}")

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        for process in held:
            process.terminate()
        thread.join(timeout=5)


# --- The result -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Account:
    """The end and cost of one job, according to the operator and to the simulator."""

    job: str
    outcome: str
    attempts: int
    ceiling: Decimal
    ours: Decimal
    ledger: Decimal
    slack: Decimal
    """How far the operator's figure may exceed the ledger: for each attempt the lag cap at its
    rate, and the traffic that was reserved for what no listing showed."""

    def faults(self) -> list[str]:
        """Returns what is wrong with the money."""
        found = []
        if not self.ledger <= self.ours <= self.ledger + self.slack:
            found.append(
                f"{self.job}: the operator says {self.ours}, but the ledger {self.ledger}; "
                f"at most {self.slack} more is allowed"
            )
        if self.ours > self.ceiling:
            found.append(
                f"{self.job}: it cost {self.ours}, more than its ceiling of {self.ceiling}"
            )
        return found


WANTED = {
    "train": ("Complete", 1),
    "too-cheap": ("CeilingExceeded", 0),
    "overdue": ("DeadlineExceeded", 1),
    "unlucky": ("Complete", 2),
}


def accounts(stage: Stage, namespace: str = "demo") -> list[Account]:
    """Returns the account of every job."""
    ledger = stage.ledger()
    nodes = stage.get("gpunodes", namespace)
    found = []
    for job in stage.get("gpujobs", namespace):
        uid = job["metadata"]["uid"]
        leases = [entry for entry in ledger if (entry["label"] or "").endswith(f"/{uid}")]
        rates = sum((Decimal(entry["usd_per_hour"]) for entry in leases), Decimal(0))
        reserves = [
            Decimal(node["status"]["rent"]["trafficReserveUSD"])
            for node in nodes
            if node["spec"]["jobRef"]["uid"] == uid and "rent" in node["status"]
        ]
        status = job["status"]
        found.append(
            Account(
                job=job["metadata"]["name"],
                outcome=condition(job, "Ready").get("reason", ""),
                attempts=len(leases),
                ceiling=Decimal(job["spec"]["cost"]["ceiling"]),
                ours=Decimal(status["cost"]["spentUSD"]),
                ledger=sum((Decimal(entry["total_usd"]) for entry in leases), Decimal(0)),
                slack=rates * LAG_CAP_SECONDS / 3600 + sum(reserves, Decimal(0)),
            )
        )
    return found


def check(stage: Stage) -> None:
    """Prints the table and raises DemoError if anything is not as promised."""
    rows = accounts(stage)
    print("\njob         outcome             machines    ceiling    operator      ledger")
    for row in sorted(rows, key=lambda row: JOBS.index(row.job)):
        print(
            f"{row.job:<11} {row.outcome:<19} {row.attempts:>8} {row.ceiling:>10} "
            f"{row.ours:>11.6f} {row.ledger:>11.6f}"
        )
    running = [entry for entry in stage.ledger() if entry["state"] != "destroyed"]
    print(f"machines still running: {len(running) or 'none'}", flush=True)
    wrong = [fault for row in rows for fault in row.faults()]
    wrong += [
        f"{row.job}: {row.outcome} after {row.attempts} machines, expected {WANTED[row.job]}"
        for row in rows
        if (row.outcome, row.attempts) != WANTED[row.job]
    ]
    if {row.job for row in rows} != set(JOBS):
        wrong.append(f"jobs are missing; there are only {[row.job for row in rows]}")
    if running:
        wrong.append(f"machines are still running: {running}")
    overdue = stage.get("gpujobs", "demo")
    ran = next(job for job in overdue if job["metadata"]["name"] == "overdue")
    seconds = ran["status"]["runSeconds"]
    if not 20 <= seconds <= 20 + LAG_CAP_SECONDS:
        wrong.append(f"overdue: it ran for {seconds} s instead of about 20 s")
    if wrong:
        raise DemoError("\n".join(wrong))


def say(text: str) -> None:
    """Prints a line with the seconds since the start."""
    global _said_at
    _said_at = time.monotonic()
    print(f"[{_said_at - STARTED:6.1f}] {text}", flush=True)


STARTED = time.monotonic()
_said_at = STARTED


def main() -> int:
    """Runs the demo; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="hack/demo",
        description="Makes a local cluster with a simulator of Vast.ai, installs the operator, "
        "runs four GpuJobs, checks what came of them and what they cost, and removes the cluster. "
        "It never touches a cluster that it has not made itself.",
    )
    parser.add_argument(
        "--name",
        default="gpujob-demo",
        help="name of the cluster (default: gpujob-demo); demos with different names can run at "
        "the same time",
    )
    parser.add_argument("--keep", action="store_true", help="do not remove the cluster")
    arguments = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    stage = Stage(arguments.name)
    try:
        stage.cluster.reserve()
    except FileExistsError:
        print(
            f"hack/demo: there is a cluster {stage.name} already, of a demo that was kept or still "
            f"runs. Remove it with `hack/cluster --name {stage.name} down`, or choose another name "
            "with --name.",
            file=sys.stderr,
        )
        return 1
    try:
        stage.up()
        play(stage)
        check(stage)
    except (DemoError, TimeoutError) as error:
        print(f"\nhack/demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nhack/demo: interrupted", file=sys.stderr)
        return 130
    finally:
        _ignore_interrupts()
        if arguments.keep:
            _how_to_look(stage)
        else:
            say("removing the cluster; this cannot be interrupted")
            stage.down()
    say("done")
    return 0


def _interrupt(*_: object) -> None:
    # Another one must not stop the cleaning half way.
    _ignore_interrupts()
    raise KeyboardInterrupt


def _ignore_interrupts() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _how_to_look(stage: Stage) -> None:
    print(
        f"""
The cluster {stage.name} is kept. To look around:
  export KUBECONFIG={stage.kubeconfig} PATH={binaries.folder()}:$PATH
  kubectl get gpujobs,gpunodes -A
  kubectl describe gpujob -n demo unlucky
  kubectl logs -n demo -l gpujob.dev/job=train --tail=-1
  kubectl logs -n gpujob-system -l app.kubernetes.io/name=gpujob --prefix --tail=-1
  kubectl get --raw /api/v1/namespaces/vastsim/pods/vastsim:8000/proxy/sim/ledger
  kubectl proxy & # and the market at
    http://127.0.0.1:8001/api/v1/namespaces/vastsim/pods/vastsim:8000/proxy/sim/
To remove it:
  hack/cluster --name {stage.name} down""",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
