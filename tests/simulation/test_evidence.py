"""The gate's evidence about our own enforcement: what counts in it, and what it outlives."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from tests.builders import NOW
from tests.simulation.model import Chance, ModelKube
from tests.simulation.process import START
from tests.simulation.world import NAMESPACE, SETTINGS, World, play

from gpujob.adapters.errors import ClusterUnavailable
from gpujob.adapters.kube import Body
from gpujob.api.gpunode import GpuNode
from gpujob.controller.machine_book import DESTROYS_KEY, MachineBook
from gpujob.core.cost.confidence import DestroyRecord
from gpujob.core.market.outbids import Stay
from gpujob.core.node.punctuality import latest_seconds, slack_seconds

BOOK = ("ConfigMap", SETTINGS.namespace, "gpujob-machines")


def recorded(world: World) -> list[bool]:
    """Whether each machine was destroyed too late, as the ConfigMap has it."""
    body = world.kube.objects.get(BOOK, {})
    return [one["wasLate"] for one in json.loads(body.get("data", {}).get(DESTROYS_KEY, "[]"))]


async def _until_over(world: World, name: str) -> None:
    await world.until(lambda: bool(world.jobs()[name].status.end) and bool(recorded(world)), 4000.0)


async def _without_a_leader(world: World, seconds: float) -> None:
    """Ends all replicas; their successors start a while later."""
    for replica in world.replicas:
        replica.process.is_killed = True
    later = [asyncio.create_task(world.restart(n, seconds)) for n in range(len(world.replicas))]
    await world.go_on(seconds)
    await asyncio.gather(*later)


async def _figure(world: World) -> tuple[str | None, str | None]:
    """What the next job's status says of our enforcement."""
    await world.apply("next")
    await world.until(lambda: world.jobs()["next"].status.cost.confidence is not None, 200.0)
    cost = world.jobs()["next"].status.cost
    return cost.confidence, cost.confidence_basis


async def _late_once() -> World:
    """One machine was destroyed late, because nobody led when its deadline passed."""
    world = World(Chance(0, level=0.0), run_seconds=10.0**6)
    await world.apply("train", activeDeadlineSeconds=60)
    await world.until(lambda: world.reason("train") == "Running", 900.0)
    await _without_a_leader(world, 400.0)
    await _until_over(world, "train")
    assert recorded(world) == [True]
    nodes = [world.kube.read(GpuNode, body) for body in world.kube.of_kind("GpuNode")]
    late = latest_seconds(nodes, START)
    assert slack_seconds(SETTINGS.limits) < late < 400.0 + 60.0, "the metric shows it, too"
    return world


async def _delete_nodes(world: World) -> None:
    world.kube.delete_now("GpuJob", NAMESPACE, "train")
    await world.until(lambda: not world.kube.of_kind("GpuNode"), 200.0)


async def _nodes_deleted(world: World) -> None:
    """The ConfigMap has it."""
    await _delete_nodes(world)
    await _without_a_leader(world, 20.0)


async def _record_deleted(world: World) -> None:
    """While nobody leads: the nodes have it."""
    for replica in world.replicas:
        replica.process.is_killed = True
    world.kube.delete_now(*BOOK)
    await _without_a_leader(world, 20.0)


async def _record_deleted_then_nodes(world: World) -> None:
    """Whoever leads writes it anew, although nothing is learnt meanwhile."""
    world.kube.delete_now(*BOOK)
    await world.until(lambda: recorded(world) == [True], 100.0)
    await _nodes_deleted(world)


async def _both_deleted_between_leaders(world: World) -> None:
    """One after the other, each while another leader has what the other one shows."""
    await _record_deleted(world)
    await world.until(lambda: recorded(world) == [True], 100.0)
    await _nodes_deleted(world)


@pytest.mark.parametrize(
    "deleted",
    [_nodes_deleted, _record_deleted, _record_deleted_then_nodes, _both_deleted_between_leaders],
)
def test_what_we_did_late_counts_and_is_not_forgotten(
    deleted: Callable[[World], Awaitable[None]],
) -> None:
    """Lateness before the stored decision is lateness; no restart and no deletion undoes it."""

    async def life() -> None:
        world = await _late_once()
        await deleted(world)
        figure, basis = await _figure(world)
        assert figure == "0.953"
        assert basis is not None
        assert basis.startswith("0.0 machines were destroyed in time and 1.0 too late")
        await world.end()

    play(life)


async def _late_by_the_providers() -> None:
    world = World(Chance(0, level=0.0), run_seconds=30.0)
    await world.apply("train")
    await world.until(lambda: any("end" in one["status"] for one in _nodes(world)), 900.0)
    world.vast.lies.add("listings refused")
    await world.go_on(1200.0)
    world.vast.lies.clear()
    await _until_over(world, "train")
    assert recorded(world) == [False]
    assert (await _figure(world))[0] == "0.970"
    await world.end()


def _nodes(world: World) -> list[dict[str, Any]]:
    return [one for one in world.kube.of_kind("GpuNode") if "status" in one]


