"""A ceiling that is raised while a machine is leased: contract, reservation, watchdog, fuse."""

from typing import Any

import pytest
from tests.builders import (
    RECORDED,
    a_job,
    a_lease,
    a_listing,
    a_node,
    a_report,
    a_spec,
    a_world,
    marker,
    node_observation,
    running,
    stamp,
)

from gpujob.api.gpujob import GpuJob
from gpujob.api.gpunode import GpuNodeStatus
from gpujob.core.limits import Limits
from gpujob.core.machine.assignment import assignment
from gpujob.core.node.plan import plan_node

RENT = marker(contractSeconds=10**7)
BY_MONEY = int((8 - 0.1) / 0.405 * 3600 - 180)
"""What 8 dollars last for, less the traffic and the destroy lag of 20 machines."""
ASKED = {
    "reservedUSD": "8.000000",
    "extension": {"fuseUSD": "8.000000", "moneyDeadlineSeconds": BY_MONEY, "maxLeases": 20},
}


def job(recorded: str = "8.000000", ceiling: str = "8.00") -> GpuJob:
    """One whose ceiling was raised to 8 dollars, and what it has recorded of the reservation."""
    return a_job(a_spec(cost={"ceiling": ceiling}), RECORDED | {"nodeReservedUSD": recorded})


def after(status: dict[str, Any], held: int | None = None, **changes: Any) -> GpuNodeStatus:
    """The status that follows when the watchdog holds to this."""
    seen = node_observation(
        {"rent": RENT} | status,
        **{"job": job(), "report": a_report(money_deadline_seconds=held)} | changes,
        world=a_world(a_listing(a_lease())),
    )
    return plan_node(seen).status


def test_the_reservation_comes_first() -> None:
    """The fuse that holds stays as it is; the watchdog's new deadline is stored with it."""
    status = after(running() | {"rent": RENT}, job=job("5.000000"))

    assert status.reserved_usd == "8.000000"
    assert status.extension is not None
    assert status.extension.fuse_usd == "8.000000"
    assert status.extension.money_deadline_seconds == BY_MONEY
    assert status.rent is not None
    assert (status.rent.fuse_usd, status.rent.money_deadline_seconds) == ("5.000000", 40_000)


@pytest.mark.parametrize(
    ("recorded", "told"), [("5.000000", None), ("7.999999", None), ("8.000000", BY_MONEY)]
)
def test_the_watchdog_is_told_once_the_job_has_recorded_it(recorded: str, told: int | None) -> None:
    """If the node vanished before, the job would charge less than the machine may cost."""
    node = a_node(running() | {"rent": RENT} | ASKED)

    assert assignment(node, job(recorded), Limits()).money_deadline_seconds == told


@pytest.mark.parametrize(
    ("held", "recorded", "fuse", "deadline"),
    [
        (None, "8.000000", "5.000000", 40_000),
        (BY_MONEY - 1, "8.000000", "5.000000", 40_000),
        (BY_MONEY, "5.000000", "5.000000", 40_000),
        (BY_MONEY, "8.000000", "8.000000", BY_MONEY),
    ],
)
def test_the_fuse_is_raised_once_the_watchdog_has_acknowledged(
    held: int | None, recorded: str, fuse: str, deadline: int
) -> None:
    """And the job has recorded this very reservation, not an earlier one of equal deadline."""
    status = after(running() | {"rent": RENT} | ASKED, held, job=job(recorded))

    assert status.rent is not None
    assert (status.rent.fuse_usd, status.rent.money_deadline_seconds) == (fuse, deadline)
    assert (status.extension is None) == (fuse == "8.000000")
    assert status.rent.max_leases == (None if fuse == "5.000000" else 20)


@pytest.mark.parametrize(
    ("contract", "deadline"),
    [(None, None), (40_180, None), (40_181, 40_001), (BY_MONEY + 180, BY_MONEY), (10**7, BY_MONEY)],
)
def test_no_deadline_is_later_than_the_host_s_contract(
    contract: int | None, deadline: int | None
) -> None:
    """If it ends before anything is gained, nothing is reserved; an unknown end is no late one."""
    status = after(running() | {"rent": marker(contractSeconds=contract)}, job=job("5.000000"))

    found = status.extension.money_deadline_seconds if status.extension else None
    assert found == deadline
    assert status.reserved_usd == (None if deadline is None else "8.000000")


def test_what_stops_or_has_ended_is_not_extended() -> None:
    """Nor does a ceiling that was not raised change anything."""
    stopping = running() | {"stop": {"at": stamp(-1), "reason": "Suspended"}, "rent": RENT}

    assert after(stopping, job=job("5.000000")).extension is None
    told = after(stopping | ASKED, BY_MONEY).rent
    assert told is not None
    assert told.fuse_usd == "5.000000"
    node = a_node(stopping | ASKED)
    assert assignment(node, job(), Limits()).money_deadline_seconds is None
    assert after(running() | {"rent": RENT}, job=job("5.000000", "5.00")).extension is None


def test_a_higher_price_that_was_seen_counts() -> None:
    """The deadline reckons with the highest."""
    status = running() | {"rent": RENT}
    status["lease"] |= {"usdPerHour": "0.810000"}
    found = after(status, job=job("5.000000", "20.00")).extension

    assert found is not None
    assert found.money_deadline_seconds == int((20 - 0.1) / 0.81 * 3600 - 180)
