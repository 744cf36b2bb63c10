"""What passes are told of the market: recent offers, why there are none, or that it is asked."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from tests.simulation.model import Chance
from tests.simulation.process import VirtualClock
from tests.simulation.world import MARKET, SETTINGS, World, play

from gpujob.adapters.channel import Answer
from gpujob.adapters.errors import ProviderUnavailable, SearchQuotaExhausted
from gpujob.adapters.redact import Scrubber
from gpujob.adapters.vast import VastRequests
from gpujob.api.gpujob import GpuJobSpec
from gpujob.api.reasons import Reason
from gpujob.controller.price_watch import QUOTA_SECONDS, TAKEN_SECONDS, PriceWatch
from gpujob.controller.workqueue import Key
from gpujob.core.market.offers import Demand, Quotes
from gpujob.core.observation import Unavailable
from vastsim.market import Market, Timing
from vastsim.search import search
from vastsim.wire import offer_row

JOB = Key("GpuJob", "team", "train")


def spec(**changes: Any) -> GpuJobSpec:
    """A job for one RTX 4090, with these fields in place of the ordinary ones."""
    given: dict[str, Any] = {
        "image": "image",
        "command": ["work"],
        "activeDeadlineSeconds": 1800,
        "gpu": {"models": ["RTX 4090"]},
        "cost": {"ceiling": "6.00"},
    }
    return GpuJobSpec.model_validate(given | changes)


class Bourse:
    """The simulator's search over a fixed market, as a channel of the operator's own client."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.offers = Market(MARKET, 0, Timing()).offers
        self.asked: list[Mapping[str, Any]] = []
        self.problem: Exception | None = None
        self.ignored: set[str] = set()
        """Filters without effect."""
        self.told: list[Key] = []
        vast: Any = VastRequests(self, self.clock, Scrubber())
        self.prices = PriceWatch(vast, self.clock, SETTINGS.limits, self.told.append)

    async def request(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        query: Mapping[str, str] | None = None,
    ) -> Answer:
        """Answers a search."""
        asked = dict(body or {})
        self.asked.append(asked)
        await asyncio.sleep(0.5)
        if self.problem is not None:
            raise self.problem
        now = self.clock.now()
        rows = [offer_row(number, facts, now.timestamp()) for number, facts in self.offers.items()]
        filters = {name: value for name, value in asked.items() if name not in self.ignored}
        found = {"offers": search(rows, filters, 64)}
        return Answer(found, {"Date": format_datetime(now, usegmt=True)})

    def ask(self, wanted: GpuJobSpec, key: Key = JOB) -> Quotes | Unavailable | None:
        """Asks as a pass does."""
        return self.prices.quotes(wanted, namespace=key.namespace, key=key)

    def told_offers(self, wanted: GpuJobSpec) -> Quotes:
        """Asks again, and is told offers."""
        found = self.ask(wanted)
        assert isinstance(found, Quotes), found
        return found


def tried(story: Callable[[Bourse], Awaitable[None]]) -> None:
    """Plays a story in virtual time."""

    async def life() -> None:
        market = Bourse()
        running = asyncio.create_task(market.prices.run())
        await story(market)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    play(life)


def test_a_pass_is_told_when_the_answer_has_come() -> None:
    """Nobody waits for it, and all who need the same share it."""

    async def story(market: Bourse) -> None:
        other = Key("GpuJob", "team", "other")
        assert market.ask(spec()) is None
        assert market.ask(spec(cost={"ceiling": "1.00"}), other) is None
        await asyncio.sleep(1)

        assert set(market.told) == {JOB, other}
        found = market.told_offers(spec())
        assert found.offers
        assert len(market.asked) == 1

    tried(story)


def test_an_answer_is_used_for_half_the_age_of_a_decision() -> None:
    """Then the market is asked again."""

    async def story(market: Bourse) -> None:
        market.ask(spec())
        await asyncio.sleep(SETTINGS.limits.quote_age_seconds / 2)
        assert market.told_offers(spec()).offers
        await asyncio.sleep(2)
        assert market.ask(spec()) is None
        await asyncio.sleep(1)
        assert market.told_offers(spec()).offers
        assert len(market.asked) == 2

    tried(story)


def test_what_one_rent_asked_for_is_offered_to_no_other() -> None:
    """Nor another offer of the same machine, until a later search shows that one."""

    async def story(market: Bourse) -> None:
        market.ask(spec())
        await asyncio.sleep(1)
        before = market.told_offers(spec())
        first = before.offers[0]
        market.prices.take(first.offer_id, first.machine_id)
        after = market.told_offers(spec())
        taken = {one.offer_id for one in before.offers} - {one.offer_id for one in after.offers}
        siblings = [one for one in before.offers if one.machine_id == first.machine_id]
        assert taken == {one.offer_id for one in siblings}
        await asyncio.sleep(40)
        market.ask(spec())
        await asyncio.sleep(1)
        later = market.told_offers(spec())
        assert first.offer_id not in {one.offer_id for one in later.offers}
        assert len(later.offers) == len(before.offers) - 1
        # The request may never have arrived: in a small market there is nothing else.
        await asyncio.sleep(TAKEN_SECONDS)
        market.ask(spec())
        await asyncio.sleep(1)
        assert len(market.told_offers(spec()).offers) == len(before.offers)

    tried(story)


