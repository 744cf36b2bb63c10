"""SR-009 and what else can be said of workflows that only GitHub can run."""

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from localcluster.paths import ROOT
from releasing.__main__ import parser
from releasing.image import TARGETS

FOLDER = ROOT / ".github/workflows"
WORKFLOWS = sorted(FOLDER.glob("*.yml"))
USE = re.compile(r"^\s*(?:- )?uses: *(?P<what>.*)$", re.MULTILINE)
PINNED = re.compile(r"(?P<action>[\w./-]+)@(?P<commit>[0-9a-f]{40}) # (?P<version>v\d+\.\d+\.\d+)")
ACTIONS = yaml.safe_load((Path(__file__).parent / "actions.yaml").read_text())


def pins(text: str) -> list[tuple[str, str, str]]:
    """Returns action, commit and version of each use; fails on one that is not pinned."""
    found = []
    for use in USE.finditer(text):
        pinned = PINNED.fullmatch(use["what"])
        assert pinned, f"not pinned by 40 digits with its version: {use['what']}"
        found.append((pinned["action"], pinned["commit"], pinned["version"]))
    return found


def test_each_action_is_the_one_in_the_table() -> None:
    """By its full commit, and the version beside it is that commit's."""
    used = {pin for path in WORKFLOWS for pin in pins(path.read_text())}
    table = {(name, one["commit"], one["version"]) for name, one in ACTIONS.items()}

    assert used == table


@pytest.mark.parametrize(
    "use",
    [
        "actions/checkout@v7",
        "actions/checkout@main # v7.0.1",
        "actions/checkout@3d3c42e # v7.0.1",
        f"actions/checkout@{'a' * 40}",
        f"actions/checkout@{'a' * 40} # v7",
        "docker://alpine:3",
        "./.github/actions/x",
    ],
)
def test_whatever_else_is_seen(use: str) -> None:
    """So that the test above can fail."""
    with pytest.raises(AssertionError, match="not pinned"):
        pins(f"    steps:\n      - uses: {use}\n")


def test_the_requirements_own_line_finds_nothing() -> None:
    """It is a step of the workflow, and finds mail addresses and comments, too."""
    runs = [run for path in WORKFLOWS for run in _runs(_load(path))]
    step = '! grep -rn "@""v" .github/'

    assert step in runs
    assert subprocess.run(["bash", "-c", step], cwd=ROOT).returncode == 0


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_nothing_is_granted_but_job_by_job(path: Path) -> None:
    """And each job ends in time, and leaves no credentials in the work tree."""
    workflow = _load(path)
    assert workflow["permissions"] == {}
    assert workflow["concurrency"]
    for job in workflow["jobs"].values():
        assert job["permissions"]
        assert 0 < job["timeout-minutes"] <= 60
        for step in job["steps"]:
            if step.get("uses", "").startswith("actions/checkout@"):
                assert step["with"]["persist-credentials"] is False


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_no_expression_stands_in_a_script(path: Path) -> None:
    """A branch called `$(…)` would be run: values go in as variables."""
    assert [run for run in _runs(_load(path)) if "${{" in run] == []


def test_the_commands_that_workflows_give_exist() -> None:
    """With the options that they give; no run on GitHub tells so before a release."""
    commands = re.findall(
        r"hack/release ([^\n]*?)\)?$",
        "\n".join(run for path in WORKFLOWS for run in _runs(_load(path))),
        re.MULTILINE,
    )
    given = [parser().parse_args(shlex.split(command)).command for command in commands]

    assert set(given) == {
        "version",
        "image",
        "sbom",
        "sign",
        "attest",
        "verify",
        "chart",
        "push-image",
        "push-chart",
        "publish",
    }


SIGNED = {"sign-image": "push-image", "sign-chart": "push-chart"}
"""The jobs that sign, and how each pushes what it was given."""


def test_what_is_pushed_is_signed_and_verified_before_it_is_published() -> None:
    """SR-008: in the run that made it, and the release waits for both."""
    jobs = _load(FOLDER / "release.yml")["jobs"]
    for name, push in SIGNED.items():
        text = _script(jobs[name])
        pushed, signed, verified = (
            text.index(f"hack/release {one} ") for one in (push, "sign", "verify")
        )
        assert pushed < signed < verified
    # One build, and one signature, for each image that is released.
    for name in ("image", "sign-image"):
        assert tuple(jobs[name]["strategy"]["matrix"]["target"]) == TARGETS
    assert set(jobs["publish"]["needs"]) == set(SIGNED)


def test_what_builds_can_neither_push_nor_sign() -> None:
    """It runs what others have written. What it made goes on by digest to jobs that build nothing.

    Of these, the first waits for a person.
    """
    jobs = _load(FOLDER / "release.yml")["jobs"]
    signing = {name for name, job in jobs.items() if "id-token" in job["permissions"]}

    assert signing == set(SIGNED)
    for name in ("image", "chart"):
        assert jobs[name]["permissions"] == {"contents": "read"}
        assert jobs[name]["outputs"]
    for name in SIGNED:
        assert not re.search(
            r"hack/release (image|chart) |docker build|buildx", _script(jobs[name])
        )
        uses = " ".join(step.get("uses", "") for step in jobs[name]["steps"])
        assert "buildx" not in uses
        assert "download-artifact" in uses
        assert {"image", "chart"} <= set(jobs[name]["needs"])
    assert jobs["sign-image"]["environment"] == "release"
    assert "sign-image" in jobs["sign-chart"]["needs"]
    for target in TARGETS:
        assert f"needs.image.outputs.{target} " in str(jobs["sign-image"])
    assert "needs.chart.outputs.digest" in str(jobs["sign-chart"])
    # Nobody who may write to packages may make a release, and the other way round.
    assert jobs["publish"]["permissions"] == {"contents": "write"}


def _script(job: dict[str, Any]) -> str:
    return "\n".join(step.get("run", "") for step in job["steps"])


def _load(path: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(path.read_text())
    return loaded


def _runs(workflow: dict[str, Any]) -> list[str]:
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    return [step["run"] for step in steps if "run" in step]
