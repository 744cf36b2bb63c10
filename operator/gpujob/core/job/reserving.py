"""What the budgets of its namespace let a job do: nothing is begun that they cannot hold, and an
attempt is recorded, or more for it, only once they hold it.

So what a job has recorded as the most that its attempt may cost is what its budgets hold; by that,
too, the machine's watchdog is told a later deadline (`core/machine/assignment.py`).
"""

from dataclasses import dataclass

from gpujob.api.gpunode import GpuNode
from gpujob.api.reasons import Reason
from gpujob.core import effects
from gpujob.core.budget.cover import (
    Rejected,
    Reserved,
    claim_of,
    grow_in_all,
    reserve_in_all,
    seconds_to_look,
)
from gpujob.core.budget.ledger import Claim
from gpujob.core.job.answers import JobPlan, stay
from gpujob.core.money import parse_usd
from gpujob.core.observation import JobObservation, told_last

UNREAD = "the GpuBudgets have not been read yet"


def refuse_unaffordable(seen: JobObservation, reserved_microusd: int) -> JobPlan | None:
    """Refuses an attempt that the budgets cannot hold, before the market is asked for one.

    They are as they were last seen: whether they hold it is asked again before anything is rented.
    """
    job, world = seen.job, seen.world
    if (books := world.budgets.for_another(job.metadata.namespace, world.now)) is None:
        reason, words = told_last(job.status.conditions) or (Reason.AWAITING_OFFERS, UNREAD)
        return stay(seen, reason, words, 1.0)
    claim = Claim(
        node_uid="",
        node_name="",
        job_uid=job.metadata.uid,
        attempt=job.status.attempt + 1,
        microusd=reserved_microusd,
    )
    answer = reserve_in_all(
        books, job.metadata.labels, claim, world.now, is_required=world.requires_budget
    )
    return _refused(seen, answer) if isinstance(answer, Rejected) else None


def await_reservation(seen: JobObservation, node: GpuNode) -> JobPlan | None:
    """Waits until the budgets hold a new node; None = they do, or it says that it may cost nothing,
    and rents nothing before it has reserved again.
    """
    job, world = seen.job, seen.world
    if not parse_usd(node.reserved_usd):
        return None
    if (books := world.budgets.of(job.metadata.namespace)) is None:
        return stay(seen, Reason.AWAITING_NODE, UNREAD, 1.0)
    answer = reserve_in_all(
        books, job.metadata.labels, claim_of(node), world.now, is_required=world.requires_budget
    )
    if isinstance(answer, Rejected):
        return _refused(seen, answer)
    if not answer.ledgers:
        return None
    words = f"reserving ${node.reserved_usd} for it in {', '.join(answer.ledgers)}"
    return stay(seen, Reason.AWAITING_NODE, words[:1024], 0, (_follow(node),))


@dataclass(frozen=True)
class Growth:
    """What becomes of an attempt of which more is said than its job has recorded."""

    recorded_usd: str | None
    """What the job records of it now."""
    todo: tuple[effects.Effect, ...] = ()
    wants_budgets: bool = False
    requeue_seconds: float | None = None


def grown(seen: JobObservation, node: GpuNode) -> Growth:
    """Returns what is to be recorded as the most that an attempt under way may cost: less at once,
    and more only once the budgets hold it.
    """
    world, labels, held = seen.world, seen.job.metadata.labels, seen.job.status.node_reserved_usd
    if parse_usd(node.reserved_usd) <= parse_usd(held or "0"):
        return Growth(node.reserved_usd)
    if node.status.end is not None:
        return Growth(held)
    if seen.budgets is None:
        return Growth(held, wants_budgets=True)
    claim = claim_of(node)
    answer = (
        grow_in_all(seen.budgets, labels, claim, world.now)
        if node.status.rent is not None
        else reserve_in_all(
            seen.budgets, labels, claim, world.now, is_required=world.requires_budget
        )
    )
    if answer == Reserved({}):
        return Growth(node.reserved_usd)
    if isinstance(answer, Rejected):
        return Growth(held, requeue_seconds=seconds_to_look(answer, world.now, world.limits))
    return Growth(held, (_follow(node),), requeue_seconds=0)


def _follow(node: GpuNode) -> effects.FollowInBudgets:
    return effects.FollowInBudgets(node.metadata.name, node.metadata.uid)


def _refused(seen: JobObservation, answer: Rejected) -> JobPlan:
    again = seconds_to_look(answer, seen.world.now, seen.world.limits)
    return stay(seen, answer.reason, answer.message[:1024], again)
