"""Driver pods in clusters that somebody has set up: injectors, quotas, policies, other users."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from kubernetes.aio import client, config
from tests.builders import RECORDED, a_job, a_spec, a_world, node_observation
from tests.integration.conftest import World
from tests.integration.injector import (
    RANGE,
    TOKEN,
    Change,
    as_a_classic_mesh,
    as_a_mesh_with_cni,
    as_a_mesh_with_native_sidecars,
    as_restricted_v2,
    injecting,
    proxy,
)
from tests.integration.parts import DRIVER_IMAGE, Kubectl, Object, eventually

from gpujob.adapters.errors import ClusterUnavailable
from gpujob.adapters.kube import KubeClient
from gpujob.core.machine.driver_defaults import STANDARD, DriverDefaults
from gpujob.core.machine.driver_pod import CONTAINER, driver_pod

MESH = {"key": "sidecar.istio.io/inject", "operator": "NotIn", "values": ["false"]}
"""As Istio's webhook is configured: pods with this label are left alone."""


@pytest.fixture
def lax(kubectl: Kubectl, namespace: str) -> str:
    """A namespace for which no level of Pod Security is enforced."""
    kubectl("label", "namespace", namespace, "pod-security.kubernetes.io/enforce-")
    return namespace


def a_driver(
    namespace: str, driver: Object | None = None, of_job: Object | None = None, **chart: Any
) -> Object:
    """The pod of a job with this `spec.driver` and these labels, by these values of the chart.

    All labels of the job are handed on.
    """
    defaults = DriverDefaults.model_validate(STANDARD.wire() | chart)
    world = a_world(driver=defaults, labels_to_copy=tuple(of_job or {}), driver_image=DRIVER_IMAGE)
    job = a_job(a_spec(driver=driver), RECORDED, labels=of_job or {})
    pod = driver_pod(node_observation(job=job, world=world))
    pod["metadata"]["namespace"] = namespace
    return pod


def created(kubectl: Kubectl, pod: Object) -> tuple[Object, str]:
    """The pod as the API server would store it; or nothing, and why not."""
    return kubectl.client.dry_run(pod)


def names(pod: Object) -> list[str]:
    """The names of its containers, those first that start first."""
    spec = pod["spec"]
    return [one["name"] for one in (*spec.get("initContainers", []), *spec["containers"])]


INJECTED = {"labels": {"sidecar.istio.io/inject": "true"}}
MESHES: tuple[tuple[Change, list[str]], ...] = (
    (as_a_mesh_with_cni, ["istio-validation", "a-proxy", "driver"]),
    (as_a_mesh_with_native_sidecars, ["a-proxy", "driver"]),
)


@pytest.mark.parametrize(("mesh", "found"), MESHES, ids=[row[0].__name__ for row in MESHES])
def test_drivers_stay_out_of_a_mesh_unless_they_are_let_in(
    kubectl: Kubectl, operators: Kubectl, namespace: str, mesh: Change, found: list[str]
) -> None:
    """By the chart's labels; one that is let in is not refused for what the mesh adds."""
    with injecting(kubectl, namespace, mesh, MESH):
        out, _ = created(operators, a_driver(namespace))
        into, words = created(operators, a_driver(namespace, INJECTED))

    assert names(out) == ["driver"]
    assert words == ""
    assert names(into) == found


def test_a_mesh_that_needs_rights_is_named_with_what_to_do(
    kubectl: Kubectl, operators: Kubectl, lax: str
) -> None:
    """Where Pod Security does not refuse it, our own policy does."""
    with injecting(kubectl, lax, as_a_classic_mesh, MESH):
        _, words = created(operators, a_driver(lax, INJECTED))

    assert "container istio-init of a driver's pod must set allowPrivilegeEscalation" in words
    assert "by driver.labels and driver.annotations of the chart" in words
    assert "CNI plugin" in words
    assert "container driver" not in words
    assert "a-proxy" not in words


def _as_root(pod: Object) -> None:
    context = proxy()["securityContext"] | {"runAsUser": 0}
    pod["spec"]["containers"].append(proxy(volumeMounts=[], securityContext=context))


