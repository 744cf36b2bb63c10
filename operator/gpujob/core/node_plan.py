"""The life of one rented machine, decided pass by pass.

    key ─ driver pod ─ driver reports ─ quote, gate ─ MARKER ─ rent ─ lease ─ host key ─ running
                                                                                  │
    released ◀─ proved gone ◀─ destroy ◀─ END stored ◀─ outcome, deadline, fuse, lost, deleted

Stages are asked in the order of `STAGES`; the first that answers decides. The order is meaning: an
end that is stored is never reconsidered; the user's wish beats an outcome; an outcome beats the
deadline; money beats patience.
"""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from fractions import Fraction
from math import ceil

from gpujob.api.gpunode import (
    DriverStatus,
    EndStatus,
    GpuNodeStatus,
    InterruptionStatus,
    LeaseStatus,
    MachineStatus,
    RentAnswer,
    RentMarker,
    RunStatus,
)
from gpujob.api.reasons import Reason
from gpujob.core import plan as effects
from gpujob.core.cost.gate import (
    Admission,
    CostGateError,
    Question,
    avoided_machines,
    judge,
    rounded_down,
)
from gpujob.core.driver_pod import driver_pod
from gpujob.core.hosts import FAILURES, Trial
from gpujob.core.market import Lease, leases_of, proves_absence
from gpujob.core.money import format_usd, micro_up, over_time, parse_usd, short_usd
from gpujob.core.observation import (
    NodeObservation,
    RentAccepted,
    RentRefused,
    Unavailable,
)
from gpujob.core.patience import silence_seconds
from gpujob.core.plan import Plan
from gpujob.core.start_script import start_script

NodePlan = Plan[GpuNodeStatus]
Stage = Callable[[NodeObservation], NodePlan | None]

STOPPED_STATUSES = ("exited", "stopped", "unknown")
UNREPEATED_STATUSES = 3
"""One `exited`, `stopped` or `unknown` may be a flicker; three listings in a row are not
(provider facts, actual_status)."""

BIRTH_GRACE = timedelta(seconds=30)
"""A machine born later than this after `rentNotAfter` came from a request sent too late."""

PRICE_TOLERANCE = Fraction(1001, 1000)


def plan_node(observation: NodeObservation) -> NodePlan:
    """Returns what to store and do now for a GpuNode; total, and pure."""
    for stage in STAGES:
        if (plan := stage(observation)) is not None:
            return plan
    return _wait(observation, Reason.RUNNING, _running_message(observation), 5.0)


# --- Over -----------------------------------------------------------------------------------


def _released(seen: NodeObservation) -> NodePlan | None:
    """Nothing is owed: let the object go, and delete it once it was kept long enough."""
    status, limits = seen.node.status, seen.world.limits
    if status.released_at is None:
        return None
    todo: list[effects.Effect] = []
    age = (seen.world.now - status.released_at).total_seconds()
    pod = seen.pod
    lingers = pod is not None and pod.phase in ("Pending", "Running") and not pod.is_being_deleted
    if pod is not None and lingers and age >= limits.driver_exit_seconds:
        todo.append(effects.DeleteDriver(pod.name, pod.uid))
    settled = _is_settled(seen)
    if seen.node.metadata.holds_finalizer and settled:
        if (trial := _trial(seen)) is not None:
            todo.append(effects.RememberMachine(trial))
        todo.append(effects.RemoveFinalizer())
    if age >= limits.node_retention_seconds and not seen.node.metadata.is_being_deleted:
        todo.append(effects.DeleteNode())
    return Plan(
        status=status,
        reason=Reason.RELEASED,
        message=_end_message(status),
        effects=tuple(todo),
        requeue_seconds=(
            limits.driver_exit_seconds if lingers or not settled else limits.node_retention_seconds
        ),
    )


def _trial(seen: NodeObservation) -> Trial | None:
    """What the attempt showed of its machine; None = nothing."""
    status = seen.node.status
    if status.rent is None or status.lease is None or status.end is None:
        return None
    failed = Reason(status.end.reason) in FAILURES
    if not failed and status.run is None:
        return None
    return Trial(
        machine_id=status.rent.machine_id,
        host_id=status.rent.host_id,
        node_uid=seen.node.metadata.uid,
        at=status.released_at or seen.world.now,
        failed=failed,
        reason=status.end.reason,
    )


def _is_settled(seen: NodeObservation) -> bool:
    """Whether the job has taken the cost of this attempt over, or there is no job to do so.

    A node that went earlier would be charged as one that vanished: in full.
    """
    job, node = seen.job, seen.node
    if job is None or job.metadata.uid != node.spec.job_ref.uid:
        return True
    return job.status.node_uid != node.metadata.uid


