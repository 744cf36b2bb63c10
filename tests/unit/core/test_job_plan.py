"""The life of a job: attempts one after the other until it is over."""

from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
from tests.builders import (
    CLUSTER,
    JOB_UID,
    MONOTONIC,
    NODE_UID,
    NOW,
    RECORDED,
    a_job,
    a_lease,
    a_listing,
    a_node,
    a_spec,
    a_world,
    an_offer,
    at,
    ended,
    job_observation,
    leased,
    marker,
    quotes,
    running,
    stamp,
)
from tests.unit.core.test_images import a_trial

from gpujob.api.gpujob import GpuJob
from gpujob.api.gpunode import GpuNode
from gpujob.api.meta import ANNOTATION_FINISHED, FINALIZER
from gpujob.api.reasons import Reason
from gpujob.core import effects
from gpujob.core.conditions import job_status
from gpujob.core.job.answers import JobPlan
from gpujob.core.job.end import is_finished
from gpujob.core.job.plan import plan_job
from gpujob.core.job.strays import jobs_with_strays, newly_charged
from gpujob.core.limits import Limits
from gpujob.core.market.images import Found, ImageMemory, ImageTrial
from gpujob.core.market.listings import Line
from gpujob.core.observation import JobObservation, Unavailable


def released(reason: str, cost: str = "0.250000", **end: Any) -> GpuNode:
    """The recorded node, given back."""
    status = ended(running(), reason, **end)
    return a_node(status | {"releasedAt": stamp(-1), "accruedUSD": cost})


def retried(failures: int = 1, ago: float = 3600.0) -> dict[str, Any]:
    """Status of a job after attempts that came to nothing."""
    record = {
        "attempt": 1,
        "nodeName": "train-0-1",
        "reason": "WorkloadFailed",
        "exitCode": 1,
        "costUSD": "0.25",
        "endedAt": stamp(-ago),
    }
    return {"attempt": 1, "attempts": [record], "failures": failures}


NOTED = f"train/{JOB_UID}"
"""What is noted on a job once it is over."""
RETRIES = a_spec(backoffLimit=2)
PORTS = [{"name": "http", "port": 8080}]

