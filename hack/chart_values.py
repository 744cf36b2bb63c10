"""Generates the schema and the page of the chart's values from the comments in values.yaml."""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml

from gpujob.api.driver_pod import LABEL_VALUE, POSITIVE
from gpujob.core.limits import Limits
from gpujob.server.settings import COMMON_NAME

Schema = dict[str, Any]

MARK = "# -- "
TEXT: Schema = {"type": "string"}
BOOLEAN: Schema = {"type": "boolean"}
NAME: Schema = {"type": "string", "minLength": 1}
LABEL: Schema = {"type": "string", "pattern": "^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"}
"""A valid name of a namespace."""
HOST: Schema = {
    "type": "string",
    "maxLength": 253,
    "pattern": "^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?([.][a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)*$",
}
CIDR: Schema = {"type": "string", "pattern": "^[0-9a-fA-F.:]+/[0-9]{1,3}$"}
PORT: Schema = {"type": "integer", "minimum": 1, "maximum": 65535}
REPLICAS: Schema = {"type": "integer", "minimum": 1}
COUNT: Schema = {"type": "integer", "minimum": 0}
OBJECT: Schema = {"type": "string", "pattern": "^([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?)?$"}
"""The name of an object, or empty."""
SECONDS: Schema = {"type": "integer", "minimum": 1}
LABEL_KEY = "^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$"
AUDIENCE: Schema = {"type": "string", "pattern": "^[-A-Za-z0-9_.:/@]+$"}
SHARE: Schema = {"type": ["integer", "string"], "minimum": 0, "pattern": "^([0-9]{1,3}%)?$"}
"""A number of pods, or a part of them; an empty text for the default."""
DURATION: Schema = {"type": "string", "pattern": "^([0-9]+(ms|s|m|h))*$"}
VARIABLE: Schema = {"type": "string", "pattern": "^[A-Za-z_][A-Za-z0-9_]*$"}
MODE: Schema = {"type": "integer", "minimum": 0, "maximum": 0o777}
TRUE: Schema = {"type": "boolean", "const": True}
FALSE: Schema = {"type": "boolean", "const": False}
USER: Schema = {"type": "integer", "minimum": 1}
"""Not 0: Pod Security forbids root."""
LABEL_VALUES: Schema = {
    "type": "object",
    "additionalProperties": {"type": "string", "maxLength": 63, "pattern": LABEL_VALUE},
}
"""Labels of drivers, or of nodes that drivers run on."""
QUANTITY: Schema = {
    "type": ["string", "number"],
    "pattern": r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?$",
}
LIMIT: Schema = {"type": ["string", "number"], "pattern": POSITIVE, "exclusiveMinimum": 0}
"""More than 0, because to Kubernetes 0 is no limit."""
WEIGHT: Schema = {"type": "integer", "minimum": 1, "maximum": 100}


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
        "registry": {"type": "string", "pattern": r"^([^@/\s]+(/[^@/\s]+)*)?$"},
        # The registry, the tag and the digest are values of their own: a first part with a dot or a
        # colon would be a registry.
        "repository": {
            "type": "string",
            "pattern": "^[a-z0-9]+([_-]+[a-z0-9]+)*(/[a-z0-9]+([._-]+[a-z0-9]+)*)*$",
        },
        "tag": {"type": "string", "pattern": r"^([A-Za-z0-9_][A-Za-z0-9_.-]*)?$"},
        "digest": {"type": "string", "pattern": "^(sha256:[0-9a-f]{64})?$"},
    }


def _selector() -> Schema:
    expression = _closed(
        {
            "key": NAME,
            "operator": {"enum": ["In", "NotIn", "Exists", "DoesNotExist"]},
            "values": _some(TEXT),
        },
        ("key", "operator"),
    )
    return _closed({"matchLabels": _texts(), "matchExpressions": _some(expression)})


