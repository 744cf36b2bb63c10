"""What costs nothing fails nothing: it waits, says why, and goes on once it is repaired."""

from dataclasses import replace
from typing import Any

import pytest
from tests.builders import (
    DRIVEN,
    KEYED,
    MONOTONIC,
    NODE_UID,
    NOW,
    RECORDED,
    a_job,
    a_lease,
    a_listing,
    a_node,
    a_pod,
    a_report,
    a_spec,
    a_world,
    ended,
    job_observation,
    leased,
    node_observation,
    quotes,
    renting,
    running,
    stamp,
)

from gpujob.api.meta import Condition
from gpujob.api.reasons import Reason
from gpujob.core import effects
from gpujob.core.conditions import job_status, node_status, tells_of_refusal
from gpujob.core.effects import Plan
from gpujob.core.job.plan import plan_job
from gpujob.core.limits import Limits
from gpujob.core.node.plan import plan_node
from gpujob.core.observation import NodeMemory, NodeObservation, PodSight, sighted
from gpujob.core.refusals import LONGEST_SECONDS, Refusal, Refusals, refused, without_refused
from gpujob.core.settling import settle_job, settle_node

QUOTA = 'secrets "x" is forbidden: exceeded quota: none'
POD = "train-0-1-driver"
UNHEARD = KEYED | {"driver": {"podName": POD, "podUID": "p-1"}}
"""A node whose driver has not reported yet."""


def kinds(plan: Plan[Any]) -> list[str]:
    """Returns the names of a plan's effects."""
    return [type(one).__name__ for one in plan.effects]


def seen_for(
    seconds: float, *, leaving: float | None = None, gone: float | None = None
) -> NodeMemory:
    """This process has seen the pod for so long, and being deleted, or gone, for so long."""
    sight = PodSight(
        "p-1",
        MONOTONIC - seconds,
        leaving_since=None if leaving is None else MONOTONIC - leaving,
        gone_since=None if gone is None else MONOTONIC - gone,
    )
    return NodeMemory(marker_seen_at=MONOTONIC - 40, pod_sight=sight)


def refusal(effect: type[Any], *, ago: float = 1.0, wait: float = 10.0) -> Refusals:
    """The cluster has refused this effect, which is to wait for so long."""
    held = Refusal(
        words=QUOTA,
        may_pass=False,
        since=MONOTONIC - ago,
        tries=3,
        again_at=MONOTONIC + wait,
    )
    return {effect: held}


# --- A refusal ------------------------------------------------------------------------------------


def test_the_pauses_grow_and_end_within_a_minute() -> None:
    """However long it takes to repair, it goes on within a minute."""
    held, now, waits = None, 0.0, []
    for _ in range(12):
        held = refused(held, QUOTA, may_pass=False, now=now)
        waits.append(held.again_at - now)
        now = held.again_at

    assert waits[:5] == [0.5, 1.0, 2.0, 4.0, 8.0]
    assert set(waits[8:]) == {LONGEST_SECONDS}
    assert LONGEST_SECONDS < 60


def test_what_may_pass_is_told_once_it_does_not() -> None:
    """An API server that restarts makes no event for each object."""
    first = refused(None, "status 503", may_pass=True, now=0.0)

    assert not first.is_told(4.9)
    assert first.is_told(5.0)
    assert refused(first, QUOTA, may_pass=False, now=1.0).is_told(1.0)


def test_no_answer_takes_no_refusal_back() -> None:
    """What was said definitely is shown on."""
    definite = refused(None, QUOTA, may_pass=False, now=0.0)
    vague = refused(definite, "no answer: TimeoutError", may_pass=True, now=1.0)

    assert vague.words == QUOTA
    assert vague.is_told(1.0)


def test_what_was_refused_long_ago_begins_anew() -> None:
    """A job that was suspended for an hour does not show what was wrong before."""
    old = refused(None, QUOTA, may_pass=False, now=0.0)
    plan = Plan(
        status=a_job().status,
        reason=Reason.ACCEPTED,
        message="",
        effects=(effects.CreateService({}),),
        requeue_seconds=0,
    )

    assert refused(old, QUOTA, may_pass=False, now=3600.0).tries == 1
    assert without_refused(plan, {effects.CreateService: old}, 3600.0).refused == ""


