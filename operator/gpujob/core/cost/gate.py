"""The cost gate, which decides whether an attempt may be rented, and on which offer.

It fails closed. Whatever is missing, stale, implausible or malformed raises `CostGateError`; there
is no answer in between. With a declared deadline the bound is arithmetic: the confidence is that of
our own enforcement, for the bound is wrong only if we destroy too late. Without one, or if that
long does not fit the ceiling, the run time is what such jobs took before, and the confidence is
that of this: it is reckoned as if nothing would be stopped at its fuse, which holds all the same.
"""

from collections import Counter
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import islice
from math import ceil

from gpujob.api.estimate import OFFERS_SHOWN
from gpujob.api.reasons import Reason
from gpujob.core.cost.bid import Priced
from gpujob.core.cost.choice import (
    Candidate,
    candidates_of,
    check_quotes,
    fuse_microusd,
    in_counts,
    needs_of,
    why_dearer,
)
from gpujob.core.cost.confidence import Enforcement, enforcement, rounded_down
from gpujob.core.cost.error_budget import confidence
from gpujob.core.cost.estimate import (
    Estimate,
    Needs,
    estimate,
    overhead_seconds,
    traffic_microusd,
)
from gpujob.core.cost.question import CostGateError, Question
from gpujob.core.cost.run_bound import (
    RunBound,
    allowed_error,
    run_bound,
    seconds_with,
    shorter_bound,
)
from gpujob.core.limits import PAGE_LEASES
from gpujob.core.market.offers import Offer
from gpujob.core.money import MICRO, floor_usd, short_usd

PASSED_OVER_SHOWN, PASSED_OVER_KEPT = 3, OFFERS_SHOWN


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The gate's yes: of the offers whose bound fits, the one with the least expected cost."""

    offer: Offer
    priced: Priced
    """What interruptions make of its price."""
    estimate: Estimate
    ceiling: str
    """The job's ceiling, as its user wrote it."""
    spent_microusd: int
    fuse_microusd: int
    """The most that this attempt may cost."""
    run: RunBound
    enforcement: Enforcement
    confidence: Fraction
    """Lower bound of the probability that the job costs no more than its ceiling allows."""
    money_deadline_seconds: int
    """Time from the rent request until the destroy must be sent, so that the fuse holds."""
    passed_over: tuple[Candidate, ...]
    """The first of the offers with a lower bound, which were not chosen, cheapest first."""
    cheaper: int
    """How many these are in all."""
    best: tuple[Candidate, ...]
    """The offers of least expected cost, best first: this one, and those that came close."""
    refused: Counter[str]
    """Why other offers that might have cost less were not taken, and how many for each reason."""
    offers: int
    """How many offers the market has."""

    @property
    def bound_microusd(self) -> int:
        """The bound of the whole job: what it has spent, plus this attempt."""
        return self.spent_microusd + self.estimate.total_microusd

    @property
    def basis(self) -> str:
        """What the confidence rests on, in words."""
        if self.run.learnt is None:
            return self.enforcement.basis
        return (
            f"run: {self.run.seconds:.0f} s by {self.run.basis}; boot, traffic and destroy are "
            "capped, and have no share in the error; it is assumed that this job is like those"
        )

    @property
    def words(self) -> str:
        """Says what was chosen, and why nothing cheaper."""
        bound = short_usd(self.bound_microusd)
        text = (
            f"the job may cost up to {bound} of ${self.ceiling} on {self.offer.gpu} in "
            f"{self.offer.location}"
        )
        if self.run.learnt is not None:
            text += (
                f" with a confidence of {rounded_down(self.confidence)}, for {self.run.words}; "
                f"whatever it takes, it is stopped before it costs more than ${self.ceiling}"
            )
        text += self.priced.words
        text += self._expectations
        if self.passed_over:
            shown = "; ".join(one.against for one in self.passed_over[:PASSED_OVER_SHOWN])
            more = self.cheaper - PASSED_OVER_SHOWN
            rest = f"; and {more} more" if more > 0 else ""
            text += f"; cheaper offers were passed over: {shown}{rest}"
        return text

    @property
    def _expectations(self) -> str:
        """What it is expected to cost, and why not one of the others, to follow other words."""
        first, *others = (short_usd(self.spent_microusd + ceil(one.expected)) for one in self.best)
        text = f"; it is expected to cost {first}, with what failures and interruptions add"
        if others:
            next_best = ", ".join(
                f"{usd} on {one.offer.gpu} in {one.offer.location}"
                for usd, one in zip(others, self.best[1:], strict=True)
            )
            text += f"; the next best would be {next_best}"
        if self.refused:
            text += f"; not taken, because {in_counts(self.refused)}"
        rest = self.offers - len(self.best) - self.refused.total()
        if rest > 0:
            text += (
                f"; the other {rest} of {self.offers} offers are expected to cost more, or may "
                "cost more than is left"
            )
        return text


