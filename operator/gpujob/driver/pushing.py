"""Copies a folder to the machine."""

import asyncio
import hashlib
import os
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Sequence,
)
from contextlib import aclosing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tarfile import BLOCKSIZE, DIRTYPE, GNU_FORMAT, SYMTYPE, TarInfo

from gpujob.adapters.errors import ScriptFailed
from gpujob.adapters.ssh import Connection
from gpujob.api.data import Copy
from gpujob.driver.files import (
    BUNDLE_BYTES,
    BUNDLE_FILES,
    CHANGED_STATUS,
    HASH_SECONDS,
    NAMED,
    PLAIN,
    Allowance,
    Changed,
    copied_unchanged,
    digested,
    fits_bundle,
    remote_sum,
    remote_sums,
    spelled,
    work,
)
from gpujob.driver.listing import (
    CopyError,
    Entry,
    Kind,
    Listing,
    local_entries,
    remote_listing,
    shown,
    spelled_path,
)
from gpujob.driver.places import part_name
from gpujob.driver.pulling import LINK_LEFT_OUT, tell_special

READ_BYTES = 1 << 20
"""Bytes that are read at once: to ask a thread for fewer takes longer than to read them."""

_MAKE = "umask 022; mkdir -p -- @PATH@"
_PART = (
    NAMED
    + r"""
case $f in */*) p=./${f%/*}/@PART@;; *) p=./@PART@;; esac
"""
)
_WRITE = (
    "umask 022; mkdir -p -- @PATH@; "
    + _PART
    + r"""
mkdir -p "${p%/*}" || exit 1
[ @FROM@ = 0 ] && : > "$p"
[ "$(wc -c < "$p")" -eq @FROM@ ] || exit 4
{ cat "$p"; exec tee -a "$p"; } | sha256sum
"""
)
_FINISH = (
    _PART
    + r"""
[ "$(wc -c < "$p")" -eq @SIZE@ ] || exit 1
touch -d @TIME@ "$p" 2>/dev/null
chmod @MODE@ "$p" && mv -f "$p" "./$f"
"""
)
# Unpacked beside the files, compared, and moved folder by folder: with a process for each file, a
# thousand files would take seconds.
_UNPACK = r"""
umask 022
mkdir -p -- @PATH@ && cd -- @PATH@ || exit 1
d=.gpujob/in-@NUMBER@; rm -rf "$d"; mkdir -p "$d/files" || exit 1
tar -x -p -o -f - -C "$d" 2>/dev/null || { rm -rf "$d"; exit 1; }
cd "$d/files" || exit 1
[ ! -s ../sums ] || sha256sum -c ../sums >/dev/null 2>&1 || { cd ../../..; rm -rf "$d"; exit 4; }
find . -type d -exec sh -c '
  to=$0/$1 d=$1; shift; mkdir -p "$to"
  for f in "$d"/* "$d"/.[!.]* "$d"/..?*; do
    if [ -h "$f" ] || [ -f "$f" ]; then set -- "$@" "$f"; fi
  done
  [ $# = 0 ] || mv -f -- "$@" "$to/"' ../../.. {} \;
left=$(find . ! -type d | head -c 1)
cd ../../.. && rm -rf "$d"; rmdir .gpujob 2>/dev/null
[ -z "$left" ]
"""
_FOLDER = NAMED + '\numask 022; mkdir -p "./$f"'
_LINK = (
    NAMED
    + r"""
IFS= read -r t && t=$(printf "$t.") && rm -f "./$f" && ln -s "${t%.}" "./$f"
"""
)
_REMOVE = r"""
cd -- @PATH@ || exit 0
while IFS= read -r f; do f=$(printf "$f."); rm -f "./${f%.}"; done
exit 0
"""


async def make_folder(connection: Connection, path: str) -> None:
    """Makes a folder on the machine if it is not there; raises CopyError and MachineError."""
    try:
        await connection.run(_MAKE.replace("@PATH@", spelled_path(path)))
    except ScriptFailed as error:
        raise CopyError(f"{shown(os.fsencode(path))} cannot be a folder: {error}") from error


async def remove(connection: Connection, path: str, names: Iterable[bytes]) -> None:
    """Removes files below a folder on the machine; raises MachineError."""
    text = b"".join(spelled(name) for name in names)
    script = _REMOVE.replace("@PATH@", spelled_path(path))
    await connection.run(script, text, timeout_seconds=HASH_SECONDS)


