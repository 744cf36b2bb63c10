"""Manifests as people and their tools write them, with the real kubectl and its Kustomize."""

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest
from tests.integration.corpus import GOOD
from tests.integration.parts import Kubectl, Object
from tests.integration.test_bad_input import manifest

from gpujob.api.schema import GPUJOB, custom_resource_definition

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
