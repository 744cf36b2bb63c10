"""What happens to a job in each state when its surroundings change: the table of LIFECYCLE.md.

Each cell is played. Whatever comes of it, no machine is left, and none costs more than was allowed.
"""

import functools
from collections.abc import Awaitable, Callable

import pytest
from tests.lifecycle import table, told
from tests.simulation.model import Chance
from tests.simulation.world import NAMESPACE, Operator, World, play

JOB = ("GpuJob", NAMESPACE, "train")
CEILING = {"ceiling": "1.50"}
AWAY_SECONDS = 600.0
FOR_GOOD_SECONDS = 6 * 3600.0
"""Longer than any money deadline here."""
SETTLE_SECONDS = 1800.0

Story = Callable[[World], Awaitable[None]]


def _until(reason: str) -> Story:
    async def story(world: World) -> None:
        await world.apply("train", cost=CEILING)
        await world.until(lambda: world.reason("train") == reason, 3600)

    return story


def _over(reason: str) -> Story:
    """Until the job is over, and nothing holds it: a moment later than its reason says so."""

    async def story(world: World) -> None:
        await _until(reason)(world)
        await world.until(lambda: not world.kube.objects[JOB]["metadata"]["finalizers"], 600)

    return story


async def _refused(world: World) -> None:
    await world.apply("train", cost={"ceiling": "0.01"})
    await world.until(lambda: world.reason("train") == "CeilingExceeded", 600)


async def _suspended(world: World) -> None:
    await world.apply("train", suspend=True)
    await world.until(lambda: world.reason("train") == "Suspended", 600)


async def _suspended_later(world: World) -> None:
    await _until("Running")(world)
    world.kube.change(*JOB, suspend=True)
    await world.until(lambda: world.reason("train") == "Suspended", 600)
    await world.until(lambda: not world.kube.objects[JOB]["metadata"]["finalizers"], 600)


async def _releasing(world: World) -> None:
    await _until("Running")(world)
    world.kube.change(*JOB, suspend=True)
    await world.until(lambda: world.reason("train") == "Releasing", 600)


STATES: dict[str, Story] = {
    "refused by the cost gate": _refused,
    "suspended, never ran": _suspended,
    "booting": _until("Booting"),
    "running": _until("Running"),
    "giving its machine back": _releasing,
    "suspended after it ran": _suspended_later,
    "complete": _over("Complete"),
    "failed": _over("BackoffLimitExceeded"),
}


async def _leave(world: World) -> list[Operator]:
    """Ends the controllers, and returns them: put back, others are started in their place."""
    left, world.replicas = world.replicas, []
    for replica in left:
        await replica.crash()
    return left


async def _stopped(world: World) -> None:
    """The controller is away for ten minutes."""
    left = await _leave(world)
    await world.go_on(AWAY_SECONDS)
    world.replicas = left
    await world.go_on(SETTLE_SECONDS)


async def _uninstalled(world: World) -> None:
    """The controller never comes back; hours later the user deletes the job."""
    await _leave(world)
    await world.go_on(AWAY_SECONDS)
    await world.until(lambda: not world.living(), FOR_GOOD_SECONDS)
    world.kube.delete_now(*JOB)


async def _kinds_deleted(world: World) -> None:
    """All jobs and nodes are deleted, as with their kind; finalizers hold them."""
    for key in list(world.kube.objects):
        if key[0] in ("GpuJob", "GpuNode"):
            world.kube.delete_now(*key)
    await world.go_on(SETTLE_SECONDS)


async def _kinds_forced(world: World) -> None:
    """The kinds are gone at once, finalizers or not; ten minutes later they are back, empty."""
    for key in list(world.kube.objects):
        # A node without a finalizer goes with its job.
        if key[0] in ("GpuJob", "GpuNode") and key in world.kube.objects:
            world.kube.vanish(*key)
    world.kube.is_down = True
    await world.go_on(AWAY_SECONDS)
    world.kube.is_down = False
    await world.go_on(SETTLE_SECONDS)


async def _namespace_deleted(world: World) -> None:
    """With all that is in it."""
    world.kube.terminate(NAMESPACE)
    await world.go_on(SETTLE_SECONDS)


async def _restored(world: World) -> None:
    """The job is lost, and comes back from a backup: without its status, with another uid."""
    body = world.kube.objects[JOB]
    meta = {"name": "train", "annotations": body["metadata"].get("annotations", {})}
    saved = {"apiVersion": body["apiVersion"], "kind": "GpuJob", "metadata": meta}
    world.kube.delete_now(*JOB)
    await world.until(lambda: not world.jobs() and not world.living(), SETTLE_SECONDS)
    await world.kube.create("GpuJob", NAMESPACE, saved | {"spec": body["spec"]})
    await world.go_on(SETTLE_SECONDS)


EVENTS: dict[str, Story] = {
    "controller away for 10 min": _stopped,
    "uninstalled": _uninstalled,
    "kinds deleted": _kinds_deleted,
    "kinds removed by force": _kinds_forced,
    "namespace deleted": _namespace_deleted,
    "restored from a backup": _restored,
}


def _outcome(world: World, rented_before: int) -> str:
    """Returns, in words, what came of the job and of its machines."""
    job = world.kube.objects.get(JOB)
    words = "gone" if job is None else (world.reason("train") or "not looked at")
    if job is not None and "deletionTimestamp" in job["metadata"]:
        words = "kept by its finalizer"
    if world.vast.overdue:
        words += ", machine ended by its watchdog"
    if (more := len(world.market.leases) - rented_before) > 0:
        words += f", {more} rented anew"
    return words


@functools.cache
def cell(state: str, event: str) -> str:
    """Plays one cell of the table; returns what came of it."""

    async def life() -> str:
        codes = (1,) if state == "failed" else (0,)
        world = World(Chance(0, level=0.0), run_seconds=900.0, exit_codes=codes)
        await STATES[state](world)
        before = len(world.market.leases)
        await EVENTS[event](world)
        found = _outcome(world, before)
        if event != "uninstalled":
            world.check()
        assert not world.living(), f"{world.living()} are left"
        await world.end()
        return found

    found: str = play(life)
    return found


def test_the_page_has_every_state_and_event() -> None:
    """In this order."""
    head, *rows = table()

    assert head[1:] == [*EVENTS]
    assert [row[0] for row in rows] == [*STATES]


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("state", STATES)
def test_what_happens_is_what_the_page_says(state: str, event: str) -> None:
    """Each cell by itself."""
    assert told(event)[state] == cell(state, event)