def _node_term() -> Schema:
    expression = _closed(
        {
            "key": NAME,
            "operator": {"enum": ["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"]},
            "values": _some(TEXT),
        },
        ("key", "operator"),
    )
    return _closed({"matchExpressions": _some(expression), "matchFields": _some(expression)})


def _pod_term() -> Schema:
    return _closed(
        {
            "topologyKey": NAME,
            "labelSelector": _selector(),
            "namespaceSelector": _selector(),
            "namespaces": _some(LABEL),
            "matchLabelKeys": _some(NAME),
            "mismatchLabelKeys": _some(NAME),
        },
        ("topologyKey",),
    )


def _terms(required: Schema, name: str, preferred: Schema) -> Schema:
    weighed = _closed({"weight": WEIGHT, name: preferred}, ("weight", name))
    return _closed(
        {
            "requiredDuringSchedulingIgnoredDuringExecution": required,
            "preferredDuringSchedulingIgnoredDuringExecution": _some(weighed),
        }
    )


def _pod_affinity() -> Schema:
    return _terms(_some(_pod_term()), "podAffinityTerm", _pod_term())


def _affinity() -> Schema:
    nodes = _closed({"nodeSelectorTerms": _some(_node_term())}, ("nodeSelectorTerms",))
    return _closed(
        {
            "nodeAffinity": _terms(nodes, "preference", _node_term()),
            "podAffinity": _pod_affinity(),
            "podAntiAffinity": _pod_affinity(),
        }
    )


def _variables() -> Schema:
    key = _closed({"name": NAME, "key": NAME, "optional": BOOLEAN}, ("name", "key"))
    field = _closed({"fieldPath": NAME, "apiVersion": NAME}, ("fieldPath",))
    amount = _closed({"resource": NAME, "containerName": NAME, "divisor": QUANTITY}, ("resource",))
    sources = {
        "secretKeyRef": key,
        "configMapKeyRef": key,
        "fieldRef": field,
        "resourceFieldRef": amount,
    }
    return _some(
        _closed({"name": VARIABLE, "value": TEXT, "valueFrom": _closed(sources)}, ("name",))
    )


def _dns_config() -> Schema:
    """What Kubernetes takes, with the same bounds."""
    option = _closed({"name": NAME, "value": TEXT}, ("name",))
    return _closed(
        {
            "nameservers": _some(NAME) | {"maxItems": 3},
            "searches": _some(NAME) | {"maxItems": 32},
            "options": _some(option),
        }
    )


def _volumes() -> Schema:
    """Volumes of the kinds that Pod Security's level `restricted` allows."""
    items = _some(_closed({"key": NAME, "path": NAME, "mode": MODE}, ("key", "path")))
    named = {"name": NAME, "items": items, "optional": BOOLEAN}
    given = {"items": items, "optional": BOOLEAN, "defaultMode": MODE}
    token = {"path": NAME, "audience": NAME, "expirationSeconds": SECONDS}
    source = _closed(
        {
            "secret": _closed(named, ("name",)),
            "configMap": _closed(named, ("name",)),
            "serviceAccountToken": _closed(token, ("path", "audience")),
        }
    )
    claim = _closed({"claimName": NAME, "readOnly": BOOLEAN}, ("claimName",))
    csi = {
        "driver": NAME,
        "readOnly": BOOLEAN,
        "volumeAttributes": _texts(),
        "nodePublishSecretRef": _closed({"name": NAME}),
    }
    kinds = {
        "secret": _closed({"secretName": NAME, **given}, ("secretName",)),
        "configMap": _closed({"name": NAME, **given}, ("name",)),
        "projected": _closed({"defaultMode": MODE, "sources": _some(source)}),
        "emptyDir": _closed({"medium": {"enum": ["", "Memory"]}, "sizeLimit": QUANTITY}),
        "persistentVolumeClaim": claim,
        "csi": _closed(csi, ("driver",)),
    }
    # The name and one kind.
    return _some(_closed({"name": LABEL, **kinds}, ("name",)) | {"minProperties": 2})


