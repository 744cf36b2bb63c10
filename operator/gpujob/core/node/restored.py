"""A node without a rent request whose mark is on a machine: the cluster was restored from a backup.

The request left in a time that nobody remembers. So the machine is adopted only to end the attempt:
it is destroyed, and charged from its start; no second one is rented, and no workload starts on it.
"""

from dataclasses import replace
from datetime import timedelta
from fractions import Fraction
from math import ceil

from gpujob.api.gpunode import LeaseStatus, RentMarker
from gpujob.api.reasons import Reason
from gpujob.core.market.listings import Lease, Line
from gpujob.core.money import format_usd, micro_up
from gpujob.core.node.answers import NodePlan, end
from gpujob.core.node.charge import most_reserved_usd
from gpujob.core.node.facts import marked_leases
from gpujob.core.node.traffic import grown
from gpujob.core.observation import NodeObservation


def end_if_rented_before(seen: NodeObservation) -> NodePlan | None:
    """Ends an attempt whose machine a listing shows although no rent request is stored."""
    status, found = seen.node.status, marked_leases(seen)
    if status.rent is not None or status.end is not None or seen.stage.is_contradiction:
        return None
    if not found:
        return None
    row = found[0]
    words = f"instance {row.instance_id} was rented for this node, but no rent request is stored"
    plan = end(seen, Reason.RENT_FORGOTTEN, f"{words}: a backup was restored; it is destroyed")
    marker, now = _marker(seen, row), seen.world.now
    lease = LeaseStatus(
        instance_id=row.instance_id, usd_per_hour=marker.gpu_usd_per_hour, recorded_at=now
    )
    known = row.usd_per_hour is not None and row.line is not None
    # Where a price is unknown, it may have cost all that was reserved for it.
    told = "0.000000" if known else most_reserved_usd(seen.node)
    update = {
        "rent": marker,
        "lease": lease,
        "traffic": grown(None, seen.world.at(seen.world.listings[-1].requested_at), row),
        "accrued_usd": told,
        "as_of": now,
    }
    return replace(plan, status=plan.status.model_copy(update=update))


def _marker(seen: NodeObservation, row: Lease) -> RentMarker:
    """Returns the marker as the listing shows it; no time is left under its fuse."""
    node = seen.node
    reserved = most_reserved_usd(node)
    began = row.started_at or node.metadata.creation_timestamp
    line = row.line or Line(Fraction(0), Fraction(0), Fraction(0), Fraction(0))
    return RentMarker(
        requested_at=began,
        not_after=began + timedelta(seconds=seen.world.limits.rent_not_after_seconds),
        account_id=seen.world.listings[-1].account_id,
        offer_id=0,
        machine_id=0,
        gpu="unknown",
        gpu_usd_per_hour=format_usd(micro_up(row.usd_per_hour or Fraction(0))),
        disk_usd_per_hour=format_usd(0),
        download_usd_per_gb=format_usd(micro_up(line.download_usd_per_gb)),
        upload_usd_per_gb=format_usd(micro_up(line.upload_usd_per_gb)),
        traffic_reserve_usd=reserved,
        download_mbps=ceil(line.download_mbps),
        upload_mbps=ceil(line.upload_mbps),
        estimate_usd=reserved,
        confidence="0",
        fuse_usd=reserved,
        money_deadline_seconds=0,
        nonce=node.metadata.uid.replace("-", ""),
    )
