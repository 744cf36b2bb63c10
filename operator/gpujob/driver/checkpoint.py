"""The checkpoint on its claim, which is replaced as a whole or not at all.

What a person finds there are the files of the last whole checkpoint, under the names that they have
on the machine, and a folder `.gpujob`. In it, each job has a folder: `next` holds what the next
checkpoint changes, and `files` names all that this job's drivers have written; nothing else is ever
removed. When `next` is whole, `whole` is written, which names all files of that checkpoint. From
then on they are moved to their places, by this driver or the one after it.
"""

import asyncio
import logging
import os
import shutil
import stat
import threading
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from errno import EDQUOT, EIO, ENOSPC, EROFS, ESTALE
from pathlib import Path

from gpujob.adapters.ssh import Connection
from gpujob.api.data import Copy
from gpujob.driver.files import Allowance, words_for
from gpujob.driver.listing import (
    CopyError,
    Entry,
    Kind,
    Listing,
    local_entries,
    remote_listing,
    shown,
)
from gpujob.driver.places import Place
from gpujob.driver.pulling import bring, tell_special
from gpujob.driver.pushing import push
from gpujob.driver.state import put

QUIET_SECONDS = 10.0
"""A checkpoint of several files is taken once none of them has changed for this long."""
LOOK_SECONDS = 5.0

