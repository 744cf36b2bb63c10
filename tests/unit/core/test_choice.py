"""The gate looks at as few offers as it can: that changes nothing of what it decides."""

from dataclasses import dataclass, replace
from datetime import timedelta
from fractions import Fraction
from math import ceil
from random import Random
from statistics import median
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.builders import NOW, a_spec, an_offer, quotes
from tests.unit.core.test_gate import question

from gpujob.api.estimate import RANKS
from gpujob.api.reasons import Reason
from gpujob.core.cost.bid import Priced, priced, terms_of
from gpujob.core.cost.choice import (
    DISTRUSTED,
    TOO_SLOW,
    Candidates,
    fuse_microusd,
    likely_run_seconds,
    most_usd_per_hour,
    needs_of,
    usd_per_hour_left,
)
from gpujob.core.cost.estimate import Needs, Reckoning, estimate
from gpujob.core.cost.gate import judge
from gpujob.core.cost.leased import Leased
from gpujob.core.cost.question import CostGateError, Question
from gpujob.core.limits import Limits
from gpujob.core.market.hosts import TRUST_MIN, HostMemory, Trial, remembered
from gpujob.core.market.offers import Demand, Offer
from gpujob.core.market.outbids import PERCENTS, OutbidMemory, Stay, with_stay
from gpujob.core.money import MICRO, short_usd

RUN = 3600


def a_market(chance: Random, count: int) -> list[Offer]:
    """Offers of all kinds: odd prices, equal ones, slow lines, short contracts, other models."""

    def between(low: float, high: float) -> Fraction:
        return Fraction(f"{chance.uniform(low, high):.4f}")

    found = []
    for number in range(count):
        price = chance.choice([between(0.1, 1), between(0.1, 1), Fraction(2, 5), between(0.001, 9)])
        found.append(
            an_offer(
                offer_id=number,
                machine_id=chance.randint(1, 40),
                host_id=chance.randint(1, 10),
                gpu_model=chance.choice(["RTX 4090", "RTX 4090", "RTX 3090", "H100 SXM"]),
                gpu_count=chance.choice([1, 1, 1, 2]),
                gpu_usd_per_hour=price,
                lowest_bid_usd_per_hour=chance.choice([None, price / 2, price * between(0.5, 1.2)]),
                reliability=chance.choice([Fraction(99, 100), between(0.95, 1)]),
                storage_usd_per_gb_month=between(0, 0.5),
                download_usd_per_gb=chance.choice([Fraction(0), between(0, 0.02)]),
                upload_usd_per_gb=chance.choice([Fraction(0), between(0, 0.02)]),
                download_mbps=chance.choice([between(0, 400), between(200, 9000)]),
                upload_mbps=chance.choice([Fraction(0), between(1, 900)]),
                contract_seconds=chance.choice([Fraction(10**7), Fraction(10**7), Fraction(4000)]),
            )
        )
    return found


