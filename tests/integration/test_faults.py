"""What goes wrong around the operator: nothing is lost, nothing is rented twice, none is left.

Crashes of the operator and outages of the API server and the provider are in test_chaos.py.
"""

import json
import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from tests.integration.conftest import World
from tests.integration.parts import LONE_LOCK, Object, Operator, eventually, operators_config
from tests.integration.proxy import proxy


@pytest.mark.shared_world
def test_a_lost_answer_is_adopted(world: World) -> None:
    """The machine that was rented under a lost answer is found by its mark and used."""
    world.simulator.faults(rent_answer_lost={"count": 1})
    world.apply_job("train")
    job = world.await_reason("train", "Complete")

    assert len(world.simulator.of(job)) == 1
    assert world.simulator.rents() == 1
    assert job["status"]["attempt"] == 1


@pytest.mark.shared_world
def test_a_request_that_was_not_accepted_is_proved_so(world: World) -> None:
    """Complete listings show that nothing was rented; only then a new attempt rents."""
    world.simulator.faults(rent_not_accepted={"count": 1})
    world.apply_job("train")
    job = world.await_reason("train", "Complete")

    assert [one["reason"] for one in job["status"]["attempts"]] == [
        "RentNotConfirmed",
        "Completed",
    ]
    assert len(world.simulator.of(job)) == 1
    assert world.simulator.rents() == 2


@pytest.mark.shared_world
def test_an_offer_that_is_gone_costs_nothing(world: World) -> None:
    """A refused request is no machine; another offer is taken."""
    world.simulator.faults(offer_gone={"count": 1})
    world.apply_job("train")
    job = world.await_reason("train", "Complete")

    first, second = job["status"]["attempts"]
    assert (first["reason"], first["costUSD"]) == ("OfferGone", "0.000000")
    assert second["reason"] == "Completed"


def test_a_host_that_dies_is_replaced_by_another(world: World) -> None:
    """The second machine finishes; both are released, both are charged."""
    world.simulator.faults(host_dies={"count": 1, "seconds": 1})
    world.apply_job("train", command=["sh", "-c", "sleep 4"])
    job = world.await_reason("train", "Complete")

    first, second = job["status"]["attempts"]
    assert (first["reason"], second["reason"]) == ("HostLost", "Completed")
    assert first["machineID"] != second["machineID"]
    assert world.simulator.living() == []

    def entry(attempt: Object) -> str:
        return f"machine-{attempt['machineID']}.{world.namespace}"

    def known() -> dict[str, str]:
        found = world.kubectl.get("configmap", "gpujob-machines", "gpujob-system") or {}
        data: dict[str, str] = found.get("data", {})
        return data if entry(second) in data else {}

    machines = eventually("what was learnt of both machines", known)
    bad, good = (json.loads(machines[entry(one)]) for one in (first, second))
    assert (bad["failures"], bad["lastFailure"]) == (1, "HostLost")
    assert (good["failures"], good["successes"]) == (0, 1)


def test_a_machine_left_alone_ends_at_its_traffic_cap(stage: World) -> None:
    """By its own watchdog, long before its money deadline; the bill is within the ceiling."""
    stage.operator.start()
    caps = {"maxDownloadGB": 1, "maxUploadGB": 1}
    stage.apply_job("train", command=stage.waits(), data=caps)
    job = stage.await_reason("train", "Running")
    (node,) = stage.kubectl.items("gpunodes", "-n", stage.namespace)
    stage.operator.stop()
    stage.pods.stop()
    (lease,) = stage.simulator.ledger()
    stage.simulator.ask("POST", f"traffic/{lease['id']}", {"download_gb": 1.01})
    eventually("the machine has ended", lambda: stage.simulator.living() == [])
    (lease,) = stage.simulator.ledger()

    lived = lease["ended_at"] - lease["created_at"]
    assert lived < node["status"]["rent"]["moneyDeadlineSeconds"]
    assert Decimal(lease["total_usd"]) <= Decimal(job["spec"]["cost"]["ceiling"])


def test_what_was_learnt_of_a_machine_outlives_the_operator(world: World) -> None:
    """Its successor passes the cheapest offer over, and says why.

    The entry is one of an administrator's, or of an earlier release: it names no namespace.
    """
    world.apply_job("first")
    job = world.await_reason("first", "Complete")
    cheapest = job["status"]["attempts"][0]["machineID"]
    book = ("configmap", "gpujob-machines", "gpujob-system")
    eventually(
        "what was learnt is stored",
        lambda: (
            f"machine-{cheapest}.{world.namespace}"
            in (world.kubectl.get(*book) or {}).get("data", {})
        ),
    )
    world.operator.stop()
    entry = {"hostID": 1, "failures": 9, "successes": 0, "at": _now(), "lastFailure": "HostLost"}
    patch = json.dumps({"data": {f"machine-{cheapest}": json.dumps(entry)}})
    target = ("configmap", "gpujob-machines", "-n", "gpujob-system", "--type=merge")
    world.kubectl("patch", *target, "-p", patch)
    world.operator.start()
    world.apply_job("second")
    job = world.await_reason("second", "Complete")

    assert job["status"]["attempts"][0]["machineID"] != cheapest
    admitted = world.condition("second", "Admitted")["message"]
    assert f"machine {cheapest} failed recently, the last time with HostLost" in admitted


