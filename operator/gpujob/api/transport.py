"""Messages between a driver and the controller: DriverTransport.

A driver posts a `DriverReport` to `SYNC_PATH` and gets an `Assignment` back. What is new
it reports at once; else it reports when the answer comes, which waits for something new to tell.
Both are levels, not edges: each says everything that its sender knows now. A lost or repeated
message therefore changes nothing, and neither does losing contact for a while. Session and sequence
number show whether a report is older than one already received. Every payload is validated on both
sides; the generated schema of both is stored beside this file.
"""

import hashlib
import re
from enum import StrEnum
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BeforeValidator,
    FailFast,
    Field,
    PlainSerializer,
    SecretStr,
    ValidationError,
    WithJsonSchema,
)
from pydantic.json_schema import models_json_schema

from gpujob.api.foreign import at_most
from gpujob.api.meta import Model
from gpujob.api.words import Words, in_words, printable

SYNC_PATH = "/v1/driver/sync"
"""POST. `Authorization: Bearer` carries a token of the driver pod for `TRANSPORT_AUDIENCE`."""

HOLD_SECONDS = 6.0
"""How long the controller may keep an answer back that the driver has got already."""
REPORT_BYTES_MAX = 65_536
"""No report is longer than this in UTF-8."""
ASSIGNMENT_BYTES_MAX = 4 << 20
"""No assignment is longer: it contains a job's command, and no stored object is half as long."""

WORKLOAD_ENV_PREFIX = "WORKLOAD_"
"""The pod template passes the job's variables to the driver under this prefix. So the kubelet
resolves `valueFrom`, and no variable of the job affects the driver itself."""


def _is_integer(value: object) -> object:
    # Without this check true and 1.0 would be accepted: they are equal to 1.
    if type(value) is not int:
        raise ValueError("must be an integer")
    return value


Version = Annotated[Literal[1], BeforeValidator(_is_integer)]
Name = Annotated[str, Field(min_length=1, max_length=64), AfterValidator(printable)]
Count = Annotated[int, Field(ge=0, le=2**53 - 1)]
Number = Annotated[float, Field(ge=-1e15, le=1e15, allow_inf_nan=False)]
Seconds = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]
Percent = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
"""SHA-256 of the body of an answer, in hex."""
RunNumber = Annotated[int, Field(ge=0, le=10_000)]


class WorkloadPhase(StrEnum):
    """What the driver is doing."""

    WAITING = "Waiting"
    CONNECTING = "Connecting"
    MEASURED = "Measured"
    """The machine was measured; the driver waits for the verdict."""
    COPYING = "Copying"
    """Inputs and the last checkpoint are being copied to the machine."""
    RUNNING = "Running"
    STOPPING = "Stopping"
    """The workload was told to stop; its output is still being copied."""
    DELIVERING = "Delivering"
    """The workload has ended; its files are being copied."""
    FINISHED = "Finished"


MACHINE_FOLDER = "/var/lib/gpujob"
"""Where everything of ours lies on a machine. Root's home would not do: for the container's first
process it is what the image says in `HOME`, for an SSH session what its password file says."""


class MachineFault(StrEnum):
    """What is wrong with the machine, so that this attempt cannot continue."""

    HOST_KEY_CHANGED = "HostKeyChanged"
    LOGIN_REFUSED = "LoginRefused"
    INPUTS_NOT_COPIED = "InputsNotCopied"
    IMAGE_UNUSABLE = "ImageUnusable"
    """The start-up files of root's shell end every session."""
    MACHINE_RESTARTED = "MachineRestarted"
    """Its container was restarted: the files are there, but nothing runs any more. The workload may
    be started again on it, as another run."""


class Cause(StrEnum):
    """Why a workload failed, if the machine could find out."""

    OUT_OF_MEMORY = "OutOfMemory"
    DISK_FULL = "DiskFull"
    GPU_LOST = "GpuLost"


class WatchdogClient(StrEnum):
    """Programs with which the machine's watchdog can ask the provider to destroy the machine."""

    CURL = "curl"
    PYTHON3 = "python3"
    WGET = "wget"
    PERL = "perl"


class Gpu(Model):
    """One GPU, as the machine's own `nvidia-smi` reports it."""

    name: Name
    memory_mib: Count


class Measured(Model):
    """What was measured on the machine itself before it gets work."""

    gpus: Annotated[tuple[Gpu, ...], Field(max_length=64), FailFast()] = ()
    """The GPUs that answer."""
    gpu_problem: Words = ""
    """Why not all GPUs could be read; empty if all could."""
    cuda_version: Annotated[str, Field(pattern=r"^[0-9]{1,2}\.[0-9]{1,2}$")] | None = None
    """Highest CUDA version that the GPU driver supports; None if it reports none."""
    cpu_cores: Count
    memory_mib: Count
    """Memory limit of the container, or memory of the machine if there is no limit."""
    memory_free_mib: Count
    disk_mib: Count
    """Size of the file system that the workload starts on."""
    disk_free_mib: Count
    disk_write_mbps: Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]
    """Write speed in megabytes (1e6 bytes) per second, synced to disk."""
    watchdog_client: WatchdogClient | None = None
    watchdog_runs: bool


