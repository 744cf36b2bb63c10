"""Events, for `kubectl describe` and `kubectl get events`. No decision depends on them.

No pass waits for one: a slow API server would else delay what follows.
"""

import asyncio
from datetime import UTC, datetime

import structlog

from gpujob.adapters.errors import ClusterError
from gpujob.adapters.kube import Body, KubeClient
from gpujob.api.reasons import Reason

KEPT = 2000
"""Events that wait; more are dropped, and the log says so."""
AT_ONCE = 4

log = structlog.get_logger("gpujob.events")


class Events:
    """Records events about objects, in the name of one pod."""

    def __init__(self, kube: KubeClient, *, instance: str) -> None:
        self._kube, self._instance = kube, instance
        self._waiting: asyncio.Queue[Body] = asyncio.Queue(KEPT)

    def tell(self, regarding: Body, reason: Reason, note: str) -> None:
        """Records an event about an object, of which apiVersion, kind and metadata must be given.

        The name begins with the time in nanoseconds, because `kubectl get events` sorts by name,
        see https://github.com/kubernetes/kubernetes/issues/29838.
        """
        meta = regarding["metadata"]
        now = datetime.now(UTC)
        nanoseconds = int(now.timestamp() * 10**6) * 1000
        event = {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {
                "name": f"{nanoseconds:016x}.{meta['name']}",
                "namespace": meta["namespace"],
            },
            # The API server rejects a MicroTime that has not exactly six digits after the point,
            # see https://github.com/kubernetes/kubernetes/issues/89156.
            "eventTime": now.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "type": reason.kind.severity.value,
            "reason": reason.value,
            "note": note[:1024] or reason.meaning,
            "action": "Reconcile",
            "reportingController": "gpujob.dev/controller",
            "reportingInstance": self._instance[:128],
            "regarding": {
                "apiVersion": regarding["apiVersion"],
                "kind": regarding["kind"],
                "namespace": meta["namespace"],
                "name": meta["name"],
                "uid": meta.get("uid", ""),
            },
        }
        try:
            self._waiting.put_nowait(event)
        except asyncio.QueueFull:
            _say_lost(event, f"{KEPT} events wait already")

    async def run(self) -> None:
        """Sends what is told, for ever."""
        async with asyncio.TaskGroup() as senders:
            for _ in range(AT_ONCE):
                senders.create_task(self._send_for_ever())

    async def _send_for_ever(self) -> None:
        while True:
            event = await self._waiting.get()
            try:
                await self._kube.create("Event", event["metadata"]["namespace"], event)
            except ClusterError as error:
                _say_lost(event, str(error))


def _say_lost(event: Body, problem: str) -> None:
    about = event["regarding"]
    log.warning(
        "event_not_recorded", namespace=about["namespace"], name=about["name"], problem=problem
    )
