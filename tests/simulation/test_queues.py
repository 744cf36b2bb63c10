"""What others write into the queues of Kueue: it admits no job, and ends no leader."""

from collections.abc import Awaitable, Callable
from copy import deepcopy
from typing import Any

import pytest
from tests.builders import a_spec, a_world, job_observation, stamp
from tests.simulation.model import Chance, ModelKube
from tests.simulation.process import VirtualClock
from tests.simulation.world import NAMESPACE, play

from gpujob.adapters.kube import Body
from gpujob.api.gpujob import GpuJob
from gpujob.api.meta import LABEL_JOB, LABEL_MANAGED_BY, MANAGER
from gpujob.api.reasons import Reason
from gpujob.controller.cache import Cache
from gpujob.controller.queues import Queues
from gpujob.core.job.plan import plan_job
from gpujob.core.queue import LABEL_PRIORITY, LABEL_QUEUE, workload_name

OVER = {"type": "Finished", "status": "True", "reason": "r", "lastTransitionTime": stamp(-60)}
MAY_RUN = [OVER | {"type": one} for one in ("QuotaReserved", "Admitted")]


class _Stage:
    """A queue's jobs and Workloads."""

    def __init__(self) -> None:
        self.kube = ModelKube(Chance(0, level=0.0))
        self.cache = Cache(self.kube, lambda _: None)
        self.changes = 0
        self.problems: dict[str, str] = {}
        self.woken: list[str] = []
        clock, wake = VirtualClock(), lambda key: self.woken.append(key.name)
        self.queues = Queues(self.kube, self.cache, clock, wake, self.problems)

    async def job(self, name: str = "train", **spec: Any) -> GpuJob:
        body = {
            "apiVersion": "gpujob.dev/v1alpha1",
            "kind": "GpuJob",
            "metadata": {"name": name, "labels": {LABEL_QUEUE: "team"}},
            "spec": a_spec(**spec),
            "status": {},
        }
        self.take_in(await self.kube.create("GpuJob", NAMESPACE, body))
        return self.read(name)

    def read(self, name: str = "train") -> GpuJob:
        return GpuJob.model_validate(self.kube.objects["GpuJob", NAMESPACE, name])

    def take_in(self, body: Body) -> None:
        list(self.cache.take_in("GpuJob", body, gone=False))

    def take_away(self, name: str = "train") -> None:
        """The job is gone, and known to be."""
        body = self.kube.objects.pop(("GpuJob", NAMESPACE, name))
        list(self.cache.take_in("GpuJob", body, gone=True))

    def look_at(self, name: str = "train") -> None:
        self.take_in(self.kube.objects["GpuJob", NAMESPACE, name])

    def changed(self, name: str = "train", kind: str = "GpuJob") -> Body:
        """Returns a new version of an object, for a user to write to."""
        body = deepcopy(self.kube.objects[kind, NAMESPACE, name])
        self.changes += 1
        body["metadata"]["resourceVersion"] = str(900 + self.changes)
        self.kube.objects[kind, NAMESPACE, name] = body
        return body

    def workloads(self) -> list[Body]:
        return self.kube.of_kind("Workload")

    def admit(self) -> None:
        """As Kueue does, for all."""
        for one in self.workloads():
            one["status"] = {"conditions": [dict(condition) for condition in MAY_RUN]}
            one["metadata"]["resourceVersion"] += "0"

    async def look_twice(self) -> None:
        """The first look holds what was admitted."""
        for _ in range(2):
            await self.queues._look()

    async def forged(self, job: GpuJob, namespace: str = NAMESPACE, **labels: str) -> None:
        """A Workload that some other has made and that has been admitted."""
        ours = {LABEL_MANAGED_BY: MANAGER, LABEL_JOB: job.metadata.name}
        ours |= {"kueue.x-k8s.io/job-uid": job.metadata.uid} | labels
        body = {
            "metadata": {"name": "forged", "labels": {k: v for k, v in ours.items() if v}},
            "spec": {},
            "status": {"conditions": MAY_RUN},
        }
        await self.kube.create("Workload", namespace, body)


def played(story: Callable[[_Stage], Awaitable[None]]) -> None:
    """Plays a story with an empty API server."""

    async def life() -> None:
        await story(_Stage())

    play(life)


@pytest.mark.parametrize("namespace", [NAMESPACE, "another"])
def test_a_job_is_admitted_by_its_own_workload_alone(namespace: str) -> None:
    """Whoever may create Workloads somewhere cannot have a job of others run, or of his own."""

    async def story(stage: _Stage) -> None:
        job = await stage.job()
        await stage.forged(job, namespace)
        for _ in range(3):
            await stage.queues._look()
            stage.look_at()
        assert stage.read().status.admitted_by is None
        mine = {one["metadata"]["name"] for one in stage.workloads()} - {"forged"}
        assert mine == {workload_name(job)}

    played(story)


