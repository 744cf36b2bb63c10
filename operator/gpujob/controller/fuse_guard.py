"""What a leader does once it has lost its lock: it destroys machines at their money deadline.

There may be no other leader, because the API server cannot be reached, or reads and does not write
(an etcd without space does so), and only this process remembers the deadlines.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from datetime import datetime
from typing import Any

import structlog

from gpujob.adapters.errors import ProviderError
from gpujob.adapters.provider import Provider
from gpujob.api.gpunode import GpuNode
from gpujob.core.cost.fuse import overdue
from gpujob.core.limits import Limits

log = structlog.get_logger("gpujob.controller")


async def guard_fuses(
    *,
    vast: Provider,
    await_leader: Callable[[], Coroutine[Any, Any, None]],
    limits: Limits,
    cluster_id: str,
    nodes: Callable[[], Iterable[GpuNode]],
    now: Callable[[], datetime],
    stop: asyncio.Event,
) -> None:
    """Guards the machines of all nodes that may have one.

    It ends when somebody leads, when no node has a machine, or with `stop`. That the API server
    answers says nothing: who cannot write there cannot lead.
    """
    led = asyncio.create_task(await_leader())
    stopping = asyncio.create_task(stop.wait())
    # Another leader may know better: it is looked for before the first machine is judged.
    pause = 3 * limits.lock_retry_seconds
    try:
        while held := [node for node in nodes() if node.status.may_cost]:
            ends = (led, stopping)
            over, _ = await asyncio.wait(ends, timeout=pause, return_when=asyncio.FIRST_COMPLETED)
            if over:
                return
            await _destroy_overdue(vast, held, cluster_id, now())
            pause = limits.poll_seconds
    finally:
        for task in (led, stopping):
            task.cancel()
        await asyncio.gather(led, stopping, return_exceptions=True)


async def _destroy_overdue(
    vast: Provider, nodes: list[GpuNode], cluster_id: str, now: datetime
) -> None:
    try:
        late = overdue(nodes, await vast.list_leases(), cluster_id=cluster_id, now=now)
    except ProviderError as error:
        log.warning("overdue_not_found", problem=str(error))
        return
    for number in late:
        log.error("overdue_destroyed", instance=number)
        try:
            await vast.destroy(number)
        except ProviderError as error:
            log.warning("overdue_not_destroyed", instance=number, problem=str(error))
