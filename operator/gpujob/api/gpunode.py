"""GpuNode: a rented machine, or a recorded intention to rent one; the ledger entry of an attempt.

Creating it is the write-ahead record: a GpuNode exists, with its finalizer, before any money is
spent. Each group of status fields is stored before the operator acts on it.
"""

from typing import Annotated

from pydantic import Field

from gpujob.api.gpujob import ATTEMPTS_MAX
from gpujob.api.meta import Condition, Model, ObjectMeta, Time
from gpujob.api.workload import ProgressStatus, UsageStatus

Amount = Annotated[str, Field(max_length=24)]


class JobReference(Model):
    """The job that the machine is rented for."""

    name: Annotated[str, Field(max_length=63, description="Name of the GpuJob.")]
    uid: Annotated[str, Field(max_length=64, description="UID of the GpuJob.")]


class GpuNodeSpec(Model):
    """The attempt that the machine is rented for, and what it may cost."""

    job_ref: Annotated[JobReference, Field(description="The job that the machine is rented for.")]
    attempt: Annotated[int, Field(ge=1, le=ATTEMPTS_MAX, description="Number of the attempt.")]
    reserved_usd: Annotated[
        Amount, Field(alias="reservedUSD", description="The most that this attempt may cost.")
    ]


class DriverStatus(Model):
    """The driver pod of this node."""

    pod_name: Annotated[str, Field(max_length=63, description="Name of the pod.")]
    pod_uid: Annotated[
        str,
        Field(
            alias="podUID",
            max_length=64,
            description="UID of the pod. The controller accepts no other pod for this node.",
        ),
    ]
    ready_at: Annotated[
        Time | None,
        Field(description="When the driver first reported. Nothing is rented before that."),
    ] = None


