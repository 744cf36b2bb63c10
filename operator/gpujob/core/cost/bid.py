"""What to bid for an interruptible machine, so that the finished job is expected to cost the least.

A higher bid costs more each hour, since a machine costs what is bid for it, and is outbid less
often. Each time the machine is lost, and with it the work since the last checkpoint; the next one
boots again, and loads the image and the files again. If no bid is expected to cost less than the
price on demand, that is what is paid: such a machine is not taken away.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from math import expm1, floor
from typing import NamedTuple

from gpujob.core.cost.estimate import Reckoning
from gpujob.core.limits import Limits
from gpujob.core.market.offers import Offer
from gpujob.core.market.outbids import PERCENTS, OutbidMemory

BID_STEPS = 10_000
"""Bids are in ten-thousandths of a dollar."""
EXPONENT_MAX = 50.0
"""A job that needs more luck than this is never finished."""


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What decides, beside the price, what an interruptible machine costs until the job is done."""

    run_hours: float
    """How long the workload is expected to run without an interruption."""
    lost_hours: float
    """The most that an interruption loses of it: the interval of checkpoints, or all of it."""
    boot_hours: float
    disk_usd_per_hour: float
    boot_traffic_usd: float
    patience_hours: float
    """How long a machine that is lost is waited for, and its disk paid for."""


def terms_of(
    offer: Offer,
    reckoning: Reckoning,
    limits: Limits,
    *,
    run_seconds: float,
    checkpoint: float | None,
) -> Terms:
    """Returns them for an offer; `checkpoint` is the seconds between two, None = there are none."""
    needs = reckoning.needs
    lost = run_seconds if checkpoint is None else min(checkpoint, run_seconds)
    return Terms(
        run_hours=run_seconds / 3600,
        lost_hours=lost / 3600,
        boot_hours=float(reckoning.boot_seconds(offer)) / 3600,
        disk_usd_per_hour=float(offer.disk_usd_per_hour(needs.disk_gb)),
        boot_traffic_usd=float(needs.boot_download_gb * offer.download_usd_per_gb),
        patience_hours=limits.outbid_patience_seconds / 3600,
    )


def expected_usd(terms: Terms, gpu_usd_per_hour: float, outbids_per_hour: float) -> float:
    """Returns what the finished job is expected to cost if losses are a Poisson process.

    The work is done in pieces, each of which begins anew, after a boot, if it is interrupted.
    """
    rate, boot, lost = outbids_per_hour, terms.boot_hours, terms.lost_hours
    if rate <= 0 or lost <= 0:
        hours, rate = boot + terms.run_hours, 0.0
    else:
        again = expm1(min(rate * boot, EXPONENT_MAX))
        piece = expm1(min(rate * lost, EXPONENT_MAX))
        hours = (again + (1 + again) * piece * terms.run_hours / lost) / rate
    interruptions = rate * hours
    return (
        (gpu_usd_per_hour + terms.disk_usd_per_hour) * hours
        + terms.boot_traffic_usd * (1 + interruptions)
        + terms.disk_usd_per_hour * terms.patience_hours * interruptions
    )


class Priced(NamedTuple):
    """An offer at what would be paid for it, and what interruptions make of that."""

    offer: Offer
    shown: Offer
    """As the market shows it: at the price on demand."""
    times: float = 1.0
    """What the finished job is expected to cost over what it would without an interruption."""
    outbids_per_hour: float = 0.0

    @property
    def words(self) -> str:
        """Says what is bid and why, to follow other words; empty if no bid is allowed."""
        lowest, bid = self.shown.lowest_bid_usd_per_hour, self.offer.bid_usd_per_hour
        if lowest is None:
            return ""
        if bid is None:
            return (
                f"; it is rented on demand for {float(self.offer.gpu_usd_per_hour):.4f} $/h, which "
                "is expected to cost less than any bid, and is not interrupted"
            )
        return (
            f"; {float(bid):.4f} $/h is bid, {float(bid / lowest):.0%} of the lowest bid that "
            f"wins; {self.outbids_per_hour:.2f} outbids an hour are expected, which make the "
            f"finished job {self.times - 1:.0%} dearer, and no other price that the job allows, "
            "bid or on demand, is expected to cost less in the end"
        )


def priced(
    offer: Offer, terms: Terms, memory: OutbidMemory, *, most_usd_per_hour: Fraction
) -> Priced:
    """Returns an offer at the bid, or at the price on demand, that is expected to cost the least.

    Nothing above `most_usd_per_hour`, which is without the disk, is bid or paid. If even the lowest
    bid that wins is above it, the offer is returned at that: it is refused for its price.
    """
    lowest, on_demand = offer.lowest_bid_usd_per_hour, offer.gpu_usd_per_hour
    if lowest is None:
        return Priced(offer=offer, shown=offer)
    dearest = floor(min(most_usd_per_hour, on_demand) * BID_STEPS)
    ways: list[tuple[float, int | None, float]] = [
        (expected_usd(terms, bid / BID_STEPS, rate), bid, rate)
        for bid, rate in _bids(lowest, memory.per_hour(offer.gpu_model))
        if bid <= dearest
    ]
    if on_demand <= most_usd_per_hour:
        ways.append((expected_usd(terms, float(on_demand), 0.0), None, 0.0))
    if not ways:
        return Priced(offer=at_bid(offer, lowest), shown=offer)
    usd, bid, rate = min(ways, key=lambda way: way[0])
    chosen = offer if bid is None else at_bid(offer, Fraction(bid, BID_STEPS))
    alone = expected_usd(terms, float(chosen.gpu_usd_per_hour), 0.0)
    # What loads nothing and runs for no time costs nothing, whatever interrupts it.
    times = usd / alone if alone else 1.0
    return Priced(offer=chosen, shown=offer, times=times, outbids_per_hour=rate)


def _bids(lowest: Fraction, per_hour: Sequence[float]) -> Iterator[tuple[int, float]]:
    """Yields the bids to consider, in steps and rounded up, and how often each is outbid an
    hour.
    """
    usd, per = lowest.as_integer_ratio()
    for percent, rate in zip(PERCENTS, per_hour, strict=True):
        yield -(-usd * percent * BID_STEPS // (per * 100)), rate


def at_bid(offer: Offer, bid: Fraction) -> Offer:
    """Returns an offer at the price that it has with a bid: while it runs, that is the bid."""
    return replace(offer, gpu_usd_per_hour=bid, bid_usd_per_hour=bid)
