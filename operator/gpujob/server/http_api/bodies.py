"""The bodies that the API takes, and their strict reader: the manifest that kubectl takes, or less.

It rejects unknown fields, and JSON or YAML that two parsers could read differently.
"""

import json
import math
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator
from starlette.requests import Request

from gpujob.api.foreign import Bounds, TooMuch, at_most
from gpujob.api.gpujob import NAME_LENGTH_MAX, GpuJobSpec
from gpujob.api.meta import API_VERSION
from gpujob.core.admission import FAULTS_TOLD
from gpujob.core.spec_faults import Fault, shape_faults
from gpujob.server.http_api.yaml_bodies import YAML_BYTES_MAX, BadYaml, read_yaml
from gpujob.web import bodies
from gpujob.web.bodies import JSON, content_type
from gpujob.web.problems import Problem

BODY_BYTES_MAX = 1 << 19
"""Larger than any valid job, even if each of its letters is written as six characters."""
DEPTH_MAX = 32
BOUNDS = Bounds(values=10_000, depth=DEPTH_MAX, digits=400)
YAML_AT_ONCE_BYTES = 4 << 10
"""YAML takes several times as long as JSON."""
YAML = ("application/yaml", "application/x-yaml", "text/yaml")
SUFFIX_LENGTH = 5
"""What is appended to `generateName`, as the API server does."""

Sent = TypeVar("Sent", bound=BaseModel)

Name = Annotated[
    str,
    Field(
        max_length=NAME_LENGTH_MAX,
        pattern=r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$",
        examples=["train"],
    ),
]
Words = Annotated[dict[str, str], Field(max_length=64), at_most(64)]


class NewMetadata(BaseModel):
    """Name, labels and annotations of a new job."""

    model_config = ConfigDict(
        extra="forbid",
        populate_by_name=True,
        json_schema_extra={
            "anyOf": [
                {"required": [name], "properties": {name: {"type": "string"}}}
                for name in ("name", "generateName")
            ]
        },
    )

    name: Annotated[Name | None, Field(description="Name of the job, unique in its namespace.")] = (
        None
    )
    generate_name: Annotated[
        str | None,
        Field(
            alias="generateName",
            max_length=NAME_LENGTH_MAX - SUFFIX_LENGTH,
            pattern="^[a-z0-9][a-z0-9.-]*$",
            description="How the name begins, if there is no `name`; its end is made up.",
            examples=["train-"],
        ),
    ] = None
    namespace: Annotated[
        str | None, Field(max_length=63, description="If given, that of the path.")
    ] = None
    labels: Annotated[Words, Field(description="Labels, by the rules of Kubernetes.")] = {}
    annotations: Annotated[Words, Field(description="Annotations.")] = {}

    @model_validator(mode="after")
    def _has_a_name(self) -> "NewMetadata":
        if self.name is None and self.generate_name is None:
            raise ValueError("name or generateName must be given")
        return self


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

    model_config = ConfigDict(
        extra="forbid", populate_by_name=True, json_schema_extra={"examples": [EXAMPLE]}
    )

    api_version: Annotated[
        Literal["gpujob.dev/v1alpha1"], Field(alias="apiVersion", description="May be left out.")
    ] = "gpujob.dev/v1alpha1"
    kind: Annotated[Literal["GpuJob"], Field(description="May be left out.")] = "GpuJob"
    metadata: NewMetadata
    spec: GpuJobSpec
    status: Annotated[
        dict[str, Any], Field(description="Not looked at, as the API server does not.")
    ] = {}


class _AmbiguousJson(ValueError):
    """Two parsers could read this differently."""


async def read_body(request: Request, kind: type[Sent]) -> Sent:
    """Returns the body of a request; raises Problem with the fields that are wrong.

    Null is the same as a field that is left out, as for kubectl.
    """
    is_yaml = content_type(request) in YAML
    return await bodies.read_body(
        request,
        YAML_BYTES_MAX if is_yaml else BODY_BYTES_MAX,
        lambda raw: _valid(kind, _told_in_yaml(raw) if is_yaml else _told(raw)),
        types=(JSON, *YAML),
        at_once=YAML_AT_ONCE_BYTES if is_yaml else bodies.AT_ONCE_BYTES,
    )


def _valid(kind: type[Sent], told: Any) -> Sent:
    _refuse_other_kinds(told)
    read = json.dumps(_without_nulls(told))
    try:
        return kind.model_validate_json(
            read, strict=True, extra="forbid", by_alias=True, by_name=False
        )
    except ValidationError as error:
        raise refused("the body does not match the schema", 400, shape_faults(error)) from None


def refused(words: str, status: int, found: tuple[Fault, ...]) -> Problem:
    """Returns the answer to a job with these faults, of which it tells the first ones."""
    if (more := len(found) - FAULTS_TOLD) > 0:
        words = f"{words}; {more} faults more are not shown"
    faults = tuple((fault.field, fault.message) for fault in found[:FAULTS_TOLD])
    return Problem(status, words, faults=faults)


def _told_in_yaml(raw: bytes) -> Any:
    try:
        return read_yaml(raw.decode("utf-8"), DEPTH_MAX)
    except UnicodeDecodeError:
        raise Problem(400, "the body is not UTF-8") from None
    except BadYaml as error:
        raise Problem(400, str(error)) from None


def _refuse_other_kinds(told: Any) -> None:
    """Raises Problem for an object of another kind, whatever else is wrong with it."""
    if not isinstance(told, dict):
        return
    for field, ours in (("kind", "GpuJob"), ("apiVersion", API_VERSION)):
        theirs = told.get(field)
        if isinstance(theirs, str) and theirs != ours:
            shown = ascii(theirs[:64])
            words = f"this API takes nothing but GpuJobs of {API_VERSION}; {field} is {shown}"
            raise Problem(400, words, faults=((field, f"must be {ours}"),))


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nulls(one) for name, one in value.items() if one is not None}
    return [_without_nulls(one) for one in value] if isinstance(value, list) else value


def _told(raw: bytes) -> Any:
    """Parses a body; raises Problem.

    It rejects JSON that parsers read differently: duplicate keys, NaN, huge numbers. It reads 1.0
    as the integer 1, as JSON Schema does.
    """

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        read: dict[str, Any] = {}
        for name, value in items:
            if name in read:
                raise _AmbiguousJson(f"the key '{name[:64]}' appears twice in one object")
            read[name] = value
        return read

    def constant(name: str) -> Any:
        raise _AmbiguousJson(f"{name} is not a number in JSON")

    def number(text: str) -> int | float:
        value = float(text)
        if math.isinf(value):
            raise _AmbiguousJson("a number is too large")
        return int(value) if value.is_integer() else value

    try:
        BOUNDS.check(raw)
        return json.loads(
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
    except (_AmbiguousJson, TooMuch) as error:
        raise Problem(400, f"the body is not acceptable JSON: {error}") from None
