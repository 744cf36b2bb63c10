"""Which problem each failure of the HTTP API becomes."""

import pytest
from structlog.testing import capture_logs

from gpujob.adapters.errors import (
    ClusterUnavailable,
    Conflict,
    ControllerBusy,
    ControllerUnavailable,
    Expired,
    Forbidden,
    Invalid,
    ObjectGone,
)
from gpujob.server.http_api.failures import failure_problem

CAUSE = "10.0.0.9 said so"


@pytest.mark.parametrize(
    ("error", "status", "is_logged"),
    [
        (ObjectGone(CAUSE), 404, False),
        (Conflict(CAUSE), 409, False),
        (Expired(CAUSE), 410, False),
        (Invalid(CAUSE, (("spec.image", "is wrong"),)), 422, False),
        (Invalid(CAUSE), 422, True),
        (Forbidden(CAUSE), 403, True),
        (ClusterUnavailable(CAUSE), 503, True),
        (ControllerBusy(CAUSE), 429, False),
        (ControllerUnavailable(CAUSE), 503, True),
        (RuntimeError(CAUSE), 500, True),
    ],
)
def test_a_failure_is_a_status_and_its_cause_is_in_the_log(
    error: Exception, status: int, is_logged: bool
) -> None:
    """Only in development does the answer show the cause too."""
    with capture_logs() as logged:
        problem = failure_problem(error, shows_cause=False)
        shown = failure_problem(error, shows_cause=True)

    assert (problem.status, shown.status) == (status, status)
    assert CAUSE not in str(problem.body())
    assert (CAUSE in shown.detail) is is_logged
    assert [one["error_id"] for one in logged] == (
        [problem.error_id, shown.error_id] if is_logged else []
    )
    assert ("Retry-After" in problem.headers) is (status in (429, 503))
