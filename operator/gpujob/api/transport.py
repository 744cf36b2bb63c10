"""Messages between a driver and the controller: DriverTransport.

A driver posts a `DriverReport` to `SYNC_PATH` every few seconds and gets an `Assignment` back.
Both are levels, not edges: each says all that its sender now knows, so that a lost, repeated or
late message changes nothing. Every payload is validated on both sides.
"""

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from gpujob.api.meta import Model

SYNC_PATH = "/v1/driver/sync"
"""POST; `Authorization: Bearer` a token of the driver pod for `TRANSPORT_AUDIENCE`."""

WORKLOAD_ENV_PREFIX = "WORKLOAD_"
"""The pod template gives the job's variables to the driver under this prefix, so that the kubelet
resolves `valueFrom` and none of them acts on the driver itself."""


class WorkloadPhase(StrEnum):
    """How far the driver is."""

    WAITING = "Waiting"
    CONNECTING = "Connecting"
    RUNNING = "Running"
    FINISHED = "Finished"


class MachineFault(StrEnum):
    """What the driver found wrong with the machine so that this attempt can not go on."""

    HOST_KEY_CHANGED = "HostKeyChanged"
    LOGIN_REFUSED = "LoginRefused"


class Outcome(Model):
    """How the workload ended; also the driver's termination message."""

    exit_code: Annotated[int, Field(ge=0, le=255)]
    """Of the command; 128 + N if signal N ended it."""
    run_seconds: Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]
    """Between start and end of the command, on the machine's clock."""
    was_killed: bool = False
    """It left no exit code: something killed the workload with all around it."""
    message: Annotated[str, Field(max_length=1024)] = ""


class DriverReport(Model):
    """What a driver knows now."""

    node_uid: Annotated[str, Field(min_length=1, max_length=64)]
    phase: WorkloadPhase
    machine_contact_age_seconds: (
        Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)] | None
    ) = None
    """Since the machine last answered; None = it never did."""
    run_number: Annotated[int, Field(ge=0, le=10_000)] = 0
    """Which run of the workload `run_seconds` is of."""
    run_seconds: Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)] | None = None
    """How long the command has been running, on the machine's clock; None = it has not started."""
    outcome: Outcome | None = None
    """Set exactly when the phase is `Finished`."""
    fault: MachineFault | None = None
    message: Annotated[str, Field(max_length=1024)] = ""
    """The last problem in words, for people."""


class Instruction(StrEnum):
    """What the controller wants of a driver."""

    WAIT = "Wait"
    RUN = "Run"
    EXIT = "Exit"
    """Nothing is left to do: the outcome is stored, or the attempt has ended otherwise."""


class Machine(Model):
    """Where to reach the rented machine, and how to know that it is the right one."""

    host: Annotated[str, Field(min_length=1, max_length=253)]
    port: Annotated[int, Field(ge=1, le=65535)]
    user: Annotated[str, Field(min_length=1, max_length=32)] = "root"
    host_key: Annotated[str, Field(min_length=1, max_length=1024)]
    """One public key, as in a `.pub` file without its comment."""


class Work(Model):
    """What to run on it."""

    command: tuple[str, ...]
    """Program and arguments, no shell implied; never empty."""
    working_dir: str | None = None
    run_number: Annotated[int, Field(ge=0, le=10_000)] = 0
    """How often the machine was taken away before: the workload then starts once more."""


class Assignment(Model):
    """The controller's answer to a report."""

    instruction: Instruction
    machine: Machine | None = None
    work: Work | None = None
    """Both set exactly when the instruction is `Run`."""
