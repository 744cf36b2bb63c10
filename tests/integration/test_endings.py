"""Workloads that are told to end, what they say meanwhile, and drivers that cannot begin."""

from collections.abc import Callable

import pytest
from tests.integration.conftest import World
from tests.integration.parts import Object, eventually

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


def _quota(world: World) -> None:
    world.kubectl.apply(
        {
            "apiVersion": "v1",
            "kind": "ResourceQuota",
            "metadata": {"name": "none", "namespace": world.namespace},
            "spec": {"hard": {"pods": "0"}},
        }
    )
    eventually(
        "the quota is in force",
        lambda: (world.kubectl.get("resourcequota", "none", world.namespace) or {}).get("status"),
    )


def _ended(stage: World, count: int) -> list[Object]:
    """Returns the attempts of the job once so many have ended."""

    def look() -> list[Object] | None:
        found: list[Object] = stage.job("train").get("status", {}).get("attempts", [])
        return found if len(found) >= count else None

    found: list[Object] = eventually(f"{count} attempts have ended", look)
    return found


def test_a_driver_that_can_not_start_costs_nothing(stage: World) -> None:
    """No pod is admitted: nothing is rented, and the job says why until somebody helps.

    It counts to no limit, since nobody has paid for it.
    """
    stage.operator.start(GPUJOB_DRIVER_PENDING_SECONDS="5")
    _quota(stage)
    stage.apply_job("train", command=["true"], maxRents=1)
    ended = _ended(stage, 2)

    assert stage.simulator.rents() == 0
    assert {one["reason"] for one in ended} == {"DriverNotStarted"}
    assert "exceeded quota" in ended[0]["message"]
    stage.kubectl("delete", "resourcequota", "none", "-n", stage.namespace)
    stage.await_reason("train", "Complete")
    assert stage.simulator.rents() == 1


def test_a_driver_whose_container_does_not_start_costs_nothing(stage: World) -> None:
    """Its pod stays Pending, as with an image, a Secret or a volume that is not there."""
    stage.pods.stop()
    stage.operator.start(GPUJOB_DRIVER_PENDING_SECONDS="5")
    stage.apply_job("train", command=["true"], maxRents=1)
    ended = _ended(stage, 2)

    assert stage.simulator.rents() == 0
    assert {one["reason"] for one in ended} == {"DriverNotStarted"}
