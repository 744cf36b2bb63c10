"""The provider's thresholds in force: we never break them, and nothing starves behind them."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from itertools import count, pairwise
from typing import Any

import pytest
from tests.simulation.model import Chance, ModelKube, ModelProvider
from tests.simulation.process import Calls, Process
from tests.simulation.world import CLUSTER, MARKET, NAMESPACE, SETTINGS, World, play

from gpujob.api.gpujob import GpuJobSpec
from gpujob.controller.destroys import Destroys
from gpujob.controller.market_watch import MarketWatch
from gpujob.controller.price_watch import PriceWatch
from gpujob.controller.readiness import Readiness
from gpujob.controller.sweep import Sweep
from gpujob.core.market.pace import Kind
from vastsim.market import Ask, Market, Timing

OURS, FOREIGN = 200, 48
"""Machines; the model has two more that are nothing to this cluster."""
TURN_SECONDS = 300.0
"""How long each of the two controllers leads, times `--hours`."""
NEEDS, NAMESPACES = 30, 6
"""Different searches that are waited for all the time, and by how many namespaces."""


def spec(disk_gb: int) -> GpuJobSpec:
    """A job whose search differs by its disk."""
    given: dict[str, Any] = {
        "image": "image",
        "command": ["work"],
        "activeDeadlineSeconds": 1800,
        "gpu": {"models": ["RTX 4090"]},
        "resources": {"diskGB": disk_gb},
        "cost": {"ceiling": "6.00"},
    }
    return GpuJobSpec.model_validate(given)


class Controller:
    """The loops of a leader that ask the provider, without the passes."""

    def __init__(self, kube: ModelKube, provider: ModelProvider) -> None:
        calls = Calls()
        process = Process(calls, lambda _: None, lambda _: None)
        vast, limits = process.view(provider), SETTINGS.limits
        self._calls = calls
        self._kube = process.view(kube)
        self._vast = vast
        self.market = MarketWatch(vast, process.clock, limits, Readiness(), self._on_listing)
        self.prices = PriceWatch(vast, process.clock, limits, lambda _: None)
        self.destroys = Destroys(vast, process.clock)
        self.sweep = Sweep(SETTINGS, process.clock, CLUSTER, process.door, self.market.take)
        self.listed: list[float] = []
        """When each listing was complete."""
        self.tasks: list[asyncio.Task[Any]] = []

    def _on_listing(self) -> None:
        self.listed.append(asyncio.get_running_loop().time())
        self.sweep.show(self.market.listings[-1])

    def start(self) -> None:
        """Starts all loops."""
        self.listing = asyncio.create_task(self.market.run())
        loops = [self.prices.run(), self.destroys.run(), self.sweep.run(self._kube, self._vast)]
        self.tasks = [self.listing, *(asyncio.create_task(one) for one in loops)]

    def check(self) -> None:
        """Listings were complete and came as often as stated, and each was swept."""
        leases = OURS + FOREIGN + 2
        assert {one.machines for one in self.market.listings.moments} == {leases}
        longest = max(later - earlier for earlier, later in pairwise(self.listed))
        bound = SETTINGS.limits.listing_seconds(leases)
        print(f"{leases} machines; a listing each {longest:.1f} s at most, {bound:.1f} s stated")
        # The account is asked about first; an answer takes up to 0.3 s each way.
        assert longest <= bound + Kind.LIST.interval_seconds + 0.6
        assert self._calls.made.count("list_all GpuNode") >= len(self.listed) - 1

    async def end(self) -> None:
        """Ends them."""
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


class Account:
    """A provider's account with many machines."""

    def __init__(self) -> None:
        chance = Chance(0, level=0.0, pauses=(0.01, 0.1, 0.3))
        self.kube = ModelKube(chance)
        self.market = Market(MARKET, 0, Timing())
        self.provider = ModelProvider(self.market, self.kube, chance)
        self._offers = iter(sorted(self.market.offers))

    async def rent(self, number: int, *, label: Callable[[str], str | None]) -> list[int]:
        """Rents machines; the label may name a GpuNode that is made for each."""
        rented = []
        for _ in range(number):
            offer = next(one for one in self._offers if one in self.market.offers)
            body = {"metadata": {"name": f"node-{offer}"}, "spec": {}, "status": {}}
            node = await self.kube.create("GpuNode", NAMESPACE, body)
            ask = Ask("image", 8.0, label(node["metadata"]["uid"]), {}, None, "ssh_direc ssh_proxy")
            lease = self.market.rent(offer, ask, self.provider.now(), boot_seconds=30.0)
            rented.append(lease.number)
        return rented

    def requests(self, method: str, path: str) -> list[float]:
        """When such requests were taken; a part of the path is enough."""
        return [at for at, how, what in self.provider.received if how == method and path in what]


