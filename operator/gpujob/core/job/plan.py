"""The life of a GpuJob, decided pass by pass: attempts one after the other until it is over.

accepted ─ gate ─ GpuNode created ─ recorded ─ … ─ released ─ charged ─┬─ next attempt
             ▲                                                         ├─ Complete
             └── refused: looked at again ◀── back-off ────────────────┴─ Failed
"""

from collections.abc import Callable
from dataclasses import replace
from math import inf
from typing import Any

from gpujob.api.gpujob import CostStatus
from gpujob.api.gpunode import GpuNode, RentMarker
from gpujob.api.meta import (
    ANNOTATION_FINISHED,
    API_VERSION,
    FINALIZER,
    LABEL_JOB,
    LABEL_MANAGED_BY,
    MANAGER,
)
from gpujob.api.reasons import Reason
from gpujob.core import effects
from gpujob.core.cost.choice import avoided_machines
from gpujob.core.cost.confidence import rounded_down
from gpujob.core.cost.gate import judge
from gpujob.core.cost.question import CostGateError
from gpujob.core.effects import Plan
from gpujob.core.job.after_attempt import charge_attempt, wait_to_retry
from gpujob.core.job.answers import JobPlan, stay
from gpujob.core.job.end import finished_as, over
from gpujob.core.job.pending import overdue_words, pending_seconds_left, with_pending
from gpujob.core.job.reserving import await_reservation, grown, refuse_unaffordable
from gpujob.core.job.strays import listed_for, owed_for, with_strays
from gpujob.core.machine.ports import service, service_name
from gpujob.core.money import floor_usd, format_usd, parse_usd
from gpujob.core.node.stage import stage_of
from gpujob.core.observation import JobObservation, Unavailable, told_last
from gpujob.core.queue import as_queued, queue_of, waits_in_queue, workload_name
from gpujob.core.refusals import seconds_to_wait, told, without_refused
from gpujob.core.rest import closes_in
from gpujob.core.spec_faults import label_faults, place_faults, spec_faults

Step = Callable[[JobObservation], JobPlan | None]

TAKEN_SECONDS = 5.0
"""Between two looks whether a name that the job needs is free."""


def plan_job(observation: JobObservation) -> JobPlan:
    """Returns what to store and do now for a GpuJob; total, and pure."""
    queued = as_queued(observation.job, kueue=observation.world.kueue)
    seen = with_pending(with_strays(replace(observation, job=queued)))
    for step in STEPS:
        if (plan := step(seen)) is not None:
            plan = _let_go_while_nothing_is_owed(seen, plan)
            plan = without_refused(plan, seen.refusals, seen.world.monotonic)
            return _no_later(plan, pending_seconds_left(seen.job, seen.world.now))
    raise AssertionError("the last step always answers")


def _no_later(plan: JobPlan, seconds: float) -> JobPlan:
    """Returns the plan with a look after so many seconds, if none comes before."""
    again = inf if plan.requeue_seconds is None else plan.requeue_seconds
    return replace(plan, requeue_seconds=seconds) if 0 < seconds < again else plan


def node_name(job_name: str, attempt: int) -> str:
    """Returns the name of an attempt's GpuNode; the index is 0 until there are indexed jobs."""
    return f"{job_name}-0-{attempt}"


def job_name_in(node_name: str) -> str:
    """Returns the name of the job whose attempt a GpuNode of this name is."""
    return node_name.rsplit("-", 2)[0]


# --- Steps ----------------------------------------------------------------------------------


def _let_go_when_deleted(seen: JobObservation) -> JobPlan | None:
    """Removes the finalizer of a deleted job, but only when no machine is leased for it."""
    job, node = seen.job, seen.node
    if not job.metadata.is_being_deleted:
        return None
    if _is_own(seen, node) and node is not None and node.status.released_at is None:
        words = f"waiting until GpuNode {node.metadata.name} has released its machine"
        return stay(seen, Reason.RELEASING, words, seen.world.limits.poll_seconds)
    if (plan := _await_strays(seen)) is not None:
        return plan
    todo = (effects.RemoveFinalizer(),) if job.metadata.holds_finalizer else ()
    return stay(seen, Reason.RELEASED, Reason.RELEASED.meaning, None, todo)


