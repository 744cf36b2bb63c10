"""What a node's machine has moved: the provider's counters, kept with the node.

A counter is in the listings alone, and what a process remembers of those ends with it. So what a
pass sees is stored in that pass, and nothing that is stored goes down again. That nothing has moved
yet is charged like what nobody has seen, so it is stored only with other figures.
"""

from datetime import UTC, datetime
from math import ceil

from gpujob.api.gpunode import GpuNodeStatus, TrafficStatus
from gpujob.core.market.history import Sighting
from gpujob.core.market.listings import Lease
from gpujob.core.observation import NodeObservation

SAME_SECONDS = 1.0
_EVER = datetime.min.replace(tzinfo=UTC)


def traffic_shown(seen: NodeObservation) -> TrafficStatus | None:
    """Returns the highest counts that were stored or are listed; None = none was ever readable."""
    told, lease, world = seen.node.status.traffic, seen.node.status.lease, seen.world
    if lease is None:
        return told
    # Earlier listings were taken in by the pass that stored this; nothing was stored in the future.
    since = told.as_of if told is not None and told.as_of <= world.now else _EVER
    for run in world.listings.sightings_of(lease.instance_id, seen.mark):
        if run.counted is not None and (at := world.at(run.counted)) > since:
            told = grown(told, at, run)
    return told


def with_traffic(seen: NodeObservation) -> GpuNodeStatus:
    """Returns the status with the counts that listings show, if they are higher than the stored."""
    status, shown = seen.node.status, traffic_shown(seen)
    if shown is None or _counts(shown) == _counts(status.traffic):
        return status
    return status.model_copy(update={"traffic": shown})


def _counts(one: TrafficStatus | None) -> tuple[int, int]:
    return (one.download_mb, one.upload_mb) if one is not None else (0, 0)


def grown(told: TrafficStatus | None, at: datetime, row: Lease | Sighting) -> TrafficStatus | None:
    """Returns the larger of what is stored and what a listing showed then; both must be readable.

    A counter that cannot be read adds nothing here: it is charged like one that nobody has seen.
    """
    if row.download_gb is None or row.upload_gb is None:
        return told
    down, up = ceil(row.download_gb * 1000), ceil(row.upload_gb * 1000)
    if told is None:
        return TrafficStatus(download_mb=down, upload_mb=up, as_of=at)
    if (at - told.as_of).total_seconds() < SAME_SECONDS:
        # The same listing in another pass: its moment is the same but for the clocks' resolution.
        at = told.as_of
    down, up = max(told.download_mb, down), max(told.upload_mb, up)
    return TrafficStatus(download_mb=down, upload_mb=up, as_of=at)
