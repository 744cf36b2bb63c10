"""Which offers could be taken, what an attempt on each would cost, and which of them is chosen."""

from bisect import bisect_right, insort
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import count
from math import inf
from operator import itemgetter

from gpujob.api.estimate import RANKS
from gpujob.api.gpujob import GpuJobStatus
from gpujob.api.reasons import Reason
from gpujob.core.cost.bid import Priced, priced, terms_of
from gpujob.core.cost.estimate import Estimate, Needs, Reckoning
from gpujob.core.cost.question import CostGateError, Question
from gpujob.core.cost.run_bound import seconds_with
from gpujob.core.limits import Limits
from gpujob.core.market.gpu_models import meant_by
from gpujob.core.market.hosts import TRUST_MIN
from gpujob.core.market.offers import Demand, Offer, Quotes
from gpujob.core.money import MICRO, floor_usd

IMPLAUSIBLE = "its price is too far from the median of its GPU model"
TOO_SLOW = "its line is too slow to load its image and files in time"
TOO_SHORT = "its host's contract ends before the attempt may"

DISTRUSTED = "its machine or host failed recently"
OVER_CAP = "it costs more than is left of the operator's limits.maxUsdPerHour"

REASONS_SHOWN = 4
ROUNDING = 1e-9
"""More than the roundings of a few floats come to."""


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
        return _expected(self.estimate.likely_microusd, self.priced, self.trust)


def _expected(likely_microusd: int, way: Priced, trust: float) -> float:
    return likely_microusd * way.times / trust


_RANK = itemgetter(0, 1)
"""What an offer costs, then its number."""


