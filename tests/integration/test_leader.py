"""Two replicas: one acts, and whatever becomes of it the other goes on with the same machines."""

import json
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

import pytest
from tests.integration.conftest import Scale, World
from tests.integration.parts import (
    LONE_LOCK,
    PATIENCE_SECONDS,
    SHORT_LOCK,
    Kubectl,
    Object,
    Operator,
    Replicas,
    eventually,
)

from gpujob.controller.other_releases import LABELS

KILLS = 20


@pytest.fixture
def replicas(stage: World, operator_kubeconfig: Path, tmp_path: Path) -> Iterator[Replicas]:
    """Two processes, not started yet."""
    second = Operator(tmp_path, operator_kubeconfig, stage.simulator.url, name="second")
    made = Replicas(stage.kubectl, {"operator": stage.operator, "second": second})
    yield made
    made.close()
    print(f"--- second operator's log\n{second.log[-20000:]}")


def test_a_leader_that_stops_hands_over_at_once(stage: World, replicas: Replicas) -> None:
    """Long before its lock would have run out; the job's machine and its output are kept."""
    replicas.start(GPUJOB_LOCK_DURATION_SECONDS="3600")
    first = replicas.await_leader()
    (other,) = set(replicas.all) - {first}
    stage.apply_job("train", command=stage.waits("echo one", "echo two"))
    stage.await_reason("train", "Running")

    assert replicas.all[other].probe("readyz") == (200, "ok: another replica leads")
    assert replicas.all[first].stop() == 0
    replicas.await_leader(other)
    stage.let_go()
    job = stage.await_reason("train", "Complete")

    assert len(stage.simulator.of(job)) == 1
    assert stage.simulator.rents() == 1
    log = stage.pods.log("train-0-1-driver")
    assert (log.count("one\n"), log.count("two\n")) == (1, 1)


STANDS = """
import asyncio, time
from gpujob.adapters.clock import SystemClock
from gpujob.controller.heartbeat import Heartbeat
from gpujob.controller.lock_thread import LockThread
from gpujob.controller.settings import Settings

async def main():
    clock = SystemClock()
    heartbeat = Heartbeat(clock)
    beating = asyncio.create_task(heartbeat.run())
    stalled = lambda: heartbeat.is_stalled
    lock = LockThread(clock, Settings.from_environment(), identity="stands", is_stalled=stalled)
    await lock.start()
    await lock.acquire_alone()
    holding = asyncio.create_task(lock.hold())
    await asyncio.sleep(1)
    time.sleep(600)

asyncio.run(main())
"""


def test_a_leader_whose_passes_stand_still_ends_before_its_lock_does(stage: World) -> None:
    """The lock's thread would renew it for ever, and nobody would look at the machines."""
    duration = 20
    limits = {
        "GPUJOB_LOCK_DURATION_SECONDS": str(duration),
        "GPUJOB_LOCK_RENEW_DEADLINE_SECONDS": "5",
    }
    done = subprocess.run(
        [sys.executable, "-c", STANDS],
        env=stage.operator.environment | limits,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )
    ended_at = datetime.now(UTC)
    lease = stage.kubectl.get("lease", "gpujob", "gpujob-system") or {}
    renewed_at = datetime.fromisoformat(lease["spec"]["renewTime"])

    assert done.returncode == 1, done.stderr
    assert "the passes stand still" in done.stdout + done.stderr
    assert lease["spec"]["holderIdentity"] == "stands"
    assert (ended_at - renewed_at).total_seconds() < duration


def pod(name: str, namespace: str, account: str) -> Object:
    """Returns a pod as the API server has one, restricted; nothing runs it."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "serviceAccountName": account,
            "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [
                {
                    "name": "one",
                    "image": "none",
                    "securityContext": {
                        "allowPrivilegeEscalation": False,
                        "capabilities": {"drop": ["ALL"]},
                    },
                }
            ],
        },
    }


@pytest.fixture
def operators_pod(kubectl: Kubectl) -> Iterator[None]:
    """The pod that the operator's process would be in."""
    kubectl.apply(pod("operator", "gpujob-system", "gpujob"))
    yield
    kubectl("delete", "pod", "operator", "-n", "gpujob-system", "--grace-period=0", "--force")


@pytest.mark.usefixtures("operators_pod")
def test_a_second_release_does_not_start(
    world: World, operator_kubeconfig: Path, tmp_path: Path, namespace: str
) -> None:
    """Two would work on the same jobs. It says which one leads, and leaves that one alone."""
    eventually("the first leads", lambda: "lock_acquired" in world.operator.log)
    # What its own Role would let it do.
    account = ("--clusterrole=admin", "--serviceaccount=gpujob-system:gpujob", "-n", namespace)
    world.kubectl("create", "rolebinding", "second", *account)
    second = Operator(tmp_path, operator_kubeconfig, world.simulator.url, name="second")
    second.launch(GPUJOB_NAMESPACE=namespace, **SHORT_LOCK)
    eventually("the second has ended", lambda: not second.runs)

    assert second.stop() == 1
    assert "release gpujob-system/gpujob of the operator leads in this cluster" in second.log
    world.apply_job("train")
    world.await_reason("train", "Complete")
    assert world.operator.runs


