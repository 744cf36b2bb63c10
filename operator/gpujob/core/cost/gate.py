"""The cost gate, which decides whether an attempt may be rented, and on which offer.

It fails closed. Whatever is missing, stale, implausible or malformed raises `CostGateError`; there
is no answer in between. The confidence is that of our own enforcement: with a declared deadline
the bound is arithmetic, and it is wrong only if we destroy too late.
"""

from dataclasses import dataclass, replace
from fractions import Fraction

from gpujob.api.reasons import Reason
from gpujob.core.cost.choice import (
    Candidate,
    candidates_of,
    check_quotes,
    choose,
    needs_of,
    why_dearer,
)
from gpujob.core.cost.confidence import Enforcement, enforcement, rounded_down
from gpujob.core.cost.estimate import Estimate, Needs, estimate, overhead_seconds, traffic_usd
from gpujob.core.cost.question import CostGateError, Question
from gpujob.core.limits import PAGE_LEASES
from gpujob.core.market.offers import Offer
from gpujob.core.money import MICRO, floor_usd, micro_up, short_usd

PASSED_OVER_SHOWN = 3


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The gate's yes: of the offers whose bound fits, the one with the least expected cost."""

    offer: Offer
    estimate: Estimate
    ceiling: str
    """The job's ceiling, as its user wrote it."""
    spent_microusd: int
    fuse_microusd: int
    """The most that this attempt may cost."""
    enforcement: Enforcement
    money_deadline_seconds: int
    """Time from the rent request until the destroy must be sent, so that the fuse holds."""
    passed_over: tuple[Candidate, ...]
    """The offers with a lower bound that were not chosen, cheapest first."""
    too_slow: int
    """How many offers meet the needs, but have a line that could not boot the job in time."""

    @property
    def bound_microusd(self) -> int:
        """The bound of the whole job: what it has spent, plus this attempt."""
        return self.spent_microusd + self.estimate.total_microusd

    @property
    def words(self) -> str:
        """Says what was chosen, and why nothing cheaper."""
        bound = short_usd(self.bound_microusd)
        text = (
            f"the job may cost up to {bound} of ${self.ceiling} on {self.offer.gpu} in "
            f"{self.offer.location}"
        )
        if self.too_slow:
            count = "1 offer was" if self.too_slow == 1 else f"{self.too_slow} offers were"
            text += f"; {count} passed over for a line too slow to load its image and files in time"
        if not self.passed_over:
            return text
        shown = "; ".join(one.against for one in self.passed_over[:PASSED_OVER_SHOWN])
        more = len(self.passed_over) - PASSED_OVER_SHOWN
        rest = f"; and {more} more" if more > 0 else ""
        return f"{text}; cheaper offers were passed over: {shown}{rest}"


def judge(question: Question) -> Verdict:
    """Returns the admissible attempt of least expected cost; raises CostGateError if there is
    none."""
    limits, spec = question.limits, question.spec
    check_quotes(question)
    ceiling = floor_usd(spec.cost.ceiling)
    if question.destroys is None:
        raise CostGateError(
            Reason.CONFIDENCE_TOO_LOW,
            "how well the operator has destroyed machines in time cannot be read from the "
            "ConfigMap of machines in its namespace; the operator's log says why",
        )
    enforced = enforcement(question.destroys, question.now)
    if enforced.confidence < Fraction(spec.cost.confidence):
        raise CostGateError(
            Reason.CONFIDENCE_TOO_LOW,
            "the operator destroyed machines too late too often: its confidence of "
            f"{rounded_down(enforced.confidence)} is below spec.cost.confidence "
            f"({spec.cost.confidence}); {enforced.basis}",
        )
    needs = needs_of(question)
    leased = question.leased
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
    candidates, too_slow = candidates_of(question, needs)
    cheapest = candidates[0]
    bound = question.spent_microusd + cheapest.estimate.total_microusd
    if bound > ceiling:
        raise CostGateError(
            Reason.CEILING_EXCEEDED,
            _what_would_fit(question, cheapest, needs, ceiling),
            bound_microusd=bound,
        )
    fuse = ceiling - question.spent_microusd
    if question.reserved_microusd is not None:
        fuse = min(fuse, question.reserved_microusd)
    fitting = [one for one in candidates if one.estimate.total_microusd <= fuse]
    if not fitting:
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
    chosen = choose(question, fitting, bound_microusd=bound)
    return Verdict(
        offer=chosen.offer,
        estimate=chosen.estimate,
        ceiling=spec.cost.ceiling,
        spent_microusd=question.spent_microusd,
        fuse_microusd=fuse,
        enforcement=enforced,
        money_deadline_seconds=money_deadline_seconds(
            fuse,
            traffic_microusd=chosen.estimate.traffic_microusd,
            usd_per_hour=chosen.estimate.usd_per_hour,
            destroy_lag_seconds=lag,
        ),
        passed_over=tuple(
            replace(one, against=one.against or why_dearer(question, one, needs, chosen.trust))
            for one in fitting
            if one.estimate.total_microusd < chosen.estimate.total_microusd
        ),
        too_slow=too_slow,
    )


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


def _what_would_fit(question: Question, one: Candidate, needs: Needs, ceiling: int) -> str:
    offer, cheapest = one.offer, one.estimate
    bound = question.spent_microusd + cheapest.total_microusd
    # So that the advice stays true while other people's machines in the account come and go.
    others, limits = question.leased.others + PAGE_LEASES, question.limits
    overhead = overhead_seconds(limits, others, cheapest.stop_seconds)
    traffic = micro_up(traffic_usd(offer, needs, limits, others=others))
    needed = question.spent_microusd + estimate(offer, needs, limits, others=others).total_microusd
    left = Fraction(ceiling - question.spent_microusd - traffic, MICRO)
    run = left / cheapest.usd_per_hour * 3600 - overhead
    fits = f"or activeDeadlineSeconds of {int(run + Fraction(question.run_seconds_used))}"
    if run < 1:
        fits = "but a shorter activeDeadlineSeconds would not"
        if bound - cheapest.traffic_microusd <= ceiling:
            caps = f"maxDownloadGB, now {needs.max_download_gb}, or maxUploadGB"
            fits = f"or less of data.{caps}, now {needs.max_upload_gb}"
    parts = (
        f"{needs.run_seconds:.0f} s of run and up to {float(overhead):.0f} s of boot, copying and "
        f"destroy at {float(cheapest.usd_per_hour):.4f} $/h = {short_usd(cheapest.time_microusd)}, "
        f"traffic {short_usd(cheapest.traffic_microusd)}"
    )
    spent = f", spent {short_usd(question.spent_microusd)}" if question.spent_microusd else ""
    return (
        f"the cheapest offer ({offer.gpu}, {offer.location}) may cost up to {short_usd(bound)}, "
        f"more than the ceiling of ${question.spec.cost.ceiling}: {parts}{spent}; a ceiling of "
        f"{short_usd(needed)} would fit, {fits}"
    )
