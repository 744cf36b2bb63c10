"""Crashes and lies, struck from outside at real processes: two replicas, a real API server.

Whatever happens: no attempt rents twice, nothing is left, and the provider's own bill is at most
what we charge, which is at most the ceiling. Each is tried a few times here, and by `hack/chaos`
as often and as long as the promise says. Through all of it strangers use the same account.
"""

import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from pathlib import Path

import pytest
from tests.integration.conftest import (
    Scale,
    World,
    control_plane,
    fresh_namespace,
    staged,
)
from tests.integration.parts import (
    KEY,
    SHORT_LOCK,
    Object,
    Operator,
    Replicas,
    eventually,
    operators_config,
)
from tests.integration.proxy import Proxy, Seen, proxy

at_length = pytest.mark.at_length
RECOVERY_SECONDS = 240.0
ACCOUNT, OTHER_ACCOUNT = 4711, 12
OTHER_KEY = "canary-of-another-account"
CREATES_NODE = re.compile(r"/apis/gpujob\.dev/v1alpha1/namespaces/[^/]+/gpunodes")
RENTS = re.compile(r"/api/v0/asks/\d+/")
DESTROYS = re.compile(r"/api/v0/instances/\d+/")


@dataclass
class Chaos:
    """Two replicas, each behind the same two proxies, and a Deployment that starts them anew."""

    world: World
    replicas: Replicas
    cluster: Proxy
    """Before the API server."""
    market: Proxy
    """Before the provider."""

    def start(self, **settings: str) -> None:
        """Starts both, and waits until one of them leads."""
        self.replicas.keep(**settings)
        self.replicas.await_leader()

    def give_key(self, key: str) -> None:
        """Gives both another key of the provider, as a changed Secret and a new start would."""
        self.replicas.changes["VAST_API_KEY"] = key
        for replica in self.replicas.all.values():
            replica.kill()
        self.replicas.await_leader()

    def kill_leader(self) -> float:
        """Kills whoever leads, and returns when."""
        self.replicas.all[self.replicas.leader()].kill()
        return time.time()

    def finished(self, name: str) -> Object:
        """Waits until a job is complete and nothing is rented, and returns the job."""

        def complete() -> bool:
            return self.world.condition(name, "Complete").get("status") == "True"

        eventually(f"{name} is complete", complete, RECOVERY_SECONDS)
        self.world.await_released()
        return self.world.job(name)

    def admit_strangers(self) -> None:
        """Lets others use the account: by hand, and from a cluster whose id begins like ours."""
        system = self.world.kubectl.get("namespace", "kube-system", "default") or {}
        ours = system["metadata"]["uid"]
        labels = ("by hand", "", f"{ours}-too/node/job", "another-cluster/node/job")
        self.world.simulator.admit_strangers(*labels)

    def assert_promises(self, *jobs: Object) -> None:
        """No attempt has rented twice; bill <= charge <= ceiling; no stranger is touched."""
        market = self.world.simulator
        labels = [lease["label"] for lease in market.ledger()]
        assert len(labels) == len(set(labels)), "an attempt has rented twice"
        for job in jobs:
            bill = sum(Decimal(lease["total_usd"]) for lease in market.of(job))
            charged = Decimal(job["status"]["cost"]["finalUSD"])
            assert bill <= charged <= Decimal(job["spec"]["cost"]["ceiling"])
        assert not market.touched(), "what is not ours was touched"

    def orphans(self) -> int:
        """Returns how many machines the sweep has destroyed, each by one request or by several."""
        logs = "\n".join(one.log for one in self.replicas.all.values()).splitlines()
        lines = [json.loads(line) for line in logs if '"orphan_destroyed"' in line]
        return len({line["instance"] for line in lines})

    def rent_without_an_answer(self, name: str) -> tuple[Object, float]:
        """Kills the leader once a new job's machine is rented; returns the job, and when."""
        hold = self.market.hold(rents, answer=True)
        self.world.apply_job(name, command=["true"])
        hold.await_caught()
        killed_at = self.kill_leader()
        hold.drop()
        return self.world.job(name), killed_at


