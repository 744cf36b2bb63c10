"""The loop that reports: sends what the driver knows to the controller, and takes assignments.

It reports what is new at once, and else when the answer comes, which the controller keeps back for
some seconds as long as it has nothing new to tell.

Losing the controller loses nothing: the loop that works goes on with the latest assignment, until
the controller has another driver for the node.
"""

import asyncio
import logging
import random
import time
from math import inf

from pydantic import ValidationError

from gpujob.adapters.errors import ControllerUnavailable, NotTheDriver
from gpujob.adapters.redact import Scrubber
from gpujob.adapters.transport import TransportClient, UntrustedAuthorities
from gpujob.api.transport import (
    ASSIGNMENT_BYTES_MAX,
    HOLD_SECONDS,
    SYNC_PATH,
    Assignment,
    DriverReport,
    Instruction,
    RegistryLogin,
    digest_of_answer,
    message_faults,
    read_message,
)
from gpujob.api.words import in_words
from gpujob.driver.findings import encoded
from gpujob.driver.registry import NoLogin, read_login
from gpujob.driver.settings import DriverSettings
from gpujob.driver.state import AUTHORITIES, known_authorities, next_session, put
from gpujob.driver.work import Worker

SYNC_BACKOFF_MAX_SECONDS = 15.0
NEWS_SECONDS = 0.5
"""Between two looks for news. A request that is not answered as fast is one whose answer is kept
back, and may be given up for the next one."""
ACKNOWLEDGE_SECONDS = 600.0
"""How long an outcome is offered to a controller that does not answer."""

_log = logging.getLogger(__name__)


class _NoAnswer(Exception):
    """The controller did not answer, or with something else than an assignment."""


class _Replaced(_NoAnswer):
    """The controller does not take this pod for the node's driver, or not yet."""


