"""The bound of an attempt's cost, as arithmetic over what the operator enforces.

The operator enforces a limit on every quantity here: the deadline on run time, the boot cap on
booting, the lag cap on the destroy, and the traffic caps, which are checked in each listing. So
with the prices of the offer the sum is a bound, not a guess. Only the run time of a job without a
deadline is learnt (`core/cost/run_bound.py`), and only as sure as that says.
"""

from dataclasses import dataclass
from fractions import Fraction
from math import ceil

from gpujob.api.gpujob import Data
from gpujob.core.limits import Limits
from gpujob.core.market.listings import Line
from gpujob.core.market.offers import Offer
from gpujob.core.money import MICRO, NANO

MS_PER_HOUR = 3_600_000
HOURS_PER_MONTH = 720
"""As the provider counts them (vastsim/FACTS.md, Pricing)."""
KILOBITS_PER_GB = 8_000_000
"""A line of 1 Mbit/s carries one kilobit in a millisecond."""
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


class Reckoning:
    """The bounds of one job's attempt, on one offer after the other.

    One decision looks at thousands of offers. So what they have in common is reckoned once, and the
    rest in integers: whole milliseconds, rounded up, and numerators and denominators of prices.
    These are as exact as fractions, and many times as fast.
    """

    def __init__(self, needs: Needs, limits: Limits, *, others: int) -> None:
        """`others` machines that are not ours are listed."""
        self.needs = needs
        self._cap = _ms(limits.boot_cap_seconds)
        self._drain = _ms(needs.drain_seconds)
        self._beside_stop = _ms(needs.run_seconds) + _overhead_ms(limits, others)
        self._blind = _blind_ms(limits, others)
        self._loaded = needs.boot_download_gb * KILOBITS_PER_GB
        self._delivered = needs.delivered_gb * KILOBITS_PER_GB

    @property
    def boot_share_max(self) -> Fraction:
        """The largest share of a bound that a line which boots at once could save."""
        return Fraction(self._cap, self._beside_stop + self._drain)

    def loads_in_time(self, offer: Offer) -> bool:
        """Whether the offer's own line brings all that the boot may need before the boot cap."""
        loading = self._loading_ms(offer)
        return loading is not None and loading <= self._cap

    def loading_seconds(self, offer: Offer) -> Fraction | None:
        """Returns how long the offer's line takes for all that may have to be there before the
        workload starts; None = for ever, since it has no line that is known.
        """
        loading = self._loading_ms(offer)
        return None if loading is None else Fraction(loading, 1000)

    def boot_seconds(self, offer: Offer) -> Fraction:
        """Returns how long booting is likely to take on the offer's own line."""
        loading = self._loading_ms(offer)
        return Fraction(self._cap if loading is None else min(self._cap, loading), 1000)

    def floor_microusd(self, gpu_nanousd_per_hour: int) -> int:
        """Returns what no bound on an offer is below whose GPUs cost so much: their part of it."""
        lease = self._beside_stop + self._drain
        return gpu_nanousd_per_hour * lease * MICRO // (NANO * MS_PER_HOUR)

    def total_microusd(self, offer: Offer) -> int:
        """Returns the bound of an attempt on the offer."""
        return self._time_microusd(offer, self._lease_ms(offer)) + self.traffic_microusd(offer)

    def likely_microusd(self, offer: Offer) -> int:
        """Returns the same with the boot that the offer's own line suggests."""
        lease, loading = self._lease_ms(offer), self._loading_ms(offer)
        saved = 0 if loading is None else self._cap - min(self._cap, loading)
        return self._time_microusd(offer, lease - saved) + self.traffic_microusd(offer)

    def traffic_microusd(self, offer: Offer) -> int:
        """Returns the most that the traffic of an attempt on the offer can cost."""
        return _traffic_microusd(offer, self.needs, self._blind)

    def usd_per_hour(self, offer: Offer) -> Fraction:
        """Returns the offer's price with the disk."""
        return Fraction(*self._rate(offer))

    def costs_more(self, offer: Offer, usd_per_hour: Fraction) -> bool:
        """Whether the offer's price with the disk is above this."""
        rate, per = self._rate(offer)
        other, per_other = usd_per_hour.as_integer_ratio()
        return rate * per_other > other * per

    def outlasts(self, offer: Offer) -> bool:
        """Whether the host's contract ends only after the attempt must have."""
        seconds, per = offer.contract_seconds.as_integer_ratio()
        return seconds * 1000 >= self._lease_ms(offer) * per

    def lease_seconds(self, offer: Offer) -> Fraction:
        """Returns the longest time from the rent request to the proof that the machine is gone."""
        return Fraction(self._lease_ms(offer), 1000)

    def estimate(self, offer: Offer) -> Estimate:
        """Returns the bound of an attempt on the offer, with its parts."""
        return Estimate(
            usd_per_hour=self.usd_per_hour(offer),
            lease_seconds=self.lease_seconds(offer),
            stop_seconds=Fraction(self._stop_ms(offer), 1000),
            time_microusd=self._time_microusd(offer, self._lease_ms(offer)),
            traffic_microusd=self.traffic_microusd(offer),
            likely_microusd=self.likely_microusd(offer),
        )

    def _lease_ms(self, offer: Offer) -> int:
        return self._beside_stop + self._stop_ms(offer)

    def _stop_ms(self, offer: Offer) -> int:
        """How long the workload may take to exit and the offer's line to bring its files; a line
        that is not known is taken for one of 1 Mbit/s.
        """
        if not self._delivered:
            return self._drain
        mbps, per = (offer.upload_mbps or Fraction(1)).as_integer_ratio()
        return self._drain - (-self._delivered * per // mbps)

    def _loading_ms(self, offer: Offer) -> int | None:
        if not self._loaded:
            return 0
        mbps, per = offer.download_mbps.as_integer_ratio()
        return -(-self._loaded * per // mbps) if mbps else None

    def _rate(self, offer: Offer) -> tuple[int, int]:
        """Numerator and denominator of the price per hour."""
        gpu, per = offer.gpu_usd_per_hour.as_integer_ratio()
        disk, each = offer.storage_usd_per_gb_month.as_integer_ratio()
        each *= HOURS_PER_MONTH
        return gpu * each + disk * self.needs.disk_gb * per, per * each

    def _time_microusd(self, offer: Offer, ms: int) -> int:
        rate, per = self._rate(offer)
        return -(-rate * ms * MICRO // (per * MS_PER_HOUR))


def estimate(offer: Offer, needs: Needs, limits: Limits, *, others: int) -> Estimate:
    """Returns the bound of an attempt on an offer while `others` that are not ours are listed."""
    return Reckoning(needs, limits, others=others).estimate(offer)


def overhead_seconds(limits: Limits, others: int, stop_seconds: float | Fraction) -> Fraction:
    """Returns the most seconds of an attempt that are paid for beyond its run."""
    return Fraction(_overhead_ms(limits, others) + _ms(stop_seconds), 1000)


def traffic_microusd(line: Offer | Line, caps: Needs | Data, limits: Limits, *, others: int) -> int:
    """Returns the most that traffic can cost.

    A passed cap is noticed only in the next listing, and bytes flow until the machine is gone. What
    the line can carry in that time is added to the cap.
    """
    return _traffic_microusd(line, caps, _blind_ms(limits, others))


def _traffic_microusd(line: Offer | Line, caps: Needs | Data, blind_ms: int) -> int:
    down, per_down = line.download_mbps.as_integer_ratio()
    up, per_up = line.upload_mbps.as_integer_ratio()
    down_usd, per_down_usd = line.download_usd_per_gb.as_integer_ratio()
    up_usd, per_up_usd = line.upload_usd_per_gb.as_integer_ratio()
    down_kilobits = caps.max_download_gb * KILOBITS_PER_GB * per_down + down * blind_ms
    up_kilobits = caps.max_upload_gb * KILOBITS_PER_GB * per_up + up * blind_ms
    per_down, per_up = per_down * per_down_usd, per_up * per_up_usd
    usd = down_kilobits * down_usd * per_up + up_kilobits * up_usd * per_down
    return -(-usd * MICRO // (KILOBITS_PER_GB * per_down * per_up))


def _blind_ms(limits: Limits, others: int) -> int:
    return _ms(limits.fullest_listing_seconds(others) + limits.destroy_lag_seconds(others))


def _overhead_ms(limits: Limits, others: int) -> int:
    """Boot and destroy; what it takes to stop depends on the job and on the offer's line."""
    return _ms(limits.boot_cap_seconds) + _ms(limits.destroy_lag_seconds(others))


def _ms(seconds: float | Fraction) -> int:
    """Whole milliseconds, rounded up; what a float adds to a decimal that was written is none."""
    return ceil(Fraction(seconds).limit_denominator(1000) * 1000)