@pytest.mark.parametrize(
    ("effect", "seen"),
    [
        (effects.AddFinalizer, job_observation(job=a_job(finalizers=[]), quotes=quotes())),
        (effects.RemoveFinalizer, job_observation(job=a_job(deletionTimestamp=stamp()))),
        (effects.CreateNode, job_observation(quotes=quotes())),
        (
            effects.CreateService,
            job_observation(job=a_job(a_spec(ports=[{"name": "http", "port": 80}]))),
        ),
        (
            effects.DeleteJob,
            job_observation(
                job=a_job(
                    a_spec(ttlSecondsAfterFinished=1),
                    {
                        "end": {"reason": "Complete", "message": "done"},
                        "completionTime": stamp(-9),
                    },
                    finalizers=[],
                )
            ),
        ),
    ],
    ids=lambda one: getattr(one, "__name__", ""),
)
def test_whatever_is_refused_to_a_job_is_told(effect: type[Any], seen: Any) -> None:
    """In the API server's words; the effect waits until it is due, and the job fails by nothing."""
    due = plan_job(replace(seen, refusals=refusal(effect, wait=0.0)))
    early = plan_job(replace(seen, refusals=refusal(effect, wait=10.0)))

    assert effect.__name__ in kinds(due)
    assert effect.__name__ not in kinds(early)
    assert early.requeue_seconds == pytest.approx(10.0)
    for plan in (due, early):
        told = job_status(seen.job, plan, NOW)
        wanted = "Released" if seen.job.status.end else "Ready"
        (shown,) = (one for one in told.conditions if one.type == wanted)
        assert shown.reason == Reason.CLUSTER_REFUSED
        assert QUOTA in shown.message
        assert told.end == seen.job.status.end


@pytest.mark.parametrize(
    ("effect", "seen"),
    [
        (effects.CreateKey, node_observation()),
        (effects.CreateDriver, node_observation(KEYED, pod=None, report=None)),
        (effects.DeleteDriver, node_observation(DRIVEN, pod=a_pod(phase="Failed"), report=None)),
        (
            effects.RemoveFinalizer,
            node_observation(ended({}, "JobDeleted") | {"releasedAt": stamp(-1)}, job=None),
        ),
        (
            effects.DeleteNode,
            node_observation(ended({}, "JobDeleted") | {"releasedAt": stamp(-86_401)}, job=None),
        ),
    ],
    ids=lambda one: getattr(one, "__name__", ""),
)
def test_whatever_is_refused_to_a_node_is_told(effect: type[Any], seen: Any) -> None:
    """In the API server's words; the effect waits until it is due, and the attempt goes on."""
    due = plan_node(replace(seen, refusals=refusal(effect, wait=0.0)))
    early = plan_node(replace(seen, refusals=refusal(effect, wait=4.0)))

    assert effect.__name__ in kinds(due)
    assert effect.__name__ not in kinds(early)
    assert early.requeue_seconds is not None
    assert early.requeue_seconds <= 4.0
    for plan in (due, early):
        told = node_status(seen.node, plan, NOW)
        (ready,) = (one for one in told.conditions if one.type == "Ready")
        assert ready.reason == Reason.CLUSTER_REFUSED
        assert QUOTA in ready.message
        assert told.end == seen.node.status.end


def test_a_refusal_holds_nothing_else_up() -> None:
    """A node that is released is let go although its driver pod cannot be deleted."""
    status = ended({}, "JobDeleted") | {"releasedAt": stamp(-100)}
    seen = node_observation(status, job=None, refusals=refusal(effects.DeleteDriver))

    assert kinds(plan_node(seen)) == ["RemoveFinalizer", "DeleteNode"]


def test_no_price_is_asked_for_while_a_node_cannot_be_made() -> None:
    """Searches are few, and each look would change what the job says."""
    seen = job_observation(refusals=refusal(effects.CreateNode))
    waiting, due = (
        settle_job(seen),
        settle_job(replace(seen, refusals=refusal(effects.CreateNode, wait=0.0))),
    )

    assert not waiting.plan.wants_quotes
    assert due.plan.wants_quotes
    for settled in (waiting, due):
        assert tells_of_refusal(settled.statuses[-1].conditions)