class RentMarker(Model):
    """Stored before the rent request is sent. Once it exists, no further request is ever sent."""

    requested_at: Annotated[Time, Field(description="When the marker was created.")]
    not_after: Annotated[Time, Field(description="The request is never sent after this time.")]
    account_id: Annotated[
        int, Field(alias="accountID", ge=0, description="Account at the provider.")
    ]
    offer_id: Annotated[int, Field(alias="offerID", ge=0, description="Offer that was requested.")]
    machine_id: Annotated[int, Field(alias="machineID", ge=0, description="Machine of the offer.")]
    host_id: Annotated[
        int,
        Field(
            alias="hostID", ge=0, description="Host that the machine belongs to; 0 if not recorded."
        ),
    ] = 0
    gpu: Annotated[str, Field(max_length=80, description="GPUs of the machine.")]
    gpu_memory_gb: Annotated[
        int | None,
        Field(
            alias="gpuMemoryGB",
            ge=0,
            description="Memory of each GPU in GB according to the offer, rounded down.",
        ),
    ] = None
    location: Annotated[str, Field(max_length=80, description="Location of the machine.")] = ""
    gpu_usd_per_hour: Annotated[
        Amount, Field(alias="gpuUSDPerHour", description="Quoted hourly price of the GPUs.")
    ]
    disk_usd_per_hour: Annotated[
        Amount, Field(alias="diskUSDPerHour", description="Quoted hourly price of the disk.")
    ]
    bid_usd_per_hour: Annotated[
        Amount | None,
        Field(alias="bidUSDPerHour", description="Hourly bid, if the machine is interruptible."),
    ] = None
    lowest_bid_usd_per_hour: Annotated[
        Amount | None,
        Field(
            alias="lowestBidUSDPerHour",
            description="The lowest hourly bid that won the machine when ours was made.",
            examples=["0.200000"],
        ),
    ] = None
    download_usd_per_gb: Annotated[
        Amount, Field(alias="downloadUSDPerGB", description="Quoted price per GB downloaded.")
    ]
    upload_usd_per_gb: Annotated[
        Amount, Field(alias="uploadUSDPerGB", description="Quoted price per GB uploaded.")
    ]
    traffic_reserve_usd: Annotated[
        Amount,
        Field(
            alias="trafficReserveUSD", description="Part of the fuse that is reserved for traffic."
        ),
    ]
    download_mbps: Annotated[
        int | None,
        Field(
            ge=0,
            le=10_000_000,
            description="Mbit/s that the machine's line downloads according to the offer, rounded "
            "up. What no listing has shown is charged as what this line could carry.",
            examples=[800],
        ),
    ] = None
    upload_mbps: Annotated[
        int | None,
        Field(
            ge=0,
            le=10_000_000,
            description="Mbit/s that the machine's line uploads according to the offer, rounded "
            "up.",
            examples=[400],
        ),
    ] = None
    estimate_usd: Annotated[
        Amount, Field(alias="estimateUSD", description="Upper bound of this attempt's cost.")
    ]
    confidence: Annotated[
        str,
        Field(
            max_length=8,
            description="Lower bound of the probability that the cost stays within the ceiling.",
        ),
    ]
    fuse_usd: Annotated[
        Amount,
        Field(
            alias="fuseUSD",
            description="The most that this attempt may cost: it is ended before it costs more.",
        ),
    ]
    money_deadline_seconds: Annotated[
        int,
        Field(
            ge=0, description="Seconds after the request by which the machine must be destroyed."
        ),
    ]
    watchdog_seconds: Annotated[
        int | None,
        Field(
            ge=0,
            description="Seconds after the request at which the machine's own watchdog destroys "
            "it. Unlike moneyDeadlineSeconds it counts pauses in full, so it is told a later one "
            "after each. If it is not set, it is moneyDeadlineSeconds.",
            examples=[52540],
        ),
    ] = None
    contract_seconds: Annotated[
        int | None,
        Field(
            ge=0,
            description="Seconds after the request at which the host's contract ends. No later "
            "deadline follows, whatever the ceiling is raised to.",
            examples=[2_592_000],
        ),
    ] = None
    max_leases: Annotated[
        int | None,
        Field(
            ge=0,
            description="How many machines may be leased so that moneyDeadlineSeconds leaves the "
            "time to destroy this one: limits.maxLeases when it was rented.",
            examples=[20],
        ),
    ] = None
    stop_seconds: Annotated[
        int | None,
        Field(
            ge=0,
            description="Seconds before moneyDeadlineSeconds at which a workload is told to stop: "
            "as long as it may take to exit, and its files to be copied.",
        ),
    ] = None
    max_run_seconds: Annotated[
        int | None,
        Field(
            ge=0,
            description="Seconds that the workload may run in this attempt: what was left of the "
            "job's activeDeadlineSeconds. It counts while the job cannot be read.",
            examples=[3600],
        ),
    ] = None
    template: Annotated[
        str | None,
        Field(
            max_length=33,
            pattern="^[0-9a-f]{16}/[0-9a-f]{16}$",
            description="What kind of job runs: the digests of all that says how long it takes, "
            "and of its image and command alone. How long it ran is learnt under them.",
            examples=["0f1e2d3c4b5a6978/8796a5b4c3d2e1f0"],
        ),
    ] = None
    earlier_run_seconds: Annotated[
        int,
        Field(
            ge=0,
            description="Seconds that the workload ran in earlier attempts of the job.",
            examples=[0],
        ),
    ] = 0
    max_download_gb: Annotated[
        int | None,
        Field(
            alias="maxDownloadGB",
            ge=0,
            description="The job's data.maxDownloadGB. It counts while the job cannot be read.",
            examples=[20],
        ),
    ] = None
    max_upload_gb: Annotated[
        int | None,
        Field(
            alias="maxUploadGB",
            ge=0,
            description="The job's data.maxUploadGB. It counts while the job cannot be read.",
            examples=[2],
        ),
    ] = None
    nonce: Annotated[
        str,
        Field(
            max_length=64, description="Random value that marks the host key in the machine's log."
        ),
    ]


