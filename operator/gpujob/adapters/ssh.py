"""SSH to a rented machine, with one pinned host key and one key of ours.

Neither an agent nor a configuration file of the user has any influence.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncssh

from gpujob.adapters.errors import (
    HostKeyMismatch,
    LoginRefused,
    MachineError,
    MachineUnreachable,
    ScriptFailed,
)
from gpujob.api.words import in_words

CONNECT_SECONDS = 15
KEEPALIVE_SECONDS = 5
KEEPALIVES_MISSED = 3
READ_BYTES = 4 << 20
"""How much is read from a stream at once: all that has arrived, which is at most its window. With
smaller reads the other side sends more than was read, and the buffer grows, because asyncssh 2.24
opens the whole window again for each part that is read."""
CIPHERS = "^aes256-gcm@openssh.com,aes128-gcm@openssh.com"
"""Preferred to all others that the library knows, because processors have instructions for them: a
stream costs a quarter less CPU than with the library's first choice (hack/bench driver)."""
OUTPUT_BYTES_MAX = 256 << 10
"""The longest output of a script; ours print a few thousand bytes. What we make of an output takes
far more memory than the output itself."""
ERROR_BYTES_KEPT = 200
PORT_WINDOW_BYTES = 1 << 20
"""How much may be on its way to a slow reader, for each connection to a port."""
SCRIPT_SECONDS = 15.0
"""Our scripts take moments. One that takes longer hangs, and may not hang on a new connection."""


class Connection:
    """An open connection to one machine."""

    def __init__(self, connection: asyncssh.SSHClientConnection) -> None:
        self._connection = connection

    async def run(
        self, script: str, text: bytes = b"", *, timeout_seconds: float = SCRIPT_SECONDS
    ) -> bytes:
        """Runs a script with `text` as its input and returns its output.

        Raises MachineUnreachable if the connection breaks or the script hangs, ScriptFailed if its
        status is not 0, and MachineError if its output is longer than `OUTPUT_BYTES_MAX`.
        """
        async with (
            self.open(
                script, text, timeout_seconds=timeout_seconds, stderr=asyncssh.PIPE
            ) as process,
            asyncio.timeout(timeout_seconds),
        ):
            # Both are read, because a full buffer of one would hold up the other.
            output, said = await asyncio.gather(_all_of(process.stdout), _end_of(process.stderr))
            await process.wait_closed()
        if process.exit_status != 0:
            raise _failed(process.exit_status, in_words(said.decode("utf-8", "replace")))
        return output

    async def send(self, script: str, chunks: AsyncIterator[bytes]) -> None:
        """Runs a script that reads these chunks from its input.

        Raises MachineUnreachable if the connection breaks, and ScriptFailed if its status is not 0.
        """
        with _translated():
            process = await self._connection.create_process(
                script, encoding=None, stdout=asyncssh.DEVNULL, stderr=asyncssh.DEVNULL
            )
        try:
            with _translated():
                async for data in chunks:
                    process.stdin.write(data)
                    await process.stdin.drain()
                process.stdin.write_eof()
                await process.wait_closed()
        finally:
            process.close()
        if process.exit_status != 0:
            raise _failed(process.exit_status, "while it read its input")

    @asynccontextmanager
    async def reach(
        self, port: int
    ) -> AsyncIterator["tuple[asyncssh.SSHReader[bytes], asyncssh.SSHWriter[bytes]]"]:
        """Connects to a port on the machine; the connection ends with the context.

        Raises MachineUnreachable if nothing listens there, or if the connection breaks.
        """
        with _translated():
            async with asyncio.timeout(CONNECT_SECONDS):
                reader, writer = await self._connection.open_connection(
                    "localhost", port, encoding=None, window=PORT_WINDOW_BYTES
                )
        try:
            with _translated():
                yield reader, writer
        finally:
            writer.channel.abort()

    @asynccontextmanager
    async def open(
        self,
        script: str,
        text: bytes = b"",
        *,
        timeout_seconds: float = SCRIPT_SECONDS,
        stderr: int = asyncssh.DEVNULL,
    ) -> AsyncIterator["asyncssh.SSHClientProcess[bytes]"]:
        """Starts a script whose output is read as it arrives; it ends with the context.

        Raises MachineUnreachable if it does not start in time, or the connection breaks.
        """
        with _translated():
            async with asyncio.timeout(timeout_seconds):
                process = await self._connection.create_process(
                    script, encoding=None, stderr=stderr
                )
        try:
            with _translated():
                # A script that has already ended takes no input.
                if text:
                    process.stdin.write(text)
                process.stdin.write_eof()
                yield process
        finally:
            process.close()


async def _all_of(stream: "asyncssh.SSHReader[bytes]") -> bytes:
    output = bytearray()
    while data := await stream.read(READ_BYTES):
        output += data
        if len(output) > OUTPUT_BYTES_MAX:
            raise MachineError(
                f"a script on the machine printed more than {OUTPUT_BYTES_MAX} bytes"
            )
    return bytes(output)


async def _end_of(stream: "asyncssh.SSHReader[bytes]") -> bytes:
    kept = b""
    while data := await stream.read(READ_BYTES):
        kept = (kept + data)[-ERROR_BYTES_KEPT:]
    return kept


def _failed(status: int | None, words: str) -> MachineUnreachable:
    if status is None:
        return MachineUnreachable(f"a script on the machine did not end: {words}")
    return ScriptFailed(status, words)


@asynccontextmanager
async def connect(
    host: str, port: int, user: str, key_file: Path, host_key: str
) -> AsyncIterator[Connection]:
    """Connects to a machine, which must show exactly this host key.

    Raises HostKeyMismatch, LoginRefused or MachineUnreachable.
    """
    trusted = asyncssh.import_known_hosts(f"* {host_key}\n")
    with _translated():
        connection = await asyncssh.connect(
            host,
            port,
            username=user,
            client_keys=[asyncssh.read_private_key(key_file)],
            known_hosts=trusted,
            server_host_key_algs=["ssh-ed25519"],
            encryption_algs=CIPHERS,
            # One packet of a compressed line may become a thousand times as long in memory.
            compression_algs=["none"],
            preferred_auth="publickey",
            agent_path=None,
            config=None,
            connect_timeout=CONNECT_SECONDS,
            login_timeout=CONNECT_SECONDS,
            keepalive_interval=KEEPALIVE_SECONDS,
            keepalive_count_max=KEEPALIVES_MISSED,
        )
    try:
        yield Connection(connection)
    finally:
        connection.abort()


class _translated:  # noqa: N801 - reads as a word of the statement that uses it
    """Translates the library's errors into ours, the most specific first."""

    def __enter__(self) -> None:
        return

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        match error:
            case asyncssh.HostKeyNotVerifiable():
                raise HostKeyMismatch(
                    "the machine shows another host key than the one that was pinned"
                ) from error
            case asyncssh.PermissionDenied():
                raise LoginRefused("the machine refuses the node's key") from error
            case asyncssh.Error() | OSError() | TimeoutError():
                raise MachineUnreachable(f"{type(error).__name__}: {error}") from error
            case _:
                return
