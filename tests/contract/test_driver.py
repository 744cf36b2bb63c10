"""The driver as a process, a real controller's answers, a real machine, and a line that is cut."""

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import asyncssh
import pytest
from aiohttp import web
from pydantic import SecretStr
from tests.authority import certificate, show, shown
from tests.contract.test_machines import Machine
from tests.contract.test_vast_client import CLOCK
from tests.integration.parts import KEY, Process, Simulator, environment

from gpujob.adapters.door import Door
from gpujob.adapters.vast import VastClient
from gpujob.api.transport import (
    MACHINE_FOLDER,
    SYNC_PATH,
    DriverReport,
    WorkloadPhase,
    digest_of_answer,
    read_message,
)

CERTIFICATE = certificate("127.0.0.1")
NODE_UID = "12345678-0000-4000-8000-000000000000"
LINES = 3000
WAIT: dict[str, Any] = {"version": 1, "instruction": "Wait"}
EXIT: dict[str, Any] = {"version": 1, "instruction": "Exit"}


class Controller:
    """Answers drivers as it is told, and keeps what they report."""

    def __init__(self) -> None:
        self._answer: dict[str, Any] = WAIT
        self._news = asyncio.Event()
        self.holds = False
        """Whether an answer that the driver has taken is kept back until there is another."""
        self.broken = False
        self.knows_another = False
        """Whether it has recorded another driver."""
        self.reports: list[DriverReport] = []
        self.tokens: set[str] = set()
        self.certificate = shown(CERTIFICATE)

    @property
    def answer(self) -> dict[str, Any]:
        """What it answers."""
        return self._answer

    @answer.setter
    def answer(self, told: dict[str, Any]) -> None:
        self._answer = told
        self._news.set()
        self._news = asyncio.Event()

    @property
    def keeps_back(self) -> bool:
        """Whether the driver has taken the answer, and waits for another."""
        return bool(self.reports) and self._is_taken(self.reports[-1])

    def _is_taken(self, report: DriverReport) -> bool:
        return report.taken == digest_of_answer(json.dumps(self.answer).encode())

    async def sync(self, request: web.Request) -> web.Response:
        """Takes a report."""
        self.tokens.add(request.headers.get("Authorization", ""))
        report = read_message(DriverReport, await request.read())
        self.reports.append(report)
        if self.broken:
            return web.Response(status=500, text="<html>")
        if self.knows_another:
            return web.Response(status=403, text="this pod is not the driver")
        while self.holds and self._is_taken(report):
            await self._news.wait()
        answer = web.json_response(self.answer)
        # The next report comes over a connection of its own.
        answer.force_close()
        return answer


class Cable:
    """A TCP line to the machine that can be cut."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._lines: list[asyncio.StreamWriter] = []
        self.port = 0
        self.opened = 0

    async def lay(self) -> asyncio.Server:
        """Begins to carry."""
        server = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        return server

    def cut(self) -> None:
        """Cuts every open line."""
        for line in self._lines:
            line.transport.abort()
        self._lines.clear()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.opened += 1
        there, back = await asyncio.open_connection("127.0.0.1", self._target)
        self._lines += [writer, back]

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            with suppress(ConnectionError):
                while data := await source.read(65536):
                    sink.write(data)
                    await sink.drain()
            sink.close()

        await asyncio.gather(pump(reader, back), pump(there, writer))


@pytest.fixture
async def controller() -> AsyncIterator[tuple[Controller, str]]:
    """A controller and its address."""
    held = Controller()
    app = web.Application()
    app.router.add_post(SYNC_PATH, held.sync)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=held.certificate.context)
    await site.start()
    port = runner.addresses[0][1]
    yield held, f"https://127.0.0.1:{port}"
    await runner.cleanup()


@pytest.fixture
async def machine(simulator: Simulator, tmp_path: Path) -> AsyncIterator[Machine]:
    """A booted machine."""
    vast = VastClient(simulator.url, SecretStr(KEY), CLOCK, Door(CLOCK, spacing=0))
    made = Machine(simulator, vast, tmp_path)
    await made.boot()
    yield made
    await vast.close()


class Driver:
    """The driver as a process."""

    def __init__(self, folder: Path, url: str, key: Path, **variables: str) -> None:
        self._folder = folder
        (folder / "token").write_text("the-token\n")
        self._environment = environment(
            GPUJOB_TRANSPORT_URL=url,
            GPUJOB_TRANSPORT_AUTHORITIES=CERTIFICATE.authority,
            GPUJOB_TOKEN_FILE=str(folder / "token"),
            GPUJOB_SSH_KEY_FILE=str(key),
            GPUJOB_NODE_UID=NODE_UID,
            GPUJOB_STATE_DIR=str(folder),
            GPUJOB_TERMINATION_LOG=str(folder / "termination"),
            **{"GPUJOB_NODE_NAME": "train-0-1", "GPUJOB_SYNC_SECONDS": "0.1"} | variables,
        )
        self.process: Process | None = None

    async def start(self) -> None:
        """Starts it; its output is added to what it printed before."""
        out, err = self._folder / "out", self._folder / "err"
        self.process = Process(out, ["gpujob", "driver"], self._environment, errors=err)

    async def ended(self) -> int:
        """Waits for its end and returns its exit status."""
        process = self.process
        assert process is not None
        await until(lambda: process.poll() is not None)
        return process.poll() or 0

    async def kill(self) -> None:
        """Ends it as a crash would."""
        assert self.process is not None
        self.process.signal(signal.SIGKILL)
        await self.ended()

    @property
    def out(self) -> bytes:
        """What it printed of the workload's output."""
        return (self._folder / "out").read_bytes()

    @property
    def err(self) -> str:
        """What it printed of the workload's errors, and its own remarks."""
        return (self._folder / "err").read_text()

    @property
    def outcome(self) -> dict[str, Any]:
        """Its termination message."""
        found: dict[str, Any] = json.loads((self._folder / "termination").read_text())
        return found


