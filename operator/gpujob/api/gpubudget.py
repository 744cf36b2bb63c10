"""GpuBudget: what jobs of a namespace may cost together in a period, and what they have cost.

Administrators write its spec; only the operator writes its status, which is the ledger: money is
reserved there before a machine is rented, and stays there as spent when the job is deleted.
"""

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from gpujob.api.gpujob import ATTEMPTS_MAX, Usd
from gpujob.api.gpunode import Amount
from gpujob.api.meta import Condition, Model, ObjectMeta, Time

RESERVATIONS_MAX = 2000
"""An object that holds more would come near what the API server stores."""
HISTORY_DAYS = 90
PERIODS_MAX = HISTORY_DAYS + 3
"""The present one, and those that ended within 90 days: where clocks are set forward, one more."""
SLICES = 24
"""A rolling window moves in steps of so many parts."""
SLICES_MAX = SLICES + 2
ROLLING_HOURS_MAX = 24 * HISTORY_DAYS
TERMS_MAX = 16
"""Of each part of a selector."""

VALUES_NEEDED = "must be set for In and NotIn, and not for Exists and DoesNotExist"
ROLLING_NEEDED = "must be set if period is Rolling, and only then"
KEYS_NEEDED = "must have only keys that a label can have, as team or example.com/team"

LABEL_KEY = (
    r"^([a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$"
)
LABEL_VALUE = r"^([A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?)?$"
TIME_ZONE = r"^[A-Z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+)*$"

LabelKey = Annotated[str, Field(min_length=1, max_length=317, pattern=LABEL_KEY)]
LabelValue = Annotated[str, Field(max_length=63, pattern=LABEL_VALUE)]
Period = Literal["Day", "Week", "Month", "Rolling"]


class LabelRequirement(Model):
    """One condition on the labels of a job."""

    key: Annotated[LabelKey, Field(description="Key of the label.", examples=["team"])]
    operator: Annotated[
        Literal["In", "NotIn", "Exists", "DoesNotExist"],
        Field(
            description="In: the label has one of the values. NotIn: it has none of them, or there "
            "is no such label. Exists and DoesNotExist: whether there is such a label.",
            examples=["In"],
        ),
    ]
    values: Annotated[
        tuple[LabelValue, ...],
        Field(
            max_length=TERMS_MAX,
            description="Values for In and NotIn, at least one; none for Exists and DoesNotExist.",
            examples=[["vision"]],
        ),
    ] = ()

    @model_validator(mode="after")
    def _has_what_it_needs(self) -> "LabelRequirement":
        if (self.operator in ("In", "NotIn")) is not bool(self.values):
            raise ValueError(f"values {VALUES_NEEDED}")
        return self


class LabelSelector(Model):
    """Which jobs of the namespace are meant. An empty selector means all of them."""

    match_labels: Annotated[
        dict[str, LabelValue],
        Field(
            default_factory=dict,
            max_length=TERMS_MAX,
            description="Labels that a job must have, with their values.",
            examples=[{"team": "vision"}],
        ),
    ]
    match_expressions: Annotated[
        tuple[LabelRequirement, ...],
        Field(
            max_length=TERMS_MAX,
            description="Conditions that the labels of a job must all meet.",
            examples=[[{"key": "team", "operator": "In", "values": ["vision"]}]],
        ),
    ] = ()

    @field_validator("match_labels")
    @classmethod
    def _has_keys_of_labels(cls, labels: dict[str, str]) -> dict[str, str]:
        # A schema of a CustomResourceDefinition says nothing of keys.
        if not all(re.fullmatch(LABEL_KEY, key) for key in labels):
            raise ValueError(f"matchLabels {KEYS_NEEDED}")
        return labels


class GpuBudgetSpec(Model):
    """How much may be spent, in which time, by which jobs."""

    limit: Annotated[
        Usd,
        Field(
            description="The most that the jobs may cost together in a period, in US dollars. What "
            "is reserved for attempts that run counts as if it were spent. If it is lowered, "
            "nothing more is rented until there is money again, and what runs goes on.",
            examples=["500"],
        ),
    ]
    period: Annotated[
        Period,
        Field(
            description="Day, Week (from Monday) or Month of the calendar in `timeZone`; or "
            "Rolling: the last `rollingHours` at any time.",
            examples=["Month"],
        ),
    ]
    time_zone: Annotated[
        str,
        Field(
            min_length=1,
            max_length=64,
            pattern=TIME_ZONE,
            description="Time zone in which a day begins, by its name in the IANA database.",
            examples=["Europe/Berlin"],
        ),
    ] = "UTC"
    rolling_hours: Annotated[
        int | None,
        Field(
            ge=1,
            le=ROLLING_HOURS_MAX,
            description="Length of the window in hours if `period` is Rolling, at most 90 days. "
            "What was spent leaves it in steps of a 24th of that.",
            examples=[168],
        ),
    ] = None
    selector: Annotated[
        LabelSelector,
        Field(
            description="The jobs of the namespace that the budget covers, by their labels when an "
            "attempt begins; without one all jobs. Several budgets may cover a job: then it is "
            "reserved in each of them. Whoever may change the labels of a job can choose among "
            "these, so one budget of the namespace should cover all jobs.",
        ),
    ] = LabelSelector()

    @model_validator(mode="after")
    def _has_one_period(self) -> "GpuBudgetSpec":
        if (self.rolling_hours is not None) is not (self.period == "Rolling"):
            raise ValueError(f"rollingHours {ROLLING_NEEDED}")
        return self


