"""Turns the models into CustomResourceDefinitions: structural schemas, and CEL rules.

The API server enforces them even when the operator is not running. It accepts less than pydantic
emits (no references, no `anyOf`, no `const`), and requires bounds on every value that a CEL rule
uses.
"""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from gpujob.api.driver_pod import CONFINEMENT, RESERVED_CLASS, RESERVED_CLASSES
from gpujob.api.gpubudget import (
    KEYS_NEEDED,
    LABEL_KEY,
    ROLLING_NEEDED,
    VALUES_NEEDED,
    GpuBudgetSpec,
    GpuBudgetStatus,
)
from gpujob.api.gpujob import (
    CONFIDENCE_MAX,
    CONFIDENCE_MIN,
    CONFIDENCE_RANGE,
    MUST_EXPOSE,
    NAME_LENGTH_MAX,
    SPEC_BYTES_MAX,
    GpuJobSpec,
    GpuJobStatus,
)
from gpujob.api.gpujobprofile import GpuJobProfileSpec
from gpujob.api.gpunode import GpuNodeSpec, GpuNodeStatus
from gpujob.api.meta import GROUP, OWN_LABELS, VERSION, Condition, Model
from gpujob.api.reasons import Reason

Schema = dict[str, Any]

INT_OR_STRING = "x-kubernetes-int-or-string"

_KEEP = {
    "type",
    "nullable",
    "format",
    "description",
    "default",
    "enum",
    "items",
    "properties",
    "required",
    "additionalProperties",
    "maxProperties",
    "maxItems",
    "minItems",
    "maxLength",
    "minLength",
    "maximum",
    "minimum",
    "pattern",
    INT_OR_STRING,
}


@dataclass(frozen=True)
class Kind:
    """Everything that a CustomResourceDefinition needs besides its schema."""

    name: str
    plural: str
    short_name: str
    description: str
    spec: type[Model]
    status: type[Model] | None
    """None = it has none: a record, which nobody reconciles."""
    root_rules: tuple[Schema, ...]
    rules: dict[str, tuple[Schema, ...]]
    """CEL rules by the dotted path of the field below the root, `[]` standing for list items."""
    immutable: frozenset[str]
    """Fields that keep their value, by the same path."""
    list_keys: dict[str, str]
    """The key of each list that is a map, by the same path. All other lists are atomic."""
    columns: tuple[Schema, ...]
    selectable: tuple[str, ...]
    """Paths that a field selector can use."""
    first_phase: str
    """Phase that is shown until the operator has processed the object."""


def _rule(rule: str, message: str) -> Schema:
    return {"rule": rule, "message": message}


def _same(schema: Schema, at: str = "") -> str:
    """Returns the CEL expression that nothing changes; null is the same as what is left out."""
    if "properties" not in schema:
        return f"self{at} == oldSelf{at}"
    rules = []
    for name, child in schema["properties"].items():
        here = f"{at}.{name}"
        rule = _same(child, here)
        if name not in schema.get("required", ()):
            rule = f"(has(self{here}) ? has(oldSelf{here}) && {rule} : !has(oldSelf{here}))"
        rules.append(rule)
    return " && ".join(rules)


def _not_ours(field: str) -> tuple[Schema, ...]:
    """Returns the rule that keeps the operator's own keys from being set by a user."""
    own = ", ".join(f"'{key}'" for key in OWN_LABELS)
    return (
        _rule(
            f"self.all(key, !key.startsWith('{GROUP}/') && !(key in [{own}]))",
            f"{field} may not set the operator's own keys: those that begin with {GROUP}/, "
            f"{', '.join(OWN_LABELS)}",
        ),
    )


def _no_confinement() -> tuple[Schema, ...]:
    """Returns the rule that keeps a user from confining the driver less by an annotation."""
    begin = " || ".join(f"key.startsWith('{domain}/')" for domain in CONFINEMENT)
    return (
        _rule(
            f"!self.exists(key, {begin})",
            "annotations may not set how the driver is confined: those that begin with "
            f"{', '.join(CONFINEMENT)}",
        ),
    )


