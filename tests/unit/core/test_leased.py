"""What the operator's caps count: listed machines, and those that may be on their way."""

from fractions import Fraction
from typing import Any

import pytest
from tests.builders import (
    ACCOUNT,
    CLUSTER,
    DRIVEN,
    INSTANCE,
    NODE_UID,
    RECORDED,
    a_job,
    a_lease,
    a_listing,
    a_node,
    ended,
    leased,
    marker,
    renting,
    stamp,
)

from gpujob.api.gpujob import GpuJob
from gpujob.api.gpunode import GpuNode
from gpujob.core.cost.leased import Leased
from gpujob.core.cost.leased import leased as counted
from gpujob.core.market.listings import Lease

PRICE = Fraction("0.405")
OTHERS = f"other/{NODE_UID}/j-1"


def count(
    *rows: Lease, nodes: tuple[GpuNode, ...] = (), jobs: tuple[GpuJob, ...] = (), **listing: Any
) -> Leased:
    """What is leased when these are listed and stored."""
    return counted(a_listing(*rows, **listing), nodes, jobs, cluster_id=CLUSTER)


REFUSED = {"notRented": {"at": stamp(), "reason": "OfferGone", "message": ""}}


@pytest.mark.parametrize(
    ("status", "machines"),
    [
        pytest.param(DRIVEN, 0, id="nothing was asked for"),
        pytest.param(renting(), 1, id="the marker is stored"),
        pytest.param(leased(), 1, id="the machine is recorded"),
        pytest.param(ended(renting()), 1, id="the attempt is over, its rent is not"),
        pytest.param(ended(leased()), 1, id="its machine is not proved gone"),
        pytest.param(ended(renting()) | REFUSED, 0, id="the provider refused"),
        pytest.param(ended(leased()) | {"releasedAt": stamp()}, 0, id="proved gone"),
    ],
)
def test_a_node_counts_from_its_marker_until_nothing_can_be_left(
    status: dict[str, Any], machines: int
) -> None:
    """With the price of its offer; no listing shows its machine."""
    found = count(nodes=(a_node(status),))

    assert found == Leased(machines=machines, usd_per_hour=machines * PRICE)


@pytest.mark.parametrize("status", [renting(), leased()])
def test_a_listed_machine_is_not_counted_twice(status: dict[str, Any]) -> None:
    """Its price is the listed one from then on."""
    found = count(a_lease(usd_per_hour=Fraction(2)), nodes=(a_node(status),))

    assert found == Leased(machines=1, usd_per_hour=Fraction(2))


def test_the_highest_price_seen_of_an_unlisted_machine_counts() -> None:
    """A listing that does not show it proves nothing."""
    status = leased()
    status["lease"] |= {"usdPerHour": "0.900000"}

    assert count(nodes=(a_node(status),)).usd_per_hour == Fraction("0.9")


@pytest.mark.parametrize(
    ("row", "status", "expected"),
    [
        pytest.param(
            {"env_mark": OTHERS, "label": OTHERS}, DRIVEN, Leased(others=1), id="another cluster's"
        ),
        pytest.param({"env_mark": None, "label": None}, DRIVEN, Leased(others=1), id="unmarked"),
        pytest.param(
            {"env_mark": None, "label": "mine"}, DRIVEN, Leased(others=1), id="somebody's own"
        ),
        pytest.param(
            {"env_mark": None, "label": None},
            leased(),
            Leased(machines=1, usd_per_hour=PRICE),
            id="recorded, its marks lost",
        ),
        pytest.param(
            {"env_mark": OTHERS},
            leased(),
            Leased(machines=1, usd_per_hour=PRICE, others=1),
            id="recorded, but marked by others: ours is not listed",
        ),
        pytest.param(
            {"env_mark": None, "label": None, "is_attributable": False},
            DRIVEN,
            Leased(machines=1, usd_per_hour=PRICE),
            id="could be anyone's",
        ),
        pytest.param(
            {"usd_per_hour": None},
            leased(),
            Leased(machines=1, unpriced=f"machine {INSTANCE}"),
            id="of unknown price",
        ),
    ],
)
def test_only_our_own_machines_count(
    row: dict[str, Any], status: dict[str, Any], expected: Leased
) -> None:
    """By the mark, else by the recorded number."""
    assert count(a_lease(**row), nodes=(a_node(status),)) == expected


def test_the_cap_that_all_deadlines_reckon_with_is_the_least() -> None:
    """A machine that is gone has none, and one that was rented by an older version says nothing."""
    reckoned = [
        a_node(renting() | {"rent": marker(maxLeases=most)}, uid=f"node-{most}")
        for most in (30, 20)
    ]
    past = a_node(ended(renting() | {"rent": marker(maxLeases=5)}) | {"releasedAt": stamp()})

    extension = {"fuseUSD": "8", "moneyDeadlineSeconds": 9, "maxLeases": 3}
    extended = a_node(renting() | {"extension": extension}, uid="extended")

    assert count(nodes=(*reckoned, extended)).reckoned == 3
    assert count(nodes=(*reckoned, past, a_node(renting(), uid="old"))).reckoned == 20
    assert count(nodes=(a_node(renting()),)).reckoned is None


def test_two_machines_under_one_mark_are_two() -> None:
    """One of them will be destroyed, and is paid for until then."""
    twice = (a_lease(), a_lease(instance_id=INSTANCE + 1))

    assert count(*twice, nodes=(a_node(leased()),)).machines == 2


def test_a_node_that_vanished_may_have_left_a_machine() -> None:
    """Nobody knows its price; once it is listed, it counts as any other."""
    job = a_job(status=RECORDED)

    assert count(jobs=(job,)).machines == 1
    assert count(jobs=(job,)).unpriced
    assert count(a_lease(), jobs=(job,)) == Leased(machines=1, usd_per_hour=PRICE)
    assert count(nodes=(a_node(DRIVEN),), jobs=(job,)) == Leased()
    assert count(jobs=(job,), account_id=ACCOUNT + 1) == Leased()
