"""What is written for users works on a real cluster as it is written."""

import json
import re
import textwrap
from typing import Any

import pytest
import yaml
from tests.e2e.test_data import eventually, on_claim, over

from demo import Object, Stage, condition
from localcluster.paths import ROOT

DOCUMENTS = ("README.md", "helm/gpujob/README.md")
EXAMPLE = re.compile(r" Example: (.*)$", re.DOTALL)

TRAIN = """
import json, os, pathlib, sys
names = ("EPOCHS", "FROM_SECRETKEYREF", "FROM_CONFIGMAPKEYREF")
source = os.stat("src/train.py")
print(json.dumps({
    "arguments": sys.argv[1:],
    "folder": os.getcwd(),
    "variables": [os.environ[name] for name in names],
    "source": [source.st_uid, source.st_gid, oct(source.st_mode & 0o7777), source.st_mtime],
}), flush=True)
pathlib.Path("state/step").write_text("10")
out = pathlib.Path("out")
for name, mode in (("model", 0o644), ("private", 0o600), ("run", 0o4755), ("open", 0o666)):
    (out / name).write_text(name)
    os.chown(out / name, 1234, 1234)
    (out / name).chmod(mode)
    os.utime(out / name, (1_600_000_000, 1_600_000_000))
(out / "latest").symlink_to("model")
(out / "away").symlink_to("/etc/passwd")
os.mkfifo(out / "pipe")
for name, mode in (("empty", 0o755), ("shut", 0o700)):
    (out / name).mkdir(mode)
"""
"""The program that the examples name: tells what it was given, and makes every kind of file."""

LOOK = """
import json, os, stat
found = {}
for at, folders, files in os.walk("/claim/runs/7"):
    for name in folders + files:
        path = os.path.join(at, name)
        facts = os.lstat(path)
        if stat.S_ISLNK(facts.st_mode):
            found[name] = os.readlink(path)
        elif stat.S_ISDIR(facts.st_mode):
            found[name] = [facts.st_uid, facts.st_gid, oct(facts.st_mode & 0o777)]
        else:
            mode, moment = oct(facts.st_mode & 0o7777), int(facts.st_mtime)
            found[name] = [facts.st_uid, facts.st_gid, mode, moment]
print(json.dumps(found))
"""

READ = """
import json, os
found = {}
for name in ("model", "private", "latest", "empty"):
    path = "/claim/runs/7/" + name
    try:
        found[name] = os.listdir(path) if os.path.isdir(path) else open(path).read()
    except PermissionError:
        found[name] = "refused"
print(json.dumps(found))
"""

DRIVER = 10001
PLACES = ("nodeSelector", "tolerations", "affinity", "priorityClassName", "runtimeClassName")
KINDS = {"secretKeyRef": ("Secret", "stringData"), "configMapKeyRef": ("ConfigMap", "data")}


def written(document: str) -> list[Object]:
    """Returns the whole manifests of a document, but those for Kueue, which is not here.

    Nor does it return the API server's own files, which are no objects of the cluster: see
    tests/integration/test_client_certificates.py.
    """
    blocks = re.findall(r"(?m)^(?: {4}.*\n)+", (ROOT / document).read_text())
    whole = [textwrap.dedent(one) for one in blocks if one.startswith("    apiVersion:")]
    found = [one for block in whole for one in yaml.safe_load_all(block)]
    files = ("AdmissionConfiguration", "Config")
    return [one for one in found if "kueue" not in one["apiVersion"] and one["kind"] not in files]


def example(schema: Object) -> Any:
    """Returns the example of a field as `kubectl explain` shows it, or made of its fields'."""
    if found := EXAMPLE.search(schema.get("description", "")):
        return json.loads(found[1])
    if "items" in schema:
        return [example(schema["items"])]
    return {name: example(child) for name, child in schema["properties"].items()}


def exemplary(stage: Stage) -> Object:
    """Returns a job that sets every field to the example of the cluster's own documentation."""
    (crd,) = (
        one
        for one in stage.get("customresourcedefinitions", "")
        if one["metadata"]["name"] == "gpujobs.gpujob.dev"
    )
    (version,) = crd["spec"]["versions"]
    spec = example(version["schema"]["openAPIV3Schema"]["properties"]["spec"])
    # A suspended job does not run; and a variable has one source.
    del spec["suspend"]
    # This cluster has one node and no such classes: see tests/integration/test_driver_pods.py.
    for place in PLACES:
        del spec["driver"][place]
    (variable,) = spec["env"]
    sources = variable.pop("valueFrom")
    spec["env"] += [
        {"name": f"FROM_{kind.upper()}", "valueFrom": {kind: source}}
        for kind, source in sources.items()
    ]
    head = {"apiVersion": "gpujob.dev/v1alpha1", "kind": "GpuJob"}
    return head | {"metadata": {"name": "exemplary", "namespace": "demo"}, "spec": spec}


