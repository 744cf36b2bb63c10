"""A job that has not begun to run within its user's patience fails, and nothing rented stays."""

from dataclasses import replace
from typing import Any

import pytest
from tests import builders
from tests.builders import (
    DRIVEN,
    KEYED,
    MONOTONIC,
    NODE_UID,
    a_job,
    a_lease,
    a_listing,
    a_node,
    a_report,
    a_spec,
    a_world,
    at,
    booted,
    ended,
    job_observation,
    leased,
    node_observation,
    quotes,
    reachable,
    renting,
    running,
    stamp,
)

from gpujob.api.gpujob import GpuJob
from gpujob.api.reasons import Reason
from gpujob.core.job.pending import with_pending
from gpujob.core.job.plan import plan_job
from gpujob.core.node.facts import pending_seconds_left
from gpujob.core.node.plan import plan_node
from gpujob.core.observation import NodeMemory

RECORDED: dict[str, Any] = builders.RECORDED
WISH: dict[str, Any] = {"pendingDeadlineSeconds": 600}


def waiting(seconds: float, before: int = 0, *, spec: Any = WISH, **status: Any) -> GpuJob:
    """A job that has waited for so long, and for `before` seconds until it was suspended."""
    pending = {"since": stamp(-seconds), "seconds": before}
    return a_job(a_spec(**spec), {"pending": pending} | status)


def test_the_first_pass_begins_to_count() -> None:
    """By our clock: the API server's creationTimestamp may be of any time."""
    seen = job_observation(job=a_job(creationTimestamp=stamp(-9999)))

    pending = plan_job(seen).status.pending
    assert pending is not None
    assert (pending.since, pending.seconds) == (at(0), 0)
    assert plan_job(seen).status.end is None


@pytest.mark.parametrize(
    ("job", "is_over"),
    [
        (waiting(599.9), False),
        (waiting(600), True),
        (waiting(500, before=100), True),
        (waiting(499, before=100), False),
        (waiting(10**6, spec={}), False),
        (waiting(10**6, spec={"suspend": True} | WISH), False),
        (waiting(10**6, startTime=stamp(-900)), False),
        (waiting(10**6, finalizers=[]), True),
    ],
)
def test_a_wait_ends_when_its_user_said_so(job: GpuJob, is_over: bool) -> None:
    """Whatever the market says, and only if the workload has never begun."""
    for answer in (quotes(), None):
        plan = plan_job(job_observation(job=job, quotes=answer))
        assert (plan.reason is Reason.PENDING_DEADLINE_EXCEEDED) is is_over
        assert (plan.status.end is not None) is is_over
        assert not (is_over and plan.effects)


def test_the_next_look_is_at_the_deadline() -> None:
    """A job that is looked at once in a while is over in time all the same."""
    plan = plan_job(job_observation(job=waiting(595), quotes=quotes(), node=None))
    assert plan.requeue_seconds == 0, "a node is made"
    late = replace(job_observation(job=waiting(595)), quotes=None)
    assert plan_job(late).requeue_seconds == pytest.approx(5)
    under_way = job_observation(job=waiting(595, **RECORDED), node=a_node(DRIVEN))
    assert plan_job(under_way).requeue_seconds == pytest.approx(5)


def test_the_time_of_a_suspension_does_not_count() -> None:
    """What was waited before does."""
    stopped = waiting(250.7, before=100, spec=WISH | {"suspend": True})
    held = with_pending(job_observation(job=stopped)).job.status.pending
    assert held is not None
    assert (held.since, held.seconds) == (None, 350)

    still = a_job(a_spec(suspend=True, **WISH), {"pending": {"seconds": 350}})
    seen = with_pending(job_observation(job=still, world=a_world(now=at(9999))))
    assert seen.job.status.pending == still.status.pending

    resumed = a_job(a_spec(**WISH), {"pending": {"seconds": 350}})
    again = with_pending(job_observation(job=resumed)).job.status.pending
    assert again is not None
    assert (again.since, again.seconds) == (at(0), 350)


def test_an_end_says_what_was_waited_for() -> None:
    """In one sentence, with what can be done."""
    ready = {
        "type": "Ready",
        "status": "False",
        "reason": "CeilingExceeded",
        "message": "nothing fits",
        "lastTransitionTime": stamp(),
    }
    plan = plan_job(job_observation(job=waiting(600, conditions=[ready]), quotes=quotes()))

    assert plan.status.end is not None
    for words in ("(600 s)", "CeilingExceeded: nothing fits", "longer pendingDeadlineSeconds"):
        assert words in plan.status.end.message


