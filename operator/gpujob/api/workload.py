"""Status fields about a running workload; a job and its node have the same ones."""

from typing import Annotated

from pydantic import Field

from gpujob.api.meta import Model


class ProgressStatus(Model):
    """The workload's last report about itself."""

    percent: Annotated[int | None, Field(ge=0, le=100, description="Percentage that is done.")] = (
        None
    )
    step: Annotated[int | None, Field(ge=0, description="Current step.")] = None
    remaining_seconds: Annotated[
        int | None, Field(ge=0, description="Remaining seconds, as the workload estimates them.")
    ] = None
    metrics: Annotated[
        dict[str, Annotated[str, Field(max_length=24)]],
        Field(
            max_length=32,
            description="Metrics that the workload chose itself, by name.",
            examples=[{"loss": "0.31"}],
            default_factory=dict,
        ),
    ]


class UsageStatus(Model):
    """How busy the GPUs are."""

    gpu_percent: Annotated[
        int,
        Field(
            ge=0, le=100, description="Load in percent: the mean over all GPUs and the last minute."
        ),
    ]
    gpu_memory_mib: Annotated[
        int,
        Field(
            alias="gpuMemoryMiB",
            ge=0,
            description="GPU memory in use, summed over all GPUs, in MiB.",
        ),
    ]
    idle_seconds: Annotated[
        int, Field(ge=0, description="Seconds since any GPU was last busy; 0 if one is busy now.")
    ]
