"""What a job would cost: the gate's own word, with what it saw."""

from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.builders import (
    CLUSTER,
    NOW,
    a_job,
    a_lease,
    a_listing,
    a_spec,
    a_world,
    an_offer,
    at,
    job_observation,
    quotes,
)

from gpujob.api.estimate import OFFERS_SHOWN
from gpujob.api.gpujob import GpuJobSpec
from gpujob.api.reasons import Reason
from gpujob.core.cost.confidence import DestroyRecord, rounded_down
from gpujob.core.cost.experience import Experience, Outcome
from gpujob.core.cost.forecast import forecast
from gpujob.core.cost.gate import judge
from gpujob.core.cost.template import template_of
from gpujob.core.job.plan import plan_job
from gpujob.core.limits import Limits
from gpujob.core.market.hosts import Trial, remembered
from gpujob.core.market.offers import Offer, Quotes
from gpujob.core.observation import Unavailable, World

OTHERS = {"label": f"{CLUSTER}/node/job", "env_mark": f"{CLUSTER}/node/job"}
"""Machines of another job."""


def spec(**changes: Any) -> GpuJobSpec:
    return GpuJobSpec.model_validate(a_spec(**changes))


def offers_at(*usd_per_hour: str) -> list[Offer]:
    """Alike but for their price."""
    return [
        an_offer(offer_id=number, machine_id=number, gpu_usd_per_hour=Fraction(price))
        for number, price in enumerate(usd_per_hour, start=1)
    ]


def test_what_is_admitted_is_told_with_its_offers() -> None:
    """The lowest bound first, and for each that is not taken why not."""
    told = forecast(a_world(), spec(), quotes(*offers_at("0.5", "0.4", "0.9")), namespace="team-a")

    assert told.admitted
    assert told.reason == Reason.ADMITTED
    assert [(one.usd_per_hour, one.chosen) for one in told.offers] == [
        ("0.405000", True),
        ("0.505000", False),
        ("0.905000", False),
    ]
    taken, *dearer = told.offers
    assert told.estimate_usd == taken.bound_usd
    assert taken.against == ""
    assert {one.against for one in dearer} == {
        "another offer is expected to cost less once failures and boot are counted"
    }
    assert (told.offers_matching, told.quoted_at) == (3, at(0))


def test_what_is_refused_is_told_with_what_there_is() -> None:
    """Each offer says why it is none; nothing is hidden because the answer is no."""
    told = forecast(
        a_world(),
        spec(cost={"ceiling": "0.40"}),
        quotes(*offers_at("0.4", "0.3")),
        namespace="team-a",
    )

    assert not told.admitted
    assert told.reason == Reason.CEILING_EXCEEDED
    assert "would fit" in told.message
    assert told.confidence is None
    assert told.money_deadline_seconds is None
    assert told.estimate_usd == told.offers[0].bound_usd
    assert [one.chosen for one in told.offers] == [False, False]
    assert all("above the ceiling" in one.against for one in told.offers)


@pytest.mark.parametrize(
    ("reason", "world", "found"),
    [
        pytest.param(
            Reason.CREDIT_EXHAUSTED,
            a_world(not_ready=Unavailable(Reason.CREDIT_EXHAUSTED, "no credit")),
            quotes(),
            id="not ready",
        ),
        pytest.param(
            Reason.CREDIT_EXHAUSTED,
            a_world(not_ready=Unavailable(Reason.CREDIT_EXHAUSTED, "no credit")),
            Unavailable(Reason.PROVIDER_UNAVAILABLE, "no answer"),
            id="not ready and no prices",
        ),
        pytest.param(
            Reason.PROVIDER_UNAVAILABLE,
            a_world(),
            Unavailable(Reason.PROVIDER_UNAVAILABLE, "no answer"),
            id="no prices",
        ),
        pytest.param(
            Reason.PROVIDER_UNAVAILABLE, a_world(nothing_listed=True), quotes(), id="nothing listed"
        ),
        pytest.param(
            Reason.STALE_QUOTE, a_world(), quotes(fetched_at=at(-3600)), id="stale prices"
        ),
        pytest.param(
            Reason.CONFIDENCE_TOO_LOW,
            a_world(destroys=tuple(DestroyRecord(str(n), at(0), True) for n in range(50))),
            quotes(),
            id="late destroys",
        ),
        pytest.param(
            Reason.LEASE_LIMIT,
            a_world(a_listing(*(a_lease(instance_id=one, **OTHERS) for one in range(20)))),
            quotes(),
            id="as many machines as may be",
        ),
        pytest.param(
            Reason.LEASE_LIMIT,
            a_world(a_listing(a_lease(**OTHERS)), limits=Limits(max_usd_per_hour="0.80")),
            quotes(),
            id="as dear as may be",
        ),
    ],
)
def test_it_fails_closed(reason: Reason, world: World, found: Quotes | Unavailable) -> None:
    """Whatever is unknown is a no, with the reason that the job itself would get."""
    told = forecast(world, spec(), found, namespace="team-a")

    assert (told.admitted, told.reason) == (False, reason)
    assert told.message
    assert not any(one.chosen for one in told.offers)
    observed = job_observation(world=world, quotes=found)
    assert plan_job(observed).reason is reason


