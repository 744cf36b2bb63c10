"""Valid objects of the core's world, to be changed by keyword; no logic of their own."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Any

from gpujob.api.gpujob import GpuJob
from gpujob.api.gpunode import GpuNode
from gpujob.api.meta import FINALIZER
from gpujob.api.transport import (
    DriverReport,
    Gpu,
    Measured,
    Outcome,
    WatchdogClient,
    WorkloadPhase,
)
from gpujob.core.budget.cover import Budgets
from gpujob.core.cost.experience import Experience
from gpujob.core.cost.leased import Fleet
from gpujob.core.limits import Limits
from gpujob.core.machine.driver_defaults import STANDARD
from gpujob.core.machine.preflight import as_status
from gpujob.core.market.history import Listings
from gpujob.core.market.hosts import HostMemory
from gpujob.core.market.images import ImageMemory
from gpujob.core.market.listings import Address, Lease, Line, Listing, Mark
from gpujob.core.market.offers import Offer, Quotes
from gpujob.core.market.outbids import OutbidMemory
from gpujob.core.observation import (
    JobObservation,
    NodeMemory,
    NodeObservation,
    Pod,
    World,
)

NOW = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)
MONOTONIC = 10_000.0
CLUSTER, JOB_UID, NODE_UID, POD_UID = "c-1", "j-1", "aaaa-bbbb-0001-cccc-dddd", "p-1"
MARK = Mark(CLUSTER, NODE_UID, JOB_UID)
ACCOUNT = 7
INSTANCE = 36000042
SSH_KEY = "ssh-ed25519 " + "A" * 68


def at(seconds: float) -> datetime:
    """Returns a moment, in seconds from NOW."""
    return NOW + timedelta(seconds=seconds)


def stamp(seconds: float = 0.0) -> str:
    """Returns such a moment as the API carries it."""
    return at(seconds).isoformat().replace("+00:00", "Z")


def meta(name: str, **changes: Any) -> dict[str, Any]:
    """Metadata of a stored object that holds our finalizer."""
    return {
        "name": name,
        "namespace": "team",
        "resourceVersion": "1",
        "generation": 1,
        "creationTimestamp": stamp(-60),
        "finalizers": [FINALIZER],
        **changes,
    }


def a_spec(**changes: Any) -> dict[str, Any]:
    """A spec that fits `an_offer` with room to spare."""
    spec = {
        "image": "python:3.11",
        "command": ["python3", "train.py"],
        "activeDeadlineSeconds": 3600,
        "gpu": {"models": ["RTX 4090"]},
        "data": {"maxDownloadGB": 10, "maxUploadGB": 1},
        "cost": {"ceiling": "5.00"},
    }
    return spec | changes


def a_job(
    spec: dict[str, Any] | None = None,
    status: dict[str, Any] | None = None,
    **metadata: Any,
) -> GpuJob:
    """A job as stored."""
    return GpuJob.model_validate(
        {
            "metadata": meta(**{"name": "train", "uid": JOB_UID} | metadata),
            "spec": spec or a_spec(),
            "status": status or {},
        }
    )


RECORDED = {
    "attempt": 1,
    "nodeName": "train-0-1",
    "nodeUID": NODE_UID,
    "nodeReservedUSD": "5.000000",
    "nodeAccountID": ACCOUNT,
}
"""Status of a job whose first attempt is recorded."""


def a_node(status: dict[str, Any] | None = None, **metadata: Any) -> GpuNode:
    """A node as stored."""
    return GpuNode.model_validate(
        {
            "metadata": meta(**{"name": "train-0-1", "uid": NODE_UID} | metadata),
            "spec": {
                "jobRef": {"name": "train", "uid": JOB_UID},
                "attempt": 1,
                "reservedUSD": "5.000000",
            },
            "status": status or {},
        }
    )


KEYED = {"sshPublicKey": SSH_KEY}
DRIVEN = KEYED | {
    "driver": {"podName": "train-0-1-driver", "podUID": POD_UID, "readyAt": stamp(-50)}
}


def marker(seconds: float = -40, **changes: Any) -> dict[str, Any]:
    """The `rent` part of a node's status: stored `seconds` from NOW."""
    return {
        "requestedAt": stamp(seconds),
        "notAfter": stamp(seconds + 5),
        "accountID": ACCOUNT,
        "offerID": 1,
        "machineID": 100,
        "hostID": 10,
        "gpu": "1x RTX 4090",
        "gpuMemoryGB": 24,
        "location": "Quebec, CA",
        "gpuUSDPerHour": "0.400000",
        "diskUSDPerHour": "0.005000",
        "downloadUSDPerGB": "0.002000",
        "uploadUSDPerGB": "0.002000",
        "trafficReserveUSD": "0.100000",
        "downloadMbps": 80,
        "uploadMbps": 40,
        "estimateUSD": "0.600000",
        "confidence": "0.990",
        "fuseUSD": "5.000000",
        "moneyDeadlineSeconds": 40_000,
        "nonce": NODE_UID.replace("-", ""),
        **changes,
    }