@contextmanager
def renewed_for_ever(kubectl: Kubectl, user: str, namespace: str) -> Iterator[None]:
    """A user writes all Leases of a namespace again and again."""
    over = threading.Event()
    failures: list[str] = []

    def renew() -> None:
        for number in count():
            if over.wait(1.0):
                return
            stamp = ("--all", "--overwrite", f"stamp={number}")
            done = kubectl.run(f"--as={user}", "annotate", "lease", "-n", namespace, *stamp)
            failures.extend([done.stderr] if done.returncode else [])

    renewing = threading.Thread(target=renew)
    renewing.start()
    try:
        yield
    finally:
        over.set()
        renewing.join()
    assert failures == []


@pytest.mark.usefixtures("operators_pod")
def test_a_users_lease_keeps_no_release_from_starting(stage: World, namespace: str) -> None:
    """Whoever may edit a namespace may write any Lease there; that makes him no controller."""
    kubectl, user = stage.kubectl, "somebody"
    bound = ("--clusterrole=edit", f"--user={user}", "-n", namespace)
    kubectl("create", "rolebinding", "editors", *bound)
    kubectl.apply(pod("toy", namespace, "default"))
    # His own pod; another namespace's, by name and by a path; none.
    path = "../../gpujob-system/pods/operator_1f"
    holders = ("toy_1f", "operator_1f", path, "nobody")
    for number, holder in enumerate(holders):
        lease = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": f"own-{number}", "namespace": namespace, "labels": LABELS},
            "spec": {"holderIdentity": holder, "leaseDurationSeconds": 15},
        }
        kubectl(f"--as={user}", "create", "-f", "-", text=json.dumps(lease))
    # Long enough for all to be renewed between two looks, on a slow machine too.
    lock = LONE_LOCK | {"GPUJOB_LOCK_DURATION_SECONDS": "15"}
    with renewed_for_ever(kubectl, user, namespace):
        stage.operator.start(**lock)
        eventually("it leads", lambda: '"event": "lock_acquired"' in stage.operator.log)
    stage.apply_job("train")
    stage.await_reason("train", "Complete")

    assert stage.operator.log.count("other_lock_ignored") >= len(holders)


def test_a_lock_that_another_release_left_behind_holds_nobody(stage: World, namespace: str) -> None:
    """It is held for ever, and nobody renews it."""
    left = {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": "gpujob", "namespace": namespace, "labels": LABELS},
        "spec": {"holderIdentity": "gone_1", "leaseDurationSeconds": 15, "leaseTransitions": 0},
    }
    stage.kubectl.apply(left)
    stage.operator.start(**LONE_LOCK)

    stage.apply_job("train")
    stage.await_reason("train", "Complete")


def test_a_leader_that_is_cut_off_stops_itself(stage: World, replicas: Replicas) -> None:
    """Its lock taken by force, it ends with an error, and rents nothing more."""
    replicas.start()
    first = replicas.await_leader()
    (other,) = set(replicas.all) - {first}
    replicas.all[other].stop()
    patch = '{"spec":{"holderIdentity":"stranger_1","leaseDurationSeconds":3600}}'
    stage.kubectl("patch", "lease", "gpujob", "-n", "gpujob-system", "--type=merge", "-p", patch)
    eventually("the deposed leader has ended", lambda: not replicas.all[first].runs)
    stage.apply_job("train")

    assert "LockLost" in replicas.all[first].log
    assert stage.simulator.rents() == 0
    stage.kubectl("delete", "lease", "gpujob", "-n", "gpujob-system")
    replicas.start()
    stage.await_reason("train", "Complete")


def test_a_leader_that_is_killed_at_any_moment_is_followed(
    stage: World, replicas: Replicas, scale: Scale
) -> None:
    """Twenty times, from renting to giving back: no second machine for an attempt, none left."""
    chance = random.Random(1)
    replicas.start(**SHORT_LOCK)
    replicas.await_leader()
    for number in range(4):
        script = f"echo start; sleep {2 + number}; echo end"
        stage.apply_job(f"job-{number}", command=["sh", "-c", script], maxRents=100)
    for _ in range(KILLS):
        # The moments are chance on purpose: whatever they hit must hold.
        time.sleep(chance.uniform(0.0, 2.0))
        leader = replicas.await_leader()
        replicas.all[leader].kill()
        replicas.start(**SHORT_LOCK)

    def all_complete() -> bool:
        replicas.start(**SHORT_LOCK)
        flags = [stage.condition(f"job-{number}", "Complete") for number in range(4)]
        return all(flag.get("status") == "True" for flag in flags)

    last_at = time.time()
    eventually("all jobs are complete", all_complete, patience_seconds=300)
    seconds = [time.time() - last_at]
    labels = [lease["label"] for lease in stage.simulator.ledger()]
    assert len(labels) == len(set(labels)), "an attempt has rented twice"
    assert stage.simulator.living() == []
    orphans = sum(one.log.count("orphan_destroyed") for one in replicas.all.values())
    scale.note(f"leader killed {KILLS} times, anywhere", stage.simulator, orphans, seconds)
