"""A ceiling that is raised while a machine is leased: contract, reservation, watchdog, fuse."""

from dataclasses import replace
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
    booted,
    marker,
    node_observation,
    running,
    stamp,
)

from gpujob.api.gpujob import GpuJob
from gpujob.api.gpunode import GpuNodeStatus
from gpujob.api.reasons import Ends, Reason
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


@pytest.mark.parametrize(
    ("contract", "ends", "until"),
    [
        (30_000, "ends at 2026-01-01T20:19:20Z", "2026-01-01T20:19:20Z"),
        (40_180, "ends at 2026-01-01T23:09:00Z", "2026-01-01T23:06:00Z"),
        (50_180, "ends at 2026-01-02T01:55:40Z", "2026-01-02T01:52:40Z"),
        (None, "ends is not known", "2026-01-01T23:06:00Z"),
        (BY_MONEY + 180, None, None),
    ],
)
def test_that_the_contract_limits_a_raised_ceiling_is_told(
    contract: int | None, ends: str | None, until: str | None
) -> None:
    """Once for each ceiling: until when the machine may run, and what gives the job more."""
    rent = {"rent": marker(contractSeconds=contract)}
    first = after(running() | rent, job=job("5.000000"))
    told = first.contract_limit
    again = after(first.wire())

    if ends is None:
        assert told is None
        return
    assert told is not None
    assert told.ceiling == "8.00"
    assert f"{ends}, so that it runs until {until} at the latest" in told.message
    assert "set spec.suspend to true and then to false" in told.message
    assert again.contract_limit == told
    higher = after(first.wire(), job=job("8.000000", "9.00")).contract_limit
    assert higher is not None
    assert higher.ceiling == "9.00"


def test_a_running_job_shows_that_the_contract_limits_its_ceiling() -> None:
    """As long as that is its ceiling."""
    told = {"contractLimit": {"ceiling": "8.00", "message": "it runs until noon"}}
    shown = {}
    for ceiling in ("8.00", "5.00"):
        seen = node_observation(
            running() | {"rent": marker(contractSeconds=40_180)} | told,
            job=job("5.000000", ceiling),
            world=a_world(a_listing(a_lease())),
        )
        shown[ceiling] = plan_node(seen).message

    assert shown["8.00"] == "running on 1x RTX 4090 in Quebec, CA; but it runs until noon"
    assert shown["5.00"] == "running on 1x RTX 4090 in Quebec, CA"
    assert seen.node.status.contract_limit is not None
    assert plan_node(replace(seen, job=job("5.000000"))).requeue_seconds != 0, "it was told before"


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


PAUSED = {"pauses": {"seconds": 600, "costUSD": "0.001000", "asOf": stamp(-60)}}
SPARED = 591
"""What a pause of 600 s spares at 0.405 $/h, when it costs what 8.9 s of running do."""
BID = {"contractSeconds": 10**7, "maxLeases": 20, "bidUSDPerHour": "0.400000"}


def back(**rent: Any) -> dict[str, Any]:
    """A machine that was asked for 1000 s ago, was paused, and came back: its work has to begin."""
    past = {"count": 1, "resumedAt": stamp(-1)}
    return booted(-1000) | PAUSED | {"interruptions": past, "rent": marker(-1000, **BID | rent)}


def unraised(status: dict[str, Any], held: int | None = None, **changes: Any) -> GpuNodeStatus:
    """The status that follows when the ceiling is what it was at the rent."""
    report = a_report(money_deadline_seconds=held, run_number=1)
    return after(status, **{"job": job("5.000000", "5.00"), "report": report} | changes)


@pytest.mark.parametrize("fresh", [back(), back() | {"run": {"startedAt": stamp(-1)}}])
def test_after_a_pause_the_watchdog_is_told_what_it_spares(fresh: dict[str, Any]) -> None:
    """Rounded down; the fuse and what is reserved stay, and so does its deadline."""
    status = unraised(fresh)
    asked, told = status.extension, assignment(a_node(status.wire()), job("5.000000"), Limits())

    assert asked is not None
    assert (asked.fuse_usd, asked.money_deadline_seconds) == ("5.000000", 40_000)
    assert told.money_deadline_seconds == asked.watchdog_seconds == 40_000 + SPARED
    assert (status.reserved_usd, asked.max_leases) == (None, 20)


