"""The driver pod: restricted Pod Security profile, no capability, and no token but the driver's."""

import json
from pathlib import PurePosixPath
from typing import Any

from gpujob.api.data import FOLDER, VARIABLE, Copy, DataPlan
from gpujob.api.driver_pod import DriverPod, Resources
from gpujob.api.gpujob import Data, EnvVar, GpuJob
from gpujob.api.gpunode import GpuNode
from gpujob.api.meta import (
    LABEL_COMPONENT,
    LABEL_JOB,
    LABEL_MANAGED_BY,
    LABEL_NODE,
    MANAGER,
    TRANSPORT_AUDIENCE,
)
from gpujob.api.transport import WORKLOAD_ENV_PREFIX
from gpujob.core.machine.driver_defaults import DriverDefaults
from gpujob.core.machine.names import NAME_MAX, cut
from gpujob.core.machine.ports import carried, container_ports
from gpujob.core.observation import NodeObservation

CONTAINER = "driver"
"""Name of the driver's container, by which it is told from what injectors put beside it."""
DEFAULT_CONTAINER = "kubectl.kubernetes.io/default-container"
KEY_FOLDER = "/etc/gpujob/ssh"
KEY_FILE = "id_ed25519"
TOKEN_FOLDER = "/var/run/secrets/gpujob.dev"  # noqa: S105 - a folder, not a token
REGISTRY_FOLDER = "/etc/gpujob/registry"
STATE_FOLDER = "/var/lib/gpujob"
TERMINATION_LOG = "/dev/termination-log"


def driver_pod_name(node_name: str, number: int = 1) -> str:
    """Returns the name of a driver pod of a node, of which each has another; it always fits."""
    suffix = "-driver" if number == 1 else f"-driver-{number}"
    room = NAME_MAX - len(suffix)
    stem = node_name if len(node_name) <= room else cut(node_name, room, of=node_name)
    return stem + suffix


def key_secret_name(node: GpuNode) -> str:
    """Returns the name of the Secret that holds the node's SSH key.

    Nobody could know the uid before the node existed, so a Secret with this name is ours: one that
    is in the way may be deleted, and the operator needs no right to read Secrets.
    """
    return f"{node.metadata.name}-ssh-{node.metadata.uid}"


def owned_by(node: GpuNode) -> dict[str, Any]:
    """Returns the owner reference by which the node's pod and Secret are deleted with it."""
    return node.metadata.owner_reference("GpuNode")


def fitted(defaults: DriverDefaults, wanted: DriverPod | None) -> DriverDefaults:
    """Returns what a driver pod has, by the administrator and by its job (`spec.driver`).

    What has a name of its own is added, or replaced by what the job says under that name; the rest
    is replaced.
    """
    if wanted is None:
        return defaults
    ours, theirs = defaults.resources, wanted.resources or Resources()
    resources = Resources.model_validate(
        {
            "requests": ours.requests.wire() | theirs.requests.wire(),
            "limits": ours.limits.wire() | theirs.limits.wire(),
        }
    )
    secrets = (*defaults.image_pull_secrets, *wanted.image_pull_secrets)
    tolerations = (*defaults.tolerations, *wanted.tolerations)
    return defaults.model_copy(
        update={
            "labels": defaults.labels | wanted.labels,
            "annotations": defaults.annotations | wanted.annotations,
            "image_pull_secrets": tuple(dict.fromkeys(secrets)),
            "resources": resources,
            "node_selector": defaults.node_selector | wanted.node_selector,
            "tolerations": tuple(dict.fromkeys(tolerations)),
            "affinity": wanted.affinity or defaults.affinity,
            "priority_class_name": wanted.priority_class_name or defaults.priority_class_name,
            "runtime_class_name": wanted.runtime_class_name or defaults.runtime_class_name,
        }
    )


_PLACED = (
    *("imagePullSecrets", "nodeSelector", "tolerations", "affinity"),
    *("priorityClassName", "runtimeClassName"),
)
"""What is taken into a pod's spec as it is."""


