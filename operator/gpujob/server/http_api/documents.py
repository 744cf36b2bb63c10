"""What the API answers with."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from gpujob.adapters.kube import Body
from gpujob.api.gpujob import GpuJobSpec, GpuJobStatus
from gpujob.api.gpunode import GpuNode
from gpujob.api.meta import Time


class Metadata(BaseModel):
    """What identifies a job."""

    model_config = ConfigDict(populate_by_name=True)

    name: str
    namespace: str
    uid: str
    resource_version: Annotated[
        str, Field(alias="resourceVersion", description="Changes with each write; the ETag.")
    ]
    creation_timestamp: Annotated[Time, Field(alias="creationTimestamp")]
    deletion_timestamp: Annotated[
        Time | None, Field(alias="deletionTimestamp", description="When it was asked to go.")
    ] = None
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}


class Job(BaseModel):
    """A job: the GpuJob as the cluster stores it."""

    metadata: Metadata
    spec: GpuJobSpec
    status: GpuJobStatus


class JobPage(BaseModel):
    """Some jobs, and where the next ones are."""

    model_config = ConfigDict(populate_by_name=True)

    items: list[Job]
    next_cursor: Annotated[
        str | None,
        Field(alias="nextCursor", description="To be given as `cursor`; absent: these were all."),
    ] = None


class Machine(BaseModel):
    """A machine that is paid for now, or may be."""

    model_config = ConfigDict(populate_by_name=True)

    namespace: str
    job: Annotated[str, Field(description="Name of its GpuJob.", examples=["train"])]
    node: Annotated[str, Field(description="Name of its GpuNode.", examples=["train-0-1"])]
    state: Annotated[str, Field(examples=["Running"])]
    gpu: Annotated[str | None, Field(examples=["1x RTX 4090"])] = None
    location: Annotated[str | None, Field(examples=["Somewhere, FR"])] = None
    instance_id: Annotated[
        int | None, Field(alias="instanceID", description="The provider's number; absent: unknown.")
    ] = None
    usd_per_hour: Annotated[str | None, Field(alias="usdPerHour", examples=["0.412000"])] = None
    accrued_usd: Annotated[
        str | None, Field(alias="accruedUSD", description="Upper bound of its cost up to now.")
    ] = None
    requested_at: Annotated[
        Time | None, Field(alias="requestedAt", description="Since when it may cost something.")
    ] = None


class MachinePage(BaseModel):
    """Some machines, and where the next ones are."""

    model_config = ConfigDict(populate_by_name=True)

    items: list[Machine]
    next_cursor: Annotated[
        str | None,
        Field(
            alias="nextCursor",
            description="To be given as `cursor`; absent: these were all. A page may be empty "
            "though more follow.",
        ),
    ] = None


class Decision(BaseModel):
    """What the cost gate said of a job at last, and on what it rests."""

    model_config = ConfigDict(populate_by_name=True)

    admitted: Annotated[
        bool | None, Field(description="Whether it may rent; absent: nothing was decided yet.")
    ] = None
    reason: Annotated[str, Field(examples=["CeilingExceeded"])]
    meaning: Annotated[str, Field(description="The reason in a sentence.")]
    message: Annotated[str, Field(description="With the numbers, and what would fit.")]
    decided_at: Annotated[Time | None, Field(alias="decidedAt")] = None
    ceiling_usd: Annotated[str, Field(alias="ceilingUSD", examples=["2.50"])]
    confidence_asked: Annotated[str, Field(alias="confidenceAsked", examples=["0.95"])]
    estimate_usd: Annotated[
        str | None, Field(alias="estimateUSD", description="Bound of the job's whole cost.")
    ] = None
    confidence: Annotated[str | None, Field(description="That the cost stays within it.")] = None
    accrued_usd: Annotated[str, Field(alias="accruedUSD", description="Spent up to now.")]


def job_document(stored: Body) -> Body:
    """Returns a stored job as it is shown: what only the cluster's machinery uses is left out."""
    meta = stored["metadata"]
    shown = (*("name", "namespace", "uid", "resourceVersion", "creationTimestamp"),)
    marks = ("deletionTimestamp", "labels", "annotations")
    metadata: Body = {key: meta[key] for key in shown}
    metadata |= {key: meta[key] for key in marks if key in meta}
    metadata.setdefault("labels", {})
    metadata["annotations"] = {
        key: text
        for key, text in (meta.get("annotations") or {}).items()
        # kubectl's copy of the whole object.
        if not key.startswith("kubectl.kubernetes.io/")
    }
    return {"metadata": metadata, "spec": stored["spec"], "status": stored.get("status") or {}}


def machine_document(node: GpuNode) -> Machine:
    """Returns the machine of a node that may cost something."""
    status = node.status
    assert status.rent is not None, "it may cost something"
    return Machine(
        namespace=node.metadata.namespace,
        job=node.spec.job_ref.name,
        node=node.metadata.name,
        state=status.phase or "Pending",
        gpu=status.rent.gpu,
        location=status.rent.location,
        instance_id=status.lease.instance_id if status.lease else None,
        usd_per_hour=status.lease.usd_per_hour if status.lease else None,
        accrued_usd=status.accrued_usd,
        requested_at=status.rent.requested_at,
    )


def wire(model: BaseModel) -> dict[str, Any]:
    """Returns a document as JSON's values."""
    return model.model_dump(mode="json", by_alias=True, exclude_none=True)
