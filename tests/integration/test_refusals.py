"""What clusters refuse, on a real API server: the job says so in its words, and waits."""

import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from tests.integration.client import path_of
from tests.integration.conftest import World
from tests.integration.parts import Object, eventually

HERE = "kubernetes.io/metadata.name"


@contextmanager
def applied(world: World, manifest: Object) -> Iterator[None]:
    """An object that an administrator makes, and takes away again."""
    world.kubectl.apply(manifest)
    meta = manifest["metadata"]
    where = ("-n", meta["namespace"]) if "namespace" in meta else ()
    try:
        yield
    finally:
        world.kubectl("delete", manifest["kind"], meta["name"], *where)


@contextmanager
def quota(world: World, **hard: str) -> Iterator[None]:
    """A quota of nothing."""
    manifest = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "none", "namespace": world.namespace},
        "spec": {
            "hard": {name.replace("__", "/").replace("_", "."): n for name, n in hard.items()}
        },
    }

    def counted() -> Any:
        found = world.kubectl.get("resourcequota", "none", world.namespace) or {}
        return found.get("status", {}).get("used")

    with applied(world, manifest):
        eventually("the quota is in force", counted)
        yield


@contextmanager
def webhook(world: World, resource: str, group: str, *, kind: str, url: str) -> Iterator[None]:
    """An admission webhook that cannot be reached, or that does not answer."""
    manifest = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": kind,
        "metadata": {"name": f"down-{world.namespace}"},
        "webhooks": [
            {
                "name": "down.example.com",
                "clientConfig": {"url": url},
                "namespaceSelector": {"matchLabels": {HERE: world.namespace}},
                "rules": [
                    {
                        "apiGroups": [group],
                        "apiVersions": ["*"],
                        "operations": ["CREATE"],
                        "resources": [resource],
                    }
                ],
                "failurePolicy": "Fail",
                "timeoutSeconds": 1,
                "sideEffects": "None",
                "admissionReviewVersions": ["v1"],
            }
        ],
    }
    with applied(world, manifest):
        probe = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "probe", "namespace": world.namespace},
        }
        if resource == "secrets":
            eventually(
                "the webhook is in force",
                lambda: (
                    world.kubectl.run(
                        "create", "--dry-run=server", "-f", "-", text=json.dumps(probe)
                    ).returncode
                ),
            )
        yield


@contextmanager
def limit_range(world: World) -> Iterator[None]:
    """Containers must be larger than a driver is."""
    with applied(
        world,
        {
            "apiVersion": "v1",
            "kind": "LimitRange",
            "metadata": {"name": "large", "namespace": world.namespace},
            "spec": {"limits": [{"type": "Container", "min": {"memory": "1Gi"}}]},
        },
    ):
        time.sleep(1)
        yield


@contextmanager
def injected(world: World) -> Iterator[None]:
    """Somebody injects what Pod Security does not allow: a policy in place of a webhook."""
    name = f"inject-{world.namespace}"
    policy = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingAdmissionPolicy",
        "metadata": {"name": name},
        "spec": {
            "failurePolicy": "Fail",
            "reinvocationPolicy": "Never",
            "matchConstraints": {
                "namespaceSelector": {"matchLabels": {HERE: world.namespace}},
                "resourceRules": [
                    {
                        "apiGroups": [""],
                        "apiVersions": ["v1"],
                        "operations": ["CREATE"],
                        "resources": ["pods"],
                    }
                ],
            },
            "mutations": [
                {
                    "patchType": "ApplyConfiguration",
                    "applyConfiguration": {
                        "expression": "Object{spec: Object.spec{hostNetwork: true}}"
                    },
                }
            ],
        },
    }
    binding = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingAdmissionPolicyBinding",
        "metadata": {"name": name},
        "spec": {"policyName": name},
    }
    probe = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "probe", "namespace": world.namespace},
        "spec": {"containers": [{"name": "one", "image": "one"}]},
    }
    with applied(world, policy), applied(world, binding):
        eventually(
            "the policy is in force",
            lambda: (
                "hostNetwork"
                in world.kubectl.run(
                    "create", "--dry-run=server", "-f", "-", text=json.dumps(probe)
                ).stderr
            ),
        )
        yield


NOWHERE = "https://127.0.0.1:9/mutate"