class ExtensionStatus(Model):
    """A later deadline, or a higher fuse too, which holds once the machine's watchdog has it."""

    fuse_usd: Annotated[
        Amount,
        Field(
            alias="fuseUSD",
            description="The fuse that follows, at most what is reserved.",
            examples=["8.000000"],
        ),
    ]
    money_deadline_seconds: Annotated[
        int,
        Field(
            ge=0,
            description="Seconds after the rent request by which the machine must be destroyed; a "
            "pause counts by its price.",
            examples=[52000],
        ),
    ]
    watchdog_seconds: Annotated[
        int | None,
        Field(
            ge=0,
            description="The deadline that the watchdog is told, which counts pauses in full. If "
            "it is not set, it is moneyDeadlineSeconds.",
            examples=[52540],
        ),
    ] = None
    max_leases: Annotated[
        int,
        Field(
            ge=0,
            description="How many machines may be leased so that this deadline leaves the time to "
            "destroy this one.",
            examples=[20],
        ),
    ]


class ContractLimit(Model):
    """Why a raised ceiling does not let the machine run for all that it pays for. Told once."""

    ceiling: Annotated[
        str, Field(max_length=24, description="The job's cost.ceiling.", examples=["20.00"])
    ]
    message: Annotated[
        str,
        Field(
            max_length=1024,
            description="When the host's contract ends, until when the machine runs, what to do.",
            examples=["the contract of its host ends at 2026-01-02T12:00:00Z"],
        ),
    ]


class RentAnswer(Model):
    """Why nothing was rented, where that is certain without a listing of the provider."""

    at: Annotated[Time, Field(description="When this became certain.")]
    reason: Annotated[
        str,
        Field(
            max_length=64,
            description="OfferGone or RentWithheld. Either means that nothing was rented.",
        ),
    ]
    message: Annotated[str, Field(max_length=1024, description="What the provider answered.")] = ""


class LeaseStatus(Model):
    """The machine that is paid for."""

    instance_id: Annotated[
        int, Field(alias="instanceID", ge=0, description="The provider's number of the instance.")
    ]
    usd_per_hour: Annotated[
        Amount, Field(alias="usdPerHour", description="Highest hourly price seen, disk included.")
    ]
    recorded_at: Annotated[Time, Field(description="When the instance was recorded here.")]
    key_attached_at: Annotated[
        Time | None,
        Field(
            description="When the provider took the node's public key for this machine. The start "
            "script puts it there too, but the provider may write the list of keys anew.",
            examples=["2026-01-01T12:00:00Z"],
        ),
    ] = None
    told_to_run_at: Annotated[
        Time | None,
        Field(
            description="When the provider was told to run the machine, because it stood still "
            "before it had booted. That is done once.",
            examples=["2026-01-01T12:00:00Z"],
        ),
    ] = None


class TrafficStatus(Model):
    """What the machine has moved, by the provider's counters. These figures only grow."""

    download_mb: Annotated[
        int,
        Field(
            alias="downloadMB",
            ge=0,
            description="Megabytes downloaded: the most that a listing has shown, rounded up.",
            examples=[12_500],
        ),
    ] = 0
    upload_mb: Annotated[
        int,
        Field(
            alias="uploadMB",
            ge=0,
            description="Megabytes uploaded: the most that a listing has shown, rounded up.",
            examples=[340],
        ),
    ] = 0
    as_of: Annotated[
        Time,
        Field(
            description="When a listing showed both counters. What the machine moved later is not "
            "in them.",
            examples=["2026-01-01T12:00:00Z"],
        ),
    ]


