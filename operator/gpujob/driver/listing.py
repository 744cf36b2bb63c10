"""What lies below a folder: below one of the driver's own, and below one on the machine.

The machine's list is made by its own `find` and `stat`, separated by NUL, since a name may hold any
other byte. `stat` of busybox cannot print NUL, so names and facts come separately, in equal order.
"""

import asyncio
import os
import re
import shlex
import stat
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from gpujob.adapters.errors import MachineError
from gpujob.adapters.ssh import READ_BYTES, Connection, Output
from gpujob.api.transport import MACHINE_FOLDER
from gpujob.api.words import in_words

LIST_SECONDS = 120.0
FILES_MAX = 100_000
"""Of one folder, with its links and folders. Their list is held in memory."""
LIST_BYTES_MAX = 32 << 20
"""Of a machine's list: 320 for each of `FILES_MAX`, with the name."""
NAME_BYTES_MAX = 4096
"""Linux takes no longer path."""
SHOWN_LENGTH_MAX = 200
OWN_FOLDER = b".gpujob"
"""In a copied folder, on either side, this is ours: no file of the job."""
PART = b".gpujob-part"
"""The end of the name of a file that is half copied."""
MARK_FILE = "/proc/sys/kernel/random/boot_id"
"""Its content (random(4)) is printed between the files of a bundle: it is there on each Linux
machine, even if its disk is full, and no file holds it by chance."""

_TOKEN_BYTES_MAX = 16 << 20
"""`find` gives `stat` at most 2 MiB of names at a time, so at most 10 MiB of facts come back."""
_FACTS = re.compile(rb"([0-9a-f]{1,8}) (\d{1,18}) (-?\d{1,18}) (-?\d{1,18}) (\d{1,20})")
_CLOCK = re.compile(rb"now (\d{1,15})")
_PARTS_NAME = re.compile(rb"(?:.*/)?\.[0-9a-f]{32}" + re.escape(PART), re.DOTALL)
"""As `places.part_name` makes them: any other name may be a user's."""
_MARK = re.compile(rb"mark ([0-9a-f-]{36})")

_LIST = r"""
for t in find stat sha256sum; do
  command -v $t >/dev/null || { printf 'without %s\0' $t; exit 0; }
done
printf 'now %s\0mark %s\0' "$(date +%s)" "$(cat @MARK@ 2>/dev/null)"
for t in tar xargs; do command -v $t >/dev/null && printf 'has %s\0' $t; done
cd -- @PATH@ 2>/dev/null || { printf '\0end 0\0'; exit 0; }
@WRITERS@
printf '\0'
find . -path ./.gpujob -prune -o -exec sh -c '
  f="%f %s %Y %Z %i"
  printf "%s\0" "$@"; printf "\0"
  stat -c "$f" "$@" 2>/dev/null ||
    { echo again; for one; do stat -c "$f" "$one" 2>/dev/null || echo; done; }
  printf "\0"
  for one; do
    [ -h "$one" ] && t=$(readlink "$one" && echo .) && printf "%s\0%s\0" "$one" "${t%??}"
  done
  printf "\0"' sh {} + 2>/dev/null
printf 'end %s\0' $?
"""

# /proc shows in the rights of its links how a file was opened (proc(5)).
_WRITERS = r"""
p=$(pwd -P)
ls -ln /proc/[0-9]*/fd 2>/dev/null | while IFS= read -r l; do
  case $l in l?w*" -> $p/"*) printf 'writes %s\0' "${l#*" -> $p/"}";; esac
done
"""


class CopyError(Exception):
    """A file that cannot be copied, however often it is tried; says which and why."""


class Kind(Enum):
    """What an entry of a folder is."""

    FILE = "f"
    LINK = "l"
    FOLDER = "d"


_KINDS = {stat.S_IFREG: Kind.FILE, stat.S_IFLNK: Kind.LINK, stat.S_IFDIR: Kind.FOLDER}


