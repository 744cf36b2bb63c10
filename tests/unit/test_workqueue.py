"""Whose pass comes first."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from tests.simulation.model import VirtualLoop

from gpujob.adapters.metrics import LaneFigures
from gpujob.controller.workqueue import (
    IN_ORDER,
    Key,
    Lane,
    Place,
    WorkQueue,
    orders,
)

BORN = {"c": "1", "a": "2", "b": "3"}
"""When the objects of these names were created."""
LANES = {"GpuJob": Lane.JOBS, "GpuNode": Lane.NODES, "leased": Lane.MACHINES}


def place_of(key: Key) -> Place:
    """The lane is the kind's."""
    return Place(LANES[key.kind], BORN.get(key.name, key.name))


def played(story: Callable[[WorkQueue], Awaitable[None]]) -> None:
    """Plays a story in virtual time."""

    async def life() -> None:
        await story(WorkQueue(place_of))

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(life())


async def taken(queue: WorkQueue, lanes: tuple[Lane, ...] = IN_ORDER) -> Key | None:
    """Returns the next key, None if none is ready."""
    try:
        async with asyncio.timeout(0.001):
            return await queue.take(lanes)
    except TimeoutError:
        return None


def test_machines_go_before_nodes_and_nodes_before_jobs() -> None:
    """However many jobs were there before."""

    async def story(queue: WorkQueue) -> None:
        jobs = [Key("GpuJob", "a", f"{number:03}") for number in range(100)]
        for job in jobs:
            queue.add(job)
        queue.add(Key("GpuNode", "a", "node"))
        queue.add(Key("leased", "a", "machine"))

        order = [await taken(queue) for _ in range(103)]
        assert order == [Key("leased", "a", "machine"), Key("GpuNode", "a", "node"), *jobs, None]

    played(story)


def test_namespaces_take_turns_and_older_objects_go_first() -> None:
    """The first of many is done before the others have begun."""

    async def story(queue: WorkQueue) -> None:
        for name in ("b", "c", "a"):
            queue.add(Key("GpuJob", "many", name))
        queue.add(Key("GpuJob", "few", "9"))
        first = await taken(queue)
        queue.add(Key("GpuJob", "many", "c"))
        assert first == Key("GpuJob", "many", "c")
        queue.done(first, failed=False)

        names = [await taken(queue) for _ in range(4)]
        wanted = [("few", "9"), ("many", "c"), ("many", "a"), ("many", "b")]
        assert names == [Key("GpuJob", *one) for one in wanted]

    played(story)


def test_some_workers_serve_machines_alone_and_some_look_at_jobs_first() -> None:
    """So neither waits for the other, however much there is of either."""
    for workers, apart, jobs_first in ((8, 2, 1), (32, 8, 4)):
        assert orders(workers).count((Lane.MACHINES,)) == apart
        assert orders(workers).count(IN_ORDER[::-1]) == jobs_first
    assert orders(3) == [(Lane.MACHINES,), IN_ORDER[::-1], IN_ORDER]
    assert orders(1) == [IN_ORDER]
    assert [len(orders(number)) for number in range(1, 20)] == list(range(1, 20))

    async def story(queue: WorkQueue) -> None:
        queue.add(Key("GpuNode", "a", "node"))
        queue.add(Key("GpuJob", "a", "job"))
        assert await taken(queue, (Lane.MACHINES,)) is None
        assert await taken(queue, IN_ORDER[::-1]) == Key("GpuJob", "a", "job")

    played(story)


def test_a_key_whose_machine_appears_changes_its_lane_and_is_taken_once() -> None:
    """It waits no longer behind those that have none."""
    lane = {"now": Lane.NODES}

    async def life() -> None:
        queue = WorkQueue(lambda key: Place(lane["now"] if key.name == "x" else Lane.NODES, ""))
        other, changed = Key("GpuNode", "a", "o"), Key("GpuNode", "a", "x")
        queue.add(other)
        queue.add(changed)
        lane["now"] = Lane.MACHINES
        queue.add(changed)
        assert [await taken(queue) for _ in range(3)] == [changed, other, None]

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(life())


@pytest.mark.parametrize(("kind", "most"), [("GpuJob", 60.0), ("leased", 2.0)])
def test_events_do_not_undo_a_back_off(kind: str, most: float) -> None:
    """A pass that failed comes again later and later, and never later than its lane allows."""

    async def story(queue: WorkQueue) -> None:
        now = asyncio.get_running_loop().time
        key, waits = Key(kind, "a", "x"), []
        queue.add(key)
        for _ in range(10):
            assert await queue.take() == key
            failed_at = now()
            queue.add(key)
            queue.done(key, failed=True)
            queue.add(key)
            assert await queue.take() == key
            waits.append(now() - failed_at)
            queue.done(key, failed=True)
            queue.add_after(key, 0.0)
        assert all(wait <= most for wait in waits)
        assert waits[-1] >= most / 2
        assert waits[0] >= 0.25
        assert await queue.take() == key
        queue.done(key, failed=False)
        queue.add(key)
        assert await taken(queue) == key, "a success ends the back-off"

    played(story)


def test_what_fails_together_is_not_tried_again_together() -> None:
    """A thousand jobs after an outage come one by one."""

    async def story(queue: WorkQueue) -> None:
        keys = [Key("GpuJob", "a", str(number)) for number in range(100)]
        for key in keys:
            queue.add(key)
            assert await queue.take() == key
            queue.done(key, failed=True)
        times = set()
        for _ in keys:
            await queue.take()
            times.add(round(asyncio.get_running_loop().time(), 2))
        assert len(times) > 10

    played(story)


def test_a_lane_says_how_it_stands() -> None:
    """How many wait, how long the oldest does, and how many passes there were."""

    async def story(queue: WorkQueue) -> None:
        queue.add(Key("GpuJob", "a", "1"))
        await asyncio.sleep(5)
        queue.add(Key("GpuJob", "a", "2"))
        queue.add(Key("GpuJob", "a", "1"))
        figures = queue.figures()
        jobs = figures[Lane.JOBS]
        assert (jobs.waiting, round(jobs.oldest_seconds, 2)) == (2, 5.0)
        assert figures[Lane.MACHINES] == LaneFigures(waiting=0, oldest_seconds=0.0, passes=0)
        assert await queue.take() == Key("GpuJob", "a", "1")
        assert queue.figures()[Lane.JOBS].passes == 1

    played(story)