@contextmanager
def slow_injector(world: World) -> Iterator[None]:
    """An injector that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"https://127.0.0.1:{silent.getsockname()[1]}/mutate"
        with webhook(world, "pods", "", kind="MutatingWebhookConfiguration", url=url):
            yield


OBSTACLES: dict[str, tuple[Callable[[World], Any], str]] = {
    "a quota on pods": (lambda w: quota(w, pods="0"), "exceeded quota: none"),
    "a quota on secrets": (lambda w: quota(w, secrets="0"), "exceeded quota: none"),
    "a quota on nodes": (
        lambda w: quota(w, count__gpunodes_gpujob_dev="0"),
        "exceeded quota: none",
    ),
    "an injector that is down": (
        lambda w: webhook(w, "pods", "", kind="MutatingWebhookConfiguration", url=NOWHERE),
        'failed calling webhook "down.example.com"',
    ),
    "an injector that is slow": (slow_injector, "context deadline exceeded"),
    "a webhook on secrets that is down": (
        lambda w: webhook(w, "secrets", "", kind="ValidatingWebhookConfiguration", url=NOWHERE),
        'failed calling webhook "down.example.com"',
    ),
    "a webhook on nodes that is down": (
        lambda w: webhook(
            w, "gpunodes", "gpujob.dev", kind="ValidatingWebhookConfiguration", url=NOWHERE
        ),
        'failed calling webhook "down.example.com"',
    ),
    "a limit range": (limit_range, "minimum memory usage per Container is 1Gi"),
    "pod security": (injected, 'violates PodSecurity "restricted'),
}


def refusals(world: World) -> list[Object]:
    """Returns the events that tell of a refusal."""
    found = world.kubectl.items("events", "-n", world.namespace)
    return [one for one in found if one["reason"] == "ClusterRefused"]


@pytest.mark.shared_world
@pytest.mark.parametrize("name", sorted(OBSTACLES))
def test_what_a_cluster_refuses_is_told_and_waited_for(world: World, name: str) -> None:
    """Nothing is rented and nothing counts; it goes on within a minute once it is repaired."""
    made, words = OBSTACLES[name]
    with made(world):
        world.apply_job("train", command=["true"], maxRents=1)
        world.await_reason("train", "ClusterRefused")
        eventually("an event", lambda: refusals(world))
        world.await_listings(20)

        message = world.condition("train", "Ready")["message"]
        assert words in message
        (event,) = refusals(world)
        assert (event["type"], event["involvedObject"]["kind"]) == ("Warning", "GpuJob")
        assert words in event["message"]
        assert world.simulator.rents() == 0
    eventually(
        "it goes on",
        lambda: world.condition("train", "Ready")["reason"] != "ClusterRefused",
        60,
    )
    job = world.await_reason("train", "Complete")

    assert [one["reason"] for one in job["status"]["attempts"]] == ["Completed"]
    assert job["status"].get("disruptions", 0) == 0
    assert len(world.simulator.of(job)) == 1


@pytest.mark.shared_world
def test_a_name_that_is_taken_is_left_to_its_owner(world: World) -> None:
    """The driver pod gets another one."""
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "train-0-1-driver", "namespace": world.namespace},
        "spec": {
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 1,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [
                {
                    "name": "theirs",
                    "image": "theirs",
                    "securityContext": {
                        "allowPrivilegeEscalation": False,
                        "capabilities": {"drop": ["ALL"]},
                    },
                }
            ],
        },
    }
    world.kubectl.apply(pod)
    world.apply_job("train")
    world.await_reason("train", "Complete")
    node = world.kubectl.get("gpunode", "train-0-1", world.namespace) or {}

    assert node["status"]["driver"]["podName"] == "train-0-1-driver-2"
    assert world.kubectl.get("pod", "train-0-1-driver", world.namespace)


def test_a_driver_whose_node_dies_is_followed_by_another(stage: World) -> None:
    """Its pod stays Terminating; the machine and the work on it are kept, and paid once."""
    stage.operator.start(GPUJOB_DRIVER_REPLACEMENT_SECONDS="8")
    stage.apply_job("train", command=stage.waits("echo start", "echo end"))
    stage.await_reason("train", "Running")
    held = '{"metadata":{"finalizers":["example.com/kubelet"]}}'
    pod = ("pod", "train-0-1-driver", "-n", stage.namespace)
    stage.kubectl("patch", *pod, "--type=merge", "-p", held)
    stage.pods.cut_off("train-0-1-driver")

    def recorded() -> str:
        node = stage.kubectl.get("gpunode", "train-0-1", stage.namespace) or {}
        name: str = node.get("status", {}).get("driver", {}).get("podName", "")
        return name

    eventually("another one is recorded", lambda: recorded() == "train-0-1-driver-2")
    eventually("it has the work", lambda: "start\n" in stage.pods.log("train-0-1-driver-2"))
    stage.let_go()
    job = stage.await_reason("train", "Complete")

    assert stage.kubectl.get(*pod[:2], stage.namespace), "it stays until its node is removed"
    (lease,) = stage.simulator.of(job)
    assert lease["state"] == "destroyed"
    assert [one["reason"] for one in job["status"]["attempts"]] == ["Completed"]
    stage.kubectl("patch", *pod, "--type=merge", "-p", '{"metadata":{"finalizers":null}}')


@pytest.mark.shared_world
def test_a_driver_that_is_evicted_is_followed_by_another(world: World) -> None:
    """Its pod has failed, and no container of it says how; the work on the machine is kept."""
    world.apply_job("train", command=world.waits("echo start", "echo end"))
    world.await_reason("train", "Running")
    world.pods.cut_off("train-0-1-driver")
    words = "The node was low on resource: memory. "
    status = {"phase": "Failed", "reason": "Evicted", "message": words}
    path = f"{path_of('pods', 'train-0-1-driver', world.namespace)}/status"
    merge = "application/merge-patch+json"
    code, answer = world.kubectl.client.send("PATCH", path, {"status": status}, merge)
    assert code == 200, answer
    eventually("another has the work", lambda: "start\n" in world.pods.log("train-0-1-driver-2"))
    world.let_go()
    job = world.await_reason("train", "Complete")

    assert len(world.simulator.of(job)) == 1
    assert [one["reason"] for one in job["status"]["attempts"]] == ["Completed"]


@pytest.mark.shared_world
def test_the_node_of_an_orphaned_job_gives_way(world: World) -> None:
    """`kubectl delete --cascade=orphan`, then a job with the same name."""
    world.apply_job("train", command=["true"])
    first = world.await_reason("train", "Complete")
    world.kubectl("delete", "gpujob", "train", "-n", world.namespace, "--cascade=orphan")
    world.apply_job("train", command=["true"])

    def again() -> Object | None:
        job = world.job("train")
        is_other = job and job["metadata"]["uid"] != first["metadata"]["uid"]
        return (
            job
            if is_other and world.condition("train", "Complete").get("status") == "True"
            else None
        )

    job = eventually("it runs again", again, 120)
    assert job["status"]["attempt"] == 1
    assert len(world.simulator.of(job)) == 1
