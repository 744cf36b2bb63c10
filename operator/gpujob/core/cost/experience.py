"""How much of one quantity a job will use, such as seconds of running, from what others used.

What is known of a job is told by a chain of keys, from its template to its tenant, and above them
stands everything. Two bounds are made, and each holds by itself where jobs are alike:

* its own: a rank among the values of the finest key that has enough of them;
* the pooled one: where this template's values lie and how far they spread, drawn towards those of
  the keys above where they are few, and a rank among how far other jobs were from that whose
  templates had as many values. It is never beyond ten times the longest run that is known.

The larger one is given, with two exceptions. A template whose own bounds have held as often as they
promise gets its own alone, until they fail. And a thin one gets the pooled one, or its own largest
value, rather than what its tenant's other jobs took.

Labels come late: a job that runs longer than was expected of it counts at once, as longer than any
bound. What was stopped does so for good, and what was cut short by others counts up to there. Where
more is stopped than a bound may miss, there is none: that others end sooner is no comfort.

Ranks, windows, the pools and the weight of what is known above are those of the reference method
(E11 in hack/calibration); the rest are round numbers, compared with few others, and on the earlier
parts of the traces only.
"""

from bisect import bisect_left, insort
from collections import OrderedDict
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from math import inf

from gpujob.core.cost.template import Template
from gpujob.core.cost.window import (
    ENDLESS,
    RUNS_MIN,
    UNIT,
    Kind,
    SharedWindow,
    Window,
    scaled,
    unscaled,
)

ERROR = Fraction(1, 20)
"""The error of the bounds whose record is kept."""
OWN_SCORES_MIN = 60
"""With so many scores a template's own are used, not those of the pool."""
PROVEN_MIN = 60
"""With so many values a template's own bound may be given alone."""
PRIOR_RUNS = 3
"""What is known from the key above weighs as much as so many values."""
SPREAD_MIN = UNIT // 20
POOLS = (1, 5, RUNS_MIN)
"""Templates with fewer values than this form a pool; a last one has all others."""
THIN = 2
"""The pool of templates with 5 to 18 values."""
WELL_KNOWN = 199
"""From so many values on, their largest one holds with 99.5 %."""
LONGEST_TIMES = 10
BURST, BURST_TIMES = 10, 10
"""With so many overdue jobs of a template, which is a changed program under an old name, a bound on
its next one is at least so many times its largest value."""
FOREVER = scaled(10**9)
"""No run takes 30 years, so no bound is beyond."""
CRASH_SECONDS = 120
KEYS_KEPT = 100_000


class Outcome(StrEnum):
    """How a job came to its end, as far as its duration is concerned."""

    ENDED = "Ended"
    """By itself, whatever its exit status."""
    CRASHED = "Crashed"
    """By itself, with an error, so soon that it says nothing of what a run takes."""
    STOPPED = "Stopped"
    """Its fuse or deadline stopped it: it would have run longer, nobody knows how long."""
    CUT = "Cut"
    """Its user cancelled it, or its machine was lost."""
    VOID = "Void"
    """It never ran: its image could not be pulled."""


def outcome_by_itself(*, failed: bool, run_seconds: float) -> Outcome:
    """Returns the outcome of a job whose workload ended by itself."""
    return Outcome.CRASHED if failed and run_seconds < CRASH_SECONDS else Outcome.ENDED


@dataclass(frozen=True, kw_only=True)
class Bound:
    """What a job does not exceed, with the error asked for, and what that rests on."""

    value: float | None
    """None = too little is known to say."""
    level: int | None
    """Which of the job's keys gave its own bound, 0 = its template, and one more than there are =
    everything; None = the pool alone."""
    runs: int
    """How many values of its template are known."""
    is_pooled: bool
    """How far other templates' jobs were from what was expected of them is known, and counts."""
    overdue: int
    """How many jobs of its template run longer than was expected of them."""
    is_burst: bool
    """So many jobs of its template run longer than was expected that its own values say nothing."""
    own: int | None
    wider: int | None
    """The bounds as logarithms in millionths: its own, and that beyond which the job is overdue."""
    expected: tuple[float, float] | None
    """Location and spread of its template, on the same scale."""
    pool: int


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """What a job that ended teaches: enough to teach it to another process, in the same order."""

    template: Template
    value: int
    """As a logarithm in millionths."""
    outcome: Outcome
    is_shared: bool
    """Whether others learn from it: that a job was cut short says nothing before its bound."""
    pool: int
    score: int | None
    """How far it was from what was expected, in millionths of the spread; None = nothing was."""
    held: bool | None
    """Whether its own bound held; None = that is not known, or there was none."""


