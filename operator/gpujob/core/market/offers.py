"""What can be rented, and whether an offer meets a job's needs.

The provider's own filters are not relied on. Prices are exact fractions of US dollars, as the
provider wrote them; sizes are in the provider's GB, which are 1e9 bytes.
"""

from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction

from gpujob.api.gpujob import GpuJobSpec, GpuNeeds
from gpujob.core.market.gpu_models import meant_by
from gpujob.core.money import MICRO, floor_usd

NOMINAL = Fraction(93, 100)
"""A card of nominally 24 GB reports about 7 % less (vastsim/FACTS.md, Offers)."""


@dataclass(frozen=True, kw_only=True)
class Offer:
    """One machine that could be rented now."""

    offer_id: int
    machine_id: int
    host_id: int
    gpu_model: str
    gpu_count: int
    gpu_memory_gb: Fraction
    """Memory of each GPU."""
    cuda_version: Fraction
    """The highest version that its GPU driver supports, for example `12.4`; 0 = unknown."""
    cpu_cores: Fraction
    memory_gb: Fraction
    disk_gb: Fraction
    """Disk space that can be rented."""
    location: str
    country: str
    is_verified: bool
    is_datacenter: bool
    reliability: Fraction
    has_direct_port: bool
    contract_seconds: Fraction
    """Time until the host's contract ends."""
    gpu_usd_per_hour: Fraction
    """What is paid while it runs: the price on demand, or what is bid."""
    lowest_bid_usd_per_hour: Fraction | None = None
    """The lowest bid that wins now, for the whole machine; None = none is shown."""
    bid_usd_per_hour: Fraction | None = None
    """What is bid; None = it is rented on demand."""
    storage_usd_per_gb_month: Fraction
    download_usd_per_gb: Fraction
    upload_usd_per_gb: Fraction
    download_mbps: Fraction
    upload_mbps: Fraction

    @property
    def gpu(self) -> str:
        """Number and model of the GPUs for people: `2x RTX 4090`."""
        return f"{self.gpu_count}x {self.gpu_model}"

    def disk_usd_per_hour(self, disk_gb: int) -> Fraction:
        """Returns the hourly price of a disk: a month has 720 hours (vastsim/FACTS.md, Pricing)."""
        return self.storage_usd_per_gb_month * disk_gb / 720


@dataclass(frozen=True, kw_only=True)
class Quotes:
    """The offers of one search."""

    offers: tuple[Offer, ...]
    unreadable: int
    """Offers left out because a price or size was missing or malformed."""
    fetched_at: datetime
    clock_skew_seconds: float
    """The provider's clock minus ours when the answer came."""
    is_full: bool = False
    """Whether the answer holds as many offers as one can: there may be more."""
    dearest_usd_per_hour: Fraction | None = None
    """The highest price by which the provider sorted them; None = none was readable."""


def mismatch(offer: Offer, spec: GpuJobSpec) -> str | None:
    """Returns why an offer cannot be taken, in words, or None if it can."""
    gpu, resources, market = spec.gpu, spec.resources, spec.market
    checks = (
        (not _is_wanted(offer, gpu), "its GPU is not in gpu.models"),
        (offer.gpu_count != gpu.count, "its number of GPUs is not gpu.count"),
        (
            gpu.memory_gb is not None and offer.gpu_memory_gb < gpu.memory_gb * NOMINAL,
            "its GPU has less memory than gpu.memoryGB",
        ),
        (
            gpu.cuda_version is not None and offer.cuda_version < Fraction(gpu.cuda_version),
            "its GPU driver is too old for gpu.cudaVersion",
        ),
        (
            resources.cpu is not None and offer.cpu_cores < resources.cpu,
            "it has fewer CPU cores than resources.cpu",
        ),
        (
            resources.memory_gb is not None and offer.memory_gb < resources.memory_gb,
            "it has less memory than resources.memoryGB",
        ),
        (offer.disk_gb < resources.disk_gb, "it has less free disk than resources.diskGB"),
        (not offer.has_direct_port, "it has no direct port for SSH"),
        (market.hosts == "Verified" and not offer.is_verified, "its host is not verified"),
        (
            market.hosts == "Datacenter" and not offer.is_datacenter,
            "its host is not a datacenter",
        ),
        (
            offer.reliability < Fraction(market.min_reliability),
            "its reliability is below market.minReliability",
        ),
        (
            bool(market.regions) and offer.country not in market.regions,
            "its country is not in market.regions",
        ),
        (offer.machine_id in market.excluded_machines, "it is in market.excludedMachines"),
        (
            market.max_usd_per_hour is not None
            and (offer.gpu_usd_per_hour + offer.disk_usd_per_hour(resources.disk_gb)) * MICRO
            > floor_usd(market.max_usd_per_hour),
            "it costs more per hour than market.maxUSDPerHour",
        ),
    )
    return next((words for refused, words in checks if refused), None)


def _is_wanted(offer: Offer, gpu: GpuNeeds) -> bool:
    return not gpu.models or any(
        offer.gpu_model in one.models and offer.gpu_memory_gb >= one.memory_gb * NOMINAL
        for one in meant_by(gpu)
    )
