"""The one rent request, its marker, and what came of it."""

from dataclasses import replace
from datetime import timedelta
from math import ceil

from gpujob.api.gpujob import GpuJob
from gpujob.api.gpunode import LeaseStatus, RentAnswer, RentMarker
from gpujob.api.reasons import Reason
from gpujob.core import effects
from gpujob.core.budget.cover import (
    Rejected,
    claim_of,
    may_say_more,
    reserve_in_all,
    seconds_to_look,
)
from gpujob.core.cost.choice import avoided_machines
from gpujob.core.cost.confidence import rounded_down
from gpujob.core.cost.gate import Verdict, judge
from gpujob.core.cost.question import CostGateError
from gpujob.core.cost.template import template_of
from gpujob.core.effects import Plan
from gpujob.core.job.strays import strays_listed
from gpujob.core.machine.start_script import start_script
from gpujob.core.market.listings import Lease
from gpujob.core.money import floor_usd, format_usd, micro_up, parse_usd, short_usd
from gpujob.core.node.answers import NodePlan, account_doubt, end, follow, progress, wait
from gpujob.core.node.facts import gone_at, is_anothers_number, marked_leases
from gpujob.core.node.stage import Stage
from gpujob.core.observation import (
    NodeObservation,
    RentAccepted,
    RentRefused,
    Unavailable,
    told_last,
)

BIRTH_GRACE = timedelta(seconds=30)
"""A machine that started more than this after `rentNotAfter` was requested too late."""


def ask_for_machine(seen: NodeObservation) -> NodePlan | None:
    """Asks the gate again with a fresh quote, stores the marker, then sends the one request."""
    status, world, job = seen.node.status, seen.world, seen.job
    if seen.stage is not Stage.READY_TO_RENT:
        return None
    if job is None:
        return wait(seen, Reason.AWAITING_NODE, seen.job_problem, world.limits.poll_seconds)
    # A job that does not know its node would neither look for the node's machine nor charge it.
    if job.status.node_uid != seen.node.metadata.uid:
        return wait(seen, Reason.AWAITING_NODE, "the job has not recorded this node yet", 1.0)
    if strays := strays_listed(world, job, [seen.node.metadata.uid]):
        words = f"instance {strays[0].instance_id} of this job is destroyed and charged first"
        return wait(seen, Reason.AWAITING_NODE, words, world.limits.poll_seconds)
    if world.not_ready is not None:
        why = world.not_ready
        return wait(seen, why.reason, why.message, world.limits.poll_seconds)
    if world.account_id is None or not world.listings:
        words = "the provider has not listed the account's machines yet"
        return wait(seen, Reason.PROVIDER_UNAVAILABLE, words, 2.0)
    if job.status.node_account_id != world.account_id:
        # If this node vanished, the job would look for its machine on the account it has recorded.
        words = f"the API key now belongs to account {world.account_id}; nothing was rented"
        return end(seen, Reason.ACCOUNT_CHANGED, words)
    if (reserving := _reserve_more(seen, job)) is not None:
        return reserving
    if (unheld := _await_budgets(seen, job)) is not None:
        return unheld
    if job.spec.image_pull_secret is not None and not seen.has_login:
        words = "waiting for the driver to read the image pull secret"
        return wait(seen, Reason.AWAITING_DRIVER, words, 2.0)
    if seen.quotes is None:
        asking = (Reason.AWAITING_QUOTE, "asking the provider for prices")
        reason, words = told_last(status.conditions) or asking
        again = wait(seen, reason, words, world.limits.gate_retry_seconds)
        return replace(again, wants_quotes=True)
    if isinstance(seen.quotes, Unavailable):
        return wait(seen, seen.quotes.reason, seen.quotes.message, world.limits.gate_retry_seconds)
    reserved = parse_usd(seen.node.reserved_usd)
    try:
        admission = judge(
            world.question(
                job.spec,
                seen.quotes,
                namespace=job.metadata.namespace,
                spent_microusd=parse_usd(job.status.cost.spent_usd),
                run_seconds_used=job.status.run_seconds,
                avoided_machines=avoided_machines(job.status),
                reserved_microusd=reserved,
            )
        )
    except CostGateError as refused:
        return wait(seen, refused.reason, refused.message, world.limits.gate_retry_seconds)
    marker = _marker(seen, admission, world.account_id)
    status = status.model_copy(update={"rent": marker})
    started = start_script(
        ssh_public_key=status.ssh_public_key or "",
        nonce=marker.nonce,
        provider_url=world.provider_url,
        born_before=marker.not_after + BIRTH_GRACE,
        money_deadline_seconds=marker.money_deadline_seconds,
        heartbeat_stale_seconds=int(world.limits.heartbeat_stale_seconds),
        max_download_gb=job.spec.data.max_download_gb,
        max_upload_gb=job.spec.data.max_upload_gb,
    )
    request = effects.Rent(
        offer_id=admission.offer.offer_id,
        image=job.spec.image,
        disk_gb=job.spec.resources.disk_gb,
        bid_usd_per_hour=admission.offer.bid_usd_per_hour,
        needs_login=job.spec.image_pull_secret is not None,
        mark=str(seen.mark),
        start_script=started.script,
        setup=started.setup,
        not_after=marker.not_after,
    )
    bound = short_usd(admission.estimate.total_microusd)
    words = f"renting {marker.gpu} in {marker.location}; the attempt may cost up to {bound}"
    return Plan(
        status=status,
        reason=Reason.RENT_REQUESTED,
        message=words,
        effects=(request,),
        requeue_seconds=0,
    )


