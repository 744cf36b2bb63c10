"""Which listed machines have no live owner.

The sweep is the second way in which a machine is destroyed. It does not depend on the plan for a
node, so that a fault there cannot leave a machine running.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from gpujob.core.limits import Limits
from gpujob.core.market.listings import Listing, Mark


@dataclass(frozen=True)
class Owner:
    """A GpuNode in a quorum read that was made after the listing, so that no new node is missed."""

    is_released: bool


@dataclass(frozen=True, kw_only=True)
class Orphans:
    """What the sweep found."""

    to_destroy: tuple[int, ...]
    held_back: tuple[int, ...]
    """More than one pass may destroy; they are destroyed only if a second pass finds them too."""


def orphans(
    listing: Listing,
    owners: Mapping[str, Owner],
    *,
    cluster_id: str,
    first_seen: Mapping[int, float],
    monotonic: float,
    limits: Limits,
    confirmed: frozenset[int],
) -> Orphans:
    """Returns this cluster's machines without a live owner, if they are old enough to be sure.

    `owners` is by node uid; `first_seen` says when this process first listed an instance;
    `confirmed` holds the instances that a pass at least a minute ago held back. Machines without
    this cluster's mark are never touched.
    """
    found = []
    for lease in listing.leases:
        mark = Mark.parse(lease.mark)
        if mark is None or mark.cluster_id != cluster_id:
            continue
        owner = owners.get(mark.node_uid)
        if owner is not None and not owner.is_released:
            continue
        seen_for = monotonic - first_seen.get(lease.instance_id, monotonic)
        age = 0.0
        if lease.started_at and listing.provider_time:
            # Both by the provider's clock: ours may be wrong.
            age = (listing.provider_time - lease.started_at).total_seconds()
        if max(seen_for, age) >= limits.list_lag_seconds:
            found.append(lease.instance_id)
    # So many orphans at once may be a mistake of the operator, rather than machines without owner,
    # so a second pass must find them too.
    few = max(3, len(listing.leases) // 5)
    if len(found) <= few:
        return Orphans(to_destroy=tuple(sorted(found)), held_back=())
    sure = [number for number in found if number in confirmed]
    rest = [number for number in found if number not in confirmed]
    return Orphans(to_destroy=tuple(sorted(sure)), held_back=tuple(sorted(rest)))
