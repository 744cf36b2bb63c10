"""Whose fault an end is: a table, and the ends of machines that never came up."""

from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
from tests.builders import (
    MONOTONIC,
    NODE_UID,
    RECORDED,
    a_job,
    a_lease,
    a_listing,
    a_report,
    a_spec,
    a_world,
    an_offer,
    at,
    booted,
    leased,
    marker,
    node_observation,
    reachable,
    running,
    stamp,
)
from tests.unit.core.test_images import DENIED, LIMITED, a_trial

from gpujob.api.reasons import Blame, Ends, Limit, Reason
from gpujob.api.transport import MachineFault, WorkloadPhase
from gpujob.core import effects
from gpujob.core.limits import Limits
from gpujob.core.market.images import Found, ImageMemory, PullFailure
from gpujob.core.market.listings import Address
from gpujob.core.node import plan
from gpujob.core.node.blame import UNPROVEN, Evidence, blame
from gpujob.core.node.interruption import RESTARTS_MAX
from gpujob.core.observation import BootLog, NodeMemory, NodeObservation, Unavailable

IMAGE = "python:3.11"
NEVER = Evidence(logged_in=False, image_works=False, shown="loading", pull_failure=None)
WORKS = replace(NEVER, image_works=True)
LOGGED_IN = replace(NEVER, logged_in=True, shown="running")
GONE = replace(NEVER, shown="offline")
FULL = replace(NEVER, pull_failure=PullFailure.DISK_FULL)
LIMIT = replace(NEVER, pull_failure=PullFailure.PASSING)

TABLE = [
    ("nothing shows that its image boots anywhere", Reason.BOOT_TIMEOUT, NEVER, Blame.PROVIDER),
    ("it boots elsewhere", Reason.BOOT_TIMEOUT, WORKS, Blame.HOST),
    ("it had booted here", Reason.BOOT_TIMEOUT, LOGGED_IN, Blame.HOST),
    ("no key, an image that nobody knows", Reason.HOST_KEY_UNAVAILABLE, NEVER, Blame.PROVIDER),
    ("no key, a good image", Reason.HOST_KEY_UNAVAILABLE, WORKS, Blame.HOST),
    ("no login, an image that nobody knows", Reason.LOGIN_REFUSED, NEVER, Blame.PROVIDER),
    ("no login, a good image", Reason.LOGIN_REFUSED, WORKS, Blame.HOST),
    ("a key that had worked", Reason.LOGIN_REFUSED, LOGGED_IN, Blame.PROVIDER),
    ("it exited before anybody could log in", Reason.HOST_LOST, NEVER, Blame.PROVIDER),
    ("it exited, and its image works", Reason.HOST_LOST, WORKS, Blame.HOST),
    ("it exited while the workload ran", Reason.HOST_LOST, LOGGED_IN, Blame.HOST),
    ("the provider lost the host", Reason.HOST_LOST, GONE, Blame.HOST),
    ("a registry's limit", Reason.PULL_FAILED, LIMIT, Blame.PROVIDER),
    ("a registry's limit for a good image", Reason.PULL_FAILED, WORKS, Blame.PROVIDER),
    ("a full disk", Reason.PULL_FAILED, FULL, Blame.HOST),
    ("an image that nobody can pull", Reason.IMAGE_UNUSABLE, NEVER, Blame.IMAGE),
    ("stopped by whoever", Reason.MACHINE_STOPPED, LOGGED_IN, Blame.PROVIDER),
    ("restarted again and again", Reason.MACHINE_RESTARTED, LOGGED_IN, Blame.PROVIDER),
    ("no longer listed", Reason.LEASE_VANISHED, LOGGED_IN, Blame.PROVIDER),
    ("a lost race", Reason.OFFER_GONE, NEVER, Blame.PROVIDER),
    ("another key", Reason.HOST_KEY_CHANGED, NEVER, Blame.HOST),
    ("another price", Reason.PRICE_CHANGED, NEVER, Blame.HOST),
    ("another GPU", Reason.MACHINE_MISLABELLED, NEVER, Blame.HOST),
    ("a lost GPU", Reason.GPU_LOST, LOGGED_IN, Blame.HOST),
    ("a bad exit code", Reason.WORKLOAD_FAILED, LOGGED_IN, Blame.JOB),
    ("a lost driver", Reason.DRIVER_LOST, LOGGED_IN, Blame.OPERATOR),
    ("success", Reason.COMPLETED, LOGGED_IN, Blame.NOBODY),
]


