"""Which machines the operator has leased, or may have, and what they cost: what its caps count.

A machine is listed late, and who asked for it may have died. So a node counts, with the price of
its offer, from its marker on until its machine is listed, or proved absent.
"""

from collections.abc import Container, Iterable
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

from gpujob.api.gpujob import GpuJob
from gpujob.api.gpunode import GpuNode
from gpujob.core.market.history import Listings
from gpujob.core.market.listings import Lease, Listing, Mark


@dataclass(frozen=True, kw_only=True)
class Leased:
    """The operator's machines, those included that may be on their way."""

    machines: int = 0
    usd_per_hour: Fraction = Fraction(0)
    """What they cost together, but for those of unknown price."""
    unpriced: str = ""
    """One of unknown price, in words; empty = there is none."""
    others: int = 0
    """How many machines are listed that are not the operator's."""
    reckoned: int | None = None
    """With how many machines every stored money deadline reckons; None = none is stored."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Fleet:
    """The listings and what is stored beside them, so that what they come to is reckoned once."""

    listings: Listings
    nodes: tuple[GpuNode, ...]
    jobs: tuple[GpuJob, ...]
    """All that are stored, as far as `what_counts` shows them."""
    cluster_id: str

    @cached_property
    def leased(self) -> Leased:
        """The operator's machines; none if nothing was listed yet, and then nothing is rented."""
        if not self.listings:
            return Leased()
        return leased(self.listings[-1], self.nodes, self.jobs, cluster_id=self.cluster_id)


def what_counts(stored: GpuNode | GpuJob | None) -> object:
    """Returns all of a node or job that `leased` looks at; None = it is not stored."""
    match stored:
        case GpuNode(status=status):
            return status.may_cost, status.rent, status.lease, status.extension
        case GpuJob(status=status):
            return status.node_uid, status.node_account_id
    return None


def leased(
    listing: Listing, nodes: Iterable[GpuNode], jobs: Iterable[GpuJob], *, cluster_id: str
) -> Leased:
    """Returns what a listing and the stored objects show together.

    A machine that could be anyone's counts. A node that was deleted by force leaves its uid in its
    job, and may leave a machine, too.
    """
    stored = {node.metadata.uid: node for node in nodes}
    holding = {uid: node.status for uid, node in stored.items() if node.status.may_cost}
    numbers = {uid: held.lease.instance_id for uid, held in holding.items() if held.lease}
    deadlines = [one for held in holding.values() for one in (held.rent, held.extension) if one]
    recorded = frozenset(numbers.values())
    rows = [row for row in listing.leases if _is_ours(row, cluster_id, recorded)]
    shown = {mark.node_uid for row in rows if (mark := Mark.parse(row.mark))}
    listed = {row.instance_id for row in rows}
    prices = [(f"machine {row.instance_id}", row.usd_per_hour) for row in rows]
    for uid, held in holding.items():
        if uid not in shown and numbers.get(uid) not in listed and held.rent is not None:
            quoted = Fraction(held.rent.gpu_usd_per_hour) + Fraction(held.rent.disk_usd_per_hour)
            seen = Fraction(held.lease.usd_per_hour) if held.lease else quoted
            prices.append(("", max(quoted, seen)))
    for job in jobs:
        left, account = job.status.node_uid, job.status.node_account_id
        is_vanished = left is not None and left not in stored and left not in shown
        if is_vanished and account == listing.account_id:
            prices.append(("a machine whose GpuNode was deleted by force", None))
    return Leased(
        machines=len(prices),
        usd_per_hour=sum((price for _, price in prices if price is not None), Fraction(0)),
        unpriced=next((name for name, price in prices if price is None), ""),
        others=len(listing.leases) - len(rows),
        reckoned=min(
            (one.max_leases for one in deadlines if one.max_leases is not None), default=None
        ),
    )


def _is_ours(row: Lease, cluster_id: str, recorded: Container[int]) -> bool:
    if (mark := Mark.parse(row.mark)) is not None:
        return mark.cluster_id == cluster_id
    return row.instance_id in recorded or not row.is_attributable
