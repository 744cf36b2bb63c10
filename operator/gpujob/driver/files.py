"""Copies folders between the driver's claims and a machine.

Small files come in bundles, one stream for many, and large ones each by itself; the copy of a large
one continues where a broken connection cut it off. A file is written beside its place, compared
with the other side's by its SHA-256, and only then moved into place. What a machine says about its
files is not trusted: no name leads out of the folder, and neither bytes nor files are without end.

Why own shell scripts, and neither SFTP nor rsync: the machine runs the user's image, and no image
is bound to hold `sftp-server` or `rsync`; these scripts need `sh`, `find`, `stat` and `sha256sum`
only, and are faster with `xargs` and `tar`. The names of files are a script's input, never a part
of it.
"""

import asyncio
import hashlib
import os
import re
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager

from gpujob.adapters.errors import MachineError
from gpujob.adapters.ssh import READ_BYTES, Connection
from gpujob.driver.listing import CopyError, Entry, spelled_path
from gpujob.driver.state import Counter

AT_ONCE = 3
"""Bundles and files that are copied at the same time. OpenSSH allows ten channels for each
connection (MaxSessions), of which a running workload takes three."""
CHUNK_BYTES = 1 << 18
BUNDLE_BYTES = 4 << 20
"""Of the files of one bundle, which is held in memory; a larger file is copied by itself."""
BUNDLE_FILES = 1000
BUNDLE_NAME_BYTES = 128 << 10
"""Of the names in one bundle: with their sums, they fit into a script's output."""
HASH_SECONDS = 900.0
"""For many files at once, none of them large."""
SLOWEST_HASH = 20_000_000
"""Bytes per second of the slowest disk that a large file may lie on."""
STALL_SECONDS = 120.0
"""A machine that is asked for a file and says nothing for this long hangs."""
TRIES = 3
"""How often a file is copied that changes while it is copied."""
PROBLEMS_TOLD = 3
CHANGED_STATUS = 4
"""Exit status of a script that finds another file on the machine than expected."""
UNREADABLE_STATUS = 5

PLAIN = re.compile(rb"[^\\\n\r]+")
"""Names that each sha256sum prints, and reads, as they are."""
_ESCAPED = re.compile(rb"[^A-Za-z0-9_./]")
_SUM = re.compile(rb"^([0-9a-f]{64})  \./([^\n]+)$", re.MULTILINE)

# A name comes as the format of a `printf`, which prints any byte; the full stop keeps newlines at
# its end, which the shell would cut off.
NAMED = r"""cd -- @PATH@ && IFS= read -r f && f=$(printf "$f.") && f=${f%.} || exit 1"""
_HASH = NAMED + '\nsha256sum < "./$f"; exit 0'
_HASHES = "cd -- @PATH@ && xargs -0 sha256sum -- 2>/dev/null; exit 0"


class Changed(Exception):
    """A file changed while it was copied."""


async def copied_unchanged(copy: Callable[[], Awaitable[None]]) -> None:
    """Copies a file, again if it changes meanwhile; raises CopyError if it always does."""
    for _ in range(TRIES):
        try:
            return await copy()
        except Changed:
            continue
    raise CopyError("it changed while it was copied")


class Unreadable(CopyError):
    """The one file is at fault, and neither the machine nor the claim."""


class Allowance:
    """How many bytes may be copied in one direction."""

    def __init__(self, most: int, field: str, used: Counter | None = None) -> None:
        """Allows `most` bytes, less what is counted as used.

        `field` is the field of the job that sets it.
        """
        self._most = most
        self._field = field
        self._counter = used
        self._used = used.value if used is not None else 0
        self._flowed_at = float("-inf")
        self._compared = 0
        """Files that are being compared now."""

    @property
    def flowed_at(self) -> float:
        """Monotonic time at which bytes were last copied, or files compared."""
        return time.monotonic() if self._compared else self._flowed_at

    @contextmanager
    def comparing(self) -> Iterator[None]:
        """Counts the time as if bytes were copied: to read a large file takes minutes."""
        self._compared += 1
        try:
            yield
        finally:
            self._compared -= 1
            self._flowed_at = time.monotonic()

    @property
    def left(self) -> int:
        """How many bytes may still be copied."""
        return self._most - self._used

    def check(self, count: int, *, beside: int = 0) -> None:
        """Raises CopyError if fewer bytes are left, beside those that are under way."""
        if count > self.left - beside:
            raise CopyError(f"{self._field} does not allow {count} more bytes")

    def take(self, count: int) -> None:
        """Uses up some of it; raises CopyError if fewer bytes are left."""
        self.check(count)
        self._used += count
        if self._counter is not None:
            self._counter.value = self._used
        self._flowed_at = time.monotonic()