def _now() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


def test_a_machine_that_never_boots_is_given_back(stage: World) -> None:
    """The boot cap ends it; another attempt runs, the next one if this machine boots in time.

    The image is known to work, so the host is to blame, however many of them are slow.
    """
    stage.operator.start()
    stage.apply_job("before")
    stage.await_reason("before", "Complete")
    stage.operator.stop()
    stage.operator.start(GPUJOB_BOOT_CAP_SECONDS="10")
    stage.simulator.faults(slow_boot={"count": 1, "seconds": 3600})
    stage.apply_job("train")
    job = stage.await_reason("train", "Complete")

    assert job["status"]["attempts"][0]["blames"] == "host"
    first, *others = (one["reason"] for one in job["status"]["attempts"])
    assert first == "BootTimeout"
    assert others.pop() == "Completed"
    assert set(others) <= {"BootTimeout"}
    assert stage.simulator.living() == []


def test_an_image_that_cannot_be_pulled_ends_its_job_and_no_machine_is_blamed(world: World) -> None:
    """After one rent, with the registry's words; a job with another image is not touched."""
    words = "Error response from daemon: manifest for IMAGE not found: manifest unknown"
    world.simulator.faults(pull_fails={"count": -1, "image": "acme/missing", "words": words})
    world.apply_job("typo", image="acme/missing:v1")
    job = world.await_reason("typo", "ImageUnusable")
    world.apply_job("fine")
    world.await_reason("fine", "Complete")

    (attempt,) = job["status"]["attempts"]
    assert (attempt["reason"], attempt["blames"], attempt["booted"]) == (
        "ImageUnusable",
        "image",
        False,
    )
    said = "manifest for acme/missing:v1 not found: manifest unknown"
    assert said in attempt["message"]
    assert said in world.condition("typo", "Ready")["message"]
    assert len(world.simulator.of(job)) == 1

    def known() -> dict[str, str]:
        found = world.kubectl.get("configmap", "gpujob-machines", "gpujob-system") or {}
        return {
            key: text
            for key, text in found.get("data", {}).items()
            if key.startswith("image-") and "unusable" in text
        }

    (entry,) = eventually("what was learnt of the image", known).values()
    assert json.loads(entry)["image"] == "acme/missing:v1"
    book = (world.kubectl.get("configmap", "gpujob-machines", "gpujob-system") or {})["data"]
    machines = [json.loads(text) for key, text in book.items() if key.startswith("machine-")]
    assert [one["failures"] for one in machines if one["failures"]] == []
    # Another job of the namespace pays for no more than the first listing that says so.
    world.apply_job("again", image="acme/missing:v1")
    world.await_reason("again", "ImageUnusable")


@pytest.mark.parametrize(
    ("image", "words"),
    [
        ("vastsim/no-sshd", "E: Unable to locate package openssh-server"),
        ("vastsim/no-shell", 'exec: "bash": executable file not found in $PATH'),
    ],
)
def test_an_image_that_lets_nobody_in_ends_its_job(stage: World, image: str, words: str) -> None:
    """Soon, after one rent, with the words of its log or of the engine; nobody else is blamed."""
    world = stage
    world.operator.start(GPUJOB_INSTALLER_SILENCE_SECONDS="2")
    world.apply_job("train", image=image)
    job = world.await_reason("train", "ImageUnusable")

    (attempt,) = job["status"]["attempts"]
    assert (attempt["reason"], attempt["blames"]) == ("ImageUnusable", "image")
    assert words in attempt["message"]
    assert len(world.simulator.of(job)) == 1


def test_a_key_is_given_to_the_provider_once(world: World) -> None:
    """For the job's machine, not for the account, and not in each pass."""
    world.apply_job("train", command=world.waits())
    world.await_reason("train", "Running")

    def asked() -> list[str]:
        return [
            one["path"]
            for one in world.simulator.requests()
            if one["method"] == "POST" and one["path"].rstrip("/").endswith("/ssh")
        ]

    eventually("it was asked for", asked)
    world.let_go()
    world.await_reason("train", "Complete")
    (lease,) = world.simulator.ledger()

    assert asked() == [f"/api/v0/instances/{lease['id']}/ssh/"]


