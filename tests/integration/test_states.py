"""What happens to a job in each state when its surroundings change, on a real API server.

The table of LIFECYCLE.md, which the simulation plays cell by cell, with virtual time
(`tests/simulation/test_lifecycle.py`). Here a job in each state is there at once, beside all
others, and a column happens to all of them.
"""

import json
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from decimal import Decimal

import pytest
from tests.integration.client import path_of
from tests.integration.conftest import INSTALLED, World, chart, install
from tests.integration.parts import Object, eventually, operators_config
from tests.lifecycle import table, told

from localcluster import binaries

NAMES = {
    "refused by the cost gate": "refused",
    "suspended, never ran": "paused",
    "booting": "booting",
    "running": "running",
    "giving its machine back": "releasing",
    "suspended after it ran": "suspended",
    "complete": "complete",
    "failed": "failed",
}
"""What the job in each state is called."""
MERGE = "application/merge-patch+json"
CEILING_USD = "2.00"
BOOT_SECONDS = 20.0
"""Longer than an event takes to happen, and shorter than the boot cap."""
LISTED_SECONDS = 12.0
"""So long a machine is listed that was destroyed."""
PATIENT = {"GPUJOB_BOOT_CAP_SECONDS": "300"}
"""Of the operator: many machines begin at once."""


@pytest.fixture
def release(stage: World) -> Iterator[list[Object]]:
    """What the release consists of; it is there again afterwards."""
    documents = chart(binaries.ensure(binaries.CHART))
    found = [one for one in documents if one["kind"] in INSTALLED]
    yield found
    install(stage.kubectl, found)


def image_of(name: str) -> str:
    """Returns the image of a job, by which its machines are known."""
    return f"python:3.11-{name}"


def apply(world: World, name: str, **spec: object) -> None:
    """Applies the job of this name, changed by keyword."""
    world.apply_job(name, **{"image": image_of(name), "cost": {"ceiling": CEILING_USD}} | spec)


def bring_up(world: World, *, boots: bool) -> None:
    """Brings a job into each of the states, side by side; the one that boots does so in the end."""
    slow = {"count": 1, "seconds": BOOT_SECONDS if boots else 1e9, "image": image_of("booting")}
    lasting = {"count": 1, "lasts": LISTED_SECONDS, "image": image_of("releasing")}
    world.simulator.faults(slow_boot=slow, reappear=lasting)
    world.operator.start(**PATIENT)
    long = {"command": world.waits(after="echo over")}
    apply(world, "refused", cost={"ceiling": "0.01"})
    apply(world, "paused", suspend=True)
    for name in ("running", "releasing", "suspended"):
        apply(world, name, **long)
    apply(world, "complete", command=["true"])
    apply(world, "failed", command=["false"], backoffLimit=0)
    for name in ("running", "releasing", "suspended"):
        world.await_reason(name, "Running")
    apply(world, "suspended", **long, suspend=True)
    for name, reason in (
        ("refused", "CeilingExceeded"),
        ("paused", "Suspended"),
        ("suspended", "Suspended"),
        ("complete", "Complete"),
        ("failed", "BackoffLimitExceeded"),
    ):
        world.await_reason(name, reason)
    apply(world, "booting", command=["true"])
    world.await_reason("booting", "Booting")
    apply(world, "releasing", **long, suspend=True)
    world.await_reason("releasing", "Releasing")
    eventually("it is destroyed", lambda: not living(world, "releasing"))


def leases(world: World, name: str) -> list[Object]:
    """Returns what was ever rented for a job of this name."""
    return [one for one in world.simulator.ledger() if one["image"] == image_of(name)]


def living(world: World, name: str) -> list[Object]:
    """Returns what is rented for it."""
    return [one for one in leases(world, name) if one["state"] != "destroyed"]


def outcome(job: Object | None, its_leases: list[Object], before: int, left_at: float) -> str:
    """Returns, in the page's words, what came of a job and of its machines."""
    words = "gone"
    if job is not None:
        told = job.get("status", {}).get("conditions", [])
        words = str(next((one["reason"] for one in told if one["type"] == "Ready"), None))
        if "deletionTimestamp" in job["metadata"]:
            words = "kept by its finalizer"
    if any((one["ended_at"] or 0.0) > left_at for one in its_leases):
        words += ", machine ended by its watchdog"
    more = len(its_leases) - before
    return f"{words}, {more} rented anew" if more else words


