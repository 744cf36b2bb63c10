"""Jobs in a queue of Kueue: nothing is rented before it admits them, or kept after it does not."""

from typing import Any

import pytest
from tests.builders import (
    NOW,
    RECORDED,
    a_job,
    a_node,
    a_spec,
    a_world,
    job_observation,
    node_observation,
    stamp,
)

from gpujob.api.meta import FINALIZER
from gpujob.api.reasons import Reason
from gpujob.core.effects import RemoveFinalizer
from gpujob.core.job.plan import plan_job
from gpujob.core.node.plan import plan_node
from gpujob.core.queue import (
    GPUS,
    LABEL_PRIORITY,
    LABEL_QUEUE,
    USD,
    Step,
    fault,
    finalizers_of,
    finished,
    next_step,
    released,
    workload_name,
    workload_of,
)

QUEUED = {"labels": {LABEL_QUEUE: "team"}}
NAME = workload_name(a_job(**QUEUED))
OVER = {
    "end": {"reason": "Complete", "message": "well"},
    "completionTime": stamp(),
    "admittedBy": NAME,
}
STRAY = {
    "strays": [
        {"instanceID": 5, "since": stamp(), "usdPerHour": "1.000000", "trafficUSD": "0.000000"}
    ]
}


META = {"name": NAME, "namespace": "team", "generation": 3, "resourceVersion": "7"}
KEPT = META | {"finalizers": ["kueue.x-k8s.io/resource-in-use", FINALIZER]}


def a_workload(*conditions: str, **changes: Any) -> dict[str, Any]:
    """A Workload for which these conditions hold."""
    held = [
        {"type": kind, "status": "True", "reason": "Preempted", "message": "m"}
        | {"lastTransitionTime": stamp(-60)}
        for kind in conditions
    ]
    spec = workload_of(a_job(**QUEUED), None)["spec"] | {"active": True}
    return {"metadata": META, "spec": spec, "status": {"conditions": held}} | changes


def admitted(**changes: Any) -> dict[str, Any]:
    """One that may run."""
    return a_workload("QuotaReserved", "Admitted", **changes)


def asking(*amounts: str, **changes: Any) -> dict[str, Any]:
    """What is held and was admitted, for these amounts of GPUs and dollars."""
    requests = dict(zip((GPUS, USD), amounts, strict=True))
    container = {"name": "workload", "resources": {"requests": requests}}
    pods = {"count": 1, "template": {"spec": {"containers": [container]}}} | changes
    return admitted(metadata=KEPT, spec={"podSets": [pods]})


