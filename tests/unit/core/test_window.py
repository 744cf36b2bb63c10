"""Ranks among past values: what they promise, and who may teach them."""

import tracemalloc
from fractions import Fraction
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpujob.core.cost.window import (
    ENDLESS,
    RUNS_KEPT,
    RUNS_MIN,
    SHARED_KEPT,
    Kind,
    Record,
    SharedWindow,
    Window,
    rank,
    scaled,
    unscaled,
)

ERROR = Fraction(1, 20)


def window(*values: int, kind: Kind = Kind.EXACT) -> Window:
    """A window that learnt these."""
    found = Window()
    for value in values:
        found.learn(value, kind)
    return found


@pytest.mark.parametrize(
    ("runs", "place"), [(18, None), (19, 19), (20, 20), (39, 38), (40, 39), (199, 190), (200, 191)]
)
def test_the_bound_is_the_conformal_rank(runs: int, place: int | None) -> None:
    """The k-th smallest of n, k = ceil(0.95 (n + 1)); with 18 values there is none."""
    assert window(*range(1, runs + 1)).bound(0, ERROR) == place


def test_eighteen_values_bound_nothing_with_any_error() -> None:
    """So that they give no confidence at all."""
    assert window(*range(18)).bound(0, Fraction(1, 2)) is None
    assert window(*range(19)).bound(0, Fraction(1, 2)) == 9


def test_overdue_jobs_raise_the_rank_until_there_is_none() -> None:
    """Each counts as longer than all values, from the moment at which it should have ended."""
    found = window(*range(1, 201))
    for number in range(10):
        found.expected.add(100.0 + number)

    assert found.bound(100, ERROR) == 191
    assert found.bound(105, ERROR) == 196
    assert found.bound(110, ERROR) is None
    found.expected.drop(100.0)
    assert found.bound(110, ERROR) == 200


def test_what_was_stopped_is_longer_than_any_bound() -> None:
    """One in twenty makes the bound endless: not even the longest value is one."""
    found = window(*range(1, 39))
    found.learn(0, Kind.ENDLESS)
    assert found.bound(0, ERROR) == 38
    assert not found.is_endless(ERROR)

    found.learn(0, Kind.ENDLESS)
    assert found.bound(0, ERROR) is None
    assert found.is_endless(ERROR)


@given(
    st.lists(st.tuples(st.integers(1, 500), st.booleans()), min_size=RUNS_MIN, max_size=60),
    st.sampled_from([Fraction(1, 20), Fraction(1, 10), Fraction(1, 2)]),
)
def test_runs_cut_short_count_as_kaplan_and_meier_have_it(
    seen: list[tuple[int, bool]], error: Fraction
) -> None:
    """Against the textbook's product over all exact values, in fractions."""
    found = Window()
    for value, is_cut in seen:
        found.learn(value, Kind.AT_LEAST if is_cut else Kind.EXACT)
    left, expected = Fraction(1), None
    for value in sorted({value for value, is_cut in seen if not is_cut}):
        ended = sum(other == value and not is_cut for other, is_cut in seen)
        # The job that is asked about is at risk throughout.
        at_risk = sum(other >= value for other, _ in seen) + 1
        left *= 1 - Fraction(ended, at_risk)
        if left <= error:
            expected = value
            break

    assert found.bound(0, error) == expected


def test_a_run_cut_short_says_something_of_longer_ones() -> None:
    """Taken for its end, it would lower the bound; left out, too."""
    values = range(1, 101)
    as_end = window(*values, *[50] * 40).bound(0, ERROR)
    left_out = window(*values).bound(0, ERROR)
    found = window(*values)
    for _ in range(40):
        found.learn(50, Kind.AT_LEAST)

    bound = found.bound(0, ERROR)
    assert bound is not None
    assert as_end is not None
    assert left_out is not None
    assert as_end < left_out < bound


def test_a_row_of_crashes_hardly_lowers_the_bound() -> None:
    """They are in a window of their own, and count for a tenth of the runs at most."""
    found = window(*range(1, 101))
    for _ in range(500):
        found.learn_crash()

    assert found.bound(0, ERROR) == rank(100 + 10 + 1, ERROR) - 10 == 96
    assert len(found) == 100


def test_crashes_are_forgotten_with_the_outcomes_of_their_time() -> None:
    """Once as many runs as are kept came after them, they count no more."""
    found = window(*range(1, 101))
    for _ in range(20):
        found.learn_crash()
    for value in range(RUNS_KEPT):
        found.learn(value, Kind.EXACT)

    assert found.crashes(RUNS_KEPT) == 0