def a_question(seed: int, market: str) -> Question:
    """A job in such a market, with machines that failed, and little left of the cap by the hour."""
    chance = Random(seed)
    hosts, outbids = HostMemory(), OutbidMemory()
    for number in range(chance.choice([0, 10, 60])):
        trial = Trial(
            machine_id=chance.randint(1, 40),
            host_id=chance.randint(1, 10),
            namespace=chance.choice(["team-a", "team-b"]),
            node_uid=str(number),
            at=NOW - timedelta(hours=chance.randint(0, 99)),
            failed=chance.random() < 0.6,
            reason=Reason.HOST_LOST,
        )
        hosts = remembered(hosts, trial)
    for number in range(chance.choice([0, 4])):
        stay = Stay(
            node_uid=str(number),
            gpu_model="RTX 4090",
            percent=chance.choice(PERCENTS),
            hours=chance.uniform(1, 50),
            outbids=chance.randint(0, 50),
            at=NOW,
        )
        outbids = with_stay(outbids, stay)
    data: dict[str, Any] = {"maxDownloadGB": chance.choice([0, 5, 20]), "maxUploadGB": 2}
    if chance.random() < 0.4:
        data["outputs"] = [{"claimName": "results", "path": "out"}]
    spec = a_spec(
        market={"type": market, "maxUSDPerHour": chance.choice([None, "0.45"])},
        gpu={"models": chance.choice([["RTX 4090"], ["RTX 4090", "RTX 3090"]]), "count": 1},
        cost={"ceiling": chance.choice(["0.3", "0.6", "1.2", "9"])},
        data=data,
    )
    left = chance.choice([Fraction(1), Fraction("49.6")])
    return question(
        spec,
        quotes=quotes(*a_market(chance, chance.choice([1, 4, 15, 60]))),
        hosts=hosts,
        outbids=outbids,
        avoided_machines=frozenset(chance.sample(range(1, 40), 3)),
        leased=Leased(machines=1, usd_per_hour=left, others=chance.choice([0, 30])),
        reserved_microusd=chance.choice([None, 500_000]),
    )


@dataclass(frozen=True)
class Judged:
    """One offer that could be taken."""

    offer: Offer
    total: int
    expected: float
    is_trusted: bool
    is_within_cap: bool


def each_judged(asked: Question, needs: Needs) -> list[Judged]:
    """Judges every offer of the market in full."""
    others, limits, hosts = asked.leased.others, asked.limits, asked.hosts
    rates = [(one.gpu_model, one.gpu_usd_per_hour / one.gpu_count) for one in asked.quotes.offers]
    found = []
    for shown in asked.quotes.offers:
        way = at_its_price(asked, shown, needs)
        offer, bound = way.offer, estimate(way.offer, needs, limits, others=others)
        middle = median(rate for model, rate in rates if model == shown.gpu_model)
        loading = needs.boot_download_gb and (
            needs.boot_download_gb * 8000 / shown.download_mbps
            if shown.download_mbps
            else limits.boot_cap_seconds + 1
        )
        if (
            Demand(asked.spec).mismatch(offer) is not None
            or not 0.2 * middle <= shown.gpu_usd_per_hour / shown.gpu_count <= 5.0 * middle
            or loading > limits.boot_cap_seconds
            or offer.contract_seconds < bound.lease_seconds
        ):
            continue
        trust = hosts.trust(offer.machine_id, offer.host_id, asked.template.tenant, asked.now)
        found.append(
            Judged(
                offer=offer,
                total=bound.total_microusd,
                expected=bound.likely_microusd * way.times / trust,
                is_trusted=trust >= TRUST_MIN and offer.machine_id not in asked.avoided_machines,
                is_within_cap=bound.usd_per_hour <= usd_per_hour_left(asked),
            )
        )
    return found


def at_its_price(asked: Question, offer: Offer, needs: Needs) -> Priced:
    if asked.spec.market.type == "OnDemand":
        return Priced(offer, offer)
    reckoning = Reckoning(needs, asked.limits, others=asked.leased.others)
    run = likely_run_seconds(asked, needs)
    terms = terms_of(offer, reckoning, asked.limits, run_seconds=run, checkpoint=None)
    most = most_usd_per_hour(asked, offer, reckoning)
    return priced(offer, terms, asked.outbids, most_usd_per_hour=most)


