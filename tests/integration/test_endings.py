"""Workloads that are told to end, what they say meanwhile, and drivers that cannot begin."""

from collections.abc import Callable

import pytest
from tests.integration.conftest import World
from tests.integration.parts import eventually

SAVES = ["sh", "-c", "trap 'echo saved; exit 3' TERM; echo up; while :; do sleep 0.1; done"]


def _suspend(world: World) -> None:
    eventually("it is up", lambda: "up\n" in world.pods.log("train-0-1-driver"))
    target = ("patch", "gpujob", "train", "-n", world.namespace, "--type=merge", "-p")
    world.kubectl(*target, '{"spec":{"suspend":true}}')


@pytest.mark.shared_world
@pytest.mark.parametrize(
    ("reason", "spec", "deed"),
    [
        ("DeadlineExceeded", {"activeDeadlineSeconds": 3}, lambda _: None),
        ("Suspended", {}, _suspend),
    ],
)
def test_a_workload_that_is_stopped_saves_what_it_has(
    world: World, reason: str, spec: dict[str, object], deed: Callable[[World], None]
) -> None:
    """SIGTERM first; what it prints then is delivered before the machine is destroyed."""
    world.apply_job("train", command=SAVES, **spec)
    deed(world)
    job = world.await_reason("train", reason)
    (attempt,) = job["status"]["attempts"]

    assert world.pods.log("train-0-1-driver").count("saved\n") == 1
    assert (attempt["reason"], attempt["exitCode"]) == (reason, 3)
    assert world.simulator.living() == []


@pytest.mark.shared_world
def test_a_workload_that_does_not_end_is_not_paid_for_long(world: World) -> None:
    """It is killed after its grace; run seconds are up to that."""
    stubborn = ["sh", "-c", "trap '' TERM; echo up; while :; do sleep 0.1; done"]
    world.apply_job("train", command=stubborn, activeDeadlineSeconds=2)
    job = world.await_reason("train", "DeadlineExceeded")
    (attempt,) = job["status"]["attempts"]

    assert attempt["exitCode"] == 137
    assert world.simulator.living() == []


@pytest.mark.shared_world
@pytest.mark.at_length
def test_gpus_that_stand_idle_end_the_job(world: World) -> None:
    """Only if the job says so; the condition gives the evidence."""
    world.apply_job("train", command=["sleep", "600"], idleDeadlineSeconds=60)
    world.await_reason("train", "IdleDeadlineExceeded")
    words = world.condition("train", "Ready")["message"]

    assert words.startswith("no GPU was busy in ")
    assert "idleDeadlineSeconds is 60" in words
    assert world.simulator.living() == []


@pytest.mark.shared_world
def test_what_a_workload_says_of_itself_is_shown(world: World) -> None:
    """In the job's status and as a metric."""
    tell = (
        'echo \'{"percent": 40, "step": 12, "remainingSeconds": 90, "metrics": {"loss": 0.25}}\''
        ' >> "$GPUJOB_PROGRESS_FILE"; echo 70 > /run/gpu-load; sleep 600'
    )
    world.apply_job("train", command=["sh", "-c", tell])
    told = eventually("its progress", lambda: world.job("train").get("status", {}).get("progress"))
    usage = eventually("its load", lambda: _busy(world))
    metrics = world.metrics()
    row = world.kubectl("get", "gpujob", "train", "-n", world.namespace, "-o", "wide")

    assert told == {
        "percent": 40,
        "step": 12,
        "remainingSeconds": 90,
        "metrics": {"loss": "0.25"},
    }
    assert usage["gpuPercent"] > 0
    labels = f'{{job="train",namespace="{world.namespace}"}}'
    assert f"gpujob_progress_percent{labels} 40.0" in metrics
    assert "DONEPERCENT" in row.splitlines()[0].split()


def _busy(world: World) -> dict[str, int] | None:
    usage: dict[str, int] = world.job("train").get("status", {}).get("usage", {})
    return usage if usage.get("gpuPercent") else None


def test_a_driver_whose_container_does_not_start_costs_nothing(stage: World) -> None:
    """Its pod stays Pending, as with an image, a Secret or a volume that is not there: it is tried
    again under other names, and ends nothing.
    """
    stage.pods.are_held.set()
    stage.operator.start(GPUJOB_DRIVER_PENDING_SECONDS="2")
    stage.apply_job("train", command=["true"], maxRents=1)

    def names() -> set[str]:
        return {one["metadata"]["name"] for one in stage.kubectl.items("pods", *_here(stage))}

    eventually("another pod is tried", lambda: "train-0-1-driver-3" in names())
    status = stage.job("train")["status"]
    assert status["nodeReservedUSD"] == "0.000000"
    assert (status["attempt"], status.get("attempts", [])) == (1, [])
    assert stage.simulator.rents() == 0

    stage.operator.stop()
    stage.pods.are_held.clear()
    stage.operator.start()
    job = stage.await_reason("train", "Complete")
    assert [one["reason"] for one in job["status"]["attempts"]] == ["Completed"]
    assert stage.simulator.rents() == 1


def test_jobs_that_owe_nothing_go_without_the_operator(stage: World) -> None:
    """Whatever they wait for: it may have been uninstalled. One with a machine is kept."""
    stage.operator.start()
    stage.apply_job("refused", cost={"ceiling": "0.01"})
    stage.apply_job("paused", suspend=True)
    stage.apply_job("done", command=["true"])
    stage.apply_job("busy", command=stage.waits())
    stage.await_reason("refused", "CeilingExceeded")
    stage.await_reason("paused", "Suspended")
    stage.await_reason("done", "Complete")
    stage.await_reason("busy", "Running")
    stage.operator.stop()
    for name in ("refused", "paused", "done", "busy"):
        stage.kubectl.client.delete("gpujobs", name, stage.namespace)
    here = ("gpujobs", "-n", stage.namespace)

    assert [one["metadata"]["name"] for one in stage.kubectl.items(*here)] == ["busy"]
    stage.operator.start()
    eventually("it is given back", lambda: not stage.kubectl.items(*here))
    assert stage.simulator.living() == []


def _here(world: World) -> tuple[str, str]:
    return "-n", world.namespace
