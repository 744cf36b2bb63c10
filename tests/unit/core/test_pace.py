"""Whose turn it is to ask the provider, and when."""

from collections import Counter

import pytest

from gpujob.core.market.pace import (
    BACKOFF_MAX_SECONDS,
    LATE_SECONDS,
    Kind,
    Ticket,
    Turns,
    repeat_seconds,
)


def played(
    turns: Turns, tickets: list[Ticket], *, until: float, step: float = 0.25
) -> dict[Ticket, float]:
    """When each ticket was used, if each is tried again and again in this order."""
    used: dict[Ticket, float] = {}
    now = 0.0
    while now <= until and len(used) < len(tickets):
        for ticket in tickets:
            if ticket not in used and not turns.wait(ticket, now):
                turns.go(ticket, now)
                used[ticket] = now
        now += step
    return used


@pytest.mark.parametrize("kind", Kind)
def test_a_kind_never_goes_faster_than_its_threshold(kind: Kind) -> None:
    """Nor does its first request, since another process may have asked just before."""
    turns = Turns(0.0)
    tickets = [turns.join(kind, 0.0) for _ in range(5)]
    used = sorted(played(turns, tickets, until=100).values())

    gaps = [later - earlier for earlier, later in zip([0.0, *used], used, strict=False)]
    assert len(used) == 5
    assert min(gaps) >= kind.interval_seconds
    assert max(gaps) <= kind.interval_seconds + 0.25


def test_kinds_do_not_wait_for_one_another() -> None:
    """A listing goes out while a hundred destroys wait."""
    turns = Turns(0.0)
    for _ in range(100):
        turns.join(Kind.DESTROY, 0.0)
    for kind in (Kind.LIST, Kind.ACCOUNT, Kind.LOG, Kind.STATE):
        assert turns.wait(turns.join(kind, 0.0), 1.0) == 0


@pytest.mark.parametrize("kind", [Kind.RENT, Kind.SEARCH])
def test_nothing_that_leads_to_more_machines_goes_before_a_destroy(kind: Kind) -> None:
    """It asked first, and its own interval is over."""
    turns = Turns(0.0)
    eager = turns.join(kind, 0.0)
    destroys = [turns.join(Kind.DESTROY, 0.0) for _ in range(20)]
    used = played(turns, [eager, *destroys], until=100)

    assert used[eager] >= max(used[one] for one in destroys)
    assert max(used[one] for one in destroys) <= 1.1 * 20 * Kind.DESTROY.interval_seconds


def test_namespaces_take_turns() -> None:
    """A thousand requests of one namespace do not hold up the other two."""
    turns = Turns(0.0)
    asked = "aaaaaaaaaabbc"
    tickets = [turns.join(Kind.RENT, 0.0, name) for name in asked]
    used = played(turns, tickets, until=1000)

    order = "".join(one.namespace for one in sorted(used, key=lambda one: used[one]))
    assert order == "abcab" + "a" * 8
    # The next one of a namespace that was served long ago goes before others that came earlier.
    late = [turns.join(Kind.RENT, 0.0, name) for name in "aac"]
    again = played(turns, late, until=2000)
    assert min(again, key=lambda one: again[one]).namespace == "c"


def test_who_leaves_holds_up_nobody() -> None:
    """Its ticket was not used, so no interval begins."""
    turns = Turns(0.0)
    first, second = turns.join(Kind.DESTROY, 3.0), turns.join(Kind.DESTROY, 3.0)
    assert turns.wait(second, 3.0) == 3.0
    turns.leave(first)
    turns.leave(first)
    assert turns.wait(second, 3.0) == 0.0


@pytest.mark.parametrize("kind", [Kind.LIST, Kind.DESTROY])
def test_a_loop_that_hangs_holds_up_no_other(kind: Kind) -> None:
    """The sweep lists and destroys also when all others have stopped, and the reverse."""
    turns = Turns(0.0)
    hangs = [turns.join(kind, 0.0) for _ in range(50)]
    for ticket in hangs:
        turns.wait(ticket, 0.0)
    late = max(turns.wait(ticket, 0.0) for ticket in hangs) + LATE_SECONDS + 0.1
    other, rent = turns.join(kind, late), turns.join(Kind.RENT, late)

    assert turns.wait(other, late) == 0
    turns.go(other, late)
    assert turns.wait(rent, late) == 0
    # Whoever comes back has its turn.
    assert turns.wait(hangs[0], late) == pytest.approx(kind.interval_seconds)


