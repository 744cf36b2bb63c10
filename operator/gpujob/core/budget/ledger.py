"""The ledger of one budget: what is reserved and what was spent, and how that changes.

Each change is a function of the ledger as stored, and leaves one that can be stored by
compare-and-swap. Each can be repeated: the key of a reservation is the UID of its GpuNode, and a
reservation that is not there was settled before. Only `reserve` takes money, and it never leaves
more spent and reserved than the limit. What an attempt has cost is charged to the period in
which it is settled, since only then it is final; what is reserved carries into each next period.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import cached_property
from types import MappingProxyType
from typing import Any

from pydantic import ValidationError

from gpujob.api.gpubudget import (
    HISTORY_DAYS,
    RESERVATIONS_MAX,
    BudgetReservation,
    GpuBudget,
    GpuBudgetStatus,
    PeriodSpend,
    SliceSpend,
)
from gpujob.core.budget.period import Rule, Span, UnknownZone, rule_of
from gpujob.core.money import AmountError, floor_usd, format_usd, parse_usd

KEPT = timedelta(days=HISTORY_DAYS)


class Unusable(ValueError):
    """A stored budget cannot be read whole, or is not open: nothing is reserved in it."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """An attempt, and the most that it may cost."""

    node_uid: str
    node_name: str
    job_uid: str
    attempt: int
    microusd: int


@dataclass(frozen=True, kw_only=True)
class Held:
    """What is reserved for an attempt."""

    claim: Claim
    since: datetime


@dataclass(frozen=True)
class Spent:
    """What was spent in a period, or in a day."""

    span: Span
    microusd: int
    carried_microusd: int | None = None
    """What was reserved when it ended; None = it is the present one."""


@dataclass(frozen=True)
class Refused:
    """The ledger holds no more."""

    lacking_microusd: int
    """So much less must be spent or reserved before it fits; 0 = it has no room for an entry."""


@dataclass(frozen=True, kw_only=True)
class Ledger:
    """A budget as one stored version of it shows it."""

    limit_microusd: int
    rule: Rule
    opened_at: datetime
    held: Mapping[str, Held]
    """By the UID of the attempt's GpuNode."""
    history: tuple[Spent, ...]
    """By period, the present one last."""
    window: tuple[tuple[datetime, int], ...] = ()
    """Of a rolling window: when each part began, and the micro-USD spent in it; oldest first."""

    @cached_property
    def reserved_microusd(self) -> int:
        """What is reserved for all attempts together."""
        return sum(one.claim.microusd for one in self.held.values())

    @property
    def spent_microusd(self) -> int:
        """What was spent in the present period or window."""
        if self.rule.window is not None:
            return sum(microusd for _, microusd in self.window)
        return self.history[-1].microusd

    @property
    def left_microusd(self) -> int:
        """What can be reserved; less than 0 if the limit was lowered, or more was taken over."""
        return self.limit_microusd - self.spent_microusd - self.reserved_microusd


def opened(budget: GpuBudget, claims: Iterable[Claim], now: datetime) -> Ledger:
    """Returns the ledger of a budget that holds nothing yet, with the attempts under way.

    They are reserved for beyond the limit, if need be: their machines may cost money already.
    Raises Unusable if they are too many, or if the time zone is not known.
    """
    rule = _rule(budget)
    held = {one.node_uid: Held(claim=one, since=now) for one in claims}
    if len(held) > RESERVATIONS_MAX:
        raise Unusable(
            f"{len(held)} attempts are under way, and it has room for {RESERVATIONS_MAX}; wait "
            "until some have ended"
        )
    return Ledger(
        limit_microusd=floor_usd(budget.spec.limit),
        rule=rule,
        opened_at=now,
        held=MappingProxyType(held),
        history=(Spent(rule.at(now), 0),),
    )


def at(ledger: Ledger, now: datetime) -> Ledger:
    """Returns the ledger in the period of a moment: one that has ended is closed for good.

    A clock that goes back opens none again, so what is charged then goes to the later period.
    """
    present = ledger.history[-1]
    if now >= present.span.end:
        closed = replace(present, carried_microusd=ledger.reserved_microusd)
        new = Spent(ledger.rule.at(now), 0)
        history = (*ledger.history[:-1], closed, new)
        ledger = replace(ledger, history=history)
    oldest = ledger.history[-1].span.start - KEPT
    kept = tuple(one for one in ledger.history if one.span.end > oldest)
    window = tuple(one for one in ledger.window if ledger.rule.leaves_at(one[0]) > now)
    return replace(ledger, history=kept, window=window)


def reserve(ledger: Ledger, claim: Claim, now: datetime) -> Ledger | Refused:
    """Holds at least so much for an attempt: what is held for it may grow, and is never lowered."""
    ledger = at(ledger, now)
    before = ledger.held.get(claim.node_uid)
    more = claim.microusd - (before.claim.microusd if before else 0)
    if more <= 0 and before is not None:
        return ledger
    if before is None and len(ledger.held) >= RESERVATIONS_MAX:
        return Refused(0)
    if more > ledger.left_microusd:
        return Refused(more - ledger.left_microusd)
    since = before.since if before else now
    return _with(ledger, Held(claim=claim, since=since))


