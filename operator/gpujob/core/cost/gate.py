"""The cost gate: may this attempt be rented, and on which offer.

It fails closed. Whatever is missing, stale, implausible or malformed raises `CostGateError`; there
is no answer in between. The confidence is that of our own enforcement: with a declared deadline
the bound is arithmetic, and it is wrong only if we destroy too late.
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from fractions import Fraction
from statistics import median

from gpujob.api.gpujob import GpuJobSpec, GpuJobStatus
from gpujob.api.reasons import Reason
from gpujob.core.cost.estimate import Estimate, Needs, estimate, overhead_seconds, traffic_usd
from gpujob.core.limits import Limits
from gpujob.core.market.hosts import TRUST_MIN, HostMemory
from gpujob.core.market.offers import Offer, Quotes, mismatch, with_bid
from gpujob.core.money import MICRO, floor_usd, micro_up, short_usd

PASSED_OVER_SHOWN = 3
CONFIDENCE_HALF_LIFE = timedelta(hours=24)


class CostGateError(Exception):
    """The gate's no, with the reason and the numbers."""

    def __init__(self, reason: Reason, message: str, *, bound_microusd: int | None = None) -> None:
        super().__init__(f"{reason}: {message}")
        self.reason = reason
        self.message = message
        self.bound_microusd = bound_microusd
        """Of the cheapest matching offer, with what was spent; None = unknown."""


@dataclass(frozen=True)
class Destroy:
    """How one destroy that was sent on time went."""

    at: datetime
    was_late: bool


@dataclass(frozen=True, kw_only=True)
class Question:
    """All that the gate's answer depends on."""

    now: datetime
    limits: Limits
    spec: GpuJobSpec
    spent_microusd: int
    run_seconds_used: float
    quotes: Quotes
    leases: int
    """Machines now leased by the whole operator."""
    leased_usd_per_hour: Fraction
    destroys: tuple[Destroy, ...]
    avoided_machines: frozenset[int]
    """Machines on which this job's earlier attempts were lost."""
    hosts: HostMemory
    reserved_microusd: int | None = None
    """What the attempt's node holds; None = nothing is reserved yet, all that is left may be."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """An offer that could be taken, and what an attempt on it would cost."""

    offer: Offer
    estimate: Estimate
    trust: float
    """Probability that its machine carries the attempt through."""
    against: str
    """Why it is not taken although it could be; empty = it may be."""

    @property
    def expected(self) -> float:
        """The bound over all the attempts that it takes on such a machine until one succeeds."""
        return self.estimate.total_microusd / self.trust


@dataclass(frozen=True, kw_only=True)
class Admission:
    """The gate's yes: of the offers whose bound fits, the one with the least expected cost."""

    offer: Offer
    estimate: Estimate
    ceiling: str
    """Of the job, as it was written."""
    spent_microusd: int
    fuse_microusd: int
    """What this attempt may cost."""
    confidence: Fraction
    money_deadline_seconds: int
    """From the rent request until the destroy must be sent, so that the fuse holds."""
    passed_over: tuple[Candidate, ...]
    """What had a lower bound and was not taken, cheapest first."""

    @property
    def bound_microusd(self) -> int:
        """Of the whole job: what was spent and this attempt."""
        return self.spent_microusd + self.estimate.total_microusd

    @property
    def words(self) -> str:
        """For people: what was chosen, and why nothing cheaper."""
        bound = short_usd(self.bound_microusd)
        text = f"bounded by {bound} of ${self.ceiling} on {self.offer.gpu} in {self.offer.location}"
        if not self.passed_over:
            return text
        shown = "; ".join(one.against for one in self.passed_over[:PASSED_OVER_SHOWN])
        more = len(self.passed_over) - PASSED_OVER_SHOWN
        rest = f"; and {more} more" if more > 0 else ""
        return f"{text}; cheaper ones were passed over: {shown}{rest}"


def enforcement_confidence(destroys: tuple[Destroy, ...], now: datetime) -> Fraction:
    """Returns the probability that we destroy in time.

    The posterior mean under Beta(1, 99) over destroys that were sent on time, each counting half
    as much after a day. 0.99 without any evidence is an assumption.
    """
    late = total = 0.0
    for destroy in destroys:
        age = max(now - destroy.at, timedelta(0))
        weight = 0.5 ** (age / CONFIDENCE_HALF_LIFE)
        total += weight
        late += weight * destroy.was_late
    return 1 - Fraction((late + 1) / (total + 100)).limit_denominator(10**9)


