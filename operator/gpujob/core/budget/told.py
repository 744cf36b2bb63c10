"""What a budget's status tells people beside the ledger: in one condition, one word, and when the
money runs out."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from fractions import Fraction
from typing import Any

from gpujob.api.gpubudget import GpuBudget, GpuBudgetStatus
from gpujob.api.gpunode import GpuNode
from gpujob.api.meta import Condition
from gpujob.api.reasons import Reason
from gpujob.core.budget.ledger import Ledger, written
from gpujob.core.budget.outlook import runs_out_at
from gpujob.core.conditions import merged
from gpujob.core.money import parse_usd, short_usd


def told(
    budget: GpuBudget, ledger: Ledger, machines: Iterable[GpuNode], now: datetime
) -> GpuBudgetStatus:
    """Returns the status that stores a ledger, with all that people are told.

    `machines` are the nodes that are held, as far as they are known.
    """
    known = list(machines)
    runs_out = runs_out_at(
        ledger,
        accrued_microusd=sum(parse_usd(one.status.accrued_usd or "0") for one in known),
        usd_per_hour=sum((Fraction(one.status.usd_per_hour or 0) for one in known), Fraction(0)),
        now=now,
    )
    left = ledger.left_microusd
    number = len(ledger.held)
    attempts = "1 attempt" if number == 1 else f"{number} attempts"
    words = (
        f"{short_usd(ledger.spent_microusd)} are spent and {short_usd(ledger.reserved_microusd)} "
        f"reserved for {attempts}"
    )
    if left <= 0:
        words += "; nothing is left, so that nothing more is rented for the jobs that it covers"
    meta, status = budget.metadata, written(ledger, budget.status)
    conditions = _ready(status.conditions, Reason.READY, words, meta.generation, now)
    return status.model_copy(
        update={
            "observed_generation": meta.generation,
            "phase": "Open" if left > 0 else "Exhausted",
            "conditions": conditions,
            "runs_out_at": runs_out,
        }
    )


def told_unusable(body: Mapping[str, Any], problem: str, now: datetime) -> dict[str, Any]:
    """Returns the status of a stored budget that cannot be used, with the reason; all else in it
    stays as it is, for whoever repairs it.
    """
    status = dict(body.get("status") or {})
    generation = int(body["metadata"].get("generation", 0))
    before = []
    for one in status.get("conditions") or ():
        if isinstance(one, Mapping) and one.get("type") == "Ready":
            before.append(Condition.model_validate(one))
    words = f"nothing is rented for the jobs that it covers: {problem}"
    ready = _ready(tuple(before), Reason.BUDGET_UNUSABLE, words[:1024], generation, now)
    return {**status, "phase": "Unusable", "conditions": [one.wire() for one in ready]}


def _ready(
    stored: tuple[Condition, ...], reason: Reason, words: str, generation: int, now: datetime
) -> tuple[Condition, ...]:
    flag = "True" if reason is Reason.READY else "False"
    return merged(stored, {"Ready": (flag, reason, words)}, generation, now)
