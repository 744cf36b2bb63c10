"""Who keeps whom from a machine: one namespace itself alone, two of them everybody."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from tests.builders import NOW
from tests.simulation.model import Chance, ModelKube
from tests.simulation.world import MARKET, SETTINGS, World, play

from gpujob.controller.machine_book import MachineBook
from gpujob.core.job.end import is_finished
from gpujob.core.market.hosts import TRUST_MIN, Trial

BOOK = ("ConfigMap", SETTINGS.namespace, "gpujob-machines")
GOOD = next(one for one in MARKET if one.gpu_name == "RTX 4090" and one.verification == "verified")
CHEAP = replace(
    GOOD, machine_id=100, host_id=10, dph_base="0.20", inet_up_cost="0", inet_down_cost="0"
)
OFFERS = (CHEAP, *(replace(CHEAP, machine_id=200 + n, host_id=20, dph_base="0.60") for n in (1, 2)))
"""The price of an hour is most of what a job costs, and nobody pays three times of it for a little
doubt."""


async def _runs(world: World, name: str, namespace: str) -> tuple[int, str]:
    """Runs a job of one attempt; returns the machine that it had, and how it ended."""
    await world.apply(name, namespace, maxRents=1)
    await world.until(lambda: is_finished(world.jobs()[name].status), 4000.0)
    (attempt,) = world.jobs()[name].status.attempts
    assert attempt.machine_id is not None
    return attempt.machine_id, attempt.reason


async def _accuse(world: World, namespace: str) -> None:
    """Three ends by which a tenant makes a machine out to be broken."""
    world.drivers.accusing = {namespace}
    for number in range(3):
        told = await _runs(world, f"{namespace}-{number}", namespace)
        assert told == (CHEAP.machine_id, "MachineBroken")
    world.drivers.accusing = set()


async def _again(world: World) -> None:
    """Another leader knows it by what is stored."""
    later = [asyncio.create_task(world.restart(n, 20.0)) for n in range(len(world.replicas))]
    await world.go_on(30.0)
    await asyncio.gather(*later)


@pytest.mark.parametrize("is_restarted", [False, True])
def test_a_tenant_keeps_himself_from_a_machine_and_nobody_else(is_restarted: bool) -> None:
    """Until a second one has the same to say of it: then it is left alone by all."""

    async def life() -> None:
        world = World(Chance(0, level=0.0), run_seconds=30.0, offers=OFFERS)
        await _accuse(world, "a")
        if is_restarted:
            await _again(world)
        assert await _runs(world, "honest-c", "c") == (CHEAP.machine_id, "Completed")
        assert (await _runs(world, "honest-a", "a"))[0] != CHEAP.machine_id
        await _accuse(world, "b")
        if is_restarted:
            await _again(world)
        for whose in ("a", "b", "d"):
            assert (await _runs(world, f"late-{whose}", whose))[0] != CHEAP.machine_id
        world.check_end()
        await world.end()

    play(life)


async def _stored(data: dict[str, str]) -> tuple[MachineBook, ModelKube]:
    kube = ModelKube(Chance(0, level=0.0))
    await kube.create("ConfigMap", BOOK[1], {"metadata": {"name": BOOK[2]}, "data": data})
    book = MachineBook(kube, SETTINGS)
    await book.load()
    return book, kube


ENTRY = '{"hostID":10,"failures":3,"successes":0,"at":"2026-01-01T00:00:00Z"}'


def _trial(namespace: str, **changed: Any) -> Trial:
    trial = Trial(
        machine_id=7,
        host_id=3,
        namespace=namespace,
        node_uid="n-9",
        at=NOW,
        failed=True,
        reason="MachineBroken",
    )
    return replace(trial, **changed)


def test_whose_word_it_was_is_stored() -> None:
    """For each namespace an entry of its own, under a key that kubectl shows."""

    async def told() -> None:
        book, kube = await _stored({})
        for number in range(3):
            for whose in ("a", "b-2"):
                await book.remember(_trial(whose, node_uid=f"{whose}-{number}"))
        assert {"machine-7.a", "machine-7.b-2"} <= set(kube.objects[BOOK]["data"])
        another = MachineBook(kube, SETTINGS)
        await another.load()
        assert another.memory == book.memory
        assert another.memory.trust(7, 3, "c", NOW) < TRUST_MIN

    play(told)


def test_what_was_stored_without_a_namespace_counts_for_all_until_it_fades() -> None:
    """What an earlier release has learnt is kept, beside what is learnt from now on."""

    async def told() -> None:
        book, kube = await _stored({"machine-7": ENTRY, "machine-8.": ENTRY, "machine-x.a": ENTRY})
        since = book.memory.records[7, ""].at
        for whose in ("a", "b"):
            assert book.memory.trust(7, 10, whose, since) < TRUST_MIN
            assert book.memory.trust(7, 10, whose, since + timedelta(days=3)) > TRUST_MIN
        await book.remember(_trial("a"))
        assert {"machine-7", "machine-7.a"} <= set(kube.objects[BOOK]["data"])
        assert "machine-x.a" not in kube.objects[BOOK]["data"]

    play(told)