def test_a_wait_that_is_told_is_never_too_long() -> None:
    """Whoever sleeps for it does not oversleep its turn, whatever waits."""
    turns = Turns(0.0)
    kinds = [Kind.DESTROY, Kind.SEARCH, Kind.RENT, Kind.SEARCH, Kind.DESTROY, Kind.RENT]
    tickets = [turns.join(kind, 0.0, str(number % 2)) for number, kind in enumerate(kinds)]
    told = {ticket: turns.wait(ticket, 0.0) for ticket in tickets}
    used = played(turns, tickets, until=100, step=0.01)

    assert Counter(used.keys()) == Counter(tickets)
    for ticket in tickets:
        assert told[ticket] <= used[ticket] + 0.02


@pytest.mark.parametrize(
    ("said", "pause"),
    [
        ({}, 5.0),
        ({"retry_after_seconds": 30.0}, 30.0),
        ({"threshold_seconds": 4.5}, 5.0),
        ({"threshold_seconds": 7.0}, 7.0),
        ({"retry_after_seconds": 1e9}, BACKOFF_MAX_SECONDS),
        ({"threshold_seconds": 1e9}, 3 * Kind.DESTROY.interval_seconds),
        ({"retry_after_seconds": 0.0}, 5.0),
    ],
)
def test_a_refusal_is_obeyed_within_bounds(said: dict[str, float], pause: float) -> None:
    """Nobody's word keeps a machine from being destroyed for longer than a minute."""
    turns = Turns(0.0)
    turns.refused(Kind.DESTROY, 100.0, **said)

    ticket = turns.join(Kind.DESTROY, 0.0)
    assert turns.wait(ticket, 100.0) == pytest.approx(pause)
    assert turns.wait(turns.join(Kind.LIST, 0.0), 100.0) == 0


def test_refusals_in_a_row_pause_longer_and_an_answer_ends_that() -> None:
    """The longer threshold that was said stays."""
    turns = Turns(0.0)
    ticket = turns.join(Kind.LIST, 0.0)
    pauses = []
    for _ in range(6):
        turns.refused(Kind.LIST, 100.0, threshold_seconds=2.0)
        pauses.append(turns.wait(ticket, 100.0))
    assert pauses == pytest.approx([5, 10, 20, 40, 60, 60])
    turns.answered(Kind.LIST, 100.0, 100.0)
    turns.go(ticket, 200.0)
    assert turns.wait(turns.join(Kind.LIST, 0.0), 200.0) == pytest.approx(2.0)


@pytest.mark.parametrize(("took", "pause"), [(0.0, 3.0), (0.2, 3.2), (30.0, 4.0)])
def test_the_interval_begins_when_the_request_may_have_arrived(took: float, pause: float) -> None:
    """Else one that was slow on its way would be followed too soon; but no answer is waited for."""
    turns = Turns(0.0)
    turns.go(turns.join(Kind.DESTROY, 0.0), 100.0)
    turns.answered(Kind.DESTROY, 100.0, 100.0 + took)

    assert turns.wait(turns.join(Kind.DESTROY, 0.0), 100.0) == pytest.approx(pause)


def test_a_machine_is_destroyed_again_ever_less_often() -> None:
    """The first request waits for nothing."""
    assert [repeat_seconds(times) for times in range(7)] == [0, 10, 20, 40, 80, 120, 120]


def test_a_wider_spacing_leaves_room_for_others() -> None:
    """For an account that somebody else uses as well."""
    turns = Turns(0.0, spacing=2.0)
    used = played(turns, [turns.join(Kind.LIST, 0.0) for _ in range(3)], until=100)

    assert sorted(used.values()) == [2.0, 4.0, 6.0]
