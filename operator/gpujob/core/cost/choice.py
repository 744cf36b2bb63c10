"""Which offers could be taken, what an attempt on each would cost, and which of them is chosen."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from statistics import median

from gpujob.api.gpujob import GpuJobStatus
from gpujob.api.reasons import Reason
from gpujob.core.cost.bid import Priced, priced, terms_of
from gpujob.core.cost.estimate import Estimate, Needs, estimate, loading_seconds
from gpujob.core.cost.question import CostGateError, Question
from gpujob.core.cost.run_bound import seconds_with
from gpujob.core.limits import Limits
from gpujob.core.market.gpu_models import meant_by
from gpujob.core.market.hosts import TRUST_MIN
from gpujob.core.market.offers import Offer, mismatch
from gpujob.core.money import MICRO, floor_usd


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """An offer that could be taken, and what an attempt on it would cost."""

    offer: Offer
    estimate: Estimate
    trust: float
    """Probability that its machine completes the attempt."""
    is_trusted: bool
    against: str
    """Why it is not taken although it meets the needs; empty = nothing speaks against it."""
    priced: Priced
    """The offer again, with what interruptions make of its price."""

    @property
    def expected(self) -> float:
        """What one attempt is likely to cost at most, times what interruptions add to it, times the
        attempts until one succeeds on such a machine."""
        return self.estimate.likely_microusd * self.priced.times / self.trust


def matching_offers(question: Question, run_seconds: float) -> list[Candidate]:
    """Returns the offers that meet the job's needs at any price, lowest bound first, if its
    workload runs for so long; raises CostGateError if there is none.
    """
    check_quotes(question)
    found, _ = candidates_of(question, needs_of(question, run_seconds))
    return found


def avoided_machines(status: GpuJobStatus) -> frozenset[int]:
    """Returns the machines on which an attempt of the job ended before its workload did.

    A suspended attempt counts for nothing: its user ended it, and its machine may be a good one.
    """
    return frozenset(
        record.machine_id
        for record in status.attempts
        if record.machine_id is not None
        and record.exit_code is None
        and record.reason != Reason.SUSPENDED
    )


def check_quotes(question: Question) -> None:
    """Raises CostGateError if the prices are too old, or if a clock is wrong."""
    quotes, limits = question.quotes, question.limits
    if abs(quotes.clock_skew_seconds) > limits.clock_skew_seconds:
        raise CostGateError(
            Reason.CLOCK_SKEW,
            f"the provider's clock differs from the operator's by {quotes.clock_skew_seconds:.1f} "
            f"s, more than {limits.clock_skew_seconds:.0f} s; correct the operator's clock",
        )
    age = (question.now - quotes.fetched_at).total_seconds()
    if age > limits.quote_age_seconds:
        raise CostGateError(
            Reason.STALE_QUOTE,
            f"the prices are {age:.0f} s old, more than {limits.quote_age_seconds:.0f} s; the "
            "operator asks for new ones",
        )
    if age < -2:
        raise CostGateError(
            Reason.CLOCK_SKEW,
            f"the prices are dated {-age:.1f} s in the future; correct the operator's clock",
        )


def needs_of(question: Question, run_seconds: float) -> Needs:
    """Returns what an attempt may use up whose workload runs for so long."""
    spec = question.spec
    data = spec.data
    delivers = data.drain_seconds is None and (data.outputs or data.checkpoint is not None)
    return Needs(
        disk_gb=spec.resources.disk_gb,
        max_download_gb=data.max_download_gb,
        max_upload_gb=data.max_upload_gb,
        run_seconds=run_seconds,
        drain_seconds=question.limits.drain_seconds_of(spec),
        delivered_gb=data.max_upload_gb if delivers else 0,
        copies_files=bool(data.inputs) or data.checkpoint is not None,
    )


def candidates_of(question: Question, needs: Needs) -> tuple[list[Candidate], int]:
    """Returns the offers that meet the needs, lowest bound first, and how many were passed over
    because their lines are too slow; raises if there is none.
    """
    quotes, limits, spec = question.quotes, question.limits, question.spec
    offers = _priced(question, needs)
    matching = [one for one in offers if mismatch(one.offer, spec) is None]
    if not matching:
        refused = next((why for one in offers if (why := mismatch(one.offer, spec))), None)
        detail = f"; the first one fails because {refused}" if refused else ""
        detail += "".join(f"; {one.doubt}" for one in meant_by(spec.gpu) if one.doubt)
        unreadable = f" ({quotes.unreadable} of them malformed)" if quotes.unreadable else ""
        raise CostGateError(
            Reason.NO_MATCHING_OFFER if not quotes.unreadable else Reason.INVALID_QUOTE,
            f"none of {len(quotes.offers) + quotes.unreadable} offers{unreadable} meets the job's "
            f"needs{detail}; wait for other offers, or create the job again with lower needs",
        )
    rates = _plausible_rates(quotes.offers, limits)
    plausible = [one for one in matching if _is_plausible(one.shown, rates)]
    if not plausible:
        raise CostGateError(
            Reason.IMPLAUSIBLE_QUOTE,
            f"the prices of all {len(matching)} matching offers are so far from the median of "
            "their GPU model that they look wrong; waiting for other offers",
        )
    fast = [one for one in plausible if _loads_in_time(one.offer, needs, limits)]
    if not fast:
        cap, size = limits.boot_cap_seconds, needs.boot_download_gb
        least = size * 8000 / max(cap, 1)
        raise CostGateError(
            Reason.NO_MATCHING_OFFER,
            f"the lines of all {len(plausible)} matching offers are too slow: bringing {size} GB "
            f"within the boot cap of {cap:.0f} s takes {least:.0f} Mbit/s; wait for other offers, "
            "or create the job again with a lower data.maxDownloadGB",
        )
    left = usd_per_hour_left(question)
    ranked = sorted(
        (_candidate(question, one, needs, left) for one in fast),
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
            f"the attempt may take {float(ranked[0].estimate.lease_seconds):.0f} s, but the hosts' "
            f"contracts of all {len(ranked)} matching offers end earlier; wait for other offers, "
            "or create the job again with a shorter activeDeadlineSeconds",
        )
    return long_enough, len(plausible) - len(fast)


def _priced(question: Question, needs: Needs) -> list[Priced]:
    """Returns all offers at what would be paid for them, whether they meet the needs or not."""
    offers, spec, limits = question.quotes.offers, question.spec, question.limits
    if spec.market.type != "Interruptible":
        return [Priced(offer=offer, shown=offer) for offer in offers]
    run, saved = likely_run_seconds(question, needs), spec.data.checkpoint
    interval = None if saved is None else saved.interval_seconds
    ways = []
    for offer in offers:
        terms = terms_of(offer, needs, limits, run_seconds=run, checkpoint=interval)
        most = most_usd_per_hour(question, offer, needs)
        ways.append(priced(offer, terms, question.outbids, most_usd_per_hour=most))
    return ways


def likely_run_seconds(question: Question, needs: Needs) -> float:
    """Returns what half of such jobs do not exceed, as far as that is known, else the bound."""
    try:
        whole = seconds_with(question, Fraction(1, 2))
    except CostGateError:
        whole = None
    left = 0.0 if whole is None else whole - question.run_seconds_used
    return min(left, needs.run_seconds) if left > 0 else needs.run_seconds


def most_usd_per_hour(question: Question, offer: Offer, needs: Needs) -> Fraction:
    """Returns what an offer's GPUs may cost an hour at most, so that the bound of the attempt stays
    within its fuse, and the price with the disk within market.maxUSDPerHour.
    """
    spec, others = question.spec, question.leased.others
    bound = estimate(offer, needs, question.limits, others=others)
    disk = offer.disk_usd_per_hour(needs.disk_gb)
    left = fuse_microusd(question) - bound.traffic_microusd
    most = Fraction(left, MICRO) * 3600 / bound.lease_seconds
    if spec.market.max_usd_per_hour is not None:
        most = min(most, Fraction(floor_usd(spec.market.max_usd_per_hour), MICRO))
    return most - disk


def fuse_microusd(question: Question) -> int:
    """Returns the most that the attempt may cost: what the ceiling leaves, and is reserved."""
    left = floor_usd(question.spec.cost.ceiling) - question.spent_microusd
    reserved = question.reserved_microusd
    return left if reserved is None else min(left, reserved)


def _loads_in_time(offer: Offer, needs: Needs, limits: Limits) -> bool:
    """Whether the offer's own line brings all that the boot may need before the boot cap."""
    seconds = loading_seconds(offer, needs)
    return seconds is not None and seconds <= limits.boot_cap_seconds


