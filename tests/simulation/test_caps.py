"""A burst of jobs against the operator's own caps: the provider's ledger never shows more."""

from dataclasses import replace
from fractions import Fraction
from functools import partial
from typing import Any

import pytest
from tests.simulation.model import Chance
from tests.simulation.world import MARKET, NAMESPACE, SETTINGS, World, key_of, play

from gpujob.api.gpunode import GpuNode
from gpujob.controller.cache import WATCHED
from gpujob.controller.reconcile import Reconciler
from gpujob.controller.workqueue import Key
from gpujob.core.node.stage import Stage, stage_of

OFFERS = tuple(
    replace(one, machine_id=one.machine_id + 10**5 * copy, host_id=one.host_id + 10**5 * copy)
    for copy in range(3)
    for one in MARKET
)


def cap(monkeypatch: pytest.MonkeyPatch, **limits: Any) -> None:
    """Sets the operator's caps in worlds that begin later; each of them checks these itself."""
    capped = replace(SETTINGS, limits=replace(SETTINGS.limits, **limits))
    monkeypatch.setattr("tests.simulation.world.SETTINGS", capped)


def _has(world: World, machines: int) -> bool:
    return len(world.living()) >= machines


async def burst(jobs: int, *, list_lag: float, kills: int = 0, is_watched: bool = True) -> World:
    """Jobs that run for days come at once; the leader is killed right after some of its rents."""
    chance = Chance(0, level=0.0, list_lag=list_lag, pauses=(0.01, 0.1, 0.3))
    world = World(chance, run_seconds=10.0**6, offers=OFFERS)
    if not is_watched:
        world.weather.interrupted.update(WATCHED)
    for number in range(jobs):
        asked = {"gpu": {}, "activeDeadlineSeconds": 50_000, "cost": {"ceiling": "60.00"}}
        await world.apply(f"job-{number}", **asked)
    for _ in range(kills):
        # The new machine is listed nowhere, and who has asked for it is gone.
        more = len(world.living()) + 1
        await world.until(partial(_has, world, more), 300)
        await world.restart(next(n for n, one in enumerate(world.replicas) if one.lock.is_held))
    return world


@pytest.mark.parametrize(("list_lag", "kills"), [(0.0, 0), (50.0, 2)])
def test_a_burst_of_jobs_gets_as_many_machines_as_the_cap(
    list_lag: float, kills: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No more, however late they are listed and whoever rented them; and no fewer."""
    cap(monkeypatch, max_leases=5, max_usd_per_hour="10000")

    async def life() -> None:
        world = await burst(20, list_lag=list_lag, kills=kills)
        await world.until(lambda: len(world.living()) == 5, 600)
        # Longer than the list lag and than the wait of those that were refused.
        await world.go_on(100.0)
        assert len(world.living()) == 5
        await world.end()

    play(life)


def test_a_burst_of_jobs_costs_no_more_an_hour_than_the_cap(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is on its way counts with the price of its offer."""
    cap(monkeypatch, max_usd_per_hour="1.50")

    async def life() -> None:
        world = await burst(20, list_lag=50.0, kills=1)
        await world.until(lambda: world.usd_per_hour() > 1, 600)
        await world.go_on(100.0)
        rate = world.usd_per_hour()
        print(f"{len(world.living())} machines at {float(rate):.2f} $/h")
        assert 1 < rate <= Fraction("1.5")
        assert "LeaseLimit" in {world.reason(name) for name in world.jobs()}
        await world.end()

    play(life)


def test_a_new_leader_counts_what_the_one_before_it_has_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No watch has shown it the marker, no pass has come to that job or node, and no listing shows
    the machine yet.
    """
    cap(monkeypatch, max_leases=1)

    async def life() -> None:
        world = await burst(3, list_lag=50.0, kills=1, is_watched=False)
        (node,) = (one for one in world.kube.of_kind("GpuNode") if "rent" in one["status"])
        marked = {key_of(node), Key("GpuJob", NAMESPACE, node["spec"]["jobRef"]["name"])}
        truly = Reconciler.reconcile

        async def others(reconciler: Reconciler, key: Key) -> None:
            if key not in marked:
                await truly(reconciler, key)

        monkeypatch.setattr(Reconciler, "reconcile", others)
        await world.go_on(60.0)
        assert len(world.living()) == 1
        assert "LeaseLimit" in {world.reason(name) for name in world.jobs()}
        await world.end()

    play(life)


def test_jobs_that_are_deleted_right_after_their_rent_free_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Their machines count until they are proved gone. Elsewhere, whoever applied and deleted again
    and again got any number (https://github.com/kubernetes-sigs/karpenter/issues/2854).
    """
    cap(monkeypatch, max_leases=2)

    async def life() -> None:
        world = await burst(2, list_lag=50.0)
        for number in range(2, 8):
            await world.until(partial(_has, world, 1), 600)
            world.kube.delete_now("GpuJob", NAMESPACE, next(iter(world.jobs())))
            await world.apply(f"job-{number}")
            await world.go_on(20.0)
        assert len({lease.ask.label for lease in world.market.leases.values()}) >= 4
        await world.end()

    play(life)


def test_a_driver_that_is_ready_is_recorded_although_its_rent_has_to_wait() -> None:
    """A new leader, which has heard no driver yet, would take it for one that never reported."""

    async def life() -> None:
        world = World(Chance(0, level=0.0), run_seconds=60.0)
        ready: set[str] = set()

        def note(kind: str, body: dict[str, Any], gone: bool, _: Any) -> None:
            if kind == "GpuNode" and not gone:
                node = world.kube.read(GpuNode, body)
                if stage_of(node.status) is Stage.READY_TO_RENT:
                    ready.add(node.metadata.name)

        world.kube.on_write.append(note)
        for number in range(6):
            await world.apply(f"job-{number}")
        await world.until(world.is_over, 3000)

        # One rents at once. For the others another rent is under way.
        assert len(ready) >= 4
        await world.end()

    play(life)
