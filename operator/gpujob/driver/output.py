"""Carries the workload's output from the machine to the pod's own streams and to its claim."""

import asyncio
import logging
import os
from collections.abc import Callable
from itertools import count
from pathlib import Path

from gpujob.adapters.errors import MachineError
from gpujob.adapters.ssh import READ_BYTES, Connection
from gpujob.api.words import in_words
from gpujob.driver.files import Allowance
from gpujob.driver.listing import OWN_FOLDER, CopyError
from gpujob.driver.settings import DriverSettings
from gpujob.driver.state import Kept, Printed, Sink
from gpujob.driver.supervisor import follow_script

STREAMS = {"stdout": 1, "stderr": 2}
"""The workload's streams, and the driver's own file descriptors on which they are printed."""

Sinks = dict[str, list[Sink]]
"""Where each stream goes. The last sink is the file on a claim, if there is one."""

_log = logging.getLogger(__name__)


def carried(sinks: Sinks) -> tuple[int, int]:
    """Returns how many bytes of stdout and of stderr are kept."""
    # The file on a claim, if there is one, is what counts as kept.
    out, err = (sinks[stream][-1].value for stream in STREAMS)
    return out, err


class Output:
    """Opens the sinks of each run, and fills them."""

    def __init__(self, settings: DriverSettings, uploads: Allowance) -> None:
        self._settings = settings
        self._uploads = uploads
        self.lost = ""
        """Why the log on the claim is not whole; empty = it is, or there is none."""

    def sinks(self, number: int) -> Sinks:
        """Opens the sinks of a run. What they hold already is not carried again."""
        return {stream: self._sinks(stream, number) for stream in STREAMS}

    def _sinks(self, stream: str, number: int) -> list[Sink]:
        settings = self._settings
        printed = Printed(STREAMS[stream], settings.state_dir, f"{stream}-{number}")
        if settings.data is None or settings.data.log_folder is None:
            return [printed]
        name = f"{settings.node_name}{f'.{number}' if number else ''}.{stream}"
        try:
            kept = self._kept(Path(settings.data.log_folder), name)
        except OSError as error:
            self.lost = in_words(f"there is no log on its claim: {error.strerror}")
            _log.info("%s", self.lost)
            return [printed]
        if printed.value == 0 and kept.value > 0:
            # An earlier pod carried this part, and carrying it again would cost traffic again.
            _log.info("%s up to byte %d is in %s on its claim", stream, kept.value, name)
            printed.skip_to(kept.value)
        return [printed, kept]

    def _kept(self, folder: Path, name: str) -> Kept:
        """Opens a file on the claim; raises OSError.

        A job that had this one's name, and was deleted, may have left a file. It gets another name.
        """
        ours = folder / os.fsdecode(OWN_FOLDER) / self._settings.node_uid / name
        if not ours.exists():
            if (path := folder / name).is_file() and not path.is_symlink():
                names = (folder / f"{name}.{number}" for number in count(1))
                path.rename(next(one for one in names if not os.path.lexists(one)))
            ours.parent.mkdir(parents=True, exist_ok=True)
            ours.touch()
        return Kept(folder / name)

    async def follow(
        self, connection: Connection, run_name: str, sinks: Sinks, heard: Callable[[], object]
    ) -> None:
        """Carries both streams until the workload has ended; raises MachineError.

        Calls `heard` each time that something has come from the machine.
        """
        following = [
            asyncio.create_task(self._follow(connection, run_name, stream, sinks[stream], heard))
            for stream in STREAMS
        ]
        try:
            await asyncio.gather(*following)
        finally:
            for one in following:
                one.cancel()
            await asyncio.gather(*following, return_exceptions=True)

    async def _follow(
        self,
        connection: Connection,
        run_name: str,
        stream: str,
        sinks: list[Sink],
        heard: Callable[[], object],
    ) -> None:
        """Carries one stream to all its sinks, each byte once."""
        at = min(sink.value for sink in sinks)
        async with connection.open(follow_script(run_name, stream, at)) as process:
            while data := await process.stdout.read(READ_BYTES):
                for sink in tuple(sinks):
                    # A sink may hold more than another one, which still needs these bytes.
                    self._put(sink, sinks, memoryview(data)[max(sink.value - at, 0) :])
                at += len(data)
                heard()
            await process.wait_closed()
            if process.exit_status != 0:
                raise MachineError(f"the stream {stream} broke")

    def _put(self, sink: Sink, sinks: list[Sink], data: memoryview) -> None:
        """Writes the next bytes to a sink. A claim that takes no more is left out from then on."""
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
            self.lost = in_words(words, 200)
            _log.info("%s", words)
