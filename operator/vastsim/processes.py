"""Finds and ends the processes of one machine; what a lease is, is not known here.

A process belongs to a machine if it descends from the machine's own process, or holds the
machine's mark in its environment.
"""

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

KILL_SECONDS = 10.0
MARK = "VASTSIM_MACHINE"
"""In the environment of everything that runs on a machine, with the machine's number."""


class SurvivorsError(RuntimeError):
    """Something that runs on a machine can not be killed."""


def kill_all_below(root: int, number: str) -> None:
    """Kills all of a machine but its own process; blocks; raises SurvivorsError.

    The machine's own process must not start anything meanwhile: it is stopped, or it is the
    caller. It has to live on, since whatever loses its parent comes back to it.
    """
    deadline = time.monotonic() + KILL_SECONDS
    while (below := {*_descendants(root), *_marked(number)} - {root}) and _living(below):
        # Stopped first, so that nothing forks away while its neighbours are killed.
        for sent in (signal.SIGSTOP, signal.SIGKILL):
            for pid in below:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, sent)
        if time.monotonic() > deadline:
            raise SurvivorsError(f"machine {number} does not die within {KILL_SECONDS} s: {below}")
        time.sleep(0.01)


def kill_tree(root: int, number: str) -> None:
    """Kills a machine with all that runs on it; blocks; raises SurvivorsError."""
    with contextlib.suppress(ProcessLookupError):
        # Stopped, it still adopts orphans, but its SSH server starts nothing more.
        os.kill(root, signal.SIGSTOP)
    kill_all_below(root, number)
    with contextlib.suppress(ProcessLookupError):
        os.kill(root, signal.SIGKILL)


def _living(pids: set[int]) -> bool:
    return any(state not in "ZX" for pid, _, state in _processes() if pid in pids)


def _descendants(root: int) -> set[int]:
    children: dict[int, list[int]] = {}
    for pid, parent, _ in _processes():
        children.setdefault(parent, []).append(pid)
    found: set[int] = set()
    todo = [root]
    while todo:
        for child in children.get(todo.pop(), ()):
            found.add(child)
            todo.append(child)
    return found


def _marked(number: str) -> set[int]:
    mark = f"{MARK}={number}".encode()
    found = set()
    for pid, _, _ in _processes():
        with contextlib.suppress(OSError):
            if mark in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                found.add(pid)
    return found


def _processes() -> Iterator[tuple[int, int, str]]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError, IndexError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                yield int(entry.name), int(fields[1]), fields[0]
