"""SSH to a rented machine, with one pinned host key and one key of ours.

Neither an agent nor a configuration file of the user has any influence.

An SSH server hands each script to root's login shell, which reads its start-up files first (bash
manual, Bash Startup Files, "remote shell daemon"). They belong to the user's image, and may print,
read, set traps or options, or end the session. So the script runs in a shell of its own, which
replaces the login shell; it prints a nonce before it begins, and another after its output; and its
input is sent only once it has begun. What stands outside of the nonces is dropped.
"""

import asyncio
import re
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import asyncssh

from gpujob.adapters.errors import (
    HostKeyMismatch,
    LoginRefused,
    MachineError,
    MachineUnreachable,
    ScriptFailed,
    SessionBroken,
    SessionHangs,
)
from gpujob.api.words import in_words

CONNECT_SECONDS = 15
KEEPALIVE_SECONDS = 5
KEEPALIVES_MISSED = 3
READ_BYTES = 4 << 20
"""How much is read from a stream at once: all that has arrived, which is at most its window. With
smaller reads the other side sends more than was read, and the buffer grows, because asyncssh 2.24
opens the whole window again for each part that is read."""
WRITE_BYTES = 64 << 10
"""How much is written to a stream at once: asyncssh 2.24 moves what remains of it for each packet,
so that a longer piece takes longer (hack/bench files)."""
CIPHERS = "^aes256-gcm@openssh.com,aes128-gcm@openssh.com"
"""Preferred to all others that the library knows, because processors have instructions for them: a
stream costs a quarter less CPU than with the library's first choice (hack/bench driver)."""
OUTPUT_BYTES_MAX = 256 << 10
"""The longest output of a script; ours print a few thousand bytes. What we make of an output takes
far more memory than the output itself."""
ERROR_BYTES_KEPT = 200
LINES_MAX = 10
"""OpenSSH's server lets as many log in at a time (sshd_config(5), MaxStartups)."""
PORT_WINDOW_BYTES = 1 << 20
"""How much may be on its way to a slow reader, for each connection to a port."""
SCRIPT_SECONDS = 15.0
"""Our scripts take moments. One that takes longer hangs, and may not hang on a new connection."""
NOISE_BYTES_MAX = 64 << 10
"""How much may be printed before a script begins."""
_INTERPRETED = re.compile(rb"[^A-Za-z0-9 _./:=,@-]")


class Output:
    """What a script prints, from its beginning on."""

    def __init__(self, stream: "asyncssh.SSHReader[bytes]") -> None:
        self._stream = stream
        self._held = b""
        self.is_over = False
        """Nothing more comes."""

    async def skip_to(self, mark: bytes) -> None:
        """Drops all up to and including `mark`; raises SessionBroken if it does not come."""
        while mark not in self._held:
            if len(self._held) > NOISE_BYTES_MAX:
                raise SessionBroken(
                    f"the start-up files of root's shell print more than {NOISE_BYTES_MAX} bytes"
                )
            data = await self._stream.read(READ_BYTES)
            if not data:
                self.is_over = True
                words = in_words(self._held.decode("utf-8", "replace"), ERROR_BYTES_KEPT)
                said = f", after they printed: {words}" if words else ""
                raise SessionBroken(f"the start-up files of root's shell end the session{said}")
            self._held += data
        self._held = self._held.partition(mark)[2]

    async def read(self, count: int) -> bytes:
        """Returns what has arrived, at most `count` bytes; empty at the end."""
        if not self._held:
            return await self._stream.read(count)
        data, self._held = self._held[:count], self._held[count:]
        return data


class Process:
    """A script that has begun on the machine."""

    def __init__(self, process: "asyncssh.SSHClientProcess[bytes]", stdout: Output) -> None:
        self.stdout = stdout
        self.stderr = process.stderr
        self._process = process

    @property
    def exit_status(self) -> int | None:
        """Its exit status; None if it had none."""
        return self._process.exit_status

    async def wait_closed(self) -> None:
        """Waits until it has ended."""
        await self._process.wait_closed()


