"""Starts and ends rented machines: containers of their own, each behind OpenSSH's server.

A machine needs root, since it has a file system and process numbers of its own. All of its
processes end with its first one; that one ends with the simulator, however the simulator ends.
"""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vastsim.doors import Doors
from vastsim.images import DEBIAN_PATH, ROOTS_HOME, Image, image
from vastsim.ports import Port

NAMESPACES = ("--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child")
HERE = Path(__file__).parent
HOST_KEY = "/etc/ssh/ssh_host_ed25519_key"
OTHER_KEY = "/etc/ssh/other_key"
AUTHORIZED_KEYS = f"{ROOTS_HOME}/.ssh/authorized_keys"
"""Where the provider puts the keys of the account, whatever home the image gives to root."""

USERS = """root:*:0:0:root:{home}:{shell}
sshd:*:100:65534::/run/sshd:/usr/sbin/nologin
user:*:1000:1000::/home/user:/bin/sh
nobody:*:65534:65534::/nonexistent:/usr/sbin/nologin
"""
GROUPS = "root:*:0:\ntty:*:5:\nuser:*:1000:\nnogroup:*:65534:\n"
SSHD = """# As in Debian's package, but for the addresses; passwords are not used.
{listen}HostKey {key}
PermitRootLogin yes
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
PrintMotd no
AcceptEnv LANG LC_*
Subsystem sftp /usr/lib/openssh/sftp-server
"""
OUTPUT_MAX = 1_000_000
"""Bytes of what a command says that are kept."""
SERVE_ANEW = """
for one in /proc/[0-9]*; do
  read -r name < "$one/comm" && case $name in sshd*) kill -9 "${one#/proc/}";; esac
done
[ -s /etc/ssh/other_key ] || ssh-keygen -q -t ed25519 -N '' -f /etc/ssh/other_key
/usr/sbin/sshd
"""
"""Cuts all connections, and starts the server with its present configuration."""


class NoProgramError(RuntimeError):
    """The image does not have the program that the container should run."""


@dataclass
class Running:
    """One machine's processes."""

    outside: asyncio.subprocess.Process
    """It waits for the first one, and ends with it."""
    first: int | None
    """Number of the machine's first process, as it is outside; None if it has ended by then."""
    doors: Doors


