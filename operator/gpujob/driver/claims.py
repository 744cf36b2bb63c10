"""Copies the job's files between its claims and the machine, when the work asks for it."""

import asyncio
import logging
from collections.abc import Callable

from gpujob.adapters.ssh import Connection
from gpujob.api.data import DataPlan
from gpujob.api.words import in_words
from gpujob.driver.files import Allowance, data_problem, pull, push, words_for

_log = logging.getLogger(__name__)


class Claims:
    """The job's inputs, outputs and checkpoint, and what may still be copied."""

    def __init__(self, plan: DataPlan | None) -> None:
        self._plan = plan = plan or DataPlan()
        self.problem = in_words(data_problem(plan))
        """Why the claims cannot be used for this job; empty = they can."""
        self.downloads = Allowance(plan.download_bytes_max, "data.maxDownloadGB")
        self.uploads = Allowance(plan.upload_bytes_max, "data.maxUploadGB")
        self.lost = ""
        """What could not be copied from the machine after the workload's end, and why."""

    @property
    def has_any_for_the_machine(self) -> bool:
        """Whether the machine needs files before the workload starts."""
        return bool(self._plan.inputs or self._plan.checkpoint)

    @property
    def has_any_for_itself(self) -> bool:
        """Whether files are to be copied from the machine after the workload's end."""
        return bool(self._plan.outputs or self._plan.checkpoint)

    async def send(self, connection: Connection, *, is_first_run: bool) -> str:
        """Copies inputs and the last checkpoint to the machine; returns what was not copied."""
        problems: list[str] = []
        for copy in self._plan.inputs:
            problems.extend(await push(connection, copy, self.downloads))
        if (last := self._plan.checkpoint) is not None:
            # After an interruption, the files on the machine are newer than those on the claim.
            newer = not is_first_run
            problems.extend(await push(connection, last, self.downloads, only_missing=newer))
        return words_for(problems)

    async def save_checkpoints(
        self, connection: Connection, is_stopping: Callable[[], bool]
    ) -> None:
        """Copies the checkpoint from the machine now and then; never ends by itself."""
        copy = self._plan.checkpoint
        logged: str | None = None
        while copy is not None and not is_stopping():
            await asyncio.sleep(self._plan.checkpoint_seconds)
            words = words_for(await pull(connection, copy, self.uploads, mirrors=True))
            if words != logged:
                _log.info("%s", words or "the checkpoint is copied again")
            logged = words
        await asyncio.Event().wait()

    async def fetch(self, connection: Connection, *, succeeded: bool) -> None:
        """Copies outputs and checkpoint from the machine after the workload has ended."""
        problems: list[str] = []
        for copy in self._plan.outputs:
            needed = succeeded and not copy.optional
            problems.extend(
                await pull(connection, copy, self.uploads, mirrors=False, needs_files=needed)
            )
        if (last := self._plan.checkpoint) is not None:
            problems.extend(await pull(connection, last, self.uploads, mirrors=True))
        self.lost = words_for(problems)
        if self.lost:
            _log.info("%s", self.lost)
