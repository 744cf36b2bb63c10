"""The table of faults to plant fits the code as it is."""

import subprocess
import sys

import pytest

import mutate


@pytest.mark.parametrize("fault", mutate.FAULTS, ids=lambda fault: fault.name)
def test_a_fault_can_be_planted(fault: mutate.Fault) -> None:
    """Its text stands there exactly once, and what it becomes can be read."""
    path = mutate.ROOT / "operator/gpujob" / fault.file
    planted = fault.planted(path.read_text())

    assert compile(planted, str(path), "exec")


def test_what_is_not_there_is_an_error() -> None:
    """Neither a text that is gone nor one that stands there twice is planted."""
    fault = mutate.Fault("a belief", "core/x.py", "yes", "no")

    with pytest.raises(mutate.NotPlantable):
        fault.planted("maybe")
    with pytest.raises(mutate.NotPlantable):
        fault.planted("yes, yes")
    assert fault.planted("yes") == "no"


def test_the_list_names_each_once() -> None:
    """One a line, for people and programs."""
    command = [sys.executable, str(mutate.ROOT / "hack/mutate.py"), "--list"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)

    assert len(done.stdout.splitlines()) == len({fault.name for fault in mutate.FAULTS})
    assert len(mutate.FAULTS) >= 25