def _unconfined(pod: Object) -> None:
    context = proxy()["securityContext"] | {"seccompProfile": {"type": "Unconfined"}}
    pod["spec"]["containers"].append(proxy(volumeMounts=[], securityContext=context))


def _files_of_the_node(pod: Object) -> None:
    pod["spec"]["volumes"].append({"name": "cgroups", "hostPath": {"path": "/sys"}})


def _network_of_the_node(pod: Object) -> None:
    pod["spec"]["hostNetwork"] = True


def _token_for_the_cluster(pod: Object) -> None:
    sources = [{"serviceAccountToken": {"path": "token"}}]
    pod["spec"]["volumes"].append({"name": "kube-api-access", "projected": {"sources": sources}})


def _mesh_token_for_the_driver(pod: Object) -> None:
    pod["spec"]["volumes"].append(TOKEN)
    mount = {"name": "istio-token", "mountPath": "/mesh"}
    pod["spec"]["containers"][0]["volumeMounts"].append(mount)


def _another_account(pod: Object) -> None:
    pod["spec"]["serviceAccountName"] = "deployer"


def _another_driver(pod: Object) -> None:
    pod["spec"]["containers"][0]["name"] = "main"


def _volume(name: str, source: Object) -> Change:
    def change(pod: Object) -> None:
        pod["spec"]["volumes"].append({"name": "more", name: source})

    change.__name__ = f"_volume_{name}"
    return change


def _sidecar(name: str, **more: Any) -> Change:
    def change(pod: Object) -> None:
        more.setdefault("securityContext", proxy()["securityContext"])
        pod["spec"]["containers"].append(proxy(volumeMounts=[], **more))

    change.__name__ = f"_sidecar_{name}"
    return change


def _sidecars_context(name: str, **more: Any) -> Change:
    return _sidecar(name, securityContext=proxy()["securityContext"] | more)


def _pods_context(name: str, **more: Any) -> Change:
    def change(pod: Object) -> None:
        pod["spec"]["securityContext"] |= more

    change.__name__ = f"_pods_{name}"
    return change


def _no_app_armor(pod: Object) -> None:
    key = "container.apparmor.security.beta.kubernetes.io/driver"
    pod["metadata"]["annotations"][key] = "unconfined"


def _proc_unmasked(pod: Object) -> None:
    pod["spec"]["hostUsers"] = False
    _sidecars_context("proc", procMount="Unmasked")(pod)


def _port_of_the_node_before(pod: Object) -> None:
    ports = [{"containerPort": 80, "hostPort": 80}]
    pod["spec"]["initContainers"] = [proxy(volumeMounts=[], ports=ports)]


def _node(pod: Object) -> None:
    pod["spec"]["nodeName"] = "control-plane"


def _device(pod: Object) -> None:
    pod["spec"]["resourceClaims"] = [{"name": "gpu", "resourceClaimName": "gpu"}]


VOLUMES: dict[str, Object] = {
    "gitRepo": {"repository": "https://example.com/x.git"},
    "flexVolume": {"driver": "example.com/lvm"},
    "nfs": {"server": "10.0.0.1", "path": "/"},
    "iscsi": {"targetPortal": "10.0.0.1:3260", "iqn": "iqn.2001-04.com.example:a", "lun": 0},
    "rbd": {"monitors": ["10.0.0.1:6789"], "image": "x"},
    "cephfs": {"monitors": ["10.0.0.1:6789"]},
    "glusterfs": {"endpoints": "x", "path": "x"},
    "fc": {"wwids": ["3600508b400105e210000900000490000"]},
    "awsElasticBlockStore": {"volumeID": "vol-1"},
    "gcePersistentDisk": {"pdName": "disk-1"},
    "azureFile": {"secretName": "x", "shareName": "x"},
}
ELSEWHERE = {"httpGet": {"host": "169.254.169.254", "port": 80}}
"""A request of the kubelet, which is not held to the networks of pods."""

