"""What follows from an attempt that is over.

Its cost is charged to the job first; then the job is over, or waits for the next attempt.
"""

from datetime import timedelta
from itertools import takewhile
from typing import Any

from gpujob.api.gpujob import ATTEMPTS_MAX, AttemptRecord
from gpujob.api.reasons import Ends, Limit, Reason, Severity
from gpujob.core.effects import Plan
from gpujob.core.job.answers import JobPlan, stay
from gpujob.core.job.end import over
from gpujob.core.market.absence import absence_proved_at
from gpujob.core.market.listings import Mark
from gpujob.core.money import format_usd, parse_usd, short_usd
from gpujob.core.observation import JobObservation

ATTEMPTS_SHOWN = 20


def charge_attempt(seen: JobObservation) -> JobPlan | None:
    """Charges the recorded attempt if it is over, and decides what follows."""
    status, node = seen.job.status, seen.node
    if status.node_uid is None:
        return None
    if node is None or node.metadata.uid != status.node_uid:
        return _vanished(seen)
    end, rent, run = node.status.end, node.status.rent, node.status.run
    if node.status.released_at is None or end is None:
        # A node that is released without an end is ended first: only then is its cost final.
        return None
    reason = Reason(end.reason)
    record = AttemptRecord(
        attempt=status.attempt,
        node_name=node.metadata.name,
        node_uid=node.metadata.uid,
        machine_id=rent.machine_id if rent and node.status.lease else None,
        host_id=rent.host_id if rent and node.status.lease else None,
        booted=node.status.machine is not None if node.status.lease else None,
        gpu=rent.gpu if rent else None,
        usd_per_hour=node.status.lease.usd_per_hour if node.status.lease else None,
        reason=end.reason,
        message=end.message,
        blames=end.blames,
        exit_code=end.exit_code,
        run_seconds=node.status.earlier_run_seconds + ((run.seconds or 0) if run else 0),
        cost_usd=node.status.accrued_usd or format_usd(0),
        ended_at=node.status.released_at,
    )
    return what_follows(seen, record, reason, started=run.started_at if run else None)


def _vanished(seen: JobObservation) -> JobPlan:
    """The recorded node is gone without a release: looks for its machine, then charges in full."""
    status, world = seen.job.status, seen.world
    assert status.node_uid is not None, "asked only for a recorded node"
    mark = Mark(world.cluster_id, status.node_uid, seen.job.metadata.uid)
    missed, account = seen.node_absent_since, status.node_account_id
    gone = (
        missed is not None
        and account is not None
        and absence_proved_at(
            world.listings,
            after=missed + world.limits.not_rented_wait_seconds,
            poll_seconds=world.limits.poll_seconds,
            mark=mark,
            instance_id=None,
            account_id=account,
        )
        is not None
    )
    if not gone:
        name = status.node_name
        words = f"GpuNode {name} was deleted before its release; looking for its machine"
        return stay(seen, Reason.NODE_VANISHED, words, world.limits.poll_seconds)
    record = AttemptRecord(
        attempt=status.attempt,
        node_name=status.node_name or "",
        node_uid=status.node_uid,
        reason=Reason.NODE_VANISHED,
        message=Reason.NODE_VANISHED.meaning,
        blames=Reason.NODE_VANISHED.kind.blames,
        cost_usd=status.node_reserved_usd or format_usd(0),
        ended_at=world.now,
    )
    return what_follows(seen, record, Reason.NODE_VANISHED, started=None)


