"""The watch is late, by another time for each kind, and breaks off: that costs no machine and no
money.
"""

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from tests.simulation.model import Chance, ModelKube
from tests.simulation.process import Calls, Process
from tests.simulation.watch import RECONNECT_SECONDS, Watch, Weather
from tests.simulation.world import NAMESPACE, World, play

from gpujob.adapters.errors import ClusterUnavailable, Forbidden
from gpujob.adapters.kube import Body
from gpujob.controller.cache import WATCHED
from gpujob.controller.lead import RESYNC_SECONDS

JOB = ("GpuJob", NAMESPACE, "train")


def lived(story: Callable[[World], Any], **given: Any) -> None:
    """Plays a story in a calm world with a job."""

    async def life() -> None:
        world = World(Chance(0, level=0.0), **given)
        await story(world)
        world.check()
        await world.end()

    play(life)


# --- The model itself -----------------------------------------------------------------------


def watched(story: Callable[[ModelKube, Weather, list[tuple[str, str]]], Any]) -> None:
    """Plays a story with two kinds that are watched, and what is shown of them."""

    async def life() -> None:
        kube, weather, shown = ModelKube(Chance(0, level=0.0)), Weather(), []
        process = Process(Calls(), lambda _: None, lambda _: None)

        def show(kind: str, body: Body, gone: bool) -> None:
            shown.append((kind, "gone" if gone else body["status"]["phase"]))

        watches = {
            kind: Watch(kind, kube.of_kind, process, weather, show, Counter())
            for kind in ("Pod", "GpuNode")
        }
        kube.on_write.append(lambda kind, body, gone, _: watches[kind].tell(body, gone=gone))
        tasks = [asyncio.create_task(one.run()) for one in watches.values()]
        for kind in watches:
            body = {"metadata": {"name": "one"}, "status": {"phase": "0"}}
            await kube.create(kind, NAMESPACE, body)
        await asyncio.sleep(1)
        shown.clear()
        await story(kube, weather, shown)
        for task in tasks:
            task.cancel()

    play(life)


def test_events_of_a_kind_come_in_their_order_and_late() -> None:
    """Also while the lag shrinks; another kind overtakes them."""

    async def story(kube: ModelKube, weather: Weather, shown: list[tuple[str, str]]) -> None:
        weather.lag_seconds["Pod"] = 5.0
        kube.set_status("Pod", NAMESPACE, "one", {"phase": "1"})
        weather.lag_seconds["Pod"] = 2.0
        kube.set_status("Pod", NAMESPACE, "one", {"phase": "2"})
        kube.set_status("GpuNode", NAMESPACE, "one", {"phase": "1"})
        await asyncio.sleep(4.9)
        assert shown == [("GpuNode", "1")]
        await asyncio.sleep(0.2)
        assert shown[1:] == [("Pod", "1"), ("Pod", "2")]

    watched(story)


def test_a_watch_that_broke_off_lists_and_tells_nothing_of_what_was_deleted() -> None:
    """What was on its way is lost, too."""

    async def story(kube: ModelKube, weather: Weather, shown: list[tuple[str, str]]) -> None:
        await kube.create("Pod", NAMESPACE, {"metadata": {"name": "two"}, "status": {"phase": "0"}})
        shown.clear()
        weather.lag_seconds["Pod"] = 1.0
        kube.set_status("Pod", NAMESPACE, "one", {"phase": "1"})
        weather.interrupted.add("Pod")
        kube.set_status("Pod", NAMESPACE, "one", {"phase": "2"})
        kube.delete_now("Pod", NAMESPACE, "two")
        await asyncio.sleep(10)
        assert shown == []
        weather.interrupted.clear()
        await asyncio.sleep(3 * RECONNECT_SECONDS)
        assert shown == [("Pod", "2")]

    watched(story)


# --- What follows ---------------------------------------------------------------------------


def test_no_node_is_created_for_what_was_suspended_unseen() -> None:
    """Its first request was refused, and the gate's yes was stored: that does not change now."""

    async def story(world: World) -> None:
        world.kube.refused["create GpuNode"] = ClusterUnavailable("503")
        await world.apply("train")
        # It is tried again more and more seldom, and no try is under way.
        await world.until(lambda: world.calls.made.count("create GpuNode") >= 5, 60)
        await world.go_on(2)
        assert world.jobs()["train"].status.cost.estimate_usd
        world.weather.lag_seconds["GpuJob"] = 60.0
        world.kube.change(*JOB, suspend=True)
        world.kube.refused.clear()
        await world.go_on(30)

        assert world.kube.of_kind("GpuNode") == []

    lived(story)


def test_no_driver_is_started_for_what_was_suspended_unseen() -> None:
    """It would take volumes and a quota that others need. The first one was refused, and nothing is
    written before the next: no conflict shows that what is held of the job is old.
    """

    async def story(world: World) -> None:
        world.kube.refused["create Pod"] = Forbidden("exceeded quota")
        await world.apply("train")
        await world.until(lambda: world.reason("train") == "ClusterRefused", 40)
        world.weather.lag_seconds["GpuJob"] = 60.0
        world.kube.change(*JOB, suspend=True)
        world.kube.refused.clear()
        await world.go_on(30)

        assert world.kube.of_kind("Pod") == []

    lived(story)


@dataclass
class EventfulCalls(Calls):
    """Calls; right before the next one of a name something happens, once."""

    awaited: str = ""
    happens: Callable[[], None] = lambda: None

    def next(self, name: str) -> str | None:
        """Counts a call and returns the fault that strikes it."""
        if name == self.awaited:
            self.awaited = ""
            self.happens()
        return super().next(name)


def test_nothing_is_rented_for_what_was_suspended_at_the_last_moment() -> None:
    """The decision to rent rests on what is stored, since nothing is written to the job."""
    calls = EventfulCalls(awaited="rent_line")

    async def story(world: World) -> None:
        def suspend() -> None:
            world.weather.lag_seconds["GpuJob"] = 60.0
            world.kube.change(*JOB, suspend=True)

        calls.happens = suspend
        await world.apply("train")
        await world.until(lambda: not calls.awaited, 60)
        await world.go_on(20)

        assert "send" not in calls.made

    lived(story, calls=calls)


@pytest.mark.parametrize("broken_seconds", [5.0, 50.0])
def test_a_job_that_was_deleted_unseen_keeps_its_machine_for_a_minute_at_most(
    broken_seconds: float,
) -> None:
    """The watch that lists again tells nothing of it; the comparison with what is stored does."""

    async def story(world: World) -> None:
        await world.apply("train")
        await world.until(lambda: world.reason("train") == "Running", 900)
        world.weather.interrupted.update(WATCHED)
        await world.go_on(1)
        world.kube.vanish(*JOB)
        await world.go_on(broken_seconds)
        world.weather.interrupted.clear()
        await world.until(lambda: not world.living(), RESYNC_SECONDS + 20)

    lived(story, run_seconds=900.0)


def test_a_deletion_that_no_event_shows_is_seen_within_a_minute() -> None:
    """A running job has no passes of its own, and the connection has gone silent."""

    async def story(world: World) -> None:
        await world.apply("train")
        await world.until(lambda: world.reason("train") == "Running", 900)
        world.weather.lag_seconds["GpuJob"] = 3600.0
        world.kube.delete_now(*JOB)
        assert world.jobs(), "its finalizer is ours to take away"
        await world.until(lambda: not world.living(), RESYNC_SECONDS + 60)

    lived(story, run_seconds=900.0)
