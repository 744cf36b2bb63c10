"""Which budgets cover a job, and that all of them hold what an attempt may cost, or none does.

What cannot be read covers every job and holds nothing: unknown money is no money.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from types import MappingProxyType
from typing import Any
from zoneinfo import ZoneInfo

from gpujob.api.gpubudget import RESERVATIONS_MAX, LabelRequirement, LabelSelector
from gpujob.api.gpujob import GpuJob
from gpujob.api.gpunode import GpuNode
from gpujob.api.reasons import Reason
from gpujob.core.budget.ending import charge_at_end, is_over
from gpujob.core.budget.ledger import (
    Claim,
    Held,
    Ledger,
    Refused,
    Unusable,
    at,
    ledger_of,
    read_budget,
    reserve,
    settle,
    shrink,
)
from gpujob.core.budget.outlook import frees_at
from gpujob.core.limits import Limits
from gpujob.core.money import parse_usd, short_usd

EVERY_JOB = LabelSelector()


@dataclass(frozen=True, kw_only=True)
class Book:
    """A budget of a namespace, as far as it can be read."""

    name: str
    selector: LabelSelector = EVERY_JOB
    ledger: Ledger | None = None
    problem: str = ""
    """Why there is no ledger."""


@dataclass(frozen=True)
class Reserved:
    """What must be stored, in this order, before the attempt may cost anything.

    Empty = all budgets that cover it hold it as they are stored. If one cannot be stored because
    somebody else has written it, all are read anew, and what does not fit then is settled at 0
    where it was stored.
    """

    ledgers: Mapping[str, Ledger]
    """By the name of the budget."""


@dataclass(frozen=True)
class Rejected:
    """Nothing is reserved anywhere."""

    reason: Reason
    message: str
    """Which budget it is, and when it has money again."""
    frees_at: datetime | None = None
    """When to look again at the latest because time has passed; None = something else must change:
    an attempt ends, or somebody writes a budget."""


def book_of(body: Mapping[str, Any]) -> Book:
    """Returns a stored budget as far as it can be read."""
    name = str(body.get("metadata", {}).get("name"))
    try:
        budget = read_budget(body)
    except Unusable as error:
        return Book(name=name, problem=str(error))
    try:
        return Book(name=name, selector=budget.spec.selector, ledger=ledger_of(budget))
    except Unusable as error:
        return Book(name=name, selector=budget.spec.selector, problem=str(error))


def covers(selector: LabelSelector, labels: Mapping[str, str]) -> bool:
    """Whether a selector means a job with these labels, as selectors of Kubernetes do."""
    wanted = selector.match_labels.items()
    return all(labels.get(key) == value for key, value in wanted) and all(
        _meets(one, labels) for one in selector.match_expressions
    )


def _meets(one: LabelRequirement, labels: Mapping[str, str]) -> bool:
    match one.operator:
        case "In":
            return labels.get(one.key) in one.values
        case "NotIn":
            return labels.get(one.key) not in one.values
        case "Exists":
            return one.key in labels
        case "DoesNotExist":
            return one.key not in labels


@dataclass(frozen=True)
class Expected:
    """A node that is being created, for which its budgets are about to be asked."""

    name: str
    labels: Mapping[str, str]
    """Its job's."""
    microusd: int


@dataclass(frozen=True)
class Budgets:
    """All budgets, as they were last seen: what is stored may be newer."""

    books: Mapping[str, tuple[Book, ...]]
    """By namespace."""
    known: frozenset[str] | None
    """The namespaces whose budgets were read; None = all of them."""
    expected: Mapping[str, tuple[Expected, ...]] = field(default_factory=dict)
    """By namespace. So of many jobs that look at once no more get a node than there is money."""

    def of(self, namespace: str) -> tuple[Book, ...] | None:
        """Returns the budgets of a namespace; None = they were not read yet."""
        if self.known is not None and namespace not in self.known:
            return None
        return self.books.get(namespace, ())

    def for_another(self, namespace: str, now: datetime) -> tuple[Book, ...] | None:
        """Returns them as they will be once they hold what is expected; None = as above."""
        if (books := self.of(namespace)) is None:
            return None
        expected = self.expected.get(namespace, ())
        return tuple(_expecting(one, expected, now) for one in books)


