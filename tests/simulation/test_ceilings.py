"""A ceiling is raised: the attempt goes on, and never costs more than is reserved for it."""

from dataclasses import replace

import pytest
from tests.simulation.lives import JOB, NODE
from tests.simulation.model import Chance
from tests.simulation.world import MARKET, World, play

SMALL = {"cost": {"ceiling": "0.18"}, "data": {"maxDownloadGB": 1, "maxUploadGB": 1}}
"""So that the fuse is short."""


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


def test_a_contract_that_ends_before_a_raised_ceiling_is_used_up_is_told() -> None:
    """The job shows it while its machine runs, and one event says so for good."""

    async def life() -> None:
        short = tuple(replace(one, contract_seconds=6000.0) for one in MARKET)
        world = World(Chance(0, level=0.0), run_seconds=1500.0, offers=short)
        await world.apply("train", cost={"ceiling": "3.00"})
        await world.until(lambda: world.reason("train") == "Running", 600)
        before = world.kube.objects[NODE]["status"]["rent"]
        world.kube.change(*JOB, cost={"ceiling": "90.00"})
        await world.go_on(300)
        conditions = {one.type: one for one in world.jobs()["train"].status.conditions}
        after = world.kube.objects[NODE]["status"]
        assert "the contract of its host ends at" in conditions["Ready"].message
        assert conditions["Running"].status == "True"
        assert after["rent"]["fuseUSD"] == before["fuseUSD"]
        assert [one["regarding"]["name"] for one in world.kube.events_of("ContractTooShort")] == [
            "train"
        ]
        await world.until(world.is_over, 3600)
        assert world.reason("train") == "Complete"
        world.check_end()
        await world.end()

    play(life)


@pytest.mark.parametrize("is_deaf", [False, True])
def test_an_attempt_goes_on_once_its_machine_knows_of_the_raised_ceiling(is_deaf: bool) -> None:
    """And ends by the old fuse if its watchdog does not take the new deadline."""

    async def life() -> None:
        world = World(Chance(0, level=0.0), run_seconds=7200.0)
        world.drivers.is_deaf = is_deaf
        await world.apply("train", activeDeadlineSeconds=20, **SMALL)
        await world.until(lambda: world.reason("train") == "Running", 600)
        before = world.kube.objects[NODE]["status"]["rent"]
        world.kube.change(*JOB, activeDeadlineSeconds=7 * 86_400, cost={"ceiling": "90.00"})
        await world.go_on(before["moneyDeadlineSeconds"] + 60.0)
        after = world.kube.objects[NODE]["status"]
        fuse = before["fuseUSD"] if is_deaf else "90.000000"
        assert after["rent"]["fuseUSD"] == fuse
        assert after.get("end", {}).get("reason") == ("BudgetExhausted" if is_deaf else None)
        if not is_deaf:
            await world.until(world.is_over, 7200)
            assert world.reason("train") == "Complete"
            world.check_end()
        await world.end()

    play(life)