def _candidate(question: Question, way: Priced, needs: Needs, left: Fraction) -> Candidate:
    offer, hosts, now = way.offer, question.hosts, question.now
    whose = question.template.tenant
    trust = hosts.trust(offer.machine_id, offer.host_id, whose, now)
    found = estimate(offer, needs, question.limits, others=question.leased.others)
    distrust, against = "", ""
    if offer.machine_id in question.avoided_machines:
        distrust = f"an earlier attempt of this job failed on machine {offer.machine_id}"
    elif trust < TRUST_MIN:
        distrust = hosts.why(offer.machine_id, offer.host_id, whose)
    elif found.usd_per_hour > left:
        rate = f"machine {offer.machine_id} costs {float(found.usd_per_hour):.4f} $/h"
        against = f"{rate}, and {_left_words(question)}"
    return Candidate(
        offer=offer,
        estimate=found,
        trust=trust,
        is_trusted=not distrust,
        against=distrust or against,
        priced=way,
    )


def usd_per_hour_left(question: Question) -> Fraction:
    """Returns how much the next machine may cost an hour; not less than nothing."""
    cap = Fraction(floor_usd(question.limits.max_usd_per_hour), MICRO)
    return max(cap - question.leased.usd_per_hour, Fraction(0))


def _left_words(question: Question) -> str:
    left, cap = float(usd_per_hour_left(question)), question.limits.max_usd_per_hour
    return f"{left:.4f} $/h are left of the operator's limits.maxUsdPerHour ({cap} $/h)"


