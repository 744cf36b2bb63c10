"""The chart as a platform team reads it: closed values, few rights, restricted pods."""

import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml
from tests.chart.rendering import (
    CHART,
    DIGEST,
    EXAMPLES,
    VALUE_SETS,
    Object,
    helm,
    made,
    objects,
    rendered,
)

import chart_values
from gpujob.api.schema import GPUJOB, KINDS, custom_resource_definition
from gpujob.controller.settings import Settings
from gpujob.core.rights import CLUSTER_WIDE, own_rights, webhook_rights
from gpujob.server.settings import ServerSettings
from localcluster.paths import ROOT

HELMS = ("helm", "helm4")
CHECKOV = ROOT / "hack/checkov"


@pytest.mark.parametrize("version", HELMS)
def test_lint_finds_nothing(programs: Path, version: str) -> None:
    """helm lint --strict is clean with Helm 3 and 4."""
    values = "--set=vast.existingSecret=vast"
    done = helm(programs, version, "lint", "--strict", str(CHART), values)

    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("values", VALUE_SETS.values(), ids=list(VALUE_SETS))
def test_two_renders_are_identical(programs: Path, values: Object) -> None:
    """No chance, no look-up, no time; and both versions of Helm make the same objects."""
    first = rendered(programs, values=values)
    other = rendered(programs, values=values, version="helm4")

    assert rendered(programs, values=values) == first
    assert sorted(_documents(first)) == sorted(_documents(other))
    assert "helm.sh/hook" not in first


def _documents(text: str) -> list[str]:
    return [json.dumps(one, sort_keys=True) for one in yaml.load_all(text, yaml.CSafeLoader) if one]


@pytest.mark.parametrize("word", ["lookup", "rand", "genCA", "genSigned", "now ", "uuidv4"])
def test_no_template_asks_for_what_may_change(word: str) -> None:
    """Under Argo CD that would be another chart at each look."""
    for path in (CHART / "templates").rglob("*.*"):
        # Descriptions of fields are no templates.
        if path.parent.name != "crds":
            actions = re.findall(r"{{.*?}}", path.read_text(), re.DOTALL)
            assert not [one for one in actions if word in one], path.name


WRONG = [
    ("no secret", [], "existingSecret"),
    ("an empty secret", ["vast.existingSecret="], "existingSecret"),
    ("an unknown value", ["shards=2"], "shards"),
    ("an unknown nested value", ["vast.token=abc"], "token"),
    ("a repository with a digest", ["image.repository=a/b@sha256:c"], "repository"),
    ("a tag with a space", ["image.tag=a b"], "tag"),
    ("a short digest", ["image.digest=sha256:abc"], "digest"),
    ("an unknown policy", ["image.pullPolicy=Often"], "pullPolicy"),
    ("a driver's image with a digest in its name", ["driver.image.repository=a@b"], "repository"),
    ("no address", ["vast.url=console"], "url"),
    ("no value where one was", ["vast.url=null"], "url"),
    ("a negative limit", ["limits.pollSeconds=-1"], "pollSeconds"),
    ("an unknown limit", ["limits.patience=1"], "patience"),
    ("money with a sign", ["limits.maxUsdPerHour=$5"], "maxUsdPerHour"),
    ("no replica", ["replicas=0"], "replicas"),
    ("half a server", ["webhook.replicas=1.5"], "webhook/replicas"),
    (
        "an API without its server",
        ["api.install=true", "webhook.install=false"],
        "api.install requires webhook.install",
    ),
    ("an unknown mode", ["api.mode=debug"], "mode"),
    ("a wrong type", ["crds.install=maybe"], "install"),
    ("no internet", ["networkPolicy.internet=null"], "internet"),
    ("no networks of the internet", ["networkPolicy.internet={}"], "internet"),
    ("an address without its size", ["networkPolicy.apiServer.cidrs={10.0.0.1}"], "cidrs"),
    ("no such port", ["networkPolicy.apiServer.ports={70000}"], "ports"),
    ("no namespace", ["networkPolicy.jobNamespaces={Team_A}"], "jobNamespaces"),
    ("no peer", ["networkPolicy.metricsFrom[0].pods=prometheus"], "metricsFrom"),
    ("metrics that nobody may read", ["podMonitor.install=true"], "networkPolicy.metricsFrom"),
    ("no quantity", ["resources.limits.memory=lots"], "memory"),
    ("an unknown resource", ["webhook.resources.limits.gpu=1"], "gpu"),
    ("an unknown effect", ["tolerations[0].effect=Never"], "effect"),
    ("a label of ours", ["commonLabels.helm\\.sh/chart=x"], "commonLabels"),
    ("an object without a kind", ["extraObjects[0].apiVersion=v1"], "extraObjects"),
    ("a level that is none", ["logLevel=TRACE"], "logLevel"),
]