def run(machine: Machine, port: int, *command: str, host_key: str | None = None) -> dict[str, Any]:
    """An assignment to run a command on the machine."""
    return {
        "version": 1,
        "instruction": "Run",
        "machine": {
            "host": "127.0.0.1",
            "port": port,
            "user": "root",
            "hostKey": host_key or machine.host_key,
        },
        "work": {"command": list(command)},
    }


async def until(look: Any) -> Any:
    """Waits until something true is seen."""
    async with asyncio.timeout(240):
        while not (seen := look()):
            await asyncio.sleep(0.05)
    return seen


def is_finished(held: Controller) -> bool:
    """Whether an outcome was reported."""
    return bool(held.reports) and held.reports[-1].outcome is not None


COUNT = f"""i=0
while [ $i -lt {LINES} ]; do
  i=$((i+1)); echo line $i; [ $((i % 300)) = 0 ] && sleep 0.4
done; true"""


async def test_a_workload_that_removes_our_files_is_not_started_again(
    machine: Machine, controller: tuple[Controller, str], tmp_path: Path
) -> None:
    """It may run on: a second one beside it would be paid for, and spoil what it writes."""
    held, url = controller
    lines = f"echo began >> /began; sleep 3; rm -rf {MACHINE_FOLDER}; sleep 600"
    held.answer = run(machine, machine.port, "sh", "-c", lines)
    driver = Driver(tmp_path, url, machine.key)
    await driver.start()
    await until(lambda: is_finished(held))
    held.answer = EXIT
    await driver.ended()

    assert driver.outcome["exitCode"] == 137
    assert driver.outcome["message"].endswith(f"or {MACHINE_FOLDER} was removed")
    assert machine.seen(Path("/began")).read_text() == "began\n"


async def test_every_byte_comes_once_over_cut_lines_and_restarts(
    machine: Machine, controller: tuple[Controller, str], tmp_path: Path
) -> None:
    """The line is cut, the driver is killed, the controller fails: nothing is lost or doubled."""
    held, url = controller
    cable = Cable(machine.port)
    stops = "600|1200|1800) until [ -e /goes-on-$i ]; do sleep 0.1; done"
    lines = COUNT.replace("i=$((i+1))", f"case $i in {stops};; esac; i=$((i+1))")

    def go_on(after: int) -> None:
        # Only when the line is cut, so that it is needed once more, however slow all this is.
        machine.seen(Path(f"/goes-on-{after}")).touch()

    async with await cable.lay():
        driver = Driver(tmp_path, url, machine.key)
        held.answer = run(machine, cable.port, "sh", "-c", lines)
        await driver.start()
        await until(lambda: driver.out.count(b"\n") > 400)
        cable.cut()
        go_on(600)
        await until(lambda: driver.out.count(b"\n") > 900)
        held.broken = True
        await driver.kill()
        held.broken = False
        await driver.start()
        go_on(1200)
        await until(lambda: driver.out.count(b"\n") > 1500)
        held.broken = True
        cable.cut()
        go_on(1800)
        await until(lambda: driver.out.count(b"\n") >= LINES)
        held.broken = False
        await until(lambda: is_finished(held))
        held.answer = EXIT
        status = await driver.ended()
        cable.cut()

    assert driver.out.decode() == "".join(f"line {number}\n" for number in range(1, LINES + 1))
    assert cable.opened >= 4
    assert (status, driver.outcome["exitCode"]) == (0, 0)
    assert held.tokens == {"Bearer the-token"}


