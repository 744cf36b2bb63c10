"""The scripts on the machine, run by a real shell."""

import signal
import subprocess
from pathlib import Path

import pytest

from gpujob.driver.supervisor import Look, follow_script, look_script, parse_look, run_name

RUN = "0000-1"


def sh(script: str, home: Path) -> bytes:
    """Runs a script as the machine's shell does."""
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(home)}
    return subprocess.run(
        ["/bin/sh"], input=script.encode(), env=environment, capture_output=True, check=True
    ).stdout


def started(home: Path, pid: int) -> None:
    """Leaves the traces of a supervisor that has started."""
    folder = home / ".gpujob/runs" / RUN
    folder.mkdir(parents=True)
    (folder / "began").write_text("100\n")
    (folder / "started").write_text(f"{pid}\n")
    (folder / "stdout").write_text("said\n")


@pytest.mark.parametrize("is_killed", [False, True])
def test_a_supervisor_that_was_killed_and_not_collected_is_gone(
    tmp_path: Path, is_killed: bool
) -> None:
    """In a container whose first process collects nobody it stays as a zombie."""
    with subprocess.Popen(["sleep", "600"]) as supervisor:
        started(tmp_path, supervisor.pid)
        try:
            if is_killed:
                supervisor.send_signal(signal.SIGKILL)
                while _state(supervisor.pid) != "Z":
                    pass
            look = parse_look(sh(look_script(RUN), tmp_path))
            assert look.state == ("vanished" if is_killed else "running")
            if is_killed:
                assert sh(follow_script(RUN, "stdout", 0), tmp_path) == b"said\n"
        finally:
            supervisor.kill()


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_each_run_has_a_folder_of_its_own() -> None:
    """The first one is named by the node alone."""
    assert [run_name("0000", number) for number in range(3)] == ["0000", "0000-1", "0000-2"]
    with pytest.raises(ValueError, match="is no uid"):
        run_name("../x", 0)


def test_a_look_gives_a_heartbeat(tmp_path: Path) -> None:
    """The machine's watchdog reads it."""
    (tmp_path / ".gpujob").mkdir()
    assert parse_look(sh(look_script(RUN), tmp_path)) == Look("absent")
    assert (tmp_path / ".gpujob/heartbeat").read_text().strip().isdecimal()
