"""What passes read may be old: that costs a conflict, and never a machine or money."""

import gc
import json
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from math import inf
from typing import Any

import pytest
from tests.builders import a_job, a_node, leased
from tests.simulation.model import Chance, ModelKube
from tests.simulation.world import NAMESPACE, World, play

from gpujob.adapters.errors import ClusterUnavailable, Conflict
from gpujob.adapters.kube import Body
from gpujob.controller.cache import WATCHED, Cache
from gpujob.controller.workqueue import Key, Lane

POD = Key("Pod", NAMESPACE, "driver")


def tried(story: Callable[[ModelKube, Cache], Awaitable[None]]) -> None:
    """Plays a story with an empty API server and a cache."""

    async def life() -> None:
        kube = ModelKube(Chance(0, level=0.0))
        await story(kube, Cache(kube, lambda _: None))

    play(life)


async def stored(kube: ModelKube, phase: str = "Pending") -> Body:
    """Stores a pod, and returns it."""
    body: dict[str, Any] = {"metadata": {"name": POD.name}, "status": {"phase": phase}}
    return await kube.create("Pod", NAMESPACE, body)


async def pages_of(*pages: list[Body]) -> AsyncIterator[list[Body]]:
    """Yields the pages of a list."""
    for page in pages:
        yield page


async def compared(cache: Cache, kind: str, *pages: list[Body]) -> dict[Key, float]:
    """Compares what is held with a list; returns the keys to reconcile, each with its delay."""
    return {key: seconds async for key, seconds in cache.compare(kind, pages_of(*pages))}


def phase_of(body: Body | None) -> str | None:
    """Returns a pod's phase; None if there is no pod."""
    return body["status"]["phase"] if body is not None else None


def test_what_the_watch_has_not_shown_may_exist() -> None:
    """Absence is proved by a quorum read alone."""

    async def story(kube: ModelKube, cache: Cache) -> None:
        await stored(kube)

        assert phase_of(await cache.find(POD)) == "Pending"

    tried(story)


def test_what_is_held_is_read_only_when_asked_for() -> None:
    """A pass that changes nothing asks the API server nothing."""

    async def story(kube: ModelKube, cache: Cache) -> None:
        cache.take_in("Pod", await stored(kube), gone=False)
        kube.set_status(*_place(POD), {"phase": "Running"})

        assert phase_of(await cache.find(POD)) == "Pending"
        assert phase_of(await cache.read(POD)) == "Running"
        assert phase_of(await cache.find(POD)) == "Running"

    tried(story)


def test_another_object_of_the_name_is_not_the_one() -> None:
    """Else a node would be ended because of an earlier job of the same name."""

    async def story(kube: ModelKube, cache: Cache) -> None:
        first = await stored(kube)
        cache.take_in("Pod", first, gone=False)
        kube.delete_now(*_place(POD))
        second = await stored(kube, "Running")

        assert phase_of(await cache.find(POD, second["metadata"]["uid"])) == "Running"

    tried(story)


def test_an_older_event_changes_nothing() -> None:
    """The answer to our own write comes before the watch shows what was there earlier."""

    async def story(kube: ModelKube, cache: Cache) -> None:
        first = await stored(kube)
        await cache.write_status("Pod", first, {"phase": "Running"})
        cache.take_in("Pod", first, gone=False)

        assert phase_of(await cache.find(POD)) == "Running"

    tried(story)


def test_a_newer_event_that_comes_before_the_answer_counts() -> None:
    """Somebody has changed the object again before the answer to our write is here."""

    async def story(kube: ModelKube, cache: Cache) -> None:
        first = await stored(kube)

        def change_again(kind: str, body: Body, gone: bool, _: Any) -> None:
            cache.take_in(kind, body, gone)
            if phase_of(body) == "Running":
                kube.set_status(*_place(POD), {"phase": "Failed"})

        kube.on_write.append(change_again)
        await cache.write_status("Pod", first, {"phase": "Running"})

        assert phase_of(await cache.find(POD)) == "Failed"

    tried(story)


