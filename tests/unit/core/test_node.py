"""The life of a node: a decision table, and the order of what matters."""

from base64 import b64decode
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
from tests.builders import (
    DRIVEN,
    INSTANCE,
    KEYED,
    MONOTONIC,
    NODE_UID,
    NOW,
    POD_UID,
    RECORDED,
    SSH_KEY,
    a_job,
    a_lease,
    a_listing,
    a_node,
    a_pod,
    a_report,
    a_spec,
    a_world,
    an_offer,
    at,
    booted,
    ended,
    finished,
    leased,
    marker,
    measured,
    node_observation,
    quotes,
    reachable,
    renting,
    running,
    stamp,
)

from gpujob.api.gpujob import GpuJob
from gpujob.api.reasons import Reason
from gpujob.api.transport import Cause, Gpu, MachineFault, Outcome, Usage, WorkloadPhase
from gpujob.core import effects
from gpujob.core.cost.fuse import overdue
from gpujob.core.limits import Limits
from gpujob.core.market.listings import Address
from gpujob.core.node.plan import plan_node
from gpujob.core.observation import (
    NodeMemory,
    NodeObservation,
    RentAccepted,
    RentRefused,
    RentUnanswered,
    Unavailable,
)

L = Limits()


def listed(**changes: Any) -> Any:
    """A world whose latest listing shows our machine."""
    return a_world(a_listing(a_lease(**changes)))


def gone(first: float, second: float) -> Any:
    """A world with two complete listings without our machine, so many seconds ago."""
    return a_world(a_listing(ago=first), a_listing(ago=second))


def seen_before(status: dict[str, Any], **memory: Any) -> NodeObservation:
    """A node that this process has known for a while."""
    return node_observation(status, memory=NodeMemory(marker_seen_at=MONOTONIC - 900, **memory))


def thrice(not_ready: Any = None, **changes: Any) -> Any:
    """A world with three listings in a row that show our machine so."""
    listings = [a_listing(a_lease(**changes), ago=ago) for ago in (31, 16, 1)]
    return a_world(*listings, not_ready=not_ready)


def denied(seconds: float) -> NodeMemory:
    """The provider has denied for so long, up to its latest listing, that the machine runs."""
    return NodeMemory(denied_since=a_listing().answered_at - seconds)


def bid(status: dict[str, Any]) -> dict[str, Any]:
    """The same node on an interruptible machine."""
    return status | {"rent": status["rent"] | {"bidUSDPerHour": "0.400000"}}


def paused(seconds: float) -> dict[str, Any]:
    """A node whose machine was taken away `seconds` from NOW."""
    status = bid(booted(-2000))
    return status | {"interruptions": {"count": 1, "pausedAt": stamp(seconds), "runSeconds": 700}}


def resumed(seconds: float = -30) -> dict[str, Any]:
    """A node whose machine came back `seconds` from NOW."""
    status = bid(booted(-5000))
    return status | {"interruptions": {"count": 1, "resumedAt": stamp(seconds), "runSeconds": 700}}


def stopping(seconds: float = -5) -> dict[str, Any]:
    """A node whose workload was told to end at its deadline, `seconds` from NOW."""
    told = {"at": stamp(seconds), "reason": "DeadlineExceeded", "message": "it is over"}
    return running() | {"stop": told}


def test_a_machine_that_was_away_fails_no_workload_whose_files_are_copied() -> None:
    """What is stored once its files begin to be copied is that it was outbid."""
    ended = Outcome(exit_code=137, run_seconds=15, was_killed=True)
    report = a_report(phase=WorkloadPhase.DELIVERING, run_seconds=15.0, ended=ended)
    plan = plan_node(node_observation(bid(running()), world=listed(), report=report))

    assert plan.status.stop is not None
    assert (plan.status.stop.reason, plan.status.stop.exit_code) == ("Outbid", None)


def delivering(exit_code: int, **more: Any) -> Any:
    """A driver whose workload has ended, and whose files are being copied."""
    ended = Outcome(exit_code=exit_code, run_seconds=15)
    return a_report(phase=WorkloadPhase.DELIVERING, run_seconds=15.0, ended=ended, **more)


def delivered(seconds: float = -5, **changes: Any) -> dict[str, Any]:
    """A node whose workload ended well, `seconds` from NOW."""
    told = {"at": stamp(seconds), "reason": "Completed", "message": "it ended", "exitCode": 0}
    return running() | {"stop": told | {"runSeconds": 15} | changes}


LONG_DRAIN = a_spec(data={"drainSeconds": 600})
PRIVATE_JOB = a_job(
    a_spec(imagePullSecret={"name": "registry", "exposeToProvider": True}), RECORDED
)
UNUSABLE = a_report(data_problem="outputs-0 cannot be written: Read-only file system")


def idle(seconds: float, samples: int) -> Any:
    """A driver whose GPUs have not been busy for so long."""
    usage = Usage(gpu_percent=0, gpu_memory_mib=512, idle_seconds=seconds, idle_samples=samples)
    return a_report(phase=WorkloadPhase.RUNNING, run_seconds=700.0, usage=usage)


STOPPED = {"status": "exited", "intended_status": "stopped"}
RUNS = a_report(phase=WorkloadPhase.RUNNING, run_seconds=20.0)
SUSPENDED = a_job(a_spec(suspend=True), status=RECORDED)
OVER = {"completionTime": stamp(-60), "end": {"reason": "PendingDeadlineExceeded", "message": "so"}}
IDLE_JOB = a_job(a_spec(idleDeadlineSeconds=600), status=RECORDED)
RELEASED_STATUS = ended(running()) | {"releasedAt": stamp(-1)}
SENT_LONG_AGO = NodeMemory(destroy_sent_at=MONOTONIC - 100, destroy_repeated_at=MONOTONIC - 100)

