"""What interrupts a run and leaves its machine ours: somebody who outbids us, or a restart.

An interruptible machine that was taken away is waited for. One whose container was restarted is
there already. In both cases the workload runs again on the same disk, from its last checkpoint.
"""

from math import ceil

from gpujob.api.gpunode import InterruptionStatus
from gpujob.api.reasons import Reason
from gpujob.api.transport import MachineFault
from gpujob.core.node.answers import NodePlan, end, progress, wait
from gpujob.core.node.facts import (
    can_be_reached,
    own_lease,
    present_report,
    reached,
    stands_still,
)
from gpujob.core.node.stage import Stage
from gpujob.core.observation import NodeObservation

RESTARTS_MAX = 2
"""A workload may be what brings the container down, and each run of it is paid for: a machine that
restarts more often is given up."""


def run_again(seen: NodeObservation) -> NodePlan | None:
    """Runs the workload again on a machine whose container was restarted: no attempt ends for it.

    That is simpler and cheaper than another machine: it is booted, measured and paid for, its files
    are there, and the fuse and the deadlines go on as they do after an interruption.
    """
    status, now, report = seen.node.status, seen.world.now, present_report(seen)
    # What the driver says of an earlier run is settled: the workload runs again since.
    if status.machine is None or report is None:
        return None
    if report.fault is not MachineFault.MACHINE_RESTARTED:
        return None
    past = status.interruptions or InterruptionStatus(count=1)
    if seen.stage not in (Stage.STARTING, Stage.RUNNING) or past.restarts >= RESTARTS_MAX:
        words = f"restarts of the machine's container so far: {past.restarts + 1}"
        return end(seen, Reason.MACHINE_RESTARTED, words)
    longest = (now - status.run.started_at).total_seconds() if status.run else 0.0
    ran = longest if report.run_seconds is None else min(report.run_seconds, longest)
    back = InterruptionStatus(
        count=status.run_number + 1,
        resumed_at=now,
        restarts=past.restarts + 1,
        run_seconds=status.earlier_run_seconds + ceil(max(ran, 0.0)),
    )
    status = status.model_copy(update={"run": None, "interruptions": back})
    words = "the machine's container was restarted; the workload is started on it again"
    return progress(status, Reason.CONNECTING, words)


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
            restarts=past.restarts if past else 0,
            run_seconds=status.earlier_run_seconds + ceil(max(ran, 0.0)),
        )
        status = status.model_copy(update={"run": None, "interruptions": paused})
        return progress(status, Reason.PAUSED, Reason.PAUSED.meaning)
    if lease is not None and lease.intended_status == "running" and can_be_reached(lease):
        assert status.machine is not None, "it had booted before it was taken away"
        # Its disk still has the pinned host key, so no other key is accepted.
        machine = reached(lease, status.machine.host_key)
        back = past.model_copy(update={"paused_at": None, "resumed_at": now})
        status = status.model_copy(update={"machine": machine, "interruptions": back})
        return progress(status, Reason.CONNECTING, "the machine came back; the driver connects")
    waited = limits.outbid_patience_seconds
    left = waited - (now - past.paused_at).total_seconds()
    if left <= 0:
        words = f"somebody bid more, and the machine did not come back within {waited:.0f} s"
        return end(seen, Reason.OUTBID, words)
    return wait(seen, Reason.PAUSED, Reason.PAUSED.meaning, left)
