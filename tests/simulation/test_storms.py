"""Whole lives in virtual time under seeded faults: the invariants that money hangs on."""

import pytest
from tests.simulation.conftest import Players
from tests.simulation.model import Chance
from tests.simulation.storms import KEPT, storm, weathered

pytestmark = pytest.mark.timeout(0)


def test_a_storm_leaks_nothing_and_overspends_nothing(
    players: Players, pytestconfig: pytest.Config
) -> None:
    """At most one machine per mark, none without a marker, none let go; then all ends, all paid."""
    first, _, last = pytestconfig.getoption("seeds").partition("..")
    seeds = [*KEPT, *range(int(first), int(last or first) + 1)]

    players.judge("storm", players.map(weathered, seeds))


def test_a_calm_world_finishes_everything_well() -> None:
    """Without faults all jobs come to the end of their commands, or to their short deadlines."""
    world = storm(next(seed for seed in range(30) if Chance(seed).level == 0.0))

    for name, job in world.jobs().items():
        ends = {"Complete", "BackoffLimitExceeded"}
        if job.spec.active_deadline_seconds == 60:
            ends.add("DeadlineExceeded")
        assert world.reason(name) in ends


def test_a_seed_is_a_schedule() -> None:
    """The same seed gives the same history, to the second."""
    one, two = storm(3), storm(3)

    assert [lease.history for lease in one.market.leases.values()] == [
        lease.history for lease in two.market.leases.values()
    ]
