"""A plan: the status to store first, then the effects, then when to look again.

A decision is stored before anything follows from it. So a plan's status is written before its first
effect, and only onto the version of the object that the plan was made from. One effect does not
wait for that: to destroy the machine of an attempt whose end is stored was decided before. Three
need nothing stored: to add a finalizer, to make a key, and to create a node, which rents nothing
before its job has recorded it. An effect that fails is not retried: a later pass observes and plans
again (`core.refusals` says when). No plan is ever resumed.
"""

from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction
from typing import Any, Generic, TypeVar

from gpujob.api.reasons import Reason
from gpujob.core.cost.confidence import DestroyRecord
from gpujob.core.market.hosts import Trial
from gpujob.core.market.images import ImageTrial
from gpujob.core.market.outbids import Stay

Status = TypeVar("Status")


@dataclass(frozen=True)
class AddFinalizer:
    """Keep the object from disappearing while money may be owed for it."""


@dataclass(frozen=True)
class RemoveFinalizer:
    """Let the object be deleted: nothing is owed for it any more. It may have none any more."""

    finished_as: str = ""
    """What to note on it with the same write if it is over for good."""


@dataclass(frozen=True)
class DeleteJob:
    """Delete the GpuJob: its ttlSecondsAfterFinished has passed."""


@dataclass(frozen=True)
class DeleteNode:
    """Delete the released node itself: people had enough time to read it."""


@dataclass(frozen=True)
class DeleteFormerNode:
    """Delete a released node whose job is gone, and whose name the present job needs."""

    name: str
    uid: str


@dataclass(frozen=True)
class CreateNode:
    """Create the GpuNode, which stores the intention to rent."""

    manifest: dict[str, Any]


@dataclass(frozen=True)
class CreateService:
    """Create the Service that leads to the workload's ports."""

    manifest: dict[str, Any]


@dataclass(frozen=True)
class CreateKey:
    """Make the node's SSH key and store its private half for the driver."""


@dataclass(frozen=True)
class CreateDriver:
    """Create the driver pod."""

    manifest: dict[str, Any]


@dataclass(frozen=True)
class DeleteDriver:
    """Delete the driver pod with this uid."""

    name: str
    uid: str


@dataclass(frozen=True, kw_only=True)
class Rent:
    """Send the one rent request, unless `not_after` has passed."""

    offer_id: int
    image: str
    disk_gb: int
    bid_usd_per_hour: Fraction | None
    """None = on demand."""
    needs_login: bool
    """With the login for the image's registry, which the driver has handed over."""
    mark: str
    start_script: str
    setup: str
    """What the start script continues with, see `core.machine.start_script`."""
    not_after: datetime


@dataclass(frozen=True)
class FollowInBudgets:
    """Let the budgets of the namespace hold for a node what it says, or settle it if it is over."""

    name: str
    uid: str


@dataclass(frozen=True)
class ReadHostKey:
    """Read the machine's host key from the provider's log."""

    instance_id: int
    nonce: str


@dataclass(frozen=True)
class AttachKey:
    """Give the node's public key to the provider, for this machine only."""

    instance_id: int
    public_key: str


@dataclass(frozen=True)
class Destroy:
    """Ask the provider to destroy these machines."""

    instance_ids: tuple[int, ...]


@dataclass(frozen=True)
class RememberDestroy:
    """Remember whether a machine was destroyed in time: the gate's evidence about ourselves."""

    record: DestroyRecord


@dataclass(frozen=True)
class RecordUnfit:
    """Count a machine that failed the preflight check, and the seconds that were paid for it."""

    reason: Reason
    paid_seconds: float


@dataclass(frozen=True)
class RememberMachine:
    """Remember how the attempt went on its machine: the choice of offers learns from it."""

    trial: Trial


@dataclass(frozen=True)
class RememberStay:
    """Remember how often somebody bid more than we did: the next bids learn from it."""

    stay: Stay


@dataclass(frozen=True)
class RememberImage:
    """Remember what the attempt showed of its image: later ends are blamed by that."""

    trial: ImageTrial


@dataclass(frozen=True)
class StartMachine:
    """Tell the provider, once, to run a machine that stands still."""

    instance_id: int


Effect = (
    AddFinalizer
    | RemoveFinalizer
    | DeleteJob
    | DeleteNode
    | DeleteFormerNode
    | CreateNode
    | CreateService
    | FollowInBudgets
    | CreateKey
    | CreateDriver
    | DeleteDriver
    | Rent
    | ReadHostKey
    | AttachKey
    | Destroy
    | RememberDestroy
    | RecordUnfit
    | RememberMachine
    | RememberStay
    | RememberImage
    | StartMachine
)


@dataclass(frozen=True, kw_only=True)
class Plan(Generic[Status]):
    """What to store, what to do then, and when to look again."""

    status: Status
    reason: Reason
    message: str
    effects: tuple[Effect, ...] = ()
    requeue_seconds: float | None = None
    """None = the next event or listing starts the next pass."""
    wants_quotes: bool = False
    """The decision needs prices: observe them and plan again."""
    wants_budgets: bool = False
    """The decision needs the budgets of the namespace: observe them and plan again."""
    refused: str = ""
    """What the cluster does not let the operator do for it, in words; empty = nothing."""

    @property
    def comes_before_storing(self) -> bool:
        """Whether it only does what needs nothing stored, so that one write tells the result."""
        free = all(isinstance(one, AddFinalizer | CreateKey) for one in self.effects)
        return bool(self.effects) and free
