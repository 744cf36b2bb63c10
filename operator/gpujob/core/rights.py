"""Which rights the controller needs in the cluster, and which of them it lacks."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gpujob.core.certificates import (
    authority_secret_name,
    secret_name,
    transport_authorities_name,
    transport_secret_name,
)


@dataclass(frozen=True)
class Rights:
    """Verbs on one kind of resource; the chart grants exactly these."""

    group: str
    resource: str
    verbs: tuple[str, ...]
    name: str = ""
    """Name of the only object that is meant; empty = all objects."""


JOBS = (
    Rights("gpujob.dev", "gpujobs", ("get", "list", "watch", "patch", "delete")),
    Rights("gpujob.dev", "gpunodes", ("get", "list", "watch", "create", "patch", "delete")),
    Rights("gpujob.dev", "gpujobprofiles", ("get", "list", "create", "update", "delete")),
    Rights("gpujob.dev", "gpubudgets", ("get", "list")),
    Rights("gpujob.dev", "gpujobs/status", ("update",)),
    Rights("gpujob.dev", "gpunodes/status", ("update",)),
    Rights("gpujob.dev", "gpubudgets/status", ("update",)),
    Rights("gpujob.dev", "gpujobs/finalizers", ("update",)),
    Rights("gpujob.dev", "gpunodes/finalizers", ("update",)),
    Rights("", "pods", ("get", "list", "watch", "create", "delete")),
    Rights("", "secrets", ("create", "delete")),
    Rights("", "services", ("get", "create")),
    Rights("events.k8s.io", "events", ("create",)),
)
"""Where jobs are: in all namespaces, or in each that is served."""
QUEUES = (
    Rights("kueue.x-k8s.io", "workloads", ("list", "create", "patch")),
    Rights("kueue.x-k8s.io", "workloads/status", ("update",)),
)
"""There, too, if jobs wait in queues of Kueue."""
PRIORITIES = (Rights("kueue.x-k8s.io", "workloadpriorityclasses", ("get",)),)
"""Of the cluster as a whole, then."""
CLUSTER = (
    Rights("coordination.k8s.io", "leases", ("list",)),
    Rights("authentication.k8s.io", "tokenreviews", ("create",)),
    Rights("authorization.k8s.io", "subjectaccessreviews", ("create",)),
)
"""Of the cluster as a whole."""


def read_namespace(name: str) -> Rights:
    """Returns the right to read a namespace, whose uid tells installations apart."""
    return Rights("", "namespaces", ("get",), name)


def identity_name(name: str) -> str:
    """Returns the name of the ConfigMap in which a release keeps its identity."""
    return f"{name}-identity"


def webhook_rights(name: str) -> tuple[Rights, ...]:
    """Returns what is also needed so that the API server can be made to trust our certificates."""
    if not name:
        return ()
    group = "admissionregistration.k8s.io"
    return (Rights(group, "validatingwebhookconfigurations", ("get", "update"), name),)


def slice_names(name: str) -> dict[int, str]:
    """Returns the names of the EndpointSlices of a release's Service, by 4 and 6."""
    return {version: f"{name}-ipv{version}" for version in (4, 6)}


OTHERS_PODS = Rights("", "pods", ("get",))
"""By its pod, the holder of another release's Lease is told from whoever wrote such a Lease."""


def own_rights(name: str, namespace: str, *, webhook: bool, everywhere: bool) -> tuple[Rights, ...]:
    """Returns what a release of this name needs in its own namespace, besides what it has in all
    namespaces if it serves `everywhere`.
    """
    beside = (
        Rights("gpujob.dev", "gpujobprofiles", ("get", "create", "update")),
        Rights("", "secrets", ("create",)),
        Rights("", "services", ("get",), name),
        Rights("events.k8s.io", "events", ("create",)),
    )
    certificates = tuple(
        Rights("", "secrets", ("get", "update"), one)
        for one in (secret_name(name), authority_secret_name(name))
    )
    return (
        *(() if everywhere else beside),
        read_namespace(namespace),
        # RBAC cannot restrict a create to one name.
        Rights("coordination.k8s.io", "leases", ("create",)),
        Rights("coordination.k8s.io", "leases", ("get", "update"), name),
        Rights("", "configmaps", ("create",)),
        Rights("", "configmaps", ("get", "update"), f"{name}-machines"),
        Rights("", "configmaps", ("get", "update"), f"{name}-market"),
        Rights("", "configmaps", ("get", "update"), identity_name(name)),
        Rights("", "configmaps", ("get", "update"), transport_authorities_name(name)),
        Rights("", "secrets", ("get", "update"), transport_secret_name(name)),
        Rights("discovery.k8s.io", "endpointslices", ("create",)),
        *(
            Rights("discovery.k8s.io", "endpointslices", ("get", "update"), one)
            for one in slice_names(name).values()
        ),
        *(certificates if webhook else ()),
    )


def missing(needed: Iterable[Rights], rules: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Returns what no rule of a SelfSubjectRulesReview grants, in words such as `create pods`."""
    return tuple(
        f"{verb} {right.resource}{f' {right.name}' if right.name else ''}"
        for right in needed
        for verb in right.verbs
        if not any(_grants(rule, right, verb) for rule in rules)
    )


def _grants(rule: Mapping[str, Any], right: Rights, verb: str) -> bool:
    resource, _, part = right.resource.partition("/")
    spellings = {"*", right.resource, f"*/{part}" if part else resource}
    names = rule.get("resourceNames") or []
    return (
        bool({"*", verb} & set(rule.get("verbs") or []))
        and bool({"*", right.group} & set(rule.get("apiGroups") or []))
        and bool(spellings & set(rule.get("resources") or []))
        and (not names or (right.name in names))
    )