def _giving_back(seen: NodeObservation) -> NodePlan | None:
    """The attempt is over: destroy what is listed until the account is proved to be without it."""
    status, world = seen.node.status, seen.world
    if status.end is None:
        return None
    if status.rent is None or status.not_rented is not None:
        return _release(seen, 0, ())
    if status.lease is None and (answer := _answered(seen)) is not None:
        return answer
    if (doubt := _account_doubt(seen)) is not None:
        return doubt
    waits_from = _proof_starts(seen)
    gone = waits_from is not None and proves_absence(
        world.listings,
        after=waits_from,
        poll_seconds=world.limits.poll_seconds,
        mark=seen.mark,
        instance_id=status.lease.instance_id if status.lease else None,
        account_id=status.rent.account_id,
    )
    if gone:
        was_leased = status.lease is not None
        seconds = (world.now - status.end.at).total_seconds()
        learnt = (effects.RecordDestroy(seconds),) if was_leased else ()
        return _release(seen, _accrued(seen) if was_leased else 0, learnt)
    if status.lease is None and (found := _listed(seen)):
        # It appears only now: it has to be charged, so it is recorded before it goes.
        return _record_lease(seen, found[0])
    targets = _to_destroy(seen)
    return Plan(
        status=_with_accrued(seen),
        reason=Reason.RELEASING,
        message=f"{_end_message(status)}; waiting for the proof that the machine is gone",
        effects=(effects.Destroy(tuple(sorted(targets))),) if targets else (),
        requeue_seconds=world.limits.poll_seconds,
    )


def _to_destroy(seen: NodeObservation) -> set[int]:
    """What is to be destroyed now: the recorded machine first, then whatever is still listed.

    Only a listing that was asked for after the last request says that another one is needed.
    """
    lease, last = seen.node.status.lease, seen.memory.destroy_repeated_at
    if last is None:
        return {row.instance_id for row in _listed(seen)} | (
            {lease.instance_id} if lease else set()
        )
    if not seen.world.listings or seen.world.listings[-1].requested_at <= last:
        return set()
    shown = {row.instance_id for row in _listed(seen)}
    own = _own_lease(seen)
    return shown | ({own.instance_id} if own else set())


def _proof_starts(seen: NodeObservation) -> float | None:
    """Monotonic time from which listings count as proof; None = nothing was sent yet."""
    limits, memory = seen.world.limits, seen.memory
    if seen.node.status.lease is not None:
        sent = memory.destroy_sent_at
        return None if sent is None else sent + limits.list_lag_seconds
    marker = memory.marker_seen_at
    return None if marker is None else marker + limits.not_rented_wait_seconds


def _release(
    seen: NodeObservation, cost_microusd: int, learnt: tuple[effects.Effect, ...]
) -> NodePlan:
    now = seen.world.now
    status = seen.node.status.model_copy(
        update={"released_at": now, "accrued_usd": format_usd(cost_microusd), "as_of": now}
    )
    return Plan(
        status=status,
        reason=Reason.RELEASED,
        message=_end_message(status),
        effects=learnt,
        requeue_seconds=0,
    )


# --- Reasons to end -------------------------------------------------------------------------


def _unwanted(seen: NodeObservation) -> NodePlan | None:
    """Nobody wants the machine any more."""
    job, node = seen.job, seen.node
    if job is None or job.metadata.uid != node.spec.job_ref.uid or job.metadata.is_being_deleted:
        return _end(seen, Reason.JOB_DELETED, "the GpuJob was deleted")
    if node.metadata.is_being_deleted:
        return _end(seen, Reason.NODE_DELETED, "the GpuNode was deleted")
    if job.status.attempt > node.spec.attempt:
        return _end(seen, Reason.NODE_DELETED, "the job has gone on to another attempt")
    if job.spec.suspend:
        return _end(seen, Reason.SUSPENDED, "spec.suspend was set")
    return None


