"""Writes into a folder on a claim so that no name leads out of it, and no link is written through.

The names come from a stranger's machine, and other pods may put links into a claim at any time. So
each part of a name is opened by itself, in the folder before it, and never through a link.
"""

import ctypes
import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gpujob.driver.listing import PART, CopyError, Entry, Kind

_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
UNSURE_NS = 500_000_000
"""Added to the time of a copy whose original had changed within the last two seconds. Times are in
whole seconds, so it may have changed again without getting another time. It is compared by its
SHA-256 before it is taken for the same."""

_libc = ctypes.CDLL(None, use_errno=True)


class Place:
    """An open folder on a claim."""

    def __init__(self, folder: Path) -> None:
        """Opens the folder, which is created if need be; raises OSError."""
        folder.mkdir(parents=True, exist_ok=True)
        self._root = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def __del__(self) -> None:
        # Only when nobody uses it any more: a thread outlives the task that has started it, and
        # may find neither a closed folder nor another one under the same number.
        if hasattr(self, "_root"):
            os.close(self._root)

    @contextmanager
    def parent(self, name: bytes, *, makes: bool = False) -> Iterator[tuple[int, bytes]]:
        """Opens the folder that a name is in; gives its descriptor and the last part of the name.

        Raises CopyError if a link is on the way, and OSError.
        """
        *folders, last = name.split(b"/")
        here = os.dup(self._root)
        try:
            for folder in folders:
                below = _opened(here, folder, makes=makes)
                os.close(here)
                here = below
            yield here, last
        finally:
            os.close(here)

    def holds(self, entry: Entry) -> tuple[bool, bool]:
        """Returns whether something is there as on the machine, and whether that is sure.

        Raises CopyError if a link is on the way, and OSError.
        """
        try:
            with self.parent(entry.name) as (folder, last):
                facts = os.stat(last, dir_fd=folder, follow_symlinks=False)
                if entry.kind is Kind.LINK:
                    is_link = stat.S_ISLNK(facts.st_mode)
                    return is_link and os.readlink(last, dir_fd=folder) == entry.target, True
        except (FileNotFoundError, NotADirectoryError):
            return False, True
        if entry.kind is Kind.FOLDER:
            return stat.S_ISDIR(facts.st_mode), True
        return is_same(facts, entry), facts.st_mtime_ns % 10**9 != UNSURE_NS

    def make_folder(self, entry: Entry) -> None:
        """Makes a folder with the rights of the machine's one, but always usable by its owner."""
        with self.parent(entry.name, makes=True) as (folder, last):
            below = _opened(folder, last, makes=True)
            try:
                _permit(below, entry.mode | 0o700)
            finally:
                os.close(below)

    def make_link(self, entry: Entry) -> None:
        """Makes a link in place of what is there."""
        with self.parent(entry.name, makes=True) as (folder, last):
            part = part_name(entry)
            with suppress(FileNotFoundError):
                os.unlink(part, dir_fd=folder)
            os.symlink(entry.target, part, dir_fd=folder)
            os.replace(part, last, src_dir_fd=folder, dst_dir_fd=folder)

    def sync(self) -> None:
        """Writes the file system of the folder to its disk; it may block."""
        # One call for many files: to sync each by itself takes as long as a disk takes to answer.
        if _libc.syncfs(self._root) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def part_name(entry: Entry) -> bytes:
    """Returns the name of a file while it is half copied: another one for each version of it."""
    version = b"%s %d %d" % (entry.name, entry.size, entry.mtime)
    return b"." + hashlib.sha256(version).hexdigest()[:32].encode() + PART


def is_same(facts: os.stat_result, entry: Entry) -> bool:
    """Whether a file is, by its size and time, the one that the machine has."""
    here = facts.st_size, facts.st_mtime_ns // 10**9
    return stat.S_ISREG(facts.st_mode) and here == (entry.size, entry.mtime)


def finish(descriptor: int, entry: Entry, *, is_settled: bool) -> None:
    """Gives a copy the rights and the time of its original."""
    _permit(descriptor, entry.mode | 0o600)
    moment = entry.mtime * 10**9 + (0 if is_settled else UNSURE_NS)
    # No file system knows every time that a machine may name.
    with suppress(OverflowError, OSError):
        os.utime(descriptor, ns=(moment, moment))


def _permit(descriptor: int, mode: int) -> None:
    # A claim on a share or an object store may have no rights to set.
    with suppress(OSError):
        os.fchmod(descriptor, mode)


def _opened(folder: int, name: bytes, *, makes: bool) -> int:
    """Opens a folder in a folder."""
    try:
        return os.open(name, _FOLDER_FLAGS, dir_fd=folder)
    except FileNotFoundError:
        if not makes:
            raise
        with suppress(FileExistsError):
            os.mkdir(name, 0o755, dir_fd=folder)
        return os.open(name, _FOLDER_FLAGS, dir_fd=folder)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            found = os.stat(name, dir_fd=folder, follow_symlinks=False)
            if stat.S_ISLNK(found.st_mode):
                raise CopyError("a link leads out of the folder") from error
        raise
