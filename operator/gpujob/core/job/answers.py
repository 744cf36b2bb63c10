"""The forms that the plan for a job takes: stay, go on, be over."""

from gpujob.api.gpujob import GpuJobStatus
from gpujob.api.reasons import Reason
from gpujob.core import effects
from gpujob.core.effects import Plan
from gpujob.core.money import format_usd, short_usd
from gpujob.core.observation import JobObservation

JobPlan = Plan[GpuJobStatus]


def stay(
    seen: JobObservation,
    reason: Reason,
    message: str,
    seconds: float | None,
    todo: tuple[effects.Effect, ...] = (),
) -> JobPlan:
    return Plan(
        status=seen.job.status,
        reason=reason,
        message=message,
        effects=todo,
        requeue_seconds=seconds,
    )


def over(
    seen: JobObservation, status: GpuJobStatus, reason: Reason, message: str, spent: int
) -> JobPlan:
    final = status.cost.model_copy(update={"final_usd": format_usd(spent)})
    status = status.model_copy(update={"completion_time": seen.world.now, "cost": final})
    words = f"{message}; cost {short_usd(spent)} of ${seen.job.spec.cost.ceiling}"
    return Plan(status=status, reason=reason, message=words[:1024])