class Progress(Model):
    """Progress that the workload reports."""

    percent: Percent | None = None
    step: Count | None = None
    remaining_seconds: Seconds | None = None
    metrics: Annotated[dict[Name, Number], Field(max_length=32, default_factory=dict), at_most(32)]


class Usage(Model):
    """How busy the GPUs are."""

    gpu_percent: Percent
    """Mean load over all GPUs and the last minute."""
    gpu_memory_mib: Count
    """Memory in use at the last sample, summed over all GPUs."""
    idle_seconds: Seconds
    """Time since the last sample in which any GPU was busy, or since the first sample."""
    idle_samples: Count
    """Number of consecutive samples in which no GPU was busy."""


class LogPosition(Model):
    """How much of the workload's output was copied, and how much there is, in bytes."""

    stdout_carried: Count = 0
    stdout_written: Count = 0
    stderr_carried: Count = 0
    stderr_written: Count = 0

    @property
    def behind(self) -> int:
        """Bytes of output that only the machine has."""
        missing_out = max(self.stdout_written - self.stdout_carried, 0)
        return missing_out + max(self.stderr_written - self.stderr_carried, 0)


class Outcome(Model):
    """How the workload ended; also written as the driver's termination message."""

    exit_code: Annotated[int, Field(ge=0, le=255)]
    """Exit code of the command; 128 + N if signal N ended it."""
    run_seconds: Seconds
    """Time between start and end of the command, on the machine's clock."""
    was_killed: bool = False
    """There is no exit code of its own: the workload was killed together with its supervisor."""
    cause: Cause | None = None
    message: Words = ""
    lost: Words = ""
    """Which files could not be copied, and why; empty if all were."""


_LOGIN_TEXT = re.compile(r"[A-Za-z0-9_.,:@%+=/!$][A-Za-z0-9_.,:@%+=/!$-]*")


def _is_plain(value: SecretStr) -> SecretStr:
    if _LOGIN_TEXT.fullmatch(value.get_secret_value()) is None:
        raise ValueError("must consist of letters, digits and _ . , : @ % + = / ! $ -")
    return value


def _has_no_dollar(value: SecretStr) -> SecretStr:
    if "$" in value.get_secret_value():
        raise ValueError("must have no $")
    return value


LoginText = Annotated[
    SecretStr,
    Field(min_length=1, max_length=8192),
    AfterValidator(_is_plain),
    PlainSerializer(lambda value: value.get_secret_value(), return_type=str),
    WithJsonSchema(
        {
            "type": "string",
            "minLength": 1,
            "maxLength": 8192,
            "pattern": f"^{_LOGIN_TEXT.pattern}$",
        }
    ),
]
"""A part of a login. But for `$`, it has only characters that no reader of a command's arguments
interprets: how the provider reads them is not documented (vastsim/FACTS.md, Private images)."""


class RegistryLogin(Model):
    """Credentials for the registry of the job's image, from the job's pull secret."""

    registry: Annotated[str, Field(max_length=260, pattern=r"^[a-z0-9.-]+(:[0-9]{1,5})?$")]
    """Host, and port if there is one."""
    username: LoginText
    """Some registries prescribe a name with a `$`, so it is passed on. If it were interpreted, it
    could only be replaced by nothing, and the registry would refuse the pull."""
    password: Annotated[LoginText, AfterValidator(_has_no_dollar)]


