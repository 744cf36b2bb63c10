"""The chart as a platform team reads it: closed values, few rights, restricted pods."""

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from gpujob.api.schema import KINDS, custom_resource_definition
from gpujob.config import Settings
from gpujob.core.rights import CLUSTER_WIDE, own_rights
from localcluster import binaries
from localcluster.paths import ROOT

CHART = ROOT / "helm/gpujob"
HELMS = ("helm", "helm4")
Object = dict[str, Any]


@pytest.fixture(scope="session")
def programs() -> Path:
    """The folder with both versions of Helm."""
    return binaries.ensure(binaries.CHART)


def helm(programs: Path, version: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Runs Helm, whatever comes of it."""
    return subprocess.run(
        [str(programs / version), *arguments],
        capture_output=True,
        text=True,
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent"},
    )


def rendered(programs: Path, *sets: str, version: str = "helm") -> str:
    """Returns the rendered chart."""
    values = [f"--set={one}" for one in ("vast.existingSecret=vast", *sets)]
    done = helm(programs, version, "template", "gpujob", str(CHART), "-n", "system", *values)
    assert done.returncode == 0, done.stderr
    return done.stdout


def objects(programs: Path, *sets: str) -> list[Object]:
    """Returns the rendered objects."""
    return [one for one in yaml.safe_load_all(rendered(programs, *sets)) if one]


@pytest.mark.parametrize("version", HELMS)
def test_lint_finds_nothing(programs: Path, version: str) -> None:
    """helm lint --strict is clean with Helm 3 and 4."""
    values = "--set=vast.existingSecret=vast"
    done = helm(programs, version, "lint", "--strict", str(CHART), values)

    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("version", HELMS)
def test_two_renders_are_identical(programs: Path, version: str) -> None:
    """No chance, no look-up, no time."""
    assert rendered(programs, version=version) == rendered(programs, version=version)


WRONG = [
    ("no secret", [], "existingSecret"),
    ("an unknown value", ["vast.existingSecret=x", "shards=2"], "shards"),
    ("an unknown nested value", ["vast.existingSecret=x", "vast.token=abc"], "token"),
    ("a short digest", ["vast.existingSecret=x", "image.digest=sha256:abc"], "digest"),
    ("an unknown policy", ["vast.existingSecret=x", "image.pullPolicy=Often"], "pullPolicy"),
    ("no address", ["vast.existingSecret=x", "vast.url=console"], "url"),
    ("a negative limit", ["vast.existingSecret=x", "limits.pollSeconds=-1"], "pollSeconds"),
    ("an unknown limit", ["vast.existingSecret=x", "limits.patience=1"], "patience"),
    ("no replica", ["vast.existingSecret=x", "replicas=0"], "replicas"),
    ("a wrong type", ["vast.existingSecret=x", "crds.install=maybe"], "install"),
]


@pytest.mark.parametrize(("sets", "word"), [row[1:] for row in WRONG], ids=[r[0] for r in WRONG])
def test_wrong_values_are_refused(programs: Path, sets: list[str], word: str) -> None:
    """The message names the value."""
    values = [f"--set={one}" for one in sets]
    done = helm(programs, "helm", "template", "gpujob", str(CHART), *values)

    assert done.returncode != 0
    assert word in done.stderr


def test_the_crds_are_the_generated_ones_and_are_kept(programs: Path) -> None:
    """Deleting them would delete every job."""
    found = {
        one["metadata"]["name"]: one
        for one in objects(programs)
        if one["kind"] == "CustomResourceDefinition"
    }
    for kind in KINDS:
        wanted = custom_resource_definition(kind)
        crd = found[wanted["metadata"]["name"]]
        assert crd["spec"] == wanted["spec"]
        assert crd["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    without = objects(programs, "crds.install=false")
    assert "CustomResourceDefinition" not in {one["kind"] for one in without}


def test_every_field_is_described_and_bounded() -> None:
    """kubectl explain answers everywhere; every list and text has an end."""

    def look(schema: Object, path: str) -> None:
        kind = schema.get("type")
        assert kind, f"{path} has no type"
        if kind == "array":
            assert "maxItems" in schema, f"{path} has no end"
            look(schema["items"], f"{path}[]")
        if kind == "string" and "enum" not in schema and schema.get("format") != "date-time":
            assert "maxLength" in schema, f"{path} has no end"
        for name, child in schema.get("properties", {}).items():
            assert child.get("description"), f"{path}.{name} is not described"
            look(child, f"{path}.{name}")

    for kind in KINDS:
        (version,) = custom_resource_definition(kind)["spec"]["versions"]
        root = version["schema"]["openAPIV3Schema"]["properties"]
        look(root["spec"], f"{kind.name}.spec")
        for name, child in root["status"]["properties"].items():
            look(child, f"{kind.name}.status.{name}")


def test_two_replicas_survive_a_drain(programs: Path) -> None:
    """Two by default, never both evicted; a single one has no budget that could block a drain."""

    def made(*sets: str) -> dict[str, Object]:
        return {one["kind"]: one for one in objects(programs, *sets)}

    both, alone = made(), made("replicas=1")
    assert both["Deployment"]["spec"]["replicas"] == 2
    assert both["PodDisruptionBudget"]["spec"]["maxUnavailable"] == 1
    assert "PodDisruptionBudget" not in alone


def test_drivers_are_led_to_the_leader_alone(programs: Path) -> None:
    """The Service selects no pods: the leader writes where it leads."""
    (service,) = [one for one in objects(programs) if one["kind"] == "Service"]

    assert "selector" not in service["spec"]


def test_no_right_is_wide(programs: Path) -> None:
    """No wildcard anywhere, and no Secret is read."""
    roles = [one for one in objects(programs) if one["kind"] in ("ClusterRole", "Role")]
    assert len(roles) == 2
    for rule in (rule for role in roles for rule in role["rules"]):
        assert "*" not in rule["verbs"] + rule["resources"] + rule["apiGroups"]
        if "secrets" in rule["resources"]:
            assert set(rule["verbs"]) == {"create", "delete"}


def test_the_roles_grant_what_the_controller_checks_for_and_no_more(programs: Path) -> None:
    """Right by right, so that neither a missing nor a needless one goes unseen."""
    for kind, needed in (("ClusterRole", CLUSTER_WIDE), ("Role", own_rights("gpujob"))):
        (role,) = (one for one in objects(programs) if one["kind"] == kind)
        granted = {
            (group, resource, verb, name)
            for rule in role["rules"]
            for group in rule["apiGroups"]
            for resource in rule["resources"]
            for verb in rule["verbs"]
            for name in rule.get("resourceNames", [""])
        }
        wanted = {
            (right.group, right.resource, verb, right.name)
            for right in needed
            for verb in right.verbs
        }
        assert granted == wanted


def test_the_pod_is_restricted_and_the_token_in_one_variable(programs: Path) -> None:
    """Restricted Pod Security, read-only root, and the token by reference only."""
    (deployment,) = [one for one in objects(programs) if one["kind"] == "Deployment"]
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    tokens = [one for one in container["env"] if "secretKeyRef" in one.get("valueFrom", {})]
    assert [one["name"] for one in tokens] == ["VAST_API_KEY"]
    assert tokens[0]["valueFrom"] == {"secretKeyRef": {"name": "vast", "key": "api-key"}}


def test_the_controller_understands_its_environment(programs: Path) -> None:
    """Every variable that the chart sets, the settings know; limits arrive."""
    sets = ("limits.pollSeconds=7", "limits.maxLeases=3")
    (deployment,) = [one for one in objects(programs, *sets) if one["kind"] == "Deployment"]
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    downward = {
        "metadata.namespace": "system",
        "metadata.name": "pod",
        "metadata.uid": "1234",
        "status.podIP": "192.0.2.1",
    }
    environment = {
        one["name"]: one.get("value")
        or downward.get(one["valueFrom"].get("fieldRef", {}).get("fieldPath"), "canary")
        for one in container["env"]
    }
    settings = Settings.from_environment(environment)

    assert (settings.limits.poll_seconds, settings.limits.max_leases) == (7.0, 3)
    assert "canary" not in repr(settings)


def test_a_digest_wins_over_a_tag(programs: Path) -> None:
    """For the controller and for the drivers that it makes."""
    digest = "sha256:" + "0" * 64
    text = rendered(programs, f"image.digest={digest}", "image.tag=1.2.3")

    assert text.count(f"@{digest}") == 2
    assert "1.2.3" not in text
