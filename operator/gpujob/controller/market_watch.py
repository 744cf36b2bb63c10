"""What the provider shows: one listing for all, one cache of searches for all.

A listing that fails changes nothing that was known; it only becomes old. How old evidence may be,
and what it proves, the core decides.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from fractions import Fraction

import structlog

from gpujob.adapters.clock import Clock
from gpujob.adapters.errors import CredentialsRejected, ProviderError
from gpujob.adapters.provider import Provider
from gpujob.api.gpujob import GpuJobSpec
from gpujob.api.gpunode import GpuNode
from gpujob.api.notes import Floor
from gpujob.api.reasons import Reason
from gpujob.controller.readiness import Readiness
from gpujob.core.limits import Limits
from gpujob.core.market.account import CreditRefusal, account_problem, credit_problem
from gpujob.core.market.floors import lowered
from gpujob.core.market.listings import Listing
from gpujob.core.market.offers import Quotes
from gpujob.core.observation import Unavailable

LISTINGS_KEPT = 64

log = structlog.get_logger("gpujob.market")


class TokenStale(Exception):
    """The key was refused for so long that only a new start can bring another one."""


class MarketWatch:
    """The listings of the last minutes, and recent quotes."""

    def __init__(
        self,
        vast: Provider,
        clock: Clock,
        limits: Limits,
        readiness: Readiness,
        on_listing: Callable[[], None],
    ) -> None:
        self._vast = vast
        self._clock = clock
        self._limits = limits
        self._readiness = readiness
        self._on_listing = on_listing
        self._listings: deque[Listing] = deque(maxlen=LISTINGS_KEPT)
        self._quotes: dict[str, Quotes] = {}
        self._searching = asyncio.Lock()
        self._began = clock.monotonic()
        self._rejected_since: float | None = None
        """Monotonic time from which on the key was refused at every listing."""
        self._refusal: CreditRefusal | None = None
        self.floors: dict[str, Floor] = {}
        """The lowest prices of the last day, by GPU model."""

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
        """Lists for ever, one poll after the other.

        Raises TokenStale if the key stays refused: it may have been replaced in the Secret, and
        reaches this process only by a new start.
        """
        while True:
            await self.list_once()
            now, rejected = self._clock.monotonic(), self._rejected_since
            if (
                rejected is not None
                and now - rejected >= self._limits.token_rejected_seconds
                and now - self._began >= self._limits.token_restart_seconds
            ):
                raise TokenStale(f"the account's key was refused for {now - rejected:.0f} s")
            await asyncio.sleep(self._limits.poll_seconds)

    async def list_once(self) -> None:
        """Takes one listing; a failure is remembered, not raised."""
        say = self._readiness.say
        try:
            listing = await self._vast.list_leases()
        except CredentialsRejected as error:
            if self._rejected_since is None:
                self._rejected_since = self._clock.monotonic()
            say(error.reason, str(error))
            return
        except ProviderError as error:
            say(Reason.PROVIDER_UNAVAILABLE, str(error))
            return
        self._rejected_since = None
        self._listings.append(listing)
        say(Reason.CREDENTIALS_REJECTED, None)
        say(Reason.PROVIDER_UNAVAILABLE, None)
        self._judge_credit()
        self._on_listing()

    def credit_refused(self) -> None:
        """Takes in that a rent was refused for want of credit."""
        self._refusal = CreditRefusal(self._clock.monotonic(), self.credit_usd)
        self._judge_credit()

    def judge_account(self, nodes: Iterable[GpuNode]) -> None:
        """Takes in whether all that is leased belongs to the account of the latest listing."""
        if self.account_id is not None:
            problem = account_problem(nodes, self.account_id)
            self._readiness.say(Reason.ACCOUNT_CHANGED, problem)

    @property
    def credit_usd(self) -> Fraction | None:
        """What the account had by the latest listing; None = not told."""
        return self._listings[-1].credit_usd if self._listings else None

    def _judge_credit(self) -> None:
        problem = credit_problem(self.credit_usd, self._refusal, self._clock.monotonic())
        self._readiness.say(Reason.CREDIT_EXHAUSTED, problem)

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
            if spec.market.type == "OnDemand":
                self.floors = lowered(self.floors, quotes, self._clock.now())
            return quotes

    def take_in_floors(self, floors: Mapping[str, Floor]) -> None:
        """Takes in what a former leader saw; what this one has seen goes before."""
        self.floors = {**floors, **self.floors}

    def forget_quotes(self) -> None:
        """Drops what was quoted: a rent has used up or missed an offer."""
        self._quotes.clear()
