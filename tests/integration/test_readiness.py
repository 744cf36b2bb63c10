"""What the operator itself lacks is shown everywhere; no job fails for it; repaired, it goes on."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tests.integration.conftest import World
from tests.integration.parts import eventually

ROLE = ("clusterrole", "gpujob-system-gpujob")
PENDING_SECONDS = 15
SYSTEM = ("-n", "gpujob-system")


@contextmanager
def _without_pods(world: World) -> Iterator[None]:
    """Takes the right to create driver pods away, and gives it back."""
    role = json.loads(world.kubectl("get", *ROLE, "-o", "json"))
    rules = [
        rule | {"verbs": [verb for verb in rule["verbs"] if verb != "create"]}
        if rule["resources"] == ["pods"]
        else rule
        for rule in role["rules"]
    ]
    try:
        _set_rules(world, rules)
        yield
    finally:
        _set_rules(world, role["rules"])


def _set_rules(world: World, rules: list[object]) -> None:
    world.kubectl("patch", *ROLE, "--type=merge", "-p", json.dumps({"rules": rules}))


def _not_ready(world: World, reason: str) -> str:
    def told() -> str:
        status, words = world.operator.probe("readyz")
        return words if status == 503 and words.startswith(f"{reason}: ") else ""

    found: str = eventually(f"not ready by {reason}", told)
    return found


def _events(world: World) -> list[str]:
    events = world.kubectl.items("events", *SYSTEM)
    return [one["reason"] for one in events if one["involvedObject"]["name"] == "operator"]


def test_a_missing_right_is_named_and_waited_for(world: World) -> None:
    """In the probe, a metric, an event and on the job; no attempt is used up by it."""
    with _without_pods(world):
        assert "create pods" in _not_ready(world, "RightsMissing")
        world.apply_job("train")
        job = world.await_reason("train", "RightsMissing")
        assert job["status"].get("attempt", 0) == 0
        assert 'gpujob_not_ready{reason="RightsMissing"} 1.0' in world.metrics()
        eventually("an event", lambda: "RightsMissing" in _events(world))
    job = world.await_reason("train", "Complete")

    assert job["status"]["attempt"] == 1
    eventually("it is told too", lambda: "Ready" in _events(world))
    assert 'gpujob_not_ready{reason="RightsMissing"} 0.0' in world.metrics()


def test_a_right_that_goes_while_the_driver_starts_costs_no_attempt(stage: World) -> None:
    """The pod's patience does not run while the operator itself is the reason."""
    stage.operator.start(
        GPUJOB_CLUSTER_CHECK_SECONDS="8", GPUJOB_DRIVER_PENDING_SECONDS=str(PENDING_SECONDS)
    )
    eventually("it is ready", lambda: stage.operator.probe("readyz") == (200, "ok"))
    with _without_pods(stage):
        stage.apply_job("train")
        stage.await_reason("train", "AwaitingDriver", "ClusterRefused")
        began = time.monotonic()
        _not_ready(stage, "RightsMissing")
        eventually("patience is over", lambda: time.monotonic() - began > PENDING_SECONDS + 3)
    job = stage.await_reason("train", "Complete")

    assert [one["reason"] for one in job["status"]["attempts"]] == ["Completed"]


def test_a_missing_service_is_named(world: World) -> None:
    """Drivers would find nobody: nothing is rented until the chart is whole again."""
    service = json.loads(world.kubectl("get", "service", "gpujob", *SYSTEM, "-o", "json"))
    kept = {name: service["metadata"][name] for name in ("name", "namespace", "labels")}
    spec = {"ports": service["spec"]["ports"]}
    world.kubectl("delete", "service", "gpujob", *SYSTEM)
    try:
        assert "Service gpujob-system/gpujob" in _not_ready(world, "ConfigurationBroken")
        world.apply_job("train")
        world.await_reason("train", "ConfigurationBroken")
        assert world.simulator.ledger() == []
    finally:
        service = {"apiVersion": "v1", "kind": "Service", "metadata": kept, "spec": spec}
        world.kubectl.apply(service)
    world.await_reason("train", "Complete")


def test_a_key_that_stays_refused_ends_the_leader(stage: World) -> None:
    """Only a new start brings a rotated key; a machine that runs is adopted by it."""
    changes = {"GPUJOB_TOKEN_REJECTED_SECONDS": "1", "GPUJOB_TOKEN_RESTART_SECONDS": "2"}
    stage.operator.start(**changes)
    stage.apply_job("train", command=stage.waits())
    stage.await_reason("train", "Running")
    stage.simulator.faults(wrong_key={"count": -1})
    eventually("the operator has ended", lambda: not stage.operator.runs)
    stage.simulator.faults()
    stage.operator.start()
    stage.let_go()
    job = stage.await_reason("train", "Complete")

    assert "TokenStale" in stage.operator.log
    assert len(stage.simulator.of(job)) == 1


def test_a_key_that_is_replaced_in_its_secret_is_used_soon(stage: World) -> None:
    """Long before a restart that only may help: the kubelet waits longer before each next one."""
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "vast", "namespace": "gpujob-system"},
        "stringData": {"api-key": "old"},
    }
    stage.kubectl.apply(secret)
    try:
        stage.operator.start(GPUJOB_KEY_SECRET="vast")
        stage.apply_job("train", command=stage.waits())
        stage.await_reason("train", "Running")
        stage.simulator.faults(wrong_key={"count": -1})
        stage.await_reason("train", "CredentialsRejected")
        refused = "the operator has been refused for a while"
        eventually(refused, lambda: stage.operator.log.count("sweep_failed") >= 5)
        assert stage.operator.runs
        stage.kubectl.apply(secret | {"stringData": {"api-key": "new"}})
        eventually("the operator has ended", lambda: not stage.operator.runs, 60)
        stage.simulator.faults()
        stage.operator.start()
        stage.let_go()
        job = stage.await_reason("train", "Complete")
    finally:
        stage.kubectl("delete", "secret", "vast", *SYSTEM)

    assert "TokenStale" in stage.operator.log
    assert len(stage.simulator.of(job)) == 1


def test_metrics_are_for_whoever_may_read_them(world: World) -> None:
    """They show money: no token, a token without the right, and one with it."""
    eventually("it is ready", lambda: world.operator.probe("readyz") == (200, "ok"))
    stranger = world.kubectl("create", "token", "default", *SYSTEM).strip()

    assert world.operator.probe("metrics")[0] == 401
    assert world.operator.probe("metrics", "nonsense")[0] == 401
    assert world.operator.probe("metrics", stranger)[0] == 403
    told = world.metrics()
    assert "gpujob_leads 1.0" in told
    assert "gpujob_leased_machines 0.0" in told
    assert "gpujob_credit_usd 100.0" in told
    assert "gpujob_destroy_late_seconds 0.0" in told
