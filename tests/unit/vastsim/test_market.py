"""The market model, its ledger and its search, by figures that a pencil gives."""

from collections.abc import Callable
from fractions import Fraction

import pytest

from vastsim.faults import FaultError, Faults
from vastsim.ledger import Rates, bill, decimal
from vastsim.market import Ask, FailedPull, Lease, Market, RefusedError, Timing
from vastsim.offers import read_market
from vastsim.search import search
from vastsim.wire import instance_row, offer_row

FACTS = read_market()
NOW = 1_800_000_000.0


def ask(disk_gb: float = 10, bid: str | None = None) -> Ask:
    """A request for a small disk."""
    return Ask(
        image="x",
        disk_gb=disk_gb,
        label="l",
        env={"A": "b"},
        onstart=None,
        runtype="ssh",
        bid_usd_per_hour=None if bid is None else Fraction(bid),
    )


def market(**timing: object) -> Market:
    """A fresh market."""
    return Market(FACTS, 1, Timing(**timing))  # type: ignore[arg-type]


def test_the_market_holds_300_real_offers() -> None:
    """Captured facts, several models."""
    assert len(FACTS) >= 300
    assert len({facts.gpu_name for facts in FACTS}) >= 5


RATES = Rates(
    gpu=((0.0, Fraction("0.4")),),
    storage=Fraction("0.01"),
    stopped_storage=Fraction("0.01"),
    download=Fraction("0.002"),
    upload=Fraction("0.003"),
)