def _reserve_more(seen: NodeObservation, job: GpuJob) -> NodePlan | None:
    """Reserves what the job's ceiling leaves now: its user may have raised it since, or nothing was
    reserved while the node waited for its driver.
    """
    held, recorded = (
        parse_usd(seen.node.reserved_usd),
        parse_usd(job.status.node_reserved_usd or "0"),
    )
    if recorded > held:
        # Else a pass over the job that is late could take back what is reserved anew.
        words = "the job has not recorded yet that less is reserved for this node"
        return wait(seen, Reason.AWAITING_NODE, words, 1.0)
    left = floor_usd(job.spec.cost.ceiling) - parse_usd(job.status.cost.spent_usd)
    if left > held:
        if (waiting := _may_reserve(seen, job, left)) is not None:
            return waiting
        status = seen.node.status.model_copy(update={"reserved_usd": format_usd(left)})
        words = f"{short_usd(left)} are reserved for this attempt now"
        return progress(status, Reason.AWAITING_NODE, words)
    if recorded < held:
        # If this node vanished, the job would charge less than it may have cost.
        words = "the job has not recorded yet what is reserved for this node"
        return wait(seen, Reason.AWAITING_NODE, words, 1.0)
    return None


def _may_reserve(seen: NodeObservation, job: GpuJob, microusd: int) -> NodePlan | None:
    """Waits until the budgets would hold so much for the node, and each that holds it holds what it
    says now; None = they would. The budgets follow once it is stored.
    """
    world, node = seen.world, seen.node
    if seen.budgets is None:
        return _look_at_budgets(seen)
    claim = replace(claim_of(node), microusd=microusd)
    answer = reserve_in_all(
        seen.budgets, job.metadata.labels, claim, world.now, is_required=world.requires_budget
    )
    if isinstance(answer, Rejected):
        return _rejected(seen, answer)
    if may_say_more(seen.budgets, node):
        return None
    words = "a GpuBudget still holds for this node what was reserved before"
    return wait(seen, Reason.AWAITING_NODE, words, 1.0, (follow(node),))


