"""What is bid for an interruptible machine, what that rests on, and what a stay teaches."""

from dataclasses import replace
from datetime import timedelta
from fractions import Fraction
from typing import Any

import pytest
from tests.builders import (
    NOW,
    a_node,
    a_spec,
    an_offer,
    at,
    ended,
    marker,
    quotes,
    running,
    stamp,
)
from tests.unit.core.test_gate import question

from gpujob.core.cost.bid import Terms, at_bid, expected_usd, priced
from gpujob.core.cost.choice import candidates_of, needs_of
from gpujob.core.cost.gate import judge
from gpujob.core.cost.question import CostGateError
from gpujob.core.market.offers import Offer
from gpujob.core.market.outbids import PERCENTS, OutbidMemory, Stay, percent_of, with_stay
from gpujob.core.node.release import stay_of

ALL_DAY = Fraction(1000)
TERMS = Terms(
    run_hours=2.0,
    lost_hours=2.0,
    boot_hours=0.1,
    disk_usd_per_hour=0.005,
    boot_traffic_usd=0.02,
    patience_hours=0.5,
)
CHECKPOINTED = replace(TERMS, lost_hours=1 / 6)


def offer(**changes: Any) -> Offer:
    """An offer that costs twice on demand what the lowest bid is."""
    given = {"gpu_usd_per_hour": Fraction("0.4"), "lowest_bid_usd_per_hour": Fraction("0.2")}
    return an_offer(**(given | changes))


def seen(percent: int, *, hours: float, outbids: int, model: str = "RTX 4090") -> OutbidMemory:
    """What is known after one long stay."""
    stay = Stay(
        node_uid="n",
        gpu_model=model,
        percent=percent,
        hours=hours,
        outbids=outbids,
        at=NOW,
    )
    return with_stay(OutbidMemory(), stay)


def asked(market: dict[str, Any], *offers: Offer, **spec: Any) -> Any:
    """The gate's question about an interruptible job."""
    wanted = a_spec(market={"type": "Interruptible", **market}, **spec)
    return question(wanted, quotes=quotes(*offers))


# --- The bid ----------------------------------------------------------------------------------


def test_where_nobody_bids_more_the_lowest_bid_is_made() -> None:
    """To bid more would only cost more."""
    found = priced(offer(), TERMS, seen(100, hours=500, outbids=1), most_usd_per_hour=ALL_DAY)

    assert found.offer.bid_usd_per_hour == found.offer.gpu_usd_per_hour == Fraction("0.2")


def test_where_a_higher_bid_helps_more_is_bid_the_more_an_interruption_loses() -> None:
    """With few lost hours the lowest bid is enough, with many a higher one is worth its price."""
    memory = seen(100, hours=40, outbids=20)
    for percent in (115, 120, 125, 135, 150):
        memory = with_stay(
            memory,
            Stay(node_uid="m", gpu_model="RTX 4090", percent=percent, hours=40, outbids=0, at=NOW),
        )
    bids = [
        priced(offer(), terms, memory, most_usd_per_hour=ALL_DAY).offer.bid_usd_per_hour
        for terms in (replace(TERMS, lost_hours=0.02, boot_hours=0.0), TERMS)
    ]

    assert bids[0] == Fraction("0.2")
    assert bids[1] is not None
    assert bids[1] > Fraction("0.21")


def test_where_no_bid_helps_it_is_rented_on_demand() -> None:
    """Whoever is outbid twice an hour at any price does not finish two hours by bidding."""
    memory = OutbidMemory()
    for percent in PERCENTS:
        memory = with_stay(
            memory,
            Stay(node_uid="m", gpu_model="RTX 4090", percent=percent, hours=20, outbids=40, at=NOW),
        )
    found = priced(offer(), TERMS, memory, most_usd_per_hour=ALL_DAY)

    assert found.offer == offer()
    assert found.times == 1


@pytest.mark.parametrize("most", ["0.2", "0.2101", "0.25", "0.33", "0.5"])
@pytest.mark.parametrize("outbids", [0, 5, 50])
def test_nothing_above_the_cap_is_bid_or_paid(most: str, outbids: int) -> None:
    """However much would be saved by it."""
    memory = seen(100, hours=10, outbids=outbids)

    for terms in (TERMS, CHECKPOINTED):
        found = priced(offer(), terms, memory, most_usd_per_hour=Fraction(most)).offer
        assert Fraction("0.2") <= found.gpu_usd_per_hour <= Fraction(most)
        assert found.bid_usd_per_hour in (None, found.gpu_usd_per_hour)