def _await_strays(seen: JobObservation) -> JobPlan | None:
    """Waits while a machine of the job is listed that no recorded attempt explains."""
    if not (found := listed_for(seen)):
        return None
    numbers = ", ".join(str(row.instance_id) for row in found[:3])
    words = f"no recorded attempt has rented instance {numbers}: it is destroyed and charged first"
    return stay(seen, Reason.RELEASING, words, seen.world.limits.poll_seconds)


def _keep_finished(seen: JobObservation) -> JobPlan | None:
    """Leaves a finished job as it is, and deletes it once ttlSecondsAfterFinished has passed.

    Once nothing is owed, the finalizer is removed at once, and with the same write the job says
    that it is over. It may have let go before, as it waited: then it says so all the same, once.
    """
    status, kept = seen.job.status, seen.job.spec.ttl_seconds_after_finished
    if (ended := finished_as(status)) is None:
        return None
    reason, words = ended
    if owed_for(status):
        return stay(seen, reason, words, seen.world.limits.poll_seconds)
    meta, world = seen.job.metadata, seen.world
    is_noted = meta.annotations.get(ANNOTATION_FINISHED) == meta.finished_as
    is_free = is_noted and not meta.holds_finalizer
    free = () if is_free else (effects.RemoveFinalizer(meta.finished_as),)
    again = closes_in(meta, status, now=world.now, limits=world.limits)
    if kept is None or status.completion_time is None:
        return stay(seen, reason, words, again, free)
    left = kept - (world.now - status.completion_time).total_seconds()
    if left > 0:
        return stay(seen, reason, words, left if again is None else min(left, again), free)
    return stay(seen, reason, words, None, (*free, effects.DeleteJob()))


def _hold_what_is_owed(seen: JobObservation) -> JobPlan | None:
    """Stores the finalizer of a job that has a node, or a machine that nobody remembers: it may
    have been let go before that came.

    A request to create the node may arrive after its sender has given it up.
    """
    is_owed = _has_node(seen) or owed_for(seen.job.status)
    if seen.job.metadata.holds_finalizer or not is_owed:
        return None
    return stay(seen, Reason.ACCEPTED, Reason.ACCEPTED.meaning, 0, (effects.AddFinalizer(),))


def _show_attempt(seen: JobObservation) -> JobPlan | None:
    """Shows in the job's status how its present attempt stands."""
    job, node = seen.job, seen.node
    if job.status.node_uid is None or node is None:
        return None
    ready = next((c for c in node.status.conditions if c.type == "Ready"), None)
    reason = Reason(ready.reason) if ready else Reason.AWAITING_DRIVER
    message = ready.message if ready else _runs_as(node)
    if reason is Reason.CREDENTIALS_REJECTED:
        # `core/conditions.py` says that of the job, too, which is in the node's phase meanwhile.
        reason, message = Reason(stage_of(node.status).phase), _runs_as(node)
    if node.status.end is not None and reason is not Reason.ACCOUNT_CHANGED:
        # The job shows the attempt's reason once, with the final cost, after the machine is gone.
        reason = Reason.RELEASING
        message = f"{node.status.end.reason}: {node.status.end.message}"
    rent, lease, run = node.status.rent, node.status.lease, node.status.run
    accrued = parse_usd(job.status.cost.spent_usd) + parse_usd(node.status.accrued_usd or "0")
    growth = grown(seen, node)
    status = job.status.model_copy(
        update={
            # The fuse follows only once what is charged for a vanished node covers it.
            "node_reserved_usd": growth.recorded_usd,
            "gpu": rent.gpu if rent and lease else None,
            "usd_per_hour": lease.usd_per_hour if lease else None,
            "progress": run.progress if run else None,
            "usage": run.usage if run else None,
            "start_time": job.status.start_time or (run.started_at if run else None),
            "cost": _estimated(job.status.cost, rent).model_copy(
                update={"accrued_usd": format_usd(accrued), "as_of": node.status.as_of}
            ),
        }
    )
    # If somebody has deleted the Service, it is created again.
    missing = job.spec.ports and seen.service_owner is None
    todo = (_make_service(seen),) if missing else ()
    return Plan(
        status=status,
        reason=reason,
        message=message,
        effects=(*todo, *growth.todo),
        requeue_seconds=growth.requeue_seconds,
        wants_budgets=growth.wants_budgets,
    )


