"""The cluster by kind, if a container engine runs: with the same commands and images."""

import shutil
import subprocess
from pathlib import Path

from localcluster import binaries
from localcluster.paths import cache, environment, locked, state
from localcluster.patience import told

KIND = "sigs.k8s.io/kind@v0.31.0"


def engine() -> str | None:
    """Returns the name of the container engine that runs; None if there is none."""
    for name in ("docker", "podman"):
        if shutil.which(name):
            asked = subprocess.run([name, "info"], capture_output=True, check=False)
            if asked.returncode == 0:
                return name
    return None


class Kind:
    """One cluster of kind."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.state = state(f"{name}-kind")
        self.kubeconfig = self.state / "admin.kubeconfig"

    def reserve(self) -> None:
        """Takes the name for a new cluster; raises FileExistsError if there is one."""
        if self.name in self._run("get", "clusters").split():
            raise FileExistsError(self.name)
        self.state.mkdir(parents=True)

    def up(self) -> None:
        """Creates the cluster, unless it exists."""
        self.state.mkdir(parents=True, exist_ok=True)
        binaries.ensure(binaries.KUBECTL + binaries.CHART)
        if self.name not in self._run("get", "clusters").split():
            self._run("create", "cluster", "--name", self.name, "--wait", "180s")
        self.kubeconfig.touch(mode=0o600)
        self.kubeconfig.write_text(self._run("get", "kubeconfig", "--name", self.name))
        print(f"cluster: {self.name} runs in kind; KUBECONFIG={self.kubeconfig}", flush=True)

    def load(self, archive: Path) -> None:
        """Imports an image archive into the cluster."""
        self._run("load", "image-archive", str(archive), "--name", self.name)

    def status(self) -> str:
        """Returns one line."""
        there = self.name in self._run("get", "clusters").split()
        return f"cluster {self.name}: {'runs in kind' if there else 'does not run'}"

    def down(self) -> None:
        """Deletes the cluster."""
        self._run("delete", "cluster", "--name", self.name)
        shutil.rmtree(self.state, ignore_errors=True)

    def _run(self, *arguments: str) -> str:
        settings = environment() | {"KUBECONFIG": str(self.state / "kind.kubeconfig")}
        program = _program()
        with told(f"cluster: kind {' '.join(arguments[:2])}"):
            done = subprocess.run(
                [program, *arguments], capture_output=True, text=True, env=settings, check=False
            )
        if done.returncode != 0:
            raise SystemExit(f"cluster: kind {' '.join(arguments)} failed:\n{done.stderr}")
        return done.stdout


def _program() -> str:
    """Returns the path of kind: from the PATH, or else built from its Go module in the cache."""
    if found := shutil.which("kind"):
        return found
    target = cache() / "kind"
    with told(f"cluster: building {KIND}"), locked("build"):
        if not (target / "kind").exists():
            settings = environment() | {"GOBIN": str(target), "CGO_ENABLED": "0"}
            subprocess.run([binaries.go(), "install", KIND], check=True, env=settings)
    return str(target / "kind")
