"""What a driver keeps across restarts of its container, in a folder of its pod."""

import mmap
import os
import struct
from pathlib import Path
from typing import Protocol

SETTLE_BYTES = 16 << 20
"""Data that is not on its disk yet counts as the container's memory: never more than this."""

AUTHORITIES = "authorities.pem"

_OFFSET = struct.Struct("<Q")


def next_session(folder: Path) -> int:
    """Counts the driver's starts in its pod; returns the number of this one, from 1 on."""
    path = folder / "session"
    try:
        number = int(path.read_text()) + 1
    except (FileNotFoundError, ValueError):
        number = 1
    put(path, str(number).encode())
    return number


def pinned_host_key(folder: Path, named: str) -> str:
    """Returns the host key that this pod was given first; the first call stores it."""
    path = folder / "host-key"
    try:
        return path.read_text()
    except FileNotFoundError:
        put(path, named.encode())
        return named


def known_authorities(folder: Path, given: str) -> str:
    """Returns the authorities that the controller named last; at first those that were given."""
    try:
        return (folder / AUTHORITIES).read_text()
    except FileNotFoundError:
        return given


def put(path: Path, data: bytes) -> None:
    """Writes a file completely or not at all."""
    scratch = path.with_suffix(".new")
    with scratch.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    scratch.replace(path)


def settle(descriptor: int) -> None:
    """Writes a file to its disk and frees the memory that cached it; it may block."""
    os.fdatasync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


class Sink(Protocol):
    """A place that a stream is written to."""

    @property
    def value(self) -> int:
        """How many of the stream's bytes it has."""
        ...

    def write(self, data: bytes | memoryview) -> None:
        """Writes the next bytes; raises OSError."""
        ...


class Counter:
    """A number in memory that outlives the driver, in a file of its pod.

    A driver may be killed at any moment. Between an act and its being counted is one store to
    memory, and no system call.
    """

    def __init__(self, path: Path) -> None:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            os.ftruncate(descriptor, _OFFSET.size)
            self._held = mmap.mmap(descriptor, _OFFSET.size)
        finally:
            os.close(descriptor)

    @property
    def value(self) -> int:
        """The number; 0 at first."""
        return int(_OFFSET.unpack_from(self._held)[0])

    @value.setter
    def value(self, value: int) -> None:
        _OFFSET.pack_into(self._held, 0, value)


class Printed:
    """One of the driver's own streams, with a count of its bytes that outlives it."""

    def __init__(self, target: int, folder: Path, name: str) -> None:
        self._target = target
        self._count = Counter(folder / f"{name}.offset")

    def skip_to(self, value: int) -> None:
        """Counts the bytes before this one as printed."""
        self._count.value = value

    @property
    def value(self) -> int:
        """How many bytes were printed."""
        return self._count.value

    def write(self, data: bytes | memoryview) -> None:
        """Prints bytes and counts them."""
        view = memoryview(data)
        while view:
            written = os.write(self._target, view)
            self._count.value += written
            view = view[written:]


class Kept:
    """A file on a claim: its size says how much was written, by whichever pod."""

    def __init__(self, path: Path) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
        self._file = os.open(path, flags, 0o640)
        self._unsettled = 0

    @property
    def value(self) -> int:
        """The file's size."""
        return os.fstat(self._file).st_size

    def write(self, data: bytes | memoryview) -> None:
        """Appends bytes."""
        view = memoryview(data)
        self._unsettled += len(view)
        while view:
            view = view[os.write(self._file, view) :]
        if self._unsettled >= SETTLE_BYTES:
            settle(self._file)
            self._unsettled = 0