@pytest.mark.parametrize(
    ("reason", "evidence", "blamed"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE]
)
def test_whom_an_end_blames(reason: Reason, evidence: Evidence, blamed: Blame) -> None:
    """One reason, one body of evidence, one culprit."""
    assert blame(reason, evidence) is blamed


@pytest.mark.parametrize("reason", [one for one in Reason if one.kind.ends is not Ends.NOTHING])
def test_no_evidence_makes_a_host_guilty_of_what_is_not_its_own(reason: Reason) -> None:
    """The other way round it may excuse it, but only before a driver was let in."""
    for evidence in (NEVER, WORKS, LOGGED_IN, GONE, FULL, LIMIT):
        blamed = blame(reason, evidence)
        if reason.kind.blames is not Blame.HOST:
            full = reason is Reason.PULL_FAILED and evidence is FULL
            assert blamed is (Blame.HOST if full else reason.kind.blames)
        elif reason not in UNPROVEN:
            assert blamed is Blame.HOST


def plan_node(seen: NodeObservation) -> Any:
    """Plans a pass; each test knows which part of the status it is about."""
    return plan.plan_node(seen)


# --- Images that cannot be pulled -----------------------------------------------------------------


def told(*words: str, every: float = 15, **changes: Any) -> Any:
    """A world whose listings showed these words of our machine, the latest last."""
    shown: dict[str, Any] = {"status": "loading", "addresses": ()} | changes
    listings = [
        a_listing(a_lease(status_message=said, **shown), ago=1 + every * before)
        for before, said in reversed(list(enumerate(reversed(words))))
    ]
    return a_world(*listings)


def decided(world: Any, status: dict[str, Any] | None = None, **changes: Any) -> Any:
    """Plans the next pass of a booting machine."""
    return plan_node(node_observation(status or leased(), world=world, **changes))


UNKNOWN = "manifest for python:3.11 not found: manifest unknown"


def test_an_image_that_the_registry_refuses_ends_the_job() -> None:
    """With the provider's words, the next step, and no blame for the machine."""
    made = decided(told(UNKNOWN, UNKNOWN, UNKNOWN))
    end = made.status.end

    assert (end.reason, end.blames) == ("ImageUnusable", "image")
    assert UNKNOWN in end.message
    assert "create the job again" in end.message
    assert "spec.imagePullSecret" in end.message
    assert Reason(end.reason).kind.ends is Ends.JOB


@pytest.mark.parametrize(
    "said", [("", "", UNKNOWN), ("", UNKNOWN, UNKNOWN), (UNKNOWN, "", UNKNOWN)]
)
def test_fewer_listings_end_nothing(said: tuple[str, ...]) -> None:
    """One may show the words of another moment."""
    assert decided(told(*said)).status.end is None


def test_the_words_may_differ_as_long_as_they_mean_the_same() -> None:
    """Docker tries again, and tells it in another way."""
    assert decided(told(UNKNOWN, DENIED, "unauthorized: x")).status.end.reason == "ImageUnusable"


@pytest.mark.parametrize("words", [LIMITED, "no such host", "write: no space left on device", "?"])
def test_what_may_pass_is_waited_for(words: str) -> None:
    """Until the boot cap, as long as the machine is meant to run."""
    assert decided(told(words, words, words)).status.end is None


