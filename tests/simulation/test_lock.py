"""What the lock saves besides the marker: attempts that would come to nothing."""

import pytest
from tests.simulation.model import Chance
from tests.simulation.world import World, play

from gpujob.leader import LeaderLock


async def _tried(seconds: float) -> World:
    world = World(Chance(0, level=0.0))
    await world.apply("train")
    await world.go_on(seconds)
    await world.end()
    return world


def test_a_lock_that_may_run_out_rents_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A marker that is stored and not followed by a request costs an attempt."""
    truly = LeaderLock.is_held_for
    monkeypatch.setattr(
        LeaderLock, "is_held_for", lambda lock, seconds: seconds == 0 and truly(lock, 0)
    )
    world: World = play(lambda: _tried(120.0))

    assert world.living() == []
    assert all("rent" not in node["status"] for node in world.kube.of_kind("GpuNode"))
    assert world.reason("train") == "AwaitingQuote"
