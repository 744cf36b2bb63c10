"""The most that an attempt can have cost, by the clock and the listings."""

from collections.abc import Iterable
from fractions import Fraction

from gpujob.core.money import micro_up, over_time, parse_usd
from gpujob.core.node.facts import gone_at
from gpujob.core.observation import NodeObservation


def accrued_microusd(seen: NodeObservation, *, unpaid_seconds: float = 0.0) -> int:
    """Returns the micro-USD of the time since the rent request, without the last `unpaid_seconds`,
    at the highest price seen, plus the listed traffic.

    Loading is charged like running, because the provider may do so: the figure is an upper bound.
    Traffic after the last listing is not in it.
    """
    status = seen.node.status
    if status.rent is None or not seen.stage.may_hold_machine:
        return 0
    rate = parse_usd(status.rent.gpu_usd_per_hour) + parse_usd(status.rent.disk_usd_per_hour)
    if status.lease is not None:
        rate = max(rate, parse_usd(status.lease.usd_per_hour))
    seconds = (seen.world.now - status.rent.requested_at).total_seconds() - unpaid_seconds
    time = over_time(rate, seconds)
    rows = [
        row
        for listing in seen.world.listings
        for row in listing.leases
        if status.lease is not None and row.instance_id == status.lease.instance_id
    ]
    data = seen.job.spec.data if seen.job is not None else None
    down = _most((row.download_gb for row in rows), data.max_download_gb if data else 0)
    up = _most((row.upload_gb for row in rows), data.max_upload_gb if data else 0)
    traffic = down * Fraction(status.rent.download_usd_per_gb) + up * Fraction(
        status.rent.upload_usd_per_gb
    )
    return time + micro_up(traffic)


def _most(counted: Iterable[Fraction | None], cap: int) -> Fraction:
    """Returns the highest count of GB; one that cannot be read may be as high as the job's cap."""
    return max((Fraction(cap) if one is None else one for one in counted), default=Fraction(0))


def charge_microusd(seen: NodeObservation) -> int:
    """Returns the most that a machine that is proved gone can have cost.

    A status without a rent request holds no price, so the reservation is charged in full.

    The list lag can hide only a new machine. One that had been listed was gone by the second
    listing after the destroy that did not show it, if no later one did. The proof takes longer, and
    that time is not charged.
    """
    if seen.node.status.rent is None:
        return parse_usd(seen.node.spec.reserved_usd)
    return accrued_microusd(seen, unpaid_seconds=unpaid_seconds(seen))


def unpaid_seconds(seen: NodeObservation) -> float:
    """Returns how long the machine had already been gone when its absence was proved."""
    was_listed, sent = seen.node.status.machine is not None, seen.memory.destroy_sent_at
    gone = gone_at(seen, after=sent) if was_listed and sent is not None else None
    return seen.world.monotonic - gone if gone is not None else 0.0
