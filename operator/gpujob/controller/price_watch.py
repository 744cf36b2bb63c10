"""What the market offers for the needs that somebody waits for.

No pass waits for the network to learn a price: it asks here, is told what is known, and is made
again when the answer has come. Only this module searches.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from math import inf

import structlog

from gpujob.adapters.clock import Clock
from gpujob.adapters.errors import ProviderError, SearchQuotaExhausted
from gpujob.adapters.provider import Provider
from gpujob.api.gpujob import GpuJobSpec
from gpujob.api.notes import Floor
from gpujob.api.reasons import Reason
from gpujob.controller.workqueue import Key
from gpujob.core.limits import Limits
from gpujob.core.market.floors import lowered
from gpujob.core.market.offers import Quotes
from gpujob.core.market.pace import Kind
from gpujob.core.market.search import (
    UNASKED_SECONDS,
    WAITING_SHARE,
    Search,
    Want,
    beyond,
    next_search,
    search_of,
)
from gpujob.core.observation import Unavailable

PAGES_MAX = 20
"""How often the market is asked on for dearer offers."""
PAGE_SECONDS = 1800.0
"""For so long an answer in which nothing fits is passed over, and dearer offers are asked for."""
FAILURE_SECONDS = 5.0
"""So long a search that failed is not repeated."""
QUOTA_SECONDS = 900.0
"""No search is made for so long once the quota is used up, or until its end if that is earlier."""
TAKEN_SECONDS = 600.0
"""So long an offer that a rent has asked for is not offered again. Its number is used up then,
unless the request never arrived."""
ESTIMATE_SECONDS = 25.0
"""How long an estimate waits for prices."""
ESTIMATES_MAX = 4
"""More estimates of one namespace do not wait for searches: there is no time for them anyway."""

log = structlog.get_logger("gpujob.prices")


@dataclass(frozen=True)
class _Answer:
    found: Quotes | Unavailable
    at: float
    """Monotonic time at which it came."""


class PriceWatch:
    """Holds the market's recent answers, and asks it for what is waited for."""

    def __init__(
        self, vast: Provider, clock: Clock, limits: Limits, on_answer: Callable[[Key], None]
    ) -> None:
        self._vast = vast
        self._clock = clock
        self._limits = limits
        self._on_answer = on_answer
        self._answers: dict[Search, _Answer] = {}
        self._wants: dict[Search, Want] = {}
        self._keys: dict[Search, set[Key]] = {}
        """The passes that wait for a search."""
        self._served: dict[str, float] = {}
        """When a search was last made for each namespace."""
        self._estimating: Counter[str] = Counter()
        """How many estimates of each namespace wait."""
        self._wanted = asyncio.Event()
        self._answered = asyncio.Event()
        self._taken: dict[int, float] = {}
        """When each offer was asked for, by its number."""
        self._taken_machines: dict[int, float] = {}
        """When an offer of each machine was asked for."""
        self._quota: _Answer | None = None
        self.floors: dict[str, Floor] = {}
        """The lowest prices of the last day, by GPU model."""

    def quotes(
        self, spec: GpuJobSpec, *, namespace: str, key: Key | None = None, is_ready: bool = False
    ) -> Quotes | Unavailable | None:
        """Returns offers for a job's needs, at most half as old as a decision may use.

        None = the market is being asked; when it has answered, `on_answer` is told the key. Whoever
        `is_ready` rents as soon as the price is known, and goes before the others.
        """
        now = self._clock.monotonic()
        if self._quota is not None and now - self._quota.at < QUOTA_SECONDS:
            assert isinstance(self._quota.found, Unavailable)
            return self._quota.found
        search = search_of(spec)
        for _ in range(PAGES_MAX):
            answer = self._answers.get(search)
            if answer is None:
                break
            age = now - answer.at
            if isinstance(answer.found, Unavailable):
                if age < FAILURE_SECONDS:
                    return answer.found
                break
            free = self._without_taken(answer.found, answer.at)
            dearer = beyond(search, free, spec)
            if dearer is not None and age < PAGE_SECONDS:
                search = dearer
            elif age <= self._limits.quote_age_seconds / 2:
                return free
            else:
                break
        self._want(search, namespace, now, is_ready=is_ready)
        if key is not None:
            self._keys.setdefault(search, set()).add(key)
        return None

    async def estimate(self, spec: GpuJobSpec, namespace: str) -> Quotes | Unavailable:
        """Returns offers for a job's needs; waits for them if they have to be asked for."""
        is_early = self._estimating[namespace] < ESTIMATES_MAX
        self._estimating[namespace] += 1
        try:
            async with asyncio.timeout(ESTIMATE_SECONDS if is_early else 0):
                while (found := self.quotes(spec, namespace=namespace)) is None:
                    await self._answered.wait()
                return found
        except TimeoutError:
            pass
        finally:
            self._estimating[namespace] -= 1
            self._estimating += Counter()  # Drops what is zero.
        words = "the market has not answered yet, because many searches are waiting; ask again"
        return Unavailable(Reason.AWAITING_OFFERS, words)

    def take(self, offer_id: int, machine_id: int) -> None:
        """Offers this to nobody else; nor other offers of the machine, until a later search."""
        now = self._clock.monotonic()
        for taken in (self._taken, self._taken_machines):
            for number in [one for one, at in taken.items() if now - at > TAKEN_SECONDS]:
                del taken[number]
        self._taken[offer_id] = self._taken_machines[machine_id] = now

    def give_back(self, offer_id: int) -> None:
        """Offers this again: the request was not sent, or refused for another reason."""
        self._taken.pop(offer_id, None)

    def is_taken(self, offer_id: int) -> bool:
        """Whether a rent has just asked for this offer."""
        return self._clock.monotonic() - self._taken.get(offer_id, -inf) < TAKEN_SECONDS

    def take_in_floors(self, floors: Mapping[str, Floor]) -> None:
        """Adds the floors that an earlier leader saw; those of this one take precedence."""
        self.floors = {**floors, **self.floors}

    async def run(self) -> None:
        """Makes the searches that are waited for, one after the other."""
        waiting_from, ready_in_row = 0.0, 0
        while True:
            self._wanted.clear()
            now = self._clock.monotonic()
            for search, want in list(self._wants.items()):
                if now - want.asked_at > UNASKED_SECONDS:
                    self._tell(search)
            chosen = next_search(
                self._wants,
                now=now,
                waiting_from=waiting_from,
                ready_in_row=ready_in_row,
                served=self._served,
            )
            if chosen is None:
                with suppress(TimeoutError):
                    async with asyncio.timeout(waiting_from - now if self._wants else None):
                        await self._wanted.wait()
                continue
            want = self._wants[chosen]
            interval = Kind.SEARCH.interval_seconds * self._limits.request_spacing
            ready_in_row = ready_in_row + 1 if want.is_ready else 0
            if not want.is_ready:
                waiting_from = now + interval / WAITING_SHARE
            self._served |= dict.fromkeys(want.namespaces, now)
            await self._ask(chosen)
            # Which search is next is decided as late as its turn comes.
            await asyncio.sleep(max(now + interval - self._clock.monotonic(), 0.0))

    async def _ask(self, search: Search) -> None:
        found: Quotes | Unavailable
        try:
            found = await self._vast.search(search)
        except SearchQuotaExhausted as error:
            found = Unavailable(error.reason, f"{error}; nothing is rented until then")
            at = self._clock.monotonic()
            if error.resets_at is not None:
                left = (error.resets_at - self._clock.now()).total_seconds()
                at -= QUOTA_SECONDS - min(max(left, 0.0), QUOTA_SECONDS)
            self._quota = _Answer(found, at)
            log.warning("search_quota_exhausted", problem=str(error))
            # The others would be refused as well.
            for other in [one for one in self._wants if one != search]:
                self._tell(other)
        except ProviderError as error:
            found = Unavailable(error.reason, f"the search for offers failed: {error}")
        except Exception as error:
            # A bug in this must not end the leader, which has machines to look after.
            log.exception("search_crashed")
            words = f"the search for offers failed: {type(error).__name__}"
            found = Unavailable(Reason.PROVIDER_UNAVAILABLE, words)
        now = self._clock.monotonic()
        old = [one for one, answer in self._answers.items() if now - answer.at > PAGE_SECONDS]
        for one in old:
            del self._answers[one]
        self._answers[search] = _Answer(found, now)
        if isinstance(found, Quotes) and search.shows_floors:
            self.floors = lowered(self.floors, found, self._clock.now())
        self._tell(search)

    def _tell(self, search: Search) -> None:
        """Asks for a pass of all who wait for a search, which is over."""
        del self._wants[search]
        self._answered.set()
        self._answered.clear()
        for key in self._keys.pop(search, ()):
            self._on_answer(key)

    def _want(self, search: Search, namespace: str, now: float, *, is_ready: bool) -> None:
        known = self._wants.get(search)
        if known is None:
            known = Want(namespaces=frozenset(), is_ready=False, since=now, asked_at=now)
        self._wants[search] = replace(
            known,
            asked_at=now,
            namespaces=known.namespaces | {namespace},
            is_ready=known.is_ready or is_ready,
        )
        self._wanted.set()

    def _without_taken(self, quotes: Quotes, at: float) -> Quotes:
        free = tuple(
            offer
            for offer in quotes.offers
            if not self.is_taken(offer.offer_id)
            and self._taken_machines.get(offer.machine_id, -1.0) < at
        )
        return quotes if len(free) == len(quotes.offers) else replace(quotes, offers=free)
