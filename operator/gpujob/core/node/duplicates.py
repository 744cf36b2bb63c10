"""More machines than one under a node's mark: one is kept, the others are destroyed and charged.

A request that arrives twice rents twice. In every pass, whatever the node is at, the others are
destroyed and what they cost is stored.
"""

from gpujob.api.gpunode import DuplicateStatus
from gpujob.core.market.listings import Lease
from gpujob.core.money import format_usd, micro_up, parse_usd
from gpujob.core.node.facts import marked_leases
from gpujob.core.node.traffic import grown
from gpujob.core.observation import NodeObservation

KEPT_MAX = 16
"""The status holds no more."""


def duplicates_shown(seen: NodeObservation) -> tuple[DuplicateStatus, ...]:
    """Returns the node's other machines with what is known of each now, lowest number first."""
    told = {one.instance_id: one for one in seen.node.status.duplicates}
    if not seen.world.listings:
        return seen.node.status.duplicates
    listed = {row.instance_id: row for row in others(seen)}
    now = seen.world.now
    for number, row in listed.items():
        told[number] = _noted(seen, told.get(number), row)
    for number in told.keys() - listed.keys():
        if told[number].gone_at is None:
            told[number] = told[number].model_copy(update={"gone_at": now})
    return tuple(told[number] for number in sorted(told))[:KEPT_MAX]


def others(seen: NodeObservation) -> tuple[Lease, ...]:
    """Returns the listed machines under the node's mark that are not the recorded one."""
    lease = seen.node.status.lease
    if lease is None:
        return ()
    return tuple(row for row in marked_leases(seen) if row.instance_id != lease.instance_id)


def _noted(seen: NodeObservation, told: DuplicateStatus | None, row: Lease) -> DuplicateStatus:
    lease = seen.node.status.lease
    assert lease is not None, "only then there are others"
    shown = (
        parse_usd(lease.usd_per_hour) if row.usd_per_hour is None else micro_up(row.usd_per_hour)
    )
    rate = max(shown, parse_usd(told.usd_per_hour)) if told else shown
    moved = told.traffic if told else None
    return DuplicateStatus(
        instance_id=row.instance_id,
        usd_per_hour=format_usd(rate),
        traffic=grown(moved, seen.world.at(seen.world.listings[-1].requested_at), row),
    )