@pytest.fixture
def chaos(stage: World, tmp_path: Path) -> Iterator[Chaos]:
    """Two replicas that are not started yet, and strangers on the same account."""
    with proxy(stage.plane.url, stage.plane.ca) as cluster, proxy(stage.simulator.url) as market:
        config = operators_config(stage.plane, tmp_path / "proxied.kubeconfig", cluster.url)
        operators = {
            name: Operator(tmp_path, config, market.url, name, **SHORT_LOCK)
            for name in ("one", "two")
        }
        replicas = Replicas(stage.kubectl, operators)
        made = Chaos(stage, replicas, cluster, market)
        made.admit_strangers()
        try:
            yield made
        finally:
            replicas.close()
            deletes = [one for one in stage.simulator.requests() if one["method"] == "DELETE"]
            print("--- leases", *stage.simulator.ledger(), "--- DELETEs", *deletes, sep="\n")
            for name, operator in operators.items():
                print(f"--- log of operator {name}\n{operator.log[-20000:]}")


def reasons(job: Object) -> list[str]:
    """Returns how a job's attempts ended."""
    return [attempt["reason"] for attempt in job["status"]["attempts"]]


def paid_for(job: Object) -> list[str]:
    """Returns how those of a job's attempts ended that cost something."""
    attempts = job["status"]["attempts"]
    return [one["reason"] for one in attempts if Decimal(one["costUSD"])]


def clean_at(world: World, job: Object) -> float:
    """Returns when a job was over and its last machine gone."""
    ended = [float(lease["ended_at"]) for lease in world.simulator.of(job)]
    return max(datetime.fromisoformat(job["status"]["completionTime"]).timestamp(), *ended)


@dataclass(frozen=True)
class Point:
    """A moment at which the operator dies: this request is held when it does."""

    proxy: str
    matches: Callable[[Seen], bool]
    answer: bool = False


def creates_node(seen: Seen) -> bool:
    """Whether it is the intent."""
    return seen.method == "POST" and CREATES_NODE.fullmatch(seen.path) is not None


def rents(seen: Seen) -> bool:
    """Whether it is the rent request."""
    return seen.method == "PUT" and RENTS.fullmatch(seen.path) is not None


def destroys(seen: Seen) -> bool:
    """Whether it gives a machine back."""
    return seen.method == "DELETE" and DESTROYS.fullmatch(seen.path) is not None


POINTS = {
    "before the intent": Point("cluster", creates_node),
    "between marker and rent": Point("market", rents),
    "between rent and record": Point("market", rents, answer=True),
    "between finish and destroy": Point("market", destroys),
}


@pytest.mark.parametrize("point", POINTS)
def test_a_leader_that_dies_at_the_worst_moment(chaos: Chaos, scale: Scale, point: str) -> None:
    """The held request is dropped, and every other time delivered although its sender is dead."""
    world, where = chaos.world, POINTS[point]
    chaos.start()
    proxy = chaos.cluster if where.proxy == "cluster" else chaos.market
    jobs, seconds = [], []
    for number in range(scale.times):
        name = f"job-{number}"
        hold = proxy.hold(where.matches, answer=where.answer)
        world.apply_job(name, command=["true"])
        hold.await_caught()
        if where.matches is destroys:
            ends = [node["status"].get("end") for node in world.kubectl.items("gpunodes", "-A")]
            assert all(ends), "a machine is given back before its attempt's end is stored"
        killed_at = chaos.kill_leader()
        delivered = number % 2 == 1
        if delivered:
            hold.release()
        else:
            hold.drop()
        job = chaos.finished(name)
        lost = point == "between marker and rent" and not delivered
        assert reasons(job) == (["RentNotConfirmed", "Completed"] if lost else ["Completed"])
        assert len(world.simulator.of(job)) == 1
        jobs.append(job)
        seconds.append(clean_at(world, job) - killed_at)
    chaos.assert_promises(*jobs)
    assert chaos.orphans() == 0
    scale.note(f"leader killed {point}", world.simulator, chaos.orphans(), seconds)