def what_follows(
    seen: JobObservation, record: AttemptRecord, reason: Reason, *, started: Any
) -> JobPlan:
    """Charges an ended attempt to the job; then the job is over, or another attempt follows."""
    status = seen.job.status
    spent = parse_usd(status.cost.spent_usd) + parse_usd(record.cost_usd)
    action = _failure_action(seen, record) if reason is Reason.WORKLOAD_FAILED else None
    failed = action in ("Count", "FailJob")
    disrupted = not failed and reason.kind.counts_to is not Limit.NONE
    status = status.model_copy(
        update={
            "attempts": (*status.attempts, record)[-ATTEMPTS_SHOWN:],
            "failures": status.failures + failed,
            "disruptions": status.disruptions + disrupted,
            "run_seconds": status.run_seconds + record.run_seconds,
            "node_name": None,
            "node_uid": None,
            "node_reserved_usd": None,
            "node_account_id": None,
            "gpu": None,
            "usd_per_hour": None,
            "usage": None,
            "start_time": status.start_time or started,
            "cost": status.cost.model_copy(
                update={
                    "spent_usd": format_usd(spent),
                    "accrued_usd": format_usd(spent),
                    "as_of": seen.world.now,
                }
            ),
        }
    )
    if reason is Reason.COMPLETED:
        return over(seen, status, Reason.COMPLETE, record.message, spent)
    if reason.kind.ends is Ends.JOB:
        return over(seen, status, reason, record.message, spent)
    if action == "FailJob":
        words = f"spec.failurePolicy fails the job for this exit code: {record.message}"
        return over(seen, status, Reason.FAILURE_POLICY, words, spent)
    if status.failures > seen.job.spec.backoff_limit:
        allowed = f"spec.backoffLimit is {seen.job.spec.backoff_limit}"
        words = f"{_attempts(status.failures)} failed and {allowed}; the last one: {record.message}"
        return over(seen, status, Reason.BACKOFF_LIMIT_EXCEEDED, words, spent)
    if status.disruptions >= seen.job.spec.max_rents:
        allowed = f"spec.maxRents is {seen.job.spec.max_rents}"
        lost = f"{_attempts(status.disruptions)} ended for reasons other than the workload"
        words = f"{lost} and {allowed}; the last one: {record.message}"
        return over(seen, status, Reason.MAX_RENTS_EXCEEDED, words, spent)
    if status.attempt >= ATTEMPTS_MAX:
        words = f"{_attempts(status.attempt)} were made; the last one: {record.message}"
        return over(seen, status, Reason.MAX_RENTS_EXCEEDED, words, spent)
    # Only the last run's progress is shown of a job that is over; this one begins anew.
    status = status.model_copy(update={"progress": None})
    charged = parse_usd(record.cost_usd)
    cost = f"cost at most {short_usd(charged)}" if charged else "cost nothing"
    next_reason, next_words = _next_of(seen)
    follows = f"; it {cost}, and {next_words}"
    words = f"attempt {record.attempt} ended with {reason}: {record.message}"
    words = words[: 1024 - len(follows)] + follows
    return Plan(status=status, reason=next_reason, message=words, requeue_seconds=0)


def _next_of(seen: JobObservation) -> tuple[Reason, str]:
    """Returns what becomes of a job that is not over, and that in words."""
    if seen.job.metadata.is_being_deleted:
        return Reason.JOB_DELETED, "the job is being deleted"
    if seen.job.spec.suspend:
        return Reason.SUSPENDED, "the job is suspended"
    return Reason.RETRYING, "another attempt follows"


def _attempts(number: int) -> str:
    return "1 attempt" if number == 1 else f"{number} attempts"


def _failure_action(seen: JobObservation, record: AttemptRecord) -> str:
    """Returns the action of the first failurePolicy rule that matches a failed workload."""
    for rule in seen.job.spec.failure_policy.rules:
        codes = rule.on_exit_codes
        if (record.exit_code in codes.values) is (codes.operator == "In"):
            return rule.action
    return "Count"


def _uncounted(attempts: tuple[AttemptRecord, ...]) -> int:
    """Returns how many of the last attempts came to nothing and count to no limit."""
    endings = [Reason(record.reason).kind for record in reversed(attempts)]
    return sum(
        1
        for _ in takewhile(
            lambda kind: kind.counts_to is Limit.NONE and kind.severity is Severity.WARNING, endings
        )
    )


def wait_to_retry(seen: JobObservation) -> JobPlan | None:
    """Waits after an attempt that did not succeed, longer each time."""
    status, limits = seen.job.status, seen.world.limits
    tries = status.failures + status.disruptions + _uncounted(status.attempts)
    if not status.attempts or not tries:
        return None
    wait = min(
        limits.retry_backoff_seconds * 2 ** min(tries - 1, 16), limits.retry_backoff_max_seconds
    )
    last = status.attempts[-1]
    due = last.ended_at + timedelta(seconds=wait)
    left = (due - seen.world.now).total_seconds()
    if left <= 0:
        return None
    words = f"attempt {last.attempt} ended with {last.reason}; the next one starts in {left:.0f} s"
    return stay(seen, Reason.RETRYING, words, left)