def _finished(seen: NodeObservation) -> NodePlan | None:
    """The workload or its machine came to an end by the driver's word."""
    if seen.node.status.machine is None:
        return None
    outcome = (seen.report.outcome if seen.report else None) or (
        seen.pod.outcome if seen.pod else None
    )
    if outcome is not None:
        run = seen.node.status.run
        longest = (seen.world.now - run.started_at).total_seconds() if run else outcome.run_seconds
        seconds = min(outcome.run_seconds, max(longest, 0.0))
        # What ran before a pause is counted by it.
        counted = None if seen.node.status.is_paused else seconds
        if outcome.was_killed and seen.node.status.rent and seen.node.status.rent.bid_usd_per_hour:
            # Taken away and given back between two looks: nobody's fault, and nothing to wait for.
            words = "the machine was taken away, and is back without the workload"
            return _end(seen, Reason.OUTBID, words, run_seconds=counted)
        if outcome.exit_code == 0:
            reason, words = Reason.COMPLETED, "the workload ended with exit code 0"
        else:
            reason = Reason.WORKLOAD_FAILED
            words = f"the workload ended with exit code {outcome.exit_code}"
        return _end(seen, reason, words, exit_code=outcome.exit_code, run_seconds=counted)
    fault = seen.report.fault if seen.report else None
    if fault is not None:
        return _end(seen, Reason(fault.value), (seen.report.message if seen.report else ""))
    return None


def _money(seen: NodeObservation) -> NodePlan | None:
    """Another second could cross what was allowed."""
    status, world, job = seen.node.status, seen.world, seen.job
    rent = status.rent
    if rent is None or job is None or status.not_rented is not None:
        return None
    elapsed = (world.now - rent.requested_at).total_seconds()
    if elapsed >= rent.money_deadline_seconds:
        return _end(
            seen,
            Reason.BUDGET_EXHAUSTED,
            f"{elapsed:.0f} s after the rent request the fuse of ${rent.fuse_usd} leaves no time",
        )
    deadline = job.spec.active_deadline_seconds
    if status.run is not None and deadline is not None and _ran_seconds(seen) >= deadline:
        return _end(
            seen,
            Reason.DEADLINE_EXCEEDED,
            f"the workload ran for activeDeadlineSeconds ({deadline} s)",
        )
    lease = _own_lease(seen)
    if lease is None:
        return None
    data = job.spec.data
    if lease.download_gb > data.max_download_gb or lease.upload_gb > data.max_upload_gb:
        return _end(
            seen,
            Reason.TRAFFIC_EXCEEDED,
            f"{float(lease.download_gb):.1f} GB down and {float(lease.upload_gb):.1f} GB up passed "
            f"the caps of {data.max_download_gb} and {data.max_upload_gb} GB",
        )
    quoted = Fraction(rent.gpu_usd_per_hour) + Fraction(rent.disk_usd_per_hour)
    if lease.usd_per_hour > quoted * PRICE_TOLERANCE:
        return _end(
            seen,
            Reason.PRICE_CHANGED,
            f"the machine costs {float(lease.usd_per_hour):.4f} $/h, quoted was "
            f"{float(quoted):.4f}",
        )
    return None


def _lost(seen: NodeObservation) -> NodePlan | None:
    """The machine or its driver is gone for good, or was never any use."""
    status, world, limits = seen.node.status, seen.world, seen.world.limits
    if status.lease is None or status.rent is None:
        return None
    lease = _own_lease(seen)
    if status.machine is None and lease is not None and lease.started_at is not None:
        late = lease.started_at - status.rent.not_after
        if late > BIRTH_GRACE:
            return _end(
                seen,
                Reason.RENT_LATE,
                f"the machine was born {late.total_seconds():.0f} s too late",
            )
    if lease is not None and lease.status == "offline":
        return _end(seen, Reason.HOST_LOST, "the provider lost the machine: offline")
    stands_still = _stands_still(seen)
    if stands_still and world.not_ready and world.not_ready.reason is Reason.CREDIT_EXHAUSTED:
        # Without credit the provider stops what runs (provider facts, billing).
        return _end(seen, Reason.CREDIT_EXHAUSTED, world.not_ready.message)
    waits = stands_still and status.rent.bid_usd_per_hour is not None
    if not waits and _is_repeated(seen, lambda row: row.status in STOPPED_STATUSES):
        shown = lease.status if lease else ""
        return _end(seen, Reason.HOST_LOST, f"the provider says {shown} again and again")
    seen_at = seen.memory.marker_seen_at
    if seen_at is not None and proves_absence(
        world.listings,
        after=seen_at + limits.list_lag_seconds,
        poll_seconds=limits.poll_seconds,
        mark=seen.mark,
        instance_id=status.lease.instance_id,
        account_id=status.rent.account_id,
    ):
        return _end(seen, Reason.LEASE_VANISHED, "the provider lists the machine no longer")
    booted = status.run is not None or status.is_paused
    if not booted and _booting_seconds(seen) >= limits.boot_cap_seconds:
        if status.machine is None and lease is not None and lease.status == "running":
            return _end(
                seen, Reason.HOST_KEY_UNAVAILABLE, "the machine's log did not show its host key"
            )
        words = f"the workload did not start within {limits.boot_cap_seconds:.0f} s"
        return _end(seen, Reason.BOOT_TIMEOUT, words)
    silence = seen.report.machine_contact_age_seconds if seen.report else None
    patience = silence_seconds(
        limits,
        paid_seconds=(world.now - status.rent.requested_at).total_seconds(),
        says_running=lease is not None and lease.status == "running",
    )
    if silence is not None and not status.is_paused and silence >= patience:
        return _end(seen, Reason.HOST_LOST, f"the machine has not answered for {silence:.0f} s")
    return None


