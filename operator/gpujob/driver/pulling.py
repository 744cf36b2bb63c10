"""Copies a folder from the machine."""

import asyncio
import hashlib
import logging
import os
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager, suppress
from dataclasses import dataclass
from errno import EILSEQ, EINVAL, EISDIR, ENAMETOOLONG, ENOTDIR
from functools import partial
from io import FileIO
from pathlib import Path

from gpujob.adapters.ssh import Connection
from gpujob.api.data import Copy
from gpujob.api.words import in_words
from gpujob.driver.files import (
    BUNDLE_BYTES,
    BUNDLE_FILES,
    BUNDLE_NAME_BYTES,
    CHUNK_BYTES,
    NAMED,
    Allowance,
    Changed,
    Unreadable,
    copied_unchanged,
    digested,
    fits_bundle,
    printed,
    remote_sum,
    remote_sums,
    spelled,
    words_for,
    work,
)
from gpujob.driver.listing import (
    MARK_FILE,
    SHOWN_LENGTH_MAX,
    CopyError,
    Entry,
    Kind,
    Listing,
    remote_listing,
    spelled_path,
)
from gpujob.driver.places import Place, finish, is_same, part_name
from gpujob.driver.state import SETTLE_BYTES, settle

LINK_LEFT_OUT = "this link is absolute or leads out of the folder"
WRITE_BYTES = 1 << 20
"""Bytes that are written at once: to hand fewer to a thread takes longer than to write them."""
SETTLED_SECONDS = 2
"""Times of files are in whole seconds: a file that has changed within this time may change again
without getting another time."""

_ODD = frozenset({EILSEQ, EINVAL, ENAMETOOLONG, ENOTDIR, EISDIR})
"""Errors that are the fault of one name, not of the claim."""

_READ = (
    NAMED
    + r"""
[ -f "./$f" ] && [ ! -h "./$f" ] || exit 4
[ -r "./$f" ] || exit 5
[ @FROM@ = 1 ] && exec cat < "./$f"
exec tail -c +@FROM@ "./$f"
"""
)
_BUNDLE = "cd -- @PATH@ && xargs -0 cat -- 2>/dev/null; exit 0"

_log = logging.getLogger(__name__)


@dataclass
class Copied:
    """What was not copied."""

    problems: list[str]
    """Because of the machine, the claim or an allowance: another try may go better."""
    skipped: list[str]
    """Because of the one file: it cannot be read, or its name cannot be written."""
    failed: set[bytes]
    """The names of both."""

    @property
    def all(self) -> tuple[str, ...]:
        """Both, in words."""
        return (*self.problems, *self.skipped)


async def pull(
    connection: Connection, copy: Copy, allowance: Allowance, *, needs_files: bool = False
) -> tuple[str, ...]:
    """Copies a folder from the machine; returns what could not be copied.

    With `needs_files`, a folder that is not there or holds no file is a problem. Raises
    MachineError if the connection breaks: what was copied so far is kept.
    """
    try:
        listing = await remote_listing(connection, copy.path)
    except CopyError as error:
        return (str(error),)
    if needs_files and all(one.kind is Kind.FOLDER for one in listing.entries.values()):
        path = in_words(copy.path, SHOWN_LENGTH_MAX)
        none = f"{path} on the machine holds no file; correct the path, or set optional"
        return (*listing.skipped, none)
    tell_special(listing.special)
    wanted = list(listing.entries.values())
    copied = await bring(connection, copy.path, listing, wanted, Path(copy.folder), allowance)
    return (*listing.skipped, *copied.all)


def tell_special(special: Sequence[str]) -> None:
    """Says in the log what is left out without a loss."""
    if words := words_for(special):
        _log.info("%s", words)


async def bring(
    connection: Connection,
    path: str,
    listing: Listing,
    wanted: Sequence[Entry],
    folder: Path,
    allowance: Allowance,
) -> Copied:
    """Copies these entries of a listing into a folder of the driver's; raises MachineError."""
    copied = Copied([], [], set())
    try:
        place = await asyncio.to_thread(Place, folder)
    except OSError as error:
        copied.problems.append(f"{folder.name} cannot be written: {error.strerror}")
        return copied
    pulling = _Pulling(connection, path, listing, place, allowance, copied)
    files = await asyncio.to_thread(pulling.prepare, wanted)
    await work(pulling.jobs(files))
    return copied


