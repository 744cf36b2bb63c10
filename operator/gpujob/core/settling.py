"""Plans on, as if each planned status were stored already, until there is something to do or to
wait for. So what follows at once is stored in one write.

Nothing is done earlier for it: effects still come after the write, and the order of the steps is
the same as if each status had been stored by itself.
"""

from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from gpujob.api.gpujob import GpuJob, GpuJobStatus
from gpujob.api.gpunode import GpuNode, GpuNodeStatus
from gpujob.core.conditions import job_status, node_status
from gpujob.core.effects import Plan
from gpujob.core.job.plan import plan_job
from gpujob.core.node.plan import plan_node
from gpujob.core.observation import JobObservation, NodeObservation, World
from gpujob.core.rest import may_close

STATUSES_MAX = 10
"""If so many follow on each other, the next pass goes on."""

Seen = TypeVar("Seen", JobObservation, NodeObservation)
Kept = TypeVar("Kept", GpuJob, GpuNode)
Status = TypeVar("Status", GpuJobStatus, GpuNodeStatus)


@dataclass(frozen=True)
class Settled(Generic[Seen]):
    """The last plan of several that follow on each other."""

    observation: Seen
    """What the last plan rests on: the object has the status of the plan before it."""
    plan: Plan[Any]
    statuses: tuple[Any, ...]
    """With conditions and phase, one for each plan. The last one is to be stored."""


def settle_node(seen: NodeObservation) -> Settled[NodeObservation]:
    """Returns what to store and do now for a GpuNode; pure."""
    statuses = []
    while True:
        plan = plan_node(seen)
        shown = node_status(seen.node, plan, seen.world.now, seen.world.not_ready)
        statuses.append(_closed(shown, seen.node, seen.world))
        if len(statuses) == STATUSES_MAX or not _goes_on(plan, seen.node):
            return Settled(seen, plan, tuple(statuses))
        seen = replace(seen, node=_with_status(seen.node, statuses[-1]))


def settle_job(seen: JobObservation) -> Settled[JobObservation]:
    """Returns what to store and do now for a GpuJob; pure."""
    statuses = []
    while True:
        plan, before = plan_job(seen), seen.job.status
        shown = job_status(seen.job, plan, seen.world.now, seen.world.not_ready)
        statuses.append(_closed(shown, seen.job, seen.world))
        # The node that was seen is not the one that a job needs after it has charged its attempt.
        is_charged = before.node_uid is not None and plan.status.node_uid is None
        if is_charged or len(statuses) == STATUSES_MAX or not _goes_on(plan, seen.job):
            return Settled(seen, plan, tuple(statuses))
        seen = replace(seen, job=_with_status(seen.job, statuses[-1]))


def settle_created(first: Settled[JobObservation], node: GpuNode | None) -> Settled[JobObservation]:
    """Returns what to store and do once the node that `first` creates is there; None = it could not
    be created, which the next pass tells; pure.
    """
    if node is None:
        return replace(first, plan=replace(first.plan, effects=()))
    job = _with_status(first.observation.job, first.statuses[-1])
    then = settle_job(replace(first.observation, job=job, node=node))
    return replace(then, statuses=(*first.statuses, *then.statuses))


def _goes_on(plan: Plan[Any], planned: GpuJob | GpuNode) -> bool:
    if plan.effects or plan.wants_quotes or plan.wants_budgets or plan.requeue_seconds != 0:
        return False
    return bool(plan.status != planned.status)


def _closed(status: Status, planned: GpuJob | GpuNode, world: World) -> Status:
    """Returns a status that says whether the object may leave the watch; it is asked each time, so
    that what is closed by mistake comes back with its next pass.
    """
    closes = may_close(planned.metadata, status, now=world.now, limits=world.limits)
    return status.model_copy(update={"closed": True if closes else None})


def _with_status(planned: Kept, status: Any) -> Kept:
    return planned.model_copy(update={"status": status})
