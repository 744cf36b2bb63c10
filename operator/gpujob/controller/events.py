"""Events, for `kubectl describe` and `kubectl get events`; the loss of one changes nothing."""

from datetime import UTC, datetime

import structlog

from gpujob.adapters.errors import ClusterError
from gpujob.adapters.kube import Body, KubeClient
from gpujob.api.reasons import Reason

log = structlog.get_logger("gpujob.events")


async def record_event(
    kube: KubeClient, *, regarding: Body, reason: Reason, note: str, instance: str
) -> None:
    """Records one event about an object, which has apiVersion, kind and metadata.

    `instance` is the pod that records it. The name begins with the time in nanoseconds, since
    `kubectl get events` shows events in the order of their names.
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
        # Exactly six digits: the API server refuses a MicroTime without its fraction.
        "eventTime": now.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "type": reason.kind.severity.value,
        "reason": reason.value,
        "note": note[:1024] or reason.meaning,
        "action": "Reconcile",
        "reportingController": "gpujob.dev/controller",
        "reportingInstance": instance[:128],
        "regarding": {
            "apiVersion": regarding["apiVersion"],
            "kind": regarding["kind"],
            "namespace": meta["namespace"],
            "name": meta["name"],
            "uid": meta.get("uid", ""),
        },
    }
    try:
        await kube.create("Event", meta["namespace"], event)
    except ClusterError as error:
        log.warning(
            "event_lost", namespace=meta["namespace"], name=meta["name"], problem=str(error)
        )