def _column(
    name: str, path: str, *, of: str = "string", wide: bool = False, description: str = ""
) -> Schema:
    """Returns a printer column. Its name is one word without symbols, so that `awk` can split.

    It ends with the unit, since no description of a column is shown with it.
    """
    column = {"name": name, "type": of, "jsonPath": path}
    return (
        column
        | ({"description": description} if description else {})
        | ({"priority": 1} if wide else {})
    )


_AGE = _column("Age", ".metadata.creationTimestamp", of="date")

_LENGTHS = (
    "self.command.map(one, size(one)).sum()"
    " + (has(self.args) ? self.args.map(one, size(one)).sum() : 0)"
    " + (has(self.env) ? self.env.map(one, size(one.name) + "
    "(has(one.value) ? size(one.value) : 0)).sum() : 0)"
)
"""How many characters the longest fields of a spec have together. The webhook counts all bytes."""

GPUJOB = Kind(
    name="GpuJob",
    plural="gpujobs",
    short_name="gj",
    description="A job that runs on a rented GPU machine and costs no more than its ceiling.",
    spec=GpuJobSpec,
    status=GpuJobStatus,
    root_rules=(
        _rule(
            f"size(self.metadata.name) <= {NAME_LENGTH_MAX}",
            f"metadata.name must have at most {NAME_LENGTH_MAX} characters: "
            "the names of nodes and pods are derived from it",
        ),
    ),
    rules={
        "spec": (
            _rule(
                f"{_LENGTHS} <= {SPEC_BYTES_MAX}",
                f"command, args and env may have at most {SPEC_BYTES_MAX} characters together: "
                "keep long texts in files",
            ),
            _rule(
                "has(self.imagePullSecret) == has(oldSelf.imagePullSecret)",
                "imagePullSecret is immutable: delete the job and create it again",
            ),
            _rule(
                "has(self.workingDir) == has(oldSelf.workingDir)",
                "workingDir is immutable: delete the job and create it again",
            ),
            _rule(
                "has(self.idleDeadlineSeconds) == has(oldSelf.idleDeadlineSeconds)",
                "idleDeadlineSeconds is immutable: delete the job and create it again",
            ),
            _rule(
                "!has(oldSelf.activeDeadlineSeconds) || (has(self.activeDeadlineSeconds) && "
                "self.activeDeadlineSeconds >= oldSelf.activeDeadlineSeconds)",
                "activeDeadlineSeconds can be set or raised, but not lowered or removed",
            ),
        ),
        "spec.cost.ceiling": (
            _rule("double(self) > 0.0", "ceiling must be more than 0 US dollars"),
            _rule("double(self) >= double(oldSelf)", "ceiling can be raised, but not lowered"),
        ),
        "spec.cost.confidence": (
            _rule(
                f"double(self) >= {CONFIDENCE_MIN} && double(self) <= {CONFIDENCE_MAX}",
                f"confidence {CONFIDENCE_RANGE}",
            ),
        ),
        "spec.imagePullSecret": (
            _rule("self.exposeToProvider", f"exposeToProvider {MUST_EXPOSE}"),
        ),
        "spec.driver.labels": _not_ours("labels"),
        "spec.driver.annotations": (*_not_ours("annotations"), *_no_confinement()),
        "spec.driver.priorityClassName": (
            _rule(f"!self.startsWith('{RESERVED_CLASSES}')", RESERVED_CLASS),
        ),
        "spec.ports": (
            _rule(
                "self.all(one, self.exists_one(other, other.port == one.port))",
                "each port number can be declared only once",
            ),
        ),
        "spec.market.maxUSDPerHour": (
            _rule("double(self) > 0.0", "maxUSDPerHour must be more than 0 US dollars"),
        ),
        "spec.env[]": (
            _rule(
                "!(has(self.value) && has(self.valueFrom))",
                "value and valueFrom may not both be set",
            ),
        ),
        "spec.env[].valueFrom": (
            _rule(
                "has(self.secretKeyRef) != has(self.configMapKeyRef)",
                "exactly one of secretKeyRef and configMapKeyRef must be set",
            ),
        ),
    },
    immutable=frozenset(
        {
            "spec.cost.confidence",
            "spec.imagePullSecret",
            "spec.image",
            "spec.command",
            "spec.args",
            "spec.env",
            "spec.workingDir",
            "spec.idleDeadlineSeconds",
            "spec.backoffLimit",
            "spec.failurePolicy",
            "spec.maxRents",
            "spec.gpu",
            "spec.resources",
            "spec.market",
            "spec.data",
            "spec.ports",
        }
    ),
    list_keys={
        "status.conditions": "type",
        "status.attempts": "attempt",
        "spec.env": "name",
        "spec.ports": "name",
    },
    columns=(
        _column("State", ".status.phase"),
        _column("Reason", '.status.conditions[?(@.type=="Ready")].reason'),
        _column("GPU", ".status.gpu"),
        _column("USDPerHour", ".status.usdPerHour", description="Disk included."),
        _column("SpentUSD", ".status.cost.accruedUSD"),
        _column("CeilingUSD", ".spec.cost.ceiling"),
        _AGE,
        _column("EstimateUSD", ".status.cost.estimateUSD", wide=True),
        _column("DonePercent", ".status.progress.percent", of="integer", wide=True),
        _column("BusyPercent", ".status.usage.gpuPercent", of="integer", wide=True),
        _column("Attempt", ".status.attempt", of="integer", wide=True),
        _column("Node", ".status.nodeName", wide=True),
        _column("Message", '.status.conditions[?(@.type=="Ready")].message', wide=True),
    ),
    selectable=(".status.phase", ".status.closed"),
    first_phase="Waiting",
)

