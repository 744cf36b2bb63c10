"""GpuJob: what the user wants to run, on what, and for how much at most."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from gpujob.api.meta import Condition, Model, ObjectMeta, Time
from gpujob.api.workload import ProgressStatus, UsageStatus

NAME_LENGTH_MAX = 52
"""Leaves room for `-<index>-<attempt>` and `-driver` within the 63 characters of a label."""

Usd = Annotated[
    str,
    Field(
        max_length=14,
        pattern=r"^(0|[1-9][0-9]{0,5})(\.[0-9]{1,6})?$",
        examples=["2.50"],
    ),
]
"""US dollars as a decimal string, up to 999999.999999: no binary fraction ever stands for money."""

Fraction = Annotated[
    str, Field(max_length=8, pattern=r"^(0(\.[0-9]{1,6})?|1(\.0{1,6})?)$", examples=["0.95"])
]
"""A share between 0 and 1 as a decimal string."""


MACHINE_PATH = r"^/?[^/\x00-\x1f]+(/[^/\x00-\x1f]+)*$"
SUB_PATH = r"^[^/\x00-\x1f]+(/[^/\x00-\x1f]+)*$"


class KeySelector(Model):
    """One key of a Secret or ConfigMap in the job's namespace."""

    name: Annotated[
        str,
        Field(min_length=1, max_length=253, description="Name of the object.", examples=["hub"]),
    ]
    key: Annotated[
        str, Field(min_length=1, max_length=253, description="Key in it.", examples=["token"])
    ]
    optional: Annotated[
        bool | None, Field(description="Whether the driver may start without it.", examples=[False])
    ] = None


class EnvVarSource(Model):
    """Where the value comes from; exactly one."""

    secret_key_ref: Annotated[KeySelector | None, Field(description="A key of a Secret.")] = None
    config_map_key_ref: Annotated[
        KeySelector | None, Field(description="A key of a ConfigMap.")
    ] = None


class EnvVar(Model):
    """One environment variable of the workload."""

    name: Annotated[
        str,
        Field(
            max_length=128,
            pattern="^[A-Za-z_][A-Za-z0-9_]*$",
            description="Name of the variable.",
            examples=["EPOCHS"],
        ),
    ]
    value: Annotated[
        str | None, Field(max_length=32768, description="Literal value.", examples=["10"])
    ] = None
    value_from: Annotated[
        EnvVarSource | None,
        Field(description="Resolved by the kubelet in the driver pod; sent over SSH only."),
    ] = None


class ExitCodes(Model):
    """Which exit codes of the workload a rule is for."""

    operator: Annotated[
        Literal["In", "NotIn"],
        Field(
            description="Whether the code must be one of the values, or none of them.",
            examples=["In"],
        ),
    ]
    values: Annotated[
        tuple[Annotated[int, Field(ge=1, le=255)], ...],
        Field(
            min_length=1,
            max_length=64,
            description="Exit codes; 128 + N if signal N ended the command. 0 is no failure.",
            examples=[[42]],
        ),
    ]


class FailureRule(Model):
    """What follows from a failure of the workload."""

    action: Annotated[
        Literal["FailJob", "Ignore", "Count"],
        Field(
            description="FailJob: the job fails at once. Ignore: it is tried again and counts to "
            "maxRents only. Count: it is tried again and counts to backoffLimit.",
            examples=["FailJob"],
        ),
    ]
    on_exit_codes: Annotated[ExitCodes, Field(description="The exit codes that it is for.")]


class FailurePolicy(Model):
    """By which exit codes a failed workload is tried again."""

    rules: Annotated[
        tuple[FailureRule, ...],
        Field(
            max_length=20,
            description="The first rule that fits decides; if none does, the failure counts.",
        ),
    ] = ()