class Candidates:
    """The offers that could be taken, lowest bound first.

    There may be thousands, and most cost too much to matter, which their price per hour alone
    shows. So they are looked at in the order of the least that they may cost, and no further than
    is needed to know what is asked for.
    """

    def __init__(self, question: Question, reckoning: Reckoning) -> None:
        self.reckoning = reckoning
        self.refused = Counter[str]()
        """How many of those that were looked at cannot be taken, and why."""
        self.too_short: list[Offer] = []
        """Those of them whose host's contract ends too early."""
        self._question = question
        self._left = usd_per_hour_left(question)
        self._demand = Demand(question.spec)
        self._price = _pricing(question, reckoning)
        self._plausible = _plausible_rates(question.quotes, question.limits)
        bids, quotes = question.spec.market.type == "Interruptible", question.quotes
        self._market = iter(quotes.by_least_price if bids else quotes.by_price)
        """Those not looked at yet, but for the next one."""
        self._next: Offer | None = None
        self._floor = inf
        """The least that an attempt on the next one costs, and on all after it."""
        self._seen: list[tuple[int, int, Priced]] = []
        """Those of the others that could be taken, with their bounds, lowest first."""
        self._go_on()

    def __iter__(self) -> Iterator[Candidate]:
        """Looks no further than at those that are taken."""
        return (self._candidate(way) for _, _, way in self._ranked())

    def __len__(self) -> int:
        return self.within(inf)

    @property
    def cheapest(self) -> Candidate:
        """The one with the lowest bound."""
        return next(iter(self))

    def within(self, microusd: float) -> int:
        """Returns how many have a bound that is not above this."""
        while self._next is not None and self._floor <= microusd:
            self._look(self._next)
        return bisect_right(self._seen, microusd, key=itemgetter(0))

    def _ranked(self) -> Iterator[tuple[int, int, Priced]]:
        """Yields them with their bounds, in order."""
        for place in count():
            if (one := self._at(place, inf)) is None:
                return
            yield one

    def _at(self, place: int, most_microusd: float) -> tuple[int, int, Priced] | None:
        """Returns the one at a place of the order; None = there is none with such a bound there."""
        seen = self._seen
        while self._next is not None and self._floor <= most_microusd:
            if place < len(seen) and self._floor > seen[place][0]:
                break
            self._look(self._next)
        return seen[place] if place < len(seen) and seen[place][0] <= most_microusd else None

    def _go_on(self) -> None:
        nanousd, self._next = next(self._market, (0, None))
        self._floor = self.reckoning.floor_microusd(nanousd)

    def _look(self, offer: Offer) -> None:
        """Looks at the next one."""
        self._go_on()
        if (against := self._demand.unsuited(offer)) is None:
            way = self._price(offer)
            if (against := self._against(way)) is None:
                bound = self.reckoning.total_microusd(way.offer)
                insort(self._seen, (bound, offer.offer_id, way), key=_RANK)
                return
        self.refused[against] += 1

    def _against(self, way: Priced) -> str | None:
        """Returns why an offer cannot be taken at its price, in words; None = it can be."""
        if (too_dear := self._demand.too_dear(way.offer)) is not None:
            return too_dear
        rates = self._plausible.get(way.shown.gpu_model)
        if rates is not None and not rates[0] <= way.shown.usd_per_gpu_hour <= rates[1]:
            return IMPLAUSIBLE
        if not self.reckoning.loads_in_time(way.offer):
            return TOO_SLOW
        if not self.reckoning.outlasts(way.offer):
            self.too_short.append(way.offer)
            return TOO_SHORT
        return None

    def choose(self, fuse_microusd: int, *, bound_microusd: int) -> tuple[Candidate, ...]:
        """Returns the trusted offers of least expected cost, best first, of those whose bound is
        within the fuse and whose price is within what is left of the operator's cap by the hour;
        raises CostGateError if there is none.

        Expected cost = the bound of one attempt, with the boot that the offer's line suggests,
        times what interruptions add to it, times the attempts until one succeeds.
        """
        best: list[tuple[float, int, Priced]] = []
        trusted, lowest, most = 0, None, float(fuse_microusd)
        # Nothing is expected to cost less than its bound without the time that is kept for booting.
        share = float(1 - self.reckoning.boot_share_max) * (1 - ROUNDING)
        for place in count():
            if (one := self._at(place, most)) is None:
                break
            _, number, way = one
            offer, trust = way.offer, self._trust(way.offer)
            if not self._is_trusted(offer, trust):
                self.refused[DISTRUSTED] += 1
                continue
            trusted += 1
            if self.reckoning.costs_more(offer, self._left):
                rate = self.reckoning.usd_per_hour(offer)
                lowest = rate if lowest is None else min(lowest, rate)
                self.refused[OVER_CAP] += 1
                continue
            expected = _expected(self.reckoning.likely_microusd(offer), way, trust)
            insort(best, (expected, number, way), key=_RANK)
            if len(best) >= RANKS:
                del best[RANKS:]
                most = min(most, best[-1][0] / share + 2)
        if best:
            return tuple(self._candidate(way) for _, _, way in best)
        fitting = self.within(fuse_microusd)
        if not trusted:
            raise CostGateError(
                Reason.MACHINES_DISTRUSTED,
                f"all {fitting} offers that fit are on machines that failed recently, for "
                f"example: {self.cheapest.against}; waiting for other offers, or until these are "
                "trusted again",
                bound_microusd=bound_microusd,
            )
        assert lowest is not None, "each trusted one costs more than is left"
        leased = float(self._question.leased.usd_per_hour)
        offers = "1 offer that fits" if trusted == 1 else f"{trusted} offers that fit"
        raise CostGateError(
            Reason.LEASE_LIMIT,
            f"{_left_words(self._question)}, because the machines that are leased or asked for "
            f"cost {leased:.4f} $/h, and the lowest price of {offers} the ceiling is "
            f"{float(lowest):.4f} $/h; waiting for a cheaper offer, or until a machine is released",
            bound_microusd=bound_microusd,
        )

    def _candidate(self, way: Priced) -> Candidate:
        offer, question = way.offer, self._question
        trust, against = self._trust(offer), ""
        is_trusted = self._is_trusted(offer, trust)
        if offer.machine_id in question.avoided_machines:
            against = f"an earlier attempt of this job failed on machine {offer.machine_id}"
        elif not is_trusted:
            against = question.hosts.why(offer.machine_id, offer.host_id, question.template.tenant)
        elif self.reckoning.costs_more(offer, self._left):
            rate = f"machine {offer.machine_id} costs {self._usd_per_hour(offer):.4f} $/h"
            against = f"{rate}, and {_left_words(question)}"
        return Candidate(
            offer=offer,
            estimate=self.reckoning.estimate(offer),
            trust=trust,
            is_trusted=is_trusted,
            against=against,
            priced=way,
        )

    def _usd_per_hour(self, offer: Offer) -> float:
        return float(self.reckoning.usd_per_hour(offer))

    def _trust(self, offer: Offer) -> float:
        question = self._question
        whose = question.template.tenant
        return question.hosts.trust(offer.machine_id, offer.host_id, whose, question.now)

    def _is_trusted(self, offer: Offer, trust: float) -> bool:
        return trust >= TRUST_MIN and offer.machine_id not in self._question.avoided_machines