@pytest.mark.parametrize("status", [{}, KEYED, DRIVEN, renting(), leased(), booted()])
def test_an_attempt_that_has_not_begun_to_run_ends(status: dict[str, Any]) -> None:
    """Its machine is given back, and the job is over once that is gone."""
    world = a_world(a_listing(a_lease())) if "lease" in status else a_world()
    seen = node_observation(status, world=world, job=waiting(599, **RECORDED), quotes=quotes())
    assert plan_node(seen).status.end is None

    plan = plan_node(replace(seen, job=waiting(600, **RECORDED)))
    assert plan.status.end is not None
    assert plan.status.end.reason == Reason.PENDING_DEADLINE_EXCEEDED
    assert plan.effects == ()

    over = ended(status, "PendingDeadlineExceeded") | {
        "releasedAt": stamp(),
        "accruedUSD": "0.010000",
    }
    job = plan_job(job_observation(job=waiting(600, **RECORDED), node=a_node(over)))
    assert job.reason is Reason.PENDING_DEADLINE_EXCEEDED
    assert job.status.cost.final_usd == "0.010000"


def test_a_job_whose_attempt_is_under_way_is_not_over_before_it() -> None:
    """Neither one that is recorded, nor one that was just made."""
    held: dict[str, Any]
    for held in (RECORDED, {}):
        seen = job_observation(job=waiting(900, **held), node=a_node(DRIVEN))
        assert plan_job(seen).status.end is None


def test_one_that_waits_for_a_former_node_is_over() -> None:
    """Whose machine is nothing to it."""
    seen = job_observation(job=waiting(900), node=a_node(running()))
    other = replace(seen, job=seen.job.model_copy(update={"metadata": a_job(uid="j-2").metadata}))

    assert plan_job(other).reason is Reason.PENDING_DEADLINE_EXCEEDED


def test_a_machine_that_nobody_remembers_is_charged_first() -> None:
    """Else the final cost would be wrong."""
    mark = a_lease().mark
    assert mark is not None
    stray = mark.replace(NODE_UID, "other-node")
    world = a_world(a_listing(a_lease(label=stray, env_mark=stray)))
    plan = plan_job(job_observation(job=waiting(900), world=world))

    assert (plan.reason, plan.status.end) == (Reason.RELEASING, None)


@pytest.mark.parametrize(
    ("status", "watched", "changes", "left"),
    [
        pytest.param(booted(), 0.0, {}, 300.0, id="a new leader"),
        pytest.param(booted(), 299.0, {}, 1.0, id="one that has waited"),
        pytest.param(booted(), 300.0, {}, None, id="one that has waited for long"),
        pytest.param(booted(), 0.0, {"report": a_report()}, None, id="it has heard the driver"),
        pytest.param(reachable(), 0.0, {}, None, id="nothing was started yet"),
    ],
)
def test_a_new_leader_hears_the_driver_before_it_is_too_late(
    status: dict[str, Any], watched: float, changes: dict[str, Any], left: float | None
) -> None:
    """The workload may have begun in time, and nobody was there to record it."""
    began = NodeMemory(marker_seen_at=MONOTONIC - watched, watched_since=MONOTONIC - watched)
    observed: dict[str, Any] = {"report": None, "memory": began} | changes
    world = a_world(a_listing(a_lease()))
    seen = node_observation(status, world=world, job=waiting(600, **RECORDED), **observed)
    plan = plan_node(seen)

    assert (plan.status.end is None) is (left is not None)
    assert left is None or pending_seconds_left(seen) == pytest.approx(left)


@pytest.mark.parametrize(
    "seen",
    [
        node_observation(running(), job=waiting(9999, **RECORDED)),
        node_observation(booted(), job=waiting(9999, **RECORDED), report=a_report(run_seconds=0.1)),
        node_observation(
            booted() | {"interruptions": {"count": 1, "resumedAt": stamp(-5), "runSeconds": 7}},
            job=waiting(9999, **RECORDED),
        ),
        node_observation(booted(), job=waiting(9999, **RECORDED, startTime=stamp(-900))),
    ],
    ids=["running", "just begun", "interrupted", "retried"],
)
def test_what_has_begun_once_is_never_too_late(seen: Any) -> None:
    """Not even if it begins again."""
    listed = a_world(a_listing(a_lease()))
    assert plan_node(replace(seen, world=listed)).status.end is None
