"""Events, for `kubectl describe` and `kubectl get events`; the loss of one changes nothing."""

import hashlib
from datetime import UTC, datetime

import structlog

from gpujob.adapters.errors import ClusterError
from gpujob.adapters.kube import Body, KubeClient
from gpujob.api.reasons import Reason

log = structlog.get_logger("gpujob.events")


async def record_event(
    kube: KubeClient, *, regarding: Body, reason: Reason, note: str, is_warning: bool
) -> None:
    """Records one event about an object, which has apiVersion, kind and metadata."""
    meta = regarding["metadata"]
    # Exactly six digits: the API server refuses a MicroTime without its fraction.
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    digest = hashlib.sha256(f"{meta.get('uid')}/{reason}/{now}".encode()).hexdigest()[:16]
    event = {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": f"{meta['name']}.{digest}", "namespace": meta["namespace"]},
        "eventTime": now,
        "type": "Warning" if is_warning else "Normal",
        "reason": reason.value,
        "note": note[:1024] or reason.meaning,
        "action": "Reconcile",
        "reportingController": "gpujob.dev/controller",
        "reportingInstance": "gpujob-controller",
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
