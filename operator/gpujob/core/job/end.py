"""The end of a job: it is stored once, as a fact, and everything else follows from it."""

from gpujob.api.gpujob import GpuJobStatus, JobEndStatus
from gpujob.api.meta import LABEL_JOB
from gpujob.api.reasons import Reason
from gpujob.core.effects import Plan
from gpujob.core.job.answers import JobPlan
from gpujob.core.money import format_usd, short_usd
from gpujob.core.observation import JobObservation

_SEE_OUTPUT = (
    f"read its output with `kubectl logs -n {{job.namespace}} -l {LABEL_JOB}={{job.name}} "
    "--tail=-1`, and create the job again"
)
_NEXT_STEPS = {
    Reason.DEADLINE_EXCEEDED: "create the job again with a longer activeDeadlineSeconds",
    Reason.PENDING_DEADLINE_EXCEEDED: "create the job again with a longer pendingDeadlineSeconds, "
    "or without one",
    Reason.BUDGET_EXHAUSTED: "create the job again with a higher cost.ceiling",
    Reason.TRAFFIC_EXCEEDED: "create the job again with higher caps in data",
    Reason.IDLE_DEADLINE_EXCEEDED: _SEE_OUTPUT,
    Reason.BACKOFF_LIMIT_EXCEEDED: _SEE_OUTPUT,
    Reason.FAILURE_POLICY: _SEE_OUTPUT,
    Reason.MAX_RENTS_EXCEEDED: "status.attempts says whose fault each one was; create the job again"
    " with other needs, or later",
    Reason.SPEC_INVALID: "create the job again with a corrected spec",
}
"""What a user can do after such an end, where the message does not say it already; `{job}` is the
job's metadata."""


def over(
    seen: JobObservation, status: GpuJobStatus, reason: Reason, message: str, spent_microusd: int
) -> JobPlan:
    """Stores that the job is over, why, what it has cost, and what can be done about it."""
    step = "; " + _NEXT_STEPS[reason] if reason in _NEXT_STEPS else ""
    cost = f"{short_usd(spent_microusd)} of ${seen.job.spec.cost.ceiling}"
    tail = f"; the job cost {cost}{step.format(job=seen.job.metadata)}"
    words = message[: 1024 - len(tail)] + tail
    final = status.cost.model_copy(update={"final_usd": format_usd(spent_microusd)})
    status = status.model_copy(
        update={
            "end": JobEndStatus(reason=reason, message=words),
            "completion_time": seen.world.now,
            "cost": final,
        }
    )
    # The finalizer is removed by the next pass, at once.
    return Plan(status=status, reason=reason, message=words, requeue_seconds=0)


def is_finished(status: GpuJobStatus) -> bool:
    """Whether the job is over for good: nothing is ever rented for it again."""
    return status.end is not None or status.completion_time is not None


def finished_as(status: GpuJobStatus) -> tuple[Reason, str] | None:
    """Returns how the job ended, with a message; None while it is not over."""
    if status.end is not None:
        return Reason(status.end.reason), status.end.message
    if status.completion_time is None:
        return None
    # A version that did not store the end wrote this status: only its conditions say how it was.
    verdicts = (c for c in status.conditions if c.type in ("Complete", "Failed"))
    told = next((c for c in verdicts if c.status == "True"), None)
    if told is None:
        return Reason.STATUS_CONTRADICTORY, "the job is over, but its status does not say how"
    said = next((c.message for c in status.conditions if c.type == "Ready"), "")
    return Reason(told.reason), told.message or said
