"""The life of a GpuJob, decided pass by pass: attempts one after the other until it is over.

accepted ─ gate ─ GpuNode created ─ recorded ─ … ─ released ─ charged ─┬─ next attempt
             ▲                                                         ├─ Complete
             └── refused: looked at again ◀── back-off ────────────────┴─ Failed
"""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

from gpujob.api.gpujob import AttemptRecord, GpuJobStatus
from gpujob.api.gpunode import GpuNode
from gpujob.api.meta import API_VERSION, FINALIZER, LABEL_JOB, LABEL_MANAGED_BY, MANAGER
from gpujob.api.reasons import Reason
from gpujob.core import effects
from gpujob.core.cost.gate import (
    CostGateError,
    avoided_machines,
    judge,
    rounded_down,
)
from gpujob.core.effects import Plan
from gpujob.core.machine.ports import service, service_name
from gpujob.core.market.listings import Mark, absence_proved_at
from gpujob.core.money import floor_usd, format_usd, parse_usd, short_usd
from gpujob.core.observation import JobObservation, Unavailable
from gpujob.core.spec_faults import spec_faults

JobPlan = Plan[GpuJobStatus]
Stage = Callable[[JobObservation], JobPlan | None]

ATTEMPTS_SHOWN = 20
RETRY_SECONDS = 5.0
"""Until what the cluster refused is tried again."""

FATAL = frozenset(
    {
        Reason.DEADLINE_EXCEEDED,
        Reason.BUDGET_EXHAUSTED,
        Reason.TRAFFIC_EXCEEDED,
        Reason.IDLE_DEADLINE_EXCEEDED,
        Reason.DATA_UNUSABLE,
        Reason.OUTPUT_LOST,
    }
)
"""Ends of an attempt that end the job."""

BLAMELESS = frozenset(
    {
        Reason.SUSPENDED,
        Reason.JOB_DELETED,
        Reason.CREDIT_EXHAUSTED,
        Reason.CREDENTIALS_REJECTED,
        Reason.ACCOUNT_CHANGED,
    }
)
"""Ends that count to no limit: the user asked for them, or the operator could not act."""


def plan_job(observation: JobObservation) -> JobPlan:
    """Returns what to store and do now for a GpuJob; total, and pure."""
    for stage in STAGES:
        if (plan := stage(observation)) is not None:
            return plan
    raise AssertionError("the last stage always answers")


def is_finished(status: GpuJobStatus) -> bool:
    """Whether the job is over for good."""
    return any(
        condition.type in ("Complete", "Failed") and condition.status == "True"
        for condition in status.conditions
    )


def node_name(job_name: str, attempt: int) -> str:
    """Returns the name of an attempt's GpuNode; the index is 0 until there are indexed jobs."""
    return f"{job_name}-0-{attempt}"


# --- Stages ---------------------------------------------------------------------------------


def _settle(seen: JobObservation) -> JobPlan | None:
    """The recorded attempt is over: charge it, and say what follows."""
    status, node = seen.job.status, seen.node
    if status.node_uid is None:
        return None
    if node is None or node.metadata.uid != status.node_uid:
        return _vanished(seen)
    if node.status.released_at is None:
        return None
    end, rent, run = node.status.end, node.status.rent, node.status.run
    assert end is not None, "a node is released only after its end was stored"
    reason = Reason(end.reason)
    record = AttemptRecord(
        attempt=status.attempt,
        node_name=node.metadata.name,
        machine_id=rent.machine_id if rent and node.status.lease else None,
        gpu=rent.gpu if rent else None,
        usd_per_hour=node.status.lease.usd_per_hour if node.status.lease else None,
        reason=end.reason,
        message=end.message,
        exit_code=end.exit_code,
        run_seconds=node.status.earlier_run_seconds + ((run.seconds or 0) if run else 0),
        cost_usd=node.status.accrued_usd or format_usd(0),
        ended_at=node.status.released_at,
    )
    return _charged(seen, record, reason, started=run.started_at if run else None)


