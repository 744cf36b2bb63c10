"""The attempt is over: its machine is destroyed and proved gone, then the object may go."""

from dataclasses import replace
from datetime import datetime

from gpujob.api.gpunode import EndStatus, GpuNode, GpuNodeStatus, LeaseStatus
from gpujob.api.reasons import Blame, Reason
from gpujob.core import effects
from gpujob.core.effects import Plan
from gpujob.core.market.hosts import Trial
from gpujob.core.market.images import Found, ImageTrial
from gpujob.core.market.outbids import Stay, percent_of
from gpujob.core.money import format_usd, parse_usd
from gpujob.core.node.answers import NodePlan, account_doubt, end, follow
from gpujob.core.node.charge import charge_microusd, unpaid_seconds
from gpujob.core.node.facts import (
    end_message,
    gone_at,
    image_trial,
    is_anothers_number,
    is_unbooted,
    marked_leases,
    own_lease,
    paid_seconds,
)
from gpujob.core.node.pauses import pauses_shown
from gpujob.core.node.punctuality import destroy_record
from gpujob.core.node.rent import answered, may_have_ended, proof_starts, record_lease
from gpujob.core.node.stage import Stage
from gpujob.core.node.traffic import traffic_shown, with_traffic
from gpujob.core.node.upkeep import with_figures
from gpujob.core.observation import NodeObservation, RentAccepted
from gpujob.core.rest import closes_in


def let_go(seen: NodeObservation) -> NodePlan | None:
    """Removes the finalizer of a released node, and deletes it when its retention has passed.

    Before that its cost is stored in each budget that holds it: what has vanished is charged in
    full. One that cannot be read is not waited for, since it settles what it held by the job.
    """
    status, limits = seen.node.status, seen.world.limits
    if seen.stage is not Stage.RELEASED or status.released_at is None:
        return None
    todo: list[effects.Effect] = []
    age = (seen.world.now - status.released_at).total_seconds()
    pod = seen.pod
    runs = pod is not None and (pod.phase in ("Pending", "Running") or pod.is_outlived)
    lingers = pod is not None and runs and not pod.is_being_deleted
    if pod is not None and lingers and age >= limits.driver_exit_seconds:
        todo.append(effects.DeleteDriver(pod.name, pod.uid))
    settled, holds = _is_settled(seen), seen.node.metadata.holds_finalizer
    wants_budgets = holds and seen.budgets is None
    is_held = any(
        book.ledger is not None and seen.node.metadata.uid in book.ledger.held
        for book in seen.budgets or ()
    )
    if is_held:
        todo.append(follow(seen.node))
    if holds and settled and not is_held and not wants_budgets:
        if (trial := _trial(seen)) is not None:
            todo.append(effects.RememberMachine(trial))
        if (stay := stay_of(seen.node)) is not None:
            todo.append(effects.RememberStay(stay))
        if (failed := _image_trial(seen)) is not None:
            todo.append(effects.RememberImage(failed))
        if (record := destroy_record(seen.node, limits)) is not None:
            todo.append(effects.RememberDestroy(record))
        todo.append(effects.RemoveFinalizer())
    # It keeps the books of its job, which may have been deleted without it: --cascade=orphan. Under
    # its name nothing could be rented for another job of that name.
    kept = limits.node_retention_seconds if _has_job(seen) else 0
    if age >= kept and not seen.node.metadata.is_being_deleted:
        todo.append(effects.DeleteNode())
    again = [limits.node_retention_seconds]
    left = closes_in(seen.node.metadata, status, now=seen.world.now, limits=limits)
    again += [] if left is None else [left]
    if is_held:
        again_seconds = 0.0
    elif lingers or not settled:
        again_seconds = limits.driver_exit_seconds
    elif wants_budgets:
        # If they cannot be read now: it cannot be closed before that, however long it is over.
        again_seconds = max(min(again), 1.0)
    else:
        again_seconds = min(again)
    return Plan(
        status=status,
        reason=Reason.RELEASED,
        message=end_message(status),
        effects=tuple(todo),
        requeue_seconds=again_seconds,
        wants_budgets=wants_budgets,
    )