BROKEN: tuple[tuple[Change, str], ...] = (
    *((_volume(*row), "volume more of a driver's pod must be") for row in VOLUMES.items()),
    (
        _volume(
            "projected",
            {"sources": [{"clusterTrustBundle": {"name": "roots", "path": "ca.crt"}}]},
        ),
        "volume more of a driver's pod may project only",
    ),
    (
        _sidecar("port", ports=[{"containerPort": 80, "hostPort": 80}]),
        "container a-proxy of a driver's pod must not have a hostPort",
    ),
    (_port_of_the_node_before, "container a-proxy of a driver's pod must not have a hostPort"),
    (
        _sidecars_context("app_armor", appArmorProfile={"type": "Unconfined"}),
        "container a-proxy of a driver's pod must be confined by AppArmor",
    ),
    (
        _pods_context("app_armor", appArmorProfile={"type": "Unconfined"}),
        "container driver of a driver's pod must be confined by AppArmor",
    ),
    (_no_app_armor, "container driver of a driver's pod must be confined by AppArmor"),
    (
        _sidecars_context("se_linux_type", seLinuxOptions={"type": "spc_t"}),
        "container a-proxy of a driver's pod must not choose",
    ),
    (
        _pods_context("se_linux_type", seLinuxOptions={"type": "spc_t"}),
        "container driver of a driver's pod must not choose",
    ),
    (
        _pods_context("se_linux_role", seLinuxOptions={"role": "unconfined_r"}),
        "container driver of a driver's pod must not choose",
    ),
    (
        _sidecars_context("se_linux_user", seLinuxOptions={"user": "unconfined_u"}),
        "container a-proxy of a driver's pod must not choose",
    ),
    (_proc_unmasked, "container a-proxy of a driver's pod must not set procMount"),
    (
        _pods_context("sysctl", sysctls=[{"name": "kernel.msgmax", "value": "65536"}]),
        "must not set the sysctl kernel.msgmax",
    ),
    (_node, "must not name its node"),
    (_device, "must not claim a device: remove resourceClaims gpu"),
    (
        _sidecar("probe", livenessProbe=ELSEWHERE),
        "container a-proxy of a driver's pod must not name a host in a probe",
    ),
    (
        _sidecar("hook", lifecycle={"preStop": ELSEWHERE}),
        "container a-proxy of a driver's pod must not name a host in a probe",
    ),
    (
        _sidecar(
            "tcp_probe", readinessProbe={"tcpSocket": {"host": "169.254.169.254", "port": 80}}
        ),
        "container a-proxy of a driver's pod must not name a host in a probe",
    ),
    (_as_root, "container a-proxy of a driver's pod must set runAsNonRoot"),
    (_unconfined, "container a-proxy of a driver's pod must have a seccompProfile"),
    (_files_of_the_node, "volume cgroups of a driver's pod must be"),
    (_network_of_the_node, "must not use the network, processes or files of its node"),
    (
        _token_for_the_cluster,
        "volume kube-api-access of a driver's pod has a service account token",
    ),
    (_mesh_token_for_the_driver, "container driver must not mount istio-token"),
    (_another_account, "nor another account than default"),
    (_another_driver, "one container with the name driver"),
)


@pytest.mark.parametrize(("change", "words"), BROKEN, ids=[row[0].__name__ for row in BROKEN])
def test_no_pod_of_the_operator_is_wider_than_the_restricted_level(
    kubectl: Kubectl, operators: Kubectl, lax: str, change: Change, words: str
) -> None:
    """Whoever adds it: an injector, or whoever has broken into the controller."""
    kubectl.run("create", "serviceaccount", "deployer", "-n", lax)
    pod = a_driver(lax)
    assert created(operators, pod)[1] == ""
    change(pod)

    # Of several policies that refuse it, the API server tells what any one says; that which holds
    # all drivers' pods is the only one for an administrator.
    assert words in created(kubectl, pod)[1]
    assert "gpujob-system-gpujob-" in created(operators, pod)[1]


