"""What is read from a driver pod: its driver by name, whatever else an administrator puts there."""

from typing import Any

import pytest

from gpujob.api.transport import Outcome
from gpujob.controller.pods import pod_from
from gpujob.core.observation import Pod

Object = dict[str, Any]

META = {"name": "train-0-1-driver", "uid": "p", "creationTimestamp": "2026-01-01T12:00:00Z"}
OUTCOME = Outcome(exit_code=0, run_seconds=3.0).model_dump_json()
RUNS = {"running": {"startedAt": "2026-01-01T12:00:00Z"}}
STARTS = {"waiting": {"reason": "PodInitializing"}}


def container(name: str, state: Object | None = None, **more: Any) -> Object:
    """A container's status, as the kubelet writes it."""
    return {"name": name, "ready": False, "restartCount": 0, "state": state or RUNS} | more


def ended(code: int, reason: str = "Error", message: str = "") -> Object:
    """The state of a container that has ended."""
    return {"terminated": {"exitCode": code, "reason": reason, "message": message}}


def waits(reason: str, message: str = "") -> Object:
    """The state of a container that does not run."""
    return {"waiting": {"reason": reason, "message": message}}


def pod(*containers: Object, init: tuple[Object, ...] = (), **status: Any) -> Pod:
    """A stored pod as decisions see it."""
    statuses = {"containerStatuses": [*containers], "initContainerStatuses": [*init]}
    return pod_from({"metadata": META, "status": {"phase": "Running"} | statuses | status})


PROXY = container("a-proxy")


def test_an_outcome_is_the_drivers_wherever_it_stands() -> None:
    """A mesh puts its container first, and statuses come in order of their names."""
    driver = container("driver", ended(0, "Completed", OUTCOME))
    for containers in ((driver,), (driver, PROXY), (PROXY, driver)):
        seen = pod(*containers, phase="Succeeded" if containers == (driver,) else "Running")
        assert seen.outcome == Outcome(exit_code=0, run_seconds=3.0)


def test_no_other_container_says_how_the_workload_ended() -> None:
    """Whoever injects one is not asked."""
    seen = pod(container("a-proxy", ended(0, "Completed", OUTCOME)), container("driver"))

    assert seen.outcome is None
    assert (seen.phase, seen.waiting) == ("Running", "")


def test_a_driver_that_its_sidecar_outlives_has_ended() -> None:
    """The pod is Running for as long as any container runs; the driver is not started again."""
    done = pod(PROXY, container("driver", ended(0, "Completed", OUTCOME)))
    again = pod(PROXY, container("driver", ended(1)))
    alone = pod(container("driver", ended(0, "Completed")), phase="Succeeded")

    assert (done.phase, done.is_outlived) == ("Succeeded", True)
    # The kubelet starts a driver again that has failed.
    assert (again.phase, again.is_outlived) == ("Running", False)
    assert (alone.phase, alone.is_outlived) == ("Succeeded", False)


TOLD: tuple[tuple[str, Pod, str], ...] = (
    (
        "the image cannot be pulled",
        pod(PROXY, container("driver", waits("ImagePullBackOff", "Back-off pulling image x"))),
        "ImagePullBackOff: Back-off pulling image x",
    ),
    (
        "it crashes again and again",
        pod(
            PROXY,
            container(
                "driver",
                waits("CrashLoopBackOff", "back-off 40s"),
                lastState=ended(2),
                restartCount=3,
            ),
        ),
        "CrashLoopBackOff: back-off 40s; it ended with exit code 2 (Error); restarted 3 times",
    ),
    (
        "another container crashes",
        pod(container("a-proxy", waits("CrashLoopBackOff")), container("driver")),
        "",
    ),
    (
        "an init container has failed",
        pod(
            container("driver", STARTS),
            init=(container("istio-init", ended(1, message="iptables: Permission denied")),),
            phase="Pending",
        ),
        "init container istio-init ended with exit code 1 (Error: iptables: Permission denied)",
    ),
    (
        "an init container fails again and again",
        pod(
            container("driver", STARTS),
            init=(
                container("first", ended(0, "Completed")),
                container(
                    "istio-init",
                    waits("CrashLoopBackOff", "back-off 10s"),
                    lastState=ended(255),
                    restartCount=2,
                ),
                container("last", STARTS),
            ),
            phase="Pending",
        ),
        "init container istio-init: CrashLoopBackOff: back-off 10s; "
        "it ended with exit code 255 (Error); restarted 2 times",
    ),
    (
        "a native sidecar does not start",
        pod(
            container("driver", STARTS),
            init=(container("istio-proxy", waits("ErrImagePull", "not found")),),
            phase="Pending",
        ),
        "init container istio-proxy: ErrImagePull: not found",
    ),
    (
        "an init container runs",
        pod(
            container("driver", STARTS),
            init=(container("sidecar", started=True), container("waiter", started=False)),
            phase="Pending",
        ),
        "init container waiter has not finished",
    ),
    (
        "a native sidecar was killed once the driver had ended",
        pod(
            container("driver", ended(0, "Completed")),
            init=(container("istio-proxy", ended(137)),),
            phase="Succeeded",
        ),
        "",
    ),
    (
        "evicted",
        pod(phase="Failed", reason="Evicted", message="The node was low on resource: memory."),
        "Evicted: The node was low on resource: memory",
    ),
    (
        "evicted, with what became of its containers",
        pod(
            container("driver", ended(137)),
            phase="Failed",
            reason="Evicted",
            message="Usage of EmptyDir volume exceeds the limit",
        ),
        "Evicted: Usage of EmptyDir volume exceeds the limit",
    ),
    (
        "its node was shut down",
        pod(phase="Failed", reason="Terminated", message="Pod was terminated in response to …"),
        "Terminated: Pod was terminated in response to …",
    ),
    (
        "preempted",
        pod(
            phase="Failed",
            conditions=[
                {
                    "type": "DisruptionTarget",
                    "status": "True",
                    "reason": "PreemptionByScheduler",
                    "message": "preempting to accommodate a higher priority pod",
                }
            ],
        ),
        "PreemptionByScheduler: preempting to accommodate a higher priority pod",
    ),
    (
        "out of memory",
        pod(PROXY, container("driver", ended(137, "OOMKilled")), phase="Failed"),
        "it ended with exit code 137 (OOMKilled)",
    ),
    (
        "no node has room",
        pod(
            phase="Pending",
            conditions=[
                {"type": "PodScheduled", "status": "False", "message": "0/3 nodes are available"}
            ],
        ),
        "0/3 nodes are available",
    ),
    ("it runs", pod(PROXY, container("driver")), ""),
    ("nothing is known yet", pod_from({"metadata": META}), ""),
)


@pytest.mark.parametrize(("seen", "words"), [row[1:] for row in TOLD], ids=[r[0] for r in TOLD])
def test_why_a_driver_does_not_run_is_told_as_it_is(seen: Pod, words: str) -> None:
    """By the driver's own status, the pod's, or an init container's: in the cluster's words."""
    assert seen.waiting == words


def test_no_words_are_endless() -> None:
    """A kubelet's message may hold a whole log."""
    seen = pod(container("driver", waits("CreateContainerError", "x" * 5000)))

    assert len(seen.waiting) == 300
