"""Speaks to Kueue about the jobs that are for one of its queues (`core.queue` decides).

Kueue serves kinds of others by their Workloads, which whoever serves the kind creates and heeds.
"""

import asyncio
from collections.abc import Callable

import structlog
from pydantic import ValidationError

from gpujob.adapters.clock import Clock
from gpujob.adapters.errors import AdapterError, Conflict
from gpujob.adapters.kube import Body, KubeClient
from gpujob.api.gpujob import GpuJob
from gpujob.api.meta import LABEL_MANAGED_BY, MANAGER
from gpujob.controller.cache import Cache
from gpujob.controller.workqueue import Key
from gpujob.core import queue
from gpujob.core.queue import Step

LOOK_SECONDS = 2.0

log = structlog.get_logger("gpujob.queues")


class Queues:
    """Keeps jobs and Workloads in agreement."""

    def __init__(
        self,
        kube: KubeClient,
        cache: Cache,
        clock: Clock,
        wake: Callable[[Key], None],
        problems: dict[str, str],
    ) -> None:
        """`wake` asks for a pass over a job whose admission has changed. Into `problems` comes,
        by the job's uid, what keeps a job from its queue.
        """
        self._problems = problems
        self._kube = kube
        self._cache = cache
        self._clock = clock
        self._wake = wake

    async def run(self) -> None:
        """Looks again and again."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                await self._look()
            except AdapterError as error:
                log.warning("workloads_not_listed", problem=str(error))

    async def _look(self) -> None:
        jobs = {uid: job for uid, job in self._cache.jobs.items() if queue.queue_of(job)}
        listed = await self._kube.list_all("Workload", f"{LABEL_MANAGED_BY}={MANAGER}")
        workloads = {(one["metadata"]["namespace"], one["metadata"]["name"]): one for one in listed}
        wanted: list[tuple[tuple[str, str, str], Body | None]] = []
        problems: dict[str, str] = {}
        for uid, job in jobs.items():
            meta = job.metadata
            workload = workloads.pop((meta.namespace, queue.workload_name(job)), None)
            if queue.next_step(job, workload) is not None:
                wanted.append(((meta.namespace, meta.name, uid), workload))
            if workload is not None and (words := queue.fault(job, workload)):
                problems[uid] = words
        # A job that is over is not held any more, and its Workload still has its quota. So has one
        # of a job that has another now, which comes first.
        left = [
            (queue.job_of(one), one)
            for one in workloads.values()
            if queue.is_held(one) or not queue.is_over(one)
        ]
        for place, workload in (*left, *wanted):
            if all(place) and (words := await self._take_step(*place, workload)):
                problems[place[2]] = words
        self._tell(problems)

    def _tell(self, problems: dict[str, str]) -> None:
        before = dict(self._problems)
        self._problems.clear()
        self._problems.update(problems)
        for uid in before.keys() | problems.keys():
            if before.get(uid) != problems.get(uid) and (job := self._cache.jobs.get(uid)):
                self._wake(Key("GpuJob", job.metadata.namespace, job.metadata.name))

    async def _take_step(self, namespace: str, name: str, uid: str, workload: Body | None) -> str:
        """Returns why it could not be taken; empty = it was, or is tried again at once."""
        try:
            await self._step(namespace, name, uid, workload)
        except Conflict:
            # Somebody else has changed one of the two: the next look shows it.
            return ""
        except AdapterError as error:
            if self._problems.get(uid) != str(error):
                log.warning("queue_step_failed", namespace=namespace, name=name, problem=str(error))
            return str(error)
        except ValidationError:
            # Its pass says what is wrong with it.
            log.warning("job_unreadable", namespace=namespace, name=name)
        return ""

    async def _step(self, namespace: str, name: str, uid: str, workload: Body | None) -> None:
        """Decides on the job as it is stored, because what is held may be old."""
        stored = await self._kube.find("GpuJob", namespace, name)
        if stored is None or stored["metadata"]["uid"] != uid:
            # Its own finalizer has held it until its machine was gone.
            if workload is not None and queue.is_held(workload):
                await self._hold(workload, held=False)
            return
        job = GpuJob.model_validate(stored)
        match queue.next_step(job, workload):
            case Step.CREATE:
                body = queue.workload_of(job, await self._priority(job))
                await self._kube.create("Workload", namespace, body)
            case Step.HOLD if workload is not None:
                await self._hold(workload, held=True)
            case Step.LET_GO if workload is not None:
                await self._hold(workload, held=False)
            case Step.ADMIT:
                await self._note(stored, queue.workload_name(job))
            case Step.WITHDRAW:
                await self._note(stored, None)
            case Step.RELEASE if workload is not None:
                status = queue.released(workload, self._clock.now())
                await self._kube.write_status("Workload", workload, status)
            case Step.FINISH if workload is not None:
                status = queue.finished(workload, job, self._clock.now())
                await self._kube.write_status("Workload", workload, status)

    async def _hold(self, workload: Body, *, held: bool) -> None:
        finalizers = queue.finalizers_of(workload, held=held)
        await self._kube.set_finalizers("Workload", workload, finalizers)

    async def _note(self, stored: Body, admitted_by: str | None) -> None:
        status = {**(stored.get("status") or {}), "admittedBy": admitted_by}
        if admitted_by is None:
            del status["admittedBy"]
        await self._cache.write_status("GpuJob", stored, status)
        meta = stored["metadata"]
        self._wake(Key("GpuJob", meta["namespace"], meta["name"]))

    async def _priority(self, job: GpuJob) -> int | None:
        """Returns the value of the class that a job names, None = it names none; raises ObjectGone
        if there is no such class.
        """
        if not (name := job.metadata.labels.get(queue.LABEL_PRIORITY)):
            return None
        return int((await self._kube.get("WorkloadPriorityClass", "", name))["value"])
