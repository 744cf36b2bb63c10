"""Which machines are past their money deadline, according to the nodes that a process remembers."""

from collections.abc import Iterable
from datetime import datetime

from gpujob.api.gpunode import GpuNode
from gpujob.core.market.listings import Listing, Mark, leases_of, recorded
from gpujob.core.node.pauses import priced_seconds


def overdue(
    nodes: Iterable[GpuNode], listing: Listing, *, cluster_id: str, now: datetime
) -> tuple[int, ...]:
    """Returns the listed machines of nodes whose fuse leaves no more time, by number or mark.

    This serves a process that cannot store decisions any more, because it does not reach the API
    server. In any other case the end of an attempt is stored before its machine is destroyed.
    """
    found: set[int] = set()
    for node in nodes:
        rent, lease = node.status.rent, node.status.lease
        if rent is None or node.status.released_at is not None:
            continue
        if priced_seconds(node.status, node.status.pauses, now) < rent.money_deadline_seconds:
            continue
        mark = Mark(cluster_id, node.metadata.uid, node.spec.job_ref.uid)
        found |= {row.instance_id for row in leases_of(listing, mark)}
        if lease is not None and recorded(listing, lease.instance_id, mark) is not None:
            found.add(lease.instance_id)
    return tuple(sorted(found))