@pytest.mark.parametrize(
    ("words", "reason", "blamed"),
    [
        (LIMITED, "PullFailed", "provider"),
        ("write: no space left on device", "PullFailed", "host"),
        ("Pulling fs layer", "BootTimeout", "provider"),
        ("", "BootTimeout", "provider"),
    ],
)
def test_at_the_boot_cap_the_words_decide_whose_fault_it_is(
    words: str, reason: str, blamed: str
) -> None:
    """What the provider says is in the record."""
    status = leased(-1200)
    end = decided(told(words, words, words, started_at=at(-1199)), status).status.end

    assert (end.reason, end.blames) == (reason, blamed)
    assert words in end.message


def test_the_provider_stops_such_a_machine_after_minutes() -> None:
    """It shows as loading and stopped, and still says why."""
    world = told(UNKNOWN, UNKNOWN, UNKNOWN, intended_status="stopped")

    assert decided(world).status.end.reason == "ImageUnusable"


def test_old_words_of_a_machine_that_runs_say_nothing() -> None:
    """It pulled its image after all."""
    world = told(UNKNOWN, UNKNOWN, UNKNOWN, status="running", addresses=(Address("h", 22),))

    assert decided(world).status.end is None


@pytest.mark.parametrize("status", [reachable(), booted(), running()])
def test_a_machine_that_has_booted_has_its_image(status: dict[str, Any]) -> None:
    """Whatever its status says later."""
    made = decided(told(UNKNOWN, UNKNOWN, UNKNOWN), status)

    assert made.status.end is None or made.status.end.reason != "ImageUnusable"


NO_APT = "sh: apt-get: not found"


@pytest.mark.parametrize(
    ("ago", "said", "reason"),
    [
        (60, NO_APT, "ImageUnusable"),
        (59, NO_APT, None),
        (600, "", None),
    ],
)
def test_an_image_without_an_ssh_server_ends_the_job(
    ago: float, said: str, reason: str | None
) -> None:
    """Soon, once the installer has said nothing more, and with its words; no host is blamed."""
    memory = NodeMemory(boot_log=BootLog(1, MONOTONIC - ago, said))
    world = told("success, running x/ssh", status="running", addresses=(Address("h", 22),))
    made = decided(world, memory=memory)

    assert (made.status.end.reason if made.status.end else None) == reason
    if made.status.end:
        assert made.status.end.blames == "image"
        assert NO_APT in made.status.end.message
        assert "openssh-server" in made.status.end.message
    booted_since = decided(world, reachable(), memory=memory)
    assert booted_since.status.end is None


def with_images(world: Any, *trials: Any) -> Any:
    """The same world, whose operator remembers these trials."""
    return replace(world, images=ImageMemory(trials))


def test_what_another_job_of_the_namespace_was_told_is_believed_at_once() -> None:
    """Its end costs the first listing; nobody else's image or namespace is touched."""
    ours = a_trial(Found.UNUSABLE, image=IMAGE)
    others = (
        a_trial(Found.UNUSABLE, image=IMAGE, namespace="other"),
        a_trial(Found.UNUSABLE, image="python:3.12"),
        a_trial(Found.UNUSABLE, ago=4000, image=IMAGE),
    )

    assert decided(with_images(told("", UNKNOWN), ours)).status.end.reason == "ImageUnusable"
    assert decided(with_images(told("", UNKNOWN), *others)).status.end is None
    assert decided(with_images(told("", ""), ours)).status.end is None


# --- Images that boot nowhere ---------------------------------------------------------------------


def once(reason: str = "BootTimeout", **changes: Any) -> Any:
    """A job whose first attempt came to nothing on host 20."""
    record = {
        "attempt": 1,
        "nodeName": "train-0-1",
        "machineID": 200,
        "hostID": 20,
        "booted": False,
        "reason": reason,
        "blames": "provider",
        "costUSD": "0.01",
        "endedAt": stamp(-2000),
    }
    status = RECORDED | {"attempt": 2, "nodeName": "train-0-2"}
    return a_job(status=status | {"attempts": [record | changes]})


