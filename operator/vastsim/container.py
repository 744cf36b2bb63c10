"""The first process of a rented machine: makes the container around itself, then launches it.

It is run by its path, as root, in new namespaces for mounts, processes, host name and IPC, and is
told in one line of JSON on its standard input what to make. The network is the simulator's: all
machines share its addresses. It ends by becoming the command that it was told, which mostly is the
provider's launcher, so that the environment of the first process is the container's, as it is where
an engine starts it.
"""

import ctypes
import json
import os
import shutil
import socket
import sys
from pathlib import Path
from typing import NoReturn

MS_BIND = 4096
MS_REC = 16384
MS_PRIVATE = 1 << 18
MNT_DETACH = 2
PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
"""Number of the system call, for which the C library has no function."""
PR_CAPBSET_DROP = 24
DEVICES = ("full", "null", "random", "tty", "urandom", "zero")

KEPT = {0, 1, 3, 4, 5, 6, 7, 8, 10, 13, 18, 27, 29, 31}
"""The capabilities that container engines give: CHOWN, DAC_OVERRIDE, FOWNER, FSETID, KILL, SETGID,
SETUID, SETPCAP, NET_BIND_SERVICE, NET_RAW, SYS_CHROOT, MKNOD, AUDIT_WRITE, SETFCAP
(capabilities(7); Docker's reference, Linux capabilities)."""

_libc = ctypes.CDLL(None, use_errno=True)


def main() -> NoReturn:
    """Makes the container and becomes its launcher."""
    told = json.loads(sys.stdin.readline())
    folder, root = Path(told["folder"]), Path(told["folder"]) / "root"
    _mount("none", "/", "", MS_REC | MS_PRIVATE)
    layers = f"lowerdir={told['layer']}:{told['base']}"
    changes = f"upperdir={folder / 'changes'},workdir={folder / 'work'}"
    _mount("overlay", root, "overlay", 0, f"{layers},{changes}")
    _furnish(root)
    for source, place in told["mounts"].items():
        _bind(Path(source), root / place.lstrip("/"))
    _mount("proc", root / "proc", "proc")
    _bind(folder / "meminfo", root / "proc/meminfo")
    _become(root)
    name = told["name"].encode()
    socket.sethostname(name)
    for capability in range(int(Path("/proc/sys/kernel/cap_last_cap").read_text()) + 1):
        if capability not in KEPT:
            _check(_libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0), "drop capabilities")
    if told["user"] != 0:
        os.setgroups([])
        os.setgid(told["user"])
        os.setuid(told["user"])
    os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
    os.chdir(told["working_dir"])
    command, environment = told["command"], told["environment"]
    program = shutil.which(command[0], path=environment["PATH"])
    os.write(told["ready"], b"ready" if program else b"lacks")
    if program is None:
        sys.exit(127)
    os.closerange(3, 64)
    os.execve(program, command, environment)  # noqa: S606 - becomes it


def _furnish(root: Path) -> None:
    """Makes the folders that an engine makes in every container."""
    for name in ("proc", "sys", "dev", "tmp", "run", "root", "etc"):
        (root / name).mkdir(exist_ok=True)
    (root / "tmp").chmod(0o1777)
    for name in ("hosts", "resolv.conf"):
        if (ours := Path("/etc", name)).exists():
            (root / "etc" / name).write_bytes(ours.read_bytes())
    _mount("tmpfs", root / "dev", "tmpfs", 0, "mode=755,size=64k")
    for device in DEVICES:
        place = root / "dev" / device
        place.touch()
        _bind(Path("/dev") / device, place)
    for name, target in (
        ("ptmx", "pts/ptmx"),
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ):
        (root / "dev" / name).symlink_to(target)
    for name, kind, options in (
        ("pts", "devpts", "newinstance,ptmxmode=0666,mode=620,gid=5"),
        ("shm", "tmpfs", "mode=1777,size=64m"),
    ):
        (root / "dev" / name).mkdir()
        _mount(kind, root / "dev" / name, kind, 0, options)


def _become(root: Path) -> None:
    """Makes a folder the root of this process; nothing of the former one can be reached."""
    os.chdir(root)
    number = PIVOT_ROOT[os.uname().machine]
    _check(_libc.syscall(number, b".", b"."), "change the root")
    _check(_libc.umount2(b".", MNT_DETACH), "leave the former root")
    os.chdir("/")


def _bind(source: Path, place: Path) -> None:
    if source.is_dir():
        place.mkdir(parents=True, exist_ok=True)
    _mount(source, place, "", MS_BIND | MS_REC)


def _mount(
    source: Path | str, place: Path | str, kind: str, flags: int = 0, data: str = ""
) -> None:
    texts = [str(text).encode() for text in (source, place, kind, data)]
    done = _libc.mount(texts[0], texts[1], texts[2], flags, texts[3])
    _check(done, f"mount {source} on {place}")


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"cannot {what}: {os.strerror(number)}")


if __name__ == "__main__":
    main()
