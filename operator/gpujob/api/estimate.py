"""What a job would cost if it were created now: asked of the controller, which knows the market."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.alias_generators import to_camel

from gpujob.api.gpujob import GpuJobSpec
from gpujob.api.meta import Model, Time

ESTIMATE_PATH = "/v1/estimates"
"""POST to the controller's transport; `Authorization: Bearer` a token for `TRANSPORT_AUDIENCE` of
an account that RBAC lets `post` to this path."""

ESTIMATE_BYTES_MAX = 1 << 20
"""No question is longer, and no answer: an answer shows only so many offers."""
OFFERS_SHOWN = 20

USD = Annotated[str, Field(pattern=r"^[0-9]+\.[0-9]{6}$", examples=["1.250000"])]


class EstimateQuestion(Model):
    """A job that nobody has created."""

    model_config = ConfigDict(
        frozen=True, alias_generator=to_camel, populate_by_name=True, extra="forbid"
    )

    version: Literal[1]
    spec: GpuJobSpec


class OfferEstimate(Model):
    """One offer that meets the job's needs, and what the job would cost on it at most."""

    gpu: Annotated[str, Field(examples=["1x RTX 4090"])]
    location: Annotated[str, Field(examples=["Somewhere, FR"])]
    usd_per_hour: Annotated[USD, Field(alias="usdPerHour", description="GPUs and disk.")]
    bound_usd: Annotated[
        USD, Field(alias="boundUSD", description="The most that the job can cost there.")
    ]
    time_usd: Annotated[
        USD, Field(alias="timeUSD", description="Of it for run, boot, drain and destroy.")
    ]
    traffic_usd: Annotated[USD, Field(alias="trafficUSD", description="Of it for traffic.")]
    trust: Annotated[
        float,
        Field(ge=0, le=1, description="Probability that the machine carries an attempt through."),
    ]
    chosen: Annotated[bool, Field(description="Whether it would be rented.")]
    against: Annotated[str, Field(description="Why it would not be; empty if it would.")] = ""


class JobEstimate(Model):
    """What the cost gate would say of a job now; nothing is kept of it, and nothing reserved."""

    admitted: Annotated[bool, Field(description="Whether a machine would be rented now.")]
    reason: Annotated[str, Field(examples=["CeilingExceeded"])]
    meaning: Annotated[str, Field(description="The reason in a sentence.")]
    message: Annotated[str, Field(description="With the numbers, and what would fit.")]
    decided_at: Time
    quoted_at: Annotated[
        Time | None, Field(description="When the prices were asked for; absent: there are none.")
    ] = None
    ceiling_usd: Annotated[str, Field(alias="ceilingUSD", examples=["2.50"])]
    estimate_usd: Annotated[
        USD | None,
        Field(
            alias="estimateUSD",
            description="Bound of the whole cost where it would be rented, else on the cheapest "
            "offer that meets the needs; absent: unknown.",
        ),
    ] = None
    confidence_asked: Annotated[str, Field(examples=["0.95"])]
    confidence: Annotated[
        str | None, Field(description="That the cost stays within the ceiling.", examples=["0.990"])
    ] = None
    money_deadline_seconds: Annotated[
        int | None,
        Field(ge=0, description="After the rent request the machine would be destroyed by then."),
    ] = None
    offers_matching: Annotated[int, Field(ge=0, description="How many meet the job's needs.")] = 0
    offers: Annotated[
        tuple[OfferEstimate, ...],
        Field(
            max_length=OFFERS_SHOWN,
            description=f"At most {OFFERS_SHOWN}: those of the lowest bound, lowest first, and the "
            "one that would be rented.",
        ),
    ] = ()