class Machines:
    """The machines that run now, by the number of their lease."""

    def __init__(
        self, host: str, ports: range | None, base: Path, shared: Path | None = None
    ) -> None:
        self._host = host
        self._ports = ports
        self._base = base
        self._shared = shared
        self._home = Path(tempfile.mkdtemp(prefix="vastsim-"))
        # The processes of images that are not root's must reach their files.
        self._home.chmod(0o755)
        self._running: dict[int, Running] = {}
        self._traffic_before: dict[int, tuple[int, int]] = {}
        """What each machine had downloaded and uploaded when it last started, in bytes."""
        self._doors: dict[int, Doors] = {}
        """Their ports are bound from the first start on, so that nobody else takes them."""

    def ports(self, number: int) -> tuple[int, int] | None:
        """Returns the SSH port of a machine and that of its proxy, or None if it does not run."""
        running = self._running.get(number)
        return (running.doors.port, running.doors.proxy_port) if running else None

    def mapped(self, number: int) -> dict[str, int]:
        """Returns the other ports of a machine: outside by inside, such as `8000/tcp`."""
        doors = self._doors.get(number)
        return {one.name: one.outside for one in doors.mapped} if doors else {}

    def ended(self) -> list[int]:
        """Returns the machines whose first process has ended by itself."""
        running = self._running.items()
        return [number for number, one in running if one.outside.returncode is not None]

    async def start(
        self,
        number: int,
        *,
        image_name: str,
        is_root: bool,
        environment: Mapping[str, str],
        command: list[str] | None,
        ports: tuple[Port, ...],
        onstart: str | None,
        authorized_keys: list[str],
        tools: Mapping[str, str],
        meminfo: str,
        traffic: tuple[int, int],
        shows_other_key: bool,
    ) -> None:
        """Starts a machine, with its old files if it had any; returns when it is launched.

        It runs the command, or if that is None the provider's launcher with the start script.
        `traffic` is what was downloaded and uploaded before, in bytes. Raises NoProgramError, or
        RuntimeError with the words of what failed.
        """
        folder, chosen = self._folder(number), image(image_name)
        doors = self._doors_of(number, ports)
        for name in ("root", "changes", "work", "cgroup"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / "meminfo").write_text(meminfo)
        self._traffic_before[number] = traffic
        self.count(number, traffic)
        key = OTHER_KEY if shows_other_key else HOST_KEY
        changes = _Layer(folder / "changes")
        changes.write("/etc/ssh/sshd_config", SSHD.format(listen=doors.listen, key=key))
        changes.write("/.launch", (HERE / "launcher.sh").read_text())
        changes.write("/.onstart", onstart or "")
        changes.add_lines(AUTHORIZED_KEYS, authorized_keys)
        for name, text in tools.items():
            changes.write(f"/usr/local/bin/{name}", text)
        changes.own_home(chosen)
        told = {
            "folder": str(folder),
            "base": str(self._base),
            "layer": str(self._layer(image_name, chosen)),
            "mounts": {
                str(folder / "cgroup"): "/sys/fs/cgroup",
                str(folder / "net"): "/sys/class/net",
            }
            | ({str(self._shared): str(self._shared)} if self._shared is not None else {}),
            "name": f"C.{number}",
            "working_dir": chosen.working_dir,
            "user": 0 if is_root else chosen.user,
            "command": ["/bin/sh", "/.launch"] if command is None else command,
            "environment": {"PATH": DEBIAN_PATH, "HOME": chosen.home, "HOSTNAME": f"C.{number}"}
            | {**chosen.environment, **environment}
            | {one.variable: str(one.outside) for one in doors.mapped}
            | ({"VAST_TCP_PORT_22": str(doors.port)} if command is None else {}),
        }
        if command is None:
            doors.filter()
            await doors.open_proxy()
        self._running[number] = await self._launched(folder, told, doors)
        for port in doors.mapped:
            await port.open()

    async def _launched(self, folder: Path, told: Mapping[str, object], doors: Doors) -> Running:
        reading, writing = os.pipe()
        with (folder / "container.log").open("ab") as log:
            outside = await asyncio.create_subprocess_exec(
                *("setpriv", "--pdeathsig", "KILL", "unshare", *NAMESPACES, "--"),
                *(sys.executable, "-I", "-S", str(HERE / "container.py")),
                stdin=asyncio.subprocess.PIPE,
                stdout=log,
                stderr=log,
                pass_fds=(writing,),
                env={"PATH": DEBIAN_PATH},
                start_new_session=True,
            )
        os.close(writing)
        assert outside.stdin is not None, "asked for as a pipe"
        outside.stdin.write(json.dumps({**told, "ready": writing}).encode() + b"\n")
        outside.stdin.close()
        said = await asyncio.to_thread(os.read, reading, 16)
        os.close(reading)
        if said == b"lacks":
            await outside.wait()
            raise NoProgramError(str(told["command"]))
        if not said:
            await outside.wait()
            words = (folder / "container.log").read_text(errors="replace").splitlines()[-1:]
            raise RuntimeError(f"the container did not start: {' '.join(words)}")
        return Running(outside, _only_child(outside.pid), doors)

    def count(self, number: int, traffic: tuple[int, int]) -> None:
        """Lets the counters of a machine's interfaces show its traffic since it last started.

        `traffic` is what was downloaded and uploaded up to now, in bytes; some more stays within.
        """
        if number not in self._traffic_before:
            return
        both = zip(traffic, self._traffic_before[number], strict=True)
        down, up = (now - before for now, before in both)
        for name, received, sent in (("eth0", down, up), ("lo", 9 * down, 9 * down)):
            counters = _Layer(self._folder(number) / "net" / name / "statistics")
            counters.write("rx_bytes", f"{received}\n")
            counters.write("tx_bytes", f"{sent}\n")

    def log(self, number: int) -> str:
        """Returns the container log of a machine; empty if it has none."""
        path = self._folder(number) / "container.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def authorize(self, number: int, key: str) -> None:
        """Lets a key log in to a running machine."""
        running = self._running.get(number)
        if running is not None:
            inside = _Layer(Path(f"/proc/{running.first}/root"))
            inside.add_lines(AUTHORIZED_KEYS, [key.strip()])

    def forbid(self, number: int, key: str) -> None:
        """Lets a key no longer log in to a machine."""
        running = self._running.get(number)
        changed = self._folder(number) / "changes"
        root = changed if running is None else Path(f"/proc/{running.first}/root")
        _Layer(root).remove_line(AUTHORIZED_KEYS, key.strip())

    async def run(self, number: int, command: list[str]) -> str:
        """Runs a command on a running machine, and returns what it says, at most a megabyte."""
        running = self._running[number]
        inside = ("nsenter", f"--target={running.first}", "--mount", "--pid", "--uts", "--ipc")
        process = await asyncio.create_subprocess_exec(
            *(*inside, "--wd=/", "timeout", "20", *command),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env={"PATH": DEBIAN_PATH},
        )
        assert process.stdout is not None, "asked for as a pipe"
        said = b""
        try:
            while len(said) < OUTPUT_MAX and (more := await process.stdout.read(1 << 16)):
                said += more
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        return said.decode(errors="replace")

    def change_key(self, number: int) -> None:
        """Cuts all connections to a running machine, which shows another host key from then on."""
        self._serve_anew(number, OTHER_KEY)

    def set_direct(self, number: int, state: str) -> None:
        """Changes how a machine's own port is; cuts all connections to it if it runs."""
        self._doors_of(number).set_direct(state)
        self._serve_anew(number, HOST_KEY)

    async def set_proxy(self, number: int, state: str) -> None:
        """Changes how the proxy of a machine is; cuts what it carries."""
        await self._doors_of(number).set_proxy(state)

    def _serve_anew(self, number: int, key: str) -> None:
        running = self._running.get(number)
        if running is None:
            return
        config = SSHD.format(listen=running.doors.listen, key=key)
        _Layer(Path(f"/proc/{running.first}/root")).write("/etc/ssh/sshd_config", config)
        inside = ("nsenter", f"--target={running.first}", "--mount", "--pid", "--uts", "--ipc")
        subprocess.run([*inside, "sh", "-c", SERVE_ANEW], check=True, timeout=60)
        running.doors.filter()

    async def stop(self, number: int) -> None:
        """Kills everything that runs on a machine; its files stay."""
        running = self._running.get(number)
        if running is None:
            return
        # The kernel ends all other processes of the machine before the first one is gone.
        if running.first is not None and running.outside.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(running.first, signal.SIGKILL)
        await running.outside.wait()
        await running.doors.close_proxy()
        for port in running.doors.mapped:
            port.shut()
        # Forgotten only after it has ended.
        self._running.pop(number, None)

    async def end(self, number: int) -> None:
        """Kills everything that runs on a machine and removes its files."""
        await self.empty(number)
        if number in self._doors:
            await self._doors.pop(number).close()

    async def empty(self, number: int) -> None:
        """Kills everything that runs on a machine and removes its files; its ports stay."""
        await self.stop(number)
        shutil.rmtree(self._folder(number), ignore_errors=True)

    async def end_all(self) -> None:
        """Ends all machines and removes all their files."""
        for number in list(self._running):
            await self.end(number)
        shutil.rmtree(self._home, ignore_errors=True)

    def _folder(self, number: int) -> Path:
        return self._home / str(number)

    def _doors_of(self, number: int, ports: tuple[Port, ...] = ()) -> Doors:
        if number not in self._doors:
            self._doors[number] = Doors(self._host, self._ports, ports)
        return self._doors[number]

    def _layer(self, name: str, chosen: Image) -> Path:
        """Returns the folder of what an image has besides the base; it is made once."""
        folder = self._home / "images" / name.replace("/", "_").replace(":", "_")
        if folder.exists():
            return folder
        layer = _Layer(folder)
        layer.write("/etc/passwd", USERS.format(home=chosen.home, shell=chosen.login_shell))
        layer.write("/etc/group", GROUPS)
        layer.link("/usr/bin/sh", chosen.sh)
        layer.make(chosen.working_dir)
        for path, text in chosen.files.items():
            layer.write(path, text)
        for path, source in chosen.moved.items():
            layer.write(path, (self._base / source.lstrip("/")).read_bytes())
        for path in chosen.lacks:
            layer.remove(path)
        for path in chosen.foreign:
            layer.give_away(path)
        layer.make(chosen.home)
        layer.own_home(chosen)
        return folder