@dataclass
class _Pulling:
    """One folder that is copied from the machine."""

    connection: Connection
    path: str
    listing: Listing
    place: Place
    allowance: Allowance
    copied: Copied
    planned: int = 0
    """Bytes of the bundle that is being made up."""

    def prepare(self, wanted: Iterable[Entry]) -> list[tuple[Entry, bool]]:
        """Makes folders and links; returns the files that are to be copied.

        With each is said whether something of the same size and time is there already.
        """
        files = []
        for entry in wanted:
            with self._told(entry):
                same, is_sure = self.place.holds(entry)
                if same and is_sure:
                    continue
                if entry.kind is Kind.FILE:
                    files.append((entry, same))
                elif entry.kind is Kind.FOLDER:
                    self.place.make_folder(entry)
                elif entry.leads_out:
                    tell_special([f"{entry.shown}: {LINK_LEFT_OUT}"])
                else:
                    self.place.make_link(entry)
        return files

    def jobs(self, files: Iterable[tuple[Entry, bool]]) -> Iterator[Callable[[], Awaitable[None]]]:
        """Yields what is to be done, each part by itself."""
        bundles = bool(self.listing.mark) and b"xargs" in self.listing.has
        bundle: list[Entry] = []
        size = names = 0
        for entry, is_there in files:
            if is_there or not bundles or not fits_bundle(entry):
                yield partial(self._one, entry)
                continue
            if (
                size + entry.size > BUNDLE_BYTES
                or names + len(entry.name) > BUNDLE_NAME_BYTES
                or len(bundle) >= BUNDLE_FILES
            ):
                yield partial(self._many, bundle)
                bundle, size, names = [], 0, 0
            with self._told(entry):
                self.allowance.check(entry.size, beside=self.planned)
                self.planned += entry.size
                bundle.append(entry)
                size += entry.size
                names += len(entry.name)
        if bundle:
            yield partial(self._many, bundle)

    @contextmanager
    def _told(self, entry: Entry) -> Iterator[None]:
        """Notes the failure of one entry; the others go on."""
        try:
            yield
        except (CopyError, OSError) as error:
            words = error.strerror if isinstance(error, OSError) else str(error)
            odd = isinstance(error, Unreadable) or (
                isinstance(error, OSError) and error.errno in _ODD
            )
            if entry.kind is Kind.FOLDER:
                # What is in it tells the same, and is what matters.
                tell_special([f"{entry.shown}: {words}"])
                return
            told = self.copied.skipped if odd else self.copied.problems
            told.append(f"{entry.shown}: {words}")
            self.copied.failed.add(entry.name)

    async def _many(self, bundle: Sequence[Entry]) -> None:
        """Copies a bundle, and what of it went wrong one by one."""
        self.planned -= sum(entry.size for entry in bundle)
        try:
            rest = await self._bundle(bundle)
        except CopyError:
            rest = bundle
        for entry in rest:
            await self._one(entry)

    async def _bundle(self, bundle: Sequence[Entry]) -> Sequence[Entry]:
        """Copies the files of a bundle; returns those that changed, or cannot be written so."""
        mark = self.listing.mark
        names = b"".join(b"./%s\0%s\0" % (one.name, MARK_FILE.encode()) for one in bundle)
        most = sum(one.size + len(mark) for one in bundle) + CHUNK_BYTES
        held = bytearray()
        script = _BUNDLE.replace("@PATH@", spelled_path(self.path))
        # More than that is printed only if some of them have grown.
        async with aclosing(printed(self.connection, script, names, most)) as stream:
            async for data in stream:
                self.allowance.take(len(data))
                held += data
        sums = await remote_sums(self.connection, self.path, [one.name for one in bundle])
        return await asyncio.to_thread(self._placed, bundle, held, sums)

    def _placed(
        self, bundle: Sequence[Entry], held: bytearray, sums: Mapping[bytes, str]
    ) -> list[Entry]:
        """Writes the files of a bundle; returns those that it does not hold whole."""
        mark = self.listing.mark
        view = memoryview(held)
        written, rest = [], []
        at = 0
        for entry in bundle:
            end = at + entry.size
            if held[end : end + len(mark)] != mark:
                # It has another size by now. The next one begins after the mark.
                at = found + len(mark) if (found := held.find(mark, at)) >= 0 else len(held)
                rest.append(entry)
                continue
            data = view[at:end]
            at = end + len(mark)
            if hashlib.sha256(data).hexdigest() != sums.get(entry.name):
                rest.append(entry)
                continue
            try:
                with self.place.parent(entry.name, makes=True) as (folder, _):
                    part = part_name(entry)
                    with FileIO(_created(part, folder), "wb") as stream:
                        while data:
                            data = data[stream.write(data) :]
                        finish(stream.fileno(), entry, is_settled=self._is_settled(entry))
                written.append(entry)
            except (CopyError, OSError):
                # Alone, it fails again and says why.
                rest.append(entry)
        view.release()
        try:
            self.place.sync()
        except OSError:
            # Nobody knows which of them the claim has lost.
            return list(bundle)
        for entry in written:
            with self._told(entry), self.place.parent(entry.name) as (folder, last):
                os.replace(part_name(entry), last, src_dir_fd=folder, dst_dir_fd=folder)
        return rest

    def _is_settled(self, entry: Entry) -> bool:
        return self.listing.now - entry.change[0] >= SETTLED_SECONDS

    async def _one(self, entry: Entry) -> None:
        """Copies one file."""
        with self._told(entry):
            await copied_unchanged(lambda: self._alone(entry))

    async def _alone(self, entry: Entry) -> None:
        with self.place.parent(entry.name, makes=True) as (folder, last):
            if await self._is_there(folder, last, entry):
                return
            part = part_name(entry)
            try:
                flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
                with FileIO(os.open(part, flags, 0o600, dir_fd=folder), "r+b") as stream:
                    await self._continued(entry, stream)
                    finish(stream.fileno(), entry, is_settled=self._is_settled(entry))
                os.replace(part, last, src_dir_fd=folder, dst_dir_fd=folder)
            except (CopyError, Changed, OSError):
                # Only a copy that a broken connection has cut off is continued.
                with suppress(OSError):
                    os.unlink(part, dir_fd=folder)
                raise

    async def _continued(self, entry: Entry, stream: FileIO) -> None:
        """Adds to a half copied file what it lacks, and compares the whole."""
        digest = hashlib.sha256()
        with self.allowance.comparing():
            at = await asyncio.to_thread(digested, stream.fileno(), digest, entry.size)
        self.allowance.check(entry.size - at)
        stream.seek(at)
        stream.truncate()
        script = _READ.replace("@FROM@", str(at + 1))
        # Two readings at the same time that agree are of one and the same file.
        right = asyncio.create_task(remote_sum(self.connection, self.path, entry))
        try:
            at += await self._written(script, entry, entry.size - at, stream, digest)
            with self.allowance.comparing():
                await asyncio.to_thread(os.fsync, stream.fileno())
                if at != entry.size or digest.hexdigest() != await right:
                    raise Changed
        finally:
            right.cancel()
            await asyncio.gather(right, return_exceptions=True)

    async def _is_there(self, folder: int, last: bytes, entry: Entry) -> bool:
        """Whether a file that looks the same is the same."""
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        with suppress(OSError):
            descriptor = os.open(last, flags, dir_fd=folder)
            try:
                if not is_same(os.fstat(descriptor), entry):
                    return False
                digest = hashlib.sha256()
                with self.allowance.comparing():
                    await asyncio.to_thread(digested, descriptor, digest, entry.size)
                    theirs = await remote_sum(self.connection, self.path, entry)
                if digest.hexdigest() == theirs:
                    finish(descriptor, entry, is_settled=self._is_settled(entry))
                    return True
            finally:
                os.close(descriptor)
        return False

    async def _written(
        self, script: str, entry: Entry, count: int, file: FileIO, digest: "hashlib._Hash"
    ) -> int:
        """Writes what a script prints, at most `count` bytes; returns how many came."""
        came = waiting = unsettled = 0
        chunks: list[memoryview] = []
        writing: asyncio.Task[None] | None = None
        settling: asyncio.Task[None] | None = None
        script = script.replace("@PATH@", spelled_path(self.path))
        text = spelled(entry.name)
        try:
            async with aclosing(printed(self.connection, script, text, count)) as stream:
                async for data in stream:
                    chunks.append(memoryview(data)[: count - came])
                    self.allowance.take(len(chunks[-1]))
                    came += len(chunks[-1])
                    waiting += len(chunks[-1])
                    if waiting < WRITE_BYTES and came < count:
                        continue
                    if writing is not None:
                        await writing
                    # The next bytes are received and decrypted while these are written, and while
                    # those before them reach their disk.
                    writing = asyncio.create_task(asyncio.to_thread(_write, file, chunks, digest))
                    unsettled += waiting
                    chunks, waiting = [], 0
                    if unsettled >= SETTLE_BYTES:
                        if settling is not None:
                            await settling
                        settling = asyncio.create_task(asyncio.to_thread(settle, file.fileno()))
                        unsettled = 0
        finally:
            tasks = [task for task in (writing, settling) if task is not None]
            done = await asyncio.gather(*tasks, return_exceptions=True)
        for failed in done:
            if isinstance(failed, BaseException):
                raise failed
        await asyncio.to_thread(_write, file, chunks, digest)
        return came


def _write(file: FileIO, chunks: Sequence[memoryview], digest: "hashlib._Hash") -> None:
    # A thread outlives its task: it may find the file closed, but never another one in its place.
    for chunk in chunks:
        digest.update(chunk)
        view = chunk
        while view:
            view = view[file.write(view) :]


def _created(part: bytes, folder: int) -> int:
    """Creates an empty file, in place of one that was left over."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(part, flags, 0o600, dir_fd=folder)
