"""Each fault at each call of each life: no leak, no second machine, no overspending, and an end.

All points are hundreds of thousands: a share of them is drawn evenly, `--points all` takes each.
"""

from collections.abc import Callable
from functools import cache, partial
from itertools import repeat
from typing import NoReturn

import pytest
from tests.simulation.branches import Strikes
from tests.simulation.conftest import Players
from tests.simulation.lives import LIVES, live
from tests.simulation.points import (
    crashes,
    drawn,
    followed,
    frozen,
    launching,
    points,
    renting,
    turn_of,
)
from tests.simulation.process import FAULTS, Calls
from tests.simulation.world import Verdict

pytestmark = pytest.mark.timeout(0)
"""Each world ends by its own patience, in virtual time; how many there are is up to the caller."""

RENTING = ("plain", "listed last", "unmarked")
"""Lives whose rent is struck by each fault whatever share is drawn."""


@pytest.fixture(scope="module")
def calm() -> dict[str, Calls]:
    """The calls of each life without a fault."""
    return {}


def calls_of(name: str, calm: dict[str, Calls]) -> Calls:
    """Returns the calls of a life in which nothing goes wrong; plays it once."""
    if name not in calm:
        calm[name] = live(name).calls
    return calm[name]


def share(given: str) -> int | None:
    """Returns how many are to be drawn; None = all."""
    return int(given) if given.isdecimal() else None


@pytest.fixture(scope="module")
def struck_lives(
    calm: dict[str, Calls], players: Players, request: pytest.FixtureRequest
) -> dict[str, Callable[[], dict[str, list[Verdict]]]]:
    """What came of each life that was played with faults, by fault.

    All of them begin at once, so that no processor waits for another one. The worlds of all faults
    that are asked for have much in common, so they are played together.
    """
    test = test_a_fault_at_any_call_is_survived.__name__
    asked: dict[str, list[str]] = {}
    for item in request.session.items:
        if isinstance(item, pytest.Function) and item.originalname == test:
            given = item.callspec.params
            asked.setdefault(str(given["name"]), []).append(str(given["fault"]))
    begun: dict[str, Callable[[], dict[str, list[Verdict]]]] = {}
    for name, faults in asked.items():
        try:
            calls = calls_of(name, calm)
        except Exception as error:  # noqa: BLE001 - each test of this life fails with it
            begun[name] = partial(_raise, error)
            continue
        share_asked = request.config.getoption("points")
        strikes = {one: strikes_of(name, one, calls, share_asked) for one in sorted(faults)}
        every = [one for some in strikes.values() for one in some]
        begun[name] = cache(partial(_by_fault, strikes, players.begin(name, every)))
    return begun


def _raise(error: Exception) -> NoReturn:
    raise error


def _by_fault(
    strikes: dict[str, list[Strikes]], played: Callable[[], list[Verdict]]
) -> dict[str, list[Verdict]]:
    verdicts = iter(played())
    return {fault: [next(verdicts) for _ in some] for fault, some in strikes.items()}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", LIVES)
def test_a_fault_at_any_call_is_survived(
    name: str,
    fault: str,
    struck_lives: dict[str, Callable[[], dict[str, list[Verdict]]]],
    players: Players,
) -> None:
    """Whatever one call does, the promises hold."""
    players.judge(fault, struck_lives[name]()[fault])


def strikes_of(name: str, fault: str, calls: Calls, given: str) -> list[Strikes]:
    """Returns where a fault strikes a life, each time another one."""
    found = points(calls, fault, every_call=given == "all")
    always = renting(calls, fault) if name in RENTING else []
    struck = {*drawn(found, share(given), turn_of(name, fault)), *always}
    return [{number: fault} for number in sorted(struck)]


@pytest.mark.parametrize("name", LIVES)
def test_a_crash_and_then_another_fault_are_survived(
    name: str, calm: dict[str, Calls], players: Players, pytestconfig: pytest.Config
) -> None:
    """A process that takes over meets lost, late and false answers too."""
    given = pytestconfig.getoption("pairs")
    few = share(given)
    first = drawn(crashes(calls_of(name, calm)), few, list(LIVES).index(name))
    found = players.map(
        partial(followed, each=given == "each"),
        repeat(name),
        first,
        repeat(1 if given == "each" else few),
    )
    pairs = [pair for some in found for pair in some]

    players.judge("crash, then another", players.endure(name, pairs))


@pytest.mark.parametrize("name", ["plain", "retried"])
def test_a_node_that_goes_during_its_launch_is_survived(
    name: str, calm: dict[str, Calls], players: Players, pytestconfig: pytest.Config
) -> None:
    """Also if a late request creates another one in its place."""
    few = share(pytestconfig.getoption("points"))
    found = launching(calls_of(name, calm))
    strikes = drawn(found, None if few is None else few * 10)

    players.judge("node goes in launch", players.endure(name, strikes))


@pytest.mark.parametrize("name", ["long", "retried"])
def test_a_sweep_that_stands_while_another_rents_destroys_nothing(
    name: str, calm: dict[str, Calls], players: Players
) -> None:
    """What it saw of the nodes is older than the machine."""
    strikes = frozen(calls_of(name, calm))

    assert strikes, "it looks before a node is made"
    players.judge("sweep stands", players.endure(name, strikes))