def _expecting(book: Book, expected: Iterable[Expected], now: datetime) -> Book:
    if book.ledger is None:
        return book
    names = {one.claim.node_name for one in book.ledger.held.values()}
    held = dict(book.ledger.held)
    for one in expected:
        if one.name not in names and covers(book.selector, one.labels):
            claim = Claim(
                node_uid=one.name, node_name=one.name, job_uid="", attempt=1, microusd=one.microusd
            )
            held[one.name] = Held(claim=claim, since=now)
    return replace(book, ledger=replace(book.ledger, held=MappingProxyType(held)))


def seconds_to_look(rejected: Rejected, now: datetime, limits: Limits) -> float:
    """Returns in how many seconds to look again: an attempt that ends may free money earlier."""
    if rejected.frees_at is None:
        return limits.gate_retry_seconds
    left = (rejected.frees_at - now).total_seconds()
    return min(max(left, 1.0), limits.gate_retry_seconds)


def claim_of(node: GpuNode) -> Claim:
    """Returns what is to be held for a node: what it says, and never less than its fuse."""
    rent = node.status.rent
    said, fuse = parse_usd(node.reserved_usd), parse_usd(rent.fuse_usd) if rent else 0
    return Claim(
        node_uid=node.metadata.uid,
        node_name=node.metadata.name,
        job_uid=node.spec.job_ref.uid,
        attempt=node.spec.attempt,
        microusd=max(said, fuse),
    )


def under_way(
    selector: LabelSelector, nodes: Iterable[GpuNode], jobs: Iterable[GpuJob]
) -> tuple[Claim, ...]:
    """Returns the attempts with which a budget must be opened: all that may cost anything yet.

    A node that was deleted by force leaves its UID in its job. Where the job is gone its labels are
    not known, so that any selector means it.
    """
    of_job = {one.metadata.uid: one for one in jobs}
    claims, stored = [], set()
    for node in nodes:
        stored.add(node.metadata.uid)
        job = of_job.get(node.spec.job_ref.uid)
        if is_over(node) or not (job is None or covers(selector, job.metadata.labels)):
            continue
        claims.append(claim_of(node))
    for job in of_job.values():
        status = job.status
        if status.node_uid is None or status.node_uid in stored:
            continue
        if covers(selector, job.metadata.labels):
            claims.append(
                Claim(
                    node_uid=status.node_uid,
                    node_name=status.node_name or "",
                    job_uid=job.metadata.uid,
                    attempt=status.attempt,
                    microusd=parse_usd(status.node_reserved_usd or job.spec.cost.ceiling),
                )
            )
    return tuple(claims)


def reserve_in_all(
    books: Iterable[Book],
    labels: Mapping[str, str],
    claim: Claim,
    now: datetime,
    *,
    is_required: bool,
) -> Reserved | Rejected:
    """Reserves for an attempt in each budget that covers its job, or in none.

    `is_required`: a job that no budget covers is rejected.
    """
    covering = [one for one in books if covers(one.selector, labels)]
    if not covering and is_required:
        words = "no GpuBudget of the namespace covers this job, and the operator wants one"
        return Rejected(Reason.BUDGET_REQUIRED, words)
    return _in_all(covering, claim, now)


def grow_in_all(
    books: Iterable[Book], labels: Mapping[str, str], claim: Claim, now: datetime
) -> Reserved | Rejected:
    """Holds more for an attempt under way in each budget that holds it or covers its job.

    One that covers the job and holds nothing for the attempt has lost its entry, or the job's
    labels have changed: either way nothing grows.
    """
    concerned = []
    for book in books:
        holds = book.ledger is not None and claim.node_uid in book.ledger.held
        if not holds and covers(book.selector, labels):
            why = book.problem or "it holds nothing for this attempt"
            words = f"GpuBudget {book.name} cannot hold more for it: {why}"
            return Rejected(Reason.BUDGET_UNUSABLE, words)
        if holds:
            concerned.append(book)
    return _in_all(concerned, claim, now)


def may_say_more(books: Iterable[Book], node: GpuNode) -> bool:
    """Whether more may be stored in a node as reserved, so that the budgets follow it.

    Only if each budget that holds the node holds exactly what it says. One that holds more waits to
    be shrunk, maybe by a process that decided it and was stopped. If the node said as much again,
    nothing would have to be written, and the version would stay: that process could take it back.
    """
    said, uid = parse_usd(node.reserved_usd), node.metadata.uid
    for book in books:
        if book.ledger is None:
            return False
        held = book.ledger.held.get(uid)
        if held is not None and held.claim.microusd != said:
            return False
    return True


