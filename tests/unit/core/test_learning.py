"""What stored nodes teach, what is kept of it, and that each run counts once."""

from collections import deque
from datetime import datetime, timedelta
from typing import Any

import pytest
from tests.builders import NOW, a_job, a_node, at, marker

from gpujob.api.gpujobprofile import LearntRun
from gpujob.api.gpunode import (
    EndStatus,
    GpuNode,
    InterruptionStatus,
    RentMarker,
    RunStatus,
    StopStatus,
)
from gpujob.api.reasons import Reason
from gpujob.core.cost import profile as core_profile
from gpujob.core.cost.experience import Experience, Outcome
from gpujob.core.cost.profile import (
    Profile,
    lesson_of,
    profile_name,
    profile_of,
    read_profile,
    restore,
    taught_late,
    template_in,
    written,
)
from gpujob.core.cost.template import stored_template, template_of
from gpujob.core.node.learning import EndedRun, run_of

DIGESTS = "0" * 15 + "1/" + "0" * 15 + "2"
OURS = stored_template("team-a", DIGESTS)


def ran(node: GpuNode, seconds: float = 600, **status: Any) -> GpuNode:
    """A node whose workload began so long ago, of a job that had not run before."""
    rent = status.pop("rent", None) or node.status.rent
    assert rent is not None
    told = {
        "rent": rent.model_copy(update={"template": DIGESTS}),
        "run": RunStatus(started_at=NOW - timedelta(seconds=seconds)),
        **status,
    }
    return node.model_copy(update={"status": node.status.model_copy(update=told)})


def over(reason: str, seconds: int | None = 600, **status: Any) -> GpuNode:
    """The same, after its end."""
    run = None
    if seconds is not None:
        run = RunStatus(started_at=NOW - timedelta(seconds=seconds), seconds=seconds)
    return ran(rented(), run=run, end=EndStatus(at=NOW, reason=reason), **status)


def rented() -> GpuNode:
    """A node after its rent request."""
    node = a_node()
    rent = RentMarker.model_validate(marker())
    return node.model_copy(update={"status": node.status.model_copy(update={"rent": rent})})


def test_a_marker_says_what_kind_of_job_runs() -> None:
    """The keys that the gate asks with are those that are learnt under, in the same namespace."""
    job = a_job()
    template = template_of("team-a", job.spec)
    assert stored_template("team-a", template.digests) == template
    assert stored_template("team-b", template.digests) != template


def test_a_run_counts_from_when_it_would_have_begun_without_interruptions() -> None:
    """Earlier attempts, and what ran before a pause, are part of how long the job takes."""
    assert run_of(rented()) is None
    found = run_of(ran(rented()))
    assert found is not None
    assert not isinstance(found, EndedRun)
    assert found.started == at(-600)
    assert found.template == stored_template(a_node().metadata.namespace, DIGESTS)

    later_rent = RentMarker.model_validate(marker(earlierRunSeconds=1000))
    paused = InterruptionStatus(count=1, resumed_at=at(-600), run_seconds=50)
    later = run_of(ran(rented(), rent=later_rent, interruptions=paused))
    assert later is not None
    assert later.started == at(-1650)


@pytest.mark.parametrize(
    ("reason", "seconds", "outcome"),
    [
        (Reason.COMPLETED, 600, Outcome.ENDED),
        (Reason.OUTPUT_LOST, 600, Outcome.ENDED),
        (Reason.WORKLOAD_FAILED, 600, Outcome.ENDED),
        (Reason.WORKLOAD_FAILED, 119, Outcome.CRASHED),
        (Reason.COMPLETED, 119, Outcome.ENDED),
        (Reason.BUDGET_EXHAUSTED, 600, Outcome.STOPPED),
        (Reason.DEADLINE_EXCEEDED, 600, Outcome.STOPPED),
        (Reason.IDLE_DEADLINE_EXCEEDED, 600, Outcome.STOPPED),
        (Reason.TRAFFIC_EXCEEDED, 600, Outcome.STOPPED),
        (Reason.JOB_DELETED, 600, Outcome.CUT),
        (Reason.SUSPENDED, 600, Outcome.CUT),
        (Reason.HOST_LOST, 600, Outcome.CUT),
        (Reason.OUTBID, 600, Outcome.CUT),
        (Reason.DRIVER_LOST, 600, Outcome.CUT),
        (Reason.IMAGE_UNUSABLE, 600, Outcome.VOID),
        ("OfAnotherRelease", 600, Outcome.CUT),
    ],
)
def test_an_end_teaches_by_its_reason(reason: str, seconds: int, outcome: Outcome) -> None:
    """What a limit stopped would have run longer; what was cut short ran so long at least."""
    found = run_of(over(reason, seconds))
    assert isinstance(found, EndedRun)
    assert (found.outcome, found.seconds, found.ended) == (outcome, seconds, NOW)


