"""GpuNode: one rented machine, or the intention to rent one; the ledger entry of an attempt.

Its creation is the write-ahead record: a GpuNode exists, with its finalizer, before any money is
spent. Each group of fields in the status is stored before the deed that follows from it.
"""

from typing import Annotated

from pydantic import Field

from gpujob.api.meta import Condition, Model, ObjectMeta, Time
from gpujob.api.workload import ProgressStatus, UsageStatus

Amount = Annotated[str, Field(max_length=24)]


class JobReference(Model):
    """The job that the machine is for."""

    name: Annotated[str, Field(max_length=63, description="Name of the GpuJob.")]
    uid: Annotated[str, Field(max_length=64, description="Its uid.")]


class GpuNodeSpec(Model):
    """Which attempt the machine is for, and what it may cost."""

    job_ref: Annotated[JobReference, Field(description="The job that the machine is for.")]
    attempt: Annotated[int, Field(ge=1, le=1000, description="Number of the attempt.")]
    reserved_usd: Annotated[
        Amount, Field(alias="reservedUSD", description="What this attempt may cost at most.")
    ]


class DriverStatus(Model):
    """The driver pod of this node."""

    pod_name: Annotated[str, Field(max_length=63, description="Name of the pod.")]
    pod_uid: Annotated[
        str, Field(alias="podUID", max_length=64, description="Its uid; only this pod is answered.")
    ]
    ready_at: Annotated[
        Time | None, Field(description="When it first reported; nothing is rented before.")
    ] = None


class RentMarker(Model):
    """Stored before the rent request is sent; with it present, none is ever sent again."""

    requested_at: Annotated[Time, Field(description="When the marker was made.")]
    not_after: Annotated[Time, Field(description="The request is never sent later than this.")]
    account_id: Annotated[
        int, Field(alias="accountID", ge=0, description="Account of the provider.")
    ]
    offer_id: Annotated[int, Field(alias="offerID", ge=0, description="Offer that was asked for.")]
    machine_id: Annotated[int, Field(alias="machineID", ge=0, description="Machine behind it.")]
    host_id: Annotated[
        int, Field(alias="hostID", ge=0, description="Host that it belongs to; 0 = not recorded.")
    ] = 0
    gpu: Annotated[str, Field(max_length=80, description="GPUs of the machine.")]
    gpu_memory_gb: Annotated[
        int | None,
        Field(alias="gpuMemoryGB", ge=0, description="Memory of each, by its offer, rounded down."),
    ] = None
    location: Annotated[str, Field(max_length=80, description="Where it stands.")] = ""
    gpu_usd_per_hour: Annotated[
        Amount, Field(alias="gpuUSDPerHour", description="Quoted price of the GPUs.")
    ]
    disk_usd_per_hour: Annotated[
        Amount, Field(alias="diskUSDPerHour", description="Quoted price of the disk.")
    ]
    bid_usd_per_hour: Annotated[
        Amount | None,
        Field(alias="bidUSDPerHour", description="What was bid, if the machine is interruptible."),
    ] = None
    download_usd_per_gb: Annotated[
        Amount, Field(alias="downloadUSDPerGB", description="Quoted price of traffic in.")
    ]
    upload_usd_per_gb: Annotated[
        Amount, Field(alias="uploadUSDPerGB", description="Quoted price of traffic out.")
    ]
    traffic_reserve_usd: Annotated[
        Amount,
        Field(alias="trafficReserveUSD", description="Part of the fuse that is kept for traffic."),
    ]
    estimate_usd: Annotated[
        Amount, Field(alias="estimateUSD", description="Bound of this attempt's cost.")
    ]
    confidence: Annotated[str, Field(max_length=8, description="Confidence of the gate.")]
    fuse_usd: Annotated[
        Amount, Field(alias="fuseUSD", description="What this attempt may cost at most.")
    ]
    money_deadline_seconds: Annotated[
        int,
        Field(
            ge=0, description="Seconds after the request at which the machine goes at the latest."
        ),
    ]
    nonce: Annotated[
        str, Field(max_length=64, description="Marks the host key in the machine's log.")
    ]


class RentAnswer(Model):
    """What is surely known of the rent request without a listing."""

    at: Annotated[Time, Field(description="When.")]
    reason: Annotated[
        str, Field(max_length=64, description="OfferGone or RentWithheld: not rented.")
    ]
    message: Annotated[str, Field(max_length=1024, description="The provider's words.")] = ""


class LeaseStatus(Model):
    """The machine that is paid for."""

    instance_id: Annotated[
        int, Field(alias="instanceID", ge=0, description="The provider's number.")
    ]
    usd_per_hour: Annotated[
        Amount, Field(alias="usdPerHour", description="Highest price seen, disk included.")
    ]
    recorded_at: Annotated[Time, Field(description="When it was recorded.")]


class MachineStatus(Model):
    """Where the machine is reached."""

    host: Annotated[str, Field(max_length=253, description="Name or address.")]
    port: Annotated[int, Field(ge=1, le=65535, description="SSH port.")]
    host_key: Annotated[
        str,
        Field(max_length=1024, description="Its public host key, read from the provider's log."),
    ]


