"""The chart as a platform team reads it: closed values, few rights, restricted pods."""

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from gpujob.api.schema import GPUJOB, KINDS, custom_resource_definition
from gpujob.config import ServerSettings, Settings
from gpujob.core.rights import CLUSTER_WIDE, own_rights, webhook_rights
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
    (
        "an API without its server",
        ["vast.existingSecret=x", "api.install=true", "webhook.install=false"],
        "api.install needs webhook.install",
    ),
    ("an unknown mode", ["vast.existingSecret=x", "api.mode=debug"], "mode"),
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
    """kubectl explain answers everywhere, with an example of what users write; all has an end."""

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

    def shown(schema: Object, path: str) -> None:
        for name, child in schema.get("properties", {}).items():
            inner = child.get("items", child)
            if "properties" in inner:
                shown(inner, f"{path}.{name}")
            else:
                assert " Example: " in child["description"], f"{path}.{name} has no example"

    for kind in KINDS:
        (version,) = custom_resource_definition(kind)["spec"]["versions"]
        root = version["schema"]["openAPIV3Schema"]["properties"]
        look(root["spec"], f"{kind.name}.spec")
        if kind is GPUJOB:
            shown(root["spec"], "spec")
        for name, child in root["status"]["properties"].items():
            look(child, f"{kind.name}.status.{name}")


PARTS = ("gpujob", "gpujob-server")
"""Controller and server, by the names of their Deployments."""


def made(programs: Path, kind: str, *sets: str) -> dict[str, Object]:
    """Returns the rendered objects of a kind by name."""
    return {one["metadata"]["name"]: one for one in objects(programs, *sets) if one["kind"] == kind}


@pytest.mark.parametrize(("name", "value"), [("gpujob", ""), ("gpujob-server", "webhook.")])
def test_two_replicas_survive_a_drain(programs: Path, name: str, value: str) -> None:
    """Two by default, never both evicted; a single one has no budget that could block a drain."""
    assert made(programs, "Deployment")[name]["spec"]["replicas"] == 2
    assert made(programs, "PodDisruptionBudget")[name]["spec"]["maxUnavailable"] == 1
    assert name not in made(programs, "PodDisruptionBudget", f"{value}replicas=1")


def test_drivers_are_led_to_the_leader_alone(programs: Path) -> None:
    """The Service selects no pods: the leader writes where it leads."""
    assert "selector" not in made(programs, "Service")["gpujob"]["spec"]


def test_no_right_is_wide(programs: Path) -> None:
    """No wildcard anywhere, and no Secret is read but that of the webhook's certificates."""
    roles = [one for one in objects(programs) if one["kind"] in ("ClusterRole", "Role")]
    assert len(roles) == 3
    for rule in (rule for role in roles for rule in role["rules"]):
        assert "*" not in rule["verbs"] + rule["resources"] + rule["apiGroups"]
        if "secrets" in rule["resources"] and not set(rule["verbs"]) <= {"create", "delete"}:
            assert rule["resourceNames"] == ["gpujob-server-tls"]


def test_the_server_reads_its_certificates_and_prices_and_nothing_else(programs: Path) -> None:
    """Whoever breaks into it finds no other right, and no token of the account."""
    role = made(programs, "Role")["gpujob-server"]
    pod = made(programs, "Deployment")["gpujob-server"]["spec"]["template"]["spec"]

    assert role["rules"] == [
        {
            "apiGroups": [""],
            "resources": ["secrets"],
            "resourceNames": ["gpujob-server-tls"],
            "verbs": ["get"],
        },
        {
            "apiGroups": [""],
            "resources": ["configmaps"],
            "resourceNames": ["gpujob-market"],
            "verbs": ["get"],
        },
    ]
    assert pod["serviceAccountName"] == "gpujob-server"
    bound = [*made(programs, "ClusterRoleBinding").values()]
    assert all(one["subjects"][0]["name"] == "gpujob" for one in bound)
    assert not any(
        "secretKeyRef" in one.get("valueFrom", {})
        for container in pod["containers"]
        for one in container["env"]
    )


def test_the_api_gets_what_its_callers_may_ask_for_and_no_more(programs: Path) -> None:
    """No Secret but the digests of its tokens, and none of the account's."""
    sets = ("api.install=true", "api.bootstrapSecret=first")
    wide = made(programs, "ClusterRole", *sets)["system-gpujob-server"]
    role = made(programs, "Role", *sets)["gpujob-server"]
    deployment = made(programs, "Deployment", *sets)["gpujob-server"]
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    secrets = {
        one["valueFrom"]["secretKeyRef"]["name"]
        for one in container["env"]
        if "secretKeyRef" in one.get("valueFrom", {})
    }
    granted = {
        (resource, verb)
        for rule in wide["rules"]
        for resource in rule.get("resources", rule.get("nonResourceURLs"))
        for verb in rule["verbs"]
    }

    assert secrets == {"first"}
    assert granted == {
        *(("gpujobs", verb) for verb in ("get", "list", "watch", "create", "patch", "delete")),
        ("gpunodes", "list"),
        ("pods", "get"),
        ("pods/log", "get"),
        ("tokenreviews", "create"),
        ("subjectaccessreviews", "create"),
        ("/v1/estimates", "post"),
    }
    read = [
        name
        for rule in role["rules"]
        if rule["resources"] == ["secrets"]
        for name in rule["resourceNames"]
    ]
    assert read == ["gpujob-server-tls", "gpujob-api-tokens"]
    assert "GPUJOB_API" not in rendered(programs)


