"""What follows from an observation of a node: its machine as listed, its times, its cost."""

from collections.abc import Callable
from datetime import datetime

from gpujob.api.gpunode import GpuNodeStatus
from gpujob.api.transport import DriverReport, Outcome, Usage
from gpujob.core.limits import Limits
from gpujob.core.market.absence import absence_proved_at
from gpujob.core.market.listings import Lease, leases_of
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
    # Without a marker no account is recorded: the status contradicts itself, and ours is searched.
    account = status.rent.account_id if status.rent else seen.world.account_id
    if account is None:
        return None
    return absence_proved_at(
        seen.world.listings,
        after=after,
        poll_seconds=seen.world.limits.poll_seconds,
        mark=seen.mark,
        instance_id=status.lease.instance_id if status.lease else None,
        account_id=account,
    )


def next_look(seen: NodeObservation) -> float:
    """Seconds until time alone can change the decision."""
    status, world, job = seen.node.status, seen.world, seen.job
    due = [world.limits.poll_seconds]
    if status.rent is not None:
        left = status.rent.money_deadline_seconds - paid_seconds(seen)
        due.append(left)
        if seen.stage.may_run and status.stop is None:
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
