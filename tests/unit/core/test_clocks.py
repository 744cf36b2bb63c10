"""Three clocks, of which one may be wrong: no single one ends or charges anything."""

from datetime import datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.builders import MONOTONIC, NOW, a_listing

from gpujob.core.market.clocks import PaidTime, joined

BOUND = 5.0
HOUR = 3600.0


def later(
    before: PaidTime | None,
    *,
    after: float,
    wall: float = 0.0,
    theirs: float | None = 0.0,
    slept: float = 0.0,
    took: float = 0.4,
) -> PaidTime:
    """Joins the clocks `after` seconds of true time; each is wrong by so many seconds."""
    monotonic = MONOTONIC + after - slept
    date = None if theirs is None else (NOW + timedelta(seconds=after + theirs))
    listing = a_listing(
        requested_at=monotonic - took,
        answered_at=monotonic,
        provider_time=date and date.replace(microsecond=0),
    )
    return joined(
        before,
        listing,
        wall=NOW + timedelta(seconds=after + wall),
        monotonic=monotonic,
        bound_seconds=BOUND,
    )


def error(time: PaidTime, after: float, slept: float = 0.0) -> float:
    """How far the time is from the true one."""
    return (time.at(MONOTONIC + after - slept) - NOW).total_seconds() - after


AGREED = later(None, after=0.0)


@pytest.mark.parametrize(
    ("wall", "theirs", "slept", "moved", "is_evidence", "blamed"),
    [
        pytest.param(0, 0, 0, 0, True, "", id="all are right"),
        pytest.param(4, 0, 0, 4, True, "", id="ours is a little ahead"),
        pytest.param(-4, 0, 0, 0, True, "", id="ours is a little behind"),
        pytest.param(0, 4, 0, 4, True, "", id="theirs is a little ahead"),
        pytest.param(0, -4, 0, 0, True, "", id="theirs is a little behind"),
        pytest.param(0, 2 * HOUR, 0, 0, False, "an hour ahead", id="theirs jumps"),
        pytest.param(0, -2 * HOUR, 0, 0, False, "an hour behind", id="theirs is old"),
        pytest.param(0, 5e9, 0, 0, False, "a day ahead", id="theirs is of another age"),
        pytest.param(0, None, 0, 0, False, "no Date", id="theirs cannot be read"),
        pytest.param(HOUR, 0, 0, 0, True, "60 s ahead", id="ours steps ahead"),
        pytest.param(-HOUR, 0, 0, 0, True, "60 s behind", id="ours steps back"),
        pytest.param(HOUR, None, 0, 0, False, "no Date", id="ours ahead and no Date"),
        pytest.param(HOUR, -HOUR, 0, 0, False, "provider's", id="all three differ"),
        pytest.param(-HOUR, HOUR, 0, 0, False, "provider's", id="all differ otherwise"),
        pytest.param(0, 0, HOUR, 0, True, "", id="the monotonic clock stood still"),
        pytest.param(-HOUR, 0, HOUR, -HOUR, False, "provider's", id="the machine stood still"),
        pytest.param(0, HOUR, HOUR, -HOUR, False, "provider's", id="it stood, and theirs is ahead"),
    ],
)  # fmt: skip
def test_one_clock_alone_moves_no_time(
    wall: float,
    theirs: float | None,
    slept: float,
    moved: float,
    is_evidence: bool,
    blamed: str,
) -> None:
    """Ten minutes after the clocks agreed one is found wrong; the time is right all the same.

    While the whole machine stood still nobody here can tell that from a provider who is ahead: the
    time is early then, until our wall clock has been set.
    """
    found = later(AGREED, after=600, wall=wall, theirs=theirs, slept=slept)

    assert error(found, 600, slept) == pytest.approx(moved, abs=1.1)
    assert found.is_evidence is is_evidence
    assert blamed in found.problem
    assert bool(found.problem) == bool(blamed)


