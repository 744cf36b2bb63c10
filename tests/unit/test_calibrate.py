"""hack/calibrate: what it reads, that it never looks ahead, and what its figures mean."""

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from math import exp, log, nan
from pathlib import Path
from random import Random

import pytest

from calibration.__main__ import score
from calibration.e11 import E11
from calibration.figures import figures, ratios
from calibration.replay import Estimator, Gate, Prediction, replay
from calibration.report import as_json, as_text
from calibration.traces import Job, Trace, TraceError, read_trace, with_later
from gpujob.core.cost.experience import Outcome
from gpujob.core.cost.template import Template

ROOT = Path(__file__).resolve().parents[2]
TRACE = "shared/data/jobs_alibaba_openb2023.csv.gz"
HEADS = {
    "philly": "submit_s,end_s,group,gpus,duration_s\n0,60,vc0,1,60\n",
    "openb": "submit_s,start_s,end_s,group,qos,gpus,gpu_milli,cpu_milli,memory_mib,duration_s,phase"
    "\n0,5,65,s0,LS,1,1000,12000,16384,60,Failed\n",
    "dlrm": "submit_s,start_s,end_s,group,role,gpus,cpus,memory_gib,duration_s\n"
    "0,0,60,app,CN,0,96,480.0,60\n",
    "genai": "submit_s,end_s,user,model,type,steps,images,loras,duration_s,state\n"
    "0,60,G0,M0,TXT,30,1,0,60.0,SUCCEED\n",
    "eagle": "submit_s,start_s,end_s,user,account,name,partition,qos,nodes,cpus,gpus,"
    "req_walltime_s,duration_s,state\n0,1,61,u,a,n,p,normal,1,1,0,60,60,TIMEOUT\n",
}
OUTCOMES = {"openb": Outcome.CRASHED, "eagle": Outcome.STOPPED}


def jobs(count: int = 3000, seed: int = 1) -> list[Job]:
    """Jobs of 12 templates and 4 tenants; many wait, and many run at the same time."""
    chance, now, found = Random(seed), 0.0, []
    for _ in range(count):
        now += chance.expovariate(1 / 300)
        number = chance.randrange(12)
        seconds = chance.lognormvariate(5 + number / 4, 0.3 + number / 10)
        started = now + chance.choice((0.0, 0.0, 200.0))
        outcome = chance.choices(list(Outcome), (90, 2, 2, 4, 2))[0]
        kind = Template(f"t{number % 4}", (f"t{number % 4}/{number}", f"t{number % 4}"))
        job = Job(now, started, started + seconds, seconds, 1.0, kind, outcome, None)
        found.append(job)
    return found


@pytest.mark.parametrize("name", HEADS)
def test_each_format_is_known_by_its_columns(name: str, tmp_path: Path) -> None:
    """Compressed or not."""
    plain, packed = tmp_path / "a.csv", tmp_path / "a.csv.gz"
    plain.write_text(HEADS[name])
    packed.write_bytes(gzip.compress(HEADS[name].encode()))

    found = read_trace(plain)
    assert found == read_trace(packed)
    assert (found.name, found.jobs[0].seconds) == (name, 60.0)
    assert found.jobs[0].outcome is OUTCOMES.get(name, Outcome.ENDED)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a,b\n1,2\n", "none of the traces"),
        ("", "none of the traces"),
        (HEADS["philly"] + "0,x,vc0,1,60\n", ":3: "),
        (HEADS["philly"] + "0,60,vc0,1\n", ":3: "),
        (HEADS["philly"] + "9,5,vc0,1,60\n", "cannot be"),
        (HEADS["philly"] + "0,60,vc0,1,0\n", "cannot be"),
        (HEADS["philly"] + "0,60,vc0,1,nan\n", "cannot be"),
    ],
)
def test_what_is_no_trace_is_refused_with_its_place(text: str, said: str, tmp_path: Path) -> None:
    """Nothing is skipped in silence: a figure would be of other jobs than it says."""
    path = tmp_path / "a.csv"
    path.write_text(text)

    with pytest.raises(TraceError, match=said):
        read_trace(path)


@pytest.mark.parametrize("estimator", [Gate, E11])
@pytest.mark.parametrize("cut", [500, 1500, 2500])
def test_no_label_from_the_future_is_read(estimator: Callable[[], Estimator], cut: int) -> None:
    """What ends after a submission may be permuted among the jobs: what is predicted up to there
    is the same to the last bit."""
    told = jobs()
    now = told[cut].submitted
    later = [place for place, job in enumerate(told) if job.ended > now]
    changed = list(told)
    for place, other in zip(later, Random(cut).sample(later, len(later)), strict=True):
        job, source = told[place], told[other]
        # It still runs now, so it has run so long, and that may be known.
        seconds = max(now - job.started, 0.0) + 1.0 + source.seconds
        changed[place] = replace(
            job, ended=job.started + seconds, seconds=seconds, outcome=source.outcome
        )
    before, after = replay(told, estimator()), replay(changed, estimator())

    assert len(later) > 100
    assert [one.seconds for one in before[: cut + 1]] == [one.seconds for one in after[: cut + 1]]
    assert [one.seconds for one in before] != [one.seconds for one in after]


def test_a_later_part_is_learnt_from_and_scored_alone() -> None:
    """Whether its file repeats the earlier part or not; and nothing of it is known earlier."""
    told = jobs()
    whole = replay(told, Gate())
    earlier = Trace("philly", tuple(told[:2000]))
    for later in (told[2000:], told):
        merged, scored = with_later(earlier, Trace("philly", tuple(later)))
        assert merged.jobs == tuple(told)
        assert scored == frozenset(range(2000, 3000))
    found = score(earlier, Trace("philly", tuple(told[2000:])))

    assert found.ours.jobs == 1000
    assert found.ours.coverage == figures(whole[2000:], [None] * 1000).coverage


