"""What the gate would decide about a job that nobody has created, and which offers it saw."""

from itertools import islice
from math import ceil

from gpujob.api.estimate import OFFERS_SHOWN, JobEstimate, OfferEstimate
from gpujob.api.gpujob import GpuJobSpec
from gpujob.api.reasons import Reason
from gpujob.core.cost.choice import Candidate, matching_offers
from gpujob.core.cost.confidence import rounded_down
from gpujob.core.cost.gate import Verdict, judge
from gpujob.core.cost.question import CostGateError, Question
from gpujob.core.cost.run_bound import run_bound
from gpujob.core.market.offers import Quotes
from gpujob.core.money import floor_usd, format_usd, micro_up, short_usd
from gpujob.core.observation import Unavailable, World


def forecast(
    world: World, spec: GpuJobSpec, quotes: Quotes | Unavailable, *, namespace: str
) -> JobEstimate:
    """Returns what would be decided now about a new job in a namespace."""
    why = world.not_ready or _unseen(world)
    if isinstance(quotes, Unavailable):
        why = why or quotes
        return _refused(world, spec, why.reason, why.message)
    question = world.question(spec, quotes, namespace=namespace)
    if why is not None:
        return _with_offers(question, _refused(world, spec, why.reason, why.message), None)
    try:
        admission = judge(question)
    except CostGateError as refused:
        told = _refused(world, spec, refused.reason, refused.message)
        return _with_offers(question, told, None)
    told = JobEstimate(
        admitted=True,
        reason=Reason.ADMITTED,
        meaning=Reason.ADMITTED.meaning,
        message=admission.words,
        decided_at=world.now,
        ceiling_usd=spec.cost.ceiling,
        confidence_asked=spec.cost.confidence,
        estimate_usd=format_usd(admission.bound_microusd),
        confidence=rounded_down(admission.confidence),
        confidence_basis=admission.basis,
        money_deadline_seconds=admission.money_deadline_seconds,
    )
    return _with_offers(question, told, admission)


def _unseen(world: World) -> Unavailable | None:
    if world.listings:
        return None
    words = "the provider has not listed the account's machines yet"
    return Unavailable(Reason.PROVIDER_UNAVAILABLE, words)


def _refused(world: World, spec: GpuJobSpec, reason: Reason, message: str) -> JobEstimate:
    return JobEstimate(
        admitted=False,
        reason=reason,
        meaning=reason.meaning,
        message=message,
        decided_at=world.now,
        ceiling_usd=spec.cost.ceiling,
        confidence_asked=spec.cost.confidence,
    )


def _with_offers(question: Question, told: JobEstimate, admission: Verdict | None) -> JobEstimate:
    told = told.model_copy(update={"quoted_at": question.quotes.fetched_at})
    try:
        run = admission.run if admission else run_bound(question)
        found = matching_offers(question, run.seconds)
    except CostGateError:
        # The verdict has this reason already, or one that is checked earlier.
        return told
    passed_over, best = (admission.passed_over, admission.best) if admission else ((), ())
    against = {one.offer.offer_id: one.against for one in passed_over}
    ranks = {one.offer.offer_id: rank for rank, one in enumerate(best, start=1)}
    cheap = list(islice(found, OFFERS_SHOWN))
    plain = [one for one in cheap if one.offer.offer_id not in ranks]
    shown = sorted(
        (*plain[: OFFERS_SHOWN - len(best)], *best),
        key=lambda one: (one.estimate.total_microusd, one.offer.offer_id),
    )
    return told.model_copy(
        update={
            "estimate_usd": told.estimate_usd or format_usd(found.cheapest.estimate.total_microusd),
            "offers_matching": len(found),
            "offers": tuple(
                _offer(
                    question,
                    one,
                    ranks.get(one.offer.offer_id),
                    against.get(one.offer.offer_id, one.against),
                    admitted=admission is not None,
                )
                for one in shown
            ),
        }
    )


def _offer(
    question: Question, one: Candidate, rank: int | None, against: str, *, admitted: bool
) -> OfferEstimate:
    bound = one.estimate.total_microusd
    if bound > floor_usd(question.spec.cost.ceiling):
        against = f"its bound of {short_usd(bound)} is above the ceiling"
    elif not against and not admitted:
        against = "nothing is rented now"
    elif not against and rank != 1:
        against = "another offer is expected to cost less once failures and boot are counted"
    return OfferEstimate(
        gpu=one.offer.gpu,
        location=one.offer.location,
        usd_per_hour=format_usd(micro_up(one.estimate.usd_per_hour)),
        bound_usd=format_usd(bound),
        time_usd=format_usd(one.estimate.time_microusd),
        traffic_usd=format_usd(one.estimate.traffic_microusd),
        expected_usd=format_usd(ceil(one.expected)),
        rank=rank,
        trust=round(one.trust, 3),
        chosen=rank == 1,
        against=against,
    )
