"""Logging: JSON lines on standard error, one sink, through which no secret passes.

The account token is replaced wherever it stands, whoever logs: our own records, kopf's, uvicorn's,
aiohttp's, tracebacks included.
"""

import logging
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

REPLACEMENT = "[redacted]"


class Scrubber:
    """Replaces known secrets in rendered lines."""

    def __init__(self, secrets: tuple[str, ...]) -> None:
        self._secrets = tuple(secret for secret in secrets if secret)

    def __call__(self, line: str) -> str:
        """Returns the line without the secrets."""
        for secret in self._secrets:
            line = line.replace(secret, REPLACEMENT)
        return line


def configure(level: str, secrets: tuple[str, ...]) -> None:
    """Sends all records of this process to standard error as JSON lines, scrubbed."""
    scrub = Scrubber(secrets)
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]

    def render(_: Any, __: str, event: MutableMapping[str, Any]) -> str:
        rendered = structlog.processors.JSONRenderer(default=str)(_, __, event)
        return scrub(rendered if isinstance(rendered, str) else rendered.decode())

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, render],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for noisy in ("uvicorn.error", "uvicorn.access", "asyncssh", "kopf"):
        logging.getLogger(noisy).setLevel("WARNING")
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "kopf"):
        logger = logging.getLogger(name)
        logger.handlers[:] = []
        logger.propagate = True
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
