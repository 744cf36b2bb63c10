"""Names that objects carry: API group, labels, finalizer; and the model base of all kinds."""

from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainSerializer
from pydantic.alias_generators import to_camel

GROUP = "gpujob.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
FINALIZER = f"{GROUP}/machine"
"""Held by a GpuJob and by each GpuNode while money may be owed for a machine."""

LABEL_JOB = f"{GROUP}/job"
LABEL_NODE = f"{GROUP}/node"
LABEL_COMPONENT = "app.kubernetes.io/component"
LABEL_MANAGED_BY = "app.kubernetes.io/managed-by"
MANAGER = "gpujob-operator"

TRANSPORT_AUDIENCE = f"{GROUP}/transport"
"""Audience of the token by which a driver pod proves to the controller who it is."""


class Model(BaseModel):
    """A value of the API: immutable, camelCase on the wire, unknown fields dropped."""

    model_config = ConfigDict(
        frozen=True, alias_generator=to_camel, populate_by_name=True, extra="ignore"
    )

    def wire(self) -> dict[str, object]:
        """Returns the JSON form: camelCase keys, nothing that is unset."""
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
    """One condition, by the API conventions of Kubernetes."""

    type: Annotated[str, Field(max_length=64, description="What the condition is about.")]
    status: Annotated[
        Literal["True", "False", "Unknown"], Field(description="Whether it holds, if known.")
    ]
    reason: Annotated[
        str,
        Field(
            max_length=64,
            pattern="^[A-Z][A-Za-z]*$",
            description="Why, in one CamelCase word that programs may read.",
        ),
    ]
    message: Annotated[
        str, Field(max_length=4096, description="Why, in a sentence with the numbers.")
    ] = ""
    observed_generation: Annotated[
        int, Field(ge=0, description="Generation of the object that this was concluded from.")
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
    finalizers: tuple[str, ...] = ()

    @property
    def is_being_deleted(self) -> bool:
        """Whether the object was asked to go."""
        return self.deletion_timestamp is not None

    @property
    def holds_finalizer(self) -> bool:
        """Whether our finalizer keeps the object."""
        return FINALIZER in self.finalizers

    def owner_reference(self, kind: str) -> dict[str, object]:
        """Returns the reference by which what was made for the object goes with it."""
        return {
            "apiVersion": API_VERSION,
            "kind": kind,
            "name": self.name,
            "uid": self.uid,
            "controller": True,
            "blockOwnerDeletion": True,
        }
