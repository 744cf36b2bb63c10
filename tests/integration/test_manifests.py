"""Manifests as people and their tools write them, with the real kubectl and its Kustomize."""

import copy
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.integration.client import path_of
from tests.integration.conftest import World
from tests.integration.corpus import GOOD
from tests.integration.parts import Kubectl, Object, eventually
from tests.integration.test_bad_input import manifest

from gpujob.api.schema import GPUJOB, custom_resource_definition
from localcluster.paths import ROOT

SECRET = {"name": "s", "key": "k"}
FOLDER = {"claimName": "c", "path": "x"}
ROOMY = GOOD | {
    "env": [{"name": "A", "valueFrom": {"secretKeyRef": SECRET}}],
    "gpu": {},
    "market": {},
    "resources": {},
    "failurePolicy": {},
    "data": {
        "inputs": [FOLDER | {"path": "in"}],
        "outputs": [FOLDER | {"path": "out"}],
        "checkpoint": FOLDER | {"path": "state"},
        "log": {"claimName": "c"},
    },
}
"""A spec in which each object that may be left out is there."""


def optional(schema: Object, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Returns the place of each field that may be left out, the outer ones first."""
    for name, child in schema.get("properties", {}).items():
        if name not in schema.get("required", ()):
            yield (*path, name)
        yield from optional(child, (*path, name))
        yield from optional(child.get("items", {}), (*path, name, 0))


def nulled(spec: Object, path: tuple[str | int, ...]) -> Object | None:
    """Returns a copy with null at a place; None if there is no such place in it."""
    made = copy.deepcopy(spec)
    holder: Any = made
    for key in path[:-1]:
        if isinstance(holder, dict) and key not in holder:
            return None
        holder = holder[key]
    holder[path[-1]] = None
    return made


@pytest.mark.parametrize("side", ["--server-side=true", "--server-side=false"])
def test_null_is_what_is_left_out(kubectl: Kubectl, side: str) -> None:
    """In each optional field, as for a batch/v1 Job: Helm's templates leave nulls behind."""
    (version,) = custom_resource_definition(GPUJOB)["spec"]["versions"]
    schema = version["schema"]["openAPIV3Schema"]["properties"]["spec"]
    jobs = [
        json.loads(manifest("default", spec, f"job-{number}"))
        for number, path in enumerate(optional(schema))
        # One of the two sources there must be.
        if path[-1] != "secretKeyRef"
        if (spec := nulled(ROOMY, path)) is not None
    ]
    assert len(jobs) > 35
    container = {"name": "a", "image": "b", "command": None, "env": None, "workingDir": None}
    pod = {"containers": [container], "restartPolicy": "Never", "nodeSelector": None}
    model = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "model", "namespace": "default", "labels": None},
        "spec": {"suspend": None, "backoffLimit": None, "template": {"spec": pod}},
    }
    for objects in ([model], jobs):
        listed = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
        done = kubectl.run("apply", side, "--dry-run=server", "-f", "-", text=listed)
        assert (done.returncode, done.stderr) == (0, "")


def test_a_null_may_come_and_go(kubectl: Kubectl, namespace: str) -> None:
    """It changes nothing, so what is immutable takes it; a value there is refused as ever."""
    apply = ("apply", "--server-side", "-f", "-")
    bare = GOOD | {"data": {"checkpoint": FOLDER}}
    nulls = GOOD | {
        "workingDir": None,
        "imagePullSecret": None,
        "gpu": {"memoryGB": None},
        "data": {"checkpoint": FOLDER | {"subPath": None}, "log": None},
    }
    for spec in (nulls, bare, nulls):
        kubectl(*apply, text=manifest(namespace, spec))
    changes: tuple[Object, ...] = (
        {"workingDir": "/x"},
        {"gpu": {"memoryGB": 24}},
        {"data": {"checkpoint": FOLDER | {"subPath": "x"}}},
        {"data": {"log": {"claimName": "c"}, "checkpoint": FOLDER}},
        {"data": {}},
    )
    for change in changes:
        refused = kubectl.run(*apply, text=manifest(namespace, bare | change))
        assert "immutable" in refused.stderr, change


KUSTOMIZATION = """
resources: [job.yaml, claim.yaml]
configurations: [gpujob.yaml]
namePrefix: nightly-
labels: [{pairs: {team: vision}}]
images: [{name: python, newTag: "3.13"}]
secretGenerator: [{name: hub, literals: [token=x]}]
configMapGenerator: [{name: rates, literals: [lr=0.1]}]
patches:
- patch: |
    apiVersion: gpujob.dev/v1alpha1
    kind: GpuJob
    metadata: {name: job}
    spec: {cost: {ceiling: "3.00"}, workingDir: /work}
- target: {kind: GpuJob}
  patch: '[{"op": "add", "path": "/spec/args/-", "value": "--nightly"}]'
"""