async def test_streams_bytes_and_exit_codes_are_kept(
    machine: Machine, controller: tuple[Controller, str], tmp_path: Path
) -> None:
    """Binary output is intact, stderr is apart, a signal is 128 and its number."""
    held, url = controller
    text = (
        "import os; os.write(1, bytes(range(256)) * 4000); os.write(2, b'oops\\n'); "
        "os.kill(os.getpid(), 15)"
    )
    held.answer = run(machine, machine.port, "python3", "-c", text)
    driver = Driver(tmp_path, url, machine.key)
    await driver.start()
    await until(lambda: is_finished(held))
    held.answer = EXIT
    await driver.ended()

    assert driver.out == bytes(range(256)) * 4000
    assert "oops\n" in driver.err
    assert driver.outcome["exitCode"] == 128 + 15


async def test_news_waits_for_no_answer(
    machine: Machine, controller: tuple[Controller, str], tmp_path: Path
) -> None:
    """The driver says what is new while its last answer is kept back; what is not, it does not say.

    And it does at once what a kept answer tells in the end: by the clock alone it would report once
    a minute.
    """
    held, url = controller
    held.holds = True
    driver = Driver(tmp_path, url, machine.key, GPUJOB_SYNC_SECONDS="60")
    await driver.start()
    await until(lambda: held.reports)
    script = "trap 'until [ -e $HOME/end ]; do sleep 0.1; done; exit 7' TERM; echo up; "
    held.answer = run(machine, machine.port, "sh", "-c", script + "while :; do sleep 0.1; done")
    await until(lambda: driver.out == b"up\n" and held.keeps_back)
    stopping = WorkloadPhase.STOPPING
    async with machine.connected() as connection:
        held.answer |= {"instruction": "Stop", "graceSeconds": 600}
        await until(lambda: held.keeps_back and held.reports[-1].phase is stopping)
        await connection.run("touch $HOME/end")
        await until(lambda: is_finished(held))
    held.answer = EXIT
    status = await driver.ended()
    outcome = held.reports[-1].outcome

    assert outcome is not None
    assert (status, outcome.exit_code) == (0, 7)
    assert "no contact" not in driver.err, "it waited until it gave its controller up"
    pairs = list(pairwise(held.reports))
    assert [one for one, two in pairs if one.news == two.news and one.taken == two.taken] == []


async def test_two_drivers_run_it_once(
    machine: Machine, controller: tuple[Controller, str], tmp_path: Path
) -> None:
    """Both attach to the same run; what it does, it does once."""
    held, url = controller
    work = "echo ran >> $HOME/runs; echo up; while [ ! -e $HOME/end ]; do sleep 0.1; done"
    work += "; cat $HOME/runs"
    held.answer = run(machine, machine.port, "sh", "-c", work)
    drivers = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        drivers.append(Driver(tmp_path / name, url, machine.key))
    await asyncio.gather(*(driver.start() for driver in drivers))
    for driver in drivers:
        await until(lambda driver=driver: driver.out == b"up\n")
    async with machine.connected() as connection:
        await connection.run("touch $HOME/end")
    for driver in drivers:
        await until(lambda driver=driver: driver.out == b"up\nran\n")
    held.answer = EXIT
    for driver in drivers:
        await driver.ended()


