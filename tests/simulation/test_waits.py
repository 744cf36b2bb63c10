"""What the cluster refuses, and drivers that are lost: whole lives, and what the ledger says."""

import asyncio
from collections import Counter
from itertools import pairwise
from typing import Any

import pytest
from tests.simulation.model import Chance
from tests.simulation.world import NAMESPACE, World, play

from gpujob.adapters.errors import (
    ClusterError,
    ClusterUnavailable,
    Conflict,
    Forbidden,
    Invalid,
)
from gpujob.api.meta import ANNOTATION_FINISHED
from gpujob.controller.workqueue import Key

HOURS_SECONDS = 2 * 3600.0
QUOTA = Forbidden("POST …: 403: …", 'pods "x" is forbidden: exceeded quota: none, limited: 0')
ANSWERS = {
    "a quota": QUOTA,
    "a right": Forbidden("403", 'User "gpujob" cannot create resource in API group ""'),
    "a webhook": ClusterUnavailable("500", 'failed calling webhook "inject.example.com"'),
    "a slow webhook": ClusterUnavailable("…", "no answer: TimeoutError: "),
    "a limit range": Invalid("422", (), "minimum memory usage per Container is 1Gi"),
    "a conflict": Conflict("409", "the object has been modified; please apply your changes"),
    "a throttle": ClusterUnavailable("429", "too many requests, please try again later"),
}
NEEDED = (
    "set_finalizers GpuJob",
    "create GpuNode",
    "create Service",
    "create Secret",
    "create Pod",
)
PORTS = [{"name": "http", "port": 8080}]


def ready(world: World) -> dict[str, Any]:
    """Returns the job's summary."""
    job = world.kube.objects["GpuJob", NAMESPACE, "train"]
    found = (job.get("status") or {}).get("conditions", [])
    return next((one for one in found if one["type"] == "Ready"), {"reason": "", "message": ""})


def attempts(world: World) -> Counter[str]:
    """Returns how the job's attempts have ended."""
    return Counter(one.reason for one in world.jobs()["train"].status.attempts)


def driver_of(world: World) -> dict[str, Any] | None:
    """Returns the pod that the node records; None = none is there."""
    node = world.kube.objects["GpuNode", NAMESPACE, "train-0-1"]
    recorded = node["status"].get("driver", {})
    return world.kube.by_uid(recorded.get("podUID", ""))


def is_ready(world: World) -> bool:
    """Whether the recorded driver has reported."""
    node = world.kube.objects["GpuNode", NAMESPACE, "train-0-1"]
    return "readyAt" in node["status"]["driver"]


@pytest.mark.parametrize("needed", NEEDED)
@pytest.mark.parametrize("answer", sorted(ANSWERS))
def test_what_the_cluster_refuses_is_told_and_waited_for(needed: str, answer: str) -> None:
    """In its words, by one event, with pauses; and then the job runs and is paid once."""
    said: ClusterError = ANSWERS[answer]

    async def life() -> None:
        world = World(Chance(0, level=0.0), run_seconds=60.0)
        world.kube.refused[needed] = said
        await world.apply("train", ports=PORTS)
        await world.until(lambda: ready(world)["reason"] == "ClusterRefused", 40)
        assert said.said.strip() in ready(world)["message"]
        written = Counter(world.calls.made)
        # Longer than 80 minutes, after which jobs once failed for good.
        await world.go_on(HOURS_SECONDS if answer == "a quota" else 400)

        assert ready(world)["reason"] == "ClusterRefused"
        later = Counter(world.calls.made) - written
        assert later["write_status GpuJob"] + later["write_status GpuNode"] <= 6
        assert not world.market.leases.keys() - world.vast.foreign
        (told,) = world.kube.events_of("ClusterRefused")
        assert (told["type"], told["regarding"]["kind"]) == ("Warning", "GpuJob")
        assert said.said.strip() in told["note"]
        tried = [at for at, what in world.kube.asked if what == needed]
        # A Secret that seems to exist is deleted, and made again at once.
        pauses = [pause for one, two in pairwise(tried) if (pause := two - one) > 4.5]
        assert all(pause >= 44 for pause in pauses[-5:])
        assert max(pauses) < 60

        world.kube.refused.clear()
        await world.until(lambda: ready(world)["reason"] != "ClusterRefused", 60)
        await world.until(world.is_over, 3600)
        assert world.reason("train") == "Complete"
        assert attempts(world) == {"Completed": 1}
        status = world.jobs()["train"].status
        assert (status.failures, status.disruptions) == (0, 0)
        world.check_end()
        await world.end()

    play(life)


