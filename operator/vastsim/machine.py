"""One rented machine: an SSH server that really runs commands, in a process tree of its own.

The simulator starts it as a child process, describes it in one line of JSON on its standard
input, and gets back one line of JSON that says where it listens. It is the subreaper of everything
it starts: no process on it, however detached, leaves its tree, and the simulator ends the whole
tree at once.

It has no root file system of its own, but its own home, temporary folder, and folder for public
host keys (`SSH_HOST_KEY_DIR`; /etc/ssh on a real machine). When it is started again after a stop it
finds them unchanged, and runs its start script again.
"""

import asyncio
import contextlib
import ctypes
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import asyncssh

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36

SIGNALS = {number.value: number.name.removeprefix("SIG") for number in signal.Signals}


def main() -> None:
    """Is a machine until it is killed."""
    libc = ctypes.CDLL(None, use_errno=True)
    for option, value in ((PR_SET_CHILD_SUBREAPER, 1), (PR_SET_PDEATHSIG, signal.SIGTERM)):
        if libc.prctl(option, int(value), 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl")
    told = json.loads(sys.stdin.readline())
    asyncio.run(_Machine(told).run())


class _Machine:
    def __init__(self, told: dict[str, object]) -> None:
        self._folder = Path(str(told["folder"]))
        self._host = str(told["host"])
        self._port = int(str(told["port"]))
        self._onstart = str(told["onstart"] or "")
        self._home = self._folder / "root"
        self._host_key = self._folder / "etc/ssh/ssh_host_ed25519_key"
        self._keys = self._home / ".ssh" / "authorized_keys"
        tools = told["tools"]
        assert isinstance(tools, dict), "the simulator gives an object"
        self._tools = {str(name): str(text) for name, text in tools.items()}
        self._meminfo = str(told["meminfo"])
        self._shows_other_key = bool(told["shows_other_key"])
        environment = told["environment"]
        assert isinstance(environment, dict), "the simulator gives an object"
        self._environment = {str(name): str(value) for name, value in environment.items()}
        authorized = told["authorized_keys"]
        assert isinstance(authorized, list), "the simulator gives a list"
        self._authorized = [str(key) for key in authorized]
        self._logins: set[_Login] = set()

    async def run(self) -> None:
        self._furnish()
        if self._shows_other_key:
            # Another key than the one in its log, as if somebody else answered in its place.
            private = asyncssh.generate_private_key("ssh-ed25519")
        else:
            private = asyncssh.read_private_key(self._host_key)
        listener = await self._listen(self._port, private)
        print(json.dumps({"port": listener.get_port()}), flush=True)
        loop = asyncio.get_running_loop()
        # Sent when the simulator has ended: nothing that runs here may outlive it.
        loop.add_signal_handler(signal.SIGTERM, _end_everything)
        changed = asyncio.Event()
        loop.add_signal_handler(signal.SIGUSR1, changed.set)
        start = asyncio.create_task(self._start())
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await changed.wait()
            if changed.is_set():
                changed.clear()
                port = listener.get_port()
                listener.close()
                for login in tuple(self._logins):
                    login.cut()
                await listener.wait_closed()
                listener = await self._listen(port, asyncssh.generate_private_key("ssh-ed25519"))
            if start.done() and start.exception() is not None:
                raise RuntimeError("the start script could not be run") from start.exception()
            _reap_orphans()

    async def _listen(self, port: int, private: asyncssh.SSHKey) -> asyncssh.SSHAcceptor:
        return await asyncssh.create_server(
            lambda: _Login(self._keys, self._logins),
            self._host,
            port,
            server_host_keys=[private],
            process_factory=self._serve,
            encoding=None,
            line_editor=False,
            reuse_address=True,
            login_timeout=20,
        )

    def _furnish(self) -> None:
        """Creates the files of a new machine; an old one keeps its own."""
        for folder in ("root/.ssh", "tmp", "etc/ssh", "bin"):
            (self._folder / folder).mkdir(parents=True, exist_ok=True)
        if not self._host_key.exists():
            private = asyncssh.generate_private_key("ssh-ed25519")
            private.write_private_key(self._host_key)
            private.write_public_key(self._host_key.with_suffix(".pub"))
        known = set(self._keys.read_text().splitlines()) if self._keys.exists() else set()
        with self._keys.open("a") as stream:
            stream.writelines(f"{key}\n" for key in self._authorized if key not in known)
        for name, text in self._tools.items():
            tool = self._folder / "bin" / name
            tool.write_text(text)
            tool.chmod(0o755)
        (self._folder / "meminfo").write_text(self._meminfo)
        self._environment |= {
            "HOME": str(self._home),
            "USER": "root",
            "LOGNAME": "root",
            "SHELL": "/bin/sh",
            "TMPDIR": str(self._folder / "tmp"),
            "PATH": f"{self._folder / 'bin'}:/usr/local/bin:/usr/bin:/bin",
            "SSH_HOST_KEY_DIR": str(self._folder / "etc/ssh"),
            "GPUJOB_MEMINFO": str(self._folder / "meminfo"),
            "GPUJOB_CGROUP": str(self._folder / "cgroup"),
        }

    async def _start(self) -> None:
        """Runs the start script as the provider does; its output goes to the container's log."""
        with (self._folder / "container.log").open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                "/bin/sh",
                "-c",
                self._onstart,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._home,
                env=self._environment,
                start_new_session=True,
            )
        await process.wait()

    async def _serve(self, session: asyncssh.SSHServerProcess[bytes]) -> None:
        command = session.command or "exec /bin/sh"
        # Variables that a client sends are dropped, as sshd does unless it is configured otherwise.
        process = await asyncio.create_subprocess_exec(
            "/bin/sh",
            "-c",
            command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            cwd=self._home,
            env=self._environment,
            start_new_session=True,
        )
        assert process.stdin is not None, "asked for as a pipe"
        assert process.stdout is not None, "asked for as a pipe"
        assert process.stderr is not None, "asked for as a pipe"
        feeding = asyncio.create_task(_pump(session.stdin, process.stdin))
        try:
            # Both streams are copied to their ends first: data after the exit status would break
            # the connection with all its channels.
            await asyncio.gather(
                _pump(process.stdout, session.stdout), _pump(process.stderr, session.stderr)
            )
            await process.wait()
        finally:
            feeding.cancel()
            # When a connection is cut, its foreground processes get SIGHUP.
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGHUP)
        code = process.returncode
        if code is not None and code < 0:
            session.exit_with_signal(SIGNALS.get(-code, "KILL"))
        else:
            session.exit(code or 0)


