"""Reasons to end an attempt, or to stop its workload."""

from fractions import Fraction

from gpujob.api.reasons import Reason
from gpujob.core.node.answers import NodePlan, end, stop
from gpujob.core.node.facts import (
    booting_seconds,
    gone_at,
    is_repeated,
    own_lease,
    paid_seconds,
    silence_seconds,
    stands_still,
)
from gpujob.core.node.rent import BIRTH_GRACE
from gpujob.core.observation import NodeObservation

STOPPED_STATUSES = ("exited", "stopped", "unknown")
PRICE_TOLERANCE = Fraction(1001, 1000)


def end_if_unwanted(seen: NodeObservation) -> NodePlan | None:
    """Ends an attempt that nobody wants any more, and stops the workload of a suspended job."""
    job, node = seen.job, seen.node
    if job is None or job.metadata.uid != node.spec.job_ref.uid or job.metadata.is_being_deleted:
        return end(seen, Reason.JOB_DELETED, "the GpuJob was deleted")
    if node.metadata.is_being_deleted:
        return end(seen, Reason.NODE_DELETED, "the GpuNode was deleted")
    if job.status.attempt > node.spec.attempt:
        return end(seen, Reason.NODE_DELETED, "the job is already at a later attempt")
    if job.spec.suspend and node.status.stop is None:
        return stop(seen, Reason.SUSPENDED, "spec.suspend was set")
    return None


def enforce_caps(seen: NodeObservation) -> NodePlan | None:
    """Ends an attempt whose machine moves more data, or costs more, than was agreed."""
    rent, job, lease = seen.node.status.rent, seen.job, own_lease(seen)
    if rent is None or job is None or lease is None:
        return None
    data = job.spec.data
    if lease.download_gb > data.max_download_gb or lease.upload_gb > data.max_upload_gb:
        return end(
            seen,
            Reason.TRAFFIC_EXCEEDED,
            f"{float(lease.download_gb):.1f} GB were downloaded and {float(lease.upload_gb):.1f} "
            f"GB uploaded; data.maxDownloadGB is {data.max_download_gb} and data.maxUploadGB is "
            f"{data.max_upload_gb}",
        )
    quoted = Fraction(rent.gpu_usd_per_hour) + Fraction(rent.disk_usd_per_hour)
    if lease.usd_per_hour > quoted * PRICE_TOLERANCE:
        return end(
            seen,
            Reason.PRICE_CHANGED,
            f"the machine costs {float(lease.usd_per_hour):.4f} $/h, but {float(quoted):.4f} $/h "
            "was quoted",
        )
    return None


def give_up_lost(seen: NodeObservation) -> NodePlan | None:
    """Ends an attempt whose machine is lost, or never came up."""
    status, world, limits = seen.node.status, seen.world, seen.world.limits
    if status.lease is None or status.rent is None:
        return None
    lease = own_lease(seen)
    if status.machine is None and lease is not None and lease.started_at is not None:
        late = lease.started_at - status.rent.not_after
        if late > BIRTH_GRACE:
            return end(
                seen,
                Reason.RENT_LATE,
                f"the machine started {late.total_seconds():.0f} s after its rent request expired",
            )
    if lease is not None and lease.status == "offline":
        return end(seen, Reason.HOST_LOST, "the provider shows the machine as offline")
    still = stands_still(seen)
    if still and world.not_ready and world.not_ready.reason is Reason.CREDIT_EXHAUSTED:
        # Without credit the provider stops what runs (vastsim/FACTS.md, Credit).
        return end(seen, Reason.CREDIT_EXHAUSTED, world.not_ready.message)
    waits = still and status.rent.bid_usd_per_hour is not None
    if not waits and is_repeated(seen, lambda row: row.status in STOPPED_STATUSES):
        shown = lease.status if lease else ""
        words = f"the provider shows the machine as {shown} in several listings in a row"
        return end(seen, Reason.HOST_LOST, words)
    seen_at = seen.memory.marker_seen_at
    if seen_at is not None and gone_at(seen, after=seen_at + limits.list_lag_seconds) is not None:
        return end(seen, Reason.LEASE_VANISHED, "the provider no longer lists the machine")
    booted = status.run is not None or status.is_paused
    if not booted and booting_seconds(seen) >= limits.boot_cap_seconds:
        if status.machine is None and lease is not None and lease.status == "running":
            return end(
                seen, Reason.HOST_KEY_UNAVAILABLE, "the machine's log did not show its host key"
            )
        words = f"the workload did not start within {limits.boot_cap_seconds:.0f} s"
        return end(seen, Reason.BOOT_TIMEOUT, words)
    # Only the driver's contact with the machine counts: silence of the driver is its own fault.
    silence = seen.report.machine_contact_age_seconds if seen.report else None
    patience = silence_seconds(
        limits,
        paid_seconds=paid_seconds(seen),
        says_running=lease is not None and lease.status == "running",
    )
    if silence is not None and not status.is_paused and silence >= patience:
        return end(seen, Reason.HOST_LOST, f"the machine has not answered for {silence:.0f} s")
    return None
