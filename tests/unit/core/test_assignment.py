"""What a driver is told."""

import pytest
from tests.builders import a_job, a_node, booted, ended, leased, running, stamp

from gpujob.api.transport import Instruction
from gpujob.core.assignment import assignment

PAUSED = {"interruptions": {"count": 1, "pausedAt": stamp(), "runSeconds": 5}}
BACK = {"interruptions": {"count": 2, "resumedAt": stamp(), "runSeconds": 5}}


@pytest.mark.parametrize(
    ("status", "instruction"),
    [
        (None, Instruction.WAIT),
        (leased(), Instruction.WAIT),
        (booted(), Instruction.RUN),
        (booted() | PAUSED, Instruction.WAIT),
        (booted() | BACK, Instruction.RUN),
        (ended(running()), Instruction.EXIT),
    ],
)
def test_what_it_is_to_do(status: object, instruction: Instruction) -> None:
    """Wait for a machine, run on it, or leave."""
    found = assignment(a_node(status), a_job())  # type: ignore[arg-type]

    assert found.instruction is instruction


def test_without_its_node_or_job_it_leaves() -> None:
    """Nothing is left to do."""
    assert assignment(None, a_job()).instruction is Instruction.EXIT
    assert assignment(a_node(booted()), None).instruction is Instruction.EXIT


def test_each_run_on_a_machine_has_its_number() -> None:
    """The machine was taken away twice: this is the third run."""
    work = assignment(a_node(booted() | BACK), a_job()).work

    assert work is not None
    assert work.run_number == 2
