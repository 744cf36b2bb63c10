"""GpuJob: what the user wants to run, on what, and for how much at most."""

from typing import Annotated, Any, Literal

from pydantic import FailFast, Field, model_validator

from gpujob.api.driver_pod import OBJECT_NAME, DriverPod
from gpujob.api.meta import Condition, Model, ObjectMeta, Time
from gpujob.api.workload import ProgressStatus, UsageStatus

NAME_LENGTH_MAX = 52
"""Leaves room for `-<index>-<attempt>` within the 63 characters of a label."""
ATTEMPTS_MAX = 1_000_000
"""The number of an attempt goes no further. Races that are lost end no job: with the pauses between
them, so many take years."""

Usd = Annotated[
    str,
    Field(
        max_length=14,
        pattern=r"^(0|[1-9][0-9]{0,5})(\.[0-9]{1,6})?$",
        examples=["2.50"],
    ),
]
"""US dollars as a decimal string, at most 999999.999999. Money is never a binary float."""

Fraction = Annotated[
    str, Field(max_length=8, pattern=r"^(0(\.[0-9]{1,6})?|1(\.0{1,6})?)$", examples=["0.95"])
]
"""A fraction between 0 and 1, as a decimal string."""

CONFIDENCE_MIN, CONFIDENCE_MAX = "0.95", "0.97"
"""What a job may ask for: no more than the operator has without evidence (`core.cost.confidence`),
else the job would wait for ever."""
CONFIDENCE_RANGE = (
    f"must be at least {CONFIDENCE_MIN} and at most {CONFIDENCE_MAX}, which is what the operator "
    "has before it has destroyed a machine"
)


SPEC_BYTES_MAX = 65_536
"""Of a spec, as JSON. Everything that holds jobs holds many of them."""

MUST_EXPOSE = (
    "must be true: the provider and the owner of the host can read these credentials, so use a "
    "token that can only read and is valid for a short time"
)

MACHINE_PATH = r"^/?[^/\x00-\x1f]+(/[^/\x00-\x1f]+)*$"
SUB_PATH = r"^[^/\x00-\x1f]+(/[^/\x00-\x1f]+)*$"


class KeySelector(Model):
    """One key of a Secret or ConfigMap in the job's namespace."""

    name: Annotated[
        str,
        Field(min_length=1, max_length=253, description="Name of the object.", examples=["hub"]),
    ]
    key: Annotated[
        str,
        Field(min_length=1, max_length=253, description="Key in that object.", examples=["token"]),
    ]
    optional: Annotated[
        bool | None,
        Field(
            description="If true, the driver pod may start even if the object or the key does not "
            "exist. The variable is then not set.",
            examples=[False],
        ),
    ] = None


class EnvVarSource(Model):
    """Where the value comes from. Exactly one of the two fields must be set."""

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
        str | None, Field(max_length=32768, description="Value of the variable.", examples=["10"])
    ] = None
    value_from: Annotated[
        EnvVarSource | None,
        Field(
            description="Takes the value from a Secret or ConfigMap. The kubelet resolves it in "
            "the driver pod, and the driver sends it to the machine over SSH only.",
        ),
    ] = None


class ExitCodes(Model):
    """The exit codes of the workload that a rule applies to."""

    operator: Annotated[
        Literal["In", "NotIn"],
        Field(
            description="In: the rule applies to the listed exit codes. NotIn: it applies to all "
            "others, except 0.",
            examples=["In"],
        ),
    ]
    values: Annotated[
        tuple[Annotated[int, Field(ge=1, le=255)], ...],
        FailFast(),
        Field(
            min_length=1,
            max_length=64,
            description="Exit codes. A command that signal N ended has the code 128 + N. 0 is not "
            "a failure.",
            examples=[[42]],
        ),
    ]


class FailureRule(Model):
    """What happens when the workload fails with certain exit codes."""

    action: Annotated[
        Literal["FailJob", "Ignore", "Count"],
        Field(
            description="FailJob: the job fails at once. Ignore: the workload is tried again, and "
            "the failure counts towards maxRents only. Count: the failure counts towards "
            "backoffLimit, and the workload is tried again if that allows it.",
            examples=["FailJob"],
        ),
    ]
    on_exit_codes: Annotated[ExitCodes, Field(description="Exit codes that the rule applies to.")]