class Connection:
    """An open connection to one machine."""

    def __init__(
        self,
        connection: asyncssh.SSHClientConnection,
        another: Callable[[], Awaitable[asyncssh.SSHClientConnection]],
    ) -> None:
        """Wraps a connection of the library; `another` makes one more, to the same address."""
        self._connection = connection
        self._another = another
        self._lines = [connection]

    async def run(
        self, script: str, text: bytes = b"", *, timeout_seconds: float = SCRIPT_SECONDS
    ) -> bytes:
        """Runs a script with `text` as its input and returns its output.

        Raises MachineUnreachable if the connection breaks or the script hangs, SessionBroken if it
        does not begin, ScriptFailed if its status is not 0, and MachineError if its output is
        longer than `OUTPUT_BYTES_MAX`.
        """
        end = secrets.token_hex(16)
        framed = f"(\n{script}\n)\ncode=$?; echo {end}; exit $code"
        async with (
            self.open(
                framed, text, timeout_seconds=timeout_seconds, stderr=asyncssh.PIPE
            ) as process,
            asyncio.timeout(timeout_seconds),
        ):
            # Both are read, because a full buffer of one would hold up the other.
            longest = OUTPUT_BYTES_MAX + len(end) + 1
            output, said = await asyncio.gather(
                _all_of(process.stdout, longest), _end_of(process.stderr)
            )
            await process.wait_closed()
        if process.exit_status != 0:
            raise _failed(process.exit_status, in_words(said.decode("utf-8", "replace")))
        output, mark, _ = output.rpartition(f"{end}\n".encode())
        if not mark:
            raise MachineUnreachable("a script's output on the machine was cut off")
        return output

    async def send(self, script: str, chunks: AsyncIterator[bytes]) -> bytes:
        """Runs a script that reads these chunks from its input, and returns its output.

        Raises MachineUnreachable if the connection breaks, SessionBroken if the script does not
        begin, ScriptFailed if its status is not 0, and MachineError if its output is longer than
        `OUTPUT_BYTES_MAX`.
        """
        async with self._begun(script, SCRIPT_SECONDS, asyncssh.DEVNULL) as (process, output):
            async for data in chunks:
                for at in range(0, len(data), WRITE_BYTES):
                    process.stdin.write(data[at : at + WRITE_BYTES])
                    await process.stdin.drain()
            process.stdin.write_eof()
            said = await _all_of(output, OUTPUT_BYTES_MAX)
            await process.wait_closed()
        if process.exit_status != 0:
            raise _failed(process.exit_status, "while it read its input")
        return said

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
    ) -> AsyncIterator[Process]:
        """Starts a script whose output is read as it arrives; it ends with the context.

        Raises MachineUnreachable if it does not start in time, or the connection breaks, and
        SessionBroken if root's shell does not come to it.
        """
        async with self._begun(script, timeout_seconds, stderr) as (process, output):
            # A script that has already ended takes no input.
            if text:
                process.stdin.write(text)
            process.stdin.write_eof()
            yield Process(process, output)

    @asynccontextmanager
    async def _begun(
        self, script: str, timeout_seconds: float, stderr: int
    ) -> AsyncIterator["tuple[asyncssh.SSHClientProcess[bytes], Output]"]:
        """Starts a script, and waits until it has begun."""
        begin = secrets.token_hex(16)
        framed = _spelled(f"{_APART}\necho {begin}\n{script}")
        command = f"""exec sh -c 'eval "$(printf "{framed}")"'"""
        with _translated():
            async with asyncio.timeout(timeout_seconds):
                process = await self._session(command, stderr)
        try:
            with _translated():
                output = Output(process.stdout)
                try:
                    await self._await_begin(output, begin, min(timeout_seconds, SCRIPT_SECONDS))
                except SessionBroken:
                    # One that goes on printing never closes by itself.
                    if output.is_over:
                        async with asyncio.timeout(timeout_seconds):
                            await process.wait_closed()
                        if process.exit_status is None:
                            raise MachineUnreachable("the machine closed a session") from None
                    raise
                yield process, output
        finally:
            process.close()

    async def _session(self, command: str, stderr: int) -> "asyncssh.SSHClientProcess[bytes]":
        """Opens a session; raises ChannelOpenError.

        An image's server may allow fewer for one connection than the ten of OpenSSH's default
        (sshd_config(5), MaxSessions), and fewer than are needed at a time.
        """
        for line in self._lines:
            with suppress(asyncssh.ChannelOpenError):
                return await line.create_process(command, encoding=None, stderr=stderr)
        if len(self._lines) < LINES_MAX and not self._connection.is_closed():
            self._lines.append(await self._another())
        return await self._lines[-1].create_process(command, encoding=None, stderr=stderr)

    def abort(self) -> None:
        """Closes it, with all that runs over it."""
        for line in self._lines:
            line.abort()

    async def _await_begin(self, output: Output, begin: str, timeout_seconds: float) -> None:
        """Waits until a script begins; raises SessionHangs if only its session is mute."""
        try:
            async with asyncio.timeout(timeout_seconds):
                await output.skip_to(f"{begin}\n".encode())
        except TimeoutError:
            if not await self._answers():
                raise
            raise SessionHangs(
                f"the start-up files of root's shell did not end within {timeout_seconds:.0f} s"
            ) from None

    async def _answers(self) -> bool:
        """Whether the server itself still answers, by asking for what no shell has a part in."""
        try:
            async with asyncio.timeout(KEEPALIVE_SECONDS):
                _, writer = await self._connection.open_connection("localhost", 1, encoding=None)
        except asyncssh.ChannelOpenError:
            return True
        except (asyncssh.Error, OSError, TimeoutError):
            return False
        writer.channel.abort()
        return True


_APART = "[ /proc/self/fd/1 -ef /proc/self/fd/2 ] && exec 2> /dev/null"
"""Start-up files may join both outputs; what a script complains of is not what it prints."""


def _spelled(script: str) -> str:
    """Returns a script so that `printf` makes it of it again, whoever's quotes it stands in.

    Root's login shell may be any: within quotes, fish reads two backslashes as one, and tcsh takes
    no newline.
    """
    return _INTERPRETED.sub(lambda found: b"\\%03o" % found[0][0], script.encode()).decode()


async def _all_of(stream: Output, longest: int) -> bytes:
    output = bytearray()
    while data := await stream.read(READ_BYTES):
        output += data
        if len(output) > longest:
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

    async def line() -> asyncssh.SSHClientConnection:
        return await asyncssh.connect(
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

    with _translated():
        connection = Connection(await line(), line)
    try:
        yield connection
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
