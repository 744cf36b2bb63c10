"""Whole lives of GpuJobs: real API server, real operator, real simulator, real SSH."""

import json
from decimal import Decimal

import pytest
from tests.integration.conftest import World
from tests.integration.parts import KEY, LAG_CAP_SECONDS, eventually


@pytest.mark.shared_world
def test_a_job_runs_and_is_paid_and_leaves_nothing(world: World) -> None:
    """One machine, its output delivered, its cost bounded by the ledger, everything released."""
    world.apply_job("train")
    job = world.await_reason("train", "Complete")
    (lease,) = world.simulator.of(job)
    ours, ledger = Decimal(job["status"]["cost"]["finalUSD"]), Decimal(lease["total_usd"])
    kept = world.kubectl.items("gpunodes", "-n", world.namespace)
    node = next(one for one in kept if one["spec"]["jobRef"]["name"] == "train")
    slack = Decimal(lease["usd_per_hour"]) * LAG_CAP_SECONDS / 3600
    slack += Decimal(node["status"]["rent"]["trafficReserveUSD"])

    assert ledger <= ours <= ledger + slack
    chosen = ("-n", world.namespace, "-o", "name", "--field-selector")
    done = world.kubectl("get", "gpujobs", *chosen, "status.phase=Complete")
    assert done.split() == ["gpujob.gpujob.dev/train"]
    nodes = world.kubectl("get", "gpunodes", *chosen, "spec.jobRef.name=train")
    assert nodes.split() == ["gpunode.gpujob.dev/train-0-1"]
    assert world.kubectl("get", "gpunodes", *chosen, "spec.jobRef.name=other") == ""
    assert lease["state"] == "destroyed"
    log = world.pods.log("train-0-1-driver")
    assert "hello\n" in log
    assert "bye\n" in log
    assert world.condition("train", "Complete")["status"] == "True"


@pytest.mark.shared_world
def test_a_deleted_job_takes_its_machine_with_it(world: World) -> None:
    """Deletion ends only when the machine is gone; then nothing of it is left."""
    world.apply_job("long", command=["sleep", "600"])
    world.await_reason("long", "Running")
    world.kubectl("delete", "gpujob", "long", "-n", world.namespace, "--timeout=240s")

    assert world.simulator.living() == []
    left = ("gpunodes,pods,secrets", "-n", world.namespace)
    eventually("its objects are collected", lambda: not world.kubectl.items(*left))


@pytest.mark.shared_world
def test_nobody_elses_secret_is_touched(world: World) -> None:
    """Whoever may create jobs could else have a Secret deleted that bears the name of a job's."""
    here = ("-n", world.namespace)
    world.kubectl("create", "secret", "generic", "train-0-1-ssh", *here, "--from-literal=a=b")
    before = world.kubectl.get("secret", "train-0-1-ssh", world.namespace)
    world.apply_job("train")
    world.await_reason("train", "Complete")

    assert world.kubectl.get("secret", "train-0-1-ssh", world.namespace) == before


@pytest.mark.shared_world
def test_a_finished_job_goes_after_its_time(world: World) -> None:
    """With all that was made for it; the ledger shows one machine, destroyed."""
    world.apply_job("brief", ttlSecondsAfterFinished=2)
    world.await_reason("brief", "Complete")
    left = ("gpujobs,gpunodes,pods,secrets", "-n", world.namespace)
    eventually("all of it is collected", lambda: not world.kubectl.items(*left))

    assert [lease["state"] for lease in world.simulator.ledger()] == ["destroyed"]


