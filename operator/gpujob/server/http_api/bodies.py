"""The bodies that the API takes, and their strict reader.

It rejects unknown fields, and JSON that two parsers could read differently.
"""

import json
import math
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError
from starlette.requests import Request

from gpujob.api.gpujob import GpuJobSpec
from gpujob.core.spec_faults import shape_faults
from gpujob.web.bodies import json_body
from gpujob.web.problems import Problem

BODY_BYTES_MAX = 1 << 20
"""Larger than any valid job; the API server takes objects of 1.5 MiB."""
DEPTH_MAX = 32

Sent = TypeVar("Sent", bound=BaseModel)

Name = Annotated[
    str, Field(max_length=52, pattern=r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$", examples=["train"])
]
Words = Annotated[dict[str, str], Field(max_length=64)]


class NewMetadata(BaseModel):
    """Name, labels and annotations of a new job."""

    model_config = ConfigDict(extra="forbid")

    name: Annotated[Name, Field(description="Name of the job, unique in its namespace.")]
    labels: Annotated[Words, Field(description="Labels, by the rules of Kubernetes.")] = {}
    annotations: Annotated[Words, Field(description="Annotations.")] = {}


EXAMPLE: dict[str, JsonValue] = {
    "metadata": {"name": "train"},
    "spec": {
        "image": "pytorch/pytorch:2.4.0-cuda12.4-cudnn9-runtime",
        "command": ["python3", "train.py"],
        "activeDeadlineSeconds": 3600,
        "gpu": {"models": ["RTX 4090"], "count": 1},
        "cost": {"ceiling": "2.50"},
    },
}


class NewJob(BaseModel):
    """A job to create."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [EXAMPLE]})

    metadata: NewMetadata
    spec: GpuJobSpec


class _AmbiguousJson(ValueError):
    """Two parsers could read this differently."""


async def read_body(request: Request, kind: type[Sent]) -> Sent:
    """Returns the body of a request; raises Problem with the fields that are wrong."""
    read = json.dumps(_parsed(await json_body(request, BODY_BYTES_MAX)))
    try:
        return kind.model_validate_json(
            read, strict=True, extra="forbid", by_alias=True, by_name=False
        )
    except ValidationError as error:
        faults = tuple((fault.field, fault.message) for fault in shape_faults(error))
        raise Problem(400, "the body does not match the schema", faults=faults) from None


def _parsed(raw: bytes) -> Any:
    """Parses a body; raises Problem.

    It rejects JSON that parsers read differently: duplicate keys, NaN, huge numbers. It reads 1.0
    as the integer 1, as JSON Schema does.
    """

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in items]
        if len(set(names)) < len(names):
            doubled = next(name for name in names if names.count(name) > 1)
            raise _AmbiguousJson(f"the key '{doubled[:64]}' appears twice in one object")
        return dict(items)

    def constant(name: str) -> Any:
        raise _AmbiguousJson(f"{name} is not a number in JSON")

    def number(text: str) -> int | float:
        value = float(text)
        if math.isinf(value):
            raise _AmbiguousJson("a number is too large")
        return int(value) if value.is_integer() else value

    try:
        read = json.loads(
            raw.decode("utf-8"),
            object_pairs_hook=pairs,
            parse_constant=constant,
            parse_float=number,
        )
    except UnicodeDecodeError:
        raise Problem(400, "the body is not UTF-8") from None
    except json.JSONDecodeError as error:
        words = f"the body is not JSON: line {error.lineno}, column {error.colno}"
        raise Problem(400, words) from None
    except RecursionError:
        raise Problem(400, "the body is nested too deeply") from None
    except _AmbiguousJson as error:
        raise Problem(400, f"the body is not acceptable JSON: {error}") from None
    except ValueError:
        raise Problem(400, "a number in the body has too many digits") from None
    if _depth(read) > DEPTH_MAX:
        raise Problem(400, "the body is nested too deeply")
    return read


def _depth(value: Any) -> int:
    """Counts the levels of a value; not by recursion, which a deep one could exhaust."""
    deepest, left = 0, [(value, 1)]
    while left:
        one, level = left.pop()
        deepest = max(deepest, level)
        inner = one.values() if isinstance(one, dict) else one if isinstance(one, list) else ()
        left.extend((child, level + 1) for child in inner)
    return deepest
