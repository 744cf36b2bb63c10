"""Copies folders between the driver's claims and a machine, file by file.

A file is written beside its place, compared with the other side's by its SHA-256, and only then
moved into place. A copy that a broken connection cut off is continued. What a machine says about
its files is not trusted: no name leads out of the folder.

Why own shell scripts, and neither SFTP nor rsync: the machine runs the user's image, and no image
is bound to hold `sftp-server` or `rsync`; these scripts need `sh`, `find`, `stat` and `sha256sum`
only. Resuming by offset, the comparison by SHA-256, and the caps on traffic would have to be
written on top of either anyway. The names of files are a script's input, never a part of it.
"""

import asyncio
import hashlib
import os
import re
import shlex
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from gpujob.adapters.errors import MachineError, ScriptFailed
from gpujob.adapters.ssh import READ_BYTES, Connection
from gpujob.api.data import Copy, DataPlan
from gpujob.api.words import in_words
from gpujob.driver.state import SETTLE_BYTES, settle

AT_ONCE = 4
"""Files that are copied at the same time. OpenSSH allows ten channels for each connection."""
CHUNK_BYTES = 1 << 18
HASH_SECONDS = 900.0
LIST_SECONDS = 120.0
FILES_MAX = 100_000
"""Of one folder. Its list is held in memory, and each file costs three commands on the machine."""
LIST_BYTES_MAX = 16 << 20
"""Of a machine's list of its files: 160 for each of `FILES_MAX`, with the name."""
SHOWN_LENGTH_MAX = 200
TRIES = 3
"""How often a file is copied that changes while it is copied."""
SETTLED_SECONDS = 2
"""Times of files are in whole seconds: a file that has changed within this time may change again
without getting another time, so its copy is not taken for complete."""
PROBLEMS_TOLD = 3
CHANGED_STATUS = 4
"""Exit status of a script that finds another file on the machine than expected."""

_NOW = re.compile(rb"now (\d{1,15})")
_LINE = re.compile(rb"(\d{1,15}) (\d{1,15}) ([0-7]{3,4}) \./([^\n\0]{1,4096})")
_PART = ".gpujob-part"

_LIST = r"""
date +'now %s'
cd -- @PATH@ 2>/dev/null || exit 0
find . -type f -exec stat -c '%s %Y %a %n' {} + 2>/dev/null
exit 0
"""
_READ = 'cd -- @PATH@ && IFS= read -r f && tail -c +@FROM@ "./$f" | head -c @COUNT@'
_HASH = 'cd -- @PATH@ && IFS= read -r f && sha256sum < "./$f"; exit 0'
_WRITE = r"""
mkdir -p -- @PATH@ && cd -- @PATH@ && IFS= read -r f || exit 1
case $f in */*) mkdir -p "./${f%/*}" || exit 1;; esac
[ @FROM@ = 0 ] && : > "./$f.gpujob-part"
[ "$(wc -c < "./$f.gpujob-part")" -eq @FROM@ ] || exit 4
exec cat >> "./$f.gpujob-part"
"""
_FINISH = r"""
cd -- @PATH@ && IFS= read -r f || exit 1
sum=$(sha256sum < "./$f.gpujob-part") || exit 1
[ "${sum%% *}" = @SUM@ ] || { rm -f "./$f.gpujob-part"; exit 4; }
chmod @MODE@ "./$f.gpujob-part" && mv -f "./$f.gpujob-part" "./$f"
"""


class CopyError(Exception):
    """A file that cannot be copied, however often it is tried; says which and why."""


class _Changed(Exception):
    """A file changed while it was copied."""


@dataclass(frozen=True, slots=True)
class File:
    """A regular file below a folder."""

    name: bytes
    """Relative to the folder, parts joined by `/`."""
    size: int
    mtime: int
    mode: int

    @property
    def shown(self) -> str:
        """The name, for people."""
        return in_words(self.name.decode("utf-8", "replace"), SHOWN_LENGTH_MAX)


