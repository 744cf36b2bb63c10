"""Jobs that wait in a queue of Kueue: what their Workloads say, and what follows from that.

A job with Kueue's label for a queue is as good as suspended until its Workload is admitted. Whether
it is, stands in the job's status, which only the operator writes; so nothing is rented before.
When Kueue takes the admission back, the status loses it, the machine is destroyed as a suspended
job's is, and only once nothing is owed for the job any more does Kueue get the quota back. For the
same reason a Workload that admits has our finalizer: deleted, it would take its quota with it.
"""

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from enum import Enum, auto
from hashlib import sha256
from math import ceil
from typing import Any

from gpujob.api.gpujob import GpuJob
from gpujob.api.meta import FINALIZER, LABEL_JOB, LABEL_MANAGED_BY, MANAGER
from gpujob.core.job.end import finished_as, is_finished
from gpujob.core.job.strays import owed_for
from gpujob.core.money import parse_usd

API = "kueue.x-k8s.io/v1beta2"
LABEL_QUEUE = "kueue.x-k8s.io/queue-name"
LABEL_PRIORITY = "kueue.x-k8s.io/priority-class"
GPUS = "gpujob.dev/gpus"
"""The resource by which a queue's quota counts the GPUs that its jobs rent."""
USD = "gpujob.dev/usd"
"""The resource by which it counts what its jobs may cost: their ceilings, in whole dollars."""

Body = dict[str, Any]

_LABEL_UID = "kueue.x-k8s.io/job-uid"
_MANY = {"k": 1_000, "M": 1_000_000}
"""How Kueue may write whole amounts."""
_AGAIN = ("Preempted", "NodeFailures")
"""Reasons of an eviction after which Kueue itself puts the Workload back into its queue."""


def as_queued(job: GpuJob, *, kueue: bool) -> GpuJob:
    """Returns the job as its queue lets it be: suspended until its Workload is admitted."""
    if not waits_in_queue(job, kueue=kueue):
        return job
    return job.model_copy(update={"spec": job.spec.model_copy(update={"suspend": True})})


def waits_in_queue(job: GpuJob, *, kueue: bool) -> bool:
    """Whether a job has a queue that has not admitted it."""
    return kueue and bool(queue_of(job)) and job.status.admitted_by != workload_name(job)


def queue_of(job: GpuJob) -> str:
    """Returns the name of the LocalQueue that a job is for; empty = it is for none."""
    return job.metadata.labels.get(LABEL_QUEUE, "")


def workload_name(job: GpuJob) -> str:
    """Returns the name of a job's Workload.

    A later job of the same name has another one, and so has this one in another queue or with a
    ceiling of more dollars: that has to be admitted anew.
    """
    asked = f"{job.metadata.uid}/{queue_of(job)}/{_usd(job)}"
    return f"gpujob-{job.metadata.name}-{sha256(asked.encode()).hexdigest()[:8]}"


def _usd(job: GpuJob) -> int:
    """Returns what a job may cost, in whole dollars."""
    return ceil(parse_usd(job.spec.cost.ceiling) / 1_000_000)


def job_of(workload: Mapping[str, Any]) -> tuple[str, str, str]:
    """Returns namespace, name and uid of the job that a Workload is for; empty = it does not say.

    Others may have written that. A job is admitted only by a Workload that has the job's own
    name for it, and lies in its namespace.
    """
    meta = workload["metadata"]
    labels = meta.get("labels") or {}
    return meta["namespace"], str(labels.get(LABEL_JOB, "")), str(labels.get(_LABEL_UID, ""))


def is_over(workload: Mapping[str, Any]) -> bool:
    """Whether Kueue has been told of the end of a Workload's job."""
    return _holds(workload, "Finished")


class Step(Enum):
    """What is to be done next about a job and its Workload."""

    CREATE = auto()
    """Create the Workload."""
    HOLD = auto()
    """Keep the Workload, whoever deletes it, as long as something may be owed for its job."""
    ADMIT = auto()
    """Note in the job's status that it may run."""
    WITHDRAW = auto()
    """Take that back."""
    RELEASE = auto()
    """Give the quota back: the Workload was evicted, and no machine is left."""
    FINISH = auto()
    """Say that the Workload is finished: the job is over, or has another, and no machine is left.
    """
    LET_GO = auto()
    """Keep it no longer: nothing is owed, and it does not admit."""


def next_step(job: GpuJob, workload: Mapping[str, Any] | None) -> Step | None:
    """Returns what is next for a job and a Workload of it; None = the one that it should have is
    not there.
    """
    status, name = job.status, workload_name(job)
    owes_nothing = status.node_uid is None and status.node_name is None and not owed_for(status)
    if workload is None:
        if status.admitted_by is not None:
            return Step.WITHDRAW
        # What it had may still hold quota until its machine is gone.
        is_wanted = owes_nothing and not is_finished(status) and not job.metadata.is_being_deleted
        return Step.CREATE if is_wanted else None
    let_go = Step.LET_GO if owes_nothing and is_held(workload) else None
    if is_finished(status) or workload["metadata"]["name"] != name or not queue_of(job):
        return Step.FINISH if owes_nothing and not is_over(workload) else let_go
    if _is_admitted(workload) and not fault(job, workload):
        # A job that its user has suspended keeps its quota, but holds nothing.
        if is_held(workload) is (job.spec.suspend and owes_nothing):
            return let_go or Step.HOLD
        return Step.ADMIT if status.admitted_by != name else None
    if status.admitted_by is not None:
        return Step.WITHDRAW
    if _holds(workload, "Evicted") and _holds(workload, "QuotaReserved") and owes_nothing:
        return Step.RELEASE
    return let_go