TABLE = [
    # --- Before anything is rented
    ("the key comes first", node_observation(), Reason.AWAITING_DRIVER, ["CreateKey"]),
    (
        "a made key is stored",
        node_observation(memory=NodeMemory(public_key=SSH_KEY)),
        Reason.AWAITING_DRIVER,
        [],
    ),
    (
        "then the driver pod",
        node_observation(KEYED, pod=None, report=None),
        Reason.AWAITING_DRIVER,
        ["CreateDriver"],
    ),
    (
        "a pod is recorded by its uid",
        node_observation(KEYED, report=None),
        Reason.AWAITING_DRIVER,
        [],
    ),
    (
        "an ended pod without an outcome is replaced",
        node_observation(DRIVEN, pod=a_pod(phase="Failed")),
        Reason.AWAITING_DRIVER,
        ["DeleteDriver"],
    ),
    (
        "a node that the job has not recorded never rents",
        node_observation(DRIVEN, job=a_job()),
        Reason.AWAITING_NODE,
        [],
    ),
    (
        "nor does one that another was recorded in place of",
        node_observation(
            DRIVEN, quotes=quotes(), job=a_job(status=RECORDED | {"nodeUID": "another"})
        ),
        Reason.AWAITING_NODE,
        [],
    ),
    ("prices are asked for", node_observation(DRIVEN), Reason.AWAITING_QUOTE, []),
    (
        "an unavailable market is waited for",
        node_observation(DRIVEN, quotes=Unavailable(Reason.PROVIDER_UNAVAILABLE, "down")),
        Reason.PROVIDER_UNAVAILABLE,
        [],
    ),
    (
        "a failed listing stops renting",
        node_observation(
            DRIVEN,
            quotes=quotes(),
            world=a_world(not_ready=Unavailable(Reason.CREDENTIALS_REJECTED, "key")),
        ),
        Reason.CREDENTIALS_REJECTED,
        [],
    ),
    (
        "no complete listing, no rent",
        node_observation(DRIVEN, quotes=quotes(), world=a_world(nothing_listed=True)),
        Reason.PROVIDER_UNAVAILABLE,
        [],
    ),
    (
        "on another account than the recorded one nothing is rented",
        node_observation(DRIVEN, quotes=quotes(), world=a_world(account_id=8)),
        Reason.ACCOUNT_CHANGED,
        [],
    ),
    (
        "the gate judges again",
        node_observation(DRIVEN, quotes=quotes(an_offer(gpu_usd_per_hour=Fraction(9)))),
        Reason.CEILING_EXCEEDED,
        [],
    ),
    (
        "the marker is stored, then the one request is sent",
        node_observation(DRIVEN, quotes=quotes()),
        Reason.RENT_REQUESTED,
        ["Rent"],
    ),
    (
        "without its login no private image is rented for",
        node_observation(DRIVEN, quotes=quotes(), job=PRIVATE_JOB),
        Reason.AWAITING_DRIVER,
        [],
    ),
    (
        "with its login it is",
        node_observation(DRIVEN, quotes=quotes(), job=PRIVATE_JOB, has_login=True),
        Reason.RENT_REQUESTED,
        ["Rent"],
    ),
    (
        "a pull secret without the login is known before anything is rented",
        node_observation(DRIVEN, job=PRIVATE_JOB, report=a_report(login_problem="no entry")),
        Reason.PULL_SECRET_UNUSABLE,
        [],
    ),
    (
        "a driver needs to know whom to believe",
        node_observation(KEYED, pod=None, world=a_world(transport_authorities="")),
        Reason.AWAITING_DRIVER,
        [],
    ),
    # --- After the marker
    (
        "with a marker nothing is rented again",
        node_observation(renting(), quotes=quotes()),
        Reason.RENT_UNANSWERED,
        [],
    ),
    (
        "an accepted request is recorded",
        node_observation(renting(), memory=NodeMemory(rent=RentAccepted(INSTANCE))),
        Reason.RENTED,
        [],
    ),
    (
        "a refused request is no machine",
        node_observation(
            renting(), memory=NodeMemory(rent=RentRefused(Reason.OFFER_GONE, "taken"))
        ),
        Reason.OFFER_GONE,
        [],
    ),
    (
        "a lost answer is found by the mark",
        node_observation(renting(), world=listed(), memory=NodeMemory(rent=RentUnanswered("cut"))),
        Reason.RENTED,
        [],
    ),
    (
        "one listing without it proves nothing",
        replace(seen_before(renting(-900)), world=gone(700, 690)),
        Reason.RENT_UNANSWERED,
        [],
    ),
    (
        "two listings a poll apart, after the wait, do",
        replace(seen_before(renting(-800)), world=gone(40, 10)),
        Reason.RENT_NOT_CONFIRMED,
        [],
    ),
    (
        "but not so late that its watchdog may have ended one",
        replace(seen_before(renting(-900)), world=gone(40, 10)),
        Reason.LEASE_VANISHED,
        [],
    ),
    (
        "but not while a machine may be anyone's",
        replace(
            seen_before(renting(-900)),
            world=a_world(
                a_listing(
                    a_lease(label=None, env_mark=None, is_attributable=False, instance_id=1),
                    ago=40,
                ),
                a_listing(
                    a_lease(label=None, env_mark=None, is_attributable=False, instance_id=1),
                    ago=10,
                ),
            ),
        ),
        Reason.RENT_UNANSWERED,
        [],
    ),
    (
        "another account's listing is no evidence",
        replace(
            seen_before(renting(-900)),
            world=a_world(
                a_listing(ago=40, account_id=8), a_listing(ago=10, account_id=8), account_id=8
            ),
        ),
        Reason.ACCOUNT_CHANGED,
        [],
    ),
    # --- Interruptible machines
    (
        "one listing that shows it stopped may be a flicker",
        node_observation(bid(running()), world=listed(**STOPPED)),
        Reason.RUNNING,
        [],
    ),
    (
        "three in a row pause it",
        node_observation(bid(running()), world=thrice(**STOPPED)),
        Reason.PAUSED,
        [],
    ),
    (
        "a machine on demand that is stopped is lost, and its host did not do it",
        node_observation(running(), world=thrice(**STOPPED)),
        Reason.MACHINE_STOPPED,
        [],
    ),
    (
        "one that is outbid before it booted is replaced",
        node_observation(bid(leased()), world=thrice(**STOPPED)),
        Reason.OUTBID,
        [],
    ),
    (
        "one that exits without being stopped is lost",
        node_observation(bid(running()), world=listed(status="exited"), memory=denied(130)),
        Reason.HOST_LOST,
        [],
    ),
    (
        "stopped for want of credit nobody is to blame",
        node_observation(
            bid(running()),
            world=thrice(not_ready=Unavailable(Reason.CREDIT_EXHAUSTED, "add credit"), **STOPPED),
        ),
        Reason.CREDIT_EXHAUSTED,
        [],
    ),
    (
        "a paused machine is waited for",
        node_observation(paused(-600), world=thrice(**STOPPED)),
        Reason.PAUSED,
        [],
    ),
    (
        "no boot cap runs meanwhile",
        node_observation(paused(-1500), world=thrice(**STOPPED)),
        Reason.PAUSED,
        [],
    ),
    (
        "but not for ever",
        node_observation(paused(-1800), world=thrice(**STOPPED)),
        Reason.OUTBID,
        [],
    ),
    (
        "back, but still loading, it is waited for",
        node_observation(paused(-600), world=listed(status="loading")),
        Reason.PAUSED,
        [],
    ),
    (
        "back and running it is used again",
        node_observation(paused(-600), world=listed(addresses=(Address("h", 23),))),
        Reason.CONNECTING,
        [],
    ),
    (
        "what the driver said of the earlier run is no start of this one",
        node_observation(resumed(), world=listed(), report=a_report(run_seconds=500.0)),
        Reason.CONNECTING,
        [],
    ),
    (
        "what it says of this one is",
        node_observation(resumed(), world=listed(), report=a_report(run_seconds=5.0, run_number=1)),
        Reason.RUNNING,
        [],
    ),
    (
        "the boot cap runs from its return on",
        node_observation(resumed(-1200), world=listed()),
        Reason.BOOT_TIMEOUT,
        [],
    ),
    (
        "the deadline counts the earlier run",
        node_observation(
            resumed() | {"run": {"startedAt": stamp(-3000)}},
            world=listed(),
            job=a_job(status=RECORDED),
        ),
        Reason.STOPPING,
        [],
    ),
    (
        "taken away and given back unseen, it is replaced",
        node_observation(
            bid(running()),
            world=listed(),
            report=a_report(
                phase=WorkloadPhase.FINISHED,
                outcome=Outcome(exit_code=137, run_seconds=5, was_killed=True),
            ),
        ),
        Reason.OUTBID,
        [],
    ),
    # --- Booting
    (
        "a loading machine is waited for",
        node_observation(leased(), world=listed(status="loading")),
        Reason.BOOTING,
        [],
    ),
    (
        "a running machine's host key is read",
        node_observation(leased(), world=listed()),
        Reason.BOOTING,
        ["ReadHostKey"],
    ),
    (
        "the key is pinned before anything is sent",
        node_observation(leased(), world=listed(), memory=NodeMemory(host_key=SSH_KEY)),
        Reason.CONNECTING,
        [],
    ),
    (
        "without a key in time the machine goes",
        node_observation(leased(-1200), world=listed(started_at=at(-1199))),
        Reason.HOST_KEY_UNAVAILABLE,
        [],
    ),
    (
        "a machine that never runs goes",
        node_observation(leased(-1200), world=listed(status="loading", started_at=at(-1199))),
        Reason.BOOT_TIMEOUT,
        [],
    ),
    (
        "a machine born too late is not adopted",
        node_observation(leased(), world=listed(started_at=at(-4))),
        Reason.RENT_LATE,
        [],
    ),
    (
        "a dearer machine than quoted goes",
        node_observation(leased(), world=listed(usd_per_hour=Fraction("0.415"))),
        Reason.PRICE_CHANGED,
        [],
    ),
    # --- Running
    (
        "the run begins by the driver's word",
        node_observation(booted(), world=listed(), report=a_report(run_seconds=3.0)),
        Reason.RUNNING,
        [],
    ),
    (
        "cost is written now and then",
        node_observation(running(), world=listed()),
        Reason.RUNNING,
        [],
    ),
    (
        "a second machine under the mark is destroyed",
        node_observation(
            running(),
            world=a_world(a_listing(a_lease(), a_lease(instance_id=INSTANCE + 1))),
        ),
        Reason.RUNNING,
        ["Destroy"],
    ),
    (
        "a machine that is silent when its deadline passes is lost, not overdue",
        node_observation(
            running(-4000, -3600),
            world=listed(),
            report=a_report(machine_contact_age_seconds=31.0),
        ),
        Reason.HOST_LOST,
        [],
    ),
    (
        "a moment of silence is none",
        node_observation(
            running(-4000, -3600),
            world=listed(),
            report=a_report(machine_contact_age_seconds=30.0),
        ),
        Reason.STOPPING,
        [],
    ),
    (
        "nor is one that was heard for long enough",
        node_observation(
            running(-4000, -3650),
            world=listed(),
            report=a_report(machine_contact_age_seconds=50.0),
        ),
        Reason.STOPPING,
        [],
    ),
    (
        "a driver that is silent itself bears no witness",
        node_observation(
            running(-4000, -3600),
            world=listed(),
            report=a_report(machine_contact_age_seconds=31.0),
            driver_silence_seconds=31.0,
        ),
        Reason.STOPPING,
        [],
    ),
    (
        "at the deadline the workload is told to end",
        node_observation(running(-4000, -3600), world=listed()),
        Reason.STOPPING,
        [],
    ),
    (
        "seconds of earlier attempts count",
        node_observation(
            running(-700, -600), world=listed(), job=a_job(status=RECORDED | {"runSeconds": 3000})
        ),
        Reason.STOPPING,
        [],
    ),
    (
        "shortly before the fuse the workload is told to end",
        node_observation(
            running() | {"rent": marker(-40, moneyDeadlineSeconds=69)}, world=listed()
        ),
        Reason.STOPPING,
        [],
    ),
    (
        "not yet",
        node_observation(
            running() | {"rent": marker(-40, moneyDeadlineSeconds=71)}, world=listed()
        ),
        Reason.RUNNING,
        [],
    ),
    (
        "with much to copy, earlier",
        node_observation(
            running() | {"rent": marker(-40, moneyDeadlineSeconds=430, stopSeconds=391)},
            world=listed(),
        ),
        Reason.STOPPING,
        [],
    ),
    (
        "but not before that",
        node_observation(
            running() | {"rent": marker(-40, moneyDeadlineSeconds=430, stopSeconds=389)},
            world=listed(),
        ),
        Reason.RUNNING,
        [],
    ),
    (
        "what does not run yet goes on until the fuse",
        node_observation(
            reachable() | {"rent": marker(-40, moneyDeadlineSeconds=41)}, world=listed()
        ),
        Reason.MEASURING,
        [],
    ),
    (
        "the fuse ends it",
        node_observation(
            running() | {"rent": marker(-40, moneyDeadlineSeconds=40)}, world=listed()
        ),
        Reason.BUDGET_EXHAUSTED,
        [],
    ),
    (
        "traffic beyond the cap ends it",
        node_observation(running(), world=listed(download_gb=Fraction(101, 10))),
        Reason.TRAFFIC_EXCEEDED,
        [],
    ),
    (
        "a flicker of the provider's word does not end it",
        node_observation(running(), world=listed(status="offline"), memory=denied(100)),
        Reason.RUNNING,
        [],
    ),
    (
        "a host that the provider has lost for long does",
        node_observation(running(), world=listed(status="offline"), memory=denied(130)),
        Reason.HOST_LOST,
        [],
    ),
    (
        "whatever a driver said that is silent itself",
        node_observation(
            running(),
            world=listed(status="offline"),
            memory=denied(130),
            report=a_report(machine_contact_age_seconds=2.0),
            driver_silence_seconds=31.0,
        ),
        Reason.HOST_LOST,
        [],
    ),
    (
        "but not while the driver is in contact with it",
        node_observation(
            running(),
            world=listed(status="exited"),
            memory=denied(800),
            report=a_report(machine_contact_age_seconds=2.0),
        ),
        Reason.RUNNING,
        [],
    ),
    (
        "a silent machine does",
        node_observation(
            running(), world=listed(), report=a_report(machine_contact_age_seconds=900.0)
        ),
        Reason.HOST_LOST,
        [],
    ),
    (
        "a silent driver says nothing of its machine",
        node_observation(
            running(),
            world=listed(),
            report=a_report(machine_contact_age_seconds=1.0),
            driver_silence_seconds=299.0,
        ),
        Reason.RUNNING,
        [],
    ),
    (
        "but it is replaced",
        node_observation(running(), world=listed(), driver_silence_seconds=300.0),
        Reason.AWAITING_DRIVER,
        ["DeleteDriver"],
    ),
    (
        "and so is one that another leader heard last",
        node_observation(running(), world=listed(), report=None, driver_silence_seconds=300.0),
        Reason.AWAITING_DRIVER,
        ["DeleteDriver"],
    ),
    (
        "nothing is rented for a silent driver",
        node_observation(DRIVEN, driver_silence_seconds=31.0),
        Reason.AWAITING_DRIVER,
        [],
    ),
    (
        "a vanished machine does",
        replace(seen_before(running(-900)), world=gone(40, 10)),
        Reason.LEASE_VANISHED,
        [],
    ),
    (
        "a changed host key does",
        node_observation(
            booted(), world=listed(), report=a_report(fault=MachineFault.HOST_KEY_CHANGED)
        ),
        Reason.HOST_KEY_CHANGED,
        [],
    ),
    (
        "a deleted driver pod is replaced while the machine runs on",
        node_observation(running(), world=listed(), pod=None, report=None),
        Reason.AWAITING_DRIVER,
        ["CreateDriver"],
    ),
    (
        "success",
        node_observation(running(), world=listed(), report=finished(0)),
        Reason.COMPLETED,
        [],
    ),
    (
        "failure",
        node_observation(running(), world=listed(), report=finished(3)),
        Reason.WORKLOAD_FAILED,
        [],
    ),
    (
        "the termination message is read before the driver is called lost",
        node_observation(
            running(),
            world=listed(),
            report=None,
            pod=a_pod(phase="Succeeded", outcome=Outcome(exit_code=0, run_seconds=9)),
        ),
        Reason.COMPLETED,
        [],
    ),
    (
        "success beats the deadline",
        node_observation(running(-4000, -3600), world=listed(), report=finished(0)),
        Reason.COMPLETED,
        [],
    ),
    # --- Unwanted
    (
        "a vanished job ends it",
        node_observation(running(), world=listed(), job=None),
        Reason.JOB_DELETED,
        [],
    ),
    (
        "so does a job that is being deleted",
        node_observation(
            running(), world=listed(), job=a_job(status=RECORDED, deletionTimestamp=stamp())
        ),
        Reason.JOB_DELETED,
        [],
    ),
    (
        "so does another job of the same name",
        node_observation(running(), world=listed(), job=a_job(status=RECORDED, uid="j-2")),
        Reason.JOB_DELETED,
        [],
    ),
    (
        "suspension lets the workload save what it has",
        node_observation(running(), world=listed(), job=SUSPENDED),
        Reason.STOPPING,
        [],
    ),
    (
        "a workload that its driver may just have begun, too",
        node_observation(booted(), world=listed(), job=SUSPENDED),
        Reason.STOPPING,
        [],
    ),
    (
        "but a workload that has ended well has ended well",
        node_observation(running(), world=listed(), job=SUSPENDED, report=finished(0)),
        Reason.COMPLETED,
        [],
    ),
    (
        "also while its files are being copied",
        node_observation(running(), world=listed(), job=SUSPENDED, report=delivering(0)),
        Reason.DELIVERING,
        [],
    ),
    (
        "and one that has failed has failed",
        node_observation(running(), world=listed(), job=SUSPENDED, report=finished(1)),
        Reason.WORKLOAD_FAILED,
        [],
    ),
    (
        "of a machine that stands still nothing can be saved",
        node_observation(paused(-10), world=listed(), job=SUSPENDED),
        Reason.SUSPENDED,
        [],
    ),
    (
        "of a machine without a workload nothing is to be saved",
        node_observation(reachable(), world=listed(), job=SUSPENDED),
        Reason.SUSPENDED,
        [],
    ),
    # --- The workload was told to end
    (
        "it is waited for",
        node_observation(stopping(-29), world=listed(), report=RUNS),
        Reason.STOPPING,
        [],
    ),
    (
        "not longer than is paid for",
        node_observation(stopping(-30), world=listed(), report=RUNS),
        Reason.DEADLINE_EXCEEDED,
        [],
    ),
    (
        "nor beyond the fuse",
        node_observation(
            stopping(-1) | {"rent": marker(-40, moneyDeadlineSeconds=40)}, world=listed()
        ),
        Reason.DEADLINE_EXCEEDED,
        [],
    ),
    (
        "a clock that was put back gives no more time",
        node_observation(
            stopping(+500) | {"rent": marker(-40, moneyDeadlineSeconds=40)}, world=listed()
        ),
        Reason.DEADLINE_EXCEEDED,
        [],
    ),
    (
        "its end well is no success: it was told to",
        node_observation(stopping(), world=listed(), report=finished(0)),
        Reason.DEADLINE_EXCEEDED,
        [],
    ),
    (
        "a machine that dies meanwhile is not waited for, nor another one taken",
        node_observation(
            stopping(), world=listed(status="offline"), report=RUNS, memory=denied(130)
        ),
        Reason.DEADLINE_EXCEEDED,
        [],
    ),
    (
        "more machines than one are destroyed meanwhile, too",
        node_observation(
            stopping(),
            world=a_world(a_listing(a_lease(), a_lease(instance_id=INSTANCE + 1))),
            report=RUNS,
        ),
        Reason.STOPPING,
        ["Destroy"],
    ),
    (
        "that the job is deleted does",
        node_observation(
            stopping(), world=listed(), job=a_job(status=RECORDED, deletionTimestamp=stamp())
        ),
        Reason.JOB_DELETED,
        [],
    ),
    (
        "suspended while it stops, it goes on stopping",
        node_observation(stopping(), world=listed(), report=RUNS, job=SUSPENDED),
        Reason.STOPPING,
        [],
    ),
    # --- The workload has ended, its files are being copied
    (
        "its time to drain begins",
        node_observation(running(), world=listed(), report=delivering(0)),
        Reason.DELIVERING,
        [],
    ),
    (
        "they are waited for",
        node_observation(delivered(-29), world=listed(), report=delivering(0)),
        Reason.DELIVERING,
        [],
    ),
    (
        "copied well",
        node_observation(delivered(), world=listed(), report=finished(0)),
        Reason.COMPLETED,
        [],
    ),
    (
        "a success without its files is none",
        node_observation(delivered(), world=listed(), report=finished(0, lost="not copied: a")),
        Reason.OUTPUT_LOST,
        [],
    ),
    (
        "nor is one whose files take too long",
        node_observation(delivered(-30), world=listed(), report=delivering(0)),
        Reason.OUTPUT_LOST,
        [],
    ),
    (
        "they may take long, as long as they come",
        node_observation(
            delivered(-3000) | {"rent": marker(-4000, moneyDeadlineSeconds=4001)},
            world=listed(),
            report=delivering(0, copy_idle_seconds=29.0),
        ),
        Reason.DELIVERING,
        [],
    ),
    (
        "not longer, if they come no more",
        node_observation(
            delivered(-3000) | {"rent": marker(-4000, moneyDeadlineSeconds=9000)},
            world=listed(),
            report=delivering(0, copy_idle_seconds=30.0),
        ),
        Reason.OUTPUT_LOST,
        [],
    ),
    (
        "nor longer than is paid for",
        node_observation(
            delivered(-3000) | {"rent": marker(-4000, moneyDeadlineSeconds=4000)},
            world=listed(),
            report=delivering(0, copy_idle_seconds=0.0),
        ),
        Reason.OUTPUT_LOST,
        [],
    ),
    (
        "a workload that does not end is given no time for its files",
        node_observation(
            stopping(-30), world=listed(), report=RUNS.model_copy(update={"copy_idle_seconds": 0.0})
        ),
        Reason.DEADLINE_EXCEEDED,
        [],
    ),
    (
        "a job may ask for more time",
        node_observation(
            delivered(-30), world=listed(), report=delivering(0), job=a_job(LONG_DRAIN, RECORDED)
        ),
        Reason.DELIVERING,
        [],
    ),
    (
        "that is not more than is paid for",
        node_observation(
            delivered(-30) | {"rent": marker(-100, moneyDeadlineSeconds=100)},
            world=listed(),
            job=a_job(LONG_DRAIN, RECORDED),
        ),
        Reason.OUTPUT_LOST,
        [],
    ),
    (
        "taken away and given back unseen: nobody's failure, though its files are copied",
        node_observation(
            bid(delivered(reason="Outbid", exitCode=None)), world=listed(), report=finished(137)
        ),
        Reason.OUTBID,
        [],
    ),
    (
        "whoever answers in the machine's place gets no time to drain",
        node_observation(
            delivered(), world=listed(), report=a_report(fault=MachineFault.HOST_KEY_CHANGED)
        ),
        Reason.OUTPUT_LOST,
        [],
    ),
    (
        "traffic has its cap while files are copied",
        node_observation(delivered(), world=listed(upload_gb=Fraction(2)), report=delivering(0)),
        Reason.OUTPUT_LOST,
        [],
    ),
    (
        "a driver that is gone is replaced while files are copied",
        node_observation(delivered(), world=listed(), report=None, pod=None),
        Reason.DELIVERING,
        ["CreateDriver"],
    ),
    (
        "a failure stays one, whatever becomes of its files",
        node_observation(
            delivered(-30, reason="WorkloadFailed", exitCode=3),
            world=listed(),
            report=delivering(3),
        ),
        Reason.WORKLOAD_FAILED,
        [],
    ),
    (
        "the deadline does not strike while files are copied",
        node_observation(
            delivered(-20) | {"run": {"startedAt": stamp(-3610)}},
            world=listed(),
            report=delivering(0),
        ),
        Reason.DELIVERING,
        [],
    ),
    (
        "files that cannot be copied are known before anything is rented",
        node_observation(KEYED | {"driver": {"podName": "d", "podUID": POD_UID}}, report=UNUSABLE),
        Reason.DATA_UNUSABLE,
        [],
    ),
    # --- Idle
    (
        "GPUs that stood for long enough",
        node_observation(running(), world=listed(), job=IDLE_JOB, report=idle(600, 40)),
        Reason.STOPPING,
        [],
    ),
    (
        "a few samples are no idleness",
        node_observation(running(), world=listed(), job=IDLE_JOB, report=idle(600, 3)),
        Reason.RUNNING,
        [],
    ),
    (
        "not for long enough",
        node_observation(running(), world=listed(), job=IDLE_JOB, report=idle(599, 40)),
        Reason.RUNNING,
        [],
    ),
    (
        "nobody asked",
        node_observation(running(), world=listed(), report=idle(6000, 400)),
        Reason.RUNNING,
        [],
    ),
    (
        "the idleness of an earlier run counts for nothing",
        node_observation(
            resumed() | {"run": {"startedAt": stamp(-20)}},
            world=listed(),
            job=IDLE_JOB,
            report=idle(600, 40),
        ),
        Reason.RUNNING,
        [],
    ),
    # --- The machine is measured
    (
        "before its measure",
        node_observation(reachable(), world=listed()),
        Reason.MEASURING,
        [],
    ),
    (
        "good enough",
        node_observation(reachable(), world=listed(), report=a_report(measured=measured())),
        Reason.CONNECTING,
        ["RememberImage"],
    ),
    (
        "another GPU than was offered",
        node_observation(
            reachable(),
            world=listed(),
            report=a_report(
                measured=measured(gpus=(Gpu(name="NVIDIA GeForce RTX 3060", memory_mib=24_564),))
            ),
        ),
        Reason.MACHINE_MISLABELLED,
        [],
    ),
    (
        "a machine that came back is not measured again",
        node_observation(
            {key: value for key, value in resumed().items() if key != "measured"}, world=listed()
        ),
        Reason.CONNECTING,
        [],
    ),
    (
        "a GPU that was gone is the host's fault",
        node_observation(
            running(),
            world=listed(),
            report=a_report(
                phase=WorkloadPhase.FINISHED,
                outcome=Outcome(exit_code=1, run_seconds=15, cause=Cause.GPU_LOST),
            ),
        ),
        Reason.GPU_LOST,
        [],
    ),
    (
        "unless the workload did not mind",
        node_observation(
            running(),
            world=listed(),
            report=a_report(
                phase=WorkloadPhase.FINISHED,
                outcome=Outcome(exit_code=0, run_seconds=15, cause=Cause.GPU_LOST),
            ),
        ),
        Reason.COMPLETED,
        [],
    ),
    (
        "so does the node's own deletion",
        node_observation(
            running(), world=listed(), node=a_node(running(), deletionTimestamp=stamp())
        ),
        Reason.NODE_DELETED,
        [],
    ),
    (
        "so does a job that was over before it recorded the node",
        node_observation(KEYED, job=a_job(status=OVER, finalizers=[]), pod=None),
        Reason.NODE_DELETED,
        [],
    ),
    (
        "one that is over as its recorded node shows waits for that",
        node_observation(running(), world=listed(), job=a_job(status=RECORDED | OVER)),
        Reason.RUNNING,
        [],
    ),
    # --- Giving back
    (
        "a machine that is still listed is destroyed again",
        node_observation(ended(running()), world=listed(), memory=SENT_LONG_AGO),
        Reason.RELEASING,
        ["Destroy"],
    ),
    (
        "once for each listing that still shows it",
        node_observation(
            ended(running()),
            world=listed(),
            memory=NodeMemory(destroy_sent_at=MONOTONIC, destroy_repeated_at=MONOTONIC),
        ),
        Reason.RELEASING,
        [],
    ),
    (
        "a recorded machine is destroyed even if no listing shows it",
        node_observation(ended(leased()), memory=NodeMemory()),
        Reason.RELEASING,
        ["Destroy"],
    ),
    (
        "one listing without it is no proof",
        node_observation(
            ended(running()),
            world=a_world(a_listing(a_lease(), ago=20), a_listing(ago=5)),
            memory=SENT_LONG_AGO,
        ),
        Reason.RELEASING,
        [],
    ),
    (
        "neither are two within the list lag",
        node_observation(
            ended(running()),
            world=gone(30, 10),
            memory=NodeMemory(destroy_sent_at=MONOTONIC - 59, destroy_repeated_at=MONOTONIC - 59),
        ),
        Reason.RELEASING,
        [],
    ),
    (
        "two after it are",
        node_observation(
            ended(running()),
            world=gone(30, 10),
            memory=NodeMemory(destroy_sent_at=MONOTONIC - 90),
        ),
        Reason.RELEASED,
        [],
    ),
    (
        "a machine that shows up again is destroyed again",
        node_observation(
            ended(running()),
            world=a_world(a_listing(ago=45), a_listing(ago=30), a_listing(a_lease())),
            memory=NodeMemory(destroy_sent_at=MONOTONIC - 120),
        ),
        Reason.RELEASING,
        ["Destroy"],
    ),
    (
        "a stored end is never reconsidered",
        node_observation(ended(running()), world=listed(), job=None),
        Reason.RELEASING,
        ["Destroy"],
    ),
    (
        "nothing rented, nothing to prove",
        node_observation(ended(DRIVEN, "JobDeleted")),
        Reason.RELEASED,
        [],
    ),
    (
        "it stays until its job has taken the cost over",
        node_observation(RELEASED_STATUS, node=a_node(RELEASED_STATUS, deletionTimestamp=stamp())),
        Reason.RELEASED,
        [],
    ),
    (
        "it goes once its job has",
        node_observation(RELEASED_STATUS, job=a_job(status={"attempt": 1})),
        Reason.RELEASED,
        ["RememberMachine", "RemoveFinalizer"],
    ),
    (
        "it goes if its job is gone",
        node_observation(RELEASED_STATUS, job=None),
        Reason.RELEASED,
        ["RememberMachine", "RemoveFinalizer", "DeleteNode"],
    ),
    (
        "a deleted job with an unanswered request waits for the proof",
        node_observation(ended(renting(), "JobDeleted")),
        Reason.RELEASING,
        [],
    ),
    (
        "and the machine that shows up is recorded, so that it is charged",
        node_observation(ended(renting(), "JobDeleted"), world=listed()),
        Reason.RENTED,
        [],
    ),
    (
        "an answer that comes after the end is recorded too",
        node_observation(
            ended(renting(), "JobDeleted"), memory=NodeMemory(rent=RentAccepted(INSTANCE))
        ),
        Reason.RENTED,
        [],
    ),
    (
        "a refusal after the end frees it",
        node_observation(
            ended(renting(), "JobDeleted"),
            memory=NodeMemory(rent=RentRefused(Reason.OFFER_GONE, "taken")),
        ),
        Reason.OFFER_GONE,
        [],
    ),
]