def unbooted(job: Any = None, *trials: Any, **changes: Any) -> Any:
    """The end of an attempt on host 10 whose machine did not come up in time."""
    status = leased(-1200) | {"rent": marker(-1200, **changes)}
    world = with_images(told("", "", "", started_at=at(-1199)), *trials)
    node = node_observation(status).node
    node = node.model_copy(update={"spec": node.spec.model_copy(update={"attempt": 2})})
    return plan_node(
        node_observation(world=world, job=job or a_job(status=RECORDED | {"attempt": 2}), node=node)
    ).status.end


def test_an_image_that_came_up_on_none_of_two_hosts_ends_the_job() -> None:
    """Neither of them is blamed."""
    end = unbooted(once())

    assert (end.reason, end.blames) == ("ImageUnusable", "image")
    assert "host 10" in end.message
    assert "host 20" in end.message


@pytest.mark.parametrize(
    "job",
    [
        pytest.param(None, id="the first attempt"),
        pytest.param(once(hostID=10), id="the same host twice"),
        pytest.param(once(hostID=0), id="an unknown host"),
        pytest.param(once(booted=True), id="it had come up there"),
        pytest.param(once(booted=None), id="a record of another version"),
        pytest.param(once("HostLost", blames="host"), id="that host was lost"),
        pytest.param(once("PullFailed"), id="a registry's limit"),
        pytest.param(once("HostKeyUnavailable"), id="a log that could not be read"),
        pytest.param(once("MachineStopped"), id="it never began to pull"),
        pytest.param(once("PriceChanged", blames="host"), id="another cause"),
        pytest.param(once("Suspended", blames="job"), id="its user's wish"),
    ],
)
def test_anything_less_ends_the_attempt_alone(job: Any) -> None:
    """And the image stays a suspect, the host as well."""
    end = unbooted(job)

    assert (end.reason, end.blames) == ("BootTimeout", "provider")


def test_an_image_that_works_leaves_the_host_with_the_blame() -> None:
    """Seen by this job, or by another one in the namespace."""
    ran = once("HostLost", booted=True, runSeconds=7)
    seen = a_trial(Found.WORKS, image=IMAGE)

    assert (unbooted(ran).reason, unbooted(ran).blames) == ("BootTimeout", "host")
    for job in (None, once()):
        end = unbooted(job, seen)
        assert (end.reason, end.blames) == ("BootTimeout", "host")


def test_hosts_that_another_job_tried_count_too() -> None:
    """Only in this namespace, and only with this image."""
    assert (
        unbooted(None, a_trial(Found.UNBOOTED, image=IMAGE, host_id=30)).reason == "ImageUnusable"
    )
    for other in (
        a_trial(Found.UNBOOTED, image=IMAGE, host_id=10),
        a_trial(Found.UNBOOTED, image=IMAGE, host_id=30, namespace="other"),
        a_trial(Found.UNBOOTED, image="other", host_id=30),
    ):
        assert unbooted(None, other).reason == "BootTimeout"


def test_an_unknown_host_is_no_second_one() -> None:
    """Unknown is not another."""
    assert unbooted(once(), hostID=0).reason == "BootTimeout"


# --- Machines that stand still --------------------------------------------------------------------

STANDING: dict[str, Any] = {"intended_status": "stopped"}


def asked(ago: float) -> dict[str, Any]:
    """A machine that was told to run so long ago."""
    status = leased()
    return status | {"lease": status["lease"] | {"toldToRunAt": stamp(-ago)}}


