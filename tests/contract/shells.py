"""A machine of which a test says which shell and tools it has, and who logs in to it."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import asyncssh

from gpujob.adapters.ssh import Connection, connect
from localcluster.project_images import machine_root

NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")


class ShellMachine:
    """An SSH server that runs each command with a shell."""

    def __init__(
        self, folder: Path, *, shell: Sequence[str] = ("/bin/sh",), tools: str = "/usr/bin:/bin"
    ) -> None:
        folder.mkdir()
        self.home = folder / "home"
        self.home.mkdir(mode=0o777)
        self.home.chmod(0o777)
        self._key = folder / "key"
        private = asyncssh.generate_private_key("ssh-ed25519")
        self._key.touch(mode=0o600)
        private.write_private_key(str(self._key))
        self._public = private.convert_to_public()
        self.shell = shell
        self._tools = tools
        self.commands: list[str] = []
        self._running: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[Connection]:
        """A connection to it."""
        host = asyncssh.generate_private_key("ssh-ed25519")
        shown = host.export_public_key("openssh").decode().strip()
        keys = asyncssh.import_authorized_keys(self._public.export_public_key().decode())
        server = await asyncssh.listen(
            "127.0.0.1",
            0,
            server_host_keys=[host],
            authorized_client_keys=keys,
            process_factory=self._serve,
            encoding=None,
            line_editor=False,
        )
        async with (
            server,
            connect("127.0.0.1", server.get_port(), "root", self._key, shown) as connection,
        ):
            yield connection
        # No process outlives its test.
        await asyncio.gather(*self._running, return_exceptions=True)

    async def _serve(self, session: "asyncssh.SSHServerProcess[bytes]") -> None:
        task = asyncio.current_task()
        assert task is not None, "the server runs it as one"
        self._running.add(task)
        try:
            await self._run(session)
        finally:
            self._running.discard(task)

    async def _run(self, session: "asyncssh.SSHServerProcess[bytes]") -> None:
        assert session.command is not None, "the driver opens no shell"
        self.commands.append(session.command)
        process = await asyncio.create_subprocess_exec(
            *self.shell,
            "-c",
            session.command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            cwd=self.home,
            env={"HOME": str(self.home), "PATH": self._tools},
            start_new_session=True,
        )
        feeding = asyncio.create_task(_pump(session.stdin, process.stdin, closes=True))
        try:
            if await _pump(process.stdout, session.stdout):
                await process.wait()
        finally:
            feeding.cancel()
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                # asyncio waits for the end of a pipe, too, which nobody reads any more.
                await process.communicate()
        session.exit(process.returncode or 0)


async def _pump(source: Any, target: Any, *, closes: bool = False) -> bool:
    """Copies one stream to its end; returns whether somebody read it to its end."""
    try:
        while data := await source.read(4 << 20):
            target.write(data)
            await target.drain()
    except ConnectionError:
        return False
    finally:
        if closes:
            target.close()
    return True


def busybox_tools(folder: Path) -> str:
    """Makes a folder with busybox's tools only; returns it as a PATH."""
    busybox = machine_root() / "usr/bin/busybox"
    folder.mkdir()
    names = "sh cat chmod date find head ls mkdir mv printf readlink rm rmdir sha256sum stat tail"
    for name in [*names.split(), "tar", "touch", "wc", "xargs", "dd", "sleep", "ln", "mkfifo"]:
        (folder / name).symlink_to(busybox)
    return str(folder)
