"""Whole lives in virtual time under seeded faults: the invariants that money hangs on."""

from collections import Counter

import pytest
from tests.simulation.conftest import Players
from tests.simulation.model import Chance
from tests.simulation.storms import KEPT, KINDS, SEEDS, storm, weathered
from tests.simulation.world import Verdict

pytestmark = pytest.mark.timeout(0)


@pytest.fixture(scope="module")
def played(players: Players, pytestconfig: pytest.Config) -> dict[int, Verdict]:
    """What came of each storm that is asked for, by its seed."""
    first, _, last = pytestconfig.getoption("seeds").partition("..")
    seeds = sorted({*KEPT, *range(int(first), int(last or first) + 1)})
    return dict(zip(seeds, players.map(weathered, seeds), strict=True))


def test_a_storm_leaks_nothing_and_overspends_nothing(
    players: Players, played: dict[int, Verdict]
) -> None:
    """At most one machine per mark and job, no more than the caps, none without a marker, none let
    go, no ceiling crossed, no bill above its charge; then all ends, all paid.
    """
    players.judge("storm", played.values())


def test_storms_meet_all_that_they_are_for(played: dict[int, Verdict]) -> None:
    """No kind of event is lost from the mix unnoticed: each truly happens, by default."""
    if not {*KEPT, *SEEDS} <= played.keys():
        pytest.skip("not all storms are played that are by default")
    met = sum((played[seed].met for seed in {*KEPT, *SEEDS}), Counter[str]())

    assert {kind for kind in KINDS if not met[kind]} == set()


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
