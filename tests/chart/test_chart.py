"""The chart as a platform team reads it: closed values, few rights, restricted pods."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from tests.chart.rendering import (
    CHART,
    CLIENT_CA,
    DIGEST,
    EXAMPLES,
    NAMESPACE,
    PROMETHEUS,
    VALUE_SETS,
    Object,
    helm,
    made,
    objects,
    rendered,
)
from tests.kubelet import variables

import chart_values
from gpujob.api.schema import GPUJOB, KINDS, custom_resource_definition
from gpujob.controller.settings import Settings
from gpujob.core.machine.driver_defaults import STANDARD, DriverDefaults
from gpujob.core.rights import (
    CLUSTER,
    JOBS,
    OTHERS_PODS,
    Rights,
    own_rights,
    read_namespace,
    webhook_rights,
)
from gpujob.server.settings import ServerSettings
from localcluster.paths import ROOT

HELMS = ("helm", "helm4")
CHECKOV = ROOT / "hack/checkov"
CRD = "CustomResourceDefinition"


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
    ("no replica", ["replicaCount=0"], "replicaCount"),
    ("half a server", ["webhook.replicaCount=1.5"], "webhook/replicaCount"),
    (
        "an API without its server",
        ["api.enabled=true", "webhook.enabled=false"],
        "api.enabled requires webhook.enabled",
    ),
    ("an unknown mode", ["api.mode=debug"], "mode"),
    ("a wrong type", ["crds.enabled=maybe"], "enabled"),
    ("no internet", ["networkPolicy.internet=null"], "internet"),
    ("no networks of the internet", ["networkPolicy.internet={}"], "internet"),
    ("an address without its size", ["networkPolicy.apiServer.cidrs={10.0.0.1}"], "cidrs"),
    ("no such port", ["networkPolicy.apiServer.ports={70000}"], "ports"),
    ("no namespace", ["jobNamespaces={Team_A}"], "jobNamespaces"),
    ("a namespace twice", ["jobNamespaces={a,a}"], "jobNamespaces"),
    ("jobs beside the account's key", ["jobNamespaces={default}"], "leave out default"),
    ("jobs beside the cluster's keys", ["jobNamespaces={kube-public}"], "leave out kube-public"),
    ("its old place", ["networkPolicy.jobNamespaces={a}"], "networkPolicy"),
    ("an identity that no mark can carry", ["identity=a/b"], "identity"),
    (
        "no rights, and nowhere to have any",
        ["rbac.clusterRoles=false", "webhook.enabled=false"],
        "requires jobNamespaces",
    ),
    (
        "a webhook without rights",
        ["rbac.clusterRoles=false", "jobNamespaces={a}"],
        "webhook.enabled requires",
    ),
    (
        "metrics for nobody",
        [
            *("rbac.clusterRoles=false", "jobNamespaces={a}", "webhook.enabled=false"),
            *(
                "podMonitor.enabled=true",
                "networkPolicy.metricsFrom[0].podSelector.matchLabels.a=b",
            ),
        ],
        "podMonitor.enabled requires",
    ),
    ("no peer", ["networkPolicy.metricsFrom[0].pods=prometheus"], "metricsFrom"),
    ("metrics that nobody may read", ["podMonitor.enabled=true"], "networkPolicy.metricsFrom"),
    ("no quantity", ["resources.limits.memory=lots"], "memory"),
    ("an unknown resource", ["webhook.resources.limits.gpu=1"], "gpu"),
    ("an unknown effect", ["tolerations[0].effect=Never"], "effect"),
    ("a label of ours", ["commonLabels.helm\\.sh/chart=x"], "commonLabels"),
    ("an object without a kind", ["extraObjects[0].apiVersion=v1"], "extraObjects"),
    ("a level that is none", ["logLevel=TRACE"], "logLevel"),
    ("a switch by another name", ["crds.install=true"], "install"),
    ("replicas by another name", ["replicas=2"], "replicas"),
    ("roles by another name", ["roles.aggregateToEdit=true"], "roles"),
    ("a registry in the repository", ["image.repository=registry.example.com/a"], "repository"),
    ("a registry that is a URL", ["image.registry=https://registry.example.com"], "registry"),
    ("a Secret without a name", ["imagePullSecrets[0].secret=x"], "imagePullSecrets"),
    ("a parent's Secret without a name", ["global.imagePullSecrets[0].x=y"], "imagePullSecrets"),
    ("switched off, with no parent", ["enabled=false"], "condition"),
    ("no name of an object", ["fullnameOverride=GPU_Job"], "fullnameOverride"),
    ("an account that nobody names", ["serviceAccount.create=false"], "serviceAccount.name"),
    (
        "a server's account that nobody names",
        ["webhook.serviceAccount.create=false"],
        "webhook.serviceAccount.name",
    ),
    ("one account for both", ["webhook.serviceAccount.name=gpujob"], "an account of its own"),
    ("root", ["podSecurityContext.runAsUser=0"], "runAsUser"),
    ("perhaps root", ["podSecurityContext.runAsNonRoot=false"], "runAsNonRoot"),
    ("perhaps root, too", ["podSecurityContext.runAsNonRoot=null"], "runAsNonRoot"),
    ("all system calls", ["podSecurityContext.seccompProfile.type=Unconfined"], "seccompProfile"),
    ("a container's root", ["securityContext.runAsUser=0"], "runAsUser"),
    ("privileged", ["securityContext.privileged=true"], "privileged"),
    (
        "more privileges",
        ["securityContext.allowPrivilegeEscalation=true"],
        "allowPrivilegeEscalation",
    ),
    ("a root to write to", ["securityContext.readOnlyRootFilesystem=false"], "readOnlyRoot"),
    ("a capability", ["securityContext.capabilities.add={NET_ADMIN}"], "add"),
    ("capabilities kept", ["securityContext.capabilities.drop={NET_RAW}"], "drop"),
    ("a node's files", ["extraVolumes[0].name=a", "extraVolumes[0].hostPath.path=/"], "hostPath"),
    ("a volume of no kind", ["extraVolumes[0].name=a"], "extraVolumes"),
    (
        "a volume of ours",
        ["extraVolumes[0].name=tmp", "extraVolumes[0].configMap.name=a"],
        "rename tmp",
    ),
    (
        "the account's key in a file",
        ["extraVolumes[0].name=a", "extraVolumes[0].secret.secretName=x"],
        "the account's API key",
    ),
    (
        "the account's key in the server's file",
        [
            "webhook.extraVolumes[0].name=a",
            "webhook.extraVolumes[0].projected.sources[0].secret.name=x",
        ],
        "the account's API key",
    ),
    (
        "the account's key in the server",
        [
            "webhook.extraEnv[0].name=KEY",
            "webhook.extraEnv[0].valueFrom.secretKeyRef.name=x",
            "webhook.extraEnv[0].valueFrom.secretKeyRef.key=api-key",
        ],
        "the account's API key",
    ),
    ("the key itself", ["extraEnv[0].name=VAST_API_KEY", "extraEnv[0].value=k"], "VAST_API_KEY"),
    ("a constant as a variable", ["extraEnv[0].name=GPUJOB_POLL_SECONDS"], "limits.NAME"),
    ("a proxy as a variable", ["extraEnv[0].name=https_proxy"], "vast.proxyURL"),
    ("no variable", ["extraEnv[0].name=A B"], "extraEnv"),
    (
        "no path",
        ["extraVolumeMounts[0].name=a", "extraVolumeMounts[0].mountPath=a"],
        "mountPath",
    ),
    ("a proxy with a password", ["vast.proxyURL=http://u:p@proxy"], "proxyURL"),
    ("a proxy of another kind", ["vast.proxyURL=socks5://proxy"], "proxyURL"),
    ("a proxy out of reach", ["vast.proxyURL=http://proxy:3128"], "networkPolicy.proxyTo"),
    (
        "a proxy that could read the key",
        ["vast.proxyURL=http://proxy", "vast.url=http://x", "networkPolicy.enabled=false"],
        "vast.url of https",
    ),
    ("a login without a proxy", ["vast.proxySecret=a"], "requires vast.proxyURL"),
    (
        "two monitors",
        ["podMonitor.enabled=true", "serviceMonitor.enabled=true"],
        "exclude each other",
    ),
    ("a ServiceMonitor for nobody", ["serviceMonitor.enabled=true"], "networkPolicy.metricsFrom"),
    ("an interval in words", ["podMonitor.interval=often"], "interval"),
    (
        "two budgets in one",
        ["podDisruptionBudget.minAvailable=1", "podDisruptionBudget.maxUnavailable=1"],
        "not both",
    ),
    ("most of them", ["webhook.podDisruptionBudget.minAvailable=most"], "minAvailable"),
    ("an address family of tomorrow", ["service.ipFamilies={IPv5}"], "ipFamilies"),
    ("a family policy of nobody", ["service.ipFamilyPolicy=Both"], "ipFamilyPolicy"),
    (
        "an authority's key",
        ["webhook.clientCA=-----BEGIN PRIVATE KEY-----\nc3dvcmRmaXNo", "webhook.clientNames={a}"],
        "webhook.clientCA: this holds a private key",
    ),
    (
        "an authority in words",
        ["webhook.clientCA=/etc/kubernetes/pki/ca.crt", "webhook.clientNames={a}"],
        "webhook.clientCA: this is no certificate",
    ),
    ("all that an authority signed", [f"webhook.clientCA={CLIENT_CA}"], "webhook.clientNames"),
    ("a caller of any authority", ["webhook.clientNames={a}"], "webhook.clientCA"),
    (
        "a caller of any name",
        [f"webhook.clientCA={CLIENT_CA}", "webhook.clientNames[0]="],
        "clientNames",
    ),
    ("a longer wait than there is", ["webhook.timeoutSeconds=60"], "timeoutSeconds"),
    ("a probe of another path", ["livenessProbe.httpGet.path=/"], "httpGet"),
    ("a probe without pause", ["readinessProbe.periodSeconds=0"], "periodSeconds"),
    ("no strategy", ["strategy.type=Blue"], "strategy"),
    ("a pod's label of ours", ["podLabels.app\\.kubernetes\\.io/name=a"], "podLabels"),
    ("one label twice", ["podLabels.team=a", "commonLabels.team=b"], "commonLabels sets it"),
    ("an affinity of nothing", ["affinity.nodes=a"], "affinity"),
    ("a driver's label of ours", ["driver.labels.gpujob\\.dev/job=a"], "driver.labels: remove"),
    (
        "a driver's manager",
        ["driver.labels.app\\.kubernetes\\.io/managed-by=a"],
        "the operator sets it itself",
    ),
    (
        "a driver's annotation of ours",
        ["driver.annotations.gpujob\\.dev/x=a"],
        "driver.annotations: remove gpujob.dev/x",
    ),
    ("a label that is none", ["driver.labels.team=a b"], "labels"),
    ("a label that is a switch", ["driver.labels.team=true"], "labels"),
    (
        "a driver that could not read its key",
        ["driver.podSecurityContext.fsGroup=null"],
        "driver.podSecurityContext: set fsGroup",
    ),
    ("a driver that is root", ["driver.podSecurityContext.runAsUser=0"], "runAsUser"),
    ("a driver of all system calls", ["driver.podSecurityContext.seccompProfile.type=a"], "type"),
    ("a driver's own containers", ["driver.sidecars[0].name=a"], "sidecars"),
    ("a driver on its node's network", ["driver.hostNetwork=true"], "hostNetwork"),
    ("a driver with an account", ["driver.serviceAccountName=a"], "serviceAccountName"),
    ("a driver's GPU", ["driver.resources.limits.gpu=1"], "gpu"),
    ("a driver's taints in words", ["driver.tolerations={all}"], "tolerations"),
    ("a class in capitals", ["driver.priorityClassName=High"], "priorityClassName"),
    ("a DNS policy of nobody", ["dnsPolicy=Cluster"], "dnsPolicy"),
    ("the DNS of the node's own network", ["dnsPolicy=ClusterFirstWithHostNet"], "dnsPolicy"),
    ("a fourth name server", ["dnsConfig.nameservers={a,b,c,d}"], "nameservers"),
    ("a label of ours handed on", ["labelKeysToCopy={gpujob.dev/job}"], "labelKeysToCopy: remove"),
    ("a key that is none", ["labelKeysToCopy={a b}"], "labelKeysToCopy"),
    (
        "an audience that ends a text",
        ["admissionPolicies.sidecarTokenAudiences={a'}"],
        "sidecarTokenAudiences",
    ),
    *(
        (
            f"the API server's audience, {one}",
            [f"admissionPolicies.sidecarTokenAudiences={{{one}}}"],
            "sidecarTokenAudiences: remove",
        )
        for one in (
            "https://kubernetes.default.svc",
            "https://kubernetes.default.svc.cluster.local",
            "kubernetes.default",
            "kubernetes",
            "k3s",
        )
    ),
    *(
        (
            f"a variable that decides what a driver runs, {one}",
            [f"admissionPolicies.injectedVariables={{{one}}}"],
            "injectedVariables: remove",
        )
        for one in ("PYTHONPATH", "LD_PRELOAD", "GPUJOB_DATA", "SSL_CERT_FILE", "OPENSSL_CONF")
    ),
    ("a variable that is none", ["admissionPolicies.injectedVariables={a'}"], "injectedVariables"),
    (
        "an audience that is empty",
        ["admissionPolicies.sidecarTokenAudiences[0]="],
        "sidecarTokenAudiences",
    ),
    ("a driver without a limit of CPU", ["driver.resources.limits.cpu=null"], "cpu"),
    ("a driver without a limit of memory", ["driver.resources.limits.memory=null"], "memory"),
    ("a driver without limits", ["driver.resources.limits=null"], "limits"),
    ("a driver with no CPU", ["driver.resources.limits.cpu=0"], "cpu"),
    ("a driver with no memory", ["driver.resources.limits.memory=0Mi"], "memory"),
    (
        "a preference of no weight",
        [
            "driver.affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[0]"
            ".weight=0"
        ],
        "weight",
    ),
    ("a spread over nothing", ["topologySpreadConstraints[0].maxSkew=1"], "topologySpread"),
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
    assert "c3dvcmRmaXNo" not in done.stderr, "a key that was pasted"


OPEN = {"global", "extraObjects[]"}
"""What is not for us to close: another chart's values, and objects of any kind."""


