"""What a pause costs: the price of a machine that does not run, as listings show it.

An interruptible machine that was taken away keeps its disk, and only that is paid for
(vastsim/FACTS.md, Billing). A pause is priced so from the second listing in a row that shows it to
the last, and rounded against ourselves: what no listing showed is charged as if it had run.
"""

from bisect import bisect_left
from datetime import datetime

from gpujob.api.gpunode import GpuNodeStatus, PauseStatus
from gpujob.core.market.history import Moment, Sighting
from gpujob.core.money import format_usd, micro_up, over_time, parse_usd
from gpujob.core.observation import NodeObservation

SEEN_TWICE = 2


def running_rate(status: GpuNodeStatus) -> int:
    """Returns the micro-USD that an hour of the machine costs: the highest that was seen."""
    assert status.rent is not None, "nothing has a price before the rent request"
    quoted = parse_usd(status.rent.gpu_usd_per_hour) + parse_usd(status.rent.disk_usd_per_hour)
    return max(quoted, parse_usd(status.lease.usd_per_hour)) if status.lease else quoted


def pauses_shown(seen: NodeObservation) -> PauseStatus | None:
    """Returns what is stored of the pauses, with what later listings show; None = nothing."""
    status = seen.node.status
    told, rent, lease = status.pauses, status.rent, status.lease
    if rent is None or rent.bid_usd_per_hour is None or lease is None:
        return told
    world, runs = seen.world, seen.world.listings.sightings_of(lease.instance_id, seen.mark)
    if told is None and not any(run.is_paused for run in runs):
        return None
    for moment in _later(seen, told):
        asked, answered = world.at(moment.requested_at), world.at(moment.answered_at)
        if told is not None and (asked - told.as_of).total_seconds() < 1:
            continue
        run = next((run for run in runs if run.shows(moment)), None)
        if run is None or not run.is_paused:
            told = told and told.model_copy(update={"listed": 0, "as_of": answered})
            continue
        told = told or PauseStatus(as_of=answered)
        if (asked - told.as_of).total_seconds() > 2 * world.limits.listing_seconds(moment.machines):
            # It may have run unseen.
            told = told.model_copy(update={"listed": 0})
        elif told.listed >= SEEN_TWICE:
            told = _longer(told, run, (asked - told.as_of).total_seconds(), running_rate(status))
        listed = min(told.listed + 1, SEEN_TWICE)
        told = told.model_copy(update={"listed": listed, "as_of": answered})
    return told


def _later(seen: NodeObservation, told: PauseStatus | None) -> tuple[Moment, ...]:
    """Returns the listings that were asked for after what is stored was seen."""
    world, moments = seen.world, seen.world.listings.moments
    if told is None:
        return moments
    begun = bisect_left(moments, told.as_of, key=lambda one: world.at(one.requested_at))
    return moments[begun:]


def _longer(told: PauseStatus, run: Sighting, seconds: float, rate: int) -> PauseStatus:
    """Returns the pauses with a time between two listings, if its price is known."""
    stopped = None if run.stopped_usd_per_hour is None else micro_up(run.stopped_usd_per_hour)
    if stopped is None or stopped >= rate:
        return told
    whole = int(seconds)
    cost = parse_usd(told.cost_usd) + over_time(stopped, whole)
    return told.model_copy(update={"seconds": told.seconds + whole, "cost_usd": format_usd(cost)})


def priced_seconds(status: GpuNodeStatus, pauses: PauseStatus | None, now: datetime) -> float:
    """Returns the time since the rent request, at the price of a machine that runs.

    A pause counts by what it costs, and so do other machines under the same mark.
    """
    rent = status.rent
    assert rent is not None, "asked with its rate"
    return (now - rent.requested_at).total_seconds() - spared_seconds(status, pauses, now)


def spared_seconds(status: GpuNodeStatus, pauses: PauseStatus | None, now: datetime) -> float:
    """Returns by how much the pauses, by what they cost, are shorter than by the clock; negative =
    other machines under the mark have cost more than that.
    """
    rent, rate = status.rent, running_rate(status)
    assert rent is not None, "asked with its rate"
    besides = sum(
        over_time(
            parse_usd(other.usd_per_hour),
            ((other.gone_at or now) - rent.requested_at).total_seconds(),
        )
        for other in status.duplicates
    )
    paused = 0
    if pauses is not None:
        paused = pauses.seconds
        besides += parse_usd(pauses.cost_usd)
    return paused - (besides * 3600 / rate if rate else 0.0)
