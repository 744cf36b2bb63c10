"""The parts of an integration test: real processes, and what stands in for the kubelet.

The control plane is real etcd, kube-apiserver and controller manager, with RBAC; the operator and
the simulator are real processes. There is no node, so `PodRunner` does what a kubelet would for
driver pods: it runs the driver as a process with the pod's environment, key and bound token.
"""

import base64
import json
import os
import signal
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from tests.integration.client import Client, NoAnswer, Watch, connect, path_of
from tests.integration.loaded import Loader
from tests.kubelet import variables

from localcluster.control_plane import ControlPlane, free_port
from localcluster.project_images import machine_root

ROOT = Path(__file__).resolve().parents[2]
KEY = "canary-4f1d6c0b9a8e7d6c5b4a39281706f5e4"
AUDIENCE = "gpujob.dev/transport"
DRIVER_IMAGE = "localhost/gpujob-driver:dev"


def unsigned(audience: str) -> str:
    """Returns a token that claims to be for somebody, which only a review finds to be untrue."""
    claims = base64.urlsafe_b64encode(json.dumps({"aud": [audience]}).encode()).decode()
    return f"e30.{claims.rstrip('=')}.c2ln"


PATIENCE_SECONDS = 240.0
"""How long a state is waited for; only a broken one takes so long."""
LOOK_SECONDS = (0.05, 1.0)
"""So often it is looked for at first, and at last.

Each look is work for the API server, of all workers at once; most states come at once or late.
"""

LIMITS = {
    "LIST_LAG_SECONDS": "1",
    "POLL_SECONDS": "0.5",
    "SWEEP_SECONDS": "2",
    "BOOT_CAP_SECONDS": "60",
    "DESTROY_LAG_CAP_SECONDS": "30",
    "DRAIN_SECONDS": "6",
    "SILENCE_MIN_SECONDS": "3",
    "DISK_WRITE_MBPS_MIN": "0",
    "RETRY_BACKOFF_SECONDS": "0.2",
    "GATE_RETRY_SECONDS": "0.5",
    "QUOTE_AGE_SECONDS": "20",
    "RENT_TIMEOUT_SECONDS": "3",
    "STATUS_SECONDS": "5",
    "WORDS_SECONDS": "0.5",
    "REQUEST_SPACING": "0",
    "LOCK_RETRY_SECONDS": "2",
    "CLUSTER_CHECK_SECONDS": "3",
}
LAG_CAP_SECONDS = 30

Object = dict[str, Any]


def eventually(
    what: str, look: Callable[[], Any], patience_seconds: float = PATIENCE_SECONDS
) -> Any:
    """Looks until something true is seen and returns it; fails naming what was awaited."""
    began = time.monotonic()
    seen: Any = None
    while (waited := time.monotonic() - began) < patience_seconds:
        try:
            if seen := look():
                return seen
        except NoAnswer as error:
            seen = error
        first, last = LOOK_SECONDS
        time.sleep(min(max(first, waited / 10), last))
    raise AssertionError(f"not seen within {patience_seconds:.0f} s: {what}; last: {seen}")


class Kubectl:
    """kubectl with some kubeconfig."""

    def __init__(self, plane: ControlPlane, kubeconfig: Path) -> None:
        self._program = str(plane.bin / "kubectl")
        self.kubeconfig = kubeconfig
        self._home = kubeconfig.parent / "kubectl-cache"
        self.client = Client(kubeconfig)

    def run(self, *arguments: str, text: str = "") -> "subprocess.CompletedProcess[str]":
        """Runs it, whatever comes of it."""
        return subprocess.run(
            [self._program, f"--kubeconfig={self.kubeconfig}", *arguments],
            input=text,
            capture_output=True,
            text=True,
            env=os.environ | {"KUBECACHEDIR": str(self._home)},
        )

    def __call__(self, *arguments: str, text: str = "") -> str:
        """Runs it and returns its output; fails with its error."""
        done = self.run(*arguments, text=text)
        assert done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stderr}"
        return done.stdout

    def get(self, kind: str, name: str, namespace: str) -> Object | None:
        """Returns an object, None if there is none or no answer."""
        return self.client.get(kind, name, namespace)

    def items(self, kinds: str, *where: str) -> list[Object]:
        """Returns objects; `where` is `-A` or `-n` and a namespace, and perhaps `-l` and labels."""
        given = dict(zip(where[::2], where[1::2], strict=True)) if where != ("-A",) else {}
        return self.client.items(kinds, given.get("-n", ""), given.get("-l", ""))

    def apply(self, manifest: Object) -> None:
        """Applies an object."""
        self("apply", "-f", "-", text=json.dumps(manifest))