class GpuNeeds(Model):
    """Which GPUs the machine must have."""

    models: Annotated[
        tuple[Annotated[str, Field(min_length=1, max_length=64)], ...],
        Field(
            max_length=32,
            description="Accepted models, by the market's names. Empty: any model.",
            examples=[["RTX 4090", "RTX 3090"]],
        ),
    ] = ()
    count: Annotated[
        int, Field(ge=1, le=64, description="How many GPUs, all in one machine.", examples=[1])
    ] = 1
    memory_gb: Annotated[
        int | None,
        Field(
            alias="memoryGB",
            ge=1,
            le=4096,
            description="Memory of each GPU in GB, at least.",
            examples=[24],
        ),
    ] = None
    cuda_version: Annotated[
        str | None,
        Field(
            max_length=5,
            pattern=r"^[0-9]{1,2}\.[0-9]$",
            description="CUDA version that the machine's GPU software must run, at least.",
            examples=["12.4"],
        ),
    ] = None


class ResourceNeeds(Model):
    """What else the machine must have."""

    cpu: Annotated[
        int | None, Field(ge=1, le=1024, description="CPU cores, at least.", examples=[8])
    ] = None
    memory_gb: Annotated[
        int | None,
        Field(
            alias="memoryGB", ge=1, le=16384, description="Memory in GB, at least.", examples=[32]
        ),
    ] = None
    disk_gb: Annotated[
        int,
        Field(
            alias="diskGB",
            ge=8,
            le=16384,
            description="Disk in GB; it is rented, and paid from the machine's creation on.",
            examples=[20],
        ),
    ] = 20


class MarketRules(Model):
    """Which offers may be taken."""

    type: Annotated[
        Literal["OnDemand", "Interruptible"],
        Field(
            description="Interruptible: a bid for a cheaper machine, which stands still while "
            "somebody bids more. When it is back the workload starts anew, on the same disk.",
            examples=["OnDemand"],
        ),
    ] = "OnDemand"
    hosts: Annotated[
        Literal["Any", "Verified", "Datacenter"],
        Field(description="Which hosts are trusted.", examples=["Verified"]),
    ] = "Verified"
    min_reliability: Annotated[
        Fraction, Field(description="Lowest reliability that the provider may report of the host.")
    ] = "0.98"
    max_usd_per_hour: Annotated[
        Usd | None,
        Field(alias="maxUSDPerHour", description="Highest price per hour, disk included."),
    ] = None
    regions: Annotated[
        tuple[Annotated[str, Field(pattern="^[A-Z]{2}$", max_length=2)], ...],
        Field(
            max_length=64,
            description="Two-letter countries in which the machine may stand. Empty: all.",
            examples=[["US", "CA"]],
        ),
    ] = ()
    excluded_machines: Annotated[
        tuple[Annotated[int, Field(ge=1, le=2**53 - 1)], ...],
        Field(
            max_length=256,
            description="Machines of the provider that are not to be taken.",
            examples=[[21345]],
        ),
    ] = ()


class Cost(Model):
    """What the job may cost."""

    ceiling: Annotated[
        Usd,
        Field(
            description="The most that all attempts together may cost, in US dollars: machine, "
            "disk and traffic. May be raised while the job runs, never lowered."
        ),
    ]
    confidence: Annotated[
        Fraction,
        Field(
            description="Probability, at least 0.95, with which the cost must stay within the "
            "ceiling for a machine to be rented."
        ),
    ] = "0.95"


class Claim(Model):
    """A folder on a PersistentVolumeClaim in the job's namespace."""

    claim_name: Annotated[
        str,
        Field(
            min_length=1,
            max_length=253,
            description="Name of the claim; it must be there before the job.",
            examples=["results"],
        ),
    ]
    sub_path: Annotated[
        str | None,
        Field(
            max_length=1024,
            pattern=SUB_PATH,
            description="Folder on it. Default: all of it.",
            examples=["runs/7"],
        ),
    ] = None


class Copied(Claim):
    """A folder on a claim and one on the machine, of which one is copied to the other.

    Regular files are copied, with their folders; links and empty folders are not.
    """

    path: Annotated[
        str,
        Field(
            max_length=1024,
            pattern=MACHINE_PATH,
            description="Folder on the machine, below the home folder unless it begins with /.",
            examples=["/workspace/out"],
        ),
    ]


