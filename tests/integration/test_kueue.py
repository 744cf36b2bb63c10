"""Jobs wait in a queue of Kueue, run when it admits them, and make room when it says so.

Kueue is the real one, built from its module, with its own chart's kinds. Its webhooks are left out:
they concern kinds that are not here.
"""

import base64
import json
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from tests.chart.rendering import objects
from tests.integration.conftest import World
from tests.integration.parts import Object, eventually

from gpujob.core.queue import LABEL_PRIORITY, LABEL_QUEUE
from localcluster import binaries
from localcluster.control_plane import free_port
from localcluster.processes import Processes

API = "kueue.x-k8s.io/v1beta2"
OFF = ("MultiKueue", "TopologyAwareScheduling", "VisibilityOnDemand")
"""Features that need other kinds, or a port that cannot be chosen."""


def applied(world: World, found: list[Object]) -> None:
    """Applies objects as their administrator does."""
    listed = {"apiVersion": "v1", "kind": "List", "items": found}
    force = ("--server-side", "--force-conflicts")
    world.kubectl("apply", *force, "-f", "-", text=json.dumps(listed))


def rights(**values: object) -> list[Object]:
    """The controller's rights on the cluster, by the chart."""
    found = objects(binaries.ensure(binaries.CHART), values=values, namespace="gpujob-system")
    return [
        one
        for one in found
        if one["kind"] == "ClusterRole" and one["metadata"]["name"] == "gpujob-system-gpujob"
    ]


def queues(namespace: str) -> list[Object]:
    """A queue in which there is room for one GPU, and a class of jobs that go first."""
    quota = [{"name": "gpujob.dev/gpus", "nominalQuota": 1}]
    quota += [{"name": "gpujob.dev/usd", "nominalQuota": 100}]
    group = {
        "coveredResources": [one["name"] for one in quota],
        "flavors": [{"name": "rented", "resources": quota}],
    }
    spec = {
        "namespaceSelector": {},
        "preemption": {"withinClusterQueue": "LowerPriority"},
        "resourceGroups": [group],
    }
    return [
        {"apiVersion": API, "kind": "ResourceFlavor", "metadata": {"name": "rented"}},
        {"apiVersion": API, "kind": "ClusterQueue", "metadata": {"name": "gpus"}, "spec": spec},
        {
            "apiVersion": API,
            "kind": "LocalQueue",
            "metadata": {"name": "team", "namespace": namespace},
            "spec": {"clusterQueue": "gpus"},
        },
        {
            "apiVersion": API,
            "kind": "WorkloadPriorityClass",
            "metadata": {"name": "urgent"},
            "value": 100,
        },
    ]


