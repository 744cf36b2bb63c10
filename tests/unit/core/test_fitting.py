"""How driver pods are fitted to a cluster: for all jobs, for one, and what nobody can change."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
from pydantic import ValidationError
from tests.builders import (
    RECORDED,
    a_job,
    a_spec,
    a_world,
    job_observation,
    node_observation,
    quotes,
)
from tests.kubelet import variables

from gpujob.api.driver_pod import DriverPod
from gpujob.api.gpujob import GpuJobSpec
from gpujob.api.meta import LABEL_COMPONENT, LABEL_JOB, LABEL_MANAGED_BY, LABEL_NODE, MANAGER
from gpujob.core.effects import CreateNode, CreateService
from gpujob.core.job.plan import plan_job
from gpujob.core.machine.driver_defaults import STANDARD, DriverDefaults
from gpujob.core.machine.driver_pod import driver_pod, fitted
from gpujob.core.spec_faults import DRIVER_BYTES_MAX, spec_faults

Object = dict[str, Any]

DEFAULTS = DriverDefaults.model_validate(
    STANDARD.wire()
    | {
        "labels": {"cost": "ml", "team": "nobody", "sidecar.istio.io/inject": "false"},
        "annotations": {"a": "of all", "b": "of all"},
        "imagePullSecrets": [{"name": "mirror"}],
        "nodeSelector": {"kubernetes.io/os": "linux", "pool": "infra"},
        "tolerations": [{"key": "infra", "operator": "Exists"}],
        "affinity": {"podAntiAffinity": {}},
        "priorityClassName": "low",
        "runtimeClassName": "gvisor",
    }
)
DRIVER: Object = {
    "labels": {"team": "vision"},
    "annotations": {"b": "of one"},
    "imagePullSecrets": [{"name": "ours"}, {"name": "mirror"}],
    "resources": {"requests": {"cpu": 1}, "limits": {"memory": "512Mi"}},
    "nodeSelector": {"pool": "batch"},
    "tolerations": [{"key": "batch", "operator": "Equal", "value": "yes", "effect": "NoSchedule"}],
    "affinity": {
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [
                    {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}]}
                ]
            }
        }
    },
    "priorityClassName": "batch",
    "runtimeClassName": "kata",
}


def pod_of(
    driver: Object | None = None, defaults: DriverDefaults = DEFAULTS, *copied: str, **labels: str
) -> Object:
    """The driver pod of a job with these labels, of which some are handed on."""
    job = a_job(a_spec(driver=driver), RECORDED, labels=labels)
    world = a_world(driver=defaults, labels_to_copy=copied)
    return driver_pod(node_observation(job=job, world=world))


def test_a_pod_is_fitted_for_all_jobs() -> None:
    """By the administrator, under the names that a pod template has."""
    pod = pod_of()
    meta, spec = pod["metadata"], pod["spec"]

    assert DEFAULTS.labels.items() <= meta["labels"].items()
    assert DEFAULTS.annotations.items() <= meta["annotations"].items()
    assert spec["imagePullSecrets"] == [{"name": "mirror"}]
    assert spec["nodeSelector"] == {"kubernetes.io/os": "linux", "pool": "infra"}
    assert spec["tolerations"] == [{"key": "infra", "operator": "Exists"}]
    assert "podAntiAffinity" in spec["affinity"]
    assert (spec["priorityClassName"], spec["runtimeClassName"]) == ("low", "gvisor")
    assert spec["containers"][0]["resources"] == STANDARD.resources.wire()


def test_a_job_fits_its_own_pod() -> None:
    """What has a name is added or replaced under that name; the rest is replaced."""
    pod = pod_of(DRIVER)
    meta, spec = pod["metadata"], pod["spec"]

    labels = {name: meta["labels"][name] for name in ("cost", "team", "sidecar.istio.io/inject")}
    assert labels == {"cost": "ml", "team": "vision", "sidecar.istio.io/inject": "false"}
    assert {name: meta["annotations"][name] for name in "ab"} == {"a": "of all", "b": "of one"}
    assert spec["imagePullSecrets"] == [{"name": "mirror"}, {"name": "ours"}]
    assert spec["nodeSelector"] == {"kubernetes.io/os": "linux", "pool": "batch"}
    assert [one["key"] for one in spec["tolerations"]] == ["infra", "batch"]
    assert [*spec["affinity"]] == ["nodeAffinity"]
    assert (spec["priorityClassName"], spec["runtimeClassName"]) == ("batch", "kata")
    assert spec["containers"][0]["resources"] == {
        "requests": {"cpu": "1", "memory": "64Mi"},
        "limits": {"cpu": "1", "memory": "512Mi"},
    }


def test_nothing_is_set_that_nobody_asked_for() -> None:
    """An empty field could be refused, or could be read as a wish."""
    spec = pod_of(defaults=STANDARD)["spec"]

    assert not {"imagePullSecrets", "tolerations", "affinity", "priorityClassName"} & spec.keys()
    assert "runtimeClassName" not in spec


OWN = {
    "app.kubernetes.io/name": "gpujob",
    LABEL_COMPONENT: "driver",
    LABEL_MANAGED_BY: MANAGER,
    LABEL_JOB: "train",
    LABEL_NODE: "train-0-1",
}


def test_no_label_takes_the_place_of_our_own() -> None:
    """Watch, Service and NetworkPolicies find the pod by them; nobody else may decide that."""
    false = dict.fromkeys(OWN, "another")
    defaults = DEFAULTS.model_copy(update={"labels": false})
    # As a cluster with an older CRD, and without the webhook, would have stored it.
    made = pod_of({"labels": false}, defaults, *OWN, **false)

    assert OWN.items() <= made["metadata"]["labels"].items()


def test_what_a_job_asks_for_changes_nothing_of_what_the_driver_may_do() -> None:
    """Fields that are not of this door are no fields of it."""
    wider = {
        "hostNetwork": True,
        "serviceAccountName": "admin",
        "securityContext": {"runAsUser": 0},
        "podSecurityContext": {"runAsNonRoot": False},
        "volumes": [{"name": "root", "hostPath": {"path": "/"}}],
        "containers": [{"name": "other"}],
    }
    assert pod_of(DRIVER | wider) == pod_of(DRIVER)


@pytest.mark.parametrize("chosen", [10001, 2000, None])
def test_the_user_is_the_administrators_or_the_platforms(chosen: int | None) -> None:
    """OpenShift refuses any that is not from the namespace's range, and sets one itself."""
    context = {
        "runAsNonRoot": True,
        "seccompProfile": {"type": "RuntimeDefault"},
        **dict.fromkeys(("runAsUser", "runAsGroup", "fsGroup"), chosen),
    }
    defaults = DriverDefaults.model_validate(STANDARD.wire() | {"podSecurityContext": context})
    made = pod_of(defaults=defaults)["spec"]["securityContext"]

    assert made == {name: value for name, value in context.items() if value is not None}


