"""The market in which strangers act, at the rates that were fitted."""

import math
from collections import Counter
from fractions import Fraction

import pytest

from vastsim.living import AVAILABLE_SHARE, PRICE_SPREAD, LivingMarket
from vastsim.market import Ask, Lease, RefusedError, Timing
from vastsim.offers import Facts, read_market
from vastsim.wire import instance_row, offer_row

CAPTURED = read_market()
NOW = 1_800_000_000.0
HOUR = 3600.0


def living(offers: int = 300, seed: int = 1) -> LivingMarket:
    """A market that has begun to live."""
    market = LivingMarket(CAPTURED, offers, seed, Timing())
    market.live(NOW)
    return market


def ask(bid: str | None = None) -> Ask:
    """A request for a small disk."""
    usd = None if bid is None else Fraction(bid)
    return Ask("x", 1, "l", {}, None, "ssh", bid_usd_per_hour=usd)


def rent(market: LivingMarket, offer: int, bid: str | None = None) -> Lease:
    """Rents an offer now."""
    return market.rent(offer, ask(bid), NOW)


def whole_machine(market: LivingMarket) -> list[int]:
    """Returns the offers of a machine that is offered in at least three ways, smallest first."""
    machines: dict[int, list[int]] = {}
    for number, facts in market.offers.items():
        machines.setdefault(facts.machine_id, []).append(number)
    return next(
        sorted(one, key=lambda number: market.offers[number].gpu_frac)
        for one in machines.values()
        if len(one) >= 3 and max(market.offers[number].gpu_frac for number in one) == 1
    )


def ways(market: LivingMarket, machine: int) -> dict[float, int]:
    """Returns the offers of a machine by their share of it."""
    offers = market.offers.items()
    return {facts.gpu_frac: number for number, facts in offers if facts.machine_id == machine}


@pytest.mark.parametrize("offers", [300, 5000])
def test_it_opens_with_as_many_offers_as_asked_for_like_the_captured_ones(offers: int) -> None:
    """Or a few more; the same from the same seed, and others from another."""
    market = living(offers)

    assert offers <= len(market.offers) < offers + 8
    assert market.offers == living(offers).offers != living(offers, seed=2).offers
    sorts = {(one.gpu_name, one.num_gpus, one.disk_space) for one in CAPTURED}
    assert {(one.gpu_name, one.num_gpus, one.disk_space) for one in market.facts} <= sorts
    hosts = {one.host_id for one in market.facts}
    assert 1.5 < len({one.machine_id for one in market.facts}) / len(hosts) < 4


def test_strangers_do_the_same_whatever_clients_do_and_however_often_time_is_told() -> None:
    """So a run can be repeated from its seed."""
    alone, watched = living(), living()
    first = next(iter(watched.offers))
    lease = rent(watched, first)
    for tick in range(1000):
        watched.live(NOW + 100 * HOUR * tick / 1000)
    watched.enter(lease.number, "destroyed", NOW + 100 * HOUR)
    for market in (alone, watched):
        market.live(NOW + 100 * HOUR)

    def shown(market: LivingMarket) -> Counter[Facts]:
        return Counter(market.offers.values())

    assert shown(alone) == shown(watched)


def test_offers_come_and_go_at_the_fitted_rates() -> None:
    """Of 5,000 some 6 % are gone after 4 hours, half after two days; their number holds."""
    market = living(5000)
    first = set(market.offers)
    stayed = {}
    for hours in (4, 48):
        market.live(NOW + hours * HOUR)
        stayed[hours] = len(first & set(market.offers)) / len(first)
        assert abs(len(market.offers) / len(market.facts) - AVAILABLE_SHARE) < 0.03
    assert 0.92 < stayed[4] < 0.97
    assert 0.45 < stayed[48] < 0.56


def test_prices_and_bids_change_at_the_fitted_rates_and_do_not_drift() -> None:
    """An offer keeps its number when its price changes."""
    market = living(5000)
    before = dict(market.offers)
    market.live(NOW + HOUR)
    kept = [(before[one], market.offers[one]) for one in before if one in market.offers]
    priced = sum(old.dph_base != new.dph_base for old, new in kept) / len(kept)
    bids = sum(old.min_bid != new.min_bid for old, new in kept) / len(kept)
    assert 0.01 < priced < 0.027
    assert 0.016 < bids < 0.035

    captured = {(one.dlperf, one.num_gpus, one.disk_space): one for one in CAPTURED}
    for hours in (0, 100):
        market.live(NOW + hours * HOUR)
        moved = [
            math.log(float(one.dph_base) / float(captured[key].dph_base))
            for one in market.offers.values()
            if (key := (one.dlperf, one.num_gpus, one.disk_space)) in captured
        ]
        assert abs(sum(moved) / len(moved)) < 0.02
        assert sum(map(abs, moved)) / len(moved) == pytest.approx(PRICE_SPREAD, rel=0.2)