def test_a_long_market_is_cut_but_what_would_be_rented_is_shown() -> None:
    """The cheapest are distrusted: the one that is taken stands at the end."""
    cheap = offers_at(*["0.4"] * 40)
    last = replace(cheap[-1], offer_id=99, machine_id=99, gpu_usd_per_hour=Fraction("0.45"))
    world = a_world()
    failing = world.hosts
    for number in range(3):
        for one in cheap:
            trial = Trial(
                machine_id=one.machine_id,
                host_id=one.host_id,
                namespace="team-a",
                node_uid=f"n-{number}",
                at=at(0),
                failed=True,
                reason=Reason.HOST_LOST,
            )
            failing = remembered(failing, trial)
    told = forecast(
        replace(world, hosts=failing),
        spec(),
        quotes(*cheap, replace(last, host_id=5)),
        namespace="team-a",
    )

    assert len(told.offers) == OFFERS_SHOWN
    assert told.offers_matching == 41
    assert [one.chosen for one in told.offers] == [False] * (OFFERS_SHOWN - 1) + [True]


def test_the_five_best_are_ranked_among_those_with_the_lowest_bounds() -> None:
    """Whoever reads the answer sees what the job is expected to cost on each."""
    many = offers_at(*(f"0.4{number:02}" for number in range(30)))
    fast = [
        replace(
            one,
            offer_id=100 + number,
            gpu_usd_per_hour=Fraction(440 + number, 1000),
            download_mbps=Fraction(2000),
            download_usd_per_gb=Fraction(0),
        )
        for number, one in enumerate(many[:6])
    ]
    slow = [replace(one, download_mbps=Fraction(70)) for one in many]
    told = forecast(a_world(), spec(), quotes(*slow, *fast), namespace="team-a")

    ranked = {one.rank: one for one in told.offers if one.rank is not None}
    costs = [float(ranked[rank].expected_usd) for rank in range(1, 6)]
    assert len(told.offers) == OFFERS_SHOWN
    assert costs == sorted(costs)
    assert ranked[1].chosen
    assert [ranked[rank].usd_per_hour for rank in range(1, 6)] == [
        f"0.44{5 + number}000" for number in range(5)
    ]
    assert costs[-1] < min(float(one.expected_usd) for one in told.offers if one.rank is None)
    refused = forecast(a_world(), spec(cost={"ceiling": "0.1"}), quotes(), namespace="team-a")
    assert [one.rank for one in refused.offers] == [None]


PRICES = st.lists(
    st.decimals("0.2", "0.9", places=3).map(str), min_size=1, max_size=OFFERS_SHOWN + 5
)


@given(prices=PRICES, ceiling=st.decimals("0.20", "2.00", places=2).map(str))
def test_it_says_what_the_gate_does_to_the_job(prices: list[str], ceiling: str) -> None:
    """The same yes or no, reason and bound as the job's own pass; one offer at most is chosen."""
    found = quotes(*offers_at(*prices))
    job = a_job(spec=a_spec(cost={"ceiling": ceiling}))
    world = a_world(a_listing())
    plan = plan_job(job_observation(job=job, world=world, quotes=found))

    told = forecast(world, job.spec, found, namespace="team-a")

    assert told.reason == plan.reason
    assert told.message == plan.message.removeprefix("CostGateError: ")
    assert told.admitted is (plan.reason is Reason.ADMITTED)
    assert told.estimate_usd == plan.status.cost.estimate_usd
    assert told.confidence == plan.status.cost.confidence
    assert sum(one.chosen for one in told.offers) == told.admitted
    bounds = [float(one.bound_usd) for one in told.offers[:-1]]
    assert bounds == sorted(bounds)
    assert all(one.against for one in told.offers if not one.chosen)


def test_an_estimate_without_a_deadline_tells_what_the_gate_would_say() -> None:
    """The same bound, confidence and basis; and in another namespace, that it would wait."""
    asked = spec(activeDeadlineSeconds=None)
    template, known = template_of("team-a", asked), Experience()
    for number in range(25):
        began = NOW.timestamp() - 1000 * (25 - number)
        known.began(str(number), template, began)
        known.ended(str(number), 600 + number, Outcome.ENDED, began + 900)
    world, found = a_world(runs=known), quotes(*offers_at("0.5", "0.4"))

    told = forecast(world, asked, found, namespace="team-a")
    verdict = judge(world.question(asked, found, namespace="team-a"))
    assert told.admitted
    assert told.estimate_usd == f"{verdict.bound_microusd / 10**6:.6f}"
    assert told.confidence == rounded_down(verdict.confidence)
    assert told.confidence_basis == verdict.basis
    assert "25 runs of its template" in told.confidence_basis
    (chosen,) = (one for one in told.offers if one.chosen)
    assert chosen.bound_usd == told.estimate_usd
    there = forecast(world, asked, found, namespace="team-b")
    assert (there.admitted, there.reason) == (False, "InsufficientHistory")