class FailurePolicy(Model):
    """Decides by exit code whether a failed workload is tried again."""

    rules: Annotated[
        tuple[FailureRule, ...],
        FailFast(),
        Field(
            max_length=20,
            description="The first rule that matches decides. If none matches, the failure counts "
            "towards backoffLimit.",
        ),
    ] = ()


class GpuNeeds(Model):
    """Which GPUs the machine must have."""

    models: Annotated[
        tuple[Annotated[str, Field(min_length=1, max_length=64)], ...],
        FailFast(),
        Field(
            max_length=32,
            description="Accepted GPU models, as the provider calls them or as people do: "
            "RTX 4090, rtx_4090, H100 SXM, h100 for any H100, A100-80GB for one with at least "
            "80 GB. A name that leaves the series or the memory open is refused with what there "
            "is. Empty: any model.",
            examples=[["RTX 4090", "RTX 3090"]],
        ),
    ] = ()
    count: Annotated[
        int, Field(ge=1, le=64, description="Number of GPUs, all in one machine.", examples=[1])
    ] = 1
    memory_gb: Annotated[
        int | None,
        Field(
            alias="memoryGB",
            ge=1,
            le=4096,
            description="Minimum memory of each GPU, in GB.",
            examples=[24],
        ),
    ] = None
    cuda_version: Annotated[
        str | None,
        Field(
            max_length=5,
            pattern=r"^[0-9]{1,2}\.[0-9]$",
            description="Minimum CUDA version that the machine's GPU driver must support.",
            examples=["12.4"],
        ),
    ] = None


class ResourceNeeds(Model):
    """Other resources that the machine must have."""

    cpu: Annotated[
        int | None, Field(ge=1, le=1024, description="Minimum number of CPU cores.", examples=[8])
    ] = None
    memory_gb: Annotated[
        int | None,
        Field(
            alias="memoryGB", ge=1, le=16384, description="Minimum memory, in GB.", examples=[32]
        ),
    ] = None
    disk_gb: Annotated[
        int,
        Field(
            alias="diskGB",
            ge=8,
            le=16384,
            description="Disk to rent, in GB. It is paid for from the moment the machine is "
            "created.",
            examples=[20],
        ),
    ] = 20


class MarketRules(Model):
    """Which offers may be rented."""

    type: Annotated[
        Literal["OnDemand", "Interruptible"],
        Field(
            description="OnDemand rents at the offered price. Interruptible bids for a cheaper "
            "machine, which is paused while somebody bids more; it rents on demand if that is "
            "expected to cost less by the time the job is finished. When the machine resumes, the "
            "workload starts again from the beginning, on the same disk.",
            examples=["OnDemand"],
        ),
    ] = "OnDemand"
    hosts: Annotated[
        Literal["Any", "Verified", "Datacenter"],
        Field(
            description="Which hosts are accepted: any host, only hosts that the provider has "
            "verified, or only hosts in data centers.",
            examples=["Verified"],
        ),
    ] = "Verified"
    min_reliability: Annotated[
        Fraction, Field(description="Minimum reliability of the host, as the provider reports it.")
    ] = "0.98"
    max_usd_per_hour: Annotated[
        Usd | None,
        Field(
            alias="maxUSDPerHour",
            description="Maximum price per hour in US dollars, disk included.",
        ),
    ] = None
    regions: Annotated[
        tuple[Annotated[str, Field(pattern="^[A-Z]{2}$", max_length=2)], ...],
        FailFast(),
        Field(
            max_length=64,
            description="Two-letter codes of the countries where the machine may be. Empty: any.",
            examples=[["US", "CA"]],
        ),
    ] = ()
    excluded_machines: Annotated[
        tuple[Annotated[int, Field(ge=1, le=2**53 - 1)], ...],
        FailFast(),
        Field(
            max_length=256,
            description="Machines that must not be rented, by the provider's machine number.",
            examples=[[21345]],
        ),
    ] = ()


class Cost(Model):
    """What the job may cost."""

    ceiling: Annotated[
        Usd,
        Field(
            description="The most that all attempts together may cost, in US dollars: machine, "
            "disk and traffic. It may be raised while the job runs, never lowered."
        ),
    ]
    confidence: Annotated[
        Fraction,
        Field(
            description="A machine is rented only if the cost stays within the ceiling with at "
            f"least this probability. It {CONFIDENCE_RANGE}."
        ),
    ] = "0.95"


