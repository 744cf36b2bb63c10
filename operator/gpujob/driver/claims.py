"""Copies the job's files between its claims and the machine, when the work asks for it."""

import asyncio
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from gpujob.adapters.ssh import Connection
from gpujob.api.data import Copy, DataPlan
from gpujob.api.transport import Cause, Outcome
from gpujob.api.words import in_words
from gpujob.driver.checkpoint import Checkpoint
from gpujob.driver.files import Allowance, words_for
from gpujob.driver.listing import FILES_MAX, CopyError, Kind, local_entries
from gpujob.driver.pulling import pull
from gpujob.driver.pushing import make_folder, push
from gpujob.driver.state import Counter

ASKED_TO_END = frozenset({129, 130, 143})
"""Exit codes after SIGHUP, SIGINT and SIGTERM, which a program may take as a request to save."""
TORN_CAUSES = frozenset({Cause.OUT_OF_MEMORY, Cause.DISK_FULL})

_log = logging.getLogger(__name__)


def data_problem(plan: DataPlan) -> str:
    """Returns why the claims cannot be used for this job; empty = they can."""
    for folder in _written(plan):
        try:
            probe = folder / f".gpujob-probe-{os.getpid()}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            return f"{folder.name} cannot be written: {error.strerror}"
    total = 0
    try:
        for copy in _read(plan):
            folder = Path(copy.folder)
            for count, entry in enumerate(local_entries(folder), 1):
                if count > FILES_MAX:
                    return f"{folder.name} holds more than {FILES_MAX} files"
                if entry.kind is not Kind.FILE:
                    continue
                total += entry.size
                path = os.path.join(os.fsencode(folder), entry.name)  # noqa: PTH118 - of bytes
                if not os.access(path, os.R_OK, effective_ids=True):
                    who = f"user {os.geteuid()} or group {os.getegid()}"
                    return f"{entry.shown} in {folder.name} cannot be read by {who}"
    except OSError as error:
        return f"an input cannot be read: {error.strerror}"
    if total > plan.download_bytes_max:
        gb = plan.download_bytes_max // 10**9
        return f"inputs and checkpoint have {total} bytes, but data.maxDownloadGB allows {gb} GB"
    return ""


def _written(plan: DataPlan) -> Iterator[Path]:
    yield from (Path(copy.folder) for copy in plan.outputs)
    if plan.checkpoint is not None:
        yield Path(plan.checkpoint.folder)
    if plan.log_folder is not None:
        yield Path(plan.log_folder)


def _read(plan: DataPlan) -> Iterator[Copy]:
    yield from plan.inputs
    if plan.checkpoint is not None:
        yield plan.checkpoint


class Claims:
    """The job's inputs, outputs and checkpoint, and what may still be copied."""

    def __init__(self, plan: DataPlan | None, state: Path) -> None:
        """Finds out whether the claims can be used; what was copied is counted in `state`."""
        self._plan = plan = plan or DataPlan()
        self._checkpoint: Checkpoint | None = None
        if plan.checkpoint is not None:
            self._checkpoint = Checkpoint(plan.checkpoint, plan.job, plan.checkpoint_seconds)
            # What fails here fails again when it is needed, and is told then.
            with suppress(OSError):
                self._checkpoint.recover()
        self.problem = in_words(data_problem(plan))
        """Why the claims cannot be used for this job; empty = they can."""
        self.downloads = Allowance(
            plan.download_bytes_max, "data.maxDownloadGB", Counter(state / "downloaded")
        )
        self.uploads = Allowance(
            plan.upload_bytes_max, "data.maxUploadGB", Counter(state / "uploaded")
        )
        self.lost = ""
        """What could not be copied from the machine after the workload's end, and why."""

    @property
    def flowed_at(self) -> float | None:
        """Monotonic time at which bytes were last copied; None = none were."""
        latest = max(self.downloads.flowed_at, self.uploads.flowed_at)
        return latest if latest > float("-inf") else None

    @property
    def has_any_for_the_machine(self) -> bool:
        """Whether the machine needs files or folders before the workload starts."""
        return bool(self._plan.inputs or self.has_any_for_itself)

    @property
    def has_any_for_itself(self) -> bool:
        """Whether files are to be copied from the machine after the workload's end."""
        return bool(self._plan.outputs or self._plan.checkpoint)

    async def send(self, connection: Connection, *, is_first_run: bool) -> str:
        """Makes the folders on the machine, and copies inputs and the last checkpoint to them.

        Returns what was not copied.
        """
        problems: list[str] = []
        for copy in self._plan.outputs:
            try:
                await make_folder(connection, copy.path)
            except CopyError as error:
                problems.append(str(error))
        for copy in self._plan.inputs:
            problems.extend(await push(connection, copy, self.downloads))
        if self._checkpoint is not None:
            problems.extend(
                await self._checkpoint.send(connection, self.downloads, is_first_run=is_first_run)
            )
        return words_for(problems)

    async def save_checkpoints(
        self, connection: Connection, is_stopping: Callable[[], bool]
    ) -> None:
        """Copies the checkpoint from the machine now and then; never ends by itself."""
        checkpoint = self._checkpoint
        logged: str | None = None
        while checkpoint is not None and not is_stopping():
            await asyncio.sleep(self._plan.checkpoint_seconds)
            words = await checkpoint.take(connection, self.uploads)
            if words != logged:
                _log.info("%s", words or "the checkpoint is copied to the claim")
            logged = words
        await asyncio.Event().wait()

    async def fetch(self, connection: Connection, outcome: Outcome, ended_at: int) -> None:
        """Copies outputs and checkpoint from the machine after the workload has ended.

        It ended at `ended_at` by the machine's clock, or soon after; 0 = nobody knows when.
        """
        problems: list[str] = []
        for copy in self._plan.outputs:
            needed = outcome.exit_code == 0 and not copy.optional
            problems.extend(await pull(connection, copy, self.uploads, needs_files=needed))
        lost = [words_for(problems)]
        if self._checkpoint is not None:
            killed = ended_at if may_be_torn(outcome) else None
            lost.append(
                await self._checkpoint.take_last(connection, self.uploads, killed_at=killed)
            )
        self.lost = "; ".join(words for words in lost if words)
        if self.lost:
            _log.info("%s", self.lost)


def may_be_torn(outcome: Outcome) -> bool:
    """Whether the workload may have ended in the middle of a file that it was writing."""
    crashed = outcome.exit_code >= 128 and outcome.exit_code not in ASKED_TO_END
    return crashed or outcome.was_killed or outcome.cause in TORN_CAUSES
