"""What a machine has cost is charged in full, whoever leads when it ends."""

from dataclasses import replace
from fractions import Fraction

from tests.simulation.branches import Branches, Strikes
from tests.simulation.model import Chance
from tests.simulation.points import points
from tests.simulation.process import CRASHES, Calls
from tests.simulation.world import MARKET, World, play

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