def test_a_machine_that_is_left_standing_runs_when_it_is_told_to(world: World) -> None:
    """Once, and then the job runs on it."""
    world.simulator.faults(left_standing={"count": 1})
    world.apply_job("train")
    job = world.await_reason("train", "Complete")

    assert len(world.simulator.of(job)) == 1
    told = [one for one in world.simulator.requests() if _tells_to_run(one)]
    assert len(told) == 1


def _tells_to_run(request: dict[str, object]) -> bool:
    path = str(request["path"]).rstrip("/").rpartition("/")
    return request["method"] == "PUT" and path[0] == "/api/v0/instances" and path[2].isdecimal()


@pytest.mark.shared_world
def test_an_ignored_destroy_is_repeated_until_it_is_true(world: World) -> None:
    """A good answer to a destroy proves nothing."""
    world.simulator.faults(destroy_ignored={"count": 3})
    world.apply_job("train")
    world.await_reason("train", "Complete")

    assert world.simulator.living() == []


@pytest.mark.shared_world
@pytest.mark.parametrize("fault", ["server_error", "html", "hang", "wrong_key"])
def test_a_market_that_does_not_answer_is_waited_for(world: World, fault: str) -> None:
    """500, a web page, silence or a refused key: nothing is rented, no job fails, it heals."""
    world.simulator.faults(**{fault: {"count": -1}})
    eventually("the operator is not ready", lambda: world.operator.probe("readyz")[0] == 503)
    world.apply_job("train")
    reason = "CredentialsRejected" if fault == "wrong_key" else "ProviderUnavailable"
    world.await_reason("train", reason)
    assert world.simulator.ledger() == []
    world.simulator.faults()
    world.await_reason("train", "Complete")


@pytest.mark.shared_world
def test_nothing_is_taken_for_gone_while_the_key_is_refused(world: World) -> None:
    """A running job survives a provider that answers 404 to every question."""
    world.apply_job("train", command=world.waits())
    world.await_reason("train", "Running")
    world.simulator.faults(wrong_key={"count": -1})
    eventually("the operator is not ready", lambda: world.operator.probe("readyz")[0] == 503)
    (lease,) = world.simulator.living()
    # A pass over the job and a few failed listings later it is still the same machine.
    eventually(
        "more failed listings",
        lambda: sum(one["status"] >= 404 for one in world.simulator.requests()) > 5,
    )
    assert [one["id"] for one in world.simulator.living()] == [lease["id"]]
    world.simulator.faults()
    world.let_go()
    job = world.await_reason("train", "Complete")

    assert len(world.simulator.of(job)) == 1


SHORT_OF_MONEY = {
    f"GPUJOB_{name}": value
    for name, value in {
        "BOOT_CAP_SECONDS": "20",
        "DESTROY_LAG_CAP_SECONDS": "4",
        "DRAIN_SECONDS": "1",
    }.items()
}


def run_short_of_money(stage: World) -> None:
    """Runs a workload for which there is money for some seconds only."""
    work = {"command": ["sh", "-c", "sleep 600"], "activeDeadlineSeconds": 20}
    stage.apply_job("probe", cost={"ceiling": "0.000001"}, **work)
    probe = stage.await_reason("probe", "CeilingExceeded")
    bound = float(probe["status"]["cost"]["estimateUSD"])
    stage.simulator.faults(slow_boot={"count": 1, "seconds": 5})
    stage.apply_job("train", cost={"ceiling": f"{bound * 1.01:.6f}"}, **work)
    stage.await_reason("train", "Running")


def test_a_fuse_holds_while_the_api_server_is_away(stage: World) -> None:
    """The leader can store no decision and has lost its lock: it still knows when a machine goes.

    The machine's own watchdog counts from its start, and so comes later.
    """
    stage.operator.start(**SHORT_OF_MONEY)
    run_short_of_money(stage)
    stage.plane.kill_apiserver()
    try:
        eventually("the machine is gone", lambda: not stage.simulator.living())
        assert "overdue_destroyed" in stage.operator.log
    finally:
        stage.plane.up()
    eventually("it lets another one lead", lambda: not stage.operator.runs)
    stage.operator.start()
    job = stage.await_reason("train", "BudgetExhausted")

    (lease,) = stage.simulator.of(job)
    assert float(lease["total_usd"]) <= float(job["spec"]["cost"]["ceiling"])