TABLE = [
    (
        "the finalizer comes before the first node",
        job_observation(job=a_job(finalizers=[]), quotes=quotes()),
        Reason.ADMITTED,
        ["AddFinalizer"],
    ),
    (
        "a job that the gate has never admitted has none",
        job_observation(
            job=a_job(a_spec(cost={"ceiling": "0.01"}), finalizers=[]), quotes=quotes()
        ),
        Reason.CEILING_EXCEEDED,
        [],
    ),
    (
        "a node whose creation seemed to fail is held before it is recorded",
        job_observation(job=a_job(finalizers=[]), node=a_node()),
        Reason.ACCEPTED,
        ["AddFinalizer"],
    ),
    (
        "so is one that is recorded: somebody has taken the finalizer off",
        job_observation(job=a_job(status=RECORDED, finalizers=[]), node=a_node(leased())),
        Reason.ACCEPTED,
        ["AddFinalizer"],
    ),
    (
        "a suspended job keeps it while nobody knows what is rented",
        job_observation(job=a_job(a_spec(suspend=True)), world=a_world(nothing_listed=True)),
        Reason.SUSPENDED,
        [],
    ),
    ("prices are asked for", job_observation(), Reason.AWAITING_OFFERS, ["RemoveFinalizer"]),
    (
        "the gate's yes makes a node",
        job_observation(quotes=quotes()),
        Reason.ADMITTED,
        ["CreateNode"],
    ),
    (
        "the gate's no makes none",
        job_observation(job=a_job(a_spec(cost={"ceiling": "0.01"})), quotes=quotes()),
        Reason.CEILING_EXCEEDED,
        ["RemoveFinalizer"],
    ),
    (
        "an unavailable market makes none",
        job_observation(quotes=Unavailable(Reason.PROVIDER_UNAVAILABLE, "html")),
        Reason.PROVIDER_UNAVAILABLE,
        ["RemoveFinalizer"],
    ),
    (
        "a refused key makes none and fails no job",
        job_observation(
            quotes=quotes(),
            world=a_world(not_ready=Unavailable(Reason.CREDENTIALS_REJECTED, "key")),
        ),
        Reason.CREDENTIALS_REJECTED,
        ["RemoveFinalizer"],
    ),
    (
        "no listing, no node",
        job_observation(quotes=quotes(), world=a_world(nothing_listed=True)),
        Reason.PROVIDER_UNAVAILABLE,
        [],
    ),
    (
        "a confidence that can never be met, stored before it was refused, waits for nothing",
        job_observation(
            job=a_job(a_spec(cost={"ceiling": "5.00", "confidence": "0.995"})), quotes=quotes()
        ),
        Reason.SPEC_INVALID,
        [],
    ),
    (
        "what no machine could run rents nothing",
        job_observation(job=a_job(a_spec(image="$(reboot)")), quotes=quotes()),
        Reason.SPEC_INVALID,
        [],
    ),
    (
        "but a machine that it has is given back first",
        job_observation(job=a_job(a_spec(image="$(reboot)"), status=RECORDED), node=a_node()),
        Reason.AWAITING_DRIVER,
        [],
    ),
    (
        "the Service for its ports comes before anything else",
        job_observation(job=a_job(a_spec(ports=PORTS)), quotes=quotes()),
        Reason.ACCEPTED,
        ["CreateService"],
    ),
    (
        "one of somebody else is left alone, and nothing rented",
        job_observation(job=a_job(a_spec(ports=PORTS)), quotes=quotes(), service_owner=""),
        Reason.SERVICE_NOT_CREATED,
        ["RemoveFinalizer"],
    ),
    (
        "one of an earlier job of this name is left alone too",
        job_observation(job=a_job(a_spec(ports=PORTS)), quotes=quotes(), service_owner="j-0"),
        Reason.SERVICE_NOT_CREATED,
        ["RemoveFinalizer"],
    ),
    (
        "its name is told",
        job_observation(job=a_job(a_spec(ports=PORTS)), quotes=quotes(), service_owner="j-1"),
        Reason.ACCEPTED,
        [],
    ),
    (
        "then the gate is asked",
        job_observation(
            job=a_job(a_spec(ports=PORTS), status={"serviceName": "gpujob-train"}),
            quotes=quotes(),
            service_owner="j-1",
        ),
        Reason.ADMITTED,
        ["CreateNode"],
    ),
    (
        "one that was taken away is made again",
        job_observation(job=a_job(a_spec(ports=PORTS), status=RECORDED), node=a_node()),
        Reason.AWAITING_DRIVER,
        ["CreateService"],
    ),
    (
        "a suspended job rents nothing",
        job_observation(job=a_job(a_spec(suspend=True)), quotes=quotes()),
        Reason.SUSPENDED,
        ["RemoveFinalizer"],
    ),
    (
        "what a backup brought back after its end waits",
        job_observation(
            job=a_job(annotations={"gpujob.dev/finished": "train/of-before"}), quotes=quotes()
        ),
        Reason.SUSPENDED,
        ["RemoveFinalizer"],
    ),
    (
        "a job by another name that was made from it does not",
        job_observation(
            job=a_job(annotations={"gpujob.dev/finished": "old/of-before"}), quotes=quotes()
        ),
        Reason.ADMITTED,
        ["CreateNode"],
    ),
    (
        "a made node is recorded",
        job_observation(node=a_node()),
        Reason.AWAITING_DRIVER,
        [],
    ),
    (
        "a node of an earlier job of this name is waited for",
        job_observation(node=a_node(), job=a_job(uid="j-2"), quotes=quotes()),
        Reason.FORMER_NODE,
        ["RemoveFinalizer"],
    ),
    (
        "success ends it",
        job_observation(job=a_job(status=RECORDED), node=released("Completed", exitCode=0)),
        Reason.COMPLETE,
        [],
    ),
    (
        "the deadline ends it",
        job_observation(job=a_job(status=RECORDED), node=released("DeadlineExceeded")),
        Reason.DEADLINE_EXCEEDED,
        [],
    ),
    (
        "the fuse ends it",
        job_observation(job=a_job(status=RECORDED), node=released("BudgetExhausted")),
        Reason.BUDGET_EXHAUSTED,
        [],
    ),
    (
        "a failure is tried again",
        job_observation(
            job=a_job(RETRIES, status=RECORDED), node=released("WorkloadFailed", exitCode=1)
        ),
        Reason.RETRYING,
        [],
    ),
    (
        "up to the limit",
        job_observation(
            job=a_job(RETRIES, status=RECORDED | {"failures": 2}),
            node=released("WorkloadFailed", exitCode=1),
        ),
        Reason.BACKOFF_LIMIT_EXCEEDED,
        [],
    ),
    (
        "unasked it is not even paid a second time",
        job_observation(job=a_job(status=RECORDED), node=released("WorkloadFailed", exitCode=1)),
        Reason.BACKOFF_LIMIT_EXCEEDED,
        [],
    ),
    (
        "a lost host is no failure",
        job_observation(
            job=a_job(RETRIES, status=RECORDED | {"failures": 2}), node=released("HostLost")
        ),
        Reason.RETRYING,
        [],
    ),
    (
        "but there is a limit to bad luck",
        job_observation(job=a_job(status=RECORDED | {"disruptions": 9}), node=released("HostLost")),
        Reason.MAX_RENTS_EXCEEDED,
        [],
    ),
    *(
        (
            f"{reason} counts to no limit",
            job_observation(
                job=a_job(RETRIES, status=RECORDED | {"disruptions": 9, "failures": 2}),
                node=released(reason),
            ),
            Reason.RETRYING,
            [],
        )
        for reason in ("OfferGone", "RentNotConfirmed", "RentWithheld", "DriverNotStarted")
    ),
    (
        "an image that cannot be used ends it",
        job_observation(job=a_job(status=RECORDED), node=released("ImageUnusable")),
        Reason.IMAGE_UNUSABLE,
        [],
    ),
    (
        "the number of attempts has an end",
        job_observation(
            job=a_job(status=RECORDED | {"attempt": 1_000_000}), node=released("OfferGone")
        ),
        Reason.MAX_RENTS_EXCEEDED,
        [],
    ),
    (
        "suspension counts to no limit",
        job_observation(
            job=a_job(RETRIES, status=RECORDED | {"disruptions": 9, "failures": 2}),
            node=released("Suspended"),
        ),
        Reason.RETRYING,
        [],
    ),
    (
        "the next attempt waits its turn",
        job_observation(job=a_job(status=retried(ago=5)), quotes=quotes()),
        Reason.RETRYING,
        ["RemoveFinalizer"],
    ),
    (
        "and then has it",
        job_observation(job=a_job(status=retried()), quotes=quotes()),
        Reason.ADMITTED,
        ["CreateNode"],
    ),
    (
        "a vanished node is searched for",
        job_observation(job=a_job(status=RECORDED), node_absent_since=MONOTONIC - 5),
        Reason.NODE_VANISHED,
        [],
    ),
    (
        "while its machine is listed nothing else is rented",
        job_observation(
            job=a_job(status=RECORDED),
            node_absent_since=MONOTONIC - 900,
            world=a_world(a_listing(a_lease(), ago=40), a_listing(a_lease(), ago=10)),
        ),
        Reason.NODE_VANISHED,
        [],
    ),
    (
        "and another account's listings do not show that it is gone",
        job_observation(
            job=a_job(status=RECORDED),
            node_absent_since=MONOTONIC - 900,
            world=a_world(
                a_listing(ago=40, account_id=8), a_listing(ago=10, account_id=8), account_id=8
            ),
        ),
        Reason.NODE_VANISHED,
        [],
    ),
    (
        "no node is recorded before its account is known",
        job_observation(node=a_node(), world=a_world(account_id=None)),
        Reason.AWAITING_NODE,
        [],
    ),
    (
        "a deleted job waits for its machine",
        job_observation(
            job=a_job(status=RECORDED, deletionTimestamp=stamp()), node=a_node(leased())
        ),
        Reason.RELEASING,
        [],
    ),
    (
        "and for one that was not recorded yet",
        job_observation(job=a_job(deletionTimestamp=stamp()), node=a_node()),
        Reason.RELEASING,
        [],
    ),
    (
        "and then goes",
        job_observation(job=a_job(deletionTimestamp=stamp())),
        Reason.RELEASED,
        ["RemoveFinalizer"],
    ),
    (
        "a deleted job makes no new node",
        job_observation(job=a_job(deletionTimestamp=stamp(), finalizers=[]), quotes=quotes()),
        Reason.RELEASED,
        [],
    ),
]


