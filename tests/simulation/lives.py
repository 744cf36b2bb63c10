"""Lives of one job in a calm world, each to be disturbed at every call that the operator makes."""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from tests.simulation.model import STOPPED_SECONDS, Calls, Chance
from tests.simulation.world import NAMESPACE, SETTINGS, World, play

from gpujob.core.job_plan import is_finished

JOB = ("GpuJob", NAMESPACE, "train")
NODE = ("GpuNode", NAMESPACE, "train-0-1")
PATIENCE_SECONDS = 4 * 3600.0
OWNERLESS_SECONDS = (
    SETTINGS.limits.list_lag_seconds
    + SETTINGS.limits.sweep_seconds
    + SETTINGS.limits.lock_duration_seconds
    + 15
)
"""From a leak to its destroy: the list lag and one sweep, by a leader that may have to take over
first; and a few calls and steps of the simulation."""


async def _nothing(_: World) -> None:
    return


@dataclass(frozen=True)
class Life:
    """What happens to the job, and how it ends if nothing goes wrong."""

    ends: str | None
    """Its last reason; None = it is deleted."""
    story: Callable[[World], Awaitable[None]] = _nothing
    spec: dict[str, Any] = field(default_factory=dict)
    exit_codes: tuple[int, ...] = (0,)
    run_seconds: float = 40.0
    list_lag: float = 0.0


async def _reach(world: World, *reasons: str) -> None:
    """Waits for a reason, or for the end of the job."""
    while (job := world.jobs().get("train")) is not None:
        if is_finished(job.status) or world.reason("train") in reasons:
            return
        await asyncio.sleep(1)


async def _suspended(world: World) -> None:
    await _reach(world, "Running")
    world.kube.change(*JOB, suspend=True)
    await _reach(world, "Suspended")
    await asyncio.sleep(30)
    world.kube.change(*JOB, suspend=False)


async def _deleted_while_booting(world: World) -> None:
    await _reach(world, "Booting")
    world.kube.delete_now(*JOB)


async def _node_deleted(world: World) -> None:
    await _reach(world, "Running")
    world.kube.delete_now(*NODE)


async def _node_vanished(world: World) -> None:
    await _reach(world, "Running")
    with suppress(KeyError):
        world.kube.vanish(*NODE)


async def _recreated(world: World) -> None:
    """By force, and at once again under the same name, while its machine runs."""
    await _reach(world, "Running")
    world.kube.vanish(*JOB)
    await world.apply("train")


async def _namespace_deleted(world: World) -> None:
    await _reach(world, "Running")
    world.kube.terminate(NAMESPACE)


async def _leader_stopped(world: World) -> None:
    await _reach(world, "Booting")
    for replica in world.replicas:
        if replica.lock.is_held:
            replica.process.stop()
            asyncio.get_running_loop().call_later(STOPPED_SECONDS, replica.process.resume)


def _taken_away(back_after: float | None) -> Callable[[World], Awaitable[None]]:
    """While it runs, somebody bids more; the machine comes back, or never does."""

    async def story(world: World) -> None:
        await _reach(world, "Running")
        market, now = world.market, world.vast.now()
        for number in world.living():
            market.outbid(number, now)
            if back_after is not None:
                market.change(number, resumes_at=now + back_after)

    return story


BIDS = {"market": {"type": "Interruptible"}}

LIVES = {
    "plain": Life("Complete"),
    "listed late": Life("Complete", list_lag=55.0),
    "retried": Life("Complete", exit_codes=(1, 0)),
    "suspended": Life("Complete", _suspended),
    "deleted while booting": Life(None, _deleted_while_booting),
    "deadline": Life("DeadlineExceeded", spec={"activeDeadlineSeconds": 20}, run_seconds=60.0),
    "two leaders": Life("Complete", _leader_stopped),
    "namespace deleted": Life(None, _namespace_deleted),
    "node deleted": Life("Complete", _node_deleted),
    "node vanished": Life("CeilingExceeded", _node_vanished),
    "recreated": Life("Complete", _recreated),
    "outbid and back": Life("Complete", _taken_away(300), BIDS),
    "outbid for good": Life("Complete", _taken_away(None), BIDS),
}


async def _lived(life: Life, strikes: dict[int, str]) -> World:
    world = World(
        Chance(0, level=0.0, list_lag=life.list_lag),
        run_seconds=life.run_seconds,
        exit_codes=life.exit_codes,
        calls=Calls(strikes),
    )
    await world.apply("train", **life.spec)
    story = asyncio.ensure_future(life.story(world))

    def is_over() -> bool:
        # Refused for what an earlier attempt has cost, a job waits for a higher ceiling for ever.
        stays = world.reason("train") == "CeilingExceeded" and not world.living()
        return story.done() and (stays or world.is_over())

    await world.until(is_over, PATIENCE_SECONDS)
    story.result()
    await world.end()
    return world


def live(name: str, strikes: dict[int, str] | None = None) -> World:
    """Plays a life with faults at these calls and returns the world at its end."""
    world: World = play(lambda: _lived(LIVES[name], strikes or {}))
    return world


def main() -> None:
    """Plays one life with the log shown: `LIFE [CALL=FAULT …]`."""
    name, *given = sys.argv[1:]
    pairs = (one.partition("=") for one in given)
    world = live(name, {int(number): fault for number, _, fault in pairs})
    print(f"{world.summary()}; {len(world.calls.made)} calls")
    print(f"longest without an owner: {world.longest_ownerless:.0f} s")


if __name__ == "__main__":
    main()
