"""Whose fault the end of an attempt is.

The class of its reason says it as a rule. But a machine that never let a driver in has shown
nothing of its host that its image could not have caused: before that, only an image that is known
to work elsewhere leaves the host alone with the blame.
"""

from dataclasses import dataclass

from gpujob.api.reasons import Blame, Reason
from gpujob.core.market.images import PullFailure, pull_failure
from gpujob.core.node.facts import image_works, own_lease
from gpujob.core.observation import NodeObservation

LOST_STATUSES = ("offline", "unknown")
"""The provider lost contact with the host, whatever image runs there."""

UNPROVEN = frozenset(
    {
        Reason.BOOT_TIMEOUT,
        Reason.HOST_KEY_UNAVAILABLE,
        Reason.HOST_LOST,
        Reason.LOGIN_REFUSED,
    }
)
"""What an image can cause as well as a host, as long as no driver has logged in."""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What is known about an attempt when it ends."""

    logged_in: bool
    """The driver logged in to the machine, and measured it."""
    image_works: bool
    """The image was seen to work on another machine."""
    shown: str | None
    """The provider's word for the machine's state."""
    pull_failure: PullFailure | None


def blame(reason: Reason, evidence: Evidence) -> Blame:
    """Returns whom an end blames: the one whom the evidence names, else the provider."""
    if reason is Reason.PULL_FAILED and evidence.pull_failure is PullFailure.DISK_FULL:
        return Blame.HOST
    if reason is Reason.LOGIN_REFUSED and evidence.logged_in:
        # The key had worked: the provider or the workload took it away, and both look the same.
        return Blame.PROVIDER
    lost = reason is Reason.HOST_LOST and evidence.shown in LOST_STATUSES
    unproven = reason in UNPROVEN and not lost and not evidence.logged_in
    return Blame.PROVIDER if unproven and not evidence.image_works else reason.kind.blames


def evidence_of(seen: NodeObservation) -> Evidence:
    """Returns what is known now about a node's attempt."""
    lease, job = own_lease(seen), seen.job
    return Evidence(
        logged_in=seen.node.status.measured is not None,
        image_works=image_works(seen),
        shown=lease.status if lease else None,
        pull_failure=pull_failure(lease.status_message, job.spec.image) if lease and job else None,
    )