@pytest.mark.shared_world
def test_suspension_gives_the_machine_back_and_resuming_takes_another(world: World) -> None:
    """A suspended job costs nothing; a resumed one starts anew and counts to no limit."""
    world.apply_job("nap", command=world.waits(), maxRents=1)
    world.await_reason("nap", "Running")
    suspend = ("patch", "gpujob", "nap", "-n", world.namespace, "--type=merge", "-p")
    world.kubectl(*suspend, '{"spec":{"suspend":true}}')
    world.await_reason("nap", "Suspended")
    assert world.simulator.living() == []
    world.let_go()
    world.kubectl(*suspend, '{"spec":{"suspend":false}}')
    job = world.await_reason("nap", "Complete")

    assert len(world.simulator.of(job)) == 2


@pytest.mark.shared_world
def test_a_failing_workload_is_tried_again_and_then_failed(world: World) -> None:
    """backoffLimit 1: two attempts, two charges, exit code kept."""
    world.apply_job("wrong", command=["sh", "-c", "exit 3"], backoffLimit=1)
    job = world.await_reason("wrong", "BackoffLimitExceeded")

    assert [one["exitCode"] for one in job["status"]["attempts"]] == [3, 3]
    assert len(world.simulator.of(job)) == 2
    assert world.simulator.living() == []


@pytest.mark.shared_world
def test_a_deadline_stops_the_workload(world: World) -> None:
    """Two seconds are two seconds and a few passes, not more."""
    world.apply_job("late", command=["sleep", "600"], activeDeadlineSeconds=2)
    job = world.await_reason("late", "DeadlineExceeded")

    assert 2 <= job["status"]["runSeconds"] < 2 + LAG_CAP_SECONDS
    assert world.condition("late", "Stalled")["status"] == "True"
    assert world.simulator.living() == []


@pytest.mark.shared_world
def test_a_ceiling_that_is_too_low_rents_nothing(world: World) -> None:
    """The numbers are in the condition; raising the ceiling to what it names admits."""
    world.apply_job("poor", cost={"ceiling": "0.001"})
    world.await_reason("poor", "CeilingExceeded")
    assert world.condition("poor", "Admitted")["status"] == "False"
    assert world.simulator.rents() == 0
    said = world.condition("poor", "Ready")["message"]
    named = said.partition("a ceiling of $")[2].partition(" ")[0]
    patch = json.dumps({"spec": {"cost": {"ceiling": f"{Decimal(named) + Decimal('0.1')}"}}})
    target = ("gpujob", "poor", "-n", world.namespace)
    world.kubectl("patch", *target, "--type=merge", "-p", patch)
    world.await_reason("poor", "Complete")


@pytest.mark.shared_world
def test_a_ceiling_that_is_raised_while_it_runs_reaches_the_machine(world: World) -> None:
    """The driver tells the watchdog, which acknowledges; then the fuse follows."""
    world.apply_job("train", command=world.waits())
    world.await_reason("train", "Running")
    target = ("-n", world.namespace)
    patch = json.dumps({"spec": {"cost": {"ceiling": "9.00"}}})
    world.kubectl("patch", "gpujob", "train", *target, "--type=merge", "-p", patch)

    def fuse() -> str:
        node = json.loads(world.kubectl("get", "gpunode", "train-0-1", *target, "-o", "json"))
        return str(node["status"]["rent"]["fuseUSD"])

    eventually("the fuse is raised", lambda: fuse() == "9.000000")
    assert world.job("train")["status"]["nodeReservedUSD"] == "9.000000"
    world.let_go()
    world.await_reason("train", "Complete")


@pytest.mark.shared_world
def test_without_a_deadline_too_little_is_known(world: World) -> None:
    """InsufficientHistory, and nothing rented."""
    world.apply_job("open", activeDeadlineSeconds=None)
    world.await_reason("open", "InsufficientHistory")

    assert world.simulator.rents() == 0


@pytest.mark.shared_world
def test_no_matching_offer_rents_nothing(world: World) -> None:
    """A GPU that nobody offers is waited for."""
    world.apply_job("dream", gpu={"models": ["RTX 9090"]})
    world.await_reason("dream", "NoMatchingOffer")

    assert world.simulator.rents() == 0