def _interrupted(seen: NodeObservation) -> NodePlan | None:
    """An interruptible machine that was taken away is waited for, and used again if it is back."""
    status, now, limits = seen.node.status, seen.world.now, seen.world.limits
    if status.rent is None or status.rent.bid_usd_per_hour is None or status.lease is None:
        return None
    lease, past = _own_lease(seen), status.interruptions
    if past is None or past.paused_at is None:
        if not _stands_still(seen):
            return None
        if status.machine is None:
            return _end(seen, Reason.OUTBID, "somebody bid more before the machine had booted")
        ran = (now - status.run.started_at).total_seconds() if status.run else 0.0
        paused = InterruptionStatus(
            count=status.run_number + 1,
            paused_at=now,
            run_seconds=status.earlier_run_seconds + ceil(max(ran, 0.0)),
        )
        status = status.model_copy(update={"run": None, "interruptions": paused})
        return _progress(seen, status, Reason.PAUSED, Reason.PAUSED.meaning)
    if lease is not None and lease.intended_status == "running" and _can_be_reached(lease):
        assert status.machine is not None, "it had booted before it was taken away"
        # Its disk has the host key that was pinned: no other one is believed.
        place = {"host": lease.ssh_host, "port": lease.ssh_port}
        machine = status.machine.model_copy(update=place)
        back = past.model_copy(update={"paused_at": None, "resumed_at": now})
        status = status.model_copy(update={"machine": machine, "interruptions": back})
        return _progress(seen, status, Reason.CONNECTING, "the machine is back")
    left = limits.outbid_patience_seconds - (now - past.paused_at).total_seconds()
    if left <= 0:
        words = f"the machine stood still for {limits.outbid_patience_seconds:.0f} s"
        return _end(seen, Reason.OUTBID, words)
    return _wait(seen, Reason.PAUSED, Reason.PAUSED.meaning, left)


# --- The driver pod -------------------------------------------------------------------------


def _key(seen: NodeObservation) -> NodePlan | None:
    """The node's own SSH key comes first: the pod mounts it, the machine trusts it."""
    if seen.node.status.ssh_public_key is not None:
        return None
    if (key := seen.memory.public_key) is not None:
        status = seen.node.status.model_copy(update={"ssh_public_key": key})
        return _progress(seen, status, Reason.AWAITING_DRIVER, "the SSH key was made")
    return _wait(seen, Reason.AWAITING_DRIVER, "making the SSH key", 1.0, (effects.CreateKey(),))


def _driver(seen: NodeObservation) -> NodePlan | None:
    """A driver must run and report before anything is rented; a lost one is replaced."""
    status, world, limits, pod = seen.node.status, seen.world, seen.world.limits, seen.pod
    driver = status.driver
    patience = limits.driver_replacement_seconds if status.rent else limits.driver_pending_seconds
    if pod is None:
        missing = seen.memory.pod_missing_since
        if missing is not None and world.monotonic - missing >= patience:
            words = f"no driver pod could be created for {patience:.0f} s"
            return _driver_ended(seen, words + _because(seen.memory.pod_problem))
        manifest = driver_pod(seen)
        words = "creating the driver pod" + _because(seen.memory.pod_problem)
        return _wait(seen, Reason.AWAITING_DRIVER, words, 5.0, (effects.CreateDriver(manifest),))
    if pod.phase in ("Succeeded", "Failed") and not pod.is_being_deleted:
        todo = (effects.DeleteDriver(pod.name, pod.uid),)
        words = "the driver pod ended without an outcome; replacing it"
        return _wait(seen, Reason.AWAITING_DRIVER, words, 2.0, todo)
    if driver is None or driver.pod_uid != pod.uid:
        recorded = DriverStatus(pod_name=pod.name, pod_uid=pod.uid)
        status = status.model_copy(update={"driver": recorded})
        return _progress(seen, status, Reason.AWAITING_DRIVER, f"driver pod {pod.name} was created")
    if seen.report is not None:
        if driver.ready_at is None:
            ready = driver.model_copy(update={"ready_at": world.now})
            status = status.model_copy(update={"driver": ready})
            return _progress(seen, status, Reason.AWAITING_QUOTE, "the driver is running")
        return None
    if driver.ready_at is None:
        waited = (world.now - pod.created_at).total_seconds()
        detail = _because(pod.waiting)
        if waited >= patience:
            return _driver_ended(
                seen, f"the driver pod did not report within {patience:.0f} s{detail}"
            )
        words = f"the driver pod is {pod.phase}{detail}"
        return None if status.rent else _wait(seen, Reason.AWAITING_DRIVER, words, 5.0)
    # It reported to an earlier process of ours, and will to this one within seconds.
    return None if status.rent else _wait(seen, Reason.AWAITING_DRIVER, "awaiting its report", 5.0)


