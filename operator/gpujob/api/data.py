"""What a driver copies: its pod's manifest passes this as one environment variable."""

from typing import Annotated

from pydantic import Field

from gpujob.api.meta import Model

VARIABLE = "GPUJOB_DATA"
FOLDER = "/data"
"""Where the claims are mounted in the driver's container."""


class Copy(Model):
    """A folder in the driver's container, and a folder on the machine."""

    folder: Annotated[str, Field(pattern="^/")]
    path: Annotated[str, Field(min_length=1)]
    """Relative to the image's working folder unless it begins with /."""
    optional: bool = True
    """Whether a workload that succeeds may leave no file there."""


class DataPlan(Model):
    """Everything that must be copied."""

    job: Annotated[str, Field(pattern="^[A-Za-z0-9-]{1,64}$")] = "job"
    """The job's uid: what its drivers have written on a claim is told from all else by it."""
    inputs: tuple[Copy, ...] = ()
    outputs: tuple[Copy, ...] = ()
    checkpoint: Copy | None = None
    checkpoint_seconds: int = 600
    log_folder: str | None = None
    download_bytes_max: int = 0
    """The job's whole cap on traffic to the machine."""
    upload_bytes_max: int = 0
    """The job's whole cap on traffic from the machine."""
