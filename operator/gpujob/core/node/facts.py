"""Facts that follow from an observation of a node: its listed machine, its times, its report."""

from collections.abc import Callable
from datetime import datetime
from math import inf

from gpujob.api.gpunode import AddressStatus, GpuNodeStatus, MachineStatus
from gpujob.api.reasons import Blame, Reason
from gpujob.api.transport import DriverReport, Outcome, Usage
from gpujob.core.job import pending
from gpujob.core.machine.assignment import watchdog_deadline
from gpujob.core.market.absence import absence_proved_at
from gpujob.core.market.history import ROWS_KEPT
from gpujob.core.market.images import Found, ImageTrial
from gpujob.core.market.listings import Lease, leases_of, recorded
from gpujob.core.node.contact import Health, Witnesses, health
from gpujob.core.node.pauses import pauses_shown, priced_seconds
from gpujob.core.observation import NodeObservation

_UNBOOTED = (Reason.BOOT_TIMEOUT, Reason.HOST_LOST)

SILENT_SECONDS = 5.0
"""A node is looked at so often while its driver or its machine does not answer."""
PRESENT_SECONDS = 30.0
"""A driver that has been silent for longer bears no witness, and nothing is rented for it."""
UNREPEATED_STATUSES = ROWS_KEPT
"""One row may be a flicker; three listings in a row are not (vastsim/FACTS.md, Instance states)."""


def marked_leases(seen: NodeObservation) -> tuple[Lease, ...]:
    """Returns the machines that carry this node's mark in the latest complete listing."""
    listings = seen.world.listings
    return leases_of(listings[-1], seen.mark) if listings else ()


def own_lease(seen: NodeObservation, back: int = 1) -> Lease | None:
    """Returns the recorded machine in the latest complete listing, or in the `back`-th latest."""
    lease, listings = seen.node.status.lease, seen.world.listings
    if lease is None or len(listings) < back:
        return None
    return recorded(listings[-back], lease.instance_id, seen.mark)


def is_anothers_number(seen: NodeObservation) -> bool:
    """Whether a listing shows the recorded machine under the mark of another node."""
    lease = seen.node.status.lease
    return lease is not None and seen.world.listings.was_anothers(lease.instance_id, seen.mark)


def is_repeated(seen: NodeObservation, holds: Callable[[Lease], bool]) -> bool:
    """Whether `holds` is true of our machine in each of the last three listings."""
    recent = [own_lease(seen, back) for back in range(1, UNREPEATED_STATUSES + 1)]
    return all(row is not None and holds(row) for row in recent)


def stands_still(seen: NodeObservation) -> bool:
    """Whether the provider has stopped our machine, which we never ask for."""
    return is_repeated(seen, lambda row: row.intended_status == "stopped")


def can_be_reached(lease: Lease) -> bool:
    """Whether the provider says that the machine runs, and at which address."""
    return lease.status == "running" and bool(lease.addresses)


def reached(lease: Lease, host_key: str) -> MachineStatus:
    """Returns how a listed machine is reached; it has an address."""
    (host, port), *others = lease.addresses
    further = tuple(AddressStatus(host=host, port=port) for host, port in others)
    return MachineStatus(host=host, port=port, other_addresses=further, host_key=host_key)


def image_works(seen: NodeObservation) -> bool:
    """Whether the job's image was seen to work, by this job or lately by another in its namespace.

    A driver that logged in to a machine saw that the image boots and lets it in.
    """
    job, world = seen.job, seen.world
    if job is None:
        return False
    if any(record.run_seconds for record in job.status.attempts):
        return True
    return world.images.works(job.metadata.namespace, job.spec.image, world.now)


def failed_hosts(seen: NodeObservation) -> frozenset[int]:
    """Returns the other hosts on which the job's image did not come up, and nothing says why.

    The attempts of this job are in its status; what other jobs of the namespace saw lately is only
    in memory.
    """
    job, world, rent = seen.job, seen.world, seen.node.status.rent
    if job is None or rent is None or not rent.host_id:
        # An unknown host is not another one.
        return frozenset()
    own = {
        record.host_id
        for record in job.status.attempts
        if record.host_id and record.booted is False and is_unbooted(record.reason, record.blames)
    }
    others = world.images.failed_hosts(job.metadata.namespace, job.spec.image, world.now)
    return (others | own) - {rent.host_id}


