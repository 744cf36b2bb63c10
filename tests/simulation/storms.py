"""Storms: some jobs, two replicas, and faults everywhere by chance, until the world heals."""

import asyncio
import sys

from tests.simulation.model import Chance
from tests.simulation.world import NAMESPACE, REPLICAS, Verdict, World, play

NAMES = ("first", "second", "third")
STORM_SECONDS = (300.0, 600.0, 1500.0)
CALM_SECONDS = 8 * 3600.0
"""Once nothing fails any more, every job must be over within this time."""

KEPT: tuple[int, ...] = ()
"""Seeds that once showed a fault of the operator's; played whatever else is."""


async def _storm(seed: int) -> World:
    chance = Chance(seed)
    storm_seconds = chance.choice(*STORM_SECONDS)
    run_seconds = chance.between(10, chance.choice(60, 240, storm_seconds))
    names = NAMES[: chance.choice(1, 2, 3)]
    exit_code = chance.choice(0, 0, 0, 1)
    world = World(chance, seed=seed, run_seconds=run_seconds, exit_codes=(exit_code,))
    for name in names:
        await world.apply(name, activeDeadlineSeconds=chance.choice(60, 1800, 1800))
    loop = asyncio.get_running_loop()
    while loop.time() < storm_seconds:
        await world.step()
        await _meddle(world, names)
    chance.healed = True
    for replica in world.replicas:
        replica.process.resume()
        replica.process.is_cut_off = False
    for name in names:
        if ("GpuJob", NAMESPACE, name) in world.kube.objects:
            world.kube.change("GpuJob", NAMESPACE, name, suspend=False)
    await world.until(world.is_over, CALM_SECONDS)
    world.check_end()
    await world.end()
    return world


async def _meddle(world: World, names: tuple[str, ...]) -> None:
    """What befalls the processes, and what users do."""
    chance = world.chance
    if chance.strikes(0.01):
        await world.restart(chance.choice(*range(REPLICAS)), chance.between(0, 60))
    if chance.strikes(0.02):
        chance.choice(*world.replicas).process.stop()
    if chance.strikes(0.01):
        chance.choice(*world.replicas).process.is_cut_off = True
    for replica in world.replicas:
        if chance.strikes(0.2):
            replica.process.resume()
        if chance.strikes(0.2):
            replica.process.is_cut_off = False
    if chance.strikes(0.002):
        world.kube.delete_now("GpuJob", NAMESPACE, chance.choice(*names))
    if chance.strikes(0.004):
        name = chance.choice(*names)
        if ("GpuJob", NAMESPACE, name) in world.kube.objects:
            world.kube.change("GpuJob", NAMESPACE, name, suspend=chance.choice(True, False))


def storm(seed: int) -> World:
    """Plays one schedule: a storm, then calm until everything is over; returns the world."""
    world: World = play(lambda: _storm(seed))
    return world


def weathered(seed: int) -> Verdict:
    """Plays one schedule and returns what came of it."""
    try:
        world = storm(seed)
    except Exception as error:  # noqa: BLE001 - whatever ends the operator is a finding
        again = f".venv/bin/python -m tests.simulation.storms {seed}"
        return Verdict(problem=f"{type(error).__name__}: {error}", again=again)
    return world.verdict()


def main() -> None:
    """Plays one schedule with the log shown: `SEED`."""
    world = storm(int(sys.argv[1]))
    print(world.summary())
    print(world.verdict())


if __name__ == "__main__":
    main()