def _vanished(seen: JobObservation) -> JobPlan:
    """The recorded node went without being released: search its mark, charge it in full."""
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
        words = f"GpuNode {status.node_name} went without being released; searching its machine"
        return _stay(seen, Reason.NODE_VANISHED, words, world.limits.poll_seconds)
    record = AttemptRecord(
        attempt=status.attempt,
        node_name=status.node_name or "",
        reason=Reason.NODE_VANISHED,
        message=Reason.NODE_VANISHED.meaning,
        cost_usd=status.node_reserved_usd or format_usd(0),
        ended_at=world.now,
    )
    return _charged(seen, record, Reason.NODE_VANISHED, started=None)


def _charged(
    seen: JobObservation, record: AttemptRecord, reason: Reason, *, started: Any
) -> JobPlan:
    status = seen.job.status
    spent = parse_usd(status.cost.spent_usd) + parse_usd(record.cost_usd)
    action = _failure_action(seen, record) if reason is Reason.WORKLOAD_FAILED else None
    failed = action in ("Count", "FailJob")
    disrupted = not failed and reason not in FATAL | BLAMELESS | {Reason.COMPLETED}
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
        return _over(seen, status, Reason.COMPLETE, record.message, spent)
    if reason in FATAL:
        return _over(seen, status, reason, record.message, spent)
    if action == "FailJob":
        words = f"failurePolicy does not retry exit code {record.exit_code}: {record.message}"
        return _over(seen, status, Reason.FAILURE_POLICY, words, spent)
    if status.failures > seen.job.spec.backoff_limit:
        words = f"{_attempts(status.failures)} failed; the last: {record.message}"
        return _over(seen, status, Reason.BACKOFF_LIMIT_EXCEEDED, words, spent)
    if status.disruptions >= seen.job.spec.max_rents:
        words = f"{_attempts(status.disruptions)} disrupted; the last: {record.message}"
        return _over(seen, status, Reason.MAX_RENTS_EXCEEDED, words, spent)
    words = f"attempt {record.attempt} ended with {reason}: {record.message}"
    return Plan(status=status, reason=Reason.RETRYING, message=words[:1024], requeue_seconds=0)


def _attempts(number: int) -> str:
    return "1 attempt" if number == 1 else f"{number} attempts"


def _failure_action(seen: JobObservation, record: AttemptRecord) -> str:
    """Returns what the job's rules make of a failed workload; the first that fits decides."""
    for rule in seen.job.spec.failure_policy.rules:
        codes = rule.on_exit_codes
        if (record.exit_code in codes.values) is (codes.operator == "In"):
            return rule.action
    return "Count"


def _over(
    seen: JobObservation, status: GpuJobStatus, reason: Reason, message: str, spent: int
) -> JobPlan:
    final = status.cost.model_copy(update={"final_usd": format_usd(spent)})
    status = status.model_copy(update={"completion_time": seen.world.now, "cost": final})
    words = f"{message}; cost {short_usd(spent)} of ${seen.job.spec.cost.ceiling}"
    return Plan(status=status, reason=reason, message=words[:1024])


def _deleted(seen: JobObservation) -> JobPlan | None:
    """The finalizer goes only when nothing is leased under this job."""
    job, node = seen.job, seen.node
    if not job.metadata.is_being_deleted:
        return None
    if _is_own(seen, node) and node is not None and node.status.released_at is None:
        words = f"GpuNode {node.metadata.name} is giving its machine back"
        return _stay(seen, Reason.RELEASING, words, seen.world.limits.poll_seconds)
    todo = (effects.RemoveFinalizer(),) if job.metadata.holds_finalizer else ()
    return _stay(seen, Reason.RELEASED, Reason.RELEASED.meaning, None, todo)


def _finished(seen: JobObservation) -> JobPlan | None:
    """Nothing more happens to a job that is over, but that it goes when its user said so.

    Nothing is owed: its finalizer goes at once, so that it can be deleted with nobody there to see.
    """
    status, kept = seen.job.status, seen.job.spec.ttl_seconds_after_finished
    if not is_finished(status):
        return None
    ended = next(
        c for c in status.conditions if c.type in ("Complete", "Failed") and c.status == "True"
    )
    reason, words = Reason(ended.reason), ended.message
    free = (effects.RemoveFinalizer(),) if seen.job.metadata.holds_finalizer else ()
    if kept is None or status.completion_time is None:
        return _stay(seen, reason, words, None, free)
    left = kept - (seen.world.now - status.completion_time).total_seconds()
    if left > 0:
        return _stay(seen, reason, words, left, free)
    return _stay(seen, reason, words, None, (*free, effects.DeleteJob()))


