"""What the simulated provider bills, to the second, and how its records show it."""

from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vastsim.ledger import Rates, bill
from vastsim.market import Ask, Lease, Market, RefusedError
from vastsim.offers import read_market
from vastsim.records import charges

DAY = 86_400.0
NOON = 20_000 * DAY + DAY / 2
RATES = Rates(
    gpu=((0.0, Fraction("0.4")),),
    storage=Fraction("0.01"),
    stopped_storage=Fraction("0.02"),
    download=Fraction("0.002"),
    upload=Fraction("0.003"),
)
STATES = ("loading", "running", "frozen", "exited", "stopped", "given up", "offline")


@pytest.mark.parametrize(
    ("state", "gpu", "disk"),
    [
        ("loading", "0", "0.01"),
        ("running", "0.4", "0.01"),
        ("frozen", "0.4", "0.01"),
        ("exited", "0", "0.02"),
        ("stopped", "0", "0.02"),
        ("given up", "0", "0.02"),
        ("offline", "0", "0"),
        ("destroyed", "0", "0"),
    ],
)
def test_an_hour_in_each_state(state: str, gpu: str, disk: str) -> None:
    """GPUs while the container runs or is frozen; the disk always, but for a lost host."""
    paid = bill(((100.0, state),), RATES, now=3700.0)

    assert (paid.gpu_usd, paid.storage_usd) == (Fraction(gpu), Fraction(disk))


def test_a_second_costs_the_3600th_part() -> None:
    """Neither rounded up to minutes nor dropped."""
    assert bill(((0.0, "running"),), RATES, now=1.0).gpu_usd == Fraction("0.4") / 3600


def test_each_price_holds_from_its_own_moment() -> None:
    """A bid that is changed while the machine runs changes no hour before."""
    prices = ((0.0, Fraction(1)), (3600.0, Fraction(3)), (5400.0, Fraction(2)))
    paid = bill(((0.0, "running"),), replace(RATES, gpu=prices), now=7200.0)

    assert paid.gpu_usd == 1 + Fraction(3, 2) + 1


@given(
    spans=st.lists(st.tuples(st.integers(1, 200_000), st.sampled_from(STATES)), max_size=6),
    cuts=st.lists(st.integers(0, 1_200_000), max_size=5),
    changes=st.lists(st.integers(1, 1_200_000), max_size=3, unique=True),
)
def test_parts_of_a_bill_add_up(
    spans: list[tuple[int, str]], cuts: list[int], changes: list[int]
) -> None:
    """Wherever it is cut, nothing is billed twice and nothing is left out."""
    at, history = 0, [(0.0, "loading")]
    for seconds, state in spans:
        at += seconds
        history.append((float(at), state))
    prices = [(0.0, Fraction(1))]
    prices += [(float(at), Fraction(at, 7)) for at in sorted(changes)]
    rates = replace(RATES, gpu=tuple(prices))
    ends = [float(one) for one in sorted({0, *cuts, 1_300_000})]
    parts = [
        bill(tuple(history), rates, since=begins, now=stops) for begins, stops in pairwise(ends)
    ]

    whole = bill(tuple(history), rates, now=1_300_000.0)
    assert sum(part.gpu_usd for part in parts) == whole.gpu_usd
    assert sum(part.storage_usd for part in parts) == whole.storage_usd


def market() -> Market:
    """The market file's offers."""
    return Market(read_market(), seed=1)


def leased(held: Market, bid: str | None = None) -> Lease:
    """Rents the first offer at noon, and lets it run at once."""
    price = None if bid is None else Fraction(bid)
    ask = Ask("image", 20.0, "mine", {}, None, "ssh", bid_usd_per_hour=price)
    lease = held.rent(next(iter(held.offers)), ask, NOON)
    return held.enter(lease.number, "running", NOON)


def test_charges_are_a_row_for_each_day() -> None:
    """Noon to noon, two days later: three rows, which together are the bill; later ones lag."""
    held = market()
    lease = leased(held)
    held.count(lease.number, Fraction(7), Fraction(0), NOON + DAY)
    ended = held.enter(lease.number, "destroyed", NOON + 2 * DAY)
    rows = list(charges(ended, NOON + 9 * DAY))

    assert [row["end"] - row["start"] for row in rows] == [DAY / 2, DAY, DAY / 2]
    assert [{item["type"] for item in row["items"]} for row in rows] == [
        {"gpu", "disk"},
        {"gpu", "disk", "bwd"},
        {"gpu", "disk"},
    ]
    price = f"{float(Fraction(ended.facts.dph_base)):.6f}".rstrip("0")
    gpu = next(item for item in rows[1]["items"] if item["type"] == "gpu")
    assert gpu["description"] == f"24.000 hours at ${price}/hour"
    total = float(ended.bill(NOON + 9 * DAY).total_usd)
    assert sum(row["amount"] for row in rows) == pytest.approx(total, abs=0.0015)
    assert len(list(charges(ended, NOON + DAY))) == 2
    assert list(charges(ended, NOON)) == []


def test_a_bid_that_is_changed_wins_or_loses() -> None:
    """Null is the lowest that wins; less than that loses the GPUs; no bid, no change."""
    held = market()
    lease = leased(held, "5")
    lowest = Fraction(lease.facts.min_bid)

    assert held.bid(lease.number, None, NOON + 3600)
    assert held.leases[lease.number].gpu_usd_per_hour == lowest
    assert not held.bid(lease.number, lowest / 2, NOON + 7200)
    held.outbid(lease.number, NOON + 7200)
    assert not held.bid(lease.number, lowest / 3, NOON + 7300)
    assert held.leases[lease.number].state == "stopped"
    assert held.bid(lease.number, lowest, NOON + 7400)
    assert held.leases[lease.number].state == "loading"
    assert held.leases[lease.number].bill(NOON + 7200).gpu_usd == 5 + lowest
    with pytest.raises(RefusedError):
        held.bid(leased(held).number, Fraction(1), NOON)
