"""What follows from an observation of a node: its machine as listed, its times, its cost."""

from collections.abc import Callable
from datetime import datetime
from fractions import Fraction

from gpujob.api.gpunode import GpuNodeStatus, RunStatus
from gpujob.api.transport import DriverReport, Outcome, Usage
from gpujob.api.workload import ProgressStatus, UsageStatus
from gpujob.core.limits import Limits
from gpujob.core.market.listings import Lease, absence_proved_at, leases_of
from gpujob.core.money import format_usd, micro_up, over_time, parse_usd
from gpujob.core.observation import NodeObservation

UNREPEATED_STATUSES = 3
"""One `exited`, `stopped` or `unknown` may be a flicker; three listings in a row are not
(vastsim/FACTS.md, Instance states)."""


def marked_leases(seen: NodeObservation) -> tuple[Lease, ...]:
    """The machines under this node's mark in the latest complete listing."""
    listings = seen.world.listings
    return leases_of(listings[-1], seen.mark) if listings else ()


def own_lease(seen: NodeObservation, back: int = 1) -> Lease | None:
    """The recorded machine in the latest complete listing, or the one so far back."""
    recorded, listings = seen.node.status.lease, seen.world.listings
    if recorded is None or len(listings) < back:
        return None
    rows = listings[-back].leases
    return next((row for row in rows if row.instance_id == recorded.instance_id), None)


def is_repeated(seen: NodeObservation, holds: Callable[[Lease], bool]) -> bool:
    """Whether so many listings in a row show our machine so that it is no flicker."""
    recent = [own_lease(seen, back) for back in range(1, UNREPEATED_STATUSES + 1)]
    return all(row is not None and holds(row) for row in recent)


def stands_still(seen: NodeObservation) -> bool:
    """Whether the provider means our machine to be stopped, without our doing."""
    return is_repeated(seen, lambda row: row.intended_status == "stopped")


def can_be_reached(lease: Lease) -> bool:
    """Whether it runs, by the provider's word, and says where."""
    return lease.status == "running" and bool(lease.ssh_host) and bool(lease.ssh_port)


def ran_seconds(seen: NodeObservation) -> float:
    """How long the workload has run up to now, in all attempts and on this machine."""
    status, job = seen.node.status, seen.job
    earlier = (job.status.run_seconds if job else 0) + status.earlier_run_seconds
    now = (seen.world.now - status.run.started_at).total_seconds() if status.run else 0.0
    return earlier + now


def may_run(status: GpuNodeStatus) -> bool:
    """Whether a workload may be running: its driver may have begun, and not have said so yet."""
    return status.run is not None or (status.measured is not None and not status.is_paused)


def paid_seconds(seen: NodeObservation) -> float:
    """How long ago the machine was asked for."""
    rent = seen.node.status.rent
    assert rent is not None, "nothing is paid for before it was asked for"
    return (seen.world.now - rent.requested_at).total_seconds()


def drain_seconds(seen: NodeObservation) -> float:
    """How long its workload may take to end and its files to be copied."""
    limits = seen.world.limits
    return limits.drain_seconds_of(seen.job.spec) if seen.job else limits.drain_seconds


def stop_seconds_left(seen: NodeObservation) -> float:
    """How long a workload that was told to end, and its output, may still take."""
    status, drain = seen.node.status, drain_seconds(seen)
    assert status.stop is not None, "asked only once it was told to end"
    left = drain - (seen.world.now - status.stop.at).total_seconds()
    if status.rent is None:
        return left
    # A clock that was put back gives no more time than was paid for.
    return min(left, drain, status.rent.money_deadline_seconds - paid_seconds(seen))


def outcome_of(seen: NodeObservation) -> Outcome | None:
    """How the workload ended, by the driver's report or its termination message."""
    outcome = seen.report.outcome if seen.report else None
    return outcome or (seen.pod.outcome if seen.pod else None)


def present_report(seen: NodeObservation) -> DriverReport | None:
    """What the driver says of the present run; its word on an earlier one is none on this."""
    report = seen.report
    return report if report and report.run_number == seen.node.status.run_number else None


def usage_of(seen: NodeObservation) -> Usage | None:
    """How busy the GPUs are in the present run; None = not told."""
    report = present_report(seen)
    return report.usage if report else None


def booting_seconds(seen: NodeObservation) -> float:
    """How long the machine has been on its way to the workload's start."""
    return (seen.world.now - boot_began(seen)).total_seconds()


