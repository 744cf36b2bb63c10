"""The driver: asks the controller what to do, runs the workload on the machine, carries its output.

Two loops: one reports to the controller, the other holds on to the machine. Losing the controller
loses nothing: the workload goes on, and so does its output. Losing the machine's connection loses
nothing either: the next connection takes up every stream at its offset.
"""

import asyncio
import json
import logging
import random
import signal
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from pydantic import SecretStr, ValidationError

from gpujob.adapters.body import whole_body
from gpujob.adapters.errors import HostKeyMismatch, LoginRefused, MachineError
from gpujob.adapters.redact import Scrubber
from gpujob.adapters.sink import open_sink
from gpujob.adapters.ssh import READ_BYTES, Connection, connect
from gpujob.api.data import DataPlan
from gpujob.api.meta import Model
from gpujob.api.transport import (
    ASSIGNMENT_BYTES_MAX,
    SYNC_PATH,
    Assignment,
    DriverReport,
    Instruction,
    LogPosition,
    Machine,
    MachineFault,
    Measured,
    Outcome,
    Progress,
    Work,
    WorkloadPhase,
    message_faults,
    read_message,
)
from gpujob.api.words import in_words
from gpujob.driver.files import Allowance, CopyError, data_problem, pull, push, words_for
from gpujob.driver.measure import MEASURE_SCRIPT, MEASURE_SECONDS, parse_measure
from gpujob.driver.ports import carry_ports
from gpujob.driver.settings import DriverSettings, DriverSettingsError
from gpujob.driver.state import Kept, Printed, Sink, next_session, pinned_host_key
from gpujob.driver.supervisor import (
    LAUNCH_PATIENCE_SECONDS,
    Look,
    follow_script,
    kill_script,
    launch_script,
    look_script,
    parse_look,
    run_name,
    stop_script,
    work_text,
)
from gpujob.driver.usage import UsageMeter

SYNC_TIMEOUT_SECONDS = 10
SYNC_BACKOFF_MAX_SECONDS = 15.0
RECONNECT_MAX_SECONDS = 10.0
LOOK_SECONDS = 2.0
SAMPLE_SECONDS = 15.0
"""Between two samples of the GPUs' load: to ask takes a part of a second on the machine."""
ACKNOWLEDGE_SECONDS = 600.0
"""How long an outcome is offered to a controller that does not answer."""
LOGIN_PATIENCE_SECONDS = 60.0
"""A start script may put our key in place a moment after the server answers."""
SECRET_CHARACTERS_MIN = 6
"""Of a value of the job's environment: shorter ones, as `1` or `true`, stand in every remark."""
KILLED_EXIT_CODE = 137
STREAMS = {"stdout": 1, "stderr": 2}
"""The workload's streams, and the descriptors of our own that they go to."""

_log = logging.getLogger("gpujob.driver")


def main() -> None:
    """Runs the driver; the exit status is 0 once the controller needs it no more."""
    try:
        settings = DriverSettings.from_environment()
    except DriverSettingsError as error:
        sys.exit(f"gpujob: {error}")
    scrub = open_sink("WARNING", logging.Formatter("gpujob: %(message)s"), _secrets(settings))
    _log.setLevel("INFO")
    sys.exit(asyncio.run(_run(settings, scrub)))


def say(text: str) -> None:
    """Puts a remark of our own into the pod's log, beside the workload's output."""
    _log.info("%s", text)


def _secrets(settings: DriverSettings) -> Iterator[SecretStr]:
    """Returns what our remarks may not show; a token that is renewed is known by its shape."""
    for file in (settings.token_file, settings.ssh_key_file):
        with suppress(OSError):
            yield SecretStr(file.read_text(errors="replace"))
    for value in settings.workload_environment.values():
        if len(value) >= SECRET_CHARACTERS_MIN:
            yield value


def _revealed(settings: DriverSettings) -> dict[str, str]:
    held = settings.workload_environment
    return {name: value.get_secret_value() for name, value in held.items()}


