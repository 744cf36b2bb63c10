"""The bound of an attempt's cost, as arithmetic over what the operator enforces.

The operator enforces a limit on every quantity here: the deadline on run time, the boot cap on
booting, the lag cap on the destroy, and the traffic caps, which are checked in each listing. So
with the prices of the offer the sum is a bound, not a guess. Only the run time of a job without a
deadline is learnt (`core/cost/run_bound.py`), and only as sure as that says.
"""

from dataclasses import dataclass
from fractions import Fraction

from gpujob.api.gpujob import Data
from gpujob.core.limits import Limits
from gpujob.core.market.listings import Line
from gpujob.core.market.offers import Offer
from gpujob.core.money import micro_up

IMAGE_GB_MAX = 100
"""No image is larger. Without files to copy, a job that allows more loads the rest as it runs."""


@dataclass(frozen=True, kw_only=True)
class Needs:
    """The quantities that an attempt may use up."""

    disk_gb: int
    max_download_gb: int
    max_upload_gb: int
    run_seconds: float
    """What is left of activeDeadlineSeconds, or what such jobs take."""
    drain_seconds: float
    """What the workload may take to exit and its files to be copied, however few they are."""
    delivered_gb: int = 0
    """The most that may have to be copied from the machine once the workload has ended."""
    copies_files: bool = False
    """Files are copied to the machine before the workload starts."""

    @property
    def boot_download_gb(self) -> int:
        """The most that may have to be there before the workload starts."""
        if self.copies_files:
            return self.max_download_gb
        return min(self.max_download_gb, IMAGE_GB_MAX)


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """The bound of one attempt on one offer, in micro-USD, with its parts."""

    usd_per_hour: Fraction
    lease_seconds: Fraction
    """The longest time from the rent request to the proof that the machine is gone."""
    stop_seconds: Fraction
    """The part of it that is kept for the workload to exit and for its files to be copied."""
    time_microusd: int
    traffic_microusd: int
    likely_microusd: int
    """The same with the boot that the offer's own line suggests in place of the longest one."""

    @property
    def total_microusd(self) -> int:
        """The bound of the attempt's cost."""
        return self.time_microusd + self.traffic_microusd


def overhead_seconds(limits: Limits, others: int, stop_seconds: float | Fraction) -> Fraction:
    """Returns the most seconds of an attempt that are paid for beyond its run."""
    seconds = limits.boot_cap_seconds + limits.destroy_lag_seconds(others)
    return (Fraction(seconds) + Fraction(stop_seconds)).limit_denominator(1000)


def stop_seconds(offer: Offer, needs: Needs) -> Fraction:
    """Returns how long the workload may take to exit and the offer's line to bring its files.

    A line that is not known is taken for one of 1 Mbit/s.
    """
    copying = needs.delivered_gb * 8000 / (offer.upload_mbps or Fraction(1))
    return (Fraction(needs.drain_seconds) + copying).limit_denominator(1000)


def estimate(offer: Offer, needs: Needs, limits: Limits, *, others: int) -> Estimate:
    """Returns the bound of an attempt on an offer while `others` that are not ours are listed."""
    usd_per_hour = offer.gpu_usd_per_hour + offer.disk_usd_per_hour(needs.disk_gb)
    stop = stop_seconds(offer, needs)
    run = Fraction(needs.run_seconds).limit_denominator(1000)
    seconds = run + overhead_seconds(limits, others, stop)
    cap = Fraction(limits.boot_cap_seconds).limit_denominator(1000)
    loading = loading_seconds(offer, needs)
    saved = cap - min(cap, loading) if loading is not None else Fraction(0)
    time = micro_up(usd_per_hour * seconds / 3600)
    traffic = micro_up(traffic_usd(offer, needs, limits, others=others))
    return Estimate(
        usd_per_hour=usd_per_hour,
        lease_seconds=seconds,
        stop_seconds=stop,
        time_microusd=time,
        traffic_microusd=traffic,
        likely_microusd=micro_up(usd_per_hour * (seconds - saved) / 3600) + traffic,
    )


def loading_seconds(offer: Offer, needs: Needs) -> Fraction | None:
    """Returns how long the offer's line takes for all that may have to be there before the workload
    starts; None = for ever, since it has no line that is known.
    """
    if not needs.boot_download_gb:
        return Fraction(0)
    if not offer.download_mbps:
        return None
    return needs.boot_download_gb * 8000 / offer.download_mbps


def traffic_usd(
    offer: Offer | Line, needs: Needs | Data, limits: Limits, *, others: int
) -> Fraction:
    """Returns the most that traffic can cost.

    A passed cap is noticed only in the next listing, and bytes flow until the machine is gone. What
    the line can carry in that time is added to the cap.
    """
    blind = limits.fullest_listing_seconds(others) + limits.destroy_lag_seconds(others)
    blind_seconds = Fraction(blind).limit_denominator(1000)
    gb_per_mbps = blind_seconds / 8 / 1000
    down = needs.max_download_gb + offer.download_mbps * gb_per_mbps
    up = needs.max_upload_gb + offer.upload_mbps * gb_per_mbps
    return down * offer.download_usd_per_gb + up * offer.upload_usd_per_gb