@pytest.mark.parametrize(
    ("seen", "reason", "names"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE]
)
def test_what_is_decided(seen: NodeObservation, reason: Reason, names: list[str]) -> None:
    """One observation, one reason, these effects."""
    plan = plan_node(seen)

    assert (reason, names) == (plan.reason, [type(effect).__name__ for effect in plan.effects])


def test_an_end_is_stored_before_anything_follows_from_it() -> None:
    """The pass that decides an end has no effect; the next one destroys."""
    plan = plan_node(node_observation(running(), world=listed(), report=finished(0)))

    assert plan.effects == ()
    assert plan.status.end is not None
    assert plan.requeue_seconds == 0


RAISED = {"reservedUSD": "8.000000"}


def raised(reserved: str) -> GpuJob:
    """A job whose ceiling was raised, and what it has recorded of its node's reservation."""
    status = RECORDED | {"nodeReservedUSD": reserved}
    return a_job(a_spec(cost={"ceiling": "8.00"}), status)


def test_a_ceiling_that_is_raised_while_a_node_waits_is_reserved_before_it_is_spent() -> None:
    """First the node, then the job, then the marker: each step is safe without the next."""
    first = plan_node(node_observation(DRIVEN, quotes=quotes(), job=raised("5.000000")))
    second = plan_node(node_observation(DRIVEN | RAISED, quotes=quotes(), job=raised("5.000000")))
    third = plan_node(node_observation(DRIVEN | RAISED, quotes=quotes(), job=raised("8.000000")))

    assert (first.status.reserved_usd, first.effects, first.requeue_seconds) == ("8.000000", (), 0)
    assert (second.reason, second.effects) == (Reason.AWAITING_NODE, ())
    assert third.status.rent is not None
    assert third.status.rent.fuse_usd == "8.000000"


