"""The driver pod and its key: both exist before the machine does.

Each name is used for one pod: one that is gone, or that does not end because its node is dead, is
followed by a pod with the next name. Only the pod that is recorded is told more than to wait, so of
two drivers one works (`core.machine.assignment`). The first is recorded once it has reported, with
what follows from that: no later than with the rent's marker. What is wrong with a driver never
speaks against the machine. Before a machine is rented it costs nothing, so the node waits for as
long as it takes.
"""

from dataclasses import replace

from gpujob.api.gpunode import DriverStatus
from gpujob.api.reasons import Reason
from gpujob.core import effects
from gpujob.core.budget.cover import Rejected, claim_of, reserve_in_all
from gpujob.core.machine.driver_pod import driver_pod, driver_pod_name
from gpujob.core.money import format_usd, parse_usd
from gpujob.core.node.answers import NodePlan, because, end, progress, wait
from gpujob.core.node.facts import PRESENT_SECONDS
from gpujob.core.node.stage import UNREADY, Stage
from gpujob.core.observation import NodeObservation, Pod
from gpujob.core.refusals import told

PAUSE_SECONDS, PAUSE_MAX_SECONDS = 5.0, 45.0
"""From the end of the second driver pod to the next one; doubled for each further one."""


def make_key(seen: NodeObservation) -> NodePlan | None:
    """Makes the node's own SSH key first: the driver pod mounts it, and the machine trusts it."""
    if seen.stage is not Stage.AWAITING_KEY:
        return None
    if (key := seen.memory.public_key) is not None:
        status = seen.node.status.model_copy(update={"ssh_public_key": key})
        return progress(status, Reason.AWAITING_DRIVER, "the SSH key was created")
    return wait(seen, Reason.AWAITING_DRIVER, "creating the SSH key", 1.0, (effects.CreateKey(),))


def start_driver(seen: NodeObservation) -> NodePlan | None:
    """Starts the driver, which must report before anything is rented, and replaces a lost one."""
    status, limits = seen.node.status, seen.world.limits
    is_rented = status.rent is not None
    if is_rented and seen.unheard_seconds >= limits.heartbeat_stale_seconds:
        # The machine's own watchdog gives it up at the same time.
        return _lost(seen, f"no driver has reported for {seen.unheard_seconds:.0f} s")
    name = driver_pod_name(seen.node.metadata.name, status.pod_number)
    pod = seen.pod if seen.pod is not None and seen.pod.name == name else None
    if (words := _used_up(seen, name, pod)) is not None:
        status = status.model_copy(update={"driver_pod_number": status.pod_number + 1})
        return _create(replace(seen, node=seen.node.model_copy(update={"status": status})), words)
    return _create(seen, "creating the driver pod") if pod is None else _mind(seen, pod)


def _used_up(seen: NodeObservation, name: str, pod: Pod | None) -> str | None:
    """Returns why the next pod has another name than the present one; None = it has not."""
    driver, sight = seen.node.status.driver, seen.memory.pod_sight
    if seen.taken_name == name:
        return f"pod {name} is not this node's; the driver gets another name"
    if pod is None:
        was_there = sight is not None and sight.name == name
        is_gone = was_there or (driver is not None and driver.pod_name == name)
        return f"driver pod {name} is gone; another one follows" if is_gone else None
    if not pod.is_being_deleted or sight is None or sight.leaving_since is None:
        return None
    # The pods of a dead node are shown as being deleted until somebody removes it
    # (https://github.com/kubernetes/kubernetes/issues/72226).
    leaving = seen.world.monotonic - sight.leaving_since
    if leaving < pod.grace_seconds:
        return None
    return f"driver pod {name} has not ended in its {pod.grace_seconds:.0f} s; another one follows"


def _create(seen: NodeObservation, words: str) -> NodePlan:
    """Creates the driver pod, unless the last ones came to nothing just now."""
    world, limits = seen.world, seen.world.limits
    missing = seen.memory.pod_missing_since
    patience = limits.driver_replacement_seconds
    is_rented = seen.node.status.rent is not None
    if is_rented and missing is not None and world.monotonic - missing >= patience:
        refused = told(seen.refusals, (effects.CreateDriver,), world.monotonic)
        late = f"the driver pod could not be created within {patience:.0f} s"
        return _lost(seen, late + because(refused))
    if seen.job_problem:
        return wait(seen, Reason.AWAITING_DRIVER, seen.job_problem, 5.0)
    if not world.transport_authorities:
        words = "the controller is making the certificate by which its drivers know it"
        return wait(seen, Reason.AWAITING_DRIVER, words, 1.0)
    if (left := _pause_left(seen)) > 0:
        words = "the last driver pods came to nothing; another one follows within a minute"
        return wait(seen, Reason.AWAITING_DRIVER, words, left)
    todo = (effects.CreateDriver(driver_pod(seen)),)
    return wait(seen, Reason.AWAITING_DRIVER, words, 5.0, todo)


def _pause_left(seen: NodeObservation) -> float:
    """Returns in how many seconds another driver pod may be created; the second one at once."""
    earlier, sight = seen.node.status.pod_number - 2, seen.memory.pod_sight
    if earlier <= 0 or sight is None:
        return 0.0
    ended = sight.gone_since if sight.leaving_since is None else sight.leaving_since
    if ended is None:
        return 0.0
    pause: float = min(PAUSE_SECONDS * 2 ** min(earlier - 1, 16), PAUSE_MAX_SECONDS)
    return max(ended + pause - seen.world.monotonic, 0.0)