class Checkpoint(Copied):
    """A folder in which the workload keeps what it needs to go on."""

    interval_seconds: Annotated[
        int,
        Field(
            ge=30,
            le=86_400,
            description="Seconds between two copies while the workload runs. It is also copied "
            "when the workload has ended, and back to the machine of the next attempt.",
            examples=[600],
        ),
    ] = 600


class Data(Model):
    """Files that come and go, and the traffic of it, which the provider charges by the byte."""

    inputs: Annotated[
        tuple[Copied, ...],
        Field(max_length=8, description="Copied to the machine before the workload starts."),
    ] = ()
    outputs: Annotated[
        tuple[Copied, ...],
        Field(
            max_length=8,
            description="Copied from the machine once the workload has ended, however it did.",
        ),
    ] = ()
    checkpoint: Annotated[
        Checkpoint | None, Field(description="What outlives the machine while the job goes on.")
    ] = None
    log: Annotated[
        Claim | None,
        Field(
            description="Keeps what the workload prints, as NODE.stdout and NODE.stderr; the "
            "driver pod's own log is cut short by the cluster."
        ),
    ] = None
    drain_seconds: Annotated[
        int | None,
        Field(
            ge=10,
            le=86_400,
            description="Seconds for the workload to end once it is told to, and for outputs, "
            "checkpoint and log to be copied; paid for, and part of the cost's bound. A third of "
            "it is the workload's. Default: the operator's, 30.",
            examples=[600],
        ),
    ] = None

    max_download_gb: Annotated[
        int,
        Field(
            alias="maxDownloadGB",
            ge=0,
            le=100_000,
            description="Download cap in GB, image included. Beyond it the machine is destroyed.",
            examples=[20],
        ),
    ] = 20
    max_upload_gb: Annotated[
        int,
        Field(
            alias="maxUploadGB",
            ge=0,
            le=100_000,
            description="Upload cap in GB. Beyond it the machine is destroyed.",
            examples=[2],
        ),
    ] = 2


class Port(Model):
    """A TCP port of the workload that the cluster may reach."""

    name: Annotated[
        str,
        Field(
            max_length=15,
            pattern="^[a-z](-?[a-z0-9])*$",
            description="Name of the Service's port.",
            examples=["http"],
        ),
    ]
    port: Annotated[
        int,
        Field(
            ge=1,
            le=65535,
            description="Where the workload listens, on all addresses or on localhost of the "
            "machine; the Service has the same number.",
            examples=[6006],
        ),
    ]


Argument = Annotated[str, Field(max_length=16384)]


