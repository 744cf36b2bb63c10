"""What happens when somebody outbids us for an interruptible machine: wait, and use it again."""

from math import ceil

from gpujob.api.gpunode import InterruptionStatus
from gpujob.api.reasons import Reason
from gpujob.core.node.answers import NodePlan, end, progress, wait
from gpujob.core.node.facts import (
    can_be_reached,
    own_lease,
    stands_still,
)
from gpujob.core.observation import NodeObservation


def wait_while_paused(seen: NodeObservation) -> NodePlan | None:
    """Waits for an interruptible machine after somebody outbid us, and uses it again if it can."""
    status, now, limits = seen.node.status, seen.world.now, seen.world.limits
    if status.rent is None or status.rent.bid_usd_per_hour is None or status.lease is None:
        return None
    lease, past = own_lease(seen), status.interruptions
    if past is None or past.paused_at is None:
        if not stands_still(seen):
            return None
        if status.machine is None:
            return end(seen, Reason.OUTBID, "somebody bid more for the machine while it booted")
        ran = (now - status.run.started_at).total_seconds() if status.run else 0.0
        paused = InterruptionStatus(
            count=status.run_number + 1,
            paused_at=now,
            run_seconds=status.earlier_run_seconds + ceil(max(ran, 0.0)),
        )
        status = status.model_copy(update={"run": None, "interruptions": paused})
        return progress(status, Reason.PAUSED, Reason.PAUSED.meaning)
    if lease is not None and lease.intended_status == "running" and can_be_reached(lease):
        assert status.machine is not None, "it had booted before it was taken away"
        # Its disk still has the pinned host key, so no other key is accepted.
        place = {"host": lease.ssh_host, "port": lease.ssh_port}
        machine = status.machine.model_copy(update=place)
        back = past.model_copy(update={"paused_at": None, "resumed_at": now})
        status = status.model_copy(update={"machine": machine, "interruptions": back})
        return progress(status, Reason.CONNECTING, "the machine came back; the driver connects")
    waited = limits.outbid_patience_seconds
    left = waited - (now - past.paused_at).total_seconds()
    if left <= 0:
        words = f"somebody bid more, and the machine did not come back within {waited:.0f} s"
        return end(seen, Reason.OUTBID, words)
    return wait(seen, Reason.PAUSED, Reason.PAUSED.meaning, left)