async def _run(settings: DriverSettings, scrub: Scrubber) -> int:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    driver = Driver(settings, scrub)
    working = asyncio.create_task(driver.run())
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait([working, stopping], return_when=asyncio.FIRST_COMPLETED)
    if not working.done():
        # The workload goes on without us; the controller decides about the machine.
        working.cancel()
        await asyncio.wait([working])
        return 128 + signal.SIGTERM
    return working.result()


@dataclass
class Run:
    """What is known of one run of the workload."""

    number: int
    sinks: dict[str, list[Sink]]
    """By stream: each run has streams of its own, from their first byte on."""
    meter: UsageMeter = field(default_factory=UsageMeter)
    seconds: float | None = None
    progress: Progress | None = None
    written: tuple[int, int] = (0, 0)
    """Bytes of stdout and stderr that the machine has."""
    stopped_at: float | None = None
    """Monotonic time at which the workload was told to end."""
    is_killed: bool = False
    """It was killed by us."""
    is_over: bool = False
    """The workload was seen to have ended."""

    @property
    def log(self) -> LogPosition:
        """How much of its output was carried."""
        # The file on a claim, if there is one, is what counts as kept.
        out, err = (self.sinks[stream][-1].value for stream in STREAMS)
        return LogPosition(
            stdout_carried=out,
            stdout_written=max(self.written[0], out),
            stderr_carried=err,
            stderr_written=max(self.written[1], err),
        )