def test_a_fuse_holds_while_the_api_server_only_reads(stage: World, tmp_path: Path) -> None:
    """As with an etcd that has no space: the lock is lost, and an answer to a read is no leader."""
    with proxy(stage.plane.url, stage.plane.ca) as between:
        config = operators_config(stage.plane, tmp_path / "proxied.kubeconfig", between.url)
        operator = Operator(tmp_path, config, stage.simulator.url, "reading", **LONE_LOCK)
        operator.start(**SHORT_OF_MONEY)
        try:
            run_short_of_money(stage)
            between.refuses = lambda seen: seen.method != "GET"
            eventually("the machine is gone", lambda: not stage.simulator.living())
            assert "overdue_destroyed" in operator.log
            assert operator.runs, "nobody leads yet"
            between.refuses = lambda _: False
            eventually("it can lead again, and begins anew", lambda: not operator.runs)
            assert "LockLost" in operator.log
            operator.start(**SHORT_OF_MONEY)
            job = stage.await_reason("train", "BudgetExhausted")
        finally:
            operator.kill()
    (lease,) = stage.simulator.of(job)
    assert float(lease["total_usd"]) <= float(job["spec"]["cost"]["ceiling"])


@pytest.mark.parametrize("seconds", [-3600, 3600])
def test_an_api_server_whose_clock_is_wrong_costs_nothing(
    stage: World, tmp_path: Path, seconds: int
) -> None:
    """Whenever it says that a pod was made: no driver counts as late, and none is replaced."""
    written = re.compile(rb'"(creation|deletion)Timestamp":"([^"]+)"')

    def moved(found: re.Match[bytes]) -> bytes:
        told = datetime.fromisoformat(found[2].decode()) + timedelta(seconds=seconds)
        return b'"%sTimestamp":"%s"' % (found[1], f"{told:%Y-%m-%dT%H:%M:%SZ}".encode())

    with proxy(stage.plane.url, stage.plane.ca) as between:
        between.rewrites = lambda lines: written.sub(moved, lines)
        config = operators_config(stage.plane, tmp_path / "proxied.kubeconfig", between.url)
        operator = Operator(tmp_path, config, stage.simulator.url, "moved")
        operator.start()
        try:
            stage.pods.are_held.set()
            stage.apply_job("train", command=["true"])
            pod = ("pod", "train-0-1-driver", stage.namespace)
            eventually("its pod", lambda: stage.kubectl.get(*pod))
            stage.await_listings(8)
            assert stage.job("train")["status"]["attempt"] == 1
            stage.pods.are_held.clear()
            job = stage.await_reason("train", "Complete")
        finally:
            operator.stop()

    (lease,) = stage.simulator.of(job)
    assert lease["state"] == "destroyed"
    node = stage.kubectl.get("gpunode", "train-0-1", stage.namespace) or {}
    assert node["status"]["driver"]["podName"] == "train-0-1-driver"


@pytest.mark.shared_world
def test_a_deleted_driver_pod_is_replaced_and_the_machine_kept(world: World) -> None:
    """The next driver takes up the running workload; nothing runs twice."""
    world.apply_job("train", command=world.waits("echo start", "echo end"))
    world.await_reason("train", "Running")
    pod = ("pod", "train-0-1-driver", "-n", world.namespace)
    world.kubectl("delete", *pod, "--grace-period=0", "--force")
    connected = "connected to"
    eventually(
        "another driver has taken it up",
        lambda: world.pods.log("train-0-1-driver").count(connected) >= 2,
    )
    world.let_go()
    job = world.await_reason("train", "Complete")

    assert len(world.simulator.of(job)) == 1
    assert job["status"]["attempt"] == 1
    assert "end\n" in world.pods.log("train-0-1-driver")


@pytest.mark.shared_world
def test_a_force_deleted_node_is_searched_and_charged_in_full(world: World) -> None:
    """Its machine is destroyed, its reservation counts as spent, and the job goes on."""
    world.apply_job("train", command=["sh", "-c", "sleep 30"], cost={"ceiling": "2.00"})
    world.await_reason("train", "Running")
    node = ("gpunode", "train-0-1", "-n", world.namespace)
    world.kubectl("patch", *node, "--type=merge", "-p", '{"metadata":{"finalizers":null}}')
    world.kubectl("delete", *node, "--wait=false")

    def vanished() -> bool:
        attempts = world.job("train").get("status", {}).get("attempts", [])
        return bool(attempts) and attempts[0]["reason"] == "NodeVanished"

    eventually("the attempt is over", vanished)
    assert world.job("train")["status"]["cost"]["spentUSD"] == "2.000000"
    assert world.simulator.living() == []


def test_the_sweep_destroys_what_nobody_owns_and_nothing_else(world: World) -> None:
    """A machine under this cluster's mark without a node goes; another's stays."""
    kube_system = world.kubectl.get("namespace", "kube-system", "default") or {}
    cluster = kube_system["metadata"]["uid"]
    orphan = world.simulator.rent_by_hand(f"{cluster}/no-such-node/no-such-job")
    stranger = world.simulator.rent_by_hand("another-cluster/node/job")
    unmarked = world.simulator.rent_by_hand("somebody's own")

    eventually(
        "the orphan is gone",
        lambda: orphan not in [one["id"] for one in world.simulator.living()],
    )
    assert [one["id"] for one in world.simulator.living()] == [stranger, unmarked]
