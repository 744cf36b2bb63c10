"""Everything that a load bench runs on, and how it is measured."""

import json
import os
import platform
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from prometheus_client.parser import text_string_to_metric_families
from tests.integration.client import Client, path_of
from tests.integration.conftest import control_plane
from tests.integration.parts import (
    KEY,
    LIMITS,
    Kubectl,
    Operator,
    Simulator,
    environment,
    eventually,
    operators_config,
)

from bench_driver import cpu_seconds, memory
from loadbench.audit import Log
from localcluster.control_plane import Audit, ControlPlane

PATIENCE_SECONDS = 1800.0
WRITERS = 8
ALLOWED = {
    "GPUJOB_MAX_LEASES": "20000",
    "GPUJOB_MAX_USD_PER_HOUR": "1000000",
    "GPUJOB_MAX_DESTROY_LAG_SECONDS": "1000000",
    "GPUJOB_REQUEST_SPACING": "0",
}
"""With the defaults twenty machines may be leased, and one rented in five seconds."""

Body = dict[str, Any]


def say(words: str) -> None:
    """Prints a line: what the parts of a test print is not wanted here."""
    print(words, file=sys.__stdout__, flush=True)


class Program:
    """A process of a Python module, with its output in a file."""

    def __init__(self, log: Path, arguments: Sequence[str], env: dict[str, str]) -> None:
        with log.open("ab") as stream:
            command = [sys.executable, "-m", *arguments]
            self._process = subprocess.Popen(command, stdout=stream, stderr=stream, env=env)
        self.pid = self._process.pid

    def poll(self) -> int | None:
        """Returns its exit status, None while it runs."""
        return self._process.poll()

    def kill(self) -> None:
        """Ends it as a crash would."""
        self._process.kill()
        self._process.wait()

    def stop(self) -> int:
        """Asks it to end, insists after a while, and returns its exit status."""
        self._process.terminate()
        try:
            return self._process.wait(60)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal."""
        self._process.send_signal(number)


class Controller(Operator):
    """The controller with the limits that a release has, but for `ALLOWED` and its settings."""

    def __init__(
        self,
        folder: Path,
        kubeconfig: Path,
        provider_url: str,
        settings: Mapping[str, str],
        name: str = "operator",
    ) -> None:
        super().__init__(folder, kubeconfig, provider_url, name)
        for name in LIMITS:
            if f"GPUJOB_{name}" not in settings:
                del self._environment[f"GPUJOB_{name}"]
        self._environment |= ALLOWED | dict(settings)

    def launch(self, **changes: str) -> None:
        """Starts it as a program of its own, so that its memory is its own, too."""
        env = self._environment | changes
        self._process = Program(self._log, ["gpujob"], env)  # type: ignore[assignment]

    @property
    def pid(self) -> int:
        """Number of its process."""
        assert self._process is not None, "it was started"
        return self._process.pid

    @property
    def limits(self) -> dict[str, str]:
        """The limits that are not a release's."""
        return {
            name.removeprefix("GPUJOB_").lower(): value
            for name, value in self._environment.items()
            if name.startswith("GPUJOB_") and ("SECONDS" in name or name in ALLOWED)
        }


class LargeSimulator(Simulator):
    """The simulator with machines in name only."""

    def __init__(self, folder: Path, offers: int, threshold_scale: float) -> None:
        super().__init__(folder)
        self._arguments = ["--offers", str(offers), "--threshold-scale", str(threshold_scale)]

    def start(self, *, list_lag_seconds: float = 0.4) -> None:
        """Starts it."""
        del list_lag_seconds
        command = ["loadbench.market", "--port", str(self._port), *self._arguments]
        env = environment(VASTSIM_API_KEY=KEY)
        started = Program(self._folder / "simulator.log", command, env)
        self._process = started  # type: ignore[assignment]
        eventually("the simulator listens", self._listens)