def test_the_marker_holds_all_that_the_request_is_judged_by() -> None:
    """Offer, fuse, deadline and account are stored before the request leaves."""
    plan = plan_node(node_observation(DRIVEN, quotes=quotes()))
    rent, (request,) = plan.status.rent, plan.effects

    assert rent is not None
    assert isinstance(request, effects.Rent)
    assert (rent.offer_id, rent.account_id, rent.fuse_usd) == (1, 7, "5.000000")
    assert rent.max_leases == Limits().max_leases
    assert request.not_after == rent.not_after == at(5)
    assert request.mark == f"c-1/{NODE_UID}/j-1"
    assert SSH_KEY in b64decode(request.setup).decode()
    assert '[ "$down" -gt 10000 ] || [ "$up" -gt 1000 ]' in request.start_script, "the job's caps"


def without_line(status: dict[str, Any]) -> dict[str, Any]:
    """The same node on a machine that moves nothing."""
    return status | {"rent": marker(-3600, downloadMbps=0, uploadMbps=0)}


@pytest.mark.parametrize(
    ("ago", "fuse", "charged"),
    [
        # By then neither its watchdog nor whoever guards fuses can have ended one.
        pytest.param(800, "5", "0.000000", id="soon"),
        # 2,000 s at $0.405 per hour, and what its line carries in that time.
        pytest.param(2000, "5", "0.285000", id="late"),
        pytest.param(2000, "0.2", "0.200000", id="no more than its fuse"),
    ],
)
def test_a_machine_that_may_have_come_and_gone_unseen_is_charged(
    ago: float, fuse: str, charged: str
) -> None:
    """Nobody led for long: no listing of that time shows whether the request rented anything."""
    status = ended(renting() | {"rent": marker(-ago, fuseUSD=fuse)})
    seen = node_observation(
        status, memory=NodeMemory(marker_seen_at=MONOTONIC - 200), world=gone(40, 10)
    )

    plan = plan_node(seen)

    assert plan.reason is Reason.RELEASED
    assert plan.status.accrued_usd == charged


