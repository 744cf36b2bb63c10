"""What a driver copies, as its pod's manifest tells it in one variable."""

from typing import Annotated

from pydantic import Field

from gpujob.api.meta import Model

VARIABLE = "GPUJOB_DATA"
FOLDER = "/data"
"""Where the claims are mounted in the driver's container."""


class Copy(Model):
    """One folder of the driver's and one on the machine."""

    folder: Annotated[str, Field(pattern="^/")]
    path: Annotated[str, Field(min_length=1)]
    """Below the machine's home folder unless it begins with /."""


class DataPlan(Model):
    """All that is to be copied."""

    inputs: tuple[Copy, ...] = ()
    outputs: tuple[Copy, ...] = ()
    checkpoint: Copy | None = None
    checkpoint_seconds: int = 600
    log_folder: str | None = None
    download_bytes_max: int = 0
    """To the machine, the job's whole cap."""
    upload_bytes_max: int = 0
    """From the machine."""