@pytest.mark.parametrize("problem", [Conflict("stale"), ClusterUnavailable("no answer")])
def test_after_a_write_that_failed_the_object_is_read_again(problem: Exception) -> None:
    """It may have arrived; and what the watch shows next may be older."""

    async def story(kube: ModelKube, cache: Cache) -> None:
        first = await stored(kube)
        cache.take_in("Pod", first, gone=False)

        def lost(*_: Any) -> None:
            raise problem

        kube.on_write.append(lost)
        with pytest.raises(type(problem)):
            await cache.write_status("Pod", first, {"phase": "Running"})
        cache.take_in("Pod", first, gone=False)

        assert phase_of(await cache.find(POD)) == "Running"

    tried(story)


def test_a_status_is_written_on_the_version_that_was_read() -> None:
    """However old that is: what somebody else has stored since stays."""

    async def story(kube: ModelKube, cache: Cache) -> None:
        first = await stored(kube)
        cache.take_in("Pod", first, gone=False)
        kube.set_status(*_place(POD), {"phase": "Running"})
        with pytest.raises(Conflict):
            await cache.write_status("Pod", first, {"phase": "Failed"})

        assert phase_of(await cache.find(POD)) == "Running"

    tried(story)


def test_the_deletion_of_an_earlier_node_leaves_this_one() -> None:
    """It is shown late. What is not held counts against no cap until it is shown."""

    async def story(kube: ModelKube, cache: Cache) -> None:
        key = Key("GpuNode", NAMESPACE, "train-0-1")
        deletions: list[Body] = []
        kube.on_write.append(lambda _, body, gone, __: deletions.append(body) if gone else None)
        wire = a_node().model_dump(by_alias=True)
        await kube.create("GpuNode", NAMESPACE, wire | {"metadata": {"name": key.name}})
        kube.vanish(*_place(key))
        second = await kube.create("GpuNode", NAMESPACE, wire | {"metadata": {"name": key.name}})
        assert await cache.find(key) == second
        cache.take_in("GpuNode", deletions[0], gone=True)

        assert cache.nodes.keys() == {second["metadata"]["uid"]}

    tried(story)


def test_a_node_that_may_have_a_machine_waits_in_another_lane() -> None:
    """So does one whose status nobody can read; what is not there yet has none."""

    async def story(_: ModelKube, cache: Cache) -> None:
        told = {"new": {}, "leased": leased(), "unread": {"rent": 1}}
        for name, status in told.items():
            wire = a_node(name=name, uid=name).model_dump(by_alias=True)
            cache.take_in("GpuNode", wire | {"status": status}, gone=False)
        names = (*told, "unseen")
        lanes = [cache.place_of(Key("GpuNode", NAMESPACE, name)).lane for name in names]

        assert lanes == [Lane.NODES, Lane.MACHINES, Lane.MACHINES, Lane.NODES]

    tried(story)


def test_what_a_list_does_not_show_counts_until_a_read_shows_that_it_is_gone() -> None:
    """It may have a machine, which counts against the caps."""

    async def story(kube: ModelKube, cache: Cache) -> None:
        body = await kube.create("GpuNode", NAMESPACE, a_node().model_dump(by_alias=True))
        key, uid = Key("GpuNode", NAMESPACE, body["metadata"]["name"]), body["metadata"]["uid"]
        cache.take_in("GpuNode", body, gone=False)
        await compared(cache, "GpuNode", [])
        assert cache.nodes.keys() == {uid}
        kube.vanish(*_place(key))
        assert await cache.find(key) is None

        assert not cache.nodes

    tried(story)