def operators_config(
    plane: ControlPlane, path: Path, server: str = "", account: str = "gpujob"
) -> Path:
    """Writes a kubeconfig with the rights of a service account of the chart, and no others."""
    token = Client(plane.kubeconfig).token(account, "gpujob-system")
    config = yaml.safe_load(plane.kubeconfig.read_text())
    config["users"][0]["user"] = {"token": token}
    if server:
        config["clusters"][0]["cluster"] = {"server": server}
    path.touch(mode=0o600)
    path.write_text(yaml.safe_dump(config))
    return path


def authorities(kubectl: Kubectl) -> str:
    """Waits until the controller has said by which authorities it is known; returns them as PEM."""

    def look() -> str:
        found = kubectl.get("configmap", "gpujob-transport-ca", "gpujob-system") or {}
        return str(found.get("data", {}).get("ca.crt", ""))

    told: str = eventually("the controller has authorities", look)
    return told


class DryRuns:
    """Asks the API server what it would say to objects of ours; nothing is stored.

    One connection, for one thread.
    """

    def __init__(self, plane: ControlPlane) -> None:
        self._connection, self._headers = connect(plane.kubeconfig)

    def refusals(self, manifest: Object, *, validation: str = "Strict") -> list[str]:
        """Returns what it holds against an object."""
        path = path_of(f"{manifest['kind'].lower()}s", "", "default").rstrip("/")
        headers = {"Content-Type": "application/json"} | self._headers
        query = f"?dryRun=All&fieldValidation={validation}"
        self._connection.request("POST", path + query, json.dumps(manifest), headers)
        with self._connection.getresponse() as response:
            answer = json.loads(response.read())
        if response.status == 201:
            return []
        causes = answer.get("details", {}).get("causes") or [answer]
        return [f"{one.get('field', '')}: {one['message']}" for one in causes]

    def close(self) -> None:
        """Ends the connection."""
        self._connection.close()


class Process:
    """A process of ours with its log in a file: a run of a program, as `python -m PROGRAM`."""

    def __init__(
        self, log: Path, program: list[str], env: dict[str, str], errors: Path | None = None
    ) -> None:
        """What it says of errors goes to the log, too, unless there is another file for it."""
        self.log = log
        self._loader = Loader.of(program)
        run = {"module": program[0], "arguments": program[1:], "env": env}
        run |= {"out": str(log), "err": str(errors or log), "folder": str(log.parent)}
        for path in (log, errors or log):
            path.touch()
        self.pid = int(self._loader.ask(start=run)["pid"])
        self._code: int | None = None

    def poll(self) -> int | None:
        """Returns its exit status, None while it runs."""
        if self._code is None:
            self._code = self._loader.ask(status=self.pid)["code"]
        return self._code

    def kill(self) -> None:
        """Ends it as a crash would."""
        self.signal(signal.SIGKILL)
        eventually("it is killed", lambda: self.poll() is not None)

    def stop(self) -> int:
        """Asks it to end, insists after a while, and returns its exit status."""
        self.signal(signal.SIGTERM)
        try:
            eventually("it ends", lambda: self.poll() is not None, 120)
        except AssertionError:
            self.kill()
            raise
        assert self._code is not None, "it has ended"
        return self._code

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal, if it still runs."""
        if self.poll() is None:
            os.kill(self.pid, number)


def environment(**more: str) -> dict[str, str]:
    """Returns the environment of a process of ours: nothing of the test's own but the paths."""
    paths = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    return paths | {"HOME": "/nonexistent", "LANG": "C.UTF-8"} | more