@pytest.mark.parametrize(
    ("seen", "reason", "names"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE]
)
def test_what_is_decided(seen: JobObservation, reason: Reason, names: list[str]) -> None:
    """One observation, one reason, these effects."""
    plan = plan_job(seen)

    assert (reason, names) == (plan.reason, [type(effect).__name__ for effect in plan.effects])


@pytest.mark.parametrize("reason", ["DeadlineExceeded", "Suspended", "Completed", "HostLost"])
def test_an_end_is_told_only_once_the_machine_is_gone(reason: str) -> None:
    """Whoever waits for the reason of an end finds the job charged, not still paying."""
    ready = {
        "type": "Ready",
        "status": "False",
        "reason": reason,
        "message": "so it is",
        "lastTransitionTime": stamp(),
    }
    node = a_node(ended(running(), reason) | {"conditions": [ready]})
    plan = plan_job(job_observation(job=a_job(status=RECORDED), node=node))

    assert plan.reason is Reason.RELEASING
    assert plan.message.startswith(f"{reason}: so it is")


def test_a_charge_is_added_once() -> None:
    """After the charge the attempt is no longer recorded as under way."""
    seen = job_observation(job=a_job(status=RECORDED), node=released("HostLost"))
    status = plan_job(seen).status

    assert status.cost.spent_usd == "0.250000"
    assert status.node_uid is None
    assert [record.attempt for record in status.attempts] == [1]


def test_charges_add_up() -> None:
    """What an attempt cost comes on top of what was spent before."""
    status = RECORDED | {"cost": {"spentUSD": "1.500000"}}
    seen = job_observation(job=a_job(status=status), node=released("HostLost"))

    assert plan_job(seen).status.cost.spent_usd == "1.750000"