def _driver_ended(seen: NodeObservation, words: str) -> NodePlan:
    rented = seen.node.status.rent is not None
    return _end(seen, Reason.DRIVER_LOST if rented else Reason.DRIVER_NOT_STARTED, words)


# --- Renting --------------------------------------------------------------------------------


def _rent(seen: NodeObservation) -> NodePlan | None:
    """Gate again on a fresh quote, store the marker, and only then send the one request."""
    status, world, job = seen.node.status, seen.world, seen.job
    if status.rent is not None:
        return None
    assert job is not None, "a node without a job ends before"
    if job.status.node_uid != seen.node.metadata.uid:
        return _wait(seen, Reason.AWAITING_NODE, "the job has not recorded this node yet", 1.0)
    if world.not_ready is not None:
        why = world.not_ready
        return _wait(seen, why.reason, why.message, world.limits.poll_seconds)
    if world.account_id is None or not world.listings:
        return _wait(seen, Reason.PROVIDER_UNAVAILABLE, "the account is not known yet", 2.0)
    if job.status.node_account_id != world.account_id:
        # The job would look for the machine on the account that it was told.
        words = f"the key is now of account {world.account_id}; nothing was rented"
        return _end(seen, Reason.ACCOUNT_CHANGED, words)
    if seen.quotes is None:
        return replace(
            _wait(seen, Reason.AWAITING_QUOTE, "asking for prices", 1.0), wants_quotes=True
        )
    if isinstance(seen.quotes, Unavailable):
        return _wait(seen, seen.quotes.reason, seen.quotes.message, world.limits.gate_retry_seconds)
    reserved = parse_usd(seen.node.spec.reserved_usd)
    try:
        admission = judge(
            Question(
                now=world.now,
                limits=world.limits,
                spec=job.spec,
                spent_microusd=parse_usd(job.status.cost.spent_usd),
                run_seconds_used=job.status.run_seconds,
                quotes=seen.quotes,
                leases=world.leases,
                leased_usd_per_hour=world.leased_usd_per_hour,
                destroys=world.destroys,
                avoided_machines=avoided_machines(job.status),
                hosts=world.hosts,
                reserved_microusd=reserved,
            )
        )
    except CostGateError as refused:
        return _wait(seen, refused.reason, refused.message, world.limits.gate_retry_seconds)
    marker = _marker(seen, admission, world.account_id)
    bid = admission.offer.gpu_usd_per_hour if marker.bid_usd_per_hour else None
    status = status.model_copy(update={"rent": marker})
    request = effects.Rent(
        offer_id=admission.offer.offer_id,
        image=job.spec.image,
        disk_gb=job.spec.resources.disk_gb,
        bid_usd_per_hour=bid,
        mark=str(seen.mark),
        start_script=start_script(
            ssh_public_key=status.ssh_public_key or "",
            nonce=marker.nonce,
            provider_url=world.provider_url,
            born_before=marker.not_after + BIRTH_GRACE,
            money_deadline_seconds=marker.money_deadline_seconds,
            heartbeat_stale_seconds=int(world.limits.heartbeat_stale_seconds),
        ),
        not_after=marker.not_after,
    )
    bound = short_usd(admission.estimate.total_microusd)
    words = f"asking for {marker.gpu} in {marker.location}, bounded by {bound}"
    return Plan(
        status=status,
        reason=Reason.RENT_REQUESTED,
        message=words,
        effects=(request,),
        requeue_seconds=0,
    )


