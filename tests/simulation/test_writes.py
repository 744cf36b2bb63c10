"""What one life writes, and that what must be stored first is."""

import asyncio
from typing import Any

from tests.simulation.model import Chance
from tests.simulation.world import NAMESPACE, World, play

from gpujob.adapters.errors import ClusterUnavailable

NODE = ("GpuNode", NAMESPACE, "train-0-1")


class Even(Chance):
    """Chance that gives each machine the same time to boot."""

    def between(self, low: float, high: float) -> float:
        del low, high
        return 5.0


def a_world(run_seconds: float = 30.0) -> World:
    """Returns a calm world."""
    return World(Even(0, level=0.0, pauses=(0.01,)), run_seconds=run_seconds)


def test_a_life_takes_few_writes() -> None:
    """Of a plain job in a market that answers at once; those of the user and of its kubelet do not
    count, and the model keeps no Secrets.
    """

    async def life() -> list[str]:
        world = a_world()
        await world.go_on(60)
        await world.apply("train")
        written = []

        def note(kind: str, _: Any, gone: bool, before: Any) -> None:
            if kind in ("GpuJob", "GpuNode") or (kind == "Pod" and before is None):
                written.append(f"{kind}{' gone' if gone else ''}")

        world.kube.on_write.append(note)
        await world.until(lambda: world.reason("train") == "Complete", 1000)
        await world.go_on(20)
        await world.end()
        return written

    written = play(life)
    # With one for each decision there were 24. Two of these tell how the machine boots.
    assert len(written) <= 21, written


def test_a_market_that_answers_at_once_is_no_first_word() -> None:
    """One that has not been asked yet is: within a second, else nobody seems to look at the job."""

    async def first(*, seconds_before: float) -> tuple[str, float]:
        world = a_world()
        await world.go_on(seconds_before)
        began = asyncio.get_running_loop().time()
        await world.apply("train")
        told: list[tuple[str, float]] = []

        def note(kind: str, body: Any, *_: Any) -> None:
            if kind == "GpuJob" and "status" in body:
                words = next(c for c in body["status"]["conditions"] if c["type"] == "Ready")
                told.append((words["reason"], asyncio.get_running_loop().time() - began))

        world.kube.on_write.append(note)
        await world.until(lambda: bool(told), 30)
        await world.end()
        return told[0]

    assert play(lambda: first(seconds_before=60))[0] == "AwaitingDriver"
    reason, seconds = play(lambda: first(seconds_before=0))
    assert reason == "AwaitingOffers"
    assert seconds <= 2.5, "the leader needs another second to begin"


def test_a_machine_is_destroyed_only_once_the_end_is_stored() -> None:
    """Else a successor would go on with an attempt whose machine is gone."""

    async def life() -> None:
        world = a_world()
        await world.apply("train")
        await world.until(lambda: world.reason("train") == "Running", 300)
        world.kube.refused["write_status GpuNode"] = ClusterUnavailable("503")
        await world.go_on(60)
        assert "end" not in world.kube.objects[NODE]["status"]
        assert world.living(), "its end is decided, but not stored"
        world.kube.refused.clear()
        await world.until(lambda: not world.living(), 60)
        assert "end" in world.kube.objects[NODE]["status"]
        await world.until(world.is_over, 600)
        world.check_end()
        await world.end()

    play(life)
