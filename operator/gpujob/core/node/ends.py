"""Reasons to end an attempt, or to stop its workload."""

from dataclasses import replace
from fractions import Fraction

from gpujob.api.reasons import Reason
from gpujob.core import effects
from gpujob.core.job.end import is_finished
from gpujob.core.market.images import PullFailure, pull_failure
from gpujob.core.market.listings import Lease
from gpujob.core.node.answers import NodePlan, end, progress, stop, wait
from gpujob.core.node.blame import blame, evidence_of
from gpujob.core.node.contact import DENYING_STATUSES, Health, health
from gpujob.core.node.facts import (
    booting_seconds,
    failed_hosts,
    gone_at,
    image_works,
    is_repeated,
    is_unbooted,
    own_lease,
    stands_still,
    witnesses,
)
from gpujob.core.node.rent import BIRTH_GRACE
from gpujob.core.node.stage import Stage
from gpujob.core.observation import NodeObservation
from gpujob.core.queue import waits_in_queue

PRICE_TOLERANCE = Fraction(1001, 1000)

_OTHER_IMAGE = (
    "create the job again with an image that the provider's machines can pull and start: check its "
    "name, spec.imagePullSecret if it is private, and that it is for linux/amd64 and has a shell"
)

_SERVED_IMAGE = (
    "create the job again with an image that has openssh-server, or at least a shell and apt-get, "
    "with which the provider installs it"
)


def end_if_unwanted(seen: NodeObservation) -> NodePlan | None:
    """Ends an attempt that nobody wants any more."""
    job, node = seen.job, seen.node
    is_own = job is not None and job.metadata.uid == node.spec.job_ref.uid
    is_gone = job is None or not is_own or job.metadata.is_being_deleted
    if is_gone and not seen.job_problem:
        return end(seen, Reason.JOB_DELETED, "the GpuJob was deleted")
    if node.metadata.is_being_deleted:
        return end(seen, Reason.NODE_DELETED, "the GpuNode was deleted")
    if job is None:
        # What its user wants now is not known; what was agreed at the rent still holds.
        return None
    if job.status.attempt > node.spec.attempt:
        return end(seen, Reason.NODE_DELETED, "the job is already at a later attempt")
    if is_finished(job.status) and job.status.node_uid != node.metadata.uid:
        # The request to create it arrived after its sender had given it up: it is never recorded.
        return end(seen, Reason.NODE_DELETED, "the job was over before it recorded this attempt")
    return None


def stop_if_suspended(seen: NodeObservation) -> NodePlan | None:
    """Stops the workload of a suspended job."""
    if seen.job is None or not seen.job.spec.suspend:
        return None
    queued = waits_in_queue(seen.job, kueue=seen.world.kueue)
    words = "its queue took its admission back" if queued else "spec.suspend was set"
    return stop(seen, Reason.SUSPENDED, words)


def enforce_caps(seen: NodeObservation) -> NodePlan | None:
    """Ends an attempt whose machine moves more data, or costs more, than was agreed."""
    rent, job, lease = seen.node.status.rent, seen.job, own_lease(seen)
    if rent is None or lease is None:
        return None
    agreed = job.spec.data if job is not None else rent
    down, up = lease.download_gb or Fraction(0), lease.upload_gb or Fraction(0)
    most_down, most_up = agreed.max_download_gb, agreed.max_upload_gb
    if (most_down is not None and down > most_down) or (most_up is not None and up > most_up):
        return end(
            seen,
            Reason.TRAFFIC_EXCEEDED,
            f"{float(down):.1f} GB were downloaded and {float(up):.1f} GB uploaded; "
            f"data.maxDownloadGB is {most_down} and data.maxUploadGB is {most_up}",
        )
    quoted = Fraction(rent.gpu_usd_per_hour) + Fraction(rent.disk_usd_per_hour)
    if lease.usd_per_hour is not None and lease.usd_per_hour > quoted * PRICE_TOLERANCE:
        return end(
            seen,
            Reason.PRICE_CHANGED,
            f"the machine costs {float(lease.usd_per_hour):.4f} $/h, but {float(quoted):.4f} $/h "
            "was quoted",
        )
    return None


def _end_if_refused(seen: NodeObservation) -> NodePlan | None:
    """Ends the attempt, and the job, if the registry will give its image to no machine.

    One listing may show the words of another moment; several that say the same do not, and neither
    does one that says what another job of the namespace has lately been told.
    """
    job, world, lease = seen.job, seen.world, own_lease(seen)
    if seen.stage is not Stage.BOOTING or job is None or lease is None:
        return None
    image, namespace = job.spec.image, job.metadata.namespace

    def is_refused(row: Lease) -> bool:
        failure = pull_failure(row.status_message, image)
        return row.status != "running" and failure is PullFailure.PERMANENT

    known = world.images.unusable_since(namespace, image, world.now) is not None
    if not is_refused(lease) or not (known or is_repeated(seen, is_refused)):
        return None
    words = f"image {image[:200]} cannot be used; the provider says: {lease.status_message}"
    return end(seen, Reason.IMAGE_UNUSABLE, f"{words}; {_OTHER_IMAGE}")


def _end_without_server(seen: NodeObservation) -> NodePlan | None:
    """Ends the attempt, and the job, if no SSH server can be installed in its image.

    An installer may fail by one way and go on by another; while it does, its log grows.
    """
    log, job, world = seen.memory.boot_log, seen.job, seen.world
    if seen.stage is not Stage.BOOTING or job is None or log is None or not log.missing_server:
        return None
    if world.monotonic - log.since < world.limits.installer_silence_seconds:
        return None
    words = f"no SSH server can be started in image {job.spec.image[:200]}"
    return end(
        seen, Reason.IMAGE_UNUSABLE, f"{words}; its log says: {log.missing_server}; {_SERVED_IMAGE}"
    )