def judge(question: Question) -> Verdict:
    """Returns the admissible attempt of least expected cost; raises CostGateError if there is
    none."""
    check_quotes(question)
    enforced = _enforcement(question)
    run = _run_bound(question)
    _check_leases(question)
    try:
        return _judge_run(question, run, enforced)
    except CostGateError as refused:
        shorter = shorter_bound(question) if refused.reason is Reason.CEILING_EXCEEDED else None
        if shorter is None:
            raise
    return _judge_run(question, shorter, enforced)


def _enforcement(question: Question) -> Enforcement:
    """Returns how sure we are of our own enforcement; raises if that is not enough."""
    asked = question.spec.cost.confidence
    if question.destroys is None:
        raise CostGateError(
            Reason.CONFIDENCE_TOO_LOW,
            "how well the operator has destroyed machines in time cannot be read from the "
            "ConfigMap of machines in its namespace; the operator's log says why",
        )
    enforced = enforcement(question.destroys, question.now)
    if enforced.confidence < Fraction(asked):
        raise CostGateError(
            Reason.CONFIDENCE_TOO_LOW,
            "the operator destroyed machines too late too often: its confidence of "
            f"{rounded_down(enforced.confidence)} is below spec.cost.confidence "
            f"({asked}); {enforced.basis}",
        )
    return enforced


def _run_bound(question: Question) -> RunBound:
    """Returns the run time to reckon with; a refusal says which deadline would be admitted."""
    try:
        return run_bound(question)
    except CostGateError as refused:
        if refused.reason is Reason.DEADLINE_USED_UP:
            raise
        words = f"{refused.message}; {_what_deadline_fits(question)}"
        raise CostGateError(refused.reason, words) from refused


def _check_leases(question: Question) -> None:
    """Raises CostGateError if no further machine may be leased."""
    limits, leased = question.limits, question.leased
    lag = limits.destroy_lag_seconds(leased.others)
    if lag > limits.max_destroy_lag_seconds:
        raise CostGateError(
            Reason.DESTROY_LAG_TOO_LONG,
            f"with {limits.max_leases} machines leased, as the operator's limits.maxLeases allows, "
            f"destroying one may take {lag:.0f} s, more than the limit of "
            f"{limits.max_destroy_lag_seconds:.0f} s; an administrator has to lower the one or "
            "raise the other",
        )
    cap = limits.max_leases if leased.reckoned is None else min(limits.max_leases, leased.reckoned)
    if leased.machines >= cap:
        raise CostGateError(
            Reason.LEASE_LIMIT,
            f"{leased.machines} machines are leased or asked for, and the operator's cap is {cap}"
            f"{_why_lower(cap, limits.max_leases)}; waiting until one is released",
        )