def test_an_offer_that_somebody_took_away_is_not_given_back_by_a_new_price() -> None:
    """As a fault does it: what is gone is gone."""
    market = living()
    gone = list(market.offers)
    for number in gone:
        del market.offers[number]
    market.live(NOW + 100 * HOUR)
    assert market.offers
    assert not set(gone) & set(market.offers)


def test_siblings_vanish_with_a_rent_and_come_back_under_new_numbers() -> None:
    """What no more fits on the machine is not offered until it is released."""
    market = living()
    smallest, *_ = siblings = whole_machine(market)
    machine = market.offers[smallest].machine_id
    every = ways(market, machine)

    lease = rent(market, smallest)
    left = ways(market, machine)

    assert not set(siblings) & set(market.offers)
    assert set(left) == {share for share in every if share + lease.facts.gpu_frac <= 1}
    for number in siblings:
        with pytest.raises(RefusedError, match="no_such_ask"):
            rent(market, number)

    market.enter(lease.number, "destroyed", NOW)
    back = ways(market, machine)
    assert set(back) == set(every)
    assert not set(back.values()) & {*every.values(), *left.values()}


def test_a_machine_rented_whole_is_not_offered_at_all() -> None:
    """Not in any part, until strangers and we have left it."""
    market = living()
    *_, whole = whole_machine(market)
    machine = market.offers[whole].machine_id
    lease = rent(market, whole)
    for hours in range(0, 400, 10):
        market.live(NOW + hours * HOUR)
        assert ways(market, machine) == {}
    market.enter(lease.number, "destroyed", NOW)
    for hours in range(400, 2000, 10):
        market.live(NOW + hours * HOUR)
        if ways(market, machine):
            return
    raise AssertionError("it is never offered again")


def test_a_bid_is_outbid_when_the_lowest_one_rises_and_resumes_when_it_falls() -> None:
    """The lowest one is shown in its row; a high bid is never outbid."""
    market = living()
    low, high = [one for one, facts in market.offers.items() if facts.gpu_frac == 1][:2]
    high_lease = rent(market, high, "100")
    lease = rent(market, low, market.offers[low].min_bid)
    bid = lease.ask.bid_usd_per_hour
    assert bid is not None
    market.enter(lease.number, "running", NOW)
    turns = []
    for hours in range(3000):
        now = NOW + hours * HOUR
        market.live(now)
        for one in market.outbids(now):
            turns.append("outbid")
            assert Fraction(market.outbid(one.number, now).facts.min_bid) > bid
        for one in market.resuming(now):
            turns.append("resumes")
            assert one.number == lease.number
            assert Fraction(market.resume(one.number, now).facts.min_bid) <= bid
    assert len(turns) > 10
    assert turns[::2] == ["outbid"] * len(turns[::2])
    assert turns[1::2] == ["resumes"] * len(turns[1::2])
    assert not market.leases[high_lease.number].is_outbid


def test_a_bid_that_was_too_low_wins_when_the_lowest_one_falls_below_it() -> None:
    """The machine that was left behind starts by itself, and bills."""
    market = living()
    offer = next(one for one, facts in market.offers.items() if facts.gpu_frac == 1)
    bid = str(float(market.offers[offer].min_bid) * 0.99)
    with pytest.raises(RefusedError) as refused:
        rent(market, offer, bid)
    assert refused.value.body["new_contract"] == 36_000_001
    for hours in range(3000):
        market.live(NOW + hours * HOUR)
        if market.resuming(NOW + hours * HOUR):
            return
    raise AssertionError("it never wins")


def test_hosts_have_a_quality_that_nobody_is_told() -> None:
    """Some are slow, some fail; it is the same for all machines of a host, from the seed."""
    market = living(1500)
    hosts = {facts.host_id: market.quality(facts) for facts in market.facts}
    again = {facts.host_id: living(1).quality(facts) for facts in market.facts[:50]}
    assert {host: hosts[host].boot_factor for host in again} == {
        host: one.boot_factor for host, one in again.items()
    }
    slow = sorted(one.boot_factor for one in hosts.values())
    assert slow[0] < 0.5 < 0.9 < slow[len(slow) // 2] < 1.1 < 2 < slow[-1]
    stuck = [one.stuck_probability for one in hosts.values()]
    assert 0.01 < sum(stuck) / len(stuck) < 0.05
    assert max(stuck) <= 0.5

    offers = list(market.offers)[::4]
    leases = [rent(market, one) for one in offers if one in market.offers]
    never = sum(one.due_at > NOW + 1e9 for one in leases)
    assert 0 < never < len(leases) / 10
    assert all(one.dies_at is not None and one.dies_at > NOW for one in leases)
    shown = {*offer_row(1, leases[0].facts, NOW), *instance_row(leases[0], None, NOW)}
    assert not shown & {"boot_factor", "stuck_probability", "deaths_per_hour", "dies_at"}