def stays(seconds: float, what: str, look: Callable[[], bool]) -> None:
    """Asserts that something stays true for so long: an outage has a length."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        assert look(), what
        time.sleep(0.5)


def test_an_api_server_that_is_down_for_a_minute(chaos: Chaos, scale: Scale) -> None:
    """Nothing is rented meanwhile, whatever runs is kept, and all goes on afterwards."""
    world = chaos.world
    chaos.start()
    world.apply_job("first", command=["sh", "-c", f"sleep {60 * scale.slowness + 5:.0f}"])
    world.await_reason("first", "Running")
    hold = chaos.cluster.hold(creates_node)
    world.apply_job("second", command=["true"])
    hold.await_caught()
    world.plane.kill_apiserver()
    hold.drop()
    try:
        rented = world.simulator.rents()
        stays(60 * scale.slowness, "rented", lambda: world.simulator.rents() == rented)
    finally:
        world.plane.up()
    back_at = time.time()
    jobs = [chaos.finished(name) for name in ("first", "second")]

    assert [reasons(job) for job in jobs] == [["Completed"], ["Completed"]]
    chaos.assert_promises(*jobs)
    seconds = [max(clean_at(world, job) for job in jobs) - back_at]
    scale.note("API server down", world.simulator, chaos.orphans(), seconds)


def test_a_provider_that_answers_503_for_five_minutes(chaos: Chaos, scale: Scale) -> None:
    """A job ends meanwhile, another one comes: nothing is called gone, and nothing is rented."""
    world = chaos.world
    chaos.start()
    world.apply_job("first", command=world.waits())
    world.await_reason("first", "Running")
    world.simulator.faults(unavailable={"count": -1})
    world.apply_job("second", command=["true"])
    world.await_reason("second", "ProviderUnavailable")
    world.let_go()
    (lease,) = world.simulator.ledger()

    def unchanged() -> bool:
        (held,) = world.simulator.ledger()
        return bool(held["state"] == lease["state"])

    stays(300 * scale.slowness, "a machine came or went", unchanged)
    world.simulator.faults()
    back_at = time.time()
    jobs = [chaos.finished(name) for name in ("first", "second")]

    assert [reasons(job) for job in jobs] == [["Completed"], ["Completed"]]
    chaos.assert_promises(*jobs)
    seconds = [max(clean_at(world, job) for job in jobs) - back_at]
    scale.note("provider answers 503", world.simulator, chaos.orphans(), seconds)


def test_listings_that_lag(chaos: Chaos, scale: Scale) -> None:
    """A machine whose answer was lost is invisible for 55 s; it is waited for, and found."""
    world = chaos.world
    world.simulator.stop()
    world.simulator.start(list_lag_seconds=55 * scale.slowness)
    chaos.admit_strangers()
    chaos.start(
        GPUJOB_LIST_LAG_SECONDS=str(60 * scale.slowness),
        GPUJOB_BOOT_CAP_SECONDS="300",
        GPUJOB_DESTROY_LAG_CAP_SECONDS="300",
    )
    _, killed_at = chaos.rent_without_an_answer("train")
    job = chaos.finished("train")

    assert reasons(job) == ["Completed"]
    assert len(world.simulator.of(job)) == 1
    chaos.assert_promises(job)
    seconds = [clean_at(world, job) - killed_at]
    scale.note("leader killed, listings lag", world.simulator, chaos.orphans(), seconds)


OURS = {"count": -1, "image": "python"}
LIES: dict[str, Object] = {
    "list_duplicate": {"count": -1},
    "list_omit": {"count": 3, "image": "python"},
    "destroy_ignored": {"count": 3, "image": "python"},
}
TOLD = [pytest.param((lie,), id=lie, marks=at_length) for lie in LIES]


@pytest.mark.parametrize("lies", [*TOLD, pytest.param(tuple(LIES), id="all at once")])
def test_a_provider_that_lies(chaos: Chaos, scale: Scale, lies: tuple[str, ...]) -> None:
    """The rent's answer is lost, and then what the provider says is not so."""
    world = chaos.world
    chaos.start()
    world.simulator.faults(**{lie: LIES[lie] for lie in lies})
    _, killed_at = chaos.rent_without_an_answer("train")
    job = chaos.finished("train")

    assert reasons(job)[-1] == "Completed"
    chaos.assert_promises(job)
    seconds = [clean_at(world, job) - killed_at]
    scale.note(f"leader killed, {' '.join(lies)}", world.simulator, chaos.orphans(), seconds)