class BudgetReservation(Model):
    """What is reserved for one attempt, until it is proved to be over."""

    node_uid: Annotated[
        str,
        Field(
            alias="nodeUID",
            min_length=1,
            max_length=64,
            description="UID of the attempt's GpuNode. It is reserved for once.",
        ),
    ]
    node_name: Annotated[str, Field(max_length=63, description="Name of the GpuNode.")]
    job_uid: Annotated[
        str, Field(alias="jobUID", max_length=64, description="UID of the attempt's GpuJob.")
    ]
    attempt: Annotated[int, Field(ge=1, le=ATTEMPTS_MAX, description="Number of the attempt.")]
    reserved_usd: Annotated[
        Amount, Field(alias="reservedUSD", description="The most that the attempt may cost.")
    ]
    since: Annotated[Time, Field(description="When it was first reserved.")]


class PeriodSpend(Model):
    """What was spent in one period, or in one day if the budget has a rolling window."""

    start: Annotated[Time, Field(description="When it began.")]
    end: Annotated[Time, Field(description="When it ended or ends; this moment is not part of it.")]
    spent_usd: Annotated[
        Amount,
        Field(
            alias="spentUSD",
            description="Cost of the attempts that ended in it, also if their jobs are deleted.",
        ),
    ]
    carried_usd: Annotated[
        Amount | None,
        Field(
            alias="carriedUSD",
            description="What was reserved when it ended, and is charged to a later one; unset "
            "while it is the present one.",
        ),
    ] = None


class SliceSpend(Model):
    """What was spent in a part of the rolling window."""

    start: Annotated[Time, Field(description="When the part began.")]
    spent_usd: Annotated[
        Amount, Field(alias="spentUSD", description="Cost of the attempts that ended in it.")
    ]


class GpuBudgetStatus(Model):
    """The ledger. Only the operator writes it."""

    observed_generation: Annotated[
        int,
        Field(
            ge=-1,
            description="Generation that this status describes. -1: not processed by the operator "
            "yet.",
        ),
    ] = -1
    phase: Annotated[
        str | None,
        Field(
            max_length=32,
            description="State in one word, for people. Programs should read the conditions.",
        ),
    ] = None
    conditions: Annotated[
        tuple[Condition, ...], Field(max_length=16, description="Conditions of the budget.")
    ] = ()
    opened_at: Annotated[
        Time | None,
        Field(
            description="When the operator took over the attempts that were under way, and began "
            "to count; before that nothing is rented for the jobs that it covers."
        ),
    ] = None
    spent_usd: Annotated[
        Amount | None,
        Field(alias="spentUSD", description="What was spent in the present period or window."),
    ] = None
    reserved_usd: Annotated[
        Amount | None,
        Field(alias="reservedUSD", description="What is reserved for attempts: sum of the list."),
    ] = None
    available_usd: Annotated[
        Amount | None,
        Field(
            alias="availableUSD",
            description="What can be reserved: the limit without what is spent and reserved.",
        ),
    ] = None
    open: Annotated[
        int | None,
        Field(ge=0, le=RESERVATIONS_MAX, description="Number of `reservations`."),
    ] = None
    period_end: Annotated[
        Time | None,
        Field(description="When the present period ends; unset for a rolling window."),
    ] = None
    runs_out_at: Annotated[
        Time | None,
        Field(
            description="When the limit will be reached at what the machines cost now; unset if "
            "that is not before there is money again."
        ),
    ] = None
    reservations: Annotated[
        tuple[BudgetReservation, ...],
        Field(
            max_length=RESERVATIONS_MAX,
            description="What is reserved, one for each attempt, in the order of their UIDs.",
        ),
    ] = ()
    history: Annotated[
        tuple[PeriodSpend, ...],
        Field(
            max_length=PERIODS_MAX,
            description="What was spent in each period that ended within 90 days, and last in the "
            "present one. In a period that is not listed, nothing was.",
        ),
    ] = ()
    window: Annotated[
        tuple[SliceSpend, ...],
        Field(
            max_length=SLICES_MAX,
            description="What was spent in each part of a rolling window, oldest first.",
        ),
    ] = ()


class GpuBudget(Model):
    """A budget as stored."""

    metadata: ObjectMeta
    spec: GpuBudgetSpec
    status: GpuBudgetStatus = GpuBudgetStatus()
