"""The steps from a rented machine to a running workload, and what is kept up while it runs."""

from dataclasses import replace
from datetime import timedelta

from gpujob.api.gpunode import RunStatus
from gpujob.api.reasons import Reason
from gpujob.core import effects
from gpujob.core.effects import Plan
from gpujob.core.machine.preflight import as_status, refusal
from gpujob.core.market.images import Found
from gpujob.core.money import format_usd, micro_up, parse_usd
from gpujob.core.node.answers import NodePlan, because, end, progress, wait
from gpujob.core.node.extension import raise_refusal
from gpujob.core.node.facts import (
    boot_began,
    can_be_reached,
    image_trial,
    next_look,
    own_lease,
    present_report,
    reached,
    running_message,
)
from gpujob.core.node.stage import Stage
from gpujob.core.node.upkeep import up_to_date
from gpujob.core.observation import NodeObservation

KEY_RETRY_SECONDS = 30.0
"""Until the provider is asked again to take the node's key; doubled with each time it did not."""
KEY_DOUBLINGS_MAX = 6


def boot(seen: NodeObservation) -> NodePlan | None:
    """Waits for the machine to boot, and reads its host key before anything is sent to it."""
    status = seen.node.status
    if seen.stage is not Stage.BOOTING or status.rent is None or status.lease is None:
        return None
    lease = own_lease(seen)
    if lease is None or not can_be_reached(lease):
        shown = (lease.status or "being created") if lease else "not listed yet"
        words = f"the machine is {shown}" + because(lease.status_message if lease else "")
        return wait(seen, Reason.BOOTING, words, 2.0)
    if seen.memory.host_key is None:
        reading = effects.ReadHostKey(status.lease.instance_id, status.rent.nonce)
        todo = (*_key_to_attach(seen), reading)
        words = "reading the host key from the machine's log"
        return wait(seen, Reason.BOOTING, words, 2.0, todo)
    machine = reached(lease, seen.memory.host_key)
    status = up_to_date(seen).model_copy(update={"machine": machine})
    return progress(status, Reason.CONNECTING, "the host key is pinned; the driver connects")


def _key_to_attach(seen: NodeObservation) -> tuple[effects.Effect, ...]:
    """Returns what gives the node's key to the provider, too, which may write the list of keys
    anew, hours later.

    Once for each machine, and only for a machine that carries this node's mark. The start script
    has put the key there already; so a failure ends nothing, and is tried again less and less.
    """
    status, memory, lease = seen.node.status, seen.memory, own_lease(seen)
    if status.lease is None or status.ssh_public_key is None or lease is None:
        return ()
    done = status.lease.key_attached_at is not None or memory.key_attached_at is not None
    if done or lease.status != "running" or lease.mark != str(seen.mark):
        return ()
    pause = KEY_RETRY_SECONDS * 2 ** min(memory.key_tries, KEY_DOUBLINGS_MAX)
    if memory.key_tried_at is not None and seen.world.monotonic - memory.key_tried_at < pause:
        return ()
    return (effects.AttachKey(status.lease.instance_id, status.ssh_public_key),)


def measure(seen: NodeObservation) -> NodePlan | None:
    """Ends the attempt on a machine that is not what its offer said, before it gets work."""
    status, job = seen.node.status, seen.job
    if seen.stage is not Stage.MEASURING or status.rent is None or job is None:
        return None
    measured = seen.report.measured if seen.report else None
    if measured is None:
        words = "the driver is connecting" + because(seen.report.message if seen.report else "")
        return wait(seen, Reason.MEASURING, words, 2.0)
    if (refused := refusal(measured, job.spec, status.rent, seen.world.limits)) is not None:
        return end(seen, refused.reason, refused.message)
    found = as_status(measured, seen.world.now)
    status = status.model_copy(update={"measured": found})
    words = f"the machine passed the preflight check: {found.gpu}"
    plan = progress(status, Reason.CONNECTING, words)
    trial = image_trial(seen, job.spec.image, Found.WORKS)
    return replace(plan, effects=(effects.RememberImage(trial),))


def connect(seen: NodeObservation) -> NodePlan | None:
    """Records that the run began, when the driver says so and by our clock."""
    status = seen.node.status
    if seen.stage is not Stage.STARTING:
        return None
    report = present_report(seen)
    ran = report.run_seconds if report else None
    if ran is None:
        words = "the driver is connecting" + because(seen.report.message if seen.report else "")
        return wait(seen, Reason.CONNECTING, words, 2.0)
    started = max(seen.world.now - timedelta(seconds=ran), boot_began(seen))
    status = status.model_copy(update={"run": RunStatus(started_at=started)})
    return progress(status, Reason.RUNNING, "the workload is running")


def keep_up(seen: NodeObservation) -> NodePlan | None:
    """Keeps the highest price seen and current figures while the workload runs."""
    status = seen.node.status
    if status.lease is None:
        return None
    lease, recorded, status = own_lease(seen), status.lease, up_to_date(seen)
    price = lease.usd_per_hour if lease is not None else None
    if price is not None and micro_up(price) > parse_usd(recorded.usd_per_hour):
        dearer = {"usd_per_hour": format_usd(micro_up(price))}
        status = status.model_copy(update={"lease": recorded.model_copy(update=dearer)})
    todo = _key_to_attach(seen)
    if status == seen.node.status and not todo:
        return None
    return Plan(
        status=status,
        reason=Reason.RUNNING,
        message=running_message(seen) + raise_refusal(seen),
        effects=todo,
        requeue_seconds=next_look(seen),
    )