@at_length
def test_a_machine_without_its_marks_is_not_called_absent(chaos: Chaos, scale: Scale) -> None:
    """Long after it could be: nothing else is rented, and it is adopted once they are shown."""
    world = chaos.world
    chaos.start()
    world.simulator.faults(null_marks={"count": -1})
    job, _ = chaos.rent_without_an_answer("train")
    world.await_reason("train", "RentUnanswered")
    world.await_listings(60)
    assert len(world.simulator.of(job)) == 1
    assert world.condition("train", "Ready")["reason"] == "RentUnanswered"
    world.simulator.faults()
    shown_at = time.time()
    job = chaos.finished("train")

    assert reasons(job) == ["Completed"]
    assert len(world.simulator.of(job)) == 1
    chaos.assert_promises(job)
    seconds = [clean_at(world, job) - shown_at]
    scale.note("leader killed, null marks", world.simulator, chaos.orphans(), seconds)


@at_length
def test_a_released_machine_that_is_listed_again(chaos: Chaos, scale: Scale) -> None:
    """It is asked to go until it is listed no longer; the job and its cost stay as they are."""
    world = chaos.world
    chaos.start()
    world.simulator.faults(reappear={"seconds": 5, "lasts": 4})
    world.apply_job("train", command=["true"])
    job = chaos.finished("train")
    (lease,) = world.simulator.of(job)

    def asked() -> int:
        path = f"/api/v0/instances/{lease['id']}/"
        return sum(seen.method == "DELETE" and seen.path == path for seen in chaos.market.requests)

    before = asked()
    eventually("it is asked to go again", lambda: asked() > before)

    def row() -> object:
        rows = world.simulator.ask("GET", "/api/v1/instances/")["instances"]
        return next((row for row in rows if row["id"] == lease["id"]), None)

    eventually("it is gone for good", lambda: row() is None)
    after = world.job("train")

    assert after["status"] == job["status"]
    assert len(world.simulator.of(job)) == 1
    chaos.assert_promises(job)
    scale.note("released, listed again", world.simulator, chaos.orphans(), [0.0])


@at_length
def test_a_machine_that_was_lied_away_is_swept(chaos: Chaos, scale: Scale) -> None:
    """It ran on while no listing had it and each destroy was ignored; seen again, it goes."""
    world = chaos.world
    chaos.start()
    world.apply_job("train", command=["sh", "-c", "sleep 600"])
    world.await_reason("train", "Running")
    (lease,) = world.simulator.living()
    world.simulator.faults(list_omit=OURS, destroy_ignored=OURS)
    hold = chaos.market.hold(rents)

    def released() -> bool:
        node = world.kubectl.get("gpunode", "train-0-1", world.namespace) or {}
        return "releasedAt" in node.get("status", {})

    eventually("the attempt is given up", released)
    assert [one["id"] for one in world.simulator.living()] == [lease["id"]]
    world.simulator.faults()
    seen_at = time.time()
    hold.release()
    eventually(
        "the machine is gone",
        lambda: lease["id"] not in [one["id"] for one in world.simulator.living()],
    )
    ended = next(one for one in world.simulator.ledger() if one["id"] == lease["id"])["ended_at"]
    world.kubectl("delete", "gpujob", "train", "-n", world.namespace, "--wait=false")
    world.await_released()

    assert chaos.orphans() == 1
    chaos.assert_promises()
    scale.note("lied away", world.simulator, chaos.orphans(), [ended - seen_at])


