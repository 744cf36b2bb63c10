"""The estimator on made-up jobs of known distributions: what it promises holds, and for whom."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from heapq import heappop, heappush
from random import Random
from typing import Any

import pytest
from tests.builders import a_spec

from gpujob.api.gpujob import GpuJobSpec
from gpujob.core.cost.error_budget import Quantity, confidence, error_shares
from gpujob.core.cost.experience import (
    LONGEST_TIMES,
    Bound,
    Experience,
    Outcome,
    outcome_by_itself,
)
from gpujob.core.cost.template import Template, template_of

SCORED = 20_000
HOUR = 3600.0


def template(number: int, tenant: str | None = None) -> Template:
    """One of many; a tenant has ten of them."""
    tenant = tenant or f"team-{number // 10}"
    return Template(tenant, (f"{tenant}/{number}", tenant))


@dataclass
class Life:
    """Jobs that are submitted one after another, each known to have ended when it has."""

    experience: Experience
    now: float = 0.0
    count: int = 0

    def __post_init__(self) -> None:
        self._ends: list[tuple[float, int, float, Outcome]] = []

    def submit(
        self, kind: Template, seconds: float, outcome: Outcome = Outcome.ENDED, every: float = 1.0
    ) -> Bound:
        """Submits a job this long after the last one; returns what was expected of it."""
        self.now += every
        while self._ends and self._ends[0][0] <= self.now:
            at, number, ran, how = heappop(self._ends)
            self.experience.ended(str(number), ran, how, at)
        self.count += 1
        heappush(self._ends, (self.now + seconds, self.count, seconds, outcome))
        return self.experience.began(str(self.count), kind, self.now)

    def finish(self) -> None:
        """Lets all jobs end."""
        for at, number, ran, how in sorted(self._ends):
            self.experience.ended(str(number), ran, how, at)
            self.now = max(self.now, at)
        self._ends.clear()


def held(draw: Callable[[Random, int], float], jobs: int = SCORED, groups: int = 20) -> float:
    """Returns which share of the bounds held on jobs of so many templates."""
    chance, life = Random(7), Life(Experience())
    hits = bounded = 0
    for _ in range(jobs):
        number = chance.randrange(groups)
        seconds = draw(chance, number)
        bound = life.submit(template(number), seconds, every=60.0).value
        if bound is not None:
            bounded += 1
            hits += seconds <= bound
    assert bounded > 0.97 * jobs
    return hits / bounded


def test_bounds_of_alike_jobs_hold_as_often_as_they_say_and_not_much_more() -> None:
    """Log-normal durations, a location and spread for each template."""

    def draw(chance: Random, group: int) -> float:
        return chance.lognormvariate(4 + group / 5, 0.2 + group / 20)

    assert 0.945 <= held(draw) <= 0.985


def test_bounds_hold_where_the_mean_means_nothing() -> None:
    """A Pareto tail of 1.5, which has no variance."""
    assert held(lambda chance, group: 100 * (1 + group) * chance.paretovariate(1.5)) >= 0.945


def test_a_template_that_becomes_four_times_slower_is_learnt_within_200_runs() -> None:
    """After so many completed runs its coverage is back above 93 %."""
    chance, life = Random(3), Life(Experience())

    def run(count: int, times: float) -> Iterator[bool]:
        for _ in range(count):
            for number in range(5):
                slow = times if number == 2 else 1.0
                seconds = slow * chance.lognormvariate(5, 0.4)
                bound = life.submit(template(number), seconds, every=60.0).value
                if number == 2:
                    yield bound is not None and seconds <= bound

    list(run(500, 1.0))
    at_once = list(run(200, 4.0))
    after = list(run(2000, 4.0))

    assert sum(at_once[:20]) < 15
    assert sum(after) / len(after) >= 0.93


@pytest.mark.parametrize("neighbours", [0, 10])
def test_a_burst_of_a_changed_program_is_noticed_before_its_first_job_ends(
    neighbours: int,
) -> None:
    """Once ten of 500 have passed their bound, no bound of the others is below what they take."""
    chance, life = Random(5), Life(Experience())
    for _ in range(300):
        for number in (0, *range(10, 10 + 10 * neighbours, 10)):
            life.submit(template(number), chance.uniform(900, 1100), every=300.0)
    life.finish()
    before = life.experience.bound(template(0), life.now)
    assert before.value is not None
    assert before.value < 1200

    for _ in range(500):
        life.submit(template(0), 10_000, every=0.1)
    shortly = life.experience.bound(template(0), life.now)
    assert shortly.value is not None
    assert shortly.value < 1200
    life.now += 1200
    found = life.experience.bound(template(0), life.now)

    assert found.is_burst
    if neighbours:
        assert found.value is not None
        assert found.value >= 10_000
    else:
        assert found.value is None


def test_jobs_that_all_take_the_same_have_a_finite_bound_not_below_it() -> None:
    """There is no spread at all."""
    life = Life(Experience())
    for _ in range(400):
        life.submit(template(0), 777.0, every=1000.0)

    bound = life.experience.bound(template(0), life.now).value
    assert bound is not None
    assert 777.0 <= bound <= 777.01


def test_eighteen_runs_are_not_enough() -> None:
    """The nineteenth value is the first bound."""
    life = Life(Experience())
    for count in range(1, 20):
        life.submit(template(0), 100.0 + count, every=HOUR)
        life.finish()
        assert (life.experience.bound(template(0), life.now).value is None) == (count < 19)


def test_the_order_of_completions_does_not_matter() -> None:
    """The windows are the same afterwards, and so is what is expected."""
    seconds = [Random(number).uniform(10, 1000) for number in range(200)]
    kinds = [template(number % 2, f"team-{number % 40}") for number in range(200)]
    found = []
    for order in (list(range(200)), Random(1).sample(range(200), 200)):
        experience = Experience()
        for number, kind in enumerate(kinds):
            experience.began(str(number), kind, 0.0)
        for number in order:
            experience.ended(str(number), seconds[number], Outcome.ENDED, 1000.0)
        found.append([experience.bound(kind, 2000.0) for kind in kinds])

    assert found[0] == found[1]
    assert all(one.value is not None for one in found[0])


def runs(count: int, outcome: Outcome = Outcome.ENDED, seconds: float = 1000.0) -> Life:
    """Lets a template run so often, one after another."""
    life = Life(Experience())
    for _ in range(count):
        life.submit(template(0), seconds, outcome, every=2 * seconds)
    life.finish()
    return life


def test_what_was_stopped_leaves_no_bound() -> None:
    """Two of 40 that were stopped are more than a bound may miss, whatever others took."""
    life = runs(38)
    for _ in range(300):
        for number in range(10, 100, 10):
            life.submit(template(number), 50.0)
    for _ in range(2):
        assert life.experience.bound(template(0), life.now).value is not None
        life.submit(template(0), 600.0, Outcome.STOPPED, every=2000.0)
        life.finish()

    assert life.experience.bound(template(0), life.now).value is None


def test_a_thin_template_that_was_stopped_once_has_no_bound() -> None:
    """One of ten is more than a bound may miss, too, though the others' runs were short."""
    life = runs(9)
    for _ in range(300):
        for number in range(10, 100, 10):
            life.submit(template(number), 50.0)
    life.submit(template(0), 600.0, Outcome.STOPPED, every=2000.0)
    life.finish()

    assert life.experience.bound(template(0), life.now).value is None


