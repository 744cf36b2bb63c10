"""The driver pod and its key: both exist before the machine does."""

from gpujob.api.gpunode import DriverStatus
from gpujob.api.reasons import Reason
from gpujob.core import effects
from gpujob.core.machine.driver_pod import driver_pod
from gpujob.core.node.answers import NodePlan, because, end, progress, wait
from gpujob.core.node.facts import PRESENT_SECONDS
from gpujob.core.node.stage import Stage
from gpujob.core.observation import NodeObservation, Pod


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
    status, world, limits, pod = seen.node.status, seen.world, seen.world.limits, seen.pod
    driver = status.driver
    patience = limits.driver_replacement_seconds if status.rent else limits.driver_pending_seconds
    if pod is None:
        missing = seen.memory.pod_missing_since
        if missing is not None and world.monotonic - missing >= patience:
            words = f"the driver pod could not be created within {patience:.0f} s"
            return _driver_ended(seen, words + because(seen.memory.pod_problem))
        if seen.job_problem:
            return wait(seen, Reason.AWAITING_DRIVER, seen.job_problem, 5.0)
        if not world.transport_authorities:
            words = "the controller is making the certificate by which its drivers know it"
            return wait(seen, Reason.AWAITING_DRIVER, words, 1.0)
        manifest = driver_pod(seen)
        words = "creating the driver pod" + because(seen.memory.pod_problem)
        return wait(seen, Reason.AWAITING_DRIVER, words, 5.0, (effects.CreateDriver(manifest),))
    if pod.phase in ("Succeeded", "Failed") and not pod.is_being_deleted:
        todo = (effects.DeleteDriver(pod.name, pod.uid),)
        words = f"the driver pod ended without a result{because(pod.waiting)}; replacing it"
        return wait(seen, Reason.AWAITING_DRIVER, words, 2.0, todo)
    if driver is None or driver.pod_uid != pod.uid:
        recorded = DriverStatus(pod_name=pod.name, pod_uid=pod.uid)
        status = status.model_copy(update={"driver": recorded})
        return progress(status, Reason.AWAITING_DRIVER, f"driver pod {pod.name} was created")
    if driver.ready_at is not None and (silent := _silent(seen, pod)) is not None:
        return silent
    if seen.report is not None:
        if seen.report.data_problem and status.rent is None:
            return end(seen, Reason.DATA_UNUSABLE, seen.report.data_problem)
        if seen.report.login_problem and status.rent is None:
            return end(seen, Reason.PULL_SECRET_UNUSABLE, seen.report.login_problem)
        if driver.ready_at is None:
            ready = driver.model_copy(update={"ready_at": world.now})
            status = status.model_copy(update={"driver": ready})
            return progress(status, Reason.AWAITING_QUOTE, "the driver is running")
        return None
    if driver.ready_at is None:
        waited = (world.now - pod.created_at).total_seconds()
        detail = because(pod.waiting)
        pulls = seen.job.spec.image_pull_secret if seen.job else None
        if pulls is not None and status.rent is None:
            # Kubernetes says this in an event of the pod alone.
            detail += f"; it cannot start unless Secret {pulls.name} exists"
        if waited >= patience:
            return _driver_ended(
                seen, f"the driver pod did not report within {patience:.0f} s{detail}"
            )
        words = f"the driver pod is {pod.phase}{detail}"
        return None if status.rent else wait(seen, Reason.AWAITING_DRIVER, words, 5.0)
    # It reported to an earlier process of the operator, and will report to this one within seconds.
    words = "waiting for the driver's report"
    return None if status.rent else wait(seen, Reason.AWAITING_DRIVER, words, 5.0)


def _silent(seen: NodeObservation, pod: Pod) -> NodePlan | None:
    """Replaces a driver that has not reported for long: its node may be cut off, or its trust gone.

    The machine goes on meanwhile, as long as its watchdog hears of a driver at all.
    """
    limits, silence = seen.world.limits, seen.driver_silence_seconds
    is_rented = seen.node.status.rent is not None
    words = f"the driver has not reported for {silence:.0f} s"
    if is_rented and silence >= limits.heartbeat_stale_seconds:
        return _driver_ended(seen, words)
    if silence >= limits.driver_replacement_seconds and not pod.is_being_deleted:
        todo = (effects.DeleteDriver(pod.name, pod.uid),)
        return wait(seen, Reason.AWAITING_DRIVER, f"{words}; replacing it", 2.0, todo)
    if not is_rented and silence > PRESENT_SECONDS:
        return wait(seen, Reason.AWAITING_DRIVER, words, 2.0)
    return None


def _driver_ended(seen: NodeObservation, words: str) -> NodePlan:
    rented = seen.node.status.rent is not None
    return end(seen, Reason.DRIVER_LOST if rented else Reason.DRIVER_NOT_STARTED, words)