def _end_unbooted(seen: NodeObservation, reason: Reason, words: str) -> NodePlan:
    """Ends an attempt whose machine does not come up, and the job if that is its image's fault."""
    job, rent, others = seen.job, seen.node.status.rent, failed_hosts(seen)
    is_unknown = is_unbooted(reason, blame(reason, evidence_of(seen)))
    if not is_unknown or seen.stage is not Stage.BOOTING or not others or image_works(seen):
        return end(seen, reason, words)
    assert job is not None, "its image did not come up on other hosts"
    assert rent is not None, "a machine boots"
    hosts = f"host {rent.host_id}, nor on host {min(others)}"
    told = f"image {job.spec.image[:200]} came up neither on {hosts}; the last time {words}"
    return end(seen, Reason.IMAGE_UNUSABLE, f"{told}; {_OTHER_IMAGE}")


def _start_if_still(seen: NodeObservation) -> NodePlan | None:
    """Tells a machine that was stopped before it had booted to run, once, and waits for that.

    A new machine may be left standing, and runs when it is told again (vastsim/FACTS.md, Instance
    states).
    """
    lease, now, shown = seen.node.status.lease, seen.world.now, own_lease(seen)
    if seen.stage is not Stage.BOOTING or lease is None:
        return None
    still = stands_still(seen)
    if lease.told_to_run_at is None:
        if not still:
            return None
        told = lease.model_copy(update={"told_to_run_at": now})
        status = seen.node.status.model_copy(update={"lease": told})
        words = "the machine stands still, which nobody asked for; it is told to run"
        plan = progress(status, Reason.BOOTING, words)
        return replace(plan, effects=(effects.StartMachine(lease.instance_id),))
    left = seen.world.limits.standstill_seconds - (now - lease.told_to_run_at).total_seconds()
    stopped = shown is not None and (
        shown.intended_status == "stopped" or shown.status in DENYING_STATUSES
    )
    if left > 0:
        return wait(seen, Reason.BOOTING, "the machine was told to run", left) if stopped else None
    if not still:
        return None
    words = "the machine stood still, and did not run when it was told to"
    if shown is None or not shown.status_message:
        # Nothing shows that it ever began to pull its image.
        return end(seen, Reason.MACHINE_STOPPED, words)
    return _end_booting(seen, words)


def _end_booting(seen: NodeObservation, words: str) -> NodePlan:
    """Ends an attempt whose machine was given enough time to boot."""
    lease = own_lease(seen)
    said = lease.status_message if lease and seen.stage is Stage.BOOTING else ""
    failure = evidence_of(seen).pull_failure if said else None
    if failure in (PullFailure.PASSING, PullFailure.DISK_FULL):
        return end(seen, Reason.PULL_FAILED, f"{words}; the provider says: {said}")
    told = f"{words}; the provider says: {said}" if said else words
    return _end_unbooted(seen, Reason.BOOT_TIMEOUT, told)


def give_up_lost(seen: NodeObservation) -> NodePlan | None:
    """Ends an attempt whose machine is lost, or never came up."""
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
                f"the machine started {late.total_seconds():.0f} s after its rent request expired",
            )
    if (unusable := _end_if_refused(seen) or _end_without_server(seen)) is not None:
        return unusable
    still = stands_still(seen)
    if still and world.not_ready and world.not_ready.reason is Reason.CREDIT_EXHAUSTED:
        # Without credit the provider stops what runs (vastsim/FACTS.md, Credit).
        return end(seen, Reason.CREDIT_EXHAUSTED, world.not_ready.message)
    waits = still and status.rent.bid_usd_per_hour is not None
    if not waits and (stopped := _start_if_still(seen)) is not None:
        return stopped
    if not waits and still and lease is not None and lease.status in DENYING_STATUSES:
        words = f"the provider has stopped the machine and shows it as {lease.status}"
        return end(seen, Reason.MACHINE_STOPPED, words)
    seen_at = seen.memory.marker_seen_at
    if seen_at is not None and gone_at(seen, after=seen_at + limits.list_lag_seconds) is not None:
        return end(seen, Reason.LEASE_VANISHED, "the provider no longer lists the machine")
    booted = status.run is not None or status.is_paused
    if not booted and booting_seconds(seen) >= limits.boot_cap_seconds:
        if status.machine is None and lease is not None and lease.status == "running":
            words = (
                "the machine runs, but its log did not show its host key within "
                f"{limits.boot_cap_seconds:.0f} s: the machine is broken, or its image holds "
                "neither an SSH server nor apt-get to install one"
            )
            return end(seen, Reason.HOST_KEY_UNAVAILABLE, words)
        words = f"the workload did not start within {limits.boot_cap_seconds:.0f} s"
        return _end_booting(seen, words)
    if waits or status.is_paused or health(witnesses(seen), limits) is not Health.LOST:
        return None
    return _end_unbooted(seen, Reason.HOST_LOST, _lost_words(seen))


def _lost_words(seen: NodeObservation) -> str:
    said, lease = witnesses(seen), own_lease(seen)
    silence = "" if said.silent_seconds is None else f" for {said.silent_seconds:.0f} s"
    if said.denied_seconds is None:
        return f"the machine has not answered{silence}"
    shown = f"the provider has shown the machine as {lease.status if lease else 'not running'} "
    shown += f"for {said.denied_seconds:.0f} s"
    return f"{shown}, and it has not answered{silence}" if silence else shown
