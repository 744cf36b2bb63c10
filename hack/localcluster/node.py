"""A whole cluster with one node, as plain processes in Linux namespaces of their own.

When PID 1 of the namespaces is killed, everything in them ends: pods, shims, mounts, interfaces and
rules. Namespaces do not isolate the cgroups and a few sysctls that the kubelet sets. Those are
recorded at the start and restored at the end.
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

from localcluster import binaries, configs, images
from localcluster.configs import NODE_ADDRESS, NODE_NAME
from localcluster.control_plane import free_port
from localcluster.paths import SOURCES, cache, environment, locked, state
from localcluster.patience import told, wait_for
from localcluster.pki import Authority
from localcluster.processes import Processes, start_time

VOLUMES = 4
SYSCTLS = (
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
)
"""Settings of the whole machine that the kubelet changes."""


class Node:
    """One cluster: `up`, `load`, `status`, `down`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.state = state(name)
        self.kubeconfig = self.state / "admin.kubeconfig"
        self._pki = self.state / "pki"
        self._cfg = self.state / "cfg"
        self._processes = Processes(self.state)
        self._programs = binaries.folder()
        self._authority = Authority(
            self._pki,
            self._programs / "kubeadm",
            NODE_NAME,
            NODE_ADDRESS,
            configs.SERVICE_NETWORK,
        )

    # --- Up ---------------------------------------------------------------------------------

    def reserve(self) -> None:
        """Takes the name for a new cluster; raises FileExistsError if there is one."""
        self.state.mkdir(parents=True)

    def up(self) -> None:
        """Starts what does not run yet; waits until the node is Ready and a Service answers."""
        if os.geteuid() != 0:
            raise SystemExit("cluster: run this as root, or start a container engine")
        binaries.ensure_packages()
        binaries.ensure(binaries.EVERYTHING)
        if self.init_pid() is None and self.state.exists():
            self._end_processes()
        self.state.mkdir(parents=True, exist_ok=True)
        self._authority.make()
        self._start_namespaces()
        self._write_configs()
        self._start_control_plane()
        self._start_node()
        self._apply_base()
        print(f"cluster: {self.name} runs; KUBECONFIG={self.kubeconfig}", flush=True)

    def _start_namespaces(self) -> None:
        if self.init_pid() is not None:
            return
        for stale in ("init.ready", "init.json"):
            (self.state / stale).unlink(missing_ok=True)
        # In this order: from its cgroups, another cluster that ends meanwhile knows of this one.
        joins = self._make_cgroups()
        _save_sysctls()
        command = "unshare --net --mount --pid --ipc --uts --cgroup --fork --mount-proc"
        command += " --propagation private --kill-child=KILL"
        init = f"bash {SOURCES / 'node-init.sh'} {self.state} {NODE_ADDRESS}"
        # The shell joins the cgroups before unshare makes them the root of the node's cgroups.
        script = f"{joins} exec {command} {init}"
        outer = self._processes.start("namespaces", ["bash", "-euc", script])
        wait_for("the namespaces", 30, lambda: (self.state / "init.ready").exists())
        pid = _only_child(outer)
        ticks = start_time(pid)
        assert ticks is not None, "it has just reported that it is ready"
        (self.state / "init.json").write_text(json.dumps([pid, ticks]))

    def init_pid(self) -> int | None:
        """Returns the host's pid of the node's PID 1; None if it does not run."""
        try:
            pid, ticks = json.loads((self.state / "init.json").read_text())
        except (FileNotFoundError, ValueError):
            return None
        return int(pid) if start_time(pid) == ticks else None

    def _make_cgroups(self) -> str:
        """Makes a cgroup below ours in each hierarchy; returns shell text that joins them."""
        made = []
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            number, controllers, path = line.split(":", 2)
            mount = _cgroup_mount(number, controllers)
            if mount is None:
                continue
            folder = mount / path.lstrip("/") / f"gpujob-{self.name}"
            folder.mkdir(exist_ok=True)
            if "cpuset" in controllers.split(","):
                for knob in ("cpuset.cpus", "cpuset.mems"):
                    (folder / knob).write_text((folder.parent / knob).read_text())
                (folder / "cgroup.clone_children").write_text("1")
            made.append(str(folder))
        (self.state / "cgroups.json").write_text(json.dumps(made))
        return " ".join(f"echo $$ > {folder}/cgroup.procs;" for folder in made)

    def _write_configs(self) -> None:
        (self._cfg / "cni").mkdir(parents=True, exist_ok=True)
        texts = {
            "containerd.toml": configs.containerd(self.state, self._programs),
            "cni/10-bridge.conflist": configs.CNI,
            "kubelet.yaml": configs.kubelet(self.state),
            "kube-proxy.yaml": configs.kube_proxy(self.state),
            "audit.yaml": configs.AUDIT,
            "resolv.conf": "",
        }
        for name, text in texts.items():
            (self._cfg / name).write_text(text)
        inside = "https://127.0.0.1:6443"
        for identity in ("controller-manager", "scheduler", "kubelet", "kube-proxy"):
            target = self._cfg / f"{identity}.kubeconfig"
            self._authority.write_kubeconfig(identity, inside, target)
        for number in range(VOLUMES):
            (self.state / "kubelet" / "local-pv" / str(number)).mkdir(parents=True, exist_ok=True)

    def _start_control_plane(self) -> None:
        programs, logs = self._programs, self.state / "log"
        local = "http://127.0.0.1"
        self._start(
            "etcd",
            f"{programs}/etcd --data-dir={self.state}/etcd --unsafe-no-fsync --log-level=warn"
            f" --listen-client-urls={local}:2379 --advertise-client-urls={local}:2379"
            f" --listen-peer-urls={local}:2380",
        )
        self._start("kube-apiserver", _apiserver(programs, self._pki, self._cfg, logs))
        self._start(
            "containerd",
            f"{programs}/containerd -c {self._cfg}/containerd.toml",
            env={"PATH": f"{programs}:{os.environ['PATH']}"},
        )
        self._start_forwarder()
        wait_for("containerd", 30, lambda: self._inside_ok(self._ctr("version")))
        archives = cache() / "images"
        self.load(images.program_image("localhost/pause:1", programs / "pause", archives))
        self.load(images.program_image("localhost/coredns:1", programs / "coredns", archives))
        wait_for("the API server", 120, lambda: self._kubectl_ok("get", "--raw", "/readyz"))

    def _start_forwarder(self) -> None:
        recorded = self.state / "api.port"
        # Until it listens, another cluster that starts could find the same port free.
        with locked("ports"):
            if not recorded.exists():
                recorded.write_text(str(free_port()))
            port = recorded.read_text()
            if self._processes.pid("forwarder") is None:
                python = str(SOURCES.parent.parent / ".venv/bin/python")
                command = [python, str(SOURCES / "forward.py"), port, str(self.init_pid()), "6443"]
                self._processes.start("forwarder", command)
            wait_for("the forwarded port", 30, lambda: _listens(int(port)), quiet=True)
        self._authority.write_kubeconfig("admin", f"https://127.0.0.1:{port}", self.kubeconfig)

    def _start_node(self) -> None:
        programs, cfg, keys = self._programs, self._cfg, self._pki
        rates = "--kube-api-qps=500 --kube-api-burst=1000"
        own = {name: f"{cfg}/{name}.kubeconfig" for name in ("controller-manager", "scheduler")}
        thrice = {
            name: f"--kubeconfig={path} --authentication-kubeconfig={path}"
            f" --authorization-kubeconfig={path} --bind-address=127.0.0.1 --leader-elect=false"
            f" {rates}"
            for name, path in own.items()
        }
        self._start(
            "kube-controller-manager",
            f"{programs}/kube-controller-manager {thrice['controller-manager']}"
            f" --use-service-account-credentials=true --allocate-node-cidrs=false"
            f" --service-account-private-key-file={keys}/sa.key --root-ca-file={keys}/ca.crt"
            f" --cluster-signing-cert-file={keys}/ca.crt --cluster-signing-key-file={keys}/ca.key"
            f" --flex-volume-plugin-dir=/var/lib/kubelet/volumeplugins",
        )
        self._start("kube-scheduler", f"{programs}/kube-scheduler {thrice['scheduler']}")
        self._start(
            "kubelet",
            f"{programs}/kubelet --config={cfg}/kubelet.yaml --kubeconfig={cfg}/kubelet.kubeconfig"
            f" --hostname-override={NODE_NAME} --node-ip={NODE_ADDRESS}"
            " --root-dir=/var/lib/kubelet",
        )
        self._start(
            "kube-proxy",
            f"{programs}/kube-proxy --config={cfg}/kube-proxy.yaml --hostname-override={NODE_NAME}",
        )

    def _apply_base(self) -> None:
        manifests = [(SOURCES / "manifests" / "base.yaml").read_text()]
        manifests += [_volume(number) for number in range(VOLUMES)]
        self.kubectl("apply", "--server-side", "-f", "-", text="\n---\n".join(manifests))
        self._await_node()
        wait_for(
            "CoreDNS",
            120,
            lambda: self._kubectl_ok(
                "rollout", "status", "deployment/coredns", "-n", "kube-system", "--timeout=1s"
            ),
        )
        wait_for("the DNS Service", 60, self._dns_answers)
        wait_for(
            "the default service account",
            60,
            lambda: self._kubectl_ok("get", "serviceaccount", "default", "-n", "default"),
        )

    def _await_node(self) -> None:
        """Waits until this kubelet reports Ready; a stored condition may be of an earlier run."""
        path = 'jsonpath={.status.conditions[?(@.type=="Ready")].status}'
        began = time.time()

        def ready() -> bool:
            said = self._kubectl("get", "node", NODE_NAME, "-o", path)
            lease = self._kubectl(
                "get",
                "lease",
                NODE_NAME,
                "-n",
                "kube-node-lease",
                "-o",
                "jsonpath={.spec.renewTime}",
            )
            renewed = lease.stdout.strip().replace("Z", "+00:00")
            if said.stdout.strip() != "True" or not renewed:
                return False
            from datetime import datetime

            return datetime.fromisoformat(renewed).timestamp() > began - 15

        wait_for("the node", 120, ready)

    def _dns_answers(self) -> bool:
        query = (
            "import socket;s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM);s.settimeout(1);"
            "s.sendto(bytes.fromhex('123401000001000000000000')+b'\\x0akubernetes\\x07default"
            "\\x03svc\\x07cluster\\x05local\\x00\\x00\\x01\\x00\\x01',('10.96.0.10',53));"
            "assert s.recv(512)[6:8]!=b'\\0\\0'"
        )
        return self._inside_ok(["python3", "-c", query])

    # --- Use --------------------------------------------------------------------------------

    def load(self, archive: Path) -> None:
        """Imports an image archive into the node."""
        with told(f"cluster: importing {archive.name}"):
            done = self._inside([*self._ctr("-n"), "k8s.io", "images", "import", str(archive)])
        if done.returncode != 0:
            raise SystemExit(f"cluster: importing {archive} failed:\n{done.stderr}")
        print(f"cluster: imported {archive.name}", flush=True)

    def kubectl(self, *arguments: str, text: str | None = None) -> str:
        """Runs kubectl as administrator and returns what it printed; raises SystemExit."""
        done = self._kubectl(*arguments, text=text)
        if done.returncode != 0:
            raise SystemExit(f"cluster: kubectl {' '.join(arguments)} failed:\n{done.stderr}")
        return done.stdout

    def status(self) -> str:
        """Returns one line per process."""
        if self.init_pid() is None:
            return f"cluster {self.name}: does not run"
        lines = [f"cluster {self.name}: runs; KUBECONFIG={self.kubeconfig}"]
        for name in self._processes.recorded():
            running = "runs" if self._processes.pid(name) else "has ended"
            lines.append(f"  {name}: {running}")
        return "\n".join(lines)

    # --- Down -------------------------------------------------------------------------------

    def down(self) -> None:
        """Ends everything and removes every trace, even after an interrupted `up`."""
        if not self.state.exists():
            return
        with told(f"cluster: ending {self.name}"):
            self._end_processes()
            self._remove_cgroups()
            shutil.rmtree(self.state)
        _restore_sysctls()

    def _end_processes(self) -> None:
        pid = self.init_pid()
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
        for name in self._processes.recorded():
            self._processes.end(name, patience_seconds=10)

    def _remove_cgroups(self) -> None:
        recorded = self.state / "cgroups.json"
        if not recorded.exists():
            return
        deadline = time.monotonic() + 20
        left = [Path(folder) for folder in json.loads(recorded.read_text())]
        while left:
            for folder in left:
                inner = sorted(folder.rglob("*"), key=lambda path: len(path.parts), reverse=True)
                for path in [*inner, folder]:
                    if path.is_dir():
                        with contextlib.suppress(OSError):
                            path.rmdir()
            left = [folder for folder in left if folder.exists()]
            if left and time.monotonic() > deadline:
                raise SystemExit(f"cluster: end the processes that use these cgroups: {left}")
            # A dying task keeps its cgroup in use for a moment.
            time.sleep(0.05)

    # --- Inside -----------------------------------------------------------------------------

    def _start(self, name: str, command: str, *, env: dict[str, str] | None = None) -> None:
        if self._processes.pid(name) is not None:
            return
        cgroups = json.loads((self.state / "cgroups.json").read_text())
        joins = " ".join(f"echo $$ > {folder}/cgroup.procs;" for folder in cgroups)
        script = f"{joins} exec nsenter -t {self.init_pid()} -m -n -p -i -u -C -- {command}"
        self._processes.start(name, ["bash", "-euc", script], env=env or {})

    def run_inside(self, *command: str) -> str:
        """Runs a command in the node and returns what it printed; raises RuntimeError."""
        done = self._inside(list(command))
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
        return done.stdout

    def _inside(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        entry = ["nsenter", "-t", str(self.init_pid()), "-m", "-n", "-p", "-i", "-u", "-C", "--"]
        return subprocess.run(
            [*entry, *command], capture_output=True, text=True, stdin=subprocess.DEVNULL
        )

    def _inside_ok(self, command: list[str]) -> bool:
        return self._inside(command).returncode == 0

    def _ctr(self, *arguments: str) -> list[str]:
        return [str(self._programs / "ctr"), *arguments]

    def _kubectl(
        self, *arguments: str, text: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(self._programs / "kubectl"), f"--kubeconfig={self.kubeconfig}", *arguments],
            input=text or "",
            capture_output=True,
            text=True,
            env=environment(),
        )

    def _kubectl_ok(self, *arguments: str) -> bool:
        return self._kubectl(*arguments).returncode == 0