GPUNODE = Kind(
    name="GpuNode",
    plural="gpunodes",
    short_name="gn",
    description="A rented machine, or the recorded intention to rent one. The GpuNodes show what "
    "is being paid for now.",
    spec=GpuNodeSpec,
    status=GpuNodeStatus,
    root_rules=(),
    rules={
        "spec": (_rule("self == oldSelf", "spec is immutable: only the operator writes it, once"),)
    },
    immutable=frozenset(),
    list_keys={"status.conditions": "type"},
    columns=(
        _column("State", ".status.phase"),
        _column("Reason", '.status.conditions[?(@.type=="Ready")].reason'),
        _column("Job", ".spec.jobRef.name"),
        _column("GPU", ".status.rent.gpu"),
        _column("Instance", ".status.lease.instanceID", of="integer"),
        # Empty for what is released, so that what is being paid for is seen at a glance: kubectl
        # leaves out nothing by itself, and always sorts by name.
        _column("USDPerHour", ".status.usdPerHour", description="Disk included."),
        _column("AccruedUSD", ".status.accruedUSD"),
        _AGE,
        _column("Machine", ".status.rent.machineID", of="integer", wide=True),
        _column("Location", ".status.rent.location", wide=True),
        _column("FuseUSD", ".status.rent.fuseUSD", wide=True),
        _column("Message", '.status.conditions[?(@.type=="Ready")].message', wide=True),
    ),
    selectable=(".status.phase", ".spec.jobRef.name", ".status.closed"),
    first_phase="Pending",
)

GPUJOBPROFILE = Kind(
    name="GpuJobProfile",
    plural="gpujobprofiles",
    short_name="gp",
    description="How long jobs of one kind ran: what the cost gate asks for a job without a "
    "deadline. Only the operator writes it. Deleting it makes the operator forget.",
    spec=GpuJobProfileSpec,
    status=None,
    root_rules=(),
    rules={},
    immutable=frozenset(),
    list_keys={},
    columns=(
        _column("Template", ".spec.template"),
        _column("Runs", ".spec.known", of="integer"),
        _column(
            "BoundSeconds",
            ".spec.boundSeconds",
            of="integer",
            description="What the next run does not exceed with 95 %.",
        ),
        _column("Updated", ".spec.updatedAt", of="date"),
        _AGE,
    ),
    selectable=(),
    first_phase="",
)