def shrink(ledger: Ledger, node_uid: str, microusd: int, now: datetime) -> Ledger:
    """Holds less for an attempt; if that is not held, or less is, nothing changes."""
    ledger = at(ledger, now)
    before = ledger.held.get(node_uid)
    if before is None or before.claim.microusd <= microusd:
        return ledger
    return _with(ledger, replace(before, claim=replace(before.claim, microusd=microusd)))


def settle(ledger: Ledger, node_uid: str, charged_microusd: int, now: datetime) -> Ledger:
    """Frees what is held for an attempt, and charges what it has cost, also if that is more.

    An attempt that cost nothing is released so. If nothing is held, it was settled before.
    """
    ledger = at(ledger, now)
    if node_uid not in ledger.held:
        return ledger
    held = {uid: one for uid, one in ledger.held.items() if uid != node_uid}
    present = ledger.history[-1]
    charged = replace(present, microusd=present.microusd + charged_microusd)
    window = ledger.window
    if ledger.rule.window is not None and charged_microusd:
        window = _charged(ledger, charged_microusd, now)
    return replace(
        ledger,
        held=MappingProxyType(held),
        history=(*ledger.history[:-1], charged),
        window=window,
    )


def _charged(ledger: Ledger, microusd: int, now: datetime) -> tuple[tuple[datetime, int], ...]:
    *earlier, last = ledger.window or ((ledger.rule.slice_start(now), 0),)
    # A part that the clock has left is not charged again.
    start = max(ledger.rule.slice_start(now), last[0])
    if start == last[0]:
        return (*earlier, (start, last[1] + microusd))
    return (*earlier, last, (start, microusd))


def _with(ledger: Ledger, held: Held) -> Ledger:
    changed = {**ledger.held, held.claim.node_uid: held}
    return replace(ledger, held=MappingProxyType(changed))


# --- As stored ----------------------------------------------------------------------------------


def read_budget(body: Mapping[str, Any]) -> GpuBudget:
    """Returns a stored budget; raises Unusable if one of its fields cannot be read."""
    try:
        return GpuBudget.model_validate(body)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise Unusable(f"its field {where or 'spec'} cannot be read: {first['msg']}") from None


def ledger_of(budget: GpuBudget) -> Ledger:
    """Returns the ledger that a budget holds; raises Unusable if it is not open or not whole.

    It is not whole, either, if its sums are not those of its entries: then something is missing,
    and what that was is not known.
    """
    status = budget.status
    if status.opened_at is None:
        raise Unusable("the operator has not counted yet what is under way")
    try:
        ledger = Ledger(
            limit_microusd=floor_usd(budget.spec.limit),
            rule=_rule(budget),
            opened_at=status.opened_at,
            held=MappingProxyType({one.node_uid: _held(one) for one in status.reservations}),
            history=tuple(_spent(one) for one in status.history),
            window=tuple((one.start, parse_usd(one.spent_usd)) for one in status.window),
        )
        told = [
            None if one is None else parse_usd(one)
            for one in (status.spent_usd, status.reserved_usd)
        ]
    except AmountError as error:
        raise Unusable(f"an amount in its status cannot be read: {error}") from None
    if not ledger.history or not len(ledger.held) == len(status.reservations) == status.open:
        raise Unusable("its status does not hold as many entries as it tells")
    if told != [ledger.spent_microusd, ledger.reserved_microusd]:
        raise Unusable("what its status holds does not add up to spentUSD and reservedUSD")
    return ledger


def written(ledger: Ledger, status: GpuBudgetStatus) -> GpuBudgetStatus:
    """Returns the status that stores an ledger; what people are told besides stays."""
    present = ledger.history[-1].span
    return status.model_copy(
        update={
            "opened_at": ledger.opened_at,
            "spent_usd": format_usd(ledger.spent_microusd),
            "reserved_usd": format_usd(ledger.reserved_microusd),
            "available_usd": format_usd(max(ledger.left_microusd, 0)),
            "open": len(ledger.held),
            "period_end": present.end if ledger.rule.window is None else None,
            "reservations": tuple(
                BudgetReservation(
                    node_uid=uid,
                    node_name=one.claim.node_name,
                    job_uid=one.claim.job_uid,
                    attempt=one.claim.attempt,
                    reserved_usd=format_usd(one.claim.microusd),
                    since=one.since,
                )
                for uid, one in sorted(ledger.held.items())
            ),
            "history": tuple(
                PeriodSpend(
                    start=one.span.start,
                    end=one.span.end,
                    spent_usd=format_usd(one.microusd),
                    carried_usd=None
                    if one.carried_microusd is None
                    else format_usd(one.carried_microusd),
                )
                for one in ledger.history
            ),
            "window": tuple(
                SliceSpend(start=start, spent_usd=format_usd(microusd))
                for start, microusd in ledger.window
            ),
        }
    )


def _rule(budget: GpuBudget) -> Rule:
    try:
        return rule_of(budget.spec)
    except UnknownZone as error:
        raise Unusable(str(error)) from None


def _held(one: BudgetReservation) -> Held:
    claim = Claim(
        node_uid=one.node_uid,
        node_name=one.node_name,
        job_uid=one.job_uid,
        attempt=one.attempt,
        microusd=parse_usd(one.reserved_usd),
    )
    return Held(claim=claim, since=one.since)


def _spent(one: PeriodSpend) -> Spent:
    carried = None if one.carried_usd is None else parse_usd(one.carried_usd)
    return Spent(Span(one.start, one.end), parse_usd(one.spent_usd), carried)