def renting(seconds: float = -40) -> dict[str, Any]:
    """Status of a node whose marker is stored."""
    return DRIVEN | {"rent": marker(seconds)}


def leased(seconds: float = -40) -> dict[str, Any]:
    """Status of a node with a recorded machine."""
    lease = {"instanceID": INSTANCE, "usdPerHour": "0.405000", "recordedAt": stamp(seconds + 1)}
    return renting(seconds) | {"lease": lease | {"keyAttachedAt": stamp(seconds + 20)}}


def reachable(seconds: float = -40) -> dict[str, Any]:
    """Status of a node whose machine can be reached."""
    return leased(seconds) | {"machine": {"host": "h", "port": 22, "hostKey": SSH_KEY}}


def booted(seconds: float = -40) -> dict[str, Any]:
    """Status of a node whose machine was measured and may get work."""
    found = as_status(measured(), at(seconds + 10)).wire()
    return reachable(seconds) | {"measured": found}


def running(seconds: float = -40, started: float = -20) -> dict[str, Any]:
    """Status of a node whose workload runs."""
    return booted(seconds) | {"run": {"startedAt": stamp(started)}}


def ended(status: dict[str, Any], reason: str = "Completed", **changes: Any) -> dict[str, Any]:
    """The same node once its end is stored."""
    return status | {"end": {"at": stamp(-5), "reason": reason, "message": "so it is", **changes}}


def an_offer(**changes: Any) -> Offer:
    """An RTX 4090 for 0.40 $/h."""
    offer = Offer(
        offer_id=1,
        machine_id=100,
        host_id=10,
        gpu_model="RTX 4090",
        gpu_count=1,
        gpu_memory_gb=Fraction(24),
        cuda_version=Fraction("12.8"),
        cpu_cores=Fraction(16),
        memory_gb=Fraction(64),
        disk_gb=Fraction(500),
        location="Quebec, CA",
        country="CA",
        is_verified=True,
        is_datacenter=False,
        reliability=Fraction("0.99"),
        has_direct_port=True,
        contract_seconds=Fraction(10**7),
        gpu_usd_per_hour=Fraction("0.4"),
        storage_usd_per_gb_month=Fraction("0.18"),
        download_usd_per_gb=Fraction("0.002"),
        upload_usd_per_gb=Fraction("0.002"),
        download_mbps=Fraction(800),
        upload_mbps=Fraction(400),
    )
    return replace(offer, **changes)


def quotes(*offers: Offer, **changes: Any) -> Quotes:
    """A fresh search answer."""
    answer = Quotes(
        offers=offers or (an_offer(),), unreadable=0, fetched_at=NOW, clock_skew_seconds=0.2
    )
    return replace(answer, **changes)


def a_lease(**changes: Any) -> Lease:
    """A running machine that carries our node's mark."""
    lease = Lease(
        instance_id=INSTANCE,
        label=str(MARK),
        env_mark=str(MARK),
        is_attributable=True,
        status="running",
        intended_status="running",
        started_at=at(-39),
        usd_per_hour=Fraction("0.405"),
        download_gb=Fraction(0),
        upload_gb=Fraction(0),
        addresses=(Address("h", 22),),
        status_message="",
        line=Line(Fraction("0.002"), Fraction("0.002"), Fraction(80), Fraction(40)),
    )
    return replace(lease, **changes)