class Claim(Model):
    """A folder on a PersistentVolumeClaim in the job's namespace."""

    claim_name: Annotated[
        str,
        Field(
            min_length=1,
            max_length=253,
            description="Name of the claim. It must exist before the job is created.",
            examples=["results"],
        ),
    ]
    sub_path: Annotated[
        str | None,
        Field(
            max_length=1024,
            pattern=SUB_PATH,
            description="Folder on the claim. Default: the whole claim.",
            examples=["runs/7"],
        ),
    ] = None


class Copied(Claim):
    """A folder on a claim and a folder on the machine; one is copied to the other.

    Files are copied with their times and rights, and with all folders. Symbolic links are copied if
    they are relative and lead to a place in the folder; pipes, sockets and devices are left out.
    """

    path: Annotated[
        str,
        Field(
            max_length=1024,
            pattern=MACHINE_PATH,
            description="Folder on the machine. It exists when the workload starts. A path that "
            "does not begin with / is relative to the folder in which the command starts: "
            "workingDir, or else the image's.",
            examples=["/workspace/out"],
        ),
    ]


class Result(Copied):
    """A folder that the workload fills."""

    optional: Annotated[
        bool,
        Field(
            description="Whether a workload that succeeds may leave no file in this folder. "
            "Otherwise the job then fails with OutputLost, because a path that was mistyped would "
            "lose all results without a word.",
            examples=[True],
        ),
    ] = False


class Checkpoint(Copied):
    """A folder in which the workload saves what it needs to continue later."""

    interval_seconds: Annotated[
        int,
        Field(
            ge=30,
            le=86_400,
            description="Seconds between two copies while the workload runs. A copy is taken once "
            "no file is open for writing and none has changed for 10 s; a file that is open for "
            "writing during a whole interval is left out. The folder is copied once more when the "
            "workload has ended, and to the machine of the next attempt before the workload "
            "starts there.",
            examples=[600],
        ),
    ] = 600


class Data(Model):
    """Files to copy, and caps on the traffic, which the provider charges by the byte."""

    inputs: Annotated[
        tuple[Copied, ...],
        FailFast(),
        Field(
            max_length=8,
            description="Folders that are copied to the machine before the workload starts.",
            examples=[[{"claimName": "code", "path": "/workspace/src"}]],
        ),
    ] = ()
    outputs: Annotated[
        tuple[Result, ...],
        FailFast(),
        Field(
            max_length=8,
            description="Folders that are copied from the machine after the workload has ended, "
            "whether it succeeded or failed.",
        ),
    ] = ()
    checkpoint: Annotated[
        Checkpoint | None,
        Field(
            description="Folder whose files are saved to a claim, and copied to the machine of "
            "the next attempt. On the claim the files of the last whole copy have the names that "
            "they have on the machine: a newer copy replaces them only when all of it is there. "
            "The folder .gpujob beside them belongs to the operator. Only files that this job has "
            "saved are ever removed.",
            examples=[{"claimName": "state", "subPath": "runs/7", "path": "/workspace/state"}],
        ),
    ] = None
    log: Annotated[
        Claim | None,
        Field(
            description="Stores everything that the workload prints, in the files NODE.stdout and "
            "NODE.stderr. Files that a deleted job of this name has left get a number at their "
            "end. The log of the driver pod does not hold everything: the cluster rotates it.",
            examples=[{"claimName": "logs"}],
        ),
    ] = None
    drain_seconds: Annotated[
        int | None,
        Field(
            ge=10,
            le=86_400,
            description="Seconds from the moment when the workload is told to stop until its "
            "outputs, checkpoint and log are copied. A third of them is for the workload to end "
            "by itself. Once it has ended, copying goes on for longer while bytes come and the "
            "attempt's share of the ceiling pays for it; then this is how long none may come. This "
            "time is paid for and is part of the cost estimate. Default: the operator's "
            "drainSeconds, 30; then the estimate of a job with outputs or a checkpoint also has "
            "the time that the machine's own line takes for maxUploadGB.",
            examples=[600],
        ),
    ] = None

    max_download_gb: Annotated[
        int,
        Field(
            alias="maxDownloadGB",
            ge=0,
            le=100_000,
            description="Maximum download in GB, image included. The machine is destroyed when it "
            "downloads more. A machine whose line could not load so much before its boot cap is "
            "not rented; without files to copy, 100 GB of it count for that.",
            examples=[5],
        ),
    ] = 20
    max_upload_gb: Annotated[
        int,
        Field(
            alias="maxUploadGB",
            ge=0,
            le=100_000,
            description="Maximum upload in GB. The machine is destroyed when it uploads more.",
            examples=[2],
        ),
    ] = 2