def _end_overdue(seen: JobObservation) -> JobPlan | None:
    """Ends a job that has waited for longer than its user wants to. An attempt that is under way is
    ended first, by the passes over its node.
    """
    job = seen.job
    if pending_seconds_left(job, seen.world.now) > 0 or _is_own(seen, seen.node):
        return None
    if (plan := _await_strays(seen)) is not None:
        return plan
    spent = parse_usd(job.status.cost.spent_usd)
    return over(seen, job.status, Reason.PENDING_DEADLINE_EXCEEDED, overdue_words(job), spent)


def _record_node(seen: JobObservation) -> JobPlan | None:
    """Records the node that exists under the next attempt's name: only a recorded one may rent."""
    job, node = seen.job, seen.node
    if node is None or job.status.node_uid is not None:
        return None
    if not _is_own(seen, node):
        # It says nothing about this job: neither that it rented nor that it did not.
        return _await_former(seen, node)
    if seen.world.account_id is None:
        return stay(seen, Reason.AWAITING_NODE, "the provider account is not known yet", 1.0)
    if (waiting := await_reservation(seen, node)) is not None:
        return waiting
    status = job.status.model_copy(
        update={
            "node_account_id": seen.world.account_id,
            "attempt": node.spec.attempt,
            "node_name": node.metadata.name,
            "node_uid": node.metadata.uid,
            "node_reserved_usd": node.reserved_usd,
        }
    )
    return Plan(
        status=status, reason=Reason.AWAITING_DRIVER, message=_runs_as(node), requeue_seconds=0
    )


def _await_former(seen: JobObservation, node: GpuNode) -> JobPlan:
    """Waits for the node of a job that is gone, and deletes it once it is released: its machine was
    proved gone then, and nobody is left to be charged.
    """
    name, uid = node.metadata.name, node.metadata.uid
    is_former = node.spec.job_ref.name == seen.job.metadata.name
    if is_former and node.status.released_at is not None and node.status.end is not None:
        todo = (effects.DeleteFormerNode(name, uid),) if not node.metadata.is_being_deleted else ()
        words = f"deleting GpuNode {name} of an earlier job with this name, which is released"
        return stay(seen, Reason.FORMER_NODE, words, TAKEN_SECONDS, todo)
    ready = next((one for one in node.status.conditions if one.type == "Ready"), None)
    stands = f" ({ready.reason}: {ready.message})" if ready else ""
    words = (
        f"GpuNode {name} of an earlier job with this name has not released its machine yet{stands}"
        f"; this job goes on by itself once it has. `kubectl describe gpunode {name} -n "
        f"{node.metadata.namespace}` says what is left to do; to run at once, create the job again "
        "with another name"
    )
    return stay(seen, Reason.FORMER_NODE, words[:1024], seen.world.limits.poll_seconds)


def _stay_suspended(seen: JobObservation) -> JobPlan | None:
    """Nothing is rented for a suspended job."""
    if not seen.job.spec.suspend:
        return None
    words = Reason.SUSPENDED.meaning
    if waits_in_queue(seen.job, kueue=seen.world.kueue):
        meta = seen.job.metadata
        why = f"`kubectl describe workload {workload_name(seen.job)} -n {meta.namespace}` says why"
        words = (
            f"the job waits in the queue {queue_of(seen.job)} of Kueue, and nothing is rented for "
            f"it; {seen.queue_problem or why}"
        )[:1024]
    return stay(seen, Reason.SUSPENDED, words, None)


def _refuse_spec(seen: JobObservation) -> JobPlan | None:
    """Refuses again what the webhook refuses, because the webhook may have been absent."""
    meta = seen.job.metadata
    outside = (*place_faults(meta.namespace, seen.world.own_namespace), *label_faults(meta.labels))
    if not (faults := (*outside, *spec_faults(seen.job.spec))):
        return None
    status = seen.job.status
    words = "; ".join(str(fault) for fault in faults)[:900]
    return over(seen, status, Reason.SPEC_INVALID, words, floor_usd(status.cost.spent_usd))