class MeasuredStatus(Model):
    """What the machine is by its own measure."""

    at: Annotated[Time, Field(description="When it was found good enough to get work.")]
    gpu: Annotated[
        str,
        Field(
            max_length=200,
            description="Its GPUs by their own names.",
            examples=["2x NVIDIA GeForce RTX 4090"],
        ),
    ]
    gpu_memory_mib: Annotated[
        int, Field(alias="gpuMemoryMiB", ge=0, description="Memory of the smallest of them.")
    ]
    cuda_version: Annotated[
        str | None, Field(max_length=8, description="The highest that its GPU software runs.")
    ] = None
    cpu_cores: Annotated[int, Field(ge=0, description="CPU cores.")]
    memory_mib: Annotated[int, Field(alias="memoryMiB", ge=0, description="Memory.")]
    disk_mib: Annotated[int, Field(alias="diskMiB", ge=0, description="Disk.")]
    disk_write_mbps: Annotated[
        int,
        Field(alias="diskWriteMBps", ge=0, description="Megabytes per second written and synced."),
    ]


class RunStatus(Model):
    """The workload."""

    started_at: Annotated[Time, Field(description="When it was started.")]
    seconds: Annotated[
        int | None, Field(ge=0, description="How long it ran, rounded up; set at its end.")
    ] = None
    progress: Annotated[
        ProgressStatus | None, Field(description="How far it says it is, as of `asOf`.")
    ] = None
    usage: Annotated[
        UsageStatus | None, Field(description="How busy its GPUs are, as of `asOf`.")
    ] = None


class InterruptionStatus(Model):
    """How often the machine was taken away and came back."""

    count: Annotated[int, Field(ge=1, description="How often it stood still.")]
    paused_at: Annotated[
        Time | None, Field(description="When it was seen to stand still; empty once it is back.")
    ] = None
    resumed_at: Annotated[Time | None, Field(description="When it last came back.")] = None
    run_seconds: Annotated[
        int, Field(ge=0, description="How long the workload ran before the latest interruption.")
    ] = 0


class StopStatus(Model):
    """The decision that the workload is to end, or that it has; stored before it is told so."""

    at: Annotated[Time, Field(description="When it was decided; its time to drain begins.")]
    reason: Annotated[str, Field(max_length=64, description="Why.")]
    message: Annotated[str, Field(max_length=1024, description="Why, in words.")] = ""
    exit_code: Annotated[
        int | None, Field(ge=0, le=255, description="Of the workload, if it ended by itself.")
    ] = None
    run_seconds: Annotated[
        int | None, Field(ge=0, description="How long it ran, rounded up, if it ended by itself.")
    ] = None


class EndStatus(Model):
    """The decision that the attempt is over; stored before anything is destroyed."""

    at: Annotated[Time, Field(description="When it was decided.")]
    reason: Annotated[str, Field(max_length=64, description="Why.")]
    message: Annotated[str, Field(max_length=1024, description="Why, in words.")] = ""
    exit_code: Annotated[int | None, Field(ge=0, le=255, description="Of the workload.")] = None


class GpuNodeStatus(Model):
    """The life of the machine; written by the operator alone."""

    observed_generation: Annotated[
        int, Field(ge=-1, description="Generation that this speaks of.")
    ] = -1
    phase: Annotated[str | None, Field(max_length=32, description="One word, for people.")] = None
    conditions: Annotated[
        tuple[Condition, ...], Field(max_length=16, description="The state of the machine.")
    ] = ()
    ssh_public_key: Annotated[
        str | None, Field(max_length=512, description="Public half of this node's own SSH key.")
    ] = None
    driver: Annotated[DriverStatus | None, Field(description="The driver pod.")] = None
    rent: Annotated[RentMarker | None, Field(description="The rent request, if one was made.")] = (
        None
    )
    not_rented: Annotated[
        RentAnswer | None, Field(description="Set when the request surely rented nothing.")
    ] = None
    lease: Annotated[LeaseStatus | None, Field(description="The machine that is paid for.")] = None
    machine: Annotated[MachineStatus | None, Field(description="Where it is reached.")] = None
    measured: Annotated[
        MeasuredStatus | None, Field(description="What it is by its own measure.")
    ] = None
    run: Annotated[RunStatus | None, Field(description="The workload.")] = None
    interruptions: Annotated[
        InterruptionStatus | None, Field(description="How often the machine was taken away.")
    ] = None
    stop: Annotated[
        StopStatus | None, Field(description="Why the workload is to end, or has ended.")
    ] = None
    end: Annotated[EndStatus | None, Field(description="Why the attempt is over.")] = None
    accrued_usd: Annotated[
        Amount | None, Field(alias="accruedUSD", description="Cost up to `asOf`: an upper bound.")
    ] = None
    as_of: Annotated[Time | None, Field(description="When `accruedUSD` was reckoned.")] = None
    released_at: Annotated[
        Time | None, Field(description="When the machine was proved gone; `accruedUSD` is final.")
    ] = None

    @property
    def is_paused(self) -> bool:
        """Whether the machine stands still because somebody bids more."""
        return self.interruptions is not None and self.interruptions.paused_at is not None

    @property
    def earlier_run_seconds(self) -> int:
        """How long the workload ran before the latest interruption."""
        return self.interruptions.run_seconds if self.interruptions else 0

    @property
    def run_number(self) -> int:
        """Which run of the workload on this machine is the present one, from 0 on."""
        return self.interruptions.count if self.interruptions else 0

    @property
    def may_cost(self) -> bool:
        """Whether a machine may be paid for: asked for, and neither refused nor proved gone."""
        return self.rent is not None and self.not_rented is None and self.released_at is None


class GpuNode(Model):
    """A node as stored."""

    metadata: ObjectMeta
    spec: GpuNodeSpec
    status: GpuNodeStatus = GpuNodeStatus()
