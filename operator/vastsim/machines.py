"""Starts and ends the processes of rented machines."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

KILL_SECONDS = 10.0
MARK = "VASTSIM_MACHINE"
"""Variable in the environment of every process on a machine; its value, the machine's folder, is
unique."""


@dataclass
class Running:
    """One machine's process."""

    process: asyncio.subprocess.Process
    folder: Path
    port: int


class Machines:
    """The machines that run now, by the number of their lease."""

    def __init__(self, host: str, ports: range | None) -> None:
        self._host = host
        self._ports = ports
        self._home = Path(tempfile.mkdtemp(prefix="vastsim-"))
        self._running: dict[int, Running] = {}

    def port(self, number: int) -> int | None:
        """Returns the SSH port of a machine, or None if it does not run."""
        running = self._running.get(number)
        return running.port if running else None

    async def start(
        self,
        number: int,
        *,
        environment: Mapping[str, str],
        onstart: str | None,
        authorized_keys: list[str],
        tools: Mapping[str, str],
        meminfo: str,
        shows_other_key: bool,
    ) -> None:
        """Starts a machine, with its old files if it had any; returns when it listens."""
        folder = self._folder(number)
        folder.mkdir(exist_ok=True)
        told = {
            "folder": str(folder),
            "host": self._host,
            "port": self._free_port(),
            "onstart": onstart,
            "environment": {**environment, MARK: str(folder)},
            "authorized_keys": authorized_keys,
            "tools": dict(tools),
            "meminfo": meminfo,
            "shows_other_key": shows_other_key,
        }
        keep = {name: os.environ[name] for name in ("PYTHONPATH", "LANG") if name in os.environ}
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "vastsim.machine",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=keep | {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), MARK: str(folder)},
            start_new_session=True,
        )
        assert process.stdin is not None, "asked for as a pipe"
        assert process.stdout is not None, "asked for as a pipe"
        process.stdin.write(json.dumps(told).encode() + b"\n")
        await process.stdin.drain()
        line = await process.stdout.readline()
        if not line:
            raise RuntimeError(f"machine {number} did not start")
        self._running[number] = Running(process, folder, int(json.loads(line)["port"]))

    def log(self, number: int) -> str:
        """Returns the container log of a machine; empty if it has none."""
        path = self._folder(number) / "container.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def authorize(self, number: int, key: str) -> None:
        """Lets a key log in to a running machine."""
        running = self._running.get(number)
        if running is not None:
            with (running.folder / "root/.ssh/authorized_keys").open("a") as stream:
                stream.write(f"{key.strip()}\n")

    def change_key(self, number: int) -> None:
        """Cuts all connections to a running machine, which shows another host key from then on."""
        running = self._running.get(number)
        if running is not None:
            running.process.send_signal(signal.SIGUSR1)

    async def stop(self, number: int) -> None:
        """Kills everything that runs on a machine; its files stay."""
        running = self._running.get(number)
        if running is None:
            return
        await asyncio.to_thread(_kill_tree, running.process.pid, running.folder)
        await running.process.wait()
        # Forgotten only after it has ended.
        self._running.pop(number, None)

    async def end(self, number: int) -> None:
        """Kills everything that runs on a machine and removes its files."""
        await self.stop(number)
        shutil.rmtree(self._folder(number), ignore_errors=True)

    async def end_all(self) -> None:
        """Ends all machines and removes all their files."""
        for number in list(self._running):
            await self.end(number)
        shutil.rmtree(self._home, ignore_errors=True)

    def _folder(self, number: int) -> Path:
        return self._home / str(number)

    def _free_port(self) -> int:
        if self._ports is None:
            return 0
        taken = {running.port for running in self._running.values()}
        free = next((port for port in self._ports if port not in taken), None)
        if free is None:
            raise RuntimeError("no SSH port is free; give a wider range with --ssh-ports")
        return free


def _kill_tree(root: int, folder: Path) -> None:
    """Kills a machine's whole process tree.

    The machine itself goes last: until then, orphans on it are re-parented to it and can be found.
    """
    deadline = time.monotonic() + KILL_SECONDS
    # It is stopped first, because its SSH server could start further processes meanwhile.
    with contextlib.suppress(ProcessLookupError):
        os.kill(root, signal.SIGSTOP)
    while (below := {*_descendants(root), *_marked(folder)} - {root}) and _living(below):
        # All are stopped before any is killed, so that none forks meanwhile.
        for sent in (signal.SIGSTOP, signal.SIGKILL):
            for pid in below:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, sent)
        if time.monotonic() > deadline:
            raise RuntimeError(f"processes of the machine in {folder} did not end: {below}")
        time.sleep(0.01)
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


def _marked(folder: Path) -> set[int]:
    mark = f"{MARK}={folder}".encode()
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
