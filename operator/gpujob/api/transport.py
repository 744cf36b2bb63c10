"""Messages between a driver and the controller: DriverTransport.

A driver posts a `DriverReport` to `SYNC_PATH` every few seconds and gets an `Assignment` back.
Both are levels, not edges: each says all that its sender now knows, so that a lost or repeated
message changes nothing, and losing the other side for a while loses nothing. A report that is
older than one already heard is told apart by its session and sequence number. Every payload is
validated on both sides; the schema of both stands beside this file, generated.
"""

from enum import StrEnum
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BeforeValidator, FailFast, Field, ValidationError
from pydantic.json_schema import models_json_schema

from gpujob.api.meta import Model
from gpujob.api.words import Words, in_words, printable

SYNC_PATH = "/v1/driver/sync"
"""POST; `Authorization: Bearer` a token of the driver pod for `TRANSPORT_AUDIENCE`."""

REPORT_BYTES_MAX = 65_536
"""No report is longer in UTF-8."""
ASSIGNMENT_BYTES_MAX = 4 << 20
"""No assignment is: it holds a job's command, and no stored object is half as long."""

WORKLOAD_ENV_PREFIX = "WORKLOAD_"
"""The pod template gives the job's variables to the driver under this prefix, so that the kubelet
resolves `valueFrom` and none of them acts on the driver itself."""


def _is_integer(value: object) -> object:
    # Else true and 1.0 would be taken for 1: they are equal to it.
    if type(value) is not int:
        raise ValueError("must be an integer")
    return value


Version = Annotated[Literal[1], BeforeValidator(_is_integer)]
Name = Annotated[str, Field(min_length=1, max_length=64), AfterValidator(printable)]
Count = Annotated[int, Field(ge=0, le=2**53 - 1)]
Number = Annotated[float, Field(ge=-1e15, le=1e15, allow_inf_nan=False)]
Seconds = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]
Percent = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]
RunNumber = Annotated[int, Field(ge=0, le=10_000)]


class WorkloadPhase(StrEnum):
    """How far the driver is."""

    WAITING = "Waiting"
    CONNECTING = "Connecting"
    MEASURED = "Measured"
    """The machine was measured; the driver awaits the verdict."""
    COPYING = "Copying"
    """Inputs and the last checkpoint go to the machine."""
    RUNNING = "Running"
    STOPPING = "Stopping"
    """The workload was told to end; its output is still being carried."""
    DELIVERING = "Delivering"
    """The workload has ended; its files are being copied."""
    FINISHED = "Finished"


class MachineFault(StrEnum):
    """What the driver found wrong with the machine so that this attempt can not go on."""

    HOST_KEY_CHANGED = "HostKeyChanged"
    LOGIN_REFUSED = "LoginRefused"
    INPUTS_NOT_COPIED = "InputsNotCopied"


class Cause(StrEnum):
    """Why a workload failed, where its machine could tell."""

    OUT_OF_MEMORY = "OutOfMemory"
    DISK_FULL = "DiskFull"
    GPU_LOST = "GpuLost"


class WatchdogClient(StrEnum):
    """Programs by which the machine's watchdog can ask the provider to destroy it."""

    CURL = "curl"
    PYTHON3 = "python3"
    WGET = "wget"
    PERL = "perl"


class Gpu(Model):
    """One GPU by the word of the machine's own `nvidia-smi`."""

    name: Name
    memory_mib: Count


class Measured(Model):
    """What a machine is by its own measure, before it gets work."""

    gpus: Annotated[tuple[Gpu, ...], Field(max_length=64), FailFast()] = ()
    """Those that answer."""
    gpu_problem: Words = ""
    """Why they could not all be read; empty = they could."""
    cuda_version: Annotated[str, Field(pattern=r"^[0-9]{1,2}\.[0-9]{1,2}$")] | None = None
    """The highest that its GPU software runs; None = it did not say."""
    cpu_cores: Count
    memory_mib: Count
    """Of the container, or the machine if that has no limit."""
    memory_free_mib: Count
    disk_mib: Count
    """Of the file system that the workload starts on."""
    disk_free_mib: Count
    disk_write_mbps: Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]
    """Megabytes (1e6) per second, written and synced."""
    watchdog_client: WatchdogClient | None = None
    watchdog_runs: bool


class Progress(Model):
    """How far the workload says it is."""

    percent: Percent | None = None
    step: Count | None = None
    remaining_seconds: Seconds | None = None
    metrics: Annotated[dict[Name, Number], Field(max_length=32, default_factory=dict)]


class Usage(Model):
    """How busy the GPUs are."""

    gpu_percent: Percent
    """The mean over all GPUs and the last minute."""
    gpu_memory_mib: Count
    """In use on all GPUs, at the last sample."""
    idle_seconds: Seconds
    """Since the last sample in which any GPU was busy, or since the first sample."""
    idle_samples: Count
    """How many samples in a row no GPU was busy in."""