def test_a_running_job_runs_on_without_its_service() -> None:
    """What is refused then is told, and its Ready stays what it is."""
    ready = Condition(
        type="Ready", status="True", reason="Running", message="runs", last_transition_time=NOW
    )
    node = a_node(running() | {"conditions": [ready.wire()]})
    job = a_job(a_spec(ports=[{"name": "http", "port": 80}]), RECORDED)
    seen = job_observation(job=job, node=node, refusals=refusal(effects.CreateService))
    told = {one.type: one for one in settle_job(seen).statuses[-1].conditions}

    assert told["Ready"].reason == told["Running"].reason == "Running"
    assert told["Running"].status == "True"
    assert QUOTA in told["Reconciling"].message


# --- Waiting for a driver -------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [301, 4800, 10**7])
@pytest.mark.parametrize("status", [{}, KEYED, UNHEARD, DRIVEN])
def test_no_wait_ends_an_attempt_that_costs_nothing(status: Any, seconds: float) -> None:
    """Whatever the cluster refuses, and however long."""
    memory = replace(
        seen_for(seconds), unready_since=MONOTONIC - seconds, pod_missing_since=MONOTONIC - seconds
    )
    for pod in (None, a_pod(phase="Pending"), a_pod(is_being_deleted=True)):
        seen = node_observation(
            status,
            pod=pod,
            report=None,
            memory=memory,
            unheard_seconds=seconds,
            driver_silence_seconds=seconds,
            refusals=refusal(effects.CreateDriver),
        )
        plan = plan_node(seen)
        assert plan.status.end is None
        assert not plan.status.rent


def test_a_pod_that_does_not_start_is_replaced() -> None:
    """What keeps it, such as a back-off of the kubelet, may be gone with another one."""
    pending = a_pod(phase="Pending", waiting="ImagePullBackOff")
    seen = node_observation(UNHEARD, pod=pending, report=None, memory=seen_for(299))

    assert kinds(plan_node(seen)) == []
    plan = plan_node(replace(seen, memory=seen_for(300)))
    assert kinds(plan) == ["DeleteDriver"]
    assert "ImagePullBackOff" in plan.message


def test_a_driver_that_its_machine_does_not_heed_is_replaced() -> None:
    """A restored record names an earlier one than the machine has heard: a later one follows."""
    world = a_world(a_listing(a_lease()))
    seen = node_observation(running(), world=world, report=a_report(is_replaced=True))
    ending = replace(seen, pod=a_pod(is_being_deleted=True))

    plan = plan_node(seen)
    assert (kinds(plan), plan.status.end) == (["DeleteDriver"], None)
    assert kinds(plan_node(ending)) == []
    gone = plan_node(replace(seen, pod=None, report=None))
    assert (kinds(gone), gone.status.driver_pod_number) == (["CreateDriver"], 2)


def test_a_pod_that_went_before_it_was_recorded_gives_its_name_to_no_other() -> None:
    """It may have been deleted by force, and run on."""
    sight = PodSight("p-1", MONOTONIC - 9, gone_since=MONOTONIC - 1, name=POD)
    seen = node_observation(KEYED, pod=None, report=None, memory=NodeMemory(pod_sight=sight))
    plan = plan_node(seen)
    again = plan_node(replace(seen, node=a_node(KEYED | {"driverPodNumber": 2})))

    assert (kinds(plan), plan.status.driver_pod_number) == (["CreateDriver"], 2)
    assert (kinds(again), again.status.driver_pod_number) == (["CreateDriver"], 2)


def test_a_pod_is_recorded_with_what_follows_from_its_first_report() -> None:
    """Until then it is told to wait like one that is recorded, so nothing is stored for it."""
    silent = settle_node(node_observation(KEYED, pod=a_pod(), report=None))
    heard = settle_node(node_observation(KEYED, pod=a_pod(), quotes=quotes()))

    assert silent.statuses[-1].driver is None
    assert [type(one).__name__ for one in heard.plan.effects] == ["Rent"]
    assert heard.statuses[-1].driver.pod_uid == a_pod().uid
    assert heard.statuses[-1].driver.ready_at == NOW


@pytest.mark.parametrize("status", [DRIVEN, running()])
def test_a_pod_that_follows_another_is_recorded_at_once(status: dict[str, Any]) -> None:
    """Else the one before would still be told what to do, and count as ready."""
    seen = node_observation(status, pod=a_pod(uid="p-2"), report=None, quotes=quotes())
    recorded = settle_node(seen).statuses[-1].driver

    assert (recorded.pod_uid, recorded.ready_at) == ("p-2", None)


