"""Reads from a driver pod what decisions need.

An administrator's injectors may put more containers into it, before the driver's or after it. So
the driver's is found by its name.
"""

from pydantic import ValidationError

from gpujob.adapters.kube import Body
from gpujob.api.transport import Outcome
from gpujob.core import observation as seen
from gpujob.core.machine.driver_pod import CONTAINER

WORDS_LENGTH_MAX = 300


def is_owned_by(body: Body, uid: str) -> bool:
    """Whether an object of this uid owns it."""
    return any(owner.get("uid") == uid for owner in body["metadata"].get("ownerReferences", []))


def pod_from(body: Body) -> seen.Pod:
    """Returns the parts of a pod that decisions need."""
    meta, status = body["metadata"], body.get("status") or {}
    statuses = status.get("containerStatuses") or []
    driver: Body = next((one for one in statuses if one.get("name") == CONTAINER), {})
    phase = status.get("phase", "Pending")
    # A driver that has failed is started again (restartPolicy).
    is_outlived = phase == "Running" and _ended(driver).get("exitCode") == 0
    return seen.Pod(
        name=meta["name"],
        uid=meta["uid"],
        phase="Succeeded" if is_outlived else phase,
        is_being_deleted="deletionTimestamp" in meta,
        grace_seconds=float(meta.get("deletionGracePeriodSeconds") or 0),
        is_outlived=is_outlived,
        # It becomes part of a sentence.
        waiting=_why_it_does_not_run(status, driver)[:WORDS_LENGTH_MAX].rstrip(". "),
        outcome=_outcome(driver),
    )


def _why_it_does_not_run(status: Body, driver: Body) -> str:
    """Returns it in the words of the cluster; empty if it runs, or nothing is known."""
    if told := _pair(status.get("reason"), status.get("message")):
        return told  # Of the whole pod: evicted, or its node was shut down.
    conditions = {one.get("type"): one for one in status.get("conditions") or []}
    disrupted = conditions.get("DisruptionTarget", {})
    if status.get("phase") == "Failed" and disrupted.get("status") == "True":
        return _pair(disrupted.get("reason"), disrupted.get("message"))
    state = driver.get("state") or {}
    if "running" in state:
        return ""
    reason = (state.get("waiting") or {}).get("reason")
    if reason in (None, "PodInitializing") and "terminated" not in state:
        for one in status.get("initContainerStatuses") or []:
            if told := _unfinished(one):
                return f"init container {one.get('name')}{told}"
    scheduled = conditions.get("PodScheduled", {})
    unschedulable = scheduled.get("message", "") if scheduled.get("status") == "False" else ""
    return _told(driver) or unschedulable


def _unfinished(container: Body) -> str:
    """Returns why the containers after this init container cannot start; empty if they can.

    One that serves all the time, a native sidecar, has `started` while it runs.
    """
    state = container.get("state") or {}
    if ended := state.get("terminated"):
        code = ended.get("exitCode")
        said = _pair(ended.get("reason"), ended.get("message"))
        return f" ended with exit code {code} ({said})" if code else ""
    if "running" in state:
        return "" if container.get("started") else " has not finished"
    if (state.get("waiting") or {}).get("reason") == "PodInitializing":
        return ""
    return f": {told}" if (told := _told(container)) else ""


def _told(container: Body) -> str:
    """Returns why a container does not run, how it ended the last time, and how often it did."""
    waiting = (container.get("state") or {}).get("waiting") or {}
    parts = [_pair(waiting.get("reason"), waiting.get("message"))]
    ended = _ended(container) or (container.get("lastState") or {}).get("terminated") or {}
    if code := ended.get("exitCode"):
        parts.append(f"it ended with exit code {code} ({ended.get('reason', 'Error')})")
    if (times := container.get("restartCount", 0)) > 0:
        parts.append(f"restarted {times} time{'s' if times > 1 else ''}")
    return "; ".join(part for part in parts if part)


def _ended(container: Body) -> Body:
    ended: Body = (container.get("state") or {}).get("terminated") or {}
    return ended


def _pair(reason: str | None, message: str | None) -> str:
    return ": ".join(part for part in (reason, message) if part)


def _outcome(container: Body) -> Outcome | None:
    """Returns the outcome in the driver's termination message; None if it holds something else."""
    for state in ("state", "lastState"):
        message = ((container.get(state) or {}).get("terminated") or {}).get("message")
        if not message:
            continue
        try:
            return Outcome.model_validate_json(message)
        except ValidationError:
            continue
    return None
