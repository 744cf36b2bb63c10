"""Changes of a pod, one at a time: all that the API server's own description of a pod provides for.

What is there is altered and taken away, and what is not there is put in. So a field that Kubernetes
is yet to get is among the changes as soon as the tests run on a version that has it.
"""

from collections.abc import Iterator
from typing import Any

Object = dict[str, Any]

LEVELS = {"volumes": 3}
"""So many levels below what the pod has, all that can be said is tried; below, one thing each. Two,
but the sources of a projected volume lie one deeper."""
CHOICES = 2
"""Of the values that a field may have, at most so many are tried: there are 60 signals."""

FITTING: dict[str, Any] = {
    "containerPort": 8080,
    "devicePath": "/dev/x",
    "diskURI": "https://more.blob.core.windows.net/x/x.vhd",
    "expirationSeconds": 600,
    "fieldPath": "metadata.name",
    "gateway": "https://10.0.0.1",
    "hostIP": "10.0.0.1",
    "ip": "10.0.0.1",
    "iqn": "iqn.2001-04.com.example:a",
    "lun": 0,
    "mountPath": "/mnt",
    "nameservers": "10.0.0.1",
    "operator": "Exists",
    "port": 80,
    "registry": "10.0.0.1:1",
    "resource": "limits.cpu",
    "restartPolicy": "Never",
    "seLinuxChangePolicy": "Recursive",
    "signerName": "example.com/more",
    "targetPortal": "10.0.0.1:3260",
    "topologyKey": "kubernetes.io/hostname",
    "wwids": "3600508b400105e210000900000490000",
}
"""Values of fields that have a form."""

NEEDED: dict[str, Object] = {
    "ClusterTrustBundleProjection": {"name": "more"},
    "ConfigMapEnvSource": {"name": "more"},
    "ConfigMapKeySelector": {"name": "more"},
    "ConfigMapProjection": {"name": "more"},
    "ConfigMapVolumeSource": {"name": "more"},
    "Container": {"image": "more"},
    "ContainerResizePolicy": {"resourceName": "cpu", "restartPolicy": "RestartContainer"},
    "EphemeralVolumeSource": {
        "volumeClaimTemplate": {
            "spec": {
                "accessModes": ["ReadWriteOnce"],
                "resources": {"requests": {"storage": "1Gi"}},
            }
        }
    },
    "FCVolumeSource": {"wwids": ["3600508b400105e210000900000490000"], "lun": 0},
    "ImageVolumeSource": {"reference": "more"},
    "NFSVolumeSource": {"server": "10.0.0.1", "path": "/"},
    "PodOS": {"name": "linux"},
    "PodResourceClaim": {"resourceClaimName": "more"},
    "PodSchedulingGroup": {"podGroupName": "more"},
    "Probe": {"tcpSocket": {"port": 80}},
    "ScaleIOVolumeSource": {"volumeName": "more"},
    "SecretEnvSource": {"name": "more"},
    "SecretKeySelector": {"name": "more"},
    "SecretProjection": {"name": "more"},
    "SecretVolumeSource": {"secretName": "more"},
    "StorageOSVolumeSource": {"volumeName": "more"},
    "Toleration": {"key": "more", "operator": "Exists"},
}
"""What the API server demands of an object besides what its schema says."""

ALTERNATIVES: dict[str, set[str] | None] = {
    "EnvVar": {"value", "valueFrom"},
    "EnvVarSource": None,
    "Probe": {"exec", "grpc", "httpGet", "tcpSocket"},
    "Volume": None,
    "VolumeProjection": None,
}
"""Fields of an object of which only one may be set; None: all but its name."""

NEVER = {"ephemeralContainers"}
"""Fields that no pod may have when it is created."""


