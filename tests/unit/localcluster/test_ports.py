"""The ports that test servers are given."""

import pytest

from gpujob.core.machine.ports import FIRST_LISTENED
from localcluster import control_plane


def test_no_server_is_given_a_port_of_the_drivers(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that has it keeps every driver from starting whose job has ports."""
    chosen = iter([0, 1, len(control_plane.OF_DRIVERS)])
    monkeypatch.setattr(control_plane, "FIRST_PORT", FIRST_LISTENED)
    monkeypatch.setattr(control_plane, "GIVEN", set())
    monkeypatch.setattr(control_plane, "WORKERS", 1)
    monkeypatch.setattr("secrets.randbelow", lambda _: next(chosen))

    assert control_plane.free_port() == FIRST_LISTENED + len(control_plane.OF_DRIVERS)