@pytest.mark.parametrize("place", ["gpujob-system", "kube-system"])
def test_no_driver_is_where_the_clusters_own_programs_are(operators: Kubectl, place: str) -> None:
    """There it could read their Secrets."""
    _, words = created(operators, a_driver(place))

    assert "must not be in the operator's namespace or in one of the cluster's own" in words


def test_a_limit_range_is_met_by_other_resources(
    kubectl: Kubectl, operators: Kubectl, namespace: str
) -> None:
    """Of all drivers, or of one."""
    limits = [
        {"type": "Container", "min": {"memory": "128Mi"}, "maxLimitRequestRatio": {"cpu": "4"}}
    ]
    kubectl.apply(
        {
            "apiVersion": "v1",
            "kind": "LimitRange",
            "metadata": {"name": "house", "namespace": namespace},
            "spec": {"limits": limits},
        }
    )
    fits = {"requests": {"cpu": "250m", "memory": "128Mi"}}

    def refused() -> str:
        return created(operators, a_driver(namespace))[1]

    words = eventually("the range is in force", refused)
    assert "minimum memory usage per Container is 128Mi" in words
    assert "cpu max limit to request ratio per Container is 4" in words
    one = created(operators, a_driver(namespace, {"resources": fits}))
    every = created(operators, a_driver(namespace, resources=STANDARD.resources.wire() | fits))
    for pod, told in (one, every):
        assert told == ""
        assert pod["spec"]["containers"][0]["resources"] == fits | {
            "limits": {"cpu": "1", "memory": "256Mi"}
        }


@pytest.fixture
def every_pod_has_a_team(kubectl: Kubectl, namespace: str) -> Iterator[str]:
    """A namespace in which a policy wants a label."""
    name = f"team-{namespace}"
    kinds = {
        "apiGroups": [""],
        "apiVersions": ["v1"],
        "operations": ["CREATE"],
        "resources": ["pods"],
    }
    wants = "has(object.metadata.labels) && 'team' in object.metadata.labels"
    here = {"matchLabels": {"kubernetes.io/metadata.name": namespace}}
    api = "admissionregistration.k8s.io/v1"
    policy = {
        "apiVersion": api,
        "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": name},
        "spec": {
            "matchConstraints": {"resourceRules": [kinds]},
            "validations": [{"expression": wants, "message": "every pod must have the label team"}],
        },
    }
    binding = {
        "apiVersion": api,
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": name},
        "spec": {
            "policyName": name,
            "validationActions": ["Deny"],
            "matchResources": {"namespaceSelector": here},
        },
    }
    kubectl(
        "apply",
        "-f",
        "-",
        text=json.dumps({"kind": "List", "apiVersion": "v1", "items": [policy, binding]}),
    )
    yield namespace
    for kind in ("validatingadmissionpolicybinding", "validatingadmissionpolicy"):
        kubectl("delete", kind, name)


def test_a_label_that_every_pod_must_have_can_be_given(
    operators: Kubectl, every_pod_has_a_team: str
) -> None:
    """By the chart, by the job's own label, or by its spec.driver."""
    here, team = every_pod_has_a_team, {"team": "vision"}

    def refused() -> bool:
        return "every pod must have the label team" in created(operators, a_driver(here))[1]

    eventually("the policy is in force", refused)
    ways = (
        a_driver(here, {"labels": team}),
        a_driver(here, of_job=team),
        a_driver(here, labels=STANDARD.labels | team),
    )
    for pod in ways:
        stored, words = created(operators, pod)
        assert words == ""
        assert stored["metadata"]["labels"]["team"] == "vision"


