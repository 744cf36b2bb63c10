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
        "publish",
    }


def test_what_is_pushed_is_signed_and_verified_before_it_is_published() -> None:
    """SR-008: in the run that made it, and the release waits for both."""
    jobs = _load(FOLDER / "release.yml")["jobs"]
    for name in ("image", "chart"):
        text = "\n".join(step.get("run", "") for step in jobs[name]["steps"])
        # One build for each image that is released.
        if name == "image":
            assert tuple(jobs[name]["strategy"]["matrix"]["target"]) == TARGETS
        made, signed, verified = (
            text.index(f"hack/release {one} ") for one in (name, "sign", "verify")
        )
        assert made < signed < verified
    assert set(jobs["publish"]["needs"]) == {"image", "chart"}


def _load(path: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(path.read_text())
    return loaded


def _runs(workflow: dict[str, Any]) -> list[str]:
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    return [step["run"] for step in steps if "run" in step]