def followed(
    book: Book, node_uid: str, node: GpuNode | None, job: GpuJob | None, now: datetime
) -> Ledger | Refused:
    """Returns what a budget that can be read is to store for an attempt, as its node says: holds so
    much for it, more or less than before, or settles it. If it has too little, nothing changes.

    Node and job are as quorum reads show them that began after the budget was read, the job's after
    the node's: whoever has settled the attempt since has changed the budget's version.
    """
    ledger = book.ledger
    assert ledger is not None, "asked only for a budget that can be read"
    held = ledger.held.get(node_uid)
    if held is not None and (charged := charge_at_end(held, node, job)) is not None:
        return settle(ledger, node_uid, charged, now)
    if node is None or node.metadata.uid != node_uid or is_over(node):
        return ledger
    claim = claim_of(node)
    if held is not None:
        if claim.microusd < held.claim.microusd:
            return shrink(ledger, node_uid, claim.microusd, now)
        return reserve(ledger, claim, now)
    if not claim.microusd or job is None or job.metadata.uid != claim.job_uid:
        return ledger
    if not covers(book.selector, job.metadata.labels):
        return ledger
    return reserve(ledger, claim, now)


def _in_all(books: Iterable[Book], claim: Claim, now: datetime) -> Reserved | Rejected:
    changed, refusals = {}, []
    for book in sorted(books, key=lambda one: one.name):
        if book.ledger is None:
            words = f"GpuBudget {book.name} cannot be used: {book.problem}"
            refusals.append(Rejected(Reason.BUDGET_UNUSABLE, words))
            continue
        after = reserve(book.ledger, claim, now)
        if isinstance(after, Refused):
            refusals.append(_words(book.name, book.ledger, claim, after, now))
        elif after.held.get(claim.node_uid) != book.ledger.held.get(claim.node_uid):
            changed[book.name] = after
    if not refusals:
        return Reserved(changed)
    moments = [one.frees_at for one in refusals]
    latest = None if None in moments else max(one for one in moments if one is not None)
    unusable = [one for one in refusals if one.reason is Reason.BUDGET_UNUSABLE]
    reason = (unusable or refusals)[0].reason
    return Rejected(reason, "; ".join(one.message for one in refusals), latest)


def _words(name: str, ledger: Ledger, claim: Claim, refused: Refused, now: datetime) -> Rejected:
    ledger = at(ledger, now)
    if not refused.lacking_microusd:
        words = f"it holds {RESERVATIONS_MAX} attempts, which is as many as it can"
        return _exceeded(
            f"GpuBudget {name} has no room: {words}; it has when one of them has ended"
        )
    before = ledger.held.get(claim.node_uid)
    needed = claim.microusd - (before.claim.microusd if before else 0)
    number = len(ledger.held)
    attempts = "1 attempt" if number == 1 else f"{number} attempts"
    limit = ledger.limit_microusd
    told = (
        f"GpuBudget {name} has {_floor_usd(ledger.left_microusd)} left of {_floor_usd(limit)}, "
        f"and {short_usd(needed)} are to be reserved: {short_usd(ledger.spent_microusd)} are "
        f"spent, and {short_usd(ledger.reserved_microusd)} reserved for {attempts}"
    )
    if claim.microusd > limit:
        return _exceeded(f"{told}; it never fits unless an administrator raises the limit")
    moment = frees_at(ledger, needed, now)
    if moment is None:
        return _exceeded(f"{told}; it fits when attempts that are under way have ended")
    shown = _moment(moment, ledger.rule.zone)
    return _exceeded(f"{told}; it fits at {shown}, or when attempts have ended", moment)


def _exceeded(message: str, frees_at: datetime | None = None) -> Rejected:
    return Rejected(Reason.BUDGET_EXCEEDED, message, frees_at)


def _floor_usd(microusd: int) -> str:
    """Returns the amount for people, rounded down to a tenth of a cent; never less than nothing."""
    return f"${max(microusd, 0) // 1000 / 1000:.3f}"


def _moment(moment: datetime, zone: ZoneInfo) -> str:
    return moment.astimezone(zone).isoformat(timespec="seconds")