class _Login(asyncssh.SSHServer):
    """Lets root in with a key that is in the authorized_keys file at this moment."""

    def __init__(self, keys: Path, logins: "set[_Login]") -> None:
        self._keys = keys
        self._logins = logins
        self._connection: asyncssh.SSHServerConnection | None = None

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._connection = conn
        self._logins.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._logins.discard(self)

    def cut(self) -> None:
        """Cuts the connection."""
        if self._connection is not None:
            self._connection.abort()

    def connection_requested(
        self, dest_host: str, dest_port: int, orig_host: str, orig_port: int
    ) -> bool:
        """Lets a client reach ports of the machine itself; all machines share one localhost."""
        return dest_host in ("localhost", "127.0.0.1", "::1")

    def begin_auth(self, username: str) -> bool:
        return True

    def public_key_auth_supported(self) -> bool:
        return True

    def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        if username != "root":
            return False
        shown = key.export_public_key("openssh").split()[:2]
        lines = self._keys.read_bytes().splitlines()
        return any(line.split()[:2] == shown for line in lines)


async def _pump(source: Any, target: Any) -> None:
    """Copies one stream to its end, no faster than it is read; the channel stays open."""
    try:
        # More than a channel's window: with smaller reads asyncssh 2.24 buffers without bound.
        while data := await source.read(4 << 20):
            target.write(data)
            await target.drain()
    except (asyncssh.SignalReceived, asyncssh.BreakReceived, asyncssh.TerminalSizeChanged):
        return
    except (ConnectionError, BrokenPipeError):
        # The reader is gone: the process has ended, or the client has left.
        return
    finally:
        if isinstance(target, asyncio.StreamWriter):
            target.close()


def _end_everything() -> None:
    """Kills everything that runs on this machine, and then the machine itself."""
    while children := [
        int(child)
        for task in Path("/proc/self/task").glob("*/children")
        for child in task.read_text().split()
    ]:
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(child, 0)
    os.kill(os.getpid(), signal.SIGKILL)


def _reap_orphans() -> None:
    """Reaps processes that were re-parented to us; asyncio reaps its own children."""
    for pid in Path("/proc/self/task").glob("*/children"):
        for child in pid.read_text().split():
            with contextlib.suppress(OSError, IndexError):
                fields = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
                # Our own children lead their sessions; an orphan's session has another leader.
                if fields[0] == "Z" and int(fields[3]) != int(child):
                    os.waitpid(int(child), os.WNOHANG)


if __name__ == "__main__":
    main()
