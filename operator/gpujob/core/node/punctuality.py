"""When a machine was to be destroyed, and whether we asked for that in time.

Only our own delay counts. How long the proof takes is the provider's affair: it hangs on listings,
which a provider may refuse to give.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta

from gpujob.api.gpunode import GpuNode
from gpujob.core.cost.confidence import DestroyRecord
from gpujob.core.limits import Limits
from gpujob.core.node.facts import (
    active_deadline_seconds,
    booting_seconds,
    money_seconds_left,
    ran_seconds,
    stop_seconds_left,
)
from gpujob.core.observation import NodeObservation


def due_at(seen: NodeObservation) -> datetime | None:
    """Returns when an attempt that ends now was to end; None = now: no limit has passed."""
    late = _late_seconds(seen)
    return seen.world.now - timedelta(seconds=late) if late > 0 else None


def _late_seconds(seen: NodeObservation) -> float:
    status, now = seen.node.status, seen.world.now
    if status.rent is None:
        return 0.0
    deadline = active_deadline_seconds(seen)
    over = 0.0 if deadline is None or status.run is None else ran_seconds(seen) - deadline
    late = [-money_seconds_left(seen)]
    if status.stop is not None:
        # What the workload was allowed to take after it was told to stop is no delay of ours.
        stopping = (now - status.stop.at).total_seconds()
        overdrawn = max(-stop_seconds_left(seen), 0.0)
        was_told_late = 0.0 if status.stop.run_seconds is not None else max(over - stopping, 0.0)
        late.append(was_told_late + overdrawn)
    elif status.run is not None:
        late.append(over)
    elif not status.is_paused:
        late.append(booting_seconds(seen) - seen.world.limits.boot_cap_seconds)
    return max(late)


def late_seconds(node: GpuNode) -> float | None:
    """Returns how long after it was due the destroy of a node's machine was asked for; None = it
    was not asked for.
    """
    end, asked = node.status.end, node.status.destroy_asked_at
    if end is None or asked is None:
        return None
    return (asked - (end.due_at or end.at)).total_seconds()


def latest_seconds(nodes: Iterable[GpuNode], since: datetime) -> float:
    """Returns how late the latest of the destroys was that were asked for since then; 0 = none."""
    asked = (one for one in nodes if (one.status.destroy_asked_at or since) > since)
    return max((late for one in asked if (late := late_seconds(one)) is not None), default=0.0)


def destroy_record(node: GpuNode, limits: Limits) -> DestroyRecord | None:
    """Returns what a released node's stored times say of our enforcement; None = nothing."""
    late, gone = late_seconds(node), node.status.released_at
    if late is None or gone is None:
        return None
    return DestroyRecord(node.metadata.uid, gone, late > slack_seconds(limits))


def slack_seconds(limits: Limits) -> float:
    """Returns how long after it was due a destroy may be asked for.

    That is the destroy lag which the gate reckons with, without what the proof takes of it.
    """
    proof = limits.list_lag_seconds + 2 * limits.poll_seconds
    turns = limits.destroy_lag_per_lease_seconds * limits.request_spacing * limits.max_leases
    return max(limits.destroy_lag_cap_seconds - proof, 0.0) + turns
