"""A job without a deadline on a real cluster: admitted for what 25 like it took."""

import json
import re
import time

import pytest
from tests.e2e.test_data import eventually

from demo import Object, Stage, condition

RUNS = 25
AT_ONCE = 5
NAMESPACE = "demo"
COMMAND = ["true"]


def apply(stage: Stage, name: str, **spec: object) -> None:
    """Creates a GpuJob that ends at once."""
    wanted = {
        "image": "python:3.11-slim",
        "command": COMMAND,
        "gpu": {"models": ["RTX 4090"]},
        "cost": {"ceiling": "3.00"},
    }
    stage.apply(
        {
            "apiVersion": "gpujob.dev/v1alpha1",
            "kind": "GpuJob",
            "metadata": {"name": name, "namespace": NAMESPACE},
            "spec": wanted | spec,
        }
    )


def complete(found: Object) -> Object | None:
    """The job, once it is complete."""
    return found if condition(found, "Complete").get("status") == "True" else None


@pytest.mark.timeout(1800)
def test_the_26th_job_of_a_template_needs_no_deadline(
    stage: Stage, request: pytest.FixtureRequest
) -> None:
    """A fresh template still does. After a restart of the controller it is the same."""
    if not request.config.getoption("whole"):
        pytest.skip("25 jobs before one: they run with --whole, and as processes in integration")
    for first in range(0, RUNS, AT_ONCE):
        names = [f"brief-{number}" for number in range(first, first + AT_ONCE)]
        for name in names:
            apply(stage, name, activeDeadlineSeconds=300)
        for name in names:
            eventually(stage, name, complete)
    judge(stage, "first")

    controller = ("deployment/gpujob", "-n", "gpujob-system")
    stage.kubectl("rollout", "restart", *controller)
    stage.kubectl("rollout", "status", *controller, "--timeout=240s")
    judge(stage, "second")


def judge(stage: Stage, name: str) -> None:
    """One of the known template is admitted and runs, and one of a fresh template is not."""
    deadline = time.monotonic() + 240
    # Runs are written in batches.
    while max(one["spec"]["known"] for one in stage.get("gpujobprofiles", NAMESPACE)) < RUNS:
        assert time.monotonic() < deadline, "the runs are not written"
        time.sleep(1)
    apply(stage, name)
    fresh = f"fresh-{name}"
    apply(stage, fresh, command=["sh", "-c", f"echo {name}"])
    done = eventually(stage, name, complete)
    cost, told = done["status"]["cost"], condition(done, "Admitted")
    assert float(cost["confidence"]) >= 0.95
    (runs,) = re.findall(r"(\d+) runs of its template", told["message"])
    assert int(runs) >= RUNS, told
    assert "with a confidence of 0.9" in told["message"]
    print(json.dumps({"condition": told["message"], "basis": cost["confidenceBasis"]}))

    def refused(found: Object) -> Object | None:
        ready = condition(found, "Ready")
        return found if ready.get("reason") == "InsufficientHistory" else None

    waiting = eventually(stage, fresh, refused)
    assert condition(waiting, "Admitted")["status"] == "False"
    stage.kubectl("delete", "gpujob", fresh, "-n", NAMESPACE, "--timeout=240s")