_CLAIMS_OWN = frozenset({EDQUOT, EIO, ENOSPC, EROFS, ESTALE})
"""Errors that are the fault of the claim, not of one name on it: another try may go better."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Rest:
    """What a listing shows about files that are at work."""

    busy: frozenset[bytes]
    """Files that are open for writing, or have changed a moment ago."""
    written: frozenset[bytes]
    """Those that are open for writing."""

    def __and__(self, other: "Rest") -> "Rest":
        return Rest(self.busy & other.busy, self.written & other.written)


AT_REST = Rest(frozenset(), frozenset())


def rest_of(listing: Listing, quiet_seconds: float, at: int | None = None) -> Rest:
    """Returns what is at work in a folder, or was at a time of the machine's clock and since.

    That clock is compared with itself only.
    """
    at = listing.now if at is None else at
    written = frozenset(listing.written & listing.entries.keys())
    changed = (
        name
        for name, entry in listing.entries.items()
        if entry.kind is Kind.FILE and at - entry.change[0] < quiet_seconds
    )
    return Rest(written.union(changed), written)


class Checkpoint:
    """A checkpoint folder on a claim, and the one on the machine that it is copied from."""

    def __init__(self, copy: Copy, job: str, interval_seconds: float) -> None:
        self._copy = copy
        self._folder = Path(copy.folder)
        self._own = self._folder / ".gpujob" / job
        self._next = self._own / "next"
        self._interval = interval_seconds
        self._quiet = max(2.0, min(QUIET_SECONDS, interval_seconds / 3))
        self._using = threading.Lock()
        """A thread that moves files goes on when the task that has started it was cancelled."""
        self._taken: dict[bytes, Entry] = {}
        """What the machine had when it was copied last."""

    def recover(self) -> None:
        """Moves into place what another driver has left whole; raises OSError. It may block."""
        with self._using:
            if (self._own / "whole").exists():
                self._move_into_place()

    async def send(
        self, connection: Connection, allowance: Allowance, *, is_first_run: bool
    ) -> tuple[str, ...]:
        """Copies the last whole checkpoint to the machine; returns what was not copied.

        After an interruption, the machine has a later one, but nobody knows whether it is whole:
        its workload was killed. It is replaced, unless there is none on the claim.
        """
        try:
            await asyncio.to_thread(self.recover)
        except OSError as error:
            return (f"the last checkpoint cannot be put in place: {error.strerror}",)
        replaces = not is_first_run and bool(_read_owned(self._own / "files"))
        return await push(connection, self._copy, allowance, mirrors=replaces)

    async def take(self, connection: Connection, allowance: Allowance) -> str:
        """Copies the next whole checkpoint; returns in words what it lacks, or why there is none.

        It waits until the folder is at rest. What was at work each time that it looked, for a whole
        interval, is a log or the like and is not waited for; what was open for writing each time is
        left out, and stays on the claim as it was. Raises MachineError.
        """
        began = time.monotonic()
        always: Rest | None = None
        try:
            while True:
                listing = await remote_listing(connection, self._copy.path, sees_writers=True)
                rest = rest_of(listing, self._quiet)
                always = rest & always if always else rest
                passed = time.monotonic() - began
                ignored = always if passed >= self._interval else AT_REST
                if rest.busy <= ignored.busy:
                    return await self._copied(connection, listing, allowance, ignored)
                if passed >= 2 * self._interval:
                    return "not copied: the checkpoint, because it is never at rest"
                await asyncio.sleep(min(LOOK_SECONDS, self._quiet / 2))
        except CopyError as error:
            return f"not copied: {error}"

    async def take_last(
        self, connection: Connection, allowance: Allowance, *, killed_at: int | None
    ) -> str:
        """Copies the checkpoint that a workload has left; returns what it lacks, in words.

        `killed_at` is when the workload was killed, by the machine's clock, or a moment before; 0 =
        nobody knows; None = it ended by itself. Raises MachineError.
        """
        try:
            listing = await remote_listing(connection, self._copy.path)
            if killed_at is not None and rest_of(listing, self._quiet, killed_at).busy:
                return (
                    "not copied: the last checkpoint, because the workload was killed while it was "
                    "written; the one before it stays"
                )
            return await self._copied(connection, listing, allowance, None)
        except CopyError as error:
            return f"not copied: {error}"

    async def _copied(
        self,
        connection: Connection,
        listing: Listing,
        allowance: Allowance,
        ignored: "Rest | None",
    ) -> str:
        """Copies a checkpoint; returns in words what it lacks, or why it was not taken.

        With `ignored`, the workload runs and may change other files meanwhile.
        """
        busy, written = (ignored.busy, ignored.written) if ignored else (frozenset(), frozenset())
        wanted = {name: one for name, one in listing.entries.items() if name not in written}
        left_out = [f"{shown(name)}: it is always open for writing" for name in sorted(written)]
        lacks = [*listing.skipped, *left_out]
        if all(entry.kind is Kind.FOLDER for entry in wanted.values()):
            # A folder that was emptied is no checkpoint.
            return words_for(lacks)
        tell_special(listing.special)
        path = self._copy.path
        try:
            missing = await asyncio.to_thread(self._missing, wanted)
            copied = await bring(connection, path, listing, missing, self._next, allowance)
            lacks += copied.all
            if copied.problems and not copied.failed <= busy:
                return words_for(lacks)
            if ignored is not None:
                after = await remote_listing(connection, path, sees_writers=True)
                for name, entry in wanted.items():
                    # What was copied and has been removed since is whole nevertheless.
                    changed = after.entries.get(name, entry) != entry or name in after.written
                    if changed and entry.kind is not Kind.FOLDER and name not in busy:
                        return "not copied: the checkpoint, because it changed meanwhile"
            whole = {name: one for name, one in wanted.items() if name not in copied.failed}
            # What could not be listed may be there nevertheless.
            await asyncio.to_thread(
                self._commit, listing.entries.keys(), removes=not listing.skipped
            )
        except OSError as error:
            return f"not copied: the checkpoint: {error.strerror}"
        self._taken = whole
        return words_for(lacks)

    # --- The claim; all of it may block -------------------------------------------------------

    def _missing(self, wanted: Mapping[bytes, Entry]) -> list[Entry]:
        """Returns what the claim does not have; removes from `next` what is not wanted.

        Raises OSError if what is whole already cannot be moved: `next` then stays as it is.
        """
        with self._using:
            if (self._own / "whole").exists():
                self._move_into_place()
            for entry in reversed(list(local_entries(self._next)) if self._next.exists() else []):
                same = wanted.get(entry.name)
                if same is None or same.kind is not entry.kind:
                    path = self._next / os.fsdecode(entry.name)
                    path.rmdir() if entry.kind is Kind.FOLDER else path.unlink()
            place = Place(self._folder)
            owned = _read_owned(self._own / "files")
            missing = []
            for name, entry in wanted.items():
                if self._taken.get(name) == entry and _is_as_written(place, name, owned.get(name)):
                    # A claim that keeps no times shows another one.
                    continue
                # Something else than size and time may tell that a file was changed.
                is_known = self._taken.get(name, entry).change == entry.change
                try:
                    same_there, is_sure = place.holds(entry)
                except (CopyError, OSError):
                    same_there, is_sure = False, False
                if not (same_there and is_sure and (is_known or entry.kind is Kind.FOLDER)):
                    missing.append(entry)
            return missing

    def _commit(self, names: Iterable[bytes], *, removes: bool) -> None:
        """Makes `next` the checkpoint; `names` are all that the machine has.

        With `removes`, what we have written before, and the machine has no more, is removed.
        """
        with self._using:
            if not removes:
                names = {*names, *_read_owned(self._own / "files")}
            self._next.mkdir(parents=True, exist_ok=True)
            Place(self._next).sync()
            put(self._own / "whole", b"".join(b"%s\0" % name for name in names))
            self._move_into_place()

    def _move_into_place(self) -> None:
        """Makes the checkpoint that `whole` names; may be called again after it broke off."""
        named = set((self._own / "whole").read_bytes().split(b"\0"))
        owned = _read_owned(self._own / "files")
        place, source = Place(self._folder), Place(self._next)
        for name in sorted(owned.keys() - named, reverse=True):
            _remove(place, name, owned[name])
        staged = list(local_entries(self._next))
        stays = {name: facts for name, facts in owned.items() if name in named}
        for entry in staged:
            is_new = entry.kind is not Kind.FOLDER or not place.holds(entry)[0]
            if is_new:
                facts = (self._next / os.fsdecode(entry.name)).lstat()
                stays[entry.name] = (entry.kind.value, facts.st_size, facts.st_mtime_ns)
        # Before anything is moved: what nobody owned could never be removed.
        records = (
            b"%s %d %d %s\0" % (kind.encode(), size, mtime, name)
            for name, (kind, size, mtime) in stays.items()
        )
        put(self._own / "files", b"".join(records))
        for entry in staged:
            try:
                _move(source, place, entry)
            except (CopyError, OSError) as error:
                if isinstance(error, OSError) and error.errno in _CLAIMS_OWN:
                    raise
                why = error.strerror if isinstance(error, OSError) else error
                _log.info("%s stays as it was on the claim: %s", entry.shown, why)
        place.sync()
        (self._own / "whole").unlink()
        shutil.rmtree(self._next, ignore_errors=True)


_Facts = tuple[str, int, int]
"""Kind, size, and time in nanoseconds: of what was written by us, and not changed since."""


def _read_owned(path: Path) -> dict[bytes, _Facts]:
    """Returns what this job's drivers have written, by name."""
    owned: dict[bytes, _Facts] = {}
    with suppress(FileNotFoundError):
        for record in path.read_bytes().split(b"\0")[:-1]:
            kind, size, mtime, name = record.split(b" ", 3)
            owned[name] = kind.decode(), int(size), int(mtime)
    return owned


def _is_as_written(place: Place, name: bytes, was: _Facts | None) -> bool:
    """Whether something is no folder, and as we have left it on the claim."""
    with suppress(CopyError, OSError), place.parent(name) as (folder, last):
        facts = os.stat(last, dir_fd=folder, follow_symlinks=False)
        here = (facts.st_size, facts.st_mtime_ns)
        return was is not None and here == was[1:] and not stat.S_ISDIR(facts.st_mode)
    return False


def _remove(place: Place, name: bytes, was: _Facts) -> None:
    """Removes what we have written, unless somebody has changed it since."""
    with suppress(CopyError, OSError), place.parent(name) as (folder, last):
        if was[0] == Kind.FOLDER.value:
            # Only if nothing is in it.
            os.rmdir(last, dir_fd=folder)
            return
        if _is_as_written(place, name, was):
            os.unlink(last, dir_fd=folder)


def _move(source: Place, place: Place, entry: Entry) -> None:
    if entry.kind is Kind.FOLDER:
        place.make_folder(entry)
        return
    with (
        source.parent(entry.name) as (here, last),
        place.parent(entry.name, makes=True) as (there, _),
    ):
        os.replace(last, last, src_dir_fd=here, dst_dir_fd=there)