@pytest.mark.parametrize("market", ["OnDemand", "Interruptible"])
@pytest.mark.parametrize("seed", range(150))
def test_it_decides_as_if_it_had_judged_every_offer(market: str, seed: int) -> None:
    """The same offer, bound and reason; and it says truly how many would have cost less at most."""
    asked = a_question(seed, market)
    each = each_judged(asked, needs_of(asked, RUN))
    fitting = [one for one in each if one.total <= fuse_microusd(asked)]
    trusted = [one for one in fitting if one.is_trusted]
    taken = [one for one in trusted if one.is_within_cap]
    if not taken:
        with pytest.raises(CostGateError) as refused:
            judge(asked)
        assert refused.value.bound_microusd == min((one.total for one in each), default=None)
        if fitting:
            said = Reason.LEASE_LIMIT if trusted else Reason.MACHINES_DISTRUSTED
            assert refused.value.reason is said
            assert f"{len(trusted or fitting)} offer" in refused.value.message
        elif each:
            assert refused.value.reason is Reason.CEILING_EXCEEDED
        return
    verdict = judge(asked)

    ranked = sorted(taken, key=lambda one: (one.expected, one.offer.offer_id))
    best = ranked[0]
    assert verdict.offer == best.offer
    assert [one.offer for one in verdict.best] == [one.offer for one in ranked[:RANKS]]
    assert [one.expected for one in verdict.best] == [one.expected for one in ranked[:RANKS]]
    assert verdict.bound_microusd == best.total
    assert verdict.cheaper == sum(one.total < best.total for one in fitting)


@pytest.mark.parametrize("seed", range(40))
def test_offers_come_by_their_bounds_however_they_are_asked_for(seed: int) -> None:
    """And each comes once, though it is looked at late."""
    asked = a_question(seed, "Interruptible")
    needs = needs_of(asked, RUN)
    reckoning = Reckoning(needs, asked.limits, others=asked.leased.others)
    ranked = sorted((one.total, one.offer.offer_id) for one in each_judged(asked, needs))
    found = Candidates(asked, reckoning)
    totals = [total for total, _ in ranked]

    for limit in sorted(totals[::3]):
        assert found.within(limit) == sum(total <= limit for total in totals)
    assert [(one.estimate.total_microusd, one.offer.offer_id) for one in found] == ranked
    assert len(found) == len(ranked)


def test_the_words_name_the_five_best_and_count_the_others() -> None:
    """With what was spent before; and each offer of the market is told of once."""
    good = [
        an_offer(
            offer_id=number,
            machine_id=number,
            location=f"Place {number}, FR",
            gpu_usd_per_hour=Fraction(400 + number, 1000),
        )
        for number in range(1, 9)
    ]
    small = an_offer(offer_id=20, gpu_usd_per_hour=Fraction("0.3"), disk_gb=Fraction(1))
    slow = an_offer(offer_id=21, gpu_usd_per_hour=Fraction("0.3"), download_mbps=Fraction(1))
    hosts = HostMemory()
    for number in range(9):
        trial = Trial(
            machine_id=1,
            host_id=10,
            namespace="team-a",
            node_uid=str(number),
            at=NOW,
            failed=True,
            reason=Reason.HOST_LOST,
        )
        hosts = remembered(hosts, trial)
    there = quotes(*(replace(one, host_id=one.offer_id) for one in good), small, slow)
    asked = question(quotes=there, hosts=hosts, spent_microusd=100_000)
    verdict = judge(asked)

    expected = [short_usd(100_000 + ceil(one.expected)) for one in verdict.best]
    assert [one.offer.offer_id for one in verdict.best] == [2, 3, 4, 5, 6]
    assert verdict.refused == {
        "it has less free disk than resources.diskGB": 1,
        TOO_SLOW: 1,
        DISTRUSTED: 1,
    }
    assert "the other 2 of 10 offers are expected to cost more" in verdict.words
    assert f"expected to cost {expected[0]}, with" in verdict.words
    for usd, number in zip(expected[1:], (3, 4, 5, 6), strict=True):
        assert f"{usd} on 1x RTX 4090 in Place {number}, FR" in verdict.words
    assert "its machine or host failed recently (1)" in verdict.words


PRICE = st.decimals("0", "20", places=6).map(Fraction)
LINE = st.decimals("0", "20000", places=2).map(Fraction)