class Simulator:
    """The Vast.ai simulator as a process."""

    def __init__(self, folder: Path, share: Path | None = None) -> None:
        """Its machines see a folder of the test's under the same path, by default its own."""
        self._folder = folder
        self._share = share or folder
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self._process: Process | None = None
        self._strangers: set[int] = set()
        self._earlier_leases = self._earlier_requests = 0

    def start(self, *, list_lag_seconds: float = 0.4) -> None:
        """Starts it with a fresh market, on its old port."""
        command = ["vastsim", "--port", str(self._port), "--seed", "1"]
        command += ["--boot-seconds", "0.3", "0.6", "--list-lag-seconds", str(list_lag_seconds)]
        command += ["--record-lag-seconds", "0.5", "--record", str(self._folder / "record")]
        command += ["--threshold-scale", "0"]
        command += ["--root", str(machine_root()), "--share", str(self._share)]
        self._strangers, self._earlier_leases, self._earlier_requests = set(), 0, 0
        log = self._folder / "simulator.log"
        self._process = Process(
            log, command, environment(VASTSIM_API_KEY=KEY, TMPDIR=str(self._folder))
        )
        eventually("the simulator listens", self._listens)

    def stop(self) -> None:
        """Ends it."""
        if self._process is not None:
            self._process.stop()

    def faults(self, **wanted: Object) -> None:
        """Asks for faults, in place of those asked for before."""
        self.ask("PUT", "faults", wanted)

    def turn_the_page(self) -> None:
        """From now on shows only leases and requests that come from now on."""
        self._earlier_leases += len(self._everything())
        self._earlier_requests += len(self.requests())

    def ledger(self) -> list[Object]:
        """Returns every lease since the page was turned, but for strangers'."""
        return [one for one in self._everything() if one["id"] not in self._strangers]

    def _everything(self) -> list[Object]:
        # Many look often, and the earlier ones become many.
        leases: list[Object] = self.ask("GET", f"ledger?skip={self._earlier_leases}")["leases"]
        return leases

    def admit_strangers(self, *labels: str) -> None:
        """Rents machines as somebody else would, with these labels; they load for ever."""
        self.faults(slow_boot={"count": -1, "seconds": 1e9})
        self._strangers |= {self.rent_by_hand(label) for label in labels}
        self.faults()

    def touched(self) -> set[int]:
        """Returns the strangers' machines that somebody has asked something of, or that changed."""
        paths = {one["path"] for one in self.requests()}
        asked = {one for one in self._strangers if f"/api/v0/instances/{one}/" in paths}
        loading = {one["id"] for one in self._everything() if one["state"] == "loading"}
        return asked | (self._strangers - loading)

    def of(self, job: Object) -> list[Object]:
        """Returns the leases of a job."""
        uid = job["metadata"]["uid"]
        return [lease for lease in self.ledger() if (lease["label"] or "").endswith(f"/{uid}")]

    def living(self) -> list[Object]:
        """Returns the leases that are not destroyed."""
        return [lease for lease in self.ledger() if lease["state"] != "destroyed"]

    def requests(self) -> list[Object]:
        """Returns every request that came since the page was turned."""
        path = f"requests?skip={self._earlier_requests}"
        found: list[Object] = self.ask("GET", path)["requests"]
        return found

    def sent(self) -> list[Object]:
        """Returns all that was ever sent, with headers and bodies (vastsim/record.py)."""
        return [json.loads(line) for line in (self._folder / "record").read_text().splitlines()]

    def rents(self) -> int:
        """Returns how many rent requests came."""
        return sum(one["method"] == "PUT" and "/asks/" in one["path"] for one in self.requests())

    def rent_by_hand(self, label: str) -> int:
        """Rents the cheapest offer as somebody else would, and returns its number."""
        query = {"order": [["dph_total", "asc"]], "limit": 1, "verified": {"in": [True, False]}}
        (offer,) = self.ask("POST", "/api/v0/bundles/", query)["offers"]
        body = {"image": "x", "disk": 10, "label": label}
        answer = self.ask("PUT", f"/api/v0/asks/{offer['id']}/", body)
        return int(answer["new_contract"])

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self._port)) == 0

    def ask(self, method: str, path: str, body: Object | None = None, *, key: str = KEY) -> Object:
        """Asks a control, or from `/` on the provider's API, and returns the answer."""
        address = self.url + (path if path.startswith("/") else f"/sim/{path}")
        request = urllib.request.Request(
            address,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json", "Authorization": f"Bearer {key}"},
        )
        with urllib.request.urlopen(request, timeout=20) as answer:
            found: Object = json.loads(answer.read())
            return found