def test_a_vanished_node_is_charged_in_full() -> None:
    """What was reserved counts as spent, and its number is never used again."""
    seen = job_observation(
        job=a_job(status=RECORDED),
        node_absent_since=MONOTONIC - 900,
        world=a_world(a_listing(ago=40), a_listing(ago=10)),
    )
    status = plan_job(seen).status

    assert status.cost.spent_usd == "5.000000"
    assert status.attempt == 1


@pytest.mark.parametrize(
    ("known", "estimate", "confidence"),
    [
        pytest.param({}, "1.300000", "0.95", id="nothing was stored"),
        pytest.param({"estimateUSD": "9.000000"}, "1.300000", "0.95", id="it was refused before"),
        pytest.param(
            {"estimateUSD": "2.000000", "confidence": "0.97"}, "2.000000", "0.97", id="known"
        ),
    ],
)
def test_whoever_creates_the_node_may_die_before_the_gate_s_words_are_stored(
    known: dict[str, Any], estimate: str, confidence: str
) -> None:
    """Then the estimate is that of the machine that was rented."""
    rent = marker() | {"estimateUSD": "1.000000", "confidence": "0.95"}
    job = a_job(status=RECORDED | {"cost": {"spentUSD": "0.300000", **known}})
    plan = plan_job(job_observation(job=job, node=a_node(leased() | {"rent": rent})))

    assert (plan.status.cost.estimate_usd, plan.status.cost.confidence) == (estimate, confidence)


def test_the_next_attempt_has_the_next_number_and_what_is_left() -> None:
    """Names are never used twice, and the reservation shrinks by what was spent."""
    status = retried() | {"cost": {"spentUSD": "0.250000"}}
    (effect,) = plan_job(job_observation(job=a_job(status=status), quotes=quotes())).effects

    assert isinstance(effect, effects.CreateNode)
    assert effect.manifest["metadata"]["name"] == "train-0-2"
    assert effect.manifest["spec"]["reservedUSD"] == "4.750000"


def test_a_machine_that_was_lost_is_avoided() -> None:
    """The next attempt goes elsewhere."""
    status = retried()
    lost = {"reason": "HostLost", "machineID": 100, "exitCode": None}
    status["attempts"][0] |= lost
    other = an_offer(offer_id=2, machine_id=200)
    seen = job_observation(job=a_job(status=status), quotes=quotes(an_offer(), other))

    assert plan_job(seen).reason is Reason.ADMITTED
    assert plan_job(replace(seen, quotes=quotes(an_offer()))).reason is Reason.MACHINES_DISTRUSTED


POLICY = {
    "rules": [
        {"action": "Ignore", "onExitCodes": {"operator": "In", "values": [75, 137]}},
        {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [2, 75]}},
        {"action": "Count", "onExitCodes": {"operator": "NotIn", "values": [3]}},
        {"action": "FailJob", "onExitCodes": {"operator": "NotIn", "values": [200]}},
    ]
}
RULED = [
    ("the first rule that fits decides", 75, Reason.RETRYING, (0, 1)),
    ("a signal has a code", 137, Reason.RETRYING, (0, 1)),
    ("some failures are for good", 2, Reason.FAILURE_POLICY, (1, 0)),
    ("others count", 1, Reason.RETRYING, (1, 0)),
    ("none of these", 3, Reason.FAILURE_POLICY, (1, 0)),
]


@pytest.mark.parametrize(
    ("code", "reason", "counts"), [row[1:] for row in RULED], ids=[row[0] for row in RULED]
)
def test_exit_codes_decide_about_a_retry(
    code: int, reason: Reason, counts: tuple[int, int]
) -> None:
    """By the job's own rules; what is ignored counts as bad luck, not as a failure."""
    node = released("WorkloadFailed", exitCode=code)
    plan = plan_job(
        job_observation(job=a_job(RETRIES | {"failurePolicy": POLICY}, status=RECORDED), node=node)
    )

    assert plan.reason is reason
    assert (plan.status.failures, plan.status.disruptions) == counts


def test_what_a_run_had_done_is_not_shown_of_the_next_one() -> None:
    """Of the last one it is."""
    told = RECORDED | {"progress": {"percent": 40}}
    node = released("WorkloadFailed", exitCode=1)
    again = plan_job(job_observation(job=a_job(RETRIES, status=told), node=node))
    over = plan_job(job_observation(job=a_job(status=told), node=node))

    assert again.status.progress is None
    assert over.status.progress is not None


STATES = [
    ("fresh", job_observation(), ("False", "True", "False")),
    (
        "suspended",
        job_observation(job=a_job(a_spec(suspend=True))),
        ("False", "False", "False"),
    ),
    (
        "finished well",
        job_observation(job=a_job(status=RECORDED), node=released("Completed", exitCode=0)),
        ("True", "False", "False"),
    ),
    (
        "failed for good",
        job_observation(job=a_job(status=RECORDED), node=released("DeadlineExceeded")),
        ("False", "False", "True"),
    ),
    (
        "the operator cannot act",
        job_observation(world=a_world(not_ready=Unavailable(Reason.CREDENTIALS_REJECTED, "key"))),
        ("False", "True", "False"),
    ),
]


