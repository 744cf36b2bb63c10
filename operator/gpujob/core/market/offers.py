"""What can be rented, and whether an offer meets a job's needs.

The provider's own filters are not relied on. Prices are exact fractions of US dollars, as the
provider wrote them; sizes are in the provider's GB, which are 1e9 bytes.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction
from functools import cached_property
from operator import itemgetter

from gpujob.api.gpujob import GpuJobSpec, GpuNeeds
from gpujob.core.market.gpu_models import meant_by
from gpujob.core.money import MICRO, NANO, floor_usd, is_below

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

    @property
    def usd_per_gpu_hour(self) -> Fraction:
        """What one of its GPUs costs an hour, without the disk."""
        count = self.gpu_count
        return self.gpu_usd_per_hour if count == 1 else self.gpu_usd_per_hour / count

    @property
    def least_usd_per_hour(self) -> Fraction:
        """The lowest price at which its GPUs can be had now, bid or on demand."""
        bid, on_demand = self.lowest_bid_usd_per_hour, self.gpu_usd_per_hour
        return on_demand if bid is None or is_below(on_demand, bid) else bid

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

    @cached_property
    def by_price(self) -> tuple[tuple[int, Offer], ...]:
        """The offers, lowest price of their GPUs first, with this in nano-USD, rounded down."""
        return _by_price(self.offers, lambda offer: offer.gpu_usd_per_hour)

    @cached_property
    def by_least_price(self) -> tuple[tuple[int, Offer], ...]:
        """The same by the lowest price at which they can be had, bid or on demand."""
        return _by_price(self.offers, lambda offer: offer.least_usd_per_hour)

    @cached_property
    def usd_per_hour(self) -> Mapping[str, tuple[Fraction, Fraction, Fraction]]:
        """Least, median and most of what one GPU costs an hour, by model. Many decisions rest on
        one search.
        """
        rates = defaultdict[str, list[Fraction]](list)
        for offer in self.offers:
            rates[offer.gpu_model].append(offer.usd_per_gpu_hour)
        return {model: _spread(found) for model, found in rates.items()}


class Demand:
    """What a job asks of an offer, read from its spec once."""

    def __init__(self, spec: GpuJobSpec) -> None:
        gpu, market = spec.gpu, spec.market
        self._spec = spec
        self._memory_gb_min = _memory_gb_min(gpu)
        self._gpu_memory_gb = None if gpu.memory_gb is None else gpu.memory_gb * NOMINAL
        self._cuda_version = None if gpu.cuda_version is None else Fraction(gpu.cuda_version)
        self._disk_gb = Fraction(spec.resources.disk_gb)
        self._reliability = Fraction(market.min_reliability)
        self._regions = frozenset(market.regions)
        self._excluded = frozenset(market.excluded_machines)
        dearest = market.max_usd_per_hour
        self._usd_per_hour = None if dearest is None else Fraction(floor_usd(dearest), MICRO)

    def mismatch(self, offer: Offer) -> str | None:
        """Returns why an offer cannot be taken, in words, or None if it can."""
        return self.unsuited(offer) or self.too_dear(offer)

    def unsuited(self, offer: Offer) -> str | None:
        """Returns the same but for its price."""
        gpu, resources, hosts = self._spec.gpu, self._spec.resources, self._spec.market.hosts
        if self._memory_gb_min is not None:
            least = self._memory_gb_min.get(offer.gpu_model)
            if least is None or (least and offer.gpu_memory_gb < least):
                return "its GPU is not in gpu.models"
        if offer.gpu_count != gpu.count:
            return "its number of GPUs is not gpu.count"
        if self._gpu_memory_gb is not None and offer.gpu_memory_gb < self._gpu_memory_gb:
            return "its GPU has less memory than gpu.memoryGB"
        if self._cuda_version is not None and offer.cuda_version < self._cuda_version:
            return "its GPU driver is too old for gpu.cudaVersion"
        if resources.cpu is not None and offer.cpu_cores < resources.cpu:
            return "it has fewer CPU cores than resources.cpu"
        if resources.memory_gb is not None and offer.memory_gb < resources.memory_gb:
            return "it has less memory than resources.memoryGB"
        if is_below(offer.disk_gb, self._disk_gb):
            return "it has less free disk than resources.diskGB"
        if not offer.has_direct_port:
            return "it has no direct port for SSH"
        if hosts == "Verified" and not offer.is_verified:
            return "its host is not verified"
        if hosts == "Datacenter" and not offer.is_datacenter:
            return "its host is not a datacenter"
        if is_below(offer.reliability, self._reliability):
            return "its reliability is below market.minReliability"
        if self._regions and offer.country not in self._regions:
            return "its country is not in market.regions"
        if offer.machine_id in self._excluded:
            return "it is in market.excludedMachines"
        return None

    def too_dear(self, offer: Offer) -> str | None:
        """Returns the words if it costs more than the job allows."""
        if self._usd_per_hour is None:
            return None
        rate = offer.gpu_usd_per_hour + offer.disk_usd_per_hour(self._spec.resources.disk_gb)
        if rate <= self._usd_per_hour:
            return None
        return "it costs more per hour than market.maxUSDPerHour"


def _by_price(
    offers: Iterable[Offer], price: Callable[[Offer], Fraction]
) -> tuple[tuple[int, Offer], ...]:
    found = []
    for offer in offers:
        usd, per = price(offer).as_integer_ratio()
        found.append((usd * NANO // per, offer))
    return tuple(sorted(found, key=itemgetter(0)))


def _spread(numbers: list[Fraction]) -> tuple[Fraction, Fraction, Fraction]:
    # Floats are compared far faster, and are in the same order.
    found, middle = sorted(numbers, key=float), len(numbers) // 2
    median = found[middle] if len(found) % 2 else (found[middle - 1] + found[middle]) / 2
    return found[0], median, found[-1]


def _memory_gb_min(gpu: GpuNeeds) -> dict[str, Fraction] | None:
    """Returns the least memory that each wanted model must have; None = any model will do."""
    if not gpu.models:
        return None
    least: dict[str, Fraction] = {}
    for one in meant_by(gpu):
        for model in one.models:
            asked = one.memory_gb * NOMINAL
            least[model] = min(asked, least.get(model, asked))
    return least
