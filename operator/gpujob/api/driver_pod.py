"""How a job's driver pod is fitted to its cluster: what a pod template calls by the same names.

An administrator sets the same fields for all jobs, as values of the chart. Nothing here changes
what the driver runs, as whom, or what it can reach on its node.
"""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, FailFast, Field

from gpujob.api.foreign import at_most
from gpujob.api.meta import Model

LABEL_VALUE = "^([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$"
OBJECT_NAME = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"
QUANTITY = r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?$"
POSITIVE = r"^(0*[1-9][0-9]*(\.[0-9]+)?|0+\.0*[1-9][0-9]*)(m|k|M|G|T|Ki|Mi|Gi|Ti)?$"
"""A quantity that is more than 0."""
CONFINEMENT = (
    "container.apparmor.security.beta.kubernetes.io",
    "container.seccomp.security.alpha.kubernetes.io",
    "seccomp.security.alpha.kubernetes.io",
)
"""Domains of annotations by which a pod's confinement was set before it had fields."""
RESERVED_CLASSES = "system-"
"""How the priority classes begin that are for the cluster's own pods."""
RESERVED_CLASS = (
    f"classes whose names begin with {RESERVED_CLASSES} are for the cluster's own pods; choose "
    "another one"
)


WHOLE_MAX = 10**15
"""A quantity without quotes: more than any node has, and exact however a reader keeps numbers."""


def _as_text(value: Any) -> Any:
    """Returns a whole number as text: people write `cpu: 1`, and Kubernetes takes that."""
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    return str(value) if is_whole and value <= WHOLE_MAX else value


def _int_or_string(minimum: int) -> dict[str, Any]:
    """Returns what the schema of a quantity says besides its pattern."""
    return {
        "type": ["integer", "string"],
        "x-kubernetes-int-or-string": True,
        "minimum": minimum,
        "maximum": WHOLE_MAX,
    }


Key = Annotated[str, Field(min_length=1, max_length=317)]
LabelValue = Annotated[str, Field(max_length=63, pattern=LABEL_VALUE)]
Labels = dict[str, LabelValue]
Quantity = Annotated[
    str,
    Field(
        max_length=24,
        pattern=QUANTITY,
        json_schema_extra=_int_or_string(0),
    ),
    BeforeValidator(_as_text),
]
"""An amount as Kubernetes writes it; a whole number may be written without quotes."""
Limit = Annotated[
    str,
    Field(
        max_length=24,
        pattern=POSITIVE,
        json_schema_extra=_int_or_string(1),
    ),
    BeforeValidator(_as_text),
]
"""A quantity of which 0 would mean that there is no limit."""


class PullSecret(Model):
    """A Secret with credentials for the registry of the driver's image."""

    name: Annotated[
        str,
        Field(
            max_length=253,
            pattern=OBJECT_NAME,
            description="Name of a Secret of type kubernetes.io/dockerconfigjson in the job's "
            "namespace. Only the kubelet reads it.",
            examples=["mirror"],
        ),
    ]


class Amounts(Model):
    """Amounts of what a node gives to a container."""

    cpu: Annotated[Quantity | None, Field(description="CPU cores.", examples=["500m"])] = None
    memory: Annotated[
        Quantity | None, Field(description="Memory, in bytes.", examples=["256Mi"])
    ] = None
    ephemeral_storage: Annotated[
        Quantity | None,
        Field(
            alias="ephemeral-storage",
            description="Local storage, in bytes: its log and 16Mi of state.",
            examples=["1Gi"],
        ),
    ] = None


class Limits(Model):
    """The most that a container gets. 0 is refused, because to Kubernetes it means no limit."""

    cpu: Annotated[Limit | None, Field(description="CPU cores.", examples=["500m"])] = None
    memory: Annotated[Limit | None, Field(description="Memory, in bytes.", examples=["256Mi"])] = (
        None
    )
    ephemeral_storage: Annotated[
        Limit | None,
        Field(
            alias="ephemeral-storage",
            description="Local storage, in bytes: its log and 16Mi of state.",
            examples=["1Gi"],
        ),
    ] = None


class Resources(Model):
    """What the driver's container asks of its node. What is not set stays as it is for all jobs."""

    requests: Annotated[
        Amounts, Field(description="What it is sure to get.", default_factory=Amounts)
    ]
    limits: Annotated[
        Limits,
        Field(
            description="The most that it gets: more than 0, which would mean no limit.",
            default_factory=Limits,
        ),
    ]