class Driver:
    """One driver's knowledge and its two loops."""

    def __init__(self, settings: DriverSettings, scrub: Scrubber) -> None:
        self._settings = settings
        self._scrub = scrub
        self._session = next_session(settings.state_dir)
        self._sequence = 0
        self._phase = WorkloadPhase.WAITING
        self._assignment = Assignment(version=1, instruction=Instruction.WAIT)
        self._news = asyncio.Event()
        """Set when another assignment has come."""
        self._contact_at: float | None = None
        self._sampled_at = float("-inf")
        self._measured: Measured | None = None
        self._run: Run | None = None
        self._ended: Outcome | None = None
        self._outcome: Outcome | None = None
        data = settings.data or DataPlan()
        self._data_problem = in_words(data_problem(data))
        self._data = data
        self._downloads = Allowance(data.download_bytes_max, "data.maxDownloadGB")
        self._uploads = Allowance(data.upload_bytes_max, "data.maxUploadGB")
        self._fault: MachineFault | None = None
        self._message = ""
        self._lost = self._log_lost = ""
        self._refused_since: float | None = None

    async def run(self) -> int:
        """Reports until the controller says that nothing is left to do."""
        held: tuple[Machine, int] | None = None
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
                    if assignment != self._assignment:
                        self._assignment = assignment
                        self._news.set()
                    wanted = _place(assignment)
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

    def _turn_to(self, wanted: tuple[Machine, int] | None) -> asyncio.Task[None] | None:
        """Begins to hold on to a machine; None = to none, because it was taken away."""
        self._contact_at = self._refused_since = self._run = None
        self._message = ""
        if wanted is None:
            self._phase = WorkloadPhase.WAITING
            return None
        machine, number = wanted
        self._run = Run(number, {stream: self._sinks(stream, number) for stream in STREAMS})
        return asyncio.create_task(self._hold_on(machine, self._run))

    def _sinks(self, stream: str, number: int) -> list[Sink]:
        settings = self._settings
        printed = Printed(STREAMS[stream], settings.state_dir, f"{stream}-{number}")
        if settings.data is None or settings.data.log_folder is None:
            return [printed]
        name = f"{settings.node_name}{f'.{number}' if number else ''}.{stream}"
        try:
            kept = Kept(Path(settings.data.log_folder) / name)
        except OSError as error:
            self._log_lost = in_words(f"there is no log on its claim: {error.strerror}")
            say(self._log_lost)
            return [printed]
        if printed.value == 0 and kept.value > 0:
            # An earlier pod carried it, and carrying it again would be paid for.
            say(f"{stream} up to byte {kept.value} is in {name} on its claim")
            printed.skip_to(kept.value)
        return [printed, kept]

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
                data=_json(self._report()),
                headers={
                    "Authorization": f"Bearer {token}",
                    "Content-Type": "application/json",
                },
                allow_redirects=False,
            ) as response:
                raw = await whole_body(response, ASSIGNMENT_BYTES_MAX)
                if response.status != 200 or raw is None:
                    return None
                return read_message(Assignment, raw)
        except ValidationError as error:
            say(f"the controller's answer is not understood: {message_faults(error)}")
            return None
        except (aiohttp.ClientError, TimeoutError, OSError):
            return None

    def _report(self) -> DriverReport:
        contact, run = self._contact_at, self._run
        self._sequence += 1
        return DriverReport(
            version=1,
            node_uid=self._settings.node_uid,
            session=self._session,
            sequence=self._sequence,
            phase=self._phase,
            machine_contact_age_seconds=None if contact is None else time.monotonic() - contact,
            measured=self._measured,
            run_number=run.number if run else 0,
            run_seconds=run.seconds if run else None,
            progress=run.progress if run else None,
            usage=run.meter.usage() if run else None,
            log=run.log if run else None,
            ended=self._ended if self._outcome is None else None,
            outcome=self._outcome,
            fault=self._fault,
            data_problem=self._data_problem,
            message=in_words(self._scrub(self._message)),
        )

    async def _wait_for_news(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._news.wait()
        self._news.clear()

    # --- The machine --------------------------------------------------------------------------

    async def _hold_on(self, machine: Machine, run: Run) -> None:
        """Connects, launches once, carries output; connects again until the workload has ended."""
        self._phase = WorkloadPhase.CONNECTING
        tries = 0
        while True:
            try:
                self._check_pin(machine)
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
                    await self._attend(connection, run)
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

    def _check_pin(self, machine: Machine) -> None:
        """Believes the first host key alone; raises HostKeyMismatch.

        An interruption changes host and port, never the key. A controller that names another one
        may be none: nothing but this guards what is sent if somebody answers in its place.
        """
        if pinned_host_key(self._settings.state_dir, machine.host_key) != machine.host_key:
            raise HostKeyMismatch("the controller names another host key than at first")

    async def _attend(self, connection: Connection, run: Run) -> None:
        """Stays with one connection until the workload has ended; raises MachineError."""
        work = await self._awaited_work(connection, run)
        look = await self._look(connection, run)
        if look.state == "absent" and not await self._furnish(connection, run):
            return
        if self._assignment.instruction is Instruction.RUN:
            text = work_text(work.command, work.working_dir, _revealed(self._settings))
            await connection.run(launch_script(self._name(run)), text)
        look = await self._await_start(connection, run)
        if look.state == "absent":
            self._finish(_outcome(look, run))
            return
        self._message = ""
        if self._ended is None:
            self._phase = WorkloadPhase.RUNNING
        copying = self._copy_checkpoints(connection, run)
        carrying = carry_ports(connection, self._settings.ports)
        following = self._follow_all(connection, run)
        await self._alongside(connection, run, following, copying, carrying)
        look = await self._look(connection, run)
        while look.state not in ("exited", "vanished"):
            await asyncio.sleep(0.2)
            look = await self._look(connection, run)
        outcome = _outcome(look, run)
        if self._data.outputs or self._data.checkpoint:
            self._ended = outcome
            self._phase = WorkloadPhase.DELIVERING
            delivered = self._deliver(connection)
            await self._alongside(connection, run, delivered)
        lost = "; ".join(words for words in (self._lost, self._log_lost) if words)
        self._finish(outcome.model_copy(update={"lost": in_words(lost)}))

    async def _furnish(self, connection: Connection, run: Run) -> bool:
        """Brings inputs and the last checkpoint to the machine; False = it does not take them."""
        if not self._data.inputs and not self._data.checkpoint:
            return True
        say("copying inputs to the machine")
        self._phase = WorkloadPhase.COPYING
        problems: list[str] = []

        async def copied() -> None:
            for copy in self._data.inputs:
                problems.extend(await push(connection, copy, self._downloads))
            if (last := self._data.checkpoint) is not None:
                # A machine that comes back has what is newer than our copy.
                newer = run.number > 0
                problems.extend(await push(connection, last, self._downloads, only_missing=newer))

        await self._alongside(connection, run, copied(), is_over=self._is_to_stop)
        if problems and not self._is_to_stop():
            self._fault = MachineFault.INPUTS_NOT_COPIED
            self._message = words_for(problems)
            say(self._message)
            return False
        return True

    def _is_to_stop(self) -> bool:
        return self._assignment.instruction is Instruction.STOP

    async def _copy_checkpoints(self, connection: Connection, run: Run) -> None:
        """Copies the checkpoint now and then while the workload runs; never ends by itself."""
        copy = self._data.checkpoint
        told: str | None = None
        while copy is not None and run.stopped_at is None:
            await asyncio.sleep(self._data.checkpoint_seconds)
            words = words_for(await pull(connection, copy, self._uploads, mirrors=True))
            if words != told:
                say(words or "the checkpoint is copied again")
            told = words
        await asyncio.Event().wait()

    async def _deliver(self, connection: Connection) -> None:
        """Copies outputs and checkpoint from the machine."""
        problems: list[str] = []
        for copy in self._data.outputs:
            problems.extend(await pull(connection, copy, self._uploads, mirrors=False))
        if (last := self._data.checkpoint) is not None:
            problems.extend(await pull(connection, last, self._uploads, mirrors=True))
        self._lost = words_for(problems)
        if self._lost:
            say(self._lost)

    async def _awaited_work(self, connection: Connection, run: Run) -> Work:
        """Measures the machine if it is asked for, and waits for what is to run on it."""
        while (work := self._assignment.work) is None:
            if self._measured is None:
                self._measured = await self._measure(connection)
                self._phase = WorkloadPhase.MEASURED
            await self._wait_for_news(LOOK_SECONDS)
            await self._look(connection, run)
        return work

    async def _measure(self, connection: Connection) -> Measured:
        say("measuring the machine")
        output = await connection.run(MEASURE_SCRIPT, timeout_seconds=MEASURE_SECONDS)
        try:
            return parse_measure(output)
        except ValueError as error:
            raise MachineError(f"the machine's measure is not understood: {error}") from error

    async def _alongside(
        self,
        connection: Connection,
        run: Run,
        work: Coroutine[Any, Any, None],
        *others: Coroutine[Any, Any, None],
        is_over: Callable[[], bool] = lambda: False,
    ) -> None:
        """Does some work, and others that have no end, until it is done or over; looks meanwhile.

        A look that fails ends it too: streams alone do not tell a quiet workload from a machine
        that hangs. What is asked for meanwhile is done: that the workload is to end.
        """
        looking = asyncio.create_task(self._look_on(connection, run, is_over))
        working = asyncio.create_task(work)
        tasks = [working, looking, *(asyncio.create_task(other) for other in others)]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
            if looking not in done:
                await working
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _name(self, run: Run) -> str:
        return run_name(self._settings.node_uid, run.number)

    async def _await_start(self, connection: Connection, run: Run) -> Look:
        """Waits until the workload has started, whoever launched it."""
        deadline = time.monotonic() + LAUNCH_PATIENCE_SECONDS
        while (look := await self._look(connection, run)).state in ("absent", "launching"):
            if self._is_to_stop() and look.state == "absent":
                # It is to end before it was begun.
                return look
            if time.monotonic() > deadline:
                # Its launcher died half way. Starting it again could run it twice.
                return Look("vanished", run_seconds=0)
            await asyncio.sleep(0.1)
        return look

    async def _look_on(self, connection: Connection, run: Run, is_over: Callable[[], bool]) -> None:
        while not is_over():
            await self._end_if_asked(connection, run)
            await self._wait_for_news(LOOK_SECONDS)
            await self._look(connection, run)

    async def _end_if_asked(self, connection: Connection, run: Run) -> None:
        told = self._assignment
        if told.instruction is not Instruction.STOP or run.is_over:
            return
        now = time.monotonic()
        if run.stopped_at is None:
            say("the workload is asked to end")
            self._phase = WorkloadPhase.STOPPING
            await connection.run(stop_script(self._name(run)))
            run.stopped_at = now
        elif not run.is_killed and now - run.stopped_at >= (told.grace_seconds or 0):
            say("the workload has not ended in time and is killed")
            run.is_killed = True
            await connection.run(kill_script(self._name(run)))

    async def _look(self, connection: Connection, run: Run) -> Look:
        """Looks how the workload stands; the machine's watchdog takes it for a heartbeat."""
        due = time.monotonic() - self._sampled_at >= SAMPLE_SECONDS
        samples = due and run.seconds is not None
        try:
            script = look_script(self._name(run), samples_gpus=samples)
            look = parse_look(await connection.run(script))
        except ValueError as error:
            raise MachineError(f"the machine's answer is {error}") from error
        self._contact_at = now = time.monotonic()
        if look.run_seconds is not None:
            run.seconds = float(look.run_seconds)
        run.is_over = look.state in ("exited", "vanished")
        run.progress = look.progress or run.progress
        run.written = (look.stdout_bytes, look.stderr_bytes)
        if samples:
            self._sampled_at = now
            if look.state == "running":
                run.meter.take(look.gpus, now)
        return look

    async def _follow_all(self, connection: Connection, run: Run) -> None:
        streams = [asyncio.create_task(self._follow(connection, run, name)) for name in STREAMS]
        try:
            await asyncio.gather(*streams)
        finally:
            for stream in streams:
                stream.cancel()
            await asyncio.gather(*streams, return_exceptions=True)

    async def _follow(self, connection: Connection, run: Run, stream: str) -> None:
        """Carries one stream to all its sinks, each byte once."""
        sinks = run.sinks[stream]
        at = min(sink.value for sink in sinks)
        script = follow_script(self._name(run), stream, at)
        async with connection.open(script) as process:
            while data := await process.stdout.read(READ_BYTES):
                for sink in tuple(sinks):
                    # What one has taken already another may still need.
                    self._take(sink, sinks, memoryview(data)[max(sink.value - at, 0) :])
                at += len(data)
                self._contact_at = time.monotonic()
            await process.wait_closed()
            if process.exit_status != 0:
                raise MachineError(f"the stream {stream} broke")

    def _take(self, sink: Sink, sinks: list[Sink], data: memoryview) -> None:
        """Gives a sink the next bytes; a claim that takes no more is done without."""
        is_kept = sink is not sinks[0]
        try:
            if is_kept:
                self._uploads.take(len(data))
            sink.write(data)
        except (OSError, CopyError) as error:
            if not is_kept:
                raise
            sinks.remove(sink)
            why = error.strerror if isinstance(error, OSError) else error
            words = f"the log on its claim ends at byte {sink.value}: {why}"
            self._log_lost = in_words(words, 200)
            say(words)

    def _finish(self, outcome: Outcome) -> None:
        self._outcome = outcome
        self._phase = WorkloadPhase.FINISHED
        # The kubelet keeps 4,096 bytes.
        words = {"message": in_words(outcome.message, 200), "lost": in_words(outcome.lost, 600)}
        text = _json(outcome.model_copy(update=words))
        Path(self._settings.termination_log).write_bytes(text)
        say(f"the workload ended with exit code {outcome.exit_code}")


def _json(message: Model) -> bytes:
    """Returns a message as UTF-8: escapes would make it up to three times as long."""
    return json.dumps(message.wire(), ensure_ascii=False).encode()


def _outcome(look: Look, run: Run) -> Outcome:
    vanished = look.state != "exited"
    message = "the workload's supervisor was killed" if vanished else ""
    if run.is_killed:
        message = "the workload did not end in time and was killed"
    if look.state == "absent":
        message = "the workload had not begun"
    return Outcome(
        exit_code=KILLED_EXIT_CODE if look.exit_code is None else look.exit_code,
        run_seconds=float(look.run_seconds or 0),
        was_killed=vanished and not run.is_killed,
        cause=look.cause,
        message=message,
    )


def _place(assignment: Assignment) -> tuple[Machine, int] | None:
    """The machine that is to be held on to, and the number of the run on it."""
    if assignment.machine is None:
        return None
    return assignment.machine, assignment.work.run_number if assignment.work else 0


async def _ended(task: asyncio.Task[None] | None) -> None:
    """Ends a task and waits for it."""
    if task is not None:
        task.cancel()
        await asyncio.wait([task])
