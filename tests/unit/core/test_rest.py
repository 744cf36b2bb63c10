"""What is over needs no pass."""

from datetime import timedelta
from math import inf
from typing import Any

import pytest
from tests.builders import NOW, at

from gpujob.api.meta import FINALIZER
from gpujob.core.limits import Limits
from gpujob.core.rest import rest_seconds


def text(seconds: float) -> str:
    """A stored time so many seconds after the present."""
    return at(seconds).isoformat().replace("+00:00", "Z")


def a_finished_job(ttl: int | None = None, **status: Any) -> dict[str, Any]:
    """A job that ended a minute ago, as it is stored."""
    told = {"end": {"reason": "Complete"}, "completionTime": text(-60), "observedGeneration": 1}
    spec = {} if ttl is None else {"ttlSecondsAfterFinished": ttl}
    return {"metadata": {"generation": 1}, "spec": spec, "status": told | status}


def a_released_node(**changes: Any) -> dict[str, Any]:
    """A node that its job has charged, as it is stored."""
    return {"metadata": changes, "status": {"releasedAt": text(-3600)}}


@pytest.mark.parametrize(
    ("kind", "body", "seconds"),
    [
        pytest.param("GpuJob", a_finished_job(), inf, id="a finished job"),
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
            inf,
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
        pytest.param("GpuNode", a_released_node(), 86_400 - 3600, id="a released node"),
        pytest.param("GpuNode", a_released_node(finalizers=[FINALIZER]), None, id="not charged"),
        pytest.param("GpuNode", {"metadata": {}, "status": {"rent": {}}}, None, id="an open node"),
        pytest.param("Pod", {"metadata": {}, "status": {}}, None, id="a pod"),
    ],
)
def test_what_is_over_rests(kind: str, body: dict[str, Any], seconds: float | None) -> None:
    """Until it has to be deleted, or changes."""
    assert rest_seconds(kind, body, now=NOW, limits=Limits()) == seconds


def test_a_released_node_is_deleted_after_its_retention() -> None:
    """It needs a pass then."""
    later = NOW + timedelta(days=1)
    assert rest_seconds("GpuNode", a_released_node(), now=later, limits=Limits()) is None
