"""What all driver pods have, as the administrator sets it by the chart's values `driver`."""

from typing import Annotated, Literal

from pydantic import Field

from gpujob.api.driver_pod import DriverPod, Resources
from gpujob.api.meta import Model

USER_ID = 10001
"""The user of the driver's image."""

UserId = Annotated[int, Field(ge=1)]


class SeccompProfile(Model):
    """Which system calls are possible; all of them is not to be had."""

    type: Literal["RuntimeDefault", "Localhost"]
    localhost_profile: str | None = None


class SeLinuxOptions(Model):
    """The part of a label that Pod Security lets a pod choose."""

    level: str


class PodSecurityContext(Model):
    """As whom drivers run: within Pod Security's level `restricted`."""

    run_as_non_root: Literal[True]
    run_as_user: UserId | None = None
    """None = the platform chooses one, as OpenShift does, or else it is the image's."""
    run_as_group: UserId | None = None
    fs_group: UserId | None = None
    seccomp_profile: SeccompProfile
    se_linux_options: SeLinuxOptions | None = None


class DriverDefaults(DriverPod):
    """What all driver pods have, if their jobs say nothing else."""

    resources: Resources
    pod_security_context: PodSecurityContext


STANDARD = DriverDefaults.model_validate(
    {
        "labels": {
            "istio.io/dataplane-mode": "none",
            "kuma.io/sidecar-injection": "disabled",
            "sidecar.istio.io/inject": "false",
        },
        "annotations": {
            "cluster-autoscaler.kubernetes.io/safe-to-evict": "true",
            "consul.hashicorp.com/connect-inject": "false",
            "linkerd.io/inject": "disabled",
            "openservicemesh.io/sidecar-injection": "disabled",
        },
        "resources": {
            "requests": {"cpu": "20m", "memory": "64Mi"},
            "limits": {"cpu": "1", "memory": "256Mi"},
        },
        "nodeSelector": {"kubernetes.io/os": "linux"},
        "podSecurityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER_ID,
            "runAsGroup": USER_ID,
            "fsGroup": USER_ID,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }
)
"""What the chart sets unless it is told otherwise; `values.yaml` says why."""
