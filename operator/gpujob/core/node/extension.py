"""A ceiling that is raised while a machine is leased: the attempt's fuse follows, step by step.

The host's contract is asked first. Then the reservation is stored here and in the job, then the
machine's watchdog is told its new deadline, and only when it has acknowledged that the fuse is
raised. Whatever fails on the way, the old fuse holds.
"""

from fractions import Fraction

from gpujob.api.gpunode import ExtensionStatus
from gpujob.api.reasons import Reason
from gpujob.core.cost.gate import money_deadline_seconds
from gpujob.core.machine.assignment import deadline_to_tell
from gpujob.core.money import floor_usd, format_usd, parse_usd, short_usd
from gpujob.core.node.answers import NodePlan, progress
from gpujob.core.node.stage import Stage
from gpujob.core.observation import NodeObservation

_REACHED = (Stage.STARTING, Stage.RUNNING)
"""Only then can a driver tell the machine anything, and is it worth to go on."""


def extend_fuse(seen: NodeObservation) -> NodePlan | None:
    """Raises the fuse once the watchdog holds to the new deadline, or begins to."""
    return _raise_fuse(seen) or _begin(seen)


def _begin(seen: NodeObservation) -> NodePlan | None:
    """Reserves what the ceiling leaves now, unless the contract ends before it could be used."""
    status, job, rent = seen.node.status, seen.job, seen.node.status.rent
    if seen.stage not in _REACHED or job is None or rent is None or status.lease is None:
        return None
    left = floor_usd(job.spec.cost.ceiling) - parse_usd(job.status.cost.spent_usd)
    if left <= parse_usd(seen.node.reserved_usd) or rent.contract_seconds is None:
        return None
    lag = seen.world.limits.destroy_lag_seconds(seen.world.leased.others)
    quoted = Fraction(rent.gpu_usd_per_hour) + Fraction(rent.disk_usd_per_hour)
    by_money = money_deadline_seconds(
        left,
        traffic_microusd=parse_usd(rent.traffic_reserve_usd),
        usd_per_hour=max(quoted, Fraction(status.lease.usd_per_hour)),
        destroy_lag_seconds=lag,
    )
    deadline = min(by_money, int(rent.contract_seconds - lag))
    if deadline <= rent.money_deadline_seconds:
        return None
    asked = ExtensionStatus(
        fuse_usd=format_usd(left),
        money_deadline_seconds=deadline,
        max_leases=seen.world.limits.max_leases,
    )
    status = status.model_copy(update={"reserved_usd": format_usd(left), "extension": asked})
    words = f"the ceiling was raised; telling the machine that it may cost {short_usd(left)}"
    return progress(status, Reason.RUNNING, words)


def _raise_fuse(seen: NodeObservation) -> NodePlan | None:
    status, job, report = seen.node.status, seen.job, seen.report
    rent, asked = status.rent, status.extension
    if rent is None or asked is None or seen.stage not in _REACHED or job is None or report is None:
        return None
    told = deadline_to_tell(seen.node, job)
    if told is None or report.money_deadline_seconds != told:
        return None
    raised = rent.model_copy(update=dict(asked))
    status = status.model_copy(update={"rent": raised, "extension": None})
    return progress(status, Reason.RUNNING, f"the attempt may cost ${asked.fuse_usd} now")