async def test_a_driver_that_was_replaced_lets_go(
    machine: Machine, controller: tuple[Controller, str], tmp_path: Path
) -> None:
    """As soon as the controller says so; if that was wrong, it takes the run up again."""
    held, url = controller
    work = "echo ran >> $HOME/runs; echo up; while [ ! -e $HOME/end ]; do sleep 0.1; done"
    held.answer = run(machine, machine.port, "sh", "-c", f"{work}; cat $HOME/runs")
    driver = Driver(tmp_path, url, machine.key)
    await driver.start()
    await until(lambda: driver.out == b"up\n")
    held.knows_another = True
    before = len(held.reports)
    await until(lambda: len(held.reports) >= before + 3)
    last = held.reports[-1]
    assert (last.phase, last.machine_contact_age_seconds) == (WorkloadPhase.WAITING, None)

    held.knows_another = False
    await until(lambda: held.reports[-1].phase is WorkloadPhase.RUNNING)
    async with machine.connected() as connection:
        await connection.run("touch $HOME/end")
    await until(lambda: driver.out == b"up\nran\n")
    held.answer = EXIT
    await driver.ended()


async def test_a_machine_heeds_the_latest_driver_alone(
    machine: Machine, controller: tuple[Controller, str], tmp_path: Path
) -> None:
    """The earlier may be on a node that was only cut off, and know of nothing."""
    held, url = controller
    held.answer = run(machine, machine.port, "sh", "-c", "echo up; sleep 1000")
    drivers = []
    for number in ("1", "2"):
        (tmp_path / number).mkdir()
        numbered = {"GPUJOB_DRIVER_NUMBER": number}
        drivers.append(Driver(tmp_path / number, url, machine.key, **numbered))
        await drivers[-1].start()
        await until(lambda: drivers[-1].out == b"up\n")
    first, second = drivers
    await until(lambda: "another driver has taken over the machine" in first.err)
    await second.kill()
    held.reports.clear()
    held.answer = held.answer | {"moneyDeadlineSeconds": 20_000}
    told = digest_of_answer(json.dumps(held.answer).encode())
    await until(lambda: sum(one.taken == told for one in held.reports) >= 3)
    async with machine.connected() as connection:
        kept = await connection.run(f"ls {MACHINE_FOLDER}; cat {MACHINE_FOLDER}/driver")
    assert b"money" not in kept.split()
    assert kept.split()[-1] == b"2"
    assert held.reports[-1].is_replaced
    held.answer = EXIT
    await first.ended()


async def test_the_environment_is_in_no_command_line(
    machine: Machine, controller: tuple[Controller, str], tmp_path: Path
) -> None:
    """It reaches the workload as it was, and ps shows none of it."""
    held, url = controller
    value = "secret 'quoted' \"too\" $HOME `x` \\ \n ä"
    look = (
        "import os, time\n"
        "print(ascii(os.environ['ODD']), flush=True)\n"
        "while not os.path.exists(os.environ['HOME'] + '/end'): time.sleep(0.1)\n"
    )
    held.answer = run(machine, machine.port, "python3", "-c", look)
    driver = Driver(tmp_path, url, machine.key, WORKLOAD_ODD=value)
    await driver.start()
    await until(lambda: driver.out)
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            lines.append(path.read_bytes())
    held.answer = EXIT
    await driver.ended()

    assert driver.out.decode() == ascii(value) + "\n"
    assert any(b"os.environ['ODD']" in line for line in lines), "the workload itself was looked at"
    assert not [line for line in lines if b"secret 'quoted'" in line]


async def test_a_machine_whose_container_was_restarted_is_no_failure_of_the_workload(
    machine: Machine, controller: tuple[Controller, str], tmp_path: Path
) -> None:
    """The driver says so, ends nothing, and runs the workload again if it is told to.

    The processes of one container and of the next look alike, but not their first one's start.
    """
    held, url = controller
    held.answer = run(machine, machine.port, "sh", "-c", "echo up; exec sleep 600")
    driver = Driver(tmp_path, url, machine.key)
    await driver.start()
    await until(lambda: driver.out == b"up\n")
    await asyncio.to_thread(machine.ask, "POST", f"machines/{machine.number}/restart", {})
    await until(lambda: held.reports[-1].fault is not None)
    told = held.reports[-1]
    again = run(machine, machine.port, "echo", "again")
    held.answer = again | {"work": again["work"] | {"runNumber": 1}}
    await until(lambda: is_finished(held))
    last = held.reports[-1]
    held.answer = EXIT
    await driver.ended()

    assert driver.out == b"up\nagain\n"
    assert (told.fault, told.outcome, told.run_number) == ("MachineRestarted", None, 0)
    assert last.outcome is not None
    assert (last.fault, last.outcome.exit_code, last.run_number) == (None, 0, 1)