@dataclass(frozen=True)
class _Running:
    template: Template
    started: float
    bound: Bound


class Experience:
    """All that was learnt of one quantity, and which jobs are running.

    Values are positive, and those of run time are seconds. Moments are seconds since any fixed one.
    """

    def __init__(self, keys_kept: int = KEYS_KEPT) -> None:
        self._keys_kept = keys_kept
        self._windows: OrderedDict[str, Window] = OrderedDict()
        """The one that was used last is the last one."""
        self._everything = SharedWindow()
        self._pools = tuple(SharedWindow() for _ in range(len(POOLS) + 1))
        """Scores: how far values were from what was expected, in millionths of the spread."""
        self._scores = SharedWindow()
        self._running: dict[str, _Running] = {}
        self._started: list[float] = []
        """When they did, sorted."""

    def bound(self, template: Template, now: float, error: Fraction = ERROR) -> Bound:
        """Returns what a job does not exceed but with this probability."""
        leaf = self._windows.get(template.keys[0])
        runs = len(leaf) if leaf is not None else 0
        pool = sum(runs >= least for least in POOLS)
        own, level = self._own(template, now, error)
        expected = self._expected(template)
        pooled = self._pooled(leaf, expected, pool, now, error)
        if leaf is not None and leaf.is_endless(error):
            own = pooled = level = None
        wider = max((one for one in (own, pooled) if one is not None), default=None)
        overdue = 0 if leaf is None else leaf.expected.overdue(now)
        is_burst = level != 0 and runs >= RUNS_MIN and overdue >= BURST
        if is_burst and wider is not None and leaf is not None and leaf.exact:
            wider = max(wider, leaf.largest + scaled(BURST_TIMES))
        given = wider
        if leaf is not None and pooled is not None:
            if level == 0 and runs >= PROVEN_MIN and leaf.record.is_proven(now, ERROR):
                given = own
            elif pool == THIN and self._knows_thin(leaf, now):
                given = wider = max(pooled, leaf.largest)
        return Bound(
            value=None if given is None else unscaled(given),
            level=level,
            runs=runs,
            is_pooled=pooled is not None,
            overdue=overdue,
            is_burst=is_burst,
            own=own,
            wider=wider,
            expected=expected,
            pool=pool,
        )

    def _own(
        self, template: Template, now: float, error: Fraction
    ) -> tuple[int | None, int | None]:
        """Returns the bound of the finest key that has one, and which key that is."""
        for level, key in enumerate(template.keys):
            window = self._windows.get(key)
            if window is not None and (found := window.bound(now, error)) is not None:
                return found, level
        found = self._everything.bound(now, error)
        return found, None if found is None else len(template.keys)

    def _expected(self, template: Template) -> tuple[float, float] | None:
        """Returns where a template's values lie and how far they spread; None = unknown."""
        if self._everything.finite < 2:
            return None
        location, spread = self._everything.median, self._everything.deviation
        for key in reversed(template.keys):
            window = self._windows.get(key)
            if window is None or not (known := window.exact):
                continue
            location = (known * window.median + PRIOR_RUNS * location) / (known + PRIOR_RUNS)
            if known > 1:
                spread = (known * window.deviation + PRIOR_RUNS * spread) / (known + PRIOR_RUNS)
        return location, max(spread, SPREAD_MIN)

    def _pooled(
        self,
        leaf: Window | None,
        expected: tuple[float, float] | None,
        pool: int,
        now: float,
        error: Fraction,
    ) -> int | None:
        if expected is None:
            return None
        score = None
        if leaf is not None and len(leaf.scores) >= OWN_SCORES_MIN:
            score = leaf.score_bound(now, error)
        for shared in (self._pools[pool], self._scores):
            if score is None:
                score = shared.bound(now, error)
        if score is None:
            return None
        location, spread = expected
        return min(int(location + spread * score / UNIT) + 1, self._limit(now))

    def _limit(self, now: float) -> int:
        """Returns ten times the longest run that is known, finished or not."""
        if len(self._everything) < WELL_KNOWN or self._everything.longest == ENDLESS:
            return FOREVER
        longest = self._everything.longest
        if self._started and now > self._started[0]:
            longest = max(longest, scaled(now - self._started[0]))
        return min(longest + scaled(LONGEST_TIMES), FOREVER)

    def _knows_thin(self, leaf: Window, now: float) -> bool:
        """Whether the pool is all that a thin template needs."""
        known = len(self._pools[THIN]) >= WELL_KNOWN
        return known and leaf.exact > 0 and not leaf.expected.overdue(now)

    def began(self, uid: str, template: Template, now: float) -> Bound:
        """Notes that a job runs, and returns what is expected of it; twice is the same as once."""
        if uid in self._running:
            return self._running[uid].bound
        bound = self.bound(template, now)
        self._running[uid] = _Running(template, now, bound)
        insort(self._started, now)
        if bound.own is not None:
            self._window(template.keys[0]).record.promise(now + unscaled(bound.own), now)
        if bound.wider is not None:
            due = now + unscaled(bound.wider)
            for key in template.keys:
                self._window(key).expected.add(due)
            for shared in (self._everything, self._pools[bound.pool]):
                shared.expect(template.tenant, due)
        return bound

    def running(self, uid: str) -> tuple[Template, float] | None:
        """Returns the template of a job that runs, and since when; None = none such runs."""
        job = self._running.get(uid)
        return None if job is None else (job.template, job.started)

    def ended(self, uid: str, value: float, outcome: Outcome, now: float) -> Lesson | None:
        """Learns from a job that used so much, and returns the lesson; one that is not known to run
        teaches nothing, nor does one that never ran.
        """
        if (job := self._running.pop(uid, None)) is None:
            return None
        template, bound, held = job.template, job.bound, None
        del self._started[bisect_left(self._started, job.started)]
        if bound.own is not None:
            due = job.started + unscaled(bound.own)
            held = self._window(template.keys[0]).record.settle(due, now, _HELD.get(outcome))
        if bound.wider is not None:
            due = job.started + unscaled(bound.wider)
            for key in template.keys:
                self._window(key).expected.drop(due)
            for shared in (self._everything, self._pools[bound.pool]):
                shared.drop(template.tenant, due)
        if outcome is Outcome.VOID or not 0 < value < inf:
            return None
        lesson = _lesson(job, scaled(value), outcome, held)
        self._learn(lesson)
        self.learn_shared(lesson)
        return lesson

    def learn(self, lesson: Lesson) -> None:
        """Learns, for its own template and tenant, what another process has learnt."""
        if lesson.held is not None:
            self._window(lesson.template.keys[0]).record.note(held=lesson.held)
        self._learn(lesson)

    def _learn(self, lesson: Lesson) -> None:
        for key in lesson.template.keys:
            if lesson.outcome is Outcome.CRASHED:
                self._window(key).learn_crash()
            else:
                self._window(key).learn(lesson.value, _KINDS.get(lesson.outcome, Kind.EXACT))
        if lesson.score is not None:
            self._window(lesson.template.keys[0]).learn_score(lesson.score)

    def learn_shared(self, lesson: Lesson) -> None:
        """Learns the same for the templates of all tenants."""
        tenant, pool = lesson.template.tenant, self._pools[lesson.pool]
        if lesson.outcome is Outcome.CRASHED:
            for shared in (self._everything, pool, self._scores):
                shared.learn_crash()
            return
        if not lesson.is_shared:
            return
        is_exact = lesson.outcome is Outcome.ENDED
        self._everything.learn(tenant, lesson.value if is_exact else ENDLESS)
        if lesson.score is not None:
            for shared in (pool, self._scores):
                shared.learn(tenant, lesson.score)

    def _window(self, key: str) -> Window:
        window = self._windows.get(key)
        if window is not None:
            self._windows.move_to_end(key)
            return window
        window = self._windows[key] = Window()
        if len(self._windows) > self._keys_kept:
            self._windows.popitem(last=False)
        return window


def _lesson(job: _Running, value: int, outcome: Outcome, held: bool | None) -> Lesson:
    bound, score = job.bound, None
    is_cut = outcome is Outcome.CUT
    is_shared = not is_cut or (bound.wider is not None and value > bound.wider)
    if outcome is not Outcome.CRASHED and is_shared and bound.expected is not None:
        location, spread = bound.expected
        score = min(int((value - location) / spread * UNIT) + 1, ENDLESS - 1)
        if outcome is not Outcome.ENDED:
            score = ENDLESS
    return Lesson(
        template=job.template,
        value=value,
        outcome=outcome,
        is_shared=is_shared,
        pool=bound.pool,
        score=score,
        held=held,
    )


_HELD = {Outcome.ENDED: True, Outcome.STOPPED: False}
"""Whether the bound held that a job did not pass; the others say nothing of it."""
_KINDS = {Outcome.STOPPED: Kind.ENDLESS, Outcome.CUT: Kind.AT_LEAST}
