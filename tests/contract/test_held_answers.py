"""Answers to drivers that are kept back: they hear of what is new at once, and of nothing else.

Here they are kept back for half a minute, and are the old ones then: what is new came by news.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from tests.builders import RECORDED, a_job, marker, stamp
from tests.contract.test_driver_tokens import Cluster, a_cluster

from gpujob.api.transport import digest_of_answer

Told = tuple[int, dict[str, Any]]


async def kept(cluster: Cluster, token: str, **more: Any) -> asyncio.Task[Told]:
    """Reports as a driver that has taken what it was told; returns its request, which waits."""
    status, answer = await cluster.ask(token, 1)
    assert status == 200

    async def asked() -> Told:
        status, told = await cluster.ask(token, 1, taken=digest_of_answer(answer), **more)
        return status, json.loads(told)

    task = asyncio.create_task(asked())
    await turns()
    assert not task.done()
    return task


async def at_once(cluster: Cluster, token: str) -> str:
    """Reports as a driver that has taken what it was told, and returns what it is told again."""
    _, answer = await cluster.ask(token, 1)
    asking = asyncio.create_task(cluster.ask(token, 1, taken=digest_of_answer(answer)))
    await turns()
    assert asking.done()
    assert (await asking) == (200, answer)
    instruction: str = json.loads(answer)["instruction"]
    return instruction


async def turns() -> None:
    """Lets all that can go on do so."""
    for _ in range(100):
        await asyncio.sleep(0)


async def stop(cluster: Cluster) -> None:
    """The decision to stop is stored."""
    cluster.show_node(1, {"stop": {"at": stamp(), "reason": "Suspended"}}, version=9)


async def extend(cluster: Cluster) -> None:
    """A later deadline is asked for, and the job has recorded what it may cost."""
    asked = {"fuseUSD": "5.000000", "moneyDeadlineSeconds": 50_000, "maxLeases": 20}
    cluster.show_node(1, {"rent": marker(), "extension": asked}, version=9)
    await turns()
    recorded = RECORDED | {"nodeUID": "node-1"}
    cluster.cache.take_in("GpuJob", a_job(status=recorded, resourceVersion="9").wire(), gone=False)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (stop, {"instruction": "Stop"}),
        (extend, {"instruction": "Run", "moneyDeadlineSeconds": 50_000}),
    ],
)
async def test_what_is_new_is_told_at_once(
    change: Callable[[Cluster], Awaitable[None]], told: dict[str, Any]
) -> None:
    """As soon as it is stored. What else changes in the node is none of the driver's business."""
    async with a_cluster() as cluster:
        asking = await kept(cluster, cluster.add(1))
        cluster.show_node(1, {"conditions": []}, version=8)
        await turns()
        assert not asking.done()
        await change(cluster)
        status, answer = await asking

        assert status == 200
        assert told.items() <= answer.items()


async def replaced(cluster: Cluster) -> None:
    driver = {"podName": "driver-1", "podUID": "pod-other", "readyAt": stamp()}
    cluster.show_node(1, {"driver": driver}, version=9)


async def test_who_is_no_longer_the_driver_is_told_nothing() -> None:
    """Another was recorded while the answer was kept back."""
    async with a_cluster() as cluster:
        asking = await kept(cluster, cluster.add(1))
        await replaced(cluster)

        assert (await asking)[0] == 403


async def test_one_answer_is_kept_back_for_each_node() -> None:
    """A newer report lets the one before go; an older one that comes late is not kept back."""
    async with a_cluster() as cluster:
        token = cluster.add(1)
        first = await kept(cluster, token)
        second = await kept(cluster, token)
        assert (await first)[1]["instruction"] == "Run"
        _, answer = await cluster.ask(token, 1, sequence=1, taken="0" * 64)
        late = await cluster.ask(token, 1, sequence=1, taken=digest_of_answer(answer))
        assert late == (200, answer)
        assert not second.done()
        await stop(cluster)

        assert (await second)[1]["instruction"] == "Stop"


async def test_a_leader_that_ends_keeps_nothing_back() -> None:
    """Drivers look for the next one as soon as this one has lost its lock."""
    async with a_cluster() as cluster:
        token = cluster.add(1)
        asking = await kept(cluster, token)
        cluster.holds.close()
        assert (await asking)[1]["instruction"] == "Run"

        assert await at_once(cluster, token) == "Run"


async def test_no_answer_is_kept_back_for_long() -> None:
    """The driver's next report says that it is there."""
    async with a_cluster(hold_seconds=0.02) as cluster, asyncio.timeout(20):
        status, answer = await cluster.ask(cluster.add(1), 1)
        again = await cluster.ask(
            cluster.token("driver-1", "pod-1"), 1, taken=digest_of_answer(answer)
        )

        assert (status, again) == (200, (200, answer))


async def test_who_has_not_taken_the_answer_gets_it() -> None:
    """The last one may have been lost on its way."""
    async with a_cluster() as cluster:
        token = cluster.add(1)
        status, answer = await cluster.ask(token, 1)
        asking = asyncio.create_task(cluster.ask(token, 1, taken="0" * 64))
        await turns()

        assert asking.done()
        assert (status, await asking) == (200, (200, answer))


async def test_who_asks_is_told_of_the_next_authorities() -> None:
    """Though nothing else is new: who learns of them too late trusts the controller no more."""
    async with a_cluster() as cluster:
        token = cluster.add(1)
        cluster.authorities = "first"
        _, answer = await cluster.ask(token, 1)
        cluster.authorities = "first and second"
        asking = asyncio.create_task(cluster.ask(token, 1, taken=digest_of_answer(answer)))
        await turns()
        assert asking.done()
        _, later = await asking

        assert json.loads(answer)["authorities"] == "first"
        assert json.loads(later)["authorities"] == "first and second"


async def test_a_stop_is_reported_often() -> None:
    """How long a copy has stood still is counted in seconds: no answer is kept back meanwhile."""
    async with a_cluster() as cluster:
        token = cluster.add(1)
        await stop(cluster)

        assert await at_once(cluster, token) == "Stop"
