"""What the webhook holds against a GpuJob, and what it warns of."""

from dataclasses import replace
from datetime import timedelta
from fractions import Fraction
from typing import Any

import pytest
from tests.builders import NOW, a_spec, an_offer, quotes

from gpujob.api.gpujob import GpuJobSpec
from gpujob.api.notes import Floor, MarketNotes, RunNote
from gpujob.core import admission
from gpujob.core.admission import Review
from gpujob.core.cost.template import template_of
from gpujob.core.market.floors import lowered
from gpujob.core.market.gpu_models import KNOWN
from gpujob.core.spec_faults import mark_faults, place_faults

NOTES = MarketNotes(
    overhead_seconds=1400,
    models=("Voodoo 5",),
    floors={
        "RTX 4090": Floor(usd_per_hour="0.250000", seen_at=NOW - timedelta(hours=23)),
        "RTX 3090": Floor(usd_per_hour="0.100000", seen_at=NOW - timedelta(hours=25)),
    },
)


def review(job: dict[str, Any], notes: MarketNotes | None = None) -> Review:
    """Judges a job now."""
    return admission.review(job, notes, now=NOW)


@pytest.mark.parametrize("place", ["gpujob-system", "kube-system", "kube-public"])
def test_no_job_is_beside_the_operators_secrets(place: str) -> None:
    """Its driver could read the account's key there, and the machine would have it (SR-006)."""
    (fault,) = place_faults(place, "gpujob-system")

    assert fault.field == "metadata.namespace"
    assert place in fault.message
    assert place_faults("kubernetes", "gpujob-system") == ()


def body(**changes: Any) -> dict[str, Any]:
    """A GpuJob as the API server sends it."""
    good = {
        "image": "python:3.11",
        "command": ["python3", "train.py"],
        "activeDeadlineSeconds": 60,
        "gpu": {"models": ["RTX 4090"]},
        "cost": {"ceiling": "1.00"},
    }
    return {"metadata": {"name": "job"}, "spec": good | changes}


def fields(found: dict[str, Any]) -> list[str]:
    """Returns the paths that are complained of."""
    return [fault.field for fault in review(found).faults]


def test_nothing_is_held_against_a_good_job() -> None:
    """No fault, no warning."""
    verdict = review(body())

    assert (verdict.faults, verdict.warnings) == ((), ())


@pytest.mark.parametrize(
    "image",
    [
        "python",
        "python:3.11",
        "localhost:5000/team/app:v1",
        "ghcr.io/a/b/c@sha256:" + "0" * 64,
        "pytorch/pytorch:2.4.0-cuda12.4-cudnn9-runtime",
        "REGISTRY.example/app",
        "a__b/c-d.e:x_Y-1.2",
    ],
)
def test_an_image_as_engines_read_it(image: str) -> None:
    """Host, port, path, tag, digest."""
    assert fields(body(image=image)) == []


@pytest.mark.parametrize(
    "image",
    [
        "Python",
        "python:",
        "python:3.11:2",
        "python@sha256:abc",
        "https://ghcr.io/a/b",
        "a//b",
        "-rm",
        "$(reboot)",
        "python;reboot",
        "python:3.11|sh",
        "`id`",
        "0" * 64,
        "a" * 1024 + ":" + "x" * 129,
    ],
)
def test_no_image(image: str) -> None:
    """It would be paid for until the machine gives up on it."""
    assert fields(body(image=image)) == ["spec.image"]


def test_an_unknown_gpu_is_told_its_nearest_neighbour() -> None:
    """If there is one; how people write what there is, is no fault."""
    asked = ["RTX 4091", "Voodoo", "rtx_4090", "h100", "NVIDIA GeForce RTX 4090", "A100-80GB"]
    near, strange = review(body(gpu={"models": asked})).faults

    assert (near.field, strange.field) == ("spec.gpu.models[0]", "spec.gpu.models[1]")
    assert "no GPU called 'RTX 4091'; did you mean 'RTX 4090'?" in near.message
    assert "did you mean" not in strange.message


