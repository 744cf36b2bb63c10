"""Events, for `kubectl describe` and `kubectl get events`. No decision depends on them."""

from datetime import UTC, datetime

import structlog

from gpujob.adapters.errors import ClusterError
from gpujob.adapters.kube import Body, KubeClient
from gpujob.api.reasons import Reason

log = structlog.get_logger("gpujob.events")


async def record_event(
    kube: KubeClient, *, regarding: Body, reason: Reason, note: str, instance: str
) -> None:
    """Records an event about an object, of which apiVersion, kind and metadata must be given.

    `instance` is the pod that records it. The name begins with the time in nanoseconds, because
    `kubectl get events` sorts by name, see https://github.com/kubernetes/kubernetes/issues/29838.
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
        # The API server rejects a MicroTime that has not exactly six digits after the point, see
        # https://github.com/kubernetes/kubernetes/issues/89156.
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
            "event_not_recorded", namespace=meta["namespace"], name=meta["name"], problem=str(error)
        )