def _trial(seen: NodeObservation) -> Trial | None:
    """Returns what the attempt showed about its machine; None = nothing."""
    status = seen.node.status
    if status.rent is None or status.lease is None or status.end is None:
        return None
    failed = _blamed(status.end) is Blame.HOST
    if not failed and status.run is None:
        # An attempt that never ran shows nothing, unless it was the host that failed.
        return None
    return Trial(
        machine_id=status.rent.machine_id,
        host_id=status.rent.host_id,
        namespace=seen.node.metadata.namespace,
        node_uid=seen.node.metadata.uid,
        at=status.released_at or seen.world.now,
        failed=failed,
        reason=status.end.reason,
    )


def stay_of(node: GpuNode) -> Stay | None:
    """Returns how often somebody bid more than we did for an attempt's machine, and in how long;
    None = it was not bid for, or nobody knows what the lowest bid was.
    """
    status = node.status
    rent, lease, over, past = status.rent, status.lease, status.end, status.interruptions
    if rent is None or lease is None or over is None:
        return None
    if rent.bid_usd_per_hour is None or rent.lowest_bid_usd_per_hour is None:
        return None
    outbids = past.count - past.restarts if past else 0
    if over.reason == Reason.OUTBID and not status.is_paused:
        # While it booted, or between two listings: that is no interruption of a run.
        outbids += 1
    paused = status.pauses.seconds if status.pauses else 0
    ours = (over.at - rent.requested_at).total_seconds() - paused
    bid, lowest = parse_usd(rent.bid_usd_per_hour), parse_usd(rent.lowest_bid_usd_per_hour)
    return Stay(
        node_uid=node.metadata.uid,
        gpu_model=rent.gpu.partition("x ")[2],
        percent=percent_of(bid / max(lowest, 1)),
        hours=max(ours, 0.0) / 3600,
        outbids=outbids,
        at=status.released_at or over.at,
    )


def _image_trial(seen: NodeObservation) -> ImageTrial | None:
    """Returns that the image did not come up; None = it did, or something else was the cause."""
    told, job = seen.node.status.end, seen.job
    if told is None or job is None or seen.node.status.machine is not None:
        return None
    if told.reason == Reason.IMAGE_UNUSABLE:
        return image_trial(seen, job.spec.image, Found.UNUSABLE)
    if is_unbooted(told.reason, told.blames):
        return image_trial(seen, job.spec.image, Found.UNBOOTED)
    return None


def _blamed(told: EndStatus) -> Blame:
    """Returns whom a stored end blames; a version that did not store that went by its reason."""
    return Blame(told.blames) if told.blames else Reason(told.reason).kind.blames


def _is_settled(seen: NodeObservation) -> bool:
    """Whether the job has charged the cost of this attempt, or no job is left to do so.

    A node that disappeared earlier would be charged like a vanished one, in full.
    """
    if seen.job is None or not _has_job(seen):
        return not seen.job_problem
    return seen.job.status.node_uid != seen.node.metadata.uid


def _has_job(seen: NodeObservation) -> bool:
    """Whether the job is there, readable or not, for which the node was created."""
    same = seen.job is not None and seen.job.metadata.uid == seen.node.spec.job_ref.uid
    return same or bool(seen.job_problem)


def give_back(seen: NodeObservation) -> NodePlan | None:
    """Destroys the machine of an ended attempt until the machine is proved gone."""
    status, world = seen.node.status, seen.world
    if status.end is None or status.released_at is not None:
        return None
    if not seen.stage.may_hold_machine:
        return _release(seen, 0, ())
    if seen.stage is Stage.ENDED_UNKNOWN and (answer := answered(seen)) is not None:
        return answer
    if (doubt := account_doubt(seen)) is not None:
        return doubt
    waits_from = proof_starts(seen)
    if waits_from is not None and gone_at(seen, after=waits_from) is not None:
        if not _had_machine(status):
            return _release(seen, _unseen_cost(seen), ())
        learnt: list[effects.Effect] = []
        if Reason(status.end.reason).kind.is_misfit and status.rent is not None:
            paid = paid_seconds(seen) - unpaid_seconds(seen)
            learnt.append(effects.RecordUnfit(Reason(status.end.reason), paid))
        # What was told of the cost is never taken back.
        cost = max(charge_microusd(seen), parse_usd(status.accrued_usd or "0"))
        return _release(seen, cost, tuple(learnt))
    if status.lease is None and (found := marked_leases(seen)):
        # The machine appears only now. It must be charged, so it is recorded before its destroy.
        return record_lease(seen, found[0])
    # The provider's answer to a destroy proves nothing, so the machine counts as leased until then.
    targets = _to_destroy(seen)
    # The time from then on may not be charged, and no figure that is shown goes down.
    told = with_traffic(seen) if _is_unlisted(seen) else with_figures(seen)
    if told != status:
        told = told.model_copy(update={"destroy_asked_at": _asked_at(seen)})
    return Plan(
        status=told,
        reason=Reason.RELEASING,
        message=f"{end_message(status)}; waiting for the proof that the machine is gone",
        effects=(effects.Destroy(tuple(sorted(targets))),) if targets else (),
        requeue_seconds=world.limits.poll_seconds,
    )