def test_a_name_that_leaves_open_what_is_paid_for_is_told_what_there_is() -> None:
    """A family is none: the cheapest of it is taken, and a warning says of what."""
    series, memory = review(body(gpu={"models": ["RTX 6000", "A100"]})).faults
    answered = review(body(gpu={"models": ["A100", "H100"], "memoryGB": 80}))

    assert "may be any of 'Q RTX 6000' and 'RTX 6000Ada'" in series.message
    assert "write 'A100 40GB' or 'A100 80GB'" in memory.message
    assert answered.faults == ()
    family = "spec.gpu.models[1]: 'H100' is taken for any of H100 NVL, H100 PCIE, H100 SXM"
    assert family in answered.warnings
    assert all(len(one) <= 120 for one in answered.warnings)


def test_every_known_gpu_is_known() -> None:
    """None of them is taken for another one."""
    assert fields(body(gpu={"models": sorted(KNOWN)[:32]})) == []


def test_all_faults_are_told_at_once() -> None:
    """With the path of each."""
    wrong = body(
        image="Python",
        command=["a\0b"],
        args=["fine", "\0"],
        env=[{"name": "A", "value": "\0"}],
        workingDir="/a\nb",
        gpu={"models": ["RTX 4091", "Ü"]},
    )

    assert set(fields(wrong)) == {
        "spec.image",
        "spec.command[0]",
        "spec.args[1]",
        "spec.env[0].value",
        "spec.workingDir",
        "spec.gpu.models[0]",
        "spec.gpu.models[1]",
    }
    words = review(wrong).words
    nul = "contains a NUL character, which cannot be passed to a program; remove it"
    assert f"spec.args[1]: {nul}" in words


def test_a_shape_that_the_schema_would_have_refused_is_refused_too() -> None:
    """A schema may be older than this program."""
    assert fields(body(cost={})) == ["spec.cost.ceiling"]


@pytest.mark.parametrize("asked", ["0.95", "0.96", "0.970000"])
def test_a_confidence_that_can_be_met_is_good(asked: str) -> None:
    """Up to what the operator starts with."""
    assert fields(body(cost={"ceiling": "1.00", "confidence": asked})) == []


@pytest.mark.parametrize("asked", ["0.94", "0.949999", "0.970001", "0.99", "0.995", "1"])
def test_a_confidence_that_is_no_use_or_cannot_be_met_is_told(asked: str) -> None:
    """A job that asked for more would wait for ever."""
    (fault,) = review(body(cost={"ceiling": "1.00", "confidence": asked})).faults

    assert fault.field == "spec.cost.confidence"
    assert "at least 0.95 and at most 0.97" in fault.message
    assert fields(body(gpu={"count": 0}, backoffLimit="x")) == [
        "spec.backoffLimit",
        "spec.gpu.count",
    ]
    assert fields({"metadata": {}}) == ["spec"]
    assert fields({"spec": []}) == ["spec"]


@pytest.mark.parametrize("odd", [1, "a text", [], [[1]], True])
def test_metadata_of_another_form_is_refused_and_no_error(odd: Any) -> None:
    """The API server sends none such, but whoever reaches the webhook may; null labels are none."""
    assert fields(body() | {"metadata": odd}) == ["metadata"]
    for part in ("labels", "annotations"):
        for held in (odd, {"a": odd}):
            is_text = held == {"a": "a text"}
            found = fields(body() | {"metadata": {"name": "job", part: held}})
            assert found == ([] if is_text else [f"metadata.{part}"])
    assert fields(body() | {"metadata": {"name": "job", "labels": None}}) == []


def test_a_list_without_end_is_cut() -> None:
    """The message stays readable."""
    words = review(body(args=["\0"] * 256)).words

    assert words.endswith("and 236 more")


def test_only_the_operator_marks_a_job_as_its_own() -> None:
    """But what a backup brings back passes; and so do others' marks that look like ours."""
    ours = {"gpujob.dev/idempotency-key": "x", "a.gpujob.dev/b": "x"}
    theirs = {"gpujob.development/x": "x", "team": "x", "mygpujob.dev/x": "x"}
    kept = {"gpujob.dev/finished": "train/uid"}

    found = mark_faults({"labels": ours | theirs, "annotations": ours | theirs | kept})

    assert [one.field for one in found] == ["metadata.labels"] * 2 + ["metadata.annotations"] * 2
    assert "gpujob.dev/idempotency-key" in found[0].message
    assert mark_faults({"annotations": kept}) == ()
    assert len(mark_faults({"labels": kept})) == 1
    assert mark_faults(None) == mark_faults([]) == mark_faults({"labels": None}) == ()


