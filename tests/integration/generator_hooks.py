"""What the generator of requests is told: which tokens to show, and what is no answer of ours.

Read by schemathesis, in a process of its own.
"""

import itertools
import os
from pathlib import Path
from typing import Any

import schemathesis

TOKENS = itertools.cycle(Path(os.environ["GPUJOB_API_TOKENS"]).read_text().split())
BELOW_THE_API = b"Invalid HTTP request received."


@schemathesis.auth(refresh_interval=None)
class InTurn:
    """Shows one token after the other: each may ask only so often."""

    def get(self, case: Any, context: Any) -> str:
        """Returns the next token."""
        return next(TOKENS)

    def set(self, case: Any, data: str, context: Any) -> None:
        """Puts it into a request."""
        case.headers = case.headers or {}
        case.headers["Authorization"] = f"Bearer {data}"


@schemathesis.hook
def filter_failure(context: Any, failure: Any, case: Any, response: Any) -> bool:
    """Whether a failure counts: a head of more than 64 KiB never reaches the API."""
    return not (response.status_code == 400 and response.content == BELOW_THE_API)
