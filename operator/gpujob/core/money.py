"""Money as integer micro-US-dollars: exact, and rounded so that no cost is ever understated."""

from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal, InvalidOperation
from fractions import Fraction

MICRO, NANO = 1_000_000, 1_000_000_000
DIGITS = range(-30, 19)
"""Places of the first digit of a number that can be: with others, an exact fraction might fill all
memory, and no sum could be shown."""
DIGITS_MAX = 60
"""After the point, or zeros before it: `0e999999999` is short to write, too."""


class AmountError(ValueError):
    """The text or number is not a finite, non-negative amount."""


def parse_usd(text: str) -> int:
    """Returns the micro-USD of a decimal string, rounded up; raises AmountError."""
    return _scaled(text, ROUND_CEILING)


def floor_usd(text: str) -> int:
    """Returns the micro-USD of a decimal string, rounded down: for limits; raises AmountError."""
    return _scaled(text, ROUND_FLOOR)


def _scaled(text: str, rounding: str) -> int:
    value = _decimal(text)
    if value < 0:
        raise AmountError(f"{text!r} is less than 0")
    return int((value * MICRO).to_integral_value(rounding))


def exact(number: int | float | Decimal | str) -> Fraction:
    """Returns a number from the provider's JSON as exactly the decimal that was written.

    Raises AmountError if it is not a number, as `True` is not, or not finite, or none that can be.
    """
    if isinstance(number, bool):
        raise AmountError(f"{number!r} is not a number")
    return Fraction(_decimal(str(number)))


def _decimal(text: str) -> Decimal:
    try:
        value = Decimal(text)
    except InvalidOperation:
        raise AmountError(f"{text:.40} is not a number") from None
    exponent = value.as_tuple().exponent
    if not isinstance(exponent, int):
        raise AmountError(f"{text:.40} is not finite")
    if abs(exponent) > DIGITS_MAX or (value and value.adjusted() not in DIGITS):
        raise AmountError(f"{text:.40} is not a number that can be")
    return value


def is_below(one: Fraction, other: Fraction) -> bool:
    """Whether one number is less than another: the same as `<`, and several times as fast."""
    first, per_first = one.as_integer_ratio()
    second, per_second = other.as_integer_ratio()
    return first * per_second < second * per_first


def micro_up(usd: Fraction) -> int:
    """Returns micro-USD, rounded up."""
    return -(-usd.numerator * MICRO // usd.denominator)


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