@pytest.mark.parametrize(
    ("seen", "flags"), [row[1:] for row in STATES], ids=[row[0] for row in STATES]
)
def test_gitops_tools_judge_health_rightly(seen: JobObservation, flags: tuple[str, ...]) -> None:
    """Ready, Reconciling and Stalled are what kstatus expects of each state."""
    status = job_status(seen.job, plan_job(seen), NOW)
    held = {condition.type: condition.status for condition in status.conditions}

    assert flags == (held["Ready"], held["Reconciling"], held["Stalled"])
    assert {"Admitted", "Running", "Suspended", "Complete", "Failed", "Released"} <= set(held)


def test_a_finished_job_stays_as_it_is() -> None:
    """Looking again changes nothing, whatever the market does."""
    seen = job_observation(job=a_job(status=RECORDED), node=released("DeadlineExceeded"))
    status = job_status(seen.job, plan_job(seen), NOW)
    over = seen.job.model_copy(update={"status": status})
    again = replace(seen, job=over, node=None, quotes=quotes())

    assert is_finished(status)
    assert job_status(over, plan_job(again), NOW) == status


@pytest.mark.parametrize(
    ("kept", "ago", "names", "again"),
    [
        (None, 10**7, ["RemoveFinalizer"], 0),
        (None, 60, ["RemoveFinalizer"], Limits().closed_after_seconds - 60),
        (60, 59, ["RemoveFinalizer"], 1),
        (10**6, 60, ["RemoveFinalizer"], Limits().closed_after_seconds - 60),
        (60, 60, ["RemoveFinalizer", "DeleteJob"], None),
        (0, 0, ["RemoveFinalizer", "DeleteJob"], None),
    ],
)
def test_a_finished_job_goes_when_its_user_said_so(
    kept: int | None, ago: int, names: list[str], again: float | None
) -> None:
    """Not before, and never unasked; until then it is looked at again in time, to be closed, too.

    Nothing holds it.
    """
    job = a_job(a_spec(ttlSecondsAfterFinished=kept), status=RECORDED)
    seen = job_observation(job=job, node=released("Completed", exitCode=0))
    status = job_status(job, plan_job(seen), at(-ago)).model_copy(
        update={"completion_time": at(-ago)}
    )
    plan = plan_job(replace(seen, job=job.model_copy(update={"status": status}), node=None))

    assert [type(effect).__name__ for effect in plan.effects] == names
    assert plan.reason is Reason.COMPLETE
    assert plan.requeue_seconds == again


@pytest.mark.parametrize("held", [[], [FINALIZER]])
@pytest.mark.parametrize("noted", [None, "train/of-before", NOTED])
def test_a_job_that_is_over_says_so_in_what_a_backup_keeps(
    held: list[str], noted: str | None
) -> None:
    """One that waited had let go before it was over; once it is noted, nothing more is written."""
    marks = {} if noted is None else {ANNOTATION_FINISHED: noted}
    told = over().status.wire()
    job = a_job(status=told, finalizers=held, annotations=marks)
    plan = plan_job(job_observation(job=job))

    is_done = noted == NOTED and not held
    assert plan.effects == (() if is_done else (effects.RemoveFinalizer(NOTED),))


def test_transition_times_move_only_with_the_status() -> None:
    """A new message is no transition."""
    seen = job_observation(job=a_job(a_spec(cost={"ceiling": "0.01"})), quotes=quotes())
    first = job_status(seen.job, plan_job(seen), NOW)
    stored = seen.job.model_copy(update={"status": first})
    later = NOW.replace(hour=13)
    second = job_status(stored, plan_job(replace(seen, job=stored)), later)

    assert [c.last_transition_time for c in second.conditions] == [NOW] * len(second.conditions)


@pytest.mark.parametrize(("lost", "waits"), [(1, 10), (2, 20), (3, 40), (9, 360)])
def test_lost_races_count_to_no_limit_and_yet_are_not_run_without_a_pause(
    lost: int, waits: int
) -> None:
    """Each one in a row doubles the wait; a run in between begins it anew."""
    races = [
        {
            "attempt": number,
            "nodeName": f"train-0-{number}",
            "reason": "OfferGone",
            "costUSD": "0",
            "endedAt": stamp(0),
        }
        for number in range(1, lost + 2)
    ]
    suspended = [races[0] | {"reason": "Suspended"}]
    status = {"attempt": lost + 1, "attempts": [*suspended, *races[1:]]}
    plan = plan_job(job_observation(job=a_job(status=status), quotes=quotes()))

    assert (plan.reason, plan.requeue_seconds) == (Reason.RETRYING, waits)