def test_if_not_even_the_lowest_bid_is_allowed_that_one_is_shown() -> None:
    """The gate refuses it, and says what would fit."""
    found = priced(offer(), TERMS, OutbidMemory(), most_usd_per_hour=Fraction("0.1"))

    assert found.offer == at_bid(offer(), Fraction("0.2"))


def test_nothing_is_bid_that_costs_more_than_the_price_on_demand() -> None:
    """A lowest bid may be above it."""
    dear = offer(lowest_bid_usd_per_hour=Fraction("0.5"))

    assert priced(dear, TERMS, OutbidMemory(), most_usd_per_hour=ALL_DAY).offer == dear


def test_bids_are_rounded_up_to_what_the_provider_takes() -> None:
    """Ten-thousandths of a dollar; a bid below the lowest leaves a stopped machine."""
    lowest = offer(lowest_bid_usd_per_hour=Fraction("0.33333"), gpu_usd_per_hour=Fraction(1))
    memory = seen(100, hours=500, outbids=0)
    found = priced(lowest, TERMS, memory, most_usd_per_hour=ALL_DAY)

    assert found.offer.bid_usd_per_hour == Fraction("0.3334")


def test_an_offer_that_shows_no_lowest_bid_is_taken_on_demand() -> None:
    """Whether one was missing or malformed."""
    plain = offer(lowest_bid_usd_per_hour=None)

    assert priced(plain, TERMS, OutbidMemory(), most_usd_per_hour=ALL_DAY).offer == plain


def test_the_expected_cost_is_that_of_many_jobs() -> None:
    """For a job without checkpoints, the known mean of the time until a Poisson process leaves so
    long a gap; with them it is less, and without interruptions the mere price."""
    alone = expected_usd(TERMS, 0.2, 0.0)
    hours = (2.718281828459045 ** (0.5 * 2.1) - 1) / 0.5
    lost = 0.5 * hours

    assert alone == pytest.approx(0.205 * 2.1 + 0.02)
    assert expected_usd(TERMS, 0.2, 0.5) == pytest.approx(
        0.205 * hours + 0.02 * (1 + lost) + 0.005 * 0.5 * lost
    )
    assert alone < expected_usd(CHECKPOINTED, 0.2, 0.5) < expected_usd(TERMS, 0.2, 0.5)


# --- The gate ---------------------------------------------------------------------------------


@pytest.mark.parametrize("ceiling", ["0.35", "0.45", "0.6", "1", "5"])
@pytest.mark.parametrize("outbids", [0, 4, 40])
def test_whatever_is_bid_the_bound_of_it_fits_the_ceiling(ceiling: str, outbids: int) -> None:
    """The bid is the rate of the bound: a ceiling that only a low bid fits is not refused, nor
    passed by a higher one."""
    lone = replace(
        asked({}, offer(), cost={"ceiling": ceiling}),
        outbids=seen(100, hours=4, outbids=outbids),
    )
    lowest = replace(
        asked({}, at_bid(offer(), Fraction("0.2")), cost={"ceiling": ceiling}).quotes.offers[0],
        lowest_bid_usd_per_hour=None,
    )
    try:
        verdict = judge(lone)
    except CostGateError:
        with pytest.raises(CostGateError):
            judge(asked({}, lowest, cost={"ceiling": ceiling}))
        return

    rate = verdict.offer.gpu_usd_per_hour + verdict.offer.disk_usd_per_hour(20)
    assert verdict.estimate.usd_per_hour == rate
    assert verdict.bound_microusd <= Fraction(ceiling) * 10**6
    assert verdict.offer.bid_usd_per_hour in (None, verdict.offer.gpu_usd_per_hour)


def test_a_low_ceiling_holds_the_bid_down() -> None:
    """Where the market would make us bid more."""
    memory = seen(100, hours=4, outbids=8)
    bids = []
    for ceiling in ("5", "0.42"):
        given = asked({}, offer(), cost={"ceiling": ceiling})
        bids.append(judge(replace(given, outbids=memory)).offer.gpu_usd_per_hour)

    assert bids[1] < bids[0]


def test_the_price_per_hour_that_a_job_allows_holds_for_the_bid_with_its_disk() -> None:
    """And an offer that only more would win is no match."""
    given = asked({"maxUSDPerHour": "0.206"}, offer())
    given = replace(given, outbids=seen(100, hours=4, outbids=8))
    found = candidates_of(given, needs_of(given, 3600))

    assert found.cheapest.estimate.usd_per_hour <= Fraction("0.206")
    with pytest.raises(CostGateError, match=r"market\.maxUSDPerHour"):
        judge(asked({"maxUSDPerHour": "0.2"}, offer()))