class Reporter:
    """Reports what a worker finds, until the controller needs the driver no more."""

    def __init__(self, settings: DriverSettings, scrub: Scrubber, worker: Worker) -> None:
        self._settings = settings
        self._scrub = scrub
        self._worker = worker
        self._authorities = known_authorities(settings.state_dir, settings.authorities)
        self._client = TransportClient(settings.transport_url, self._authorities)
        self._problem = ""
        self._wants_login = False
        self._session = next_session(settings.state_dir)
        self._sequence = 0
        """Of the latest report."""
        self._is_stopping = False
        """Whether the latest assignment is to stop: its answers are never kept back."""
        self._taken: str | None = None
        """The digest of the latest answer; none in a new process, which has taken nothing yet."""

    async def run(self) -> None:
        """Reports until the controller says that nothing is left to do, or stays away too long."""
        failures = 0
        finished_at: float | None = None
        while True:
            report = self._report()
            next_at = time.monotonic() + self._settings.sync_seconds
            try:
                assignment = await self._sync(report)
            except _NoAnswer as error:
                failures += 1
                assignment = None
                if (problem := str(error)) != self._problem:
                    _log.info("%s", problem)
                    self._problem = problem
                if isinstance(error, _Replaced):
                    # Another driver has the machine now. What runs there goes on.
                    await self._worker.take(Assignment(version=1, instruction=Instruction.WAIT))
            if assignment is not None:
                failures, self._problem = 0, ""
                if assignment.instruction is Instruction.EXIT:
                    break
                await self._worker.take(assignment)
            if self._worker.findings.outcome is not None:
                finished_at = finished_at or time.monotonic()
                if time.monotonic() - finished_at > ACKNOWLEDGE_SECONDS:
                    _log.info("no controller took the outcome; it stays in the termination message")
                    break
            now = time.monotonic()
            if failures:
                next_at = now + self._retry_seconds(failures)
            elif self._taken != report.taken:
                # The controller keeps an answer back only if the driver says that it has it.
                next_at = min(next_at, now + NEWS_SECONDS)
            await self._wait(report, next_at - now)
        self._client.close()
        await self._worker.end()

    def _retry_seconds(self, failures: int) -> float:
        seconds = self._settings.sync_seconds
        slower: float = min(seconds * 2 ** min(failures, 10), SYNC_BACKOFF_MAX_SECONDS)
        return slower * random.uniform(0.5, 1.0)

    async def _wait(
        self, report: DriverReport, seconds: float, asking: asyncio.Task[bytes] | None = None
    ) -> None:
        """Waits until there is news after a report, or its answer, but no longer than this."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0 and self._report().news == report.news:
            self._worker.check()
            if asking is None:
                await asyncio.sleep(min(left, NEWS_SECONDS))
            elif (await asyncio.wait([asking], timeout=min(left, NEWS_SECONDS)))[0]:
                return

    async def _sync(self, report: DriverReport) -> Assignment | None:
        """Reports, and returns the assignment; None = there is news before the answer.

        Raises _NoAnswer.
        """
        if (raw := await self._answer(report)) is None:
            return None
        try:
            told = read_message(Assignment, raw)
        except ValidationError as error:
            words = f"the controller's answer is not understood: {message_faults(error)}"
            raise _NoAnswer(words) from None
        self._take_authorities(told.authorities)
        self._wants_login = told.wants_login
        self._is_stopping = told.instruction is Instruction.STOP
        self._taken = digest_of_answer(raw)
        return told

    async def _answer(self, report: DriverReport) -> bytes | None:
        """Reports, and returns the answer, which may be kept back; None = there is news before it.

        Raises _NoAnswer.
        """
        self._sequence = report.sequence
        try:
            token = self._settings.token_file.read_text().strip()
        except OSError as error:
            raise _NoAnswer(f"the token of this pod cannot be read: {error}") from error
        asking = asyncio.create_task(
            self._client.post(
                SYNC_PATH,
                encoded(report),
                token=token,
                bytes_max=ASSIGNMENT_BYTES_MAX,
                held_seconds=0.0 if report.taken is None or self._is_stopping else HOLD_SECONDS,
            )
        )
        try:
            await self._wait(report, inf, asking)
        finally:
            asking.cancel()
            await asyncio.wait([asking])
        try:
            return None if asking.cancelled() else asking.result()
        except NotTheDriver as error:
            raise _Replaced(f"the controller gives this driver nothing to do: {error}") from error
        except ControllerUnavailable as error:
            raise _NoAnswer(f"no contact with the controller: {error}") from error

    def _take_authorities(self, told: str) -> None:
        """Trusts other authorities from now on, after a restart too: the pod may outlive some."""
        if told in ("", self._authorities):
            return
        self._authorities = told
        try:
            self._client.trust(told)
            put(self._settings.state_dir / AUTHORITIES, told.encode())
        except (UntrustedAuthorities, OSError) as error:
            _log.info("the controller's new authorities were not taken over: %s", error)

    def _login(self) -> tuple[RegistryLogin | None, str]:
        """Returns the login for the image's registry if it is wanted, or why there is none."""
        folder = self._settings.pull_secret
        if not self._wants_login or folder is None:
            return None, ""
        try:
            return read_login(folder, self._settings.image), ""
        except NoLogin as error:
            return None, in_words(f"the image pull secret cannot be used: {error}")

    def _report(self) -> DriverReport:
        found = self._worker.findings
        contact, run = found.contact_at, found.run
        login, login_problem = self._login()
        return DriverReport(
            version=1,
            node_uid=self._settings.node_uid,
            session=self._session,
            sequence=self._sequence + 1,
            phase=found.phase,
            machine_contact_age_seconds=None if contact is None else time.monotonic() - contact,
            measured=found.measured,
            run_number=run.number if run else 0,
            run_seconds=run.seconds if run else None,
            progress=run.progress if run else None,
            usage=run.meter.usage() if run else None,
            log=run.log if run else None,
            ended=found.ended if found.outcome is None else None,
            copy_idle_seconds=self._worker.copy_idle_seconds,
            outcome=found.outcome,
            money_deadline_seconds=found.money_deadline_seconds,
            fault=found.fault,
            data_problem=found.data_problem,
            login=login,
            login_problem=login_problem,
            is_replaced=found.is_replaced,
            message=in_words(self._scrub(found.message)),
            taken=self._taken,
        )