def outcomes(world: World, before: Counter[str], left_at: float) -> dict[str, str]:
    """Returns what came of each job, by its state; one look at the cluster and the market."""
    here = world.kubectl.items("gpujobs", "-n", world.namespace)
    jobs = {one["metadata"]["name"]: one for one in here}
    ledger = world.simulator.ledger()
    found = {}
    for state, name in NAMES.items():
        its_leases = [one for one in ledger if one["image"] == image_of(name)]
        found[state] = outcome(jobs.get(name), its_leases, before[name], left_at)
    return found


def compare(world: World, event: str, before: Counter[str], left_at: float = float("inf")) -> None:
    """Holds what came of all jobs against the page; `left_at` is when the operator left for good.

    No machine is left, no attempt has had two, no job costs more than it may, or than it is
    charged, and nothing is held that is owed nothing.
    """

    wanted = told(event)
    with suppress(AssertionError):
        what = f"{event}: what the page says"
        eventually(what, lambda: outcomes(world, before, left_at) == wanted)
    assert outcomes(world, before, left_at) == wanted
    world.await_released()
    bills = Counter[str]()
    for lease in world.simulator.ledger():
        bills[lease["label"]] += 1
    assert set(bills.values()) == {1}
    for job in world.kubectl.items("gpujobs", "-n", world.namespace):
        if "deletionTimestamp" not in job["metadata"]:
            paid = sum(Decimal(one["total_usd"]) for one in world.simulator.of(job))
            assert paid <= Decimal(job["status"]["cost"].get("spentUSD", "0"))
            assert paid <= Decimal(CEILING_USD)
            assert not job["metadata"].get("finalizers"), job["metadata"]["name"]


def rented(world: World) -> Counter[str]:
    """Returns how many machines there were so far for each job."""
    names = {image_of(name): name for name in NAMES.values()}
    return Counter(names[lease["image"]] for lease in world.simulator.ledger())


def restore(world: World, job: Object) -> None:
    """Creates a job again by what a backup keeps of it: all but the status, with another uid."""
    names = ("name", "namespace", "annotations", "labels")
    meta = {name: one for name, one in job["metadata"].items() if name in names}
    body = {one: job[one] for one in ("apiVersion", "kind", "spec")} | {"metadata": meta}
    path = path_of("gpujobs", meta["name"], world.namespace).rpartition("/")[0]
    code, answer = world.kubectl.client.send("POST", path, body)
    assert code == 201, answer


def kinds(documents: list[Object]) -> list[str]:
    """Returns the kinds of a release, as kubectl calls them."""
    found = [one for one in documents if one["kind"] == "CustomResourceDefinition"]
    return [f"crd/{one['metadata']['name']}" for one in found]


def test_every_cell_of_the_page_is_run() -> None:
    """Each state, and each event by a test of this module."""
    head, *rows = table()

    assert [row[0] for row in rows] == [*NAMES]
    assert head[1:] == [AWAY, UNINSTALLED, DELETED, FORCED, NAMESPACE, RESTORED]


AWAY = "controller away for 10 min"


def test_the_controller_is_away(stage: World) -> None:
    """Meanwhile a workload ends, a machine boots, and one is gone that was to be given back."""
    bring_up(stage, boots=True)
    before = rented(stage)
    stage.operator.kill()
    stage.let_go()
    eventually("the workload ends", lambda: "over\n" in stage.pods.log("running-0-1-driver"))
    eventually("the machine runs", lambda: living(stage, "booting")[0]["state"] == "running")
    stage.operator.start(**PATIENT)

    compare(stage, AWAY, before)


UNINSTALLED = "uninstalled"


