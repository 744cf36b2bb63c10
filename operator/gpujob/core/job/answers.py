"""The form that most plans for a job take: say what the job waits for, and look again."""

from gpujob.api.gpujob import GpuJobStatus
from gpujob.api.reasons import Reason
from gpujob.core import effects
from gpujob.core.effects import Plan
from gpujob.core.observation import JobObservation

JobPlan = Plan[GpuJobStatus]


def stay(
    seen: JobObservation,
    reason: Reason,
    message: str,
    seconds: float | None,
    todo: tuple[effects.Effect, ...] = (),
) -> JobPlan:
    """Leaves the status as it is, says why, and looks again after `seconds`, if given."""
    return Plan(
        status=seen.job.status,
        reason=reason,
        message=message,
        effects=todo,
        requeue_seconds=seconds,
    )
