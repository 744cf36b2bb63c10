"""Whether a machine is lost: what its two witnesses, the provider and the driver, say together.

Each of them errs for a while: a listing shows a healthy machine as `offline` (vastsim/FACTS.md,
Instance states), and a driver's line is cut. One alone is a suspicion, and so are both, as the
network of a host may fail for a moment; each suspicion has its patience. Giving a machine up loses
what was paid for it, and waiting costs its price per second: waiting for as long as was already
paid for at worst doubles the loss.
"""

from dataclasses import dataclass
from enum import StrEnum

from gpujob.api.gpunode import GpuNode
from gpujob.core.limits import Limits
from gpujob.core.market.listings import Listing, Mark, recorded

DENYING_STATUSES = ("exited", "offline", "stopped", "unknown")
"""Words of the provider by which a machine does not run."""


class Health(StrEnum):
    """What is to be thought of a machine."""

    HEALTHY = "healthy"
    SUSPECTED = "suspected"
    LOST = "lost"


@dataclass(frozen=True, kw_only=True)
class Witnesses:
    """What is said of a machine."""

    denied_seconds: float | None
    """For how long each listing has shown that it does not run; None = the latest does not."""
    silent_seconds: float | None
    """For how long it has not answered its driver; None = there is no driver that could say."""
    paid_seconds: float
    """For how long it had been paid for before either began to speak against it."""


def health(said: Witnesses, limits: Limits) -> Health:
    """Returns what is to be thought of a machine.

    | the provider | the driver | lost after |
    |---|---|---|
    | says it runs | is in contact | never |
    | says it runs | is not | a silence as long as was paid for |
    | denies that | is not, or there is none | half as long |
    | denies that | is in contact | `heartbeat_stale_seconds` |

    Each is at least `silence_min_seconds`, since nothing is proved before, and at most
    `heartbeat_stale_seconds`, when the machine's own watchdog destroys it.
    """
    denied, silent = said.denied_seconds, said.silent_seconds
    shortest, longest = limits.silence_min_seconds, limits.heartbeat_stale_seconds
    wanted = said.paid_seconds if denied is None else said.paid_seconds / 2
    patience = min(max(wanted, shortest), longest)
    if silent is not None and silent >= patience:
        return Health.LOST
    if denied is not None:
        return (
            Health.LOST if denied >= (patience if silent is None else longest) else Health.SUSPECTED
        )
    return Health.SUSPECTED if silent is not None and silent >= shortest else Health.HEALTHY


def denied_since(
    before: float | None, node: GpuNode, mark: Mark, listing: Listing | None
) -> float | None:
    """Returns the monotonic time since which each listing has denied that a node's machine runs.

    None = the latest does not deny it. `before` is what was returned at the last look. A listing
    without the machine says nothing.
    """
    lease = node.status.lease
    if lease is None or listing is None:
        return None
    shown = recorded(listing, lease.instance_id, mark)
    if shown is None:
        return before
    if shown.status not in DENYING_STATUSES:
        return None
    return listing.answered_at if before is None else before