def test_an_attempt_s_record_says_whose_fault_it_was_and_where() -> None:
    """What later attempts judge the image by is in the job's own status."""
    node = released("BootTimeout", blames="provider")
    found = plan_job(job_observation(job=a_job(status=RECORDED), node=node)).status.attempts[-1]

    assert (found.blames, found.host_id, found.booted) == ("provider", 10, True)


def test_a_job_beside_the_operators_secrets_is_refused_again() -> None:
    """The webhook and the policy may have been absent."""
    world = a_world(own_namespace="team")
    plan = plan_job(job_observation(quotes=quotes(), world=world))

    assert plan.reason is Reason.SPEC_INVALID
    assert "metadata.namespace: no GpuJob may be in team" in plan.message


def test_a_job_that_is_too_long_is_refused_again() -> None:
    """So it is over, and nothing holds it any more."""
    long = a_job(a_spec(args=["x" * 10_000] * 7))
    labelled = a_job(labels={f"example.com/{at:03}": "x" * 63 for at in range(250)})
    for job, field in ((long, "spec: has"), (labelled, "metadata.labels: have")):
        plan = plan_job(job_observation(job=job, quotes=quotes()))

        assert plan.reason is Reason.SPEC_INVALID
        assert plan.message.startswith(field)


@pytest.mark.parametrize("reason", ["HostLost", "Completed"])
def test_a_machine_that_is_gone_is_not_shown_as_the_current_one(reason: str) -> None:
    """Neither to a job that waits for the next one, nor to one that is over."""
    usage = {"gpuPercent": 40, "gpuMemoryMiB": 512, "idleSeconds": 0}
    shown = {"gpu": "1x RTX 4090", "usdPerHour": "0.405000", "usage": usage}
    job = a_job(status=RECORDED | shown)
    status = plan_job(job_observation(job=job, node=released(reason, exitCode=0))).status

    assert (status.gpu, status.usd_per_hour, status.usage) == (None, None, None)
    assert status.attempts[-1].gpu == "1x RTX 4090"


def test_what_is_reserved_for_a_node_is_recorded_in_its_job() -> None:
    """It may have grown, and is what a vanished node is charged with."""
    job, node = a_job(status=RECORDED), a_node({"reservedUSD": "8.000000"})

    assert plan_job(job_observation(job=job, node=node)).status.node_reserved_usd == "8.000000"


def test_a_workload_that_failed_says_where_its_output_is() -> None:
    """With a command that shows it, whatever the attempt's number."""
    node = released("WorkloadFailed", exitCode=3)
    message = plan_job(job_observation(job=a_job(status=RECORDED), node=node)).message

    assert "kubectl logs -n team -l gpujob.dev/job=train --tail=-1" in message


def test_what_was_learnt_of_an_image_is_a_warning_and_no_refusal() -> None:
    """It may have been pushed since; the other namespace's does not even warn."""
    bad = a_trial(Found.UNUSABLE, ago=300, image="python:3.11")
    elsewhere = replace(bad, namespace="other")

    def admitted(*trials: ImageTrial) -> JobPlan:
        world = a_world(images=ImageMemory(trials))
        return plan_job(job_observation(quotes=quotes(), world=world))

    assert admitted(bad).reason is Reason.ADMITTED
    assert "a job with this image failed 5 min ago" in admitted(bad).message
    fresh = a_trial(Found.UNUSABLE, ago=20, image="python:3.11")
    assert "a job with this image failed just now" in admitted(fresh).message
    assert "this image" not in admitted(elsewhere).message


def test_what_follows_a_wish_of_the_user_is_no_other_attempt() -> None:
    """Nobody is told of one when the job was suspended or deleted; nor of a cost without a rent."""

    def told(job: GpuJob, reason: str, *, cost: str = "0.25") -> tuple[str, str]:
        node = released(reason, cost=cost)
        plan = plan_job(job_observation(job=job, node=node))
        return plan.reason, plan.message.rpartition("; ")[2]

    suspended = a_job(a_spec(suspend=True), status=RECORDED)
    deleted = a_job(status=RECORDED, deletionTimestamp=stamp())
    assert told(suspended, "Suspended") == (
        "Suspended",
        "it cost at most $0.250, and the job is suspended",
    )
    assert told(deleted, "JobDeleted") == (
        "JobDeleted",
        "it cost at most $0.250, and the job is being deleted",
    )
    assert told(a_job(status=RECORDED), "OfferGone", cost="0") == (
        "Retrying",
        "it cost nothing, and another attempt follows",
    )