@pytest.mark.parametrize("count", [0, RUNS_KEPT, RUNS_KEPT + 1, 3 * RUNS_KEPT])
def test_a_window_is_what_its_latest_values_say(count: int) -> None:
    """Sums and order are those of a window that learnt the latest values only."""
    chance = Random(count)
    told = [(chance.randrange(1, 10**7), chance.choice(list(Kind))) for _ in range(count)]
    long, short = Window(), Window()
    for value, kind in told:
        long.learn(value, kind)
    for value, kind in told[-RUNS_KEPT:]:
        short.learn(value, kind)

    assert (len(long), long.exact, long.deviation) == (len(short), short.exact, short.deviation)
    assert long.bound(0, ERROR) == short.bound(0, ERROR)


def test_the_order_of_completions_does_not_matter() -> None:
    """The same values in another order make the same window."""
    values = [scaled(Random(number).uniform(1, 1e5)) for number in range(RUNS_KEPT)]
    one, other = window(*values), window(*reversed(values))

    assert one.bound(0, ERROR) == other.bound(0, ERROR)
    assert (one.median, one.deviation) == (other.median, other.deviation)


@given(st.floats(min_value=1e-3, max_value=1e9))
def test_a_value_is_kept_rounded_up(seconds: float) -> None:
    """By a millionth at most, so that a bound is never below the value that it is."""
    assert seconds * (1 - 1e-12) <= unscaled(scaled(seconds)) <= seconds * (1 + 2e-6)


def test_a_record_proves_itself_and_fails_before_a_job_has_ended() -> None:
    """Nineteen that held are needed; a job that runs longer counts at once, and for long."""
    record = Record()
    for number in range(19):
        assert not record.is_proven(number, ERROR)
        record.promise(number + 10, number)
        record.settle(number + 10, number + 1, held=True)
    assert record.is_proven(20, ERROR)

    record.promise(30, 20)
    assert record.is_proven(30, ERROR)
    assert not record.is_proven(31, ERROR)
    record.settle(30, 40, held=True)
    assert not record.is_proven(41, ERROR)


def test_no_tenant_has_more_than_a_third() -> None:
    """However many values it brings, and whenever."""
    chance, shared = Random(1), SharedWindow()
    quiet = [f"t-{number}" for number in range(8)]
    for step in range(20_000):
        shared.learn("loud" if chance.random() < 0.9 else chance.choice(quiet), step)
        if len(shared) >= RUNS_MIN:
            assert shared.held_by("loud") <= len(shared) / 3
    assert sum(map(shared.held_by, ("loud", *quiet))) == len(shared) <= SHARED_KEPT


def test_one_tenant_alone_bounds_nobody_else() -> None:
    """A thousand runs of one tenant are not enough to say something of another's."""
    shared = SharedWindow()
    for value in range(1000):
        shared.learn("loud", value)

    assert shared.bound(0, ERROR) is None


def test_one_tenant_cannot_lower_the_bound_of_everything_beyond_its_share() -> None:
    """Thousands of short runs leave the others' bound at their own 92.5 %, not lower."""
    shared = SharedWindow()
    for value in range(1000):
        shared.learn(f"t-{value % 10}", value + 1000)
    for _ in range(5000):
        shared.learn("loud", 1)

    bound = shared.bound(0, ERROR)
    assert bound is not None
    assert 1000 + 920 <= bound <= 1000 + 930


def test_overdue_jobs_of_one_tenant_count_up_to_its_share() -> None:
    """They, too, could shut everybody out."""
    shared = SharedWindow()
    for value in range(600):
        shared.learn(f"t-{value % 30}", value)
    for _ in range(5000):
        shared.expect("loud", 1.0)

    assert shared.overdue(2.0) == shared.share("loud") == 300


def test_endless_values_are_above_all_others() -> None:
    """In a shared window as well; sums are those of the others."""
    shared = SharedWindow()
    for value in range(40):
        shared.learn(f"t-{value}", ENDLESS if value < 4 else value)

    assert shared.bound(0, ERROR) is None
    assert (len(shared), shared.finite, shared.longest) == (40, 36, ENDLESS)
    assert shared.median == 21.5


def test_a_full_window_takes_less_than_4_kb() -> None:
    """With all that it can hold, and the scores."""
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    kept = {}
    for key in range(100):
        found = kept[f"namespace-{key}/0123456789abcdef"] = Window()
        for value in range(2 * RUNS_KEPT):
            found.learn(value * 1000 + key, Kind.AT_LEAST if value % 9 == 0 else Kind.EXACT)
            found.learn_score(value)
            found.learn_crash()
            found.record.promise(value, value)
            found.record.settle(value, value, held=value % 7 > 0)
    taken = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()

    assert taken / len(kept) <= 4096
