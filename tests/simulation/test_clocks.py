"""A wrong clock ends nothing, charges nothing and rents nothing; and destroys still go out."""

import asyncio
from collections.abc import Callable
from decimal import Decimal

import pytest
from tests.simulation.model import Chance
from tests.simulation.world import NAMESPACE, World, play

DATES = (7200.0, -7200.0, 3e11, None, "frozen")
"""How far the provider's Date is off; the third is of another age, the fourth is missing."""
HOUR = 3600.0
WRONG_SECONDS = 1200.0


def spoil(world: World, date: float | str | None) -> Callable[[], None]:
    """Returns what to do at each step so that the provider's Date is wrong."""
    now = asyncio.get_running_loop().time
    began = now()

    def step() -> None:
        world.vast.ahead_seconds = began - now() if isinstance(date, str) else date

    return step


async def last(world: World, seconds: float, each: Callable[[], None]) -> None:
    """Lets the world go on for a while, with something done at each step."""
    end = asyncio.get_running_loop().time() + seconds
    while asyncio.get_running_loop().time() < end:
        each()
        await world.step()


def skewed(world: World) -> bool:
    """Whether the leader says that a clock is wrong."""
    return any("ClockSkew" in one.readiness.reasons for one in world.replicas if one.lock.is_held)


def spent(world: World) -> Decimal:
    """What the job says that it has cost so far."""
    return Decimal(world.jobs()["train"].status.cost.accrued_usd or "0")


async def running(seconds: float) -> World:
    """Returns a world with one job that runs on a host that does not die."""
    world = World(Chance(0, level=0.0), seed=0, run_seconds=seconds, exit_codes=(0,))
    most = int(seconds) + 600
    await world.apply("train", activeDeadlineSeconds=most, cost={"ceiling": "20.00"})
    await world.until(lambda: world.reason("train") == "Running", 600)
    for lease in world.market.leases.values():
        world.market.change(lease.number, dies_at=None)
    return world


@pytest.mark.parametrize("date", DATES)
def test_a_job_outlives_a_provider_whose_clock_is_wrong(date: float | str | None) -> None:
    """For a while: it runs on, its cost rises as the time does, and nothing else is rented."""

    async def life() -> None:
        world = await running(2 * WRONG_SECONDS)
        await world.go_on(60)
        before = spent(world)
        step = spoil(world, date)
        await last(world, 60, step)
        assert skewed(world)
        await world.apply("later", activeDeadlineSeconds=3000, cost={"ceiling": "20.00"})
        await last(world, WRONG_SECONDS, step)

        assert world.reason("train") == "Running"
        assert world.reason("later") == "ClockSkew"
        (number,) = world.living()
        rate = Decimal(world.market.leases[number].facts.dph_base)
        assert rate / 3 <= spent(world) - before <= rate / 2

        world.vast.ahead_seconds = 0.0
        await world.until(world.is_over, 3 * HOUR)
        assert {world.reason(name) for name in ("train", "later")} == {"Complete"}
        assert len(world.jobs()["train"].status.attempts) == 1
        world.check_end()
        await world.end()

    play(life)


@pytest.mark.parametrize("date", DATES)
def test_a_destroy_goes_out_whatever_the_provider_dates(date: float | str | None) -> None:
    """A deleted job's machine is destroyed, again if the first request came to nothing."""

    async def life() -> None:
        world = await running(2 * WRONG_SECONDS)
        step = spoil(world, date)
        await last(world, 60, step)
        world.vast.deaf = 1
        world.kube.delete_now("GpuJob", NAMESPACE, "train")
        await last(world, 300, step)

        assert not world.living()
        assert world.kube.of_kind("GpuNode"), "no listing has proved it yet"
        world.vast.ahead_seconds = 0.0
        await world.until(lambda: not world.kube.of_kind("GpuJob"), 600)
        await world.end()

    play(life)


@pytest.mark.parametrize("ahead", [HOUR, -HOUR])
def test_a_leader_that_starts_with_a_wrong_clock_ends_nothing(ahead: float) -> None:
    """It cannot know whose clock is wrong; the job runs on until somebody sets it right."""

    async def life() -> None:
        world = await running(2 * WRONG_SECONDS)
        before = spent(world)
        world.ahead_seconds = ahead
        for number in range(len(world.replicas)):
            await world.restart(number)
        await world.go_on(WRONG_SECONDS)

        assert skewed(world)
        assert world.reason("train") == "Running"
        assert before <= spent(world) <= before + 1
        for replica in world.replicas:
            replica.process.clock.set_right()
        await world.until(world.is_over, 3 * HOUR)
        assert world.reason("train") == "Complete"
        assert len(world.jobs()["train"].status.attempts) == 1
        world.check_end()
        await world.end()

    play(life)
