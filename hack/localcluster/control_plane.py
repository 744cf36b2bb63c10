"""etcd, kube-apiserver and kube-controller-manager on the loopback, for integration tests.

Admission, RBAC and garbage collection are real. There is no node, so no pod ever runs.
"""

import json
import os
import secrets
import shutil
import socket
import ssl
import urllib.request
from contextlib import suppress
from enum import Enum
from pathlib import Path
from types import TracebackType
from typing import Self

from localcluster import binaries
from localcluster.patience import wait_for
from localcluster.pki import Authority
from localcluster.processes import Processes

READY_SECONDS = 120.0
FIRST_PORT = 10_240
WORKERS = 16
"""At most so many workers of a test run have ports that no other one is given."""
OF_A_LANE = 8
"""So many of them are for each of the two parts with workers that run at once (`GPUJOB_LANE`)."""
OF_DRIVERS = range(20_000, 20_100)
"""Without networks of their own all drivers listen on these (`gpujob.core.machine.ports`)."""
GIVEN: set[int] = set()
SERVICES = "10.0.0.0/24"
CONTROLLERS = (
    "clusterrole-aggregation-controller",
    "garbage-collector-controller",
    "namespace-controller",
    "resourcequota-controller",
    "root-ca-certificate-publisher-controller",
    "serviceaccount-controller",
    "validatingadmissionpolicy-status-controller",
)
"""Those that have something to do where no pod runs: the rest would only watch."""
CONTROLLER = "system:serviceaccount:gpujob-system:gpujob"


class Audit(Enum):
    """What of the controller's requests the API server notes in its audit log."""

    REQUESTS = "Metadata"
    BODIES = "RequestResponse"
    """With what each write has made of its object."""


def free_port() -> int:
    """Returns a port of the loopback that is free and that no outgoing connection will take.

    The kernel takes the ports of outgoing connections from a certain range, which is avoided here.
    Otherwise a server that restarts could find its port taken, even by a client that tries to
    connect to that port. Nor is any port returned twice, by this process or by another worker of
    the same test run: a server that has ended may restart on it. What runs without workers, beside
    them, has a share of its own.
    """
    range_of_clients = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()
    above = max(int(range_of_clients[0]), 2 * FIRST_PORT)
    name = os.environ.get("PYTEST_XDIST_WORKER", f"gw{WORKERS - 1}")
    lane = int(os.environ.get("GPUJOB_LANE", "0"))
    worker = (int(name.removeprefix("gw")) + lane * OF_A_LANE) % WORKERS
    share = range(FIRST_PORT + worker, above, WORKERS)
    while True:
        # Not by `random`: pytest-randomly gives it the same seed before each test.
        port = share[secrets.randbelow(len(share))]
        with socket.socket() as listener, suppress(OSError):
            listener.bind(("127.0.0.1", port))
            if port not in GIVEN and port not in OF_DRIVERS:
                GIVEN.add(port)
                return port


