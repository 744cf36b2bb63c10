"""Whether the latest listing shows anything about a running machine that the one before did not.

If not, the pass over its node would find what the last one found. The node's own timer has it
looked at once in a poll all the same, since deadlines pass without a word from the provider.
"""

from gpujob.api.gpunode import GpuNode
from gpujob.core.market.history import Listings
from gpujob.core.market.listings import Mark
from gpujob.core.node.stage import Stage, stage_of


def has_news(listings: Listings, node: GpuNode, *, cluster_id: str) -> bool:
    """Returns True unless a running machine is listed by itself and just as before."""
    lease = node.status.lease
    if stage_of(node.status) is not Stage.RUNNING or lease is None or len(listings) < 2:
        return True
    before, after = listings[-2], listings[-1]
    row = after.by_number.get(lease.instance_id)
    if row is None or row != before.by_number.get(lease.instance_id):
        return True
    mark = Mark(cluster_id, node.metadata.uid, node.spec.job_ref.uid)
    others = [one for one in after.by_mark.get(str(mark), ()) if one is not row]
    return bool(others) or before.account_id != after.account_id
