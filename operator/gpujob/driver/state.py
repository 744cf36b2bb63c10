"""What a driver keeps across its container's restarts, in its pod's own folder."""

import mmap
import os
import struct
from pathlib import Path
from typing import Protocol

SETTLE_BYTES = 16 << 20
"""What is not on its disk yet counts to the container's memory: never more than this."""

_OFFSET = struct.Struct("<Q")


def next_session(folder: Path) -> int:
    """Returns the number of this start of the driver in its pod, from 1 on; counts it."""
    path = folder / "session"
    try:
        number = int(path.read_text()) + 1
    except (FileNotFoundError, ValueError):
        number = 1
    _put(path, str(number))
    return number


def pinned_host_key(folder: Path, told: str) -> str:
    """Returns the host key that this pod was told first; keeps this one if none was."""
    path = folder / "host-key"
    try:
        return path.read_text()
    except FileNotFoundError:
        _put(path, told)
        return told


def _put(path: Path, text: str) -> None:
    """Writes a file whole or not at all."""
    scratch = path.with_suffix(".new")
    scratch.write_text(text)
    scratch.replace(path)


def settle(descriptor: int) -> None:
    """Brings a file to its disk and lets go of the memory that held it; it may block."""
    os.fdatasync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


class Sink(Protocol):
    """Where a stream goes."""

    @property
    def value(self) -> int:
        """How many of its bytes have gone there."""
        ...

    def write(self, data: bytes | memoryview) -> None:
        """Takes the next bytes; raises OSError."""
        ...


class Printed:
    """A stream of our own, and how much of it was printed, in memory that outlives the process.

    A driver may be killed at any moment: between a byte's way out and its being counted lies one
    store to memory, and no system call.
    """

    def __init__(self, target: int, folder: Path, name: str) -> None:
        self._target = target
        descriptor = os.open(folder / f"{name}.offset", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            os.ftruncate(descriptor, _OFFSET.size)
            self._held = mmap.mmap(descriptor, _OFFSET.size)
        finally:
            os.close(descriptor)

    def skip_to(self, value: int) -> None:
        """Leaves out what comes before."""
        _OFFSET.pack_into(self._held, 0, value)

    @property
    def value(self) -> int:
        """Bytes that were printed."""
        return int(_OFFSET.unpack_from(self._held)[0])

    def write(self, data: bytes | memoryview) -> None:
        """Prints and counts."""
        view = memoryview(data)
        while view:
            written = os.write(self._target, view)
            _OFFSET.pack_into(self._held, 0, self.value + written)
            view = view[written:]


class Kept:
    """A file on a claim: what it holds is what it has taken, whoever wrote it."""

    def __init__(self, path: Path) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
        self._file = os.open(path, flags, 0o640)
        self._unsettled = 0

    @property
    def value(self) -> int:
        """Its size."""
        return os.fstat(self._file).st_size

    def write(self, data: bytes | memoryview) -> None:
        """Appends."""
        view = memoryview(data)
        self._unsettled += len(view)
        while view:
            view = view[os.write(self._file, view) :]
        if self._unsettled >= SETTLE_BYTES:
            settle(self._file)
            self._unsettled = 0