def test_the_schema_is_closed_at_every_level() -> None:
    """A misspelt value is refused wherever it stands; a map has values of one type."""
    found = set()
    whole = json.loads((CHART / "values.schema.json").read_text())

    def look(schema: Object, path: str) -> None:
        if "$ref" in schema:
            look(whole["definitions"][schema["$ref"].rpartition("/")[2]], path)
            return
        kind = schema.get("type", [])
        assert kind or "enum" in schema, f"{path} may be anything"
        if "array" in kind:
            look(schema["items"], f"{path}[]")
        if "object" in kind and isinstance(schema.get("additionalProperties", True), bool):
            if schema.get("additionalProperties", True):
                found.add(path)
            for name, child in schema.get("properties", {}).items():
                look(child, f"{path}.{name}".strip("."))

    look(whole, "")
    assert found == OPEN


def test_a_value_without_a_comment_stops_the_page() -> None:
    """So each value is told."""
    told = "a:\n  # -- Said,\n  # in two lines.\n  b: 1\n"

    assert "| `a.b` | `1` | Said, in two lines. |" in chart_values.values_page(told)
    with pytest.raises(ValueError, match=r"a\.c needs a comment"):
        chart_values.values_page(told + "  c: 2\n")


SCANNED = ("nothing but the Secret", "closed networks", "Prometheus", "a ServiceMonitor", "a proxy")


