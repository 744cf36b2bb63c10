"""What was seen of one quantity, and how large it is next time, with a stated error.

A bound is a rank, not a fit: of n past values and the next one, each is equally likely to be the
largest, so the k-th smallest of n holds with a probability of at least k / (n + 1), whatever the
values are like, as long as they are alike. Values are kept as logarithms in millionths, rounded up,
so that sums are exact and a replay gives the same figures.
"""

from array import array
from bisect import bisect_left, bisect_right, insort
from collections import OrderedDict, defaultdict, deque
from collections.abc import Sequence
from enum import IntEnum
from fractions import Fraction
from math import ceil, exp, log, sqrt

UNIT = 10**6
"""A logarithm of one."""
RUNS_MIN = 19
"""With fewer values none of them bounds the next one with 95 %."""
RUNS_KEPT = 200
SHARED_KEPT = 2000
TENANT_MIN = 6
"""So many values of a tenant are kept among everybody's: less than a third of the 19 needed."""
RUNS_PER_CRASH = 10
"""One crash at most counts for so many runs."""
ENDLESS = 2**31 - 1
"""Stands for a value that is larger than any bound; what is kept is smaller."""
_LATEST, _LATEST_SHARED = (1 << RUNS_KEPT) - 1, (1 << SHARED_KEPT) - 1


class Kind(IntEnum):
    """What a value says."""

    EXACT = 0
    AT_LEAST = 1
    """The run was cut short by something that has nothing to do with how long it would take."""
    ENDLESS = 2
    """It was stopped because it was too long."""


def scaled(seconds: float) -> int:
    """Returns the logarithm of a positive number in millionths, rounded up."""
    return ceil(log(seconds) * UNIT)


def unscaled(value: float) -> float:
    """Returns the number that has this logarithm in millionths."""
    return exp(value / UNIT)