def test_jobs_that_users_cancel_early_do_not_shorten_the_bound() -> None:
    """They are only known to have run so long."""
    life = Life(Experience())
    for number in range(100):
        life.submit(template(0), 500.0 + 10 * number, every=2000.0)
    life.finish()
    before = life.experience.bound(template(0), life.now).own
    for _ in range(50):
        life.submit(template(0), 10.0, Outcome.CUT, every=100.0)
    life.finish()

    after = life.experience.bound(template(0), life.now).own
    assert before is not None
    assert after is not None
    assert after >= before


def test_crashes_do_not_shorten_the_bound_of_the_next_real_run() -> None:
    """A hundred runs that failed at once leave it where it was."""
    life = runs(100)
    for _ in range(100):
        life.submit(template(0), 20.0, Outcome.CRASHED, every=100.0)
    life.finish()

    bound = life.experience.bound(template(0), life.now)
    assert bound.value is not None
    assert bound.value >= 1000.0
    assert bound.runs == 100


def test_only_failures_under_two_minutes_are_crashes() -> None:
    """A success is none however short, and a long failure is a run."""
    assert outcome_by_itself(failed=True, run_seconds=119) is Outcome.CRASHED
    assert outcome_by_itself(failed=True, run_seconds=120) is Outcome.ENDED
    assert outcome_by_itself(failed=False, run_seconds=1) is Outcome.ENDED