def choose(question: Question, fitting: list[Candidate], *, bound_microusd: int) -> Candidate:
    """Returns the trusted offer of least expected cost of those that fit in what is left of the
    operator's cap on the price per hour; raises CostGateError if there is none.

    Expected cost = the bound of one attempt, with the boot that the offer's line suggests, times
    the attempts until one succeeds.
    """
    trusted = [one for one in fitting if one.is_trusted]
    if not trusted:
        raise CostGateError(
            Reason.MACHINES_DISTRUSTED,
            f"all {len(fitting)} offers that fit are on machines that failed recently, for "
            f"example: {fitting[0].against}; waiting for other offers, or until these are trusted "
            "again",
            bound_microusd=bound_microusd,
        )
    allowed = [one for one in trusted if not one.against]
    if not allowed:
        lowest = float(min(one.estimate.usd_per_hour for one in trusted))
        offers = "1 offer that fits" if len(trusted) == 1 else f"{len(trusted)} offers that fit"
        raise CostGateError(
            Reason.LEASE_LIMIT,
            f"{_left_words(question)}, because the machines that are leased or asked for cost "
            f"{float(question.leased.usd_per_hour):.4f} $/h, and the lowest price of {offers} the "
            f"ceiling is {lowest:.4f} $/h; waiting for a cheaper offer, or until a machine is "
            "released",
            bound_microusd=bound_microusd,
        )
    return min(allowed, key=lambda one: (one.expected, one.offer.offer_id))


def why_dearer(question: Question, one: Candidate, needs: Needs, chosen: Candidate) -> str:
    """Returns why an offer is expected to cost more than its bound suggests, and more than the one
    that is chosen.
    """
    if one.priced.times > chosen.priced.times:
        return (
            f"machine {one.offer.machine_id} is expected to be outbid "
            f"{one.priced.outbids_per_hour:.2f} times an hour, which makes the finished job "
            f"{one.priced.times - 1:.0%} dearer"
        )
    if one.trust >= chosen.trust:
        seconds = loading_seconds(one.offer, needs)
        assert seconds is not None, "an offer without a line is no candidate"
        line = f"machine {one.offer.machine_id} has a line of {float(one.offer.download_mbps):.0f}"
        return f"{line} Mbit/s and may take {float(seconds):.0f} s to load the image and files"
    whose = question.template.tenant
    why = question.hosts.why(one.offer.machine_id, one.offer.host_id, whose)
    return f"{why}, so its trust is only {one.trust:.0%}"


def _plausible_rates(
    offers: Iterable[Offer], limits: Limits
) -> dict[str, tuple[Fraction, Fraction]]:
    """Returns, by model, between which prices that of one GPU for an hour is plausible."""
    rates = defaultdict[str, list[Fraction]](list)
    for offer in offers:
        rates[offer.gpu_model].append(offer.gpu_usd_per_hour / offer.gpu_count)
    middles = {model: median(found) for model, found in rates.items()}
    return {
        model: (Fraction(limits.plausible_low * middle), Fraction(limits.plausible_high * middle))
        for model, middle in middles.items()
    }


def _is_plausible(offer: Offer, rates: Mapping[str, tuple[Fraction, Fraction]]) -> bool:
    lowest, highest = rates[offer.gpu_model]
    return lowest <= offer.gpu_usd_per_hour / offer.gpu_count <= highest