def test_a_workload_that_names_no_job_is_nobodys() -> None:
    """The path of an object without a name is that of a list."""

    async def story(stage: _Stage) -> None:
        job = await stage.job()
        await stage.forged(job, **{LABEL_JOB: "", "kueue.x-k8s.io/job-uid": ""})
        # So the API server answers.
        stage.kube.objects["GpuJob", NAMESPACE, ""] = {"metadata": {"resourceVersion": "999"}}
        await stage.queues._look()
        assert len(stage.workloads()) == 2

    played(story)


def test_a_job_that_cannot_be_read_holds_no_other_up() -> None:
    """Its pass says what is wrong; the others take their turns."""

    async def story(stage: _Stage) -> None:
        for name in ("bad", "good"):
            await stage.job(name)
        stage.changed("bad")["spec"] = {"image": 7}
        await stage.queues._look()
        assert [one["metadata"]["labels"][LABEL_JOB] for one in stage.workloads()] == ["good"]

    played(story)


@pytest.mark.parametrize("change", ["ceiling", "queue"])
def test_what_was_admitted_is_not_made_more(change: str) -> None:
    """A ceiling that is raised, or another queue, has to be admitted anew."""

    async def story(stage: _Stage) -> None:
        await stage.job(cost={"ceiling": "5"})
        await stage.queues._look()
        stage.admit()
        await stage.look_twice()
        (before,) = stage.workloads()
        assert stage.read().status.admitted_by == before["metadata"]["name"]
        body = stage.changed()
        if change == "ceiling":
            body["spec"]["cost"]["ceiling"] = "5000"
        else:
            body["metadata"]["labels"][LABEL_QUEUE] = "rich"
        plan = plan_job(job_observation(job=stage.read(), world=a_world(kueue=True)))
        assert plan.reason is Reason.SUSPENDED

        for _ in range(3):
            stage.look_at()
            await stage.queues._look()
        assert stage.read().status.admitted_by is None
        flags = [
            {one["type"] for one in found["status"]["conditions"]} if found.get("status") else set()
            for found in stage.workloads()
        ]
        assert sorted(map(sorted, flags)) == [[], ["Admitted", "Finished", "QuotaReserved"]]
        stage.admit()
        await stage.look_twice()
        assert stage.read().status.admitted_by == workload_name(stage.read())

    played(story)


def test_a_job_that_leaves_its_queue_leaves_no_workload_waiting() -> None:
    """Else it would be admitted one day, for a job that has long run."""

    async def story(stage: _Stage) -> None:
        await stage.job()
        await stage.queues._look()
        del stage.changed()["metadata"]["labels"][LABEL_QUEUE]
        stage.look_at()
        await stage.queues._look()
        (left,) = stage.workloads()
        assert [one["type"] for one in left["status"]["conditions"]] == ["Finished"]

    played(story)


def test_a_workload_that_is_deleted_stays_until_its_machine_is_gone() -> None:
    """Kueue counts its quota as long as it is there."""

    async def story(stage: _Stage) -> None:
        await stage.job()
        await stage.queues._look()
        stage.admit()
        await stage.look_twice()
        (held,) = stage.workloads()
        body = stage.changed()
        body["status"] |= {"nodeUID": "u", "nodeName": "train-0-1"}
        stage.look_at()
        stage.kube.delete_now("Workload", NAMESPACE, held["metadata"]["name"])
        await stage.look_twice()
        assert stage.read().status.admitted_by is None
        assert len(stage.workloads()) == 1
        body = stage.changed()
        for name in ("nodeUID", "nodeName"):
            del body["status"][name]
        stage.look_at()
        await stage.queues._look()
        assert stage.workloads() == []
        await stage.queues._look()
        (another,) = stage.workloads()
        assert another["metadata"]["uid"] != held["metadata"]["uid"]

    played(story)


@pytest.mark.parametrize("is_over", [False, True])
def test_nothing_holds_the_workload_of_a_job_that_is_gone(is_over: bool) -> None:
    """The job's own finalizer has held that until its machine was gone."""

    async def story(stage: _Stage) -> None:
        await stage.job()
        await stage.queues._look()
        stage.admit()
        await stage.look_twice()
        (held,) = stage.workloads()
        name = held["metadata"]["name"]
        if is_over:
            stage.changed(name, "Workload")["status"]["conditions"].append(OVER)
        stage.take_away()
        stage.kube.delete_now("Workload", NAMESPACE, name)
        await stage.queues._look()
        assert stage.workloads() == []

    played(story)


def test_what_keeps_a_job_from_its_queue_is_told_as_long_as_it_does() -> None:
    """Here the class that it names is not there; with it, the job goes on."""

    async def story(stage: _Stage) -> None:
        job = await stage.job()
        stage.changed()["metadata"]["labels"][LABEL_PRIORITY] = "urgent"
        stage.look_at()
        await stage.look_twice()
        (words,) = stage.problems.values()
        assert "urgent" in words
        assert list(stage.problems) == [job.metadata.uid]
        assert stage.woken == ["train"], "once"
        stage.kube.objects["WorkloadPriorityClass", "", "urgent"] = {
            "metadata": {"resourceVersion": "800"},
            "value": 100,
        }
        await stage.queues._look()
        assert stage.problems == {}
        assert stage.woken == ["train", "train"]
        assert len(stage.workloads()) == 1

    played(story)