def _protected(seen: JobObservation) -> JobPlan | None:
    """The job's finalizer is stored before its first node."""
    if seen.job.metadata.holds_finalizer:
        return None
    words = Reason.ACCEPTED.meaning
    return _stay(seen, Reason.ACCEPTED, words, 0, (effects.AddFinalizer(),))


def _under_way(seen: JobObservation) -> JobPlan | None:
    """An attempt is recorded and not over: show how it stands."""
    job, node = seen.job, seen.node
    if job.status.node_uid is None or node is None:
        return None
    ready = next((c for c in node.status.conditions if c.type == "Ready"), None)
    reason = Reason(ready.reason) if ready else Reason.AWAITING_DRIVER
    message = ready.message if ready else ""
    if node.status.end is not None and reason is not Reason.ACCOUNT_CHANGED:
        # The reason of the end is told once, with the final figures: after the machine is gone.
        reason = Reason.RELEASING
        message = f"{node.status.end.reason}: {node.status.end.message}"
    rent, lease, run = node.status.rent, node.status.lease, node.status.run
    accrued = parse_usd(job.status.cost.spent_usd) + parse_usd(node.status.accrued_usd or "0")
    status = job.status.model_copy(
        update={
            "gpu": rent.gpu if rent else None,
            "usd_per_hour": lease.usd_per_hour if lease else None,
            "progress": run.progress if run else None,
            "usage": run.usage if run else None,
            "start_time": job.status.start_time or (run.started_at if run else None),
            "cost": job.status.cost.model_copy(
                update={"accrued_usd": format_usd(accrued), "as_of": node.status.as_of}
            ),
        }
    )
    # Taken away by hand, the Service is made again.
    missing = job.spec.ports and seen.service_owner is None
    todo = (effects.CreateService(service(job)),) if missing else ()
    return Plan(status=status, reason=reason, message=message, effects=todo)


def _record(seen: JobObservation) -> JobPlan | None:
    """A node stands under the next attempt's name: record it, so that it may rent."""
    job, node = seen.job, seen.node
    if node is None or job.status.node_uid is not None:
        return None
    if not _is_own(seen, node):
        words = f"GpuNode {node.metadata.name} of an earlier job of this name is still there"
        return _stay(seen, Reason.FORMER_NODE, words, seen.world.limits.poll_seconds)
    if seen.world.account_id is None:
        return _stay(seen, Reason.AWAITING_NODE, "the account is not known yet", 1.0)
    status = job.status.model_copy(
        update={
            "node_account_id": seen.world.account_id,
            "attempt": node.spec.attempt,
            "node_name": node.metadata.name,
            "node_uid": node.metadata.uid,
            "node_reserved_usd": node.spec.reserved_usd,
        }
    )
    words = f"attempt {node.spec.attempt} is GpuNode {node.metadata.name}"
    return Plan(status=status, reason=Reason.AWAITING_DRIVER, message=words, requeue_seconds=0)


def _suspended(seen: JobObservation) -> JobPlan | None:
    """Nothing is rented for a suspended job."""
    if not seen.job.spec.suspend:
        return None
    return _stay(seen, Reason.SUSPENDED, Reason.SUSPENDED.meaning, None)


def _spoilt(seen: JobObservation) -> JobPlan | None:
    """What the webhook refuses is refused again here: it may have been absent."""
    if not (faults := spec_faults(seen.job.spec)):
        return None
    status = seen.job.status
    words = "; ".join(str(fault) for fault in faults)[:900]
    return _over(seen, status, Reason.SPEC_INVALID, words, floor_usd(status.cost.spent_usd))


def _backing_off(seen: JobObservation) -> JobPlan | None:
    """After an attempt that did not succeed, wait, longer each time."""
    status, limits = seen.job.status, seen.world.limits
    tries = status.failures + status.disruptions
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
    return _stay(seen, Reason.RETRYING, words, left)


