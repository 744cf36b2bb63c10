"""What the provider shows of our machines: listings for all passes, and for the sweep.

When a listing fails, the earlier ones are kept and only grow older. `core` decides how old evidence
may be and what it proves.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from datetime import datetime
from fractions import Fraction

import structlog

from gpujob.adapters.clock import Clock
from gpujob.adapters.errors import CredentialsRejected, ProviderError
from gpujob.adapters.provider import Provider
from gpujob.api.gpunode import GpuNode
from gpujob.api.reasons import Reason
from gpujob.controller.readiness import Readiness
from gpujob.core.limits import Limits
from gpujob.core.market.account import CreditRefusal, account_problem, credit_problem
from gpujob.core.market.clocks import PaidTime, joined
from gpujob.core.market.history import Listings
from gpujob.core.market.listings import Listing

log = structlog.get_logger("gpujob.market")


class TokenStale(Exception):
    """The provider has rejected the API key for so long that only a restart can help."""


async def _nobody_knows() -> bool | None:
    return None


class MarketWatch:
    """Holds the listings of the last minutes."""

    def __init__(
        self,
        vast: Provider,
        clock: Clock,
        limits: Limits,
        readiness: Readiness,
        on_listing: Callable[[], None],
        key_is_replaced: Callable[[], Awaitable[bool | None]] = _nobody_knows,
    ) -> None:
        """`key_is_replaced` says whether its source has another API key by now; None = unknown."""
        self._vast = vast
        self._clock = clock
        self._limits = limits
        self._readiness = readiness
        self._on_listing = on_listing
        self._key_is_replaced = key_is_replaced
        self.listings = Listings()
        self._began = clock.monotonic()
        self._rejected_since: float | None = None
        """Monotonic time since which every listing was refused because of the key."""
        self._refusal: CreditRefusal | None = None
        self._time: PaidTime | None = None
        self._asked = asyncio.Event()

    @property
    def account_id(self) -> int | None:
        """The account of the latest listing; None if there is no listing yet."""
        return self.listings[-1].account_id if self.listings else None

    def now(self) -> datetime:
        """Returns the time by our clocks and the provider's; by ours alone while it is silent."""
        time = self._time
        return self._clock.now() if time is None else time.at(self._clock.monotonic())

    async def first_asked(self) -> None:
        """Returns once a listing was asked for, or a while later: our own clock may be wrong."""
        if not self._asked.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(self._limits.poll_seconds):
                    await self._asked.wait()

    async def run(self) -> None:
        """Lists the machines at each poll.

        Raises TokenStale if the provider rejects the key and it was replaced in the Secret, which
        this process reads only at its start; or, after minutes, because it may have been.
        """
        while True:
            began = self._clock.monotonic()
            await self.list_once()
            now, rejected = self._clock.monotonic(), self._rejected_since
            if rejected is not None and await self._is_stale(now - rejected):
                raise TokenStale(
                    f"the provider has rejected the API key for {now - rejected:.0f} s; "
                    "a restart reads the Secret again"
                )
            # A listing of many pages may take longer than the interval.
            await asyncio.sleep(max(began + self._limits.poll_seconds - now, 0.0))

    async def _is_stale(self, rejected_seconds: float) -> bool:
        """Whether a restart may help. Each one that does not makes the kubelet wait for longer.

        That the key was not replaced proves nothing: the version that was read first may have been
        the new key's already, while this process was started with the old one.
        """
        if await self._key_is_replaced():
            return True
        return (
            rejected_seconds >= self._limits.token_rejected_seconds
            and self._clock.monotonic() - self._began >= self._limits.token_restart_seconds
        )

    async def list_once(self) -> None:
        """Takes one listing. A failure is reported to readiness, not raised."""
        try:
            await self._list()
        finally:
            self._asked.set()

    async def _list(self) -> None:
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
        self.take(listing)

    def take(self, listing: Listing) -> None:
        """Takes in a listing, which the sweep may have asked for."""
        if self.listings and listing.requested_at <= self.listings[-1].requested_at:
            return
        say = self._readiness.say
        self._rejected_since = None
        say(Reason.CREDENTIALS_REJECTED, None)
        say(Reason.PROVIDER_UNAVAILABLE, None)
        self._time = joined(
            self._time,
            listing,
            wall=self._clock.now(),
            monotonic=self._clock.monotonic(),
            bound_seconds=self._limits.clock_skew_seconds,
        )
        say(Reason.CLOCK_SKEW, self._time.problem or None)
        if not self._time.is_evidence:
            return
        self.listings = self.listings.and_then(listing)
        self._judge_credit()
        self._on_listing()

    def credit_refused(self) -> None:
        """Records that a rent request was refused because the account has too little credit."""
        self._refusal = CreditRefusal(self._clock.monotonic(), self.credit_usd)
        self._judge_credit()

    def judge_account(self, nodes: Iterable[GpuNode]) -> None:
        """Reports machines that belong to another account than the one listed last."""
        if self.account_id is not None:
            problem = account_problem(nodes, self.account_id)
            self._readiness.say(Reason.ACCOUNT_CHANGED, problem)

    @property
    def credit_usd(self) -> Fraction | None:
        """The account's credit in the latest listing; None if that does not say."""
        return self.listings[-1].credit_usd if self.listings else None

    def _judge_credit(self) -> None:
        problem = credit_problem(self.credit_usd, self._refusal, self._clock.monotonic())
        self._readiness.say(Reason.CREDIT_EXHAUSTED, problem)
