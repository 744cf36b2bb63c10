"""The loop that works: connects to the machine, runs the workload there, and carries its output.

Losing the connection loses nothing: the next one takes up every stream at its offset.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from gpujob.adapters.errors import (
    HostKeyMismatch,
    LoginRefused,
    MachineError,
    SessionBroken,
    SessionHangs,
)
from gpujob.adapters.ssh import Connection
from gpujob.api.transport import (
    MACHINE_FOLDER,
    Assignment,
    Instruction,
    MachineAddress,
    MachineFault,
    Measured,
    Outcome,
    Work,
    WorkloadPhase,
)
from gpujob.api.words import in_words
from gpujob.driver.claims import Claims
from gpujob.driver.findings import Findings, Run, encoded
from gpujob.driver.measure import MEASURE_SCRIPT, MEASURE_SECONDS, parse_measure
from gpujob.driver.output import Output
from gpujob.driver.ports import carry_ports
from gpujob.driver.settings import DriverSettings
from gpujob.driver.state import pinned_host_key
from gpujob.driver.supervisor import (
    LAUNCH_PATIENCE_SECONDS,
    Look,
    kill_script,
    launch_script,
    look_script,
    parse_look,
    run_name,
    stop_script,
    work_text,
)
from gpujob.driver.ways import Ways

RECONNECT_MAX_SECONDS = 10.0
LOOK_SECONDS = 2.0
SAMPLE_SECONDS = 15.0
"""Between two samples of the GPUs' load: taking one costs the machine a fraction of a second."""
LOGIN_PATIENCE_SECONDS = 60.0
"""A start script may install the node's key a moment after the SSH server answers."""
BROKEN_SESSIONS_MAX = 3
"""In a row. So many tell that the image's start-up files do this to every session."""
KILLED_EXIT_CODE = 137


class MachineRestarted(Exception):
    """The machine's container was restarted: of the run only files are left."""


class Replaced(Exception):
    """Another driver has the machine, as this one's node was taken for dead."""


class Place(NamedTuple):
    """What the work is bound to; where the machine can be reached may change meanwhile."""

    host_key: str
    """Of the machine to work on."""
    run_number: int
    """Of the run there."""


_log = logging.getLogger(__name__)