@pytest.fixture
def kueue(stage: World, tmp_path: Path) -> Iterator[World]:
    """Kueue runs, with a queue; the operator is not started."""
    program = binaries.ensure(binaries.KUEUE) / "kueue"
    chart = binaries.source("kueue", "sigs.k8s.io/kueue") / "charts/kueue"
    helm = binaries.ensure(binaries.CHART) / "helm"
    rendered = subprocess.run(
        [str(helm), "template", "kueue", str(chart), "--namespace=kueue-system"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    loader = yaml.CSafeLoader
    found = [one for one in yaml.load_all(rendered, loader) if one]
    kinds = [one for one in found if one["kind"] == "CustomResourceDefinition"]
    kubectl, names = stage.kubectl, [one["metadata"]["name"] for one in kinds]
    certificates = tmp_path / "kueue"
    certificates.mkdir()
    settings = {
        "apiVersion": "config.kueue.x-k8s.io/v1beta2",
        "kind": "Configuration",
        "namespace": "kueue-system",
        "health": {"healthProbeBindAddress": f"127.0.0.1:{free_port()}"},
        "metrics": {"bindAddress": "0"},
        "leaderElection": {"leaderElect": False},
        "internalCertManagement": {"enable": True},
        "webhook": {"port": free_port(), "host": "127.0.0.1", "certDir": str(certificates)},
        "integrations": {"frameworks": ["batch/job"]},
    }
    config = tmp_path / "kueue.yaml"
    config.write_text(yaml.safe_dump(settings))
    processes = Processes(tmp_path / "processes")

    def has_certificate() -> bool:
        """As a kubelet does, puts the Secret that it makes into its folder."""
        held = kubectl.get("secret", "kueue-webhook-server-cert", "kueue-system") or {}
        for name, text in held.get("data", {}).items():
            (certificates / name).write_bytes(base64.b64decode(text))
        return "tls.crt" in held.get("data", {})

    def has_queue() -> bool:
        told = kubectl.run("get", "clusterqueue", "gpus", "-o", "json")
        status = json.loads(told.stdout).get("status", {}) if told.returncode == 0 else {}
        return any(
            (one["type"], one["status"]) == ("Active", "True")
            for one in status.get("conditions", [])
        )

    secret = {"name": "kueue-webhook-server-cert", "namespace": "kueue-system"}
    kubectl("create", "namespace", "kueue-system")
    try:
        applied(stage, [*kinds, {"apiVersion": "v1", "kind": "Secret", "metadata": secret}])
        kubectl("wait", "--for=condition=Established", "--timeout=60s", *_crds(names))
        features = ",".join(f"{name}=false" for name in OFF)
        processes.start(
            "kueue",
            [str(program), f"--config={config}", f"--feature-gates={features}"],
            env={"KUBECONFIG": str(kubectl.kubeconfig)},
        )
        eventually("Kueue has a certificate", has_certificate)
        applied(stage, queues(stage.namespace))
        eventually("the queue is active", has_queue)
        applied(stage, rights(kueue={"enabled": True}))
        yield stage
    finally:
        with suppress(FileNotFoundError):
            log = (tmp_path / "processes/log/kueue.log").read_text()
            print(f"--- Kueue's log\n{log[-5000:]}")
        applied(stage, rights())
        # Kueue takes its finalizers off what it is to forget, so it ends after that.
        for one in reversed(queues(stage.namespace)):
            where = ("-n", stage.namespace) if one["kind"] == "LocalQueue" else ()
            kubectl.run("delete", one["kind"], one["metadata"]["name"], *where, "--wait=false")
        kubectl.run("delete", *_crds(names), "--timeout=30s")
        processes.end("kueue")
        kubectl.run("delete", "namespace", "kueue-system", "--wait=false")


def _crds(names: list[str]) -> tuple[str, ...]:
    return ("crd", *names)


def workload(world: World, job: str) -> Object:
    """Returns a job's Workload."""
    name = world.job(job)["status"].get("admittedBy", "")
    found = world.kubectl("get", "workloads", "-n", world.namespace, "-o", "json")
    mine: list[Object] = [
        one
        for one in json.loads(found)["items"]
        if one["metadata"]["labels"]["gpujob.dev/job"] == job
    ]
    assert len(mine) == 1
    assert name in ("", mine[0]["metadata"]["name"])
    return mine[0]


def test_jobs_take_turns_in_a_queue(kueue: World) -> None:
    """One fits: the next one waits without a machine, and one that goes first takes its place.

    The machine of the one that makes room is gone before another is rented, also if somebody
    deletes its Workload.
    """
    world, queue = kueue, {LABEL_QUEUE: "team"}
    # Its workload uses all the time that it is given to end: others could be rented meanwhile.
    world.operator.start(GPUJOB_KUEUE="true", GPUJOB_DRAIN_SECONDS="12")
    world.apply_job("first", queue, command=world.waits("trap '' TERM"))
    world.await_reason("first", "Running")
    world.apply_job("second", queue)
    eventually("it waits", lambda: "the queue team" in _message(world, "second"))
    world.await_listings(3)
    assert [one["state"] for one in world.simulator.of(world.job("first"))] == ["running"]
    assert world.simulator.of(world.job("second")) == []
    world.apply_job("classless", queue | {LABEL_PRIORITY: "absent"})
    eventually("it is told why", lambda: '"absent" not found' in _message(world, "classless"))

    held = workload(world, "first")["metadata"]["name"]
    world.kubectl("delete", "workload", held, "-n", world.namespace, "--wait=false")
    world.await_reason("second", "Complete")
    world.await_reason("first", "Running")

    world.apply_job("urgent", queue | {LABEL_PRIORITY: "urgent"}, command=world.waits())
    world.await_reason("urgent", "Running")
    *_, given_up = world.simulator.of(world.job("first"))
    (taken,) = world.simulator.of(world.job("urgent"))
    assert given_up["state"] == "destroyed"
    assert given_up["ended_at"] <= taken["created_at"]
    assert world.condition("first", "Suspended")["status"] == "True"
    assert world.job("first")["status"]["attempts"][-1]["reason"] == "Suspended"
    assert "its queue took its admission back" in str(world.job("first")["status"]["attempts"])

    world.let_go()
    for name in ("urgent", "first"):
        world.await_reason(name, "Complete")
    for name in ("urgent", "first", "second"):
        eventually(f"Kueue knows of the end of {name}", partial(_has_finished, world, name))
    leases = sorted(world.simulator.ledger(), key=lambda one: one["created_at"])
    for before, after in pairwise(leases):
        assert before["ended_at"] <= after["created_at"], "there is never more than one machine"


def _has_finished(world: World, name: str) -> bool:
    return any(
        (one["type"], one["status"], one["reason"]) == ("Finished", "True", "Succeeded")
        for one in workload(world, name)["status"]["conditions"]
    )


def _message(world: World, name: str) -> str:
    return str(world.condition(name, "Ready").get("message", ""))