def _apiserver(programs: Path, keys: Path, cfg: Path, logs: Path) -> str:
    return (
        f"{programs}/kube-apiserver --etcd-servers=http://127.0.0.1:2379"
        f" --advertise-address={NODE_ADDRESS} --bind-address=0.0.0.0 --secure-port=6443"
        f" --allow-privileged=true --service-cluster-ip-range={configs.SERVICE_NETWORK}"
        # The second plug-in is off by default. Some distributions enable it: then who sets an owner
        # reference that blocks deletion must have the right to update the owner's finalizers.
        f" --authorization-mode=Node,RBAC"
        f" --enable-admission-plugins=NodeRestriction,OwnerReferencesPermissionEnforcement"
        f" --client-ca-file={keys}/ca.crt --tls-cert-file={keys}/apiserver.crt"
        f" --tls-private-key-file={keys}/apiserver.key"
        f" --kubelet-client-certificate={keys}/apiserver-kubelet-client.crt"
        f" --kubelet-client-key={keys}/apiserver-kubelet-client.key"
        f" --kubelet-preferred-address-types=InternalIP,Hostname"
        f" --service-account-issuer=https://kubernetes.default.svc.cluster.local"
        f" --service-account-key-file={keys}/sa.pub"
        f" --service-account-signing-key-file={keys}/sa.key"
        f" --requestheader-client-ca-file={keys}/front-proxy-ca.crt"
        f" --requestheader-allowed-names=front-proxy-client"
        f" --requestheader-extra-headers-prefix=X-Remote-Extra-"
        f" --requestheader-group-headers=X-Remote-Group"
        f" --requestheader-username-headers=X-Remote-User"
        f" --proxy-client-cert-file={keys}/front-proxy-client.crt"
        f" --proxy-client-key-file={keys}/front-proxy-client.key"
        f" --audit-policy-file={cfg}/audit.yaml --audit-log-path={logs}/audit.log"
        f" --audit-log-maxsize=50 --audit-log-maxbackup=1 --profiling=false"
    )