class Port(Model):
    """A TCP port of the workload that is reachable from the cluster."""

    name: Annotated[
        str,
        Field(
            max_length=15,
            pattern="^[a-z](-?[a-z0-9])*$",
            description="Name of the port in the Service.",
            examples=["http"],
        ),
    ]
    port: Annotated[
        int,
        Field(
            ge=1,
            le=65535,
            description="Port on which the workload listens, on all addresses or on localhost of "
            "the machine. The Service uses the same port number.",
            examples=[6006],
        ),
    ]


class ImagePullSecret(Model):
    """A Secret with credentials for the image's registry, which the provider and the host get."""

    name: Annotated[
        str,
        Field(
            max_length=253,
            pattern=OBJECT_NAME,
            description="Name of a Secret of type kubernetes.io/dockerconfigjson in the job's "
            "namespace. Of its entries only that for the image's registry is used.",
            examples=["registry"],
        ),
    ]
    expose_to_provider: Annotated[
        bool,
        Field(
            description="Must be true: the provider stores these credentials, and it and the "
            "owner of the host can read them. Use a token that can only read and is valid for a "
            "short time.",
            examples=[True],
        ),
    ] = False


Argument = Annotated[str, Field(max_length=16384)]


class GpuJobSpec(Model):
    """What to run, on which machine, and for how much money."""

    image: Annotated[
        str,
        Field(
            min_length=1,
            max_length=1024,
            pattern="^[!-~]+$",  # not `\s`: regex engines differ in what it matches
            description="Container image to run on the rented machine. Its variables, PATH and "
            "working folder apply; its entrypoint and user do not: the command runs as root. It "
            "needs a shell, the usual tools, one of curl, python3, wget and perl, and an SSH "
            "server or apt-get to install one.",
            examples=["pytorch/pytorch:2.4.0-cuda12.4-cudnn9-runtime"],
        ),
    ]
    image_pull_secret: Annotated[
        ImagePullSecret | None,
        Field(
            description="Credentials with which the provider pulls a private image. Unlike all "
            "other secrets of the job they pass through the provider's API."
        ),
    ] = None
    command: Annotated[
        tuple[Argument, ...],
        FailFast(),
        Field(
            min_length=1,
            max_length=64,
            description="Program and its first arguments. They are not passed to a shell.",
            examples=[["python3", "src/train.py"]],
        ),
    ]
    args: Annotated[
        tuple[Argument, ...],
        FailFast(),
        Field(
            max_length=256,
            description="Further arguments, appended to the command.",
            examples=[["--epochs", "10"]],
        ),
    ] = ()
    env: Annotated[
        tuple[EnvVar, ...],
        FailFast(),
        Field(
            max_length=256,
            description="Environment variables of the workload, in place of the image's of the "
            "same name.",
        ),
    ] = ()
    working_dir: Annotated[
        str | None,
        Field(
            max_length=1024,
            pattern="^/",
            description="Folder on the machine in which the command starts; it is made if it is "
            "not there. Default: the image's.",
            examples=["/workspace"],
        ),
    ] = None
    suspend: Annotated[
        bool,
        Field(
            description="True stops the job: its machine is destroyed and no other is rented. "
            "False resumes it.",
            examples=[True],
        ),
    ] = False
    backoff_limit: Annotated[
        int,
        Field(
            ge=0,
            le=100,
            description="How many times a failed workload is tried again. The job fails with the "
            "next failure after that. Each try is paid for.",
            examples=[2],
        ),
    ] = 0
    failure_policy: Annotated[
        FailurePolicy, Field(description="What happens after a failure, by exit code.")
    ] = FailurePolicy()
    max_rents: Annotated[
        int,
        Field(
            ge=1,
            le=100,
            description="The job fails once this many attempts on a rented machine have ended "
            "through no fault of the workload, for example because the machine was lost. Attempts "
            "for which nothing was rented do not count.",
            examples=[10],
        ),
    ] = 10
    active_deadline_seconds: Annotated[
        int | None,
        Field(
            ge=1,
            le=31_536_000,
            description="Seconds that the workload may run, summed over all attempts. Waiting, "
            "booting and the silence of a lost machine do not count. Without it the job waits "
            "until enough runs of such jobs in its namespace are known to tell how long it takes. "
            "It may be raised while the job runs, never lowered.",
            examples=[3600],
        ),
    ] = None
    pending_deadline_seconds: Annotated[
        int | None,
        Field(
            ge=60,
            le=31_536_000,
            description="The job fails with PendingDeadlineExceeded when its workload has not "
            "begun to run for the first time within this many seconds, whatever it waits for: "
            "prices, a driver pod, a machine that boots. A machine that was rented meanwhile is "
            "given back. The time in which the job is suspended does not count. It may be changed "
            "while the job waits. Unset: the job waits for as long as it takes.",
            examples=[7200],
        ),
    ] = None
    idle_deadline_seconds: Annotated[
        int | None,
        Field(
            ge=60,
            le=31_536_000,
            description="The workload is stopped and the job fails when no GPU of the machine was "
            "busy for this many seconds. Unset: never.",
            examples=[900],
        ),
    ] = None
    ttl_seconds_after_finished: Annotated[
        int | None,
        Field(
            ge=0,
            le=31_536_000,
            description="Seconds after which a finished job is deleted. Unset: never. If a tool "
            "then applies the job again, as GitOps tools do, it runs again and is paid for again.",
            examples=[86400],
        ),
    ] = None
    gpu: Annotated[GpuNeeds, Field(description="Which GPUs the machine must have.")] = GpuNeeds()
    resources: Annotated[
        ResourceNeeds, Field(description="Other resources that the machine must have.")
    ] = ResourceNeeds()
    market: Annotated[MarketRules, Field(description="Which offers may be rented.")] = MarketRules()
    cost: Annotated[Cost, Field(description="What the job may cost.")]
    data: Annotated[Data, Field(description="Files to copy, and caps on traffic.")] = Data()
    ports: Annotated[
        tuple[Port, ...],
        FailFast(),
        Field(
            max_length=16,
            description="Ports of the workload that are reachable through the Service named in "
            "`status.serviceName`. The driver forwards the connections over SSH. The machine "
            "opens none of these ports to the internet. What passes through them counts as "
            "traffic.",
        ),
    ] = ()
    driver: Annotated[
        DriverPod | None,
        Field(
            description="Fits the job's driver pod to the cluster: its labels, its place, its "
            "resources. The administrator may have set the same for all jobs. A change applies "
            "to the next driver pod.",
        ),
    ] = None


