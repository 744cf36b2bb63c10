"""One control plane for all tests; a simulator, an operator and a namespace for each."""

import json
import subprocess
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from tests.integration.parts import (
    ROOT,
    Kubectl,
    Object,
    Operator,
    PodRunner,
    Simulator,
    environment,
    eventually,
)

from localcluster import binaries
from localcluster.control_plane import ControlPlane


@dataclass
class World:
    """Everything that a test needs."""

    plane: ControlPlane
    kubectl: Kubectl
    simulator: Simulator
    operator: Operator
    pods: PodRunner
    namespace: str

    def apply_job(self, name: str, **spec: object) -> None:
        """Applies a GpuJob that would succeed, changed by keyword."""
        wanted = {
            "image": "python:3.11",
            "command": ["sh", "-c", "echo hello; sleep 1; echo bye"],
            "activeDeadlineSeconds": 120,
            "gpu": {"models": ["RTX 4090"]},
            "data": {"maxDownloadGB": 1, "maxUploadGB": 1},
            "cost": {"ceiling": "2.00"},
        }
        manifest = {
            "apiVersion": "gpujob.dev/v1alpha1",
            "kind": "GpuJob",
            "metadata": {"name": name, "namespace": self.namespace},
            "spec": wanted | spec,
        }
        self.kubectl.apply(manifest)

    def job(self, name: str) -> Object:
        """Returns a job; empty if there is none."""
        return self.kubectl.get("gpujob", name, self.namespace) or {}

    def condition(self, name: str, kind: str) -> Object:
        """Returns a job's condition; empty if it is not there."""
        found = self.job(name).get("status", {}).get("conditions", [])
        return next((one for one in found if one["type"] == kind), {})

    def await_reason(self, name: str, *reasons: str) -> Object:
        """Waits until a job's summary gives one of these reasons, and returns the job."""

        def look() -> Object | None:
            reason = self.condition(name, "Ready").get("reason")
            return self.job(name) if reason in reasons else None

        found: Object = eventually(f"{name} is {' or '.join(reasons)}", look)
        return found

    def await_released(self) -> None:
        """Waits until the simulator has nothing rented."""
        eventually("nothing is rented", lambda: not self.simulator.living())


@pytest.fixture(scope="session")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A control plane with the chart's CRDs and rights."""
    programs = binaries.ensure(binaries.CONTROL_PLANE + binaries.CHART)
    with ControlPlane(tmp_path_factory.mktemp("plane") / "state", quiet=True) as running:
        kubectl = Kubectl(running, running.kubeconfig)
        rendered = subprocess.run(
            [
                *(str(programs / "helm"), "template", "gpujob", str(ROOT / "helm/gpujob")),
                *("--namespace=gpujob-system", "--set=vast.existingSecret=vast"),
            ],
            check=True,
            capture_output=True,
            text=True,
            env=environment(),
        ).stdout
        kubectl("create", "namespace", "gpujob-system")
        documents = [one for one in yaml.safe_load_all(rendered) if one]
        roles = ("ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding")
        wanted = ("CustomResourceDefinition", "ServiceAccount", "Service", *roles)
        chosen = [one for one in documents if one["kind"] in wanted]
        listed = {"apiVersion": "v1", "kind": "List", "items": chosen}
        kubectl("apply", "--server-side", "-f", "-", text=json.dumps(listed))
        kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=60s")
        yield running


@pytest.fixture
def kubectl(plane: ControlPlane) -> Kubectl:
    """kubectl as administrator."""
    return Kubectl(plane, plane.kubeconfig)


@pytest.fixture
def namespace(kubectl: Kubectl) -> Iterator[str]:
    """A namespace of the test's own that enforces the restricted profile."""
    name = f"test-{uuid.uuid4().hex[:10]}"
    kubectl.apply(
        {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {
                "name": name,
                "labels": {"pod-security.kubernetes.io/enforce": "restricted"},
            },
        }
    )
    account = ("get", "serviceaccount", "default", "-n", name)
    eventually("the default service account", lambda: kubectl.run(*account).returncode == 0)
    yield name
    # The operator is gone by now: what it still held is let go by hand.
    for kind in ("gpunodes", "gpujobs"):
        for one in kubectl.items(kind, "-n", name):
            patch = '{"metadata":{"finalizers":null}}'
            target = (kind, one["metadata"]["name"], "-n", name)
            kubectl.run("patch", *target, "--type=merge", "-p", patch)
    kubectl.run("delete", "namespace", name, "--wait=false")


@pytest.fixture
def operator_kubeconfig(plane: ControlPlane, kubectl: Kubectl, tmp_path: Path) -> Path:
    """A kubeconfig with the rights of the chart's service account, and no others."""
    token = kubectl("create", "token", "gpujob", "-n", "gpujob-system").strip()
    config = yaml.safe_load(plane.kubeconfig.read_text())
    config["users"][0]["user"] = {"token": token}
    path = tmp_path / "operator.kubeconfig"
    path.touch(mode=0o600)
    path.write_text(yaml.safe_dump(config))
    return path


@pytest.fixture
def world(
    plane: ControlPlane,
    kubectl: Kubectl,
    namespace: str,
    operator_kubeconfig: Path,
    tmp_path: Path,
) -> Iterator[World]:
    """A running simulator, operator and pod runner."""
    simulator = Simulator(tmp_path)
    operator = Operator(tmp_path, operator_kubeconfig, simulator.url)
    pods = PodRunner(kubectl, tmp_path / "pods")
    simulator.start()
    operator.start()
    pods.start()
    try:
        yield World(plane, kubectl, simulator, operator, pods, namespace)
    finally:
        if operator.runs:
            operator.stop()
        pods.stop()
        simulator.stop()
        # What one test's market did to its machines is nothing to the next test's.
        kubectl(
            "delete", "configmap", "gpujob-machines", "-n", "gpujob-system", "--ignore-not-found"
        )
        print(f"--- operator's log\n{operator.log[-20000:]}")
        print(f"--- drivers' logs\n{pods.logs()[-5000:]}")
