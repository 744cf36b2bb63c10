"""No secret passes the log's sink, whoever logs."""

import logging
import sys

import pytest
import structlog

from gpujob.adapters import log

SECRET = "canary-0123456789"


def test_the_token_is_replaced_in_every_record(capsys: pytest.CaptureFixture[str]) -> None:
    """In our own records, in other libraries', in tracebacks and in reprs."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        log.configure("DEBUG", (SECRET,))
        for handler in root.handlers:
            assert isinstance(handler, logging.StreamHandler)
            handler.setStream(sys.stderr)
        structlog.get_logger("ours").info("event", key=SECRET, nested={"deep": [SECRET]})
        logging.getLogger("theirs").warning("url ?api_key=%s", SECRET)
        try:
            raise ValueError(f"with {SECRET}")
        except ValueError:
            logging.getLogger("theirs").exception("broke")
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        structlog.reset_defaults()
    said = capsys.readouterr().err

    assert said.count(log.REPLACEMENT) >= 4
    assert SECRET not in said
