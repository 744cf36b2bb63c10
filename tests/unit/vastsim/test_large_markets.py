"""A search in thousands of offers, which makes no rows but those that it answers."""

import pytest

from vastsim.living import LivingMarket
from vastsim.market import RefusedError, Timing
from vastsim.offers import read_market
from vastsim.search import search, search_offers
from vastsim.wire import offer_row

NOW = 1_800_000_000.0
MARKET = LivingMarket(read_market(), 1000, 1, Timing())
BY_NUMBER = {"order": [["dph_total", "asc"], ["ask_contract_id", "asc"]]}


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
    query: dict[str, object], disk_gb: float, is_bid: bool
) -> None:
    """In the same order, and each row whole."""
    asked = {**query, "type": "bid" if is_bid else "on-demand", "allocated_storage": disk_gb}
    rows = [offer_row(*one, NOW, disk_gb, is_bid=is_bid) for one in MARKET.offers.items()]

    found = search_offers(MARKET.offers, asked, NOW, 64)

    assert found == search(rows, asked, 64)
    assert [row["rn"] for row in found] == list(range(1, len(found) + 1))


def test_the_objects_of_a_row_are_no_columns_to_ask_for() -> None:
    """As little as columns that nobody knows."""
    for column in ("search", "instance", "colour"):
        with pytest.raises(RefusedError):
            search_offers(MARKET.offers, {column: {"eq": 1}}, NOW, 64)