def test_what_a_webhook_says_is_bounded_and_shows_no_secret() -> None:
    """A stranger's words are shown to whoever may read the job."""
    key = "0123456789abcdef" * 4
    words = f'Post "https://in.example.com/mutate?key=canary": {key}\n\x1b[31m' + "x" * 5000

    async def life() -> None:
        world = World(Chance(0, level=0.0))
        world.kube.refused["create Secret"] = Forbidden("403", words)
        await world.apply("train")
        await world.until(lambda: ready(world)["reason"] == "ClusterRefused", 40)
        await world.until(lambda: bool(world.kube.events_of("ClusterRefused")), 40)
        (told,) = world.kube.events_of("ClusterRefused")
        for text in (ready(world)["message"], told["note"]):
            assert "https://in.example.com/mutate" in text
            assert not [one for one in ("canary", key, "\n", "\x1b") if one in text]
            assert len(text) < 700
        await world.end()

    play(life)


@pytest.mark.parametrize("needed", ["set_finalizers GpuNode", "set_finalizers GpuJob"])
def test_a_finalizer_that_stays_is_told(needed: str) -> None:
    """Of a job that is over, too: else nobody knows why it cannot be deleted."""

    async def life() -> None:
        world = World(Chance(0, level=0.0), run_seconds=60.0)
        await world.apply("train")
        await world.until(lambda: world.reason("train") == "Running", 600)
        world.kube.refused[needed] = QUOTA
        await world.until(world.is_over, 3600)
        await world.until(lambda: bool(world.kube.events_of("ClusterRefused")), 120)
        await world.go_on(600)

        assert len(world.kube.events_of("ClusterRefused")) == 1
        name = "train-0-1" if needed.endswith("Node") else "train"
        stored = world.kube.objects[needed.split()[1], NAMESPACE, name]
        words = [one["message"] for one in stored["status"]["conditions"]]
        assert any(QUOTA.said in one for one in words)
        assert world.reason("train") == "Complete"
        world.kube.refused.clear()
        await world.until(lambda: not stored_finalizers(world, needed.split()[1], name), 60)
        world.check_end()
        await world.end()

    play(life)


def stored_finalizers(world: World, kind: str, name: str) -> list[str]:
    """Returns the finalizers of an object."""
    found: list[str] = world.kube.objects[kind, NAMESPACE, name]["metadata"].get("finalizers", [])
    return found


@pytest.mark.parametrize("answer", ["a limit range", "a webhook"])
@pytest.mark.parametrize("needed", ["write_status GpuJob", "get Service", "get GpuJob"])
def test_a_pass_that_cannot_be_finished_is_told_once(needed: str, answer: str) -> None:
    """By an event, since no condition can say it."""
    said = ANSWERS[answer]

    async def life() -> None:
        world = World(Chance(0, level=0.0), run_seconds=60.0)
        world.kube.refused[needed] = said
        await world.apply("train", ports=PORTS)
        await world.go_on(600)
        (told,) = world.kube.events_of("ClusterRefused")
        assert said.said in told["note"]
        assert len(world.kube.asked) < 40

        world.kube.refused.clear()
        await world.until(world.is_over, 3600)
        assert world.reason("train") == "Complete"
        world.check_end()
        await world.end()

    play(life)


def test_drivers_that_do_not_start_are_waited_for() -> None:
    """For as long as it takes: their pods are tried again, and nothing stays reserved."""

    async def life() -> None:
        world = World(Chance(0, level=0.0), run_seconds=60.0)
        world.drivers.are_pending = True
        await world.apply("train", maxRents=1, backoffLimit=0)
        await world.go_on(2 * HOURS_SECONDS)

        job = world.jobs()["train"].status
        assert (job.end, job.attempt, job.attempts) == (None, 1, ())
        assert job.node_reserved_usd == "0.000000"
        node = world.kube.objects["GpuNode", NAMESPACE, "train-0-1"]["status"]
        # One in 300 s, and up to 45 s between two.
        assert 2 * HOURS_SECONDS / 360 < node["driverPodNumber"] < 2 * HOURS_SECONDS / 300
        assert len(world.kube.of_kind("Pod")) <= 1

        world.drivers.are_pending = False
        await world.until(lambda: world.reason("train") == "Running", 300)
        assert world.jobs()["train"].status.node_reserved_usd == "6.000000"
        await world.until(world.is_over, 3600)
        assert attempts(world) == {"Completed": 1}
        world.check_end()
        await world.end()

    play(life)