class CostStatus(Model):
    """What the job costs."""

    estimate_usd: Annotated[
        str | None,
        Field(
            alias="estimateUSD",
            max_length=24,
            description="Upper bound of the job's total cost, from the cost gate's last decision.",
        ),
    ] = None
    confidence: Annotated[
        str | None,
        Field(
            max_length=8,
            description="Probability that the cost stays within the ceiling, rounded down. It is a "
            "lower bound of how surely the operator destroys machines in time or, if the run time "
            "was learnt, of how often such jobs stay within the ceiling by themselves.",
        ),
    ] = None
    confidence_basis: Annotated[
        str | None,
        Field(
            max_length=512,
            description="What `confidence` rests on.",
            examples=["no machine was destroyed in the last days, so it is an assumption"],
        ),
    ] = None
    spent_usd: Annotated[
        str,
        Field(
            alias="spentUSD",
            max_length=24,
            description="Cost of the ended attempts and of `strays`: an upper bound.",
        ),
    ] = "0.000000"
    accrued_usd: Annotated[
        str | None,
        Field(
            alias="accruedUSD",
            max_length=24,
            description="`spentUSD` plus the cost of the current attempt up to `asOf`.",
        ),
    ] = None
    as_of: Annotated[Time | None, Field(description="When `accruedUSD` was calculated.")] = None
    final_usd: Annotated[
        str | None,
        Field(
            alias="finalUSD",
            max_length=24,
            description="Total cost, set when the job is over. It grows only if a machine is found "
            "later, see `strays`.",
        ),
    ] = None


