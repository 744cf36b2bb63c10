"""The market model, its ledger and its search, by figures that a pencil gives."""

from fractions import Fraction

import pytest

from vastsim.faults import FaultError, Faults
from vastsim.ledger import bill, decimal
from vastsim.market import Ask, Market, RefusedError, Timing
from vastsim.offers import read_market
from vastsim.search import search
from vastsim.wire import instance_row, offer_row

FACTS = read_market()
NOW = 1_800_000_000.0


def ask(disk_gb: float = 10) -> Ask:
    """A request for a small disk."""
    return Ask(image="x", disk_gb=disk_gb, label="l", env={"A": "b"}, onstart=None, runtype="ssh")


def market(**timing: float) -> Market:
    """A fresh market."""
    return Market(FACTS, 1, Timing(**timing))  # type: ignore[arg-type]


def test_the_market_holds_300_real_offers() -> None:
    """Captured facts, several models."""
    assert len(FACTS) >= 300
    assert len({facts.gpu_name for facts in FACTS}) >= 5


def test_gpu_time_is_billed_while_it_runs_and_disk_while_it_exists() -> None:
    """Ten minutes loading, an hour running, half an hour stopped, an hour lost, then destroyed."""
    history = ((0.0, "loading"), (600.0, "running"), (4200.0, "stopped"), (6000.0, "offline"))
    paid = bill(
        (*history, (9600.0, "destroyed")),
        gpu_usd_per_hour=Fraction("0.4"),
        storage_usd_per_hour=Fraction("0.01"),
        download_gb=Fraction(5),
        upload_gb=Fraction(1),
        download_usd_per_gb=Fraction("0.002"),
        upload_usd_per_gb=Fraction("0.003"),
        now=20_000.0,
    )

    assert paid.gpu_usd == Fraction("0.4")
    assert paid.storage_usd == Fraction("0.01") * 6000 / 3600
    assert paid.traffic_usd == Fraction("0.013")
    assert decimal(paid.gpu_usd) == "0.400000000"


def test_an_offer_is_good_for_one_rent_and_comes_back_under_another_number() -> None:
    """The second rent is refused with the provider's words; after the end it is offered anew."""
    held = market()
    offer = next(iter(held.offers))
    lease = held.rent(offer, ask(), NOW)
    with pytest.raises(RefusedError) as refused:
        held.rent(offer, ask(), NOW)
    held.enter(lease.number, "destroyed", NOW + 10)

    assert refused.value.status == 400
    assert "404/3603: no_such_ask  Instance" in refused.value.body["msg"]  # type: ignore[operator]
    assert offer not in held.offers
    assert lease.facts in held.offers.values()


def test_without_credit_nothing_is_rented() -> None:
    """The account is prepaid."""
    held = market()
    held.credit_usd = Fraction(0)
    with pytest.raises(RefusedError) as refused:
        held.rent(next(iter(held.offers)), ask(), NOW)

    assert refused.value.body["error"] == "insufficient_credit"


def test_listings_lag_both_ways() -> None:
    """A new machine is not listed yet, a destroyed one still is."""
    held = market(list_lag=60.0)
    lease = held.rent(next(iter(held.offers)), ask(), NOW)
    assert held.listed(NOW + 59) == ()
    assert [one.number for one in held.listed(NOW + 61)] == [lease.number]
    held.enter(lease.number, "destroyed", NOW + 100)
    assert len(held.listed(NOW + 159)) == 1
    assert held.listed(NOW + 161) == ()


def test_a_destroyed_machine_stays_so() -> None:
    """Nothing brings it back."""
    held = market()
    lease = held.rent(next(iter(held.offers)), ask(), NOW)
    held.enter(lease.number, "destroyed", NOW)

    assert held.enter(lease.number, "running", NOW + 1).state == "destroyed"


ROWS = [offer_row(number, facts, NOW) for number, facts in market().offers.items()]


def found(**query: object) -> list[dict[str, object]]:
    """Searches all offers."""
    return search(ROWS, query, 64)


def test_numbers_may_come_as_strings() -> None:
    """Clients send them so."""
    assert found(num_gpus={"eq": "1"}) == found(num_gpus={"eq": 1})


def test_names_have_spaces_and_countries_end_the_place() -> None:
    """RTX_4090 finds nothing; US finds what stands in the US."""
    assert found(gpu_name={"eq": "RTX_4090"}) == []
    rows = found(gpu_name={"eq": "RTX 4090"}, geolocation={"in": ["US"]})

    assert rows
    assert all(str(row["geolocation"]).endswith(", US") for row in rows)


def test_order_and_cap() -> None:
    """Cheapest first; never more than 64 whatever is asked for."""
    rows = found(order=[["dph_total", "asc"]], limit=1000, verified={"in": [True, False]})
    prices = [float(str(row["dph_total"])) for row in rows]

    assert len(rows) == 64
    assert prices == sorted(prices)


def test_a_filter_must_be_an_object() -> None:
    """A scalar is refused with the provider's words."""
    with pytest.raises(RefusedError) as refused:
        found(gpu_name="RTX 4090")

    assert refused.value.body["msg"] == "q.gpu_name: Input should be a valid dictionary"


def test_rows_have_what_clients_take_for_granted() -> None:
    """start_date, pairs in extra_env, a label key, a string of local addresses."""
    held = market()
    row = instance_row(held.rent(next(iter(held.offers)), ask(), NOW), None, NOW)

    assert row["start_date"] == NOW
    assert row["extra_env"] == [["A", "b"]]
    assert row["ports"] == {}
    assert isinstance(row["local_ipaddrs"], str)


def test_faults_are_used_up_and_wrong_ones_refused() -> None:
    """Two strikes, then calm; an unknown name is an error that lists the known."""
    faults = Faults()
    faults.ask({"rent_answer_lost": {"count": 2, "image": "special"}})
    assert faults.strikes("rent_answer_lost", image="plain") is None
    strikes = [faults.strikes("rent_answer_lost", image="special") for _ in range(3)]
    assert [strike is not None for strike in strikes] == [True, True, False]
    with pytest.raises(FaultError, match="rent_answer_lost"):
        faults.ask({"rent_lost": {}})
