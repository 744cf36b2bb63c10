"""Files of all sorts between a claim and machines of all sorts."""

import asyncio
import ctypes
import errno
import hashlib
import os
import socket
import stat
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from tests.contract.shells import NOBODY, ShellMachine, busybox_tools

from gpujob.api.data import Copy
from gpujob.driver import places
from gpujob.driver.files import Allowance
from gpujob.driver.listing import MARK_FILE, CopyError
from gpujob.driver.pulling import pull
from gpujob.driver.pushing import push
from gpujob.driver.state import Counter

PLENTY = 10**12

ODD_NAMES = [
    b"a\nb",
    b"\n",
    b"end\n",
    b"\n0\n\n",
    b"-rf",
    b"--",
    b"-",
    b"-n\\c",
    b" lead and trail ",
    b"back\\slash",
    b"\\\n\\",
    b"%s%n%%",
    b"*?[a]",
    b"$(touch x)`id`${HOME}",
    b"'\"",
    b"~root",
    b"#",
    b"a=b",
    b"\xff\xfe invalid",
    bytes(range(0x80, 0xA0)),
    bytes(number for number in range(1, 256) if number != 0x2F)[:250],
    b"n" * 255,
    "ünïcødé 😀".encode(),
    b"\x1b[31mred",
    b"...",
    b".hidden",
    b"..two",
    b"end 0",
    b"tab\there",
    b"\r",
    b"x -> y",
    b"sums",
    b"files",
    b"model.gpujob-part",
    b".gpujob-part",
]


@pytest.fixture(params=["dash", "bash", "busybox", "nobody", "no tar", "no xargs"])
def machine(request: pytest.FixtureRequest, tmp_path: Path) -> ShellMachine:
    """A machine with such a shell."""
    folder = tmp_path / "machine"
    kind = request.param
    if kind == "bash":
        tools = tmp_path / "tools"
        tools.mkdir()
        (tools / "sh").symlink_to("/bin/bash")
        return ShellMachine(folder, shell=("/bin/bash",), tools=f"{tools}:/usr/bin:/bin")
    if kind == "busybox":
        only = busybox_tools(tmp_path / "tools")
        return ShellMachine(folder, shell=(f"{only}/sh",), tools=only)
    if kind == "nobody":
        for parent in (tmp_path, *tmp_path.parents):
            if parent.owner() == "root" and parent != Path("/tmp"):
                parent.chmod(parent.stat().st_mode | 0o001)
        return ShellMachine(folder, shell=(*NOBODY, "/bin/sh"))
    if kind.startswith("no "):
        some = tmp_path / "tools"
        some.mkdir()
        missing = kind.removeprefix("no ")
        for found in (*Path("/usr/bin").iterdir(), *Path("/bin").iterdir()):
            if found.name != missing and not (some / found.name).is_symlink():
                (some / found.name).symlink_to(found)
        return ShellMachine(folder, tools=str(some))
    return ShellMachine(folder)


def tree(folder: Path) -> dict[bytes, tuple[str, str]]:
    """Returns what is below a folder: of each name, what it is, and its content's digest."""
    found = {}
    for path in folder.rglob("*"):
        mode = path.lstat().st_mode
        if stat.S_ISREG(mode):
            what = ("file", hashlib.sha256(path.read_bytes()).hexdigest())
        elif stat.S_ISLNK(mode):
            what = ("link", str(path.readlink()))
        else:
            what = ("folder" if stat.S_ISDIR(mode) else "special", "")
        found[os.fsencode(path.relative_to(folder))] = what
    return found


def fill(folder: Path) -> dict[bytes, tuple[str, str]]:
    """Puts files of all odd names into a folder, flat and deep, small and large."""
    for at, name in enumerate(map(os.fsdecode, ODD_NAMES)):
        for place in (folder, folder / "deep" / name, folder / ("d/" * 300)):
            place.mkdir(parents=True, exist_ok=True)
            (place / name).write_bytes(b"%d" % at * (at % 7 * 100))
    (folder / "large").write_bytes(os.urandom(9_000_000))
    (folder / "empty/folder").mkdir(parents=True)
    (folder / "inside").symlink_to("deep/.hidden")
    (folder / "deep/up").symlink_to("../large")
    (folder / "dangling").symlink_to("nowhere")
    return tree(folder)


