"""Which objects need no pass, and which leave the watch: what is over costs nothing, however many
there are.

An object that is closed is not watched. It is looked at only when a slow list shows that it needs a
pass after all, when a machine is listed under its mark, or when another object's pass reads it. So
it is closed only once nothing is left that could be asked of the operator: it is over, our
finalizer is gone, and nothing is owed. What it is not sure of stays in the watch.
"""

import zlib
from collections.abc import Mapping
from datetime import datetime
from math import inf
from typing import Any

from gpujob.api.gpujob import GpuJobStatus
from gpujob.api.gpunode import GpuNodeStatus
from gpujob.api.meta import FINALIZER, ObjectMeta
from gpujob.core.job.strays import owed_for
from gpujob.core.limits import Limits


def may_close(
    meta: ObjectMeta, status: GpuJobStatus | GpuNodeStatus, *, now: datetime, limits: Limits
) -> bool:
    """Whether nothing can be asked of the operator any more for an object with this status."""
    if meta.is_being_deleted or meta.holds_finalizer or (since := _over_since(status)) is None:
        return False
    return (now - since).total_seconds() >= limits.closed_after_seconds


def _over_since(status: GpuJobStatus | GpuNodeStatus) -> datetime | None:
    """Returns since when nothing is owed for a job or node; None = something may be."""
    match status:
        case GpuNodeStatus():
            return status.released_at if status.end is not None else None
        case GpuJobStatus():
            has_node = status.node_uid is not None or status.node_name is not None
            if status.end is None or has_node or owed_for(status):
                return None
            return status.completion_time


def closes_in(
    meta: ObjectMeta, status: GpuJobStatus | GpuNodeStatus, *, now: datetime, limits: Limits
) -> float | None:
    """Returns after how many seconds a pass is to close an object; None = this pass does it, or
    none has to.
    """
    since = _over_since(status)
    if since is None or meta.is_being_deleted or may_close(meta, status, now=now, limits=limits):
        return None
    return max(limits.closed_after_seconds - (now - since).total_seconds(), 0.0)


def rest_seconds(
    kind: str, body: Mapping[str, Any], *, now: datetime, limits: Limits
) -> float | None:
    """Returns for how long an object needs no pass unless it changes; None = it needs one now.

    A finished job rests until it can be closed and until its `ttlSecondsAfterFinished` has passed,
    unless it has yet to charge a machine; a released node that its job has charged rests until it
    can be closed and until its retention has passed. What holds our finalizer does not rest: its
    deletion would wait for an operator. Nor does an object that cannot be read.

    This reads raw objects, because to read ten thousand finished jobs into models takes seconds.
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
            return _rest(meta, status, status["completionTime"], keep, now, limits)
        if kind == "GpuNode":
            if "releasedAt" not in status:
                return None
            keep = limits.node_retention_seconds
            return _rest(meta, status, status["releasedAt"], keep, now, limits)
    except (TypeError, ValueError):
        return None
    return None


def _rest(
    meta: Mapping[str, Any],
    status: Mapping[str, Any],
    since: str,
    keep: float | None,
    now: datetime,
    limits: Limits,
) -> float | None:
    """Returns for how long an object rests that is over since then; `keep` seconds later it is to
    be deleted, None = never.
    """
    age = (now - datetime.fromisoformat(since)).total_seconds()
    if keep is not None and age >= keep:
        return None
    kept = inf if keep is None else keep - age
    return kept if status.get("closed") else min(kept, _open_for(meta, age, limits))


def _open_for(meta: Mapping[str, Any], age: float, limits: Limits) -> float:
    """Returns in how many seconds an object is to be closed.

    Those of an older release may all be due at once: their turns are spread over as long a time.
    """
    if (left := limits.closed_after_seconds - age) > 0:
        return left
    return limits.closed_after_seconds * (zlib.crc32(str(meta.get("uid")).encode()) / 2**32)


def _is_changed(meta: Mapping[str, Any], status: Mapping[str, Any]) -> bool:
    return bool(meta.get("generation") != status.get("observedGeneration"))