@pytest.mark.parametrize(
    ("status", "listings", "cost"),
    [
        pytest.param(running(-3600), (30, 10), "0.403887", id="missing for the second time"),
        pytest.param(running(-3600), (85, 69, 30, 10), "0.397249", id="before the list lag"),
        pytest.param(leased(-3600), (85, 69, 30, 10), "0.405000", id="never listed: now"),
    ],
)
def test_a_released_machine_is_charged_until_it_was_surely_gone(
    status: dict[str, Any], listings: tuple[float, ...], cost: str
) -> None:
    """From the rent request, at the highest price seen, rounded up."""
    seen = node_observation(
        ended(without_line(status)),
        world=a_world(*(a_listing(ago=ago) for ago in listings)),
        memory=NodeMemory(destroy_sent_at=MONOTONIC - 90),
    )

    assert plan_node(seen).status.accrued_usd == cost


@pytest.mark.parametrize(
    ("counted", "rent", "cost"),
    [
        # $0.403887 for the time; in 89.1 s 80 Mbit/s down and 40 up carry 1.3365 GB, $0.002 each.
        pytest.param({}, {}, "0.406560", id="what its line carries"),
        pytest.param({"download_gb": Fraction(5)}, {}, "0.416560", id="beyond what was counted"),
        pytest.param({"download_gb": Fraction(49)}, {}, "0.503887", id="not beyond the reserve"),
        pytest.param({"download_gb": Fraction(70)}, {}, "0.543887", id="what was counted counts"),
        pytest.param({"download_gb": None}, {}, "0.503887", id="a counter that cannot be read"),
        pytest.param({"upload_gb": None}, {}, "0.503887", id="nor the other"),
        pytest.param({}, {"downloadMbps": None}, "0.503887", id="a line that is not known"),
    ],
)
def test_what_no_listing_showed_is_charged_by_the_reserve(
    counted: dict[str, Any], rent: dict[str, Any], cost: str
) -> None:
    """Unknown is not zero: from the last counters until the machine was surely gone."""
    status = ended(running(-3600)) | {"rent": marker(-3600, **rent)}
    seen = node_observation(
        status,
        world=a_world(a_listing(a_lease(**counted), ago=99), a_listing(ago=30), a_listing(ago=10)),
        memory=NodeMemory(destroy_sent_at=MONOTONIC - 90),
    )

    assert plan_node(seen).status.accrued_usd == cost


@pytest.mark.parametrize(("seconds_left", "is_stored"), [(10, True), (1, False)])
def test_right_before_a_deadline_no_figures_are_stored(seconds_left: int, is_stored: bool) -> None:
    """The write of what the deadline decides would have to wait for theirs."""
    rent = marker(-40, moneyDeadlineSeconds=430, stopSeconds=390 - seconds_left)
    plan = plan_node(node_observation(running() | {"rent": rent}, world=listed()))

    assert plan.status.stop is None
    assert (plan.status.as_of is not None) == is_stored


def test_a_machine_that_a_listing_left_out_is_charged_on() -> None:
    """It was shown again after that."""
    left_out = (a_listing(ago=85), a_listing(ago=69), a_listing(a_lease(), ago=54))
    seen = node_observation(
        ended(without_line(running(-3600))),
        world=a_world(*left_out, a_listing(ago=29), a_listing(ago=10)),
        memory=NodeMemory(destroy_sent_at=MONOTONIC - 90),
    )

    assert plan_node(seen).status.accrued_usd == "0.403887"


STRANGE = {"env_mark": "other/node/job", "label": "other/node/job"}


def destroyed(seen: NodeObservation) -> set[int]:
    """Returns the machines that the next pass destroys."""
    asked = [one for one in plan_node(seen).effects if isinstance(one, effects.Destroy)]
    return {number for one in asked for number in one.instance_ids}