def _await_budgets(seen: NodeObservation, job: GpuJob) -> NodePlan | None:
    """Waits until each budget that covers the job holds what the node says; None = they do.

    Of two budgets one may have been stored and the other not, and neither by this process: so only
    what is read after the node shows it (DECISIONS.md, A budget is a ledger in one object).
    """
    world, node = seen.world, seen.node
    if seen.budgets is None:
        return _look_at_budgets(seen)
    answer = reserve_in_all(
        seen.budgets,
        job.metadata.labels,
        claim_of(node),
        world.now,
        is_required=world.requires_budget,
    )
    if isinstance(answer, Rejected):
        return _rejected(seen, answer)
    if not answer.ledgers:
        return None
    words = f"reserving ${node.reserved_usd} for it in {', '.join(answer.ledgers)}"
    return wait(seen, Reason.AWAITING_NODE, words[:1024], 0, (follow(node),))


def _look_at_budgets(seen: NodeObservation) -> NodePlan:
    asking = (Reason.AWAITING_QUOTE, "reading the GpuBudgets")
    reason, words = told_last(seen.node.status.conditions) or asking
    return replace(wait(seen, reason, words, 1.0), wants_budgets=True)


def _rejected(seen: NodeObservation, answer: Rejected) -> NodePlan:
    again = seconds_to_look(answer, seen.world.now, seen.world.limits)
    return wait(seen, answer.reason, answer.message[:1024], again)


def _marker(seen: NodeObservation, admission: Verdict, account_id: int) -> RentMarker:
    now, offer, job = seen.world.now, admission.offer, seen.job
    assert job is not None, "judged with its spec"
    disk = offer.disk_usd_per_hour(job.spec.resources.disk_gb)
    bid, lowest = offer.bid_usd_per_hour, offer.lowest_bid_usd_per_hour
    return RentMarker(
        requested_at=now,
        not_after=now + timedelta(seconds=seen.world.limits.rent_not_after_seconds),
        account_id=account_id,
        offer_id=offer.offer_id,
        machine_id=offer.machine_id,
        host_id=offer.host_id,
        gpu=offer.gpu,
        gpu_memory_gb=int(offer.gpu_memory_gb),
        location=offer.location,
        gpu_usd_per_hour=format_usd(micro_up(offer.gpu_usd_per_hour)),
        disk_usd_per_hour=format_usd(micro_up(disk)),
        bid_usd_per_hour=None if bid is None else format_usd(micro_up(bid)),
        lowest_bid_usd_per_hour=(
            None if bid is None or lowest is None else format_usd(micro_up(lowest))
        ),
        download_usd_per_gb=format_usd(micro_up(offer.download_usd_per_gb)),
        upload_usd_per_gb=format_usd(micro_up(offer.upload_usd_per_gb)),
        traffic_reserve_usd=format_usd(admission.estimate.traffic_microusd),
        download_mbps=ceil(offer.download_mbps),
        upload_mbps=ceil(offer.upload_mbps),
        estimate_usd=format_usd(admission.estimate.total_microusd),
        confidence=rounded_down(admission.confidence),
        fuse_usd=format_usd(admission.fuse_microusd),
        money_deadline_seconds=admission.money_deadline_seconds,
        contract_seconds=int(offer.contract_seconds),
        max_leases=seen.world.limits.max_leases,
        stop_seconds=ceil(admission.estimate.stop_seconds),
        max_run_seconds=_run_seconds_left(job),
        template=template_of(job.metadata.namespace, job.spec).digests,
        earlier_run_seconds=job.status.run_seconds,
        max_download_gb=job.spec.data.max_download_gb,
        max_upload_gb=job.spec.data.max_upload_gb,
        nonce=seen.node.metadata.uid.replace("-", ""),
    )


def _run_seconds_left(job: GpuJob) -> int | None:
    deadline = job.spec.active_deadline_seconds
    return None if deadline is None else max(deadline - job.status.run_seconds, 0)