async def push(
    connection: Connection, copy: Copy, allowance: Allowance, *, mirrors: bool = False
) -> tuple[str, ...]:
    """Copies a folder to the machine; returns what could not be copied.

    With `mirrors`, files that only the machine has are removed there. Raises MachineError.
    """
    folder = Path(copy.folder)
    try:
        listing = await remote_listing(connection, copy.path)
        entries = await asyncio.to_thread(lambda: list(local_entries(folder)))
        await make_folder(connection, copy.path)
    except CopyError as error:
        return (str(error),)
    except OSError as error:
        return (f"{folder.name} cannot be read: {error.strerror}",)
    pushing = _Pushing(connection, copy.path, folder, listing, allowance, [])
    await work(pushing.jobs(await pushing.missing(entries)))
    if mirrors:
        mine = {entry.name for entry in entries}
        others = {one.name for one in listing.entries.values() if one.kind is not Kind.FOLDER}
        await remove(connection, copy.path, others - mine)
    return tuple(pushing.problems)


@dataclass
class _Pushing:
    """One folder that is copied to the machine."""

    connection: Connection
    path: str
    folder: Path
    listing: Listing
    allowance: Allowance
    problems: list[str]
    bundles: int = 0

    async def missing(self, entries: Sequence[Entry]) -> list[Entry]:
        """Returns what the machine does not have, or not so."""
        there = self.listing.entries
        alike, rest = [], []
        for entry in entries:
            other = there.get(entry.name)
            if entry.kind is Kind.LINK and entry.leads_out:
                tell_special([f"{entry.shown}: {LINK_LEFT_OUT}"])
            elif other is None or other.kind is not entry.kind:
                rest.append(entry)
            elif entry.kind is Kind.FILE and other.size == entry.size:
                alike.append(entry)
            elif entry.kind is not Kind.FOLDER and other != entry:
                rest.append(entry)
        for at in range(0, len(alike), BUNDLE_FILES):
            some = alike[at : at + BUNDLE_FILES]
            sums: dict[bytes, str] = {}
            if b"xargs" in self.listing.has:
                names = [entry.name for entry in some if PLAIN.fullmatch(entry.name)]
                sums = await remote_sums(self.connection, self.path, names)
            for entry in some:
                theirs = sums.get(entry.name) or await remote_sum(self.connection, self.path, entry)
                if theirs != await asyncio.to_thread(self._sum, entry):
                    rest.append(entry)
        return rest

    def _sum(self, entry: Entry) -> str:
        digest = hashlib.sha256()
        with suppress(OSError), self._opened(entry) as descriptor:
            digested(descriptor, digest, entry.size)
        return digest.hexdigest()

    @contextmanager
    def _opened(self, entry: Entry) -> Iterator[int]:
        path = os.path.join(os.fsencode(self.folder), entry.name)  # noqa: PTH118 - of bytes
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def jobs(self, entries: Iterable[Entry]) -> Iterator[Callable[[], Awaitable[None]]]:
        """Yields what is to be done, each part by itself."""
        bundle: list[Entry] = []
        size = 0
        for entry in entries:
            if b"tar" not in self.listing.has or (
                entry.kind is Kind.FILE and not fits_bundle(entry)
            ):
                yield partial(self._one, entry)
                continue
            if size + entry.size > BUNDLE_BYTES or len(bundle) >= BUNDLE_FILES:
                yield partial(self._many, bundle)
                bundle, size = [], 0
            bundle.append(entry)
            size += entry.size
        if bundle:
            yield partial(self._many, bundle)

    async def _many(self, bundle: Sequence[Entry]) -> None:
        """Copies a bundle; if that fails, each part of it by itself, which says why."""
        self.bundles += 1
        script = _UNPACK.replace("@NUMBER@", str(self.bundles))
        try:
            script = script.replace("@PATH@", spelled_path(self.path))
            await self.connection.send(script, self._archive(bundle))
        except (ScriptFailed, CopyError, OSError, Changed):
            for entry in bundle:
                await self._one(entry)

    async def _archive(self, bundle: Sequence[Entry]) -> AsyncIterator[bytes]:
        """Yields a tar archive of the bundle, with the sums of its files at its end."""
        sums = []
        for entry in bundle:
            data = b""
            if entry.kind is Kind.FILE:
                with _claims_own(), self._opened(entry) as descriptor:
                    data = await asyncio.to_thread(os.read, descriptor, entry.size + 1)
                if len(data) != entry.size:
                    raise Changed
                self.allowance.take(len(data))
                sums.append(b"%s  ./%s\n" % (hashlib.sha256(data).hexdigest().encode(), entry.name))
            yield _archived(b"files/" + entry.name, entry, data)
        text = b"".join(sums)
        yield _archived(b"sums", Entry(b"sums", Kind.FILE, len(text), mode=0o600), text)
        yield bytes(2 * BLOCKSIZE)

    async def _one(self, entry: Entry) -> None:
        """Copies one entry."""
        try:
            await copied_unchanged(lambda: self._alone(entry))
        except CopyError as error:
            self.problems.append(f"{entry.shown}: {error}")
        except OSError as error:
            self.problems.append(f"{entry.shown}: {error.strerror}")

    async def _alone(self, entry: Entry) -> None:
        if entry.kind is Kind.LINK:
            return await self._run(_LINK, entry, spelled(entry.target))
        if entry.kind is Kind.FOLDER:
            return await self._run(_FOLDER, entry)
        digest = hashlib.sha256()
        with self._opened(entry) as descriptor:
            part = os.path.join(os.path.dirname(entry.name), part_name(entry))  # noqa: PTH118, PTH120
            begun = self.listing.parts.pop(part, 0)
            at = begun if begun <= entry.size else 0
            await asyncio.to_thread(digested, descriptor, digest, at)
            self.allowance.check(entry.size - at)

            script = _WRITE.replace("@FROM@", str(at)).replace("@PART@", part_name(entry).decode())
            script = script.replace("@PATH@", spelled_path(self.path))
            with _refusals():
                async with aclosing(self._read(entry, descriptor, at, digest)) as stream:
                    theirs = await self.connection.send(script, stream)
        if theirs[: len(digest.hexdigest())] != digest.hexdigest().encode():
            await remove(self.connection, self.path, [part])
            raise Changed
        script = _FINISH.replace("@SIZE@", str(entry.size)).replace("@MODE@", f"{entry.mode:o}")
        return await self._run(script.replace("@TIME@", f"@{entry.mtime}"), entry)

    async def _read(
        self, entry: Entry, descriptor: int, at: int, digest: "hashlib._Hash"
    ) -> AsyncGenerator[bytes, None]:
        """Yields a file's name and what it holds from `at` on, which it feeds into the digest."""

        def read(at: int) -> bytes:
            data = os.pread(descriptor, READ_BYTES, at)
            digest.update(data)
            return data

        yield spelled(entry.name)
        reading = asyncio.create_task(asyncio.to_thread(read, at))
        try:
            while True:
                with _claims_own():
                    data = await reading
                if not data:
                    break
                at += len(data)
                # The next bytes are read while these are encrypted and sent.
                reading = asyncio.create_task(asyncio.to_thread(read, at))
                self.allowance.take(len(data))
                yield data
        finally:
            # A thread outlives its task, and may not find another file under the same number.
            await asyncio.wait([reading])

    async def _run(self, script: str, entry: Entry, more: bytes = b"") -> None:
        with _refusals():
            script = script.replace("@PART@", part_name(entry).decode())
            script = script.replace("@PATH@", spelled_path(self.path))
            await self.connection.run(
                script, spelled(entry.name) + more, timeout_seconds=HASH_SECONDS
            )


def _archived(name: bytes, entry: Entry, data: bytes) -> bytes:
    """Returns one part of a tar archive."""
    info = TarInfo(os.fsdecode(name))
    info.size, info.mtime = len(data), entry.mtime
    info.mode = entry.mode | (0o700 if entry.kind is Kind.FOLDER else 0)
    if entry.kind is Kind.LINK:
        info.type, info.linkname = SYMTYPE, os.fsdecode(entry.target)
    elif entry.kind is Kind.FOLDER:
        info.type = DIRTYPE
    head = info.tobuf(GNU_FORMAT, "utf-8", "surrogateescape")
    return head + data + bytes(-len(data) % BLOCKSIZE)


@contextmanager
def _claims_own() -> Iterator[None]:
    """Tells what fails on our side, while a script reads it, from a failure of the connection."""
    try:
        yield
    except OSError as error:
        raise CopyError(error.strerror) from error


@contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except ScriptFailed as error:
        if error.status == CHANGED_STATUS:
            raise Changed from error
        raise CopyError("the machine does not take it: its disk may be full") from error