class Changes:
    """What can be changed in a pod by the schemas of the core group, as the API server has them."""

    def __init__(self, schemas: Object) -> None:
        self._schemas = schemas

    def of(self, pod: Object) -> Iterator[tuple[str, Object]]:
        """Yields each change of a pod's spec: where it was made and to what, and the pod."""
        for where, spec in self._altered({"$ref": "PodSpec"}, "", pod["spec"]):
            yield where.removeprefix("."), pod | {"spec": spec}

    def fields(self, kind: str) -> set[str]:
        """Returns the fields of a kind that a pod may have when it is created."""
        return set(self._schema(kind)["properties"]) - NEVER

    def _schema(self, kind: str) -> Object:
        found: Object = self._schemas[kind if "." in kind else f"io.k8s.api.core.v1.{kind}"]
        return found

    def _resolved(self, schema: Object) -> tuple[str, Object]:
        kind = ""
        while "allOf" in schema or "$ref" in schema:
            if "allOf" in schema:
                (schema,) = schema["allOf"]
            else:
                kind = schema["$ref"].rsplit("/", 1)[-1]
                schema = self._schema(kind)
        return kind.rsplit(".", 1)[-1], schema

    def _altered(self, schema: Object, name: str, value: Any) -> Iterator[tuple[str, Any]]:
        """Yields what can be made of a value that is there."""
        keys = schema.get("x-kubernetes-list-map-keys", [None])
        kind, schema = self._resolved(schema)
        if "properties" in schema:
            for field, of_field in schema["properties"].items():
                if field in NEVER:
                    continue
                if field in value:
                    yield f".{field}-", {key: one for key, one in value.items() if key != field}
                    for where, changed in self._altered(of_field, field, value[field]):
                        yield f".{field}{where}", value | {field: changed}
                else:
                    levels = LEVELS.get(field, 2)
                    if _excluded(kind, field, value):
                        # In place of what it excludes, one of it is enough.
                        levels = -1 if kind == "Volume" else 0
                    for where, added in self._added(of_field, field, levels):
                        yield f".{field}{where}", _with(kind, value, field, added)
        elif schema.get("type") == "array":
            for at, item in enumerate(value):
                which = item[keys[0]] if isinstance(item, dict) and keys[0] in item else at
                yield f"[{which}]-", value[:at] + value[at + 1 :]
                for where, changed in self._altered(schema["items"], name, item):
                    yield f"[{which}]{where}", [*value[:at], changed, *value[at + 1 :]]
            for where, added in self._added(schema["items"], name, LEVELS.get(name, 2)):
                yield f"[+]{where}", [*value, added]
        elif "additionalProperties" in schema:
            for key, one in value.items():
                yield f"[{key}]-", {other: kept for other, kept in value.items() if other != key}
                for where, changed in self._altered(schema["additionalProperties"], name, one):
                    yield f"[{key}]{where}", value | {key: changed}
            for where, added in self._added(schema["additionalProperties"], name, 1):
                yield f"[+]{where}", value | {"example.com/x": added}
        else:
            for where, other in self._added(schema, name, 1):
                if other != value:
                    yield where, other
            if isinstance(value, str) and "enum" not in schema:
                yield "=+", value + "x"

    def _added(self, schema: Object, name: str, levels: int) -> Iterator[tuple[str, Any]]:
        """Yields values for a field that is not there."""
        kind, schema = self._resolved(schema)
        fitting = FITTING.get(name, "more")
        if "enum" in schema:
            chosen = [one for one in schema["enum"] if one][:CHOICES]
            yield from ((f"={one}", one) for one in chosen)
        elif "properties" in schema:
            yield from self._objects(kind, schema, levels)
        elif schema.get("type") == "array":
            of_item = self._added(schema["items"], name, levels)
            yield from ((where, [one]) for where, one in of_item)
        elif "additionalProperties" in schema:
            of_value = self._added(schema["additionalProperties"], name, levels)
            yield from ((where, {"x": one}) for where, one in of_value)
        elif schema.get("type") == "boolean":
            yield from (("=true", True), ("=false", False))
        elif schema.get("type") == "integer":
            yield from ((f"={number}", number) for number in (FITTING.get(name, 1), 0))
        elif "oneOf" in schema:
            yield f"={FITTING.get(name, '1')}", FITTING.get(name, "1")
        elif schema.get("format") == "date-time":
            yield "=then", "2026-01-01T00:00:00Z"
        else:
            yield f"={fitting}", fitting

    def _objects(self, kind: str, schema: Object, levels: int) -> Iterator[tuple[str, Any]]:
        fields: Object = schema["properties"]
        least = {
            field: next(value for _, value in self._added(fields[field], field, levels - 1))
            for field in schema.get("required", ())
        } | NEEDED.get(kind, {})
        yield "{}", least
        if kind == "Container" or levels < 0:
            return
        for field, of_field in fields.items():
            for where, value in self._added(of_field, field, levels - 1):
                if least.get(field) != value:
                    yield f".{field}{where}", _with(kind, least, field, value)
                if levels <= 0:
                    return


def _excluded(kind: str, field: str, value: Object) -> set[str]:
    """Returns which fields of an object cannot stay if another one is set."""
    if kind not in ALTERNATIVES:
        return set()
    others = ALTERNATIVES[kind]
    if others is None:
        others = {*value, field} - {"name"}
    return others & set(value) - {field} if field in others else set()


def _with(kind: str, value: Object, field: str, added: Any) -> Object:
    without = _excluded(kind, field, value)
    return {key: one for key, one in value.items() if key not in without} | {field: added}