class AdmissionServer:
    """The server as a process, with the rights of its chart."""

    def __init__(
        self, folder: Path, kubeconfig: Path, name: str = "server", **settings: str
    ) -> None:
        self._log = folder / f"{name}.log"
        self.port, self.probes_port = free_port(), free_port()
        self._environment = environment(
            KUBECONFIG=str(kubeconfig),
            GPUJOB_NAMESPACE="gpujob-system",
            GPUJOB_ADMISSION_PORT=str(self.port),
            GPUJOB_PROBES_PORT=str(self.probes_port),
            GPUJOB_LISTEN_HOST="127.0.0.1",
            # Late enough for a certificate that is used too early to be noticed.
            **{"GPUJOB_LOOK_SECONDS": "1.5"} | settings,
        )
        self._process: Process | None = None

    @property
    def log(self) -> str:
        """Everything that it has logged."""
        return self._log.read_text() if self._log.exists() else ""

    def start(self) -> None:
        """Starts it and waits until it is ready."""
        self._process = Process(self._log, ["gpujob", "server"], self._environment)
        eventually("the server is ready", self._is_ready)

    def stop(self) -> int:
        """Ends it in good order and returns its exit status."""
        assert self._process is not None, "it was started"
        return self._process.stop()

    @property
    def pid(self) -> int:
        """The number of its process."""
        assert self._process is not None, "it was started"
        return self._process.pid

    @property
    def runs(self) -> bool:
        """Whether it still runs."""
        return self._process is not None and self._process.poll() is None

    def _is_ready(self) -> bool:
        try:
            url = f"http://127.0.0.1:{self.probes_port}/readyz"
            with urllib.request.urlopen(url, timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


class Operator:
    """The controller as a process, with the rights of its chart."""

    def __init__(
        self,
        folder: Path,
        kubeconfig: Path,
        provider_url: str,
        name: str = "operator",
        **settings: str,
    ) -> None:
        self._log = folder / f"{name}.log"
        self.kubeconfig = kubeconfig
        self.transport_port, self.probes_port = free_port(), free_port()
        self.transport_url = f"https://127.0.0.1:{self.transport_port}"
        self._environment = environment(
            VAST_API_KEY=KEY,
            KUBECONFIG=str(kubeconfig),
            # As some platforms set them in every pod: nobody is there, and nobody may be asked.
            HTTP_PROXY="http://127.0.0.1:9",
            HTTPS_PROXY="http://127.0.0.1:9",
            NO_PROXY="10.0.0.0/8,127.0.0.0/8",
            GPUJOB_PROVIDER_URL=provider_url,
            GPUJOB_TRANSPORT_URL=self.transport_url,
            GPUJOB_TRANSPORT_PORT=str(self.transport_port),
            GPUJOB_PROBES_PORT=str(self.probes_port),
            GPUJOB_LISTEN_HOST="127.0.0.1",
            GPUJOB_NAMESPACE="gpujob-system",
            GPUJOB_POD_NAME=name,
            # No API server takes a loopback address for an endpoint; nobody connects to this one.
            GPUJOB_POD_IPS="192.0.2.1",
            GPUJOB_DRIVER_IMAGE=DRIVER_IMAGE,
            **{f"GPUJOB_{name}": value for name, value in LIMITS.items()},
        )
        self._environment |= settings
        self._process: Process | None = None

    @property
    def environment(self) -> dict[str, str]:
        """What it is started with."""
        return dict(self._environment)

    @property
    def log(self) -> str:
        """Everything that it has logged."""
        return self._log.read_text() if self._log.exists() else ""

    def start(self, **changes: str) -> None:
        """Starts it and waits until it lives."""
        self.launch(**changes)
        eventually("the operator lives", lambda: self.probe("healthz")[0] == 200)

    def launch(self, **changes: str) -> None:
        """Starts it; whether it lives is another question."""
        self._process = Process(self._log, ["gpujob"], self._environment | changes)

    def kill(self) -> None:
        """Ends it as a crash would."""
        assert self._process is not None, "it was started"
        self._process.kill()

    def stop(self) -> int:
        """Ends it in good order and returns its exit status."""
        assert self._process is not None, "it was started"
        return self._process.stop()

    @property
    def pid(self) -> int:
        """The number of its process."""
        assert self._process is not None, "it was started"
        return self._process.pid

    @property
    def runs(self) -> bool:
        """Whether it still runs."""
        return self._process is not None and self._process.poll() is None

    def probe(self, path: str, token: str = "") -> tuple[int, str]:
        """Asks a probe and returns status and text; 0 if nothing answers."""
        try:
            url = f"http://127.0.0.1:{self.probes_port}/{path}"
            headers = {"Authorization": f"Bearer {token}"} if token else {}
            request = urllib.request.Request(url, headers=headers)
            with urllib.request.urlopen(request, timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return 0, ""


class Front:
    """What kube-proxy is in a cluster: leads each new connection to the Service's one endpoint."""

    def __init__(self, kubectl: Kubectl) -> None:
        self._kubectl = kubectl
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"https://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def port(self) -> int | None:
        """Returns the leader's port by the EndpointSlice, None if there is none."""
        found = self._kubectl.get("endpointslice", "gpujob-ipv4", "gpujob-system")
        return int(found["ports"][0]["port"]) if found else None

    def close(self) -> None:
        """Takes no more connections."""
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                caller, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._lead, args=(caller,), daemon=True).start()

    def _lead(self, caller: socket.socket) -> None:
        port = self.port()
        with caller, suppress(OSError):
            if port is None:
                return
            with socket.create_connection(("127.0.0.1", port), timeout=5) as leader:
                back = threading.Thread(target=_pipe, args=(leader, caller), daemon=True)
                back.start()
                _pipe(caller, leader)
                back.join()


def _pipe(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_RDWR)


SHORT_LOCK = {
    "GPUJOB_LOCK_DURATION_SECONDS": "6",
    "GPUJOB_LOCK_RENEW_DEADLINE_SECONDS": "5",
    "GPUJOB_LOCK_RETRY_SECONDS": "0.5",
    "GPUJOB_RENT_NOT_AFTER_SECONDS": "1",
}
"""Whoever has it loses it on a busy machine, and is to be started again."""
LONE_LOCK = SHORT_LOCK | {
    "GPUJOB_LOCK_DURATION_SECONDS": "12",
    "GPUJOB_LOCK_RENEW_DEADLINE_SECONDS": "11",
}
"""Of an operator that nobody starts again."""


class Replicas:
    """Several of the controller's processes behind their Service."""

    def __init__(self, kubectl: Kubectl, operators: dict[str, Operator]) -> None:
        self._kubectl = kubectl
        self._front = Front(kubectl)
        self._stopped = threading.Event()
        self._keeper: threading.Thread | None = None
        self.all = operators
        self.changes = {"GPUJOB_TRANSPORT_URL": self._front.url}
        """Of their environment, from their next start on."""

    def start(self, **changes: str) -> None:
        """Starts those that do not run."""
        self.changes |= changes
        for replica in self.all.values():
            if not replica.runs:
                replica.start(**self.changes)

    def keep(self, **changes: str) -> None:
        """Starts all, and from now on each that has ended, as a Deployment would."""

        def run() -> None:
            while not self._stopped.wait(0.2):
                for replica in self.all.values():
                    if not replica.runs:
                        replica.launch(**self.changes)

        self.start(**changes)
        self._keeper = threading.Thread(target=run, daemon=True)
        self._keeper.start()

    def let_go(self) -> None:
        """Starts none any more."""
        self._stopped.set()
        if self._keeper is not None:
            self._keeper.join()

    def close(self) -> None:
        """Ends all."""
        self.let_go()
        for replica in self.all.values():
            if replica.runs:
                replica.stop()
        self._front.close()

    def record(self) -> Object:
        """Returns the leader lock's record."""
        found = self._kubectl.get("lease", "gpujob", "gpujob-system")
        return found["spec"] if found else {}

    def leader(self) -> str:
        """Returns the name of the one that leads; empty if none does."""
        name: str = self.record().get("holderIdentity", "").partition("_")[0]
        return name

    def await_leader(self, *names: str) -> str:
        """Waits until one of these leads and drivers are led to it; returns its name."""
        wanted = names or tuple(self.all)

        def look() -> str | None:
            name = self.leader()
            if name not in wanted:
                return None
            return name if self._front.port() == self.all[name].transport_port else None

        found: str = eventually(f"{' or '.join(wanted)} leads", look)
        return found


def _runs(pod: Object) -> bool:
    """Whether a pod's driver runs, as far as its status says."""
    status = pod["status"]
    return status["phase"] == "Running" and "containerStatuses" not in status


class PodRunner:
    """Runs driver pods as processes, as a kubelet would run them as containers."""

    def __init__(self, kubectl: Kubectl, folder: Path) -> None:
        self._kubectl = kubectl
        self._folder = folder
        self._drivers: dict[str, Process] = {}
        self._names: dict[str, tuple[str, str]] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._pods = Watch(kubectl.kubeconfig, "pods", "app.kubernetes.io/component=driver")
        self._lost: set[str] = set()
        self.are_held = threading.Event()
        """Set = no further pod starts."""
        self.namespace = ""
        """Whose logs are shown; empty = those of all."""

    def start(self) -> None:
        """Begins to look for pods."""
        self._pods.start()
        self._thread.start()

    def stop(self) -> None:
        """Ends all drivers."""
        self._stop.set()
        self._pods.stop()
        self._thread.join(timeout=30)
        for driver in self._drivers.values():
            if driver.poll() is None:
                driver.kill()

    def cut_off(self, pod_name: str) -> None:
        """The node of a pod dies: its driver is gone, and nobody says so."""
        (uid,) = (
            uid
            for uid, (namespace, name) in self._names.items()
            if name == pod_name and self.namespace in ("", namespace)
        )
        driver = self._drivers[uid]
        self._lost.add(uid)
        driver.kill()

    def files(self, name: str) -> list[Path]:
        """Returns the files of this name that the shown pods have been given."""
        shown = [uid for uid, (at, _) in self._names.items() if self.namespace in ("", at)]
        return [self._folder / uid / name for uid in shown]

    def log(self, pod_name: str) -> str:
        """Returns what the driver of a pod of this name and its successors have printed, one after
        the other."""
        texts = [
            (self._folder / uid / "log").read_text()
            for uid, (namespace, name) in self._names.items()
            if (name == pod_name or name.startswith(f"{pod_name}-"))
            and self.namespace in ("", namespace)
        ]
        return "".join(texts)

    def logs(self) -> str:
        """Returns what all drivers have printed, for people."""
        shown = [one for one in self._names.values() if self.namespace in ("", one[0])]
        names = sorted({name for _, name in shown})
        return "".join(f"{name}:\n{self.log(name)}" for name in names)

    def _run(self) -> None:
        while not self._stop.is_set():
            # A driver that ends makes no news.
            self._pods.wait(0.5)
            pods = self._pods.objects
            if pods is None:
                continue
            for uid, pod in pods.items():
                is_new = uid not in self._drivers and "deletionTimestamp" not in pod["metadata"]
                if is_new and not self.are_held.is_set():
                    self._start(uid, pod)
            for uid, driver in self._drivers.items():
                pod_or_none = pods.get(uid)
                if driver.poll() is None:
                    if pod_or_none is None or "deletionTimestamp" in pod_or_none["metadata"]:
                        driver.kill()
                elif pod_or_none is not None and _runs(pod_or_none) and uid not in self._lost:
                    self._report_end(uid, pod_or_none, driver.poll() or 0)

    def _start(self, uid: str, pod: Object) -> None:
        meta = pod["metadata"]
        namespace, name = meta["namespace"], meta["name"]
        (key_name,) = (
            volume["secret"]["secretName"]
            for volume in pod["spec"]["volumes"]
            if volume["name"] == "ssh"
        )
        secret = self._kubectl.get("secret", key_name, namespace)
        account = path_of("serviceaccounts", "default", namespace)
        bound = {"apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid}
        asked = {"spec": {"audiences": [AUDIENCE], "boundObjectRef": bound}}
        status, token = self._kubectl.client.send("POST", f"{account}/token", asked)
        if secret is None or status != 201:
            return
        folder = self._folder / uid
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "token").write_text(token["status"]["token"])
        key = folder / "key"
        key.touch(mode=0o600)
        key.write_bytes(base64.b64decode(secret["data"]["id_ed25519"]))
        (container,) = (one for one in pod["spec"]["containers"] if one["name"] == "driver")
        given = variables(container) | {
            "GPUJOB_TOKEN_FILE": str(folder / "token"),
            "GPUJOB_SSH_KEY_FILE": str(key),
            "GPUJOB_STATE_DIR": str(folder),
            "GPUJOB_TERMINATION_LOG": str(folder / "termination"),
            "GPUJOB_SYNC_SECONDS": "0.5",
        }
        if not self._mount(pod, given):
            return
        self._drivers[uid] = Process(folder / "log", ["gpujob", "driver"], environment(**given))
        # Only now, since others read the logs of all that have a name; and they do so meanwhile.
        self._names = {**self._names, uid: (namespace, name)}
        self.tell(namespace, name, {"phase": "Running"})

    def _mount(self, pod: Object, given: dict[str, str]) -> bool:
        """Mounts the Secret for the image's registry, if the pod has one; else it has to wait."""
        (name, *_) = (
            *(
                volume["secret"]["secretName"]
                for volume in pod["spec"]["volumes"]
                if volume["name"] == "registry"
            ),
            "",
        )
        if not name:
            return True
        found = self._kubectl.get("secret", name, pod["metadata"]["namespace"])
        if found is None:
            return False
        folder = self._folder / pod["metadata"]["uid"] / "registry"
        folder.mkdir(exist_ok=True)
        for key, value in (found.get("data") or {}).items():
            (folder / key).write_bytes(base64.b64decode(value))
        given["GPUJOB_PULL_SECRET"] = str(folder)
        return True

    def _report_end(self, uid: str, pod: Object, code: int) -> None:
        termination = self._folder / uid / "termination"
        message = termination.read_text() if termination.exists() else ""
        ended = {"terminated": {"exitCode": code, "message": message}}
        running = {"running": {"startedAt": pod["metadata"]["creationTimestamp"]}}
        # What an injector has put beside the driver goes on; the kubelet orders them by name.
        containers = [
            {
                "name": one["name"],
                "image": one["image"],
                "imageID": "",
                "ready": False,
                "restartCount": 0,
                "state": ended if one["name"] == "driver" else running,
            }
            for one in sorted(pod["spec"]["containers"], key=lambda one: str(one["name"]))
        ]
        phase = "Succeeded" if code == 0 else "Failed"
        if len(containers) > 1:
            phase = "Running"
        self.tell(*self._names[uid], {"phase": phase, "containerStatuses": containers})

    def tell(self, namespace: str, name: str, status: Object) -> None:
        """Says as a kubelet what has become of a pod."""
        path = f"{path_of('pods', name, namespace)}/status"
        merge = "application/merge-patch+json"
        self._kubectl.client.send("PATCH", path, {"status": status}, merge)