def _mind(seen: NodeObservation, pod: Pod) -> NodePlan | None:
    """Waits until a driver pod reports, and gives one up that does not; None = it does."""
    status, driver = seen.node.status, seen.node.status.driver
    if pod.phase in ("Succeeded", "Failed") and not pod.is_being_deleted:
        todo = (effects.DeleteDriver(pod.name, pod.uid),)
        words = f"the driver pod ended without a result{because(pod.waiting)}; replacing it"
        return wait(seen, Reason.AWAITING_DRIVER, words, 2.0, todo)
    if driver is None and status.rent is None and seen.report is None:
        return _unready(seen, pod)
    if driver is None or driver.pod_uid != pod.uid:
        recorded = DriverStatus(pod_name=pod.name, pod_uid=pod.uid)
        status = status.model_copy(update={"driver": recorded})
        return progress(status, Reason.AWAITING_DRIVER, f"driver pod {pod.name} is recorded")
    if driver.ready_at is not None and (silent := _silent(seen, pod)) is not None:
        return silent
    if seen.report is not None:
        if seen.report.is_replaced and not pod.is_being_deleted:
            # Numbers only grow, but a restored record may name an earlier driver.
            words = "the machine has heard a later driver than the recorded one; another follows"
            todo = (effects.DeleteDriver(pod.name, pod.uid),)
            return wait(seen, Reason.AWAITING_DRIVER, words, 2.0, todo)
        if seen.report.data_problem and status.rent is None:
            return end(seen, Reason.DATA_UNUSABLE, seen.report.data_problem)
        if seen.report.login_problem and status.rent is None:
            return end(seen, Reason.PULL_SECRET_UNUSABLE, seen.report.login_problem)
        if driver.ready_at is None:
            ready = driver.model_copy(update={"ready_at": seen.world.now})
            status = status.model_copy(update={"driver": ready})
            return progress(status, Reason.AWAITING_QUOTE, "the driver is running")
        return None
    if driver.ready_at is None:
        return _unready(seen, pod)
    # It reported to an earlier process of the operator, and will report to this one within seconds.
    words = "waiting for the driver's report"
    return None if status.rent else wait(seen, Reason.AWAITING_DRIVER, words, 5.0)


def _unready(seen: NodeObservation, pod: Pod) -> NodePlan | None:
    """Waits for the first report of a driver; what keeps it from starting may be repaired."""
    limits, status, sight = seen.world.limits, seen.node.status, seen.memory.pod_sight
    waited = seen.world.monotonic - sight.since if sight else 0.0
    detail = because(pod.waiting)
    pulls = seen.job.spec.image_pull_secret if seen.job else None
    if pulls is not None and status.rent is None:
        # Kubernetes says this in an event of the pod alone.
        detail += f"; it cannot start unless Secret {pulls.name} exists"
    if status.rent is not None:
        patience = limits.driver_replacement_seconds
        words = f"the driver pod did not report within {patience:.0f} s{detail}"
        return _lost(seen, words) if waited >= patience else None
    if waited >= limits.driver_pending_seconds and not pod.is_being_deleted:
        words = f"the driver pod did not report within {limits.driver_pending_seconds:.0f} s"
        todo = (effects.DeleteDriver(pod.name, pod.uid),)
        return wait(seen, Reason.AWAITING_DRIVER, f"{words}{detail}; replacing it", 2.0, todo)
    return wait(seen, Reason.AWAITING_DRIVER, f"the driver pod is {pod.phase}{detail}", 5.0)


def _silent(seen: NodeObservation, pod: Pod) -> NodePlan | None:
    """Replaces a driver that has not reported for long: its node may be cut off, or its trust gone.

    The machine goes on meanwhile, as long as its watchdog hears of a driver at all.
    """
    limits, silence = seen.world.limits, seen.driver_silence_seconds
    words = f"the driver has not reported for {silence:.0f} s"
    if silence >= limits.driver_replacement_seconds and not pod.is_being_deleted:
        todo = (effects.DeleteDriver(pod.name, pod.uid),)
        return wait(seen, Reason.AWAITING_DRIVER, f"{words}; replacing it", 2.0, todo)
    if seen.node.status.rent is None and silence > PRESENT_SECONDS:
        return wait(seen, Reason.AWAITING_DRIVER, words, 2.0)
    return None


def _lost(seen: NodeObservation, words: str) -> NodePlan:
    return end(seen, Reason.DRIVER_LOST, words)


def without_reservation(seen: NodeObservation, plan: NodePlan) -> NodePlan:
    """Returns the plan with nothing reserved, once the node has waited for its driver for long, or
    if not all budgets can hold it: then none does.

    It is reserved anew before anything is rented (`core.node.rent`).
    """
    status = plan.status
    is_unrented = status.end is None and status.rent is None
    if not is_unrented or not parse_usd(seen.node.reserved_usd):
        return plan
    if not (_has_waited_long(seen) or _is_rejected(seen)):
        return plan
    return replace(plan, status=status.model_copy(update={"reserved_usd": format_usd(0)}))


def _has_waited_long(seen: NodeObservation) -> bool:
    since = seen.memory.unready_since
    if seen.stage not in UNREADY or since is None:
        return False
    return seen.world.monotonic - since >= seen.world.limits.driver_pending_seconds


def _is_rejected(seen: NodeObservation) -> bool:
    """Whether a budget, as it was last seen, cannot hold what the node says."""
    node, world = seen.node, seen.world
    books = seen.budgets
    if books is None:
        books = world.budgets.of(node.metadata.namespace)
    if books is None or seen.job is None:
        return False
    answer = reserve_in_all(
        books,
        seen.job.metadata.labels,
        claim_of(node),
        world.now,
        is_required=world.requires_budget,
    )
    return isinstance(answer, Rejected)
