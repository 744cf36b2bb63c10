"""What a machine has cost is charged in full, whoever leads when it ends."""

import asyncio
from dataclasses import dataclass, replace
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from tests.simulation.branches import Branches, Strikes
from tests.simulation.model import Chance
from tests.simulation.points import points
from tests.simulation.process import CRASHES, Calls
from tests.simulation.world import MARKET, NAMESPACE, World, play

from gpujob.api.gpujob import AttemptRecord
from gpujob.api.meta import FINALIZER

MOVED_GB = Fraction(20)
DEAR = tuple(replace(one, inet_down_cost="0.02", inet_up_cost="0.02") for one in MARKET)


async def busy(calls: Calls) -> World:
    """Plays a life whose machine moves much at once, and little until it is destroyed."""
    world = World(Chance(0, level=0.0), run_seconds=40.0, calls=calls, offers=DEAR)
    data = {"maxDownloadGB": 30, "maxUploadGB": 30}
    await world.apply("train", cost={"ceiling": "20.00"}, data=data)
    while not world.is_over():
        for number in world.living():
            lease = world.market.leases[number]
            moved = MOVED_GB + Fraction(world.vast.now() - lease.created_at) / 1000
            world.market.count(number, moved, moved, world.vast.now())
        await world.step()
    world.check_end()
    await world.end()
    return world


def played(calls: Calls) -> World:
    """Returns that life's world at its end."""
    world: World = play(lambda: busy(calls))
    return world


def test_no_leader_that_dies_takes_the_traffic_with_it() -> None:
    """Killed around each call from the destroy to the end: the charge covers the bill."""
    calm = Calls()
    played(calm)
    destroyed = calm.made.index("destroy")
    strikes: list[Strikes] = [
        {number: crash}
        for crash in CRASHES
        for number in points(calm, crash, every_call=False)
        if number >= destroyed
    ]

    def outcome(branches: Branches) -> str:
        try:
            played(Calls(branches))
        except AssertionError as error:
            return str(error)
        return ""

    found = Branches(strikes).played(outcome)

    assert len(strikes) >= 10
    assert [one for one in found if one] == []


@pytest.mark.parametrize(
    ("spec", "runs", "reason"),
    [
        pytest.param({"activeDeadlineSeconds": 120}, 10.0**6, "DeadlineExceeded", id="deadline"),
        pytest.param({"cost": {"ceiling": "0.5"}}, 10.0**6, "BudgetExhausted", id="fuse"),
        pytest.param({}, 90.0, "Completed", id="outcome"),
        pytest.param({"data": {"maxDownloadGB": 5}}, 10.0**6, "TrafficExceeded", id="traffic"),
    ],
)
def test_what_was_agreed_holds_while_the_job_cannot_be_read(
    spec: dict[str, Any], runs: float, reason: str
) -> None:
    """A version of the operator that reads less was installed, say; then it is repaired."""

    async def life() -> None:
        world = World(Chance(0, level=0.0), run_seconds=runs)
        await world.apply("train", **spec)
        await world.until(lambda: world.reason("train") == "Running", 600)
        (number,) = world.living()
        world.market.change(number, dies_at=None)
        readable = world.kube.objects["GpuJob", NAMESPACE, "train"]["spec"]
        broken = {**readable, "gpu": "one of the big ones"}
        if reason == "BudgetExhausted":
            broken["activeDeadlineSeconds"] = 10**6
            status = world.kube.objects["GpuNode", NAMESPACE, "train-0-1"]["status"]
            rent = status["rent"] | {"maxRunSeconds": 10**6}
            world.kube.set_status("GpuNode", NAMESPACE, "train-0-1", status | {"rent": rent})
        world.kube.change("GpuJob", NAMESPACE, "train", **broken)
        for replica in range(len(world.replicas)):
            await world.restart(replica)
        if reason == "TrafficExceeded":
            world.market.count(number, Fraction(6), Fraction(0), world.vast.now())
        await world.until(lambda: number not in world.living(), 6 * 3600)
        await world.go_on(200)
        node = world.kube.objects["GpuNode", NAMESPACE, "train-0-1"]
        assert node["status"]["end"]["reason"] == reason
        assert "releasedAt" in node["status"]
        assert FINALIZER in node["metadata"]["finalizers"], "the job has yet to take its cost over"

        world.kube.change("GpuJob", NAMESPACE, "train", **readable)
        await world.until(world.is_over, 600)
        (attempt,) = world.jobs()["train"].status.attempts
        assert attempt.reason == reason
        world.check_end()
        await world.end()

    play(life)


