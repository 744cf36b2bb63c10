"""Money as integer micro-US-dollars: exact, and rounded so that no cost is ever understated."""

from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal, InvalidOperation
from fractions import Fraction

MICRO = 1_000_000


class AmountError(ValueError):
    """The text or number is not a finite, non-negative amount."""


def parse_usd(text: str) -> int:
    """Returns the micro-USD of a decimal string, rounded up; raises AmountError."""
    return _scaled(text, ROUND_CEILING)


def floor_usd(text: str) -> int:
    """Returns the micro-USD of a decimal string, rounded down: for limits; raises AmountError."""
    return _scaled(text, ROUND_FLOOR)


def _scaled(text: str, rounding: str) -> int:
    try:
        value = Decimal(text)
    except InvalidOperation:
        raise AmountError(f"{text!r} is not a decimal number") from None
    if not value.is_finite() or value < 0:
        raise AmountError(f"{text!r} is not a finite amount of at least 0")
    return int((value * MICRO).to_integral_value(rounding))


def exact(number: int | float | Decimal | str) -> Fraction:
    """Returns a number from the provider's JSON as exactly the decimal that was written.

    Raises AmountError if it is not finite or not a number; `True` is not one either.
    """
    if isinstance(number, bool):
        raise AmountError(f"{number!r} is not a number")
    try:
        value = Decimal(str(number))
    except InvalidOperation:
        raise AmountError(f"{number!r} is not a number") from None
    if not value.is_finite():
        raise AmountError(f"{number!r} is not finite")
    return Fraction(value)


def micro_up(usd: Fraction) -> int:
    """Returns micro-USD, rounded up."""
    scaled = usd * MICRO
    return -(-scaled.numerator // scaled.denominator)


def over_time(microusd_per_hour: int, seconds: float) -> int:
    """Returns the micro-USD of a rate over time, rounded up; negative time costs nothing."""
    cost = Fraction(max(seconds, 0.0)) * microusd_per_hour / 3600
    return -(-cost.numerator // cost.denominator)


def format_usd(microusd: int) -> str:
    """Returns the decimal string with six decimals that statuses carry."""
    assert microusd >= 0, f"money cannot be negative: {microusd}"
    return f"{microusd // MICRO}.{microusd % MICRO:06d}"


def short_usd(microusd: int) -> str:
    """Returns the amount for people, rounded up to a tenth of a cent."""
    return f"${-(-microusd // 1000) / 1000:.3f}"
