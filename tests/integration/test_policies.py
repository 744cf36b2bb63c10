"""What the chart's admission policies refuse, whoever asks: also an administrator."""

import copy
import json
from collections.abc import Callable

import pytest
from tests.builders import node_observation
from tests.integration.conftest import World
from tests.integration.corpus import GOOD
from tests.integration.parts import Kubectl, Object, eventually

from gpujob.core.machine.driver_pod import driver_pod


@pytest.mark.shared_world
def test_the_ledger_is_written_by_the_operator_alone(world: World) -> None:
    """No GpuNode and no status of another's making; metadata stays with RBAC."""
    world.apply_job("train")
    world.await_reason("train", "Complete")
    kubectl, here = world.kubectl, ("-n", world.namespace)
    node = kubectl.get("gpunode", "train-0-1", world.namespace) or {}
    forged = {
        "apiVersion": "gpujob.dev/v1alpha1",
        "kind": "GpuNode",
        "metadata": {"name": "forged", "namespace": world.namespace},
        "spec": node["spec"],
    }
    status = ("--subresource=status", "--type=merge", "-p")
    refused = (
        (kubectl.run("create", "-f", "-", text=json.dumps(forged)), "create a GpuJob"),
        (
            kubectl.run(
                "patch",
                *("gpunode", "train-0-1", *here, "--type=merge", "-p"),
                '{"spec":{"attempt":2}}',
            ),
            "spec is immutable",
        ),
        (
            kubectl.run("patch", "gpunode", "train-0-1", *here, *status, '{"status":{"end":null}}'),
            "only the operator may write the status",
        ),
        (
            kubectl.run("patch", "gpujob", "train", *here, *status, '{"status":{"attempt":9}}'),
            "only the operator may write the status",
        ),
    )

    for done, words in refused:
        assert done.returncode != 0
        assert words in done.stderr
    kubectl("label", "gpunode", "train-0-1", *here, "team=vision")
    kubectl("annotate", "gpujob", "train", *here, "note=kept")
    kubectl("delete", "gpunode", "train-0-1", *here, "--timeout=240s")


@pytest.mark.shared_world
@pytest.mark.parametrize("place", ["gpujob-system", "kube-system"])
def test_no_job_may_read_the_operators_secrets(world: World, place: str) -> None:
    """A driver is given each Secret of its namespace that the job names."""
    manifest = {
        "apiVersion": "gpujob.dev/v1alpha1",
        "kind": "GpuJob",
        "metadata": {"name": "train", "namespace": place},
        "spec": GOOD,
    }
    done = world.kubectl.run("create", "--dry-run=server", "-f", "-", text=json.dumps(manifest))

    assert done.returncode != 0
    assert f"no GpuJob may be in {place}" in done.stderr


LAX: tuple[tuple[str, Object, str], ...] = (
    ("no CPU", {"resources": {"limits": {"cpu": 0}}}, "limits.cpu"),
    ("no CPU, as text", {"resources": {"limits": {"cpu": "0m"}}}, "limits.cpu"),
    ("no memory", {"resources": {"limits": {"memory": "0.00Gi"}}}, "limits.memory"),
    ("less than none", {"resources": {"limits": {"memory": -1}}}, "limits.memory"),
    ("no storage", {"resources": {"limits": {"ephemeral-storage": "00"}}}, "ephemeral-storage"),
    *(
        (key, {"annotations": {key: "unconfined"}}, "may not set how the driver is confined")
        for key in (
            "container.apparmor.security.beta.kubernetes.io/driver",
            "container.seccomp.security.alpha.kubernetes.io/driver",
            "seccomp.security.alpha.kubernetes.io/pod",
        )
    ),
)


@pytest.mark.parametrize(("driver", "words"), [row[1:] for row in LAX], ids=[r[0] for r in LAX])
def test_the_schema_alone_keeps_drivers_limited_and_confined(
    kubectl: Kubectl, namespace: str, driver: Object, words: str
) -> None:
    """There is no webhook here."""
    manifest = {
        "apiVersion": "gpujob.dev/v1alpha1",
        "kind": "GpuJob",
        "metadata": {"name": "train", "namespace": namespace},
        "spec": GOOD,
    }
    assert dry_run(kubectl, manifest) == (0, "")
    status, told = dry_run(kubectl, manifest | {"spec": GOOD | {"driver": driver}})

    assert status != 0
    assert words in told