def test_no_clock_but_ours_ages_a_pod() -> None:
    """The API server's may differ from ours by any amount: it is never asked."""
    seen = node_observation(UNHEARD, report=None, memory=seen_for(1))

    assert plan_node(seen).message == "the driver pod is Running"
    assert not hasattr(a_pod(), "created_at")


def test_what_is_reserved_is_given_back_and_reserved_anew() -> None:
    """A driver that is not there for 300 s holds no money back from other jobs."""
    waits = NodeMemory(unready_since=MONOTONIC - 299)
    seen = node_observation(KEYED, pod=None, report=None, memory=waits)
    assert plan_node(seen).status.reserved_usd is None

    seen = replace(seen, memory=NodeMemory(unready_since=MONOTONIC - 300))
    assert plan_node(seen).status.reserved_usd == "0.000000"

    back = DRIVEN | {"reservedUSD": "0.000000"}
    late = node_observation(back, quotes=quotes(), job=a_job(status=RECORDED))
    assert plan_node(late).status.reserved_usd == "0.000000", "the job has not recorded it yet"

    known = a_job(status=RECORDED | {"nodeReservedUSD": "0.000000"})
    anew = plan_node(replace(late, job=known))
    assert (anew.status.reserved_usd, anew.effects) == ("5.000000", ())

    again = node_observation(DRIVEN | {"reservedUSD": "5.000000"}, quotes=quotes())
    assert kinds(plan_node(replace(again, job=known))) == []
    assert kinds(plan_node(again)) == ["Rent"]


def test_a_wait_gives_back_nothing_of_a_machine() -> None:
    """Once the marker is stored, its fuse stays reserved."""
    waits = NodeMemory(unready_since=MONOTONIC - 4800, marker_seen_at=MONOTONIC)
    for status in (renting(), leased(), running()):
        plan = plan_node(node_observation(status, pod=None, report=None, memory=waits))
        assert plan.status.reserved_usd is None


def test_what_was_reserved_once_is_charged_after_a_restore() -> None:
    """A backup of the time in which nothing was reserved does not make a machine free."""
    unpriced = a_world(a_listing(a_lease(usd_per_hour=None)))
    plan = plan_node(node_observation(DRIVEN | {"reservedUSD": "0.000000"}, world=unpriced))

    assert plan.status.accrued_usd == "5.000000"
    assert plan.status.rent is not None
    assert plan.status.rent.fuse_usd == "5.000000"


# --- A successor ----------------------------------------------------------------------------------


def successor_of(seen: NodeObservation) -> dict[str, Any] | None:
    """Returns the driver pod that is made now; None = none."""
    plan = settle_node(seen).plan
    made = [one.manifest for one in plan.effects if isinstance(one, effects.CreateDriver)]
    return made[0] if made else None


@pytest.mark.parametrize("status", [UNHEARD, DRIVEN, running()])
def test_a_driver_whose_node_died_is_followed_by_another(status: Any) -> None:
    """As soon as it is past its grace, by our clock; the machine is kept."""
    dying = node_observation(
        status, pod=a_pod(is_being_deleted=True, grace_seconds=10.0), report=None
    )
    assert successor_of(replace(dying, memory=seen_for(400, leaving=9.9))) is None

    seen = replace(dying, memory=seen_for(400, leaving=10.0))
    pod = successor_of(seen)
    assert pod is not None
    assert pod["metadata"]["name"] == "train-0-1-driver-2"
    last = settle_node(seen).statuses[-1]
    assert (last.end, last.driver_pod_number) == (None, 2)
    assert last.driver.pod_uid == "p-1", "until the other one exists"


def test_a_driver_that_is_gone_leaves_its_name_to_nobody() -> None:
    """Nor does one that somebody else's pod has the name of."""
    gone = node_observation(running(), pod=None, report=None)
    taken = node_observation(KEYED, pod=None, report=None, taken_name="train-0-1-driver")

    for seen in (gone, taken):
        pod = successor_of(seen)
        assert pod is not None
        assert pod["metadata"]["name"] == "train-0-1-driver-2"


def test_the_pod_under_an_earlier_name_is_not_the_driver() -> None:
    """It may come back with its node."""
    status = running() | {"driverPodNumber": 2}
    pod = successor_of(node_observation(status, pod=a_pod()))

    assert pod is not None
    assert pod["metadata"]["name"] == "train-0-1-driver-2"


