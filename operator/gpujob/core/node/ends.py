"""Reasons to end an attempt or to stop its workload, and the machine that is only away."""

from dataclasses import replace
from fractions import Fraction
from math import ceil

from gpujob.api.gpunode import InterruptionStatus, StopStatus
from gpujob.api.reasons import Reason
from gpujob.api.transport import Cause, Outcome
from gpujob.core.node.answers import NodePlan, end, progress, stop, wait
from gpujob.core.node.driver import start_driver
from gpujob.core.node.facts import (
    booting_seconds,
    can_be_reached,
    drain_seconds,
    gone_at,
    is_repeated,
    may_run,
    outcome_of,
    own_lease,
    paid_seconds,
    present_report,
    ran_seconds,
    silence_seconds,
    stands_still,
    stop_seconds_left,
    usage_of,
)
from gpujob.core.node.rent import BIRTH_GRACE
from gpujob.core.node.run import keep_up
from gpujob.core.observation import NodeObservation

STOPPED_STATUSES = ("exited", "stopped", "unknown")
PRICE_TOLERANCE = Fraction(1001, 1000)
IDLE_SAMPLES_MIN = 4
"""One sample without load is no idleness: between two batches a GPU often stands."""

_CAUSES = {
    Cause.OUT_OF_MEMORY: ": the machine's memory was used up; ask for more by resources.memoryGB",
    Cause.DISK_FULL: ": the machine's disk was full; ask for more by resources.diskGB",
}


def unwanted(seen: NodeObservation) -> NodePlan | None:
    """Nobody wants the machine any more."""
    job, node = seen.job, seen.node
    if job is None or job.metadata.uid != node.spec.job_ref.uid or job.metadata.is_being_deleted:
        return end(seen, Reason.JOB_DELETED, "the GpuJob was deleted")
    if node.metadata.is_being_deleted:
        return end(seen, Reason.NODE_DELETED, "the GpuNode was deleted")
    if job.status.attempt > node.spec.attempt:
        return end(seen, Reason.NODE_DELETED, "the job has gone on to another attempt")
    if job.spec.suspend and node.status.stop is None:
        return stop(seen, Reason.SUSPENDED, "spec.suspend was set")
    return None


def stopping(seen: NodeObservation) -> NodePlan | None:
    """The workload is to end, or has: its files are carried, for so long as is paid for.

    Whatever cuts that short, the attempt ends for the reason that is stored.
    """
    told = seen.node.status.stop
    if told is None:
        return None
    reason, code, ran = Reason(told.reason), told.exit_code, told.run_seconds
    if (outcome := outcome_of(seen)) is not None:
        if ran is None:
            code = None if outcome.was_killed else outcome.exit_code
        seconds = _counted_seconds(seen, outcome) if ran is None else ran
        reason, words = _with_losses(reason, told.message, outcome.lost)
        return end(seen, reason, words, exit_code=code, run_seconds=seconds)
    log = seen.report.log if seen.report else None
    missing = f"{log.behind} bytes of its output" if log and log.behind else "the last of its files"
    left = stop_seconds_left(seen)
    if left <= 0:
        late = f"{missing} may be lost: there was no more time, see data.drainSeconds"
        reason, words = _with_losses(reason, told.message, late)
        return end(seen, reason, words, exit_code=code, run_seconds=ran)
    shown = Reason.STOPPING if ran is None else Reason.DELIVERING
    for stage in (faulty, over_caps, lost, start_driver, keep_up):
        if (plan := stage(seen)) is None:
            continue
        if plan.status.end is None:
            return replace(plan, reason=shown)
        reason, words = _with_losses(reason, told.message, f"{missing} may be lost: {plan.message}")
        return end(seen, reason, words, exit_code=code, run_seconds=ran)
    return wait(seen, shown, told.message, left)


def _with_losses(reason: Reason, words: str, lost: str) -> tuple[Reason, str]:
    """Returns reason and words of an end that comes with losses; a success is none with them."""
    if not lost:
        return reason, words
    return Reason.OUTPUT_LOST if reason is Reason.COMPLETED else reason, f"{words}; {lost}"


