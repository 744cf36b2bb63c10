"""How sure we are of our own enforcement."""

from datetime import timedelta
from fractions import Fraction
from math import comb

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.builders import NOW

from gpujob.core.cost.confidence import (
    DESTROYS_KEPT,
    DestroyRecord,
    beta_quantile,
    enforcement,
    remembered_destroys,
    rounded_down,
)

RECORDS = st.builds(
    lambda node, was_late: DestroyRecord(str(node), NOW - timedelta(hours=12 * node), was_late),
    st.integers(0, 40),
    st.booleans(),
)
"""A node is gone once, so all records of one say the same time."""


def destroys(on_time: int, late: int, *, hours_ago: float = 0.0) -> tuple[DestroyRecord, ...]:
    """Machines that were gone so long ago."""
    at = NOW - timedelta(hours=hours_ago)
    return tuple(DestroyRecord(f"n-{n}", at, n < late) for n in range(on_time + late))


@pytest.mark.parametrize(
    ("on_time", "late", "figure"),
    [(0, 0, 0.970), (0, 1, 0.953), (0, 2, 0.939), (4, 4, 0.916), (100, 0, 0.985)],
)
def test_the_figure(on_time: int, late: int, figure: float) -> None:
    """A lower bound: the prior no longer outvotes four late of eight."""
    found = enforcement(destroys(on_time, late), NOW).confidence

    assert float(found) == pytest.approx(figure, abs=5e-4)
    assert float(rounded_down(found)) <= found


def test_without_evidence_it_is_one_power() -> None:
    """Beta(99, 1) is below x with probability x to the 99th."""
    assert float(enforcement((), NOW).confidence) == pytest.approx(0.05 ** (1 / 99), abs=1e-6)


@given(st.integers(99, 700), st.integers(1, 120), st.sampled_from([0.05, 0.5, 0.95]))
def test_the_quantile_is_one(a: int, b: int, share: float) -> None:
    """By the binomial sum that a whole Beta is: in exact fractions."""
    found = beta_quantile(share, a, b)

    def below(x: float) -> Fraction:
        n, p = a + b - 1, Fraction(x)
        return sum((comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(a, n + 1)), Fraction(0))

    if a + b <= 220:
        assert float(below(found)) == pytest.approx(share, abs=1e-6)
    assert 0 < found < 1


def test_evidence_fades_and_the_prior_does_not() -> None:
    """Half of it in a day: two late destroys then weigh as one that has just been."""
    two = enforcement(destroys(0, 2), NOW + timedelta(hours=24)).confidence
    one = enforcement(destroys(0, 1), NOW).confidence
    at_last = enforcement(destroys(0, 2), NOW + timedelta(days=30)).confidence

    assert two == one
    assert float(at_last) == pytest.approx(0.970, abs=5e-4)


def test_it_says_what_it_rests_on() -> None:
    """An assumption is called one."""
    assert "assumption" in enforcement((), NOW).basis
    assert enforcement(destroys(30, 1, hours_ago=24), NOW).basis == (
        "15.0 machines were destroyed in time and 0.5 too late, each counting half as much after "
        "24 h"
    )


@given(st.lists(RECORDS, max_size=30), st.lists(RECORDS, max_size=30))
def test_no_destroy_counts_twice(known: list[DestroyRecord], more: list[DestroyRecord]) -> None:
    """Nor does what was known first change, in whatever order it is told."""
    kept = remembered_destroys(known, ())
    both = remembered_destroys(kept, more)

    assert len({one.node_uid for one in both}) == len(both)
    assert remembered_destroys(both, more) == both
    assert list(both) == sorted(both, key=lambda one: one.at)


def test_what_is_kept_has_an_end() -> None:
    """Those that are late are not pushed out by those that are not."""
    many = [DestroyRecord(str(n), NOW + timedelta(seconds=n), n == 0) for n in range(3000)]
    kept = remembered_destroys((), many)

    assert len(kept) == DESTROYS_KEPT + 1
    assert kept[0].was_late
    assert kept[-1] == many[-1]