def test_what_nobody_asks_for_any_more_is_not_searched_for() -> None:
    """Deleted jobs, and estimates that were given up, leave the searches to others."""

    async def story(market: Bourse) -> None:
        for size in range(200):
            market.ask(spec(resources={"diskGB": 20 + size}))
        for _ in range(30):
            await asyncio.sleep(10)
            market.ask(spec(resources={"diskGB": 999}))
        disks = [one["allocated_storage"] for one in market.asked]
        assert 999 in disks
        assert len(disks) < 30

    tried(story)


def test_large_machines_are_found_behind_pages_of_small_ones() -> None:
    """The provider ignores filters, so that each page is full of offers that do not fit."""

    async def story(market: Bourse) -> None:
        market.ignored = {"gpu_ram", "num_gpus"}
        wanted = spec(gpu={"memoryGB": 90, "count": 1})
        for _ in range(300):
            if (found := market.ask(wanted)) is not None:
                break
            await asyncio.sleep(1)
        assert isinstance(found, Quotes)
        assert any(Demand(wanted).mismatch(offer) is None for offer in found.offers)
        assert len(market.asked) > 1
        assert {one["gpu_ram"]["gte"] for one in market.asked} == {90 * 1024 * 0.93}

    tried(story)


@pytest.mark.parametrize("ignored", [set(), {"dph_total"}])
def test_a_market_without_a_fit_is_not_asked_for_ever(ignored: set[str]) -> None:
    """It has six pages, or one, again and again, if it ignores where to go on."""

    async def story(market: Bourse) -> None:
        market.ignored = {"gpu_ram", "num_gpus", *ignored}
        wanted = spec(gpu={"memoryGB": 2000, "count": 1})
        for _ in range(120):
            found = market.ask(wanted)
            await asyncio.sleep(1)
        assert isinstance(found, Quotes)
        first = [one for one in market.asked if "dph_total" not in one]
        assert len(first) == 1
        # Only the last page is asked for again, as it grows old.
        assert len(market.asked) <= 6 + 120 / 30

    tried(story)


def test_a_failed_search_says_why_and_is_repeated() -> None:
    """The reason goes to all who wait."""

    async def story(market: Bourse) -> None:
        market.problem = ProviderUnavailable("no answer")
        market.ask(spec())
        await asyncio.sleep(1)
        failed = market.ask(spec())
        assert isinstance(failed, Unavailable)
        assert failed.reason is Reason.PROVIDER_UNAVAILABLE
        assert "no answer" in failed.message
        assert market.told == [JOB]
        market.problem = None
        await asyncio.sleep(10)
        assert market.ask(spec()) is None
        await asyncio.sleep(1)
        assert market.told_offers(spec()).offers

    tried(story)


def test_a_search_that_goes_on_failing_is_told() -> None:
    """In the job's status and by a warning: else nobody knows why nothing is rented."""

    async def life() -> None:
        world = World(Chance(0, level=0.0), run_seconds=60.0)
        world.vast.lies.add("searches refused")
        await world.apply("train")
        await world.until(lambda: world.reason("train") == "ProviderUnavailable", 120)
        await world.go_on(60)
        assert world.reason("train") == "ProviderUnavailable"
        assert world.kube.events_of("ProviderUnavailable")
        world.vast.lies.clear()
        await world.until(world.is_over, 1000)
        assert world.reason("train") == "Complete"
        await world.end()

    play(life)


@pytest.mark.parametrize(("left", "closed"), [(300.0, 300.0), (1e8, QUOTA_SECONDS), (-5.0, 0.0)])
def test_nothing_is_searched_for_once_the_quota_is_used_up(left: float, closed: float) -> None:
    """Until its end, and for a while whatever the provider says of that."""

    async def story(market: Bourse) -> None:
        resets_at = market.clock.now() + timedelta(seconds=left)
        market.problem = SearchQuotaExhausted("no more today", resets_at)
        for size in (20, 30, 40):
            market.ask(spec(resources={"diskGB": size}))
        await asyncio.sleep(1)
        market.problem = None
        shut = 0
        while isinstance(found := market.ask(spec(resources={"diskGB": 99})), Unavailable):
            assert found.reason is Reason.SEARCH_QUOTA_EXHAUSTED
            shut += 1
            await asyncio.sleep(1)
        assert shut == pytest.approx(closed, abs=3)
        assert len(market.asked) == 1

    tried(story)


def test_an_estimate_waits_for_prices() -> None:
    """It answers a person, who cannot be told later."""

    async def story(market: Bourse) -> None:
        assert isinstance(await market.prices.estimate(spec(), "team"), Quotes)
        market.problem = ProviderUnavailable("no answer")
        other = spec(resources={"diskGB": 99})
        assert isinstance(await market.prices.estimate(other, "team"), Unavailable)

    tried(story)


def test_whoever_asks_too_much_is_alone_with_it() -> None:
    """One namespace asks for more than there are searches; another one's question is answered."""

    async def story(market: Bourse) -> None:
        greedy = [
            asyncio.ensure_future(
                market.prices.estimate(spec(resources={"diskGB": 30 + size}), "greedy")
            )
            for size in range(12)
        ]
        await asyncio.sleep(0.1)
        assert isinstance(await market.prices.estimate(spec(), "team"), Quotes)
        told = [isinstance(one, Unavailable) for one in await asyncio.gather(*greedy)]
        assert told.count(True) >= 8, "there is no time for so many"

    tried(story)