@dataclass
class Allowance:
    """How many bytes may still be copied in one direction."""

    left: int
    field: str
    """The field of the job that sets it."""

    def check(self, count: int) -> None:
        """Raises CopyError if fewer bytes are left."""
        if count > self.left:
            raise CopyError(f"{self.field} does not allow {count} more bytes")

    def take(self, count: int) -> None:
        """Uses up some of it; raises CopyError if fewer bytes are left."""
        self.check(count)
        self.left -= count


def data_problem(plan: DataPlan) -> str:
    """Returns why the claims cannot be used for this job; empty = they can."""
    for folder in _written(plan):
        try:
            probe = folder / f".gpujob-probe-{os.getpid()}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            return f"{folder.name} cannot be written: {error.strerror}"
    total = 0
    try:
        for copy in _read(plan):
            folder = Path(copy.folder)
            for count, file in enumerate(local_files(folder), 1):
                if count > FILES_MAX:
                    return f"{folder.name} holds more than {FILES_MAX} files"
                total += file.size
    except OSError as error:
        return f"an input cannot be read: {error.strerror}"
    if total > plan.download_bytes_max:
        gb = plan.download_bytes_max // 10**9
        return f"inputs and checkpoint have {total} bytes, but data.maxDownloadGB allows {gb} GB"
    return ""


def _written(plan: DataPlan) -> Iterator[Path]:
    yield from (Path(copy.folder) for copy in plan.outputs)
    if plan.checkpoint is not None:
        yield Path(plan.checkpoint.folder)
    if plan.log_folder is not None:
        yield Path(plan.log_folder)


def _read(plan: DataPlan) -> Iterator[Copy]:
    yield from plan.inputs
    if plan.checkpoint is not None:
        yield plan.checkpoint


def local_files(folder: Path) -> Iterator[File]:
    """Yields the regular files below a folder of the driver's own; raises OSError."""
    for place, folders, names in os.walk(os.fsencode(folder), onerror=_raised):
        folders.sort()
        for name in sorted(names):
            path = os.path.join(place, name)  # noqa: PTH118 - of bytes
            found = os.lstat(path)
            if os.path.islink(path) or name.endswith(_PART.encode()):  # noqa: PTH114
                continue
            relative = os.path.relpath(path, os.fsencode(folder))
            yield File(relative, found.st_size, int(found.st_mtime), found.st_mode & 0o777)


def _raised(error: OSError) -> None:
    raise error


async def remote_files(connection: Connection, path: str) -> tuple[int, dict[bytes, File]]:
    """Returns the machine's clock and the files below one of its folders.

    Raises CopyError for a list that no retry could mend, and MachineError.
    """
    script = _LIST.replace("@PATH@", shlex.quote(path))
    now: int | None = None
    found: dict[bytes, File] = {}
    length, count, rest = 0, 0, b""
    async with connection.open(script) as process, asyncio.timeout(LIST_SECONDS):
        while data := await process.stdout.read(READ_BYTES):
            length += len(data)
            if length > LIST_BYTES_MAX:
                words = f"the list of the files in {path} is longer than {LIST_BYTES_MAX} bytes"
                raise CopyError(words)
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                if now is None:
                    now = _clock(line)
                    continue
                count += 1
                if count > FILES_MAX:
                    raise CopyError(f"{path} holds more than {FILES_MAX} files")
                file = _listed(line, path)
                found[file.name] = file
        await process.wait_closed()
    if process.exit_status != 0 or rest or now is None:
        raise MachineError("the machine's list of files broke off")
    return now, found


def _clock(line: bytes) -> int:
    match = _NOW.fullmatch(line)
    if match is None:
        raise MachineError("the machine's list of files is not understood")
    return int(match[1])


def _listed(line: bytes, path: str) -> File:
    match = _LINE.fullmatch(line)
    if match is None or b".." in match[4].split(b"/"):
        raise CopyError(f"{path} holds a file with a name that cannot be copied")
    return File(match[4], int(match[1]), int(match[2]), int(match[3], 8) & 0o777)