def _only_child(pid: int) -> int | None:
    try:
        return int(Path(f"/proc/{pid}/task/{pid}/children").read_text())
    except (OSError, ValueError):
        return None


class _Layer:
    """A folder that is laid over others."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def _at(self, path: str) -> Path:
        place = self._root / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        return place

    def make(self, path: str) -> None:
        """Makes a folder."""
        self._at(path).mkdir(parents=True, exist_ok=True)

    def write(self, path: str, text: str | bytes) -> None:
        """Writes a file, which can be run if it is a program, or names its interpreter."""
        place, data = self._at(path), text.encode() if isinstance(text, str) else text
        place.write_bytes(data)
        place.chmod(0o755 if data.startswith((b"#!", b"\x7fELF")) else 0o644)

    def give_away(self, path: str) -> None:
        """Makes a folder that is somebody else's, and that everybody may write."""
        self.make(path)
        os.chown(self._at(path), 1000, 1000)
        self._at(path).chmod(0o777)

    def add_lines(self, path: str, lines: list[str]) -> None:
        """Adds the lines that a file, which only its owner may read, does not have yet."""
        place = self._at(path)
        place.parent.chmod(0o700)
        known = place.read_text().splitlines() if place.exists() else []
        with place.open("a") as stream:
            stream.writelines(f"{line}\n" for line in lines if line not in known)
        place.chmod(0o600)

    def remove_line(self, path: str, line: str) -> None:
        """Removes a line from a file, if it is there."""
        place = self._at(path)
        if place.exists():
            kept = [one for one in place.read_text().splitlines() if one != line]
            place.write_text("".join(f"{one}\n" for one in kept))

    def link(self, path: str, target: str) -> None:
        """Makes a symbolic link."""
        self._at(path).symlink_to(target)

    def remove(self, path: str) -> None:
        """Hides a file of the layers below (Linux, overlayfs, Whiteouts)."""
        os.mknod(self._at(path), 0o020000, os.makedev(0, 0))

    def own_home(self, chosen: Image) -> None:
        """Gives root's home the owner and the mode that the image says."""
        home = self._root / chosen.home.lstrip("/")
        if home.exists():
            os.chown(home, chosen.home_owner, chosen.home_owner)
            home.chmod(chosen.home_mode)