def test_what_is_reserved_anew_is_not_taken_back_by_a_cache_that_is_late() -> None:
    """If its node vanished then, the job would charge nothing for its machine."""

    async def life() -> None:
        world = World(Chance(0, level=0.0), run_seconds=600.0)
        world.drivers.are_pending = True
        await world.apply("train")
        await world.until(lambda: world.jobs()["train"].status.node_reserved_usd == "0.000000", 400)
        old = world.kube.objects["GpuNode", NAMESPACE, "train-0-1"]
        world.drivers.are_pending = False
        await world.until(lambda: world.reason("train") == "Running", 600)
        (leader,) = (one for one in world.replicas if one.lock.is_held)
        leader.hold_late(old)
        leader.nudge(Key("GpuJob", NAMESPACE, "train"))
        # Each write is checked against the fuse.
        await world.go_on(30)

        assert world.jobs()["train"].status.node_reserved_usd == "6.000000"
        await world.end()

    play(life)


def test_a_driver_whose_node_dies_is_replaced_and_its_machine_kept() -> None:
    """Its pod stays for ever; the workload goes on, is paid once, and no machine is blamed."""

    async def life() -> None:
        world = World(Chance(0, level=0.0), run_seconds=2400.0)
        await world.apply("train", activeDeadlineSeconds=3600)
        await world.until(lambda: world.reason("train") == "Running", 600)
        (machine,) = world.living()
        for number in range(1, 4):
            lost = driver_of(world)
            assert lost is not None
            world.drivers.cut_off.add(lost["metadata"]["uid"])
            world.kube.lose_node(lost["metadata"]["name"], NAMESPACE)
            if number == 2:
                # The cluster finds out first.
                world.kube.delete_now("Pod", NAMESPACE, lost["metadata"]["name"])
            began = asyncio.get_running_loop().time()

            def has_another(lost: Any = lost) -> bool:
                now = driver_of(world)
                return now is not None and now["metadata"]["uid"] != lost["metadata"]["uid"]

            await world.until(has_another, 360)
            waited = asyncio.get_running_loop().time() - began
            assert waited < (30 if number == 2 else 340)
            await world.until(lambda: is_ready(world), 60)
            found = driver_of(world)
            assert found is not None
            assert found["metadata"]["name"] == f"train-0-1-driver-{number + 1}"
            await world.until(lambda: world.reason("train") == "Running", 60)
            assert world.living() == [machine]
        await world.until(world.is_over, 3600)

        assert world.reason("train") == "Complete"
        assert attempts(world) == {"Completed": 1}
        assert not world.jobs()["train"].status.disruptions
        world.check_end()
        await world.end()

    play(life)


@pytest.mark.parametrize("ahead_seconds", [-300.0, 300.0, -7200.0, 7200.0])
def test_the_clock_of_the_api_server_ends_nothing(ahead_seconds: float) -> None:
    """Its times differ from ours by any amount; drivers that are lost are replaced all the same."""

    async def life() -> None:
        world = World(Chance(0, level=0.0), run_seconds=900.0)
        world.kube.set_clock(ahead_seconds)
        await world.apply("train")
        await world.until(lambda: world.reason("train") == "Running", 600)
        lost = driver_of(world)
        assert lost is not None
        assert lost["metadata"]["name"] == "train-0-1-driver"
        world.drivers.cut_off.add(lost["metadata"]["uid"])
        world.kube.lose_node(lost["metadata"]["name"], NAMESPACE)
        await world.go_on(280)
        assert (
            world.kube.by_uid(lost["metadata"]["uid"])
            == world.kube.objects["Pod", NAMESPACE, "train-0-1-driver"]
        )
        assert driver_of(world) is not None
        await world.until(
            lambda: (driver_of(world) or lost)["metadata"]["uid"] != lost["metadata"]["uid"], 90
        )
        await world.until(world.is_over, 3600)

        assert attempts(world) == {"Completed": 1}
        world.check_end()
        await world.end()

    play(life)


def test_the_name_of_a_job_that_left_its_node_is_free_at_once() -> None:
    """`kubectl delete --cascade=orphan` takes the owner references away, and the job after that."""

    async def life() -> None:
        world = World(Chance(0, level=0.0), run_seconds=60.0)
        await world.apply("train")
        await world.until(world.is_over, 3600)
        await world.until(lambda: not stored_finalizers(world, "GpuNode", "train-0-1"), 60)
        world.kube.orphan("GpuNode", NAMESPACE, "train-0-1")
        world.kube.delete_now("GpuJob", NAMESPACE, "train")
        await world.apply("train")
        await world.until(lambda: world.reason("train") == "Running", 600)
        await world.until(world.is_over, 3600)

        assert world.reason("train") == "Complete"
        assert attempts(world) == {"Completed": 1}
        world.check_end()
        await world.end()

    play(life)


