"""The documents that the API answers with."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from gpujob.adapters.kube import Body
from gpujob.api.gpujob import GpuJob, GpuJobSpec, GpuJobStatus
from gpujob.api.gpunode import GpuNode
from gpujob.api.meta import Time
from gpujob.api.reasons import Reason
from gpujob.core.money import format_usd


class Metadata(BaseModel):
    """What identifies and marks a job."""

    model_config = ConfigDict(populate_by_name=True)

    name: str
    namespace: str
    uid: str
    resource_version: Annotated[
        str, Field(alias="resourceVersion", description="Changes with each write; it is the ETag.")
    ]
    creation_timestamp: Annotated[Time, Field(alias="creationTimestamp")]
    deletion_timestamp: Annotated[
        Time | None,
        Field(alias="deletionTimestamp", description="When deletion was asked for."),
    ] = None
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}


class Job(BaseModel):
    """A job: the GpuJob as the cluster stores it."""

    metadata: Metadata
    spec: GpuJobSpec
    status: GpuJobStatus


class JobPage(BaseModel):
    """A page of jobs, and where the next page begins."""

    model_config = ConfigDict(populate_by_name=True)

    items: list[Job]
    next_cursor: Annotated[
        str | None,
        Field(
            alias="nextCursor",
            description="`cursor` of the next page; absent: this is the last page.",
        ),
    ] = None


class Machine(BaseModel):
    """A machine that costs something now, or may do so."""

    model_config = ConfigDict(populate_by_name=True)

    namespace: str
    job: Annotated[str, Field(description="Name of its GpuJob.", examples=["train"])]
    node: Annotated[str, Field(description="Name of its GpuNode.", examples=["train-0-1"])]
    state: Annotated[str, Field(examples=["Running"])]
    gpu: Annotated[str | None, Field(examples=["1x RTX 4090"])] = None
    location: Annotated[str | None, Field(examples=["Somewhere, FR"])] = None
    instance_id: Annotated[
        int | None,
        Field(alias="instanceID", description="Its number at the provider, if known."),
    ] = None
    usd_per_hour: Annotated[str | None, Field(alias="usdPerHour", examples=["0.412000"])] = None
    accrued_usd: Annotated[
        str | None, Field(alias="accruedUSD", description="Upper bound of its cost so far.")
    ] = None
    requested_at: Annotated[
        Time | None,
        Field(alias="requestedAt", description="Since when it may cost something."),
    ] = None


class MachinePage(BaseModel):
    """A page of machines, and where the next page begins."""

    model_config = ConfigDict(populate_by_name=True)

    items: list[Machine]
    next_cursor: Annotated[
        str | None,
        Field(
            alias="nextCursor",
            description="`cursor` of the next page; absent: this is the last page. A page may be "
            "empty although more follow.",
        ),
    ] = None


class Decision(BaseModel):
    """The latest decision of the cost gate on a job, and what it is based on."""

    model_config = ConfigDict(populate_by_name=True)

    admitted: Annotated[
        bool | None, Field(description="Whether the job may rent; absent: not decided yet.")
    ] = None
    reason: Annotated[str, Field(examples=["CeilingExceeded"])]
    meaning: Annotated[str, Field(description="What the reason means, in a sentence.")]
    message: Annotated[str, Field(description="The numbers, and what would fit.")]
    decided_at: Annotated[Time | None, Field(alias="decidedAt")] = None
    ceiling_usd: Annotated[str, Field(alias="ceilingUSD", examples=["2.50"])]
    confidence_asked: Annotated[str, Field(alias="confidenceAsked", examples=["0.95"])]
    estimate_usd: Annotated[
        str | None, Field(alias="estimateUSD", description="Bound of the whole cost of the job.")
    ] = None
    confidence: Annotated[
        str | None, Field(description="Probability that the cost stays within the ceiling.")
    ] = None
    accrued_usd: Annotated[str, Field(alias="accruedUSD", description="Spent so far.")]


def job_document(stored: Body) -> Body:
    """Returns a stored job as the API shows it, without what only the cluster itself uses."""
    meta = stored["metadata"]
    shown = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
    marks = ("deletionTimestamp", "labels", "annotations")
    metadata: Body = {key: meta[key] for key in shown}
    metadata |= {key: meta[key] for key in marks if key in meta}
    metadata.setdefault("labels", {})
    metadata["annotations"] = {
        key: text
        for key, text in (meta.get("annotations") or {}).items()
        # kubectl keeps a copy of the whole object there.
        if not key.startswith("kubectl.kubernetes.io/")
    }
    return {"metadata": metadata, "spec": stored["spec"], "status": stored.get("status") or {}}


def machine_document(node: GpuNode) -> Machine:
    """Returns the machine of a node; only for nodes whose machine may cost something."""
    status = node.status
    assert status.rent is not None, "only what was asked for may cost something"
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


def decision_document(job: GpuJob) -> Decision:
    """Returns what the cost gate last decided on a job."""
    conditions = {one.type: one for one in job.status.conditions}
    said, ready = conditions.get("Admitted"), conditions.get("Ready")
    words = said.message if said else ""
    if ready and (said is None or said.reason == ready.reason):
        # A refusal is what there is to say of the job; and so is that nobody has looked at it.
        words = ready.message
    cost = job.status.cost
    told = said or ready
    reason = told.reason if told else Reason.ACCEPTED.value
    return Decision(
        admitted={"True": True, "False": False}.get(said.status) if said else None,
        reason=reason,
        meaning=Reason(reason).meaning,
        message=words,
        decided_at=said.last_transition_time if said else None,
        ceiling_usd=job.spec.cost.ceiling,
        confidence_asked=job.spec.cost.confidence,
        estimate_usd=cost.estimate_usd,
        confidence=cost.confidence,
        accrued_usd=cost.accrued_usd or format_usd(0),
    )


def wire(model: BaseModel) -> dict[str, Any]:
    """Returns a document as JSON values."""
    return model.model_dump(mode="json", by_alias=True, exclude_none=True)
