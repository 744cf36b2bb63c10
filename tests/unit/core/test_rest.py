"""What is over needs no pass."""

from collections.abc import Callable
from datetime import timedelta
from math import inf
from typing import Any

import pytest
from tests.builders import NOW, a_job, a_node, at, ended, job_observation, node_observation, running

from gpujob.api.gpujob import GpuJob, StrayStatus
from gpujob.api.gpunode import GpuNode
from gpujob.api.meta import FINALIZER
from gpujob.core.limits import Limits
from gpujob.core.rest import may_close, rest_seconds
from gpujob.core.settling import settle_job, settle_node

L = Limits()


def text(seconds: float) -> str:
    """A stored time so many seconds after the present."""
    return at(seconds).isoformat().replace("+00:00", "Z")


def a_finished_job(ttl: int | None = None, ago: float = 60, **status: Any) -> dict[str, Any]:
    """A job that ended a minute ago, or longer, as it is stored."""
    told = {"end": {"reason": "Complete"}, "completionTime": text(-ago), "observedGeneration": 1}
    spec = {} if ttl is None else {"ttlSecondsAfterFinished": ttl}
    return {"metadata": {"generation": 1}, "spec": spec, "status": told | status}


def a_released_node(ago: float = 60, is_closed: bool = False, **meta: Any) -> dict[str, Any]:
    """A node that its job has charged, as it is stored."""
    closed = {"closed": True} if is_closed else {}
    return {"metadata": meta, "status": {"releasedAt": text(-ago)} | closed}


SOON = L.closed_after_seconds - 60
DAY = L.node_retention_seconds


@pytest.mark.parametrize(
    ("kind", "body", "seconds"),
    [
        pytest.param("GpuJob", a_finished_job(), SOON, id="a finished job"),
        pytest.param("GpuJob", a_finished_job(ago=9000, closed=True), inf, id="a closed job"),
        pytest.param(
            "GpuJob", a_finished_job(9999, ago=9000, closed=True), 999, id="closed, to be deleted"
        ),
        pytest.param("GpuJob", a_finished_job(9000, ago=9000, closed=True), None, id="closed, due"),
        pytest.param(
            "GpuJob", a_finished_job(closed=True, observedGeneration=0), None, id="closed, changed"
        ),
        pytest.param("GpuJob", a_finished_job(ttl=10**6), SOON, id="with much time left"),
        pytest.param("GpuJob", a_finished_job(ttl=100), 40, id="with time left"),
        pytest.param("GpuJob", a_finished_job(ttl=60), None, id="whose time has passed"),
        pytest.param("GpuJob", a_finished_job(nodeName="n"), None, id="that has a node"),
        pytest.param("GpuJob", a_finished_job(end=None), None, id="whose end is not stored"),
        pytest.param(
            "GpuJob", a_finished_job(strays=[{"instanceID": 1}]), None, id="with a machine left"
        ),
        pytest.param(
            "GpuJob",
            a_finished_job(strays=[{"instanceID": 1, "goneAt": text(-9)}]),
            SOON,
            id="whose machine is gone",
        ),
        pytest.param("GpuJob", a_finished_job(observedGeneration=0), None, id="changed since"),
        pytest.param("GpuJob", a_finished_job(ttl=5, completionTime="x"), None, id="unreadable"),
        pytest.param(
            "GpuJob",
            a_finished_job() | {"metadata": {"generation": 1, "deletionTimestamp": text(0)}},
            None,
            id="being deleted",
        ),
        pytest.param(
            "GpuJob",
            a_finished_job() | {"metadata": {"generation": 1, "finalizers": [FINALIZER]}},
            None,
            id="whose finalizer is still there",
        ),
        pytest.param("GpuJob", {"metadata": {"generation": 1}}, None, id="a new job"),
        pytest.param("GpuNode", a_released_node(), SOON, id="a released node"),
        pytest.param("GpuNode", a_released_node(4000, True), DAY - 4000, id="a closed node"),
        pytest.param("GpuNode", a_released_node(DAY, True), None, id="a closed node, due"),
        pytest.param("GpuNode", a_released_node(finalizers=[FINALIZER]), None, id="not charged"),
        pytest.param("GpuNode", {"metadata": {}, "status": {"rent": {}}}, None, id="an open node"),
        pytest.param("Pod", {"metadata": {}, "status": {}}, None, id="a pod"),
    ],
)
def test_what_is_over_rests(kind: str, body: dict[str, Any], seconds: float | None) -> None:
    """Until it has to be deleted, or changes."""
    assert rest_seconds(kind, body, now=NOW, limits=L) == seconds


