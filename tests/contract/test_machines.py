"""Rented machines really run, are reached over real SSH, and die with everything on them."""

import asyncio
import json
import re
import socket
import subprocess
import sys
import tracemalloc
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from math import inf
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import asyncssh
import pytest
from pydantic import SecretStr
from tests.contract.test_vast_client import CLOCK, SPEC, request
from tests.integration.parts import KEY, Simulator, eventually

from gpujob.adapters.clock import SystemClock
from gpujob.adapters.door import Door
from gpujob.adapters.errors import (
    HostKeyMismatch,
    LoginRefused,
    MachineError,
    MachineUnreachable,
    SessionBroken,
    SessionHangs,
)
from gpujob.adapters.ssh import OUTPUT_BYTES_MAX, Connection, connect
from gpujob.adapters.vast import VastClient
from gpujob.api.transport import MACHINE_FOLDER
from gpujob.core.effects import Rent
from gpujob.core.machine.start_script import host_key_in_log, start_script
from gpujob.core.market.listings import Address, Lease
from gpujob.core.market.search import search_of

NONCE = "ab" * 16


def new_key(path: Path) -> str:
    """Writes a private key and returns its public half."""
    private = asyncssh.generate_private_key("ssh-ed25519")
    path.touch(mode=0o600)
    private.write_private_key(str(path))
    return private.export_public_key("openssh").decode().strip()