def image_trial(seen: NodeObservation, image: str, found: Found) -> ImageTrial:
    """Returns what the attempt showed of its image."""
    rent, meta = seen.node.status.rent, seen.node.metadata
    return ImageTrial(
        namespace=meta.namespace,
        image=image,
        node_uid=meta.uid,
        host_id=rent.host_id if rent else 0,
        at=seen.world.now,
        found=found,
    )


def is_unbooted(reason: str, blames: str | None) -> bool:
    """Whether an attempt whose machine did not come up ended without a cause that is known."""
    return reason in _UNBOOTED and blames == Blame.PROVIDER


def ran_seconds(seen: NodeObservation) -> float:
    """Returns how long the workload has run up to now, over all attempts."""
    status, job = seen.node.status, seen.job
    earlier = (job.status.run_seconds if job else 0) + status.earlier_run_seconds
    now = (seen.world.now - status.run.started_at).total_seconds() if status.run else 0.0
    return earlier + now


def active_deadline_seconds(seen: NodeObservation) -> int | None:
    """Returns for how long the workload may run: over all attempts, as `ran_seconds` counts.

    While the job cannot be read, its earlier attempts count neither here nor there.
    """
    if seen.job is not None:
        return seen.job.spec.active_deadline_seconds
    rent = seen.node.status.rent
    return rent.max_run_seconds if rent else None


def paid_seconds(seen: NodeObservation) -> float:
    """Returns the time since the rent request, which is paid for; a pause by what it costs."""
    return priced_seconds(seen.node.status, pauses_shown(seen), seen.world.now)


def fuse_seconds_left(seen: NodeObservation) -> float:
    """Returns the seconds until the machine must be destroyed so that its fuse holds."""
    rent = seen.node.status.rent
    assert rent is not None, "nothing has a fuse before the rent request"
    return rent.money_deadline_seconds - paid_seconds(seen)


def watchdog_seconds_left(seen: NodeObservation) -> float:
    """Returns the seconds until the machine's own watchdog would destroy it: that is told a later
    deadline after a pause, and counts the pause in full until then.

    It counts from the machine's first start, so it acts somewhat later.
    """
    rent = seen.node.status.rent
    assert rent is not None, "nothing has a watchdog before the rent request"
    return watchdog_deadline(rent) - (seen.world.now - rent.requested_at).total_seconds()


def money_seconds_left(seen: NodeObservation) -> float:
    """Returns the seconds until the machine must be destroyed, or destroys itself."""
    return min(fuse_seconds_left(seen), watchdog_seconds_left(seen))


def drain_seconds(seen: NodeObservation) -> float:
    """Returns how long the workload may take to exit and its files to be copied."""
    limits = seen.world.limits
    return limits.drain_seconds_of(seen.job.spec) if seen.job else limits.drain_seconds


def stop_seconds(seen: NodeObservation) -> float:
    """Returns how long before its money deadline a workload is told to stop."""
    rent = seen.node.status.rent
    kept = rent.stop_seconds if rent else None
    return drain_seconds(seen) if kept is None else kept


def stop_seconds_left(seen: NodeObservation) -> float:
    """Returns how long a workload that must stop, and the copying of its files, may still take.

    Once the workload has ended, its files may take as long as they come and are paid for: what is
    lost here was paid for already. The time to drain is then how long nothing may come.
    """
    status, drain = seen.node.status, drain_seconds(seen)
    assert status.stop is not None, "asked only once the stop is stored"
    left = drain - (seen.world.now - status.stop.at).total_seconds()
    if status.rent is None:
        return left
    report = present_report(seen)
    if report and report.ended and report.copy_idle_seconds is not None:
        left = max(left, drain - report.copy_idle_seconds)
    # If somebody set the clock back, this still allows no more time than is paid for.
    return min(left, drain, money_seconds_left(seen))


def outcome_of(seen: NodeObservation) -> Outcome | None:
    """Returns how the workload ended, from the driver's report or its termination message."""
    outcome = seen.report.outcome if seen.report else None
    return outcome or (seen.pod.outcome if seen.pod else None)


def present_report(seen: NodeObservation) -> DriverReport | None:
    """Returns the driver's report if it is about the present run; None = it is about another."""
    report = seen.report
    return report if report and report.run_number == seen.node.status.run_number else None


def usage_of(seen: NodeObservation) -> Usage | None:
    """Returns how busy the GPUs are in the present run; None = the driver did not say."""
    report = present_report(seen)
    return report.usage if report else None