class DriverReport(Model):
    """Everything that a driver knows now."""

    version: Version
    node_uid: Name
    session: Annotated[int, Field(ge=1, le=2**31 - 1)]
    """Increases with each start of the driver in its pod."""
    sequence: Annotated[int, Field(ge=1, le=2**53 - 1)]
    """Increases with each report of a session."""
    phase: WorkloadPhase
    machine_contact_age_seconds: Seconds | None = None
    """Time since the machine last answered; None if it never did."""
    measured: Measured | None = None
    run_number: RunNumber = 0
    """Number of the run that the following fields describe."""
    run_seconds: Seconds | None = None
    """Time that the command has run, on the machine's clock; None if it has not started."""
    progress: Progress | None = None
    usage: Usage | None = None
    log: LogPosition | None = None
    ended: Outcome | None = None
    """How the workload ended. Set with the phase `Delivering`."""
    copy_idle_seconds: Seconds | None = None
    """Time since bytes of files were last copied; None if none were."""
    outcome: Outcome | None = None
    """Set if and only if the phase is `Finished`: all output was copied, as far as possible."""
    money_deadline_seconds: Count | None = None
    """The deadline that the machine's watchdog has acknowledged; None = it was told none."""
    fault: MachineFault | None = None
    data_problem: Words = ""
    """Why the job's files cannot be copied on any machine; known before one is rented."""
    login: RegistryLogin | None = None
    """Set only if the last assignment wanted it."""
    login_problem: Words = ""
    """Why the job's pull secret cannot be used for its image."""
    is_replaced: bool = False
    """Whether the machine has heard a later driver, and heeds this one no more."""
    message: Words = ""
    """The last problem, in a sentence for people."""
    taken: Digest | None = None
    """The answer that was taken last: the controller may wait until it has another. None = none."""

    @property
    def news(self) -> tuple[object, ...]:
        """What the controller decides by, other than figures: if it changes, it is told at once."""
        return (
            *(self.phase, self.measured, self.ended, self.outcome, self.money_deadline_seconds),
            *(self.fault, self.data_problem, self.login, self.login_problem, self.message),
            self.is_replaced,
        )

    @property
    def order(self) -> tuple[int, int]:
        """Sort key: of two reports of one pod, the one with the larger value is the later one."""
        return self.session, self.sequence


class Instruction(StrEnum):
    """What the controller tells a driver to do."""

    WAIT = "Wait"
    MEASURE = "Measure"
    """Measure the machine and wait for the verdict."""
    RUN = "Run"
    STOP = "Stop"
    """Stop the workload, copy the rest of its output, and report the outcome."""
    EXIT = "Exit"
    """Nothing is left to do: the outcome is stored, or the attempt has ended in another way."""


class Address(Model):
    """Where an SSH server listens."""

    host: Annotated[str, Field(min_length=1, max_length=253)]
    port: Annotated[int, Field(ge=1, le=65535)]


class MachineAddress(Address):
    """How to reach the rented machine, and how to verify that it is the right one."""

    others: Annotated[tuple[Address, ...], Field(max_length=4), FailFast()] = ()
    """Where the same machine is reached as well. They may change while it is worked on: only the
    host key says which machine it is."""
    user: Annotated[str, Field(min_length=1, max_length=32)] = "root"
    host_key: Annotated[str, Field(min_length=1, max_length=1024)]
    """One public key, as in a `.pub` file without the comment."""


class Work(Model):
    """What to run on the machine."""

    command: Annotated[
        tuple[Annotated[str, Field(max_length=16384)], ...],
        Field(min_length=1, max_length=320),
        FailFast(),
    ]
    """Program and arguments. They are not passed to a shell."""
    working_dir: Annotated[str, Field(max_length=1024)] | None = None
    run_number: RunNumber = 0
    """How often the machine was paused before. After each pause the workload starts again."""


class Assignment(Model):
    """The controller's answer to a report."""

    version: Version
    instruction: Instruction
    machine: MachineAddress | None = None
    """Set with `Measure`, `Run` and `Stop`."""
    work: Work | None = None
    """Set with `Run` and `Stop`."""
    grace_seconds: Annotated[float, Field(ge=0, le=3600, allow_inf_nan=False)] | None = None
    """Time that the workload has to end before it is killed. Set with `Stop`."""
    money_deadline_seconds: Count | None = None
    """The deadline that the machine's watchdog is to hold to; None = the one that it has."""
    wants_login: bool = False
    """The next report is to have the login for the image's registry, which a rent needs."""
    authorities: Annotated[str, Field(max_length=16384)] = ""
    """The certificate authorities to trust from now on, as PEM; empty = those of before."""


MESSAGES: tuple[type[Model], ...] = (DriverReport, Assignment)

Message = TypeVar("Message", DriverReport, Assignment)


def read_message(kind: type[Message], raw: bytes) -> Message:
    """Returns a message of a kind; raises ValidationError for anything else.

    Nothing is converted: a number in quotes is not a number. Unknown members are ignored, because
    the other side may be newer.
    """
    return kind.model_validate_json(raw, strict=True, by_alias=True, by_name=False)


def digest_of_answer(body: bytes) -> str:
    """Returns by what a driver names the answer that it has taken."""
    return hashlib.sha256(body).hexdigest()


def message_faults(error: ValidationError) -> str:
    """Returns what is wrong with a message and where, without quoting its values."""
    first, *more = error.errors(include_url=False, include_input=False, include_context=False)
    where = ".".join(str(part) for part in first["loc"]) or "the message"
    rest = f", and {len(more)} more" if more else ""
    return in_words(f"{where}: {first['msg']}{rest}")


def messages_schema() -> dict[str, Any]:
    """Returns the JSON Schema (2020-12) of both messages as sent on the wire."""
    _, schema = models_json_schema(
        [(message, "validation") for message in MESSAGES],
        title="DriverTransport",
        description="Reports of drivers, and the controller's answers. Unknown members are "
        "ignored.",
    )
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
