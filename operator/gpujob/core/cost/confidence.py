"""How sure we are of our own enforcement: the probability that a machine is destroyed in time."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from fractions import Fraction

CONFIDENCE_HALF_LIFE = timedelta(hours=24)


@dataclass(frozen=True)
class DestroyRecord:
    """The result of one destroy that was sent on time."""

    at: datetime
    was_late: bool


def enforcement_confidence(destroys: tuple[DestroyRecord, ...], now: datetime) -> Fraction:
    """Returns the probability that we destroy in time.

    It is the posterior mean, with the prior Beta(1, 99), over destroys that were sent on time; the
    weight of each halves every day. The 0.99 that it is without evidence is an assumption.
    """
    late = total = 0.0
    for destroy in destroys:
        age = max(now - destroy.at, timedelta(0))
        weight = 0.5 ** (age / CONFIDENCE_HALF_LIFE)
        total += weight
        late += weight * destroy.was_late
    return 1 - Fraction((late + 1) / (total + 100)).limit_denominator(10**9)


def rounded_down(confidence: Fraction) -> str:
    """Returns a confidence for display, rounded down so that it is never overstated."""
    return f"{int(confidence * 1000) / 1000:.3f}"
