"""Long-running processes: started in the background with a log, recorded, and ended.

A process is identified by its pid and start time, because a pid alone may belong to another process
by the time it is used.
"""

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from localcluster.paths import environment


def start_time(pid: int) -> int | None:
    """Returns when a process was started, in clock ticks since boot; None if it does not exist."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The first thread may be dead while others still hold resources, for example ports.
    is_dead = fields[0] in "ZX" and int(fields[17]) <= 1
    return None if is_dead else int(fields[19])


class Processes:
    """The processes of one cluster, recorded in its folder."""

    def __init__(self, state: Path) -> None:
        self._record = state / "processes.json"
        self._logs = state / "log"

    def start(self, name: str, command: Sequence[str], *, env: Mapping[str, str] = {}) -> int:
        """Starts a process that outlives this one; returns its pid."""
        self._logs.mkdir(parents=True, exist_ok=True)
        with (self._logs / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=environment() | dict(env),
            )
        # Without a return code, Popen would warn that the process outlives this object.
        process.returncode = 0
        self._write(self.recorded() | {name: (process.pid, start_time(process.pid) or 0)})
        return process.pid

    def recorded(self) -> dict[str, tuple[int, int]]:
        """Returns pid and start time of each recorded process, by name."""
        if not self._record.exists():
            return {}
        held = json.loads(self._record.read_text())
        return {name: (pid, ticks) for name, (pid, ticks) in held.items()}

    def pid(self, name: str) -> int | None:
        """Returns the pid of a recorded process; None if it has ended."""
        pid, ticks = self.recorded().get(name, (0, 0))
        return pid if pid and start_time(pid) == ticks else None

    def end(self, name: str, *, patience_seconds: float = 5.0) -> None:
        """Ends a process, after `patience_seconds` by force, and waits until it is gone."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            pid = self.pid(name)
            if pid is None:
                break
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
            self._reap(name, pid, patience_seconds)
        rest = self.recorded()
        rest.pop(name, None)
        self._write(rest)

    def kill(self, name: str) -> None:
        """Kills a process at once."""
        pid = self.pid(name)
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
            self._reap(name, pid, 10.0)

    def _reap(self, name: str, pid: int, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while self.pid(name) is not None and time.monotonic() < deadline:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
            time.sleep(0.02)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)

    def _write(self, held: Mapping[str, tuple[int, int]]) -> None:
        scratch = self._record.with_suffix(".new")
        scratch.write_text(json.dumps(held))
        scratch.rename(self._record)