def leases(stage: Stage, job: Object) -> list[Object]:
    """What was rented for a job."""
    uid = job["metadata"]["uid"]
    return [one for one in stage.ledger() if (one["label"] or "").endswith(f"/{uid}")]


@pytest.fixture(scope="module")
def documented(stage: Stage) -> list[Object]:
    """Every manifest of the documents, applied as a newcomer would: where nothing is prepared."""
    manifests = [one for document in DOCUMENTS for one in written(document)]
    for manifest in manifests:
        stage.kubectl("apply", "-n", "default", "-f", "-", text=json.dumps(manifest))
    return manifests


@pytest.fixture(scope="module")
def exemplary_job(stage: Stage, documented: list[Object]) -> Object:
    """The job of all examples, once it is over. The documents' jobs run beside it."""
    write = f"""
import os, pathlib
path = pathlib.Path("/claim/train.py")
path.write_text({TRAIN!r})
path.chmod(0o640)
os.utime(path, (1_500_000_000, 1_500_000_000))
"""
    on_claim(stage, "code", write, writes=True)
    manifest = exemplary(stage)
    for variable in manifest["spec"]["env"][1:]:
        ((source, key),) = variable["valueFrom"].items()
        kind, field = KINDS[source]
        meta = {"name": key["name"], "namespace": "demo"}
        stage.apply(
            {"apiVersion": "v1", "kind": kind, "metadata": meta, field: {key["key"]: source}}
        )
    pulls = manifest["spec"]["imagePullSecret"]["name"]
    login = ("--docker-username=robot", "--docker-password=token")
    stage.kubectl("create", "secret", "docker-registry", pulls, *login, "-n", "demo")
    stage.kubectl("apply", "-f", "-", text=json.dumps(manifest))
    job: Object = eventually(stage, "exemplary", over)
    return job


def test_each_manifest_in_the_documents_runs_as_it_is_written(
    stage: Stage, documented: list[Object]
) -> None:
    """It completes, with one machine."""
    named = [(one["kind"], one["metadata"]["name"]) for one in documented]
    assert named == [("GpuJob", "train"), ("GpuBudget", "team")]
    for name in [name for kind, name in named if kind == "GpuJob"]:
        job = eventually(stage, name, over, namespace="default")

        assert condition(job, "Complete")["status"] == "True", condition(job, "Ready")
        assert len(leases(stage, job)) == 1
        log = stage.kubectl("logs", f"{name}-0-1-driver", "-n", "default")
        assert "a simulated GPU" in log


def test_a_job_made_of_all_examples_gets_what_they_say(stage: Stage, exemplary_job: Object) -> None:
    """Arguments, folder, variables, inputs; state, log and Service are where they should be."""
    spec = exemplary_job["spec"]
    assert condition(exemplary_job, "Complete")["status"] == "True", exemplary_job["status"]
    assert len(leases(stage, exemplary_job)) == 1
    told = on_claim(stage, "logs", "print(open('/claim/exemplary-0-1.stdout').read())")
    assert json.loads(told) == {
        "arguments": spec["args"],
        "folder": spec["workingDir"],
        "variables": [spec["env"][0]["value"], "secretKeyRef", "configMapKeyRef"],
        # It was 0o640: the kubelet lets the driver's group write what is on a claim.
        "source": [0, 0, "0o660", 1_500_000_000],
    }
    state = spec["data"]["checkpoint"]["subPath"]
    step = on_claim(stage, "state", f"print(open('/claim/{state}/step').read())")
    assert step.strip() == "10"
    service = exemplary_job["status"]["serviceName"]
    ports = "jsonpath={.spec.ports[*].port}"
    served = stage.kubectl("get", "service", service, "-n", "demo", "-o", ports)
    assert served == str(spec["ports"][0]["port"])


def test_files_on_a_claim_are_owned_and_readable_as_documented(
    stage: Stage, exemplary_job: Object
) -> None:
    """Whoever owned them on the machine; and as their rights say for another user's pod."""
    assert condition(exemplary_job, "Complete")["status"] == "True", exemplary_job["status"]
    found = json.loads(on_claim(stage, "results", LOOK))
    times = 1_600_000_000
    assert found == {
        "model": [DRIVER, DRIVER, "0o644", times],
        "private": [DRIVER, DRIVER, "0o600", times],
        "run": [DRIVER, DRIVER, "0o755", times],
        "open": [DRIVER, DRIVER, "0o666", times],
        "latest": "model",
        "empty": [DRIVER, DRIVER, "0o755"],
        "shut": [DRIVER, DRIVER, "0o700"],
    }
    assert json.loads(on_claim(stage, "results", READ, user=20002)) == {
        "model": "model",
        "private": "refused",
        "latest": "model",
        "empty": [],
    }