@pytest.mark.parametrize(
    "changes",
    [
        {"args": ["x" * 1000] * 66},
        {"env": [{"name": f"A{at}", "value": "é" * 500} for at in range(66)]},
        {"args": [{}] * 30_000},
        {"unknown": "x" * 70_000},
    ],
)
def test_a_spec_has_a_bounded_length(changes: dict[str, Any]) -> None:
    """Whatever makes it so long: nobody looks further, and there is one thing to say."""
    (fault,) = review(body(**changes)).faults

    assert fault.field == "spec"
    assert "65536" in fault.message


def test_labels_have_a_bounded_length_together() -> None:
    """Kubernetes bounds each of them, and what a whole object takes: that is a megabyte."""
    job = body()
    job["metadata"]["labels"] = {f"example.com/{at:03}": "x" * 63 for at in range(250)}

    assert [fault.field for fault in review(job).faults] == ["metadata.labels"]


@pytest.mark.parametrize(
    "field",
    ["env", "command", "args", "ports"],
)
def test_a_list_is_read_to_its_first_wrong_item(field: str) -> None:
    """Else a few bytes for each item would become a message for each."""
    assert len(review(body(**{field: [[]] * 10_000})).faults) <= 2


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"activeDeadlineSeconds": None}, "activeDeadlineSeconds"),
        ({"market": {"hosts": "Any"}}, "hosts"),
        ({"image": "localhost:5000/app"}, "tag"),
        ({"imagePullSecret": {"name": "x", "exposeToProvider": True}}, "short-lived read-only"),
    ],
)
def test_what_is_soon_regretted_is_warned_of(changes: dict[str, Any], word: str) -> None:
    """Short enough not to be cut."""
    verdict = review(body(**changes))

    assert verdict.faults == ()
    (warning,) = verdict.warnings
    assert word in warning
    assert len(warning) <= 120


def test_a_job_that_gitops_would_buy_again_is_warned_of() -> None:
    """Only where both meet: a time to live, and the mark of a tool that applies it anew."""
    for mark in ({"labels": {"kustomize.toolkit.fluxcd.io/name": "apps"}}, {}):
        for ttl in (60, None):
            found = review(body(ttlSecondsAfterFinished=ttl) | {"metadata": mark})
            (warned,) = found.warnings or ("",)
            assert ("you pay again" in warned) is (bool(mark) and ttl == 60)
            assert len(warned) <= 120


@pytest.mark.parametrize(
    ("changes", "needed"),
    [
        ({}, None),
        ({"cost": {"ceiling": "0.34"}}, "$0.348"),
        ({"cost": {"ceiling": "0.35"}}, None),
        ({"cost": {"ceiling": "0.35"}, "gpu": {"models": ["RTX 4090"], "count": 2}}, "$0.695"),
        ({"cost": {"ceiling": "0.01"}, "gpu": {"models": ["RTX 3090"]}}, None),
        ({"cost": {"ceiling": "0.01"}, "gpu": {"models": ["RTX 4090", "RTX 3090"]}}, None),
        ({"cost": {"ceiling": "0.01"}, "gpu": {}}, "$0.348"),
        ({"cost": {"ceiling": "0.01"}, "market": {"type": "Interruptible"}}, None),
    ],
)
def test_a_ceiling_below_the_cheapest_run_is_warned_of(
    changes: dict[str, Any], needed: str | None
) -> None:
    """0.25 $/h for 3600 + 1400 s; a price of yesterday, and a bid, are no price."""
    warnings = review(body(activeDeadlineSeconds=3600, **changes), NOTES).warnings

    assert len(warnings) == (needed is not None)
    if needed:
        assert needed in warnings[0]
        assert len(warnings[0]) <= 120


def test_a_model_that_the_provider_knows_is_known() -> None:
    """And may be the nearest one."""
    assert review(body(gpu={"models": ["Voodoo 5"]}), NOTES).faults == ()
    (fault,) = review(body(gpu={"models": ["voodoo_5"]}), NOTES).faults
    assert "did you mean 'Voodoo 5'?" in fault.message