class GpuJobSpec(Model):
    """What is to run, on which machine, for how much."""

    image: Annotated[
        str,
        Field(
            min_length=1,
            max_length=1024,
            pattern="^[!-~]+$",  # `\s` is another set to each who reads it
            description="Container image that the rented machine runs.",
            examples=["pytorch/pytorch:2.4.0-cuda12.4-cudnn9-runtime"],
        ),
    ]
    command: Annotated[
        tuple[Argument, ...],
        Field(
            min_length=1,
            max_length=64,
            description="Program and first arguments. No shell is implied.",
            examples=[["python3", "train.py"]],
        ),
    ]
    args: Annotated[
        tuple[Argument, ...],
        Field(max_length=256, description="Further arguments.", examples=[["--epochs", "10"]]),
    ] = ()
    env: Annotated[
        tuple[EnvVar, ...],
        Field(max_length=256, description="Environment of the workload."),
    ] = ()
    working_dir: Annotated[
        str | None,
        Field(
            max_length=1024,
            pattern="^/",
            description="Folder on the machine in which the command starts. Default: home.",
            examples=["/workspace"],
        ),
    ] = None
    suspend: Annotated[
        bool,
        Field(
            description="True stops the job: its machine is destroyed, nothing is rented.",
            examples=[True],
        ),
    ] = False
    backoff_limit: Annotated[
        int,
        Field(
            ge=0,
            le=100,
            description="How often the workload may fail and be tried again.",
            examples=[2],
        ),
    ] = 2
    failure_policy: Annotated[
        FailurePolicy, Field(description="What follows from which exit code.")
    ] = FailurePolicy()
    max_rents: Annotated[
        int,
        Field(
            ge=1,
            le=100,
            description="How many attempts may end through no fault of the workload.",
            examples=[10],
        ),
    ] = 10
    active_deadline_seconds: Annotated[
        int | None,
        Field(
            ge=1,
            le=31_536_000,
            description="Seconds that the workload may run, summed over all attempts. Waiting and "
            "booting do not count. May be raised while the job runs, never lowered.",
            examples=[3600],
        ),
    ] = None
    idle_deadline_seconds: Annotated[
        int | None,
        Field(
            ge=60,
            le=31_536_000,
            description="Seconds in which no GPU of the machine is busy, after which the workload "
            "is stopped and the job fails. Unset: never.",
            examples=[900],
        ),
    ] = None
    ttl_seconds_after_finished: Annotated[
        int | None,
        Field(
            ge=0,
            le=31_536_000,
            description="Seconds after which a finished job is deleted. Unset: never. Whatever "
            "applies it again, as GitOps tools do, runs it and pays for it again.",
            examples=[86400],
        ),
    ] = None
    gpu: Annotated[GpuNeeds, Field(description="Which GPUs.")] = GpuNeeds()
    resources: Annotated[ResourceNeeds, Field(description="What else the machine must have.")] = (
        ResourceNeeds()
    )
    market: Annotated[MarketRules, Field(description="Which offers may be taken.")] = MarketRules()
    cost: Annotated[Cost, Field(description="What the job may cost.")]
    data: Annotated[Data, Field(description="Files that come and go, and traffic.")] = Data()
    ports: Annotated[
        tuple[Port, ...],
        Field(
            max_length=16,
            description="Ports of the workload, reached through the Service that "
            "`status.serviceName` names; carried by the driver over SSH. The machine opens none of "
            "them to the internet. What they carry counts as traffic.",
        ),
    ] = ()


class CostStatus(Model):
    """What the job costs."""

    estimate_usd: Annotated[
        str | None,
        Field(
            alias="estimateUSD",
            max_length=24,
            description="Bound of the whole cost by the last decision of the gate.",
        ),
    ] = None
    confidence: Annotated[
        str | None,
        Field(
            max_length=8,
            description="Probability that the cost stays within the ceiling, rounded down.",
        ),
    ] = None
    spent_usd: Annotated[
        str,
        Field(
            alias="spentUSD", max_length=24, description="Charges of ended attempts: upper bounds."
        ),
    ] = "0.000000"
    accrued_usd: Annotated[
        str | None,
        Field(
            alias="accruedUSD",
            max_length=24,
            description="Spent, and the present attempt up to `asOf`.",
        ),
    ] = None
    as_of: Annotated[Time | None, Field(description="When `accruedUSD` was reckoned.")] = None
    final_usd: Annotated[
        str | None,
        Field(
            alias="finalUSD", max_length=24, description="Total, once nothing more can be charged."
        ),
    ] = None


class AttemptRecord(Model):
    """One ended attempt."""

    attempt: Annotated[int, Field(ge=1, le=1000, description="Number of the attempt.")]
    node_name: Annotated[str, Field(max_length=63, description="Its GpuNode.")]
    machine_id: Annotated[
        int | None,
        Field(alias="machineID", ge=0, description="Machine, by the provider's number, if rented."),
    ] = None
    gpu: Annotated[str | None, Field(max_length=80, description="GPUs of the machine.")] = None
    usd_per_hour: Annotated[
        str | None, Field(alias="usdPerHour", max_length=24, description="Its price.")
    ] = None
    reason: Annotated[str, Field(max_length=64, description="Why the attempt ended.")]
    message: Annotated[str, Field(max_length=1024, description="The same in words.")] = ""
    exit_code: Annotated[
        int | None, Field(ge=0, le=255, description="Exit code of the workload, if it ended.")
    ] = None
    run_seconds: Annotated[
        int, Field(ge=0, description="Seconds that the workload ran, rounded up.")
    ] = 0
    cost_usd: Annotated[
        str, Field(alias="costUSD", max_length=24, description="Charge: an upper bound.")
    ]
    ended_at: Annotated[Time, Field(description="When it was over and the machine proved gone.")]