async def test_any_name_comes_from_any_machine(machine: ShellMachine, tmp_path: Path) -> None:
    """With what is in it; links within the folder and empty folders, too."""
    there = machine.home / "out"
    there.mkdir()
    wanted = fill(there)
    copy = Copy(folder=str(tmp_path / "claim"), path="out")
    async with machine.connected() as connection:
        problems = await pull(connection, copy, Allowance(PLENTY, "x"))
        again = Allowance(PLENTY, "x")
        assert await pull(connection, copy, again) == ()

    assert problems == ()
    assert tree(tmp_path / "claim") == wanted


async def test_any_name_goes_to_any_machine(machine: ShellMachine, tmp_path: Path) -> None:
    """The same, the other way; a second time nothing is sent."""
    claim = tmp_path / "claim"
    claim.mkdir()
    wanted = fill(claim)
    copy = Copy(folder=str(claim), path="in/put")
    async with machine.connected() as connection:
        problems = await push(connection, copy, Allowance(PLENTY, "x"))
        again = Allowance(0, "x")
        repeated = await push(connection, copy, again)

    assert (problems, repeated) == ((), ())
    assert tree(machine.home / "in/put") == wanted


async def test_times_and_rights_are_kept(machine: ShellMachine, tmp_path: Path) -> None:
    """Before 1970 and far in the future, too; no right that makes others root."""
    there = machine.home / "out"
    there.mkdir()
    times = {"old": -1_000_000_000, "epoch": 0, "now": 1_700_000_000, "far": 4_000_000_000}
    modes = {"suid": 0o6755, "open": 0o666, "private": 0o600, "readable": 0o444, "run": 0o751}
    for name, moment in times.items():
        (there / name).write_text(name)
        os.utime(there / name, (moment, moment))
    for name, mode in modes.items():
        (there / name).write_text(name)
        (there / name).chmod(mode)
        os.chown(there / name, 65534, 65534)
        (there / name).chmod(mode)
    (there / "folder").mkdir(mode=0o1777)
    copy = Copy(folder=str(tmp_path / "claim"), path="out")
    back = Copy(folder=str(tmp_path / "claim"), path="back")
    async with machine.connected() as connection:
        assert await pull(connection, copy, Allowance(PLENTY, "x")) == ()
        assert await push(connection, back, Allowance(PLENTY, "x")) == ()

    for place in (tmp_path / "claim", machine.home / "back"):
        assert {name: (place / name).stat().st_mtime_ns // 10**9 for name in times} == times
        rights = {name: (place / name).stat().st_mode & 0o7777 for name in modes}
        assert rights == {
            "suid": 0o755,
            "open": 0o666,
            "private": 0o600,
            "readable": 0o644,
            "run": 0o751,
        }
    assert (tmp_path / "claim/folder").stat().st_mode & 0o7000 == 0


async def test_an_odd_file_costs_nobody_else_anything(
    machine: ShellMachine, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What cannot be read is told; what has no content is never opened."""
    caplog.set_level("INFO", "gpujob.driver")
    there = machine.home / "out"
    there.mkdir()
    (there / "model.pt").write_bytes(b"model")
    (there / "large").write_bytes(bytes(5_000_000))
    for name in ("lock", "large lock"):
        (there / name).write_bytes(b"x" * (5_000_000 if "large" in name else 0))
        (there / name).chmod(0)
    os.mkfifo(there / "fifo")
    with socket.socket(socket.AF_UNIX) as listening:
        os.chdir(there)
        listening.bind("socket")
        os.chdir("/")
    os.mknod(there / "zero", stat.S_IFCHR | 0o666, os.makedev(1, 5))
    (there / "out of it").symlink_to("/etc/passwd")
    (there / "up").symlink_to("../x")
    (there / "absolute").symlink_to(there / "model.pt")
    copy = Copy(folder=str(tmp_path / "claim"), path="out")
    async with machine.connected() as connection:
        problems = await pull(connection, copy, Allowance(PLENTY, "x"))

    came = {name.decode() for name in tree(tmp_path / "claim")}
    if NOBODY[0] in machine.shell:
        assert set(problems) == {
            f"{name}: the machine does not let it be read" for name in ("lock", "large lock")
        }
        assert came == {"model.pt", "large"}
    else:
        assert problems == ()
        assert came == {"model.pt", "large", "lock", "large lock"}
        assert (tmp_path / "claim/lock").stat().st_mode & 0o777 == 0o600
    for name in ("fifo", "socket", "zero"):
        assert f"{name}: " in caplog.text
    for name in ("out of it", "up", "absolute"):
        assert f"{name}: this link is absolute or leads out of the folder" in caplog.text


def hostile(folder: Path, *, find: str = "", **tools: str) -> ShellMachine:
    """A machine with tools that do not tell the truth; `find` names what is there."""
    bin_folder = folder / "tools"
    bin_folder.mkdir()
    for name, text in {"find": find, **tools}.items():
        (bin_folder / name).write_text(f"#!/bin/bash\n{text}\n")
        (bin_folder / name).chmod(0o755)
    made = ShellMachine(folder / "machine", tools=f"{bin_folder}:/usr/bin:/bin")
    (made.home / "out").mkdir()
    return made


def listed(*names: str, facts: str = "81a4 4 1 1 1", links: dict[str, str] | None = None) -> str:
    """Returns what `find` prints of these names."""
    text = "".join(f"printf '%s\\0' '{name}'; " for name in names) + "printf '\\0'; "
    text += f"echo '{facts}'; " * len(names) + "printf '\\0'; "
    for name, target in (links or {}).items():
        text += f"printf '%s\\0%s\\0' '{name}' '{target}'; "
    return text + "printf '\\0'"


@pytest.mark.parametrize(
    "name",
    [
        "./../evil",
        "../evil",
        "/etc/evil",
        "./a/../../evil",
        ".//evil",
        "./a/./evil",
        "./",
        "evil",
        "./.gpujob/job/files",
        "./.gpujob",
        "./a/..",
    ],
)
async def test_no_name_leads_out(tmp_path: Path, name: str) -> None:
    """Whatever a machine lists, it writes below the folder, or nowhere."""
    machine = hostile(tmp_path, find=listed(name, "./good"), cat="printf evil")
    (tmp_path / "claims/own").mkdir(parents=True)
    copy = Copy(folder=str(tmp_path / "claims/own"), path="out")
    async with machine.connected() as connection:
        problems = await pull(connection, copy, Allowance(PLENTY, "x"))

    assert any("this name leads out of the folder" in problem for problem in problems)
    assert set(tree(tmp_path / "claims")) <= {b"own", b"own/good", b"own/a"}


@pytest.mark.parametrize("target", ["/etc", "..", "../..", "a/../../b", "", "x/.."])
async def test_no_link_leads_out(tmp_path: Path, target: str) -> None:
    """Nor is anything written through one, in the order that suits a machine best."""
    find = listed("./l", facts="a1ff 4 1 1 1", links={"./l": target}) + "; " + listed("./l/evil")
    machine = hostile(tmp_path, find=find, cat="printf evil")
    (tmp_path / "claims/own").mkdir(parents=True)
    copy = Copy(folder=str(tmp_path / "claims/own"), path="out")
    async with machine.connected() as connection:
        await pull(connection, copy, Allowance(PLENTY, "x"))

    assert not list((tmp_path / "claims").rglob("evil")) or target in ("", "a/../../b")
    assert all(what[0] != "link" for what in tree(tmp_path / "claims").values())


async def test_nothing_is_written_through_a_link_within(tmp_path: Path) -> None:
    """A link of the machine's own may lie where a later name needs a folder."""
    find = listed("./l", facts="a1ff 4 1 1 1", links={"./l": "a"}) + "; " + listed("./l/evil")
    machine = hostile(tmp_path, find=find, cat="printf evil")
    (tmp_path / "claim/a").mkdir(parents=True)
    copy = Copy(folder=str(tmp_path / "claim"), path="out")
    async with machine.connected() as connection:
        problems = await pull(connection, copy, Allowance(PLENTY, "x"))

    assert problems == ("l/evil: a link leads out of the folder",)
    assert list((tmp_path / "claim/a").iterdir()) == []


@pytest.mark.parametrize(
    "facts",
    [
        "81a4 " + "9" * 5000 + " 1 1 1",
        "81a4 4 " + "9" * 5000 + " 1 1",
        "ffffffffffff 4 1 1 1",
        "81a4 -4 1 1 1",
        "81a4 4 1 1",
        "81a4 4 1 1 1 1",
        "81a4 4 1e9 1 1",
        "",
    ],
)
async def test_facts_that_cannot_be_are_of_one_file(tmp_path: Path, facts: str) -> None:
    """No number is read that is longer than numbers are."""
    machine = hostile(tmp_path, find=listed("./x", facts=facts))
    copy = Copy(folder=str(tmp_path / "claim"), path="out")
    async with machine.connected() as connection:
        problems = await pull(connection, copy, Allowance(PLENTY, "x"))

    assert problems[0] == "x: the machine knows neither its size nor its time"


async def test_no_time_ends_the_driver(tmp_path: Path) -> None:
    """A time that no file system knows is not kept; the file is."""
    find = listed("./x", facts=f"81a4 4 {10**18 - 1} 1 1") + "; " + listed("./y")
    machine = hostile(tmp_path, find=find + "; printf 'end 0\\0'; exit 0")
    for name in "xy":
        (machine.home / "out" / name).write_text("four")
    copy = Copy(folder=str(tmp_path / "claim"), path="out")
    async with machine.connected() as connection:
        problems = await pull(connection, copy, Allowance(PLENTY, "x"))

    assert problems == ()
    assert (tmp_path / "claim/x").read_text() == "four"


@pytest.mark.parametrize(
    "cat", ["exec /bin/cat /dev/zero", "yes", "sleep 0", '/bin/cat "$@"; /bin/cat /dev/zero']
)
async def test_a_stream_without_end_is_cut(tmp_path: Path, cat: str) -> None:
    """It takes neither memory nor more of the allowance than was to come, and a little."""
    machine = hostile(tmp_path, cat=f'[ "$1" = {MARK_FILE} ] && exec /bin/cat "$1"; {cat}')
    (tmp_path / "tools/find").unlink()
    for name in ("small", "large"):
        size = 5_000_000 if name == "large" else 10
        (machine.home / "out" / name).write_bytes(bytes(size))
    copy = Copy(folder=str(tmp_path / "claim"), path="out")
    allowance = Allowance(PLENTY, "x")
    tracemalloc.start()
    try:
        async with machine.connected() as connection:
            await pull(connection, copy, allowance)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert most < 40 << 20
    assert PLENTY - allowance.left < 60_000_000


@pytest.mark.parametrize(
    ("tee", "words"),
    [
        ("exec /usr/bin/tee /dev/full", "the machine does not take it: its disk may be full"),
        ('/usr/bin/tee "$@" | tr a b', "it changed while it was copied"),
        ('/usr/bin/tee "$@" >/dev/null; echo hello', "it changed while it was copied"),
    ],
)
async def test_what_the_machine_did_not_get_whole_is_told(
    tmp_path: Path, tee: str, words: str
) -> None:
    machine = hostile(tmp_path, tee=tee)
    claim = tmp_path / "claim"
    claim.mkdir()
    (claim / "large").write_bytes(b"a" * 5_000_000)
    copy = Copy(folder=str(claim), path="in")
    async with machine.connected() as connection:
        problems = await push(connection, copy, Allowance(PLENTY, "x"))

    assert problems == (f"large: {words}",)
    assert not (machine.home / "in/large").exists()


async def test_thousands_of_small_files_take_few_scripts(tmp_path: Path) -> None:
    """A script for each would take seconds over any line."""
    machine = ShellMachine(tmp_path / "machine")
    there = machine.home / "out"
    for at in range(5000):
        path = there / f"{at % 50}/{at}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"%d" % at * (at % 100))
    copy = Copy(folder=str(tmp_path / "claim"), path="out")
    back = Copy(folder=str(tmp_path / "claim"), path="back")
    async with machine.connected() as connection:
        assert await pull(connection, copy, Allowance(PLENTY, "x")) == ()
        pulled, machine.commands = len(machine.commands), []
        assert await push(connection, back, Allowance(PLENTY, "x")) == ()
        pushed = len(machine.commands)

    assert tree(machine.home / "back") == tree(tmp_path / "claim") == tree(there)
    assert (pulled, pushed) <= (12, 12)


@pytest.mark.parametrize("change", ["grow", "shrink", "vanish", "other"])
async def test_a_file_that_changes_costs_no_other_one(tmp_path: Path, change: str) -> None:
    """Between the list and the copy; the others of its bundle are whole."""
    act = {
        "grow": "head -c 3000 /dev/zero >> m",
        "shrink": ": > m",
        "vanish": "rm -f m",
        "other": "echo other > m",
    }[change]
    # `xargs` comes after the list and before the copy.
    machine = hostile(tmp_path, xargs=f'(cd "$HOME/out"; {act}); exec /usr/bin/xargs "$@"')
    (tmp_path / "tools/find").unlink()
    for name in "abcmxyz":
        (machine.home / "out" / name).write_bytes(name.encode() * 1000)
    copy = Copy(folder=str(tmp_path / "claim"), path="out")
    async with machine.connected() as connection:
        problems = await pull(connection, copy, Allowance(PLENTY, "x"))

    assert problems == ("m: it changed while it was copied",)
    assert {name.decode() for name in tree(tmp_path / "claim")} == set("abcxyz")


async def test_a_large_file_that_is_compared_is_not_idle(tmp_path: Path) -> None:
    """To read one again takes minutes; a copy that seems to stand still is given up."""
    ready, go = tmp_path / "ready", tmp_path / "go"
    wait = f"touch {ready}; until [ -e {go} ]; do sleep 0.05; done"
    machine = hostile(tmp_path, sha256sum=f'{wait}; exec /usr/bin/sha256sum "$@"')
    (tmp_path / "tools/find").unlink()
    (machine.home / "out/large").write_bytes(bytes(9_000_000))
    copy = Copy(folder=str(tmp_path / "claim"), path="out")
    allowance = Allowance(PLENTY, "x")
    async with machine.connected() as connection:
        pulling = asyncio.create_task(pull(connection, copy, allowance))
        while not ready.exists() or PLENTY - allowance.left < 9_000_000:
            await asyncio.sleep(0.05)
        copied_at = time.monotonic()
        while allowance.flowed_at < copied_at and not pulling.done():
            await asyncio.sleep(0.05)
        go.touch()
        assert await pulling == ()

    over = allowance.flowed_at
    assert copied_at < over <= time.monotonic()
    assert allowance.flowed_at == over


async def test_a_file_of_a_bundle_that_changes_in_place_is_copied_anew(tmp_path: Path) -> None:
    """It has the same size; only its SHA-256 shows that it is another one."""
    # One call of `xargs` prints the files, the next one their sums.
    act = "head -c 1000 /dev/urandom > m"
    machine = hostile(tmp_path, xargs=f'(cd "$HOME/out"; {act}); exec /usr/bin/xargs "$@"')
    (tmp_path / "tools/find").unlink()
    for name in "am":
        (machine.home / "out" / name).write_bytes(name.encode() * 1000)
    copy = Copy(folder=str(tmp_path / "claim"), path="out")
    async with machine.connected() as connection:
        problems = await pull(connection, copy, Allowance(PLENTY, "x"))

    assert problems == ()
    assert tree(tmp_path / "claim") == tree(machine.home / "out")


def test_an_allowance_outlives_its_driver(tmp_path: Path) -> None:
    """Otherwise each restart of the container would begin it anew."""
    first = Allowance(100, "data.maxUploadGB", Counter(tmp_path / "uploaded"))
    first.take(60)
    again = Allowance(100, "data.maxUploadGB", Counter(tmp_path / "uploaded"))
    with pytest.raises(CopyError, match=r"data\.maxUploadGB does not allow 41 more bytes"):
        again.take(41)
    again.take(40)

    assert Allowance(100, "", Counter(tmp_path / "uploaded")).left == 0


async def test_a_claim_that_keeps_no_rights_takes_the_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shares of Windows and object stores have none, and some of them refuse to set any."""

    def refuses(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "fchmod", refuses)
    monkeypatch.setattr(os, "utime", refuses)
    machine = ShellMachine(tmp_path / "machine")
    (machine.home / "out/below").mkdir(parents=True)
    (machine.home / "out/below/small").write_bytes(b"result")
    (machine.home / "out/large").write_bytes(os.urandom(5_000_000))
    copy = Copy(folder=str(tmp_path / "claim"), path="out")
    async with machine.connected() as connection:
        problems = await pull(connection, copy, Allowance(PLENTY, "x"))

    assert problems == ()
    assert tree(tmp_path / "claim") == tree(machine.home / "out")


async def test_what_a_claim_loses_when_it_is_synced_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is on a network takes bytes at first, and says later that it is full."""

    class Full:
        def syncfs(self, _: int) -> int:
            ctypes.set_errno(errno.ENOSPC)
            return -1

    monkeypatch.setattr(places, "_libc", Full())
    machine = ShellMachine(tmp_path / "machine")
    (machine.home / "out").mkdir()
    (machine.home / "out/small").write_bytes(b"result")
    copy = Copy(folder=str(tmp_path / "claim"), path="out")
    async with machine.connected() as connection:
        problems = await pull(connection, copy, Allowance(PLENTY, "x"))

    # Alone, it is synced by itself.
    assert problems == ()
    assert (tmp_path / "claim/small").read_bytes() == b"result"


@pytest.mark.parametrize("size", [10, 5_000_000])
@pytest.mark.parametrize("fails", ["open", "read"])
async def test_an_input_that_cannot_be_read_is_no_fault_of_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, fails: str
) -> None:
    """Another user's file, or a claim that is broken: to connect again would not help."""
    theirs: set[int] = set()
    opens = os.open

    def opened(path: Any, *more: Any, **named: Any) -> int:
        is_theirs = isinstance(path, bytes) and path.endswith(b"/theirs")
        if is_theirs and fails == "open":
            raise PermissionError(errno.EACCES, "Permission denied")
        descriptor = opens(path, *more, **named)
        theirs.add(descriptor) if is_theirs else theirs.discard(descriptor)
        return descriptor

    def refusing(read: Any) -> Any:
        def refuses(descriptor: int, *more: Any) -> Any:
            if descriptor in theirs:
                raise PermissionError(errno.EACCES, "Permission denied")
            return read(descriptor, *more)

        return refuses

    claim = tmp_path / "claim"
    claim.mkdir()
    for name in ("ours", "theirs"):
        (claim / name).write_bytes(bytes(size))
    machine = ShellMachine(tmp_path / "machine")
    copy = Copy(folder=str(claim), path="in")
    async with machine.connected() as connection:
        with monkeypatch.context() as patched:
            patched.setattr(os, "open", opened)
            patched.setattr(os, "read", refusing(os.read))
            patched.setattr(os, "pread", refusing(os.pread))
            problems = await push(connection, copy, Allowance(PLENTY, "x"))

    assert problems == ("theirs: Permission denied",)
    assert (machine.home / "in/ours").stat().st_size == size
