"""Each fault at each call of each life: no leak, no second machine, no overspending, and an end.

All points are hundreds of thousands: a share of them is drawn evenly, `--points all` takes each.
"""

from itertools import repeat

import pytest
from tests.simulation.conftest import Players
from tests.simulation.lives import LIVES, Strikes, endured, live
from tests.simulation.points import crashes, drawn, followed, points, turn_of
from tests.simulation.process import FAULTS, Calls

pytestmark = pytest.mark.timeout(0)
"""Each world ends by its own patience, in virtual time; how many there are is up to the caller."""


@pytest.fixture(scope="module")
def calm() -> dict[str, Calls]:
    """The calls of each life without a fault."""
    return {}


def calls_of(name: str, calm: dict[str, Calls]) -> Calls:
    """Returns the calls of a life in which nothing goes wrong; plays it once."""
    if name not in calm:
        calm[name] = live(name).calls
    return calm[name]


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", LIVES)
def test_a_fault_at_any_call_is_survived(
    name: str, fault: str, calm: dict[str, Calls], players: Players, pytestconfig: pytest.Config
) -> None:
    """Whatever one call does, the promises hold."""
    given = pytestconfig.getoption("points")
    found = points(calls_of(name, calm), fault, every_call=given == "all")
    share = None if given in ("all", "moments") else int(given)
    struck = drawn(found, share, turn_of(name, fault))
    strikes: list[Strikes] = [{number: fault} for number in struck]

    players.judge(fault, endured, repeat(name), strikes)


@pytest.mark.parametrize("name", LIVES)
def test_a_crash_and_then_another_fault_are_survived(
    name: str, calm: dict[str, Calls], players: Players, pytestconfig: pytest.Config
) -> None:
    """A process that takes over meets lost, late and false answers too."""
    given = pytestconfig.getoption("pairs")
    share = None if given == "all" else int(given)
    first = drawn(crashes(calls_of(name, calm)), share, list(LIVES).index(name))
    pairs = [
        pair
        for found in players.map(followed, repeat(name), first, repeat(share))
        for pair in found
    ]

    players.judge("crash, then another", endured, repeat(name), pairs)