def _mounts() -> Schema:
    place = {"type": "string", "pattern": "^/"}
    mount = {"name": LABEL, "mountPath": place, "subPath": NAME, "readOnly": BOOLEAN}
    return _some(_closed(mount, ("name", "mountPath")))


def _probe() -> Schema:
    names = ("periodSeconds", "timeoutSeconds", "failureThreshold", "successThreshold")
    return _closed({"initialDelaySeconds": COUNT, **dict.fromkeys(names, SECONDS)})


def _resources() -> Schema:
    amounts = _closed({"cpu": QUANTITY, "memory": QUANTITY, "ephemeral-storage": QUANTITY})
    return _closed({"requests": amounts, "limits": amounts})


def _drivers_resources() -> Schema:
    """As `_resources`, but with the limits that the policy for drivers asks for."""
    amounts = _closed({"cpu": QUANTITY, "memory": QUANTITY, "ephemeral-storage": QUANTITY})
    limits = _closed({"cpu": LIMIT, "memory": LIMIT, "ephemeral-storage": LIMIT}, ("cpu", "memory"))
    return _closed({"requests": amounts, "limits": limits}, ("limits",))


def _tolerations() -> Schema:
    toleration = {
        "key": TEXT,
        "operator": {"enum": ["Exists", "Equal"]},
        "value": TEXT,
        "effect": {"enum": ["NoSchedule", "PreferNoSchedule", "NoExecute"]},
        "tolerationSeconds": {"type": "integer"},
    }
    return _some(_closed(toleration))


def _seccomp_profile() -> Schema:
    kinds = {"enum": ["RuntimeDefault", "Localhost"]}
    return _closed({"type": kinds, "localhostProfile": NAME}, ("type",))


def _pod_security_context() -> Schema:
    """Takes only what Pod Security's level `restricted` takes."""
    context = {
        "runAsNonRoot": TRUE,
        "seccompProfile": _seccomp_profile(),
        "fsGroup": USER,
        **_user(),
    }
    return _closed(context, ("runAsNonRoot", "seccompProfile"))


def _user() -> Schema:
    labels = {"seLinuxOptions": _closed({"level": NAME})}
    return {**labels, "runAsUser": USER, "runAsGroup": USER}


def _strategy() -> Schema:
    rolling = _closed({"maxSurge": SHARE, "maxUnavailable": SHARE})
    kinds = {"enum": ["RollingUpdate", "Recreate"]}
    return _closed({"type": kinds, "rollingUpdate": rolling})


def _peer() -> Schema:
    block = _closed({"cidr": CIDR, "except": _some(CIDR)}, ("cidr",))
    peers = {"namespaceSelector": _selector(), "podSelector": _selector(), "ipBlock": block}
    return _closed(peers) | {"minProperties": 1}


def _program() -> Schema:
    """Values that controllers and servers have each for themselves."""
    return {
        "replicaCount": REPLICAS,
        "strategy": _strategy(),
        "podDisruptionBudget": _section(
            {"enabled": BOOLEAN, "minAvailable": SHARE, "maxUnavailable": SHARE}
        ),
        "serviceAccount": _section(
            {
                "create": BOOLEAN,
                "name": OBJECT,
                "annotations": _texts(),
                "labels": _texts(),
                "automount": BOOLEAN,
            }
        ),
        "resources": _resources(),
        "extraEnv": _variables(),
        "extraVolumes": _volumes(),
        "extraVolumeMounts": _mounts(),
    }


