"""The API key is refused: the leader ends where a new start may read another key."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from tests.simulation.model import Chance, ModelKube, ModelProvider
from tests.simulation.process import Calls, Process
from tests.simulation.world import MARKET, SETTINGS, play

from gpujob.adapters.errors import CredentialsRejected
from gpujob.controller.market_watch import MarketWatch, TokenStale
from gpujob.controller.readiness import Readiness
from gpujob.core.market.listings import Listing
from vastsim.market import Market, Timing

LIMITS = SETTINGS.limits


class Refusing(ModelProvider):
    """Takes no key."""

    async def list_leases(self) -> Listing:
        raise CredentialsRejected("status 401")


def always(answer: bool | None) -> Callable[[], Awaitable[bool | None]]:
    """Returns the source of the key, which says this of it."""

    async def said() -> bool | None:
        return answer

    return said


@pytest.mark.parametrize(
    ("is_replaced", "seconds"),
    [
        (True, 0.0),
        # The first version that was read may have been the new key's already.
        (False, LIMITS.token_restart_seconds),
        (None, LIMITS.token_restart_seconds),
    ],
)
def test_a_key_that_stays_refused_is_read_again(is_replaced: bool | None, seconds: float) -> None:
    """At once if it was replaced; else after minutes, whatever the Secret's version says."""

    async def life() -> float:
        chance = Chance(0, level=0.0)
        kube = ModelKube(chance)
        process = Process(Calls(), lambda _: None, lambda _: None)
        vast = process.view(Refusing(Market(MARKET, 0, Timing()), kube, chance))
        market = MarketWatch(
            vast, process.clock, LIMITS, Readiness(), lambda: None, always(is_replaced)
        )
        began = process.clock.monotonic()
        with pytest.raises(TokenStale):
            async with asyncio.timeout(3600):
                await market.run()
        return process.clock.monotonic() - began

    lasted = play(life)

    assert seconds <= lasted <= seconds + LIMITS.poll_seconds
