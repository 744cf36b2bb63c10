"""What is asked of the market for a job, and which search is made next.

Searches are scarce: ten in a minute, and a daily quota of unknown size (vastsim/FACTS.md, Rate
limits). Jobs that need the same share one. Those that have a driver ready to rent get two searches
of three as long as others wait, too; alone, the others use at most seven of ten.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction

from gpujob.api.gpujob import GpuJobSpec
from gpujob.core.market.gpu_models import meant_by
from gpujob.core.market.offers import NOMINAL, Demand, Quotes

WAITING_SHARE = 0.7
"""Share of the searches that jobs without a ready driver may use while nobody is ready."""
READY_IN_ROW = 2
"""After so many searches for those who are ready, one is made for the others."""
UNASKED_SECONDS = 90.0
"""A search that nobody has asked for again for so long is not made: who waits asks each half
minute."""


@dataclass(frozen=True, kw_only=True)
class Search:
    """One question to the market: the needs that the provider can filter by."""

    models: tuple[str, ...]
    """Empty = any."""
    gpu_count: int
    gpu_memory_gb: Fraction
    """The least that each GPU may report; 0 = any, as below."""
    cuda_version: Fraction
    cpu_cores: int
    memory_gb: int
    disk_gb: int
    is_bid: bool
    hosts: str
    min_reliability: Fraction
    regions: tuple[str, ...]
    max_usd_per_hour: Fraction | None
    """The most that an offer may cost with its disk; None = any price."""
    from_usd_per_hour: Fraction | None = None
    """Asks on: no offers that cost less than this; None = from the cheapest one."""

    @property
    def shows_floors(self) -> bool:
        """Whether the cheapest offers of the answer are the cheapest of their models."""
        needs = (self.gpu_memory_gb, self.cuda_version, self.cpu_cores, self.memory_gb)
        wishes = (self.is_bid, self.regions, self.hosts == "Datacenter")
        return not any(needs) and not any(wishes) and self.from_usd_per_hour is None


def search_of(spec: GpuJobSpec) -> Search:
    """Returns the search for a job's needs."""
    gpu, resources, market = spec.gpu, spec.resources, spec.market
    is_bid = market.type == "Interruptible"
    wanted = meant_by(gpu)
    named_gb = min((one.memory_gb for one in wanted), default=0)
    dearest = None if market.max_usd_per_hour is None else Fraction(market.max_usd_per_hour)
    return Search(
        models=tuple(sorted({model for one in wanted for model in one.models})),
        gpu_count=gpu.count,
        gpu_memory_gb=max(gpu.memory_gb or 0, named_gb) * NOMINAL,
        cuda_version=Fraction(gpu.cuda_version or 0),
        cpu_cores=resources.cpu or 0,
        memory_gb=resources.memory_gb or 0,
        disk_gb=resources.disk_gb,
        is_bid=is_bid,
        hosts=market.hosts,
        min_reliability=Fraction(market.min_reliability),
        regions=tuple(sorted(market.regions)),
        max_usd_per_hour=dearest,
    )


def beyond(search: Search, quotes: Quotes, spec: GpuJobSpec) -> Search | None:
    """Returns the search for dearer offers, if this answer was full and nothing in it fits.

    The provider's filters are not dependable, and it knows no filter for some needs.
    """
    if not quotes.is_full or quotes.dearest_usd_per_hour is None:
        return None
    demand = Demand(spec)
    if any(demand.mismatch(offer) is None for offer in quotes.offers):
        return None
    begun = search.from_usd_per_hour
    if begun is not None and quotes.dearest_usd_per_hour <= begun:
        # The provider ignores this filter, too: asking on would only repeat the answer.
        return None
    return replace(search, from_usd_per_hour=quotes.dearest_usd_per_hour)


@dataclass(frozen=True, kw_only=True)
class Want:
    """A search that somebody waits for."""

    namespaces: frozenset[str]
    is_ready: bool
    """Whether a driver is ready, so that a machine is rented once the price is known."""
    since: float
    """Monotonic time of the first question that is not answered yet."""
    asked_at: float
    """Monotonic time of the last one."""


def next_search(
    wants: Mapping[Search, Want],
    *,
    now: float,
    waiting_from: float,
    ready_in_row: int,
    served: Mapping[str, float],
) -> Search | None:
    """Returns the search to make now, if there is one.

    `waiting_from` is the time from which one may be made for jobs that are not ready to rent,
    `ready_in_row` how many were just made for those who are; `served` says when each namespace last
    had a search.
    """
    is_others_turn = ready_in_row >= READY_IN_ROW
    due = [
        (
            want.is_ready == is_others_turn,
            _last(want.namespaces, served),
            want.since,
            number,
            search,
        )
        for number, (search, want) in enumerate(wants.items())
        if want.is_ready or is_others_turn or now >= waiting_from
    ]
    return min(due, key=lambda one: one[:4])[4] if due else None


def _last(namespaces: Iterable[str], served: Mapping[str, float]) -> float:
    return min((served.get(name, 0.0) for name in namespaces), default=0.0)
