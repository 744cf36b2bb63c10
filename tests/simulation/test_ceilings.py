"""A ceiling is raised: the attempt goes on, and never costs more than is reserved for it."""

from tests.simulation.lives import JOB, NODE
from tests.simulation.model import Chance
from tests.simulation.world import World, play


def test_a_node_that_was_refused_rents_once_the_ceiling_is_raised() -> None:
    """What was reserved at its birth does not hold it back for ever."""

    async def life() -> None:
        world = World(Chance(0, level=0.0))
        await world.apply("train")
        await world.until(lambda: NODE in world.kube.objects, 60)
        world.kube.change(*JOB, activeDeadlineSeconds=7 * 86_400)
        await world.until(lambda: world.reason("train") == "CeilingExceeded", 120)
        assert NODE in world.kube.objects, "a node waits"
        world.kube.change(*JOB, cost={"ceiling": "90.00"})
        await world.until(lambda: world.reason("train") == "Running", 600)
        assert world.kube.objects[NODE]["status"]["rent"]["fuseUSD"] == "90.000000"
        await world.until(world.is_over, 600)
        world.check_end()
        await world.end()

    play(life)