def test_pods_that_come_to_nothing_follow_each_other_more_and_more_seldom() -> None:
    """The second comes at once, and none later than in a minute."""

    def pause(number: int) -> float:
        for seconds in range(90):
            status = KEYED | {"driverPodNumber": number}
            memory = seen_for(500, gone=seconds)
            if successor_of(node_observation(status, pod=None, report=None, memory=memory)):
                return seconds
        raise AssertionError("none follows")

    assert [pause(number) for number in (2, 3, 4, 5, 6, 7, 30)] == [0, 5, 10, 20, 40, 45, 45]


def test_a_machine_without_any_driver_ends_as_ours() -> None:
    """Its watchdog would end it then; neither host nor job is to blame."""
    limits = Limits()
    silent = node_observation(running(), report=None, unheard_seconds=899.0)
    assert plan_node(silent).status.end is None

    for seconds, memory in (
        (limits.heartbeat_stale_seconds, silent.memory),
        (300.0, replace(silent.memory, pod_missing_since=MONOTONIC - 300)),
    ):
        pod = None if seconds == 300.0 else silent.pod
        status = running() | {"driverPodNumber": 2}
        node = a_node(status if pod is None else running())
        plan = plan_node(
            replace(silent, node=node, pod=pod, memory=memory, unheard_seconds=seconds)
        )
        assert plan.status.end is not None
        assert (plan.status.end.reason, plan.status.end.blames) == ("DriverLost", "operator")


def test_a_pod_is_as_old_as_it_was_seen() -> None:
    """A new one has its time, and one that is gone is remembered for the next."""
    first = sighted(None, a_pod(), 1.0)
    assert first == PodSight("p-1", 1.0, name=POD)
    assert sighted(first, a_pod(), 9.0) == first
    leaving = sighted(first, a_pod(is_being_deleted=True), 10.0)
    assert leaving == PodSight("p-1", 1.0, leaving_since=10.0, name=POD)
    assert sighted(leaving, a_pod(is_being_deleted=True), 11.0) == leaving
    gone = sighted(leaving, None, 12.0)
    assert gone == replace(leaving, gone_since=12.0)
    assert sighted(gone, None, 13.0) == gone
    assert sighted(gone, a_pod(uid="p-2"), 14.0) == PodSight("p-2", 14.0, name=POD)
    assert sighted(None, None, 1.0) is None


# --- A node of an earlier job ---------------------------------------------------------------------


def test_a_released_node_of_a_job_that_is_gone_gives_way() -> None:
    """`kubectl delete --cascade=orphan` leaves it, and the next job needs its name."""
    released = ended({}, "JobDeleted") | {"releasedAt": stamp(-1)}
    seen = job_observation(
        job=a_job(uid="j-2", finalizers=[]), node=a_node(released), quotes=quotes()
    )
    plan = plan_job(seen)

    assert plan.effects == (effects.DeleteFormerNode("train-0-1", NODE_UID),)
    assert plan.status.node_uid is None
    leaving = a_node(released, deletionTimestamp=stamp())
    assert plan_job(replace(seen, node=leaving)).effects == ()


@pytest.mark.parametrize(
    "status",
    [
        {},
        running(),
        ended(running()),
        # Nobody has decided that this one is over.
        {"releasedAt": stamp(-1)},
    ],
)
def test_a_former_node_that_may_hold_a_machine_is_waited_for(status: Any) -> None:
    """And what can be done is told."""
    ready = Condition(
        type="Ready",
        status="False",
        reason="AccountChanged",
        message="put the key back",
        last_transition_time=NOW,
    )
    node = a_node(status | {"conditions": [ready.wire()]})
    plan = plan_job(
        job_observation(job=a_job(uid="j-2", finalizers=[]), node=node, quotes=quotes())
    )

    assert (plan.reason, plan.effects) == (Reason.FORMER_NODE, ())
    for words in (
        "AccountChanged",
        "put the key back",
        "kubectl describe gpunode train-0-1 -n team",
    ):
        assert words in plan.message
    assert "with another name" in plan.message


def test_races_that_are_lost_end_no_job() -> None:
    """Nothing was paid for them."""
    lost = a_node(ended({}, "OfferGone") | {"releasedAt": stamp(-1), "accruedUSD": "0.000000"})
    for attempt in (1000, 9_999, 999_999):
        job = a_job(status=RECORDED | {"attempt": attempt})
        assert plan_job(job_observation(job=job, node=lost)).status.end is None