def judge(question: Question) -> Admission:
    """Returns the admissible attempt of least expected cost; raises CostGateError if there is
    none."""
    limits, spec = question.limits, question.spec
    _check_quotes(question)
    ceiling = floor_usd(spec.cost.ceiling)
    confidence = enforcement_confidence(question.destroys, question.now)
    if confidence < Fraction(spec.cost.confidence):
        raise CostGateError(
            Reason.CONFIDENCE_TOO_LOW,
            f"destroys were late too often: confidence {float(confidence):.3f} is below "
            f"{spec.cost.confidence}; it recovers with a half-life of 24 h",
        )
    needs = _needs(question)
    lag = limits.destroy_lag_seconds(question.leases)
    if lag > limits.max_destroy_lag_seconds:
        raise CostGateError(
            Reason.DESTROY_LAG_TOO_LONG,
            f"with {question.leases} machines leased a destroy may take {lag:.0f} s, more than "
            f"{limits.max_destroy_lag_seconds:.0f} s",
        )
    if question.leases >= limits.max_leases:
        raise CostGateError(
            Reason.LEASE_LIMIT, f"{question.leases} machines are leased, the operator's cap"
        )
    candidates = _candidates(question, needs)
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
            f"{cheapest.offer.gpu} is bounded by {short_usd(cheapest.estimate.total_microusd)} for "
            f"this attempt, more than the {short_usd(fuse)} reserved for it",
            bound_microusd=bound,
        )
    trusted = [one for one in fitting if not one.against]
    if not trusted:
        raise CostGateError(
            Reason.MACHINES_DISTRUSTED,
            f"all {len(fitting)} matching offers that fit stand on machines that failed: "
            f"{fitting[0].against}; they are trusted again as that fades",
            bound_microusd=bound,
        )
    chosen = min(trusted, key=lambda one: (one.expected, one.offer.offer_id))
    rate_cap = Fraction(floor_usd(limits.max_usd_per_hour), MICRO)
    if question.leased_usd_per_hour + chosen.estimate.usd_per_hour > rate_cap:
        raise CostGateError(
            Reason.LEASE_LIMIT,
            f"{float(question.leased_usd_per_hour):.2f} $/h are leased; this machine would pass "
            f"the operator's cap of {limits.max_usd_per_hour} $/h",
            bound_microusd=bound,
        )
    return Admission(
        offer=chosen.offer,
        estimate=chosen.estimate,
        ceiling=spec.cost.ceiling,
        spent_microusd=question.spent_microusd,
        fuse_microusd=fuse,
        confidence=confidence,
        money_deadline_seconds=_money_deadline(fuse, chosen.estimate, lag),
        passed_over=tuple(
            replace(one, against=one.against or _less_trusted(question, one))
            for one in fitting
            if one.estimate.total_microusd < chosen.estimate.total_microusd
        ),
    )


def matching_offers(question: Question) -> list[Candidate]:
    """Returns what meets the job's needs, whatever it costs, lowest bound first.

    Raises CostGateError if nothing does, or no bound can be known.
    """
    _check_quotes(question)
    return _candidates(question, _needs(question))


def avoided_machines(status: GpuJobStatus) -> frozenset[int]:
    """Returns the machines on which attempts of the job were lost or came to nothing."""
    return frozenset(
        record.machine_id
        for record in status.attempts
        if record.machine_id is not None
        and record.exit_code is None
        and record.reason != Reason.SUSPENDED
    )


def rounded_down(confidence: Fraction) -> str:
    """Returns a confidence for display; never more than it is."""
    return f"{int(confidence * 1000) / 1000:.3f}"


def _check_quotes(question: Question) -> None:
    quotes, limits = question.quotes, question.limits
    if abs(quotes.clock_skew_seconds) > limits.clock_skew_seconds:
        raise CostGateError(
            Reason.CLOCK_SKEW,
            f"the provider's clock differs from ours by {quotes.clock_skew_seconds:.1f} s, more "
            f"than {limits.clock_skew_seconds:.0f} s; set this machine's clock",
        )
    age = (question.now - quotes.fetched_at).total_seconds()
    if age > limits.quote_age_seconds:
        raise CostGateError(
            Reason.STALE_QUOTE,
            f"the prices are {age:.0f} s old, older than {limits.quote_age_seconds:.0f} s",
        )
    if age < -2:
        raise CostGateError(
            Reason.CLOCK_SKEW, f"the prices were fetched {-age:.1f} s in the future"
        )


def _needs(question: Question) -> Needs:
    spec = question.spec
    if spec.active_deadline_seconds is None:
        raise CostGateError(
            Reason.INSUFFICIENT_HISTORY,
            "without spec.activeDeadlineSeconds no bound of the run time is known; set it",
        )
    return Needs(
        disk_gb=spec.resources.disk_gb,
        max_download_gb=spec.data.max_download_gb,
        max_upload_gb=spec.data.max_upload_gb,
        run_seconds=max(spec.active_deadline_seconds - question.run_seconds_used, 0.0),
        drain_seconds=question.limits.drain_seconds_of(spec),
    )


