"""Whether the latest listing shows anything about a running machine that the one before did not.

If not, the pass over its node would find what the last one found. The node's own timer has it
looked at once in a poll all the same, since deadlines pass without a word from the provider. What
speaks against a machine is news each time, because it is believed only once several listings in a
row have shown it.
"""

from gpujob.api.gpunode import GpuNode
from gpujob.core.market.history import Listings
from gpujob.core.market.listings import Mark
from gpujob.core.node.contact import DENYING_STATUSES
from gpujob.core.node.stage import Stage, stage_of


def has_news(listings: Listings, node: GpuNode, *, cluster_id: str) -> bool:
    """Returns True unless a running machine is listed by itself, running and just as before."""
    lease = node.status.lease
    if stage_of(node.status) is not Stage.RUNNING or lease is None or len(listings) < 2:
        return True
    before, after = listings[-2], listings[-1]
    row = after.by_number.get(lease.instance_id)
    if row is None or row != before.by_number.get(lease.instance_id):
        return True
    if row.intended_status == "stopped" or row.status in DENYING_STATUSES:
        return True
    mark = str(Mark(cluster_id, node.metadata.uid, node.spec.job_ref.uid))
    # Each listing asks for the destroy of a second machine, and one more tells that it is gone.
    shown = (before.by_mark.get(mark, ()), after.by_mark.get(mark, ()))
    others = any(one.instance_id != row.instance_id for rows in shown for one in rows)
    return others or before.account_id != after.account_id
