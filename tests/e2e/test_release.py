"""A release changes, goes and comes back while a job runs: the job does not notice."""

import base64
import copy
import json
import subprocess
import time
from collections.abc import Callable
from typing import Any

import pytest
from tests.e2e.evidence import touch_on_machines

from demo import PARTS, Object, Stage, accounts, condition
from localcluster.paths import ROOT, environment

CHART = str(ROOT / "helm/gpujob")
RELEASE = ("gpujob", "-n", "gpujob-system")
VALUES = f"--values={PARTS / 'values.yaml'}"
WAIT = ("--wait", "--timeout=180s")
PATIENCE_SECONDS = 240

UNTIL_TOLD = "import os, time\nwhile not os.path.exists('/tmp/released'): time.sleep(0.2)\n"
JOB: Object = {
    "apiVersion": "gpujob.dev/v1alpha1",
    "kind": "GpuJob",
    "metadata": {"name": "outlives", "namespace": "demo"},
    "spec": {
        "image": "python:3.11-slim",
        "command": ["python3", "-c", UNTIL_TOLD],
        "activeDeadlineSeconds": 900,
        "gpu": {"models": ["RTX 4090"]},
        "data": {"maxDownloadGB": 1, "maxUploadGB": 1},
        "cost": {"ceiling": "2.00"},
    },
}
DRIVER = "outlives-0-1-driver"


def eventually(what: str, look: Callable[[], Any]) -> Any:
    """Looks until something true is seen, and returns it."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (seen := look()):
        assert time.monotonic() < deadline, what
        time.sleep(0.3)
    return seen


class Watched:
    """The job, and what must stay as it is."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        stage.kubectl("apply", "-f", "-", text=json.dumps(JOB))
        eventually("it runs", lambda: self._is("Running"))
        self._at_first = self._traces()

    def job(self) -> Object:
        """As it is stored."""
        text = self._stage.kubectl("get", "gpujob", "outlives", "-n", "demo", "-o", "json")
        found: Object = json.loads(text)
        return found

    def leases(self) -> list[Object]:
        """All that was ever rented for it."""
        uid = self.job()["metadata"]["uid"]
        return [one for one in self._stage.ledger() if (one["label"] or "").endswith(f"/{uid}")]

    def goes_on(self) -> None:
        """Asserts that the same container of the same pod runs it, on the one machine."""
        assert self._traces() == self._at_first
        assert self._is("Running")

    def ends(self) -> None:
        """Lets it end, and waits until it has."""
        touch_on_machines(self._stage, "/tmp/released")
        eventually("it is complete", lambda: self._is("Complete"))

    def _is(self, kind: str) -> bool:
        return bool(condition(self.job(), kind).get("status") == "True")

    def _traces(self) -> Object:
        text = self._stage.kubectl("get", "pod", DRIVER, "-n", "demo", "-o", "json")
        pod = json.loads(text)
        (status,) = pod["status"]["containerStatuses"]
        (lease,) = self.leases()
        return {
            "pod": pod["metadata"]["uid"],
            "container": status["containerID"],
            "machine": (lease["id"], lease["state"]),
        }


def controllers(stage: Stage) -> set[str]:
    """The controllers' pods that are to stay."""
    pods = stage.get("pods", "gpujob-system")
    return {
        pod["metadata"]["name"]
        for pod in pods
        if pod["metadata"]["labels"]["app.kubernetes.io/component"] == "controller"
        and "deletionTimestamp" not in pod["metadata"]
    }


def bundle(stage: Stage) -> str:
    """Whom the API server trusts as the webhook."""
    (configuration,) = stage.get("validatingwebhookconfigurations", "")
    trusted: str = configuration["webhooks"][0]["clientConfig"].get("caBundle", "")
    return base64.b64decode(trusted).decode()


def versions(stage: Stage, manifest: str) -> dict[str, str]:
    """The stored version of each object of a manifest; without the status of a Deployment."""
    text = stage.kubectl("get", "-f", "-", "-o", "json", text=manifest)
    return {
        f"{one['kind']}/{one['metadata']['name']}": (
            f"generation {one['metadata']['generation']}"
            if one["kind"] == "Deployment"
            else one["metadata"]["resourceVersion"]
        )
        for one in json.loads(text)["items"]
    }