_ANEW = "is immutable: create another budget, and delete this one once that is open"
"""What was counted by other terms says nothing about these."""

GPUBUDGET = Kind(
    name="GpuBudget",
    plural="gpubudgets",
    short_name="gb",
    description="What the jobs of a namespace may cost together in a period, what is reserved for "
    "those that run, and what they have cost, also once they are deleted.",
    spec=GpuBudgetSpec,
    status=GpuBudgetStatus,
    root_rules=(),
    rules={
        "spec": (
            _rule(
                "has(self.rollingHours) == (self.period == 'Rolling')",
                f"rollingHours {ROLLING_NEEDED}",
            ),
            _rule(
                "!has(self.rollingHours) || !has(oldSelf.rollingHours) || "
                "self.rollingHours == oldSelf.rollingHours",
                f"rollingHours {_ANEW}",
            ),
        ),
        "spec.limit": (_rule("double(self) > 0.0", "limit must be more than 0 US dollars"),),
        "spec.period": (_rule("self == oldSelf", f"period {_ANEW}"),),
        "spec.timeZone": (_rule("self == oldSelf", f"timeZone {_ANEW}"),),
        "spec.selector": (_rule("self == oldSelf", f"selector {_ANEW}"),),
        "spec.selector.matchLabels": (
            _rule(f"self.all(key, key.matches(r'{LABEL_KEY}'))", f"matchLabels {KEYS_NEEDED}"),
        ),
        "spec.selector.matchExpressions[]": (
            _rule(
                "(self.operator in ['In', 'NotIn']) == (size(self.values) > 0)",
                f"values {VALUES_NEEDED}",
            ),
        ),
    },
    immutable=frozenset(),
    list_keys={},
    # The reservations are no map to the API server: it would note the owner of each of them.
    columns=(
        _column("Period", ".spec.period"),
        _column("LimitUSD", ".spec.limit"),
        _column("SpentUSD", ".status.spentUSD"),
        _column("ReservedUSD", ".status.reservedUSD"),
        _column("AvailableUSD", ".status.availableUSD"),
        _column("Open", ".status.open", of="integer", description="Attempts that money is for."),
        # As text: kubectl shows only dates of the past.
        _column("RunsOut", ".status.runsOutAt"),
        _column("PeriodEnd", ".status.periodEnd"),
        _AGE,
        _column("TimeZone", ".spec.timeZone", wide=True),
        _column("Reason", '.status.conditions[?(@.type=="Ready")].reason', wide=True),
        _column("Message", '.status.conditions[?(@.type=="Ready")].message', wide=True),
    ),
    selectable=(),
    first_phase="Waiting",
)

KINDS = (GPUJOB, GPUNODE, GPUJOBPROFILE, GPUBUDGET)


def custom_resource_definition(kind: Kind) -> Schema:
    """Returns the CustomResourceDefinition of a kind."""
    spec = _structural(kind.spec.model_json_schema(by_alias=True), kind, "spec")
    root: Schema = {
        "type": "object",
        "description": kind.description,
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string", "description": "API version of the object."},
            "kind": {"type": "string", "description": "Kind of the object."},
            "metadata": {"type": "object"},
            "spec": spec,
        },
    }
    if kind.status is not None:
        root["properties"]["status"] = _status(kind, kind.status)
    if kind.root_rules:
        root["x-kubernetes-validations"] = list(kind.root_rules)
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{kind.plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": kind.name,
                "listKind": f"{kind.name}List",
                "plural": kind.plural,
                "singular": kind.name.lower(),
                "shortNames": [kind.short_name],
                # Not gpujob or gpujobs: kubectl would take the name of the kind for the category.
                "categories": ["gpu"],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    **({"subresources": {"status": {}}} if kind.status is not None else {}),
                    **(
                        {"selectableFields": [{"jsonPath": path} for path in kind.selectable]}
                        if kind.selectable
                        else {}
                    ),
                    "additionalPrinterColumns": list(kind.columns),
                    "schema": {"openAPIV3Schema": root},
                }
            ],
        },
    }


