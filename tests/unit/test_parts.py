"""The suite is whole: each folder of tests is a part that `hack/test` runs, and a marker."""

import subprocess
import sys

import pytest
from tests.integration.parts import ROOT

FOLDERS = {
    path.parent.relative_to(ROOT / "tests").parts[0] for path in ROOT.glob("tests/*/**/test_*.py")
}


def test_each_folder_of_tests_is_a_part() -> None:
    """One that nobody runs would be green for ever."""
    command = [sys.executable, str(ROOT / "hack/test.py"), "--help"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    (line,) = (line for line in said.splitlines() if line.startswith("parts: "))

    assert set(line.removeprefix("parts: ").partition(";")[0].split()) == FOLDERS


def test_each_test_has_the_marker_of_its_folder(request: pytest.FixtureRequest) -> None:
    """So that `pytest -m unit` finds it."""
    assert request.node.get_closest_marker("unit")