class DuplicateStatus(Model):
    """Another machine under the node's mark: its rent request arrived twice, say."""

    instance_id: Annotated[
        int,
        Field(
            alias="instanceID",
            ge=0,
            description="The provider's number of the instance, which is destroyed.",
            examples=[36000043],
        ),
    ]
    usd_per_hour: Annotated[
        Amount,
        Field(
            alias="usdPerHour",
            description="Highest hourly price seen, disk included. It is charged from the rent "
            "request on.",
            examples=["0.405000"],
        ),
    ]
    gone_at: Annotated[
        Time | None,
        Field(
            description="When a listing no longer showed it; empty while it is listed.",
            examples=["2026-01-01T12:00:00Z"],
        ),
    ] = None
    traffic: Annotated[
        TrafficStatus | None, Field(description="What it has moved, as listings show it.")
    ] = None


class AddressStatus(Model):
    """Where an SSH server listens."""

    host: Annotated[str, Field(max_length=253, description="Host name or IP address.")]
    port: Annotated[int, Field(ge=1, le=65535, description="SSH port.")]


class MachineStatus(AddressStatus):
    """How to reach the machine."""

    other_addresses: Annotated[
        tuple[AddressStatus, ...],
        Field(
            max_length=4,
            description="Where the same machine is reached as well, for example through the "
            "provider's proxy. The driver tries them in turn, always with the same host key.",
            examples=[[{"host": "ssh7.vast.ai", "port": 37044}]],
        ),
    ] = ()
    host_key: Annotated[
        str,
        Field(
            max_length=1024,
            description="Public host key of the machine, read from the provider's log.",
        ),
    ]


class MeasuredStatus(Model):
    """What was measured on the machine itself."""

    at: Annotated[Time, Field(description="When the machine passed the preflight check.")]
    gpu: Annotated[
        str,
        Field(
            max_length=200,
            description="The GPUs, under the names that they report.",
            examples=["2x NVIDIA GeForce RTX 4090"],
        ),
    ]
    gpu_memory_mib: Annotated[
        int, Field(alias="gpuMemoryMiB", ge=0, description="Memory of the smallest GPU in MiB.")
    ]
    cuda_version: Annotated[
        str | None,
        Field(max_length=8, description="Highest CUDA version that the GPU driver supports."),
    ] = None
    cpu_cores: Annotated[int, Field(ge=0, description="Number of CPU cores.")]
    memory_mib: Annotated[int, Field(alias="memoryMiB", ge=0, description="Memory in MiB.")]
    disk_mib: Annotated[int, Field(alias="diskMiB", ge=0, description="Disk in MiB.")]
    disk_write_mbps: Annotated[
        int,
        Field(
            alias="diskWriteMBps",
            ge=0,
            description="Disk write speed in megabytes per second, including the final sync.",
        ),
    ]


class RunStatus(Model):
    """The run of the workload."""

    started_at: Annotated[Time, Field(description="When the workload was started.")]
    seconds: Annotated[
        int | None,
        Field(ge=0, description="Seconds that it ran, rounded up; set when it has ended."),
    ] = None
    progress: Annotated[
        ProgressStatus | None,
        Field(description="Progress that the workload reports, as of `asOf`."),
    ] = None
    usage: Annotated[
        UsageStatus | None, Field(description="How busy the GPUs are, as of `asOf`.")
    ] = None


class InterruptionStatus(Model):
    """How often the machine was paused because somebody bid more, or restarted, and resumed."""

    count: Annotated[
        int, Field(ge=1, description="How often the machine was paused, or restarted.")
    ]
    paused_at: Annotated[
        Time | None, Field(description="When it was first seen paused; empty once it has resumed.")
    ] = None
    resumed_at: Annotated[Time | None, Field(description="When it last resumed.")] = None
    restarts: Annotated[
        int,
        Field(
            ge=0,
            le=100,
            description="How many of these interruptions were restarts of the machine's container, "
            "which nobody asked for.",
            examples=[1],
        ),
    ] = 0
    run_seconds: Annotated[
        int,
        Field(ge=0, description="Seconds that the workload ran before the latest interruption."),
    ] = 0