@pytest.mark.parametrize("loose", [{"runAsNonRoot": False}, {"runAsUser": 0}, {"fsGroup": 0}])
def test_nobody_makes_drivers_root(loose: Object) -> None:
    """Nor lets the kernel take any call from them."""
    context = STANDARD.pod_security_context.wire() | loose
    with pytest.raises(ValueError, match="podSecurityContext"):
        DriverDefaults.model_validate(STANDARD.wire() | {"podSecurityContext": context})
    unconfined = STANDARD.pod_security_context.wire() | {"seccompProfile": {"type": "Unconfined"}}
    with pytest.raises(ValueError, match="seccompProfile"):
        DriverDefaults.model_validate(STANDARD.wire() | {"podSecurityContext": unconfined})


def test_an_ssh_connection_needs_no_user_that_a_file_names() -> None:
    """The library asks for the name of its user; one that a platform has chosen has none."""
    named = variables(pod_of()["spec"]["containers"][0])
    program = (
        "import os, pwd\n"
        "pwd.getpwuid = lambda _: (_ for _ in ()).throw(KeyError('uid not found'))\n"
        "import asyncssh\n"
        "asyncssh.SSHClientConnectionOptions(username='root', config=None)\n"
    )
    # As in the driver's image.
    bare = {"PATH": os.environ["PATH"], "HOME": "/tmp"}

    def done(**more: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-c", program]
        return subprocess.run(command, env=bare | more, capture_output=True, text=True)

    assert "username" in done().stderr
    assert done(LOGNAME=named["LOGNAME"]).stderr == ""


# --- Labels that jobs hand on ---------------------------------------------------------------

KEYS = ("team", "example.com/cost-centre", "absent")
LABELS = {"team": "vision", "example.com/cost-centre": "42", "argocd.argoproj.io/instance": "x"}


def test_the_labels_of_a_job_are_handed_on_as_the_administrator_chose() -> None:
    """To the node, the pod and the Service; no others, and none that the job lacks."""
    job = a_job(a_spec(ports=[{"name": "http", "port": 80}]), labels=LABELS)
    world = a_world(labels_to_copy=KEYS)
    seen = job_observation(world=world, job=job)
    (made,) = (one for one in plan_job(seen).effects if isinstance(one, CreateService))
    exists = replace(seen, service_owner=job.metadata.uid, quotes=quotes())
    exists = replace(
        exists, job=a_job(job.spec.wire(), {"serviceName": "gpujob-train"}, labels=LABELS)
    )
    (node,) = (one for one in plan_job(exists).effects if isinstance(one, CreateNode))
    pod = pod_of(None, DEFAULTS, *KEYS, **LABELS)

    for manifest in (made.manifest, node.manifest, pod):
        labels = manifest["metadata"]["labels"]
        assert {key: labels[key] for key in KEYS[:2]} == {key: LABELS[key] for key in KEYS[:2]}
        assert not {"absent", "argocd.argoproj.io/instance"} & labels.keys()
        assert labels[LABEL_JOB] == "train"


def test_what_a_job_says_of_its_driver_goes_before_its_own_labels() -> None:
    """And these before what holds for all."""
    told = pod_of({"labels": {"team": "of-the-driver"}}, DEFAULTS, "team", team="of-the-job")
    handed_on = pod_of(None, DEFAULTS, "team", team="of-the-job")

    assert told["metadata"]["labels"]["team"] == "of-the-driver"
    assert handed_on["metadata"]["labels"]["team"] == "of-the-job"


# --- What is refused ------------------------------------------------------------------------

REFUSED: tuple[tuple[str, Object, str], ...] = (
    ("a label of ours", {"labels": {LABEL_JOB: "x"}}, "spec.driver.labels: remove gpujob.dev/job"),
    (
        "one below our name",
        {"labels": {"x.gpujob.dev/job": "x"}},
        "spec.driver.labels: remove x.gpujob.dev/job",
    ),
    (
        "who manages it",
        {"labels": {LABEL_MANAGED_BY: "me"}},
        f"spec.driver.labels: remove {LABEL_MANAGED_BY}",
    ),
    (
        "an annotation of ours",
        {"annotations": {"gpujob.dev/x": "x"}},
        "spec.driver.annotations: remove gpujob.dev/x",
    ),
    ("no key", {"labels": {"a b": "x"}}, "spec.driver.labels: 'a b' is no key"),
    ("a key of nobody", {"labels": {"/b": "x"}}, "spec.driver.labels: '/b' is no key"),
    ("a long key", {"annotations": {"a" * 64: "x"}}, "is no key"),
    ("no node's label", {"nodeSelector": {"": "x"}}, "spec.driver.nodeSelector: '' is no key"),
    (
        "the cluster's own priority",
        {"priorityClassName": "system-node-critical"},
        "spec.driver.priorityClassName: classes whose names begin with system-",
    ),
    (
        "more freedom by an annotation",
        {"annotations": {"container.apparmor.security.beta.kubernetes.io/driver": "unconfined"}},
        "drivers are confined",
    ),
    (
        "a book",
        {"annotations": {f"a{at}": "x" * 4096 for at in range(5)}},
        f"shorten it to {DRIVER_BYTES_MAX}",
    ),
)


@pytest.mark.parametrize(("driver", "words"), [r[1:] for r in REFUSED], ids=[r[0] for r in REFUSED])
def test_what_nobody_may_ask_for_is_refused_with_words(driver: Object, words: str) -> None:
    """Which field, what is wrong, what to do; before anything is stored, and before any rent."""
    spec = GpuJobSpec.model_validate(a_spec(driver=driver))

    assert words in "; ".join(str(fault) for fault in spec_faults(spec))


@pytest.mark.parametrize("name", ["cpu", "memory", "ephemeral-storage"])
@pytest.mark.parametrize("amount", [0, -1, "0", "00", "0m", "0.0", "0.00Mi"])
def test_no_limit_is_not_a_limit(name: str, amount: int | str) -> None:
    """Kubernetes reads 0 as no limit; a request of 0 is one."""
    with pytest.raises(ValidationError, match=name):
        DriverPod.model_validate({"resources": {"limits": {name: amount}}})
    for least in (1, "0.001", "01", "1.0Mi", "0.5"):
        DriverPod.model_validate({"resources": {"limits": {name: least}}})
    DriverPod.model_validate({"resources": {"requests": {name: 0}}})


def test_what_may_be_asked_for_is_not_refused() -> None:
    """Each field that there is."""
    spec = GpuJobSpec.model_validate_json(json.dumps(a_spec(driver=DRIVER)), strict=True)

    assert spec_faults(spec) == ()
    assert set(DriverPod.model_json_schema()["properties"]) == set(DRIVER), "all fields are tried"


def test_a_job_without_wishes_has_what_all_have() -> None:
    """The very same."""
    assert fitted(DEFAULTS, None) is DEFAULTS
    assert fitted(DEFAULTS, DriverPod.model_validate({})) == DEFAULTS