async def test_a_look_that_hangs_is_not_waited_for(
    machine: Machine, controller: tuple[Controller, str], tmp_path: Path
) -> None:
    """The driver connects anew, and finds the workload's end when the machine answers again."""
    held, url = controller
    wait = "echo up; while [ ! -e $HOME/end ]; do sleep 0.1; done; echo end"
    held.answer = run(machine, machine.port, "sh", "-c", wait)
    driver = Driver(tmp_path, url, machine.key)
    await driver.start()
    await until(lambda: driver.out == b"up\n")
    async with machine.connected() as connection:
        hang = (
            "printf '#!/bin/sh\nexec sleep 600\n' > $HOME/../bin/date; chmod +x $HOME/../bin/date"
        )
        await connection.run(hang)
        await until(lambda: "trying again: TimeoutError" in driver.err)
        await connection.run("rm $HOME/../bin/date; touch $HOME/end")
    await until(lambda: held.reports and held.reports[-1].outcome is not None)
    held.answer = EXIT

    assert await driver.ended() == 0
    assert driver.out == b"up\nend\n"


async def test_another_host_key_is_a_fault(
    machine: Machine, controller: tuple[Controller, str], tmp_path: Path
) -> None:
    """The driver reports it and sends nothing to that machine."""
    held, url = controller
    other = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHCjEzNEDKQ3UTnQHzVz0CKCeTTnPIQRf2zOEIyqmtVr"
    held.answer = run(machine, machine.port, "true", host_key=other)
    driver = Driver(tmp_path, url, machine.key)
    await driver.start()
    await until(lambda: held.reports and held.reports[-1].fault == "HostKeyChanged")
    held.answer = EXIT

    assert await driver.ended() == 0


class Stranger(asyncssh.SSHServer):
    """A machine that lets everybody in, and keeps who came."""

    def __init__(self, visits: list[str]) -> None:
        self._visits = visits

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        """Somebody connected."""
        self._visits.append("connected")

    def begin_auth(self, username: str) -> bool:
        """Asks for no key."""
        self._visits.append("logged in")
        return False


async def test_a_machine_with_another_host_key_gets_nothing(
    machine: Machine, controller: tuple[Controller, str], tmp_path: Path
) -> None:
    """Whoever answers in the controller's place moves no driver to a machine of his own.

    An interruption changes host and port, and never the key. A restart forgets no key.
    """
    held, url = controller
    other_key = asyncssh.generate_private_key("ssh-ed25519")
    visits: list[str] = []
    stranger = await asyncssh.listen(
        "127.0.0.1", 0, server_host_keys=[other_key], server_factory=lambda: Stranger(visits)
    )
    public = other_key.export_public_key().decode().strip()
    lure = run(machine, stranger.get_port(), "true", host_key=public)
    cable = Cable(machine.port)
    driver = Driver(tmp_path, url, machine.key)
    async with stranger, await cable.lay():
        held.answer = run(machine, machine.port, "sh", "-c", "echo up; sleep 600")
        await driver.start()
        await until(lambda: driver.out == b"up\n")
        held.answer = WAIT
        await until(lambda: held.reports[-1].phase == "Waiting")
        moved = run(machine, cable.port, "sh", "-c", "echo back; sleep 600")
        moved["work"]["runNumber"] = 1
        held.answer = moved
        await until(lambda: driver.out == b"up\nback\n")
        held.answer = lure
        await until(lambda: visits or any(one.fault for one in held.reports))
        assert visits == []
        first = next(one for one in held.reports if one.fault)
        await driver.kill()
        held.reports.clear()
        await driver.start()
        again = await until(lambda: next((r for r in held.reports if r.fault), None))
        held.answer = EXIT
        assert await driver.ended() == 0

    assert (first.fault, again.fault) == ("HostKeyChanged", "HostKeyChanged")
    assert visits == []
    assert driver.err.count("names another host key") == 2