def finished(seen: NodeObservation) -> NodePlan | None:
    """The workload or its machine came to an end by the driver's word."""
    status = seen.node.status
    if status.machine is None:
        return None
    if (outcome := outcome_of(seen)) is not None:
        counted = _counted_seconds(seen, outcome)
        reason, words, code = _verdict(seen, outcome)
        reason, words = _with_losses(reason, words, outcome.lost)
        return end(seen, reason, words, exit_code=code, run_seconds=counted)
    report = present_report(seen)
    if report is not None and report.ended is not None and may_run(status):
        reason, words, code = _verdict(seen, report.ended)
        told = StopStatus(
            at=seen.world.now,
            reason=reason,
            message=words,
            exit_code=code,
            run_seconds=ceil(_counted_seconds(seen, report.ended) or 0),
        )
        return progress(status.model_copy(update={"stop": told}), Reason.DELIVERING, words)
    return None


def faulty(seen: NodeObservation) -> NodePlan | None:
    """The driver found that it can not go on with this machine."""
    report = seen.report
    if seen.node.status.machine is None or report is None or report.fault is None:
        return None
    return end(seen, Reason(report.fault.value), report.message)


def _verdict(seen: NodeObservation, outcome: Outcome) -> tuple[Reason, str, int | None]:
    """Why an attempt whose workload ended so is over: reason, words, exit code."""
    rent, code = seen.node.status.rent, outcome.exit_code
    if outcome.was_killed and rent is not None and rent.bid_usd_per_hour is not None:
        # Taken away and given back between two looks: nobody's fault, and nothing to wait for.
        return Reason.OUTBID, "the machine was taken away, and is back without the workload", None
    if code == 0:
        return Reason.COMPLETED, "the workload ended with exit code 0", code
    if outcome.cause is Cause.GPU_LOST:
        words = f"a GPU of the machine was gone when the workload ended with exit code {code}"
        return Reason.GPU_LOST, words, None
    why = _CAUSES.get(outcome.cause, "") if outcome.cause else ""
    return Reason.WORKLOAD_FAILED, f"the workload ended with exit code {code}{why}", code


def _counted_seconds(seen: NodeObservation, outcome: Outcome) -> float | None:
    """How long it ran, by its own word as far as our clock allows; None = counted by the pause."""
    run = seen.node.status.run
    longest = (seen.world.now - run.started_at).total_seconds() if run else outcome.run_seconds
    return None if seen.node.status.is_paused else min(outcome.run_seconds, max(longest, 0.0))


def out_of_money(seen: NodeObservation) -> NodePlan | None:
    """Another second could cross what was allowed."""
    status, job = seen.node.status, seen.job
    rent = status.rent
    if rent is None or job is None or status.not_rented is not None:
        return None
    elapsed = paid_seconds(seen)
    words = f"{elapsed:.0f} s after the rent request the fuse of ${rent.fuse_usd} leaves no"
    if elapsed >= rent.money_deadline_seconds:
        return end(seen, Reason.BUDGET_EXHAUSTED, f"{words} time")
    if may_run(status) and elapsed >= rent.money_deadline_seconds - drain_seconds(seen):
        return stop(seen, Reason.BUDGET_EXHAUSTED, f"{words} more time than to stop")
    deadline = job.spec.active_deadline_seconds
    if status.run is not None and deadline is not None and ran_seconds(seen) >= deadline:
        return stop(
            seen,
            Reason.DEADLINE_EXCEEDED,
            f"the workload ran for activeDeadlineSeconds ({deadline} s)",
        )
    return None


def over_caps(seen: NodeObservation) -> NodePlan | None:
    """The machine moves more, or costs more, than was reckoned with."""
    rent, job, lease = seen.node.status.rent, seen.job, own_lease(seen)
    if rent is None or job is None or lease is None:
        return None
    data = job.spec.data
    if lease.download_gb > data.max_download_gb or lease.upload_gb > data.max_upload_gb:
        return end(
            seen,
            Reason.TRAFFIC_EXCEEDED,
            f"{float(lease.download_gb):.1f} GB down and {float(lease.upload_gb):.1f} GB up passed "
            f"the caps of {data.max_download_gb} and {data.max_upload_gb} GB",
        )
    quoted = Fraction(rent.gpu_usd_per_hour) + Fraction(rent.disk_usd_per_hour)
    if lease.usd_per_hour > quoted * PRICE_TOLERANCE:
        return end(
            seen,
            Reason.PRICE_CHANGED,
            f"the machine costs {float(lease.usd_per_hour):.4f} $/h, quoted was "
            f"{float(quoted):.4f}",
        )
    return None


