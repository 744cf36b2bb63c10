"""What is charged for a reservation, and that it may not end yet.

Node and job are as a quorum read shows them that began after the budget was read. A reservation
whose end cannot be told for sure is charged in full, and never dropped.
"""

from gpujob.api.gpujob import GpuJob
from gpujob.api.gpunode import GpuNode
from gpujob.core.budget.ledger import Held
from gpujob.core.money import parse_usd


def charge_at_end(held: Held, node: GpuNode | None, job: GpuJob | None) -> int | None:
    """Returns the micro-USD with which to settle a reservation; None = its attempt is under way.

    A node that is gone was deleted by force, since it keeps its finalizer until it is settled.
    """
    claim = held.claim
    if node is not None and node.metadata.uid == claim.node_uid:
        return _charged(held, node)
    if job is None or job.metadata.uid != claim.job_uid:
        return claim.microusd
    told = [one for one in job.status.attempts if one.node_uid == claim.node_uid]
    if told:
        return parse_usd(told[0].cost_usd)
    # Numbers of attempts only grow, and only an attempt that its job has recorded may rent.
    return 0 if job.status.attempt < claim.attempt else claim.microusd


def is_over(node: GpuNode) -> bool:
    """Whether what an attempt has cost is final: a node that is released is ended first."""
    return node.status.released_at is not None and node.status.end is not None


def _charged(held: Held, node: GpuNode) -> int | None:
    status = node.status
    if not is_over(node):
        return None
    if status.accrued_usd is not None:
        return parse_usd(status.accrued_usd)
    # Nothing was rented, or what it cost was lost.
    return 0 if status.rent is None or status.not_rented is not None else held.claim.microusd