def test_gpu_time_is_billed_while_it_runs_and_disk_while_it_exists() -> None:
    """Ten minutes loading, an hour running, half an hour stopped, an hour lost, then destroyed."""
    history = ((0.0, "loading"), (600.0, "running"), (4200.0, "stopped"), (6000.0, "offline"))
    paid = bill(
        (*history, (9600.0, "destroyed")),
        RATES,
        download_gb=Fraction(5),
        upload_gb=Fraction(1),
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
    assert "404/3603: no_such_ask  Instance" in refused.value.body["msg"]
    assert offer not in held.offers
    assert lease.facts in held.offers.values()


def test_without_credit_nothing_is_rented() -> None:
    """The account is prepaid."""
    held = market()
    held.credit_usd = Fraction(0)
    with pytest.raises(RefusedError) as refused:
        held.rent(next(iter(held.offers)), ask(), NOW)

    assert refused.value.body["error"] == "insufficient_credit"


def test_credit_is_of_one_account() -> None:
    """What one account lacks, another has; what is set is what is left."""
    held = market()
    first, second = list(held.offers)[:2]
    lease = held.rent(first, ask(), NOW)
    held.enter(lease.number, "running", NOW)
    held.set_credit(Fraction(1), NOW + 3600)
    held.set_credit(Fraction(0), NOW + 3600, 12)
    with pytest.raises(RefusedError) as refused:
        held.rent(second, ask(), NOW + 3600, account=12)

    assert held.credit(NOW + 3600) == 1
    assert refused.value.body["error"] == "insufficient_credit"


def test_without_credit_what_runs_is_to_stop() -> None:
    """Of the account that has none."""
    held = market()
    first, second = list(held.offers)[:2]
    broke = held.rent(first, ask(), NOW)
    held.rent(second, ask(), NOW, account=12)
    held.set_credit(Fraction(0), NOW + 1)

    assert [lease.number for lease in held.unpaid(NOW + 1)] == [broke.number]


def test_credit_ends_on_time_whatever_changes() -> None:
    """Looked at every minute, it is found as soon as when it is added up anew."""
    held = market()
    runs, stands, later = list(held.offers)[:3]
    held.set_credit(Fraction(1, 2), NOW)
    first = held.rent(runs, ask(), NOW)
    held.rent(stands, ask(), NOW, is_left_standing=True)
    changes: dict[int, Callable[[], object]] = {
        1: lambda: held.enter(first.number, "running", NOW + 60),
        10: lambda: held.count(first.number, Fraction(0), Fraction(1), NOW + 10),
        20: lambda: held.rent(later, ask(), NOW + 20 * 60, account=12),
        30: lambda: held.set_credit(held.credit(NOW + 1800) + Fraction(1, 10), NOW + 1800),
    }
    for minute in range(10_000):
        now = NOW + minute * 60
        if act := changes.get(minute):
            act()
        is_broke = held.credit(now) <= 0
        assert (first.number in {one.number for one in held.unpaid(now)}) == is_broke, minute
        if is_broke:
            break

    assert is_broke
    assert minute > 30


def test_an_account_sees_its_own_machines_only() -> None:
    """In listings, and by their number."""
    held = market()
    lease = held.rent(next(iter(held.offers)), ask(), NOW, account=12)

    assert held.listed(NOW) == ()
    assert held.listed(NOW, 12) == (lease,)
    with pytest.raises(RefusedError):
        held.find(lease.number)


def bid_on(held: Market, bid: str) -> Lease:
    """Bids on the first offer, and returns the machine however it was answered."""
    try:
        return held.rent(next(iter(held.offers)), ask(bid=bid), NOW, boot_seconds=0)
    except RefusedError as refused:
        return held.leases[int(str(refused.body["new_contract"]))]


def test_a_bid_is_the_price_of_the_gpu() -> None:
    """An hour of running costs the bid, not the price of the offer."""
    held = market()
    lease = bid_on(held, "5")
    held.enter(lease.number, "running", NOW)

    assert held.leases[lease.number].bill(NOW + 3600).gpu_usd == 5


def test_a_bid_that_is_too_low_leaves_a_stopped_machine() -> None:
    """Refused with its number; its disk is billed, its GPU is not, until it is destroyed."""
    held = market()
    lease = bid_on(held, "0.001")
    held.enter(lease.number, "destroyed", NOW + 3600)
    bill_ = held.leases[lease.number].bill(NOW + 7200)

    assert lease.state == "stopped"
    assert bill_.gpu_usd == 0
    assert bill_.storage_usd == lease.storage_usd_per_hour > 0


def test_an_outbid_machine_pays_for_its_disk_and_may_resume() -> None:
    """An hour running, an hour outbid, an hour running again: two hours of GPU, three of disk."""
    held = market(boot=(0, 0))
    lease = bid_on(held, "5")
    held.enter(lease.number, "running", NOW)
    held.change(lease.number, outbid_at=NOW + 3600, resumes_at=NOW + 7200)
    assert held.outbids(NOW + 3599) == ()
    (due,) = held.outbids(NOW + 3600)
    held.outbid(due.number, NOW + 3600)
    assert held.leases[lease.number].state == "stopped"
    assert held.resuming(NOW + 7199) == ()
    (due,) = held.resuming(NOW + 7200)
    held.resume(due.number, NOW + 7200)
    assert [one.number for one in held.due(NOW + 7200)] == [lease.number]
    held.enter(lease.number, "running", NOW + 7200)
    bill_ = held.leases[lease.number].bill(NOW + 10_800)

    assert held.outbids(NOW + 10_800) == ()
    assert bill_.gpu_usd == 10
    assert bill_.storage_usd == lease.storage_usd_per_hour * 3


def test_a_destroyed_machine_does_not_resume() -> None:
    """Whatever was to come of it."""
    held = market()
    lease = bid_on(held, "5")
    held.change(lease.number, resumes_at=NOW + 10)
    held.enter(lease.number, "destroyed", NOW + 5)

    assert held.resuming(NOW + 10) == ()
    assert held.resume(lease.number, NOW + 10).state == "destroyed"


def test_a_destroyed_machine_may_be_listed_again() -> None:
    """For a while, long after its end."""
    held = market()
    lease = held.rent(next(iter(held.offers)), ask(), NOW)
    held.enter(lease.number, "destroyed", NOW)
    held.change(lease.number, reappears=(NOW + 10, NOW + 20))

    assert [len(held.listed(NOW + late)) for late in (5, 10, 19, 20)] == [0, 1, 1, 0]


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


def test_a_search_for_bids_shows_the_price_that_wins() -> None:
    """The same offer, by its lowest winning bid."""
    facts = next(facts for facts in FACTS if facts.min_bid != facts.dph_base)
    row = offer_row(7, facts, NOW, is_bid=True)
    plain = offer_row(7, facts, NOW)

    assert (row["id"], row["is_bid"], plain["is_bid"]) == (7, True, False)
    assert row["dph_base"] == row["min_bid"] == float(facts.min_bid)
    assert row["dph_total"] - row["dph_base"] == plain["dph_total"] - plain["dph_base"]
    assert plain["dph_base"] == float(facts.dph_base)


def test_an_outbid_machine_is_shown_stopped_all_over() -> None:
    """All three allocation states say so; its price is still its bid."""
    held = market()
    lease = bid_on(held, "5")
    row = instance_row(held.outbid(lease.number, NOW), None, NOW)

    states = ("actual_status", "intended_status", "cur_state", "next_state")
    assert [row[name] for name in states] == ["exited", "stopped", "stopped", "stopped"]
    assert (row["is_bid"], row["dph_base"], row["instance"]["gpuCostPerHour"]) == (True, 5.0, 0.0)


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


def test_an_image_that_cannot_be_pulled_loads_until_the_provider_gives_up() -> None:
    """It says why, with a line break; after seven minutes it is stopped and still shows as loading.

    Told to run it tries again. Its GPUs are never billed.
    """
    held = market()
    failed = FailedPull("manifest for x not found: manifest unknown")
    lease = held.rent(next(iter(held.offers)), ask(), NOW, boot_seconds=1, failed_pull=failed)

    def shown(now: float) -> tuple[object, ...]:
        held.give_up_pulls(now)
        row = instance_row(held.leases[lease.number], None, now)
        return row["actual_status"], row["intended_status"], row["status_msg"]

    assert held.due(NOW + 1000) == ()
    assert shown(NOW + 419) == ("loading", "running", f"{failed.words}\n")
    assert shown(NOW + 420) == ("loading", "stopped", f"{failed.words}\n")
    held.resume(lease.number, NOW + 500)
    assert shown(NOW + 900) == ("loading", "running", f"{failed.words}\n")
    assert shown(NOW + 920) == ("loading", "stopped", f"{failed.words}\n")
    assert held.leases[lease.number].bill(NOW + 1000).gpu_usd == 0
    assert held.leases[lease.number].bill(NOW + 1000).storage_usd > 0


def test_a_machine_that_is_left_standing_loads_once_it_is_told_to() -> None:
    """Nothing but a start helps it, and it says nothing."""
    held = market()
    lease = held.rent(next(iter(held.offers)), ask(), NOW, is_left_standing=True)
    row = instance_row(lease, None, NOW)

    assert (row["intended_status"], row["status_msg"]) == ("stopped", "")
    assert held.due(NOW + 10_000) == ()
    assert held.resume(lease.number, NOW + 60).state == "loading"
    assert [one.number for one in held.due(NOW + 10_000)] == [lease.number]