HELD = {"admittedBy": NAME}
OTHER = {"name": "another", "namespace": "team"}
GONE = KEPT | {"deletionTimestamp": stamp()}
ADMITTED = {**RECORDED, **HELD}
ROWS: tuple[tuple[str, dict[str, Any], dict[str, Any] | None, Step | None], ...] = (
    ("new", {}, None, Step.CREATE),
    ("its Workload was deleted", ADMITTED, None, Step.WITHDRAW),
    ("over before it had one", OVER | {"admittedBy": None}, None, None),
    ("its Workload was deleted, and its machine runs", RECORDED, None, None),
    (
        "its admission was of another Workload",
        {"admittedBy": "b"},
        admitted(metadata=KEPT),
        Step.ADMIT,
    ),
    ("another than it asks for", {}, admitted(metadata=OTHER), Step.FINISH),
    ("another than it asks for, and its machine runs", ADMITTED, admitted(metadata=OTHER), None),
    ("waits", {}, a_workload(), None),
    ("has quota, but other checks wait", {}, a_workload("QuotaReserved"), None),
    ("is admitted", {}, admitted(), Step.HOLD),
    ("is admitted, and held", {}, admitted(metadata=KEPT), Step.ADMIT),
    ("runs", ADMITTED, admitted(metadata=KEPT), None),
    ("was admitted by an earlier release", ADMITTED, admitted(), Step.HOLD),
    ("is deleted, and its machine runs", RECORDED, admitted(metadata=GONE), None),
    ("is deleted, and a stray runs", STRAY, admitted(metadata=GONE), None),
    ("is deleted, nothing is owed", {}, admitted(metadata=GONE), Step.LET_GO),
    ("asks for fewer GPUs", ADMITTED, asking("0", "5"), Step.WITHDRAW),
    ("asks for fewer dollars", ADMITTED, asking("1", "4"), Step.WITHDRAW),
    ("asks for nothing that can be read", ADMITTED, asking("1e9", "many"), Step.WITHDRAW),
    ("asks for nothing", ADMITTED, admitted(metadata=KEPT, spec={}), Step.WITHDRAW),
    ("may be given fewer pods", ADMITTED, asking("1", "1", count=9, minCount=1), Step.WITHDRAW),
    ("asks for less, and nothing is owed", {}, asking("0", "5"), Step.LET_GO),
    ("asks for more", {}, asking("1k", "2M"), Step.ADMIT),
    ("is evicted", ADMITTED, a_workload("QuotaReserved", "Admitted", "Evicted"), Step.WITHDRAW),
    ("is deactivated", ADMITTED, admitted(spec={"active": False}), Step.WITHDRAW),
    (
        "its Workload is being deleted",
        ADMITTED,
        admitted(metadata={"name": NAME, "namespace": "team", "deletionTimestamp": stamp()}),
        Step.WITHDRAW,
    ),
    ("its Workload is finished by another", ADMITTED, a_workload("Finished"), Step.WITHDRAW),
    ("a status that says nothing", ADMITTED, a_workload(status={}), Step.WITHDRAW),
    ("evicted, and its machine runs", RECORDED, a_workload("QuotaReserved", "Evicted"), None),
    ("evicted, and a stray runs", STRAY, a_workload("QuotaReserved", "Evicted"), None),
    ("evicted, nothing is owed", {}, a_workload("QuotaReserved", "Evicted"), Step.RELEASE),
    ("has given its quota back", {}, a_workload("Evicted"), None),
    (
        "has given its quota back, and is held",
        {},
        a_workload("Evicted", metadata=KEPT),
        Step.LET_GO,
    ),
    ("is over", OVER, admitted(), Step.FINISH),
    ("is over, and held", OVER, admitted(metadata=KEPT), Step.FINISH),
    (
        "is over, held, and Kueue knows",
        OVER,
        a_workload("Finished", metadata=KEPT),
        Step.LET_GO,
    ),
    (
        "is over, and Kueue knows before its machine is gone",
        OVER | {"nodeUID": "u", "nodeName": "n"},
        a_workload("Finished", metadata=KEPT),
        None,
    ),
    ("is over, and Kueue knows", OVER, a_workload("Admitted", "Finished"), None),
    ("is over, and its machine runs", OVER | {"nodeUID": "u", "nodeName": "n"}, admitted(), None),
)


@pytest.mark.parametrize(
    ("status", "workload", "step"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS]
)
def test_what_is_next(
    status: dict[str, Any], workload: dict[str, Any] | None, step: Step | None
) -> None:
    """Quota is given back last, and what is not clear is no admission."""
    assert next_step(a_job(status=status, **QUEUED), workload) is step


@pytest.mark.parametrize(
    ("kueue", "labels", "status", "waits"),
    [
        (True, QUEUED, {}, True),
        (True, QUEUED, HELD, False),
        (True, {}, {}, False),
        (False, QUEUED, {}, False),
    ],
)
def test_nothing_is_rented_before_the_queue_admits(
    kueue: bool, labels: dict[str, Any], status: dict[str, Any], waits: bool
) -> None:
    """It is told as suspended, with the queue's name."""
    job = a_job(status=status, **labels)
    plan = plan_job(job_observation(job=job, world=a_world(kueue=kueue)))

    assert (plan.reason is Reason.SUSPENDED) is waits
    assert ("in the queue team of Kueue" in plan.message) is waits
    if waits:
        assert not {type(one) for one in plan.effects} - {RemoveFinalizer}


def test_an_attempt_ends_when_its_queue_takes_its_admission_back() -> None:
    """As if it were suspended; nobody is blamed."""
    world = a_world(kueue=True)
    runs = plan_node(node_observation(job=a_job(status=ADMITTED, **QUEUED), world=world))
    ends = plan_node(node_observation(job=a_job(status=RECORDED, **QUEUED), world=world))

    assert runs.status.end is None
    assert ends.status.end is not None
    assert ends.status.end.reason == Reason.SUSPENDED
    assert ends.status.end.message == "its queue took its admission back"


