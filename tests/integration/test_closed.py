"""What is over leaves the watch of a real API server, and is not forgotten."""

from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from tests.integration.client import Client, path_of
from tests.integration.conftest import World
from tests.integration.parts import Object, Operator, eventually, operators_config
from tests.integration.proxy import proxy

OVER = 40
SOON = {"GPUJOB_CLOSED_AFTER_SECONDS": "3"}


def closed(world: World, name: str) -> Object | None:
    """Returns a job if it and its node are closed."""
    job, node = world.job(name), world.kubectl.get("gpunode", f"{name}-0-1", world.namespace) or {}
    are = all((one.get("status") or {}).get("closed") for one in (job, node))
    return job if are else None


def test_a_finished_job_leaves_the_watch_and_is_not_taken_for_deleted(stage: World) -> None:
    """It stays as it is, pays for a stray that appears, and can be deleted at any time."""
    world = stage
    world.operator.start(**SOON)
    world.apply_job("train")
    world.await_reason("train", "Complete")
    before = eventually("job and node are closed", lambda: closed(world, "train"))
    managers = {one["manager"] for one in before["metadata"]["managedFields"]}
    assert "tests" in managers, "a write of ours leaves the user's fields to the user"
    world.await_listings(4)
    after = world.job("train")
    assert after["metadata"]["resourceVersion"] == before["metadata"]["resourceVersion"]
    assert world.simulator.rents() == 1

    system = world.kubectl.get("namespace", "kube-system", "default") or {}
    mark = f"{system['metadata']['uid']}/forgotten/{before['metadata']['uid']}"
    world.simulator.faults(slow_boot={"count": -1, "seconds": 1e9})
    stray = world.simulator.rent_by_hand(mark)

    def is_charged() -> Any:
        strays = world.job("train")["status"].get("strays") or [{}]
        return strays[0].get("instanceID") == stray and "goneAt" in strays[0]

    eventually("the stray is destroyed and charged", is_charged)
    assert world.simulator.living() == []
    after = eventually("it is closed again", lambda: closed(world, "train"))
    spent, charged = (one["status"]["cost"]["spentUSD"] for one in (before, after))
    assert Decimal(charged) > Decimal(spent)
    assert world.condition("train", "Complete")["status"] == "True"

    world.kubectl.client.delete("gpujobs", "train", world.namespace)
    gone = eventually("it is gone", lambda: not world.job("train"))
    assert gone
    eventually(
        "its node, too", lambda: not world.kubectl.get("gpunode", "train-0-1", world.namespace)
    )


def test_what_an_older_release_has_left_is_let_go_and_closed(stage: World) -> None:
    """It lacks the field, so the watch shows it: its finalizer goes, and it is closed."""
    world = stage
    world.apply_job("old")
    job = world.job("old")
    path = path_of("gpujobs", "old", world.namespace)
    held = {"metadata": {"finalizers": ["gpujob.dev/machine"]}}
    patch = "application/merge-patch+json"
    operator = Client(Path(world.operator.environment["KUBECONFIG"]))
    code, job = operator.send("PATCH", path, held, patch)
    assert code == 200, job
    status = {
        "phase": "Complete",
        "end": {"reason": "Complete", "message": "so it is"},
        "completionTime": "2026-01-01T00:00:00Z",
        "observedGeneration": 1,
    }
    code, answer = operator.send("PUT", f"{path}/status", job | {"status": status})
    assert code == 200, answer
    world.operator.start(**SOON)

    def is_free() -> bool:
        found = world.job("old")
        return bool(found["status"].get("closed")) and not found["metadata"].get("finalizers")

    eventually("it is let go and closed", is_free)
    world.kubectl.client.delete("gpujobs", "old", world.namespace)
    eventually("it is gone", lambda: not world.job("old"))


def test_what_is_over_is_asked_for_by_nobody(stage: World, tmp_path: Path) -> None:
    """Neither what is closed nor what is still watched: a new leader does its work as if they were
    not there.
    """
    world = stage
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    operators = Client(Path(world.operator.environment["KUBECONFIG"]))
    for number in range(OVER):
        name = f"over-{number}"
        world.apply_job(name)
        status = {
            "phase": "Complete",
            "end": {"reason": "Complete", "message": "so it is"},
            "completionTime": now,
            "observedGeneration": 1,
        }
        status |= {"closed": True} if number % 2 else {}
        path = path_of("gpujobs", name, world.namespace)
        code, answer = operators.send("PUT", f"{path}/status", world.job(name) | {"status": status})
        assert code == 200, answer
    with proxy(world.plane.url, world.plane.ca) as between:
        config = operators_config(world.plane, tmp_path / "proxied.kubeconfig", between.url)
        leader = Operator(tmp_path, config, world.simulator.url, "leader")
        leader.start()
        try:
            world.apply_job("train", command=["true"])
            world.await_reason("train", "Complete")
        finally:
            leader.stop()
        asked = [one.path for one in between.requests if "/over-" in one.path]

    assert asked == []
