"""When a machine was to be destroyed, and whether that was asked for in time."""

from typing import Any

import pytest
from tests.builders import (
    MONOTONIC,
    RECORDED,
    a_job,
    a_lease,
    a_listing,
    a_node,
    a_spec,
    a_world,
    at,
    booted,
    ended,
    leased,
    marker,
    node_observation,
    reachable,
    renting,
    running,
    stamp,
)

from gpujob.api.gpunode import GpuNode, GpuNodeStatus
from gpujob.core.effects import RememberDestroy
from gpujob.core.limits import Limits
from gpujob.core.node.plan import plan_node
from gpujob.core.node.punctuality import (
    destroy_record,
    due_at,
    latest_seconds,
    slack_seconds,
)
from gpujob.core.observation import NodeMemory

STOP = {"reason": "DeadlineExceeded", "message": "it is over"}
RUNS_LONG = running(-4000, -3700)
"""100 s longer than it may."""


def stopped(seconds: float, **more: Any) -> dict[str, Any]:
    """A workload that was told to stop, `seconds` from NOW; it may take 30 s."""
    return RUNS_LONG | {"stop": STOP | {"at": stamp(seconds)} | more}


@pytest.mark.parametrize(
    ("status", "late"),
    [
        (None, None),
        (renting(-40), None),
        (leased(-1199), None),
        (leased(-1260), 60),
        (reachable(-1260), 60),
        (booted(-1260), 60),
        (running(-1260), None),
        (running(-4000, -3600), None),
        (RUNS_LONG, 100),
        # It was told to stop at once, and took what it may take.
        (running(-4000, -3620) | {"stop": STOP | {"at": stamp(-20)}}, None),
        # It was told to 90 s late.
        (stopped(-10), 90),
        # In time, and its end was decided 70 s late.
        (stopped(-100), 70),
        (stopped(-60), 40 + 30),
        # It has ended by itself; its files may take 30 s.
        (stopped(-10, runSeconds=3600, exitCode=0), None),
        (running() | {"rent": marker(-500, moneyDeadlineSeconds=450)}, 50),
        (ended(running()) | {"rent": marker(-500, moneyDeadlineSeconds=500)}, None),
    ],
)
def test_when_it_was_due(status: dict[str, Any] | None, late: float | None) -> None:
    """Now, or when the first of its limits passed: money, deadline, boot, the time to stop."""
    found = due_at(node_observation(status))

    assert found == (None if late is None else at(-late))


def test_a_due_time_is_stored_with_the_end() -> None:
    """The pass that comes late says so itself."""
    status = running() | {"rent": marker(-500, moneyDeadlineSeconds=450)}
    plan = plan_node(node_observation(status))

    assert plan.status.end is not None
    assert plan.status.end.due_at == at(-50)


def test_asking_is_stored_once_it_is_done_with_what_is_stored_anyway() -> None:
    """Nothing is written for it alone, and what is stored stays."""
    told = ended(running()) | {"asOf": stamp(-1)}
    asked, listing = (
        NodeMemory(destroy_asked_at=at(-3), destroy_sent_at=0.0),
        a_listing(a_lease(download_gb=None)),
    )

    def stored(status: dict[str, Any], memory: NodeMemory) -> GpuNodeStatus:
        return plan_node(node_observation(status, memory=memory, world=a_world(listing))).status

    alone, with_figures = stored(told, asked), stored(told | {"asOf": stamp(-100)}, asked)
    again = stored(told | {"asOf": stamp(-100), "destroyAskedAt": stamp(-100)}, asked)

    assert stored(told | {"asOf": stamp(-100)}, NodeMemory()).destroy_asked_at is None
    assert alone == a_node(told).status
    assert with_figures.destroy_asked_at == at(-3)
    assert again.destroy_asked_at == at(-100)


def test_no_release_goes_without_it() -> None:
    """It is evidence only with the release, and after that nobody remembers it."""
    asked = NodeMemory(destroy_sent_at=MONOTONIC - 90, destroy_asked_at=at(-90))
    world = a_world(a_listing(ago=25), a_listing(ago=5))
    status = plan_node(node_observation(ended(running()), memory=asked, world=world)).status

    assert status.released_at is not None
    assert status.destroy_asked_at == at(-90)


def test_a_destroy_may_wait_for_as_long_as_the_gate_reckons_with() -> None:
    """The lag at the cap on machines, without the two listings and the lag of the proof."""
    limits = Limits()

    assert slack_seconds(limits) == 30 + 3 * limits.max_leases


@pytest.mark.parametrize(
    ("due", "asked", "was_late"),
    [(None, 85, False), (None, 86, True), (10, 80, False), (10, 81, True)],
)
def test_only_our_own_delay_counts(due: float | None, asked: float, was_late: bool) -> None:
    """From when it was due until it was asked for; the end was decided 5 s ago. The proof is the
    provider's affair: here it took a week."""
    status = ended(running(), **({} if due is None else {"dueAt": stamp(-due)}))
    told = {"destroyAskedAt": stamp(asked), "releasedAt": stamp(7 * 86_400)}
    record = destroy_record(a_node(status | told), Limits())

    assert record is not None
    assert record.was_late is was_late
    assert record.at == at(7 * 86_400)


def test_the_metric_shows_the_latest_destroy_of_the_last_hour() -> None:
    """Whether it is proved yet or not; neither earlier ones nor attempts that go on count."""

    def asked(late: float, seconds: float) -> GpuNode:
        due = {"dueAt": stamp(seconds - late)}
        return a_node(ended(running(), **due) | {"destroyAskedAt": stamp(seconds)})

    hour = at(-3600)
    before, at_the_edge, inside = asked(90, -3601), asked(80, -3600), asked(7, -3599)
    going_on = [a_node(running()), a_node(ended(running()))]

    assert latest_seconds([], hour) == 0
    assert latest_seconds(going_on, hour) == 0
    assert latest_seconds([before, at_the_edge, *going_on], hour) == 0
    assert latest_seconds([before, inside, asked(2, -5), *going_on], hour) == 7
    # Its end was not due: it was decided 5 s ago.
    assert latest_seconds([a_node(ended(running()) | {"destroyAskedAt": stamp(-4)})], hour) == 1


@pytest.mark.parametrize("status", [running(), ended(running()), ended(renting())])
def test_what_was_not_destroyed_says_nothing(status: dict[str, Any]) -> None:
    """Nor does what an older version destroyed."""
    assert destroy_record(a_node(status | {"releasedAt": stamp()}), Limits()) is None


def test_the_evidence_is_kept_before_the_node_may_go() -> None:
    """It is reckoned from what is stored, so any process can do it."""
    told = {"destroyAskedAt": stamp(-4), "releasedAt": stamp(-1)}
    job = a_job(a_spec(), RECORDED | {"nodeUID": None, "nodeName": None})
    plan = plan_node(node_observation(ended(running()) | told, job=job))
    kinds = [type(one).__name__ for one in plan.effects]

    assert kinds.index("RememberDestroy") < kinds.index("RemoveFinalizer")
    (kept,) = (one for one in plan.effects if isinstance(one, RememberDestroy))
    assert not kept.record.was_late
