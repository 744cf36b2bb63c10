"""What the generator of requests is told: which tokens to show, and what is no answer of ours.

Read by schemathesis, in a process of its own.
"""

import itertools
import os
import re
from pathlib import Path
from typing import Any

import schemathesis
import yaml
from hypothesis.internal import lambda_sources
from schemathesis.openapi.checks import IgnoredAuth, RejectedPositiveData, UseAfterFree

TOKENS = itertools.cycle(Path(os.environ["GPUJOB_API_TOKENS"]).read_text().split())


def _unnamed(_: object) -> str:
    return "<lambda>"


# Strategies are shown by the source of their lambdas, which several threads parse; CPython 3.11
# counts the depth for all of them in one place ("AST constructor recursion depth mismatch") and an
# operation was given up. Only what they are called is lost.
lambda_sources._lambda_description = _unnamed  # type: ignore[assignment]
OURS = "job-"
"""How the names begin that test_generated_requests.py keeps creating."""
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


class Quoted(yaml.SafeDumper):
    """Puts each text in quotes.

    Else it is written as YAML 1.1 has it, where `1e5` is a text; to kubectl, and to us, it is a
    number.
    """


Quoted.add_representer(
    str, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"')
)


# The generator takes the first serializer of the family that it knows.
@schemathesis.serializer(*(f"{kind}yaml" for kind in ("text/", "text/x-", "application/")))
def in_yaml(context: Any, body: Any) -> bytes:
    """Returns a body as it is sent."""
    return body if isinstance(body, bytes) else yaml.dump(body, Dumper=Quoted).encode()


@schemathesis.hook
def filter_failure(context: Any, failure: Any, case: Any, response: Any) -> bool:
    """Whether a failure counts.

    A head of more than 16 KiB never reaches the API. Which cursors were given out only the API
    server knows, and no pattern has the length of a selector's prefix: they may be refused though
    they have the form that the schema tells. And the generator sends some ETags of its own making
    without their quotation marks, which it takes for valid. What of our own jobs is deleted, we
    create again meanwhile. Of the wrong tokens that one address shows only so many are looked at.
    And a whole number in YAML may have no more digits than every reader keeps; no schema tells how
    a number is written.
    """
    if isinstance(failure, IgnoredAuth):
        return "429 Too Many Requests" not in failure.message
    if isinstance(failure, UseAfterFree):
        return not str((case.path_parameters or {}).get("name", "")).startswith(OURS)
    if response.status_code != 400:
        return True
    if not isinstance(failure, RejectedPositiveData):
        return bool(response.content != BELOW_THE_API)
    asked = {"cursor", "labelSelector"} & set(case.query or {})
    theirs = asked and b"the cursor" in response.content
    unquoted = str((case.headers or {}).get("if-match", "")).isdecimal()
    too_long = re.search(rb"'-?[0-9]{19,}' means different things", response.content)
    return not (theirs or unquoted or too_long)