def idle(seen: NodeObservation) -> NodePlan | None:
    """The user said for how long no GPU may be busy."""
    job, usage = seen.job, usage_of(seen)
    longest = job.spec.idle_deadline_seconds if job else None
    if longest is None or usage is None or seen.node.status.run is None:
        return None
    if usage.idle_seconds < longest or usage.idle_samples < IDLE_SAMPLES_MIN:
        return None
    words = f"no GPU was busy in {usage.idle_samples} samples over {usage.idle_seconds:.0f} s; "
    return stop(seen, Reason.IDLE_DEADLINE_EXCEEDED, f"{words}idleDeadlineSeconds is {longest}")


def lost(seen: NodeObservation) -> NodePlan | None:
    """The machine or its driver is gone for good, or was never any use."""
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
                f"the machine was born {late.total_seconds():.0f} s too late",
            )
    if lease is not None and lease.status == "offline":
        return end(seen, Reason.HOST_LOST, "the provider lost the machine: offline")
    still = stands_still(seen)
    if still and world.not_ready and world.not_ready.reason is Reason.CREDIT_EXHAUSTED:
        # Without credit the provider stops what runs (vastsim/FACTS.md, Credit).
        return end(seen, Reason.CREDIT_EXHAUSTED, world.not_ready.message)
    waits = still and status.rent.bid_usd_per_hour is not None
    if not waits and is_repeated(seen, lambda row: row.status in STOPPED_STATUSES):
        shown = lease.status if lease else ""
        return end(seen, Reason.HOST_LOST, f"the provider says {shown} again and again")
    seen_at = seen.memory.marker_seen_at
    if seen_at is not None and gone_at(seen, after=seen_at + limits.list_lag_seconds) is not None:
        return end(seen, Reason.LEASE_VANISHED, "the provider lists the machine no longer")
    booted = status.run is not None or status.is_paused
    if not booted and booting_seconds(seen) >= limits.boot_cap_seconds:
        if status.machine is None and lease is not None and lease.status == "running":
            return end(
                seen, Reason.HOST_KEY_UNAVAILABLE, "the machine's log did not show its host key"
            )
        words = f"the workload did not start within {limits.boot_cap_seconds:.0f} s"
        return end(seen, Reason.BOOT_TIMEOUT, words)
    silence = seen.report.machine_contact_age_seconds if seen.report else None
    patience = silence_seconds(
        limits,
        paid_seconds=paid_seconds(seen),
        says_running=lease is not None and lease.status == "running",
    )
    if silence is not None and not status.is_paused and silence >= patience:
        return end(seen, Reason.HOST_LOST, f"the machine has not answered for {silence:.0f} s")
    return None


def interrupted(seen: NodeObservation) -> NodePlan | None:
    """An interruptible machine that was taken away is waited for, and used again if it is back."""
    status, now, limits = seen.node.status, seen.world.now, seen.world.limits
    if status.rent is None or status.rent.bid_usd_per_hour is None or status.lease is None:
        return None
    lease, past = own_lease(seen), status.interruptions
    if past is None or past.paused_at is None:
        if not stands_still(seen):
            return None
        if status.machine is None:
            return end(seen, Reason.OUTBID, "somebody bid more before the machine had booted")
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
        # Its disk has the host key that was pinned: no other one is believed.
        place = {"host": lease.ssh_host, "port": lease.ssh_port}
        machine = status.machine.model_copy(update=place)
        back = past.model_copy(update={"paused_at": None, "resumed_at": now})
        status = status.model_copy(update={"machine": machine, "interruptions": back})
        return progress(status, Reason.CONNECTING, "the machine is back")
    left = limits.outbid_patience_seconds - (now - past.paused_at).total_seconds()
    if left <= 0:
        words = f"the machine stood still for {limits.outbid_patience_seconds:.0f} s"
        return end(seen, Reason.OUTBID, words)
    return wait(seen, Reason.PAUSED, Reason.PAUSED.meaning, left)