@dataclass(frozen=True, slots=True)
class Entry:
    """A file, link or folder below a folder."""

    name: bytes
    """Relative to the folder, parts joined by `/`."""
    kind: Kind
    size: int = 0
    mtime: int = 0
    """Seconds since 1970; earlier times are negative."""
    mode: int = 0
    """Only rights: neither set-user-ID nor set-group-ID nor the sticky bit."""
    change: tuple[int, int] = (0, 0)
    """ctime in seconds, and inode. No program can set them, so whoever changes a file changes
    them, too, even if it restores size and mtime."""
    target: bytes = b""
    """Of a link."""

    @property
    def shown(self) -> str:
        """The name, for people."""
        return shown(self.name)

    @property
    def leads_out(self) -> bool:
        """Whether a link leads, or may lead, out of the folder."""
        depth = self.name.count(b"/")
        parts = self.target.split(b"/")
        ups = next((at for at, part in enumerate(parts) if part != b".."), len(parts))
        # Of `a/../b` nobody knows where it leads: `a` may be a link itself.
        return ups > depth or b".." in parts[ups:] or self.target[:1] in (b"", b"/")


@dataclass
class Listing:
    """What a machine says about one of its folders."""

    now: int = 0
    """The machine's clock."""
    mark: bytes = b""
    """The content of `MARK_FILE`; empty = it has none."""
    has: set[bytes] = field(default_factory=set)
    """Which of `tar` and `xargs` there are."""
    entries: dict[bytes, Entry] = field(default_factory=dict)
    written: set[bytes] = field(default_factory=set)
    """Files that some process holds open for writing, if they were asked for."""
    skipped: list[str] = field(default_factory=list)
    """What cannot be copied, each with its reason."""
    parts: dict[bytes, int] = field(default_factory=dict)
    """Sizes of files that were copied to the machine in part."""
    special: list[str] = field(default_factory=list)
    """What is neither file nor link nor folder, and has no content to copy."""


def shown(name: bytes) -> str:
    """Returns a name for people."""
    return in_words(name.decode("utf-8", "replace"), SHOWN_LENGTH_MAX)


def local_entries(folder: Path) -> Iterator[Entry]:
    """Yields what is below a folder of the driver's own, parents first; raises OSError."""
    root = os.fsencode(folder)
    waiting = [b""]
    while waiting:
        place = waiting.pop()
        with os.scandir(os.path.join(root, place)) as found:  # noqa: PTH118 - of bytes
            for one in sorted(found, key=lambda one: one.name):
                name = os.path.join(place, one.name)  # noqa: PTH118 - of bytes
                facts = one.stat(follow_symlinks=False)
                kind = _KINDS.get(stat.S_IFMT(facts.st_mode))
                is_part = kind is Kind.FILE and _PARTS_NAME.fullmatch(name)
                if kind is None or is_part or name == OWN_FOLDER:
                    continue
                target = os.readlink(one.path) if kind is Kind.LINK else b""  # noqa: PTH115
                mtime, mode = facts.st_mtime_ns // 10**9, facts.st_mode & 0o777
                yield Entry(name, kind, facts.st_size, mtime, mode, target=target)
                if kind is Kind.FOLDER:
                    waiting.append(name)


def spelled_path(path: str) -> str:
    """Returns a folder on the machine as a word of its shell.

    A relative one is below the image's folder, where the command starts, and not below root's home,
    where a session starts. Where the image's is not known, no workload can start either.
    """
    if path.startswith("/"):
        return shlex.quote(path)
    kept = f"{MACHINE_FOLDER}/cwd"
    return f'"$([ -s {kept} ] && cat {kept} || echo .)"/{shlex.quote(path)}'


async def remote_listing(
    connection: Connection, path: str, *, sees_writers: bool = False
) -> Listing:
    """Returns what is below a folder on the machine; nothing if the folder is not there.

    Raises CopyError for a list that no retry could mend, and MachineError.
    """
    script = _LIST.replace("@WRITERS@", _WRITERS if sees_writers else "")
    script = script.replace("@MARK@", MARK_FILE).replace("@PATH@", spelled_path(path))
    async with connection.open(script) as process, asyncio.timeout(LIST_SECONDS):
        found = await _read(_tokens(process.stdout, path), path)
        await process.wait_closed()
    if process.exit_status != 0 or found is None:
        raise MachineError("the machine's list of files broke off")
    return found