def _pods() -> Schema:
    """Values for the pods of controllers and servers alike.

    Security contexts take only what Pod Security's level `restricted` takes, and a root file system
    that is read only.
    """
    dropped = _some({"enum": ["ALL"]}) | {"minItems": 1, "maxItems": 1}
    capabilities = _closed({"drop": dropped}, ("drop",))
    container = {
        "allowPrivilegeEscalation": FALSE,
        "readOnlyRootFilesystem": TRUE,
        "capabilities": capabilities,
    }
    policy = {"enum": ["Honor", "Ignore"]}
    spread = {
        "topologyKey": NAME,
        "maxSkew": SECONDS,
        "minDomains": SECONDS,
        "whenUnsatisfiable": {"enum": ["ScheduleAnyway", "DoNotSchedule"]},
        "labelSelector": _selector(),
        "matchLabelKeys": _some(NAME),
        "nodeAffinityPolicy": policy,
        "nodeTaintsPolicy": policy,
    }
    needed = ("topologyKey", "maxSkew", "whenUnsatisfiable")
    return {
        "podSecurityContext": _pod_security_context(),
        "securityContext": _closed({**container, **_user(), "runAsNonRoot": TRUE}, (*container,)),
        "startupProbe": _probe(),
        "livenessProbe": _probe(),
        "readinessProbe": _probe(),
        "nodeSelector": _texts(),
        "tolerations": _tolerations(),
        "affinity": _affinity(),
        "topologySpreadConstraints": _some(_closed(spread, needed)),
        "priorityClassName": TEXT,
        "dnsPolicy": {"enum": ["", "ClusterFirst", "Default", "None"]},
        "dnsConfig": _dns_config(),
        "revisionHistoryLimit": COUNT,
        "podLabels": _texts(),
        "podAnnotations": _texts(),
        "deploymentAnnotations": _texts(),
    }


def _monitor() -> Schema:
    return _section(
        {
            "enabled": BOOLEAN,
            "labels": _texts(),
            "annotations": _texts(),
            "interval": DURATION,
            "scrapeTimeout": DURATION,
        }
    )


