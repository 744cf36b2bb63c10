"""What is shown of a running workload, of a job and of its node alike."""

from typing import Annotated

from pydantic import Field

from gpujob.api.meta import Model


class ProgressStatus(Model):
    """What the workload last said of itself."""

    percent: Annotated[int | None, Field(ge=0, le=100, description="How much is done.")] = None
    step: Annotated[int | None, Field(ge=0, description="The step that it is at.")] = None
    remaining_seconds: Annotated[
        int | None, Field(ge=0, description="How long it thinks that it will take.")
    ] = None
    metrics: Annotated[
        dict[str, Annotated[str, Field(max_length=24)]],
        Field(
            max_length=32,
            description="Figures of its own, by name.",
            examples=[{"loss": "0.31"}],
            default_factory=dict,
        ),
    ]


class UsageStatus(Model):
    """How busy its GPUs are."""

    gpu_percent: Annotated[
        int, Field(ge=0, le=100, description="The mean over all GPUs and the last minute.")
    ]
    gpu_memory_mib: Annotated[
        int, Field(alias="gpuMemoryMiB", ge=0, description="Memory in use on all of them.")
    ]
    idle_seconds: Annotated[
        int, Field(ge=0, description="For how long no GPU has been busy; 0 = one is.")
    ]
