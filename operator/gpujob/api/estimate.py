"""What a job would cost if it were created now. The controller answers: it knows the market."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.alias_generators import to_camel

from gpujob.api.gpujob import GpuJobSpec
from gpujob.api.meta import Model, Time

ESTIMATE_PATH = "/v1/estimates"
"""POST to the controller's transport. `Authorization: Bearer` carries a token for
`TRANSPORT_AUDIENCE`, of an account that RBAC allows to `post` to this path."""

ESTIMATE_BYTES_MAX = 1 << 18
"""Neither a question nor an answer is longer: an answer shows at most `OFFERS_SHOWN` offers."""
OFFERS_SHOWN = 20
RANKS = 5
"""So many of them are ranked by what the job is expected to cost on them."""

USD = Annotated[str, Field(pattern=r"^[0-9]+\.[0-9]{6}$", examples=["1.250000"])]


class EstimateQuestion(Model):
    """A job that has not been created."""

    model_config = ConfigDict(
        frozen=True, alias_generator=to_camel, populate_by_name=True, extra="forbid"
    )

    version: Literal[1]
    namespace: Annotated[str, Field(max_length=63, examples=["team-a"])]
    """Where it would be created: what is learnt of a namespace's jobs holds only for these, and
    each namespace has its own share of the answers."""
    spec: GpuJobSpec


class OfferEstimate(Model):
    """One offer that meets the job's needs, and the most that the job would cost on it."""

    gpu: Annotated[str, Field(examples=["1x RTX 4090"])]
    location: Annotated[str, Field(examples=["Somewhere, FR"])]
    usd_per_hour: Annotated[
        USD, Field(alias="usdPerHour", description="Price per hour, GPUs and disk.")
    ]
    bound_usd: Annotated[
        USD, Field(alias="boundUSD", description="The most that the job can cost on this offer.")
    ]
    time_usd: Annotated[
        USD, Field(alias="timeUSD", description="Part of it for run, boot, drain and destroy.")
    ]
    traffic_usd: Annotated[USD, Field(alias="trafficUSD", description="Part of it for traffic.")]
    expected_usd: Annotated[
        USD,
        Field(
            alias="expectedUSD",
            description="What the finished job is expected to cost on it at most: with the boot "
            "that its line suggests, and what failures and interruptions of such a machine add.",
        ),
    ]
    rank: Annotated[
        int | None,
        Field(
            ge=1,
            le=RANKS,
            description="Its place among the offers of least expected cost, 1 = the one that would "
            "be rented; absent if it is not among the first, or nothing would be rented.",
        ),
    ] = None
    trust: Annotated[
        float,
        Field(ge=0, le=1, description="Probability that an attempt on the machine does not fail."),
    ]
    chosen: Annotated[bool, Field(description="Whether this offer would be rented.")]
    against: Annotated[str, Field(description="Why it would not be rented; empty if it would.")] = (
        ""
    )


class JobEstimate(Model):
    """What the cost gate would decide about a job now. Nothing is stored or reserved."""

    admitted: Annotated[bool, Field(description="Whether a machine would be rented now.")]
    reason: Annotated[str, Field(examples=["CeilingExceeded"])]
    meaning: Annotated[str, Field(description="The reason in a sentence.")]
    message: Annotated[
        str, Field(description="The reason with the figures, and with what would fit.")
    ]
    decided_at: Time
    quoted_at: Annotated[
        Time | None, Field(description="When the prices were requested; absent if there are none.")
    ] = None
    ceiling_usd: Annotated[str, Field(alias="ceilingUSD", examples=["2.50"])]
    estimate_usd: Annotated[
        USD | None,
        Field(
            alias="estimateUSD",
            description="Upper bound of the whole cost on the offer that would be rented, or else "
            "on the cheapest offer that meets the needs. Absent if unknown.",
        ),
    ] = None
    confidence_asked: Annotated[str, Field(examples=["0.95"])]
    confidence: Annotated[
        str | None,
        Field(
            description="Probability that the cost stays within the ceiling.", examples=["0.990"]
        ),
    ] = None
    confidence_basis: Annotated[
        str | None,
        Field(
            description="What `confidence` rests on: how the operator destroyed machines lately, "
            "or, without a deadline, how long such jobs took.",
            examples=["no machine was destroyed in the last days, so it is an assumption"],
        ),
    ] = None
    money_deadline_seconds: Annotated[
        int | None,
        Field(
            ge=0,
            description="Seconds after the rent request by which the machine would be destroyed.",
        ),
    ] = None
    offers_matching: Annotated[
        int, Field(ge=0, description="Number of offers that meet the job's needs.")
    ] = 0
    offers: Annotated[
        tuple[OfferEstimate, ...],
        Field(
            max_length=OFFERS_SHOWN,
            description=f"At most {OFFERS_SHOWN} offers, lowest bound first: those with the lowest "
            f"bounds, and the {RANKS} of least expected cost.",
        ),
    ] = ()
