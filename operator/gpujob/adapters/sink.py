"""The one sink: what a process says goes to standard error through here, without secrets.

This includes what would bypass the loggers: uncaught exceptions in any thread, warnings, and
records that cannot be rendered, which Python would print as they are. asyncio passes its own
problems to its logger. `faulthandler` stays off.
"""

import logging
import sys
import threading
from collections.abc import Iterable
from types import TracebackType
from typing import TextIO

from pydantic import SecretStr

from gpujob.adapters.redact import Scrubber

_log = logging.getLogger("gpujob")


class ScrubbingHandler(logging.StreamHandler[TextIO]):
    """Writes scrubbed records to whatever standard error is at that moment."""

    def __init__(self, formatter: logging.Formatter, scrub: Scrubber) -> None:
        super().__init__()
        self.setFormatter(formatter)
        self._scrub = scrub

    def emit(self, record: logging.LogRecord) -> None:
        """Writes one record."""
        self.stream = sys.stderr
        super().emit(record)

    def format(self, record: logging.LogRecord) -> str:
        """Returns a record's line without secrets, or why it cannot be rendered."""
        try:
            line = super().format(record)
        except Exception as problem:  # noqa: BLE001 - the line must not be lost
            line = super().format(_unrendered(record, problem))
        return self._scrub(line)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Does nothing. The inherited method would print the record as it is."""


def _unrendered(record: logging.LogRecord, problem: Exception) -> logging.LogRecord:
    """Returns a record that can surely be rendered, in place of one that cannot."""
    error = record.exc_info[1] if record.exc_info else None
    parts = [part for part in (record.msg, record.args, error) if part]
    text = f"a log record cannot be rendered ({_shown(problem)}): {', '.join(map(_shown, parts))}"
    return logging.LogRecord(
        record.name, record.levelno, record.pathname, record.lineno, text, None, None
    )


def _shown(value: object) -> str:
    try:
        return repr(value)
    except Exception:  # noqa: BLE001 - somebody else's object
        return f"<{type(value).__name__} that cannot be shown>"


def open_sink(level: str, formatter: logging.Formatter, secrets: Iterable[SecretStr]) -> Scrubber:
    """Sends all records of this process, and what bypasses the loggers, to the sink.

    Returns the scrubber, for whatever else is printed.
    """
    scrub = Scrubber(secrets)
    root = logging.getLogger()
    root.handlers[:] = [ScrubbingHandler(formatter, scrub)]
    root.setLevel(level)
    logging.captureWarnings(True)
    sys.excepthook = _uncaught
    threading.excepthook = _uncaught_in_thread
    sys.unraisablehook = _unraisable
    return scrub


def _uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    _log.critical("uncaught exception", exc_info=(kind, error, trace))


def _uncaught_in_thread(told: threading.ExceptHookArgs) -> None:
    if told.exc_value is not None and not isinstance(told.exc_value, SystemExit):
        name = told.thread.name if told.thread else "unknown"
        trace = (told.exc_type, told.exc_value, told.exc_traceback)
        _log.critical("uncaught exception in thread %s", name, exc_info=trace)


def _unraisable(told: "sys.UnraisableHookArgs") -> None:
    words = told.err_msg or "exception ignored in"
    error = told.exc_value
    trace = None if error is None else (type(error), error, told.exc_traceback)
    _log.error("%s: %r", words, told.object, exc_info=trace)
