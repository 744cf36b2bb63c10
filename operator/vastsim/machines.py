"""Starts, stops and ends the processes of rented machines, and keeps their disks."""

import asyncio
import contextlib
import json
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vastsim.processes import MARK, kill_tree

KEYS = "root/.ssh/authorized_keys"


@dataclass
class Running:
    """One machine's process."""

    process: asyncio.subprocess.Process
    port: int | None = None
    """None until it listens."""


class Machines:
    """The machines that run now, by lease number."""

    def __init__(self, host: str, ports: range | None) -> None:
        self._host = host
        self._ports = ports
        self._home = Path(tempfile.mkdtemp(prefix="vastsim-"))
        self._running: dict[int, Running] = {}

    def port(self, number: int) -> int | None:
        """Returns the SSH port of a machine, None if it does not run."""
        running = self._running.get(number)
        return running.port if running else None

    async def start(
        self,
        number: int,
        *,
        environment: Mapping[str, str],
        onstart: str | None,
        authorized_keys: list[str],
        gpus: str,
    ) -> None:
        """Starts a machine on its disk; returns when it listens; raises RuntimeError, OSError."""
        folder = self._folder(number)
        told = {
            "folder": str(folder),
            "host": self._host,
            "port": self._free_port(),
            "onstart": onstart,
            "environment": {**environment, MARK: str(number)},
            "authorized_keys": authorized_keys,
            "gpus": gpus,
        }
        folder.mkdir(exist_ok=True)
        keep = {name: os.environ[name] for name in ("PYTHONPATH", "LANG") if name in os.environ}
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "vastsim.machine",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=keep | {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), MARK: str(number)},
            start_new_session=True,
        )
        # Known before it listens: whoever ends all machines meanwhile must find it.
        running = self._running[number] = Running(process)
        assert process.stdin is not None, "asked for as a pipe"
        assert process.stdout is not None, "asked for as a pipe"
        # The pipe stays open: its end tells the machine that we are no more.
        process.stdin.write(json.dumps(told).encode() + b"\n")
        with contextlib.suppress(OSError):
            await process.stdin.drain()
        line = await process.stdout.readline()
        if not line:
            await self.stop(number)
            raise RuntimeError(f"machine {number} ended before it listened; see its error above")
        running.port = int(json.loads(line)["port"])

    def log(self, number: int) -> str:
        """Returns the container log of a machine; empty if it never ran."""
        path = self._folder(number) / "container.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def authorize(self, number: int, key: str) -> None:
        """Lets a key in on a machine that has a disk."""
        path = self._folder(number) / KEYS
        if path.exists():
            with path.open("a") as stream:
                stream.write(f"{key}\n")

    def forbid(self, number: int, key: str) -> None:
        """Lets a key in no longer on a machine that has a disk."""
        path = self._folder(number) / KEYS
        if path.exists():
            kept = (line for line in path.read_text().splitlines() if line != key)
            path.write_text("".join(f"{line}\n" for line in kept))

    async def stop(self, number: int) -> None:
        """Kills everything that runs on a machine, and keeps its disk; raises SurvivorsError."""
        running = self._running.get(number)
        if running is None:
            return
        await asyncio.to_thread(kill_tree, running.process.pid, str(number))
        await running.process.wait()
        # Forgotten only once it is dead: until then it can be ended again.
        self._running.pop(number, None)

    async def end(self, number: int) -> None:
        """Kills everything that runs on a machine, and removes its disk; raises SurvivorsError."""
        await self.stop(number)
        await asyncio.to_thread(shutil.rmtree, self._folder(number), ignore_errors=True)

    async def end_all(self) -> None:
        """Ends all machines and removes every trace; raises SurvivorsError."""
        stopping = [self.stop(number) for number in self._running]
        outcomes = await asyncio.gather(*stopping, return_exceptions=True)
        shutil.rmtree(self._home, ignore_errors=True)
        for outcome in outcomes:
            if outcome is not None:
                raise outcome

    def _folder(self, number: int) -> Path:
        return self._home / str(number)

    def _free_port(self) -> int:
        if self._ports is None:
            return 0
        taken = {running.port for running in self._running.values()}
        for port in self._ports:
            if port not in taken and _can_listen(self._host, port):
                return port
        raise RuntimeError("no SSH port is free; widen --ssh-ports or destroy a machine")


def _can_listen(host: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True