@at_length
def test_a_namespace_that_is_deleted(chaos: Chaos, scale: Scale) -> None:
    """With a job that runs in it: the machine goes, the namespace too; others go on launching."""
    world = chaos.world
    chaos.start()
    world.apply_job("train", command=["sh", "-c", "sleep 600"])
    world.await_reason("train", "Running")
    with fresh_namespace(world.kubectl) as elsewhere:
        world.kubectl("delete", "namespace", world.namespace, "--wait=false")
        deleted_at = time.time()
        other = replace(world, namespace=elsewhere)
        other.apply_job("other", command=["true"])
        gone = ("get", "namespace", world.namespace)
        eventually("it is not found", lambda: "NotFound" in world.kubectl.run(*gone).stderr)
        seconds = [time.time() - deleted_at]
        other.await_reason("other", "Complete")
        world.await_released()
        job = other.job("other")

        assert reasons(job) == ["Completed"]
        chaos.assert_promises(job)
        scale.note("namespace deleted", world.simulator, chaos.orphans(), seconds)


def test_two_clusters_on_one_account(chaos: Chaos, scale: Scale, tmp_path: Path) -> None:
    """Each destroys its own machines only, through a crash and lying listings."""
    world = chaos.world
    folder = tmp_path / "other"
    folder.mkdir()
    chaos.start()
    with (
        control_plane(folder / "plane") as plane,
        proxy(world.simulator.url) as market,
        staged(plane, world.simulator, folder) as other,
    ):
        operator = Operator(folder, operators_config(plane, folder / "kubeconfig"), market.url)
        operator.start()
        try:
            other.apply_job("theirs", command=other.waits())
            their_job = other.await_reason("theirs", "Running")
            world.simulator.faults(list_omit={"count": 2, "image": "python"})
            _, killed_at = chaos.rent_without_an_answer("ours")
            world.apply_job("also-ours", command=["sh", "-c", "sleep 3"])
            other.let_go()

            def all_complete() -> bool:
                flags = [world.condition(name, "Complete") for name in ("ours", "also-ours")]
                flags.append(other.condition("theirs", "Complete"))
                return all(flag.get("status") == "True" for flag in flags)

            eventually("all jobs are complete", all_complete, RECOVERY_SECONDS)
            # Some sweeps later it is still so.
            world.await_listings(10)
        finally:
            operator.stop()
        their_job = other.job("theirs")
        theirs = {lease["id"] for lease in world.simulator.of(their_job)}
    jobs = [world.job(name) for name in ("ours", "also-ours")]
    ours = {lease["id"] for job in jobs for lease in world.simulator.of(job)}

    assert destroyed(chaos.market) == ours
    assert destroyed(market) == theirs
    assert world.simulator.living() == []
    chaos.assert_promises(*jobs, their_job)
    seconds = [max(clean_at(world, job) for job in jobs) - killed_at]
    scale.note("two clusters on one account", world.simulator, chaos.orphans(), seconds)


def destroyed(market: Proxy) -> set[int]:
    """Returns which machines were asked to go."""
    paths = [seen.path for seen in market.requests if destroys(seen)]
    return {int(path.split("/")[-2]) for path in paths}


LONG: Object = {
    "command": ["sh", "-c", "sleep 1000"],
    "activeDeadlineSeconds": 10,
    "data": {"maxDownloadGB": 0, "maxUploadGB": 0},
}
SHORT_FUSE = {
    "GPUJOB_BOOT_CAP_SECONDS": "20",
    "GPUJOB_DESTROY_LAG_CAP_SECONDS": "20",
    "GPUJOB_DESTROY_LAG_PER_LEASE_SECONDS": "0",
}


def least_ceiling(world: World) -> str:
    """Returns a ceiling just above what the gate asks for, so that the fuse is short."""
    world.apply_job("train", **LONG, cost={"ceiling": "0.0001"})
    job = world.await_reason("train", "CeilingExceeded")
    return str(Decimal(job["status"]["cost"]["estimateUSD"]) + Decimal("0.0005"))


