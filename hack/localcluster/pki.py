"""The cluster's certificates, keys and kubeconfigs, as kubeadm makes them for every cluster."""

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from localcluster.binaries import KUBERNETES
from localcluster.paths import environment

USERS = {
    "admin": ("local-admin", "system:masters"),
    "controller-manager": ("system:kube-controller-manager", ""),
    "scheduler": ("system:kube-scheduler", ""),
    "kube-proxy": ("system:kube-proxy", ""),
    "kubelet": ("system:node:{node}", "system:nodes"),
}
"""By the name of their kubeconfig: the user's name and group, which the API server's roles name."""


@dataclass(frozen=True)
class Authority:
    """A cluster's authorities and keys, in one folder."""

    folder: Path
    kubeadm: Path
    node: str
    address: str
    """The API server's, not of the loopback: kubeadm allows none. The loopback's is valid too."""
    services: str
    """The addresses of Services, as CIDR."""

    def make(self) -> None:
        """Makes everything once: new keys would make every issued token worthless."""
        if self.folder.exists():
            return
        scratch = self.folder.with_suffix(".new")
        # Of a start that was interrupted.
        shutil.rmtree(scratch, ignore_errors=True)
        self._run(scratch, self.address, "init", "phase", "certs", "all")
        scratch.rename(self.folder)

    def write_kubeconfig(self, name: str, server: str, target: Path) -> None:
        """Writes the kubeconfig of one of `USERS`, with its own certificate, if it is missing."""
        if target.exists():
            return
        user, group = USERS[name]
        who = [f"--client-name={user.format(node=self.node)}"]
        who += [f"--org={group}"] if group else []
        text = self._run(self.folder, urlsplit(server).netloc, "kubeconfig", "user", *who)
        scratch = target.with_suffix(".new")
        scratch.touch(mode=0o600)
        scratch.write_text(text)
        scratch.rename(target)

    def _run(self, folder: Path, endpoint: str, *arguments: str) -> str:
        config = "\n---\n".join(map(json.dumps, self._config(folder, endpoint)))
        done = subprocess.run(
            [str(self.kubeadm), *arguments, "--config=/dev/stdin"],
            input=config,
            capture_output=True,
            text=True,
            env=environment(),
        )
        if done.returncode != 0:
            raise SystemExit(f"cluster: kubeadm {' '.join(arguments)} failed:\n{done.stderr}")
        return done.stdout

    def _config(self, folder: Path, endpoint: str) -> tuple[dict[str, Any], ...]:
        version = "kubeadm.k8s.io/v1beta4"
        return (
            {
                "apiVersion": version,
                "kind": "InitConfiguration",
                "localAPIEndpoint": {"advertiseAddress": self.address},
                # Named, so that kubeadm does not look at this machine for it.
                "nodeRegistration": {"name": self.node, "criSocket": "unix:///none"},
            },
            {
                "apiVersion": version,
                "kind": "ClusterConfiguration",
                "kubernetesVersion": KUBERNETES,
                "certificatesDir": str(folder),
                "controlPlaneEndpoint": endpoint,
                "networking": {"serviceSubnet": self.services},
                "apiServer": {"certSANs": ["localhost", "127.0.0.1"]},
                # Ours listens on the loopback alone and has no certificates.
                "etcd": {"external": {"endpoints": ["http://127.0.0.1:2379"]}},
            },
        )
