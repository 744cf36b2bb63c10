"""The yardstick: the reference estimator "E11", a plain method that keeps its coverage everywhere.

It gives the larger of two conformal bounds on the logarithm of the seconds: a rank among the values
of the finest key with at least 19, and a rank among scaled residuals of the job's template or of
all with as many values. Jobs that run beyond their bound count as misses at once. It is kept as
plain as it was published, so that what the product does otherwise can be measured against it.
"""

from bisect import bisect_left, insort
from collections import defaultdict, deque
from collections.abc import Hashable
from dataclasses import dataclass, field
from math import ceil, exp, log, sqrt

from calibration.traces import Job

WINDOW, ROOT_WINDOW = 200, 2000
RUNS_MIN, OWN_SCORES_MIN, PRIOR = 19, 60, 3
ROOT = "everything"
ERROR = 0.05


class Values:
    """The latest values of one key, sorted."""

    def __init__(self, kept: int) -> None:
        self._order: deque[float] = deque()
        self._kept = kept
        self.sorted: list[float] = []
        self._sum = self._squares = 0.0

    def __len__(self) -> int:
        return len(self.sorted)

    def add(self, value: float) -> None:
        """Appends a value."""
        if len(self._order) == self._kept:
            oldest = self._order.popleft()
            del self.sorted[bisect_left(self.sorted, oldest)]
            self._sum -= oldest
            self._squares -= oldest * oldest
        self._order.append(value)
        insort(self.sorted, value)
        self._sum += value
        self._squares += value * value

    @property
    def deviation(self) -> float:
        """The standard deviation."""
        count = len(self)
        return sqrt(max(self._squares - self._sum**2 / count, 0) / (count - 1))

    def bound(self, overdue: int) -> float | None:
        """Returns the value of the conformal rank; None = there is none."""
        place = ceil((len(self) + overdue + 1) * (1 - ERROR) - 1e-9)
        return self.sorted[place - 1] if RUNS_MIN <= len(self) >= place else None


@dataclass
class _Seen:
    keys: tuple[Hashable, ...]
    leaf: str
    pool: int
    expected: tuple[float, float] | None
    due: float | None = field(default=None)


class E11:
    """The reference estimator; `predict` returns seconds."""

    def __init__(self) -> None:
        self._values: dict[Hashable, Values] = {}
        self._scores: dict[Hashable, Values] = {}
        self._due: defaultdict[Hashable, list[float]] = defaultdict(list)
        self._seen: dict[int, _Seen] = {}
        self.centres: list[float | None] = []
        """Where the template of each job lay that was asked for, as a logarithm: ceilings are set
        around it."""

    def _overdue(self, key: Hashable, now: float) -> int:
        return bisect_left(self._due[key], now) if key in self._due else 0

    def _ask(self, job: Job, now: float) -> tuple[float | None, _Seen]:
        keys = (*job.template.keys, ROOT)
        own = None
        for key in keys:
            if (values := self._values.get(key)) is not None:
                own = values.bound(self._overdue(key, now))
            if own is not None:
                break
        leaf = self._values.get(keys[0])
        runs = len(leaf) if leaf is not None else 0
        pool = 0 if not runs else 1 if runs < 5 else 2 if runs < RUNS_MIN else 3
        expected = self._expected(keys)
        pooled = None
        if expected is not None:
            for scored, least in ((keys[0], OWN_SCORES_MIN), (pool, RUNS_MIN), (ROOT, RUNS_MIN)):
                scores = self._scores.get(scored)
                if scores is not None and len(scores) >= least:
                    late = self._overdue(scored, now) if scored != ROOT else 0
                    if (score := scores.bound(late)) is not None:
                        pooled = expected[0] + expected[1] * score
                        break
        bound = max((one for one in (own, pooled) if one is not None), default=None)
        return bound, _Seen((*keys, pool), keys[0], pool, expected)

    def _expected(self, keys: tuple[str, ...]) -> tuple[float, float] | None:
        root = self._values.get(ROOT)
        if root is None or len(root) < 2:
            return None
        location, spread = _middle(root.sorted), max(root.deviation, 0.05)
        for key in reversed(keys[:-1]):
            values = self._values.get(key)
            if values is None or not (count := len(values)):
                continue
            location = (count * _middle(values.sorted) + PRIOR * location) / (count + PRIOR)
            if count > 1:
                spread = (count * values.deviation + PRIOR * spread) / (count + PRIOR)
        return location, max(spread, 0.05)

    def predict(self, job: Job, now: float) -> float | None:
        """Returns the bound in seconds."""
        bound, seen = self._ask(job, now)
        self.centres.append(None if seen.expected is None else seen.expected[0])
        return None if bound is None else exp(bound)

    def start(self, place: int, job: Job, now: float) -> None:
        """Notes that a job starts."""
        bound, seen = self._ask(job, now)
        self._seen[place] = seen
        if bound is not None:
            seen.due = now + exp(bound)
            for key in seen.keys:
                insort(self._due[key], seen.due)

    def end(self, place: int, job: Job, now: float) -> None:
        """Learns how long a job ran."""
        seen = self._seen.pop(place)
        if seen.due is not None:
            for key in seen.keys:
                due = self._due[key]
                del due[bisect_left(due, seen.due)]
        value = log(job.seconds)
        for key in (*job.template.keys, ROOT):
            kept = ROOT_WINDOW if key == ROOT else WINDOW
            self._values.setdefault(key, Values(kept)).add(value)
        if seen.expected is not None:
            score = (value - seen.expected[0]) / seen.expected[1]
            self._scores.setdefault(seen.leaf, Values(WINDOW)).add(score)
            for pool in (seen.pool, ROOT):
                self._scores.setdefault(pool, Values(ROOT_WINDOW)).add(score)


def _middle(values: list[float]) -> float:
    half = len(values) // 2
    return values[half] if len(values) % 2 else (values[half - 1] + values[half]) / 2