def test_the_policies_read_only_fields_that_there_are(kubectl: Kubectl) -> None:
    """The API server has checked the expressions against the kinds, and warns of nothing."""

    def checked() -> list[Object]:
        items = json.loads(kubectl("get", "validatingadmissionpolicies", "-o", "json"))["items"]
        ours = [one for one in items if one["metadata"]["name"].startswith("gpujob-system-gpujob-")]
        return ours if all("typeChecking" in one.get("status", {}) for one in ours) else []

    policies = eventually("the policies are checked", checked)
    assert len(policies) == 3
    assert [one["status"]["typeChecking"] for one in policies] == [{}] * 3


def _writable(pod: Object) -> None:
    pod["spec"]["containers"][0]["securityContext"]["readOnlyRootFilesystem"] = False


def _unlimited(pod: Object) -> None:
    del pod["spec"]["containers"][0]["resources"]["limits"]["memory"]


def _limit_of(name: str) -> Callable[[Object], None]:
    def loosen(pod: Object) -> None:
        resources = pod["spec"]["containers"][0]["resources"]
        # The requests must not be more than the limits.
        resources["requests"][name] = resources["limits"][name] = "0"

    loosen.__name__ = f"_no_{name}"
    return loosen


def _nobody_in_particular(pod: Object) -> None:
    del pod["spec"]["securityContext"]["runAsUser"]


def _token_mounted(pod: Object) -> None:
    pod["spec"]["automountServiceAccountToken"] = True


def _token_for_the_cluster(pod: Object) -> None:
    del pod["spec"]["volumes"][1]["projected"]["sources"][0]["serviceAccountToken"]["audience"]


def _port_below_1024(pod: Object) -> None:
    pod["spec"]["containers"][0]["securityContext"]["capabilities"]["add"] = ["NET_BIND_SERVICE"]


LOOSE: tuple[tuple[Callable[[Object], None], str], ...] = (
    (_writable, "must set securityContext.readOnlyRootFilesystem"),
    (_unlimited, "must have CPU and memory limits"),
    (_limit_of("cpu"), "must have CPU and memory limits of more than 0"),
    (_limit_of("memory"), "must have CPU and memory limits of more than 0"),
    (_nobody_in_particular, "must run as a numeric user that is not root"),
    (_token_mounted, "must not have a service account token except"),
    (_token_for_the_cluster, "must not have a service account token except"),
    (_port_below_1024, "must not add a capability"),
)


def pod_of(namespace: str) -> Object:
    """Returns a driver pod as the operator makes it."""
    pod = driver_pod(node_observation())
    pod["metadata"]["namespace"] = namespace
    return pod


def dry_run(kubectl: Kubectl, pod: Object) -> tuple[int, str]:
    """Asks the API server to create a pod, without creating it."""
    done = kubectl.run("create", "--dry-run=server", "-f", "-", text=json.dumps(pod))
    return done.returncode, done.stderr


@pytest.mark.parametrize(("loosen", "words"), LOOSE, ids=[row[0].__name__ for row in LOOSE])
def test_a_driver_is_held_to_more_than_pod_security(
    kubectl: Kubectl,
    operators: Kubectl,
    namespace: str,
    loosen: Callable[[Object], None],
    words: str,
) -> None:
    """All of these pass the restricted profile; none of them is a driver's to have.

    Whatever the controller creates is a driver: it cannot leave the labels off. So is what bears
    them, whoever creates it.
    """
    pod = pod_of(namespace)
    plain = copy.deepcopy(pod)
    del plain["metadata"]["labels"]
    asked = ((kubectl, pod), (operators, pod), (operators, plain))
    for asker, one in asked:
        assert dry_run(asker, one) == (0, "")
    loosen(pod)
    loosen(plain)

    for asker, one in asked:
        status, told = dry_run(asker, one)
        assert status != 0
        assert words in told
    assert dry_run(kubectl, plain)[0] == 0, "it is refused as a driver, and as nothing else"