def rank(total: int, error: Fraction) -> int:
    """Returns the rank that bounds all but this share of `total` values."""
    return -(-total * (error.denominator - error.numerator) // error.denominator)


class Due:
    """Since when running jobs are longer than was expected: sorted times."""

    __slots__ = ("times",)

    def __init__(self) -> None:
        self.times: list[float] = []

    def add(self, at: float) -> None:
        """Expects a job to end by then."""
        insort(self.times, at)

    def drop(self, at: float) -> bool:
        """Takes back what was added; returns False if it was not there."""
        place = bisect_left(self.times, at)
        if place == len(self.times) or self.times[place] != at:
            return False
        del self.times[place]
        return True

    def overdue(self, now: float) -> int:
        """Returns how many should have ended."""
        return bisect_left(self.times, now)


class Record:
    """How the latest bounds of one kind held."""

    __slots__ = ("_missed", "_promised", "_told")

    def __init__(self) -> None:
        self._missed = self._told = 0
        """Of the latest bounds, a bit for each, which did not hold; and how many there are."""
        self._promised = Due()

    def promise(self, at: float, now: float) -> None:
        """Notes that a job is to end by then."""
        self._notice(now)
        self._promised.add(at)

    def settle(self, at: float, now: float, held: bool | None) -> bool | None:
        """Notes that a job ended that was to end by then; None = that says nothing of the bound.

        Returns what counts of it: one that was late counted as soon as it was.
        """
        self._notice(now)
        if not self._promised.drop(at):
            return False
        if held is not None:
            self.note(held=held)
        return held

    def _notice(self, now: float) -> None:
        """A bound did not hold as soon as its job runs longer."""
        for at in self._promised.times[: self._promised.overdue(now)]:
            self._promised.drop(at)
            self.note(held=False)

    def note(self, *, held: bool) -> None:
        """Notes how a bound held."""
        self._missed = (self._missed << 1 | (not held)) & _LATEST
        self._told = min(self._told + 1, RUNS_KEPT)

    def is_proven(self, now: float, error: Fraction) -> bool:
        """Whether the bounds have held as often as they promise, counting one more miss."""
        overdue = self._promised.overdue(now)
        missed = self._missed.bit_count() + overdue + 1
        return missed <= error * (min(self._told + overdue, RUNS_KEPT) + 1)


class Window:
    """The latest values of one key, and how its bounds held.

    It holds at most `RUNS_KEPT` values, in less than 4 KB.
    """

    __slots__ = (
        "_crashed",
        "_cut",
        "_exact",
        "_kinds",
        "_order",
        "_squares",
        "_sum",
        "expected",
        "record",
        "scores",
    )

    def __init__(self) -> None:
        self._order = array("i")
        self._kinds = bytearray()
        self._exact = array("i")
        """Those that are known exactly, sorted."""
        self._cut = array("i")
        """Those of which only a lower limit is known, sorted."""
        self._sum = self._squares = 0
        self._crashed = 0
        """Of the latest outcomes, a bit for each, which were crashes."""
        self.scores = array("i")
        """How far the latest values were from what was expected, in millionths of the spread."""
        self.expected = Due()
        """When the running jobs pass the wider of their bounds."""
        self.record = Record()
        """How the bounds held that were given from its own values, or from those of the keys above
        as long as its own gave none."""

    def __len__(self) -> int:
        return len(self._order)

    @property
    def exact(self) -> int:
        """How many values are known exactly."""
        return len(self._exact)

    @property
    def largest(self) -> int:
        """The largest of those that are known exactly; there must be one."""
        return self._exact[-1]

    @property
    def median(self) -> float:
        """The median of those that are known exactly; there must be one."""
        return _median(self._exact)

    @property
    def deviation(self) -> float:
        """The standard deviation of those that are known exactly."""
        return _deviation(len(self._exact), self._sum, self._squares)

    def learn(self, value: int, kind: Kind) -> None:
        """Appends a value and forgets the oldest beyond `RUNS_KEPT`."""
        if len(self._order) == RUNS_KEPT:
            self._forget(self._order.pop(0), Kind(self._kinds.pop(0)))
        self._order.append(value)
        self._kinds.append(kind)
        self._crashed = self._crashed << 1 & _LATEST
        if kind is Kind.EXACT:
            insort(self._exact, value)
            self._sum += value
            self._squares += value * value
        elif kind is Kind.AT_LEAST:
            insort(self._cut, value)

    def _forget(self, value: int, kind: Kind) -> None:
        if kind is Kind.EXACT:
            del self._exact[bisect_left(self._exact, value)]
            self._sum -= value
            self._squares -= value * value
        elif kind is Kind.AT_LEAST:
            del self._cut[bisect_left(self._cut, value)]

    def learn_score(self, score: int) -> None:
        """Appends a score and forgets the oldest beyond `RUNS_KEPT`."""
        if len(self.scores) == RUNS_KEPT:
            del self.scores[0]
        self.scores.append(score)

    def learn_crash(self) -> None:
        """Notes a run that failed at once, which says nothing of how long the next one takes."""
        self._crashed = (self._crashed << 1 | 1) & _LATEST

    def crashes(self, runs: int) -> int:
        """Returns how many crashes count as ends within any bound, beside so many runs.

        That is a tenth of them at most, so that a row of crashes does not hide what a run takes.
        """
        return min(self._crashed.bit_count(), runs // RUNS_PER_CRASH)

    def is_endless(self, error: Fraction) -> bool:
        """Whether more values are endless than a bound with this error may miss."""
        known, limited = len(self._order), len(self._exact) + len(self._cut)
        crashes = self.crashes(known)
        return limited < known and limited < rank(known + crashes + 1, error) - crashes

    def bound(self, now: float, error: Fraction) -> int | None:
        """Returns what the next value does not exceed but with this probability; None = too little
        is known.

        A value with a lower limit only counts as the product-limit estimate of Kaplan and Meier has
        it: it stands for those above it.
        """
        if len(self._order) < RUNS_MIN:
            return None
        at_risk = above = len(self._order) + self.expected.overdue(now) + 1
        of, begin = at_risk + self.crashes(len(self._order)), 0
        for end in (*(bisect_right(self._exact, one) for one in self._cut), len(self._exact)):
            # Of what is left, above / of, all but the error has to end within this stretch.
            stays = at_risk * error.numerator * of // (error.denominator * above)
            needed = at_risk - stays
            if needed <= end - begin:
                return self._exact[begin + needed - 1]
            ended = end - begin
            above, of = above * (at_risk - ended), of * at_risk
            at_risk, begin = at_risk - ended - 1, end
        return None

    def score_bound(self, now: float, error: Fraction) -> int | None:
        """Returns the same of the scores."""
        crashes = self.crashes(len(self.scores))
        place = rank(len(self.scores) + crashes + self.expected.overdue(now) + 1, error) - crashes
        if place > len(self.scores):
            return None
        found = sorted(self.scores)[place - 1]
        return None if found == ENDLESS else found


class SharedWindow:
    """The latest values of all tenants, of which none has more than a third.

    So whatever one tenant runs, the error of the others is at most one and a half times as large.
    """

    __slots__ = (
        "_crashed",
        "_endless",
        "_expected",
        "_kept",
        "_latest",
        "_of",
        "_sorted",
        "_squares",
        "_sum",
    )

    def __init__(self) -> None:
        self._kept: OrderedDict[int, tuple[str, int]] = OrderedDict()
        """By number, oldest first: whose it is, and the value."""
        self._of = defaultdict[str, deque[int]](deque)
        """The numbers of each tenant's values."""
        self._latest = 0
        self._sorted: list[int] = []
        self._endless = 0
        self._crashed = 0
        self._sum = self._squares = 0
        self._expected = defaultdict[str, Due](Due)

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def finite(self) -> int:
        """How many values are not endless."""
        return len(self._sorted)

    @property
    def median(self) -> float:
        """The median of those that are not endless; there must be one."""
        return _median(self._sorted)

    @property
    def deviation(self) -> float:
        """The standard deviation of those that are not endless."""
        return _deviation(len(self._sorted), self._sum, self._squares)

    @property
    def longest(self) -> int:
        """The largest value; there must be one."""
        return ENDLESS if self._endless else self._sorted[-1]

    def held_by(self, tenant: str) -> int:
        """Returns how many of the values are this tenant's."""
        return len(self._of.get(tenant, ()))

    def share(self, tenant: str) -> int:
        """Returns how many of them may be."""
        others = len(self._kept) - self.held_by(tenant)
        return min(max(TENANT_MIN, others // 2), SHARED_KEPT // 3)

    def learn(self, tenant: str, value: int) -> None:
        """Adds a tenant's value in place of its own oldest beyond its share, or of the oldest."""
        if self.held_by(tenant) >= self.share(tenant):
            self._forget(self._of[tenant][0])
        elif len(self._kept) == SHARED_KEPT:
            self._forget(next(iter(self._kept)))
        self._crashed = self._crashed << 1 & _LATEST_SHARED
        self._latest += 1
        self._kept[self._latest] = (tenant, value)
        self._of[tenant].append(self._latest)
        if value == ENDLESS:
            self._endless += 1
            return
        insort(self._sorted, value)
        self._sum += value
        self._squares += value * value

    def _forget(self, number: int) -> None:
        tenant, value = self._kept.pop(number)
        self._of[tenant].popleft()
        if not self._of[tenant]:
            del self._of[tenant]
        if value == ENDLESS:
            self._endless -= 1
            return
        del self._sorted[bisect_left(self._sorted, value)]
        self._sum -= value
        self._squares -= value * value

    def learn_crash(self) -> None:
        """Notes a run that failed at once."""
        self._crashed = (self._crashed << 1 | 1) & _LATEST_SHARED

    @property
    def crashes(self) -> int:
        """How many crashes count."""
        return min(self._crashed.bit_count(), len(self._kept) // RUNS_PER_CRASH)

    def expect(self, tenant: str, at: float) -> None:
        """Expects a tenant's job to end by then."""
        self._expected[tenant].add(at)

    def drop(self, tenant: str, at: float) -> None:
        """Takes back what was expected."""
        due = self._expected[tenant]
        due.drop(at)
        if not due.times:
            del self._expected[tenant]

    def overdue(self, now: float) -> int:
        """Returns how many jobs should have ended; a tenant's count up to its share."""
        return sum(
            min(found, self.share(tenant))
            for tenant, due in self._expected.items()
            if (found := due.overdue(now))
        )

    def bound(self, now: float, error: Fraction) -> int | None:
        """Returns what the next value does not exceed but with this probability; None = too little
        is known."""
        if len(self._kept) < RUNS_MIN:
            return None
        crashes = self.crashes
        place = rank(len(self._kept) + crashes + self.overdue(now) + 1, error) - crashes
        return self._sorted[place - 1] if place <= len(self._sorted) else None


def _median(values: Sequence[int]) -> float:
    middle = len(values) // 2
    if len(values) % 2:
        return float(values[middle])
    return (values[middle - 1] + values[middle]) / 2


def _deviation(count: int, total: int, squares: int) -> float:
    if count < 2:
        return 0.0
    return sqrt((squares * count - total * total) / (count * (count - 1)))
