"""What is written of each machine in the ConfigMap `<release>-machines`, one JSON object a key."""

from typing import Annotated

from pydantic import Field

from gpujob.api.meta import Model, Time

Count = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]


class MachineEntry(Model):
    """How attempts on one machine went. Old ones fade: the numbers are what counted at `at`."""

    host_id: Annotated[int, Field(alias="hostID", ge=0)]
    failures: Count
    successes: Count
    at: Time
    last_failure: Annotated[str, Field(max_length=64)] = ""
    """Reason of the last attempt that failed on it."""
    last_node_uid: Annotated[str, Field(alias="lastNodeUID", max_length=64)] = ""
    """GpuNode of the last attempt, so that none counts twice."""