@pytest.mark.parametrize("shown", ["loading", "exited", "stopped", None])
def test_a_machine_that_stands_still_is_told_to_run_once(shown: str | None) -> None:
    """That is stored before it is told, so no successor tells it again."""
    made = decided(told("", "", "", status=shown, **STANDING))

    assert made.effects == (effects.StartMachine(36000042),)
    assert made.status.lease.told_to_run_at is not None
    assert decided(told("", "", "", status=shown, **STANDING), asked(10)).effects == ()


def test_one_listing_that_shows_it_so_may_be_a_flicker() -> None:
    """Nothing is told."""
    world = a_world(a_listing(a_lease(), ago=16), a_listing(a_lease(**STANDING)))

    assert decided(world).effects != (effects.StartMachine(36000042),)


@pytest.mark.parametrize(
    ("ago", "words", "reason"),
    [
        (179, "", None),
        (180, "", "MachineStopped"),
        (180, "pulling", "BootTimeout"),
        (180, LIMITED, "PullFailed"),
        (10**6, "", "MachineStopped"),
    ],
)
def test_then_it_is_given_up_after_minutes(ago: float, words: str, reason: str | None) -> None:
    """Long before the boot cap; no host is blamed."""
    end = decided(told(words, words, words, **STANDING), asked(ago)).status.end

    assert (end and end.reason) == reason
    assert end is None or end.blames == "provider"
    assert Limits().standstill_seconds < Limits().boot_cap_seconds / 4


def test_one_that_runs_again_goes_on() -> None:
    """It boots as if nothing had been."""
    loading = decided(told("", "", "", status="loading"), asked(100))
    up = decided(a_world(a_listing(a_lease())), asked(100))

    assert (loading.status.end, loading.reason) == (None, Reason.BOOTING)
    assert [type(one) for one in up.effects] == [effects.ReadHostKey]


def test_a_machine_that_was_outbid_or_is_unpaid_is_not_told_to_run() -> None:
    """There it is known who stopped it."""
    credit = Unavailable(Reason.CREDIT_EXHAUSTED, "add credit")
    status = leased()
    bids = status | {"rent": status["rent"] | {"bidUSDPerHour": "0.400000"}}

    assert decided(told("", "", "", **STANDING), bids).status.end.reason == "Outbid"
    unpaid = replace(told("", "", "", **STANDING), not_ready=credit)
    assert decided(unpaid).status.end.reason == "CreditExhausted"


def test_a_fresh_process_comes_to_the_same_verdict() -> None:
    """It has not seen the machine before: all that counts is stored, or listed."""
    fresh = NodeMemory(marker_seen_at=MONOTONIC)
    for world, status in (
        (told(UNKNOWN, UNKNOWN, UNKNOWN), leased()),
        (told("", "", "", **STANDING), asked(200)),
    ):
        old = decided(world, status, memory=NodeMemory(marker_seen_at=MONOTONIC - 900))
        assert decided(world, status, memory=fresh).status.end == old.status.end
        assert old.status.end is not None


# --- What is remembered ---------------------------------------------------------------------------


def released(end: dict[str, Any], status: dict[str, Any] | None = None) -> list[Any]:
    """Returns what is remembered of an attempt that ended so, once it is released."""
    status = (status or leased()) | {"end": {"at": stamp(-5)} | end, "releasedAt": stamp(-1)}
    made = plan_node(node_observation(status, job=a_job(status={"attempt": 1})))
    return [one.trial for one in made.effects if not isinstance(one, effects.RemoveFinalizer)]


def test_an_image_s_fault_is_remembered_of_the_image_alone() -> None:
    """For its namespace, with the host."""
    for reason, found in (("ImageUnusable", Found.UNUSABLE), ("BootTimeout", Found.UNBOOTED)):
        blamed = "image" if found is Found.UNUSABLE else "provider"
        (trial,) = released({"reason": reason, "blames": blamed})
        assert (trial.namespace, trial.image, trial.host_id) == ("team", IMAGE, 10)
        assert (trial.found, trial.node_uid) == (found, NODE_UID)


