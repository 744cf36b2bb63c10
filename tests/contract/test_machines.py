"""Rented machines really run, are reached over real SSH, and die with everything on them."""

import asyncio
import re
import socket
import tracemalloc
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.error import HTTPError

import asyncssh
import pytest
from pydantic import SecretStr
from tests.contract.test_vast_client import CLOCK, SPEC, request
from tests.integration.parts import KEY, Simulator, eventually

from gpujob.adapters.clock import SystemClock
from gpujob.adapters.errors import (
    HostKeyMismatch,
    LoginRefused,
    MachineError,
    MachineUnreachable,
    SessionBroken,
)
from gpujob.adapters.ssh import OUTPUT_BYTES_MAX, Connection, connect
from gpujob.adapters.vast import VastClient
from gpujob.api.transport import MACHINE_FOLDER
from gpujob.core.effects import Rent
from gpujob.core.machine.start_script import host_key_in_log, start_script
from gpujob.core.market.listings import Address

NONCE = "ab" * 16


def new_key(path: Path) -> str:
    """Writes a private key and returns its public half."""
    private = asyncssh.generate_private_key("ssh-ed25519")
    path.touch(mode=0o600)
    private.write_private_key(str(path))
    return private.export_public_key("openssh").decode().strip()


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
        born_before_hours: int = 1,
        money_seconds: int = 10_000,
        stale_seconds: int = 10_000,
    ) -> None:
        """Rents it; its start script comes after `before`."""
        script = start_script(
            ssh_public_key=new_key(self.key),
            nonce=NONCE,
            provider_url=self._simulator.url,
            born_before=datetime.now(UTC) + timedelta(hours=born_before_hours),
            money_deadline_seconds=money_seconds,
            heartbeat_stale_seconds=stale_seconds,
        )
        offer = (await self.vast.search(SPEC)).offers[0]
        asked = request(offer.offer_id)
        rent = Rent(**{**vars(asked), "start_script": before + script, "image": image})
        async with self.vast.rent_line() as line:
            self.number = await line.send(rent, 10)

    async def boot(self, image: str = "python:3.11") -> None:
        """Rents it, waits for it, and reads its host key from the provider's log."""
        await self.rent(image)
        while not (found := await self._host_key()):
            await asyncio.sleep(0.1)
        self.host_key = found
        await self.up()

    async def up(self) -> None:
        """Waits until it runs, and learns where it listens."""
        while (lease := (await self.vast.list_leases()).leases[0]).status != "running":
            await asyncio.sleep(0.1)
        self.addresses = lease.addresses
        (_, self.port), *_ = lease.addresses

    async def _host_key(self) -> str | None:
        return host_key_in_log(await self.vast.read_log(self.number) or "", NONCE)

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[Connection]:
        """A connection to it."""
        async with connect("127.0.0.1", self.port, "root", self.key, self.host_key) as connection:
            yield connection

    def seen(self, path: Path) -> Path:
        """Returns where a file of the machine, while it runs, is reached from here."""
        return Path(f"/proc/{min(self.processes())}/root", path.relative_to("/"))

    def processes(self) -> list[int]:
        """Returns what runs on it, by the root of each process: the machine's own folder."""
        root = re.compile(
            rf"upperdir={re.escape(str(self._folder))}/vastsim-\w+/{self.number}/changes,"
        )
        found = []
        for entry in Path("/proc").iterdir():
            with suppress(OSError):
                if entry.name.isdecimal() and root.search((entry / "mountinfo").read_text()):
                    found.append(int(entry.name))
        return found


@pytest.fixture
async def machine(simulator: Simulator, tmp_path: Path) -> AsyncIterator[Machine]:
    """A booted machine."""
    vast = VastClient(simulator.url, SecretStr(KEY), SystemClock())
    made = Machine(simulator, vast, tmp_path)
    await made.boot()
    yield made
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
        async with sftp.open("/root/a file", "wb") as file:
            await file.write(bytes(3_000_000))
        await sftp.rename("/root/a file", "/root/another")
        facts = await sftp.stat("/root/another")
        names = await sftp.listdir("/root")

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
    vast = VastClient(simulator.url, SecretStr(KEY), CLOCK)
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
    log = await machine.vast.read_log(machine.number) or ""

    assert said == b"kept\n"
    assert log.count("gpujob-host-key") == 2, "its start script ran twice"


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


async def test_the_account_key_is_on_no_machine(machine: Machine) -> None:
    """Not in any environment, command line or file of it."""
    async with machine.connected() as connection:
        said = await connection.run(
            "env; cat /proc/self/environ; grep -rs canary /root /etc /tmp /var /run || true"
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
    vast = VastClient(simulator.url, SecretStr(KEY), SystemClock())
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


def _command_lines() -> list[bytes]:
    """Of all processes; any of them may end while it is read."""
    held = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            held.append((entry / "cmdline").read_bytes())
    return held
