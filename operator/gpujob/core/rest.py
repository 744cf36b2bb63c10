"""Which objects need no pass: what is over costs nothing, however many there are.

This reads raw objects, because to read ten thousand finished jobs into models takes seconds.
"""

from collections.abc import Mapping
from datetime import datetime
from math import inf
from typing import Any

from gpujob.api.meta import FINALIZER
from gpujob.core.limits import Limits


def rest_seconds(
    kind: str, body: Mapping[str, Any], *, now: datetime, limits: Limits
) -> float | None:
    """Returns for how long an object needs no pass unless it changes; None = it needs one now.

    A finished job rests until its `ttlSecondsAfterFinished` has passed, unless it has yet to charge
    a machine; a released node that its job has charged rests until its retention has passed. What
    holds our finalizer does not rest: its deletion would wait for an operator. Nor does an object
    that cannot be read.
    """
    meta, status = body["metadata"], body.get("status") or {}
    if "deletionTimestamp" in meta or FINALIZER in (meta.get("finalizers") or []):
        return None
    try:
        if kind == "GpuJob":
            finished = status.get("end") and status.get("completionTime")
            if not finished or status.get("nodeName") or _is_changed(meta, status):
                return None
            if any("goneAt" not in one for one in status.get("strays") or ()):
                return None
            keep = (body.get("spec") or {}).get("ttlSecondsAfterFinished")
            return inf if keep is None else _left(status["completionTime"], keep, now)
        if kind == "GpuNode":
            if "releasedAt" not in status:
                return None
            return _left(status["releasedAt"], limits.node_retention_seconds, now)
    except (TypeError, ValueError):
        return None
    return None


def _is_changed(meta: Mapping[str, Any], status: Mapping[str, Any]) -> bool:
    return bool(meta.get("generation") != status.get("observedGeneration"))


def _left(since: str, seconds: float, now: datetime) -> float | None:
    left = seconds - (now - datetime.fromisoformat(since)).total_seconds()
    return left if left > 0 else None