@pytest.mark.parametrize(
    ("reason", "step"),
    [
        ("DeadlineExceeded", "activeDeadlineSeconds"),
        ("BudgetExhausted", "cost.ceiling"),
        ("TrafficExceeded", "data"),
        ("WorkloadFailed", "read its output"),
        ("HostLost", "another attempt follows"),
    ],
)
@pytest.mark.parametrize("said", ["so it is", "so it is " * 110])
def test_an_end_says_why_what_it_cost_and_what_to_do(reason: str, step: str, said: str) -> None:
    """However long the cause is, it crowds out neither of the others."""
    node = released(reason, message=said[:1024], exitCode=1)
    words = plan_job(job_observation(job=a_job(status=RECORDED), node=node)).message

    assert len(words) <= 1024
    assert "so it is" in words
    assert "$0.25" in words
    assert step in words.rpartition("$0.25")[2]


FORGOTTEN = a_lease(
    env_mark=f"{CLUSTER}/forgotten/{JOB_UID}", started_at=at(-3600), download_gb=Fraction(5)
)
"""A machine of this job whose GpuNode nobody remembers: $0.405 an hour, and 5 GB for $0.002."""


@pytest.mark.parametrize(
    ("row", "status", "spent", "reason"),
    [
        pytest.param({}, {}, "0.415000", Reason.RELEASING, id="it is charged first"),
        pytest.param(
            {}, RECORDED, "0.415000", Reason.RELEASING, id="also while it may be a vanished one"
        ),
        pytest.param(
            {"env_mark": f"{CLUSTER}/{NODE_UID}/{JOB_UID}"},
            RECORDED,
            "0.000000",
            Reason.NODE_VANISHED,
            id="the recorded node explains it",
        ),
        pytest.param(
            {"env_mark": f"another/forgotten/{JOB_UID}"},
            {},
            "0.000000",
            Reason.AWAITING_OFFERS,
            id="another cluster's",
        ),
        pytest.param(
            {"env_mark": f"{CLUSTER}/forgotten/another"},
            {},
            "0.000000",
            Reason.AWAITING_OFFERS,
            id="another job's",
        ),
        pytest.param({"usd_per_hour": None}, {}, "5.000000", Reason.RELEASING, id="price unknown"),
        pytest.param({"line": None}, {}, "5.000000", Reason.RELEASING, id="traffic unknown"),
    ],
)
def test_a_machine_that_no_attempt_explains_is_charged_first(
    row: dict[str, Any], status: dict[str, Any], spent: str, reason: Reason
) -> None:
    """After a restored backup: nothing is rented for the job while it is listed."""
    world = a_world(a_listing(replace(FORGOTTEN, **row)))
    plan = plan_job(job_observation(world=world, job=a_job(status=status)))

    assert plan.status.cost.spent_usd == spent
    if status != RECORDED or spent == "0.000000":
        assert plan.reason is reason


def test_a_stray_is_charged_once_and_until_it_is_gone() -> None:
    """What was charged is not charged again; nor is the machine of an attempt that is recorded."""
    listed = a_world(a_listing(FORGOTTEN))
    first = plan_job(job_observation(world=listed)).status
    later = replace(a_world(), now=at(100))
    gone = plan_job(job_observation(world=later, job=a_job(status=first.wire()))).status
    again = replace(later, now=at(200))
    stays = plan_job(job_observation(world=again, job=a_job(status=gone.wire()))).status
    charged = plan_job(job_observation(job=a_job(status=RECORDED), node=released("HostLost")))
    back = a_job(status=charged.status.wire())
    shown = plan_job(job_observation(job=back, world=a_world(a_listing(a_lease())))).status

    assert first.cost.spent_usd == "0.415000"
    # 101 s that no listing has shown: 0.011250 for the time, 0.003030 for what its line carries.
    assert gone.cost.spent_usd == stays.cost.spent_usd == "0.429280"
    assert [one.gone_at for one in stays.strays] == [at(100)]
    assert (shown.strays, shown.cost.spent_usd) == ((), "0.250000")


@pytest.mark.parametrize("status", [{}, RECORDED])
def test_a_stray_is_charged_though_the_sweep_was_first(status: dict[str, Any]) -> None:
    """A new leader comes to the job only once the machine is gone: its watch was late."""
    world = a_world(a_listing(FORGOTTEN, ago=61), *(a_listing(ago=ago) for ago in (46, 31, 16, 1)))
    seen = job_observation(world=world, job=a_job(status=status))
    once = plan_job(seen).status
    twice = plan_job(replace(seen, job=a_job(status=once.wire()))).status

    assert [(one.instance_id, one.gone_at) for one in once.strays] == [
        (FORGOTTEN.instance_id, at(0))
    ]
    # As of one that is listed, and 0.001830 for what its line carries in the 61 s since.
    assert once.cost.spent_usd == twice.cost.spent_usd == "0.416830"


