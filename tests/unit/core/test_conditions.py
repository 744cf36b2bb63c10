"""Conditions follow from facts that are stored, not from what the last pass did."""

from dataclasses import replace

import pytest
from tests.builders import (
    NOW,
    RECORDED,
    a_job,
    a_node,
    a_world,
    an_offer,
    at,
    booted,
    ended,
    job_observation,
    leased,
    node_observation,
    quotes,
    reachable,
    renting,
    running,
    stamp,
)

from gpujob.api.gpujob import GpuJob, GpuJobStatus
from gpujob.api.gpunode import GpuNodeStatus
from gpujob.api.reasons import Reason
from gpujob.core.conditions import job_status, node_status
from gpujob.core.job.end import finished_as, is_finished
from gpujob.core.job.plan import plan_job
from gpujob.core.node.plan import plan_node
from gpujob.core.observation import JobObservation, Unavailable

STOP = {"at": stamp(-2), "reason": "Suspended", "message": "so it is"}


def flags(status: GpuJobStatus | GpuNodeStatus) -> dict[str, str]:
    """The conditions that hold, with their reasons."""
    return {one.type: one.reason for one in status.conditions if one.status == "True"}


def after(seen: JobObservation) -> GpuJob:
    """The job once a pass over it is stored."""
    return seen.job.model_copy(update={"status": job_status(seen.job, plan_job(seen), NOW)})


def finished(reason: str, **end: object) -> JobObservation:
    """A finished job, seen without its node, as time goes on."""
    released = a_node(ended(running(), reason, **end) | {"releasedAt": stamp(-1)})
    seen = job_observation(job=a_job(status=RECORDED), node=released)
    return replace(seen, job=after(seen), node=None)


@pytest.mark.parametrize(
    ("reason", "end", "holds"),
    [
        ("Completed", {"exitCode": 0}, {"Ready": "Complete", "Complete": "Complete"}),
        (
            "DeadlineExceeded",
            {},
            {"Stalled": "DeadlineExceeded", "Failed": "DeadlineExceeded"},
        ),
    ],
)
def test_a_finished_job_stays_what_it_is_while_it_is_deleted(
    reason: str, end: dict[str, object], holds: dict[str, str]
) -> None:
    """Somebody else's finalizer holds it (foreground deletion): how it ended does not change."""
    seen = finished(reason, **end)
    deleted = seen.job.metadata.model_copy(
        update={"deletion_timestamp": NOW, "finalizers": ("foregroundDeletion",)}
    )
    job = after(replace(seen, job=seen.job.model_copy(update={"metadata": deleted})))

    assert flags(job.status).items() >= holds.items()
    assert flags(job.status) == flags(seen.job.status)
    assert job.status.phase == "Deleting"


def test_a_job_that_an_older_version_finished_stays_finished() -> None:
    """It stored no end, only conditions: nothing is rented for the job again."""
    seen = finished("Completed", exitCode=0)
    former = seen.job.status.model_copy(update={"end": None})
    job = seen.job.model_copy(update={"status": former})
    again = after(replace(seen, job=job, quotes=quotes(), world=a_world()))

    assert is_finished(former)
    assert flags(again.status) == flags(seen.job.status)
    assert finished_as(former) == finished_as(seen.job.status)


def test_a_finished_job_of_unknown_end_is_not_called_complete() -> None:
    """A restore kept its completionTime and nothing else: it failed, as far as anybody knows."""
    status = GpuJobStatus(completion_time=at(-5))
    seen = job_observation(job=a_job().model_copy(update={"status": status}), quotes=quotes())
    job = after(seen)

    assert "Failed" in flags(job.status)
    assert "Complete" not in flags(job.status)


def test_a_suspended_job_holds_nothing_else() -> None:
    """Its reason is the user's wish."""
    suspended = a_job().spec.model_copy(update={"suspend": True})
    seen = job_observation(job=a_job().model_copy(update={"spec": suspended}))
    job = after(seen)

    assert flags(job.status) == {"Suspended": "Suspended", "Released": "NothingLeased"}
    assert job.status.phase == "Suspended"


def test_the_gates_no_is_the_reason_of_admitted() -> None:
    """A price that no ceiling holds."""
    dear = an_offer(gpu_usd_per_hour=an_offer().gpu_usd_per_hour * 100)
    seen = job_observation(quotes=quotes(dear))
    admitted = next(c for c in after(seen).status.conditions if c.type == "Admitted")

    assert (admitted.status, admitted.reason) == ("False", "CeilingExceeded")