def booting_seconds(seen: NodeObservation) -> float:
    """Returns how long ago the machine was asked for, or came back after an interruption."""
    return (seen.world.now - boot_began(seen)).total_seconds()


def boot_began(seen: NodeObservation) -> datetime:
    """Returns when the machine was asked for, or came back after an interruption."""
    rent, past = seen.node.status.rent, seen.node.status.interruptions
    assert rent is not None, "nothing boots before the rent request"
    return (past.resumed_at if past else None) or rent.requested_at


def gone_at(seen: NodeObservation, *, after: float) -> float | None:
    """Returns the monotonic time from which listings later than `after` prove that no machine of
    this node is left; None = one may be left."""
    status = seen.node.status
    # A status with a machine but no marker names no account, so the present one is searched.
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


def pending_seconds_left(seen: NodeObservation) -> float:
    """Returns how long the workload may still take to begin; infinite = it has, or for ever.

    If it may have begun before this process came, its driver is heard first.
    """
    status, report = seen.node.status, present_report(seen)
    runs = status.run is not None or (report is not None and report.run_seconds is not None)
    if seen.job is None or runs or status.interruptions is not None:
        return inf
    left = pending.pending_seconds_left(seen.job, seen.world.now)
    if report is None and seen.stage.may_run:
        since = seen.memory.watched_since
        watched = 0.0 if since is None else seen.world.monotonic - since
        left = max(left, seen.world.limits.driver_replacement_seconds - watched)
    return left


def next_look(seen: NodeObservation) -> float:
    """Returns the seconds until the next deadline, or the next poll if that comes first; while the
    driver or the machine is silent it comes sooner."""
    pause = seen.world.limits.poll_seconds
    is_silent = seen.driver_silence_seconds > PRESENT_SECONDS or machine_silence(seen)
    return max(min(due_in(seen), SILENT_SECONDS if is_silent else pause, pause), 0.05)


def due_in(seen: NodeObservation) -> float:
    """Returns the seconds until the next deadline; infinite = there is none."""
    status, world = seen.node.status, seen.world
    due = [pending_seconds_left(seen) if status.end is None else inf]
    if status.rent is not None:
        left = money_seconds_left(seen)
        due.append(left)
        if seen.stage.may_run and status.stop is None:
            due.append(left - stop_seconds(seen))
        if status.run is None and not status.is_paused:
            due.append(world.limits.boot_cap_seconds - booting_seconds(seen))
    if status.run is not None and (deadline := active_deadline_seconds(seen)) is not None:
        due.append(deadline - ran_seconds(seen))
    return min(due)


def running_message(seen: NodeObservation) -> str:
    """Returns a message for people: what the workload runs on, where, and what is suspected."""
    rent, lease = seen.node.status.rent, own_lease(seen)
    words = f"running on {rent.gpu} in {rent.location}" if rent else "running"
    limit, job = seen.node.status.contract_limit, seen.job
    if limit is not None and job is not None and limit.ceiling == job.spec.cost.ceiling:
        words += f"; but {limit.message}"
    if rent is None or health(witnesses(seen), seen.world.limits) is Health.HEALTHY:
        return words
    if seen.memory.denied_since is None:
        return f"{words}; but the machine does not answer the driver"
    return f"{words}; but the provider shows the machine as {lease.status if lease else 'gone'}"


def witnesses(seen: NodeObservation) -> Witnesses:
    """Returns what the provider and the driver say of a node's machine."""
    since, report = seen.memory.denied_since, seen.report
    denied = None if since is None else seen.world.listings[-1].answered_at - since
    is_present = seen.driver_silence_seconds <= PRESENT_SECONDS
    silent = report.machine_contact_age_seconds if report and is_present else None
    return Witnesses(
        denied_seconds=denied,
        silent_seconds=silent,
        paid_seconds=paid_seconds(seen) - max(denied or 0.0, silent or 0.0),
    )


def machine_silence(seen: NodeObservation) -> float:
    """Returns for how long the machine has not answered its driver; 0 if it is but a moment, or if
    no driver could say."""
    if seen.node.status.rent is None:
        return 0.0
    silent = witnesses(seen).silent_seconds or 0.0
    return silent if silent > PRESENT_SECONDS else 0.0


def end_message(status: GpuNodeStatus) -> str:
    """Returns a message for people: why the attempt ended; empty if it did not."""
    return f"{status.end.reason}: {status.end.message}" if status.end else ""