def fault(job: GpuJob, workload: Mapping[str, Any]) -> str:
    """Returns what keeps a Workload of the right name from admitting its job; empty = nothing.

    Somebody else may have made it, and have it ask for less than the job takes.
    """
    asked = dict.fromkeys((GPUS, USD), Decimal(0))
    for pods in (workload.get("spec") or {}).get("podSets") or []:
        # Kueue may admit fewer pods where there is a least count.
        count = pods.get("minCount") or pods.get("count") or 0
        pod = (pods.get("template") or {}).get("spec") or {}
        for container in pod.get("containers") or []:
            requests = (container.get("resources") or {}).get("requests") or {}
            for resource in asked:
                asked[resource] += count * _amount(requests.get(resource))
    lacking = [
        f"{asked[resource]:f} of {resource} instead of {amount}"
        for resource, amount in ((GPUS, job.spec.gpu.count), (USD, _usd(job)))
        if asked[resource] < amount
    ]
    name = workload["metadata"]["name"]
    return f"Workload {name} asks for {' and '.join(lacking)}: delete it" if lacking else ""


def _amount(quantity: object) -> Decimal:
    """Returns a whole amount; what is not written as one counts as nothing."""
    number, unit = str(quantity), 1
    if number[-1:] in _MANY:
        number, unit = number[:-1], _MANY[number[-1]]
    return Decimal(number) * unit if number.isascii() and number.isdecimal() else Decimal(0)


def is_held(workload: Mapping[str, Any]) -> bool:
    """Whether a Workload has our finalizer."""
    return FINALIZER in (workload["metadata"].get("finalizers") or [])


def finalizers_of(workload: Mapping[str, Any], *, held: bool) -> list[str]:
    """Returns the finalizers of a Workload, with ours or without it."""
    others = [one for one in workload["metadata"].get("finalizers") or [] if one != FINALIZER]
    return [*others, FINALIZER] if held else others


def _is_admitted(workload: Mapping[str, Any]) -> bool:
    """Whether a Workload's job may run; what is not clear is no."""
    return (
        _holds(workload, "Admitted")
        and not any(_holds(workload, one) for one in ("Evicted", "Finished"))
        and (workload.get("spec") or {}).get("active") is not False
        and "deletionTimestamp" not in workload["metadata"]
    )


def _holds(workload: Mapping[str, Any], kind: str) -> bool:
    return _condition(workload, kind).get("status") == "True"


def _condition(workload: Mapping[str, Any], kind: str) -> Body:
    found = (workload.get("status") or {}).get("conditions") or []
    return next((one for one in found if one.get("type") == kind), {})


def workload_of(job: GpuJob, priority: int | None) -> Body:
    """Returns the Workload of a job; `priority` is the value of the class that it names."""
    meta, spec = job.metadata, job.spec
    requests = {
        GPUS: str(spec.gpu.count),
        USD: str(_usd(job)),
    }
    container = {"name": "workload", "image": spec.image, "resources": {"requests": requests}}
    template = {"spec": {"restartPolicy": "Never", "containers": [container]}}
    ref = {"group": "kueue.x-k8s.io", "kind": "WorkloadPriorityClass"}
    name = meta.labels.get(LABEL_PRIORITY)
    return {
        "apiVersion": API,
        "kind": "Workload",
        "metadata": {
            "name": workload_name(job),
            "namespace": meta.namespace,
            "labels": {
                LABEL_MANAGED_BY: MANAGER,
                LABEL_JOB: meta.name,
                _LABEL_UID: meta.uid,
            },
            "ownerReferences": [meta.owner_reference("GpuJob")],
        },
        "spec": {
            "queueName": queue_of(job),
            "podSets": [{"name": "main", "count": 1, "template": template}],
            "priority": priority or 0,
            **({"priorityClassRef": ref | {"name": name}} if name else {}),
        },
    }


def released(workload: Mapping[str, Any], now: datetime) -> Body:
    """Returns the status of an evicted Workload that has given its quota back."""
    evicted = _condition(workload, "Evicted")
    why, words = str(evicted.get("reason", "")), str(evicted.get("message", ""))
    status = {name: one for name, one in workload["status"].items() if name != "admission"}
    wanted = {
        "Requeued": (why in _AGAIN, why, words),
        "QuotaReserved": (False, "Pending", words),
        "Admitted": (False, "NoReservation", "The workload has no reservation"),
    }
    return status | {"conditions": _merged(workload, wanted, now)}


def finished(workload: Mapping[str, Any], job: GpuJob, now: datetime) -> Body:
    """Returns the status of a Workload of a job that is over, or that asks for something else."""
    reason, words = finished_as(job.status) or ("Changed", "the job's queue or ceiling has changed")
    why = "Succeeded" if reason == "Complete" else "Failed"
    wanted = {"Finished": (True, why, words)}
    return {**(workload.get("status") or {}), "conditions": _merged(workload, wanted, now)}


def _merged(
    workload: Mapping[str, Any], wanted: Mapping[str, tuple[bool, str, str]], now: datetime
) -> list[Body]:
    kept = [
        one
        for one in (workload.get("status") or {}).get("conditions") or []
        if one.get("type") not in wanted
    ]
    for kind, (holds, reason, message) in wanted.items():
        before, flag = _condition(workload, kind), "True" if holds else "False"
        moment = now.isoformat(timespec="seconds").replace("+00:00", "Z")
        since = before["lastTransitionTime"] if before.get("status") == flag else moment
        kept.append(
            {
                "type": kind,
                "status": flag,
                "reason": reason,
                "message": message,
                "lastTransitionTime": since,
                "observedGeneration": workload["metadata"].get("generation", 0),
            }
        )
    return kept