def _stay_finished(seen: JobObservation) -> JobPlan | None:
    """Nothing is rented for a job that was over before a backup of it was restored: its status is
    gone, and it would run, and be paid for, again.
    """
    if not seen.job.metadata.is_copy_of_finished:
        return None
    words = (
        "this job was over before it was restored from a backup; to run it again, and pay for it "
        f"again, remove its annotation {ANNOTATION_FINISHED}"
    )
    return stay(seen, Reason.SUSPENDED, words, None)


def _create_service(seen: JobObservation) -> JobPlan | None:
    """Creates the Service for the job's ports before anything is rented."""
    job, name = seen.job, service_name(seen.job.metadata.name)
    if not job.spec.ports:
        return None
    if seen.service_owner is None:
        todo = (_make_service(seen),)
        return stay(seen, Reason.ACCEPTED, f"creating Service {name} for the job's ports", 0, todo)
    if seen.service_owner != job.metadata.uid:
        words = f"Service {name} is not this job's: delete it, or give the job another name"
        return stay(seen, Reason.SERVICE_NOT_CREATED, words, TAKEN_SECONDS)
    if job.status.service_name == name:
        return None
    status = job.status.model_copy(update={"service_name": name})
    words = f"Service {name} leads to the job's ports"
    return Plan(status=status, reason=Reason.ACCEPTED, message=words, requeue_seconds=0)


def _ask_the_gate(seen: JobObservation) -> JobPlan:
    """Asks for offers, then the cost gate; a node is created only if the gate admits the job."""
    job, world = seen.job, seen.world
    if world.not_ready is not None:
        why = world.not_ready
        return stay(seen, why.reason, why.message, world.limits.poll_seconds)
    if not world.listings:
        words = "the provider has not listed the account's machines yet"
        return stay(seen, Reason.PROVIDER_UNAVAILABLE, words, 1.0)
    # Either is what a yes of the gate leads to.
    needed = (effects.AddFinalizer, effects.CreateNode)
    refused = told(seen.refusals, needed, world.monotonic)
    if left := max(seconds_to_wait(seen.refusals, one, world.monotonic) for one in needed):
        # Each look at the market is one of few, and what it shows would be old by then.
        plan = stay(seen, Reason.ADMITTED, Reason.ADMITTED.meaning, left)
        return replace(plan, refused=refused)
    spent = parse_usd(job.status.cost.spent_usd)
    reserved = floor_usd(job.spec.cost.ceiling) - spent
    if reserved > 0 and (unaffordable := refuse_unaffordable(seen, reserved)) is not None:
        return replace(unaffordable, refused=refused)
    if seen.quotes is None:
        asking = (Reason.AWAITING_OFFERS, Reason.AWAITING_OFFERS.meaning)
        reason, words = told_last(job.status.conditions) or asking
        plan = stay(seen, reason, words, world.limits.gate_retry_seconds)
        return replace(plan, wants_quotes=True, refused=refused)
    if isinstance(seen.quotes, Unavailable):
        return stay(seen, seen.quotes.reason, seen.quotes.message, world.limits.gate_retry_seconds)
    question = world.question(
        job.spec,
        seen.quotes,
        namespace=job.metadata.namespace,
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
                "confidence_basis": None,
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
            "confidence_basis": admission.basis,
        }
    )
    # The finalizer is stored before the first node, so that no job vanishes while it costs.
    todo = (
        effects.CreateNode(_node_manifest(seen, reserved))
        if job.metadata.holds_finalizer
        else effects.AddFinalizer()
    )
    return Plan(
        status=job.status.model_copy(update={"cost": cost}),
        reason=Reason.ADMITTED,
        message=admission.words + _image_warning(seen),
        effects=(todo,),
        requeue_seconds=0,
    )


def _image_warning(seen: JobObservation) -> str:
    """Returns what another job of the namespace lately learnt of the image; nothing is refused for
    it, because the image may have been pushed since.
    """
    image, world = seen.job.spec.image, seen.world
    since = world.images.unusable_since(seen.job.metadata.namespace, image, world.now)
    if since is None:
        return ""
    minutes = round((world.now - since).total_seconds() / 60)
    ago = f"{minutes} min ago" if minutes else "just now"
    return f"; but a job with this image failed {ago} because it could not be used"