def _judge_run(question: Question, run: RunBound, enforced: Enforcement) -> Verdict:
    """Judges an attempt whose workload runs for so long."""
    limits, spec, leased = question.limits, question.spec, question.leased
    needs, ceiling = needs_of(question, run.seconds), floor_usd(spec.cost.ceiling)
    candidates = candidates_of(question, needs)
    cheapest = candidates.cheapest
    bound = question.spent_microusd + cheapest.estimate.total_microusd
    if bound > ceiling:
        raise CostGateError(
            Reason.CEILING_EXCEEDED,
            _what_would_fit(question, cheapest, needs, run),
            bound_microusd=bound,
        )
    fuse = fuse_microusd(question)
    if cheapest.estimate.total_microusd > fuse:
        raise CostGateError(
            Reason.CEILING_EXCEEDED,
            f"the cheapest offer ({cheapest.offer.gpu}) may cost up to "
            f"{short_usd(cheapest.estimate.total_microusd)} for this attempt, more than the "
            f"{short_usd(fuse)} reserved for it",
            bound_microusd=bound,
        )
    if leased.unpriced:
        raise CostGateError(
            Reason.LEASE_LIMIT,
            f"nothing shows a usable price of {leased.unpriced}, so the leased machines may cost "
            f"more than the operator's limits.maxUsdPerHour ({limits.max_usd_per_hour} $/h)",
            bound_microusd=bound,
        )
    best = candidates.choose(fuse, bound_microusd=bound)
    chosen = best[0]
    cheaper = candidates.within(chosen.estimate.total_microusd - 1)
    return Verdict(
        offer=chosen.offer,
        priced=chosen.priced,
        estimate=chosen.estimate,
        ceiling=spec.cost.ceiling,
        spent_microusd=question.spent_microusd,
        fuse_microusd=fuse,
        run=run,
        enforcement=enforced,
        confidence=_confidence(question, run, enforced, chosen.offer, needs, fuse),
        money_deadline_seconds=_money_deadline(question, run, chosen, fuse),
        passed_over=tuple(
            replace(
                one,
                against=one.against or why_dearer(question, one, candidates.reckoning, chosen),
            )
            for one in islice(candidates, min(cheaper, PASSED_OVER_KEPT))
        ),
        cheaper=cheaper,
        best=best,
        refused=candidates.refused,
        offers=len(question.quotes.offers),
    )


def _confidence(
    question: Question,
    run: RunBound,
    enforced: Enforcement,
    offer: Offer,
    needs: Needs,
    fuse_microusd: int,
) -> Fraction:
    """Returns how sure the bound is: that of our enforcement if it rests on that alone, else one
    minus the least error with which the run time that was learnt still fits.
    """
    if run.learnt is None:
        return enforced.confidence
    limits, others = question.limits, question.leased.others

    def fits(error: Fraction) -> bool:
        seconds = seconds_with(question, error)
        if seconds is None:
            return False
        asked = replace(needs, run_seconds=seconds)
        return estimate(offer, asked, limits, others=others).total_microusd <= fuse_microusd

    # It fits with the error that is allowed, which need not be a step of the search.
    return max(confidence(fits), 1 - allowed_error(question))


def _money_deadline(
    question: Question, run: RunBound, chosen: Candidate, fuse_microusd: int
) -> int:
    """Returns after how many seconds the destroy must be sent. Without a deadline that may be long
    after the run was to end, but never after the host's contract, whose price holds no longer.
    """
    lag = question.limits.destroy_lag_seconds(question.leased.others)
    by_money = money_deadline_seconds(
        fuse_microusd,
        traffic_microusd=chosen.estimate.traffic_microusd,
        usd_per_hour=chosen.estimate.usd_per_hour,
        destroy_lag_seconds=lag,
    )
    if run.learnt is None:
        return by_money
    return min(by_money, int(chosen.offer.contract_seconds - lag))


def money_deadline_seconds(
    fuse_microusd: int,
    *,
    traffic_microusd: int,
    usd_per_hour: Fraction,
    destroy_lag_seconds: float,
) -> int:
    """Returns after how many seconds the destroy must be sent, so that lag and traffic are paid."""
    seconds = Fraction(fuse_microusd - traffic_microusd, MICRO) / usd_per_hour * 3600
    return max(int(seconds - Fraction(destroy_lag_seconds)), 0)


