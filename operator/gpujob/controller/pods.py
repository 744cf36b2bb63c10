"""Reads from a driver pod what decisions need."""

from datetime import datetime

from pydantic import ValidationError

from gpujob.adapters.kube import Body
from gpujob.api.transport import Outcome
from gpujob.core import observation as seen


def is_owned_by(body: Body, uid: str) -> bool:
    return any(owner.get("uid") == uid for owner in body["metadata"].get("ownerReferences", []))


def pod_from(body: Body) -> seen.Pod:
    """Returns the parts of a pod that decisions need."""
    meta, status = body["metadata"], body.get("status", {})
    containers = status.get("containerStatuses") or [{}]
    waiting = (containers[0].get("state") or {}).get("waiting") or {}
    unschedulable = next(
        (
            condition.get("message", "")
            for condition in status.get("conditions") or []
            if condition.get("type") == "PodScheduled" and condition.get("status") == "False"
        ),
        "",
    )
    words = ": ".join(
        part for part in (waiting.get("reason", ""), waiting.get("message", "")) if part
    )
    return seen.Pod(
        name=meta["name"],
        uid=meta["uid"],
        phase=status.get("phase", "Pending"),
        created_at=datetime.fromisoformat(meta["creationTimestamp"]),
        is_being_deleted="deletionTimestamp" in meta,
        waiting=(words or unschedulable)[:300],
        outcome=_outcome(containers[0]),
    )


def _outcome(container: Body) -> Outcome | None:
    """Returns the outcome in the driver's termination message; None if it holds something else."""
    for state in ("state", "lastState"):
        message = ((container.get(state) or {}).get("terminated") or {}).get("message")
        if not message:
            continue
        try:
            return Outcome.model_validate_json(message)
        except ValidationError:
            continue
    return None
