"""Logging: JSON lines on standard error, through the one sink.

All records go this way, ours and those of kopf, uvicorn and aiohttp, tracebacks included, so that
no secret gets past the scrubber.
"""

import logging
from collections.abc import Iterable

import structlog
from pydantic import SecretStr

from gpujob.adapters.sink import open_sink


def configure_logging(level: str, secrets: Iterable[SecretStr] = ()) -> None:
    """Sends all records of this process to standard error as JSON lines, scrubbed."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.JSONRenderer(default=str),
        ],
    )
    open_sink(level, formatter, secrets)
    # The libraries' details matter only to somebody who looks for a fault.
    for noisy in ("uvicorn.error", "asyncssh", "kopf"):
        logging.getLogger(noisy).setLevel("WARNING" if level == "INFO" else level)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "kopf"):
        logger = logging.getLogger(name)
        logger.handlers[:] = []
        logger.propagate = True
    # Our listeners log what is worth knowing about requests.
    logging.getLogger("uvicorn.access").disabled = True
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