def matching_offers(question: Question, run_seconds: float) -> Candidates:
    """Returns the offers that meet the job's needs at any price, lowest bound first, if its
    workload runs for so long; raises CostGateError if there is none.
    """
    check_quotes(question)
    return candidates_of(question, needs_of(question, run_seconds))


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


def candidates_of(question: Question, needs: Needs) -> Candidates:
    """Returns the offers that meet the needs, lowest bound first; raises CostGateError if there is
    none.
    """
    reckoning = Reckoning(needs, question.limits, others=question.leased.others)
    found = Candidates(question, reckoning)
    if next(iter(found), None) is None:
        raise _nobody(question, found)
    return found


def _nobody(question: Question, found: Candidates) -> CostGateError:
    """Says why no offer of the market can be taken; all were looked at."""
    quotes, cap = question.quotes, question.limits.boot_cap_seconds
    reckoning, refused, short = found.reckoning, found.refused, len(found.too_short)
    slow, odd = refused[TOO_SLOW], refused[IMPLAUSIBLE]
    if short:
        lease = min(reckoning.lease_seconds(offer) for offer in found.too_short)
        return CostGateError(
            Reason.CONTRACT_TOO_SHORT,
            f"the attempt may take {float(lease):.0f} s, but the hosts' contracts of all {short} "
            "matching offers end earlier; wait for other offers, or create the job again with a "
            "shorter activeDeadlineSeconds",
        )
    if slow:
        size = reckoning.needs.boot_download_gb
        return CostGateError(
            Reason.NO_MATCHING_OFFER,
            f"the lines of all {slow} matching offers are too slow: bringing {size} GB within the "
            f"boot cap of {cap:.0f} s takes {size * 8000 / max(cap, 1):.0f} Mbit/s; wait for other "
            "offers, or create the job again with a lower data.maxDownloadGB",
        )
    if odd:
        return CostGateError(
            Reason.IMPLAUSIBLE_QUOTE,
            f"the prices of all {odd} matching offers are so far from the median of their GPU "
            "model that they look wrong; waiting for other offers",
        )
    detail = f": {in_counts(refused)}" if refused else ""
    detail += "".join(f"; {one.doubt}" for one in meant_by(question.spec.gpu) if one.doubt)
    unreadable = f" ({quotes.unreadable} of them malformed)" if quotes.unreadable else ""
    return CostGateError(
        Reason.NO_MATCHING_OFFER if not quotes.unreadable else Reason.INVALID_QUOTE,
        f"none of {len(quotes.offers) + quotes.unreadable} offers{unreadable} meets the job's "
        f"needs{detail}; wait for other offers, or create the job again with lower needs",
    )


def in_counts(refused: Counter[str]) -> str:
    """Says why offers cannot be taken, the most frequent reason first, with how many each is for.

    An offer counts for the first reason that was found.
    """
    most = refused.most_common(REASONS_SHOWN)
    said = [f"{why} ({count})" for why, count in most]
    rest = refused.total() - sum(count for _, count in most)
    return ", ".join([*said, f"other reasons ({rest})"] if rest else said)


