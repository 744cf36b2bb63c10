"""Of the namespaces that are served, some cannot be read: the others are served all the same."""

import asyncio

from tests.simulation.model import Chance, ModelKube
from tests.simulation.world import play

from gpujob.adapters.errors import ClusterUnavailable, Forbidden
from gpujob.controller.cache import Cache
from gpujob.controller.lead import closed_namespaces, resync
from gpujob.controller.workqueue import Key, WorkQueue, orders

SERVED = ("closed", "open")


def cluster() -> ModelKube:
    """Returns an API server that refuses one of the namespaces."""
    kube = ModelKube(Chance(0, level=0.0))
    kube.refused["list closed"] = Forbidden("no right")
    return kube


def test_what_can_be_watched_changes_by_definite_answers_alone() -> None:
    """The leader starts again when it does: an API server that is busy is no reason."""

    async def story() -> None:
        kube = cluster()
        assert (found := await closed_namespaces(kube, SERVED)) == ["closed"]
        kube.refused = {f"list {one}": ClusterUnavailable("status 503") for one in SERVED}
        assert await closed_namespaces(kube, SERVED, found) == ["closed"]
        kube.refused.clear()
        assert await closed_namespaces(kube, SERVED, found) == []

    play(story)


def test_those_after_one_that_is_closed_are_compared_with_what_is_stored() -> None:
    """And what is held of the closed one stands: nobody knows better."""

    async def story() -> None:
        kube = cluster()
        cache = Cache(kube, lambda _: None, lambda *_: None)
        for namespace in SERVED:
            held = {"metadata": {"name": "held"}, "spec": {}, "status": {"phase": "0"}}
            body = await kube.create("GpuJob", namespace, held)
            cache.take_in("GpuJob", body, gone=False)
            kube.set_status("GpuJob", namespace, "held", {"phase": "1"})
        queue = WorkQueue(cache.place_of)
        await resync(cache, queue, SERVED)

        async with asyncio.timeout(1):
            assert await queue.take(orders(1)[0]) == Key("GpuJob", "open", "held")
        phases = []
        for namespace in SERVED:
            found = await cache.find(Key("GpuJob", namespace, "held"))
            assert found is not None
            phases.append(found["status"]["phase"])
        assert phases == ["0", "1"]

    play(story)