class Worker:
    """Works through the assignments that it is given, on one machine at a time."""

    def __init__(self, settings: DriverSettings) -> None:
        self._settings = settings
        self._claims = Claims(settings.data, settings.state_dir)
        self._output = Output(settings, self._claims.uploads)
        self.findings = Findings(data_problem=self._claims.problem)
        self._assignment = Assignment(version=1, instruction=Instruction.WAIT)
        self._news = asyncio.Event()
        """Set when the assignment has changed."""
        self._place: Place | None = None
        self._working: asyncio.Task[None] | None = None
        self._sampled_at = float("-inf")
        self._refused_since: float | None = None

    @property
    def copy_idle_seconds(self) -> float | None:
        """Time since bytes of files were last copied; None = none were."""
        flowed_at = self._claims.flowed_at
        return None if flowed_at is None else time.monotonic() - flowed_at

    async def take(self, assignment: Assignment) -> None:
        """Takes an assignment. With another machine or another run, the work starts over."""
        if assignment != self._assignment:
            self._assignment = assignment
            self._news.set()
        place = _place(assignment)
        if place != self._place and self.findings.outcome is None:
            await self.end()
            self._place = place
            self._working = self._turn_to(place)

    def check(self) -> None:
        """Raises what ended the work early."""
        if self._working is not None and self._working.done():
            # A mistake in the driver ends it; the kubelet starts it again.
            self._working.result()

    async def end(self) -> None:
        """Stops working. What runs on the machine goes on."""
        if self._working is not None:
            self._working.cancel()
            await asyncio.wait([self._working])

    def _turn_to(self, place: Place | None) -> asyncio.Task[None] | None:
        """Begins to work on a machine; None = on none, because it was taken away."""
        found = self.findings
        found.contact_at = self._refused_since = found.run = None
        # A machine that was restarted may be told to run the workload again.
        found.fault = found.money_deadline_seconds = None
        found.message, found.is_replaced = "", False
        if place is None:
            found.phase = WorkloadPhase.WAITING
            return None
        found.run = Run(place.run_number, self._output.sinks(place.run_number))
        return asyncio.create_task(self._hold_on(found.run))

    async def _wait_for_news(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._news.wait()
        self._news.clear()

    # --- Connections --------------------------------------------------------------------------

    async def _hold_on(self, run: Run) -> None:
        """Connects, launches once, carries output; reconnects until the workload has ended."""
        self.findings.phase = WorkloadPhase.CONNECTING
        ways = Ways(self._settings.ssh_key_file)
        tries = broken = 0
        heard = self.findings.contact_at
        while True:
            if self.findings.contact_at != heard:
                # The last connection was good for something.
                heard, tries, broken = self.findings.contact_at, 0, 0
            else:
                ways.turn()
            machine = self._assignment.machine
            assert machine is not None, "without one this is cancelled"
            try:
                self._check_pin(machine)
                async with ways.connected(machine) as connection:
                    self._refused_since = None
                    await self._attend(connection, run)
                return
            except HostKeyMismatch as error:
                self._give_up(MachineFault.HOST_KEY_CHANGED, str(error))
                return
            except LoginRefused as error:
                self._refused_since = self._refused_since or time.monotonic()
                # The provider or the workload may rewrite the list of keys; the machine's watchdog
                # puts ours back. So a key that was good before is treated like silence.
                is_new = self.findings.contact_at is None
                if is_new and time.monotonic() - self._refused_since > LOGIN_PATIENCE_SECONDS:
                    self._give_up(MachineFault.LOGIN_REFUSED, str(error))
                    return
                self.findings.message = str(error)
            except Replaced:
                self.findings.is_replaced = True
                self.findings.message = "another driver has taken over the machine"
                _log.info("%s", self.findings.message)
                return
            except MachineRestarted:
                words = "the machine's container was restarted while the workload ran"
                self._give_up(MachineFault.MACHINE_RESTARTED, words)
                return
            except (SessionBroken, SessionHangs) as error:
                # What was measured has let somebody in before: now it may be slow.
                is_slow = isinstance(error, SessionHangs) and not self._is_unproven
                broken += not is_slow
                if broken >= BROKEN_SESSIONS_MAX:
                    words = f"{error}; change the image so that a shell without a terminal starts"
                    self._give_up(MachineFault.IMAGE_UNUSABLE, words)
                    return
                self.findings.message = str(error)
            except MachineError as error:
                if self.findings.message != str(error):
                    _log.info("no connection to the machine; trying again: %s", error)
                self.findings.message = str(error)
            tries += 1
            longest = min(0.5 * 2 ** min(tries, 10), RECONNECT_MAX_SECONDS)
            # New addresses are tried at once.
            await self._wait_for_news(longest * random.uniform(0.5, 1.0))

    @property
    def _is_unproven(self) -> bool:
        """Whether no session on this machine has ever come to a script of ours."""
        is_new = self._assignment.instruction is Instruction.MEASURE
        return is_new and self.findings.contact_at is None

    def _give_up(self, fault: MachineFault, words: str) -> None:
        """Reports that this machine cannot do the work."""
        self.findings.fault = fault
        self.findings.message = words
        _log.info("%s", words)

    def _check_pin(self, machine: MachineAddress) -> None:
        """Trusts the first host key only; raises HostKeyMismatch.

        Another start changes host and port, never the key. A controller that names another key
        may be an impostor: only this check keeps the job's data from whoever answers instead.
        """
        if pinned_host_key(self._settings.state_dir, machine.host_key) != machine.host_key:
            raise HostKeyMismatch("the controller names another host key than at first")

    # --- One connection -----------------------------------------------------------------------

    async def _attend(self, connection: Connection, run: Run) -> None:
        """Stays with one connection until the workload has ended; raises MachineError."""
        found, claims = self.findings, self._claims
        work = await self._awaited_work(connection, run)
        look = await self._look(connection, run)
        if look.state == "absent" and not await self._furnish(connection, run):
            return
        if self._assignment.instruction is Instruction.RUN:
            environment = self._settings.workload_environment
            revealed = {name: value.get_secret_value() for name, value in environment.items()}
            text = work_text(work.command, work.working_dir, revealed)
            await connection.run(launch_script(self._name(run)), text)
        look = await self._await_start(connection, run)
        if look.state == "absent":
            self._finish(_outcome(look, run))
            return
        found.message = ""
        if found.ended is None:
            found.phase = WorkloadPhase.RUNNING
        following = self._output.follow(connection, self._name(run), run.sinks, self._heard)
        copying = claims.save_checkpoints(connection, lambda: run.stopped_at is not None)
        carrying = carry_ports(connection, self._settings.ports)
        await self._alongside(connection, run, following, copying, carrying)
        look = await self._look(connection, run)
        while look.state not in ("exited", "vanished"):
            await asyncio.sleep(0.2)
            look = await self._look(connection, run)
        outcome = _outcome(look, run)
        if claims.has_any_for_itself:
            found.ended = outcome
            found.phase = WorkloadPhase.DELIVERING
            await self._alongside(connection, run, claims.fetch(connection, outcome, run.alive_at))
        lost = "; ".join(words for words in (claims.lost, self._output.lost) if words)
        self._finish(outcome.model_copy(update={"lost": in_words(lost)}))

    async def _awaited_work(self, connection: Connection, run: Run) -> Work:
        """Measures the machine if it is asked for, and waits for what is to run on it."""
        while (work := self._assignment.work) is None:
            if self.findings.measured is None:
                self.findings.measured = await self._measure(connection)
                self.findings.phase = WorkloadPhase.MEASURED
            await self._wait_for_news(LOOK_SECONDS)
            await self._look(connection, run)
        return work

    async def _measure(self, connection: Connection) -> Measured:
        _log.info("measuring the machine")
        output = await connection.run(MEASURE_SCRIPT, timeout_seconds=MEASURE_SECONDS)
        try:
            return parse_measure(output)
        except ValueError as error:
            raise MachineError(f"the machine's measure is not understood: {error}") from error

    async def _furnish(self, connection: Connection, run: Run) -> bool:
        """Copies inputs and the last checkpoint to the machine; False = it does not take them."""
        if not self._claims.has_any_for_the_machine:
            return True
        _log.info("preparing the job's folders on the machine")
        self.findings.phase = WorkloadPhase.COPYING
        problems = ""

        async def copied() -> None:
            nonlocal problems
            problems = await self._claims.send(connection, is_first_run=run.number == 0)

        await self._alongside(connection, run, copied(), is_over=self._is_to_stop)
        if problems and not self._is_to_stop():
            self._give_up(MachineFault.INPUTS_NOT_COPIED, problems)
            return False
        return True

    async def _await_start(self, connection: Connection, run: Run) -> Look:
        """Waits until the workload has started, whoever launched it."""
        deadline = time.monotonic() + LAUNCH_PATIENCE_SECONDS
        while (look := await self._look(connection, run)).state in ("absent", "launching"):
            if self._is_to_stop() and look.state == "absent":
                # It is to end before it has begun.
                return look
            if time.monotonic() > deadline:
                # Its launcher died half way. Starting it again could run it twice.
                return Look("vanished", run_seconds=0)
            await asyncio.sleep(0.1)
        return look

    def _finish(self, outcome: Outcome) -> None:
        self.findings.outcome = outcome
        self.findings.phase = WorkloadPhase.FINISHED
        # The kubelet keeps 4,096 bytes.
        words = {"message": in_words(outcome.message, 200), "lost": in_words(outcome.lost, 600)}
        text = encoded(outcome.model_copy(update=words))
        Path(self._settings.termination_log).write_bytes(text)
        _log.info("the workload ended with exit code %d", outcome.exit_code)

    # --- Beside the work ----------------------------------------------------------------------

    async def _alongside(
        self,
        connection: Connection,
        run: Run,
        work: Coroutine[Any, Any, None],
        *others: Coroutine[Any, Any, None],
        is_over: Callable[[], bool] = lambda: False,
    ) -> None:
        """Does some work, beside others that never end, until it is done or `is_over`.

        Meanwhile it looks at the workload again and again, and ends it when that is asked for. A
        look that fails ends everything: the streams alone do not tell a silent workload from a
        machine that hangs.
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

    async def _look_on(self, connection: Connection, run: Run, is_over: Callable[[], bool]) -> None:
        while not is_over():
            await self._end_if_asked(connection, run)
            await self._wait_for_news(LOOK_SECONDS)
            await self._look(connection, run)

    def _is_to_stop(self) -> bool:
        return self._assignment.instruction is Instruction.STOP

    async def _end_if_asked(self, connection: Connection, run: Run) -> None:
        if not self._is_to_stop() or run.is_over:
            return
        now = time.monotonic()
        if run.stopped_at is None:
            _log.info("the workload is asked to end")
            self.findings.phase = WorkloadPhase.STOPPING
            await connection.run(stop_script(self._name(run), self._settings.number))
            run.stopped_at = now
        elif not run.is_killed and now - run.stopped_at >= (self._assignment.grace_seconds or 0):
            _log.info("the workload has not ended in time and is killed")
            run.is_killed = True
            await connection.run(kill_script(self._name(run), self._settings.number))

    async def _look(self, connection: Connection, run: Run) -> Look:
        """Asks how the workload is; to the machine's watchdog, each look is a heartbeat."""
        due = time.monotonic() - self._sampled_at >= SAMPLE_SECONDS
        samples = due and run.seconds is not None
        try:
            script = look_script(
                self._name(run),
                samples_gpus=samples,
                money_deadline_seconds=self._deadline_to_tell,
                driver=self._settings.number,
            )
            look = parse_look(await connection.run(script))
        except ValueError as error:
            raise MachineError(f"the machine's answer is {error}") from error
        if look.state == "replaced":
            raise Replaced
        now = self._heard()
        if look.state == "restarted":
            raise MachineRestarted
        if look.state == "absent" and run.seconds is not None:
            # It has run, and has removed what tells of it. To start it again could run it twice.
            look = replace(look, state="vanished", run_seconds=int(run.seconds))
        self.findings.money_deadline_seconds = look.money_deadline_seconds
        if look.run_seconds is not None:
            run.seconds = float(look.run_seconds)
        run.is_over = look.state in ("exited", "vanished")
        if look.state in ("running", "exited"):
            run.alive_at = look.at
        run.progress = look.progress or run.progress
        run.written = (look.stdout_bytes, look.stderr_bytes)
        if samples:
            self._sampled_at = now
            if look.state == "running":
                run.meter.take(look.gpus, now)
        return look

    @property
    def _deadline_to_tell(self) -> int | None:
        """The deadline that the machine's watchdog has not acknowledged yet."""
        asked = self._assignment.money_deadline_seconds
        return None if asked == self.findings.money_deadline_seconds else asked

    def _heard(self) -> float:
        """Notes that the machine has answered; returns when."""
        self.findings.contact_at = now = time.monotonic()
        return now

    def _name(self, run: Run) -> str:
        return run_name(self._settings.node_uid, run.number)


def _outcome(look: Look, run: Run) -> Outcome:
    vanished = look.state != "exited"
    message = ""
    if vanished:
        message = f"the workload's supervisor was killed, or {MACHINE_FOLDER} was removed"
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


def _place(assignment: Assignment) -> Place | None:
    if assignment.machine is None:
        return None
    run_number = assignment.work.run_number if assignment.work else 0
    return Place(assignment.machine.host_key, run_number)
