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
from gpujob.core.queue import LABEL_QUEUE, workload_name

OVER = {"type": "Finished", "status": "True", "reason": "r", "lastTransitionTime": stamp(-60)}
MAY_RUN = [OVER | {"type": one} for one in ("QuotaReserved", "Admitted")]


class _Stage:
    """A queue's jobs and Workloads."""

    def __init__(self) -> None:
        self.kube = ModelKube(Chance(0, level=0.0))
        self.cache = Cache(self.kube, lambda _: None)
        self.queues = Queues(self.kube, self.cache, VirtualClock(), lambda _: None)

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

    def look_at(self, name: str = "train") -> None:
        self.take_in(self.kube.objects["GpuJob", NAMESPACE, name])

    def changed(self, name: str = "train") -> Body:
        """Returns a new version of a job, for a user to write to."""
        body = deepcopy(self.kube.objects["GpuJob", NAMESPACE, name])
        body["metadata"]["resourceVersion"] = str(900 + len(self.kube.objects))
        self.kube.objects["GpuJob", NAMESPACE, name] = body
        return body

    def workloads(self) -> list[Body]:
        return self.kube.of_kind("Workload")

    def admit(self) -> None:
        """As Kueue does, for all."""
        for one in self.workloads():
            one["status"] = {"conditions": [dict(condition) for condition in MAY_RUN]}
            one["metadata"]["resourceVersion"] += "0"

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
        await stage.queues._look()
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
        await stage.queues._look()
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