def _schema() -> Schema:
    block = _closed({"cidr": CIDR, "except": _some(CIDR)}, ("cidr",))
    peer = _peer()
    # Many charts take the names alone.
    pull_secret = {**NAME, **_closed({"name": NAME}, ("name",)), "type": ["string", "object"]}
    pull_secrets = _some(pull_secret)
    return _section(
        {
            "enabled": BOOLEAN,
            # Helm passes the global values of a parent chart here, and those of its other children.
            "global": {
                "type": "object",
                "properties": {
                    "imageRegistry": _image()["registry"],
                    "imagePullSecrets": pull_secrets,
                },
            },
            "nameOverride": OBJECT,
            "fullnameOverride": OBJECT,
            "namespaceOverride": OBJECT,
            "image": _section(
                {**_image(), "pullPolicy": {"enum": ["Always", "IfNotPresent", "Never"]}}
            ),
            "driver": _section(
                {
                    "image": _section(_image()),
                    "imagePullSecrets": pull_secrets,
                    "labels": LABEL_VALUES,
                    "annotations": _texts(),
                    "resources": _drivers_resources(),
                    "nodeSelector": LABEL_VALUES,
                    "tolerations": _tolerations(),
                    "affinity": _affinity(),
                    "priorityClassName": OBJECT,
                    "runtimeClassName": OBJECT,
                    "podSecurityContext": _pod_security_context(),
                }
            ),
            "labelKeysToCopy": _some({"type": "string", "pattern": LABEL_KEY})
            | {"uniqueItems": True},
            "jobNamespaces": _some(LABEL) | {"uniqueItems": True, "maxItems": 100},
            "identity": {"type": "string", "pattern": "^([A-Za-z0-9][-A-Za-z0-9._]{0,62})?$"},
            "imagePullSecrets": pull_secrets,
            "vast": _section(
                {
                    "existingSecret": NAME,
                    "key": NAME,
                    "url": {"type": "string", "pattern": "^https?://"},
                    # A user and a password are in a Secret.
                    "proxyURL": {"type": "string", "pattern": r"^(https?://[^@/?#\s]+/?)?$"},
                    "proxySecret": OBJECT,
                    "caBundle": _section({"configMap": OBJECT, "key": NAME}),
                }
            ),
            "crds": _section({"enabled": BOOLEAN, "keep": BOOLEAN}),
            "admissionPolicies": _section(
                {
                    "enabled": BOOLEAN,
                    "sidecarTokenAudiences": _some(AUDIENCE),
                    "injectedVariables": _some(VARIABLE),
                }
            ),
            "requireBudget": BOOLEAN,
            "kueue": _section({"enabled": BOOLEAN}),
            "webhook": _section(
                {
                    "enabled": BOOLEAN,
                    "timeoutSeconds": {"type": "integer", "minimum": 1, "maximum": 30},
                    "certManager": _section({"enabled": BOOLEAN}),
                    # What else it must be, the template says: the text of a key that was pasted
                    # would stand in the message of a pattern that it does not match.
                    "clientCA": TEXT,
                    "clientNames": _some({"type": "string", "pattern": f"^{COMMON_NAME}$"})
                    | {"uniqueItems": True},
                    **_program(),
                }
            ),
            "api": _section(
                {
                    "enabled": BOOLEAN,
                    "hosts": _some(HOST) | {"uniqueItems": True},
                    "mode": {"enum": ["production", "development"]},
                    "bootstrapSecret": TEXT,
                    "clusterTokens": BOOLEAN,
                }
            ),
            "service": _section(
                {
                    "ipFamilies": _some({"enum": ["IPv4", "IPv6"]}) | {"uniqueItems": True},
                    "ipFamilyPolicy": {
                        "enum": ["", "SingleStack", "PreferDualStack", "RequireDualStack"]
                    },
                    "annotations": _texts(),
                }
            ),
            "networkPolicy": _section(
                {
                    "enabled": BOOLEAN,
                    # An empty list would allow every address.
                    "internet": _some(block) | {"minItems": 1},
                    "proxyTo": _some(peer),
                    "apiServer": _section(
                        {"cidrs": _some(CIDR), "ports": _some(PORT) | {"minItems": 1}}
                    ),
                    "metricsFrom": _some(peer),
                    "apiFrom": _some(peer),
                }
            ),
            "podMonitor": _monitor(),
            "serviceMonitor": _monitor(),
            "rbac": _section(
                {"clusterRoles": BOOLEAN, "aggregateToView": BOOLEAN, "aggregateToEdit": BOOLEAN}
            ),
            "limits": _closed({name: limit for name, limit, _ in _limits()}),
            "logLevel": {"enum": ["DEBUG", "INFO", "WARNING", "ERROR"]},
            **_program(),
            **_pods(),
            "commonLabels": _texts(),
            "extraObjects": _some(
                {"type": "object", "required": ["apiVersion", "kind", "metadata"]}
            ),
        }
    )


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
    definitions = {
        name: {key: _referring(value) for key, value in shared.items()}
        for name, shared in _SHARED.items()
    }
    document = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        **_referring(schema),
        "definitions": definitions,
    }
    return json.dumps(document, indent=2) + "\n"


_SHARED: dict[str, Schema] = {
    "LabelSelector": _selector(),
    "NodeSelectorTerm": _node_term(),
    "PodAffinityTerm": _pod_term(),
    "PodAffinity": _pod_affinity(),
    "NetworkPolicyPeer": _peer(),
    "Resources": _resources(),
    "Strategy": _strategy(),
    "Probe": _probe(),
    "Tolerations": _tolerations(),
    "Affinity": _affinity(),
    "PodSecurityContext": _pod_security_context(),
    "Variables": _variables(),
    "Volumes": _volumes(),
    "VolumeMounts": _mounts(),
}
"""What several values have in common; it is written once, and referred to."""


def _referring(schema: Any) -> Any:
    """Returns a part of the schema with references in place of what is shared."""
    if isinstance(schema, list):
        return [_referring(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    bare = {key: value for key, value in schema.items() if key != "description"}
    for name, shared in _SHARED.items():
        if bare == shared:
            # Validators ignore what stands beside a reference; editors show the description.
            said = {"description": schema["description"]} if "description" in schema else {}
            return {"$ref": f"#/definitions/{name}", **said}
    return {key: _referring(value) for key, value in schema.items()}


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
