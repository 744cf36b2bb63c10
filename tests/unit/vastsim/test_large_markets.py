"""A search in thousands of offers, which makes no rows but those that it answers."""

from dataclasses import replace
from typing import Any

import pytest

from vastsim.living import LivingMarket
from vastsim.market import RefusedError, Timing
from vastsim.offers import read_market
from vastsim.search import search, search_offers
from vastsim.wire import offer_row

NOW = 1_800_000_000.0
FACTS = read_market()[0]
MARKET = LivingMarket(read_market(), 1000, 1, Timing())
BY_NUMBER: dict[str, Any] = {"order": [["dph_total", "asc"], ["ask_contract_id", "asc"]]}


@pytest.mark.parametrize("is_bid", [False, True])
@pytest.mark.parametrize("disk_gb", [8.0, 500.0])
@pytest.mark.parametrize(
    "query",
    [
        {},
        BY_NUMBER,
        {"order": [["num_gpus", "desc"], ["score", "asc"], ["id", "desc"]]},
        {"gpu_name": {"in": ["RTX 4090", "H200"]}, "verified": {"eq": True}},
        {"num_gpus": {"eq": "2"}, "dph_total": {"gt": "0.3", "lte": 4}},
        {"geolocation": {"notin": ["US"]}, "reliability": {"gte": 0.99}, "disk_space": {"gt": 100}},
        {"is_bid": {"eq": True}},
        {"gpu_ids": {"neq": []}, "start_date": {"eq": None}},
        {"rentable": {"eq": False}},
        {"id": {"gt": 0}},
        {"limit": 3, "min_bid": {"lt": 1}},
    ],
)
def test_it_finds_what_a_look_at_every_row_finds(
    query: dict[str, Any], disk_gb: float, is_bid: bool
) -> None:
    """In the same order, and each row whole."""
    asked = {**query, "type": "bid" if is_bid else "on-demand", "allocated_storage": disk_gb}
    rows = [offer_row(*one, NOW, disk_gb, is_bid=is_bid) for one in MARKET.offers.items()]

    found = search_offers(MARKET.offers, asked, NOW, 64)

    assert found == search(rows, asked, 64)
    for column, way in query.get("order", [])[:1]:
        every = sorted((row[column] for row in rows), reverse=way == "desc")
        assert [row[column] for row in found] == every[:64]
    assert [row["rn"] for row in found] == list(range(1, len(found) + 1))


def test_a_row_has_the_prices_that_a_pencil_gives() -> None:
    """At the disk and for the kind of rent that are asked for (vastsim/FACTS.md, Pricing)."""
    facts = replace(FACTS, dph_base="0.105333", min_bid="0.05", storage_cost="0.93333")
    on_demand, bid = (offer_row(1, facts, NOW, 16, is_bid=is_bid) for is_bid in (False, True))

    disk = 0.93333 * 16 / 720
    assert on_demand["storage_total_cost"] == on_demand["search"]["diskHour"] == disk
    assert (on_demand["dph_base"], on_demand["dph_total"]) == (0.105333, 0.105333 + disk)
    assert (bid["dph_base"], bid["dph_total"]) == (0.05, 0.05 + disk)
    assert bid["search"]["totalHour"] == 0.05 + disk
    assert bid["score"] == facts.dlperf / (0.05 + disk)


def test_the_objects_of_a_row_are_no_columns_to_ask_for() -> None:
    """As little as columns that nobody knows."""
    for column in ("search", "instance", "colour"):
        with pytest.raises(RefusedError):
            search_offers(MARKET.offers, {column: {"eq": 1}}, NOW, 64)