@pytest.mark.parametrize(
    ("held", "watchdog", "pending"),
    [(None, None, True), (40_000, None, True), (40_591, 40_591, False)],
)
def test_a_pause_holds_once_the_watchdog_has_acknowledged_it(
    held: int | None, watchdog: int | None, pending: bool
) -> None:
    """Then nothing more is asked for; a second pause counts on top of the first."""
    asked = unraised(back())
    status = unraised(asked.wire(), held)

    assert status.rent is not None
    assert status.rent.watchdog_seconds == watchdog
    assert (status.extension is not None) == pending
    assert status.rent.fuse_usd == "5.000000"
    if not pending:
        assert unraised(status.wire(), held).extension is None
        longer = {"seconds": 1200, "costUSD": "0.001000", "asOf": stamp(-60)}
        again = unraised(status.wire() | {"pauses": longer}, held).extension
        assert again is not None
        assert again.watchdog_seconds == 41_191


@pytest.mark.parametrize(
    ("contract", "told"), [(40_180, None), (40_190, 40_010), (10**7, 40_591), (None, None)]
)
def test_no_pause_outlasts_the_host_s_contract(contract: int | None, told: int | None) -> None:
    """Nor is a contract whose end is unknown a long one."""
    asked = unraised(back(contractSeconds=contract)).extension

    assert (asked.watchdog_seconds if asked else None) == told


def test_a_raised_ceiling_after_a_pause_counts_both() -> None:
    """The watchdog is told one deadline, which has the money and the pause in it."""
    asked = after(back(), job=job("5.000000")).extension

    assert asked is not None
    assert (asked.fuse_usd, asked.money_deadline_seconds) == ("8.000000", BY_MONEY)
    assert asked.watchdog_seconds == BY_MONEY + SPARED


def test_while_it_is_paused_nobody_can_tell_it_anything() -> None:
    """What a listing shows meanwhile is priced, and told when it is back."""
    away = back() | {"interruptions": {"count": 1, "pausedAt": stamp(-300)}}

    assert unraised(away).extension is None


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        pytest.param(back(moneyDeadlineSeconds=1001), Reason.CONNECTING, id="it may be told yet"),
        pytest.param(back(moneyDeadlineSeconds=999), Reason.OUTBID, id="it was not told in time"),
        pytest.param(
            back(moneyDeadlineSeconds=999)
            | {"interruptions": {"count": 1, "pausedAt": stamp(-300)}},
            Reason.OUTBID,
            id="it will be told by nobody",
        ),
        pytest.param(
            back(moneyDeadlineSeconds=999, watchdogSeconds=1590),
            Reason.CONNECTING,
            id="it was told",
        ),
        pytest.param(
            back(moneyDeadlineSeconds=408, watchdogSeconds=408 + SPARED),
            Reason.BUDGET_EXHAUSTED,
            id="its fuse is spent as well",
        ),
    ],
)
def test_a_machine_that_would_destroy_itself_is_given_up_for_another(
    status: dict[str, Any], reason: Reason
) -> None:
    """It is no host's fault, and not the end of the job while money is left under its fuse."""
    asked = {"fuseUSD": "5.000000", "moneyDeadlineSeconds": 999, "watchdogSeconds": 1590}
    if "watchdogSeconds" not in status["rent"]:
        status = status | {"extension": asked | {"maxLeases": 20}}
    seen = node_observation(
        status | {"rent": status["rent"] | {"stopSeconds": 0}},
        job=job("5.000000", "5.00"),
        report=a_report(run_number=1),
        world=a_world(a_listing(a_lease())),
    )
    plan = plan_node(seen)

    assert plan.reason is reason
    if reason is Reason.OUTBID:
        assert plan.status.end is not None
        assert (plan.status.end.blames, reason.kind.ends) == ("provider", Ends.ATTEMPT)