def driver_pod(seen: NodeObservation) -> dict[str, Any]:
    """Returns the manifest of the driver pod of a node; the job must exist."""
    node, job, world = seen.node, seen.job, seen.world
    assert job is not None, "a driver is made for a job"
    copied = world.driver.model_copy(
        update={"labels": world.driver.labels | world.copied_labels(job.metadata)}
    )
    pod: dict[str, Any] = fitted(copied, job.spec.driver).wire()
    settings = {
        "GPUJOB_TRANSPORT_URL": world.transport_url,
        "GPUJOB_TRANSPORT_AUTHORITIES": world.transport_authorities,
        "GPUJOB_NODE_UID": node.metadata.uid,
        "GPUJOB_TOKEN_FILE": f"{TOKEN_FOLDER}/token",
        "GPUJOB_SSH_KEY_FILE": f"{KEY_FOLDER}/{KEY_FILE}",
        "GPUJOB_STATE_DIR": STATE_FOLDER,
        "GPUJOB_TERMINATION_LOG": TERMINATION_LOG,
        "GPUJOB_NODE_NAME": node.metadata.name,
        # The SSH library asks for the name of its user. One that the platform has chosen has none.
        "LOGNAME": CONTAINER,
        "GPUJOB_DRIVER_NUMBER": str(node.status.pod_number),
        # With an arena for each thread, malloc would keep the memory that the threads free.
        "MALLOC_ARENA_MAX": "1",
    }
    if job.spec.ports:
        settings["GPUJOB_PORTS"] = ",".join(
            f"{listened}:{port}" for listened, port in carried(job.spec).items()
        )
    plan, mounts = _copies(job)
    if mounts:
        settings[VARIABLE] = json.dumps(plan.wire())
    volumes = _claims(job.spec.data)
    # Once a machine is rented, the provider has the login, and the Secret may be gone.
    if (pulls := job.spec.image_pull_secret) is not None and node.status.rent is None:
        settings |= {"GPUJOB_PULL_SECRET": REGISTRY_FOLDER, "GPUJOB_IMAGE": job.spec.image}
        mounts.append({"name": "registry", "mountPath": REGISTRY_FOLDER, "readOnly": True})
        held = {"secretName": pulls.name, "defaultMode": 0o440}
        volumes.append({"name": "registry", "secret": held})
    # The operator finds its pods by these labels, so they are never anybody else's.
    own = {
        "app.kubernetes.io/name": "gpujob",
        LABEL_COMPONENT: "driver",
        LABEL_MANAGED_BY: MANAGER,
        LABEL_JOB: job.metadata.name,
        LABEL_NODE: node.metadata.name,
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": driver_pod_name(node.metadata.name, node.status.pod_number),
            "namespace": node.metadata.namespace,
            "labels": pod["labels"] | own,
            # For `kubectl logs`, where injectors have added containers.
            "annotations": pod["annotations"] | {DEFAULT_CONTAINER: CONTAINER},
            "ownerReferences": [owned_by(node)],
        },
        "spec": {
            "restartPolicy": "OnFailure",
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "terminationGracePeriodSeconds": 10,
            **{name: pod[name] for name in _PLACED if pod.get(name)},
            "securityContext": pod["podSecurityContext"],
            "containers": [
                {
                    "name": CONTAINER,
                    "image": world.driver_image,
                    "imagePullPolicy": world.driver_image_pull_policy,
                    "args": ["driver"],
                    "env": [
                        {"name": name, "value": _verbatim(value)}
                        for name, value in settings.items()
                    ]
                    + [_workload_variable(variable) for variable in job.spec.env],
                    **({"ports": container_ports(job.spec)} if job.spec.ports else {}),
                    "terminationMessagePath": TERMINATION_LOG,
                    "securityContext": {
                        "allowPrivilegeEscalation": False,
                        "readOnlyRootFilesystem": True,
                        "capabilities": {"drop": ["ALL"]},
                    },
                    "resources": pod["resources"],
                    "volumeMounts": [
                        {"name": "ssh", "mountPath": KEY_FOLDER, "readOnly": True},
                        {"name": "token", "mountPath": TOKEN_FOLDER, "readOnly": True},
                        {"name": "state", "mountPath": STATE_FOLDER},
                        *mounts,
                    ],
                }
            ],
            "volumes": [
                {
                    "name": "ssh",
                    "secret": {
                        "secretName": key_secret_name(node),
                        "defaultMode": 0o440,
                    },
                },
                {
                    "name": "token",
                    "projected": {
                        "defaultMode": 0o440,
                        "sources": [
                            {
                                "serviceAccountToken": {
                                    "audience": TRANSPORT_AUDIENCE,
                                    "expirationSeconds": 3600,
                                    "path": "token",
                                }
                            }
                        ],
                    },
                },
                {"name": "state", "emptyDir": {"sizeLimit": "16Mi"}},
                *volumes,
            ],
        },
    }