def test_a_driver_is_placed_as_a_pod_is(
    kubectl: Kubectl, operators: Kubectl, namespace: str
) -> None:
    """Taints, nodes, priority, runtime and registry are in the pod that is stored."""
    tainted = {"key": "batch", "operator": "Exists", "effect": "NoSchedule"}
    items = [
        {
            "apiVersion": "scheduling.k8s.io/v1",
            "kind": "PriorityClass",
            "metadata": {"name": f"low-{namespace}"},
            "value": -10,
        },
        {
            "apiVersion": "node.k8s.io/v1",
            "kind": "RuntimeClass",
            "metadata": {"name": f"gvisor-{namespace}"},
            "handler": "runsc",
            "scheduling": {"nodeSelector": {"sandbox": "gvisor"}},
        },
    ]
    kubectl(
        "apply", "-f", "-", text=json.dumps({"apiVersion": "v1", "kind": "List", "items": items})
    )
    driver = {
        "imagePullSecrets": [{"name": "mirror"}],
        "nodeSelector": {"pool": "batch"},
        "tolerations": [tainted],
        "priorityClassName": f"low-{namespace}",
        "runtimeClassName": f"gvisor-{namespace}",
        "affinity": {
            "podAntiAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": [
                    {
                        "topologyKey": "kubernetes.io/hostname",
                        "labelSelector": {"matchLabels": {"app": "noisy"}},
                    }
                ]
            }
        },
    }
    try:
        stored = eventually(
            "both are known", lambda: created(operators, a_driver(namespace, driver))[0]
        )
    finally:
        kubectl("delete", "priorityclass", f"low-{namespace}")
        kubectl("delete", "runtimeclass", f"gvisor-{namespace}")
    spec = stored["spec"]

    assert spec["imagePullSecrets"] == [{"name": "mirror"}]
    assert spec["nodeSelector"] == {
        "kubernetes.io/os": "linux",
        "pool": "batch",
        "sandbox": "gvisor",
    }
    assert tainted in spec["tolerations"]
    assert (spec["priority"], spec["runtimeClassName"]) == (-10, f"gvisor-{namespace}")
    (apart,) = spec["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert apart["labelSelector"] == {"matchLabels": {"app": "noisy"}}
    annotations = stored["metadata"]["annotations"]
    assert annotations["cluster-autoscaler.kubernetes.io/safe-to-evict"] == "true"
    assert annotations["kubectl.kubernetes.io/default-container"] == "driver"


def test_a_priority_counts_by_the_namespaces_own_quota(
    kubectl: Kubectl, operators: Kubectl, namespace: str
) -> None:
    """A job only names a class. Whether its namespace may use it is a matter of quotas."""
    name = f"dear-{namespace}"
    scope = {"scopeName": "PriorityClass", "operator": "In", "values": [name]}
    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "dear", "namespace": namespace},
        "spec": {"hard": {"pods": "0"}, "scopeSelector": {"matchExpressions": [scope]}},
    }
    dear = {
        "apiVersion": "scheduling.k8s.io/v1",
        "kind": "PriorityClass",
        "metadata": {"name": name},
        "value": 1000,
    }
    kubectl.apply(dear)
    kubectl.apply(quota)
    try:
        words = eventually(
            "the quota is in force",
            lambda: created(operators, a_driver(namespace, {"priorityClassName": name}))[1],
        )
    finally:
        kubectl("delete", "priorityclass", name)

    assert "exceeded quota: dear" in words
    assert created(operators, a_driver(namespace))[1] == ""


def test_on_openshift_the_platform_chooses_the_user(
    kubectl: Kubectl, operators: Kubectl, namespace: str
) -> None:
    """restricted-v2 refuses a fixed one, and sets its own where none is named."""
    context = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    with injecting(kubectl, namespace, as_restricted_v2):
        _, words = created(operators, a_driver(namespace))
        stored, free = created(operators, a_driver(namespace, podSecurityContext=context))

    assert "runAsUser: Invalid value: 10001: must be in the ranges" in words
    assert free == ""
    (container,) = stored["spec"]["containers"]
    assert container["securityContext"]["runAsUser"] == RANGE[0]
    assert stored["spec"]["securityContext"]["fsGroup"] == RANGE[0]


def test_where_no_platform_chooses_a_user_one_is_demanded(
    operators: Kubectl, namespace: str
) -> None:
    """Else the image alone would say that it is not root."""
    context = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    _, words = created(operators, a_driver(namespace, podSecurityContext=context))

    assert "set driver.podSecurityContext.runAsUser in the chart" in words


