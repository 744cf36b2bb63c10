"""What is closed is not watched: it costs nothing, and nothing is forgotten for it."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest
from tests.builders import NOW, a_lease, a_listing, a_spec
from tests.simulation.model import Chance, ModelKube, matches, shown
from tests.simulation.process import START, VirtualClock
from tests.simulation.world import CLUSTER, FIELDS, NAMESPACE, World, play

from gpujob.adapters.errors import ClusterError, Invalid
from gpujob.adapters.kube import Body
from gpujob.api.meta import FINALIZER, LABEL_NODE
from gpujob.controller.cache import CLOSED, OPEN, Cache
from gpujob.controller.lead import CLOSED_LOOK_SECONDS
from gpujob.controller.workqueue import Key
from gpujob.core.limits import Limits
from gpujob.core.market.listings import Listing, Mark
from gpujob.core.rest import rest_seconds

JOB = Key("GpuJob", NAMESPACE, "train")
NODE = Key("GpuNode", NAMESPACE, "train-0-1")
OVER = {
    "observedGeneration": 1,
    "end": {"reason": "Complete", "message": "it is"},
    "completionTime": "2020-01-01T00:00:00Z",
}


class Watched:
    """An API server, and a cache whose watch leaves out what is closed."""

    def __init__(self) -> None:
        self.kube = ModelKube(Chance(0, level=0.0))
        self.asked: Counter[Key] = Counter()
        self.cache = Cache(self.kube, self._ask, self._rest)
        self.kube.on_write.append(self._on_write)

    def _ask(self, key: Key) -> None:
        self.asked[key] += 1

    @staticmethod
    def _rest(kind: str, body: Body) -> float | None:
        return rest_seconds(kind, body, now=NOW, limits=Limits())

    def _on_write(self, kind: str, body: Body, gone: bool, before: Body | None) -> None:
        if (event := shown(body, gone, before, FIELDS.get(kind, ""))) is not None:
            told, is_out = event
            self.asked.update(
                key for key, after in self.cache.take_in(kind, told, is_out) if not after
            )

    async def finish(self, **status: Any) -> Body:
        """Stores a job that is over, and forgets what it asked for; returns it."""
        job = {"metadata": {"name": JOB.name}, "spec": a_spec()}
        await self.kube.create("GpuJob", NAMESPACE, job)
        self.kube.set_status(JOB.kind, JOB.namespace, JOB.name, OVER | status)
        self.asked.clear()
        return self.kube.objects[JOB.kind, JOB.namespace, JOB.name]


def tried(story: Callable[[Watched], Awaitable[None]]) -> None:
    """Plays a story with a cache that watches."""

    async def life() -> None:
        await story(Watched())

    play(life)


async def jobs(cache: Cache, listing: Listing) -> list[Key]:
    """Returns the jobs that may have to charge a machine of a listing, or of one before."""
    held = cache.with_strays(listing, CLUSTER)
    return [*held, *[key async for key in cache.closed_with_strays()]]


def a_stray_of(job_uid: str) -> Listing:
    """A listing with a machine of an attempt that nobody remembers."""
    mark = str(Mark(CLUSTER, "forgotten", job_uid))
    return a_listing(a_lease(label=mark, env_mark=mark))


@pytest.mark.parametrize(
    ("status", "is_open"),
    [(None, True), ({}, True), ({"closed": False}, True), ({"closed": True}, False)],
)
def test_what_lacks_the_field_is_watched(status: Body | None, is_open: bool) -> None:
    """An older release has stored it, or nobody has looked at it yet."""
    body = {"status": status} if status is not None else {}

    assert matches(body, OPEN) is is_open
    assert matches(body, CLOSED) is not is_open


def test_what_we_close_leaves_the_watch_and_asks_for_nothing() -> None:
    """The API server shows it as deleted; it is there for whoever asks for it."""

    async def story(watched: Watched) -> None:
        body = await watched.finish()
        stored = await watched.cache.write_status("GpuJob", body, {**OVER, "closed": True})
        await asyncio.sleep(0)

        assert watched.asked == {}
        assert watched.cache.place_of(JOB).born == "", "it is not held"
        assert await watched.cache.find(JOB) == stored
        assert watched.cache.place_of(JOB).born == "", "nor is it for having been read"

    tried(story)


def test_what_another_leader_closes_is_no_proof_that_it_is_gone() -> None:
    """It is looked up."""

    async def story(watched: Watched) -> None:
        await watched.finish()
        watched.kube.set_status(JOB.kind, JOB.namespace, JOB.name, OVER | {"closed": True})

        found = await watched.cache.find(JOB)
        assert found is not None
        assert found["status"]["closed"] is True

    tried(story)


def test_a_deletion_is_still_a_deletion() -> None:
    """Of what was closed before nothing is told; of all else it asks for a pass."""

    async def story(watched: Watched) -> None:
        await watched.finish()
        watched.kube.delete_now(JOB.kind, JOB.namespace, JOB.name)
        assert watched.asked[JOB] == 1
        assert await watched.cache.find(JOB) is None

        body = await watched.finish()
        await watched.cache.write_status("GpuJob", body, {**OVER, "closed": True})
        watched.kube.delete_now(JOB.kind, JOB.namespace, JOB.name)
        assert await watched.cache.find(JOB) is None

    tried(story)


def test_what_opens_again_is_watched_again() -> None:
    """A stray of it was found."""

    async def story(watched: Watched) -> None:
        await watched.finish(closed=True)
        watched.kube.set_status(JOB.kind, JOB.namespace, JOB.name, OVER | {"nodeName": "n"})

        assert watched.asked[JOB] == 1
        assert watched.cache.place_of(JOB).born != ""

    tried(story)


def test_what_left_unseen_is_found_by_the_list() -> None:
    """The watch was interrupted as it was closed: it is not held for ever."""

    async def story(watched: Watched) -> None:
        await watched.finish()
        watched.kube.on_write.clear()
        watched.kube.set_status(JOB.kind, JOB.namespace, JOB.name, OVER | {"closed": True})
        listed = watched.cache.listed("GpuJob")

        assert [key async for key, _ in watched.cache.compare("GpuJob", listed)] == [JOB]
        assert await watched.cache.find(JOB) is not None
        assert watched.cache.place_of(JOB).born == ""

    tried(story)


def test_a_stray_finds_a_job_that_is_over_and_not_closed_yet() -> None:
    """Of which no more is held than its version."""

    async def story(watched: Watched) -> None:
        body = await watched.finish()
        listing = a_stray_of(body["metadata"]["uid"])

        assert watched.cache.with_strays(listing, CLUSTER) == [JOB]

    tried(story)


def test_a_stray_finds_its_closed_job() -> None:
    """Else nobody would pay for it. A job that does not exist is not looked for at each listing."""

    async def story(watched: Watched) -> None:
        body = await watched.finish(closed=True)
        listing = a_stray_of(body["metadata"]["uid"])

        assert await jobs(watched.cache, listing) == [JOB]
        assert await jobs(watched.cache, a_stray_of("x")) == []
        watched.kube.is_down = True
        assert await jobs(watched.cache, listing) == [JOB], "it is known by now"
        assert await jobs(watched.cache, a_stray_of("x")) == [], "nobody is asked again so soon"

    tried(story)


def test_a_closed_job_is_sought_until_its_stray_has_found_it() -> None:
    """The machine is gone by then, for the sweep waits for nobody."""

    async def story(watched: Watched) -> None:
        body = await watched.finish(closed=True)
        watched.kube.is_down = True
        with pytest.raises(ClusterError):
            await jobs(watched.cache, a_stray_of(body["metadata"]["uid"]))
        watched.kube.is_down = False

        assert await jobs(watched.cache, a_listing()) == [JOB]
        assert await jobs(watched.cache, a_listing()) == []

    tried(story)


def test_a_finished_pod_asks_for_no_pass_over_a_closed_node() -> None:
    """It stays for as long as the node, and each comparison and each start shows it."""

    async def story(watched: Watched) -> None:
        labels = {LABEL_NODE: NODE.name}
        pod = {"metadata": {"name": "driver", "labels": labels}, "status": {"phase": "Running"}}
        await watched.kube.create("Pod", NAMESPACE, pod)
        assert watched.asked[NODE] == 1
        watched.kube.set_status("Pod", NAMESPACE, "driver", {"phase": "Succeeded"})
        assert watched.asked[NODE] == 1
        watched.kube.delete_now("Pod", NAMESPACE, "driver")
        assert watched.asked[NODE] == 2, "that may be news"

    tried(story)


def test_an_api_server_that_does_not_select_shows_all() -> None:
    """It is older than 1.31, or has the kinds of an older release: all is watched and listed."""

    class Older(ModelKube):
        async def page(self, *args: Any, fields: str = "", **more: Any) -> Any:
            if fields:
                raise Invalid("field label not supported: status.closed")
            return await super().page(*args, **more)

    async def life() -> None:
        kube = Older(Chance(0, level=0.0))
        cache = Cache(kube, lambda _: None)
        await cache.learn_fields()
        job = {"metadata": {"name": JOB.name}, "spec": a_spec()}
        stored = await kube.create("GpuJob", NAMESPACE, job)
        kube.set_status(JOB.kind, JOB.namespace, JOB.name, OVER | {"closed": True})

        assert cache.fields == {}
        assert [one async for page in cache.listed("GpuJob") for one in page]
        listing = a_stray_of(stored["metadata"]["uid"])
        assert await jobs(cache, listing) == [JOB]

    play(life)


def test_a_life_ends_closed_and_its_objects_can_go() -> None:
    """Job and node leave the watch once they have been over for a while; nothing waits for us."""

    async def life() -> None:
        world = World(Chance(0, level=0.0), run_seconds=60)
        await world.apply("train")
        await world.until(lambda: world.reason("train") == "Complete", 1000)

        def are_closed() -> bool:
            kinds = ("GpuJob", "GpuNode")
            return all(
                (one.get("status") or {}).get("closed")
                for kind in kinds
                for one in world.kube.of_kind(kind)
            )

        assert not are_closed()
        await world.until(are_closed, 200)
        version = world.kube.of_kind("GpuJob")[0]["metadata"]["resourceVersion"]
        await world.go_on(300)
        assert world.kube.of_kind("GpuJob")[0]["metadata"]["resourceVersion"] == version
        world.kube.delete_now("GpuJob", NAMESPACE, "train")
        assert world.kube.of_kind("GpuNode") == []
        world.check_end()
        await world.end()

    play(life)


@pytest.mark.parametrize("ttl", [600, 0], ids=["in time", "at once"])
def test_a_closed_job_is_deleted_when_its_user_says_so(ttl: int) -> None:
    """The watch does not show the change; a slow list does."""

    async def life() -> None:
        world = World(Chance(0, level=0.0), run_seconds=60)
        await world.apply("train")
        await world.until(lambda: bool(world.jobs()["train"].status.closed), 2000)
        over = world.jobs()["train"].status.completion_time
        assert over is not None
        world.kube.change("GpuJob", NAMESPACE, "train", ttlSecondsAfterFinished=ttl)
        await world.until(lambda: not world.kube.of_kind("GpuJob"), 2 * CLOSED_LOOK_SECONDS + ttl)

        age = (START + timedelta(seconds=VirtualClock().monotonic()) - over).total_seconds()
        assert age >= ttl
        assert not ttl or age <= ttl + 30
        await world.end()

    play(life)


def test_a_closed_job_that_cannot_go_is_let_go() -> None:
    """A restored backup may have it with our finalizer: its deletion waits for the slow list."""

    async def life() -> None:
        world = World(Chance(0, level=0.0), run_seconds=60)
        await world.apply("train")
        await world.until(lambda: bool(world.jobs()["train"].status.closed), 2000)
        told, world.kube.on_write = world.kube.on_write, []
        (body,) = world.kube.of_kind("GpuJob")
        await world.kube.set_finalizers("GpuJob", body, [FINALIZER])
        world.kube.delete_now("GpuJob", NAMESPACE, "train")
        world.kube.on_write = told
        await world.until(lambda: not world.kube.of_kind("GpuJob"), 2 * CLOSED_LOOK_SECONDS)
        await world.end()

    play(life)