def adopt(seen: NodeObservation) -> NodePlan | None:
    """Finds out what the request rented: once the marker is stored, no other request is sent."""
    world = seen.world
    if seen.stage is not Stage.RENTING:
        return None
    if (answer := answered(seen)) is not None:
        return answer
    if (doubt := account_doubt(seen)) is not None:
        return doubt
    if listed := marked_leases(seen):
        return record_lease(seen, listed[0])
    # The request may have been accepted although its answer was lost, and a new machine is listed
    # late. So only listings after that wait prove that nothing was rented.
    waits_from = proof_starts(seen)
    if waits_from is not None and gone_at(seen, after=waits_from) is not None:
        if may_have_ended(seen):
            words = "no machine is listed, but one may have been, and have ended; it is charged"
            return end(seen, Reason.LEASE_VANISHED, words)
        return _not_rented(seen, Reason.RENT_NOT_CONFIRMED, Reason.RENT_NOT_CONFIRMED.meaning)
    return wait(
        seen,
        Reason.RENT_UNANSWERED,
        "the rent request got no clear answer; looking for the machine by its mark",
        world.limits.poll_seconds,
    )


def answered(seen: NodeObservation) -> NodePlan | None:
    """Returns what follows from the provider's answer, if this process got a clear one."""
    match seen.memory.rent:
        case RentAccepted(instance_id):
            return record_lease(seen, instance_id)
        case RentRefused(reason, message):
            words = f"the provider refused the rent request: {message}"
            return _not_rented(seen, reason, words)
        case _:
            return None


def _not_rented(seen: NodeObservation, reason: Reason, message: str) -> NodePlan:
    answer = RentAnswer(at=seen.world.now, reason=reason, message=message[:1024])
    if seen.node.status.end is not None:
        status = seen.node.status.model_copy(update={"not_rented": answer})
        return progress(status, reason, message)
    plan = end(seen, reason, message)
    return replace(plan, status=plan.status.model_copy(update={"not_rented": answer}))


def record_lease(seen: NodeObservation, found: Lease | int) -> NodePlan:
    """Stores which machine was rented, and the highest price known.

    `found` is a row of a listing, or only the machine's number if the provider's answer named it.
    """
    rent = seen.node.status.rent
    # Without a marker the status contradicts itself, and only the listing shows a price.
    rate = parse_usd(rent.gpu_usd_per_hour) + parse_usd(rent.disk_usd_per_hour) if rent else 0
    if isinstance(found, Lease) and found.usd_per_hour is not None:
        rate = max(rate, micro_up(found.usd_per_hour))
    number = found if isinstance(found, int) else found.instance_id
    lease = LeaseStatus(
        instance_id=number, usd_per_hour=format_usd(rate), recorded_at=seen.world.now
    )
    status = seen.node.status.model_copy(update={"lease": lease})
    what = f"{rent.gpu} in {rent.location}" if rent else "a machine"
    words = f"rented {what} for {short_usd(rate)} per hour, as instance {number}"
    return progress(status, Reason.RENTED, words)


def may_have_ended(seen: NodeObservation) -> bool:
    """Whether a machine that no listing shows any more may have been rented, and be gone already.

    Its watchdog ends it when nobody reaches it, and whoever guards fuses at its money deadline.
    """
    rent, limits = seen.node.status.rent, seen.world.limits
    if rent is None:
        return False
    earliest = min(limits.heartbeat_stale_seconds, rent.money_deadline_seconds)
    return (seen.world.now - rent.requested_at).total_seconds() >= earliest


def proof_starts(seen: NodeObservation) -> float | None:
    """Returns the monotonic time from which listings count as proof; None = it is not set yet."""
    limits, memory = seen.world.limits, seen.memory
    if seen.node.status.lease is not None:
        # No destroy is sent for a machine that is another's: it counts as absent.
        sent = memory.marker_seen_at if is_anothers_number(seen) else memory.destroy_sent_at
        return None if sent is None else sent + limits.list_lag_seconds
    marker = memory.marker_seen_at
    return None if marker is None else marker + limits.not_rented_wait_seconds