def a_listing(*leases: Lease, ago: float = 1.0, **changes: Any) -> Listing:
    """A complete listing that was asked for `ago` seconds before the present."""
    listing = Listing(
        requested_at=MONOTONIC - ago,
        answered_at=MONOTONIC - ago + 0.1,
        provider_time=at(-ago),
        account_id=ACCOUNT,
        credit_usd=Fraction(50),
        leases=leases,
    )
    return replace(listing, **changes)


def taken_in(*listings: Listing) -> Listings:
    """These listings as evidence, in the order in which they came."""
    evidence = Listings()
    for listing in listings:
        evidence = evidence.and_then(listing)
    return evidence


def a_world(*listings: Listing, nothing_listed: bool = False, **changes: Any) -> World:
    """The present, with one empty listing unless others are given, or none with that."""
    world = World(
        now=NOW,
        monotonic=MONOTONIC,
        limits=Limits(),
        own_namespace="gpujob-system",
        account_id=ACCOUNT,
        provider_url="https://provider.example",
        driver_image="registry.example/gpujob:1",
        driver_image_pull_policy="IfNotPresent",
        driver=STANDARD,
        labels_to_copy=(),
        kueue=False,
        transport_url="https://gpujob.system.svc:8080",
        transport_authorities="authorities",
        fleet=Fleet(
            listings=taken_in(*listings) if nothing_listed or listings else taken_in(a_listing()),
            nodes=(),
            jobs=(),
            cluster_id=CLUSTER,
        ),
        not_ready=None,
        destroys=(),
        hosts=HostMemory(),
        outbids=OutbidMemory(),
        images=ImageMemory(),
        runs=Experience(),
        budgets=Budgets({}, None),
        requires_budget=False,
    )
    return replace(world, **changes)


def a_pod(**changes: Any) -> Pod:
    """The recorded driver pod, running."""
    pod = Pod(
        name="train-0-1-driver",
        uid=POD_UID,
        phase="Running",
        is_being_deleted=False,
        grace_seconds=10.0,
        waiting="",
        outcome=None,
    )
    return replace(pod, **changes)


def a_report(**changes: Any) -> DriverReport:
    """A driver that waits for its machine."""
    report = DriverReport(
        version=1, node_uid=NODE_UID, session=1, sequence=1, phase=WorkloadPhase.WAITING
    )
    return report.model_copy(update=changes)


def measured(**changes: Any) -> Measured:
    """What the machine of `marker` tells of itself."""
    told = Measured(
        gpus=(Gpu(name="NVIDIA GeForce RTX 4090", memory_mib=24_564),),
        cuda_version="12.8",
        cpu_cores=16,
        memory_mib=61_000,
        memory_free_mib=60_000,
        disk_mib=19_000,
        disk_free_mib=18_000,
        disk_write_mbps=900.0,
        watchdog_client=WatchdogClient.CURL,
        watchdog_runs=True,
    )
    return told.model_copy(update=changes)


def finished(exit_code: int, run_seconds: float = 15.0, lost: str = "") -> DriverReport:
    """A driver whose workload has ended."""
    outcome = Outcome(exit_code=exit_code, run_seconds=run_seconds, lost=lost)
    return a_report(phase=WorkloadPhase.FINISHED, outcome=outcome, run_seconds=run_seconds)


def node_observation(status: dict[str, Any] | None = None, **changes: Any) -> NodeObservation:
    """What is seen of a node whose job has recorded it and whose driver reports."""
    observation = NodeObservation(
        world=a_world(),
        node=a_node(status),
        job=a_job(status=RECORDED),
        pod=a_pod(),
        report=a_report(),
        memory=NodeMemory(marker_seen_at=MONOTONIC - 40),
        budgets=(),
    )
    return replace(observation, **changes)


def job_observation(**changes: Any) -> JobObservation:
    """What is seen of a fresh job."""
    fresh = JobObservation(world=a_world(), job=a_job(), node=None, budgets=())
    return replace(fresh, **changes)
