"""GpuJobProfile: how long jobs of one kind ran. The cost gate's memory, which kubectl can read.

It holds no command and no value of a variable, but digests. Only the operator writes it.
"""

from typing import Annotated, Literal

from pydantic import Field

from gpujob.api.meta import Model, ObjectMeta, Time

PROFILE_VERSION = 1
TEMPLATE_RUNS_KEPT = 200
SHARED_RUNS_KEPT = 2000
SECONDS_MAX = 10**9
DIGESTS = r"^[0-9a-f]{16}/[0-9a-f]{16}$"


class LearntRun(Model):
    """One run that ended, and what the others learn from it."""

    node_uid: Annotated[
        str,
        Field(
            alias="nodeUID",
            max_length=64,
            description="UID of the GpuNode on which it ended, so that it counts once.",
            examples=["5f1c7a52-0a4e-4f8e-9a57-2f6a3c7f1b11"],
        ),
    ]
    namespace: Annotated[
        str | None,
        Field(
            max_length=63,
            description="Whose it is, where those of all namespaces stand together.",
            examples=["team-a"],
        ),
    ] = None
    ended_at: Annotated[
        Time, Field(description="When it ended.", examples=["2026-01-01T12:00:00Z"])
    ]
    seconds: Annotated[
        int,
        Field(
            ge=1,
            le=SECONDS_MAX,
            description="Seconds that the job ran until then, over all its attempts.",
            examples=[610],
        ),
    ]
    outcome: Annotated[
        Literal["Ended", "Crashed", "Stopped", "Cut"],
        Field(
            description="How it ended: by itself; with an error in under two minutes; stopped by a "
            "limit, so that it counts as longer than any bound; or cut short by its user or the "
            "loss of its machine.",
            examples=["Ended"],
        ),
    ]
    shared: Annotated[
        bool,
        Field(
            description="Whether it says something to other templates, too: a run that was cut "
            "short before its bound does not.",
            examples=[True],
        ),
    ]
    pool: Annotated[
        int,
        Field(
            ge=0,
            le=3,
            description="How many runs of its template were known when it began: none, 1 to 4, 5 "
            "to 18, or more.",
            examples=[3],
        ),
    ]
    score: Annotated[
        int | None,
        Field(
            ge=-(2**31),
            le=2**31 - 1,
            description="How far it was from what was expected of it, in millionths of the spread; "
            "2147483647: beyond anything; unset: nothing was expected.",
            examples=[-120_000],
        ),
    ] = None
    held: Annotated[
        bool | None,
        Field(
            description="Whether the bound of its own template held; unset: it had none, or that "
            "is not known.",
            examples=[True],
        ),
    ] = None


class GpuJobProfileSpec(Model):
    """What was learnt of one template, or of all jobs together."""

    version: Annotated[
        int,
        Field(
            ge=1,
            le=1000,
            description="Form of this profile. One of another form counts as empty.",
            examples=[PROFILE_VERSION],
        ),
    ]
    template: Annotated[
        str | None,
        Field(
            max_length=33,
            pattern=DIGESTS,
            description="Digests of all that says how long such a job takes, and of its image and "
            "command alone; unset for the profile of all jobs.",
            examples=["0f1e2d3c4b5a6978/8796a5b4c3d2e1f0"],
        ),
    ] = None
    updated_at: Annotated[
        Time,
        Field(description="When it was last written.", examples=["2026-01-01T12:00:00Z"]),
    ]
    since: Annotated[
        Time | None,
        Field(
            description="What ended up to then is forgotten, unless it is among `runs`.",
            examples=["2026-01-01T12:00:00Z"],
        ),
    ] = None
    known: Annotated[
        int, Field(ge=0, le=SHARED_RUNS_KEPT, description="Number of `runs`.", examples=[25])
    ]
    bound_seconds: Annotated[
        int | None,
        Field(
            ge=1,
            le=SECONDS_MAX,
            description="What the next run did not exceed with 95 % when this was written; unset: "
            "too little was known.",
            examples=[780],
        ),
    ] = None
    runs: Annotated[
        tuple[LearntRun, ...],
        Field(
            max_length=SHARED_RUNS_KEPT,
            description="The latest runs, oldest first: at most 200 of a template, and 2,000 of "
            "all jobs.",
            examples=[[]],
        ),
    ]
    checksum: Annotated[
        str,
        Field(
            max_length=64,
            pattern="^[0-9a-f]{64}$",
            description="SHA-256 of all other fields. A profile with another one counts as empty.",
            examples=["0" * 64],
        ),
    ]


class GpuJobProfile(Model):
    """A profile as stored."""

    metadata: ObjectMeta
    spec: GpuJobProfileSpec
