"""What the clock enforces: the fuse, and the deadlines of the job's spec."""

from gpujob.api.reasons import Reason
from gpujob.core.job.pending import overdue_words
from gpujob.core.node.answers import NodePlan, end, stop
from gpujob.core.node.facts import (
    active_deadline_seconds,
    fuse_seconds_left,
    machine_silence,
    money_seconds_left,
    paid_seconds,
    pending_seconds_left,
    ran_seconds,
    stop_seconds,
    usage_of,
    watchdog_seconds_left,
)
from gpujob.core.observation import NodeObservation

IDLE_SAMPLES_MIN = 4
"""One sample without load does not prove idleness: a GPU often pauses between two batches."""


def enforce_fuse(seen: NodeObservation) -> NodePlan | None:
    """Ends the attempt before another second could cost more than is allowed.

    A workload that may be running is stopped earlier, by the time that it may take to save files.
    Before its fuse is spent its machine may destroy itself, because the watchdog there could not be
    told of a pause: then another attempt follows.
    """
    status, rent = seen.node.status, seen.node.status.rent
    if rent is None or status.not_rented is not None:
        return None
    left = money_seconds_left(seen)
    if fuse_seconds_left(seen) - watchdog_seconds_left(seen) >= 1:
        # It has whole seconds, so that less than one is no difference.
        reason = Reason.OUTBID
        words = "somebody bid more for so long that the deadline of the machine's own watchdog, "
        words += "which counts pauses in full, leaves"
    else:
        reason = Reason.BUDGET_EXHAUSTED
        words = f"{paid_seconds(seen):.0f} s after the rent request the fuse of ${rent.fuse_usd} "
        words += "leaves"
    if left <= 0:
        return end(seen, reason, f"{words} no more time")
    if seen.stage.may_run and left <= stop_seconds(seen):
        return stop(seen, reason, f"{words} only the time to save files")
    return None


def enforce_active_deadline(seen: NodeObservation) -> NodePlan | None:
    """Stops a workload that ran for as long as its user allows, over all attempts."""
    deadline = active_deadline_seconds(seen)
    if seen.node.status.run is None or deadline is None or ran_seconds(seen) < deadline:
        return None
    silence = machine_silence(seen)
    if ran_seconds(seen) - silence < deadline:
        # Nobody knows whether the workload still ran: silence does not count.
        words = f"the machine had not answered for {silence:.0f} s when the deadline passed"
        return end(seen, Reason.HOST_LOST, words)
    words = f"the workload ran for activeDeadlineSeconds ({deadline} s)"
    return stop(seen, Reason.DEADLINE_EXCEEDED, words)


def enforce_pending_deadline(seen: NodeObservation) -> NodePlan | None:
    """Ends the attempt, and with it the job, if its workload has not begun to run in time."""
    if seen.job is None or pending_seconds_left(seen) > 0:
        return None
    return end(seen, Reason.PENDING_DEADLINE_EXCEEDED, overdue_words(seen.job))


def enforce_idle_deadline(seen: NodeObservation) -> NodePlan | None:
    """Stops a workload whose GPUs were idle for as long as its user allows."""
    job, usage = seen.job, usage_of(seen)
    longest = job.spec.idle_deadline_seconds if job else None
    if longest is None or usage is None or seen.node.status.run is None:
        return None
    if usage.idle_seconds < longest or usage.idle_samples < IDLE_SAMPLES_MIN:
        return None
    words = f"no GPU was busy in {usage.idle_samples} samples over {usage.idle_seconds:.0f} s; "
    return stop(seen, Reason.IDLE_DEADLINE_EXCEEDED, f"{words}idleDeadlineSeconds is {longest}")