async def test_a_machine_is_measured_before_it_gets_work(
    machine: Machine, controller: tuple[Controller, str], tmp_path: Path
) -> None:
    """The driver tells what it is, waits for the verdict on the same line, and then runs."""
    held, url = controller
    cable = Cable(machine.port)
    async with await cable.lay():
        work = run(machine, cable.port, "echo", "ran")
        held.answer = {**work, "instruction": "Measure"}
        del held.answer["work"]
        driver = Driver(tmp_path, url, machine.key)
        await driver.start()
        await until(lambda: held.reports and held.reports[-1].measured is not None)
        first = held.reports[-1]
        assert driver.out == b""
        held.answer = work
        await until(lambda: is_finished(held))
        held.answer = EXIT
        await driver.ended()

    assert first.phase == "Measured"
    assert first.measured is not None
    assert [gpu.name for gpu in first.measured.gpus] == ["NVIDIA GeForce RTX 4090"]
    assert first.measured.watchdog_runs
    assert driver.out == b"ran\n"
    assert cable.opened == 1


SAVE = "trap 'echo saved; exit 7' TERM; echo up; while :; do sleep 0.1; done"
STUBBORN = "trap '' TERM; echo up; while :; do sleep 0.1; done"


@pytest.mark.parametrize(
    ("command", "grace", "out", "code"),
    [(SAVE, 60.0, b"up\nsaved\n", 7), (STUBBORN, 0.5, b"up\n", 137)],
)
async def test_a_workload_is_told_to_end(
    machine: Machine,
    controller: tuple[Controller, str],
    tmp_path: Path,
    command: str,
    grace: float,
    out: bytes,
    code: int,
) -> None:
    """What it prints meanwhile is carried; if it does not end in time it is killed."""
    held, url = controller
    held.answer = run(machine, machine.port, "sh", "-c", command)
    driver = Driver(tmp_path, url, machine.key)
    await driver.start()
    await until(lambda: driver.out == b"up\n")
    held.answer = {**held.answer, "instruction": "Stop", "graceSeconds": grace}
    await until(lambda: is_finished(held))
    held.answer = EXIT
    await driver.ended()

    assert driver.out == out
    assert driver.outcome["exitCode"] == code
    assert not driver.outcome["wasKilled"]


async def test_the_watchdog_is_told_another_money_deadline_and_acknowledges(
    simulator: Simulator, machine: Machine, controller: tuple[Controller, str], tmp_path: Path
) -> None:
    """Its own word is reported, by the next driver too; and it does hold to it."""
    held, url = controller
    work = run(machine, machine.port, "sh", "-c", "echo up; sleep 1000")
    held.answer = work
    driver = Driver(tmp_path, url, machine.key)
    await driver.start()
    await until(lambda: driver.out == b"up\n")
    assert held.reports[-1].money_deadline_seconds is None
    held.answer = work | {"moneyDeadlineSeconds": 20_000}
    await until(lambda: held.reports[-1].money_deadline_seconds == 20_000)
    await driver.kill()
    held.answer = work
    held.reports.clear()
    await driver.start()
    await until(lambda: held.reports and held.reports[-1].money_deadline_seconds == 20_000)

    held.answer = work | {"moneyDeadlineSeconds": 1}
    await until(lambda: {one["state"] for one in simulator.ledger()} == {"destroyed"})
    held.answer = EXIT
    await driver.ended()


async def test_what_is_to_end_before_it_began_does_not_begin(
    machine: Machine, controller: tuple[Controller, str], tmp_path: Path
) -> None:
    """A driver that comes when the workload was already told to end starts nothing."""
    held, url = controller
    work = run(machine, machine.port, "sh", "-c", "echo ran")
    held.answer = {**work, "instruction": "Stop", "graceSeconds": 1.0}
    driver = Driver(tmp_path, url, machine.key)
    await driver.start()
    await until(lambda: is_finished(held))
    held.answer = EXIT
    await driver.ended()

    assert driver.out == b""
    assert driver.outcome["message"] == "the workload had not begun"


async def test_progress_load_and_position_are_reported(
    machine: Machine, controller: tuple[Controller, str], tmp_path: Path
) -> None:
    """By what the workload writes, what its GPUs show, and how much was carried."""
    held, url = controller
    tell = (
        "echo hello; "
        'echo \'{"percent": 12.5, "step": 3, "metrics": {"loss": 0.25}}\' '
        '>> "$GPUJOB_PROGRESS_FILE"; '
        "while [ ! -e $HOME/end ]; do sleep 0.1; done"
    )
    async with machine.connected() as connection:
        await connection.run("echo 83 > /run/gpu-load")
    held.answer = run(machine, machine.port, "sh", "-c", tell)
    driver = Driver(tmp_path, url, machine.key)
    await driver.start()
    last = await until(lambda: next((r for r in reversed(held.reports) if r.progress), None))
    await until(lambda: held.reports[-1].log and held.reports[-1].log.stdout_carried == 6)
    usage = await until(lambda: held.reports[-1].usage)
    async with machine.connected() as connection:
        await connection.run("touch $HOME/end")
    await until(lambda: is_finished(held))
    held.answer = EXIT
    await driver.ended()

    assert (last.progress.percent, last.progress.step) == (12.5, 3)
    assert last.progress.metrics == {"loss": 0.25}
    assert (usage.gpu_percent, usage.gpu_memory_mib, usage.idle_samples) == (83, 512, 0)
    position = held.reports[-1].log
    assert position is not None
    assert position.behind == 0


