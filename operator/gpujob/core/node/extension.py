"""A later deadline while a machine is leased: its ceiling was raised, or a pause is over.

A pause costs less than it lasts, so that it moves the deadline of the fuse, and not that of the
machine's own watchdog, which counts it in full. The host's contract is asked first. Then the
reservation is stored here, in the budgets and in the job, then the watchdog is told its new
deadline, and only when it has acknowledged that do the fuse and the deadline hold. Whatever fails
on the way, what held before does.
"""

from dataclasses import replace
from datetime import timedelta
from fractions import Fraction

from gpujob.api.gpujob import GpuJob
from gpujob.api.gpunode import ContractLimit, ExtensionStatus, RentMarker
from gpujob.api.reasons import Reason
from gpujob.core.budget.cover import (
    Book,
    Rejected,
    Reserved,
    claim_of,
    grow_in_all,
    may_say_more,
)
from gpujob.core.cost.gate import money_deadline_seconds
from gpujob.core.machine.assignment import deadline_to_tell, watchdog_deadline
from gpujob.core.money import floor_usd, format_usd, parse_usd, short_usd
from gpujob.core.node.answers import NodePlan, progress
from gpujob.core.node.pauses import pauses_shown, spared_seconds
from gpujob.core.node.stage import Stage
from gpujob.core.observation import NodeObservation

_LOOKING = "the ceiling was raised; looking whether the GpuBudgets can hold more"

_REACHED = (Stage.STARTING, Stage.RUNNING)
"""Only then can a driver tell the machine anything, and is it worth to go on."""


def extend_fuse(seen: NodeObservation) -> NodePlan | None:
    """Lets a later deadline hold once the watchdog holds to it, or begins to."""
    return _let_hold(seen) or _raise_fuse(seen) or _move_watchdog(seen)


def raise_refusal(seen: NodeObservation) -> str:
    """Returns why a raised ceiling does not hold yet, to follow what is said of the node; empty if
    it was not raised, or the budgets have not been asked.
    """
    job, left = seen.job, _raised(seen)
    if left is None or job is None or seen.budgets is None:
        return ""
    answer = _held_by(seen.budgets, seen, job, left)
    if not isinstance(answer, Rejected):
        return ""
    words = f"; but the raised ceiling of ${job.spec.cost.ceiling} does not hold yet: "
    return f"{words}{answer.message}"[:1024]


def _raised(seen: NodeObservation) -> int | None:
    """Returns the micro-USD that the ceiling leaves to a machine at work, if more than reserved."""
    if seen.stage not in _REACHED or seen.job is None or seen.node.status.rent is None:
        return None
    left = floor_usd(seen.job.spec.cost.ceiling) - parse_usd(seen.job.status.cost.spent_usd)
    return left if left > parse_usd(seen.node.reserved_usd) else None


def _held_by(
    books: tuple[Book, ...], seen: NodeObservation, job: GpuJob, microusd: int
) -> Reserved | Rejected:
    claim = replace(claim_of(seen.node), microusd=microusd)
    return grow_in_all(books, job.metadata.labels, claim, seen.world.now)


def _raise_fuse(seen: NodeObservation) -> NodePlan | None:
    """Reserves what the ceiling leaves now, unless the contract ends before it could be used.

    That the contract allows less than the money does is told, once for each ceiling.
    """
    status, job, rent = seen.node.status, seen.job, seen.node.status.rent
    left = _raised(seen)
    if left is None or job is None or rent is None or status.lease is None:
        return None
    lag = seen.world.limits.destroy_lag_seconds(seen.world.leased.others)
    quoted = Fraction(rent.gpu_usd_per_hour) + Fraction(rent.disk_usd_per_hour)
    by_money = money_deadline_seconds(
        left,
        traffic_microusd=parse_usd(rent.traffic_reserve_usd),
        usd_per_hour=max(quoted, Fraction(status.lease.usd_per_hour)),
        destroy_lag_seconds=lag,
    )
    contract = rent.contract_seconds
    deadline = min(by_money, 0 if contract is None else int(contract - lag))
    if deadline < by_money:
        limit = _contract_limit(seen, rent, max(deadline, rent.money_deadline_seconds), job)
        if status.contract_limit is None or status.contract_limit.ceiling != limit.ceiling:
            told = status.model_copy(update={"contract_limit": limit})
            seen = replace(seen, node=seen.node.model_copy(update={"status": told}))
            if deadline <= rent.money_deadline_seconds:
                return progress(told, _shown(seen), limit.message)
    if deadline <= rent.money_deadline_seconds or contract is None:
        return None
    asked = ExtensionStatus(
        fuse_usd=format_usd(left),
        money_deadline_seconds=deadline,
        watchdog_seconds=_watchdog_seconds(seen, deadline, contract),
        max_leases=seen.world.limits.max_leases,
    )
    if seen.budgets is None:
        looking = progress(status, _shown(seen), _LOOKING)
        return replace(looking, requeue_seconds=1.0, wants_budgets=True)
    answer = _held_by(seen.budgets, seen, job, left)
    if isinstance(answer, Rejected) or not may_say_more(seen.budgets, seen.node):
        # What is reserved holds, and so does its fuse.
        return None
    words = f"the ceiling was raised; telling the machine that it may cost {short_usd(left)}"
    return _ask(seen, asked, words)


