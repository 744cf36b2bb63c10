"""Money is exact, and rounded against ourselves."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpujob.core.money import (
    AmountError,
    exact,
    floor_usd,
    format_usd,
    micro_up,
    over_time,
    parse_usd,
    short_usd,
)

HUGE = ["1e999999999", "0e999999999", "1e-999999999", "9" * 5000]
"""Short to write, and too long to reckon with."""


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-1", "", "1e", "one", "-0.000001", *HUGE])
def test_what_is_no_amount_is_refused(text: str) -> None:
    """Nothing but a finite number of at least 0 becomes money."""
    with pytest.raises(AmountError):
        parse_usd(text)


def test_limits_round_down_and_costs_round_up() -> None:
    """The seventh decimal of a ceiling is dropped, that of a cost counts in full."""
    assert floor_usd("1.0000009") == 1_000_000
    assert parse_usd("1.0000001") == 1_000_001


@pytest.mark.parametrize("number", [True, float("nan"), float("inf"), "x", None, *HUGE])
def test_json_that_is_no_number_is_refused(number: object) -> None:
    """A boolean is no number, and neither is what is not finite."""
    with pytest.raises(AmountError):
        exact(number)  # type: ignore[arg-type]


def test_json_numbers_are_taken_as_they_were_written() -> None:
    """0.1 is a tenth, not its nearest binary fraction."""
    assert exact(0.1) == Fraction(1, 10)


@given(st.integers(0, 10**15))
def test_what_is_written_is_read_back(microusd: int) -> None:
    """Formatting loses nothing."""
    assert parse_usd(format_usd(microusd)) == microusd


@given(st.integers(0, 10**9), st.floats(0, 10**7))
def test_a_cost_over_time_is_never_below_the_product(rate: int, seconds: float) -> None:
    """Rounding goes up, by less than one micro-dollar."""
    cost = over_time(rate, seconds)
    product = Fraction(seconds) * rate / 3600

    assert product <= cost < product + 1


def test_time_before_the_start_costs_nothing() -> None:
    """A clock that was set back makes no negative cost."""
    assert over_time(1_000_000, -5.0) == 0


def test_fractions_of_a_micro_dollar_count_in_full() -> None:
    """A third of a micro-dollar is one."""
    assert micro_up(Fraction(1, 3_000_000)) == 1


def test_amounts_for_people_never_look_cheaper() -> None:
    """Display rounds up."""
    assert short_usd(1_000_001) == "$1.001"