async def test_each_report_is_later_than_the_one_before(
    machine: Machine, controller: tuple[Controller, str], tmp_path: Path
) -> None:
    """Across a restart of the driver's container, too."""
    held, url = controller
    driver = Driver(tmp_path, url, machine.key)
    await driver.start()
    await until(lambda: len(held.reports) > 5)
    await driver.kill()
    before = len(held.reports)
    await driver.start()
    await until(lambda: len(held.reports) > before + 5)
    held.answer = EXIT
    await driver.ended()

    orders = [report.order for report in held.reports]
    assert orders == sorted(set(orders))
    assert {report.session for report in held.reports} == {1, 2}


@pytest.mark.parametrize(
    "answer",
    [
        {"version": 2, "instruction": "Exit"},
        {"version": 1, "instruction": "Dance"},
        {"version": 1, "instruction": "Exit", "machine": {"host": "h", "port": 0, "hostKey": "k"}},
        {"version": "1", "instruction": "Exit"},
        {"version": 1, "instruction": "Exit", "padding": "x" * 5_000_000},
        [],
    ],
)
async def test_an_answer_that_is_not_understood_changes_nothing(
    controller: tuple[Controller, str], tmp_path: Path, answer: Any
) -> None:
    """The driver goes on asking."""
    held, url = controller
    held.answer = answer
    driver = Driver(tmp_path, url, tmp_path / "key")
    await driver.start()
    await until(lambda: len(held.reports) > 3)
    assert {report.phase for report in held.reports} == {"Waiting"}
    held.answer = EXIT

    assert await driver.ended() == 0


async def test_a_driver_outlives_the_authorities_that_it_began_with(
    controller: tuple[Controller, str], tmp_path: Path
) -> None:
    """Old and new are trusted, then the new one alone; so it goes on, also after a restart."""
    held, url = controller
    old, new, newest = CERTIFICATE, certificate("127.0.0.1"), certificate("127.0.0.1")
    (tmp_path / "key").write_text("")
    driver = Driver(tmp_path, url, tmp_path / "key")
    await driver.start()

    async def reports(more: int = 3) -> None:
        before = len(held.reports)
        await until(lambda: len(held.reports) >= before + more)

    await reports()
    held.answer = WAIT | {"authorities": old.authority + new.authority}
    await reports()
    show(held.certificate, new)
    await reports()
    held.answer = WAIT | {"authorities": new.authority}
    await reports()
    await driver.kill()
    await driver.start()
    await until(lambda: held.reports[-1].session == 2 or "no contact" in driver.err)
    assert "no contact" not in driver.err
    held.answer = WAIT | {"authorities": new.authority + newest.authority}
    await reports()
    show(held.certificate, newest)
    await reports()
    assert "no contact" not in driver.err

    # What is trusted no more is refused, though the pod began with it: nothing comes any more.
    show(held.certificate, old)
    await until(lambda: "CERTIFICATE_VERIFY_FAILED" in driver.err)
    before = len(held.reports)
    await driver.kill()
    await driver.start()
    await until(lambda: driver.err.count("CERTIFICATE_VERIFY_FAILED") == 2)
    assert len(held.reports) == before
    # A text that is no certificate changes nothing, but for what is said of it.
    show(held.certificate, newest)
    held.answer = WAIT | {"authorities": "nothing"}
    await reports()
    assert driver.err.count("new authorities were not taken over") == 1
    held.answer = EXIT
    assert await driver.ended() == 0