def _reachable(seen: JobObservation) -> JobPlan | None:
    """The Service for the job's ports is there before anything is rented."""
    job, name = seen.job, service_name(seen.job.metadata.name)
    if not job.spec.ports:
        return None
    if seen.service_owner is None:
        todo = (effects.CreateService(service(job)),)
        if seen.service_problem:
            words = f"Service {name}: {seen.service_problem}"
            return _stay(seen, Reason.SERVICE_NOT_CREATED, words, RETRY_SECONDS, todo)
        return _stay(seen, Reason.ACCEPTED, f"creating Service {name} for its ports", 0, todo)
    if seen.service_owner != job.metadata.uid:
        words = f"Service {name} is not this job's: delete it, or give the job another name"
        return _stay(seen, Reason.SERVICE_NOT_CREATED, words, RETRY_SECONDS)
    if job.status.service_name == name:
        return None
    status = job.status.model_copy(update={"service_name": name})
    words = f"Service {name} leads to its ports"
    return Plan(status=status, reason=Reason.ACCEPTED, message=words, requeue_seconds=0)


def _gate(seen: JobObservation) -> JobPlan:
    """Ask the market and the gate; only its yes makes a node."""
    job, world = seen.job, seen.world
    if world.not_ready is not None:
        why = world.not_ready
        return _stay(seen, why.reason, why.message, world.limits.poll_seconds)
    if not world.listings:
        return _stay(seen, Reason.PROVIDER_UNAVAILABLE, "no listing of machines yet", 1.0)
    if seen.quotes is None:
        plan = _stay(seen, Reason.AWAITING_OFFERS, Reason.AWAITING_OFFERS.meaning, 0)
        return replace(plan, wants_quotes=True)
    if isinstance(seen.quotes, Unavailable):
        return _stay(seen, seen.quotes.reason, seen.quotes.message, world.limits.gate_retry_seconds)
    spent = parse_usd(job.status.cost.spent_usd)
    question = world.question(
        job.spec,
        seen.quotes,
        spent_microusd=spent,
        run_seconds_used=job.status.run_seconds,
        avoided_machines=avoided_machines(job.status),
    )
    try:
        admission = judge(question)
    except CostGateError as refused:
        bound = refused.bound_microusd
        cost = job.status.cost.model_copy(
            update={
                "estimate_usd": None if bound is None else format_usd(bound),
                "confidence": None,
            }
        )
        return Plan(
            status=job.status.model_copy(update={"cost": cost}),
            reason=refused.reason,
            message=f"CostGateError: {refused.message}"[:1024],
            requeue_seconds=world.limits.gate_retry_seconds,
        )
    cost = job.status.cost.model_copy(
        update={
            "estimate_usd": format_usd(admission.bound_microusd),
            "confidence": rounded_down(admission.confidence),
        }
    )
    reserved = floor_usd(job.spec.cost.ceiling) - spent
    return Plan(
        status=job.status.model_copy(update={"cost": cost}),
        reason=Reason.ADMITTED,
        message=admission.words,
        effects=(effects.CreateNode(_node_manifest(seen, reserved)),),
        requeue_seconds=0,
    )


STAGES: tuple[Stage, ...] = (
    _settle,
    _deleted,
    _finished,
    _protected,
    _under_way,
    _record,
    _spoilt,
    _suspended,
    _backing_off,
    _reachable,
    _gate,
)


# --- Shared ---------------------------------------------------------------------------------


def _is_own(seen: JobObservation, node: GpuNode | None) -> bool:
    return node is not None and node.spec.job_ref.uid == seen.job.metadata.uid


def _stay(
    seen: JobObservation,
    reason: Reason,
    message: str,
    seconds: float | None,
    todo: tuple[effects.Effect, ...] = (),
) -> JobPlan:
    return Plan(
        status=seen.job.status,
        reason=reason,
        message=message,
        effects=todo,
        requeue_seconds=seconds,
    )


def _node_manifest(seen: JobObservation, reserved_microusd: int) -> dict[str, Any]:
    job = seen.job
    attempt = job.status.attempt + 1
    return {
        "apiVersion": API_VERSION,
        "kind": "GpuNode",
        "metadata": {
            "name": node_name(job.metadata.name, attempt),
            "namespace": job.metadata.namespace,
            "finalizers": [FINALIZER],
            "labels": {LABEL_JOB: job.metadata.name, LABEL_MANAGED_BY: MANAGER},
            "ownerReferences": [job.metadata.owner_reference("GpuJob")],
        },
        "spec": {
            "jobRef": {"name": job.metadata.name, "uid": job.metadata.uid},
            "attempt": attempt,
            "reservedUSD": format_usd(reserved_microusd),
        },
    }
