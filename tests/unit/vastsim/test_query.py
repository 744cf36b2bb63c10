"""What a search means by its filters."""

from pathlib import Path

import pytest

from vastsim.market import RefusedError
from vastsim.offers import DEFAULT_FILE, MarketFileError, read_market
from vastsim.ports import Port, ports_in
from vastsim.search import search_offers

OFFERS = dict(enumerate(read_market(), 1))


def found(**query: object) -> set[int]:
    """The numbers of the offers that a query finds."""
    return {row["id"] for row in search_offers(OFFERS, query, 0.0, 10_000)}


def those(**wanted: object) -> set[int]:
    """The offers whose facts are these."""
    return {
        number
        for number, facts in OFFERS.items()
        if all(getattr(facts, name) == value for name, value in wanted.items())
    }


def test_nothing_but_what_is_asked_for_is_left_out() -> None:
    """The server has no default for hosts that are not verified."""
    assert found() == set(OFFERS)
    assert found(verified={"eq": True}) == those(verification="verified")
    assert found(verified={"eq": "false"}) == set(OFFERS) - those(verification="verified")
    assert found(rented={"eq": False}) == found(rented={"eq": True}) == set(OFFERS)


@pytest.mark.parametrize(
    ("operation", "value", "expected"),
    [
        ("gte", 890, {"H100 PCIE", "H100 SXM", "H200", "H200 NVL", "L40S", "RTX 4090"}),
        ("gt", "890", {"H100 PCIE", "H100 SXM", "H200", "H200 NVL"}),
        ("lt", 800.0, {"Tesla V100"}),
        ("eq", "8e2", {"A100 PCIE"}),
        ("in", ["700", 800], {"Tesla V100", "A100 PCIE"}),
    ],
)
def test_capabilities_are_those_of_the_models(
    operation: str, value: object, expected: set[str]
) -> None:
    """Compared as numbers, however they are written."""
    names = {OFFERS[number].gpu_name for number in found(compute_cap={operation: value})}

    assert names == expected


def test_drivers_are_compared_as_numbers() -> None:
    """As the command line sends them, and as text."""
    newest = {number for number, facts in OFFERS.items() if facts.cuda_max_good >= 13.0}

    assert newest
    assert found(driver_version={"gte": 580_065_006}) == newest
    assert found(driver_version={"gte": "580.65.06"}) == newest
    assert found(driver_vers={"gte": 580_065_006}) == newest


def test_places_are_matched_by_their_end() -> None:
    """By the country alone, or by all of the text."""
    assert found(geolocation={"eq": "US"}) == those(country="US")
    assert found(geolocation={"notin": ["US"]}) == set(OFFERS) - those(country="US")
    assert found(geolocation={"in": ["Somewhere, US"]}) == those(country="US")


def test_an_offer_is_found_by_one_of_its_numbers_only() -> None:
    """As was seen: `id` matches nothing."""
    assert found(ask_contract_id={"eq": 7}) == {7}
    assert found(id={"eq": 7}) == set()


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ({"gpu_nmae": {"eq": "x"}}, "q.gpu_nmae: Extra inputs"),
        ({"gpu_name": "x"}, "q.gpu_name: Input should be a valid dictionary"),
        ({"gpu_name": {"like": "x"}}, "q.gpu_name.like"),
        ({"gpu_name": {"in": "x"}}, "q.gpu_name.in"),
        ({"order": [["prize", "asc"]]}, "q.order"),
        ({"order": [["gpu_ids", "asc"]]}, "q.order"),
        ({"type": "gift"}, "q.type"),
        ({"limit": True}, "q.limit"),
        ({"allocated_storage": -1}, "q.allocated_storage"),
    ],
)
def test_what_cannot_be_understood_is_refused(query: dict[str, object], words: str) -> None:
    """With the name of what is wrong."""
    with pytest.raises(RefusedError, match=r"q\.") as refused:
        found(**query)

    assert words in refused.value.body["msg"]


def test_a_market_with_an_unknown_model_is_refused(tmp_path: Path) -> None:
    """Its capability would be a guess; the message says where it stands."""
    file = tmp_path / "market.csv"
    file.write_text(DEFAULT_FILE.read_text().replace("H200 NVL", "H9000", 1))
    with pytest.raises(MarketFileError, match=r"market.csv:\d+: .*'H9000'"):
        read_market(file)


def test_ports_are_read_from_the_environment() -> None:
    """Both protocols; one number alone; a number that no port has."""
    asked = {"-p 8000:80": "1", "-p 53:53/udp": "1", "-p 70000:70000": "1", "-p 22": "1", "P": "x"}

    assert ports_in(asked) == (
        Port(80, "tcp"),
        Port(53, "udp"),
        Port(70_000, "tcp"),
        Port(22, "tcp"),
    )
    for wrong in ("-p 0:0", "-p 65536:65536", "-p x", "-p 1-2:1-2", "-p80", "-p 80:80/sctp"):
        with pytest.raises(ValueError, match=r"-p|port"):
            ports_in({wrong: "1"})