async def test_a_host_key_that_changes_in_mid_run_is_a_fault(
    machine: Machine, controller: tuple[Controller, str], tmp_path: Path
) -> None:
    """Whoever answers in the machine's place gets nothing: no login, no command."""
    held, url = controller
    held.answer = run(machine, machine.port, "sh", "-c", "echo up; sleep 600")
    driver = Driver(tmp_path, url, machine.key)
    await driver.start()
    await until(lambda: driver.out == b"up\n")
    machine.ask("POST", f"machines/{machine.number}/change-key")
    await until(lambda: held.reports[-1].fault == "HostKeyChanged")
    held.answer = EXIT

    assert await driver.ended() == 0
    assert driver.out == b"up\n"
    assert "shows another host key" in driver.err


async def test_sigterm_leaves_the_workload_running(
    machine: Machine, controller: tuple[Controller, str], tmp_path: Path
) -> None:
    """The controller decides about the machine, not a pod that is moved."""
    held, url = controller
    held.answer = run(machine, machine.port, "sh", "-c", "echo up; sleep 600")
    driver = Driver(tmp_path, url, machine.key)
    await driver.start()
    await until(lambda: driver.out == b"up\n")
    assert driver.process is not None
    driver.process.signal(signal.SIGTERM)

    assert await driver.ended() == 143
    async with machine.connected() as connection:
        assert b"sleep 600" in await connection.run("cat /proc/*/cmdline | tr '\\0' ' '")


async def test_remarks_and_reports_show_nothing_of_the_environment(
    machine: Machine, controller: tuple[Controller, str], tmp_path: Path
) -> None:
    """What the workload prints of it is the user's, and comes as it is."""
    held, url = controller
    prints = "import os; os.write(1, b'its 127.0.0.1\\n'); os.write(2, b'its own 127.0.0.1\\n')"
    driver = Driver(tmp_path, url, machine.key, WORKLOAD_HOST="127.0.0.1", WORKLOAD_ONE="1")
    held.answer = run(machine, 1, "python3", "-c", prints)
    await driver.start()
    await until(lambda: held.reports and held.reports[-1].message)
    message = held.reports[-1].message
    held.answer = run(machine, machine.port, "python3", "-c", prints)
    await until(lambda: is_finished(held))
    held.answer = EXIT
    await driver.ended()

    assert "127.0.0.1" not in message
    assert driver.out == b"its 127.0.0.1\n"
    assert driver.err.count("127.0.0.1") == 1
    assert "\nits own 127.0.0.1\n" in driver.err
    assert f"gpujob: connected to [redacted]:{machine.port}\n" in driver.err


@pytest.mark.parametrize(
    "secret",
    [
        pytest.param("canary-of-the-job", id="environment"),
        pytest.param("canary-of-the-pod", id="token"),
        pytest.param("b3BlbnNzaC1canary", id="a line of the key"),
        pytest.param("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.canary", id="a later token"),
    ],
)
def test_a_crash_shows_no_secret(tmp_path: Path, secret: str) -> None:
    """The exception names a folder, which bears the secret's name; it can still be read."""
    (tmp_path / "key").write_text("-----BEGIN-----\nb3BlbnNzaC1canary\n-----END-----\n")
    (tmp_path / "bound").write_text("canary-of-the-pod\n")
    needed = {"TRANSPORT_URL": "https://127.0.0.1:1", "NODE_UID": NODE_UID, "NODE_NAME": "x"}
    needed |= {"TOKEN_FILE": str(tmp_path / "bound"), "SSH_KEY_FILE": str(tmp_path / "key")}
    needed |= {"STATE_DIR": f"/none/{secret}"}
    needed |= {"TRANSPORT_AUTHORITIES": CERTIFICATE.authority}
    variables = {f"GPUJOB_{name}": value for name, value in needed.items()}
    done = subprocess.run(
        [sys.executable, "-m", "gpujob", "driver"],
        env=environment(**variables, WORKLOAD_SECRET="canary-of-the-job"),
        capture_output=True,
        text=True,
    )

    assert done.returncode == 1
    assert "canary" not in done.stdout + done.stderr
    assert done.stderr.startswith("gpujob: uncaught exception\nTraceback")
    assert "No such file or directory: '/none/[redacted]" in done.stderr


async def test_a_missing_setting_is_named(tmp_path: Path) -> None:
    """The first line says which variable has to be set."""
    driver = Driver(tmp_path, "https://127.0.0.1:1", tmp_path / "key")
    driver._environment.pop("GPUJOB_NODE_UID")
    await driver.start()

    assert await driver.ended() == 1
    assert "GPUJOB_NODE_UID must be set" in driver.err
