"""The forms that the plan for a node takes: wait, go on, end the attempt."""

from datetime import timedelta
from math import ceil

from gpujob.api.gpunode import EndStatus, GpuNode, GpuNodeStatus, RunStatus, StopStatus
from gpujob.api.reasons import Reason
from gpujob.core import effects
from gpujob.core.effects import Plan
from gpujob.core.node.blame import blame, evidence_of
from gpujob.core.node.facts import machine_silence, next_look
from gpujob.core.node.punctuality import due_at
from gpujob.core.node.upkeep import up_to_date
from gpujob.core.observation import NodeObservation

NodePlan = Plan[GpuNodeStatus]
"""What to store and do now for a GpuNode."""


def wait(
    seen: NodeObservation,
    reason: Reason,
    message: str,
    seconds: float,
    todo: tuple[effects.Effect, ...] = (),
) -> NodePlan:
    """Says what the node waits for; looks again after `seconds`, or when a deadline comes first."""
    return Plan(
        status=up_to_date(seen),
        reason=reason,
        message=message,
        effects=todo,
        requeue_seconds=min(seconds, next_look(seen)),
    )


def progress(status: GpuNodeStatus, reason: Reason, message: str) -> NodePlan:
    """Stores what is new; the next pass follows at once."""
    return Plan(status=status, reason=reason, message=message, requeue_seconds=0)


def stop(seen: NodeObservation, reason: Reason, message: str) -> NodePlan:
    """Stores that the workload must stop and save its data; without a workload ends the attempt."""
    status = seen.node.status
    if not seen.stage.may_run:
        return end(seen, reason, message)
    told = StopStatus(at=seen.world.now, reason=reason, message=message[:1024])
    return progress(status.model_copy(update={"stop": told}), Reason.STOPPING, message)


def end(
    seen: NodeObservation,
    reason: Reason,
    message: str,
    *,
    exit_code: int | None = None,
    run_seconds: float | None = None,
) -> NodePlan:
    """Stores that the attempt is over; the next pass, at once, gives the machine back.

    `run_seconds` = how long the workload ran, if that is known better than by our clock.
    """
    status, now = seen.node.status, seen.world.now
    told = EndStatus(
        at=now,
        reason=reason,
        message=message[:1024],
        exit_code=exit_code,
        blames=blame(reason, evidence_of(seen)),
        due_at=due_at(seen),
    )
    update: dict[str, object] = {"end": told}
    if status.run is not None:
        heard = (now - status.run.started_at).total_seconds() - machine_silence(seen)
        ran = heard if run_seconds is None else run_seconds
        update["run"] = status.run.model_copy(update={"seconds": ceil(max(ran, 0.0))})
    elif run_seconds is not None:
        started = now - timedelta(seconds=run_seconds)
        update["run"] = RunStatus(started_at=started, seconds=ceil(run_seconds))
    return progress(status.model_copy(update=update), reason, message)


def follow(node: GpuNode) -> effects.FollowInBudgets:
    """Returns the wish that the budgets hold what a node says, or settle it."""
    return effects.FollowInBudgets(node.metadata.name, node.metadata.uid)


def account_doubt(seen: NodeObservation) -> NodePlan | None:
    """Waits if another account rented the machine: only that account's listings can show it."""
    rent, account = seen.node.status.rent, seen.world.account_id
    if rent is None or account is None or account == rent.account_id:
        return None
    words = (
        f"account {rent.account_id} rented the machine, but the API key now belongs to account "
        f"{account}; put the key of account {rent.account_id} back"
    )
    return wait(seen, Reason.ACCOUNT_CHANGED, words, seen.world.limits.poll_seconds)


def because(detail: str) -> str:
    """Returns the tail of a message that gives a detail, if there is one."""
    return f": {detail}" if detail else ""
