"""When a budget has money again, and when it will have none: what people are told."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from fractions import Fraction

from gpujob.core.budget.ledger import Ledger, at
from gpujob.core.money import MICRO


def frees_at(ledger: Ledger, microusd: int, now: datetime) -> datetime | None:
    """Returns when so much can be reserved at the latest, if nobody else takes it before.

    Only time counts: an attempt that ends may free money earlier. None = time alone never does it.
    """
    ledger = at(ledger, now)
    left = ledger.left_microusd
    if left >= microusd:
        return now
    for moment, freed in _frees(ledger):
        left += freed
        if left >= microusd:
            return moment
    return None


def runs_out_at(
    ledger: Ledger, *, accrued_microusd: int, usd_per_hour: Fraction, now: datetime
) -> datetime | None:
    """Returns when the limit will be reached if the machines cost as much per hour as now.

    `accrued_microusd` is what the attempts under way have cost until now. None = not before there
    is money again, or all of what was spent has left the window.
    """
    ledger = at(ledger, now)
    per_second = usd_per_hour * MICRO / 3600
    left = Fraction(ledger.limit_microusd - ledger.spent_microusd - accrued_microusd)
    if left <= 0:
        return now
    if per_second <= 0:
        return None
    frees, passed = list(_frees(ledger)), now
    last = frees[-1][0] if ledger.rule.window is None else now + ledger.rule.window
    for moment, freed in frees:
        if left <= per_second * _seconds(moment - passed):
            break
        left += freed - per_second * _seconds(moment - passed)
        passed = moment
    seconds = left / per_second
    if seconds >= _seconds(last - passed):
        return None
    return passed + timedelta(seconds=int(seconds))


def _frees(ledger: Ledger) -> Iterator[tuple[datetime, int]]:
    """Yields when what was spent counts no more, and how many micro-USD: the earliest first."""
    if ledger.rule.window is None:
        yield ledger.history[-1].span.end, ledger.spent_microusd
        return
    for start, microusd in ledger.window:
        yield ledger.rule.leaves_at(start), microusd


def _seconds(time: timedelta) -> Fraction:
    return Fraction(time // timedelta(microseconds=1), MICRO)
