"""Generates the schema and the page of the chart's values from the comments in values.yaml."""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml

from gpujob.core.limits import Limits

Schema = dict[str, Any]

MARK = "# -- "
TEXT: Schema = {"type": "string"}
BOOLEAN: Schema = {"type": "boolean"}
NAME: Schema = {"type": "string", "minLength": 1}
LABEL: Schema = {"type": "string", "pattern": "^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"}
"""A valid name of a namespace."""
CIDR: Schema = {"type": "string", "pattern": "^[0-9a-fA-F.:]+/[0-9]{1,3}$"}
PORT: Schema = {"type": "integer", "minimum": 1, "maximum": 65535}
REPLICAS: Schema = {"type": "integer", "minimum": 1}
QUANTITY: Schema = {
    "type": ["string", "number"],
    "pattern": r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?$",
}


def _closed(properties: Schema, required: tuple[str, ...] = ()) -> Schema:
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": properties,
        **({"required": list(required)} if required else {}),
    }


def _some(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _section(properties: Schema) -> Schema:
    """Values that values.yaml sets, so all are required: only a null can have removed one."""
    return _closed(properties, tuple(properties))


def _texts() -> Schema:
    return {"type": "object", "additionalProperties": TEXT}


def _image() -> Schema:
    return {
        # The tag and the digest are values of their own.
        "repository": {"type": "string", "pattern": r"^[^@\s]+$"},
        "tag": {"type": "string", "pattern": r"^([A-Za-z0-9_][A-Za-z0-9_.-]*)?$"},
        "digest": {"type": "string", "pattern": "^(sha256:[0-9a-f]{64})?$"},
    }


def _schema() -> Schema:
    amounts = _closed({"cpu": QUANTITY, "memory": QUANTITY, "ephemeral-storage": QUANTITY})
    resources = _closed({"requests": amounts, "limits": amounts})
    block = _closed({"cidr": CIDR, "except": _some(CIDR)}, ("cidr",))
    expression = _closed(
        {
            "key": NAME,
            "operator": {"enum": ["In", "NotIn", "Exists", "DoesNotExist"]},
            "values": _some(TEXT),
        },
        ("key", "operator"),
    )
    selector = _closed({"matchLabels": _texts(), "matchExpressions": _some(expression)})
    peers = {"namespaceSelector": selector, "podSelector": selector, "ipBlock": block}
    peer = _closed(peers) | {"minProperties": 1}
    toleration = {
        "key": TEXT,
        "operator": {"enum": ["Exists", "Equal"]},
        "value": TEXT,
        "effect": {"enum": ["NoSchedule", "PreferNoSchedule", "NoExecute"]},
        "tolerationSeconds": {"type": "integer"},
    }
    document = _section(
        {
            "image": _section(
                {
                    **_image(),
                    "pullPolicy": {"enum": ["Always", "IfNotPresent", "Never"]},
                }
            ),
            "driver": _section({"image": _section(_image())}),
            "replicas": REPLICAS,
            "imagePullSecrets": _some(NAME),
            "vast": _section(
                {
                    "existingSecret": NAME,
                    "key": NAME,
                    "url": {"type": "string", "pattern": "^https?://"},
                }
            ),
            "crds": _section({"install": BOOLEAN}),
            "admissionPolicies": _section({"install": BOOLEAN}),
            "webhook": _section(
                {
                    "install": BOOLEAN,
                    "replicas": REPLICAS,
                    "certManager": BOOLEAN,
                    "resources": resources,
                }
            ),
            "api": _section(
                {
                    "install": BOOLEAN,
                    "mode": {"enum": ["production", "development"]},
                    "bootstrapSecret": TEXT,
                }
            ),
            "networkPolicy": _section(
                {
                    "install": BOOLEAN,
                    "jobNamespaces": _some(LABEL) | {"uniqueItems": True},
                    # An empty list would allow every address.
                    "internet": _some(block) | {"minItems": 1},
                    "apiServer": _section(
                        {"cidrs": _some(CIDR), "ports": _some(PORT) | {"minItems": 1}}
                    ),
                    "metricsFrom": _some(peer),
                    "apiFrom": _some(peer),
                }
            ),
            "podMonitor": _section({"install": BOOLEAN, "labels": _texts()}),
            "roles": _section({"aggregateToView": BOOLEAN, "aggregateToEdit": BOOLEAN}),
            "limits": _closed({name: limit for name, limit, _ in _limits()}),
            "logLevel": {"enum": ["DEBUG", "INFO", "WARNING", "ERROR"]},
            "resources": resources,
            "nodeSelector": _texts(),
            "tolerations": _some(_closed(toleration)),
            "priorityClassName": TEXT,
            "commonLabels": _texts(),
            "podAnnotations": _texts(),
            "extraObjects": _some(
                {"type": "object", "required": ["apiVersion", "kind", "metadata"]}
            ),
        }
    )
    # Helm passes the global values of a parent chart here.
    document["properties"]["global"] = {"type": "object"}
    return document


def _limits() -> list[tuple[str, Schema, Any]]:
    """Returns name, schema and default of each constant."""
    amount = {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?$"}
    return [
        (
            _camel(field.name),
            amount
            if field.type is str
            else {"type": "integer" if field.type is int else "number", "minimum": 0},
            field.default,
        )
        for field in fields(Limits)
    ]


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)


def comments(text: str) -> dict[tuple[str, ...], str]:
    """Returns the comment on each value in values.yaml, by the path of keys to the value."""
    found: dict[tuple[str, ...], str] = {}
    path: list[tuple[int, str]] = []
    said: list[str] = []
    for line in text.splitlines():
        bare = line.strip()
        if bare.startswith("#"):
            said = [bare.removeprefix(MARK)] if bare.startswith(MARK) else [*said, bare[2:]]
            continue
        indent, key = len(line) - len(line.lstrip()), bare.partition(":")[0]
        if bare and not bare.startswith("- "):
            path = [(at, name) for at, name in path if at < indent] + [(indent, key)]
            if said:
                found[tuple(name for _, name in path)] = " ".join(said)
        said = []
    return found


def values_schema(text: str) -> str:
    """Returns the schema of the values, closed at every level; the comments describe them."""
    # Values of one type share an object; written and read again, each has its own to describe.
    schema = json.loads(json.dumps(_schema()))
    for path, said in comments(text).items():
        place = schema
        for key in path:
            place = place["properties"][key]
        place["description"] = said
    document = {"$schema": "http://json-schema.org/draft-07/schema#", **schema}
    return json.dumps(document, indent=2) + "\n"


def values_page(text: str) -> str:
    """Returns the page with a row for each value; raises ValueError if one has no comment."""
    said = comments(text)
    rows = list(_rows(yaml.safe_load(text), (), said))
    lines = [
        "<!-- Generated by hack/generate from values.yaml. Do not edit. -->",
        "# Values",
        "",
        "| Value | Default | Description |",
        "|---|---|---|",
        *rows,
        "",
        "## Constants",
        "",
        "Set them as `limits.NAME`. The unit, if there is one, is part of the name.",
        "[`core/limits.py`](../../operator/gpujob/core/limits.py) says what each one is for.",
        "",
        "| Constant | Default |",
        "|---|---|",
        *(f"| `{name}` | {_shown(default)} |" for name, _, default in _limits()),
    ]
    return "\n".join(lines) + "\n"


def _rows(value: Any, path: tuple[str, ...], said: dict[tuple[str, ...], str]) -> Any:
    if path in said:
        yield f"| `{'.'.join(path)}` | {_shown(value)} | {said[path]} |"
    elif isinstance(value, dict) and value:
        for key, child in value.items():
            yield from _rows(child, (*path, key), said)
    else:
        raise ValueError(f"values.yaml: {'.'.join(path)} needs a comment that begins with `{MARK}`")


def _shown(value: Any) -> str:
    return f"`{json.dumps(value)}`"


def pages(chart: Path) -> dict[Path, str]:
    """Returns the generated files of the chart: the schema and the page of its values."""
    text = (chart / "values.yaml").read_text()
    return {
        chart / "values.schema.json": values_schema(text),
        chart / "VALUES.md": values_page(text),
    }
