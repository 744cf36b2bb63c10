"""What the API server refuses by schema and CEL alone, with a message that says what is wrong."""

import json
from typing import Any

import pytest
from tests.integration.corpus import GOOD
from tests.integration.parts import Kubectl, Object


def manifest(namespace: str, spec: Any, name: str = "job") -> str:
    """Returns a manifest with this spec."""
    return json.dumps(
        {
            "apiVersion": "gpujob.dev/v1alpha1",
            "kind": "GpuJob",
            "metadata": {"name": name, "namespace": namespace},
            "spec": spec,
        }
    )


def without(field: str) -> Object:
    """Returns a good spec without a field."""
    return {name: value for name, value in GOOD.items() if name != field}


SECRET = {"name": "s", "key": "k"}

WRONG = [
    ("a line's end in an image", GOOD | {"image": "a\u0085b"}, "spec.image"),
    ("no ceiling", GOOD | {"cost": {}}, "spec.cost.ceiling"),
    ("no cost", without("cost"), "spec.cost"),
    ("a ceiling of zero", GOOD | {"cost": {"ceiling": "0"}}, "more than 0"),
    ("a ceiling of zero cents", GOOD | {"cost": {"ceiling": "0.00"}}, "more than 0"),
    ("a negative ceiling", GOOD | {"cost": {"ceiling": "-1"}}, "spec.cost.ceiling"),
    ("NaN", GOOD | {"cost": {"ceiling": "NaN"}}, "spec.cost.ceiling"),
    ("infinity", GOOD | {"cost": {"ceiling": "Infinity"}}, "spec.cost.ceiling"),
    ("20 digits", GOOD | {"cost": {"ceiling": "12345678901234567890"}}, "spec.cost.ceiling"),
    ("a number", GOOD | {"cost": {"ceiling": 1.5}}, "spec.cost.ceiling"),
    ("an exponent", GOOD | {"cost": {"ceiling": "1e3"}}, "spec.cost.ceiling"),
    ("low confidence", GOOD | {"cost": {"ceiling": "1", "confidence": "0.5"}}, "at least 0.95"),
    ("certainty", GOOD | {"cost": {"ceiling": "1", "confidence": "1"}}, "at most 0.97"),
    ("too sure", GOOD | {"cost": {"ceiling": "1", "confidence": "0.995"}}, "at most 0.97"),
    (
        "success as a failure",
        GOOD
        | {
            "failurePolicy": {
                "rules": [{"action": "Ignore", "onExitCodes": {"operator": "In", "values": [0]}}]
            }
        },
        "spec.failurePolicy.rules[0].onExitCodes.values[0]",
    ),
    ("no image", without("image"), "spec.image"),
    ("an empty image", GOOD | {"image": ""}, "spec.image"),
    ("no command", without("command"), "spec.command"),
    ("an empty command", GOOD | {"command": []}, "spec.command"),
    ("a deadline of zero", GOOD | {"activeDeadlineSeconds": 0}, "activeDeadlineSeconds"),
    ("no GPU", GOOD | {"gpu": {"count": 0}}, "spec.gpu.count"),
    ("a region in words", GOOD | {"market": {"regions": ["Canada"]}}, "spec.market.regions"),
    ("unknown trust", GOOD | {"market": {"hosts": "Friends"}}, "spec.market.hosts"),
    (
        "value and valueFrom",
        GOOD
        | {
            "env": [
                {
                    "name": "A",
                    "value": "1",
                    "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}},
                }
            ]
        },
        "may not both be set",
    ),
    ("two variables of a name", GOOD | {"env": [{"name": "A"}, {"name": "A"}]}, "Duplicate"),
    ("an unknown field", GOOD | {"budget": "1"}, "unknown field"),
    ("no spec", None, "spec"),
]


@pytest.mark.parametrize(
    ("spec", "words"), [row[1:] for row in WRONG], ids=[row[0] for row in WRONG]
)
def test_a_mistake_is_refused_with_its_field(
    kubectl: Kubectl, namespace: str, spec: Object | None, words: str
) -> None:
    """The API server itself says what is wrong; nothing is stored."""
    done = kubectl.run(*("create", "--validate=strict", "-f", "-"), text=manifest(namespace, spec))

    assert done.returncode != 0
    assert words in done.stderr
    assert kubectl.items("gpujobs", "-n", namespace) == []


