"""The driver: asks the controller what to do, runs the workload on the machine, carries its output.

Two loops: one reports to the controller, the other holds on to the machine. Losing the controller
loses nothing: the workload goes on, and so does its output. Losing the machine's connection loses
nothing either: the next connection takes up every stream at its offset.
"""

import asyncio
import json
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import BinaryIO

import aiohttp
from pydantic import ValidationError

from gpujob.adapters.errors import HostKeyMismatch, LoginRefused, MachineError
from gpujob.adapters.ssh import Connection, connect
from gpujob.api.transport import (
    SYNC_PATH,
    Assignment,
    DriverReport,
    Instruction,
    Machine,
    MachineFault,
    Outcome,
    Work,
    WorkloadPhase,
)
from gpujob.driver.settings import DriverSettings, DriverSettingsError
from gpujob.driver.supervisor import (
    LAUNCH_PATIENCE_SECONDS,
    Look,
    follow_script,
    launch_script,
    look_script,
    parse_look,
    run_name,
    work_text,
)

SYNC_TIMEOUT_SECONDS = 10
SYNC_BACKOFF_MAX_SECONDS = 15.0
RECONNECT_MAX_SECONDS = 10.0
LOOK_SECONDS = 2.0
ACKNOWLEDGE_SECONDS = 600.0
"""How long an outcome is offered to a controller that does not answer."""
LOGIN_PATIENCE_SECONDS = 60.0
"""A start script may put our key in place a moment after the server answers."""
VANISHED_EXIT_CODE = 137
STREAMS = ("stdout", "stderr")


def main() -> None:
    """Runs the driver; the exit status is 0 once the controller needs it no more."""
    try:
        settings = DriverSettings.from_environment()
    except DriverSettingsError as error:
        sys.exit(f"gpujob: {error}")
    sys.exit(asyncio.run(_run(settings)))


def say(text: str) -> None:
    """Puts a remark of our own into the pod's log, beside the workload's output."""
    print(f"gpujob: {text}", file=sys.stderr, flush=True)


async def _run(settings: DriverSettings) -> int:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    driver = Driver(settings)
    working = asyncio.create_task(driver.run())
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait([working, stopping], return_when=asyncio.FIRST_COMPLETED)
    if not working.done():
        # The workload goes on without us; the controller decides about the machine.
        working.cancel()
        await asyncio.wait([working])
        return 128 + signal.SIGTERM
    return working.result()