def test_a_host_s_fault_is_remembered_of_the_machine_alone() -> None:
    """And what nobody could help of nothing."""
    (trial,) = released({"reason": "BootTimeout", "blames": "host"})

    assert (trial.machine_id, trial.failed) == (100, True)
    for reason in ("MachineStopped", "PullFailed", "LeaseVanished"):
        assert released({"reason": reason, "blames": "provider"}) == []


# --- Restarts of the container --------------------------------------------------------------------


def restarted(status: dict[str, Any] | None = None, **changes: Any) -> NodeObservation:
    """A driver that finds its machine's container restarted."""
    told = {"phase": WorkloadPhase.RUNNING, "run_seconds": 12.0} | changes
    report = a_report(fault=MachineFault.MACHINE_RESTARTED, message="restarted", **told)
    world = a_world(a_listing(a_lease()))
    return node_observation(status or running(), world=world, report=report)


def test_after_a_restart_the_workload_runs_again_on_the_same_machine() -> None:
    """As another run, from its last checkpoint; what had run counts to the deadline."""
    made = plan_node(restarted())
    past = made.status.interruptions

    assert made.reason is Reason.CONNECTING
    assert made.status.end is None
    assert made.status.run is None
    assert (past.count, past.restarts, past.run_seconds) == (1, 1, 12)
    assert past.paused_at is None
    assert made.status.run_number == 1


def test_no_restart_counts_more_run_than_our_clock_allows() -> None:
    """Nothing of what a machine says is believed."""
    assert plan_node(restarted(run_seconds=10.0**6)).status.interruptions.run_seconds == 20


def test_what_a_driver_says_of_the_earlier_run_restarts_nothing() -> None:
    """It has not heard yet that it is to run again."""
    again = restarted(running() | {"interruptions": {"count": 1, "restarts": 1}})

    assert plan_node(again).status.interruptions.count == 1
    assert plan_node(again).status.end is None


def test_a_machine_that_restarts_again_and_again_is_given_up() -> None:
    """Each run is paid for, and a workload may bring its container down by itself."""
    past = {"count": RESTARTS_MAX, "restarts": RESTARTS_MAX, "runSeconds": 9}
    end = plan_node(
        restarted(running() | {"interruptions": past}, run_number=RESTARTS_MAX)
    ).status.end

    assert (end.reason, end.blames, end.exit_code) == ("MachineRestarted", "provider", None)
    assert Reason(end.reason).kind.counts_to is not Limit.BACKOFF_LIMIT


def test_pauses_are_no_restarts() -> None:
    """An interruptible machine may be outbid as often as its user likes."""
    past = {"count": 7, "restarts": 0, "runSeconds": 9}
    made = plan_node(restarted(running() | {"interruptions": past}, run_number=7))

    assert (made.status.interruptions.count, made.status.interruptions.restarts) == (8, 1)


def test_a_restart_while_files_are_copied_ends_the_attempt_as_it_was_to_end() -> None:
    """What could not be copied is told."""
    stop = {"at": stamp(-5), "reason": "DeadlineExceeded", "message": "it is over"}
    end = plan_node(restarted(running() | {"stop": stop})).status.end

    assert end.reason == "DeadlineExceeded"
    assert "may be lost" in end.message


def test_a_deadline_beats_a_restart() -> None:
    """Money first: nothing is started again that has no time left."""
    status = running(-4000, -3600) | {"rent": marker(-4000, moneyDeadlineSeconds=3990)}
    seen = replace(restarted(status), job=a_job(a_spec(), status=RECORDED))

    assert plan_node(seen).status.end.reason == "BudgetExhausted"


def test_the_offer_of_the_builders_is_as_the_marker_says() -> None:
    """Else the hosts above would mean nothing."""
    assert (an_offer().host_id, an_offer().gpu_usd_per_hour) == (10, Fraction("0.4"))