class ControlPlane:
    """A control plane with its state in a folder; as a context manager it removes both."""

    def __init__(self, state: Path, *, quiet: bool = False, audit: Audit | None = None) -> None:
        self._state = state
        self._quiet = quiet
        self._audit = audit
        self.audit_log = state / "audit.log"
        self._pki = state / "pki"
        self._authority = Authority(
            self._pki, binaries.folder() / "kubeadm", "local", "10.0.0.1", SERVICES
        )
        self._processes = Processes(state)
        self.kubeconfig = state / "admin.kubeconfig"
        self.admission: Path | None = None
        """The AdmissionConfiguration of an API server that is started from now on."""

    def __enter__(self) -> Self:
        self.up()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.down()

    @property
    def bin(self) -> Path:
        """Folder with kubectl."""
        return binaries.folder()

    def up(self) -> None:
        """Starts what does not run yet, and waits until the API server is ready."""
        programs = binaries.ensure(binaries.CONTROL_PLANE)
        self._state.mkdir(parents=True, exist_ok=True)
        if self._processes.pid("etcd") is None:
            self._ports()
            self._authority.make()
            self._authority.write_kubeconfig("admin", self.url, self.kubeconfig)
            client, peer = (f"http://127.0.0.1:{self._port(kind)}" for kind in ("etcd", "peer"))
            self._processes.start(
                "etcd",
                [
                    str(programs / "etcd"),
                    f"--data-dir={self._state / 'etcd'}",
                    "--unsafe-no-fsync",
                    f"--listen-client-urls={client}",
                    f"--advertise-client-urls={client}",
                    f"--listen-peer-urls={peer}",
                    f"--initial-advertise-peer-urls={peer}",
                    f"--initial-cluster=default={peer}",
                    "--log-level=warn",
                ],
            )
        self._start_apiserver()
        self._start_controller_manager()

    def _start_apiserver(self) -> None:
        def ready() -> bool:
            # If it ends right after its start it is restarted, as a kubelet would do.
            if self._processes.pid("kube-apiserver") is None:
                self._processes.start("kube-apiserver", self._apiserver_command())
            return self.is_ready()

        wait_for("the API server", READY_SECONDS, ready, quiet=self._quiet)

    def kill_apiserver(self) -> None:
        """Kills the API server, as a crash would; `up` starts it again.

        The controller manager is killed too. Otherwise its informers could take up to a minute to
        reconnect, and until then a new namespace would have no service account.
        """
        self._processes.kill("kube-apiserver")
        self._processes.kill("kube-controller-manager")

    @property
    def ca(self) -> Path:
        """Certificate of the authority that signed the API server's certificate."""
        return self._pki / "ca.crt"

    @property
    def account_key(self) -> Path:
        """Key that signs the tokens of service accounts."""
        return self._pki / "sa.key"

    @property
    def url(self) -> str:
        """Address of the API server."""
        return f"https://127.0.0.1:{self._port('api')}"

    @property
    def pids(self) -> dict[str, int]:
        """Process ids by the names of the programs."""
        return {name: pid for name, (pid, _) in self._processes.recorded().items()}

    def is_ready(self) -> bool:
        """True if the API server reports that it is ready."""
        context = ssl.create_default_context(cafile=str(self._pki / "ca.crt"))
        try:
            with urllib.request.urlopen(f"{self.url}/readyz", timeout=2, context=context) as answer:  # noqa: S310
                return bool(answer.status == 200)
        except OSError:
            return False

    def down(self) -> None:
        """Ends everything and removes the state; etcd last, as the API server hangs without it."""
        if not self._state.exists():
            return
        for name in ("kube-controller-manager", "kube-apiserver", "etcd"):
            self._processes.end(name)
        shutil.rmtree(self._state, ignore_errors=True)

    def _ports(self) -> None:
        for kind in ("etcd", "peer", "api"):
            (self._state / f"{kind}.port").write_text(str(free_port()))

    def _port(self, kind: str) -> int:
        return int((self._state / f"{kind}.port").read_text())

    def _apiserver_command(self) -> list[str]:
        keys = self._pki
        return [
            str(binaries.folder() / "kube-apiserver"),
            f"--etcd-servers=http://127.0.0.1:{self._port('etcd')}",
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            f"--secure-port={self._port('api')}",
            "--endpoint-reconciler-type=none",
            "--allow-privileged=true",
            f"--service-cluster-ip-range={SERVICES}",
            "--authorization-mode=Node,RBAC",
            f"--client-ca-file={keys / 'ca.crt'}",
            f"--tls-cert-file={keys / 'apiserver.crt'}",
            f"--tls-private-key-file={keys / 'apiserver.key'}",
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
            f"--service-account-key-file={keys / 'sa.pub'}",
            f"--service-account-signing-key-file={keys / 'sa.key'}",
            "--profiling=false",
            *self._audit_flags(),
            *([f"--admission-control-config-file={self.admission}"] if self.admission else []),
        ]

    def _audit_flags(self) -> list[str]:
        if self._audit is None:
            return []
        rules = [{"level": self._audit.value, "users": [CONTROLLER]}, {"level": "None"}]
        policy = {
            "apiVersion": "audit.k8s.io/v1",
            "kind": "Policy",
            "omitStages": ["RequestReceived", "ResponseStarted"],
            "rules": rules,
        }
        path = self._state / "audit.policy"
        path.write_text(json.dumps(policy))
        return [f"--audit-policy-file={path}", f"--audit-log-path={self.audit_log}"]

    def _start_controller_manager(self) -> None:
        if self._processes.pid("kube-controller-manager") is not None:
            return
        config = self._state / "controller-manager.kubeconfig"
        self._authority.write_kubeconfig("controller-manager", self.url, config)
        self._processes.start(
            "kube-controller-manager",
            [
                str(binaries.folder() / "kube-controller-manager"),
                f"--kubeconfig={config}",
                f"--controllers={','.join(CONTROLLERS)}",
                "--secure-port=0",
                "--use-service-account-credentials=true",
                f"--service-account-private-key-file={self._pki / 'sa.key'}",
                f"--root-ca-file={self._pki / 'ca.crt'}",
                "--leader-elect=false",
                "--kube-api-qps=500",
                "--kube-api-burst=1000",
                f"--flex-volume-plugin-dir={self._state / 'volumeplugins'}",
            ],
        )