class Driver:
    """One driver's knowledge and its two loops."""

    def __init__(self, settings: DriverSettings) -> None:
        self._settings = settings
        self._offsets = Offsets(settings.state_dir)
        self._phase = WorkloadPhase.WAITING
        self._contact_at: float | None = None
        self._run_seconds: float | None = None
        self._outcome: Outcome | None = None
        self._fault: MachineFault | None = None
        self._message = ""
        self._refused_since: float | None = None
        self._run_number = 0

    async def run(self) -> int:
        """Reports until the controller says that nothing is left to do."""
        held: tuple[Machine, Work] | None = None
        machine_loop: asyncio.Task[None] | None = None
        failures = 0
        finished_at: float | None = None
        async with aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=SYNC_TIMEOUT_SECONDS), trust_env=False
        ) as session:
            while True:
                assignment = await self._sync(session)
                if assignment is None:
                    failures += 1
                else:
                    failures = 0
                    if assignment.instruction is Instruction.EXIT:
                        break
                    wanted = _wanted(assignment)
                    if wanted != held and self._outcome is None:
                        await _ended(machine_loop)
                        held, machine_loop = wanted, self._turn_to(wanted)
                if self._outcome is not None:
                    finished_at = finished_at or time.monotonic()
                    if time.monotonic() - finished_at > ACKNOWLEDGE_SECONDS:
                        say("nobody took the outcome; it stays in the termination message")
                        break
                if machine_loop is not None and machine_loop.done():
                    # A mistake of ours ends the driver; the kubelet starts it again.
                    machine_loop.result()
                await self._pause(failures, machine_loop)
        await _ended(machine_loop)
        return 0

    def _turn_to(self, wanted: tuple[Machine, Work] | None) -> asyncio.Task[None] | None:
        """Begins to hold on to a machine; None = to none, because it was taken away."""
        self._contact_at = self._run_seconds = self._refused_since = None
        self._message = ""
        if wanted is None:
            self._phase = WorkloadPhase.WAITING
            return None
        machine, work = wanted
        self._run_number = work.run_number
        return asyncio.create_task(self._hold_on(machine, work))

    async def _pause(self, failures: int, machine_loop: asyncio.Task[None] | None) -> None:
        seconds = self._settings.sync_seconds
        if failures:
            slower = min(seconds * 2 ** min(failures, 10), SYNC_BACKOFF_MAX_SECONDS)
            seconds = slower * random.uniform(0.5, 1.0)
        if machine_loop is None or machine_loop.done():
            await asyncio.sleep(seconds)
        else:
            # An outcome is reported at once.
            await asyncio.wait([machine_loop], timeout=seconds)

    # --- The controller -----------------------------------------------------------------------

    async def _sync(self, session: aiohttp.ClientSession) -> Assignment | None:
        """Reports and returns the assignment; None = no usable answer."""
        try:
            token = self._settings.token_file.read_text().strip()
            async with session.post(
                self._settings.transport_url + SYNC_PATH,
                json=self._report().wire(),
                headers={"Authorization": f"Bearer {token}"},
                allow_redirects=False,
            ) as response:
                raw = await response.content.read(1_000_000)
                if response.status != 200:
                    return None
                return Assignment.model_validate_json(raw)
        except ValidationError as error:
            say(f"the controller's answer is not understood: {error.error_count()} faults")
            return None
        except (aiohttp.ClientError, TimeoutError, OSError):
            return None

    def _report(self) -> DriverReport:
        contact = self._contact_at
        return DriverReport(
            node_uid=self._settings.node_uid,
            phase=self._phase,
            machine_contact_age_seconds=None if contact is None else time.monotonic() - contact,
            run_number=self._run_number,
            run_seconds=self._run_seconds,
            outcome=self._outcome,
            fault=self._fault,
            message=self._message[:1024],
        )

    # --- The machine --------------------------------------------------------------------------

    async def _hold_on(self, machine: Machine, work: Work) -> None:
        """Connects, launches once, carries output; connects again until the workload has ended."""
        self._phase = WorkloadPhase.CONNECTING
        tries = 0
        while True:
            try:
                async with connect(
                    machine.host,
                    machine.port,
                    machine.user,
                    self._settings.ssh_key_file,
                    machine.host_key,
                ) as connection:
                    say(f"connected to {machine.host}:{machine.port}")
                    tries = 0
                    self._refused_since = None
                    await self._attend(connection, work)
                return
            except HostKeyMismatch as error:
                self._fault = MachineFault.HOST_KEY_CHANGED
                self._message = str(error)
                say(self._message)
                return
            except LoginRefused as error:
                self._refused_since = self._refused_since or time.monotonic()
                if time.monotonic() - self._refused_since > LOGIN_PATIENCE_SECONDS:
                    self._fault = MachineFault.LOGIN_REFUSED
                    self._message = str(error)
                    say(self._message)
                    return
                self._message = str(error)
            except MachineError as error:
                if self._message != str(error):
                    say(f"no connection: {error}")
                self._message = str(error)
            tries += 1
            longest = min(0.5 * 2 ** min(tries, 10), RECONNECT_MAX_SECONDS)
            await asyncio.sleep(longest * random.uniform(0.5, 1.0))

    async def _attend(self, connection: Connection, work: Work) -> None:
        """Stays with one connection until the workload has ended; raises MachineError."""
        text = work_text(work.command, work.working_dir, self._settings.workload_environment)
        await connection.run(launch_script(self._run_name), text)
        look = await self._await_start(connection)
        self._message = ""
        self._phase = WorkloadPhase.RUNNING
        following = asyncio.create_task(self._follow_all(connection))
        looking = asyncio.create_task(self._look_on(connection))
        try:
            # A look that fails ends it too: streams alone do not tell a quiet workload from a
            # machine that hangs.
            await asyncio.wait([following, looking], return_when=asyncio.FIRST_COMPLETED)
            if looking.done():
                looking.result()
            await following
        finally:
            following.cancel()
            looking.cancel()
            await asyncio.gather(following, looking, return_exceptions=True)
        look = await self._look(connection)
        while look.state not in ("exited", "vanished"):
            await asyncio.sleep(0.2)
            look = await self._look(connection)
        self._finish(look)

    @property
    def _run_name(self) -> str:
        return run_name(self._settings.node_uid, self._run_number)

    async def _await_start(self, connection: Connection) -> Look:
        """Waits until the workload has started, whoever launched it."""
        deadline = time.monotonic() + LAUNCH_PATIENCE_SECONDS
        while (look := await self._look(connection)).state in ("absent", "launching"):
            if time.monotonic() > deadline:
                # Its launcher died half way. Starting it again could run it twice.
                return Look("vanished", run_seconds=0)
            await asyncio.sleep(0.1)
        return look

    async def _look_on(self, connection: Connection) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            await self._look(connection)

    async def _look(self, connection: Connection) -> Look:
        """Looks how the workload stands; the machine's watchdog takes it for a heartbeat."""
        try:
            look = parse_look(await connection.run(look_script(self._run_name)))
        except ValueError as error:
            raise MachineError(f"the machine's answer is {error}") from error
        self._contact_at = time.monotonic()
        if look.run_seconds is not None:
            self._run_seconds = float(look.run_seconds)
        return look

    async def _follow_all(self, connection: Connection) -> None:
        streams = [asyncio.create_task(self._follow(connection, stream)) for stream in STREAMS]
        try:
            await asyncio.gather(*streams)
        finally:
            for stream in streams:
                stream.cancel()
            await asyncio.gather(*streams, return_exceptions=True)

    async def _follow(self, connection: Connection, stream: str) -> None:
        """Carries one stream to our own, each byte once."""
        target: BinaryIO = getattr(sys, stream).buffer
        # Each run has streams of its own, from their first byte on.
        held = f"{stream}-{self._run_number}"
        script = follow_script(self._run_name, stream, self._offsets.get(held))
        async with connection.open(script) as process:
            while data := await process.stdout.read(65536):
                target.write(data)
                target.flush()
                self._offsets.advance(held, len(data))
                self._contact_at = time.monotonic()
            await process.wait_closed()
            if process.exit_status != 0:
                raise MachineError(f"the stream {stream} broke")

    def _finish(self, look: Look) -> None:
        vanished = look.state == "vanished"
        code = VANISHED_EXIT_CODE if look.exit_code is None else look.exit_code
        self._outcome = Outcome(
            exit_code=code,
            run_seconds=float(look.run_seconds or 0),
            was_killed=vanished,
            message="the workload's supervisor was killed" if vanished else "",
        )
        self._phase = WorkloadPhase.FINISHED
        text = json.dumps(self._outcome.wire())
        Path(self._settings.termination_log).write_text(text)
        say(f"the workload ended with exit code {code}")


def _wanted(assignment: Assignment) -> tuple[Machine, Work] | None:
    if assignment.machine is None or assignment.work is None:
        return None
    return assignment.machine, assignment.work


async def _ended(task: asyncio.Task[None] | None) -> None:
    """Ends a task and waits for it."""
    if task is not None:
        task.cancel()
        await asyncio.wait([task])


class Offsets:
    """How much of each stream this container has already printed; outlives its restarts."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "offsets.json"
        try:
            self._held: dict[str, int] = json.loads(self._file.read_text())
        except (FileNotFoundError, ValueError):
            self._held = {}

    def get(self, stream: str) -> int:
        """Returns the bytes of a stream that were printed."""
        return self._held.get(stream, 0)

    def advance(self, stream: str, count: int) -> None:
        """Counts bytes that were printed."""
        self._held[stream] = self.get(stream) + count
        scratch = self._file.with_suffix(".new")
        scratch.write_text(json.dumps(self._held))
        os.replace(scratch, self._file)  # noqa: PTH105 - atomic, by its name