def _contract_limit(
    seen: NodeObservation, rent: RentMarker, deadline: int, job: GpuJob
) -> ContractLimit:
    """Says when the contract ends, and until when the machine runs: no later, by its deadline."""
    contract = rent.contract_seconds
    until = deadline + max(spared_seconds(seen.node.status, pauses_shown(seen), seen.world.now), 0)
    ends = "when the contract of its host ends is not known"
    if contract is not None:
        ends = f"the contract of its host ends at {_moment(rent, contract)}"
        until = min(until, contract)
    ceiling = job.spec.cost.ceiling
    return ContractLimit(
        ceiling=ceiling,
        message=f"the ceiling of ${ceiling} pays for more time than this machine has: {ends}, so "
        f"that it runs until {_moment(rent, until)} at the latest; if the job needs longer, set "
        "spec.suspend to true and then to false: it goes on on another machine, from its last "
        "checkpoint if it has one",
    )


def _moment(rent: RentMarker, seconds: float) -> str:
    return f"{rent.requested_at + timedelta(seconds=int(seconds)):%Y-%m-%dT%H:%M:%SZ}"


def _move_watchdog(seen: NodeObservation) -> NodePlan | None:
    """Asks the watchdog, after a pause, for the deadline that the same fuse leaves now."""
    rent, pending = seen.node.status.rent, seen.node.status.extension
    if seen.stage not in _REACHED or rent is None or seen.job is None:
        return None
    if rent.contract_seconds is None or rent.max_leases is None:
        return None
    same = pending or ExtensionStatus(
        fuse_usd=rent.fuse_usd,
        money_deadline_seconds=rent.money_deadline_seconds,
        max_leases=rent.max_leases,
    )
    held = watchdog_deadline(pending or rent)
    later = _watchdog_seconds(seen, same.money_deadline_seconds, rent.contract_seconds)
    if later <= held:
        return None
    asked = same.model_copy(update={"watchdog_seconds": later})
    words = f"the pause is over; telling the machine's watchdog that it has {later - held} s more"
    return _ask(seen, asked, words)


def _watchdog_seconds(seen: NodeObservation, deadline: int, contract_seconds: int) -> int:
    """Returns when the watchdog must act so that a deadline holds whose pauses count by price."""
    lag = seen.world.limits.destroy_lag_seconds(seen.world.leased.others)
    spared = spared_seconds(seen.node.status, pauses_shown(seen), seen.world.now)
    return min(int(deadline + spared), int(contract_seconds - lag))


def _ask(seen: NodeObservation, asked: ExtensionStatus, words: str) -> NodePlan:
    # What the pauses have cost is stored with the deadline that rests on it.
    update: dict[str, object] = {"extension": asked, "pauses": pauses_shown(seen)}
    if parse_usd(asked.fuse_usd) > parse_usd(seen.node.reserved_usd):
        update["reserved_usd"] = asked.fuse_usd
    return progress(seen.node.status.model_copy(update=update), _shown(seen), words)


def _let_hold(seen: NodeObservation) -> NodePlan | None:
    status, job, report = seen.node.status, seen.job, seen.report
    rent, asked = status.rent, status.extension
    if rent is None or asked is None or seen.stage not in _REACHED or job is None or report is None:
        return None
    told = deadline_to_tell(seen.node, job)
    if told is None or report.money_deadline_seconds != told:
        return None
    raised = rent.model_copy(update=dict(asked))
    status = status.model_copy(update={"rent": raised, "extension": None})
    words = f"the attempt may cost {short_usd(parse_usd(asked.fuse_usd))} now"
    if asked.fuse_usd == rent.fuse_usd:
        words = "the machine's watchdog has the time that the pause spares"
    return progress(status, _shown(seen), words)


def _shown(seen: NodeObservation) -> Reason:
    return Reason.RUNNING if seen.stage is Stage.RUNNING else Reason.CONNECTING