@pytest.mark.parametrize(("sets", "word"), [row[1:] for row in WRONG], ids=[r[0] for r in WRONG])
@pytest.mark.parametrize("version", HELMS)
def test_wrong_values_are_refused(programs: Path, version: str, sets: list[str], word: str) -> None:
    """The message names the value, and is short."""
    given = ["vast.existingSecret=x", *sets] if sets else []
    values = [f"--set={one}" for one in given]
    done = helm(programs, version, "template", "gpujob", str(CHART), *values)

    assert done.returncode != 0
    assert word in done.stderr
    assert len(done.stderr.splitlines()) <= 6


OPEN = {"global", "extraObjects[]"}
"""What is not for us to close: another chart's values, and objects of any kind."""


def test_the_schema_is_closed_at_every_level() -> None:
    """A misspelt value is refused wherever it stands; a map has values of one type."""
    found = set()

    def look(schema: Object, path: str) -> None:
        kind = schema.get("type")
        assert kind or "enum" in schema, f"{path} may be anything"
        if kind == "array":
            look(schema["items"], f"{path}[]")
        if kind == "object" and isinstance(schema.get("additionalProperties", True), bool):
            if schema.get("additionalProperties", True):
                found.add(path)
            for name, child in schema.get("properties", {}).items():
                look(child, f"{path}.{name}".strip("."))

    look(json.loads((CHART / "values.schema.json").read_text()), "")
    assert found == OPEN


def test_a_value_without_a_comment_stops_the_page() -> None:
    """So each value is told."""
    told = "a:\n  # -- Said,\n  # in two lines.\n  b: 1\n"

    assert "| `a.b` | `1` | Said, in two lines. |" in chart_values.values_page(told)
    with pytest.raises(ValueError, match=r"a\.c needs a comment"):
        chart_values.values_page(told + "  c: 2\n")


def test_checkov_finds_nothing(programs: Path, tmp_path: Path) -> None:
    """All that it asks is done, or justified where it is not; with an image by digest."""
    files = []
    for number, name in enumerate(("nothing but the Secret", "closed networks", "Prometheus")):
        path = tmp_path / f"{number}.yaml"
        found = objects(programs, f"image.digest={DIGEST}", values=VALUE_SETS[name])
        # It has nothing to say to them, and takes long to read them.
        found = [one for one in found if one["kind"] != "CustomResourceDefinition"]
        path.write_text(yaml.safe_dump_all(found))
        files.append(str(path))
    done = subprocess.run([str(CHECKOV), *files], capture_output=True, text=True)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "Failed checks: 0" in done.stdout


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.name)
def test_the_examples_apply_server_side(path: Path) -> None:
    """Their values are rendered above; nothing of the chart is ignored."""
    *_, document = yaml.safe_load_all(path.read_text())
    spec = document["spec"]

    assert "ignoreDifferences" not in spec
    if document["kind"] == "Application":
        assert "ServerSideApply=true" in spec["syncPolicy"]["syncOptions"]
    else:
        assert (spec["install"]["serverSideApply"], spec["upgrade"]["serverSideApply"]) == (
            True,
            "enabled",
        )


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
    """No wildcard anywhere; of Secrets only certificates are read, the transport's by no server."""
    roles = [one for one in objects(programs) if one["kind"] in ("ClusterRole", "Role")]
    assert len(roles) == 5
    read = set()
    for owner, rule in ((one["metadata"]["name"], rule) for one in roles for rule in one["rules"]):
        assert "*" not in rule["verbs"] + rule["resources"] + rule["apiGroups"]
        if "secrets" in rule["resources"] and not set(rule["verbs"]) <= {"create", "delete"}:
            read |= {(owner, name) for name in rule["resourceNames"]}
    assert read == {
        ("gpujob", "gpujob-server-tls"),
        ("gpujob", "gpujob-transport-tls"),
        ("gpujob-server", "gpujob-server-tls"),
    }


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
    without = objects(programs, "webhook.install=false")
    text = json.dumps(without)

    assert [one for one in without if "server" in one["metadata"]["name"]] == []
    assert "gpujob-server" not in text
    assert "GPUJOB_WEBHOOK" not in text
    assert "ValidatingWebhookConfiguration" not in text


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
        "status.podIPs": "192.0.2.1,2001:db8::1",
    }
    return {
        one["name"]: one.get("value")
        or downward.get(one["valueFrom"].get("fieldRef", {}).get("fieldPath"), "canary")
        for one in container["env"]
    }