def test_checkov_finds_nothing(programs: Path, tmp_path: Path) -> None:
    """All that it asks is done, or justified where it is not; with an image by digest."""
    files = []
    for number, name in enumerate(SCANNED):
        path = tmp_path / f"{number}.yaml"
        found = objects(programs, f"image.digest={DIGEST}", values=VALUE_SETS[name])
        # It has nothing to say to them, and takes long to read them.
        found = [one for one in found if one["kind"] != "CustomResourceDefinition"]
        path.write_text(yaml.safe_dump_all(found))
        files.append(str(path))
    done = subprocess.run([str(CHECKOV), *files], capture_output=True, text=True)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "Failed checks: 0" in done.stdout


@pytest.mark.parametrize("name", ["argocd-application.yaml", "flux-helmrelease.yaml"])
def test_the_examples_apply_server_side(name: str) -> None:
    """Their values are rendered above; nothing of the chart is ignored."""
    *_, document = yaml.safe_load_all((EXAMPLES / name).read_text())
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
    without = objects(programs, "crds.enabled=false")
    assert "CustomResourceDefinition" not in {one["kind"] for one in without}


def test_every_field_is_described_and_bounded() -> None:
    """kubectl explain answers everywhere, with an example of what users write; all has an end."""

    def look(schema: Object, path: str) -> None:
        kind = schema.get("type")
        if schema.get("x-kubernetes-int-or-string"):
            kind = "string"
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
        assert ("status" in root) is (kind.status is not None)
        for name, child in root.get("status", {"properties": {}})["properties"].items():
            look(child, f"{kind.name}.status.{name}")


