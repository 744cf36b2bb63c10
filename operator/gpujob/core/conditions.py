"""Turns a plan into the conditions that users, `kubectl wait` and GitOps tools read.

Conditions are derived from facts, and no decision rests on them. `phase` is a summary for people.
All conditions exist from the first pass, so that a reader need not tell an absent one from False.
What is to be said is said once, in `Ready`; other conditions have a message only for what it does
not say.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from gpujob.api.gpujob import GpuJob, GpuJobStatus
from gpujob.api.gpunode import GpuNode, GpuNodeStatus
from gpujob.api.meta import Condition
from gpujob.api.reasons import Reason
from gpujob.core.effects import Plan
from gpujob.core.job.end import finished_as
from gpujob.core.job.strays import owed_for
from gpujob.core.node.stage import stage_of
from gpujob.core.observation import Unavailable

_PHASES = (
    Reason.RUNNING,
    Reason.PAUSED,
    Reason.STOPPING,
    Reason.DELIVERING,
    Reason.RELEASING,
)
"""Reasons that people know as phases of a job, too."""

_OVER = (Reason.RELEASING, Reason.RELEASED)

_TOLD = frozenset(reason.value for reason in Reason if reason.kind.is_told)

ConditionValue = tuple[str, Reason, str]
"""Status, reason, message of a condition."""


def job_status(
    job: GpuJob, plan: Plan[GpuJobStatus], now: datetime, not_ready: Unavailable | None = None
) -> GpuJobStatus:
    """Returns the plan's status with its conditions, phase and observed generation.

    `not_ready` is why the operator cannot rent.
    """
    status, reason, message = plan.status, plan.reason, plan.message
    over = finished_as(status)
    if over is not None:
        # Later passes still act, for example to remove the finalizer. How the job ended stays.
        reason, message = over
    leased = status.node_uid is not None
    admitted = _admitted(status, reason, message)
    held = next((one for one in status.conditions if one.type == "Admitted"), None)
    if plan.refused and held is not None and over is None:
        # The gate has said nothing else since.
        admitted = held.status, Reason(held.reason), held.message
    refused = f"{plan.refused}; it is tried again" if plan.refused else ""
    if refused and over is None and not leased:
        reason, message = Reason.CLUSTER_REFUSED, refused
    complete = over is not None and reason is Reason.COMPLETE
    failed = over is not None and reason is not Reason.COMPLETE
    suspended = over is None and not leased and reason is Reason.SUSPENDED
    running = over is None and reason is Reason.RUNNING
    is_paid = status.usd_per_hour is not None
    wanted: dict[str, ConditionValue] = {
        "Ready": (_flag(complete), *_said_of(reason, message, not_ready, leased=is_paid)),
        "Reconciling": (
            # An attempt that is under way goes on without what is refused to its job.
            ("True", Reason.CLUSTER_REFUSED, refused)
            if refused and leased
            else (_flag(over is None and not suspended), reason, "")
        ),
        "Stalled": (_flag(failed), reason, ""),
        "Admitted": admitted,
        "Running": (_flag(running), reason, ""),
        "Suspended": (_flag(suspended), reason, ""),
        "Complete": (_flag(complete), reason, ""),
        "Failed": (_flag(failed), reason, ""),
        "Released": (
            # Nobody waits for a job that is over, but for its object.
            ("True", Reason.CLUSTER_REFUSED, refused)
            if refused and over is not None and not owed_for(status)
            else _released(status, reason)
        ),
    }
    phase = _job_phase(job, status, reason, failed=failed, suspended=suspended)
    return status.model_copy(
        update={
            "conditions": merged(status.conditions, wanted, job.metadata.generation, now),
            "phase": phase,
            "observed_generation": job.metadata.generation,
        }
    )


def _released(status: GpuJobStatus, reason: Reason) -> ConditionValue:
    if status.node_uid is not None:
        return "False", reason, "a machine is leased or about to be rented"
    if words := owed_for(status):
        return "False", Reason.RELEASING, f"{words}: it is being destroyed"
    return "True", Reason.RELEASED if status.attempt else Reason.NOTHING_LEASED, ""


def _admitted(status: GpuJobStatus, reason: Reason, message: str) -> ConditionValue:
    if reason.kind.is_refusal:
        return "False", reason, ""
    if reason is Reason.ADMITTED:
        return "True", reason, message
    if status.node_uid is not None or (status.completion_time and status.attempt):
        held = next((c for c in status.conditions if c.type == "Admitted"), None)
        return "True", Reason.ADMITTED, held.message if held else ""
    return "Unknown", reason, ""


def _said_of(
    reason: Reason, message: str, not_ready: Unavailable | None, *, leased: bool
) -> tuple[Reason, str]:
    """Returns what is told first of an object: of a leased machine, that nobody can stop it now."""
    if not leased or not_ready is None or not_ready.reason is not Reason.CREDENTIALS_REJECTED:
        return reason, message
    words = "until that is repaired, the operator sees no machine and destroys none"
    return not_ready.reason, f"{not_ready.message}; {words}; the last that was known: {message}"


def _job_phase(
    job: GpuJob, status: GpuJobStatus, reason: Reason, *, failed: bool, suspended: bool
) -> str:
    if job.metadata.is_being_deleted:
        return "Deleting"
    if status.completion_time is not None:
        return "Failed" if failed else "Complete"
    if suspended:
        return "Suspended"
    if reason in _PHASES:
        return reason.value
    return "Starting" if status.node_uid is not None else "Waiting"


def node_status(
    node: GpuNode, plan: Plan[GpuNodeStatus], now: datetime, not_ready: Unavailable | None = None
) -> GpuNodeStatus:
    """Returns the plan's status with its conditions, phase, price and observed generation.

    `not_ready` is why the operator cannot rent.
    """
    status, reason, message = plan.status, plan.reason, plan.message
    if plan.refused:
        reason, message = Reason.CLUSTER_REFUSED, f"{plan.refused}; it is tried again"
    released = status.released_at is not None
    running = status.run is not None and status.end is None
    leased = status.lease is not None and not released
    # The phase says that it is over, so this says why.
    why = Reason(status.end.reason) if status.end and reason in _OVER else reason
    wanted: dict[str, ConditionValue] = {
        "Ready": (_flag(running), *_said_of(why, message, not_ready, leased=leased)),
        "Reconciling": (_flag(not released and not running), reason, ""),
        "DriverReady": (
            _flag(status.driver is not None and status.driver.ready_at is not None),
            reason,
            "",
        ),
        "Rented": (_flag(leased), reason, ""),
        "Booted": (_flag(status.machine is not None), reason, ""),
        "Ended": (("True", Reason(status.end.reason), "") if status.end else ("False", reason, "")),
        "Released": (_flag(released), Reason.RELEASED if released else reason, ""),
    }
    return status.model_copy(
        update={
            "conditions": merged(status.conditions, wanted, node.metadata.generation, now),
            "phase": stage_of(status).phase,
            "usd_per_hour": status.lease.usd_per_hour if status.lease and leased else None,
            "observed_generation": node.metadata.generation,
        }
    )


def tells_of_refusal(conditions: tuple[Condition, ...]) -> bool:
    """Whether people can read there that the cluster refuses something."""
    return any(one.reason == Reason.CLUSTER_REFUSED for one in conditions)


def only_words_differ(stored: Mapping[str, Any], planned: Mapping[str, Any]) -> bool:
    """Whether two statuses, as they are stored, say the same of all but reasons and messages.

    A reason that people are told by an event is a fact.
    """
    return _without_words(stored) == _without_words(planned)


def only_figures_differ(stored: Mapping[str, Any], planned: Mapping[str, Any]) -> bool:
    """Whether two statuses of a node, as they are stored, differ at most in words and in figures
    that only people read: what was spent so far, progress and usage.
    """
    return only_words_differ(_without_figures(stored), _without_figures(planned))


def _without_figures(status: Mapping[str, Any]) -> dict[str, Any]:
    rest = {key: value for key, value in status.items() if key not in ("accruedUSD", "asOf")}
    for part, figures in (("run", ("progress", "usage")), ("traffic", ("asOf",))):
        if isinstance(told := rest.get(part), Mapping):
            rest[part] = {key: value for key, value in told.items() if key not in figures}
    return rest


def _without_words(status: Mapping[str, Any]) -> dict[str, Any]:
    flags = [
        (
            one["type"],
            one["status"],
            one.get("observedGeneration"),
            one["reason"] if one["type"] == "Ready" and one["reason"] in _TOLD else "",
        )
        for one in status.get("conditions") or ()
    ]
    return {**status, "conditions": flags}


def _flag(holds: bool) -> str:
    return "True" if holds else "False"


def _said(condition: Condition) -> tuple[object, ...]:
    return condition.status, condition.reason, condition.message, condition.observed_generation


def merged(
    stored: tuple[Condition, ...], wanted: dict[str, ConditionValue], generation: int, now: datetime
) -> tuple[Condition, ...]:
    """Merges the wanted conditions; the time of transition changes only with the status."""
    before = {condition.type: condition for condition in stored}
    found = []
    for kind, (flag, reason, message) in wanted.items():
        old = before.get(kind)
        kept = old is not None and old.status == flag
        # A condition that stays False keeps the reason for which it became False, except for Ready
        # and Admitted. Otherwise each step would rewrite all conditions.
        quiet = kept and flag == "False" and kind not in ("Ready", "Admitted")
        said = (old.reason, old.message) if quiet and old else (reason.value, message[:4096])
        if old and _said(old) == (flag, *said, generation):
            found.append(old)
            continue
        found.append(
            Condition(
                type=kind,
                status=flag,
                reason=said[0],
                message=said[1],
                observed_generation=generation,
                last_transition_time=old.last_transition_time if kept and old else now,
            )
        )
    return tuple(found)