def test_the_floor_is_the_lowest_price_of_a_day_for_one_gpu() -> None:
    """A dearer offer leaves it, a cheaper one and an older one do not."""
    found = quotes()
    pair = an_offer(gpu_usd_per_hour=Fraction(1, 2), gpu_count=2)
    dear = an_offer(gpu_usd_per_hour=Fraction(3))
    one = lowered({}, replace(found, offers=(dear, pair)), NOW)
    assert one == {"RTX 4090": Floor(usd_per_hour="0.250000", seen_at=NOW)}
    later = NOW + timedelta(hours=23)
    assert lowered(one, replace(found, offers=(dear,)), later) == one
    older = lowered(one, replace(found, offers=(dear,)), NOW + timedelta(hours=24))
    assert older["RTX 4090"].usd_per_hour == "3.000000"


def test_what_is_no_price_or_no_name_is_no_floor() -> None:
    """A provider's mistake or malice is not shown to users."""
    strange = [
        an_offer(gpu_model="RTX\x1b[2J"),
        an_offer(gpu_model="x" * 65),
        an_offer(gpu_model=""),
        an_offer(gpu_usd_per_hour=Fraction(10**9)),
        an_offer(gpu_usd_per_hour=Fraction(0)),
    ]
    many = [an_offer(gpu_model=f"GPU {number}") for number in range(1500)]

    assert lowered({}, replace(quotes(), offers=tuple(strange)), NOW) == {}
    assert len(lowered({}, replace(quotes(), offers=tuple(many)), NOW)) == 1000


def test_the_builders_spec_passes() -> None:
    """What all other tests use is nothing that the webhook would refuse."""
    assert review({"spec": a_spec()}).faults == ()


@pytest.mark.parametrize("given", [{}, {"exposeToProvider": False}])
def test_who_exposes_a_secret_has_to_say_so(given: dict[str, Any]) -> None:
    """Because no other secret goes through the provider."""
    (fault,) = review(body(imagePullSecret={"name": "registry"} | given)).faults

    assert fault.field == "spec.imagePullSecret.exposeToProvider"
    assert "the provider and the owner of the host can read these credentials" in fault.message


def test_a_job_that_nobody_will_look_at_is_warned_of() -> None:
    """Before all else."""
    wanted = body(market={"hosts": "Any"})
    first, *_ = admission.review(wanted, now=NOW, nobody_leads=True).warnings

    assert "no controller leads now" in first
    assert len(first) <= 120


def test_null_is_no_fault_where_a_field_may_be_left_out() -> None:
    """The API server passes it on from server-side apply."""
    nulls = {"workingDir": None, "gpu": {"memoryGB": None}, "data": {"log": None}}

    assert fields(body(**nulls)) == []


def _without_deadline(namespace: str = "team-a", **changes: Any) -> dict[str, Any]:
    """A job of a template whose run time is published for team-a."""
    job = body(**changes)
    del job["spec"]["activeDeadlineSeconds"]
    return {"metadata": {"name": "job", "namespace": namespace}, "spec": job["spec"]}


def _learnt(seconds: int) -> MarketNotes:
    template = template_of("team-a", GpuJobSpec.model_validate(_without_deadline()["spec"]))
    known = {template.keys[0]: RunNote(seconds=seconds, runs=25)}
    return NOTES.model_copy(update={"runs": known})


@pytest.mark.parametrize(
    "job",
    [
        pytest.param(_without_deadline("team-b"), id="another tenant's"),
        pytest.param(_without_deadline(command=["other"]), id="a fresh template"),
        pytest.param(
            _without_deadline(cost={"ceiling": "1.00", "confidence": "0.97"}), id="more confidence"
        ),
        pytest.param({"spec": _without_deadline()["spec"]}, id="no namespace"),
    ],
)
def test_only_what_the_gate_would_take_is_told_of_a_run_time(job: dict[str, Any]) -> None:
    """Nobody hears what another namespace's jobs take."""
    found = " ".join(review(job, _learnt(600)).warnings)
    assert "may wait until enough runs" in found
    assert "600" not in found


def test_a_run_time_that_is_known_is_told_and_priced() -> None:
    """As the gate reckons with it."""
    (told,) = review(_without_deadline(), _learnt(600)).warnings
    assert "by 25 runs, it takes up to 600 s with 95 %" in told
    assert len(told) <= 120
    told, least = review(_without_deadline(), _learnt(20_000)).warnings
    assert "20000 s" in told
    # (20,000 + 1,400) s at 0.25 $/h.
    assert "the job costs over $1.487" in least
