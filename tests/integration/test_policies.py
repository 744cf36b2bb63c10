"""What the chart's admission policies refuse, whoever asks: also an administrator."""

import copy
import json
from collections.abc import Callable

import pytest
from tests.builders import a_world, node_observation
from tests.integration.client import path_of
from tests.integration.conftest import World
from tests.integration.corpus import GOOD
from tests.integration.parts import DRIVER_IMAGE, Kubectl, Object, eventually

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
    assert len(policies) == 7
    assert [one["status"]["typeChecking"] for one in policies] == [{}] * 7


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
    pod = driver_pod(node_observation(world=a_world(driver_image=DRIVER_IMAGE)))
    pod["metadata"]["namespace"] = namespace
    return pod


def dry_run(kubectl: Kubectl, pod: Object) -> tuple[int, str]:
    """Asks the API server to create a pod, without creating it."""
    _, refused = kubectl.client.dry_run(pod)
    return int(bool(refused)), refused


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
        # Of several policies that refuse it, the API server tells what any one says.
        assert words in told or (asker is operators and "gpujob-system-gpujob-pods" in told)
    assert dry_run(kubectl, plain)[0] == 0, "it is refused as a driver, and as nothing else"


def _another_image(pod: Object) -> None:
    pod["spec"]["containers"][0]["image"] = "evil.example.com/driver:1"


def _another_tag(pod: Object) -> None:
    pod["spec"]["containers"][0]["image"] += "-1"


def _nobodys(pod: Object) -> None:
    del pod["metadata"]["ownerReferences"]


def _owned_by(**changed: object) -> Callable[[Object], None]:
    def change(pod: Object) -> None:
        pod["metadata"]["ownerReferences"][0] |= changed

    change.__name__ = f"_owned_by_another_{'_'.join(changed)}"
    return change


FOREIGN: tuple[tuple[Callable[[Object], None], str], ...] = (
    (_another_image, f"must run {DRIVER_IMAGE}, not evil.example.com/driver:1"),
    (_another_tag, f"must run {DRIVER_IMAGE}, not {DRIVER_IMAGE}-1"),
    (_nobodys, "must belong to a GpuNode"),
    (_owned_by(kind="GpuJob"), "must belong to a GpuNode"),
    (_owned_by(apiVersion="gpujob.dev.example.com/v1"), "must belong to a GpuNode"),
    (_owned_by(controller=False), "must belong to a GpuNode"),
)


@pytest.mark.parametrize(("change", "words"), FOREIGN, ids=[row[0].__name__ for row in FOREIGN])
def test_the_controller_creates_only_drivers(
    operators: Kubectl, namespace: str, change: Callable[[Object], None], words: str
) -> None:
    """Of the image that the chart names, for a GpuNode."""
    pod = pod_of(namespace)
    assert dry_run(operators, pod) == (0, "")
    change(pod)
    status, told = dry_run(operators, pod)

    assert status != 0
    assert words in told


def a_secret(namespace: str, kind: str) -> Object:
    """Returns a Secret of a type, as the API server takes it."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": "forged",
            "namespace": namespace,
            "annotations": {"kubernetes.io/service-account.name": "default"},
        },
        "type": kind,
        "data": {"tls.crt": "", "tls.key": ""},
    }


def test_the_controller_creates_only_secrets_of_its_own_types(
    kubectl: Kubectl, operators: Kubectl, namespace: str
) -> None:
    """For the type of service accounts, the API server would add a token."""
    ours, of_ours = "gpujob.dev/ssh-key", "kubernetes.io/tls"
    theirs = ("kubernetes.io/service-account-token", "bootstrap.kubernetes.io/token", "Opaque")
    for place, kind in ((namespace, ours), ("gpujob-system", ours), ("gpujob-system", of_ours)):
        assert dry_run(operators, a_secret(place, kind))[0] == 0
    wrong = [(place, kind) for place in (namespace, "gpujob-system") for kind in theirs]
    for place, kind in (*wrong, ("kube-system", theirs[0]), (namespace, of_ours)):
        status, told = dry_run(operators, a_secret(place, kind))
        assert status != 0, (place, kind)
        assert "the operator may create only Secrets of the type gpujob.dev/ssh-key" in told
        assert dry_run(kubectl, a_secret(place, kind))[0] == 0, "others may"


def test_the_controller_changes_no_job(
    kubectl: Kubectl, operators: Kubectl, namespace: str
) -> None:
    """Only its marks on it, and its status."""
    metadata = {
        "name": "train",
        "namespace": namespace,
        "labels": {"team": "vision"},
        "annotations": {"note": "kept"},
    }
    kubectl.apply(
        {"apiVersion": "gpujob.dev/v1alpha1", "kind": "GpuJob", "metadata": metadata, "spec": GOOD}
    )

    def patched(by: Kubectl, patch: Object, *more: str) -> str:
        where = ("gpujob", "train", "-n", namespace, *more)
        return by.run("patch", *where, "--type=merge", "-p", json.dumps(patch)).stderr

    owner = {"apiVersion": "v1", "kind": "ConfigMap", "name": "a", "uid": "b"}
    wrong: tuple[tuple[Object, str], ...] = (
        ({"spec": {"cost": {"ceiling": "999"}}}, "may not change the spec"),
        ({"spec": {"driver": {"labels": {"a": "b"}}}}, "may not change the spec"),
        ({"metadata": {"labels": {"team": "mine"}}}, "may change only the finalizers"),
        ({"metadata": {"labels": None}}, "may change only the finalizers"),
        ({"metadata": {"annotations": {"note": "mine"}}}, "may change only the finalizers"),
        ({"metadata": {"annotations": {"note": None}}}, "may change only the finalizers"),
        ({"metadata": {"annotations": {"more": "x"}}}, "may change only the finalizers"),
        ({"metadata": {"ownerReferences": [owner]}}, "may change only the finalizers"),
    )
    for patch, words in wrong:
        assert words in patched(operators, patch)
        assert patched(kubectl, patch, "--dry-run=server") == "", "others may"
    own = {"finalizers": ["gpujob.dev/machine"], "annotations": {"gpujob.dev/finished": "x"}}
    assert patched(operators, {"metadata": own}) == ""
    stored = kubectl.get("gpujob", "train", namespace) or {}
    stored["status"]["attempt"] = 1
    path = f"{path_of('gpujobs', 'train', namespace)}/status"
    assert operators.client.send("PUT", path, stored)[0] == 200
    none = {"finalizers": None, "annotations": {"gpujob.dev/finished": None}}
    assert patched(operators, {"metadata": none}) == ""