def _volume(number: int) -> str:
    return f"""\
apiVersion: v1
kind: PersistentVolume
metadata: {{name: local-{number}}}
spec:
  capacity: {{storage: 1Gi}}
  accessModes: [ReadWriteOnce]
  persistentVolumeReclaimPolicy: Retain
  storageClassName: local
  local: {{path: /var/lib/kubelet/local-pv/{number}}}
  nodeAffinity:
    required:
      nodeSelectorTerms:
        - matchExpressions: [{{key: kubernetes.io/hostname, operator: In, values: [{NODE_NAME}]}}]
"""


def _cgroup_mount(number: str, controllers: str) -> Path | None:
    """Returns where the host has mounted a hierarchy of /proc/self/cgroup; None if nowhere."""
    wanted = set(controllers.removeprefix("name=").split(","))
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, where, kind, options, *_ = line.split()
        given = set(options.split(",")) | {
            part.removeprefix("name=") for part in options.split(",")
        }
        if kind == "cgroup" and number != "0" and wanted <= given:
            return Path(where)
        if kind == "cgroup2" and number == "0":
            return Path(where)
    return None


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def _only_child(pid: int) -> int:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(children[0])


def _clusters() -> Path:
    folder = cache() / "clusters"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _save_sysctls() -> None:
    """Records the machine's sysctls, unless another cluster has already changed them."""
    with locked("sysctls"):
        record = _clusters() / ".sysctls.json"
        if not record.exists():
            values = {knob: Path("/proc/sys", knob).read_text().strip() for knob in SYSCTLS}
            record.write_text(json.dumps(values))


def _restore_sysctls() -> None:
    """Restores the machine's sysctls once the last cluster is gone."""
    with locked("sysctls"):
        record = _clusters() / ".sysctls.json"
        others = [path for path in _clusters().iterdir() if (path / "cgroups.json").exists()]
        if others or not record.exists():
            return
        for knob, value in json.loads(record.read_text()).items():
            path = Path("/proc/sys", knob)
            if path.read_text().strip() != value:
                path.write_text(value)
        record.unlink()