def test_what_never_ran_and_what_makes_no_sense_teach_nothing() -> None:
    """Image faults, and figures that are no durations; they do not stay among what runs, either."""
    life = runs(50)
    before = life.experience.bound(template(0), life.now)
    for value, outcome in (
        (5.0, Outcome.VOID),
        (0.0, Outcome.ENDED),
        (-3.0, Outcome.ENDED),
        (float("nan"), Outcome.ENDED),
        (float("inf"), Outcome.ENDED),
    ):
        life.experience.began("x", template(0), life.now)
        life.experience.ended("x", value, outcome, life.now + 10**6)

    assert life.experience.bound(template(0), life.now + 10**7) == before


def test_an_end_that_is_told_twice_counts_once() -> None:
    """So does a beginning, and an end of what never began teaches nothing."""
    experience = Experience()
    for _ in range(2):
        experience.began("a", template(0), 0.0)
    for uid in ("a", "a", "b"):
        experience.ended(uid, 100.0, Outcome.ENDED, 100.0)

    assert experience.bound(template(0), 200.0).runs == 1


def test_a_template_that_proved_itself_gets_its_own_bound_until_that_fails() -> None:
    """Its own values lie close together; the pool's bound is wider."""
    chance, life = Random(11), Life(Experience())

    def seconds(number: int) -> float:
        return chance.uniform(1000, 1010) if number == 0 else chance.lognormvariate(5, 2)

    for _ in range(250):
        for number in range(0, 100, 10):
            life.submit(template(number), seconds(number), every=2000.0)
    own = life.experience.bound(template(0), life.now)
    assert own.value is not None
    assert own.value <= 1010.1

    for _ in range(25):
        life.submit(template(0), 1500.0, every=2000.0)
    life.now += 10**5
    failed = life.experience.bound(template(0), life.now)
    assert failed.value is not None
    assert failed.value >= 1500.0


def test_the_larger_of_two_bounds_is_given_before_anything_is_proven() -> None:
    """Each holds by itself where jobs are alike; together they hold where they are not quite."""
    chance, life = Random(4), Life(Experience())
    for _ in range(40):
        for number in range(60):
            life.submit(template(number), chance.lognormvariate(5, 1.5), every=10_000.0)
    life.finish()
    found = [life.experience.bound(template(number), life.now) for number in range(60)]

    pairs = [(one.own, one.wider) for one in found]
    assert all(own is not None and wider is not None and own <= wider for own, wider in pairs)
    assert any(own != wider for own, wider in pairs)


def test_no_pooled_bound_is_beyond_ten_times_the_longest_run() -> None:
    """Where templates spread over orders of magnitude, residuals of one say absurd things of
    another."""
    life, longest = Life(Experience()), 10**6
    for number in range(100):
        for seconds in (100.0, 101.0, 102.0, 103.0, 104.0, 105.0, longest):
            life.submit(template(number), seconds, every=10**7)
    for seconds in (1.0, longest) * 4:
        life.submit(template(2000), seconds, every=10**7)
    life.finish()

    bound = life.experience.bound(template(2000), life.now).value
    assert bound is not None
    assert bound <= LONGEST_TIMES * longest * 1.01