@pytest.mark.parametrize(
    ("status", "phase", "holds"),
    [
        (None, "Pending", set()),
        (renting(), "Renting", {"DriverReady"}),
        (leased(), "Booting", {"DriverReady", "Rented"}),
        (reachable(), "Booting", {"DriverReady", "Rented", "Booted"}),
        (booted(), "Booting", {"DriverReady", "Rented", "Booted"}),
        (running(), "Running", {"DriverReady", "Rented", "Booted", "Ready"}),
        (running() | {"stop": STOP}, "Stopping", {"DriverReady", "Rented", "Booted", "Ready"}),
        (ended(running()), "Releasing", {"DriverReady", "Rented", "Booted", "Ended"}),
        (
            ended(running()) | {"releasedAt": stamp(-1)},
            "Released",
            {"DriverReady", "Booted", "Ended", "Released"},
        ),
    ],
)
def test_what_a_node_shows(status: dict[str, object] | None, phase: str, holds: set[str]) -> None:
    """Its conditions and its phase say the same."""
    seen = node_observation(status)
    plan = replace(plan_node(seen), status=seen.node.status)
    shown = node_status(seen.node, plan, NOW)

    assert shown.phase == phase
    assert set(flags(shown)) - {"Reconciling"} == holds


def messages(status: GpuJobStatus | GpuNodeStatus) -> dict[str, str]:
    """What the conditions say, by the reason that they give for it."""
    return {one.type: one.message for one in status.conditions if one.message}


def test_what_is_to_be_said_is_said_once() -> None:
    """The conditions beside Ready say only what it does not."""
    dear = an_offer(gpu_usd_per_hour=an_offer().gpu_usd_per_hour * 100)
    refused = after(job_observation(quotes=quotes(dear)))
    failed = finished("DeadlineExceeded").job
    suspended = a_job().spec.model_copy(update={"suspend": True})
    held = after(job_observation(job=a_job().model_copy(update={"spec": suspended})))

    for job in (refused, failed, held):
        assert set(messages(job.status)) - {"Admitted", "Released"} == {"Ready"}
        told = [one.message for one in job.status.conditions if one.message]
        assert len(set(told)) == len(told), told


REFUSED = Unavailable(Reason.CREDENTIALS_REJECTED, "the provider refuses the key")


def test_while_the_key_is_refused_a_leased_machine_says_so() -> None:
    """It goes on, and costs; nobody could stop it now. What is not leased shows its own reason."""
    seen = node_observation(running())
    node = node_status(seen.node, plan_node(seen), NOW, REFUSED)
    stored = seen.node.model_copy(update={"status": node})
    of_it = job_observation(job=a_job(status=RECORDED), node=stored)
    job = job_status(of_it.job, plan_job(of_it), NOW, REFUSED)
    over = node_observation(ended(running()) | {"releasedAt": stamp(-1)})
    gone = node_status(over.node, plan_node(over), NOW, REFUSED)

    assert (node.phase, job.phase) == ("Running", "Running")
    for status in (node, job):
        (ready,) = (one for one in status.conditions if one.type == "Ready")
        assert ready.reason == Reason.CREDENTIALS_REJECTED
        assert ready.message.count("the provider refuses the key") == 1
        assert "destroys none" in ready.message
    assert "Running" in flags(job)
    assert gone.conditions[0].reason == Reason.COMPLETED


def test_a_price_is_shown_only_while_it_is_paid() -> None:
    """A released node keeps what it was, but costs nothing per hour."""

    def price(status: dict[str, object]) -> str | None:
        seen = node_observation(status)
        plan = replace(plan_node(seen), status=seen.node.status)
        return node_status(seen.node, plan, NOW).usd_per_hour

    paid = running()["lease"]["usdPerHour"]
    assert price(renting()) is None
    assert price(running()) == price(ended(running())) == paid
    assert price(ended(running()) | {"releasedAt": stamp(-1)}) is None


def test_a_node_that_is_over_says_why() -> None:
    """Its phase says that it is."""
    for status in (ended(running(), "JobDeleted"), ended(running(), "HostLost")):
        for more in ({}, {"releasedAt": stamp(-1)}):
            seen = node_observation(status | more)
            shown = node_status(seen.node, plan_node(seen), NOW)
            assert shown.conditions[0].reason == status["end"]["reason"]
