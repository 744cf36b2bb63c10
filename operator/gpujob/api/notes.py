"""What the leader publishes about the market, for programs without access to the provider."""

from typing import Annotated

from pydantic import Field

from gpujob.api.gpujob import Usd
from gpujob.api.meta import Model, Time


class Floor(Model):
    """The lowest price recently offered for one GPU of a model."""

    usd_per_hour: Annotated[Usd, Field(alias="usdPerHour")]
    seen_at: Time


RUN_BOUNDS_MAX = 1000


class RunNote(Model):
    """What the next run of a template does not exceed with 95 %, when that was last reckoned."""

    seconds: Annotated[int, Field(ge=1, le=10**9)]
    runs: Annotated[int, Field(ge=1)]
    """How many runs of the template are known."""


class MarketNotes(Model):
    """Everything that is published, as stored in a ConfigMap."""

    overhead_seconds: Annotated[float, Field(ge=0)]
    """What the gate adds to the run time of a job: boot, drain, destroy."""
    models: Annotated[tuple[Annotated[str, Field(max_length=64)], ...], Field(max_length=1000)] = ()
    """Names of the GPU models that the provider knows."""
    floors: Annotated[dict[str, Floor], Field(max_length=1000, default_factory=dict)]
    """Lowest recent price, by GPU model."""
    runs: Annotated[dict[str, RunNote], Field(max_length=RUN_BOUNDS_MAX, default_factory=dict)]
    """By namespace and digest of the template, as `core.cost.template` has it; the latest ones."""


Count = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]


class MachineEntry(Model):
    """How attempts on one machine went. Old ones fade: the counts are valid as of `at`."""

    host_id: Annotated[int, Field(alias="hostID", ge=0)]
    failures: Count
    successes: Count
    at: Time
    last_failure: Annotated[str, Field(max_length=64)] = ""
    """Reason why the last failed attempt on it failed."""
    last_node_uid: Annotated[str, Field(alias="lastNodeUID", max_length=64)] = ""
    """GpuNode of the last attempt, so that no attempt counts twice."""


class StayEntry(Model):
    """How often we were outbid for machines of a model. Old ones fade: it is valid as of `at`."""

    gpu_model: Annotated[str, Field(max_length=80)]
    percent: Annotated[int, Field(ge=100, le=1000)]
    """What was bid, in percent of the lowest bid that won."""
    hours: Count
    outbids: Count
    at: Time
    last_node_uid: Annotated[str, Field(alias="lastNodeUID", max_length=64)] = ""
    """GpuNode of the last attempt, so that no attempt counts twice."""


class ImageEntry(Model):
    """What one attempt showed of its image. It counts for an hour."""

    namespace: Annotated[str, Field(max_length=63)]
    image: Annotated[str, Field(max_length=1024)]
    node_uid: Annotated[str, Field(alias="nodeUID", max_length=64)]
    host_id: Annotated[int, Field(alias="hostID", ge=0)]
    at: Time
    found: Annotated[str, Field(pattern="^(works|unbooted|unusable)$")]


class DestroyEntry(Model):
    """Whether a machine was destroyed in time."""

    node_uid: Annotated[str, Field(alias="nodeUID", max_length=64)]
    at: Time
    """When it was proved gone."""
    was_late: bool