@pytest.mark.parametrize(
    ("wall", "theirs", "moved"),
    [
        (HOUR, 0, 0.0),
        (-HOUR, 0, -HOUR),
        (0, 2 * HOUR, 0.0),
        (0, -2 * HOUR, -2 * HOUR),
        (HOUR, -HOUR, -HOUR),
        (0, None, 0.0),
    ],
)
def test_a_new_process_whose_clocks_differ_takes_the_earlier(
    wall: float, theirs: float | None, moved: float
) -> None:
    """It has no third witness: nothing is ended, charged or proved until they agree."""
    found = later(None, after=0.0, wall=wall, theirs=theirs)
    again = later(found, after=15.0, wall=wall, theirs=theirs)

    assert error(found, 0.0) == pytest.approx(moved, abs=1.1)
    assert error(again, 15.0) == pytest.approx(moved, abs=1.1), "it is no witness for itself"
    assert not found.is_evidence
    assert not again.is_evidence
    assert found.problem
    healed = later(again, after=30.0)
    assert healed.is_evidence
    assert not healed.problem
    assert error(healed, 30.0) == pytest.approx(0.0, abs=1.1)


def test_a_machine_that_stood_still_catches_up_once_its_clock_is_set() -> None:
    """What it slept through was paid for."""
    woken = later(AGREED, after=HOUR, wall=-HOUR, slept=HOUR)
    synchronised = later(woken, after=HOUR + 60, slept=HOUR)

    assert error(synchronised, HOUR + 60, slept=HOUR) == pytest.approx(0.0, abs=1.1)
    assert not synchronised.problem


@pytest.mark.parametrize("frozen_after", [30.0, 300.0])
def test_a_frozen_date_is_soon_no_evidence(frozen_after: float) -> None:
    """As of answers that somebody stores and repeats."""
    found = later(AGREED, after=frozen_after, theirs=-frozen_after)

    assert not found.is_evidence
    assert error(found, frozen_after) == pytest.approx(0.0, abs=1.1)


def test_a_long_listing_may_be_dated_anywhere_in_between() -> None:
    """A hundred pages take minutes, and the provider may show when it began."""
    long = later(None, after=0.0, theirs=-100.0, took=110.0)

    assert long.is_evidence
    assert not later(long, after=15.0).problem
    assert later(AGREED, after=600, theirs=-100.0, took=110.0).is_evidence
    assert not later(AGREED, after=600, theirs=-100.0, took=10.0).is_evidence


def test_a_problem_is_told_in_the_same_words_while_it_lasts() -> None:
    """Each change would be an event, and a write for each job that waits."""
    told = {later(AGREED, after=15.0 * n, theirs=7200 + 0.9 * n).problem for n in range(1, 100)}

    assert len(told) == 1


ERRORS = st.floats(-10_000, 10_000) | st.floats(-BOUND, BOUND)


@given(st.lists(ERRORS, min_size=1, max_size=200), st.sampled_from(["wall", "theirs"]))
def test_no_liar_moves_time_beyond_the_bound(errors: list[float], liar: str) -> None:
    """Also not one that goes astray step by step, each within the bound; and it never runs back."""
    time, seen = AGREED, list[datetime]()
    for number, wrong in enumerate([*errors, *(4.0 * n for n in range(300))]):
        after = 15.0 * (number + 1)
        time = later(time, after=after, **{liar: wrong})
        seen.append(time.at(time.monotonic))

        assert -1.1 <= error(time, after) <= BOUND + 1
    assert all(one <= two for one, two in pairwise(seen))


def test_two_that_agree_set_right_what_was_carried_on() -> None:
    """Else what one clock said when it was ahead would keep all listings from being evidence."""
    both_ahead = later(None, after=0.0, wall=5.2, theirs=5.2)
    found = later(both_ahead, after=15.0, wall=0.4, theirs=-0.2)

    assert found.is_evidence
    assert found.problem == ""
    assert later(found, after=30.0, wall=0.4, theirs=-0.2).is_evidence
    # What was paid for does not run back meanwhile.
    assert found.at(MONOTONIC + 15) >= both_ahead.at(MONOTONIC + 15)