@contextmanager
def abandoned(chaos: Chaos) -> Iterator[None]:
    """Kills operators, drivers and API server for good; the tests after it get the last back."""
    world = chaos.world
    chaos.replicas.let_go()
    for replica in chaos.replicas.all.values():
        replica.kill()
    world.pods.stop()
    world.plane.kill_apiserver()
    try:
        yield
    finally:
        world.plane.up()


@at_length
def test_a_machine_left_alone_ends_at_its_money_deadline(chaos: Chaos, scale: Scale) -> None:
    """By its own watchdog, with nothing else alive; the bill is within the ceiling."""
    world = chaos.world
    chaos.start(**SHORT_FUSE)
    ceiling = least_ceiling(world)
    world.apply_job("train", **LONG, cost={"ceiling": ceiling})
    world.await_reason("train", "Running")
    (node,) = world.kubectl.items("gpunodes", "-n", world.namespace)
    with abandoned(chaos):
        left_at = time.time()
        world.await_released()
    (lease,) = world.simulator.ledger()

    lived = lease["ended_at"] - lease["created_at"]
    assert lived >= node["status"]["rent"]["moneyDeadlineSeconds"]
    assert Decimal(lease["total_usd"]) <= Decimal(ceiling)
    scale.note("left alone, money deadline", world.simulator, 0, [lease["ended_at"] - left_at])


@at_length
def test_a_machine_left_alone_ends_without_a_heartbeat(chaos: Chaos, scale: Scale) -> None:
    """By its own watchdog, hours before its money deadline."""
    world = chaos.world
    chaos.start(GPUJOB_HEARTBEAT_STALE_SECONDS="20")
    world.apply_job("train", **LONG | {"activeDeadlineSeconds": 1000})
    world.await_reason("train", "Running")
    (node,) = world.kubectl.items("gpunodes", "-n", world.namespace)
    with abandoned(chaos):
        left_at = time.time()
        world.await_released()
    (lease,) = world.simulator.ledger()

    lived = lease["ended_at"] - lease["created_at"]
    assert lived < node["status"]["rent"]["moneyDeadlineSeconds"]
    scale.note("left alone, no heartbeat", world.simulator, 0, [lease["ended_at"] - left_at])


@pytest.mark.parametrize(
    "how", ["the key is moved", pytest.param("another key is given", marks=at_length)]
)
def test_another_accounts_key(chaos: Chaos, scale: Scale, how: str) -> None:
    """Nothing is rented, released or charged under it; with the old one all goes on."""
    world = chaos.world
    chaos.start()
    world.apply_job("train", command=world.waits())
    world.await_reason("train", "Running")
    if how == "the key is moved":
        world.simulator.ask("PUT", "keys", {KEY: OTHER_ACCOUNT})
    else:
        world.simulator.ask("PUT", "keys", {KEY: ACCOUNT, OTHER_KEY: OTHER_ACCOUNT})
        chaos.give_key(OTHER_KEY)
    # Its machine is to be released now, and must not be.
    world.let_go()
    world.await_reason("train", "AccountChanged")
    world.apply_job("second", command=["true"])
    world.await_reason("second", "AccountChanged")
    world.await_listings(20)
    nodes = world.kubectl.items("gpunodes", "-n", world.namespace)
    # An attempt that rented nothing may have come before, and waits for no proof.
    (node,) = [one for one in nodes if "lease" in one["status"]]
    assert node["metadata"]["finalizers"]
    assert "releasedAt" not in node["status"]
    assert len(world.simulator.ledger()) == 1
    if how == "the key is moved":
        world.simulator.ask("PUT", "keys", {KEY: ACCOUNT})
    else:
        chaos.give_key(KEY)
    back_at = time.time()
    jobs = [chaos.finished(name) for name in ("train", "second")]

    assert [paid_for(job) for job in jobs] == [["Completed"], ["Completed"]]
    assert {lease["account"] for lease in world.simulator.ledger()} == {ACCOUNT}
    chaos.assert_promises(*jobs)
    seconds = [max(clean_at(world, job) for job in jobs) - back_at]
    scale.note(f"another account: {how}", world.simulator, chaos.orphans(), seconds)