def test_a_released_node_is_deleted_after_its_retention() -> None:
    """It needs a pass then."""
    later = NOW + timedelta(days=1)
    assert rest_seconds("GpuNode", a_released_node(), now=later, limits=L) is None


def test_those_that_an_older_release_has_left_are_closed_one_after_the_other() -> None:
    """All are due at once, and ten thousand passes would hold up what spends money."""
    jobs = [a_finished_job(ago=10**7) | {"metadata": {"uid": f"u{n}"}} for n in range(1000)]
    for job in jobs:
        job["metadata"]["generation"] = 1
    rests = sorted(rest_seconds("GpuJob", job, now=NOW, limits=L) or 0.0 for job in jobs)

    assert 0 < rests[0] < rests[-1] < L.closed_after_seconds
    busiest = max(sum(at <= one < at + 60 for one in rests) for at in rests)
    assert busiest < 1000 / (L.closed_after_seconds / 60) * 3


GONE = StrayStatus.model_validate(
    {
        "instanceID": 1,
        "since": text(-9999),
        "goneAt": text(-9000),
        "usdPerHour": "1",
        "trafficUSD": "0",
        "lineUSDPerHour": "0",
        "trafficMaxUSD": "0",
        "chargedUSD": "1",
    }
)


def a_closable_job(**metadata: Any) -> GpuJob:
    """A job that has been over for long enough, and for which nothing is owed."""
    told = {"end": {"reason": "Complete", "message": "m"}, "completionTime": text(-3600)}
    return a_job(status=told, **{"finalizers": []} | metadata)


def a_closable_node(**metadata: Any) -> GpuNode:
    """A node that was released so long ago, and that its job has charged."""
    return a_node(ended(running()) | {"releasedAt": text(-3600)}, **{"finalizers": []} | metadata)


@pytest.mark.parametrize("make", [a_closable_job, a_closable_node])
def test_what_has_been_over_for_a_while_is_closed(make: Callable[..., GpuJob | GpuNode]) -> None:
    """Not before, and not while its deletion would still wait for the operator."""
    one = make()

    assert may_close(one.metadata, one.status, now=NOW, limits=L)
    assert not may_close(one.metadata, one.status, now=at(-1), limits=L)
    for held in (make(finalizers=[FINALIZER]), make(deletionTimestamp=text(0))):
        assert not may_close(held.metadata, held.status, now=NOW, limits=L)


@pytest.mark.parametrize(
    "change",
    [
        {"end": None},
        {"completion_time": None},
        {"node_uid": "u"},
        {"node_name": "n"},
        {"strays": (GONE.model_copy(update={"gone_at": None}),)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_job_that_may_owe_something_is_not_closed(change: dict[str, Any]) -> None:
    """Nobody would look at it until a slow list is made."""
    job = a_closable_job()
    status = job.status.model_copy(update=change)

    assert not may_close(job.metadata, status, now=NOW, limits=L)
    gone = job.status.model_copy(update={"strays": (GONE,)})
    assert may_close(job.metadata, gone, now=NOW, limits=L)


@pytest.mark.parametrize("field", ["end", "released_at"])
def test_a_node_that_may_have_a_machine_is_not_closed(field: str) -> None:
    """Whatever else its status says."""
    node = a_closable_node()
    status = node.status.model_copy(update={field: None})

    assert not may_close(node.metadata, status, now=NOW, limits=L)


def test_what_was_closed_by_mistake_comes_back() -> None:
    """Its next pass, which a slow list asks for, says that it is open."""
    status = a_closable_job().status.model_copy(update={"closed": True})
    held = a_closable_job(finalizers=[FINALIZER]).model_copy(update={"status": status})

    assert settle_job(job_observation(job=held)).statuses[-1].closed is None
    free = a_closable_job().model_copy(update={"status": status})
    assert settle_job(job_observation(job=free)).statuses[-1].closed is True
    node = a_closable_node(finalizers=[FINALIZER])
    wrong = node.status.model_copy(update={"closed": True})
    seen = node_observation(node=node.model_copy(update={"status": wrong}))
    assert settle_node(seen).statuses[-1].closed is None


def test_nothing_is_asked_for_once_it_is_closed() -> None:
    """The pass that closes it is its last one, as far as nobody changes it."""
    job = a_closable_job()
    settled = settle_job(job_observation(job=job))

    assert settled.statuses[-1].closed is True
    assert settled.plan.requeue_seconds is None