def _candidates(question: Question, needs: Needs) -> list[Candidate]:
    """Returns what meets the needs, lowest bound first; raises the reason if nothing does."""
    quotes, limits, spec = question.quotes, question.limits, question.spec
    offers = quotes.offers
    if spec.market.type == "Interruptible":
        offers = tuple(with_bid(offer, spec) for offer in offers)
    matching = [offer for offer in offers if mismatch(offer, spec) is None]
    if not matching:
        refused = next((found for offer in offers if (found := mismatch(offer, spec))), None)
        detail = f"; for example {refused}" if refused else ""
        unreadable = f", {quotes.unreadable} of them malformed" if quotes.unreadable else ""
        raise CostGateError(
            Reason.NO_MATCHING_OFFER if not quotes.unreadable else Reason.INVALID_QUOTE,
            f"none of {len(quotes.offers) + quotes.unreadable} offers{unreadable} meets the job's "
            f"needs{detail}",
        )
    plausible = [offer for offer in matching if _is_plausible(offer, quotes, limits)]
    if not plausible:
        raise CostGateError(
            Reason.IMPLAUSIBLE_QUOTE,
            f"all {len(matching)} matching offers are priced far from their model's median",
        )
    ranked = sorted(
        (_candidate(question, offer, needs) for offer in plausible),
        key=lambda one: (
            one.estimate.total_microusd,
            -one.offer.reliability,
            one.offer.offer_id,
        ),
    )
    long_enough = [
        one for one in ranked if one.offer.contract_seconds >= one.estimate.lease_seconds
    ]
    if not long_enough:
        raise CostGateError(
            Reason.CONTRACT_TOO_SHORT,
            f"the hosts' contracts of all {len(ranked)} matching offers end within "
            f"{float(ranked[0].estimate.lease_seconds):.0f} s",
        )
    return long_enough


def _candidate(question: Question, offer: Offer, needs: Needs) -> Candidate:
    hosts, now = question.hosts, question.now
    trust = hosts.trust(offer.machine_id, offer.host_id, now)
    against = ""
    if offer.machine_id in question.avoided_machines:
        against = f"machine {offer.machine_id} failed an earlier attempt of this job"
    elif trust < TRUST_MIN:
        against = hosts.why(offer.machine_id, offer.host_id)
    return Candidate(
        offer=offer,
        estimate=estimate(offer, needs, question.limits, leases=question.leases),
        trust=trust,
        against=against,
    )


def _less_trusted(question: Question, one: Candidate) -> str:
    why = question.hosts.why(one.offer.machine_id, one.offer.host_id)
    return f"{why}, so that it is trusted to {one.trust:.0%} only"


def _is_plausible(offer: Offer, quotes: Quotes, limits: Limits) -> bool:
    rate = offer.gpu_usd_per_hour / offer.gpu_count
    middle = median(
        other.gpu_usd_per_hour / other.gpu_count
        for other in quotes.offers
        if other.gpu_model == offer.gpu_model
    )
    return limits.plausible_low * middle <= rate <= limits.plausible_high * middle


def _money_deadline(fuse: int, cheapest: Estimate, lag: float) -> int:
    """Seconds after which the destroy must be sent; rounded down, lag and traffic lie inside."""
    seconds = Fraction(fuse - cheapest.traffic_microusd, MICRO) / cheapest.usd_per_hour * 3600
    return max(int(seconds - Fraction(lag)), 0)


def _what_would_fit(question: Question, one: Candidate, needs: Needs, ceiling: int) -> str:
    offer, cheapest = one.offer, one.estimate
    bound = question.spent_microusd + cheapest.total_microusd
    overhead = overhead_seconds(question.limits, question.leases, needs.drain_seconds)
    traffic = micro_up(traffic_usd(offer, needs, question.limits, leases=question.leases))
    left = Fraction(ceiling - question.spent_microusd - traffic, MICRO)
    run = left / cheapest.usd_per_hour * 3600 - Fraction(overhead)
    fits = (
        f"or activeDeadlineSeconds of {int(run + Fraction(question.run_seconds_used))}"
        if run >= 1
        else "and no deadline would"
    )
    parts = (
        f"{needs.run_seconds:.0f} s of run and up to {overhead:.0f} s of boot and destroy at "
        f"{float(cheapest.usd_per_hour):.4f} $/h = {short_usd(cheapest.time_microusd)}, traffic "
        f"{short_usd(cheapest.traffic_microusd)}"
    )
    spent = f", spent {short_usd(question.spent_microusd)}" if question.spent_microusd else ""
    return (
        f"the cheapest offer ({offer.gpu}, {offer.location}) is bounded by {short_usd(bound)}, "
        f"more than the ceiling of ${question.spec.cost.ceiling}: {parts}{spent}; a ceiling of "
        f"{short_usd(bound)} would fit, {fits}"
    )