class PauseStatus(Model):
    """The time in which an interruptible machine was paused, and what that has cost."""

    seconds: Annotated[
        int,
        Field(
            ge=0,
            description="Seconds of all pauses that are charged at the price of a stopped machine: "
            "from the second listing that shows the pause to the last, rounded down.",
            examples=[540],
        ),
    ] = 0
    cost_usd: Annotated[
        Amount,
        Field(
            alias="costUSD",
            description="What these seconds have cost. It is part of `accruedUSD`.",
            examples=["0.000750"],
        ),
    ] = "0.000000"
    listed: Annotated[
        int,
        Field(
            ge=0,
            le=2,
            description="How many of the latest listings in a row show the machine paused; 2 = two "
            "or more.",
            examples=[2],
        ),
    ] = 0
    as_of: Annotated[
        Time,
        Field(
            description="When the latest listing was answered that is counted here.",
            examples=["2026-01-01T12:00:00Z"],
        ),
    ]


class StopStatus(Model):
    """The decision to stop the workload, or the record that it has ended.

    It is stored before the driver is told.
    """

    at: Annotated[Time, Field(description="When this was decided. The drain time starts here.")]
    reason: Annotated[str, Field(max_length=64, description="Why, in one CamelCase word.")]
    message: Annotated[str, Field(max_length=1024, description="Why, in a sentence.")] = ""
    exit_code: Annotated[
        int | None,
        Field(ge=0, le=255, description="Exit code of the workload, if it ended by itself."),
    ] = None
    run_seconds: Annotated[
        int | None,
        Field(ge=0, description="Seconds that it ran, rounded up, if it ended by itself."),
    ] = None


class EndStatus(Model):
    """The decision that the attempt is over. It is stored before anything is destroyed."""

    at: Annotated[Time, Field(description="When it was decided.")]
    reason: Annotated[str, Field(max_length=64, description="Why, in one CamelCase word.")]
    message: Annotated[str, Field(max_length=1024, description="Why, in a sentence.")] = ""
    exit_code: Annotated[
        int | None, Field(ge=0, le=255, description="Exit code of the workload, if it has one.")
    ] = None
    blames: Annotated[
        str | None,
        Field(
            max_length=16,
            description="Whose fault it is by the evidence: image, job, host, provider, operator "
            "or nobody. Only a host's faults count against its machines.",
            examples=["host"],
        ),
    ] = None
    due_at: Annotated[
        Time | None,
        Field(
            description="When the machine was to be destroyed, if a limit had passed before this "
            "was decided; else that was `at`.",
            examples=["2026-01-01T12:00:00Z"],
        ),
    ] = None


