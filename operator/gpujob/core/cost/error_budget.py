"""How the error that a verdict may have is shared among all that is only estimated.

The shares add up (the union bound), so nothing is assumed about how the quantities hang together.
"""

from collections.abc import Callable, Collection, Mapping
from enum import StrEnum
from fractions import Fraction


class Quantity(StrEnum):
    """What an attempt uses up that is paid for."""

    RUN = "Run"
    BOOT = "Boot"
    DOWNLOAD = "Download"
    UPLOAD = "Upload"


OTHER_SHARE = Fraction(1, 10)
HALVINGS = 12


def error_shares(error: Fraction, estimated: Collection[Quantity]) -> Mapping[Quantity, Fraction]:
    """Returns the error that each quantity may have, so that all hold but with this error.

    What the operator enforces a cap on is certain and needs none: its share is the run time's.
    """
    others = [one for one in Quantity if one is not Quantity.RUN and one in estimated]
    shares: dict[Quantity, Fraction] = dict.fromkeys(others, OTHER_SHARE * error)
    if Quantity.RUN in estimated:
        shares[Quantity.RUN] = error - sum(shares.values())
    return shares


def confidence(fits: Callable[[Fraction], bool]) -> Fraction:
    """Returns one minus the smallest error, to 1 in 4096, with which all bounds still fit; 0 = they
    fit with none.
    """
    parts = 1 << HALVINGS
    low, high = 0, parts
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(Fraction(middle, parts)) else (middle, high)
    return 1 - Fraction(high, parts)
