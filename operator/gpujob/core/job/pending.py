"""How long a job has waited for its workload to begin, and when that is enough.

Waiting costs nothing and ends nothing, unless the user has said so by `pendingDeadlineSeconds`.
The time is counted by the operator's clocks, since the first pass over the job; while the job is
suspended it stands still, and once the workload has begun it does not count any more.
"""

from dataclasses import replace
from datetime import datetime
from math import inf

from gpujob.api.gpujob import GpuJob, PendingStatus
from gpujob.core.job.end import is_finished
from gpujob.core.observation import JobObservation


def with_pending(seen: JobObservation) -> JobObservation:
    """Returns the observation with the job's wait in its status, as it is now."""
    job, before = seen.job, seen.job.status.pending
    if not _waits(job):
        return seen
    after = before or PendingStatus(since=seen.world.now)
    if job.spec.suspend and after.since is not None:
        after = PendingStatus(seconds=int(waited_seconds(after, seen.world.now)))
    elif not job.spec.suspend and after.since is None:
        after = after.model_copy(update={"since": seen.world.now})
    if after == before:
        return seen
    status = job.status.model_copy(update={"pending": after})
    return replace(seen, job=job.model_copy(update={"status": status}))


def waited_seconds(pending: PendingStatus, now: datetime) -> float:
    """Returns for how long a job has waited, without the time in which it was suspended."""
    present = (now - pending.since).total_seconds() if pending.since else 0.0
    return pending.seconds + max(present, 0.0)


def pending_seconds_left(job: GpuJob, now: datetime) -> float:
    """Returns how long a job may still wait for its workload to begin; infinite = for ever, or it
    has begun, or the time stands still."""
    deadline, pending = job.spec.pending_deadline_seconds, job.status.pending
    if deadline is None or pending is None or pending.since is None or not _waits(job):
        return inf
    return deadline - waited_seconds(pending, now)


def overdue_words(job: GpuJob) -> str:
    """Returns, in words, that the workload has not begun in time, and what it waited for."""
    ready = next((one for one in job.status.conditions if one.type == "Ready"), None)
    words = (
        "the workload did not begin to run within pendingDeadlineSeconds "
        f"({job.spec.pending_deadline_seconds} s)"
    )
    return f"{words}; it waited for this: {ready.reason}: {ready.message}" if ready else words


def _waits(job: GpuJob) -> bool:
    is_over = is_finished(job.status) or job.metadata.is_being_deleted
    return not is_over and job.status.start_time is None