def test_without_a_webhook_nothing_is_left_of_it(programs: Path) -> None:
    """No server, no right for it, and no certificate that the controller would make."""
    without = rendered(programs, "webhook.install=false")

    assert "server" not in without.replace("server-side", "")
    assert "GPUJOB_WEBHOOK" not in without
    assert "ValidatingWebhookConfiguration" not in without


def test_cert_manager_makes_the_certificates_if_told_so(programs: Path) -> None:
    """For the names that the API server uses; the controller then leaves them alone."""
    theirs = objects(programs, "webhook.certManager=true")
    (certificate,) = (one for one in theirs if one["kind"] == "Certificate")
    (webhook,) = (one for one in theirs if one["kind"] == "ValidatingWebhookConfiguration")
    (asked,) = webhook["webhooks"]
    service = asked["clientConfig"]["service"]

    assert certificate["spec"]["secretName"] == "gpujob-server-tls"
    assert f"{service['name']}.{service['namespace']}.svc" in certificate["spec"]["dnsNames"]
    injected = webhook["metadata"]["annotations"]["cert-manager.io/inject-ca-from"]
    assert injected == f"system/{certificate['metadata']['name']}"
    assert "GPUJOB_WEBHOOK" not in rendered(programs, "webhook.certManager=true")


def test_the_roles_grant_what_the_controller_checks_for_and_no_more(programs: Path) -> None:
    """Right by right, so that neither a missing nor a needless one goes unseen."""
    everywhere = (*CLUSTER_WIDE, *webhook_rights("system-gpujob"))
    for kind, name, needed in (
        ("ClusterRole", "system-gpujob", everywhere),
        ("Role", "gpujob", own_rights("gpujob", webhook=True)),
    ):
        role = made(programs, kind)[name]
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


@pytest.mark.parametrize("name", PARTS)
def test_the_pods_are_restricted(programs: Path, name: str) -> None:
    """Restricted Pod Security, and a read-only root."""
    pod = made(programs, "Deployment")[name]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_the_token_is_in_one_variable(programs: Path) -> None:
    """By reference only."""
    pod = made(programs, "Deployment")["gpujob"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    tokens = [one for one in container["env"] if "secretKeyRef" in one.get("valueFrom", {})]
    assert [one["name"] for one in tokens] == ["VAST_API_KEY"]
    assert tokens[0]["valueFrom"] == {"secretKeyRef": {"name": "vast", "key": "api-key"}}


def test_the_controller_understands_its_environment(programs: Path) -> None:
    """Every variable that the chart sets, the settings know; limits arrive."""
    sets = ("limits.pollSeconds=7", "limits.maxLeases=3")
    settings = Settings.from_environment(environment_of(programs, "gpujob", *sets))

    assert (settings.limits.poll_seconds, settings.limits.max_leases) == (7.0, 3)
    assert settings.webhook in made(programs, "ValidatingWebhookConfiguration")
    assert "canary" not in repr(settings)


def test_the_server_understands_its_environment(programs: Path) -> None:
    """Every variable that the chart sets, the settings know."""
    settings = ServerSettings.from_environment(environment_of(programs, "gpujob-server"))

    assert (settings.namespace, settings.name) == ("system", "gpujob")


def environment_of(programs: Path, name: str, *sets: str) -> dict[str, str]:
    """Returns the variables of a Deployment's container, as the kubelet would fill them in."""
    deployment = made(programs, "Deployment", *sets)[name]
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    downward = {
        "metadata.namespace": "system",
        "metadata.name": "pod",
        "metadata.uid": "1234",
        "status.podIP": "192.0.2.1",
    }
    return {
        one["name"]: one.get("value")
        or downward.get(one["valueFrom"].get("fieldRef", {}).get("fieldPath"), "canary")
        for one in container["env"]
    }


def test_a_digest_wins_over_a_tag(programs: Path) -> None:
    """For controller, server, and the drivers that the controller makes."""
    digest = "sha256:" + "0" * 64
    text = rendered(programs, f"image.digest={digest}", "image.tag=1.2.3")

    assert text.count(f"@{digest}") == 3
    assert "1.2.3" not in text