@dataclass
class Stage:
    """What runs, and what it is measured by."""

    plane: ControlPlane
    kubectl: Kubectl
    market: LargeSimulator
    controller: Controller
    namespace: str
    folder: Path
    audit: Log
    operators: Path
    """A kubeconfig with the operator's rights."""
    pods: Program | None = None
    _token: str = ""
    _clients: threading.local = field(default_factory=threading.local)

    @property
    def seen(self) -> Path:
        """File with the pods that the kubelet has seen."""
        return self.folder / "pods.jsonl"

    def pods_seen(self) -> dict[str, float]:
        """Returns when the kubelet saw the first pod of each job."""
        return {one["job"]: one["at"] for one in reversed(lines(self.seen)) if "job" in one}

    def pods_started(self) -> int:
        """Returns how many pods the kubelet has started."""
        return sum("started" in one for one in lines(self.seen))

    def play(self, run_seconds: float, *, go: bool = True) -> None:
        """Starts the kubelet and its drivers, whose workloads run for so long.

        It watches pods, and starts them once it is let `go`.
        """
        if go:
            self.let_go()
        arguments = ["--kubeconfig", str(self.plane.kubeconfig), "--seen", str(self.seen)]
        arguments += ["--go", str(self.folder / "go")]
        command = ["loadbench.pods", *arguments, "--run-seconds", str(run_seconds)]
        self.pods = Program(self.folder / "pods.log", command, environment())

    def let_go(self) -> None:
        """Lets the kubelet start pods."""
        (self.folder / "go").touch()

    def start(self, **settings: str) -> None:
        """Starts the controller and waits until it leads and is ready to rent."""
        self.controller.start(**settings)
        eventually(
            "the controller leads and is ready",
            lambda: self.metrics()["gpujob_leads"] and self.controller.probe("readyz")[0] == 200,
            PATIENCE_SECONDS,
        )

    def client(self, *, operator: bool = False) -> Client:
        """Returns this thread's client: the administrator's, or one with the operator's rights."""
        name = "operator" if operator else "admin"
        if not hasattr(self._clients, name):
            config = self.operators if operator else self.plane.kubeconfig
            setattr(self._clients, name, Client(config))
        found: Client = getattr(self._clients, name)
        return found

    def post(self, kind: str, body: Body, *, operator: bool = False) -> Body:
        """Creates an object, and returns it."""
        path = path_of(kind, "", self.namespace).rstrip("/")
        code, answer = self.client(operator=operator).send("POST", path, body)
        assert code == 201, answer
        return answer

    def many(self, work: Callable[[int], None], numbers: Sequence[int]) -> None:
        """Does something once for each of these numbers, from several threads."""
        with ThreadPoolExecutor(WRITERS) as pool:
            for _ in pool.map(work, numbers):
                pass

    def metrics(self) -> dict[str, float]:
        """Returns the controller's metrics, by name and lane."""
        system = ("-n", "gpujob-system")
        if not self._token:
            if self.kubectl.run("get", "serviceaccount", "scraper", *system).returncode != 0:
                may = ("--verb=get", "--non-resource-url=/metrics")
                who = "--serviceaccount=gpujob-system:scraper"
                self.kubectl("create", "serviceaccount", "scraper", *system)
                self.kubectl("create", "clusterrole", "scraper", *may)
                self.kubectl(
                    "create", "clusterrolebinding", "scraper", "--clusterrole=scraper", who
                )
            self._token = self.kubectl("create", "token", "scraper", *system).strip()
        # While the API server is slow, it does not say in time who may read them.
        told: str = eventually(
            "the controller tells its metrics",
            self._metrics,
            PATIENCE_SECONDS,
        )
        return {
            f"{name} {labels.get('lane', '')}".strip(): value
            for family in text_string_to_metric_families(told)
            for name, labels, value, *_ in family.samples
        }

    def _metrics(self) -> str:
        status, told = self.controller.probe("metrics", self._token)
        return told if status == 200 else ""

    def cpu(self) -> float:
        """Returns the processor seconds that the controller has used."""
        return cpu_seconds(self.controller.pid)

    def plane_cpu(self) -> float:
        """Returns the processor seconds that the API server and etcd have used."""
        pids = self.plane.pids
        return sum(cpu_seconds(pids[name]) for name in ("etcd", "kube-apiserver"))

    def rss(self) -> float:
        """Returns the resident memory of the controller in MiB."""
        return memory(self.controller.pid, "VmRSS")


@contextmanager
def stage(
    folder: Path,
    *,
    offers: int,
    audit: Audit = Audit.REQUESTS,
    threshold_scale: float = 0.0,
    settings: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[Stage]:
    """A control plane, a market and a namespace; controller and pods are not started."""
    with control_plane(folder / "plane", audit) as plane:
        market = LargeSimulator(folder, offers, threshold_scale)
        market.start()
        kubectl = Kubectl(plane, plane.kubeconfig)
        config = operators_config(plane, folder / "operator.kubeconfig")
        controller = Controller(folder, config, market.url, settings)
        try:
            made = Stage(
                plane=plane,
                kubectl=kubectl,
                market=market,
                controller=controller,
                namespace=_namespace(kubectl),
                folder=folder,
                audit=Log(plane.audit_log),
                operators=config,
            )
            try:
                yield made
            finally:
                # The control plane goes as a whole: nothing in it has to be let go.
                if made.pods is not None:
                    made.pods.kill()
                if controller.runs:
                    controller.kill()
        finally:
            market.stop()


def _namespace(kubectl: Kubectl) -> str:
    """Makes a namespace that enforces the restricted profile; returns its name."""
    name = "bench"
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    space = {"metadata": {"name": name, "labels": labels}}
    code, answer = kubectl.client.send("POST", "/api/v1/namespaces", space)
    assert code == 201, answer
    eventually("an account for pods", lambda: kubectl.get("serviceaccount", "default", name))
    return name


def a_job(name: str, **spec: Any) -> Body:
    """A job that can be rented, changed by keyword."""
    wanted = {
        "image": "python:3.11",
        "command": ["sleep", "600"],
        "activeDeadlineSeconds": 20_000,
        "gpu": {"models": ["RTX 4090"]},
        "data": {"maxDownloadGB": 1, "maxUploadGB": 1},
        "cost": {"ceiling": "50.00"},
    }
    return {
        "apiVersion": "gpujob.dev/v1alpha1",
        "kind": "GpuJob",
        "metadata": {"name": name},
        "spec": wanted | spec,
    }


def machine() -> Body:
    """Returns on what this was measured, and from which tree."""
    root = Path(__file__).parents[2]

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True)
        return done.stdout.strip()

    return {
        "commit": git("rev-parse", "--short", "HEAD"),
        "changed": bool(git("status", "--porcelain", "--untracked-files=no")),
        "cpus": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 1),
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def lines(path: Path) -> list[Body]:
    """Returns the objects of a file of lines of JSON."""
    if not path.exists():
        return []
    whole = path.read_text().rpartition("\n")[0]
    return [json.loads(line) for line in whole.splitlines()]