async def asking(controller: Controller, seconds: float) -> None:
    """Many jobs of many namespaces want prices all the time."""
    loop, turn = asyncio.get_running_loop(), count()
    until = loop.time() + seconds
    while loop.time() < until:
        number = next(turn) % NEEDS
        controller.prices.quotes(spec(20 + number), namespace=str(number % NAMESPACES))
        await asyncio.sleep(1.0)


def test_250_machines_and_two_controllers_break_no_threshold(pytestconfig: pytest.Config) -> None:
    """Listings stay complete and frequent, each is swept, and 200 destroys go before all else.

    This plays twenty virtual minutes; `--hours 6` plays one hour.
    """
    turn: float = pytestconfig.getoption("hours") * TURN_SECONDS

    async def life() -> None:
        account = Account()
        refusals = account.provider.thresholds.refusals
        ours = await account.rent(OURS, label=lambda uid: f"{CLUSTER}/{uid}/job")
        await account.rent(FOREIGN, label=lambda _: None)
        for _ in range(2):
            # The second one begins at the moment in which the first one ends.
            controller = Controller(account.kube, account.provider)
            controller.start()
            await asking(controller, turn)
            controller.check()
            await controller.end()
        searches = len(account.requests("POST", "bundles"))
        print(f"{searches} searches in {2 * turn:.0f} s, {dict(refusals)} refused")
        assert not refusals

        controller.start()
        await asyncio.sleep(60.0)
        began, asked_at = account.provider.now(), asyncio.get_running_loop().time()
        for number in ours:
            controller.destroys.ask(number)
        controller.prices.quotes(spec(999), namespace="late", is_ready=True)
        while len(account.requests("DELETE", "instances")) < OURS:
            await asyncio.sleep(1.0)
        took = asyncio.get_running_loop().time() - asked_at
        least = OURS * Kind.DESTROY.interval_seconds
        print(f"{OURS} destroys sent in {took:.0f} s; the thresholds allow {least:.0f} s")
        assert took <= 1.1 * least
        # One search may have left already, and one that leaves last may overtake the last destroy.
        last = account.requests("DELETE", "instances")[-1]
        assert not [at for at in account.requests("POST", "bundles") if began + 1 < at < last - 1]
        during = [at for at in controller.listed if at > asked_at]
        longest = max(later - earlier for earlier, later in pairwise([asked_at, *during]))
        assert longest <= 2 * SETTINGS.limits.listing_seconds(OURS + FOREIGN + 2)
        assert not refusals
        await asyncio.sleep(60.0)
        assert [at for at in account.requests("POST", "bundles") if at > began]
        await controller.end()

    play(life)