def test_it_is_uninstalled(stage: World, release: list[Object]) -> None:
    """All that Helm deletes is gone, and then the jobs are deleted; machines are ended by their own
    watchdogs, here for their traffic: the money deadline is some minutes away.

    A release of the same name goes on with what was kept. A job that is restored with its status
    while there are no policies is over, as it was.
    """
    bring_up(stage, boots=True)
    before = rented(stage)
    stage.operator.stop()
    keep = "helm.sh/resource-policy"
    gone = [one for one in release if keep not in one["metadata"].get("annotations", {})]
    listed = {"apiVersion": "v1", "kind": "List", "items": gone}
    stage.kubectl("delete", "-f", "-", text=json.dumps(listed))
    left_at = time.time()
    eventually("the machine runs", lambda: living(stage, "booting")[0]["state"] == "running")
    for lease in stage.simulator.living():
        stage.simulator.ask("POST", f"traffic/{lease['id']}", {"download_gb": 100})
    stage.await_released()
    done = stage.job("complete")
    for name in NAMES.values():
        stage.kubectl.client.delete("gpujobs", name, stage.namespace)
    compare(stage, UNINSTALLED, before, left_at)

    restore(stage, done)
    path = f"{path_of('gpujobs', 'complete', stage.namespace)}/status"
    status = {"status": done["status"]}
    code, answer = stage.kubectl.client.send("PATCH", path, status, MERGE)
    assert code == 200, answer
    install(stage.kubectl, release)
    operators_config(stage.plane, stage.operator.kubeconfig)
    stage.operator.start()
    here = ("gpujobs,gpunodes", "-n", stage.namespace)
    eventually("nothing else is kept", lambda: len(stage.kubectl.items(*here)) == 1)
    stage.await_listings(4)
    assert stage.condition("complete", "Complete")["status"] == "True"
    assert rented(stage) == before
    code, answer = stage.kubectl.client.send("PATCH", path, {"status": {"attempt": 9}}, MERGE)
    assert "only the operator may write the status" in answer["message"]


DELETED = "kinds deleted"


def test_the_kinds_are_deleted(stage: World, release: list[Object]) -> None:
    """They are gone only once nothing is rented."""
    bring_up(stage, boots=False)
    before = rented(stage)
    stage.kubectl("delete", "--wait=true", "--timeout=240s", *kinds(release))
    left = stage.simulator.living()
    install(stage.kubectl, release)
    ready = stage.kept(lambda: stage.operator.probe("readyz") == (200, "ok"))
    eventually("it is ready", ready)

    assert left == []
    compare(stage, DELETED, before)


FORCED = "kinds removed by force"


def test_the_kinds_are_removed_by_force(stage: World, release: list[Object]) -> None:
    """No machine is destroyed until they are back."""
    bring_up(stage, boots=False)
    before = rented(stage)
    stage.operator.kill()
    stage.kubectl("delete", "--wait=false", *kinds(release))
    no_finalizers = {"metadata": {"finalizers": None}}
    for kind in ("gpunodes", "gpujobs"):
        for one in stage.kubectl.items(kind, "-n", stage.namespace):
            path = path_of(kind, one["metadata"]["name"], stage.namespace)
            stage.kubectl.client.send("PATCH", path, no_finalizers, MERGE)
    stage.kubectl("wait", "--for=delete", "--timeout=240s", *kinds(release))
    stage.operator.launch()
    stage.await_listings(8)
    left = {one["image"] for one in stage.simulator.living()}
    install(stage.kubectl, release)
    eventually("the sweep finds them", stage.kept(lambda: not stage.simulator.living()))

    assert left == {image_of("booting"), image_of("running")}
    compare(stage, FORCED, before)


NAMESPACE = "namespace deleted"


def test_the_namespace_is_deleted(stage: World) -> None:
    """It is gone only once nothing is rented."""
    bring_up(stage, boots=False)
    before = rented(stage)
    stage.kubectl("delete", "namespace", stage.namespace, "--wait=true", "--timeout=240s")
    left = stage.simulator.living()

    assert left == []
    compare(stage, NAMESPACE, before)


RESTORED = "restored from a backup"


def test_they_are_restored_from_a_backup(stage: World) -> None:
    """Lost, and created again while the operator runs."""
    bring_up(stage, boots=False)
    before = rented(stage)
    saved = stage.kubectl.items("gpujobs", "-n", stage.namespace)
    for name in NAMES.values():
        stage.kubectl.client.delete("gpujobs", name, stage.namespace)
    here = ("gpujobs,gpunodes", "-n", stage.namespace)
    eventually("they are lost", lambda: not stage.kubectl.items(*here))
    stage.simulator.faults()
    stage.let_go()
    for job in saved:
        restore(stage, job)

    compare(stage, RESTORED, before)