def test_kustomize_changes_a_job_as_it_does_others(
    kubectl: Kubectl, namespace: str, tmp_path: Path
) -> None:
    """Names, labels, images, generated Secrets and both kinds of patch, with the chart's file."""
    env = [
        {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "hub", "key": "token"}}},
        {"name": "RATE", "valueFrom": {"configMapKeyRef": {"name": "rates", "key": "lr"}}},
    ]
    claims = {"checkpoint": {"claimName": "state", "path": "state"}, "log": {"claimName": "state"}}
    spec = GOOD | {"args": ["-v"], "env": env, "data": claims | {"inputs": [FOLDER]}}
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "state"},
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "1Gi"}},
        },
    }
    (tmp_path / "job.yaml").write_text(manifest("", spec).replace(', "namespace": ""', ""))
    (tmp_path / "claim.yaml").write_text(json.dumps(claim))
    (tmp_path / "kustomization.yaml").write_text(f"{KUSTOMIZATION}\nnamespace: {namespace}\n")
    shutil.copy(ROOT / "helm/gpujob/kustomize/gpujob.yaml", tmp_path)
    made = list(yaml.safe_load_all(kubectl("kustomize", str(tmp_path))))
    (job,) = (one for one in made if one["kind"] == "GpuJob")
    names = {one["kind"]: one["metadata"]["name"] for one in made}

    assert job["metadata"]["name"] == "nightly-job"
    assert job["metadata"]["labels"] == {"team": "vision"}
    assert (job["spec"]["image"], job["spec"]["args"]) == ("python:3.13", ["-v", "--nightly"])
    assert (job["spec"]["cost"], job["spec"]["workingDir"]) == ({"ceiling": "3.00"}, "/work")
    secret, rates = (one["valueFrom"] for one in job["spec"]["env"])
    assert secret["secretKeyRef"]["name"] == names["Secret"] != "nightly-hub"
    assert rates["configMapKeyRef"]["name"] == names["ConfigMap"] != "nightly-rates"
    held = job["spec"]["data"]
    for one in (held["checkpoint"], held["log"]):
        assert one["claimName"] == names["PersistentVolumeClaim"] == "nightly-state"
    assert held["inputs"][0]["claimName"] == "c", "this one is not of the kustomization"
    kubectl("apply", "--dry-run=server", "-k", str(tmp_path))


def test_a_name_is_made_up(kubectl: Kubectl, namespace: str) -> None:
    """Each create makes another one; it leaves room for the names of nodes."""
    body = json.loads(manifest(namespace, GOOD | {"suspend": True}))
    body["metadata"] = {"generateName": "sweep-", "namespace": namespace}
    made = {kubectl("create", "-f", "-", "-o", "name", text=json.dumps(body)) for _ in range(2)}
    body["metadata"]["generateName"] = "a" * 50
    refused = kubectl.run("create", "-f", "-", text=json.dumps(body))

    assert len(made) == 2
    assert all(one.startswith("gpujob.gpujob.dev/sweep-") for one in made)
    assert "at most 52 characters" in refused.stderr


@pytest.mark.shared_world
def test_argo_workflows_sees_how_a_job_ends(world: World) -> None:
    """By the two lines of the README, which it reads as label selectors on the object's fields."""
    told = (ROOT / "helm/gpujob/README.md").read_text()
    success, failure = (
        re.findall(rf"{kind}Condition: (\S+) == (\S+)", told)[0] for kind in ("success", "failure")
    )
    world.apply_job("held", suspend=True)
    world.apply_job("good")
    world.apply_job("bad", command=["false"])
    world.await_reason("good", "Complete")
    world.await_reason("bad", "BackoffLimitExceeded")
    world.await_reason("held", "Suspended")

    def holds(name: str, condition: tuple[str, str]) -> bool:
        field, wanted = condition
        where = ("-n", world.namespace)
        # The API server's own parser of selectors, which Argo uses, takes it.
        world.kubectl("get", "gpujobs", "-l", f"{field} == {wanted}", *where)
        shown = world.kubectl("get", "gpujob", name, *where, f"-o=jsonpath={{.{field}}}")
        return shown == wanted

    judged = {
        name: (holds(name, success), holds(name, failure)) for name in ("good", "bad", "held")
    }
    assert judged == {"good": (True, False), "bad": (False, True), "held": (False, False)}


@pytest.mark.shared_world
def test_a_controller_that_suspends_jobs_can_hold_one_and_take_its_machine(world: World) -> None:
    """As Kueue does: it writes the whole object that it has read."""

    def suspend(flag: bool) -> None:
        def is_written() -> bool:
            job = world.job("queued")
            job["spec"]["suspend"] = flag
            path = path_of("gpujobs", "queued", world.namespace)
            return world.kubectl.client.send("PUT", f"{path}?fieldManager=kueue", job)[0] == 200

        eventually("it is written", is_written)

    def is_released() -> bool:
        flags = (
            world.condition("queued", kind).get("status") for kind in ("Suspended", "Released")
        )
        return [*flags] == ["True", "True"]

    world.apply_job("queued", suspend=True, command=world.waits())
    eventually("it is held", is_released)
    assert world.simulator.ledger() == []
    suspend(False)
    world.await_reason("queued", "Running")
    suspend(True)
    eventually("its machine is given back", is_released)
    assert world.simulator.living() == []
    suspend(False)
    world.let_go()
    world.await_reason("queued", "Complete")


@pytest.mark.shared_world
def test_a_job_that_left_its_nodes_behind_has_a_successor(world: World) -> None:
    """Deleted with --cascade=orphan: the released node gives way to the next job's."""
    world.apply_job("twice")
    first = world.await_reason("twice", "Complete")
    here = ("-n", world.namespace)
    world.kubectl("delete", "gpujob", "twice", "--cascade=orphan", *here)
    world.apply_job("twice")
    second = world.await_reason("twice", "Complete")

    assert first["metadata"]["uid"] != second["metadata"]["uid"]
    assert len(world.simulator.of(first)) == len(world.simulator.of(second)) == 1