def left(stage: Stage) -> list[str]:
    """What there is of the release, other than what it says that it keeps."""
    kinds = stage.kubectl("api-resources", "--verbs=list,delete", "-o", "name").split()
    kinds = [kind for kind in kinds if kind.partition(".")[0] not in ("events", "pods")]
    mine = ("-A", "-l", "app.kubernetes.io/instance=gpujob", "-o", "name")
    return stage.kubectl("get", ",".join(kinds), *mine).split()


def _uninstall(stage: Stage, watched: Watched) -> None:
    """The machine is nobody's now but its watchdog's; the record of it stays."""
    stage.helm("uninstall", *RELEASE, *WAIT)
    assert left(stage) == []
    watched.goes_on()
    (node,) = (
        one for one in stage.get("gpunodes", "demo") if one["metadata"]["name"] == "outlives-0-1"
    )
    assert node["metadata"]["finalizers"] == ["gpujob.dev/machine"]


def _is_back(stage: Stage, watched: Watched) -> None:
    """A controller leads, and the API server asks its webhook."""
    for name in ("gpujob", "gpujob-server"):
        waiting = ("rollout", "status", f"deployment/{name}", "--timeout=240s")
        stage.kubectl(*waiting, "-n", "gpujob-system")
    eventually("the webhook refuses", lambda: "RTX 4090" in _told_of_a_wrong_job(stage))
    eventually("one leads", lambda: _leads(stage))
    watched.goes_on()


def _leads(stage: Stage) -> bool:
    holder = stage.kubectl("get", "lease", *RELEASE, "-o", "jsonpath={.spec.holderIdentity}")
    return any(name in holder for name in controllers(stage))


def _told_of_a_wrong_job(stage: Stage) -> str:
    wrong = copy.deepcopy(JOB)
    wrong["metadata"]["name"] = "wrong"
    wrong["spec"]["gpu"] = {"models": ["RTX 4091"]}
    create = stage.command("kubectl", "create", "--dry-run=server", "-f", "-")
    done = subprocess.run(
        create, input=json.dumps(wrong), capture_output=True, text=True, env=environment()
    )
    return done.stderr


@pytest.mark.timeout(600)
def test_a_job_outlives_every_change_of_the_release(stage: Stage) -> None:
    """Upgrade, rollback, uninstall, install, and by GitOps: one pod, one machine, one charge."""
    watched = Watched(stage)
    first = controllers(stage)
    trusted = bundle(stage)
    assert trusted

    stage.helm("upgrade", *RELEASE, CHART, VALUES, "--set=logLevel=DEBUG", *WAIT)
    second = controllers(stage)
    assert not first & second, "the controllers are new ones"
    watched.goes_on()

    stage.helm("rollback", *RELEASE, *WAIT)
    assert not second & controllers(stage)
    watched.goes_on()
    assert bundle(stage) == trusted, "what the controller writes, Helm leaves alone"

    _uninstall(stage, watched)
    stage.helm("install", *RELEASE, CHART, VALUES, *WAIT)
    _is_back(stage, watched)

    _uninstall(stage, watched)
    # As a GitOps tool does. What is kept, the CRDs, has been Helm's.
    manifest = stage.helm("template", *RELEASE, CHART, VALUES)
    apply = ("apply", "--server-side", "--field-manager=gitops", "-f", "-")
    stage.kubectl(*apply, "--force-conflicts", text=manifest)
    _is_back(stage, watched)
    before, trusted = versions(stage, manifest), bundle(stage)
    stage.kubectl(*apply, text=manifest)
    assert versions(stage, manifest) == before, "the second time changes nothing"
    assert bundle(stage) == trusted

    watched.ends()
    (lease,) = watched.leases()
    (account,) = (one for one in accounts(stage) if one.job == "outlives")
    assert lease["state"] == "destroyed"
    assert account.faults() == []
    # Told so, the controller cleans up.
    job = ("gpujob", "outlives", "-n", "demo")
    stage.kubectl("patch", *job, "--type=merge", "-p", '{"spec":{"ttlSecondsAfterFinished":0}}')
    stage.kubectl("wait", "--for=delete", *job, "--timeout=240s")
