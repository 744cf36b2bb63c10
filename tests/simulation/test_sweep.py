"""The second way to a destroy: it judges by what is stored after the listing, and by all of it."""

from collections.abc import Awaitable, Callable
from typing import Any

from tests.simulation.model import Chance
from tests.simulation.process import Process
from tests.simulation.world import CLUSTER, NAMESPACE, SETTINGS, World, play

from gpujob.adapters.kube import Body
from gpujob.controller.cache import OPEN
from gpujob.controller.sweep import Sweep
from gpujob.core.market.listings import Listing


class Swept:
    """A machine that runs, and a sweep without the rest of an operator."""

    def __init__(self, world: World) -> None:
        self.world = world
        (self.machine,) = world.living()
        (self.node,) = world.kube.of_kind("GpuNode")
        self.key = ("GpuNode", NAMESPACE, self.node["metadata"]["name"])
        # Nobody sees what is done by hand, nor do the rules of this world, which forbid it.
        world.kube.on_write.clear()
        process = Process(world.calls, lambda _: None, lambda _: None)
        self._kube, self.vast = process.view(world.kube), process.view(world.vast)
        self.sweep = Sweep(SETTINGS, process.clock, CLUSTER, process.door, lambda _: None)

    async def once(self, vast: Any = None) -> bool:
        """Sweeps once; returns whether the machine was to be destroyed."""
        before = len(self.world.vast.received)
        await self.sweep.sweep_once(self._kube, vast or self.vast)
        asked = self.world.vast.received[before:]
        return ("DELETE", f"/api/v0/instances/{self.machine}/") in [one[1:] for one in asked]


def tried(story: Callable[[Swept], Awaitable[None]]) -> None:
    """Plays a story with a machine that is old enough to be an orphan."""

    async def life() -> None:
        world = World(Chance(0, level=0.0), run_seconds=900)
        await world.apply("train", cost={"ceiling": "20.00"})
        await world.until(lambda: world.reason("train") == "Running", 600)
        await world.go_on(2 * SETTINGS.limits.list_lag_seconds)
        for replica in world.replicas:
            await replica.crash()
        await story(Swept(world))

    play(life)


def test_a_list_that_leaves_nodes_out_destroys_nothing() -> None:
    """Somebody has closed a node that is not over: its machine has an owner all the same."""

    async def story(swept: Swept) -> None:
        swept.sweep.fields = OPEN
        kube = swept.world.kube
        kube.set_status(*swept.key, swept.node["status"] | {"closed": True})
        assert not await swept.once()

        kube.vanish(*swept.key)
        assert await swept.once(), "an orphan is still destroyed"

    tried(story)


def test_a_node_that_comes_with_the_listing_owns_its_machine() -> None:
    """Nodes are read only once the listing has ended."""

    async def story(swept: Swept) -> None:
        objects = swept.world.kube.objects
        node: Body = objects.pop(swept.key)

        class Slow:
            """A provider whose listing takes as long as it takes to make a node."""

            async def list_leases(self) -> Listing:
                listing: Listing = await swept.vast.list_leases()
                objects[swept.key] = node
                return listing

            def __getattr__(self, name: str) -> Any:
                return getattr(swept.vast, name)

        assert not await swept.once(Slow())

    tried(story)