def test_a_provider_that_cannot_be_asked_makes_nobody_late() -> None:
    """Its listings were down for 20 minutes, and so the proof came late."""
    play(_late_by_the_providers)


class _Down(ModelKube):
    """An API server that can be away."""

    is_down = False

    async def find(self, kind: str, namespace: str, name: str) -> Body | None:
        if self.is_down:
            raise ClusterUnavailable("503")
        return await super().find(kind, namespace, name)


LATE = DestroyRecord("n-1", NOW, was_late=True)
IN_TIME = DestroyRecord("n-2", NOW, was_late=False)
Story = Callable[[_Down, MachineBook], Awaitable[None]]


async def _plain(_: _Down, book: MachineBook) -> None:
    await book.remember_destroy(LATE)
    await book.remember_destroy(LATE)
    await book.remember_destroy(IN_TIME)


async def _away(kube: _Down, book: MachineBook) -> None:
    kube.is_down = True
    await book.remember_destroy(LATE)
    kube.is_down = False
    await book.remember_destroy(IN_TIME)


async def _deleted(kube: _Down, book: MachineBook) -> None:
    await book.remember_destroy(LATE)
    await kube.delete(*BOOK, kube.objects[BOOK]["metadata"]["uid"])
    await book.remember_destroy(IN_TIME)


async def _away_and_quiet(kube: _Down, book: MachineBook) -> None:
    """Nothing more is learnt: it is written all the same."""
    running = asyncio.create_task(book.run())
    kube.is_down = True
    await book.remember_destroy(LATE)
    await book.remember_destroy(IN_TIME)
    kube.is_down = False
    await asyncio.sleep(100.0)
    running.cancel()


@pytest.mark.parametrize("story", [_plain, _away, _deleted, _away_and_quiet])
def test_the_next_process_knows_it(story: Story) -> None:
    """Each destroy once."""

    async def told() -> tuple[DestroyRecord, ...] | None:
        kube = _Down(Chance(0, level=0.0))
        first, second = MachineBook(kube, SETTINGS), MachineBook(kube, SETTINGS)
        await first.load()
        await story(kube, first)
        await second.load()
        return second.destroys

    assert set(play(told)) == {LATE, IN_TIME}


def a_stay(node_uid: str, outbids: int) -> Stay:
    """Two hours at the lowest bid."""
    return Stay(
        node_uid=node_uid, gpu_model="H100 SXM", percent=100, hours=2.0, outbids=outbids, at=NOW
    )


def test_the_next_process_knows_how_often_others_bid_more() -> None:
    """Also what was learnt while the API server was away, and each stay once."""

    async def told() -> None:
        kube = _Down(Chance(0, level=0.0))
        first, second = MachineBook(kube, SETTINGS), MachineBook(kube, SETTINGS)
        await first.load()
        kube.is_down = True
        await first.remember_stay(a_stay("n-1", 1))
        kube.is_down = False
        for _ in range(2):
            await first.remember_stay(a_stay("n-2", 3))
        await second.load()
        assert second.outbids.records == first.outbids.records
        seen = second.outbids.records["H100 SXM", 100]
        assert (seen.hours, seen.outbids) == (4.0, 4.0)

    play(told)


@pytest.mark.parametrize(
    "text",
    [
        "[{]",
        '[{"gpuModel": "H100 SXM", "percent": 100, "hours": -1, "outbids": 0, "at": 7}]',
        '[{"gpuModel": "x", "percent": 103, "hours": 1, "outbids": 0, "at": "2026-01-01T00:00Z"}]',
    ],
)
def test_what_cannot_be_read_of_bids_is_forgotten_alone(text: str) -> None:
    """It only ranks. What is said of other bids than are considered now is no use."""

    async def told() -> None:
        kube = _Down(Chance(0, level=0.0))
        body = {"metadata": {"name": BOOK[2]}, "data": {"outbids": text}}
        await kube.create("ConfigMap", SETTINGS.namespace, body)
        book = MachineBook(kube, SETTINGS)
        await book.load()
        assert book.outbids.records == {}
        await book.remember_destroy(IN_TIME)
        assert book.destroys == (IN_TIME,)

    play(told)


def test_a_record_that_cannot_be_read_is_not_an_empty_one() -> None:
    """It may have said the worst. It is read again until it can be, and not written over."""

    async def told() -> None:
        kube = _Down(Chance(0, level=0.0))
        body = {"metadata": {"name": BOOK[2]}, "data": {DESTROYS_KEY: '[{"nodeUID": 7}]'}}
        stored = await kube.create("ConfigMap", SETTINGS.namespace, body)
        book = MachineBook(kube, SETTINGS)
        running = asyncio.create_task(book.run())
        await book.load()
        await book.remember_destroy(IN_TIME)
        assert book.destroys is None
        assert kube.objects[BOOK]["data"] == body["data"]
        await kube.replace("ConfigMap", stored | {"data": {}})
        await asyncio.sleep(70.0)
        assert book.destroys == (IN_TIME,)
        running.cancel()

    play(told)