class Toleration(Model):
    """A taint of nodes that the pod tolerates."""

    key: Annotated[
        str | None,
        Field(
            max_length=317,
            description="Key of the taint. Without one, operator must be Exists: every taint.",
            examples=["dedicated"],
        ),
    ] = None
    operator: Annotated[
        Literal["Exists", "Equal"] | None,
        Field(
            description="Exists: whatever its value. Equal, the default: with the given value.",
            examples=["Equal"],
        ),
    ] = None
    value: Annotated[
        str | None,
        Field(max_length=63, description="Value of the taint.", examples=["batch"]),
    ] = None
    effect: Annotated[
        Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None,
        Field(description="Effect of the taint. Unset: every effect.", examples=["NoSchedule"]),
    ] = None
    toleration_seconds: Annotated[
        int | None,
        Field(
            ge=0,
            le=31_536_000,
            description="With NoExecute: how long the pod stays on a node after it was tainted.",
            examples=[300],
        ),
    ] = None


Values = Annotated[tuple[Annotated[str, Field(max_length=63)], ...], FailFast()]


class LabelRequirement(Model):
    """A requirement of a label."""

    key: Annotated[Key, Field(description="Key of the label.", examples=["team"])]
    operator: Annotated[
        Literal["In", "NotIn", "Exists", "DoesNotExist"],
        Field(description="How the label relates to the values.", examples=["In"]),
    ]
    values: Annotated[
        Values, Field(max_length=32, description="Values of the label.", examples=[["vision"]])
    ] = ()


class LabelSelector(Model):
    """Selects objects by their labels; all that is given must hold."""

    match_labels: Annotated[
        Labels,
        Field(
            max_length=16,
            description="Labels that the object must have.",
            examples=[{"team": "vision"}],
            default_factory=dict,
        ),
        at_most(16),
    ]
    match_expressions: Annotated[
        tuple[LabelRequirement, ...],
        FailFast(),
        Field(max_length=16, description="Requirements that its labels must meet."),
    ] = ()


class NodeRequirement(Model):
    """A requirement of a node's label or field."""

    key: Annotated[
        Key, Field(description="Key of the label.", examples=["topology.kubernetes.io/zone"])
    ]
    operator: Annotated[
        Literal["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"],
        Field(description="How the label relates to the values.", examples=["In"]),
    ]
    values: Annotated[
        Values, Field(max_length=32, description="Values of the label.", examples=[["eu-1a"]])
    ] = ()


class NodeTerm(Model):
    """Selects nodes; all that is given must hold."""

    match_expressions: Annotated[
        tuple[NodeRequirement, ...],
        FailFast(),
        Field(max_length=16, description="Requirements that the node's labels must meet."),
    ] = ()
    match_fields: Annotated[
        tuple[NodeRequirement, ...],
        FailFast(),
        Field(max_length=4, description="Requirements that the node's fields must meet."),
    ] = ()


class NodeTerms(Model):
    """Selects nodes that meet one of the terms."""

    node_selector_terms: Annotated[
        tuple[NodeTerm, ...],
        FailFast(),
        Field(min_length=1, max_length=8, description="The terms, of which one must be met."),
    ]


Weight = Annotated[int, Field(ge=1, le=100)]


class PreferredNodes(Model):
    """A term that is preferred."""

    weight: Annotated[
        Weight, Field(description="How much it is preferred, from 1 to 100.", examples=[50])
    ]
    preference: Annotated[NodeTerm, Field(description="The nodes that are preferred.")]


class NodeAffinity(Model):
    """To which nodes the pod is drawn."""

    required_during_scheduling_ignored_during_execution: Annotated[
        NodeTerms | None, Field(description="The pod is only put on such nodes.")
    ] = None
    preferred_during_scheduling_ignored_during_execution: Annotated[
        tuple[PreferredNodes, ...],
        FailFast(),
        Field(max_length=8, description="Such nodes are preferred."),
    ] = ()