async def _tokens(stream: Output, path: str) -> AsyncIterator[bytes]:
    """Yields what stands before each NUL."""
    length, rest = 0, bytearray()
    while data := await stream.read(READ_BYTES):
        length += len(data)
        if length > LIST_BYTES_MAX or len(rest) > _TOKEN_BYTES_MAX:
            words = f"the list of the files in {path} is longer than {LIST_BYTES_MAX} bytes"
            raise CopyError(words)
        head, nul, tail = data.rpartition(b"\0")
        if nul:
            for token in (bytes(rest) + head).split(b"\0"):
                yield token
            rest.clear()
        rest += tail


async def _read(tokens: AsyncIterator[bytes], path: str) -> Listing | None:
    """Reads a list; None = it broke off."""
    found = Listing()
    async for word in tokens:
        if not word:
            break
        _head(found, word)
    count = 0
    while (token := await anext(tokens, None)) is not None:
        names: list[bytes] = []
        while token:
            if not names and token.startswith(b"end "):
                _end(found, token, path)
                return found
            count += 1
            if count > FILES_MAX:
                raise CopyError(f"{path} holds more than {FILES_MAX} files")
            names.append(token)
            token = await anext(tokens, None)
        facts = await anext(tokens, b"")
        lines = facts.rpartition(b"again\n")[2].split(b"\n")[:-1]
        targets: dict[bytes, bytes] = {}
        while link := await anext(tokens, None):
            targets[link] = await anext(tokens, b"")
            if len(targets) > len(names):
                raise MachineError("the machine's list of files is not understood")
        if link is None:
            return None
        if len(lines) != len(names):
            raise MachineError("the machine's list of files is not understood")
        for name, line in zip(names, lines, strict=True):
            _take(found, name, line, targets.get(name, b""))
    return None


def _end(found: Listing, token: bytes, path: str) -> None:
    if token not in (b"end 0", b"end 1"):
        words = f"the files in {path} cannot be listed: find ended with {shown(token[4:])}"
        raise CopyError(words)
    if token == b"end 1":
        found.skipped.append("some folders on the machine cannot be read")


def _head(found: Listing, token: bytes) -> None:
    word, _, value = token.partition(b" ")
    if word == b"without":
        raise CopyError(f"the image holds no {shown(value)}, which copying needs")
    if match := _CLOCK.fullmatch(token):
        found.now = int(match[1])
    elif match := _MARK.fullmatch(token):
        found.mark = match[1] + b"\n"
    elif word == b"has" and value in (b"tar", b"xargs"):
        found.has.add(value)
    elif word == b"writes" and len(found.written) < FILES_MAX:
        found.written.add(value)
    elif word != b"mark":
        raise MachineError("the machine's list of files is not understood")


def _take(found: Listing, listed: bytes, line: bytes, target: bytes) -> None:
    """Adds one entry of a machine's list."""
    if listed == b".":
        return
    name = listed.removeprefix(b"./")
    parts = name.split(b"/")
    if not listed.startswith(b"./") or {b"", b".", b".."} & set(parts) or parts[0] == OWN_FOLDER:
        found.skipped.append(f"{shown(listed)}: this name leads out of the folder")
        return
    if len(name) > NAME_BYTES_MAX or len(target) > NAME_BYTES_MAX:
        found.skipped.append(f"{shown(name)}: its name is too long")
        return
    match = _FACTS.fullmatch(line)
    if match is None:
        found.skipped.append(f"{shown(name)}: the machine knows neither its size nor its time")
        return
    mode = int(match[1], 16)
    kind = _KINDS.get(stat.S_IFMT(mode))
    if kind is None:
        found.special.append(f"{shown(name)}: it is neither a file nor a link nor a folder")
    elif kind is not Kind.FILE or not _PARTS_NAME.fullmatch(name):
        size, mtime, ctime, inode = (int(number) for number in match.groups()[1:])
        found.entries[name] = Entry(
            name, kind, size, mtime, mode & 0o777, (ctime, inode), target=target
        )
    else:
        # Left by a copy to the machine that broke off; the next copy continues it.
        found.parts[name] = int(match[2])