class LogPosition(Model):
    """How much of the workload's output was carried, and how much there is, in bytes."""

    stdout_carried: Count = 0
    stdout_written: Count = 0
    stderr_carried: Count = 0
    stderr_written: Count = 0

    @property
    def behind(self) -> int:
        """Bytes that only the machine has."""
        missing_out = max(self.stdout_written - self.stdout_carried, 0)
        return missing_out + max(self.stderr_written - self.stderr_carried, 0)


class Outcome(Model):
    """How the workload ended; also the driver's termination message."""

    exit_code: Annotated[int, Field(ge=0, le=255)]
    """Of the command; 128 + N if signal N ended it."""
    run_seconds: Seconds
    """Between start and end of the command, on the machine's clock."""
    was_killed: bool = False
    """It left no exit code: something killed the workload with all around it."""
    cause: Cause | None = None
    message: Words = ""
    lost: Words = ""
    """Which of its files could not be copied, and why; empty = all were."""


class DriverReport(Model):
    """What a driver knows now."""

    version: Version
    node_uid: Name
    session: Annotated[int, Field(ge=1, le=2**31 - 1)]
    """Grows with each start of the driver in its pod."""
    sequence: Annotated[int, Field(ge=1, le=2**53 - 1)]
    """Grows with each report of a session."""
    phase: WorkloadPhase
    machine_contact_age_seconds: Seconds | None = None
    """Since the machine last answered; None = it never did."""
    measured: Measured | None = None
    run_number: RunNumber = 0
    """Which run of the workload what follows is of."""
    run_seconds: Seconds | None = None
    """How long the command has been running, on the machine's clock; None = it has not started."""
    progress: Progress | None = None
    usage: Usage | None = None
    log: LogPosition | None = None
    ended: Outcome | None = None
    """Set with the phase `Delivering`: how the workload ended."""
    outcome: Outcome | None = None
    """Set exactly when the phase is `Finished`: all output was carried, as far as it could be."""
    fault: MachineFault | None = None
    data_problem: Words = ""
    """Why the job's files can not be copied, whatever the machine; known before one is rented."""
    message: Words = ""
    """The last problem in words, for people."""

    @property
    def order(self) -> tuple[int, int]:
        """Of two reports of one pod the one with the larger order is the later."""
        return self.session, self.sequence


class Instruction(StrEnum):
    """What the controller wants of a driver."""

    WAIT = "Wait"
    MEASURE = "Measure"
    """Measure the machine and await the verdict."""
    RUN = "Run"
    STOP = "Stop"
    """End the workload, carry what is left of its output, and report the outcome."""
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

    command: Annotated[
        tuple[Annotated[str, Field(max_length=16384)], ...],
        Field(min_length=1, max_length=320),
        FailFast(),
    ]
    """Program and arguments, no shell implied."""
    working_dir: Annotated[str, Field(max_length=1024)] | None = None
    run_number: RunNumber = 0
    """How often the machine was taken away before: the workload then starts once more."""


class Assignment(Model):
    """The controller's answer to a report."""

    version: Version
    instruction: Instruction
    machine: Machine | None = None
    """Set with `Measure`, `Run` and `Stop`."""
    work: Work | None = None
    """Set with `Run` and `Stop`."""
    grace_seconds: Annotated[float, Field(ge=0, le=3600, allow_inf_nan=False)] | None = None
    """Set with `Stop`: how long the workload may take to end before it is killed."""


MESSAGES: tuple[type[Model], ...] = (DriverReport, Assignment)

Message = TypeVar("Message", DriverReport, Assignment)


def read_message(kind: type[Message], raw: bytes) -> Message:
    """Returns a message of a kind; raises ValidationError for anything else.

    Nothing is converted: a number in quotes is no number. Unknown members are ignored, since the
    other side may be newer.
    """
    return kind.model_validate_json(raw, strict=True, by_alias=True, by_name=False)


def message_faults(error: ValidationError) -> str:
    """Returns in words what is wrong with a message: where, and without the values there."""
    first, *more = error.errors(include_url=False, include_input=False, include_context=False)
    where = ".".join(str(part) for part in first["loc"]) or "the message"
    rest = f", and {len(more)} more" if more else ""
    return in_words(f"{where}: {first['msg']}{rest}")


def messages_schema() -> dict[str, Any]:
    """Returns the JSON Schema (2020-12) of both messages, as they are on the wire."""
    _, schema = models_json_schema(
        [(message, "validation") for message in MESSAGES],
        title="DriverTransport",
        description="What drivers report and controllers answer. Unknown members are ignored.",
    )
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