def _status(kind: Kind, model: type[Model]) -> Schema:
    status = _structural(model.model_json_schema(by_alias=True), kind, "status")
    # kstatus treats an object without status as finished; -1 marks one never processed.
    unseen = Condition(
        type="Ready",
        status="Unknown",
        reason=Reason.UNSEEN,
        message=Reason.UNSEEN.meaning,
        last_transition_time=datetime.fromtimestamp(0, UTC),
    )
    status["default"] = {
        "observedGeneration": -1,
        "phase": kind.first_phase,
        "conditions": [unseen.wire()],
    }
    return status


def _structural(schema: Schema, kind: Kind, path: str) -> Schema:
    definitions = schema.get("$defs", {})
    return _node(schema, definitions, kind, path)


def _node(schema: Schema, definitions: Schema, kind: Kind, path: str) -> Schema:
    takes_null = {"type": "null"} in schema.get("anyOf", ())
    schema = _resolved(schema, definitions)
    result = {key: value for key, value in schema.items() if key in _KEEP}
    if result.get("default", ...) is None:
        del result["default"]
    if takes_null and path.startswith("spec"):
        # Server-side apply passes null on, which in a batch/v1 Job is the same as a field that is
        # left out. Where there is a default, the API server puts that in the place of null.
        result["nullable"] = True
    if "const" in schema:
        result["enum"] = [schema["const"]]
    if INT_OR_STRING in schema:
        # Such a field has no type of its own.
        del result["type"]
    if "examples" in schema and "description" in result:
        # kubectl explain shows only the description.
        told = [f"Example: {json.dumps(schema['examples'][0])}"]
        if path.startswith("spec") and result.get("default") not in (None, [], {}):
            told.insert(0, f"Default: {json.dumps(result['default'])}.")
        result["description"] = " ".join((result["description"], *told))
    match result.get("type"):
        case "object" if "properties" in schema:
            result.pop("additionalProperties", None)
            result["properties"] = {
                name: _node(child, definitions, kind, f"{path}.{name}")
                for name, child in schema["properties"].items()
            }
            if "default" in result:
                # The API server then fills in the default of each field.
                result["default"] = {}
        case "object":
            held = schema["additionalProperties"]
            result["additionalProperties"] = _node(held, definitions, kind, f"{path}.*")
        case "array":
            result["items"] = _node(schema["items"], definitions, kind, f"{path}[]")
            if key := kind.list_keys.get(path):
                result["x-kubernetes-list-type"] = "map"
                result["x-kubernetes-list-map-keys"] = [key]
            else:
                result["x-kubernetes-list-type"] = "atomic"
        case "integer":
            result["format"] = "int64"
    rules = list(kind.rules.get(path, ()))
    if path in kind.immutable:
        name = path.rpartition(".")[2]
        words = f"{name} is immutable: delete the job and create it again"
        rules.append(_rule(_same(result), words))
    if rules:
        result["x-kubernetes-validations"] = rules
    return result


def _resolved(schema: Schema, definitions: Schema) -> Schema:
    """Resolves references, and turns `X or null` into an X that may be left out."""
    own = {key: value for key, value in schema.items() if key not in ("$ref", "anyOf")}
    if "$ref" in schema:
        target = definitions[schema["$ref"].removeprefix("#/$defs/")]
        return _resolved(target | own, definitions)
    if "anyOf" in schema:
        choices = [choice for choice in schema["anyOf"] if choice.get("type") != "null"]
        assert len(choices) == 1, f"no structural form for a union: {schema}"
        return _resolved(choices[0] | own, definitions)
    return own
