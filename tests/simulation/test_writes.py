"""What one life writes, and that what must be stored first is."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from tests.simulation.model import Chance
from tests.simulation.process import Broken
from tests.simulation.world import NAMESPACE, World, play

from gpujob.adapters.errors import ClusterUnavailable, ProviderError

JOB = ("GpuJob", NAMESPACE, "train")
NODE = ("GpuNode", NAMESPACE, "train-0-1")


class Even(Chance):
    """Chance that gives each machine the same time to boot."""

    def between(self, low: float, high: float) -> float:
        del low, high
        return 5.0


def a_world(run_seconds: float = 30.0) -> World:
    """Returns a calm world."""
    return World(Even(0, level=0.0, pauses=(0.01,)), run_seconds=run_seconds)


async def apply_unseen(world: World) -> None:
    """Creates a job with the status that the API server gives it."""
    await world.apply("train")
    world.kube.set_status(*JOB, {"observedGeneration": -1, "phase": "Waiting"})


def test_a_life_takes_few_writes() -> None:
    """Of a plain job in a market that answers at once; those of the user and of its kubelet do not
    count, and the model keeps no Secrets.
    """

    async def life() -> list[str]:
        world = a_world()
        await world.go_on(60)
        await apply_unseen(world)
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
    # With one for each decision there were 24.
    assert len(written) <= 18, written


def test_a_market_that_answers_at_once_is_no_first_word() -> None:
    """One that has not been asked yet is: within two seconds, else nobody seems to look at it."""

    async def first(*, seconds_before: float) -> tuple[str, float]:
        world = a_world()
        await world.go_on(seconds_before)
        began = asyncio.get_running_loop().time()
        await apply_unseen(world)
        told: list[tuple[str, float]] = []

        def note(kind: str, body: Any, *_: Any) -> None:
            if kind == "GpuJob" and "conditions" in body["status"]:
                words = next(c for c in body["status"]["conditions"] if c["type"] == "Ready")
                told.append((words["reason"], asyncio.get_running_loop().time() - began))

        world.kube.on_write.append(note)
        await world.until(lambda: bool(told), 30)
        await world.end()
        return told[0]

    assert play(lambda: first(seconds_before=60))[0] == "AwaitingDriver"
    reason, seconds = play(lambda: first(seconds_before=0))
    assert reason == "AwaitingOffers"
    assert seconds <= 3.5, "the leader needs another second to begin"


def test_a_driver_is_recorded_with_the_rent_that_follows() -> None:
    """Also if the market has to be asked first, because the driver took its time to start."""

    async def life() -> list[dict[str, Any]]:
        world = a_world()
        world.drivers.are_pending = True
        told: list[dict[str, Any]] = []

        def note(kind: str, body: Any, *_: Any) -> None:
            if kind == "GpuNode" and "driver" in body.get("status", {}):
                told.append(body["status"])

        world.kube.on_write.append(note)
        await world.apply("train")
        await world.go_on(150)
        world.drivers.are_pending = False
        await world.until(lambda: world.reason("train") == "Running", 300)
        await world.end()
        return told

    told = play(life)
    assert told
    assert all("rent" in one for one in told)


def suspended(world: World) -> None:
    """Its user wants it to wait."""
    world.kube.change(*JOB, suspend=True)


def deleted(world: World) -> None:
    """Its user deletes it; its finalizer holds it."""
    world.kube.delete_now(*JOB)


def forced(world: World) -> None:
    """Its user deletes it, whatever holds it."""
    world.kube.vanish(*JOB)


@pytest.mark.parametrize("changed", [suspended, deleted, forced])
def test_a_node_whose_job_changes_as_it_is_created_rents_nothing(
    changed: Callable[[World], None],
) -> None:
    """It is there before its job says so, and whoever was to say that finds another version."""

    async def life() -> None:
        world = a_world()
        await world.go_on(60)

        def change(kind: str, _: Any, gone: bool, before: Any) -> None:
            if kind == "GpuNode" and before is None and not gone:
                world.kube.on_write.remove(change)
                changed(world)

        world.kube.on_write.append(change)
        await world.apply("train")
        await world.until(lambda: "create GpuNode" in world.calls.made, 60)

        def is_settled() -> bool:
            nodes = [body.get("status", {}) for body in world.kube.of_kind("GpuNode")]
            return all("releasedAt" in one for one in nodes)

        await world.until(is_settled, 300)
        await world.go_on(60)
        assert is_settled()
        assert "send" not in world.calls.made
        if changed is suspended:
            assert world.reason("train") == "Suspended"
            assert world.jobs()["train"].status.cost.spent_usd in (None, "0.000000")
        else:
            assert not world.kube.of_kind("GpuJob")
            assert not world.kube.of_kind("GpuNode")
        world.check_end()
        await world.end()

    play(life)


def test_drivers_that_go_before_they_report_are_replaced_with_pauses() -> None:
    """Something else in the cluster deletes them; each has a name of its own."""

    async def life() -> None:
        world = a_world()
        world.drivers.are_pending = True
        names: list[str] = []

        def delete(kind: str, body: Any, gone: bool, before: Any) -> None:
            if kind == "Pod" and before is None and not gone:
                names.append(body["metadata"]["name"])
                world.kube.vanish("Pod", NAMESPACE, names[-1])

        world.kube.on_write.append(delete)
        await world.apply("train")
        await world.go_on(300)
        world.kube.on_write.remove(delete)
        assert len(names) == len(set(names))
        assert 5 <= len(names) <= 15
        world.drivers.are_pending = False
        await world.until(lambda: world.reason("train") == "Complete", 1000)
        await world.until(world.is_over, 600)
        world.check_end()
        await world.end()

    play(life)


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


def test_a_destroy_before_the_end_is_stored_does_not_pass_unseen() -> None:
    """The operator's code takes whatever an answer causes for a fault of the provider."""

    async def life() -> None:
        world = a_world()
        await world.apply("train")
        await world.until(lambda: world.reason("train") == "Running", 300)
        with suppress(ProviderError):
            await world.vast.destroy(world.living()[0])
        with pytest.raises(Broken, match="its attempt was not ended"):
            world.check()
        await world.end()

    play(life)