async def pull(
    connection: Connection,
    copy: Copy,
    allowance: Allowance,
    *,
    mirrors: bool,
    needs_files: bool = False,
) -> tuple[str, ...]:
    """Copies a folder from the machine; returns what could not be copied.

    With `mirrors`, files that are gone from the machine are removed here too, unless none is left
    there. With `needs_files`, a folder that is not there or holds no file is a problem. Raises
    MachineError if the connection breaks: what was copied so far is kept.
    """
    folder = Path(copy.folder)
    try:
        now, wanted = await remote_files(connection, copy.path)
    except CopyError as error:
        return (str(error),)
    wanted = {name: file for name, file in wanted.items() if not name.endswith(_PART.encode())}
    if needs_files and not wanted:
        return (f"{in_words(copy.path, SHOWN_LENGTH_MAX)} on the machine holds no file",)

    async def one(file: File) -> None:
        await _pulled(connection, copy, file, now, allowance)

    problems = await _each(wanted.values(), one)
    if mirrors and wanted and not problems:
        try:
            await asyncio.to_thread(_mirror, folder, set(wanted))
        except OSError as error:
            return (f"files that are gone from the machine cannot be removed: {error.strerror}",)
    return problems


def _mirror(folder: Path, wanted: set[bytes]) -> None:
    for name in {file.name for file in local_files(folder)} - wanted:
        (folder / os.fsdecode(name)).unlink(missing_ok=True)
    # Parts of versions that are gone from the machine as well.
    for part in folder.rglob(f".*{_PART}"):
        part.unlink(missing_ok=True)


async def push(
    connection: Connection, copy: Copy, allowance: Allowance, *, only_missing: bool = False
) -> tuple[str, ...]:
    """Copies a folder to the machine; returns what could not be copied.

    With `only_missing`, files that the machine has already stay as they are. Raises MachineError.
    """
    try:
        _, there = await remote_files(connection, copy.path)
    except CopyError as error:
        return (str(error),)
    mine = list(local_files(Path(copy.folder)))
    wanted = [file for file in mine if not (only_missing and file.name in there)]

    async def one(file: File) -> None:
        await _pushed(connection, copy, file, there, allowance)

    return await _each(wanted, one)


async def _each(
    files: Iterable[File], copied: Callable[[File], Awaitable[None]]
) -> tuple[str, ...]:
    """Copies files, a few at a time; returns what could not be copied."""
    # Shared by a few tasks: a task for each file would take more memory than the file's name.
    waiting = iter(files)
    problems: list[str] = []
    broken: BaseException | None = None

    async def one(file: File) -> None:
        for _ in range(TRIES):
            try:
                return await copied(file)
            except _Changed:
                continue
            except CopyError as error:
                return problems.append(f"{file.shown}: {error}")
            except OSError as error:
                return problems.append(f"{file.shown}: {error.strerror}")
        problems.append(f"{file.shown}: it changed while it was copied")
        return None

    async def some() -> None:
        for file in waiting:
            await one(file)
            # A file that is there already awaits nothing; other tasks must get their turn anyway.
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
    return tuple(problems)


def words_for(problems: Sequence[str]) -> str:
    """Returns in words what could not be copied; empty if everything was."""
    if not problems:
        return ""
    more = len(problems) - PROBLEMS_TOLD
    rest = f"; and {more} more" if more > 0 else ""
    return "not copied: " + "; ".join(problems[:PROBLEMS_TOLD]) + rest


# --- One file -------------------------------------------------------------------------------


