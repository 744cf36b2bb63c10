"""For how long the workload of an attempt runs at most, as far as its cost is concerned.

The deadline says it, and is enforced. Without one, or where that long does not fit the ceiling, it
is what such jobs took before, with the error that the job allows. All else that an attempt uses up
is under a cap that the operator enforces, and needs no share of the error: the run time has all.

The gate is stricter than the estimator. That a tenant's or a program's other jobs ended soon says
nothing of a template that has not run yet, so the bound has to come from the template's own runs,
or to allow for how far the runs of other templates were from what was expected of them.
"""

from dataclasses import dataclass
from fractions import Fraction
from math import ceil

from gpujob.api.reasons import Reason
from gpujob.core.cost.error_budget import Quantity, error_shares
from gpujob.core.cost.experience import Bound
from gpujob.core.cost.question import CostGateError, Question

LEVELS = ("its template", "its image and command", "its namespace")
"""What a job's keys stand for, most specific first."""
OWN = 0


@dataclass(frozen=True, kw_only=True)
class RunBound:
    """How many seconds a workload may take, and what that rests on."""

    seconds: float
    learnt: Bound | None
    """What such jobs took; None = the deadline alone, which is enforced."""

    @property
    def words(self) -> str:
        """Says how long, and why."""
        if self.learnt is None:
            return f"{self.seconds:.0f} s of run"
        return f"{self.seconds:.0f} s of run, learnt from {self.basis}"

    @property
    def basis(self) -> str:
        """What a learnt bound rests on; empty if it is the deadline."""
        if self.learnt is None:
            return ""
        one = self.learnt
        text = "1 run" if one.runs == 1 else f"{one.runs} runs"
        text += " of its template"
        if one.level is not None and one.level != OWN:
            wider = LEVELS[one.level] if one.level < len(LEVELS) else "all jobs"
            text += f" and those of {wider}"
        if one.is_pooled:
            text += " and how far other templates' runs were from what was expected"
        if one.overdue:
            text += f"; {_late(one.overdue)}"
        return text


def run_bound(question: Question) -> RunBound:
    """Returns the bound that the deadline sets, or else what such jobs took; raises CostGateError
    if there is none, or if no time is left.
    """
    spec, used = question.spec, question.run_seconds_used
    if spec.active_deadline_seconds is None:
        return learnt_bound(question)
    left = spec.active_deadline_seconds - used
    if left <= 0:
        raise CostGateError(
            Reason.DEADLINE_USED_UP,
            f"the workload ran for {used:.0f} s in earlier attempts, and "
            f"spec.activeDeadlineSeconds ({spec.active_deadline_seconds} s) is for all of them "
            "together; raise it, or delete the job",
        )
    return RunBound(seconds=left, learnt=None)


def shorter_bound(question: Question) -> RunBound | None:
    """Returns what such jobs took, if that is known and less than what the deadline leaves."""
    if question.spec.active_deadline_seconds is None:
        return None
    left = run_bound(question).seconds
    try:
        found = learnt_bound(question)
    except CostGateError:
        return None
    return found if found.seconds < left else None


def learnt_bound(question: Question) -> RunBound:
    """Returns what such jobs do not exceed, with the error that the job allows.

    Raises CostGateError if too little is known, if nobody knows because many run for longer than
    was expected, or if the estimator fails.
    """
    error = allowed_error(question)
    found = _asked(question, error)
    if found.value is None and found.overdue and found.runs >= needed(error):
        raise CostGateError(
            Reason.UNLABELLED_BURST,
            f"spec.activeDeadlineSeconds is not set, and {_late(found.overdue)}, so nobody knows "
            "how long this one takes; set it, or wait until they have ended",
        )
    if (seconds := usable(found)) is None:
        raise CostGateError(
            Reason.INSUFFICIENT_HISTORY,
            f"spec.activeDeadlineSeconds is not set, and of its template {_known(found, error)}; "
            "set it",
        )
    return RunBound(seconds=seconds, learnt=found)


def seconds_with(question: Question, error: Fraction) -> float | None:
    """Returns what such jobs do not exceed but with this error; None = too little is known."""
    return usable(_asked(question, error))


def usable(bound: Bound) -> float | None:
    """Returns the seconds on which money may be spent; None = it rests on too little."""
    if bound.level != OWN and not bound.is_pooled:
        return None
    return bound.value


def allowed_error(question: Question) -> Fraction:
    """Returns the share of the job's error that its run time may have: all of it."""
    error = 1 - Fraction(question.spec.cost.confidence)
    return error_shares(error, {Quantity.RUN})[Quantity.RUN]


def needed(error: Fraction) -> int:
    """Returns of how many runs at least one bounds the next with this error."""
    return ceil((1 - error) / error)


def _asked(question: Question, error: Fraction) -> Bound:
    if question.runs is None:
        raise CostGateError(
            Reason.INSUFFICIENT_HISTORY,
            "spec.activeDeadlineSeconds is not set, and what was learnt of such jobs cannot be "
            "read from the GpuJobProfiles (the operator's log says why); set it",
        )
    try:
        return question.runs.bound(question.template, question.now.timestamp(), error)
    except Exception as fault:
        # Whatever is wrong with it, what cannot be estimated is not admitted.
        raise CostGateError(
            Reason.ESTIMATOR_ERROR,
            f"how long the job takes could not be estimated ({type(fault).__name__}: {fault}); set "
            "spec.activeDeadlineSeconds, and report this fault of the operator",
        ) from fault


def _known(bound: Bound, error: Fraction) -> str:
    least = needed(error)
    if bound.runs >= least:
        return (
            f"{bound.runs} runs are known, but so many of them were stopped or cut short that they "
            "tell no bound"
        )
    runs = "1 run is" if bound.runs == 1 else f"{bound.runs} runs are"
    return f"{runs} known, of the {least} needed to tell how long it takes"


def _late(count: int) -> str:
    jobs = "1 job of its template runs" if count == 1 else f"{count} jobs of its template run"
    return f"{jobs} for longer than was expected"
