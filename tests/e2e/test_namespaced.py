"""A team without rights on the cluster installs the chart, and trains.

The cluster has the kinds, and no release: the one before was uninstalled.
"""

import json
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from demo import PARTS, WANTED, Object, Stage, accounts, condition
from localcluster.paths import ROOT, environment

CHART = str(ROOT / "helm/gpujob")
ROLE = ROOT / "helm/examples/namespaced-administrator.yaml"
OPS, JOBS = "ml-ops", "ml-jobs"
"""As the example has them."""
ACCOUNT = f"system:serviceaccount:{OPS}:installer"
PATIENCE_SECONDS = 240
TRAIN_SECONDS = "10"
WITHOUT = (
    *("--set=crds.enabled=false", "--set=admissionPolicies.enabled=false"),
    *("--set=webhook.enabled=false", "--set=api.enabled=false", "--set=rbac.clusterRoles=false"),
)


@dataclass
class Team:
    """An account of the cluster that may do all in two namespaces."""

    stage: Stage
    kubeconfig: Path

    def run(self, program: str, *arguments: str, text: str = "") -> str:
        """Runs a program as the team; returns what it printed."""
        command = [one for one in self.stage.command(program) if "--kubeconfig" not in one]
        command += [f"--kubeconfig={self.kubeconfig}", *arguments]
        done = subprocess.run(
            command, input=text, capture_output=True, text=True, env=environment()
        )
        assert done.returncode == 0, f"{program} {' '.join(arguments)}: {done.stderr}"
        return done.stdout


@pytest.fixture
def kinds(cluster: Stage) -> Iterator[None]:
    """The kinds, as an administrator applies them where no release has left them."""
    names = [one["metadata"]["name"] for one in cluster.get("customresourcedefinitions", "")]
    if "gpujobs.gpujob.dev" in names:
        yield
        return
    cluster.kubectl("apply", "--server-side", "-f", str(ROOT / "crds"))
    yield
    cluster.kubectl("delete", "-f", str(ROOT / "crds"))


@pytest.fixture
def team(cluster: Stage, kinds: None, tmp_path: Path) -> Iterator[Team]:
    """What an administrator gives: two namespaces, `admin` in both, and the role of the example."""
    assert not cluster.helm("list", "-A", "-q").split(), "another release serves all namespaces"
    cluster.apply_secret(OPS)
    cluster.namespace(JOBS)
    cluster.kubectl("create", "serviceaccount", "installer", "-n", OPS)
    for one in yaml.safe_load_all(ROLE.read_text()):
        if "subjects" in one:
            subject = {"kind": "ServiceAccount", "name": "installer", "namespace": OPS}
            one["subjects"] = [subject]
        cluster.apply(one)
    for namespace in (OPS, JOBS):
        admin = ("admin", "--clusterrole=admin", f"--serviceaccount={OPS}:installer")
        cluster.kubectl("create", "rolebinding", *admin, "-n", namespace)
    config = yaml.safe_load(cluster.kubeconfig.read_text())
    token = cluster.kubectl("create", "token", "installer", "-n", OPS).strip()
    config["users"][0]["user"] = {"token": token}
    path = tmp_path / "team.kubeconfig"
    path.touch(mode=0o600)
    path.write_text(yaml.safe_dump(config))
    try:
        yield Team(cluster, path)
    finally:
        cluster.kubectl("delete", "namespace", JOBS, OPS, "--timeout=240s")
        cluster.kubectl("delete", "clusterrole", "gpujob-installer")


def train() -> Object:
    """The demo's job, which trains for a shorter time."""
    job: Object = yaml.safe_load((PARTS / "train.yaml").read_text())
    job["metadata"]["namespace"] = JOBS
    (seconds,) = job["spec"]["env"]
    assert seconds["name"] == "TRAIN_SECONDS"
    seconds["value"] = TRAIN_SECONDS
    return job


def end_of(team: Team) -> Any:
    """Waits until the team sees that its job is over; returns it."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        job = json.loads(team.run("kubectl", "get", "gpujob", "train", "-n", JOBS, "-o", "json"))
        if any(condition(job, kind).get("status") == "True" for kind in ("Complete", "Failed")):
            return job
        assert time.monotonic() < deadline, job.get("status")
        time.sleep(0.5)


def test_a_team_without_rights_on_the_cluster_trains(team: Team, cluster: Stage) -> None:
    """It installs, applies, reads the log and uninstalls with its own account alone."""
    may = ("auth", "can-i", "list", "nodes")
    refused = subprocess.run(
        cluster.command("kubectl", *may, f"--as={ACCOUNT}"), capture_output=True, env=environment()
    )
    assert refused.returncode != 0
    before = len(cluster.ledger())
    values = (f"--values={PARTS / 'values.yaml'}", f"--set=jobNamespaces={{{JOBS}}}", *WITHOUT)
    wait = ("--wait", "--timeout=180s")
    team.run("helm", "install", "gpujob", CHART, "-n", OPS, *values, *wait)
    team.run("kubectl", "apply", "-f", "-", text=json.dumps(train()))
    job = end_of(team)
    log = team.run("kubectl", "logs", "train-0-1-driver", "-n", JOBS)
    (account,) = accounts(cluster, JOBS)
    team.run("helm", "uninstall", "gpujob", "-n", OPS, *wait)

    assert (account.outcome, account.attempts) == WANTED["train"], job["status"]
    assert account.faults() == []
    assert "training on a simulated GPU" in log
    assert "accuracy" in log
    assert [one["state"] for one in cluster.ledger()[before:]] == ["destroyed"]