def test_a_name_leaves_room_for_its_nodes(kubectl: Kubectl, namespace: str) -> None:
    """52 characters pass, 53 do not."""
    fits = kubectl.run("create", "-f", "-", text=manifest(namespace, GOOD, "a" * 52))
    refused = kubectl.run("create", "-f", "-", text=manifest(namespace, GOOD, "a" * 53))

    assert fits.returncode == 0
    assert "at most 52 characters" in refused.stderr


CHANGES = [
    ("the image", {"image": "other"}, False),
    ("the command", {"command": ["other"]}, False),
    ("the GPU", {"gpu": {"count": 2}}, False),
    ("the market", {"market": {"hosts": "Any"}}, False),
    ("the folder", {"workingDir": "/x"}, False),
    ("the failure policy", {"failurePolicy": {"rules": []}, "maxRents": 3}, False),
    ("a lower ceiling", {"cost": {"ceiling": "0.99"}}, False),
    ("a lower deadline", {"activeDeadlineSeconds": 59}, False),
    ("no deadline", {"activeDeadlineSeconds": None}, False),
    ("a higher ceiling", {"cost": {"ceiling": "9.00"}}, True),
    ("a later deadline", {"activeDeadlineSeconds": 61}, True),
    ("suspension", {"suspend": True}, True),
    ("the driver's pod", {"driver": {"labels": {"team": "b"}, "nodeSelector": {"a": "b"}}}, True),
]


@pytest.mark.parametrize(
    ("change", "allowed"), [row[1:] for row in CHANGES], ids=[row[0] for row in CHANGES]
)
def test_what_may_change(kubectl: Kubectl, namespace: str, change: Object, allowed: bool) -> None:
    """Money and time may be raised; what is run may not change."""
    kubectl("create", "-f", "-", text=manifest(namespace, GOOD))
    patch = json.dumps({"spec": change})
    target = ("gpujob", "job", "-n", namespace)
    done = kubectl.run("patch", *target, "--type=merge", "-p", patch)

    assert (done.returncode == 0) is allowed, done.stderr


def test_applying_again_changes_nothing(kubectl: Kubectl, namespace: str) -> None:
    """Defaults are in the schema, so GitOps tools see no drift."""
    kubectl("apply", "-f", "-", text=manifest(namespace, GOOD))
    before = kubectl.get("gpujob", "job", namespace) or {}
    kubectl("apply", "-f", "-", text=manifest(namespace, GOOD))
    after = kubectl.get("gpujob", "job", namespace) or {}

    assert before["spec"] == after["spec"]
    assert before["metadata"]["generation"] == after["metadata"]["generation"] == 1


def test_kubectl_explains_every_field(kubectl: Kubectl) -> None:
    """By what the API server publishes: fields, and those below them, each with a description."""
    published = json.loads(kubectl("get", "--raw", "/openapi/v3/apis/gpujob.dev/v1alpha1"))
    schemas = published["components"]["schemas"]
    told = kubectl("explain", "gpujob.spec", "--recursive")
    seen = 0

    def look(schema: Object, path: str) -> None:
        nonlocal seen
        for name, child in schema.get("properties", {}).items():
            inner = child.get("items", child)
            assert child.get("description"), f"{path}.{name} is not described"
            assert path != "spec" or f"{name}\t" in told
            seen += 1
            look(inner, f"{path}.{name}")

    for kind in ("GpuJob", "GpuNode"):
        (root,) = (one for name, one in schemas.items() if name.endswith(f".{kind}"))
        look(root["properties"]["spec"], "spec" if kind == "GpuJob" else f"{kind}.spec")
        look(root["properties"]["status"], f"{kind}.status")

    assert seen > 100
    assert 'Example: "2.50"' in " ".join(kubectl("explain", "gpujob.spec.cost.ceiling").split())


def test_two_managers_apply_without_conflict(kubectl: Kubectl, namespace: str) -> None:
    """One sets what is run, the other suspends; neither sees a difference afterwards."""
    whole = manifest(namespace, GOOD)
    lever = manifest(namespace, {"suspend": True})
    for who, text in (("argocd", whole), ("kueue", lever), ("argocd", whole), ("kueue", lever)):
        kubectl("apply", "--server-side", f"--field-manager={who}", "-f", "-", text=text)
    job = kubectl.get("gpujob", "job", namespace) or {}

    assert job["spec"]["suspend"] is True
    assert job["metadata"]["generation"] == 2
    for who, text in (("argocd", whole), ("kueue", lever)):
        diff = ("diff", "--server-side", f"--field-manager={who}", "-f", "-")
        done = kubectl.run(*diff, text=text)
        assert done.returncode == 0, done.stdout + done.stderr