def _why_lower(cap: int, max_leases: int) -> str:
    if cap == max_leases:
        return ""
    return f", not {max_leases}, as long as a machine runs that was rented before that was raised"


def _what_would_fit(question: Question, one: Candidate, needs: Needs, run: RunBound) -> str:
    offer, cheapest = one.offer, one.estimate
    bound = question.spent_microusd + cheapest.total_microusd
    needed = question.spent_microusd + _with_head_room(question, offer, needs).total_microusd
    overhead = overhead_seconds(question.limits, question.leased.others, cheapest.stop_seconds)
    longest = _longest_run(question, one, needs)
    fits = f"or activeDeadlineSeconds of {longest}"
    if longest - question.run_seconds_used < 1:
        fits = "but a shorter activeDeadlineSeconds would not"
        if bound - cheapest.traffic_microusd <= floor_usd(question.spec.cost.ceiling):
            caps = f"maxDownloadGB, now {needs.max_download_gb}, or maxUploadGB"
            fits = f"or less of data.{caps}, now {needs.max_upload_gb}"
    parts = (
        f"{run.words} and up to {float(overhead):.0f} s of boot, copying and "
        f"destroy at {float(cheapest.usd_per_hour):.4f} $/h = {short_usd(cheapest.time_microusd)}, "
        f"traffic {short_usd(cheapest.traffic_microusd)}"
    )
    spent = f", spent {short_usd(question.spent_microusd)}" if question.spent_microusd else ""
    return (
        f"the cheapest offer ({offer.gpu}, {offer.location}) may cost up to {short_usd(bound)}, "
        f"more than the ceiling of ${question.spec.cost.ceiling}: {parts}{spent}; a ceiling of "
        f"{short_usd(needed)} would fit, {fits}"
    )


def _what_deadline_fits(question: Question) -> str:
    """Says which deadline would be admitted now on the offer that is the cheapest to begin on."""
    needs = needs_of(question, 0.0)
    try:
        found = candidates_of(question, needs)
    except CostGateError as refused:
        return f"but with any deadline, {refused.message}"
    one, ceiling = found.cheapest, question.spec.cost.ceiling
    hourly = f"{float(one.estimate.usd_per_hour):.4f} $/h"
    where = f"on the cheapest offer ({one.offer.gpu}, {one.offer.location}, {hourly})"
    longest = _longest_run(question, one, needs)
    if longest - question.run_seconds_used >= 1:
        return f"{where} the ceiling of ${ceiling} would admit activeDeadlineSeconds of {longest}"
    needed = question.spent_microusd + _with_head_room(question, one.offer, needs).total_microusd
    return (
        f"but {where} no deadline fits the ceiling of ${ceiling}: it takes {short_usd(needed)} "
        "beside the run"
    )


def _longest_run(question: Question, one: Candidate, needs: Needs) -> int:
    """Returns the longest deadline that the ceiling, and the host's contract, would admit."""
    limits, others = question.limits, question.leased.others + PAGE_LEASES
    traffic = traffic_microusd(one.offer, needs, limits, others=others)
    left = floor_usd(question.spec.cost.ceiling) - question.spent_microusd - traffic
    overhead = overhead_seconds(limits, others, one.estimate.stop_seconds)
    by_money = Fraction(left, MICRO) / one.estimate.usd_per_hour * 3600 - overhead
    by_contract = Fraction(one.offer.contract_seconds) - overhead
    return int(min(by_money, by_contract) + Fraction(question.run_seconds_used))


def _with_head_room(question: Question, offer: Offer, needs: Needs) -> Estimate:
    """Returns the estimate that stays true while other people's machines in the account come and
    go."""
    others = question.leased.others + PAGE_LEASES
    return estimate(offer, needs, question.limits, others=others)