def test_what_never_ran_teaches_nothing() -> None:
    """Neither an attempt without a run, nor one that another release rented."""
    assert run_of(over(Reason.BOOT_TIMEOUT, None)) is None
    paused = InterruptionStatus(count=1, paused_at=at(-60))
    assert run_of(over(Reason.OUTBID, None, interruptions=paused)) is None
    node = over(Reason.COMPLETED)
    rent = RentMarker.model_validate(marker())
    status = node.status.model_copy(update={"rent": rent})
    assert run_of(node.model_copy(update={"status": status})) is None


def test_a_run_is_over_while_its_files_are_copied() -> None:
    """They may take long, and are no part of it."""
    stop = StopStatus(at=at(-100), reason=Reason.COMPLETED, exit_code=0, run_seconds=500)
    found = run_of(ran(rented(), stop=stop))
    assert isinstance(found, EndedRun)
    assert (found.seconds, found.ended, found.outcome) == (500, at(-100), Outcome.ENDED)

    told = StopStatus(at=at(-100), reason=Reason.BUDGET_EXHAUSTED)
    assert not isinstance(run_of(ran(rented(), stop=told)), EndedRun)


# --- What is kept ---------------------------------------------------------------------------


def kept(number: int, seconds: int = 600, *, namespace: str | None = None) -> LearntRun:
    """The run of one of many, one a minute."""
    return LearntRun(
        node_uid=f"node-{number}",
        namespace=namespace,
        ended_at=minute(number),
        seconds=seconds + number,
        outcome="Ended",
        shared=True,
        pool=0,
        score=None if number < 3 else number,
        held=None if number < 19 else True,
    )


def minute(number: float) -> datetime:
    return at(-86_400 + 60 * number)


def profile(count: int, **changes: Any) -> Profile:
    return Profile().with_runs([kept(one, **changes) for one in range(count)], 200)


def body(held: Profile) -> dict[str, Any]:
    """It as stored."""
    return {
        "metadata": {"namespace": OURS.tenant, "name": profile_name(OURS)},
        "spec": written(held, template=OURS, bound_seconds=625.4, now=NOW),
    }


def known(of: dict[Any, Profile], shared: Profile | None = None) -> Experience:
    found = Experience()
    deque(restore(found, of, shared or Profile()), maxlen=0)
    return found


def test_what_is_stored_is_what_was_learnt() -> None:
    """As kubectl shows it, and as the next process reads it."""
    stored = body(profile(25))
    spec = read_profile(stored)
    assert spec is not None
    assert profile_of(spec) == profile(25)
    assert template_in(stored["metadata"], spec) == OURS
    assert (spec.known, spec.bound_seconds) == (25, 626)


def _another_value(spec: dict[str, Any]) -> None:
    spec["runs"][3]["seconds"] = 1


def _another_version(spec: dict[str, Any]) -> None:
    spec["version"] = 2


def _one_run_less(spec: dict[str, Any]) -> None:
    del spec["runs"][3]


def _not_finite(spec: dict[str, Any]) -> None:
    spec["runs"][3]["seconds"] = float("inf")


def _no_number(spec: dict[str, Any]) -> None:
    spec["runs"][3]["seconds"] = "600"


def _nothing(spec: dict[str, Any]) -> None:
    spec.clear()


def _forgets_no_more(spec: dict[str, Any]) -> None:
    spec["since"] = "2020-01-01T00:00:00Z"


@pytest.mark.parametrize(
    "spoil",
    [
        _another_value,
        _another_version,
        _one_run_less,
        _not_finite,
        _no_number,
        _nothing,
        _forgets_no_more,
    ],
)
def test_a_profile_that_is_not_whole_is_empty_and_never_wrong(spoil: Any) -> None:
    """Whoever changed it."""
    stored = body(profile(25))
    spoil(stored["spec"])
    assert read_profile(stored) is None
    assert profile_of(read_profile(stored)) == Profile()