def _copies(job: GpuJob) -> tuple[DataPlan, list[dict[str, Any]]]:
    """Returns what the driver copies, and where the claims for it are mounted."""
    data = job.spec.data
    # An absolute path stays as it is.
    base = PurePosixPath(job.spec.working_dir or "")
    places = [
        *((f"inputs-{at}", claim) for at, claim in enumerate(data.inputs)),
        *((f"outputs-{at}", claim) for at, claim in enumerate(data.outputs)),
        *((name, claim) for name, claim in (("checkpoint", data.checkpoint), ("log", data.log))),
    ]
    volumes = _volume_names(data)
    mounts: list[dict[str, Any]] = [
        {
            "name": volumes[claim.claim_name],
            "mountPath": f"{FOLDER}/{name}",
            **({"subPath": claim.sub_path} if claim.sub_path else {}),
            **({"readOnly": True} if name.startswith("inputs") else {}),
        }
        for name, claim in places
        if claim is not None
    ]
    plan = DataPlan(
        job=job.metadata.uid,
        inputs=tuple(
            Copy(folder=f"{FOLDER}/inputs-{at}", path=str(base / claim.path))
            for at, claim in enumerate(data.inputs)
        ),
        outputs=tuple(
            Copy(
                folder=f"{FOLDER}/outputs-{at}",
                path=str(base / claim.path),
                optional=claim.optional,
            )
            for at, claim in enumerate(data.outputs)
        ),
        checkpoint=(
            Copy(folder=f"{FOLDER}/checkpoint", path=str(base / data.checkpoint.path))
            if data.checkpoint
            else None
        ),
        checkpoint_seconds=data.checkpoint.interval_seconds if data.checkpoint else 0,
        log_folder=f"{FOLDER}/log" if data.log else None,
        download_bytes_max=data.max_download_gb * 10**9,
        upload_bytes_max=data.max_upload_gb * 10**9,
    )
    return plan, mounts


def _volume_names(data: Data) -> dict[str, str]:
    """Returns the volume of each claim, one however often the claim is used."""
    used = [*data.inputs, *data.outputs, data.checkpoint, data.log]
    names = dict.fromkeys(claim.claim_name for claim in used if claim is not None)
    return {name: f"claim-{at}" for at, name in enumerate(names)}


def _claims(data: Data) -> list[dict[str, Any]]:
    return [
        {"name": volume, "persistentVolumeClaim": {"claimName": claim}}
        for claim, volume in _volume_names(data).items()
    ]


def _workload_variable(variable: EnvVar) -> dict[str, Any]:
    entry: dict[str, Any] = {"name": f"{WORKLOAD_ENV_PREFIX}{variable.name}"}
    if variable.value_from is None:
        return entry | {"value": _verbatim(variable.value or "")}
    return entry | {"valueFrom": variable.value_from.wire()}


def _verbatim(value: str) -> str:
    """Returns a variable's value for a manifest, so that the process gets just this value.

    The kubelet replaces `$(NAME)` and makes `$` of `$$`.
    """
    return value.replace("$", "$$")