def test_the_name_of_a_job_whose_machine_runs_is_free_once_that_is_gone() -> None:
    """Nothing is rented before, and it is told why."""

    async def life() -> None:
        world = World(Chance(0, level=0.0), run_seconds=600.0)
        await world.apply("train")
        await world.until(lambda: world.reason("train") == "Running", 600)
        (machine,) = world.living()
        world.kube.orphan("GpuNode", NAMESPACE, "train-0-1")
        world.kube.vanish("GpuJob", NAMESPACE, "train")
        await world.apply("train")
        await world.until(lambda: world.reason("train") == "FormerNode", 60)
        assert "create the job again with another name" in ready(world)["message"]
        await world.until(lambda: world.reason("train") == "Running", 900)
        assert machine not in world.living()
        await world.until(world.is_over, 3600)
        world.check_end()
        await world.end()

    play(life)


DEADLINE_SECONDS = 600


async def _is_too_dear(world: World) -> None:
    await world.apply("train", pendingDeadlineSeconds=DEADLINE_SECONDS, cost={"ceiling": "0.01"})


async def _gets_no_driver(world: World) -> None:
    world.drivers.are_pending = True
    await world.apply("train", pendingDeadlineSeconds=DEADLINE_SECONDS)


async def _is_refused(world: World) -> None:
    world.kube.refused["create GpuNode"] = QUOTA
    await world.apply("train", pendingDeadlineSeconds=DEADLINE_SECONDS)


async def _loses_its_driver(world: World) -> None:
    """Whose machine boots, and never gets work."""
    await world.apply("train", pendingDeadlineSeconds=DEADLINE_SECONDS)
    await world.until(lambda: bool(world.living()), 300)
    world.drivers.are_pending = True
    while (pod := driver_of(world)) is None or pod.get("status") is None:
        await world.step()
    world.drivers.cut_off.add(pod["metadata"]["uid"])


@pytest.mark.parametrize("is_suspended", [False, True])
@pytest.mark.parametrize("story", [_is_too_dear, _gets_no_driver, _is_refused, _loses_its_driver])
def test_a_job_that_does_not_begin_in_time_fails(story: Any, is_suspended: bool) -> None:
    """Nothing rented stays, and what it has cost is charged; suspended time does not count."""

    async def life() -> None:
        world = World(Chance(0, level=0.0), run_seconds=60.0)
        loop = asyncio.get_running_loop()
        began = loop.time()
        await story(world)
        stood = 0.0
        if is_suspended:
            await world.go_on(60)
            world.kube.change("GpuJob", NAMESPACE, "train", suspend=True)
            await world.until(lambda: world.reason("train") == "Suspended", 300)
            stood = loop.time()
            await world.go_on(3 * DEADLINE_SECONDS)
            world.kube.change("GpuJob", NAMESPACE, "train", suspend=False)
            stood = loop.time() - stood
        await world.until(world.is_over, 900)
        lasted = loop.time() - began - stood

        assert world.reason("train") == "PendingDeadlineExceeded"
        # A machine is proved gone before that is told.
        assert DEADLINE_SECONDS - 5 <= lasted <= DEADLINE_SECONDS + 200
        assert world.living() == []
        await world.until(lambda: not stored_finalizers(world, "GpuJob", "train"), 10)
        await world.go_on(10)
        # A copy of it that is restored from a backup waits, and is not paid for again.
        meta = world.kube.objects["GpuJob", NAMESPACE, "train"]["metadata"]
        assert meta.get("annotations", {}).get(ANNOTATION_FINISHED) == f"train/{meta['uid']}"
        world.check_end()
        await world.end()

    play(life)


def test_a_job_that_has_begun_once_is_not_too_late_again() -> None:
    """Its host dies, and no other machine is found for hours."""

    async def life() -> None:
        world = World(Chance(0, level=0.0), run_seconds=300.0)
        await world.apply("train", pendingDeadlineSeconds=DEADLINE_SECONDS)
        await world.until(lambda: world.reason("train") == "Running", 400)
        world.vast.lies.add("searches refused")
        for number in world.living():
            world.market.change(number, dies_at=0.0)
        await world.go_on(HOURS_SECONDS)
        assert world.jobs()["train"].status.end is None
        world.vast.lies.clear()
        await world.until(world.is_over, 3600)

        assert world.reason("train") == "Complete"
        world.check_end()
        await world.end()

    play(life)