PARTS = ("gpujob", "gpujob-server")
"""Controller and server, by the names of their Deployments."""


@pytest.mark.parametrize(("name", "value"), [("gpujob", ""), ("gpujob-server", "webhook.")])
def test_two_replicas_survive_a_drain(programs: Path, name: str, value: str) -> None:
    """Two by default, never both evicted; a single one has no budget that could block a drain."""
    assert made(programs, "Deployment")[name]["spec"]["replicas"] == 2
    assert made(programs, "PodDisruptionBudget")[name]["spec"]["maxUnavailable"] == 1
    assert name not in made(programs, "PodDisruptionBudget", f"{value}replicaCount=1")


def test_drivers_are_led_to_the_leader_alone(programs: Path) -> None:
    """The Service selects no pods: the leader writes where it leads."""
    assert "selector" not in made(programs, "Service")["gpujob"]["spec"]


def test_no_right_is_wide(programs: Path) -> None:
    """No wildcard anywhere; of Secrets only certificates are read, the transport's by no server,
    and the version of the account's key."""
    roles = [one for one in objects(programs) if one["kind"] in ("ClusterRole", "Role")]
    assert len(roles) == 5
    read = set()
    for owner, rule in ((one["metadata"]["name"], rule) for one in roles for rule in one["rules"]):
        assert "*" not in rule["verbs"] + rule["resources"] + rule["apiGroups"]
        if "secrets" in rule["resources"] and not set(rule["verbs"]) <= {"create", "delete"}:
            read |= {(owner, name) for name in rule["resourceNames"]}
    assert read == {
        ("gpujob", "gpujob-server-tls"),
        ("gpujob", "gpujob-server-ca"),
        ("gpujob", "gpujob-transport-tls"),
        ("gpujob", "vast"),
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
        {
            "apiGroups": ["coordination.k8s.io"],
            "resources": ["leases"],
            "resourceNames": ["gpujob"],
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
    sets = ("api.enabled=true", "api.bootstrapSecret=first")
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
    assert read == ["gpujob-server-tls", "gpujob-api-tokens", "gpujob-api-marks"]
    assert "GPUJOB_API" not in rendered(programs)


def test_without_a_webhook_nothing_is_left_of_it(programs: Path) -> None:
    """No server, no right for it, and no certificate that the controller would make."""
    without = objects(programs, "webhook.enabled=false")
    text = json.dumps(without)

    assert [one for one in without if "server" in one["metadata"]["name"]] == []
    assert "gpujob-server" not in text
    assert "GPUJOB_WEBHOOK" not in text
    assert "ValidatingWebhookConfiguration" not in text


def test_cert_manager_makes_the_certificates_if_told_so(programs: Path) -> None:
    """For the names that its callers use; the controller then leaves them alone."""
    named = "api.hosts={jobs.example.com}"
    theirs = objects(programs, "webhook.certManager.enabled=true", named)
    (certificate,) = (one for one in theirs if one["kind"] == "Certificate")
    (webhook,) = (one for one in theirs if one["kind"] == "ValidatingWebhookConfiguration")
    (asked,) = webhook["webhooks"]
    service = asked["clientConfig"]["service"]

    assert certificate["spec"]["secretName"] == "gpujob-server-tls"
    assert f"{service['name']}.{service['namespace']}.svc" in certificate["spec"]["dnsNames"]
    assert "jobs.example.com" in certificate["spec"]["dnsNames"]
    injected = webhook["metadata"]["annotations"]["cert-manager.io/inject-ca-from"]
    assert injected == f"system/{certificate['metadata']['name']}"
    told = rendered(programs, "webhook.certManager.enabled=true", named)
    assert "GPUJOB_WEBHOOK" not in told
    assert "GPUJOB_CLIENTS_NAMES" not in told
    assert "GPUJOB_CLIENTS_NAMES" in rendered(programs, named)


KEY = Rights("", "secrets", ("get",), "vast")


def test_the_roles_grant_what_the_controller_checks_for_and_no_more(programs: Path) -> None:
    """Right by right, so that neither a missing nor a needless one goes unseen."""
    there = (*CLUSTER, *webhook_rights("system-gpujob"))
    everywhere = (*JOBS, read_namespace("kube-system"), *there)
    own = ("gpujob", "system")
    served, alone = "jobNamespaces={team-a}", "rbac.clusterRoles=false"
    without = (served, alone, "webhook.enabled=false", "crds.enabled=false")
    # Without the right to the key it restarts now and then while its key is refused.
    for sets, kind, name, needed in (
        ((), "ClusterRole", "system-gpujob", everywhere),
        ((), "Role", "gpujob", (*own_rights(*own, webhook=True, everywhere=True), KEY)),
        ((served,), "ClusterRole", "system-gpujob", (OTHERS_PODS, *there)),
        ((served,), "Role", "system-gpujob", JOBS),
        ((served,), "Role", "gpujob", (*own_rights(*own, webhook=True, everywhere=False), KEY)),
        (without, "Role", "system-gpujob", JOBS),
        (without, "Role", "gpujob", (*own_rights(*own, webhook=False, everywhere=False), KEY)),
    ):
        role = made(programs, kind, *sets)[name]
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
    assert (settings.admission_client_ca, settings.admission_client_names) == ("", "")
    known = VALUE_SETS["an API server that shows a certificate"]
    settings = ServerSettings.from_environment(
        environment_of(programs, "gpujob-server", values=known)
    )
    assert settings.admission_client_ca == (CLIENT_CA * 2).strip()
    assert settings.admission_client_names == "gpujob-webhook-client,system:a"


def environment_of(
    programs: Path, name: str, *sets: str, values: Object | None = None
) -> dict[str, str]:
    """Returns the variables of a Deployment's container, as the kubelet would fill them in."""
    deployment = made(programs, "Deployment", *sets, values=values)[name]
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    downward = {
        "metadata.namespace": "system",
        "metadata.name": "pod",
        "metadata.uid": "1234",
        "status.podIPs": "192.0.2.1,2001:db8::1",
    }
    given = variables(container)
    return {
        one["name"]: given.get(one["name"])
        or downward.get(one["valueFrom"].get("fieldRef", {}).get("fieldPath"), "canary")
        for one in container["env"]
    }


def test_a_digest_wins_over_a_tag(programs: Path) -> None:
    """For controller and server, and for the drivers that the controller makes."""
    other = DIGEST[:-1] + "0"
    images = (f"image.digest={DIGEST}", f"driver.image.digest={other}")
    text = rendered(programs, *images, "image.tag=1.2.3", "driver.image.tag=1.2.3")

    assert text.count(f"/gpujob-operator@{DIGEST}") == 2
    # In the controller's settings, and in the policy and its message.
    assert text.count(f"/gpujob-driver@{other}") == 3
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


def release(programs: Path, name: str, *sets: str) -> list[Object]:
    """Returns the objects of a release of another name."""
    given = [f"--set={one}" for one in ("vast.existingSecret=vast", *sets)]
    done = helm(programs, "helm", "template", name, str(CHART), "-n", NAMESPACE, *given)
    assert done.returncode == 0, done.stderr
    return [one for one in yaml.safe_load_all(done.stdout) if one]


def deployments(found: list[Object]) -> dict[str, Object]:
    """Returns the pod templates by the names of their Deployments."""
    return {
        one["metadata"]["name"]: one["spec"]["template"]
        for one in found
        if one["kind"] == "Deployment"
    }


@pytest.mark.parametrize(
    ("name", "sets", "full"),
    [
        ("gpujob", [], "gpujob"),
        ("team-gpujob", [], "team-gpujob"),
        ("ml", [], "ml-gpujob"),
        ("ml", ["nameOverride=gpus"], "ml-gpus"),
        ("ml", ["fullnameOverride=rentals"], "rentals"),
        ("m" * 53, [], "m" * 40),
    ],
)
def test_names_are_formed_as_of_other_charts(
    programs: Path, name: str, sets: list[str], full: str
) -> None:
    """Every name begins with it, and none is too long to be a label."""
    found = release(programs, name, *sets)
    own = [one for one in found if one["kind"] != "CustomResourceDefinition"]

    assert set(deployments(found)) == {full, f"{full}-server"}
    for one in own:
        assert re.match(f"(system-)?{full}(-|$)", one["metadata"]["name"]), one["metadata"]["name"]
        assert len(one["metadata"]["name"]) <= 63
    settings = {one["name"]: one.get("value") for one in _environment(found, full)}
    assert settings["GPUJOB_NAME"] == full
    assert settings["GPUJOB_TRANSPORT_URL"] == f"https://{full}.system.svc:8080"


def _environment(found: list[Object], name: str) -> list[Object]:
    (container,) = deployments(found)[name]["spec"]["containers"]
    variables: list[Object] = container["env"]
    return variables


def test_whoever_names_the_accounts_is_obeyed_everywhere(programs: Path) -> None:
    """The policies know the operator by its account: no other one may write the ledger."""
    found = objects(programs, values=VALUE_SETS["accounts of somebody else"])
    text = json.dumps(found)
    named = {
        (one["metadata"]["name"], one["subjects"][0]["name"])
        for one in found
        if one["kind"] in ("RoleBinding", "ClusterRoleBinding")
    }

    assert "ServiceAccount" not in {one["kind"] for one in found}
    assert {
        name: pod["spec"]["serviceAccountName"] for name, pod in deployments(found).items()
    } == {
        "gpujob": "platform",
        "gpujob-server": "platform-server",
    }
    assert named == {
        ("system-gpujob", "platform"),
        ("gpujob", "platform"),
        ("gpujob-server", "platform-server"),
    }
    assert text.count("system:serviceaccount:system:platform'") == 7
    assert "system:serviceaccount:system:gpujob" not in text


def test_an_account_for_a_cloud_is_annotated(programs: Path) -> None:
    """And still hands its token to no pod unless it is told to."""
    accounts = made(programs, "ServiceAccount", values=VALUE_SETS["accounts with identities"])

    assert accounts["gpujob"]["metadata"]["annotations"] == {
        "eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/x"
    }
    assert accounts["gpujob"]["metadata"]["labels"]["azure.workload.identity/use"] == "true"
    assert accounts["gpujob"]["automountServiceAccountToken"] is True
    assert accounts["door"]["automountServiceAccountToken"] is False


def test_all_that_has_a_namespace_goes_to_another_one(programs: Path) -> None:
    """With the rules that hold for it: there may be no job in it."""
    values = {
        "namespaceOverride": "other",
        "api": {"enabled": True},
        "webhook": {"certManager": {"enabled": True}},
        "jobNamespaces": ["team"],
        "networkPolicy": {"metricsFrom": [PROMETHEUS]},
        "serviceMonitor": {"enabled": True},
    }
    found = objects(programs, values=values, namespace="of-the-release")

    assert {one["metadata"].get("namespace", "other") for one in found} == {"other", "team"}
    assert "of-the-release" not in json.dumps(found)
    assert "request.namespace != 'other'" in json.dumps(found)


def test_images_come_from_the_mirror_of_the_parent_chart(programs: Path) -> None:
    """Both, and each pull secret once, however it was written."""
    values = VALUE_SETS["as a parent chart says"]
    found = objects(programs, values=values)
    for template in deployments(found).values():
        (container,) = template["spec"]["containers"]
        assert container["image"] == "mirror.example.com/ghcr/gpujob/gpujob-operator:0.1.0"
        assert template["spec"]["imagePullSecrets"] == [
            {"name": "everywhere"},
            {"name": "registry"},
            {"name": "mirror"},
        ]
    variables = {one["name"]: one.get("value") for one in _environment(found, "gpujob")}
    assert variables["GPUJOB_DRIVER_IMAGE"] == "mirror.example.com/ghcr/gpujob/gpujob-driver:0.1.0"


def driver_settings(programs: Path, name: str) -> tuple[DriverDefaults, tuple[str, ...]]:
    """What a controller reads of driver pods, and which labels it hands on."""
    told = Settings.from_environment(environment_of(programs, "gpujob", values=VALUE_SETS[name]))
    return told.driver, told.labels_to_copy


def test_drivers_are_fitted_by_the_chart(programs: Path) -> None:
    """The controller reads each value as it was given; the kubelet expands none of it."""
    driver, keys = driver_settings(programs, "drivers fitted to the cluster")
    given = VALUE_SETS["drivers fitted to the cluster"]["driver"]

    assert driver_settings(programs, "nothing but the Secret") == (STANDARD, ())
    assert keys == ("team", "example.com/cost-centre")
    assert driver.labels == {
        "istio.io/dataplane-mode": "none",
        "kuma.io/sidecar-injection": "disabled",
        "team": "ml",
    }
    assert driver.annotations == STANDARD.annotations | given["annotations"]
    assert [one.name for one in driver.image_pull_secrets] == ["mirror", "registry"]
    assert driver.resources.wire() == {
        "requests": {"cpu": "0.5", "memory": "128Mi"},
        "limits": {"cpu": "2", "memory": "256Mi"},
    }
    assert driver.node_selector == {"kubernetes.io/os": "linux", "pool": "batch"}
    assert driver.wire()["tolerations"] == given["tolerations"]
    assert driver.affinity is not None
    assert driver.affinity.pod_affinity is not None
    assert (driver.priority_class_name, driver.runtime_class_name) == ("batch", "gvisor")


def test_on_openshift_drivers_leave_their_user_to_the_platform(programs: Path) -> None:
    """restricted-v2 refuses any user or group that is not from the namespace's range."""
    driver, _ = driver_settings(programs, "OpenShift")

    assert driver.pod_security_context.wire() == {
        "runAsNonRoot": True,
        "seccompProfile": {"type": "RuntimeDefault"},
    }


@pytest.mark.parametrize("version", HELMS)
def test_a_parent_chart_switches_it_by_its_condition(
    programs: Path, version: str, tmp_path: Path
) -> None:
    """With all that Helm hands down besides: nothing of it is refused as unknown."""
    parent = tmp_path / "platform"
    for folder in ("charts", "templates"):
        (parent / folder).mkdir(parents=True)
    shutil.copytree(CHART, parent / "charts/gpujob")
    (chart,) = yaml.safe_load_all((CHART / "Chart.yaml").read_text())
    dependency = {"name": "gpujob", "version": chart["version"], "condition": "gpujob.enabled"}
    described = {"apiVersion": "v2", "name": "platform", "version": "1.0.0"}
    (parent / "Chart.yaml").write_text(json.dumps({**described, "dependencies": [dependency]}))
    values = {
        "gpujob": {"enabled": True, "vast": {"existingSecret": "vast"}},
        "global": {"imageRegistry": "mirror.example.com", "storageClass": "fast"},
        "other": {"a": 1},
    }
    (parent / "values.yaml").write_text(json.dumps(values))

    on = helm(programs, version, "template", "stack", str(parent), "-n", NAMESPACE)
    off = helm(programs, version, "template", "stack", str(parent), "--set=gpujob.enabled=false")
    lint = helm(programs, version, "lint", "--strict", str(parent))

    assert on.returncode == 0, on.stderr
    pods = deployments([one for one in yaml.safe_load_all(on.stdout) if one])
    assert set(pods) == {"stack-gpujob", "stack-gpujob-server"}
    assert "mirror.example.com/gpujob/gpujob-operator:" in on.stdout
    assert (off.returncode, off.stdout.strip()) == (0, "")
    assert lint.returncode == 0, lint.stdout + lint.stderr


def test_the_proxy_is_for_the_controller_and_its_password_in_a_secret(programs: Path) -> None:
    """The settings take it; the server, whom users reach, knows nothing of it."""
    values = VALUE_SETS["a proxy"]
    found = objects(programs, values=values)
    by_name = {one["name"]: one for one in _environment(found, "gpujob")}
    settings = Settings.from_environment(environment_of(programs, "gpujob", values=values))
    pod = deployments(found)["gpujob"]["spec"]
    (volume,) = (one for one in pod["volumes"] if one["name"] == "provider-ca")
    (mount,) = (one for one in pod["containers"][0]["volumeMounts"] if one["name"] == "provider-ca")

    assert settings.provider_proxy_url == "http://proxy.example.com:3128"
    for name, key in (("USERNAME", "username"), ("PASSWORD", "password")):
        source = by_name[f"GPUJOB_PROVIDER_PROXY_{name}"]["valueFrom"]
        assert source == {"secretKeyRef": {"name": "proxy", "key": key}}
    assert volume["configMap"]["items"] == [{"key": "bundle.pem", "path": "ca.crt"}]
    assert f"{mount['mountPath']}/ca.crt" == settings.provider_authorities_file
    assert "proxy" not in json.dumps(deployments(found)["gpujob-server"]).lower()


def test_constraints_without_a_selector_are_for_the_replicas_of_each_program(
    programs: Path,
) -> None:
    """One with a selector is left as it is."""
    found = objects(programs, values=VALUE_SETS["placed by hand"])
    for one in (one for one in found if one["kind"] == "Deployment"):
        first, second = one["spec"]["template"]["spec"]["topologySpreadConstraints"]
        assert first["labelSelector"] == one["spec"]["selector"]
        assert first["matchLabelKeys"] == ["pod-template-hash"]
        assert second["labelSelector"] == {"matchLabels": {"team": "ml"}}
        assert "matchLabelKeys" not in second
    bare = deployments(objects(programs, values=VALUE_SETS["not spread at all"]))
    assert "topologySpreadConstraints" not in bare["gpujob"]["spec"]


def test_on_openshift_no_user_is_named(programs: Path) -> None:
    """Its restricted-v2 gives each namespace users of its own, and refuses all others."""
    for template in deployments(objects(programs, values=VALUE_SETS["OpenShift"])).values():
        assert template["spec"]["securityContext"] == {
            "runAsNonRoot": True,
            "seccompProfile": {"type": "RuntimeDefault"},
        }


def test_budgets_as_they_are_given(programs: Path) -> None:
    """Zero is a number, and no budget is none."""
    budgets = made(programs, "PodDisruptionBudget", values=VALUE_SETS["budgets of our own"])
    own, servers = (budgets[name]["spec"] for name in PARTS)

    assert (own["minAvailable"], own.get("maxUnavailable")) == ("50%", None)
    assert (servers.get("minAvailable"), servers["maxUnavailable"]) == (None, 0)
    assert made(programs, "PodDisruptionBudget", values=VALUE_SETS["no budgets"]) == {}


def test_services_take_the_families_of_the_cluster(programs: Path) -> None:
    """All of them, and nothing is said of families if nobody says anything."""
    services = made(programs, "Service", values=VALUE_SETS["two address families"])

    assert set(services) == {"gpujob", "gpujob-server", "gpujob-metrics"}
    for one in services.values():
        assert one["spec"]["ipFamilyPolicy"] == "PreferDualStack"
        assert one["spec"]["ipFamilies"] == ["IPv4"]
        assert one["metadata"]["annotations"] == {"service.example.com/owner": "ml"}
    assert not any("ipFamil" in json.dumps(one) for one in made(programs, "Service").values())


def test_a_service_monitor_finds_its_service_and_no_other(programs: Path) -> None:
    """The Service that drivers use has no pods to scrape."""
    values = VALUE_SETS["a ServiceMonitor"]
    (monitor,) = made(programs, "ServiceMonitor", values=values).values()
    (endpoint,) = monitor["spec"]["endpoints"]
    wanted = monitor["spec"]["selector"]["matchLabels"].items()
    services = made(programs, "Service", values=values)
    (found,) = (one for one in services.values() if wanted <= one["metadata"]["labels"].items())
    (port,) = found["spec"]["ports"]

    assert (endpoint["port"], port["targetPort"]) == (port["name"], "probes")
    assert (endpoint["interval"], endpoint["scrapeTimeout"]) == ("30s", "10s")
    assert endpoint["authorization"]["credentials"] == {"name": "gpujob-metrics", "key": "token"}
    assert made(programs, "PodMonitor", values=values) == {}


def test_the_crds_go_only_if_somebody_says_so(programs: Path) -> None:
    """And then the notes warn."""
    crds = made(programs, CRD, values=VALUE_SETS["CRDs that go with the release"])

    assert len(crds) == len(KINDS)
    assert not any("annotations" in one["metadata"] for one in crds.values())


def test_what_a_team_adds_is_in_its_program_alone(programs: Path) -> None:
    """A Secret that is mounted for one is not read by the other."""
    found = deployments(objects(programs, values=VALUE_SETS["more variables and volumes"]))
    for name, mine, other in (("gpujob", "zones", "more"), ("gpujob-server", "more", "zones")):
        spec = found[name]["spec"]
        (container,) = spec["containers"]
        assert mine in {one["name"] for one in spec["volumes"]}
        assert other not in {one["name"] for one in spec["volumes"]}
        assert mine in {one["name"] for one in container["volumeMounts"]}
        assert {"name": "TZ", "value": "Europe/Berlin"} in container["env"]


CLUSTER_SCOPED = {
    "ClusterRole",
    "ClusterRoleBinding",
    "CustomResourceDefinition",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicyBinding",
    "ValidatingWebhookConfiguration",
}


def test_without_rights_on_the_cluster_all_is_in_the_namespaces(programs: Path) -> None:
    """Those of the release and of the jobs, so that their administrator can install it."""
    found = objects(programs, values=VALUE_SETS["no rights on the cluster"])

    assert {one["kind"] for one in found} & CLUSTER_SCOPED == set()
    assert {one["metadata"]["namespace"] for one in found} == {"system", "team-a"}


def test_the_clusters_names_are_found_as_it_wants(programs: Path) -> None:
    """By the pods of both programs; unless somebody says so, nothing is said."""
    values = VALUE_SETS["names of another server"]
    given = made(programs, "Deployment", values=values)
    plain = made(programs, "Deployment")

    for name in ("gpujob", "gpujob-server"):
        pod = given[name]["spec"]["template"]["spec"]
        assert {"dnsPolicy": pod["dnsPolicy"], "dnsConfig": pod["dnsConfig"]} == values
        assert not {"dnsPolicy", "dnsConfig"} & set(plain[name]["spec"]["template"]["spec"])


def test_what_concerns_jobs_concerns_the_named_namespaces(programs: Path) -> None:
    """Rights, webhook, policies and connections; and a job beside the account's key is refused."""
    values = VALUE_SETS["some namespaces"]
    found = objects(programs, values=values)
    served = values["jobNamespaces"]
    roles = [one for one in found if one["kind"] == "ClusterRole"]
    of_users = ("-view", "-edit")
    granted = {
        resource
        for one in roles
        if not one["metadata"]["name"].endswith(of_users)
        for rule in one["rules"]
        for resource in rule.get("resources", [])
        if set(rule["verbs"]) != {"get"}
    }
    selected = {
        one["metadata"]["name"]: _selected(one)
        for one in found
        if one["kind"] in ("ValidatingAdmissionPolicy", "ValidatingWebhookConfiguration")
    }

    assert granted, "there are roles"
    assert granted & {"gpujobs", "gpunodes", "pods", "secrets"} == set()
    assert selected == {
        "system-gpujob": [*served, "system"],
        "system-gpujob-places": [*served, "system"],
        "system-gpujob-ledger": served,
        "system-gpujob-drivers": served,
        "system-gpujob-pods": served,
        "system-gpujob-jobs": served,
        "system-gpujob-marks": served,
        "system-gpujob-secrets": [*served, "system"],
    }
    for name in ("system-gpujob", "system-gpujob-server", "system-gpujob-drivers"):
        kinds = ("Role", "NetworkPolicy")
        places = [
            one["metadata"]["namespace"]
            for one in found
            if one["kind"] in kinds and one["metadata"]["name"] == name
        ]
        assert places == served, name
    for name in PARTS:
        environment = environment_of(programs, name, f"jobNamespaces={{{','.join(served)}}}")
        assert environment["GPUJOB_JOB_NAMESPACES"] == ",".join(served)


def _selected(one: Object) -> list[str]:
    place = one["webhooks"][0] if "webhooks" in one else one["spec"]["matchConstraints"]
    (term,) = place["namespaceSelector"]["matchExpressions"]
    assert (term["key"], term["operator"]) == ("kubernetes.io/metadata.name", "In")
    values: list[str] = term["values"]
    return values


@pytest.mark.parametrize(
    ("given", "is_told"),
    [
        ("webhook.enabled=true", True),
        ("networkPolicy.apiServer.cidrs={10.0.0.1/32}", False),
        ("networkPolicy.apiServer.cidrs={10.0.0.1/32},networkPolicy.enabled=false", True),
        (f"webhook.clientCA={CLIENT_CA},webhook.clientNames={{api-server}}", False),
        ("webhook.enabled=false", False),
    ],
)
def test_who_installs_is_told_that_anybody_may_ask_for_verdicts(
    programs: Path, given: str, is_told: bool
) -> None:
    """Where nothing keeps others than the API server from the webhook's port.

    By Helm 4: its third version tells notes only where there is a cluster.
    """
    told = helm(
        programs,
        "helm4",
        *("install", "gpujob", str(CHART), "-n", NAMESPACE, "--dry-run=client"),
        *("--set=vast.existingSecret=vast", f"--set={given}"),
    )

    assert told.returncode == 0, told.stderr
    notes = told.stdout.partition("NOTES:")[2]
    assert "See what is being paid for" in notes
    assert ("WARNING: Whoever can connect to the webhook's port" in notes) == is_told