@pytest.mark.parametrize(
    ("listings", "rent", "numbers"),
    [
        pytest.param([a_listing(a_lease(**STRANGE))], None, set(), id="another's by its mark"),
        pytest.param(
            [a_listing(a_lease(**STRANGE), ago=16), a_listing()], None, set(), id="it was shown so"
        ),
        pytest.param([], None, set(), id="nobody has looked at its mark"),
        pytest.param([], RentAccepted(INSTANCE), {INSTANCE}, id="rented by this process"),
        pytest.param([], RentAccepted(INSTANCE + 1), set(), id="another was"),
        pytest.param([a_listing()], None, {INSTANCE}, id="not listed yet"),
        pytest.param(
            [a_listing(a_lease(env_mark=None, label="the big one"))], None, {INSTANCE}, id="renamed"
        ),
    ],
)
def test_the_mark_is_looked_at_before_a_number_is_destroyed(
    listings: list[Any], rent: Any, numbers: set[int]
) -> None:
    """A node may have been restored into another cluster of the same account."""
    world = a_world(*listings, nothing_listed=not listings)
    seen = node_observation(ended(running()), world=world, memory=NodeMemory(rent=rent))

    assert destroyed(seen) == numbers


def test_a_machine_with_another_mark_is_absent() -> None:
    """Neither its state nor its traffic is this node's, and its presence holds up no release."""
    strange = a_lease(**STRANGE, download_gb=Fraction(5), usd_per_hour=Fraction(9))
    shown = a_world(a_listing(strange, ago=30), a_listing(strange, ago=10))
    over = replace(seen_before(ended(running(-900))), world=shown)
    runs = replace(seen_before(running(-900)), world=shown)

    assert plan_node(over).reason is Reason.RELEASED
    assert plan_node(over).status.traffic is None
    assert plan_node(runs).reason is Reason.LEASE_VANISHED


def test_an_interrupted_run_is_counted_and_its_machine_kept() -> None:
    """What ran before is added up; the pinned host key stays, the address may change."""
    plan = plan_node(node_observation(bid(running(started=-20)), world=thrice(**STOPPED)))
    held = plan.status.interruptions

    assert plan.status.run is None
    assert held is not None
    assert (held.count, held.run_seconds, held.paused_at) == (1, 20, NOW)
    back = plan_node(
        node_observation(paused(-600), world=listed(addresses=(Address("h", 23),)))
    ).status
    assert back.machine is not None
    assert (back.machine.port, back.machine.host_key) == (23, SSH_KEY)
    assert (back.run_number, back.is_paused, back.earlier_run_seconds) == (1, False, 700)


def test_addresses_are_stored_as_they_are_listed() -> None:
    """All of them, and new ones while it runs; an attempt goes on, and its host key stays."""
    moved = (Address("h", 24), Address("p.example", 10))
    plan = plan_node(node_observation(running(), world=listed(addresses=moved)))
    held = plan.status.machine
    assert held is not None
    again = node_observation(plan.status.wire(), world=listed(addresses=moved))
    unlisted = node_observation(plan.status.wire(), world=listed(addresses=()))

    assert (held.host, held.port, held.host_key) == ("h", 24, SSH_KEY)
    assert [(one.host, one.port) for one in held.other_addresses] == [("p.example", 10)]
    assert plan.status.run is not None
    assert not plan.effects
    assert plan_node(again).status.machine == held
    assert plan_node(unlisted).status.machine == held


def unattached(status: dict[str, Any]) -> dict[str, Any]:
    """The same node, whose key the provider has not taken yet."""
    lease = {name: held for name, held in status["lease"].items() if name != "keyAttachedAt"}
    return status | {"lease": lease}


def attaches(seen: NodeObservation) -> bool:
    """Whether the next pass gives the node's key to the provider."""
    return any(isinstance(effect, effects.AttachKey) for effect in plan_node(seen).effects)


@pytest.mark.parametrize(
    ("status", "changes", "memory", "is_asked"),
    [
        pytest.param(leased(), {}, {}, True, id="as soon as it runs"),
        pytest.param(running(), {}, {}, True, id="also later"),
        pytest.param(leased(), {"status": "loading"}, {}, False, id="not before"),
        pytest.param(leased(), {"env_mark": "c-1/other/j-1"}, {}, False, id="not to another's"),
        pytest.param(
            leased(), {"env_mark": None, "label": None}, {}, False, id="not to one without a mark"
        ),
        pytest.param(leased(), {}, {"key_attached_at": NOW}, False, id="once"),
        pytest.param(
            leased(), {}, {"key_tried_at": MONOTONIC - 59, "key_tries": 1}, False, id="not at once"
        ),
        pytest.param(
            leased(), {}, {"key_tried_at": MONOTONIC - 60, "key_tries": 1}, True, id="again later"
        ),
        pytest.param(
            running(), {}, {"key_tried_at": MONOTONIC - 1919, "key_tries": 99}, False, id="rarely"
        ),
        pytest.param(
            running(), {}, {"key_tried_at": MONOTONIC - 1920, "key_tries": 99}, True, id="for ever"
        ),
    ],
)
def test_the_key_is_given_to_the_provider_as_well(
    status: dict[str, Any], changes: dict[str, Any], memory: dict[str, Any], is_asked: bool
) -> None:
    """Once for each machine; what fails is tried again less and less, and ends nothing."""
    seen = node_observation(
        unattached(status), world=listed(**changes), memory=NodeMemory(**memory)
    )

    assert attaches(seen) is is_asked
    assert plan_node(seen).status.end is None
    stored = node_observation(status, world=listed(**changes), memory=NodeMemory(**memory))
    assert not attaches(stored), "the status says that it was done"


def test_that_the_provider_took_the_key_is_stored() -> None:
    """With what is stored anyway: a new leader does not ask again."""
    memory = NodeMemory(key_attached_at=NOW, host_key=SSH_KEY)
    plan = plan_node(node_observation(unattached(leased()), world=listed(), memory=memory))

    assert plan.status.lease is not None
    assert plan.status.lease.key_attached_at == NOW
    assert plan.status.machine is not None


@pytest.mark.parametrize("was_killed", [True, False])
def test_an_end_that_is_told_during_a_pause_counts_no_run_twice(was_killed: bool) -> None:
    """The pause has counted it already."""
    outcome = Outcome(exit_code=137, run_seconds=600, was_killed=was_killed)
    report = a_report(phase=WorkloadPhase.FINISHED, outcome=outcome)
    status = plan_node(node_observation(paused(-60), world=listed(), report=report)).status

    assert status.end is not None
    assert status.run is None
    assert status.earlier_run_seconds == 700


def test_a_bid_is_what_the_marker_and_the_request_say() -> None:
    """A request without a price would rent on demand. The marker keeps what the lowest one was."""
    job = a_job(a_spec(market={"type": "Interruptible"}), RECORDED)
    offer = an_offer(lowest_bid_usd_per_hour=Fraction("0.1"))
    plan = plan_node(node_observation(DRIVEN, job=job, quotes=quotes(offer)))
    (request,) = plan.effects

    assert isinstance(request, effects.Rent)
    assert plan.status.rent is not None
    assert request.bid_usd_per_hour is not None
    bid = plan.status.rent.bid_usd_per_hour
    assert bid == plan.status.rent.gpu_usd_per_hour == f"{float(request.bid_usd_per_hour):.6f}"
    assert plan.status.rent.lowest_bid_usd_per_hour == "0.100000"


def test_an_interruptible_job_may_rent_on_demand() -> None:
    """Where no bid is expected to cost less: its marker has none, and nothing waits for bidders."""
    job = a_job(a_spec(market={"type": "Interruptible"}), RECORDED)
    offer = an_offer(lowest_bid_usd_per_hour=Fraction("0.5"))
    plan = plan_node(node_observation(DRIVEN, job=job, quotes=quotes(offer)))
    (request,) = plan.effects

    assert isinstance(request, effects.Rent)
    assert plan.status.rent is not None
    assert request.bid_usd_per_hour is None
    assert plan.status.rent.bid_usd_per_hour is None
    assert plan.status.rent.gpu_usd_per_hour == "0.400000"


def test_what_was_not_rented_costs_nothing() -> None:
    """A refused request is charged with nothing."""
    refused = NodeMemory(rent=RentRefused(Reason.OFFER_GONE, "taken"))
    stored = plan_node(node_observation(renting(), memory=refused)).status
    plan = plan_node(
        replace(node_observation(), node=a_node().model_copy(update={"status": stored}))
    )

    assert plan.reason is Reason.RELEASED
    assert plan.status.accrued_usd == "0.000000"


def test_the_run_is_measured_on_our_clock() -> None:
    """A driver that claims more than our clock allows is not believed."""
    claims = finished(0, run_seconds=9999.0)
    plan = plan_node(node_observation(running(-40, -20), world=listed(), report=claims))

    assert plan.status.run is not None
    assert plan.status.run.seconds == 20


def test_only_seconds_in_which_the_machine_was_heard_are_run_seconds() -> None:
    """The silence of a lost machine does not use up the job's deadline."""
    report = a_report(machine_contact_age_seconds=900.0)
    plan = plan_node(node_observation(running(-2000, -1500), world=listed(), report=report))

    assert plan.status.end is not None
    assert plan.status.end.reason == Reason.HOST_LOST
    assert plan.status.run is not None
    assert plan.status.run.seconds == 600