STEPS: tuple[Step, ...] = (
    charge_attempt,  # The recorded attempt is over: charge it before anything else follows.
    _let_go_when_deleted,  # The finalizer stays while a machine may be leased.
    _keep_finished,  # What is over stays over, until ttlSecondsAfterFinished deletes it.
    _hold_what_is_owed,  # A job that has a node does not vanish.
    _show_attempt,  # An attempt is under way: show how its node stands.
    _end_overdue,  # It waits, and its user does not want to wait any longer.
    _record_node,  # A node was created: record it, so that it may rent.
    _refuse_spec,  # The webhook may have been absent: refuse what it would have refused.
    _stay_suspended,  # Nothing is rented for a suspended job.
    _stay_finished,  # Nor for one that was over before a backup brought it back.
    _await_strays,  # A machine that nobody remembers: it is destroyed and charged first.
    wait_to_retry,  # Wait longer after each attempt without success.
    _create_service,  # The Service for the job's ports exists before anything is rented.
    _ask_the_gate,  # Only the gate's yes creates a node.
)


# --- Shared ---------------------------------------------------------------------------------


def _has_node(seen: JobObservation) -> bool:
    return seen.job.status.node_uid is not None or _is_own(seen, seen.node)


def _let_go_while_nothing_is_owed(seen: JobObservation, plan: JobPlan) -> JobPlan:
    """Takes the finalizer off a job that waits and owes nothing: suspended, refused, between two
    attempts. Such a job can be deleted even if the operator is no longer installed.
    """
    is_free = any(isinstance(one, effects.RemoveFinalizer) for one in plan.effects)
    goes_on = plan.requeue_seconds == 0 or is_free
    if goes_on or not seen.job.metadata.holds_finalizer:
        return plan
    if _has_node(seen) or owed_for(seen.job.status) or not seen.world.listings:
        return plan
    return replace(plan, effects=(*plan.effects, effects.RemoveFinalizer()))


def _estimated(cost: CostStatus, rent: RentMarker | None) -> CostStatus:
    """Returns the cost with an estimate of the attempt that was rented for, if the gate's words are
    not stored: whoever asked it may have ended once it had created the node.
    """
    if rent is None or cost.confidence is not None:
        return cost
    bound = parse_usd(cost.spent_usd) + parse_usd(rent.estimate_usd)
    told = {"estimate_usd": format_usd(bound), "confidence": rent.confidence}
    return cost.model_copy(update=told)


def _runs_as(node: GpuNode) -> str:
    return f"attempt {node.spec.attempt} runs as GpuNode {node.metadata.name}"


def _is_own(seen: JobObservation, node: GpuNode | None) -> bool:
    return node is not None and node.spec.job_ref.uid == seen.job.metadata.uid


def _make_service(seen: JobObservation) -> effects.CreateService:
    labels = seen.world.copied_labels(seen.job.metadata)
    return effects.CreateService(service(seen.job, labels))


def _node_manifest(seen: JobObservation, reserved_microusd: int) -> dict[str, Any]:
    job = seen.job
    # Numbers only grow: under a name that was used before, a machine may have been rented.
    attempt = job.status.attempt + 1
    return {
        "apiVersion": API_VERSION,
        "kind": "GpuNode",
        "metadata": {
            "name": node_name(job.metadata.name, attempt),
            "namespace": job.metadata.namespace,
            # From birth, so that no node vanishes before its machine is proved gone.
            "finalizers": [FINALIZER],
            "labels": {
                **seen.world.copied_labels(job.metadata),
                LABEL_JOB: job.metadata.name,
                LABEL_MANAGED_BY: MANAGER,
            },
            "ownerReferences": [job.metadata.owner_reference("GpuJob")],
        },
        "spec": {
            "jobRef": {"name": job.metadata.name, "uid": job.metadata.uid},
            "attempt": attempt,
            "reservedUSD": format_usd(reserved_microusd),
        },
    }
