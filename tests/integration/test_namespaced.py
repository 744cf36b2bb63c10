"""A team without rights on the cluster installs the operator for its own namespaces."""

import json
import os
import shlex
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.chart.rendering import CHART, EXAMPLES, objects
from tests.integration.client import Client
from tests.integration.conftest import World, is_held
from tests.integration.parts import Kubectl, Object, Operator, eventually

from gpujob.api.reasons import Reason
from localcluster import binaries

GROUP = "ml"
WITHOUT = {
    "crds": {"enabled": False},
    "admissionPolicies": {"enabled": False},
    "webhook": {"enabled": False},
    "rbac": {"clusterRoles": False},
    "vast": {"existingSecret": "vast"},
}
SWEEPS = 8
"""Enough listings for an orphan to be found: it is spared for a second."""
SETTINGS = ("GPUJOB_NAME", "GPUJOB_JOB_NAMESPACES", "GPUJOB_CLUSTER_RIGHTS")


@dataclass
class Team:
    """A namespace for a release, one for its jobs, and somebody who may do all in these two."""

    world: World
    folder: Path
    system: str
    jobs: str
    kubeconfig: Path
    operators: list[Operator] = field(default_factory=list)

    @property
    def user(self) -> str:
        """Whom the API server takes him for."""
        return f"user-of-{self.system}"

    def helm(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Runs Helm as the team does."""
        program = str(binaries.ensure(binaries.CHART) / "helm")
        return subprocess.run(
            [
                *(program, *arguments, f"--kubeconfig={self.kubeconfig}", "-n", self.system),
                *(f"--kube-as-user={self.user}", f"--kube-as-group={GROUP}"),
                "--kube-as-group=system:authenticated",
            ],
            capture_output=True,
            text=True,
            env={"PATH": os.environ["PATH"], "HOME": str(self.folder)},
        )

    def install(self, **values: Any) -> None:
        """Installs the chart."""
        path = self.folder / f"{self.system}.json"
        path.write_text(json.dumps(WITHOUT | {"jobNamespaces": [self.jobs]} | values))
        done = self.helm("install", "gpujob", str(CHART), f"--values={path}")
        assert done.returncode == 0, done.stderr

    def operator(self, **settings: str) -> Operator:
        """Returns a controller with the rights and the settings of what was installed."""
        plane, kubectl = self.world.plane, self.world.kubectl
        token = Client(plane.kubeconfig).token("gpujob", self.system)
        config = yaml.safe_load(plane.kubeconfig.read_text())
        config["users"][0]["user"] = {"token": token}
        path = self.folder / f"{self.system}.kubeconfig"
        path.touch(mode=0o600)
        path.write_text(yaml.safe_dump(config))
        found = json.loads(kubectl("get", "deployment", "gpujob", "-n", self.system, "-o", "json"))
        (container,) = found["spec"]["template"]["spec"]["containers"]
        told = {one["name"]: one.get("value", "") for one in container["env"]}
        given = {name: told[name] for name in SETTINGS if name in told}
        given |= {"GPUJOB_NAMESPACE": self.system} | settings
        made = Operator(self.folder, path, self.world.simulator.url, self.system, **given)
        self.operators.append(made)
        return made


def _bind(kubectl: Kubectl, team: Team, *, again: bool = False) -> None:
    """Does what an administrator does: the example, and `admin`; `again` for other jobs."""
    text = (EXAMPLES / "namespaced-administrator.yaml").read_text()
    text = text.replace("ml-ops", team.system).replace("ml-jobs", team.jobs)
    text = text.replace("kind: Group\n    name: ml", f"kind: User\n    name: {team.user}")
    kubectl("apply", "-f", "-", text=text)
    for place in (team.jobs,) if again else (team.system, team.jobs):
        admin = ("admin", "--clusterrole=admin", f"--user={team.user}", "-n", place)
        kubectl("create", "rolebinding", *admin)


@contextmanager
def _team(world: World, folder: Path, jobs: str) -> Iterator[Team]:
    kubectl = world.kubectl
    system = f"ops-{uuid.uuid4().hex[:8]}"
    kubectl("create", "namespace", system)
    team = Team(world, folder, system, jobs, world.plane.kubeconfig)
    _bind(kubectl, team)
    try:
        yield team
    finally:
        for one in team.operators:
            if one.runs:
                one.stop()
            print(f"--- log of {system}\n{one.log[-15000:]}")
        kubectl("delete", "namespace", system, "--wait=false")


@pytest.fixture
def open_cluster(stage: World) -> Iterator[None]:
    """The policies of the release in `gpujob-system` are for its namespaces only, as of one that
    serves some namespaces."""

    def policies(**values: Any) -> list[Object]:
        programs = binaries.ensure(binaries.CHART)
        # As the control plane's release has it.
        image = {"registry": "localhost", "repository": "gpujob-driver", "tag": "dev"}
        given = {"driver": {"image": image}, "api": {"enabled": True}, **values}
        found = objects(programs, values=given, namespace="gpujob-system")
        return [one for one in found if one["kind"] == "ValidatingAdmissionPolicy"]

    def put(found: list[Object]) -> None:
        listed = {"apiVersion": "v1", "kind": "List", "items": found}
        force = ("--server-side", "--force-conflicts")
        stage.kubectl("apply", *force, "-f", "-", text=json.dumps(listed))

    held = partial(is_held, stage.kubectl, stage.namespace)
    put(policies(jobNamespaces=["default"]))
    eventually("the policies are for others", lambda: not held())
    yield
    put(policies())
    eventually("the policies are in force", held)


@pytest.fixture
def team(stage: World, tmp_path: Path, open_cluster: None) -> Iterator[Team]:
    """Its jobs are in the test's namespace."""
    with _team(stage, tmp_path, stage.namespace) as made:
        yield made


def test_it_is_installed_and_runs_without_rights_on_the_cluster(stage: World, team: Team) -> None:
    """A job completes, a mistake is refused although there is no webhook, others are left alone."""
    mine = team.user
    assert stage.kubectl.run("auth", "can-i", "get", "nodes", f"--as={mine}").returncode != 0
    team.install()
    elsewhere = {**_job("elsewhere"), "metadata": {"name": "elsewhere", "namespace": "default"}}
    stage.kubectl.client.apply(elsewhere)
    operator = team.operator()
    operator.start()
    try:
        eventually("it is ready", lambda: operator.probe("readyz") == (200, "ok"))
        stage.apply_job("train")
        stage.apply_job("wrong", image="$(reboot)")
        stage.await_reason("wrong", Reason.SPEC_INVALID)
        job = stage.await_reason("train", "Complete")
        other = stage.kubectl.get("gpujob", "elsewhere", "default") or {}
        token = stage.kubectl("create", "token", "default", "-n", team.system).strip()
        told = operator.probe("metrics", token)

        assert len(stage.simulator.of(job)) == 1
        assert stage.simulator.living() == []
        assert other["metadata"]["name"] == "elsewhere"
        seen = {one["reason"] for one in other["status"]["conditions"]}
        assert seen == {"Unseen"}, "what the API server itself says of a new job"
        assert told[0] == 503
        assert "rbac.clusterRoles" in told[1]
        identity = stage.kubectl.get("configmap", "gpujob-identity", team.system) or {}
        (machine,) = stage.simulator.of(job)
        assert machine["label"].split("/")[0] == identity["data"]["identity"]
        lease = stage.kubectl.get("lease", "gpujob", team.system) or {}
        says = lease["metadata"]["annotations"]["gpujob.dev/identity"]
        assert says == identity["data"]["identity"]
    finally:
        stage.kubectl.client.delete("gpujobs", "elsewhere", "default")


def _job(name: str) -> Object:
    return {
        "apiVersion": "gpujob.dev/v1alpha1",
        "kind": "GpuJob",
        "metadata": {"name": name},
        "spec": {
            "image": "python:3.11",
            "command": ["true"],
            "activeDeadlineSeconds": 120,
            "gpu": {"models": ["RTX 4090"]},
            "cost": {"ceiling": "2.00"},
        },
    }


def test_two_installations_leave_each_others_machines_alone(
    stage: World, team: Team, tmp_path: Path
) -> None:
    """With one account, in one cluster: neither sees the GpuNodes of the other."""
    team.install()
    operator = team.operator()
    operator.start()
    stage.apply_job("train", command=stage.waits())
    stage.await_reason("train", "Running")
    jobs = f"jobs-{uuid.uuid4().hex[:8]}"
    stage.kubectl("create", "namespace", jobs)
    with _team(stage, tmp_path, jobs) as others:
        others.install()
        other = others.operator()
        other.start()
        try:
            eventually("the other is ready", lambda: other.probe("readyz") == (200, "ok"))
            stage.await_listings(SWEEPS)
            assert len(stage.simulator.living()) == 1
            assert "orphan" not in other.log
            operator.kill()
            stage.await_listings(SWEEPS)
            assert len(stage.simulator.living()) == 1
        finally:
            other.stop()
            stage.kubectl("delete", "namespace", jobs, "--wait=false")
    operator.start()
    stage.let_go()
    job = stage.await_reason("train", "Complete")

    assert len(stage.simulator.of(job)) == 1


def test_with_its_identity_lost_it_does_nothing_until_it_is_told(stage: World, team: Team) -> None:
    """Under another one, the machine that runs would count as gone."""
    team.install()
    operator = team.operator()
    operator.start()
    stage.apply_job("train", command=stage.waits())
    job = stage.await_reason("train", "Running")
    operator.stop()
    stage.kubectl.client.delete("configmaps", "gpujob-identity", team.system)
    operator.launch()
    eventually("it says so", lambda: "identity_lost" in operator.log)
    assert "lock_acquired" not in operator.log.rpartition("controller_stopping")[2]
    operator.kill()
    (machine,) = stage.simulator.of(job)
    operator.start(GPUJOB_IDENTITY=machine["label"].split("/")[0])
    stage.let_go()
    job = stage.await_reason("train", "Complete")

    assert len(stage.simulator.of(job)) == 1


def test_a_namespace_is_left_out_with_the_command_that_the_log_names(
    stage: World, team: Team
) -> None:
    """Until then nobody leads, and the machine there is let be."""
    team.install()
    operator = team.operator()
    operator.start()
    stage.apply_job("train", command=stage.waits())
    stage.await_reason("train", "Running")
    operator.stop()
    operator.launch(GPUJOB_JOB_NAMESPACES="default")

    def told() -> str:
        logged = [json.loads(line) for line in operator.log.splitlines() if "left_out" in line]
        return logged[-1]["problem"] if logged else ""

    words = eventually("it says so", told)
    assert f"served {team.jobs} until now" in words
    assert len(stage.simulator.living()) == 1
    operator.kill()
    operator.start()
    stage.let_go()
    stage.await_reason("train", "Complete")
    operator.stop()
    program, *command = shlex.split(words.rpartition("confirm with: ")[2])
    assert program == "kubectl"
    stage.kubectl(*command)
    operator.launch(GPUJOB_JOB_NAMESPACES="default")
    eventually("it starts", lambda: operator.log.count("controller_started") == 3)
    eventually("it leads", lambda: "lock_acquired" in operator.log.rpartition("_started")[2])


def test_a_namespace_that_cannot_be_read_keeps_no_other_from_its_deadlines(
    stage: World, team: Team
) -> None:
    """As when it is deleted: its Roles go first. Nothing is rented meanwhile, and it comes back."""
    lost = f"lost-{uuid.uuid4().hex[:8]}"
    stage.kubectl("create", "namespace", lost)
    _bind(stage.kubectl, replace(team, jobs=lost), again=True)
    team.install(jobNamespaces=[team.jobs, lost])
    operator = team.operator()
    operator.start()
    stage.apply_job("train", command=stage.waits(), activeDeadlineSeconds=30)
    stage.await_reason("train", "Running")
    binding = ("rolebinding", f"{team.system}-gpujob", "-n", lost)
    stored = json.loads(stage.kubectl("get", *binding, "-o", "json"))
    stage.kubectl("delete", *binding)
    operator.kill()
    operator.launch()

    def told() -> bool:
        status, words = operator.probe("readyz")
        return status == 503 and lost in words

    eventually("it says which one", told)
    stage.await_reason("train", "DeadlineExceeded")
    stage.apply_job("next")
    eventually("the next one waits", lambda: stage.condition("next", "Ready").get("reason"))
    assert stage.simulator.rents() == 1
    kept = {name: stored["metadata"][name] for name in ("name", "namespace", "labels")}
    stage.kubectl.apply({**stored, "metadata": kept})

    def complete() -> bool:
        if not operator.runs:
            operator.launch()
        return stage.condition("next", "Ready").get("reason") == "Complete"

    eventually("the next one is complete", complete)
    stage.kubectl("delete", "namespace", lost, "--wait=false")
