"""What is asked of the market, and which search is made next."""

from fractions import Fraction
from typing import Any

import pytest
from tests.builders import a_spec, an_offer, quotes

from gpujob.api.gpujob import GpuJobSpec
from gpujob.core.market.offers import NOMINAL
from gpujob.core.market.search import Search, Want, beyond, next_search, search_of

BIG = {"gpu": {"count": 1, "memoryGB": 80}}


def spec(**changes: Any) -> GpuJobSpec:
    """A spec with these fields in place of the ordinary ones."""
    return GpuJobSpec.model_validate(a_spec() | changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"cost": {"ceiling": "77"}},
        {"image": "another"},
        {"command": ["another"]},
        {"activeDeadlineSeconds": 77},
        {"market": {"excludedMachines": [1, 2]}},
        {"gpu": {"models": ["RTX 5090", "RTX 4090"]}},
    ],
)
def test_jobs_that_need_the_same_share_a_search(changes: dict[str, Any]) -> None:
    """What the provider is not asked for, and the order of names, makes no difference."""
    same = {"gpu": {"models": ["RTX 4090", "RTX 5090"]}} if "gpu" in changes else {}

    assert search_of(spec(**changes)) == search_of(spec(**same))


@pytest.mark.parametrize(
    "changes",
    [
        {"gpu": {"models": ["RTX 4090"], "count": 2}},
        {"gpu": {"memoryGB": 80}},
        {"gpu": {"models": ["RTX 4090"], "cudaVersion": "12.4"}},
        {"resources": {"cpu": 64}},
        {"resources": {"memoryGB": 512}},
        {"resources": {"diskGB": 500}},
        {"market": {"type": "Interruptible"}},
        {"market": {"hosts": "Datacenter"}},
        {"market": {"regions": ["CA"]}},
        {"market": {"minReliability": "0.999"}},
        {"market": {"maxUSDPerHour": "0.10"}},
    ],
)
def test_a_need_that_the_provider_can_filter_by_is_sent(changes: dict[str, Any]) -> None:
    """Else a page may be full of offers that do not fit."""
    assert search_of(spec(**changes)) != search_of(spec())


def test_the_market_is_asked_for_its_own_names() -> None:
    """It knows no other spelling; and for memory only if each name asks for as much."""
    named = search_of(spec(gpu={"models": ["a100-80gb", "h100"]}))
    alone = search_of(spec(gpu={"models": ["a100-80gb"]}))

    assert named.models == ("A100 PCIE", "A100 SXM4", "H100 NVL", "H100 PCIE", "H100 SXM")
    assert not named.gpu_memory_gb
    assert alone.gpu_memory_gb == 80 * NOMINAL


def small(number: int) -> Any:
    """An offer with too little memory, dearer than the ones before."""
    return an_offer(offer_id=number, gpu_usd_per_hour=Fraction(number, 100))


def test_a_full_page_without_a_fit_is_asked_on() -> None:
    """38 machines that fitted stood behind 64 cheaper ones that did not."""
    wanted, first = spec(**BIG), search_of(spec(**BIG))
    page = quotes(*map(small, range(1, 65)), is_full=True, dearest_usd_per_hour=Fraction("0.65"))
    second = beyond(first, page, wanted)

    assert second is not None
    assert second.from_usd_per_hour == Fraction("0.65")
    fits = an_offer(gpu_memory_gb=Fraction(80))
    assert beyond(second, quotes(fits, is_full=True, dearest_usd_per_hour=Fraction(1)), wanted) is (
        None
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"is_full": False},
        {"dearest_usd_per_hour": None},
        {"dearest_usd_per_hour": Fraction("0.30")},
    ],
)
def test_the_market_is_not_asked_on_for_ever(changes: dict[str, Any]) -> None:
    """The page was not full, says no price, or repeats what was passed over."""
    wanted = spec(**BIG)
    given = {"is_full": True, "dearest_usd_per_hour": Fraction(2)} | changes
    begun = beyond(
        search_of(wanted),
        quotes(small(1), is_full=True, dearest_usd_per_hour=Fraction("0.30")),
        wanted,
    )

    assert begun is not None
    assert beyond(begun, quotes(small(1), **given), wanted) is None


def want(*names: str, ready: bool = False, since: float = 0.0) -> Want:
    """A search that these namespaces wait for."""
    return Want(namespaces=frozenset(names), is_ready=ready, since=since, asked_at=since)


def searches(number: int) -> list[Search]:
    """Different ones."""
    return [search_of(spec(resources={"diskGB": 20 + one})) for one in range(number)]


def test_who_is_ready_to_rent_goes_first_and_namespaces_take_turns() -> None:
    """Then those that have waited longest."""
    one, two, three, four = searches(4)
    wants = {one: want("a", since=1), two: want("b", since=2), three: want("b", since=1)}
    wants[four] = want("a", ready=True, since=9)
    served = {"a": 5.0, "b": 4.0}

    order = []
    while wants:
        found = next_search(wants, now=10.0, waiting_from=0.0, ready_in_row=0, served=served)
        assert found is not None
        order.append(found)
        served |= dict.fromkeys(wants.pop(found).namespaces, 10.0 + len(order))
    assert order == [four, three, one, two]


def test_a_part_of_the_searches_is_kept_for_those_who_are_ready() -> None:
    """Until then the others wait, however many they are."""
    one, two = searches(2)
    wants = {one: want("a")}

    assert next_search(wants, now=1.0, waiting_from=2.0, ready_in_row=0, served={}) is None
    assert next_search(wants, now=2.0, waiting_from=2.0, ready_in_row=0, served={}) is one
    wants[two] = want("a", ready=True)
    assert next_search(wants, now=1.0, waiting_from=2.0, ready_in_row=0, served={}) is two
    assert next_search({}, now=1.0, waiting_from=0.0, ready_in_row=0, served={}) is None


def test_those_who_are_ready_do_not_take_all_searches() -> None:
    """Nodes that the gate refuses again and again would else keep all other jobs from starting."""
    one, two = searches(2)
    wants = {one: want("a"), two: want("b", ready=True)}

    def found(row: int) -> Search | None:
        return next_search(wants, now=1.0, waiting_from=2.0, ready_in_row=row, served={})

    assert [found(row) for row in range(4)] == [two, two, one, one]
