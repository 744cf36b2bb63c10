"""What the controller's account may create as a driver's pod: what the operator makes."""

import copy
import json
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest
from tests.builders import RECORDED, a_job, a_spec, a_world, node_observation
from tests.chart.rendering import objects
from tests.integration.client import Client
from tests.integration.injector import as_a_mesh_with_cni
from tests.integration.parts import DRIVER_IMAGE, Kubectl, Object, eventually
from tests.integration.pod_changes import Changes

from gpujob.core.machine.driver_pod import driver_pod
from localcluster import binaries

AT_ONCE = 3
"""So many connections ask, each for one change after the other."""
LEAST = 300
OURS = "ValidatingAdmissionPolicy 'gpujob-system-gpujob-"


def full_pod(namespace: str, **spec: Any) -> Object:
    """Returns the pod of a job that uses all that makes a driver's pod differ."""
    claims = {
        "inputs": [{"claimName": "in", "subPath": "a", "path": "/in"}],
        "outputs": [{"claimName": "out", "path": "/out"}],
        "checkpoint": {"claimName": "out", "path": "/c", "intervalSeconds": 600},
        "log": {"claimName": "out"},
    }
    variables = [
        {"name": "A", "value": "1"},
        {"name": "B", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
        {"name": "C", "valueFrom": {"configMapKeyRef": {"name": "s", "key": "k"}}},
    ]
    wanted = {
        "env": variables,
        "ports": [{"name": "http", "port": 80}],
        "imagePullSecret": {"name": "pull", "exposeToProvider": True},
        "data": {"maxDownloadGB": 1, "maxUploadGB": 1, **claims},
    }
    job = a_job(a_spec(**wanted | spec), RECORDED)
    pod = driver_pod(node_observation(job=job, world=a_world(driver_image=DRIVER_IMAGE)))
    pod["metadata"]["namespace"] = namespace
    return pod


@dataclass(frozen=True)
class Answer:
    """What the API server made of a pod."""

    where: str
    """What was changed, and to what."""
    status: int
    words: str
    spec: Object | None

    @property
    def refused(self) -> bool:
        """Whether a policy of ours refused what the API server would have taken.

        It looks at what is malformed before it asks any policy.
        """
        return OURS in self.words


def asked(who: Kubectl, namespace: str, pods: Iterable[tuple[str, Object]]) -> list[Answer]:
    """Asks the API server about each pod, without creating it."""
    path = f"/api/v1/namespaces/{namespace}/pods?dryRun=All"
    clients = [Client(who.kubeconfig) for _ in range(AT_ONCE)]

    def ask(numbered: tuple[int, tuple[str, Object]]) -> Answer:
        number, (where, pod) = numbered
        status, answer = clients[number % AT_ONCE].send("POST", path, pod)
        return Answer(where, status, str(answer.get("message", "")), answer.get("spec"))

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(ask, enumerate(pods)))


@pytest.fixture
def schemas(kubectl: Kubectl) -> Object:
    """The core group's schemas, as the API server publishes them."""
    status, found = kubectl.client.send("GET", "/openapi/v3/api/v1")
    assert status == 200
    schemas: Object = found["components"]["schemas"]
    return schemas