def test_the_next_look_comes_in_time_for_the_deadline() -> None:
    """A deadline in three seconds is not slept over."""
    plan = plan_node(node_observation(running(-4000, -3597), world=listed()))

    assert plan.requeue_seconds is not None
    assert plan.requeue_seconds <= 3


def test_a_kept_node_is_deleted_after_a_day() -> None:
    """It stays to be read, and then goes."""
    status = ended(running()) | {"releasedAt": stamp(-L.node_retention_seconds)}
    plan = plan_node(node_observation(status, node=a_node(status, finalizers=[]), pod=None))

    assert plan.effects == (effects.DeleteNode(),)


def test_a_node_whose_job_is_gone_does_not_stand_in_the_way_of_the_next_one() -> None:
    """Nobody deletes it with its job, if that was deleted with --cascade=orphan."""
    status = ended(running()) | {"releasedAt": stamp(-1)}
    node = a_node(status, finalizers=[])
    another = a_job(uid="j-2")
    deletes = (effects.DeleteNode(),)

    assert plan_node(node_observation(status, node=node, job=None, pod=None)).effects == deletes
    assert plan_node(node_observation(status, node=node, job=another, pod=None)).effects == deletes
    assert plan_node(node_observation(status, node=node, pod=None)).effects == ()
    unreadable = node_observation(status, node=node, job=None, job_problem="no image", pod=None)
    assert plan_node(unreadable).effects == ()


def test_planning_is_deterministic() -> None:
    """The same observation gives the same plan."""
    for _, seen, *_ in TABLE:
        assert plan_node(seen) == plan_node(seen)


TRIALS = [
    ("a lost host", ended(running(), "HostLost"), True),
    ("a boot that took too long", ended(leased(), "BootTimeout", blames="host"), True),
    (
        "one that the image may be to blame for",
        ended(leased(), "BootTimeout", blames="provider"),
        None,
    ),
    ("what a version stored that did not say whom it blames", ended(leased(), "BootTimeout"), True),
    ("a workload that failed", ended(running(), "WorkloadFailed", exitCode=1), False),
    ("a deadline", ended(running(), "DeadlineExceeded"), False),
    ("a deletion before it ran", ended(leased(), "JobDeleted"), None),
    ("a refused request", ended(renting(), "OfferGone"), None),
]


@pytest.mark.parametrize(
    ("status", "failed"), [row[1:] for row in TRIALS], ids=[row[0] for row in TRIALS]
)
def test_what_an_attempt_says_of_its_machine(status: Any, failed: bool | None) -> None:
    """A host's failure speaks against it, a run for it, and what never ran says nothing."""
    plan = plan_node(node_observation(status | {"releasedAt": stamp(-1)}, job=None))
    told = [one.trial for one in plan.effects if isinstance(one, effects.RememberMachine)]

    assert [trial.failed for trial in told] == ([] if failed is None else [failed])
    assert all((trial.machine_id, trial.host_id) == (100, 10) for trial in told)


MOVED = {"downloadMB": 5000, "uploadMB": 300, "asOf": stamp(-60)}


@pytest.mark.parametrize(
    ("stored", "listings", "counts"),
    [
        pytest.param(None, [{"download_gb": Fraction(5)}], (5000, 0), id="as it is seen"),
        pytest.param(
            None,
            [
                {"download_gb": Fraction(1), "upload_gb": Fraction(2)},
                {"download_gb": Fraction(3), "upload_gb": Fraction(1)},
            ],
            (3000, 2000),
            id="the largest of each",
        ),
        pytest.param(MOVED, [{"upload_gb": Fraction("0.3000001")}], (5000, 301), id="rounded up"),
        pytest.param(MOVED, [{"download_gb": Fraction(4)}], (5000, 300), id="it never goes down"),
        pytest.param(MOVED, [{"download_gb": None}], (5000, 300), id="unreadable"),
    ],
)
@pytest.mark.parametrize("status", [running(), ended(running()), leased()])
def test_what_a_machine_has_moved_is_stored_in_the_pass_that_sees_it(
    status: dict[str, Any], stored: Any, listings: list[dict[str, Any]], counts: tuple[int, int]
) -> None:
    """Also if the figures of the cost are fresh: another process has none of these listings."""
    shown = [a_listing(a_lease(**one), ago=16 - n) for n, one in enumerate(listings)]
    held = {"accruedUSD": "0.1", "asOf": stamp(-1)} | ({"traffic": stored} if stored else {})
    told = plan_node(node_observation(status | held, world=a_world(*shown))).status.traffic

    assert told is not None
    assert (told.download_mb, told.upload_mb) == counts


@pytest.mark.parametrize("seconds", [-1, -90])
def test_that_nothing_has_moved_yet_is_stored_with_other_figures(seconds: float) -> None:
    """It is charged like what nobody has seen, so nothing is written for it alone."""
    status = leased() | {"accruedUSD": "0.1", "asOf": stamp(seconds)}
    told = plan_node(node_observation(status, world=a_world(a_listing(a_lease())))).status

    assert (told.traffic is not None) == (seconds == -90)


def test_what_was_stored_of_the_traffic_is_charged_whoever_releases_it() -> None:
    """A new leader has no listing that shows the machine."""
    status = ended(running(-3600)) | {"traffic": MOVED | {"asOf": stamp(-9.9)}}
    seen = node_observation(
        status,
        world=gone(30, 10),
        memory=NodeMemory(destroy_sent_at=MONOTONIC - 90),
    )
    plan = plan_node(seen)

    # Two dollars per thousand GB.
    assert plan.status.accrued_usd == "0.414487"
    assert plan.status.traffic is not None
    later = plan_node(replace(seen, node=a_node(status | {"accruedUSD": "0.500000"})))
    assert later.status.accrued_usd == "0.500000", "what was told is never taken back"


SECOND = INSTANCE + 1


@pytest.mark.parametrize(
    "status",
    [
        pytest.param(leased(), id="booting"),
        pytest.param(reachable(), id="measuring"),
        pytest.param(booted(), id="starting"),
        pytest.param(running(), id="running"),
        pytest.param(paused(-60), id="paused"),
        pytest.param(stopping(), id="stopping"),
        pytest.param(delivered(), id="delivering"),
        pytest.param(ended(running()), id="ended"),
    ],
)
def test_of_several_machines_one_is_kept_in_every_pass(status: dict[str, Any]) -> None:
    """A request that arrived twice rented twice; the one that is recorded is not touched."""
    shown = a_world(a_listing(a_lease(), a_lease(instance_id=SECOND)))
    plan = plan_node(node_observation(status, world=shown))
    asked = {
        n for one in plan.effects if isinstance(one, effects.Destroy) for n in one.instance_ids
    }

    assert asked == ({INSTANCE, SECOND} if "end" in status else {SECOND})
    assert [one.instance_id for one in plan.status.duplicates] == [SECOND]


@pytest.mark.parametrize(
    ("ago", "cost"),
    [
        # $0.403887 for the machine itself, and as much for each second of the other one's.
        pytest.param((), "0.403887", id="there was none"),
        pytest.param((3000.0,), "0.471387", id="gone 600 s after the request"),
        pytest.param((None,), "0.808887", id="it may still have been there"),
    ],
)
def test_what_a_duplicate_has_cost_is_charged_with_the_attempt(ago: Any, cost: str) -> None:
    """From the rent request until a listing no longer showed it."""
    held = [
        {"instanceID": SECOND, "usdPerHour": "0.405"} | ({"goneAt": stamp(-one)} if one else {})
        for one in ago
    ]
    seen = node_observation(
        ended(without_line(running(-3600))) | {"duplicates": held},
        world=gone(30, 10),
        memory=NodeMemory(destroy_sent_at=MONOTONIC - 90),
    )

    assert plan_node(seen).status.accrued_usd == cost


def test_a_duplicate_is_gone_once_no_listing_shows_it() -> None:
    """It is back if a later one does; and none of its figures goes down."""
    told = {"instanceID": SECOND, "usdPerHour": "0.500000", "traffic": MOVED}
    status = running() | {"duplicates": [told]}
    (left,) = plan_node(node_observation(status, world=listed())).status.duplicates
    back = a_world(a_listing(a_lease(), a_lease(instance_id=SECOND)))
    again = node_observation(status | {"duplicates": [told | {"goneAt": stamp(-9)}]}, world=back)
    (shown,) = plan_node(again).status.duplicates

    assert left.gone_at == NOW
    assert (shown.gone_at, shown.usd_per_hour) == (None, "0.500000")
    assert shown.traffic is not None
    assert shown.traffic.download_mb == 5000


FOUND = a_lease(started_at=at(-3600), download_gb=Fraction(5))