def test_a_profile_of_another_version_is_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole as it may be."""
    monkeypatch.setattr(core_profile, "PROFILE_VERSION", 2)
    stored = body(profile(25))
    assert read_profile(stored) is not None
    monkeypatch.undo()
    assert read_profile(stored) is None


def test_a_profile_speaks_of_its_own_namespace_only() -> None:
    """A copy in another namespace is that namespace's, and one under another name is nobody's."""
    spec = read_profile(body(profile(25)))
    assert spec is not None
    there = template_in({"namespace": "team-b", "name": profile_name(OURS)}, spec)
    assert there == stored_template("team-b", DIGESTS)
    assert template_in({"namespace": "team-a", "name": "run-other"}, spec) is None


def test_a_run_counts_once() -> None:
    """However often it is told, and also once it is among the oldest, which are forgotten."""
    held = profile(25)
    assert held.with_runs([kept(one) for one in range(25)], 200) == held
    full = Profile().with_runs([kept(one) for one in range(250)], 200)
    assert len(full.runs) == 200
    assert full.runs[0] == kept(50)
    assert full.since == minute(49)
    assert full.with_runs([kept(7)], 200) == full
    assert full.has_learnt("node-7", minute(7))
    assert not full.has_learnt("node-251", minute(251))


def test_who_runs_the_most_pushes_out_nobody_else() -> None:
    """Of all jobs' runs, the namespace with the most loses its own oldest first."""
    few = [kept(one, namespace="few") for one in range(10)]
    many = [kept(one, namespace="many") for one in range(10, 100)]
    held = Profile().with_runs([*few, *many], 50)
    assert [one.namespace for one in held.runs].count("few") == 10
    assert len(held.runs) == 50


def test_a_restart_changes_no_bound() -> None:
    """What was learnt live gives the same bounds as what is read from the profiles."""
    live, templates = Experience(), [stored_template(f"team-{n}", DIGESTS) for n in range(6)]
    profiles = dict.fromkeys(templates, Profile())
    shared = Profile()
    for number in range(240):
        template, began = templates[number % 6], minute(number).timestamp()
        live.began(f"node-{number}", template, began)
        seconds = 40 + number % 17
        lesson = live.ended(f"node-{number}", seconds, Outcome.ENDED, began + seconds)
        assert lesson is not None
        run = kept(number).model_copy(
            update={
                "seconds": seconds,
                "ended_at": minute(number) + timedelta(seconds=seconds),
                "pool": lesson.pool,
                "score": lesson.score,
                "held": lesson.held,
                "namespace": template.tenant,
            }
        )
        assert lesson_of(template, run) == lesson
        profiles[template] = profiles[template].with_runs([run], 200)
        if number % 2:
            # A process that ends may have written the one and not the other.
            shared = shared.with_runs([run], 2000)
    late = taught_late(profiles, shared)
    assert len(late) == 120
    again = known(profiles, shared)
    asked = [*templates, stored_template("team-0", "f" * 16 + "/" + "f" * 16)]
    for template in asked:
        now = minute(300).timestamp()
        before, after = live.bound(template, now), again.bound(template, now)
        assert before.value is not None
        assert (after.own, after.level, after.runs) == (before.own, before.level, before.runs)
        assert after.is_pooled == before.is_pooled


def test_what_lies_in_one_profile_teaches_no_other_tenant() -> None:
    """Not even under the same digests."""
    found = known({OURS: profile(25)})
    now = NOW.timestamp()
    assert found.bound(OURS, now).level == 0
    assert found.bound(stored_template("team-b", DIGESTS), now).value is None


def test_no_command_is_stored() -> None:
    """Digests only: whoever may read profiles may not read what others run."""
    template = template_of("team-a", a_job().spec)
    text = str(written(profile(25), template=template, bound_seconds=None, now=NOW))
    assert a_job().spec.image not in text
    assert all(word not in text for word in a_job().spec.command)


def test_a_full_profile_is_far_below_what_the_api_server_takes() -> None:
    """Of all jobs, too."""
    runs = [kept(one, namespace="a" * 63) for one in range(2000)]
    held = Profile().with_runs(runs, 2000)
    text = str(written(held, template=None, bound_seconds=None, now=NOW))
    assert len(text) < 700_000
