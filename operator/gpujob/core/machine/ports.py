"""The workload's ports: a Service leads to the driver pod, which forwards to the machine."""

from collections.abc import Mapping
from typing import Any

from gpujob.api.gpujob import GpuJob, GpuJobSpec
from gpujob.api.meta import LABEL_COMPONENT, LABEL_JOB, LABEL_MANAGED_BY, MANAGER
from gpujob.core.machine.names import NAME_MAX, cut

FIRST_LISTENED = 20000
"""The first port that the driver listens on. It runs without privileges, so it cannot listen on
low ports, and the workload's own port may be one."""


def service_name(job_name: str) -> str:
    """Returns the name of a job's Service: at most 63 characters, and without dots.

    A digest tells `a.b` from `a-b`.
    """
    prefix, plain = "gpujob-", job_name.replace(".", "-")
    return prefix + (
        plain if plain == job_name else cut(plain, NAME_MAX - len(prefix), of=job_name)
    )


def carried(spec: GpuJobSpec) -> dict[int, int]:
    """Returns for each port that the driver listens on the port of the workload."""
    return {FIRST_LISTENED + at: one.port for at, one in enumerate(spec.ports)}


def container_ports(spec: GpuJobSpec) -> list[dict[str, Any]]:
    """Returns what the driver's container listens on."""
    return [
        {"name": one.name, "containerPort": listened, "protocol": "TCP"}
        for one, listened in zip(spec.ports, carried(spec), strict=True)
    ]


def service(job: GpuJob, labels: Mapping[str, str]) -> dict[str, Any]:
    """Returns the manifest of the Service; it outlives attempts and goes with the job.

    It has these labels besides the operator's own.
    """
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": service_name(job.metadata.name),
            "namespace": job.metadata.namespace,
            "labels": {
                **labels,
                "app.kubernetes.io/name": "gpujob",
                LABEL_MANAGED_BY: MANAGER,
                LABEL_JOB: job.metadata.name,
            },
            "ownerReferences": [job.metadata.owner_reference("GpuJob")],
        },
        "spec": {
            "selector": {LABEL_COMPONENT: "driver", LABEL_JOB: job.metadata.name},
            "ports": [
                {"name": one.name, "port": one.port, "targetPort": one.name, "protocol": "TCP"}
                for one in job.spec.ports
            ],
        },
    }