PAUSES = 14


@dataclass
class Paused:
    """What came of a job whose machine was taken away again and again."""

    attempt: AttemptRecord
    node: dict[str, Any]
    """Its status."""
    paused_seconds: float
    lived_seconds: float


async def paused_for_long(world: World) -> Paused:
    """Plays a job whose fuse would be used up if each pause cost as much as work, until its
    attempt is over.
    """
    spec = {"market": {"type": "Interruptible"}, "activeDeadlineSeconds": 2400}
    await world.apply("train", **spec, cost={"ceiling": "0.01"})
    await world.until(lambda: world.reason("train") == "CeilingExceeded", 600)
    bound = Decimal(world.jobs()["train"].status.cost.estimate_usd or "")
    ceiling = f"{bound * Decimal('1.01'):.6f}"
    world.kube.change("GpuJob", NAMESPACE, "train", cost={"ceiling": ceiling})
    time, paused = asyncio.get_running_loop().time, 0.0
    began = time()

    def is_over() -> bool:
        return bool(world.jobs()["train"].status.attempts)

    for _ in range(PAUSES):
        await world.until(lambda: is_over() or world.reason("train") == "Running", 600)
        if is_over():
            break
        (number,) = world.living()
        world.market.outbid(number, world.vast.now())
        await world.until(lambda: is_over() or world.reason("train") == "Paused", 120)
        before = time()
        await world.go_on(150)
        paused += time() - before
        world.market.resume(number, world.vast.now())
    await world.until(is_over, 3600)
    (attempt,) = world.jobs()["train"].status.attempts
    node = world.kube.objects["GpuNode", NAMESPACE, "train-0-1"]["status"]
    return Paused(attempt, node, paused, time() - began)


def test_a_job_that_is_paused_for_long_pays_for_its_disk_meanwhile() -> None:
    """It ends well, later than its machine's watchdog was to end it."""

    async def life() -> None:
        world = World(Chance(0, level=0.0), run_seconds=1200.0)
        found = await paused_for_long(world)
        rent = found.node["rent"]
        assert found.attempt.reason == "Completed"
        assert found.lived_seconds > rent["moneyDeadlineSeconds"]
        held = world.vast.held[found.node["lease"]["instanceID"]]
        assert held == rent["watchdogSeconds"] > found.lived_seconds
        pauses = found.node["pauses"]["seconds"]
        assert found.paused_seconds * 0.7 < pauses < found.paused_seconds + PAUSES * 60
        world.check_end()
        await world.end()

    play(life)


def test_a_paused_machine_whose_watchdog_takes_no_later_deadline_is_replaced() -> None:
    """Before it destroys itself; nobody says that it vanished, and its host is not to blame."""

    async def life() -> None:
        world = World(Chance(0, level=0.0), run_seconds=1200.0)
        world.drivers.is_deaf = True
        found = await paused_for_long(world)
        rent, attempt = found.node["rent"], found.attempt
        assert (attempt.reason, attempt.blames) == ("Outbid", "provider")
        assert found.lived_seconds < rent["moneyDeadlineSeconds"] + 180
        assert Decimal(attempt.cost_usd) < Decimal(rent["fuseUSD"]) * Decimal("0.8")
        await world.until(lambda: world.reason("train") == "CeilingExceeded", 900)
        world.kube.change("GpuJob", NAMESPACE, "train", cost={"ceiling": "6.00"})
        await world.until(world.is_over, 3600)
        assert world.reason("train") == "Complete"
        world.check_end()
        await world.end()

    play(life)