def test_what_was_deleted_unseen_goes_at_the_next_list() -> None:
    """The watch does not tell what was deleted while it was interrupted."""

    async def story(kube: ModelKube, cache: Cache) -> None:
        body = await kube.create("GpuNode", NAMESPACE, a_node().model_dump(by_alias=True))
        meta = body["metadata"]
        cache.take_in("GpuNode", body, gone=False)
        assert cache.lookup(meta["uid"])[0] is not None
        kube.vanish("GpuNode", NAMESPACE, meta["name"])
        key = Key("GpuNode", NAMESPACE, meta["name"])

        assert key in await compared(cache, "GpuNode", [])
        assert await cache.find(key) is None
        assert cache.lookup(meta["uid"]) == (None, None)

    tried(story)


def test_what_any_page_of_a_list_shows_is_there() -> None:
    """Only what none of them shows is looked up."""

    async def story(kube: ModelKube, cache: Cache) -> None:
        bodies = []
        for name in ("first", "second", "gone"):
            body = {"metadata": {"name": name}, "status": {"phase": "Pending"}}
            bodies.append(await kube.create("Pod", NAMESPACE, body))
            cache.take_in("Pod", bodies[-1], gone=False)
            kube.set_status("Pod", NAMESPACE, name, {"phase": "Running"})
        await compared(cache, "Pod", [bodies[0]], [], [bodies[1]])

        phases = [
            phase_of(await cache.find(Key("Pod", NAMESPACE, one["metadata"]["name"])))
            for one in bodies
        ]
        assert phases == ["Pending", "Pending", "Running"]

    tried(story)


def test_a_version_from_before_a_restore_is_forgotten() -> None:
    """After etcd was restored from a backup, versions begin again below what is held."""

    async def story(kube: ModelKube, cache: Cache) -> None:
        first = await stored(kube)
        later = first | {"metadata": first["metadata"] | {"resourceVersion": "999"}}
        cache.take_in("Pod", later | {"status": {"phase": "Failed"}}, gone=False)
        await compared(cache, "Pod", [first])

        assert phase_of(await cache.find(POD)) == "Pending"
        assert phase_of(await cache.find(POD)) == "Pending"

    tried(story)


def test_of_a_job_that_is_over_only_its_version_is_held() -> None:
    """It asks for no pass, at no event and no list; but whoever needs it gets it whole."""

    async def story(kube: ModelKube, _: Cache) -> None:
        def rest(_: str, body: Body) -> float | None:
            return inf if body["status"]["completionTime"] else None

        cache = Cache(kube, lambda _: None, rest)
        body = await kube.create("GpuJob", NAMESPACE, a_job().model_dump(by_alias=True))
        key, uid = Key("GpuJob", NAMESPACE, body["metadata"]["name"]), body["metadata"]["uid"]
        assert list(cache.take_in("GpuJob", body, gone=False)) == [(key, 0.0)]
        assert uid in cache.jobs
        kube.set_status(*_place(key), {"completionTime": "2026-01-01T00:00:00Z"})
        (over,) = kube.of_kind("GpuJob")

        assert list(cache.take_in("GpuJob", over, gone=False)) == []
        assert await compared(cache, "GpuJob", [over]) == {}
        assert uid not in cache.jobs
        assert await cache.find(key) == over
        assert key in await compared(cache, "GpuJob", []), "it was deleted"

    tried(story)


@pytest.mark.parametrize("long", ["spec", "labels", "annotations"])
def test_of_a_job_that_is_too_long_little_is_held(long: str) -> None:
    """A hundred of them would be more than there is memory; the pass that ends it reads it."""

    async def story(kube: ModelKube, cache: Cache) -> None:
        job = a_job().model_dump(by_alias=True, mode="json")
        texts = {f"example.com/{at:05}": "x" * 60 for at in range(20_000)}
        if long == "spec":
            job["spec"]["args"] = ["x" * 10_000] * 125
        else:
            job["metadata"][long] = texts | job["metadata"].get(long, {})
        body = await kube.create("GpuJob", NAMESPACE, job)
        key = Key("GpuJob", NAMESPACE, body["metadata"]["name"])
        text = json.dumps(body)
        gc.collect()
        tracemalloc.start()
        try:
            asked = list(cache.take_in("GpuJob", json.loads(text), gone=False))
            gc.collect()
            taken, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()

        assert asked == [(key, 0.0)], "a pass has to tell what is wrong"
        assert taken < 50_000
        assert (await cache.find(key) or {})["spec"] == body["spec"]

    tried(story)