async def _pulled(
    connection: Connection, copy: Copy, file: File, now: int, allowance: Allowance
) -> None:
    target = _inside(Path(copy.folder), file.name)
    if target.is_file() and not target.is_symlink():
        here = target.stat()
        if (here.st_size, int(here.st_mtime)) == (file.size, file.mtime):
            return
    version = hashlib.sha256(b"%s %d %d" % (file.name, file.size, file.mtime)).hexdigest()[:32]
    part = target.parent / f".{version}{_PART}"
    allowance.check(file.size - (part.stat().st_size if part.is_file() else 0))
    target.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "r+b") as stream:
        at = await asyncio.to_thread(_digested, stream.fileno(), digest, file.size)
        stream.seek(at)
        stream.truncate()
        script = _READ.replace("@FROM@", str(at + 1)).replace("@COUNT@", str(file.size - at))
        unsettled = 0
        async for data in _read_from(connection, script, copy.path, file.name):
            allowance.take(len(data))
            digest.update(data)
            await asyncio.to_thread(stream.write, data)
            at += len(data)
            unsettled += len(data)
            if unsettled >= SETTLE_BYTES:
                stream.flush()
                await asyncio.to_thread(settle, stream.fileno())
                unsettled = 0
        stream.flush()
        await asyncio.to_thread(os.fsync, stream.fileno())
    if at != file.size or digest.hexdigest() != await _remote_sum(connection, copy.path, file):
        part.unlink()
        raise _Changed
    part.chmod(file.mode | 0o600)
    settled = file.mtime if now - file.mtime >= SETTLED_SECONDS else 0
    os.utime(part, (settled, settled))
    part.replace(target)


async def _pushed(
    connection: Connection,
    copy: Copy,
    file: File,
    there: dict[bytes, File],
    allowance: Allowance,
) -> None:
    path = Path(copy.folder) / os.fsdecode(file.name)
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        same = there.get(file.name)
        if same is not None and same.size == file.size:
            await asyncio.to_thread(_digested, stream.fileno(), digest, file.size)
            if digest.hexdigest() == await _remote_sum(connection, copy.path, file):
                return
            digest = hashlib.sha256()
        begun = there.pop(file.name + _PART.encode(), None)
        at = begun.size if begun is not None and begun.size <= file.size else 0
        await asyncio.to_thread(_digested, stream.fileno(), digest, at)
        allowance.check(file.size - at)
        stream.seek(at)

        async def chunks() -> AsyncIterator[bytes]:
            yield file.name + b"\n"
            while data := await asyncio.to_thread(stream.read, CHUNK_BYTES):
                allowance.take(len(data))
                digest.update(data)
                yield data

        script = _WRITE.replace("@FROM@", str(at)).replace("@PATH@", shlex.quote(copy.path))
        with _refusals():
            await connection.send(script, chunks())
    script = _FINISH.replace("@SUM@", digest.hexdigest()).replace("@MODE@", f"{file.mode:o}")
    script = script.replace("@PATH@", shlex.quote(copy.path))
    with _refusals():
        await connection.run(script, file.name + b"\n", timeout_seconds=HASH_SECONDS)


@contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except ScriptFailed as error:
        if error.status == CHANGED_STATUS:
            raise _Changed from error
        raise CopyError("the machine does not take it: its disk may be full") from error


def _digested(descriptor: int, digest: "hashlib._Hash", most: int) -> int:
    """Feeds the first bytes of a file, at most `most`, into a digest; returns how many."""
    at = 0
    while at < most and (data := os.pread(descriptor, min(CHUNK_BYTES, most - at), at)):
        digest.update(data)
        at += len(data)
    return at


def _inside(folder: Path, name: bytes) -> Path:
    """Returns the path of a file below a folder; raises CopyError if a link leads out of it."""
    target = folder / os.fsdecode(name)
    if not target.parent.resolve().is_relative_to(folder.resolve()):
        raise CopyError("a link leads out of the folder")
    return target


async def _read_from(
    connection: Connection, script: str, path: str, name: bytes
) -> AsyncIterator[bytes]:
    script = script.replace("@PATH@", shlex.quote(path))
    async with connection.open(script, name + b"\n") as process:
        while data := await process.stdout.read(READ_BYTES):
            yield data
        await process.wait_closed()


async def _remote_sum(connection: Connection, path: str, file: File) -> str:
    script = _HASH.replace("@PATH@", shlex.quote(path))
    said = await connection.run(script, file.name + b"\n", timeout_seconds=HASH_SECONDS)
    return said.split()[0].decode("ascii", "replace") if said.split() else ""