@pytest.mark.shared_world
def test_the_environment_arrives_as_it_was_written(world: World) -> None:
    """Quotes, newlines, dollars and other scripts reach the workload unchanged."""
    value = 'it\'s "quoted" $HOME $(HOME) `x` \\ \n zwei Zeilen: ä'
    text = "import os; print('value:', ascii(os.environ['WEIRD']))"
    world.apply_job("env", command=["python3", "-c", text], env=[{"name": "WEIRD", "value": value}])
    world.await_reason("env", "Complete")

    assert f"value: {value!a}" in world.pods.log("env-0-1-driver")


@pytest.mark.shared_world
def test_the_token_is_in_no_log_and_no_object(world: World) -> None:
    """A recognisable token is found nowhere after a whole life."""
    world.apply_job("train")
    world.await_reason("train", "Complete")
    objects = world.kubectl("get", "gpujobs,gpunodes,pods,events", "-A", "-o", "json")

    assert KEY not in world.operator.log
    assert KEY not in objects
    assert KEY not in world.pods.log("train-0-1-driver")


@pytest.mark.shared_world
def test_events_tell_the_story(world: World) -> None:
    """A person sees what matters, once and in order, and `kubectl get events` sorts it by time."""
    world.apply_job("train", command=world.waits())
    world.await_reason("train", "Running")
    world.let_go()
    world.await_reason("train", "Complete")

    def told() -> list[tuple[str, str, str]]:
        events = world.kubectl.items("events", "-n", world.namespace)
        ours = [one for one in events if one["involvedObject"]["kind"] in ("GpuJob", "GpuNode")]
        ours.sort(key=lambda one: one["metadata"]["name"])
        return [(one["type"], one["involvedObject"]["name"], one["reason"]) for one in ours]

    wanted = [
        ("Normal", "train", "Admitted"),
        ("Normal", "train", "Rented"),
        ("Normal", "train", "Running"),
        ("Normal", "train-0-1", "Completed"),
        ("Normal", "train-0-1", "Released"),
        ("Normal", "train", "Complete"),
    ]
    eventually("the last event", lambda: len(told()) >= len(wanted))
    assert told() == wanted


@pytest.mark.shared_world
def test_the_log_says_whose_each_line_is(world: World) -> None:
    """Each pass that changed something has one line; what happened on the way says where."""
    world.apply_job("train", command=world.waits())
    world.await_reason("train", "Running")
    world.let_go()
    world.await_reason("train", "Complete")
    lines = [json.loads(line) for line in world.operator.log.splitlines() if line.startswith("{")]
    lines = [one for one in lines if one.get("namespace") == world.namespace]
    passes = [one for one in lines if one["event"] == "reconciled"]
    (rented,) = [one for one in lines if one["event"] == "rent_accepted"]

    of_node = [one["stage"] for one in passes if one["name"] == "train-0-1"]
    assert {"Booting", "Running", "EndedLeased"} <= set(of_node)
    keys = {"kind", "namespace", "name", "uid", "stage", "reason", "effects", "milliseconds"}
    assert all(keys <= one.keys() for one in passes)
    whose = {key: rented[key] for key in ("namespace", "job", "node", "attempt")}
    assert whose == {
        "namespace": world.namespace,
        "job": "train",
        "node": "train-0-1",
        "attempt": 1,
    }


@pytest.mark.shared_world
def test_the_fields_that_we_write_are_ours_by_name(world: World) -> None:
    """A person who looks for who changed an object finds the program, and not its library."""
    world.apply_job("train")
    world.await_reason("train", "Complete")
    job, node = world.job("train"), world.kubectl.get("gpunode", "train-0-1", world.namespace)

    assert node is not None
    for stored, users in ((job, {"tests"}), (node, set())):
        managers = {one["manager"] for one in stored["metadata"]["managedFields"]}
        assert managers - {"kube-controller-manager"} == {"gpujob-controller"} | users
