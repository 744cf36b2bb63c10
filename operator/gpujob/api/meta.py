"""Names that objects carry (API group, labels, finalizer), and the base model of all kinds."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainSerializer
from pydantic.alias_generators import to_camel

GROUP = "gpujob.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
FINALIZER = f"{GROUP}/machine"
"""Held by a GpuJob and by each GpuNode while money may be owed for a machine."""

ANNOTATION_FINISHED = f"{GROUP}/finished"
"""On a GpuJob that is over: its name and uid. A backup keeps annotations, and drops statuses."""

MARKS_OF_USERS = (ANNOTATION_FINISHED,)
"""Annotations below GROUP that users may set on a job, because a backup brings them back. There are
no such labels."""

LABEL_JOB = f"{GROUP}/job"
LABEL_NODE = f"{GROUP}/node"
LABEL_COMPONENT = "app.kubernetes.io/component"
LABEL_MANAGED_BY = "app.kubernetes.io/managed-by"
MANAGER = "gpujob-operator"
OWN_LABELS = ("app.kubernetes.io/name", LABEL_COMPONENT, LABEL_MANAGED_BY)
"""Labels that the operator's objects are found by, besides those below GROUP."""

TRANSPORT_AUDIENCE = f"{GROUP}/transport"
"""Audience of the token with which a driver pod proves its identity to the controller."""
API_AUDIENCE = f"{GROUP}/api"
METRICS_AUDIENCE = f"{GROUP}/metrics"


def is_own_key(key: str) -> bool:
    """True for a label or annotation that nobody but the operator sets."""
    return key in OWN_LABELS or is_below_group(key)


def is_below_group(key: str) -> bool:
    """True for a label or annotation whose domain is ours."""
    domain = key.rpartition("/")[0]
    return domain == GROUP or domain.endswith(f".{GROUP}")


class Model(BaseModel):
    """A value of the API: immutable, camelCase on the wire, unknown fields are dropped."""

    model_config = ConfigDict(
        frozen=True, alias_generator=to_camel, populate_by_name=True, extra="ignore"
    )

    def wire(self) -> dict[str, object]:
        """Returns the JSON form: camelCase keys, without unset fields."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


def _utc(value: datetime) -> datetime:
    if value.tzinfo is None:
        raise ValueError("must carry a time zone")
    return value.astimezone(UTC)


Time = Annotated[
    datetime,
    AfterValidator(_utc),
    PlainSerializer(
        lambda value: value.isoformat(timespec="microseconds").replace("+00:00", "Z"),
        return_type=str,
    ),
]
"""A moment in UTC; on the wire RFC 3339 with microseconds."""


class Condition(Model):
    """One condition, as the Kubernetes API conventions define it."""

    type: Annotated[str, Field(max_length=64, description="Type of the condition.")]
    status: Annotated[
        Literal["True", "False", "Unknown"],
        Field(description="Whether the condition holds, if that is known."),
    ]
    reason: Annotated[
        str,
        Field(
            max_length=64,
            pattern="^[A-Z][A-Za-z]*$",
            description="Why, in one CamelCase word that programs can rely on.",
        ),
    ]
    message: Annotated[
        str, Field(max_length=4096, description="Why, in sentences with the figures.")
    ] = ""
    observed_generation: Annotated[
        int, Field(ge=0, description="Generation of the object that the condition is based on.")
    ] = 0
    last_transition_time: Annotated[
        Time, Field(description="When the status last changed.", examples=["2026-01-01T00:00:00Z"])
    ]


class ObjectMeta(Model):
    """The part of an object's metadata that decisions use."""

    name: str
    namespace: str
    uid: str
    resource_version: str
    generation: int = 0
    creation_timestamp: Time
    deletion_timestamp: Time | None = None
    labels: dict[str, str] = Field(default_factory=dict)
    finalizers: tuple[str, ...] = ()
    annotations: Mapping[str, str] = {}

    @property
    def is_being_deleted(self) -> bool:
        """Whether deletion of the object was requested."""
        return self.deletion_timestamp is not None

    @property
    def holds_finalizer(self) -> bool:
        """Whether the operator's finalizer is on the object."""
        return FINALIZER in self.finalizers

    @property
    def finished_as(self) -> str:
        """What `ANNOTATION_FINISHED` says once this very object is over: its name and uid."""
        return f"{self.name}/{self.uid}"

    @property
    def is_copy_of_finished(self) -> bool:
        """Whether a job of this name that was over is stored anew, as from a backup."""
        name, _, uid = self.annotations.get(ANNOTATION_FINISHED, "").partition("/")
        return name == self.name and uid not in ("", self.uid)

    def owner_reference(self, kind: str) -> dict[str, object]:
        """Returns an owner reference, so that dependent objects are deleted with this one."""
        return {
            "apiVersion": API_VERSION,
            "kind": kind,
            "name": self.name,
            "uid": self.uid,
            "controller": True,
            "blockOwnerDeletion": True,
        }