class PodTerm(Model):
    """Selects places by the pods that run there."""

    topology_key: Annotated[
        Key,
        Field(
            description="Label of nodes; nodes with the same value of it are one place.",
            examples=["kubernetes.io/hostname"],
        ),
    ]
    label_selector: Annotated[
        LabelSelector | None, Field(description="Selects the pods. Unset: none.")
    ] = None
    namespace_selector: Annotated[
        LabelSelector | None,
        Field(description="Selects the namespaces of these pods, besides those that are listed."),
    ] = None
    namespaces: Annotated[
        tuple[Annotated[str, Field(max_length=63)], ...],
        FailFast(),
        Field(
            max_length=8,
            description="Namespaces of these pods. Without them, and without a selector: the "
            "job's own.",
            examples=[["team-a"]],
        ),
    ] = ()
    match_label_keys: Annotated[
        tuple[Key, ...],
        FailFast(),
        Field(
            max_length=8,
            description="Labels that these pods must have in common with this one.",
            examples=[["team"]],
        ),
    ] = ()
    mismatch_label_keys: Annotated[
        tuple[Key, ...],
        FailFast(),
        Field(
            max_length=8,
            description="Labels that these pods must not have in common with this one.",
            examples=[["team"]],
        ),
    ] = ()


class PreferredPods(Model):
    """A term that is preferred."""

    weight: Annotated[
        Weight, Field(description="How much it is preferred, from 1 to 100.", examples=[50])
    ]
    pod_affinity_term: Annotated[PodTerm, Field(description="The pods that it is about.")]


class PodAffinity(Model):
    """How the pod is placed in regard to other pods."""

    required_during_scheduling_ignored_during_execution: Annotated[
        tuple[PodTerm, ...], FailFast(), Field(max_length=8, description="This must hold.")
    ] = ()
    preferred_during_scheduling_ignored_during_execution: Annotated[
        tuple[PreferredPods, ...], FailFast(), Field(max_length=8, description="This is preferred.")
    ] = ()


class Affinity(Model):
    """Where the pod is put, and where not."""

    node_affinity: Annotated[
        NodeAffinity | None, Field(description="To which nodes the pod is drawn.")
    ] = None
    pod_affinity: Annotated[
        PodAffinity | None, Field(description="Near which pods the pod is put.")
    ] = None
    pod_anti_affinity: Annotated[
        PodAffinity | None, Field(description="Away from which pods the pod is put.")
    ] = None


class DriverPod(Model):
    """What a job's driver pod has besides what the operator puts there."""

    labels: Annotated[
        Labels,
        Field(
            max_length=32,
            description="Labels of the pod. They take precedence over those that the administrator "
            "has set for all jobs, but not over the operator's own.",
            examples=[{"team": "vision"}],
            default_factory=dict,
        ),
        at_most(32),
    ]
    annotations: Annotated[
        dict[str, Annotated[str, Field(max_length=4096)]],
        Field(
            max_length=32,
            description="Annotations of the pod. They take precedence over those that the "
            "administrator has set for all jobs.",
            examples=[{"example.com/owner": "vision"}],
            default_factory=dict,
        ),
        at_most(32),
    ]
    image_pull_secrets: Annotated[
        tuple[PullSecret, ...],
        FailFast(),
        Field(
            max_length=8,
            description="Secrets with credentials for the registry of the driver's image, besides "
            "those that the administrator has set. They have nothing to do with the job's own "
            "image, and never leave the cluster.",
        ),
    ] = ()
    resources: Annotated[
        Resources | None, Field(description="What the driver's container asks of its node.")
    ] = None
    node_selector: Annotated[
        Labels,
        Field(
            max_length=16,
            description="Labels that the node must have, besides those that the administrator has "
            "set; of one key, this value holds.",
            examples=[{"pool": "batch"}],
            default_factory=dict,
        ),
        at_most(16),
    ]
    tolerations: Annotated[
        tuple[Toleration, ...],
        FailFast(),
        Field(
            max_length=16,
            description="Taints that the pod tolerates, besides those that the administrator has "
            "set.",
        ),
    ] = ()
    affinity: Annotated[
        Affinity | None,
        Field(
            description="Where the pod is put, in place of what the administrator has set for all "
            "jobs."
        ),
    ] = None
    priority_class_name: Annotated[
        str | None,
        Field(
            max_length=253,
            pattern=OBJECT_NAME,
            description="Priority class of the pod, in place of what the administrator has set. "
            f"The quotas of the namespace apply; {RESERVED_CLASS}.",
            examples=["batch"],
        ),
    ] = None
    runtime_class_name: Annotated[
        str | None,
        Field(
            max_length=253,
            pattern=OBJECT_NAME,
            description="Runtime class of the pod, in place of what the administrator has set.",
            examples=["gvisor"],
        ),
    ] = None