@pytest.mark.parametrize(("recorded", "spent"), [(19, "0.416830"), (20, "0.000000")])
def test_a_machine_of_an_attempt_that_is_not_recorded_any_more_is_no_stray(
    recorded: int, spent: str
) -> None:
    """It was charged when its attempt ended: before the oldest that is recorded ended."""
    ended = {"reason": "OfferGone", "endedAt": stamp(-30), "costUSD": "0.000000"}
    attempts = [
        {"attempt": number, "nodeName": f"train-{number}", "nodeUID": f"uid-{number}", **ended}
        for number in range(1, recorded + 1)
    ]
    world = a_world(a_listing(FORGOTTEN, ago=61), *(a_listing(ago=ago) for ago in (46, 31, 16, 1)))
    seen = job_observation(world=world, job=a_job(status={"attempts": attempts}))

    assert plan_job(seen).status.cost.spent_usd == spent


def over(**status: Any) -> GpuJob:
    """A job that was completed a minute ago, for 0.25 dollars; its finalizer is gone."""
    cost = {"spentUSD": "0.250000", "accruedUSD": "0.250000", "finalUSD": "0.250000"}
    end = {"reason": "Complete", "message": "it is complete"}
    told = {"attempt": 1, "end": end, "completionTime": stamp(-60), "cost": cost}
    spec = a_spec(ttlSecondsAfterFinished=60)
    return a_job(spec, told | status, finalizers=[], annotations={ANNOTATION_FINISHED: NOTED})


def test_a_stray_of_a_job_that_is_over_is_charged_and_changes_nothing_else() -> None:
    """It stays complete, and its figures grow; it is kept until the machine is gone, and told."""
    world = a_world(a_listing(FORGOTTEN))
    seen = job_observation(world=world, job=over())
    plan = plan_job(seen)
    first = job_status(seen.job, plan, NOW)
    later = job_observation(world=replace(a_world(), now=at(100)), job=over(**first.wire()))
    left = plan_job(later)
    last = job_status(later.job, left, at(100))

    assert plan.effects == ()
    assert plan.requeue_seconds == Limits().poll_seconds
    assert [type(one) for one in left.effects] == [effects.DeleteJob]
    for status, cost in ((first, "0.665000"), (last, "0.679280")):
        assert status.cost.spent_usd == status.cost.final_usd == status.cost.accrued_usd == cost
        shown = {one.type: one for one in status.conditions}
        assert (shown["Complete"].status, shown["Ready"].message) == ("True", "it is complete")
    owed = [next(c for c in one.conditions if c.type == "Released") for one in (first, last)]
    assert [one.status for one in owed] == ["False", "True"]
    assert "instance 36000042" in owed[0].message
    assert newly_charged(seen.job.status, first) == []
    assert newly_charged(first, last) == [
        "no recorded attempt has rented instance 36000042: it was destroyed, and up to $0.430 for "
        "it is charged to the job"
    ]
    assert newly_charged(last, last) == []


@pytest.mark.parametrize(
    ("line", "seconds", "cost"),
    [
        pytest.param((80, 40), 360, "0.010800", id="what its line carries"),
        pytest.param((80, 40), 36_000, "0.027850", id="no more than the caps allow"),
        pytest.param((0, 0), 36_000, "0.000000", id="a line that carries nothing"),
    ],
)
def test_what_a_stray_moved_unseen_is_charged(
    line: tuple[int, int], seconds: int, cost: str
) -> None:
    """The caps are 10 and 1 GB, and what the line carries in the 195 s until it must be gone."""
    shown = Line(Fraction("0.002"), Fraction("0.002"), Fraction(line[0]), Fraction(line[1]))
    row = replace(FORGOTTEN, usd_per_hour=Fraction(0), download_gb=Fraction(0), line=shown)
    world = a_world(a_listing(row, ago=0.0))
    first = plan_job(job_observation(world=world)).status
    later = replace(a_world(), now=at(seconds))
    gone = plan_job(job_observation(world=later, job=a_job(status=first.wire()))).status

    assert gone.cost.spent_usd == cost


def test_a_job_gets_a_pass_when_no_living_node_has_a_machine_of_it() -> None:
    """So that one that is over, and asks for none, is charged; others' machines are not ours."""
    listing = a_listing(FORGOTTEN, a_lease(env_mark="other/node/job", label="other/node/job"))

    assert jobs_with_strays(listing, {NODE_UID}, CLUSTER) == {JOB_UID}
    assert jobs_with_strays(listing, {"forgotten"}, CLUSTER) == set()


@pytest.mark.parametrize("held", [[], [FINALIZER]])
def test_a_job_that_owes_for_a_stray_is_held(held: list[str]) -> None:
    """It had let go before that was listed; once it was deleted, nobody would be charged."""
    seen = job_observation(world=a_world(a_listing(FORGOTTEN)), job=a_job(finalizers=held))
    plan = plan_job(seen)

    assert plan.effects == (() if held else (effects.AddFinalizer(),))


def test_a_stray_is_not_charged_anew_in_each_pass() -> None:
    """Each write would bring the next pass."""
    world = a_world(a_listing(FORGOTTEN))
    first = plan_job(job_observation(world=world)).status
    again = replace(world, now=at(-0.5))

    assert plan_job(job_observation(world=again, job=a_job(status=first.wire()))).status == first