def test_the_sweep_lists_by_itself_when_nobody_else_does() -> None:
    """The market's loop hangs: an orphan is destroyed all the same."""

    async def life() -> None:
        account = Account()
        controller = Controller(account.kube, account.provider)
        controller.start()
        await asyncio.sleep(60.0)
        controller.listing.cancel()
        (orphan,) = await account.rent(1, label=lambda _: f"{CLUSTER}/nobody/job")
        began = asyncio.get_running_loop().time()
        while account.market.leases[orphan].state != "destroyed":
            await asyncio.sleep(1.0)
        took = asyncio.get_running_loop().time() - began
        limits = SETTINGS.limits
        assert took <= limits.list_lag_seconds + 4 * limits.sweep_seconds
        shown = controller.market.listings[-1].leases
        assert orphan in {one.instance_id for one in shown}, "what it lists serves others as well"
        await controller.end()

    play(life)


def test_machines_that_stay_keep_nobody_from_renting() -> None:
    """Their destroys are repeated ever less often, and searches go on between them."""

    async def life() -> None:
        account = Account()
        controller = Controller(account.kube, account.provider)
        controller.start()
        stays = await account.rent(12, label=lambda _: None)
        before = len(account.requests("POST", "bundles"))
        for _ in range(80):
            for number in stays:
                controller.destroys.ask(number)
            controller.prices.quotes(spec(20), namespace="team")
            await asyncio.sleep(15.0)
        searches = len(account.requests("POST", "bundles")) - before
        assert searches >= 20
        assert len(account.requests("DELETE", "instances")) >= 12 * 8
        await controller.end()

    play(life)


def test_jobs_that_start_run_and_end_together_break_no_threshold(
    pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With all their passes, and a leader that is replaced while they run.

    This plays 12 jobs for four virtual minutes; `--hours 33` plays 198 for more than one hour.
    """
    hours: float = pytestconfig.getoption("hours")
    limits = replace(
        SETTINGS.limits, max_leases=300, max_usd_per_hour="10000", max_destroy_lag_seconds=3600
    )
    monkeypatch.setattr("tests.simulation.world.SETTINGS", replace(SETTINGS, limits=limits))
    names = [f"job-{number}" for number in range(int(6 * hours))]
    offers = tuple(
        replace(one, machine_id=one.machine_id + 10**5 * copy, host_id=one.host_id + 10**5 * copy)
        for copy in range(5)
        for one in MARKET
    )

    async def life() -> None:
        chance = Chance(0, level=0.0, pauses=(0.01, 0.1, 0.3))
        world = World(chance, run_seconds=10.0**5, offers=offers)
        for name in names:
            await world.apply(name, gpu={}, activeDeadlineSeconds=50_000, cost={"ceiling": "60.00"})

        def running() -> bool:
            return all(world.reason(name) == "Running" for name in names)

        await world.until(running, 300 + 10 * len(names))
        await world.restart(next(n for n, one in enumerate(world.replicas) if one.lock.is_held))
        await world.go_on(109 * hours)
        assert running(), world.summary()
        assert [job.status.attempt for job in world.jobs().values()] == [1] * len(names)
        for name in names:
            world.kube.delete_now("GpuJob", NAMESPACE, name)
        began = asyncio.get_running_loop().time()
        await world.until(lambda: not world.living(), 300 + 5 * len(names))
        took = asyncio.get_running_loop().time() - began
        refusals = dict(world.vast.thresholds.refusals)
        print(f"{len(names)} jobs; {refusals} refused; all destroyed in {took:.0f} s")
        assert not refusals
        await world.end()

    play(life)


def test_five_equal_jobs_get_five_machines_at_the_first_try() -> None:
    """None is offered what another has asked for, and rents keep the pace."""

    async def life() -> None:
        world = World(Chance(0, level=0.0), seed=0, run_seconds=600.0)
        names = [f"job-{number}" for number in range(5)]
        for name in names:
            await world.apply(name)
        await world.until(lambda: all(world.reason(name) == "Running" for name in names), 600)
        rents = [at for at, how, what in world.vast.received if "/asks/" in what]

        assert [job.status.attempt for job in world.jobs().values()] == [1] * 5
        assert len(rents) == 5
        assert min(later - earlier for earlier, later in pairwise(rents)) >= 4.5
        assert not world.vast.thresholds.refusals
        await world.end()

    play(life)