@given(
    gpu=PRICE,
    disk=PRICE,
    traffic=st.tuples(PRICE, PRICE),
    line=st.tuples(LINE, LINE),
    run=st.integers(0, 10**9),
    caps=st.tuples(st.integers(0, 300), st.integers(0, 300)),
    copies=st.booleans(),
    others=st.integers(0, 99),
)
def test_whole_numbers_give_what_fractions_give(
    gpu: Fraction,
    disk: Fraction,
    traffic: tuple[Fraction, Fraction],
    line: tuple[Fraction, Fraction],
    run: int,
    caps: tuple[int, int],
    copies: bool,
    others: int,
) -> None:
    """To the micro-dollar, rounded up; a run has whole milliseconds."""
    limits, (down_gb, up_gb), (down, up) = Limits(), caps, line
    needs = Needs(
        disk_gb=20,
        max_download_gb=down_gb,
        max_upload_gb=up_gb,
        run_seconds=run / 1000,
        drain_seconds=30,
        delivered_gb=up_gb if copies else 0,
    )
    offer = an_offer(
        gpu_usd_per_hour=gpu,
        storage_usd_per_gb_month=disk,
        download_usd_per_gb=traffic[0],
        upload_usd_per_gb=traffic[1],
        download_mbps=down,
        upload_mbps=up,
    )
    lag = Fraction(limits.destroy_lag_seconds(others))
    blind = lag + Fraction(limits.fullest_listing_seconds(others))
    copying = Fraction(ceil(needs.delivered_gb * 8_000_000 / (up or 1)), 1000)
    lease = Fraction(run, 1000) + 1200 + lag + 30 + copying
    hourly = gpu + disk * 20 / 720
    carried = down_gb + down * blind / 8000, up_gb + up * blind / 8000
    found = estimate(offer, needs, limits, others=others)

    assert found.usd_per_hour == hourly
    assert found.lease_seconds == lease
    assert found.time_microusd == ceil(hourly * lease / 3600 * MICRO)
    assert found.traffic_microusd == ceil(
        (carried[0] * traffic[0] + carried[1] * traffic[1]) * MICRO
    )


def test_what_cannot_win_is_not_looked_at() -> None:
    """Of the lines of machines that cost thrice as much by the hour nothing is said."""
    good = [an_offer(offer_id=number, machine_id=number) for number in range(1, 7)]
    dear = [
        an_offer(
            offer_id=number,
            machine_id=number,
            gpu_usd_per_hour=Fraction(1400 + number, 1000),
            download_mbps=Fraction(1),
        )
        for number in range(7, 500)
    ]
    verdict = judge(question(quotes=quotes(*dear, *good)))

    assert verdict.offer == good[0]
    assert verdict.refused[TOO_SLOW] < 20


def test_a_fast_line_wins_behind_many_slow_ones_of_lower_bound() -> None:
    """All could boot in time; it boots at once, for which its bound says nothing."""
    slow = [
        an_offer(offer_id=number, machine_id=number, download_mbps=Fraction(70))
        for number in range(1, 9)
    ]
    fast = an_offer(
        offer_id=9,
        gpu_usd_per_hour=Fraction("0.48"),
        download_mbps=Fraction(9000),
        download_usd_per_gb=Fraction(0),
    )
    verdict = judge(question(quotes=quotes(*slow, fast)))

    assert verdict.offer == fast
    assert verdict.cheaper == len(slow)


def test_a_job_that_nothing_loads_and_nobody_knows_is_refused_not_failed() -> None:
    """What a bid makes of a cost of nothing is nothing."""
    spec = a_spec(market={"type": "Interruptible"}, data={"maxDownloadGB": 0, "maxUploadGB": 0})
    del spec["activeDeadlineSeconds"]
    there = quotes(an_offer(lowest_bid_usd_per_hour=Fraction("0.2")))

    with pytest.raises(CostGateError) as refused:
        judge(question(spec, quotes=there))
    assert refused.value.reason is Reason.INSUFFICIENT_HISTORY