def boot_began(seen: NodeObservation) -> datetime:
    """When the machine was asked for, or came back."""
    rent, past = seen.node.status.rent, seen.node.status.interruptions
    assert rent is not None, "nothing boots before it was asked for"
    return (past.resumed_at if past else None) or rent.requested_at


def gone_at(seen: NodeObservation, *, after: float) -> float | None:
    """Monotonic time since which listings later than `after` prove that no machine of this node is
    left; None = one may be."""
    status = seen.node.status
    assert status.rent is not None, "asked only once a machine may be rented"
    return absence_proved_at(
        seen.world.listings,
        after=after,
        poll_seconds=seen.world.limits.poll_seconds,
        mark=seen.mark,
        instance_id=status.lease.instance_id if status.lease else None,
        account_id=status.rent.account_id,
    )


def accrued_microusd(seen: NodeObservation, *, unpaid_seconds: float = 0.0) -> int:
    """Micro-USD from the rent request to now, or to so many seconds ago, at the highest price seen,
    and the traffic listed.

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
    seconds = (until - status.rent.requested_at).total_seconds() - unpaid_seconds
    time = over_time(rate, seconds)
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


def with_figures(seen: NodeObservation) -> GpuNodeStatus:
    """The status with figures of the cost and of the run that are not too old."""
    status, world = seen.node.status, seen.world
    if status.rent is None:
        return status
    fresh = (
        status.as_of is not None
        and (world.now - status.as_of).total_seconds() < world.limits.status_seconds
    )
    if fresh:
        return status
    return status.model_copy(
        update={
            "accrued_usd": format_usd(accrued_microusd(seen)),
            "as_of": world.now,
            "run": _run_told(seen),
        }
    )


def _run_told(seen: NodeObservation) -> RunStatus | None:
    """The run with what the driver last told of it."""
    run, report = seen.node.status.run, present_report(seen)
    if run is None or report is None:
        return run
    told: dict[str, object] = {}
    if (progress := report.progress) is not None:
        told["progress"] = ProgressStatus(
            percent=None if progress.percent is None else int(progress.percent),
            step=progress.step,
            remaining_seconds=(
                None if progress.remaining_seconds is None else int(progress.remaining_seconds)
            ),
            metrics={name: f"{value:.6g}" for name, value in progress.metrics.items()},
        )
    if (usage := report.usage) is not None:
        told["usage"] = UsageStatus(
            gpu_percent=int(usage.gpu_percent),
            gpu_memory_mib=usage.gpu_memory_mib,
            idle_seconds=int(usage.idle_seconds),
        )
    return run.model_copy(update=told)


def next_look(seen: NodeObservation) -> float:
    """Seconds until time alone can change the decision."""
    status, world, job = seen.node.status, seen.world, seen.job
    due = [world.limits.poll_seconds]
    if status.rent is not None:
        left = status.rent.money_deadline_seconds - paid_seconds(seen)
        due.append(left)
        if may_run(status) and status.stop is None:
            due.append(left - drain_seconds(seen))
        if status.run is None and not status.is_paused:
            due.append(world.limits.boot_cap_seconds - booting_seconds(seen))
    if status.run is not None and job is not None and job.spec.active_deadline_seconds:
        due.append(job.spec.active_deadline_seconds - ran_seconds(seen))
    return max(min(due), 0.05)


def running_message(seen: NodeObservation) -> str:
    """For people: what it runs on, and where."""
    rent = seen.node.status.rent
    return f"running on {rent.gpu} in {rent.location}" if rent else "running"


def end_message(status: GpuNodeStatus) -> str:
    """For people: why the attempt ended; empty if it did not."""
    return f"{status.end.reason}: {status.end.message}" if status.end else ""


def silence_seconds(limits: Limits, *, paid_seconds: float, says_running: bool) -> float:
    """Returns how long a silent machine is waited for before another one is rented.

    Giving it up loses what was paid for it, waiting costs its price per second: so long as was
    already paid for, which at worst doubles the loss. A provider that says something else than
    running halves that. Silence alone is not death, so never less than the least; and never more
    than the machine's own watchdog waits for us.
    """
    seconds = paid_seconds if says_running else paid_seconds / 2
    most = limits.heartbeat_stale_seconds
    return min(max(seconds, limits.silence_min_seconds), most)