def _as_each_asks(pod: Object) -> None:
    classic = pod["metadata"]["labels"].get("mesh") == "classic"
    (as_a_classic_mesh if classic else as_a_mesh_with_cni)(pod)


def await_words(world: World, name: str, words: str) -> None:
    """Waits until a job's message has these words."""
    eventually(words, lambda: words in world.condition(name, "Ready").get("message", ""))


def test_a_job_lives_in_a_mesh(stage: World) -> None:
    """Its outcome is the driver's, its labels are on all that is made for it, and its pod goes.

    What keeps another one from starting is told in its message, by the name of the container.
    """
    world, here = stage, stage.namespace
    into = STANDARD.wire() | INJECTED
    world.operator.start(
        GPUJOB_DRIVER=json.dumps(into),
        GPUJOB_LABELS_TO_COPY="team",
        GPUJOB_DRIVER_EXIT_SECONDS="1",
    )
    with injecting(world.kubectl, here, _as_each_asks, MESH):
        ports = [{"name": "http", "port": 80}]
        world.apply_job("train", {"team": "vision"}, command=world.waits(), ports=ports)
        world.await_reason("train", "Running")
        pod = world.kubectl.get("pod", "train-0-1-driver", here) or {}
        told = world.metrics()
        (key,) = world.kubectl.items("secrets", "-n", here)
        world.let_go()
        done = world.await_reason("train", "Complete")

        assert names(pod) == ["istio-validation", "a-proxy", "driver"]
        node = world.kubectl.get("gpunode", "train-0-1", here) or {}
        service = world.kubectl.get("service", "gpujob-train", here) or {}
        for made in (pod, node, service, key):
            assert made["metadata"]["labels"]["team"] == "vision"
            assert made["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "gpujob-operator"
        assert f'job="train",label_team="vision",namespace="{here}"' in told
        assert done["status"]["attempt"] == 1
        gone = ("pod", "train-0-1-driver", here)
        eventually("its pod is gone", lambda: world.kubectl.get(*gone) is None)

        world.apply_job("refused", driver={"labels": {"mesh": "classic"}})
        await_words(world, "refused", "istio-init")

        # Its driver is not started by our kubelet, because the Secret is not there.
        secret = {"name": "absent", "exposeToProvider": True}
        world.apply_job("blocked", imagePullSecret=secret)
        eventually("its pod", lambda: world.kubectl.get("pod", "blocked-0-1-driver", here))
        failed = {"terminated": {"exitCode": 1, "reason": "Error", "message": "no iptables"}}
        init = {"name": "istio-validation", "image": "a", "imageID": "", "ready": False}
        status = {"initContainerStatuses": [init | {"restartCount": 0, "state": failed}]}
        path = f"/api/v1/namespaces/{here}/pods/blocked-0-1-driver/status"
        merge = "application/merge-patch+json"
        world.kubectl.client.send("PATCH", path, {"status": status}, merge)
        await_words(
            world,
            "blocked",
            "init container istio-validation ended with exit code 1 (Error: no ipt",
        )
    assert len(world.simulator.ledger()) == 1


async def test_the_log_of_a_pod_is_its_drivers(kubectl: Kubectl, namespace: str) -> None:
    """Without a name, the API server refuses to choose among several containers."""
    pod = a_driver(namespace, INJECTED)
    as_a_mesh_with_cni(pod)
    # Its node is not stored, so it would be garbage.
    del pod["metadata"]["ownerReferences"]
    kubectl.apply(pod)
    configuration = client.Configuration()
    await config.load_kube_config(
        config_file=str(kubectl.kubeconfig), client_configuration=configuration
    )
    kube = KubeClient(client.ApiClient(configuration))
    name = pod["metadata"]["name"]
    try:
        with pytest.raises(ClusterUnavailable) as refused:
            async with kube.pod_log(namespace, name, CONTAINER, follow=False, tail=None, seconds=5):
                pass
    finally:
        await kube.close()

    # The API server has chosen a container by then; no kubelet has the pod, so there is no content.
    assert "204" in str(refused.value)