def test_a_digest_wins_over_a_tag(programs: Path) -> None:
    """For controller and server, and for the drivers that the controller makes."""
    other = DIGEST[:-1] + "0"
    images = (f"image.digest={DIGEST}", f"driver.image.digest={other}")
    text = rendered(programs, *images, "image.tag=1.2.3", "driver.image.tag=1.2.3")

    assert text.count(f"/gpujob-operator@{DIGEST}") == 2
    assert text.count(f"/gpujob-driver@{other}") == 1
    assert "1.2.3" not in text


def test_replicas_are_spread(programs: Path) -> None:
    """Over machines and zones, each version for itself; never so hard that one stays away."""
    for deployment in made(programs, "Deployment").values():
        spread = deployment["spec"]["template"]["spec"]["topologySpreadConstraints"]
        assert [one["topologyKey"] for one in spread] == [
            "kubernetes.io/hostname",
            "topology.kubernetes.io/zone",
        ]
        for one in spread:
            assert one["whenUnsatisfiable"] == "ScheduleAnyway"
            assert one["matchLabelKeys"] == ["pod-template-hash"]
            selector = deployment["spec"]["selector"]["matchLabels"]
            assert one["labelSelector"]["matchLabels"] == selector


def test_labels_of_a_team_are_everywhere_and_change_no_selector(programs: Path) -> None:
    """But on the CRDs, which outlive the release."""
    values = VALUE_SETS["labels and annotations"]
    plain = {(one["kind"], one["metadata"]["name"]): one for one in objects(programs)}
    for one in objects(programs, values=values):
        if one["kind"] == "CustomResourceDefinition":
            continue
        assert one["metadata"]["labels"]["team"] == "ml", one["metadata"]["name"]
        if one["kind"] == "Deployment":
            pod = one["spec"]["template"]["metadata"]
            assert pod["labels"]["team"] == "ml"
            assert pod["annotations"] == {"sidecar.istio.io/inject": "false"}
            before = plain[one["kind"], one["metadata"]["name"]]
            assert one["spec"]["selector"] == before["spec"]["selector"]


def test_more_objects_are_rendered(programs: Path) -> None:
    """With the release's names."""
    (found,) = made(programs, "ConfigMap", values=VALUE_SETS["more objects"]).values()

    assert (found["metadata"]["name"], found["data"]) == ("gpujob-more", {"where": "system"})


def test_a_scraper_reads_the_metrics_and_nothing_else(programs: Path) -> None:
    """Its token crosses the network in plain text."""
    values = VALUE_SETS["Prometheus"]
    (monitor,) = made(programs, "PodMonitor", values=values).values()
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    secret = made(programs, "Secret", values=values)[
        endpoint["authorization"]["credentials"]["name"]
    ]
    account = secret["metadata"]["annotations"]["kubernetes.io/service-account.name"]
    bound = [
        one["roleRef"]["name"]
        for kind in ("RoleBinding", "ClusterRoleBinding")
        for one in made(programs, kind, values=values).values()
        if one["subjects"][0]["name"] == account
    ]
    (role,) = (made(programs, "ClusterRole", values=values)[name] for name in bound)
    ports = made(programs, "Deployment")["gpujob"]["spec"]["template"]["spec"]["containers"][0]

    assert role["rules"] == [{"nonResourceURLs": ["/metrics"], "verbs": ["get"]}]
    assert endpoint["port"] in {port["name"] for port in ports["ports"]}
    assert monitor["metadata"]["labels"]["release"] == "prometheus"
    assert made(programs, "PodMonitor") == {}