def test_one_tenant_cannot_teach_the_template_of_another() -> None:
    """The same spec has other keys in another namespace."""
    spec = GpuJobSpec.model_validate(a_spec())
    mine, theirs = template_of("mine", spec), template_of("theirs", spec)
    life = Life(Experience())
    for _ in range(500):
        life.submit(theirs, 5.0, every=10.0)
    life.finish()

    assert not set(mine.keys) & set(theirs.keys)
    found = life.experience.bound(mine, life.now)
    assert (found.value, found.runs) == (None, 0)


def test_a_key_says_what_decides_how_long_a_job_runs() -> None:
    """Image, command, arguments, plain variables, GPUs; not its ceiling."""
    spec = GpuJobSpec.model_validate(a_spec())

    def keys(**changes: Any) -> tuple[str, ...]:
        return template_of("n", spec.model_copy(update=changes)).keys

    base = keys()
    assert keys(args=("--epochs", "99"))[0] != base[0]
    assert keys(args=("--epochs", "99"))[1:] == base[1:]
    assert keys(image="registry.example/other:1")[1] != base[1]
    assert keys(gpu=spec.gpu.model_copy(update={"count": 8}))[0] != base[0]
    assert keys(cost=spec.cost.model_copy(update={"ceiling": "9.99"})) == base
    assert keys(max_rents=1) == base


def test_the_least_used_key_is_forgotten() -> None:
    """Memory has an end; a job of a forgotten key that still runs ends without harm."""
    experience = Experience(keys_kept=4)
    experience.began("old", template(0, "a"), 0.0)
    for number in range(1, 10):
        experience.began(str(number), template(number, f"t-{number}"), 1.0)
        experience.ended(str(number), 10.0, Outcome.ENDED, 11.0)
    experience.ended("old", 100.0, Outcome.ENDED, 100.0)

    assert experience.bound(template(1, "t-1"), 200.0).runs == 0
    assert experience.bound(template(9, "t-9"), 200.0).runs == 1


def test_the_error_is_shared_and_what_is_capped_needs_none() -> None:
    """Run time gets what the others do not need; together it is never more than there is."""
    error = Fraction(1, 20)
    everything = error_shares(error, set(Quantity))

    assert everything[Quantity.RUN] == Fraction(35, 1000)
    assert everything[Quantity.BOOT] == everything[Quantity.UPLOAD] == Fraction(5, 1000)
    assert sum(everything.values()) == error
    assert error_shares(error, {Quantity.RUN}) == {Quantity.RUN: error}
    assert sum(error_shares(error, {Quantity.BOOT}).values()) <= error


@pytest.mark.parametrize("threshold", [0.0, 0.0003, 0.01, 0.05, 0.7, 1.0])
def test_the_confidence_is_one_minus_the_least_error_that_fits(threshold: float) -> None:
    """Rounded against us, and nought where nothing fits."""
    found = confidence(lambda error: error >= Fraction(threshold))

    assert found <= 1 - Fraction(threshold)
    assert found >= 1 - Fraction(threshold) - Fraction(1, 4096)
    assert confidence(lambda error: False) == 0


def test_the_bound_grows_as_the_error_shrinks() -> None:
    """So that the confidence in a ceiling means something."""
    chance, life = Random(9), Life(Experience())
    for _ in range(3000):
        life.submit(template(chance.randrange(12)), chance.lognormvariate(5, 1), every=600.0)
    life.finish()
    bounds = [
        life.experience.bound(template(0), life.now, Fraction(parts, 100)).value
        for parts in (20, 10, 5, 2, 1)
    ]

    assert None not in bounds
    assert bounds == sorted(bounds, key=lambda one: one or 0.0)
    assert bounds[0] != bounds[-1]


def test_a_bound_does_not_depend_on_what_it_was_asked_before() -> None:
    """To ask changes nothing."""
    life = runs(100)
    first = life.experience.bound(template(0), life.now + 5.0)
    for later in range(100):
        life.experience.bound(template(later), life.now + later)

    assert life.experience.bound(template(0), life.now + 5.0) == first
