"""The provider's word for a machine flickers: that ends no attempt while the driver reaches it."""

import asyncio

import pytest
from tests.simulation.model import Chance
from tests.simulation.world import SETTINGS, World, play

WORDS = ("offline", "unknown", "exited", "stopped", "created", "loading", None)
"""What is shown now and then of a machine that runs (vastsim/FACTS.md, Instance states)."""
FLICKERS = (20.0, 100.0, 600.0)
"""How long it lasts, in seconds: one listing, several, and longer than what is waited for
without a driver's word."""


def test_a_job_outlives_every_flicker(pytestconfig: pytest.Config) -> None:
    """The driver is in contact all the time: one attempt, on one machine."""
    hours: int = pytestconfig.getoption("hours")

    async def life() -> None:
        world = World(Chance(0, level=0.0), seed=0, run_seconds=hours * 3600, exit_codes=(0,))
        seconds = (hours + 1) * 3600
        await world.apply("train", activeDeadlineSeconds=seconds, cost={"ceiling": "60.00"})
        await world.until(lambda: world.reason("train") == "Running", 600)
        for lease in world.market.leases.values():
            world.market.change(lease.number, dies_at=None)
        turn = 0
        while world.reason("train") == "Running":
            world.vast.word = WORDS[turn % len(WORDS)]
            await world.go_on(FLICKERS[turn // len(WORDS) % len(FLICKERS)])
            world.vast.word = "running"
            await world.go_on(60)
            turn += 1
        await world.until(world.is_over, 3600)

        job = world.jobs()["train"]
        assert turn > len(WORDS) * len(FLICKERS), "each was played"
        assert [one.reason for one in job.status.attempts] == ["Completed"]
        await world.end()

    play(life)


def test_a_host_that_is_dead_is_given_up_within_the_patience() -> None:
    """Driver and provider agree: it is waited for no longer than half of what was paid for."""

    async def life() -> None:
        world = World(Chance(0, level=0.0), seed=0, run_seconds=7200, exit_codes=(0,))
        await world.apply("train", activeDeadlineSeconds=10_000, cost={"ceiling": "20.00"})
        await world.until(lambda: world.reason("train") == "Running", 600)
        now = asyncio.get_running_loop().time
        ran_at = now()
        (number,) = world.living()
        world.market.change(number, dies_at=None)
        await world.go_on(1200)
        died_at = now()
        world.market.change(number, dies_at=0.0)
        await world.until(lambda: world.jobs()["train"].status.attempts != (), 1200)
        waited = now() - died_at

        (first,) = world.jobs()["train"].status.attempts
        assert first.reason == "HostLost"
        booted_within = 600
        most = (died_at - ran_at + booted_within) / 2 + 2 * SETTINGS.limits.poll_seconds
        assert (died_at - ran_at) / 2 <= waited <= most
        await world.end()

    play(life)