def predictions(*pairs: tuple[float, float | None]) -> list[Prediction]:
    """Jobs that ran so long, and their bounds."""
    kind = Template("t", ("k",))
    return [
        Prediction(Job(place, place, place + ran, ran, 2.0, kind, Outcome.ENDED, None), bound)
        for place, (ran, bound) in enumerate(pairs)
    ]


def test_the_figures_are_those_of_a_pencil() -> None:
    """Four jobs: one has no bound, one runs beyond it."""
    found = figures(predictions((10, 20), (10, 40), (10, 5), (10, None)), [log(10)] * 4)

    assert (found.jobs, found.finite_share, found.coverage) == (4, 0.75, 2 / 3)
    assert found.coverage_by_gpu_seconds == 2 / 3
    assert found.width_median == 2
    assert found.pinball == pytest.approx((0.05 * log(2) + 0.05 * log(4) + 0.95 * log(2)) / 3)
    assert found.worst_window == 2 / 3
    # Of the ceilings 15 to 1000: all of them fit, and bounds of 20, 40 and 5 pass 7, 5 and 8.
    assert found.overrun_admitted == 0
    assert found.false_rejects == pytest.approx((1 + 3 + 0 + 8) / 32)


def test_an_overrun_is_admitted_by_a_bound_that_is_too_low() -> None:
    """Ceilings 15, 20, 30 and 50 are passed by a job of 60 whose bound said 18."""
    found = figures(predictions((60, 18)), [log(10)])

    assert found.overrun_admitted == 3 / 7
    assert found.false_rejects == 0


def test_a_worst_window_and_a_worst_group_are_found() -> None:
    """A burst of 100 misses in a row among 2,000, in one template of 150 jobs."""
    kinds = [Template("t", ("bad" if 1000 <= place < 1150 else "good",)) for place in range(2000)]
    told = [
        Prediction(
            Job(place, place, place + 10, 10.0, 1.0, kinds[place], Outcome.ENDED, None),
            5.0 if 1000 <= place < 1100 else 20.0,
        )
        for place in range(2000)
    ]
    found = figures(told, [None] * 2000)

    assert found.worst_window == 0.8
    assert found.worst_group_name == "bad"
    assert found.worst_group == pytest.approx(1 / 3)
    assert found.exceedance_limit == pytest.approx(0.05)


def test_ratios_are_about_jobs_that_both_bound() -> None:
    """A bound that only one of them gives says nothing of the other."""
    ours = predictions((10, 20), (10, None), (10, 20))
    theirs = predictions((10, 40), (10, 1e9), (10, 40))

    assert ratios(ours, theirs).width_median == 0.5
    assert ratios(ours, theirs).pinball == pytest.approx(0.5)


def test_the_yardstick_gives_the_larger_of_two_conformal_bounds() -> None:
    """With one template and equal jobs, by hand: the 20th of 20 values."""
    estimator, kind = E11(), Template("t", ("k", "t"))
    told = [
        Job(100.0 * place, 100.0 * place, 100.0 * place + 10 + place, 10.0 + place, 1.0, kind,
            Outcome.ENDED, None)
        for place in range(20)
    ]  # fmt: skip
    for place, job in enumerate(told):
        estimator.start(place, job, job.started)
        estimator.end(place, job, job.ended)
    bound = estimator.predict(told[0], 1e6)

    assert bound is not None
    assert bound >= 29
    assert exp(estimator.centres[0] or nan) == pytest.approx(19.5, rel=0.02)


def test_the_report_is_one_object_for_each_trace() -> None:
    """With figures as fractions, E11's beside them, and null where no job gives one."""
    found = score(Trace("philly", tuple(jobs(800))), None)
    told = json.loads(as_json([found, found]))

    assert len(told) == 2
    for name in (
        "coverage", "overrun_admitted", "finite_share", "worst_window", "false_rejects",
    ):  # fmt: skip
        assert 0 <= told[0][name] <= 1
        assert 0 <= told[0]["e11"][name] <= 1
    assert {"trace", "width_median", "pinball", "worst_group"} <= told[0].keys()
    text = as_text(found)
    assert "philly: 800 jobs" in text
    assert "20.65" in text


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Runs the command, as hack/calibrate does."""
    return subprocess.run(
        [sys.executable, "-m", "calibration", *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": f"{ROOT / 'hack'}:{ROOT / 'operator'}"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_command_says_which_file_is_no_trace(tmp_path: Path) -> None:
    """On standard error, with exit status 2, and prints no figures."""
    path = tmp_path / "a.csv"
    path.write_text("a,b\n")
    done = run("--json", path)

    assert (done.returncode, done.stdout) == (2, "")
    assert str(path) in done.stderr


def test_the_goals_are_met_on_a_real_trace() -> None:
    """The smallest one, if it is there; hack/calibrate prints the figures of any."""
    path = next((one for top in (ROOT, ROOT.parent) if (one := top / TRACE).is_file()), None)
    if path is None:
        pytest.skip(f"{TRACE} is neither here nor beside the project")
    found = score(read_trace(path), None)

    assert found.e11.coverage == pytest.approx(0.9675, abs=0.001)
    assert found.e11.width_median == pytest.approx(12.69, rel=0.02)
    assert found.ours.coverage >= 0.95
    assert found.ours.overrun_admitted <= 0.05
    assert found.ours.finite_share >= found.e11.finite_share - 0.005
    assert found.ours.worst_group >= found.e11.worst_group
    assert found.ratios.width_median <= 1
    assert found.ratios.pinball <= 1