@pytest.mark.parametrize(
    "status",
    [
        pytest.param({}, id="without a key"),
        pytest.param(KEYED, id="without a driver"),
        pytest.param(DRIVEN, id="ready to rent"),
    ],
)
@pytest.mark.parametrize("job", [a_job(status=RECORDED), a_job(), None])
def test_a_mark_that_is_on_a_machine_already_is_never_rented_again(status: Any, job: Any) -> None:
    """A backup was restored: the attempt ends, the machine is destroyed and charged from its
    start."""
    seen = node_observation(status, job=job, quotes=quotes(), world=a_world(a_listing(FOUND)))
    plan = plan_node(seen)
    over = seen_before(plan.status.wire(), destroy_sent_at=MONOTONIC - 90)
    released = plan_node(replace(over, job=job, world=gone(30, 10)))

    assert plan.reason is Reason.RENT_FORGOTTEN
    assert plan.effects == ()
    assert plan.status.rent is not None
    assert (plan.status.rent.requested_at, plan.status.rent.account_id) == (at(-3600), 7)
    assert destroyed(replace(seen, node=over.node)) == {INSTANCE}
    assert released.reason is Reason.RELEASED
    # An hour at $0.405; 5 GB were counted, and little can have moved unseen.
    assert "0.415000" <= (released.status.accrued_usd or "") <= "0.440000"


@pytest.mark.parametrize("unknown", ["usd_per_hour", "line"])
def test_a_found_machine_of_unknown_price_costs_what_was_reserved(unknown: str) -> None:
    """Unknown is not zero."""
    shown = a_world(a_listing(replace(FOUND, **{unknown: None})))  # type: ignore[arg-type]
    plan = plan_node(node_observation(DRIVEN, world=shown))

    assert plan.status.accrued_usd == "5.000000"


UNREADABLE = {"job": None, "job_problem": "GpuJob train cannot be read: spec.gpu: is no object"}
AGREED = {"maxRunSeconds": 600, "maxDownloadGB": 10, "maxUploadGB": 1}


@pytest.mark.parametrize(
    ("status", "changes", "reason"),
    [
        pytest.param(running(), {}, Reason.RUNNING, id="it runs on"),
        pytest.param(running(-700, -600), {}, Reason.STOPPING, id="its deadline"),
        pytest.param(
            running() | {"rent": marker(-40, **AGREED, moneyDeadlineSeconds=40)},
            {},
            Reason.BUDGET_EXHAUSTED,
            id="its fuse",
        ),
        pytest.param(
            running(),
            {"world": listed(download_gb=Fraction(11))},
            Reason.TRAFFIC_EXCEEDED,
            id="its caps",
        ),
        pytest.param(running(), {"report": finished(0)}, Reason.COMPLETED, id="its outcome"),
        pytest.param(running(), {"pod": None}, Reason.AWAITING_DRIVER, id="no other driver"),
        pytest.param(
            running(),
            {"node": a_node(running(), deletionTimestamp=stamp())},
            Reason.NODE_DELETED,
            id="its node's deletion",
        ),
        pytest.param(
            DRIVEN,
            {"quotes": quotes(), "world": a_world()},
            Reason.AWAITING_NODE,
            id="nothing is rented",
        ),
        pytest.param(ended(running()), {}, Reason.RELEASING, id="its end"),
        pytest.param(RELEASED_STATUS, {}, Reason.RELEASED, id="it waits to be charged"),
    ],
)
def test_a_node_carries_all_that_its_end_needs(
    status: dict[str, Any], changes: dict[str, Any], reason: Reason
) -> None:
    """While the stored job cannot be read."""
    if "rent" in status and status["rent"]["moneyDeadlineSeconds"] != 40:
        began = 700 if reason is Reason.STOPPING else 40
        status = status | {"rent": marker(-began, **AGREED)}
    seen = node_observation(status, **{"world": listed(), **UNREADABLE, **changes})
    plan = plan_node(seen)

    assert plan.reason is reason
    assert effects.RemoveFinalizer() not in plan.effects


def test_the_marker_holds_what_the_job_agreed_to() -> None:
    """The run seconds of earlier attempts are used up."""
    job = a_job(status=RECORDED | {"runSeconds": 600})
    rent = plan_node(node_observation(DRIVEN, job=job, quotes=quotes())).status.rent

    assert rent is not None
    assert (rent.max_run_seconds, rent.max_download_gb, rent.max_upload_gb) == (3000, 10, 1)


CHEAP = STOPPED | {"stopped_usd_per_hour": Fraction("0.036")}


def shows(*rows: dict[str, Any] | None, every: float = 15.0) -> Any:
    """A world whose listings show our machine so, the latest one second ago; None = not at all."""
    ages = [1 + every * back for back in reversed(range(len(rows)))]
    return a_world(
        *(
            a_listing(*([] if row is None else [a_lease(**row)]), ago=ago)
            for row, ago in zip(rows, ages, strict=True)
        )
    )


@pytest.mark.parametrize(
    ("world", "stored", "seconds"),
    [
        pytest.param(shows(CHEAP), None, 0, id="one listing is no pause"),
        pytest.param(shows(CHEAP, CHEAP), None, 0, id="from the second one on"),
        pytest.param(shows(CHEAP, CHEAP, CHEAP), None, 14, id="to the last, rounded down"),
        pytest.param(shows(CHEAP, CHEAP, CHEAP, {}), None, 14, id="and no further"),
        pytest.param(shows(CHEAP, CHEAP, {}, CHEAP, CHEAP), None, 0, id="in a row"),
        pytest.param(shows(CHEAP, CHEAP, None, CHEAP, CHEAP), None, 0, id="shown each time"),
        pytest.param(shows(CHEAP, CHEAP, CHEAP, every=60), None, 0, id="nobody looked for long"),
        pytest.param(shows(*[STOPPED] * 9), None, 0, id="its price is unknown"),
        pytest.param(
            shows(*[STOPPED | {"stopped_usd_per_hour": Fraction(1)}] * 9), None, 0, id="it is dear"
        ),
        pytest.param(shows(CHEAP), (2, -16.0), 115, id="what was stored goes on"),
        pytest.param(shows(CHEAP), (1, -16.0), 100, id="the second since it was stored"),
        pytest.param(shows(CHEAP), (2, -60.0), 100, id="another leader looked too late"),
        pytest.param(shows({}), (2, -16.0), 100, id="none of it goes down"),
    ],
)
def test_a_pause_is_priced_as_listings_show_it(world: Any, stored: Any, seconds: int) -> None:
    """From the second that shows it to the last, at the price of the disk; against ourselves."""
    status = bid(booted(-1000))
    if stored is not None:
        listed, at_ = stored
        held = {"seconds": 100, "costUSD": "0.001000", "listed": listed, "asOf": stamp(at_)}
        status = status | {"pauses": held}
    told = plan_node(node_observation(ended(status), world=world)).status
    ran = 1000 - seconds
    paused = seconds if stored is None else seconds - 100
    cost = ran * 405_000 / 3600 + paused * 36_000 / 3600 + (1000 if stored else 0)

    assert (told.pauses.seconds if told.pauses else 0) == seconds
    assert abs(int((told.accrued_usd or "").replace(".", "")) - cost) <= 3


def test_only_an_interruptible_machine_is_paused() -> None:
    """Another one that stands still is not cheaper for that."""
    told = plan_node(node_observation(ended(booted(-1000)), world=shows(*[CHEAP] * 9))).status

    assert told.pauses is None


@pytest.mark.parametrize(
    ("held", "reason"),
    [
        pytest.param({}, Reason.BUDGET_EXHAUSTED, id="it ran all the time"),
        pytest.param(
            {"pauses": {"seconds": 600, "costUSD": "0.001000", "asOf": stamp(-60)}},
            Reason.RUNNING,
            id="it was paused",
        ),
        pytest.param(
            {
                "pauses": {"seconds": 600, "costUSD": "0.001000", "asOf": stamp(-60)},
                "duplicates": [
                    {"instanceID": SECOND, "usdPerHour": "0.405", "goneAt": stamp(-300)}
                ],
            },
            Reason.BUDGET_EXHAUSTED,
            id="another machine was paid for, too",
        ),
    ],
)
def test_the_fuse_counts_what_is_paid_for(held: dict[str, Any], reason: Reason) -> None:
    """A pause at its own price; also for whoever guards the fuse without a leader."""
    rent = marker(-1000, moneyDeadlineSeconds=900, watchdogSeconds=1500, bidUSDPerHour="0.4")
    status = running(-1000) | {"rent": rent} | held
    plan = plan_node(node_observation(status, world=listed()))
    late = overdue([a_node(status)], a_listing(a_lease()), cluster_id="c-1", now=NOW)

    assert plan.reason is reason
    assert late == (() if reason is Reason.RUNNING else (INSTANCE,))


@pytest.mark.parametrize("late", [0.0, 0.0004, -0.0004])
def test_another_pass_over_the_same_listing_stores_nothing(late: float) -> None:
    """Each write would bring the next pass; the two clocks do not tick together."""
    world = a_world(a_listing(a_lease(), a_lease(instance_id=SECOND)))
    fresh = running() | {"accruedUSD": "0.1", "asOf": stamp(-1)}
    first = plan_node(node_observation(fresh, world=world)).status
    again = replace(world, now=at(5), monotonic=MONOTONIC + 5 + late)

    assert plan_node(node_observation(first.wire(), world=again)).status == first