def _marker(seen: NodeObservation, admission: Admission, account_id: int) -> RentMarker:
    now, offer, job = seen.world.now, admission.offer, seen.job
    assert job is not None, "judged with its spec"
    disk = offer.disk_usd_per_hour(job.spec.resources.disk_gb)
    is_bid = job.spec.market.type == "Interruptible"
    return RentMarker(
        requested_at=now,
        not_after=now + timedelta(seconds=seen.world.limits.rent_not_after_seconds),
        account_id=account_id,
        offer_id=offer.offer_id,
        machine_id=offer.machine_id,
        host_id=offer.host_id,
        gpu=offer.gpu,
        location=offer.location,
        gpu_usd_per_hour=format_usd(micro_up(offer.gpu_usd_per_hour)),
        disk_usd_per_hour=format_usd(micro_up(disk)),
        bid_usd_per_hour=format_usd(micro_up(offer.gpu_usd_per_hour)) if is_bid else None,
        download_usd_per_gb=format_usd(micro_up(offer.download_usd_per_gb)),
        upload_usd_per_gb=format_usd(micro_up(offer.upload_usd_per_gb)),
        traffic_reserve_usd=format_usd(admission.estimate.traffic_microusd),
        estimate_usd=format_usd(admission.estimate.total_microusd),
        confidence=rounded_down(admission.confidence),
        fuse_usd=format_usd(admission.fuse_microusd),
        money_deadline_seconds=admission.money_deadline_seconds,
        nonce=seen.node.metadata.uid.replace("-", ""),
    )


def _adopt(seen: NodeObservation) -> NodePlan | None:
    """The marker is stored: find out what came of the request, and never send another."""
    status, world = seen.node.status, seen.world
    if status.rent is None or status.lease is not None:
        return None
    if (answer := _answered(seen)) is not None:
        return answer
    if (doubt := _account_doubt(seen)) is not None:
        return doubt
    if listed := _listed(seen):
        return _record_lease(seen, listed[0])
    waits_from = _proof_starts(seen)
    if waits_from is not None and proves_absence(
        world.listings,
        after=waits_from,
        poll_seconds=world.limits.poll_seconds,
        mark=seen.mark,
        instance_id=None,
        account_id=status.rent.account_id,
    ):
        return _not_rented(seen, Reason.RENT_NOT_CONFIRMED, Reason.RENT_NOT_CONFIRMED.meaning)
    return _wait(
        seen,
        Reason.RENT_UNANSWERED,
        "the rent request got no clear answer; looking for the machine by its mark",
        world.limits.poll_seconds,
    )


def _answered(seen: NodeObservation) -> NodePlan | None:
    """What the process that sent the request was told by the provider, if that was clear."""
    match seen.memory.rent:
        case RentAccepted(instance_id):
            return _record_lease(seen, instance_id)
        case RentRefused(reason, message):
            return _not_rented(seen, reason, message)
        case _:
            return None


def _not_rented(seen: NodeObservation, reason: Reason, message: str) -> NodePlan:
    answer = RentAnswer(at=seen.world.now, reason=reason, message=message[:1024])
    if seen.node.status.end is not None:
        status = seen.node.status.model_copy(update={"not_rented": answer})
        return _progress(seen, status, reason, message)
    plan = _end(seen, reason, message)
    return replace(plan, status=plan.status.model_copy(update={"not_rented": answer}))


def _record_lease(seen: NodeObservation, found: Lease | int) -> NodePlan:
    rent = seen.node.status.rent
    assert rent is not None, "a machine is looked for only under a marker"
    rate = parse_usd(rent.gpu_usd_per_hour) + parse_usd(rent.disk_usd_per_hour)
    if isinstance(found, Lease):
        rate = max(rate, micro_up(found.usd_per_hour))
    number = found if isinstance(found, int) else found.instance_id
    lease = LeaseStatus(
        instance_id=number, usd_per_hour=format_usd(rate), recorded_at=seen.world.now
    )
    status = seen.node.status.model_copy(update={"lease": lease})
    return _progress(seen, status, Reason.RENTED, f"rented as instance {number}")


def _boot(seen: NodeObservation) -> NodePlan | None:
    """The machine starts; its host key is read before anything is sent to it."""
    status = seen.node.status
    if status.machine is not None or status.rent is None or status.lease is None:
        return None
    lease = _own_lease(seen)
    if lease is None or not _can_be_reached(lease):
        shown = (lease.status or "being made") if lease else "not listed yet"
        words = f"the machine is {shown}" + _because(lease.status_message if lease else "")
        return _wait(seen, Reason.BOOTING, words, 2.0)
    if seen.memory.host_key is None:
        todo = (effects.ReadHostKey(status.lease.instance_id, status.rent.nonce),)
        return _wait(seen, Reason.BOOTING, "reading the host key from its log", 2.0, todo)
    assert lease.ssh_host is not None, "checked above"
    assert lease.ssh_port is not None, "checked above"
    machine = MachineStatus(host=lease.ssh_host, port=lease.ssh_port, host_key=seen.memory.host_key)
    status = status.model_copy(update={"machine": machine})
    return _progress(seen, status, Reason.CONNECTING, "the host key is pinned; the driver connects")


