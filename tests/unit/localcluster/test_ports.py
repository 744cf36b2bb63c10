"""The ports that test servers are given."""

import itertools

import pytest

from gpujob.core.machine.ports import FIRST_LISTENED
from localcluster import control_plane


def test_no_server_is_given_a_port_of_the_drivers(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that has it keeps every driver from starting whose job has ports."""
    # Whoever runs beside this test may have the first of the others.
    chosen = itertools.chain([0, 1], itertools.count(len(control_plane.OF_DRIVERS)))
    monkeypatch.setattr(control_plane, "FIRST_PORT", FIRST_LISTENED)
    monkeypatch.setattr(control_plane, "GIVEN", set())
    monkeypatch.setattr(control_plane, "WORKERS", 1)
    monkeypatch.setattr("secrets.randbelow", lambda _: next(chosen))

    assert control_plane.free_port() >= FIRST_LISTENED + len(control_plane.OF_DRIVERS)


def test_no_two_parts_that_run_at_once_are_given_the_same_port(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A server that restarts would find its port taken."""
    given = []
    for lane, worker in itertools.product(range(2), range(control_plane.OF_A_LANE)):
        monkeypatch.setenv("GPUJOB_LANE", str(lane))
        monkeypatch.setenv("PYTEST_XDIST_WORKER", f"gw{worker}")
        monkeypatch.setattr(control_plane, "GIVEN", set())
        given.append(control_plane.free_port() % control_plane.WORKERS)

    assert len(set(given)) == len(given)