@pytest.fixture
def lax(kubectl: Kubectl, operators: Kubectl, namespace: str) -> Iterator[str]:
    """A namespace for which no level of Pod Security is enforced, with all that changes name."""
    kubectl("label", "namespace", namespace, "pod-security.kubernetes.io/enforce-")
    kubectl("create", "serviceaccount", "more", "-n", namespace)
    named: tuple[Object, ...] = (
        {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "value": 5},
        {"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "handler": "runsc"},
    )
    for one in named:
        kubectl.apply(one | {"metadata": {"name": "more"}})
    pod = full_pod(namespace)
    pod["spec"] |= {"priorityClassName": "more", "runtimeClassName": "more"}
    eventually(
        "the classes are known", lambda: asked(operators, namespace, [("", pod)])[0].status == 201
    )
    yield namespace
    for one in named:
        kubectl("delete", one["kind"].lower(), "more")


PLACED = "administrators and platforms choose where a pod runs, and quotas how important it is"
TOLD = "what the controller tells its driver here, it could tell it by the transport as well"
WORKLOAD = "the job says what its workload is given; the controller passes it on"
RESTRICTED = "the level `restricted` allows it, and platforms set it: OpenShift chooses users"
RESOLVED = "names are resolved as the cluster wants; both ends show a key that is known already"
INJECTED = "a volume without Secrets, for the containers of injectors; the driver cannot mount it"
SHOWN = "a port in a manifest opens nothing"

HARMLESS = {
    "affinity": PLACED,
    "containers[driver].env[GPUJOB_DATA]": TOLD,
    "containers[driver].env[GPUJOB_DRIVER_NUMBER]": TOLD,
    "containers[driver].env[GPUJOB_IMAGE]": TOLD,
    "containers[driver].env[GPUJOB_PORTS]": TOLD,
    "containers[driver].env[GPUJOB_PULL_SECRET]-": TOLD,
    "containers[driver].env[GPUJOB_TRANSPORT_AUTHORITIES]": TOLD,
    "containers[driver].env[GPUJOB_TRANSPORT_URL]": TOLD,
    "containers[driver].env[WORKLOAD_": WORKLOAD,
    "containers[driver].imagePullPolicy": "the image is the driver's, however it is pulled",
    "containers[driver].ports": SHOWN,
    "containers[driver].resizePolicy": "the limits must be there, however they would change",
    "containers[driver].resources": "administrators and jobs choose how much, but for no limit",
    "containers[driver].securityContext.appArmorProfile": RESTRICTED,
    "containers[driver].securityContext.capabilities.drop[+]": RESTRICTED,
    "containers[driver].securityContext.privileged=false": RESTRICTED,
    "containers[driver].securityContext.runAs": RESTRICTED,
    "containers[driver].securityContext.seLinuxOptions": RESTRICTED,
    "containers[driver].securityContext.seccompProfile": RESTRICTED,
    "containers[driver].volumeMounts[/data/": WORKLOAD,
    "containers[driver].volumeMounts[/etc/gpujob/registry]-": WORKLOAD,
    "dnsConfig": RESOLVED,
    "dnsPolicy": RESOLVED,
    "hostUsers": "false confines a pod more, and true is the default",
    "imagePullSecrets": "only the kubelet reads them",
    "nodeSelector": PLACED,
    "priorityClassName": PLACED,
    "readinessGates": PLACED,
    "runtimeClassName": PLACED,
    "schedulerName": PLACED,
    "schedulingGates": PLACED,
    "securityContext.appArmorProfile": RESTRICTED,
    "securityContext.fsGroup": RESTRICTED,
    "securityContext.runAsGroup": RESTRICTED,
    "securityContext.runAsUser": RESTRICTED,
    "securityContext.seLinuxOptions": RESTRICTED,
    "terminationGracePeriodSeconds": PLACED,
    "tolerations": PLACED,
    "topologySpreadConstraints": PLACED,
    "volumes[+]": INJECTED,
    "volumes[claim-": WORKLOAD,
    "volumes[registry].secret.secretName": WORKLOAD,
}
"""Changes that are admitted, by how they begin, and why they may be."""

UNJUDGED = {
    "PodSpec": {"overhead"},
    "Container": {"restartPolicyRules", "volumeDevices"},
    "Volume": {"name"},
}
"""Fields of which no single change is well-formed. What takes two is in `TOGETHER`."""

FOUND_AT = {
    "PodSpec": "",
    "PodSecurityContext": "securityContext.",
    "Container": "containers[driver].",
    "SecurityContext": "containers[driver].securityContext.",
    "Volume": "volumes[+].",
}


def _device(pod: Object) -> None:
    pod["spec"]["volumes"].append({"name": "x", "persistentVolumeClaim": {"claimName": "x"}})
    pod["spec"]["containers"][0]["volumeDevices"] = [{"name": "x", "devicePath": "/dev/x"}]


def _rules(pod: Object) -> None:
    rule = {"action": "Restart", "exitCodes": {"operator": "In", "values": [1]}}
    more = {"restartPolicy": "Never", "restartPolicyRules": [rule]}
    pod["spec"]["containers"][0] |= more


def _mounted(volume: Object) -> Any:
    def change(pod: Object) -> None:
        pod["spec"]["volumes"].append({"name": "more"} | volume)
        mount = {"name": "more", "mountPath": "/usr/lib/python3.13"}
        pod["spec"]["containers"][0]["volumeMounts"].append(mount)

    return change


def _as_a_claim(pod: Object) -> None:
    pod["spec"]["volumes"].append({"name": "claim-9", "configMap": {"name": "x"}})
    mount = {"name": "claim-9", "mountPath": "/data/inputs-9", "readOnly": True}
    pod["spec"]["containers"][0]["volumeMounts"].append(mount)


def _beside(**more: Any) -> Any:
    def change(pod: Object) -> None:
        as_a_mesh_with_cni(pod)
        pod["spec"]["containers"][0] |= more

    return change


def _beside_and_looking_in(pod: Object) -> None:
    as_a_mesh_with_cni(pod)
    pod["spec"]["shareProcessNamespace"] = True


def _mount(name: str) -> Object:
    return {"volumeMounts": [{"name": name, "mountPath": "/x"}]}


_SECRET = {"name": "s", "key": "k"}
TOGETHER = {
    "a claim as a device": _device,
    "rules of restarts": _rules,
    "a map over the driver's own code": _mounted({"configMap": {"name": "x"}}),
    "a Secret": _mounted({"secret": {"secretName": "x"}}),
    "a map in place of a claim": _as_a_claim,
    "a container that looks into the driver": _beside_and_looking_in,
    "a container with a Secret": _beside(
        env=[{"name": "A", "valueFrom": {"secretKeyRef": _SECRET}}]
    ),
    "a container with all of a Secret": _beside(envFrom=[{"secretRef": {"name": "s"}}]),
    **{
        f"a container with {name}": _beside(**_mount(name))
        for name in ("ssh", "token", "state", "registry", "claim-0")
    },
}


def test_each_change_of_a_drivers_pod_is_refused(
    operators: Kubectl, lax: str, schemas: Object
) -> None:
    """All that can be said of a pod, one at a time; Pod Security is not there to help."""
    pod = full_pod(lax)
    (true,) = asked(operators, lax, [("nothing", pod)])
    assert true.status == 201, true.words
    changes = Changes(schemas)
    began = time.monotonic()
    answers = asked(operators, lax, changes.of(pod))
    took = time.monotonic() - began
    refused = [one.where for one in answers if one.refused]
    # What says by name what is so without it, or is said to features that are off, changes nothing.
    admitted = [one.where for one in answers if one.status == 201 and one.spec != true.spec]
    judged = [one.where for one in answers if one.refused or one.status == 201]
    print(
        f"{len(answers)} changes in {took:.1f} s: {len(refused)} refused, {len(admitted)} "
        f"harmless, {len(judged) - len(refused) - len(admitted)} that change nothing"
    )

    assert [one for one in admitted if not one.startswith(tuple(HARMLESS))] == []
    assert len(refused) >= LEAST
    unused = [why for why in HARMLESS if not any(one.startswith(why) for one in admitted)]
    assert unused == [], "these are refused, so nothing need say that they are harmless"
    for kind, at in FOUND_AT.items():
        fields = changes.fields(kind) - UNJUDGED.get(kind, set())
        paths = {field: f"{at}{field}" for field in fields}
        assert [
            field
            for field, path in paths.items()
            if not any(one.startswith(path) and not one[len(path)].isalpha() for one in judged)
        ] == [], f"no change of these fields of {kind} was well-formed"


def test_no_two_changes_together_open_a_way(operators: Kubectl, lax: str) -> None:
    """Each needs more than one field."""
    pods = []
    for what, change in TOGETHER.items():
        pod = copy.deepcopy(full_pod(lax))
        change(pod)
        pods.append((what, pod))
    answers = asked(operators, lax, pods)

    assert [(one.where, one.words) for one in answers if not one.refused] == []


def test_every_pod_that_the_operator_makes_is_admitted(operators: Kubectl, namespace: str) -> None:
    """The namespace enforces the restricted profile, and the policies can afford the largest."""
    secret = {"name": "s", "key": "k"}
    many = [
        {"name": f"V{n}", "valueFrom": {"secretKeyRef": secret}}
        if n % 2
        else {"name": f"V{n}", "value": "x" * 200}
        for n in range(256)
    ]
    ports = [{"name": f"p{n}", "port": n + 1} for n in range(8)]
    claims = [{"claimName": f"c{n}", "path": f"/in/{n}"} for n in range(8)]
    data = {"maxDownloadGB": 1, "maxUploadGB": 1, "inputs": claims, "outputs": claims}
    pods = [
        ("plain", full_pod(namespace, env=[], ports=[], data={}, imagePullSecret=None)),
        ("with all", full_pod(namespace)),
        ("at its largest", full_pod(namespace, env=many, ports=ports, data=data)),
    ]
    answers = asked(operators, namespace, pods)

    assert [(one.where, one.words) for one in answers if one.status != 201] == []


def test_injectors_variables_are_admitted_by_name(kubectl: Kubectl, lax: str) -> None:
    """With their values or what the pod knows of itself, but no Secret."""
    image = {"registry": "localhost", "repository": "gpujob-driver", "tag": "dev"}
    values = {
        "driver": {"image": image},
        "admissionPolicies": {"injectedVariables": ["DD_AGENT_HOST", "TZ"]},
    }
    found = objects(binaries.ensure(binaries.CHART), values=values, namespace=lax)
    policy, binding = (one for one in found if one["metadata"]["name"] == f"{lax}-gpujob-pods")
    controller = (f"--as=system:serviceaccount:{lax}:gpujob", "--as-group=system:masters")

    def words(**variable: object) -> str:
        pod = full_pod(f"{lax}-jobs")
        pod["spec"]["containers"][0]["env"].append(variable)
        create = ("create", "--dry-run=server", *controller, "-f", "-")
        return kubectl.run(*create, text=json.dumps(pod)).stderr

    kubectl("create", "namespace", f"{lax}-jobs")
    try:
        for one in (policy, binding):
            kubectl.apply(one)
        eventually("the policy is in force", lambda: "DD_HOST" in words(name="DD_HOST", value="a"))
        node = {"fieldRef": {"fieldPath": "status.hostIP"}}
        admitted = [words(name="DD_AGENT_HOST", valueFrom=node), words(name="TZ", value="UTC")]
        secret = {"secretKeyRef": {"name": "s", "key": "k"}}
        refused = [words(name="TZ", valueFrom=secret), words(name="PYTHONPATH", value="/data")]
    finally:
        for one in (binding, policy):
            kubectl("delete", one["kind"].lower(), one["metadata"]["name"])
        kubectl("delete", "namespace", f"{lax}-jobs", "--wait=false")

    assert admitted == ["", ""]
    for name, told in zip(("TZ", "PYTHONPATH"), refused, strict=True):
        assert f"and not {name}: if an injector of the cluster adds them" in told
