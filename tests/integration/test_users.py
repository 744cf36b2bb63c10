"""What a user does who has one role of the chart and nothing else: by kubectl, in his name."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from tests.integration.conftest import World
from tests.integration.corpus import GOOD
from tests.integration.parts import Kubectl, eventually
from tests.integration.test_bad_input import manifest

SYSTEM = "gpujob-system"


class User:
    """Somebody, by impersonation; where he has a role, he has no other one."""

    def __init__(self, kubectl: Kubectl, name: str, namespace: str) -> None:
        self._kubectl, self._name, self._namespace = kubectl, name, namespace

    def run(self, *arguments: str, text: str = "") -> "subprocess.CompletedProcess[str]":
        """Runs kubectl in his name."""
        options = (f"--as={self._name}", "-n", self._namespace)
        return self._kubectl.run(*arguments, *options, text=text)

    def __call__(self, *arguments: str, text: str = "") -> str:
        """Runs it and returns its output; fails with its error."""
        done = self.run(*arguments, text=text)
        assert done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stderr}"
        return done.stdout

    def may(self, verb: str, resource: str) -> bool:
        """Whether the API server lets him."""
        return self.run("auth", "can-i", verb, *resource.split(" ")).returncode == 0


@contextmanager
def bound(kubectl: Kubectl, role: str, namespace: str) -> Iterator[User]:
    """A new user with this role in a namespace; `clusterrole/NAME` or `role/NAME`."""
    kind, _, name = role.partition("/")
    user = f"only-{name}"
    kubectl("create", "rolebinding", user, f"--{kind}={name}", f"--user={user}", "-n", namespace)
    try:
        yield User(kubectl, user, namespace)
    finally:
        kubectl("delete", "rolebinding", user, "-n", namespace)


@pytest.mark.shared_world
def test_whoever_may_edit_needs_nothing_else(world: World) -> None:
    """He applies, waits, reads, describes, suspends and deletes; nobody else's things are his."""
    kubectl, namespace = world.kubectl, world.namespace
    with bound(kubectl, "clusterrole/gpujob-system-gpujob-edit", namespace) as user:
        eventually("the role is known", lambda: user.may("create", "gpujobs"))
        text = manifest(namespace, GOOD | {"command": world.waits("echo hello")}, "mine")
        user("apply", "--server-side", "-f", "-", text=text)
        user("apply", "--server-side", "-f", "-", text=text)
        user("create", "-f", "-", text=manifest(namespace, GOOD | {"suspend": True}, "held"))
        user("wait", "--for=condition=Running", "gpujob/mine", "--timeout=200s")
        world.let_go()
        user("wait", "--for=condition=Complete", "gpujob/mine", "--timeout=200s")
        user("wait", "--for=jsonpath={.status.phase}=Complete", "gpujob/mine", "--timeout=20s")
        user(
            "patch",
            "gpujob",
            "held",
            "--type=merge",
            "-p",
            '{"spec":{"ttlSecondsAfterFinished":9}}',
        )
        assert "Complete" in user("get", "gpujobs,gpunodes", "-o", "wide")
        assert "Completed" in user("describe", "gpunode", "mine-0-1")
        told = user("describe", "gpujob", "mine")
        events = [line.split()[1] for line in told.partition("Events:")[2].splitlines()[3:] if line]
        assert events == ["Admitted", "Rented", "Running", "Complete"]
        assert "mine-0-1-driver" in user("get", "pods", "-l", "gpujob.dev/job=mine")
        for right in ("get pods --subresource=log", "create pods --subresource=portforward"):
            assert user.may(*right.split(" ", 1)), right
        user("delete", "gpujobs", "--all", "--timeout=100s")
        for wrong in (
            *("get secrets", "create pods", "create pods --subresource=exec", "create events"),
            *("create gpunodes", "delete gpunodes", "update gpujobs --subresource=status"),
        ):
            assert not user.may(*wrong.split(" ", 1)), wrong


@pytest.mark.shared_world
def test_whoever_may_view_reads_all_and_changes_nothing(world: World) -> None:
    """The same things."""
    kubectl, namespace = world.kubectl, world.namespace
    world.apply_job("theirs")
    world.await_reason("theirs", "Complete")
    with bound(kubectl, "clusterrole/gpujob-system-gpujob-view", namespace) as user:
        eventually("the role is known", lambda: user.may("list", "gpujobs"))
        assert "Rented" in user("describe", "gpujob", "theirs")
        assert "theirs-0-1" in user("get", "gpunodes,pods", "-o", "name")
        assert user.may("get", "pods --subresource=log")
        for wrong in ("create gpujobs", "patch gpujobs", "create pods --subresource=portforward"):
            assert not user.may(*wrong.split(" ", 1)), wrong


def test_whoever_may_forward_a_port_to_the_api_finds_its_pod_and_nothing_else(
    kubectl: Kubectl,
) -> None:
    """What `kubectl port-forward service/gpujob-server` asks for, up to the kubelet."""
    containers = [
        {"name": "server", "image": "x", "ports": [{"name": "api", "containerPort": 8444}]}
    ]
    with bound(kubectl, "role/gpujob-api-port-forward", SYSTEM) as user:
        eventually("the role is known", lambda: user.may("list", "pods"))
        assert user.may("get", "services/gpujob-server")
        assert user.may("create", "pods --subresource=portforward")
        for wrong in ("get secrets", "get services/gpujob", "get pods --subresource=log"):
            assert not user.may(*wrong.split(" ", 1)), wrong
        selector = json.loads(
            kubectl("get", "service", "gpujob-server", "-n", SYSTEM, "-o", "json")
        )["spec"]["selector"]
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "server", "namespace": SYSTEM, "labels": selector},
            "spec": {"containers": containers},
        }
        kubectl.apply(pod)
        try:
            forward = ("port-forward", "service/gpujob-server", "8444", "--pod-running-timeout=2s")
            told = user.run(*forward).stderr
            assert "pod is not running" in told or "timed out waiting for the condition" in told, (
                told
            )
        finally:
            kubectl("delete", "pod", "server", "-n", SYSTEM, "--force")