def test_of_a_long_job_that_runs_all_is_held() -> None:
    """It may have been begun by a release that let it pass."""

    async def story(kube: ModelKube, cache: Cache) -> None:
        job = a_job().model_dump(by_alias=True, mode="json")
        job["spec"]["args"] = ["x" * 10_000] * 10
        job["status"] = {"nodeName": "train-0-1", "nodeUID": "node", "attempt": 1}
        body = await kube.create("GpuJob", NAMESPACE, job)
        cache.take_in("GpuJob", body, gone=False)

        assert body["metadata"]["uid"] in cache.jobs

    tried(story)


def test_what_no_pass_reads_is_not_held() -> None:
    """It is half of what a running job takes of the memory."""

    async def story(kube: ModelKube, cache: Cache) -> None:
        body = {"metadata": {"name": POD.name}, "spec": {"containers": [{"name": "driver"}]}}
        stored = await kube.create("Pod", NAMESPACE, body)
        fields = [{"manager": "kubelet", "fieldsV1": {"f:status": {}}}]
        whole = stored | {"metadata": stored["metadata"] | {"managedFields": fields}}
        cache.take_in("Pod", whole, gone=False)

        assert await cache.find(POD) == stored | {"spec": {}}
        assert whole["metadata"]["managedFields"] == fields, "what was shown is not changed"

    tried(story)


def test_what_all_objects_say_is_held_once() -> None:
    """Names and words are a sixth of what a running job takes of the memory."""

    async def story(kube: ModelKube, cache: Cache) -> None:
        found = []
        for name in ("first", "second"):
            # As it comes from the API server: each event is a document of its own.
            text = json.dumps({"metadata": {"name": name}, "status": {"phase": "Running"}})
            cache.take_in("Pod", await kube.create("Pod", NAMESPACE, json.loads(text)), gone=False)
            found.append(await cache.find(Key("Pod", NAMESPACE, name)))

        first, second = (one["status"] for one in found if one is not None)
        assert first == {"phase": "Running"}
        assert next(iter(first)) is next(iter(second))
        assert first["phase"] is second["phase"]

    tried(story)


def test_what_is_over_can_be_deleted_without_an_operator() -> None:
    """A namespace with finished jobs goes although the operator was uninstalled before."""

    async def life() -> None:
        world = World(Chance(0, level=0.0), run_seconds=60)
        await world.apply("train")
        await world.until(lambda: world.reason("train") == "Complete", 1000)
        await world.go_on(30)
        await world.end()
        for kind in ("GpuJob", "GpuNode"):
            (body,) = world.kube.of_kind(kind)
            assert not body["metadata"].get("finalizers"), kind

    play(life)


def test_nothing_is_rented_for_what_was_suspended_unseen() -> None:
    """A pass acts only on what it has read again, however far behind the watch is."""

    async def life() -> None:
        world = World(Chance(0, level=0.0), seed=0, run_seconds=60, exit_codes=(0,))
        await world.apply("train")

        def suspend_unseen(kind: str, body: dict[str, Any], *_: Any) -> None:
            interrupted = world.weather.interrupted
            if kind == "GpuNode" and not interrupted and "sshPublicKey" in body.get("status", {}):
                interrupted.update(WATCHED)
                world.kube.change("GpuJob", NAMESPACE, "train", suspend=True)

        world.kube.on_write.append(suspend_unseen)
        await world.until(lambda: bool(world.weather.interrupted), 600)
        await world.go_on(40)

        assert "send" not in world.calls.made, "no rent request was sent"
        await world.end()

    play(life)


def _place(key: Key) -> tuple[str, str, str]:
    return key.kind, key.namespace, key.name