def _connect(seen: NodeObservation) -> NodePlan | None:
    """The driver has its assignment; the run begins by its word, on our clock."""
    status = seen.node.status
    if status.run is not None or status.rent is None:
        return None
    report = seen.report
    # Its word on an earlier run, before the machine was taken away, is none on this one.
    is_current = report is not None and report.run_number == status.run_number
    ran = report.run_seconds if report and is_current else None
    if ran is None:
        words = "the driver is connecting" + _because(seen.report.message if seen.report else "")
        return _wait(seen, Reason.CONNECTING, words, 2.0)
    started = max(seen.world.now - timedelta(seconds=ran), _boot_began(seen))
    status = status.model_copy(update={"run": RunStatus(started_at=started)})
    return _progress(seen, status, Reason.RUNNING, "the workload is running")


def _upkeep(seen: NodeObservation) -> NodePlan | None:
    """While it runs: keep one machine, the highest price seen, and a figure of the cost."""
    status, world = seen.node.status, seen.world
    if status.lease is None:
        return None
    others = tuple(
        lease.instance_id
        for lease in _listed(seen)
        if lease.instance_id != status.lease.instance_id
    )
    lease = _own_lease(seen)
    if lease is not None and micro_up(lease.usd_per_hour) > parse_usd(status.lease.usd_per_hour):
        dearer = status.lease.model_copy(
            update={"usd_per_hour": format_usd(micro_up(lease.usd_per_hour))}
        )
        status = status.model_copy(update={"lease": dearer})
    stale = (
        status.as_of is None
        or (world.now - status.as_of).total_seconds() >= world.limits.status_seconds
    )
    if stale:
        status = status.model_copy(
            update={"accrued_usd": format_usd(_accrued(seen)), "as_of": world.now}
        )
    if status == seen.node.status and not others:
        return None
    return Plan(
        status=status,
        reason=Reason.RUNNING,
        message=_running_message(seen),
        effects=(effects.Destroy(others),) if others else (),
        requeue_seconds=_next_look(seen),
    )


STAGES: tuple[Stage, ...] = (
    _released,
    _giving_back,
    _unwanted,
    _finished,
    _money,
    _lost,
    _interrupted,
    _key,
    _adopt,
    _driver,
    _rent,
    _boot,
    _connect,
    _upkeep,
)


# --- Shared ---------------------------------------------------------------------------------


def _wait(
    seen: NodeObservation,
    reason: Reason,
    message: str,
    seconds: float,
    todo: tuple[effects.Effect, ...] = (),
) -> NodePlan:
    return Plan(
        status=_with_accrued(seen),
        reason=reason,
        message=message,
        effects=todo,
        requeue_seconds=min(seconds, _next_look(seen)),
    )


def _progress(
    seen: NodeObservation, status: GpuNodeStatus, reason: Reason, message: str
) -> NodePlan:
    return Plan(status=status, reason=reason, message=message, requeue_seconds=0)


def _end(
    seen: NodeObservation,
    reason: Reason,
    message: str,
    *,
    exit_code: int | None = None,
    run_seconds: float | None = None,
) -> NodePlan:
    """Stores that the attempt is over; the next pass, at once, gives the machine back."""
    status, now = seen.node.status, seen.world.now
    update: dict[str, object] = {
        "end": EndStatus(at=now, reason=reason, message=message[:1024], exit_code=exit_code)
    }
    if status.run is not None:
        ran = (now - status.run.started_at).total_seconds() if run_seconds is None else run_seconds
        update["run"] = status.run.model_copy(update={"seconds": ceil(max(ran, 0.0))})
    elif run_seconds is not None:
        started = now - timedelta(seconds=run_seconds)
        update["run"] = RunStatus(started_at=started, seconds=ceil(run_seconds))
    return _progress(seen, status.model_copy(update=update), reason, message)


def _account_doubt(seen: NodeObservation) -> NodePlan | None:
    """A listing is evidence only for machines of its own account."""
    rent, account = seen.node.status.rent, seen.world.account_id
    if rent is None or account is None or account == rent.account_id:
        return None
    words = f"rented by account {rent.account_id}, but the present key is of account {account}"
    return _wait(seen, Reason.ACCOUNT_CHANGED, words, seen.world.limits.poll_seconds)


def _listed(seen: NodeObservation) -> tuple[Lease, ...]:
    """The machines under this node's mark in the latest complete listing."""
    listings = seen.world.listings
    return leases_of(listings[-1], seen.mark) if listings else ()


