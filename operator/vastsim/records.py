"""The records of what was billed and paid, as the provider shows them (vastsim/FACTS.md, Records).

They are written a while after the fact, so an answer holds what was written by then.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from fractions import Fraction
from math import floor
from typing import Any

from vastsim.ledger import Line
from vastsim.market import Lease

DAY = 86_400
UNITS = {"gpu": "hours", "disk": "hours", "bwd": "GB", "bwu": "GB"}
RATES = {"gpu": "hour", "disk": "hour", "bwd": "GB", "bwu": "GB"}
INVOICE_KINDS = ("transfer", "stripe_payments", "bitpay", "coinbase", "crypto.com")


def charges(lease: Lease, written: float) -> Iterator[dict[str, Any]]:
    """Yields a row for each day in which a lease cost something, of what is written by then."""
    ended = lease.entered("destroyed")
    # Traffic that is counted after the end is still billed.
    last = max([written if ended is None else ended, *(at + 1 for at, _, _ in lease.traffic)])
    day = floor(lease.created_at / DAY) * DAY
    while day < min(last, written):
        begins, ends = max(float(day), lease.created_at), min(day + DAY, last, written)
        bill = lease.bill(ends, since=begins)
        if bill.total_usd:
            yield _charge(lease, begins, ends, bill.lines, bill.total_usd)
        day += DAY


def _charge(
    lease: Lease, begins: float, ends: float, lines: tuple[Line, ...], usd: Fraction
) -> dict[str, Any]:
    facts = lease.facts
    source = f"instance-{lease.number}"
    items = [
        {
            "type": line.kind,
            "source": source,
            "description": _words(line),
            "amount": _amount(line.usd),
            "start": begins,
            "end": ends,
            "metadata": {},
            "items": [],
        }
        for line in lines
    ]
    return {
        "type": "instance",
        "source": source,
        "description": f"{facts.num_gpus}x {facts.gpu_name}",
        "amount": _amount(usd),
        "start": begins,
        "end": ends,
        "metadata": {} if lease.label is None else {"label": lease.label},
        "items": items,
    }


def _words(line: Line) -> str:
    rate = f"{float(line.usd_each):.6f}".rstrip("0").rstrip(".")
    return f"{float(line.quantity):.3f} {UNITS[line.kind]} at ${rate}/{RATES[line.kind]}"


def _amount(usd: Fraction) -> float:
    return float(round(usd, 3))


def payment(account: int, usd: Fraction, at: float) -> dict[str, Any]:
    """Returns the row of the money that an account has paid in."""
    return {
        "type": "credit",
        "source": "stripe_payments",
        "description": f"Credit paid in on {datetime.fromtimestamp(at, UTC):%Y-%m-%d}",
        "amount": _amount(usd),
        "start": at,
        "end": at,
        "metadata": {"invoice_id": account},
        "items": [],
    }