class StrayStatus(Model):
    """A machine under this job's mark that no attempt explains, as after a restored backup."""

    instance_id: Annotated[
        int,
        Field(
            alias="instanceID",
            ge=0,
            description="The provider's number of the instance, which is destroyed.",
            examples=[36000042],
        ),
    ]
    since: Annotated[
        Time,
        Field(description="When it was rented.", examples=["2026-01-01T12:00:00Z"]),
    ]
    usd_per_hour: Annotated[
        str,
        Field(
            alias="usdPerHour",
            max_length=24,
            description="Highest hourly price seen, disk included.",
            examples=["0.405000"],
        ),
    ]
    traffic_usd: Annotated[
        str,
        Field(
            alias="trafficUSD",
            max_length=24,
            description="What its traffic has cost, as listings show it.",
            examples=["0.010000"],
        ),
    ] = "0.000000"
    traffic_as_of: Annotated[
        Time | None,
        Field(
            description="When a listing last showed its traffic. What it may have moved since is "
            "charged once it is gone.",
            examples=["2026-01-01T12:00:00Z"],
        ),
    ] = None
    line_usd_per_hour: Annotated[
        str,
        Field(
            alias="lineUSDPerHour",
            max_length=24,
            description="What an hour of traffic costs when its line is full.",
            examples=["0.108000"],
        ),
    ] = "0.000000"
    traffic_max_usd: Annotated[
        str,
        Field(
            alias="trafficMaxUSD",
            max_length=24,
            description="The most that its traffic can cost: up to the job's caps in data, and on "
            "until the machine is gone.",
            examples=["0.120000"],
        ),
    ] = "0.000000"
    charged_usd: Annotated[
        str,
        Field(
            alias="chargedUSD",
            max_length=24,
            description="What is part of `cost.spentUSD` for it.",
            examples=["0.415000"],
        ),
    ] = "0.000000"
    gone_at: Annotated[
        Time | None,
        Field(
            description="When a listing no longer showed it; empty while it is listed.",
            examples=["2026-01-01T12:30:00Z"],
        ),
    ] = None


class AttemptRecord(Model):
    """One ended attempt."""

    attempt: Annotated[int, Field(ge=1, le=ATTEMPTS_MAX, description="Number of the attempt.")]
    node_name: Annotated[str, Field(max_length=63, description="GpuNode of the attempt.")]
    node_uid: Annotated[
        str | None,
        Field(
            alias="nodeUID",
            max_length=64,
            description="UID of that GpuNode, which its machine carried in its mark.",
            examples=["5f1c7a52-0a4e-4f8e-9a57-2f6a3c7f1b11"],
        ),
    ] = None
    machine_id: Annotated[
        int | None,
        Field(
            alias="machineID",
            ge=0,
            description="The provider's number of the machine, if one was rented.",
        ),
    ] = None
    host_id: Annotated[
        int | None,
        Field(
            alias="hostID",
            ge=0,
            description="The provider's number of the machine's host, if one was rented.",
            examples=[90001],
        ),
    ] = None
    booted: Annotated[
        bool | None,
        Field(
            description="Whether the machine came up, if one was rented: its host key was read.",
            examples=[True],
        ),
    ] = None
    gpu: Annotated[str | None, Field(max_length=80, description="GPUs of the machine.")] = None
    usd_per_hour: Annotated[
        str | None,
        Field(alias="usdPerHour", max_length=24, description="Hourly price of the machine."),
    ] = None
    reason: Annotated[
        str, Field(max_length=64, description="Why the attempt ended, in one CamelCase word.")
    ]
    message: Annotated[
        str, Field(max_length=1024, description="Why the attempt ended, in a sentence.")
    ] = ""
    blames: Annotated[
        str | None,
        Field(
            max_length=16,
            description="Whose fault it was by the evidence: image, job, host, provider, operator "
            "or nobody.",
            examples=["host"],
        ),
    ] = None
    exit_code: Annotated[
        int | None,
        Field(ge=0, le=255, description="Exit code of the workload, if there is one."),
    ] = None
    run_seconds: Annotated[
        int, Field(ge=0, description="Seconds that the workload ran, rounded up.")
    ] = 0
    cost_usd: Annotated[
        str,
        Field(alias="costUSD", max_length=24, description="Cost of the attempt: an upper bound."),
    ]
    ended_at: Annotated[
        Time, Field(description="When the attempt was over and its machine proved gone.")
    ]


class PendingStatus(Model):
    """How long the job has waited for its workload to begin, or waited before it did."""

    since: Annotated[
        Time | None,
        Field(
            description="Since when the job waits; unset while it is suspended.",
            examples=["2026-01-01T12:00:00Z"],
        ),
    ] = None
    seconds: Annotated[
        int,
        Field(ge=0, description="How long it had waited before it was suspended.", examples=[90]),
    ] = 0