def _own_lease(seen: NodeObservation, back: int = 1) -> Lease | None:
    """The recorded machine in the latest complete listing, or the one so far back."""
    recorded, listings = seen.node.status.lease, seen.world.listings
    if recorded is None or len(listings) < back:
        return None
    rows = listings[-back].leases
    return next((row for row in rows if row.instance_id == recorded.instance_id), None)


def _is_repeated(seen: NodeObservation, holds: Callable[[Lease], bool]) -> bool:
    """Whether so many listings in a row show our machine so that it is no flicker."""
    recent = [_own_lease(seen, back) for back in range(1, UNREPEATED_STATUSES + 1)]
    return all(row is not None and holds(row) for row in recent)


def _stands_still(seen: NodeObservation) -> bool:
    """Whether the provider means our machine to be stopped, without our doing."""
    return _is_repeated(seen, lambda row: row.intended_status == "stopped")


def _can_be_reached(lease: Lease) -> bool:
    return lease.status == "running" and bool(lease.ssh_host) and bool(lease.ssh_port)


def _ran_seconds(seen: NodeObservation) -> float:
    """How long the workload has run up to now, in all attempts and on this machine."""
    status, job = seen.node.status, seen.job
    earlier = (job.status.run_seconds if job else 0) + status.earlier_run_seconds
    now = (seen.world.now - status.run.started_at).total_seconds() if status.run else 0.0
    return earlier + now


def _booting_seconds(seen: NodeObservation) -> float:
    """How long the machine has been on its way to the workload's start."""
    return (seen.world.now - _boot_began(seen)).total_seconds()


def _boot_began(seen: NodeObservation) -> datetime:
    """When the machine was asked for, or came back."""
    rent, past = seen.node.status.rent, seen.node.status.interruptions
    assert rent is not None, "nothing boots before it was asked for"
    return (past.resumed_at if past else None) or rent.requested_at


def _accrued(seen: NodeObservation) -> int:
    """Micro-USD from the rent request to now at the highest price seen, and the traffic listed.

    Loading is charged like running: whether the provider does is not certain, so the figure is an
    upper bound. Traffic after the last listing is not in it.
    """
    status = seen.node.status
    if status.rent is None or status.not_rented is not None:
        return 0
    rate = parse_usd(status.rent.gpu_usd_per_hour) + parse_usd(status.rent.disk_usd_per_hour)
    if status.lease is not None:
        rate = max(rate, parse_usd(status.lease.usd_per_hour))
    until = status.released_at or seen.world.now
    time = over_time(rate, (until - status.rent.requested_at).total_seconds())
    rows = [
        row
        for listing in seen.world.listings
        for row in listing.leases
        if status.lease is not None and row.instance_id == status.lease.instance_id
    ]
    down = max((row.download_gb for row in rows), default=Fraction(0))
    up = max((row.upload_gb for row in rows), default=Fraction(0))
    traffic = down * Fraction(status.rent.download_usd_per_gb) + up * Fraction(
        status.rent.upload_usd_per_gb
    )
    return time + micro_up(traffic)


def _with_accrued(seen: NodeObservation) -> GpuNodeStatus:
    status, world = seen.node.status, seen.world
    if status.rent is None:
        return status
    fresh = (
        status.as_of is not None
        and (world.now - status.as_of).total_seconds() < world.limits.status_seconds
    )
    if fresh:
        return status
    return status.model_copy(update={"accrued_usd": format_usd(_accrued(seen)), "as_of": world.now})


def _next_look(seen: NodeObservation) -> float:
    """Seconds until time alone can change the decision."""
    status, world, job = seen.node.status, seen.world, seen.job
    due = [world.limits.poll_seconds]
    if status.rent is not None:
        elapsed = (world.now - status.rent.requested_at).total_seconds()
        due.append(status.rent.money_deadline_seconds - elapsed)
        if status.run is None and not status.is_paused:
            due.append(world.limits.boot_cap_seconds - _booting_seconds(seen))
    if status.run is not None and job is not None and job.spec.active_deadline_seconds:
        due.append(job.spec.active_deadline_seconds - _ran_seconds(seen))
    return max(min(due), 0.05)


def _running_message(seen: NodeObservation) -> str:
    rent = seen.node.status.rent
    return f"running on {rent.gpu} in {rent.location}" if rent else "running"


def _because(detail: str) -> str:
    return f": {detail}" if detail else ""


def _end_message(status: GpuNodeStatus) -> str:
    return f"{status.end.reason}: {status.end.message}" if status.end else ""