class GpuNodeStatus(Model):
    """The life of the machine. Only the operator writes it."""

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
        tuple[Condition, ...], Field(max_length=16, description="Conditions of the machine.")
    ] = ()
    ssh_public_key: Annotated[
        str | None,
        Field(max_length=512, description="Public half of the SSH key that only this node uses."),
    ] = None
    driver: Annotated[DriverStatus | None, Field(description="The driver pod.")] = None
    driver_pod_number: Annotated[
        int | None,
        Field(
            ge=2,
            le=2**31 - 1,
            description="Number of the present driver pod, with which its name ends; unset for the "
            "first. A pod that is gone, or does not end, is followed by one with another name.",
            examples=[2],
        ),
    ] = None
    reserved_usd: Annotated[
        Amount | None,
        Field(
            alias="reservedUSD",
            description="What this attempt may cost at most, if that is not spec.reservedUSD. It "
            "is more once the job's ceiling was raised, and 0 while no driver has been ready for "
            "long: then it is reserved anew before anything is rented.",
            examples=["8.000000"],
        ),
    ] = None
    extension: Annotated[
        ExtensionStatus | None,
        Field(
            description="Set while a ceiling that was raised waits for the machine's watchdog. The "
            "old fuse holds until then."
        ),
    ] = None
    contract_limit: Annotated[
        ContractLimit | None,
        Field(
            description="Set when the host's contract ends before a ceiling that was raised could "
            "be used up."
        ),
    ] = None
    rent: Annotated[RentMarker | None, Field(description="The rent request, if one was made.")] = (
        None
    )
    not_rented: Annotated[
        RentAnswer | None,
        Field(description="Set when it is certain that the request rented nothing."),
    ] = None
    lease: Annotated[LeaseStatus | None, Field(description="The machine that is paid for.")] = None
    traffic: Annotated[
        TrafficStatus | None, Field(description="What the machine has moved, as listings show it.")
    ] = None
    duplicates: Annotated[
        tuple[DuplicateStatus, ...],
        Field(
            max_length=16,
            description="Other machines that were found under this node's mark. They are "
            "destroyed, and their cost is part of `accruedUSD`.",
            examples=[[{"instanceID": 36000043, "usdPerHour": "0.405000"}]],
        ),
    ] = ()
    machine: Annotated[MachineStatus | None, Field(description="How to reach the machine.")] = None
    measured: Annotated[
        MeasuredStatus | None, Field(description="What was measured on the machine itself.")
    ] = None
    run: Annotated[RunStatus | None, Field(description="The run of the workload.")] = None
    interruptions: Annotated[
        InterruptionStatus | None,
        Field(description="How often the machine was paused, or restarted."),
    ] = None
    pauses: Annotated[
        PauseStatus | None, Field(description="The time in which the machine was paused.")
    ] = None
    stop: Annotated[
        StopStatus | None, Field(description="Why the workload must stop, or has ended.")
    ] = None
    end: Annotated[EndStatus | None, Field(description="Why the attempt is over.")] = None
    destroy_asked_at: Annotated[
        Time | None,
        Field(
            description="When the machine's destroy was first asked for. Beside `end` it shows "
            "whether the operator enforces in time, on which the cost gate's confidence rests.",
            examples=["2026-01-01T12:00:01Z"],
        ),
    ] = None
    usd_per_hour: Annotated[
        Amount | None,
        Field(
            alias="usdPerHour",
            description="What the machine costs per hour now, disk included; empty before it is "
            "leased and once it was proved gone. The price that was paid is `lease.usdPerHour`.",
            examples=["0.405000"],
        ),
    ] = None
    accrued_usd: Annotated[
        Amount | None, Field(alias="accruedUSD", description="Cost up to `asOf`: an upper bound.")
    ] = None
    as_of: Annotated[Time | None, Field(description="When `accruedUSD` was calculated.")] = None
    released_at: Annotated[
        Time | None,
        Field(description="When the machine was proved gone. `accruedUSD` is final from then on."),
    ] = None
    closed: Annotated[
        bool | None,
        Field(
            description="True once the machine has been gone for a while and its job has charged "
            "its cost. The controller does not watch the node any more, and looks at it every few "
            "minutes.",
            examples=[True],
        ),
    ] = None

    @property
    def pod_number(self) -> int:
        """Number of the present driver pod, counted from 1."""
        return self.driver_pod_number or 1

    @property
    def is_paused(self) -> bool:
        """Whether the machine is paused because somebody bids more."""
        return self.interruptions is not None and self.interruptions.paused_at is not None

    @property
    def earlier_run_seconds(self) -> int:
        """Seconds that the workload ran before the latest interruption."""
        return self.interruptions.run_seconds if self.interruptions else 0

    @property
    def run_number(self) -> int:
        """Number of the current run of the workload on this machine, counted from 0."""
        return self.interruptions.count if self.interruptions else 0

    @property
    def may_cost(self) -> bool:
        """Whether a machine may be paid for: requested, and neither refused nor proved gone."""
        return self.rent is not None and self.not_rented is None and self.released_at is None


class GpuNode(Model):
    """A node as stored."""

    metadata: ObjectMeta
    spec: GpuNodeSpec
    status: GpuNodeStatus = GpuNodeStatus()

    @property
    def reserved_usd(self) -> str:
        """The most that this attempt may cost; what may be spent of it is the marker's fuse."""
        return self.status.reserved_usd or self.spec.reserved_usd