def fits_bundle(entry: Entry) -> bool:
    """Whether a file may be copied in one stream with others."""
    return entry.size <= BUNDLE_BYTES and PLAIN.fullmatch(entry.name) is not None


async def work(jobs: Iterator[Callable[[], Awaitable[None]]]) -> None:
    """Does a few at a time; raises MachineError if the connection breaks."""
    # Shared by a few tasks: a task for each file would take more memory than the file's name.
    broken: BaseException | None = None

    async def some() -> None:
        for job in jobs:
            await job()
            # One that is done already awaits nothing; other tasks must get their turn anyway.
            await asyncio.sleep(0)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(AT_ONCE):
                group.create_task(some())
    except* MachineError as errors:
        broken = errors.exceptions[0]
    # Raised inside the group, it would come out as an ExceptionGroup.
    if broken is not None:
        raise broken


def words_for(problems: Sequence[str]) -> str:
    """Returns in words what could not be copied; empty if everything was."""
    if not problems:
        return ""
    more = len(problems) - PROBLEMS_TOLD
    rest = f"; and {more} more" if more > 0 else ""
    return "not copied: " + "; ".join(problems[:PROBLEMS_TOLD]) + rest


def spelled(name: bytes) -> bytes:
    """Returns a name as a line that `printf` makes a name of again."""
    return _ESCAPED.sub(lambda found: b"\\%03o" % found[0][0], name) + b"\n"


def digested(descriptor: int, digest: "hashlib._Hash", most: int) -> int:
    """Feeds the first bytes of a file, at most `most`, into a digest; returns how many."""
    at = 0
    while at < most and (data := os.pread(descriptor, min(CHUNK_BYTES, most - at), at)):
        digest.update(data)
        at += len(data)
    return at


async def printed(
    connection: Connection, script: str, text: bytes, most: int
) -> AsyncGenerator[bytes, None]:
    """Yields what a script prints, `most` bytes or a little more; raises what its status says."""
    came = 0
    async with connection.open(script, text) as process:
        while came < most or most == 0:
            async with asyncio.timeout(STALL_SECONDS):
                data = await process.stdout.read(READ_BYTES)
            if not data:
                break
            came += len(data)
            yield data
        if came < most or not came:
            await process.wait_closed()
            if process.exit_status == UNREADABLE_STATUS:
                raise Unreadable("the machine does not let it be read")
            if process.exit_status == CHANGED_STATUS:
                raise Changed
            if process.exit_status != 0:
                raise MachineError("the machine broke off a file")


async def remote_sums(
    connection: Connection, path: str, names: Sequence[bytes]
) -> dict[bytes, str]:
    """Returns the SHA-256 of files on the machine that can be read; raises MachineError."""
    if not names:
        return {}
    script = _HASHES.replace("@PATH@", spelled_path(path))
    text = b"".join(b"./%s\0" % name for name in names)
    said = await connection.run(script, text, timeout_seconds=HASH_SECONDS)
    return {match[2]: match[1].decode() for match in _SUM.finditer(said)}


async def remote_sum(connection: Connection, path: str, entry: Entry) -> str:
    """Returns the SHA-256 of one file on the machine; raises MachineError."""
    script = _HASH.replace("@PATH@", spelled_path(path))
    seconds = HASH_SECONDS + entry.size / SLOWEST_HASH
    said = await connection.run(script, spelled(entry.name), timeout_seconds=seconds)
    return said[:64].decode("ascii", "replace")
