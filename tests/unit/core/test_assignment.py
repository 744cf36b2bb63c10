"""What a driver is told."""

import pytest
from tests.builders import (
    DRIVEN,
    KEYED,
    a_job,
    a_node,
    a_spec,
    booted,
    ended,
    leased,
    reachable,
    renting,
    running,
    stamp,
)

from gpujob.api.transport import Instruction
from gpujob.core.limits import Limits
from gpujob.core.machine.assignment import assignment, may_be_driver

LIMITS = Limits()
WITH_WORK = (Instruction.RUN, Instruction.STOP)
STOPPED = {"stop": {"at": stamp(), "reason": "Suspended"}}
PAUSED = {"interruptions": {"count": 1, "pausedAt": stamp(), "runSeconds": 5}}
BACK = {"interruptions": {"count": 2, "resumedAt": stamp(), "runSeconds": 5}}


@pytest.mark.parametrize(
    ("status", "instruction"),
    [
        (None, Instruction.WAIT),
        (leased(), Instruction.WAIT),
        (reachable(), Instruction.MEASURE),
        (booted(), Instruction.RUN),
        (running() | STOPPED, Instruction.STOP),
        # Of a node that an older controller brought so far.
        (reachable() | {"run": {"startedAt": stamp()}}, Instruction.RUN),
        (booted() | PAUSED, Instruction.WAIT),
        (booted() | BACK, Instruction.RUN),
        (ended(running()), Instruction.EXIT),
    ],
)
def test_what_it_is_to_do(status: object, instruction: Instruction) -> None:
    """Wait for a machine, measure it, run on it, end the workload, or leave."""
    found = assignment(a_node(status), a_job(), LIMITS)  # type: ignore[arg-type]

    assert found.instruction is instruction
    assert (found.machine is not None) == (instruction in (*WITH_WORK, Instruction.MEASURE))
    assert (found.work is not None) == (instruction in WITH_WORK)
    assert (found.grace_seconds is not None) == (instruction is Instruction.STOP)


@pytest.mark.parametrize(
    ("status", "name", "expected"),
    [
        (KEYED, "train-0-1-driver", True),
        (KEYED, "train-0-1-driver-2", False),
        (KEYED | {"driverPodNumber": 2}, "train-0-1-driver", False),
        (KEYED | {"driverPodNumber": 2}, "train-0-1-driver-2", True),
        (DRIVEN, "train-0-1-driver", False),
        (None, "train-0-1-driver", False),
        (renting(), "train-0-1-driver", False),
        (
            {key: value for key, value in running().items() if key != "driver"},
            "train-0-1-driver",
            0,
        ),
        (ended(KEYED), "train-0-1-driver", False),
    ],
)
def test_who_may_become_the_first_driver(status: object, name: str, expected: bool) -> None:
    """The node's pod of the present name, as long as none is recorded and nothing can be rented."""
    assert may_be_driver(a_node(status), name) is bool(expected)  # type: ignore[arg-type]


def test_the_first_report_may_bring_the_login() -> None:
    """Of a driver that is recorded with what follows from it."""
    job = a_job(a_spec(imagePullSecret={"name": "registry", "exposeToProvider": True}))

    assert assignment(a_node(KEYED), job, LIMITS).wants_login


def test_it_gets_every_address_of_its_machine() -> None:
    """In the order of the listing, with the one host key."""
    status = booted()
    status["machine"] |= {"otherAddresses": [{"host": "p.example", "port": 10}]}
    found = assignment(a_node(status), a_job(), LIMITS).machine

    assert found is not None
    places = [(one.host, one.port) for one in (found, *found.others)]
    assert places == [("h", 22), ("p.example", 10)]


def test_without_its_node_or_job_it_leaves() -> None:
    """Nothing is left to do."""
    assert assignment(None, a_job(), LIMITS).instruction is Instruction.EXIT
    assert assignment(a_node(booted()), None, LIMITS).instruction is Instruction.EXIT


def test_each_run_on_a_machine_has_its_number() -> None:
    """The machine was taken away twice: this is the third run."""
    work = assignment(a_node(booted() | BACK), a_job(), LIMITS).work

    assert work is not None
    assert work.run_number == 2


@pytest.mark.parametrize(
    ("status", "wanted"),
    [
        (KEYED | {"driver": {"podName": "d", "podUID": "p"}}, True),
        (DRIVEN, True),
        (renting(), False),
        (leased(), False),
        (booted() | PAUSED, False),
    ],
)
def test_a_login_is_wanted_before_the_rent_alone(status: object, wanted: bool) -> None:
    """Of a job that has a pull secret; later nobody needs it any more."""
    node = a_node(status)  # type: ignore[arg-type]
    pulls = a_job(a_spec(imagePullSecret={"name": "registry", "exposeToProvider": True}))

    assert assignment(node, pulls, LIMITS).wants_login is wanted
    assert not assignment(node, a_job(), LIMITS).wants_login