def test_a_calm_model_is_preferred_to_a_cheaper_one_that_is_often_lost() -> None:
    """The words say which bid was made, and why the cheaper offer was not taken."""
    calm = offer(offer_id=2, machine_id=2, lowest_bid_usd_per_hour=Fraction("0.21"))
    wild = offer(offer_id=3, machine_id=3, gpu_model="RTX 3090", gpu_usd_per_hour=Fraction("0.6"))
    memory = seen(100, hours=200, outbids=0)
    for percent in PERCENTS:
        memory = with_stay(
            memory,
            Stay(
                node_uid="w", gpu_model="RTX 3090", percent=percent, hours=100, outbids=100, at=NOW
            ),
        )
    models = {"models": ["RTX 4090", "RTX 3090"]}
    verdict = judge(replace(asked({}, calm, wild, gpu=models), outbids=memory))

    assert verdict.offer.offer_id == 2
    assert "0.2100 $/h is bid, 100% of the lowest bid that wins" in verdict.words
    assert "machine 3 is expected to be outbid" in verdict.words


# --- What was seen ----------------------------------------------------------------------------


def test_more_outbids_mean_more_are_expected_and_never_more_at_a_higher_bid() -> None:
    """Of the same model most, of others as well."""
    calm, wild = (seen(100, hours=50, outbids=count) for count in (0, 50))

    for number, _ in enumerate(PERCENTS):
        assert calm.per_hour("RTX 4090")[number] < wild.per_hour("RTX 4090")[number]
    assert OutbidMemory().per_hour("H200")[0] < wild.per_hour("H200")[0]
    assert wild.per_hour("H200")[0] < wild.per_hour("RTX 4090")[0]
    for memory in (OutbidMemory(), calm, wild):
        rates = memory.per_hour("RTX 4090")
        assert list(rates) == sorted(rates, reverse=True)
        assert wild.per_hour("RTX 4090")[0] == pytest.approx(1, abs=0.3)


def test_what_was_seen_fades_and_is_counted_once() -> None:
    """After a week it counts half."""
    first = seen(100, hours=8, outbids=4)
    stay = Stay(
        node_uid="n2",
        gpu_model="RTX 4090",
        percent=100,
        hours=1,
        outbids=0,
        at=NOW + timedelta(days=7),
    )
    later = with_stay(first, stay)

    assert with_stay(later, stay) == later
    record = later.records["RTX 4090", 100]
    assert (record.hours, record.outbids) == pytest.approx((5, 2))


@pytest.mark.parametrize(
    ("ratio", "percent"), [(0.9, 100), (1.0, 100), (1.0199, 100), (1.02, 102), (3.0, 200)]
)
def test_a_bid_counts_as_the_step_that_it_reaches(ratio: float, percent: int) -> None:
    """Rounded down, so that no outbid is laid to a higher bid than was made."""
    assert percent_of(ratio) == percent


BID = {"bidUSDPerHour": "0.210000", "lowestBidUSDPerHour": "0.200000"}


def test_a_stay_is_the_time_that_the_machine_was_ours_without_its_pauses() -> None:
    """And restarts of its container are nobody's bids."""
    status = ended(running(-7200, -7000)) | {"rent": marker(-7200, gpu="2x RTX 4090", **BID)}
    status |= {
        "interruptions": {"count": 3, "restarts": 1, "resumedAt": stamp(-100)},
        "pauses": {"asOf": stamp(-10), "seconds": 1800, "costUSD": "0.000000"},
    }
    node = a_node(status)
    stay = stay_of(node)

    assert stay is not None
    assert node.status.end is not None
    ours = (node.status.end.at - at(-7200)).total_seconds() - 1800
    assert (stay.gpu_model, stay.percent, stay.outbids) == ("RTX 4090", 105, 2)
    assert stay.hours == pytest.approx(ours / 3600)


def test_who_is_outbid_while_booting_or_for_a_moment_was_outbid_once_more() -> None:
    """Neither is an interruption of a run; a machine that does not come back was counted."""
    outbid = ended(running(-7200, -7000)) | {"rent": marker(-7200, **BID)}
    outbid["end"] = outbid["end"] | {"reason": "Outbid"}
    paused = outbid | {"interruptions": {"count": 1, "pausedAt": stamp(-1000)}}
    counts = [stay.outbids for one in (outbid, paused) if (stay := stay_of(a_node(one)))]

    assert counts == [1, 1]


def test_a_machine_on_demand_teaches_nothing_of_bids() -> None:
    """Nor one of which nobody knows what the lowest bid was."""
    plain = ended(running(-7200, -7000))
    unknown = plain | {"rent": marker(-7200, bidUSDPerHour="0.210000")}

    assert stay_of(a_node(plain)) is None
    assert stay_of(a_node(unknown)) is None