def _unseen_cost(seen: NodeObservation) -> int:
    """Returns the most micro-USD that a machine has cost which no listing ever showed."""
    rent = seen.node.status.rent
    if rent is None or not may_have_ended(seen):
        return 0
    return min(charge_microusd(seen), parse_usd(rent.fuse_usd))


def _had_machine(status: GpuNodeStatus) -> bool:
    """Whether the status shows that there was a machine, even where it contradicts itself."""
    shown = (status.lease, status.machine, status.measured, status.run, status.interruptions)
    return any(one is not None for one in shown)


def end_if_contradictory(seen: NodeObservation) -> NodePlan | None:
    """Ends an attempt whose stored status contradicts itself: no pass of ours can have stored it.

    Nothing more is rented or started for it. If it claims to be released, that is taken back,
    because its machine has yet to be proved gone and charged.
    """
    stage = seen.stage
    if not stage.is_contradiction:
        return None
    plan = end(seen, Reason.STATUS_CONTRADICTORY, f"{stage}: {stage.meaning}")
    return replace(plan, status=plan.status.model_copy(update={"released_at": None}))


def _to_destroy(seen: NodeObservation) -> set[int]:
    """Returns the machines to destroy now: first the recorded one, then whatever is still listed.

    Only a listing that was requested after the last destroy shows whether it must be repeated. It
    is repeated unseen, too, once no listing has shown anything for as long as all destroys may
    take.
    """
    lease, last, world = seen.node.status.lease, seen.memory.destroy_repeated_at, seen.world
    shown = {row.instance_id for row in marked_leases(seen)}
    unseen = not world.listings or (last is not None and world.listings[-1].requested_at <= last)
    patience = world.limits.destroy_lag_seconds(world.leased.others)
    if last is None or (unseen and world.monotonic - last >= patience):
        return shown | ({lease.instance_id} if lease and _is_ours(seen, lease) else set())
    if unseen:
        return set()
    own = own_lease(seen)
    return shown | ({own.instance_id} if own else set())


def _is_ours(seen: NodeObservation, lease: LeaseStatus) -> bool:
    """Whether this process rented the recorded machine, or no listing shows it as another's.

    Without any listing nobody has looked at its mark.
    """
    if seen.memory.rent == RentAccepted(lease.instance_id):
        return True
    return bool(seen.world.listings) and not is_anothers_number(seen)


def _is_unlisted(seen: NodeObservation) -> bool:
    """Whether the latest listing after the first destroy shows no machine of this node any more."""
    sent, listings = seen.memory.destroy_sent_at, seen.world.listings
    since = sent is not None and bool(listings) and listings[-1].requested_at >= sent
    return since and own_lease(seen) is None and not marked_leases(seen)


def _asked_at(seen: NodeObservation) -> datetime | None:
    """Returns when the machine's destroy was first asked for.

    It is stored once it is true, with what is stored anyway: no later than with the release, before
    which it is no evidence. A process that ends meanwhile takes it along. Its successor asks again
    and stores that later time, so the evidence errs against us.
    """
    return seen.node.status.destroy_asked_at or seen.memory.destroy_asked_at


def _release(
    seen: NodeObservation, cost_microusd: int, learnt: tuple[effects.Effect, ...]
) -> NodePlan:
    now = seen.world.now
    status = seen.node.status.model_copy(
        update={
            "released_at": now,
            "destroy_asked_at": _asked_at(seen),
            "accrued_usd": format_usd(cost_microusd),
            "as_of": now,
            "traffic": traffic_shown(seen),
            "pauses": pauses_shown(seen),
        }
    )
    return Plan(
        status=status,
        reason=Reason.RELEASED,
        message=end_message(status),
        effects=learnt,
        requeue_seconds=0,
    )