class JobEndStatus(Model):
    """How the job ended, stored once; its conditions follow from it."""

    reason: Annotated[
        str, Field(max_length=64, description="`Complete`, or the reason why the job failed.")
    ]
    message: Annotated[str, Field(max_length=1024, description="The same in words.")] = ""


class GpuJobStatus(Model):
    """What the operator knows about the job. Only the operator writes it."""

    observed_generation: Annotated[
        int,
        Field(
            ge=-1,
            description="Generation that this status describes. -1: not processed by the operator "
            "yet.",
        ),
    ] = -1
    phase: Annotated[
        str | None,
        Field(
            max_length=32,
            description="State in one word, for people. Programs should read the conditions.",
        ),
    ] = None
    conditions: Annotated[
        tuple[Condition, ...], Field(max_length=16, description="Conditions of the job.")
    ] = ()
    attempt: Annotated[
        int,
        Field(
            ge=0,
            le=ATTEMPTS_MAX,
            description="Number of the latest recorded attempt; 0 if there is none.",
        ),
    ] = 0
    node_name: Annotated[
        str | None, Field(max_length=63, description="GpuNode of the current attempt.")
    ] = None
    node_uid: Annotated[
        str | None, Field(alias="nodeUID", max_length=64, description="UID of that GpuNode.")
    ] = None
    node_reserved_usd: Annotated[
        str | None,
        Field(
            alias="nodeReservedUSD",
            max_length=24,
            description="The most that the current attempt may cost. It is charged in full if the "
            "GpuNode is removed by force.",
        ),
    ] = None
    node_account_id: Annotated[
        int | None,
        Field(
            alias="nodeAccountID",
            ge=0,
            description="Account at the provider that the current attempt may use.",
        ),
    ] = None
    attempts: Annotated[
        tuple[AttemptRecord, ...],
        Field(max_length=20, description="The most recent ended attempts, oldest first."),
    ] = ()
    strays: Annotated[
        tuple[StrayStatus, ...],
        Field(
            max_length=16,
            description="Machines under this job's mark that no recorded attempt explains, as "
            "after a restored backup. They are destroyed and charged, also to a job that is over; "
            "nothing is rented meanwhile.",
            examples=[[]],
        ),
    ] = ()
    failures: Annotated[
        int,
        Field(
            ge=0,
            description="Attempts in which the workload failed and no failure rule ignored that. "
            "They count towards backoffLimit.",
        ),
    ] = 0
    disruptions: Annotated[
        int,
        Field(
            ge=0,
            description="Attempts that count towards maxRents: they ended through no fault of the "
            "workload, or a failure rule ignored the failure.",
        ),
    ] = 0
    run_seconds: Annotated[
        int, Field(ge=0, description="Seconds that the workload ran in ended attempts.")
    ] = 0
    gpu: Annotated[str | None, Field(max_length=80, description="GPUs of the current machine.")] = (
        None
    )
    usd_per_hour: Annotated[
        str | None,
        Field(
            alias="usdPerHour", max_length=24, description="Hourly price of the current machine."
        ),
    ] = None
    admitted_by: Annotated[
        str | None,
        Field(
            max_length=253,
            description="Kueue's Workload by which the job may run; unset while it waits in its "
            "queue, or if it has none.",
            examples=["gpujob-train-1a2b3c4d"],
        ),
    ] = None
    service_name: Annotated[
        str | None,
        Field(
            max_length=63, description="Service through which the workload's ports are reachable."
        ),
    ] = None
    progress: Annotated[
        ProgressStatus | None,
        Field(description="Progress of the current run, as the workload reports it."),
    ] = None
    usage: Annotated[
        UsageStatus | None, Field(description="How busy the GPUs of the current machine are.")
    ] = None
    cost: Annotated[CostStatus, Field(description="What the job costs.")] = CostStatus()
    pending: Annotated[
        PendingStatus | None,
        Field(description="How long the job waits for its workload, see pendingDeadlineSeconds."),
    ] = None
    start_time: Annotated[Time | None, Field(description="When the workload first started.")] = None
    end: Annotated[
        JobEndStatus | None, Field(description="How the job ended; unset while it is not over.")
    ] = None
    completion_time: Annotated[
        Time | None, Field(description="When the job was complete or had failed for good.")
    ] = None
    closed: Annotated[
        bool | None,
        Field(
            description="True once the job has been over for a while and nothing is owed for it. "
            "The controller does not watch it any more, and looks at it every few minutes.",
            examples=[True],
        ),
    ] = None


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