def test_a_workload_counts_gpus_and_dollars() -> None:
    """Its owner is the job, so it goes with it; a second job of the name has another."""
    labels = {LABEL_QUEUE: "team", LABEL_PRIORITY: "urgent"}
    spec = a_spec(gpu={"models": ["RTX 4090"], "count": 2}, cost={"ceiling": "5.20"})
    body = workload_of(a_job(spec, labels=labels), 100)
    (pods,) = body["spec"]["podSets"]
    (container,) = pods["template"]["spec"]["containers"]

    assert container["resources"]["requests"] == {"gpujob.dev/gpus": "2", "gpujob.dev/usd": "6"}
    assert body["spec"]["queueName"] == "team"
    assert (body["spec"]["priority"], body["spec"]["priorityClassRef"]["name"]) == (100, "urgent")
    assert body["metadata"]["ownerReferences"][0]["uid"] == a_job().metadata.uid
    assert body["metadata"]["name"] != workload_name(a_job(uid="another"))
    assert "priorityClassRef" not in workload_of(a_job(**QUEUED), None)["spec"]


@pytest.mark.parametrize(("why", "again"), [("Preempted", "True"), ("Deactivated", "False")])
def test_quota_that_is_given_back(why: str, again: str) -> None:
    """Kueue itself puts back into the queue what was preempted, and nothing else."""
    workload = a_workload("QuotaReserved", "Admitted", "Evicted")
    workload["status"]["admission"] = {"clusterQueue": "gpus"}
    workload["status"]["conditions"][2]["reason"] = why
    status = released(workload, NOW)
    flags = {one["type"]: one["status"] for one in status["conditions"]}

    assert "admission" not in status
    assert flags == {
        "Evicted": "True",
        "QuotaReserved": "False",
        "Admitted": "False",
        "Requeued": again,
    }
    assert {one["lastTransitionTime"] for one in status["conditions"]} == {stamp(), stamp(-60)}
    assert "admission" in workload["status"], "what was read is not changed"


@pytest.mark.parametrize(("reason", "why"), [("Complete", "Succeeded"), ("SpecInvalid", "Failed")])
def test_the_end_that_kueue_is_told(reason: str, why: str) -> None:
    """With the operator's own words."""
    job = a_job(status=OVER | {"end": {"reason": reason, "message": "so"}}, **QUEUED)
    (told,) = [
        one for one in finished(admitted(), job, NOW)["conditions"] if one["type"] == "Finished"
    ]

    assert (told["status"], told["reason"], told["message"]) == ("True", why, "so")


def test_a_job_without_its_node_is_not_at_rest() -> None:
    """The node's name stays until what it cost is charged."""
    job = a_job(status={"nodeName": a_node().metadata.name}, **QUEUED)

    assert next_step(job, a_workload("QuotaReserved", "Evicted")) is None


@pytest.mark.parametrize(
    ("status", "workload", "step"),
    [
        (HELD, admitted(metadata=KEPT), Step.LET_GO),
        (HELD, admitted(), None),
        ({}, admitted(), Step.ADMIT),
        (ADMITTED, admitted(metadata=KEPT), None),
        (ADMITTED, admitted(), Step.HOLD),
    ],
)
def test_a_job_that_its_user_has_suspended_holds_nothing(
    status: dict[str, Any], workload: dict[str, Any], step: Step | None
) -> None:
    """Once its machine is gone: the operator may be uninstalled then, and its quota stays."""
    assert next_step(a_job(a_spec(suspend=True), status=status, **QUEUED), workload) is step


def test_a_workload_that_asks_for_less_is_named_with_what_to_do() -> None:
    """It was made by somebody else: ours asks for all that the job takes."""
    job = a_job(**QUEUED)
    words = fault(job, asking("0", "1"))

    assert words == (
        f"Workload {NAME} asks for 0 of {GPUS} instead of 1 and 1 of {USD} instead of 5: delete it"
    )
    assert fault(job, workload_of(job, None)) == ""


def test_what_keeps_a_job_from_its_queue_is_told() -> None:
    """In place of where to look."""
    seen = job_observation(
        job=a_job(**QUEUED), world=a_world(kueue=True), queue_problem="there is no class urgent"
    )

    assert plan_job(seen).message.endswith("nothing is rented for it; there is no class urgent")


def test_the_finalizers_of_others_are_theirs() -> None:
    """Kueue has one of its own."""
    kept = admitted(metadata=KEPT)

    assert finalizers_of(admitted(), held=True) == [FINALIZER]
    assert finalizers_of(kept, held=True) == KEPT["finalizers"]
    assert finalizers_of(kept, held=False) == ["kueue.x-k8s.io/resource-in-use"]