def _started(process: int) -> float:
    """Returns when a process began, in ticks since the system's start; one that is gone, never."""
    try:
        told = Path(f"/proc/{process}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return inf
    return float(told.rpartition(")")[2].split()[19])


class Machine:
    """One rented machine that has booted."""

    def __init__(self, simulator: Simulator, vast: VastClient, folder: Path) -> None:
        self.vast = vast
        self.key = folder / "key"
        self.ask = simulator.ask
        self._simulator = simulator
        self._folder = folder
        self.number = 0
        self.port = 0
        self.addresses: tuple[Address, ...] = ()
        self.host_key = ""

    async def rent(
        self,
        image: str = "python:3.11",
        *,
        before: str = "",
        after: str = "",
        born_before_hours: int = 1,
        money_seconds: int = 10_000,
        stale_seconds: int = 10_000,
        max_download_gb: int = 1000,
        max_upload_gb: int = 1000,
        setup: str | None = None,
        writes_key: bool = True,
    ) -> None:
        """Rents it; its start script comes between `before` and `after`."""
        started = start_script(
            ssh_public_key=new_key(self.key),
            nonce=NONCE,
            provider_url=self._simulator.url,
            born_before=datetime.now(UTC) + timedelta(hours=born_before_hours),
            money_deadline_seconds=money_seconds,
            heartbeat_stale_seconds=stale_seconds,
            max_download_gb=max_download_gb,
            max_upload_gb=max_upload_gb,
        )
        offer = (await self.vast.search(search_of(SPEC))).offers[0]
        asked = request(offer.offer_id)
        what = {
            "start_script": before + started.script + after,
            "setup": started.setup if setup is None else setup,
        }
        if not writes_key:
            text = b64decode(started.setup).replace(b'>> "$f"', b">/dev/null")
            what["setup"] = b64encode(text).decode()
        rent = Rent(**{**vars(asked), **what, "image": image})
        async with self.vast.rent_line() as line:
            self.number = await line.send(rent, 10)

    async def boot(
        self,
        image: str = "python:3.11",
        *,
        writes_key: bool = True,
        before: str = "",
        after: str = "",
    ) -> None:
        """Rents it, waits for it, and reads its host key from the provider's log.

        Its start script may be unable to write the list of keys.
        """
        await self.rent(image, writes_key=writes_key, before=before, after=after)
        while not (found := await self._host_key()):
            await asyncio.sleep(0.1)
        self.host_key = found
        await self.up()

    async def up(self) -> None:
        """Waits until it runs and listens, and learns where.

        The provider calls a machine running before its SSH server listens.
        """
        while not (up := [row for row in await self._listed() if row.status == "running"]):
            await asyncio.sleep(0.1)
        (lease,) = up
        self.addresses = lease.addresses
        (_, self.port), *_ = lease.addresses
        while not await self._listens():
            await asyncio.sleep(0.1)

    async def _listens(self) -> bool:
        with suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", self.port)
            writer.close()
            return True
        return False

    async def _listed(self) -> tuple[Lease, ...]:
        return (await self.vast.list_leases()).leases

    async def _host_key(self) -> str | None:
        return host_key_in_log(await self.vast.read_log(self.number) or "", NONCE)

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[Connection]:
        """A connection to it."""
        async with connect("127.0.0.1", self.port, "root", self.key, self.host_key) as connection:
            yield connection

    def seen(self, path: Path) -> Path:
        """Returns where a file of the machine, while it runs, is reached from here."""
        # By the one that runs for longest: others end before anybody looks. Their numbers tell
        # nothing, because they begin anew.
        oldest = min(self.processes(), key=_started)
        return Path(f"/proc/{oldest}/root") / path.relative_to("/")

    def processes(self, *command: str) -> list[int]:
        """Returns what runs on it, by the root of each process: the machine's own folder.

        With a command, only what was started by exactly this one.
        """
        wanted = "".join(f"{word}\0" for word in command).encode()
        root = re.compile(
            rf"upperdir={re.escape(str(self._folder))}/vastsim-\w+/{self.number}/changes,"
        )
        found = []
        for entry in Path("/proc").iterdir():
            with suppress(OSError):
                if not entry.name.isdecimal():
                    continue
                # This first: a list of mounts costs the kernel far more.
                if command and (entry / "cmdline").read_bytes() != wanted:
                    continue
                if root.search((entry / "mountinfo").read_text()):
                    found.append(int(entry.name))
        return found


@pytest.fixture
async def machine(simulator: Simulator, tmp_path: Path) -> AsyncIterator[Machine]:
    """A booted machine."""
    vast = VastClient(simulator.url, SecretStr(KEY), SystemClock(), Door(SystemClock(), spacing=0))
    made = Machine(simulator, vast, tmp_path)
    await made.boot()
    yield made
    await vast.close()


async def test_an_image_that_prints_much_does_not_hide_the_host_key(
    simulator: Simulator, tmp_path: Path
) -> None:
    """50,000 lines after it: the provider shows only the last lines."""
    vast = VastClient(simulator.url, SecretStr(KEY), SystemClock(), Door(SystemClock(), spacing=0))
    machine = Machine(simulator, vast, tmp_path)
    await machine.boot(after="seq 1 50000 | sed 's/$/ a layer of the image was pulled/'\n")
    async with machine.connected() as connection:
        assert await connection.run("echo reached") == b"reached\n"
    await vast.close()


async def test_commands_truly_run(machine: Machine) -> None:
    """Output, input and exit status are those of a real shell in a home of its own."""
    async with machine.connected() as connection:
        said = await connection.run("cat; echo; uname -n; pwd", b"hello")
        with pytest.raises(MachineUnreachable, match="ended with status 7"):
            await connection.run("exit 7")

    first, number, home = said.decode().splitlines()
    assert (first, number) == ("hello", f"C.{machine.number}")
    assert home == "/root"


@pytest.mark.parametrize("most", [1, 3])
async def test_an_image_may_allow_few_sessions_for_a_connection(
    simulator: Simulator, tmp_path: Path, most: int
) -> None:
    """As advisers on security say, while we need up to ten at a time."""
    vast = VastClient(simulator.url, SecretStr(KEY), SystemClock(), Door(SystemClock(), spacing=0))
    machine = Machine(simulator, vast, tmp_path)
    few = f"echo MaxSessions {most} >> /etc/ssh/sshd_config; kill -HUP $(cat /run/sshd.pid)\n"
    await machine.boot(before=few)
    gathered = "cd; echo >> come; while [ $(wc -l < come) -lt 6 ]; do sleep 0.05; done"
    async with machine.connected() as connection, asyncio.timeout(120):
        await asyncio.gather(*(connection.run(gathered, timeout_seconds=60) for _ in range(6)))
    await vast.close()


async def test_a_user_who_logs_in_gets_a_terminal_and_files(machine: Machine) -> None:
    """As at the provider: a login shell on a terminal of its own, and SFTP."""
    known = asyncssh.import_known_hosts(f"* {machine.host_key}\n")
    async with (
        asyncssh.connect(
            "127.0.0.1",
            machine.port,
            username="root",
            client_keys=[str(machine.key)],
            known_hosts=known,
            config=None,
        ) as client,
        client.start_sftp_client() as sftp,
    ):
        lines = "shopt -q login_shell && tty && stty size && echo $TERM && exit 7\n"
        shell = await client.run(
            input=lines, term_type="xterm-256color", term_size=(133, 37), timeout=60
        )
        async with sftp.open("a file", "wb") as file:
            await file.write(bytes(3_000_000))
        await sftp.rename("a file", "another")
        facts = await sftp.stat("another")
        names = await sftp.listdir()

    said = str(shell.stdout)
    assert re.search(r"^/dev/pts/\d+\r$", said, re.MULTILINE), said
    assert "\r\n37 133\r\nxterm-256color\r\n" in said
    assert shell.exit_status == 7
    assert (facts.size, facts.uid) == (3_000_000, 0)
    assert "another" in names
    assert "a file" not in names


async def test_errors_that_come_late_break_nothing(machine: Machine) -> None:
    """A command ends when both of its streams do; the connection is good for the next one."""
    late = "(sleep 0.3; echo late >&2) >/dev/null & exit 0"
    async with machine.connected() as connection:
        await connection.run(late)
        said = await connection.run("sleep 0.6; echo still here")

    assert said == b"still here\n"


async def test_a_script_that_hangs_is_given_up(machine: Machine) -> None:
    """Nothing is waited for for ever: whoever asked connects anew."""
    async with machine.connected() as connection:
        with pytest.raises(MachineUnreachable, match="Timeout"):
            await connection.run("sleep 600", timeout_seconds=0.2)


@pytest.mark.parametrize("where", ["1", "2"])
async def test_a_script_that_tells_too_much_is_given_up(machine: Machine, where: str) -> None:
    """However much a stranger's machine says, it takes no memory; of errors the end is kept."""
    script = f"head -c 100000000 /dev/zero >&{where}; printf 'at the\\nend' >&2; exit 7"
    words = {"1": "more than 262144 bytes", "2": "ended with status 7: .*at the end"}
    async with machine.connected() as connection:
        tracemalloc.start()
        try:
            with pytest.raises(MachineError, match=words[where]):
                await connection.run(script, timeout_seconds=240)
            _, most = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        said = await connection.run("head -c 262144 /dev/zero", timeout_seconds=240)

    assert most < 20 << 20
    assert said == bytes(OUTPUT_BYTES_MAX)


class Mute(asyncssh.SSHServer):
    """Lets everybody in and opens no channel."""

    def begin_auth(self, username: str) -> bool:
        return False

    async def _never(self) -> asyncssh.SSHServerSession[bytes]:
        await asyncio.Event().wait()
        raise AssertionError("nothing sets it")

    def session_requested(self) -> Awaitable[asyncssh.SSHServerSession[bytes]]:
        return self._never()


async def test_start_up_files_that_print_without_end_are_given_up(machine: Machine) -> None:
    """Before a script begins only so much is read."""
    async with machine.connected() as connection:
        await connection.run("echo yes > ~/.bashrc")
        with pytest.raises(SessionBroken, match="print more than 65536 bytes"):
            await connection.run("true")


async def test_a_channel_that_is_never_opened_is_given_up(tmp_path: Path) -> None:
    """For a script that is run, and for one whose output is followed."""
    host = asyncssh.generate_private_key("ssh-ed25519")
    new_key(tmp_path / "key")
    server = await asyncssh.create_server(Mute, "127.0.0.1", 0, server_host_keys=[host])
    shown = host.export_public_key("openssh").decode().strip()
    port = server.get_port()
    key = tmp_path / "key"
    async with server, connect("127.0.0.1", port, "root", key, shown) as connection:
        with pytest.raises(MachineUnreachable, match="Timeout"):
            await connection.run("true", timeout_seconds=0.2)
        with pytest.raises(MachineUnreachable, match="Timeout"):
            async with connection.open("true", timeout_seconds=0.2):
                pass


class Refusing(asyncssh.SSHServer):
    """Lets everybody in; no session says a word, and no port is open, or nothing is answered."""

    def __init__(self, *, answers: bool) -> None:
        self._answers = answers

    def begin_auth(self, username: str) -> bool:
        return False

    async def connection_requested(self, *_: Any) -> bool:  # type: ignore[override]
        if not self._answers:
            await asyncio.Event().wait()
        return False


@pytest.mark.parametrize("answers", [True, False])
async def test_a_session_that_hangs_is_told_from_a_machine_that_does(
    tmp_path: Path, answers: bool
) -> None:
    """The server is asked for something that no start-up file has a part in."""
    host = asyncssh.generate_private_key("ssh-ed25519")
    new_key(tmp_path / "key")

    async def says_nothing(_: Any) -> None:
        await asyncio.Event().wait()

    server = await asyncssh.create_server(
        lambda: Refusing(answers=answers),
        "127.0.0.1",
        0,
        server_host_keys=[host],
        process_factory=says_nothing,
    )
    shown = host.export_public_key("openssh").decode().strip()
    async with (
        server,
        connect("127.0.0.1", server.get_port(), "root", tmp_path / "key", shown) as connection,
    ):
        with pytest.raises(MachineUnreachable) as told:
            await connection.run("true", timeout_seconds=0.5)

    assert isinstance(told.value, SessionHangs) is answers


async def test_a_line_is_never_compressed(tmp_path: Path) -> None:
    """One packet of it could become a thousand times as long in memory."""
    host = asyncssh.generate_private_key("ssh-ed25519")
    new_key(tmp_path / "key")
    compression = {"compression_algs": ["zlib@openssh.com", "zlib"]}
    server = await asyncssh.create_server(
        Mute, "127.0.0.1", 0, server_host_keys=[host], **compression
    )
    shown = host.export_public_key("openssh").decode().strip()
    async with server:
        with pytest.raises(MachineUnreachable, match="compression"):
            async with connect("127.0.0.1", server.get_port(), "root", tmp_path / "key", shown):
                pass


async def test_another_host_key_is_not_accepted(machine: Machine) -> None:
    """Never trust on first use."""
    other = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHCjEzNEDKQ3UTnQHzVz0CKCeTTnPIQRf2zOEIyqmtVr"
    with pytest.raises(HostKeyMismatch):
        async with connect("127.0.0.1", machine.port, "root", machine.key, other):
            pass


async def test_another_key_does_not_log_in(machine: Machine, tmp_path: Path) -> None:
    """Only the node's own key opens its machine."""
    key = tmp_path / "other"
    new_key(key)
    with pytest.raises(LoginRefused):
        async with connect("127.0.0.1", machine.port, "root", key, machine.host_key):
            pass


async def test_it_dies_with_everything_on_it(machine: Machine) -> None:
    """What was detached twice, and what starts during the destroy, is killed; the port closes."""
    detach = "(setsid sh -c 'setsid sleep 1000 & sleep 1000' >/dev/null 2>&1 &) ; true"
    async with machine.connected() as connection:
        await connection.run(detach)
        assert len(machine.processes()) > 3
        racing = [asyncio.create_task(connection.run(detach)) for _ in range(20)]
        await machine.vast.destroy(machine.number)
        await asyncio.gather(*racing, return_exceptions=True)

    assert machine.processes() == []
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", machine.port)) != 0


async def test_a_killed_simulator_leaves_no_process(tmp_path: Path) -> None:
    """Its machines end with it, with what was detached on them."""
    simulator = Simulator(tmp_path)
    simulator.start()
    vast = VastClient(simulator.url, SecretStr(KEY), CLOCK, Door(CLOCK, spacing=0))
    machine = Machine(simulator, vast, tmp_path)
    await machine.boot()
    async with machine.connected() as connection:
        await connection.run("setsid sleep 1000 >/dev/null 2>&1 &")
    assert simulator._process is not None
    simulator._process.kill()
    await vast.close()

    await asyncio.to_thread(eventually, "nothing runs", lambda: not machine.processes())


async def test_a_stopped_machine_starts_again_with_its_disk(machine: Machine) -> None:
    """Nothing runs while it is stopped; then its files, keys and host key are as they were."""
    async with machine.connected() as connection:
        await connection.run("echo kept > $HOME/file; setsid sleep 1000 >/dev/null 2>&1 &")
    machine.ask("PUT", f"/api/v0/instances/{machine.number}/", {"state": "stopped"})
    assert machine.processes() == []
    machine.ask("PUT", f"/api/v0/instances/{machine.number}/", {"state": "running"})
    await machine.up()
    async with machine.connected() as connection:
        said = await connection.run("cat $HOME/file")

    assert said == b"kept\n"
    # Its start script runs again beside the SSH server.
    while (await machine.vast.read_log(machine.number) or "").count("gpujob-host-key") < 2:
        await asyncio.sleep(0.1)


async def test_an_outbid_machine_stops_and_resumes_by_itself(machine: Machine) -> None:
    """Its user cannot start it meanwhile; it is back when the other one is gone."""
    machine.ask("POST", f"machines/{machine.number}/outbid", {"lasts": -1})
    (outbid,) = (await machine.vast.list_leases()).leases
    answer = machine.ask("PUT", f"/api/v0/instances/{machine.number}/", {"state": "running"})
    assert machine.processes() == []
    machine.ask("POST", f"machines/{machine.number}/resume", {})
    await machine.up()
    (resumed,) = (await machine.vast.list_leases()).leases
    async with machine.connected() as connection:
        await connection.run("true")

    assert (outbid.status, outbid.intended_status) == ("exited", "stopped")
    assert answer["error"] == "resources_unavailable"
    assert (resumed.status, resumed.intended_status) == ("running", "running")


async def test_without_credit_machines_stop_and_their_disks_stay(machine: Machine) -> None:
    """As at the provider: nothing runs, and nothing is started."""
    machine.ask("PUT", "credit", {"usd": 0})
    # Its processes end a moment before the listing says so.
    while (lease := (await machine.vast.list_leases()).leases[0]).status == "running":
        await asyncio.sleep(0.1)
    assert machine.processes() == []
    with pytest.raises(HTTPError) as refused:
        machine.ask("PUT", f"/api/v0/instances/{machine.number}/", {"state": "running"})
    refused.value.close()

    assert (lease.status, lease.intended_status) == ("exited", "stopped")


async def test_the_account_key_is_on_no_machine(machine: Machine, tmp_path: Path) -> None:
    """Not in any environment, command line or file of it; the test's own folder is shared."""
    places = f"--exclude-dir={tmp_path.name} /root /etc /tmp /var /run"
    async with machine.connected() as connection:
        said = await connection.run(
            f"env; cat /proc/self/environ; grep -rs canary {places} || true"
        )
    for pid in machine.processes():
        for part in ("environ", "cmdline"):
            # It may have ended meanwhile.
            with suppress(OSError):
                assert KEY.encode() not in Path(f"/proc/{pid}/{part}").read_bytes()

    assert KEY.encode() not in said


@pytest.mark.parametrize("tool", ["curl", "python3", "wget", "perl"])
@pytest.mark.parametrize("why", ["money deadline", "no heartbeat", "born too late", "returned"])
async def test_the_watchdog_destroys_its_machine(
    simulator: Simulator, tmp_path: Path, tool: str, why: str
) -> None:
    """By each tool alone, from the start script, without operator or cluster.

    A machine that returns after it was stopped counts from its first start.
    """
    vast = VastClient(simulator.url, SecretStr(KEY), SystemClock(), Door(SystemClock(), spacing=0))
    machine = Machine(simulator, vast, tmp_path)
    began = f"mkdir -p {MACHINE_FOLDER}; echo $(($(date +%s) - 700)) > {MACHINE_FOLDER}/began\n"
    await machine.rent(
        f"vastsim/only-{tool}",
        before=began if why == "returned" else "",
        born_before_hours=-1 if why == "born too late" else 1,
        money_seconds={"money deadline": 1, "returned": 600}.get(why, 10_000),
        stale_seconds=1 if why == "no heartbeat" else 10_000,
    )
    await vast.close()
    keys: set[bytes] = set()

    def destroyed() -> bool:
        for pid in machine.processes():
            with suppress(OSError):
                variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
                keys.update(one[18:] for one in variables if one.startswith(b"CONTAINER_API_KEY="))
        assert [line for line in _command_lines() if any(key in line for key in keys)] == []
        return {one["state"] for one in simulator.ledger()} == {"destroyed"}

    await asyncio.to_thread(eventually, f"{tool} destroyed it", destroyed)
    # One that is born too late may be gone before anybody looks.
    assert keys or why == "born too late", "its key was looked for"


@pytest.mark.parametrize("which", ["download", "upload", "the pull of the image"])
async def test_the_watchdog_destroys_its_machine_past_a_traffic_cap(
    simulator: Simulator, tmp_path: Path, which: str
) -> None:
    """Nobody leads, and the workload goes on: what is billed is the cap and a little more.

    A restart of the container, whose counters begin anew, does not begin the sum anew.
    """
    vast = VastClient(simulator.url, SecretStr(KEY), SystemClock(), Door(SystemClock(), spacing=0))
    offer = (await vast.search(search_of(SPEC))).offers[0]
    machine = Machine(simulator, vast, tmp_path)
    pulled = 2.0 if which == "the pull of the image" else 0.0
    if pulled:
        simulator.faults(slow_boot={"seconds": 3})
    await machine.rent(max_download_gb=3, max_upload_gb=1)
    machine.ask("POST", f"traffic/{machine.number}", {"download_gb": pulled})
    await machine.up()

    async def moved(down: float, up: float) -> None:
        traffic = {"download_gb": down, "upload_gb": up}
        await asyncio.to_thread(machine.ask, "POST", f"traffic/{machine.number}", traffic)

    def counted(words: str) -> None:
        def is_counted() -> bool:
            with suppress(OSError, ValueError):
                told = machine.seen(Path(MACHINE_FOLDER, "traffic")).read_text()
                return told == f"{words}\n"
            return False

        eventually(f"it counts {words}", is_counted)

    def begun_after(earlier: int) -> int:
        def began_at() -> int:
            with suppress(OSError, ValueError):
                at = machine.seen(Path(MACHINE_FOLDER, "watchdog.pid")).stat().st_mtime_ns
                return at if at > earlier else 0
            return 0

        eventually("its watchdog has begun", began_at)
        return began_at()

    began = await asyncio.to_thread(begun_after, 0)
    await moved(2.5, 0.9)
    await asyncio.to_thread(counted, "2500 900")
    await asyncio.to_thread(machine.ask, "POST", f"machines/{machine.number}/restart", {})
    await asyncio.to_thread(begun_after, began)
    await moved(2.9, 0.9)
    await asyncio.to_thread(counted, "2900 900")
    assert [one["state"] for one in simulator.ledger()] == ["running"]
    last = (2.9, 1.1) if which == "upload" else (3.1, 0.9)
    await moved(*last)
    destroyed = lambda: simulator.ledger()[0]["state"] == "destroyed"  # noqa: E731
    await asyncio.to_thread(eventually, "it is destroyed", destroyed)
    await vast.close()

    prices = (offer.download_usd_per_gb, offer.upload_usd_per_gb)
    billed = sum(Fraction(gb) * price for gb, price in zip(last, prices, strict=True))
    assert Fraction(simulator.ledger()[0]["traffic_usd"]) == pytest.approx(float(billed))


@pytest.mark.parametrize("setup", ["", "!not base64!", "ZXhpdCAx"])
async def test_the_watchdog_needs_nothing_of_the_setup(
    simulator: Simulator, tmp_path: Path, setup: str
) -> None:
    """Whoever takes the variable away, or changes it, gets a machine that destroys itself."""
    vast = VastClient(simulator.url, SecretStr(KEY), SystemClock(), Door(SystemClock(), spacing=0))
    machine = Machine(simulator, vast, tmp_path)
    await machine.rent(money_seconds=1, setup=setup)
    await vast.close()

    destroyed = lambda: simulator.ledger()[0]["state"] == "destroyed"  # noqa: E731
    await asyncio.to_thread(eventually, "it is destroyed", destroyed)


OUTSIDE = r'''
import http.server, json, os, subprocess, sys, threading, time
script, folder = sys.argv[1:]
WITHIN = """
import socket, threading
one = socket.create_server(("127.0.0.1", 9000)); two = socket.create_connection(("127.0.0.1", 9000))
three = one.accept()[0]
threading.Thread(target=lambda: [three.recv(1 << 20) for _ in iter(int, 1)], daemon=True).start()
for _ in range(400): two.sendall(bytes(4 << 20))
"""
made, log = b"x" * (1 << 20), []

class Provider(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        if self.path.startswith("/data/"):
            count = int(self.path.split("/")[2])
            self.send_response(200); self.send_header("Content-Length", str(count << 20)); self.end_headers()
            for _ in range(count): self.wfile.write(made)
            return
        self.answer({"instances": {"inet_down_billed": 0, "start_date": 1}})
    def do_DELETE(self):
        log.append(self.path); self.answer({"success": True})
    def answer(self, body):
        raw = json.dumps(body).encode()
        self.send_response(200); self.send_header("Content-Length", str(len(raw))); self.end_headers()
        self.wfile.write(raw)
    def log_message(self, *_): pass

def run(*command, **more): return subprocess.run(command, check=True, **more)

def connect(pid):
    run("ip", "link", "add", "there", "type", "veth", "peer", "name", "eth0", "netns", str(pid))
    run("ip", "address", "add", "198.18.0.1/24", "dev", "there"); run("ip", "link", "set", "there", "up")
    for one in ("address add 198.18.0.2/24 dev eth0", "link set eth0 up", "link set lo up"):
        inside("ip", *one.split())

def inside(*command):
    run("nsenter", f"--target={machine.pid}", "--net", "--mount", "--", *command)

def traffic():
    try: return open(f"/proc/{machine.pid}/root{folder}/traffic").read().split()
    except OSError: return ["0", "0"]

def until(look):
    end = time.monotonic() + 120
    while not look():
        assert time.monotonic() < end, traffic()
        time.sleep(0.2)

run("ip", "link", "set", "lo", "up")
machine = subprocess.Popen(["unshare", "--net", "--mount", "sh", "-c",
    f"mount -t sysfs sysfs /sys && mkdir -p {folder} && mount -t tmpfs tmpfs {folder} && exec sleep 1000"])
until(lambda: subprocess.run(["nsenter", f"--target={machine.pid}", "--mount", "mountpoint", "-q", folder]).returncode == 0)
connect(machine.pid)
server = http.server.ThreadingHTTPServer(("198.18.0.1", 8000), Provider)
threading.Thread(target=server.serve_forever, daemon=True).start()
own = {**os.environ, "CONTAINER_ID": "7", "CONTAINER_API_KEY": "k", "GPUJOB_SETUP": ""}
begin = ("nsenter", f"--target={machine.pid}", "--net", "--mount", "--", "sh", script)
subprocess.run(begin, env=own)
until(lambda: os.path.exists(f"/proc/{machine.pid}/root{folder}/began"))
time.sleep(1)
load = lambda mib: inside("curl", "-sS", "-o", "/dev/null", f"http://198.18.0.1:8000/data/{mib}")
inside(sys.executable, "-c", WITHIN)
load(700)
until(lambda: int(traffic()[0]) >= 734)
between, early = traffic(), list(log)
run("ip", "link", "delete", "there"); connect(machine.pid)
load(400)
until(lambda: log)
machine.kill()
print(json.dumps({"between": between, "early": early, "log": log}))
os._exit(0)
'''  # noqa: E501


def test_real_bytes_of_a_real_interface_are_counted(tmp_path: Path) -> None:
    """In network namespaces of the test's own: an interface that begins anew changes nothing."""
    started = start_script(
        ssh_public_key=new_key(tmp_path / "key"),
        nonce=NONCE,
        provider_url="http://198.18.0.1:8000",
        born_before=datetime.now(UTC) + timedelta(hours=1),
        money_deadline_seconds=10_000,
        heartbeat_stale_seconds=10_000,
        max_download_gb=1,
        max_upload_gb=1,
    )
    (tmp_path / "onstart").write_text(started.script)
    done = subprocess.run(
        [
            *("unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"),
            *(sys.executable, "-c", OUTSIDE, str(tmp_path / "onstart"), MACHINE_FOLDER),
        ],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])

    assert 734 <= int(told["between"][0]) < 900
    assert told["early"] == []
    assert set(told["log"]) == {"/api/v0/instances/7/"}


def _command_lines() -> list[bytes]:
    """Of all processes; any of them may end while it is read."""
    held = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            held.append((entry / "cmdline").read_bytes())
    return held
