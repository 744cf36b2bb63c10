"""Lives of one job in a calm world, each to be disturbed at every call that the operator makes."""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from tests.simulation.branches import Branches, Strikes
from tests.simulation.model import Chance
from tests.simulation.process import FAULTS, STOPPED_SECONDS, Broken, Calls
from tests.simulation.world import NAMESPACE, SETTINGS, Verdict, World, play

from gpujob.core.job.end import is_finished
from vastsim.market import FailedPull

JOB = ("GpuJob", NAMESPACE, "train")
NODE = ("GpuNode", NAMESPACE, "train-0-1")
PATIENCE_SECONDS = 4 * 3600.0
STAYS = frozenset({"CeilingExceeded", "MachinesDistrusted", "DeadlineUsedUp"})
"""Refused for what earlier attempts have cost, met or run, a job waits for its user for ever."""
AFTERMATH_SECONDS = 120.0
"""How long it goes on when a process that was stopped for good is let go after all."""
UNMARKED_SECONDS = 300.0
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


UNWANTED_SECONDS = 75.0
"""From the stored end of an attempt to the destroy, in which somebody leads who can send it: one
that is lost or ignored is sent again with the next listing that still shows the machine."""


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
    blind_seconds: float = 0.0
    """How long nobody can see which machines are ours."""
    budgets: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Specs of the GpuBudgets that cover the job, by name."""


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


async def _unmarked(world: World) -> None:
    """The provider shows neither labels nor environments for a while."""
    world.vast.lies.add("marks left out")
    await asyncio.sleep(UNMARKED_SECONDS)
    world.vast.lies.clear()


async def _deadline_raised(world: World) -> None:
    """Beyond what the ceiling pays for."""
    await _reach(world, "Running")
    world.kube.change(*JOB, activeDeadlineSeconds=7 * 86_400)


async def _raised_while_waiting(world: World) -> None:
    """For a longer run, before anything is rented."""
    await _reach(world, "AwaitingDriver")
    world.kube.change(*JOB, activeDeadlineSeconds=7 * 86_400, cost={"ceiling": "90.00"})


async def _raised_while_running(world: World) -> None:
    """Else its fuse would end it."""
    await _reach(world, "Running")
    world.kube.change(*JOB, activeDeadlineSeconds=7 * 86_400, cost={"ceiling": "90.00"})


async def _host_lost(world: World) -> None:
    await _reach(world, "Running")
    for number in world.living():
        world.market.change(number, dies_at=0.0)


async def _image_refused(world: World) -> None:
    world.vast.failed_pulls["image"] = FailedPull("manifest for image not found: manifest unknown")


async def _left_standing(world: World) -> None:
    """The first machine does not start by itself."""
    world.vast.left_standing = 1


async def _leader_cut_off(world: World) -> None:
    """From the API server, while the other replica reaches it."""
    await _reach(world, "Booting")
    for replica in world.replicas:
        if replica.lock.is_held:
            replica.process.is_cut_off = True
    while (job := world.jobs().get("train")) is not None and not is_finished(job.status):
        for replica in world.replicas:
            # One that a fault has stopped for good could not take over.
            if not replica.process.is_cut_off:
                replica.process.resume()
        await asyncio.sleep(STOPPED_SECONDS)


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


async def _budget_raised(world: World) -> None:
    await _reach(world, "BudgetExceeded")
    world.kube.change("GpuBudget", NAMESPACE, "team", limit="20")


async def _budget_lowered(world: World) -> None:
    """While it runs; somebody raises it again."""
    await _reach(world, "Running")
    world.kube.change("GpuBudget", NAMESPACE, "team", limit="0.01")
    await asyncio.sleep(300)
    world.kube.change("GpuBudget", NAMESPACE, "team", limit="20")


async def _budget_recreated(world: World) -> None:
    """With less than is under way, until somebody raises it."""
    await _reach(world, "Running")
    world.kube.delete_now("GpuBudget", NAMESPACE, "team")
    await asyncio.sleep(1)
    await world.apply_budget("team", limit="1")
    await asyncio.sleep(60)
    world.kube.change("GpuBudget", NAMESPACE, "team", limit="20")


async def _budget_comes(world: World) -> None:
    """While the first attempt waits for its driver."""
    await _reach(world, "AwaitingDriver")
    await world.apply_budget("team")


BUDGETS: dict[str, dict[str, Any]] = {
    "all": {"limit": "100", "period": "Rolling", "rollingHours": 24},
    "team": {"limit": "12"},
}
BIDS = {"market": {"type": "Interruptible"}}


LIVES = {
    "plain": Life("Complete"),
    "with ports": Life("Complete", spec={"ports": [{"name": "http", "port": 8080}]}),
    "listed late": Life("Complete", list_lag=55.0),
    "listed last": Life("Complete", list_lag=SETTINGS.limits.list_lag_seconds),
    "retried": Life("Complete", exit_codes=(1, 0), spec={"backoffLimit": 2}),
    "image refused": Life("ImageUnusable", _image_refused),
    "left standing": Life("Complete", _left_standing),
    "suspended": Life("Complete", _suspended),
    "deleted while booting": Life(None, _deleted_while_booting),
    "deadline": Life("DeadlineExceeded", spec={"activeDeadlineSeconds": 20}, run_seconds=60.0),
    "fuse": Life(
        "BudgetExhausted",
        _deadline_raised,
        spec={
            "activeDeadlineSeconds": 20,
            "cost": {"ceiling": "0.18"},
            "data": {"maxDownloadGB": 1, "maxUploadGB": 1},
        },
        run_seconds=10.0**6,
    ),
    "raised while waiting": Life("Complete", _raised_while_waiting),
    "raised while running": Life("Complete", _raised_while_running, run_seconds=100.0),
    "unmarked": Life("Complete", _unmarked, blind_seconds=UNMARKED_SECONDS),
    "host lost": Life("Complete", _host_lost),
    "two leaders": Life("Complete", _leader_stopped),
    "leader cut off": Life("Complete", _leader_cut_off),
    "long": Life("Complete", run_seconds=600.0),
    "namespace deleted": Life(None, _namespace_deleted),
    "node deleted": Life("Complete", _node_deleted),
    "node vanished": Life("CeilingExceeded", _node_vanished),
    "recreated": Life("Complete", _recreated),
    "budgeted": Life("Complete", budgets=BUDGETS),
    "budgeted and retried": Life(
        "Complete", exit_codes=(1, 0), spec={"backoffLimit": 2}, budgets=BUDGETS
    ),
    "budget raised": Life("Complete", _budget_raised, budgets=BUDGETS | {"team": {"limit": "1"}}),
    "budget lowered": Life("Complete", _budget_lowered, budgets=BUDGETS),
    "budget recreated": Life("Complete", _budget_recreated, budgets=BUDGETS),
    "budget comes": Life("Complete", _budget_comes),
    "budget grows": Life(
        "Complete", _raised_while_running, run_seconds=100.0, budgets={"all": BUDGETS["all"]}
    ),
    "budgeted and vanished": Life("CeilingExceeded", _node_vanished, budgets=BUDGETS),
    "outbid and back": Life("Complete", _taken_away(100), BIDS),
    "outbid for good": Life("Complete", _taken_away(None), BIDS),
}


async def _lived(life: Life, calls: Calls) -> World:
    world = World(
        Chance(0, level=0.0, list_lag=life.list_lag),
        run_seconds=life.run_seconds,
        exit_codes=life.exit_codes,
        calls=calls,
    )
    for name, spec in life.budgets.items():
        await world.apply_budget(name, **spec)
    await world.apply("train", **life.spec)
    story = asyncio.ensure_future(life.story(world))

    def is_over() -> bool:
        stays = world.reason("train") in STAYS and not world.living() and world.is_settled
        return stays or (story.done() and world.is_over())

    await world.until(is_over, PATIENCE_SECONDS)
    if story.done():
        story.result()
    story.cancel()
    if any(replica.process.is_stopped for replica in world.replicas):
        for replica in world.replicas:
            replica.process.resume()
        await world.go_on(AFTERMATH_SECONDS)
        await world.until(is_over, PATIENCE_SECONDS)
    world.check_end()
    await world.end()
    return world


def live(name: str, strikes: Strikes | None = None) -> World:
    """Plays a life with faults at these calls and returns the world at its end."""
    return _played(name, Calls(strikes=strikes or {}))


def _played(name: str, calls: Calls) -> World:
    world: World = play(lambda: _lived(LIVES[name], calls))
    return world


def _judged(name: str, branches: Branches) -> World:
    """Plays a life with faults and checks what must hold at its end; raises Broken."""
    world = _played(name, Calls(branches))
    strikes = branches.strikes
    blind = sum(FAULTS[fault].blind_seconds for fault in strikes.values())
    if world.longest_ownerless > OWNERLESS_SECONDS + blind + LIVES[name].blind_seconds:
        raise Broken(f"a machine had no owner for {world.longest_ownerless:.0f} s")
    if world.longest_unwanted > UNWANTED_SECONDS + blind:
        raise Broken(f"a machine outlived its attempt by {world.longest_unwanted:.0f} s")
    besides = (FAULTS[fault].ends for fault in strikes.values())
    ends = {LIVES[name].ends, "Complete"}.union(*besides)
    if (reason := world.reason("train")) not in ends:
        raise Broken(f"it ended with {reason}, not with one of {ends}")
    return world


def endured(name: str, strikes: Sequence[Strikes]) -> list[Verdict]:
    """Plays a life with each of these faults and returns what came of it."""
    return Branches(strikes).played(lambda branches: _endured(name, branches)) if strikes else []


def _endured(name: str, branches: Branches) -> Verdict:
    try:
        world = _judged(name, branches)
    except Exception as error:  # noqa: BLE001 - whatever ends the operator is a finding
        told = " ".join(f"'{number}={fault}'" for number, fault in branches.strikes.items())
        again = f".venv/bin/python -m tests.simulation.lives '{name}' {told}"
        return Verdict(problem=f"{type(error).__name__}: {error}", again=again)
    return world.verdict()


def main() -> None:
    """Plays one life with the log shown: `LIFE [CALL=FAULT …]`."""
    name, *given = sys.argv[1:]
    pairs = (one.partition("=") for one in given)
    world = _judged(name, Branches([{int(number): fault for number, _, fault in pairs}]))
    print(f"{world.summary()}; {len(world.calls.made)} calls")
    print(world.verdict())


if __name__ == "__main__":
    main()