def _pricing(question: Question, reckoning: Reckoning) -> Callable[[Offer], Priced]:
    """Returns what says at which price an offer would be taken."""
    spec, limits = question.spec, question.limits
    if spec.market.type != "Interruptible":
        return lambda offer: Priced(offer, offer)
    run, saved = likely_run_seconds(question, reckoning.needs), spec.data.checkpoint
    interval = None if saved is None else saved.interval_seconds

    def at_best_bid(offer: Offer) -> Priced:
        terms = terms_of(offer, reckoning, limits, run_seconds=run, checkpoint=interval)
        most = most_usd_per_hour(question, offer, reckoning)
        return priced(offer, terms, question.outbids, most_usd_per_hour=most)

    return at_best_bid


def likely_run_seconds(question: Question, needs: Needs) -> float:
    """Returns what half of such jobs do not exceed, as far as that is known, else the bound."""
    try:
        whole = seconds_with(question, Fraction(1, 2))
    except CostGateError:
        whole = None
    left = 0.0 if whole is None else whole - question.run_seconds_used
    return min(left, needs.run_seconds) if left > 0 else needs.run_seconds


def most_usd_per_hour(question: Question, offer: Offer, reckoning: Reckoning) -> Fraction:
    """Returns what an offer's GPUs may cost an hour at most, so that the bound of the attempt stays
    within its fuse, and the price with the disk within market.maxUSDPerHour.
    """
    allowed = question.spec.market.max_usd_per_hour
    left = fuse_microusd(question) - reckoning.traffic_microusd(offer)
    most = Fraction(left * 3600, MICRO) / reckoning.lease_seconds(offer)
    if allowed is not None:
        most = min(most, Fraction(floor_usd(allowed), MICRO))
    return most - offer.disk_usd_per_hour(reckoning.needs.disk_gb)


def fuse_microusd(question: Question) -> int:
    """Returns the most that the attempt may cost: what the ceiling leaves, and is reserved."""
    left = floor_usd(question.spec.cost.ceiling) - question.spent_microusd
    reserved = question.reserved_microusd
    return left if reserved is None else min(left, reserved)


def usd_per_hour_left(question: Question) -> Fraction:
    """Returns how much the next machine may cost an hour; not less than nothing."""
    cap = Fraction(floor_usd(question.limits.max_usd_per_hour), MICRO)
    return max(cap - question.leased.usd_per_hour, Fraction(0))


def _left_words(question: Question) -> str:
    left, cap = float(usd_per_hour_left(question)), question.limits.max_usd_per_hour
    return f"{left:.4f} $/h are left of the operator's limits.maxUsdPerHour ({cap} $/h)"


def why_dearer(question: Question, one: Candidate, reckoning: Reckoning, chosen: Candidate) -> str:
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
        seconds = reckoning.loading_seconds(one.offer)
        assert seconds is not None, "an offer without a line is no candidate"
        line = f"machine {one.offer.machine_id} has a line of {float(one.offer.download_mbps):.0f}"
        return f"{line} Mbit/s and may take {float(seconds):.0f} s to load the image and files"
    whose = question.template.tenant
    why = question.hosts.why(one.offer.machine_id, one.offer.host_id, whose)
    return f"{why}, so its trust is only {one.trust:.0%}"


def _plausible_rates(quotes: Quotes, limits: Limits) -> dict[str, tuple[Fraction, Fraction]]:
    """Returns, by model, between which prices that of one GPU for an hour is plausible; models of
    which all prices are need not be looked at.
    """
    rates = {}
    for model, (lowest, middle, highest) in quotes.usd_per_hour.items():
        low, high = (
            Fraction(limits.plausible_low * middle),
            Fraction(limits.plausible_high * middle),
        )
        if lowest < low or high < highest:
            rates[model] = low, high
    return rates