class JobEndStatus(Model):
    """How the job ended, stored once; its conditions follow from it."""

    reason: Annotated[
        str, Field(max_length=64, description="`Complete`, or the reason why the job failed.")
    ]
    message: Annotated[str, Field(max_length=1024, description="The same in words.")] = ""


class GpuJobStatus(Model):
    """What the operator knows of the job; written by it alone."""

    observed_generation: Annotated[
        int,
        Field(
            ge=-1, description="Generation that this status speaks of; -1 before the first visit."
        ),
    ] = -1
    phase: Annotated[
        str | None,
        Field(
            max_length=32,
            description="The state in one word, for people; programs read conditions.",
        ),
    ] = None
    conditions: Annotated[
        tuple[Condition, ...], Field(max_length=16, description="The state of the job.")
    ] = ()
    attempt: Annotated[
        int, Field(ge=0, le=1000, description="Number of the latest recorded attempt; 0 = none.")
    ] = 0
    node_name: Annotated[
        str | None, Field(max_length=63, description="GpuNode of the attempt under way.")
    ] = None
    node_uid: Annotated[
        str | None, Field(alias="nodeUID", max_length=64, description="Its uid.")
    ] = None
    node_reserved_usd: Annotated[
        str | None,
        Field(
            alias="nodeReservedUSD",
            max_length=24,
            description="What the present attempt may cost; charged in full if its GpuNode goes.",
        ),
    ] = None
    node_account_id: Annotated[
        int | None,
        Field(
            alias="nodeAccountID",
            ge=0,
            description="The provider's account that the present attempt may rent with.",
        ),
    ] = None
    attempts: Annotated[
        tuple[AttemptRecord, ...],
        Field(max_length=20, description="The newest ended attempts, oldest first."),
    ] = ()
    failures: Annotated[
        int,
        Field(ge=0, description="Attempts in which the workload failed; counts to backoffLimit."),
    ] = 0
    disruptions: Annotated[
        int,
        Field(
            ge=0, description="Attempts that ended through no fault of the workload; to maxRents."
        ),
    ] = 0
    run_seconds: Annotated[
        int, Field(ge=0, description="Seconds that the workload ran in ended attempts.")
    ] = 0
    gpu: Annotated[str | None, Field(max_length=80, description="GPUs of the present machine.")] = (
        None
    )
    usd_per_hour: Annotated[
        str | None,
        Field(alias="usdPerHour", max_length=24, description="Price of the present machine."),
    ] = None
    service_name: Annotated[
        str | None,
        Field(max_length=63, description="Service that leads to the workload's ports."),
    ] = None
    progress: Annotated[
        ProgressStatus | None, Field(description="How far the present run says it is.")
    ] = None
    usage: Annotated[UsageStatus | None, Field(description="How busy its GPUs are.")] = None
    cost: Annotated[CostStatus, Field(description="What the job costs.")] = CostStatus()
    start_time: Annotated[Time | None, Field(description="When the first workload started.")] = None
    end: Annotated[
        JobEndStatus | None, Field(description="How the job ended; unset while it is not over.")
    ] = None
    completion_time: Annotated[Time | None, Field(description="When the job was over.")] = None


class GpuJob(Model):
    """A job as stored."""

    metadata: ObjectMeta
    spec: GpuJobSpec
    status: GpuJobStatus = GpuJobStatus()

    @model_validator(mode="before")
    @classmethod
    def _without_empty_status(cls, body: Any) -> Any:
        if isinstance(body, dict) and body.get("status") is None:
            return {key: value for key, value in body.items() if key != "status"}
        return body
