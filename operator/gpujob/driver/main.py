"""The driver's beginning and end: settings, log, the two loops, exit status."""

import asyncio
import logging
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress

from pydantic import SecretStr

from gpujob.adapters.redact import Scrubber
from gpujob.adapters.sink import open_sink
from gpujob.driver.reporting import Reporter
from gpujob.driver.settings import DriverSettings, DriverSettingsError
from gpujob.driver.work import Worker

SECRET_CHARACTERS_MIN = 6
"""A shorter value of the job's environment, such as `1` or `true`, is part of many log lines."""


def main() -> None:
    """Runs the driver; the exit status is 0 once the controller needs it no more."""
    try:
        settings = DriverSettings.from_environment()
    except DriverSettingsError as error:
        sys.exit(f"gpujob: {error}")
    scrub = open_sink("WARNING", logging.Formatter("gpujob: %(message)s"), _secrets(settings))
    # The driver's own remarks stand beside the workload's output in the pod's log.
    logging.getLogger("gpujob.driver").setLevel("INFO")
    sys.exit(asyncio.run(_run(settings, scrub)))


def _secrets(settings: DriverSettings) -> Iterator[SecretStr]:
    """Yields what no log line may show. A renewed token is recognized by its shape."""
    for file in (settings.token_file, settings.ssh_key_file):
        with suppress(OSError):
            yield SecretStr(file.read_text(errors="replace"))
    for value in settings.workload_environment.values():
        if len(value) >= SECRET_CHARACTERS_MIN:
            yield value


async def _run(settings: DriverSettings, scrub: Scrubber) -> int:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    reporting = asyncio.create_task(Reporter(settings, scrub, Worker(settings)).run())
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait([reporting, stopping], return_when=asyncio.FIRST_COMPLETED)
    if not reporting.done():
        # The workload goes on without the driver; the controller decides about the machine.
        reporting.cancel()
        await asyncio.wait([reporting])
        return 128 + signal.SIGTERM
    reporting.result()
    return 0
