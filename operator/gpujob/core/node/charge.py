"""The most that an attempt can have cost, by the clock and the listings."""

from datetime import datetime, timedelta
from fractions import Fraction

from gpujob.api.gpunode import DuplicateStatus, GpuNode, RentMarker, TrafficStatus
from gpujob.core.money import micro_up, over_time, parse_usd
from gpujob.core.node.duplicates import duplicates_shown
from gpujob.core.node.facts import gone_at
from gpujob.core.node.pauses import pauses_shown, running_rate
from gpujob.core.node.traffic import traffic_shown
from gpujob.core.observation import NodeObservation


def accrued_microusd(seen: NodeObservation, *, unpaid_seconds: float = 0.0) -> int:
    """Returns the micro-USD of the time since the rent request, without the last `unpaid_seconds`,
    at the highest price seen, plus the listed traffic.

    Loading is charged like running, because the provider may do so: the figure is an upper bound. A
    pause is charged at its own price, and other machines under the node's mark are charged as well.
    What no listing has shown of the traffic is not in it.
    """
    status = seen.node.status
    if status.rent is None or not seen.stage.may_hold_machine:
        return 0
    seconds = (seen.world.now - status.rent.requested_at).total_seconds() - unpaid_seconds
    cost = micro_up(_counted_usd(status.rent, traffic_shown(seen)))
    if (pauses := pauses_shown(seen)) is not None:
        seconds -= pauses.seconds
        cost += parse_usd(pauses.cost_usd)
    cost += over_time(running_rate(status), seconds)
    return cost + sum(
        _duplicate_microusd(seen, status.rent, other) for other in duplicates_shown(seen)
    )


def _duplicate_microusd(seen: NodeObservation, rent: RentMarker, other: DuplicateStatus) -> int:
    """Returns what another machine under the node's mark has cost: it cannot be older than that."""
    seconds = ((other.gone_at or seen.world.now) - rent.requested_at).total_seconds()
    time = over_time(parse_usd(other.usd_per_hour), seconds)
    return time + micro_up(_counted_usd(rent, other.traffic))


def _counted_usd(rent: RentMarker, moved: TrafficStatus | None) -> Fraction:
    if moved is None:
        return Fraction(0)
    down = moved.download_mb * Fraction(rent.download_usd_per_gb)
    return (down + moved.upload_mb * Fraction(rent.upload_usd_per_gb)) / 1000


def _unseen_microusd(rent: RentMarker, moved: TrafficStatus | None, gone: datetime) -> int:
    """Returns the most that a machine can have moved after a listing last showed its counters.

    That is what its line carries, but with what was counted no more than is reserved: the caps of
    the job hold on the machine as well, and the gate reckoned with the time to see that they do.
    """
    left = Fraction(rent.traffic_reserve_usd) - _counted_usd(rent, moved)
    if rent.download_mbps is None or rent.upload_mbps is None:
        return micro_up(max(left, Fraction(0)))
    seconds = (gone - (moved.as_of if moved else rent.requested_at)).total_seconds()
    per_second = rent.download_mbps * Fraction(rent.download_usd_per_gb)
    per_second += rent.upload_mbps * Fraction(rent.upload_usd_per_gb)
    carried = Fraction(max(seconds, 0.0)) * per_second / 8000
    return micro_up(max(min(carried, left), Fraction(0)))


def most_reserved_usd(node: GpuNode) -> str:
    """Returns the most that was ever reserved for an attempt, also if nothing is by now."""
    return max(node.reserved_usd, node.spec.reserved_usd, key=parse_usd)


def charge_microusd(seen: NodeObservation) -> int:
    """Returns the most that a machine that is proved gone can have cost.

    A status without a rent request holds no price, so the reservation is charged in full.

    The list lag can hide only a new machine. One that had been listed was gone by the second
    listing after the destroy that did not show it, if no later one did. The proof takes longer, and
    that time is not charged.
    """
    rent = seen.node.status.rent
    if rent is None:
        return parse_usd(most_reserved_usd(seen.node))
    unpaid = unpaid_seconds(seen)
    gone = seen.world.now - timedelta(seconds=unpaid)
    unseen = _unseen_microusd(rent, traffic_shown(seen), gone) + sum(
        _unseen_microusd(rent, other.traffic, other.gone_at or gone)
        for other in duplicates_shown(seen)
    )
    return accrued_microusd(seen, unpaid_seconds=unpaid) + unseen


def unpaid_seconds(seen: NodeObservation) -> float:
    """Returns how long the machine had already been gone when its absence was proved."""
    was_listed, sent = seen.node.status.machine is not None, seen.memory.destroy_sent_at
    gone = gone_at(seen, after=sent) if was_listed and sent is not None else None
    return seen.world.monotonic - gone if gone is not None else 0.0
