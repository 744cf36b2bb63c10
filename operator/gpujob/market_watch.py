"""What the provider shows: one listing for all, one cache of searches for all.

A listing that fails changes nothing that was known; it only becomes old. How old evidence may be,
and what it proves, the core decides.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from datetime import datetime, timedelta

import structlog

from gpujob.adapters.clock import Clock
from gpujob.adapters.errors import CredentialsRejected, ProviderError
from gpujob.adapters.vast import VastClient
from gpujob.api.gpujob import GpuJobSpec
from gpujob.api.reasons import Reason
from gpujob.core.limits import Limits
from gpujob.core.market import Listing, Quotes
from gpujob.core.observation import Unavailable

LISTINGS_KEPT = 64

log = structlog.get_logger("gpujob.market")


class MarketWatch:
    """The listings of the last minutes, and recent quotes."""

    def __init__(
        self, vast: VastClient, clock: Clock, limits: Limits, on_listing: Callable[[], None]
    ) -> None:
        self._vast = vast
        self._clock = clock
        self._limits = limits
        self._on_listing = on_listing
        self._listings: deque[Listing] = deque(maxlen=LISTINGS_KEPT)
        self._quotes: dict[str, Quotes] = {}
        self._searching = asyncio.Lock()
        self.problem: Unavailable | None = Unavailable(
            Reason.PROVIDER_UNAVAILABLE, "the provider has not been asked yet"
        )

    @property
    def listings(self) -> tuple[Listing, ...]:
        """Complete listings, oldest first."""
        return tuple(self._listings)

    @property
    def account_id(self) -> int | None:
        """Account of the latest listing; None = none yet."""
        return self._listings[-1].account_id if self._listings else None

    def now(self) -> datetime:
        """Returns our clock, or the provider's if that is ahead: paid time never runs back."""
        ours = self._clock.now()
        if not self._listings:
            return ours
        last = self._listings[-1]
        theirs = last.provider_time + timedelta(seconds=self._clock.monotonic() - last.answered_at)
        return max(ours, theirs)

    async def run(self) -> None:
        """Lists for ever, one poll after the other."""
        while True:
            await self.list_once()
            await asyncio.sleep(self._limits.poll_seconds)

    async def list_once(self) -> None:
        """Takes one listing; a failure is remembered, not raised."""
        try:
            listing = await self._vast.list_leases()
        except ProviderError as error:
            found = Unavailable(error.reason, str(error))
            if self.problem != found:
                log.warning("listing_failed", reason=found.reason, problem=found.message)
            self.problem = found
            return
        if self.problem is not None:
            log.info("listing_answered", leases=len(listing.leases), account=listing.account_id)
        self.problem = None
        self._listings.append(listing)
        self._on_listing()

    async def quotes(self, spec: GpuJobSpec) -> Quotes | Unavailable:
        """Returns offers for a job's needs, at most half as old as a decision may rest on."""
        needs = spec.model_dump_json(include={"gpu", "resources", "market"})
        async with self._searching:
            known = self._quotes.get(needs)
            fresh_after = self._clock.now() - timedelta(seconds=self._limits.quote_age_seconds / 2)
            if known is not None and known.fetched_at >= fresh_after:
                return known
            try:
                quotes = await self._vast.search(spec)
            except CredentialsRejected as error:
                return Unavailable(error.reason, str(error))
            except ProviderError as error:
                return Unavailable(error.reason, f"the market does not answer: {error}")
            self._quotes = {
                key: held for key, held in self._quotes.items() if held.fetched_at >= fresh_after
            }
            self._quotes[needs] = quotes
            return quotes

    def forget_quotes(self) -> None:
        """Drops what was quoted: a rent has used up or missed an offer."""
        self._quotes.clear()
