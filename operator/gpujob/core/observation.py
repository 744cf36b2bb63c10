"""What a decision rests on: everything known at one moment, the time included."""

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import cached_property

from gpujob.api.gpujob import GpuJob, GpuJobSpec
from gpujob.api.gpunode import GpuNode
from gpujob.api.meta import Condition, ObjectMeta
from gpujob.api.reasons import Reason
from gpujob.api.transport import DriverReport, Outcome
from gpujob.core.budget.cover import Book, Budgets
from gpujob.core.cost.confidence import DestroyRecord
from gpujob.core.cost.experience import Experience
from gpujob.core.cost.leased import Fleet, Leased
from gpujob.core.cost.question import Question
from gpujob.core.cost.template import template_of
from gpujob.core.limits import Limits
from gpujob.core.machine.driver_defaults import DriverDefaults
from gpujob.core.market.history import Listings
from gpujob.core.market.hosts import HostMemory
from gpujob.core.market.images import ImageMemory
from gpujob.core.market.listings import Mark
from gpujob.core.market.offers import Quotes
from gpujob.core.market.outbids import OutbidMemory
from gpujob.core.node.stage import Stage, stage_of
from gpujob.core.refusals import Refusals


@dataclass(frozen=True)
class Unavailable:
    """Something could not be read. That does not mean that it is zero or gone."""

    reason: Reason
    message: str


_UNASKED = (Reason.PROVIDER_UNAVAILABLE, Reason.SEARCH_QUOTA_EXHAUSTED)
"""Why the market could not be asked."""


def told_last(conditions: tuple[Condition, ...]) -> tuple[Reason, str] | None:
    """Returns the gate's last refusal, or why the market could not be asked, if that is shown.

    It stands while the market is asked again: else the status would change at each look.
    """
    told = next((one for one in conditions if one.type == "Ready"), None)
    if told is None:
        return None
    reason = Reason(told.reason)
    stands = reason.kind.is_refusal or reason in _UNASKED
    return (reason, told.message) if stands else None


@dataclass(frozen=True, kw_only=True)
class World:
    """What is the same for all jobs at one moment."""

    now: datetime
    """By our clocks and the provider's together (`core.market.clocks`)."""
    monotonic: float
    limits: Limits
    own_namespace: str
    """The release's."""
    account_id: int | None
    """The account of the present API key; None = not known yet."""
    provider_url: str
    driver_image: str
    driver_image_pull_policy: str
    driver: DriverDefaults
    """What all driver pods have."""
    labels_to_copy: tuple[str, ...]
    """Keys of the labels that what is made for a job has in common with it."""
    kueue: bool
    """Whether jobs with Kueue's label for a queue wait until it admits them."""
    transport_url: str
    transport_authorities: str
    """The certificate authorities that a driver trusts, as PEM; empty = none are made yet."""
    fleet: Fleet
    not_ready: Unavailable | None
    """Why the operator can rent nothing now; None = it can."""
    destroys: tuple[DestroyRecord, ...] | None
    """What is known of our own enforcement; None = it could not be read."""
    hosts: HostMemory
    outbids: OutbidMemory
    images: ImageMemory
    runs: Experience | None
    """What was learnt of how long jobs run; None = it could not be read."""
    budgets: Budgets
    """As they were last seen: that they hold an attempt is looked at again before a machine is
    rented."""
    requires_budget: bool
    """Whether nothing is rented for a job that no budget covers."""

    def at(self, monotonic: float) -> datetime:
        """Returns the moment at which the monotonic clock showed this."""
        return self.now - timedelta(seconds=self.monotonic - monotonic)

    def copied_labels(self, of: ObjectMeta) -> dict[str, str]:
        """Returns the labels that an object hands on to what is made for it, as the administrator
        has chosen.
        """
        labels = of.labels
        return {key: labels[key] for key in self.labels_to_copy if key in labels}

    @property
    def cluster_id(self) -> str:
        """The cluster's, as marks carry it."""
        return self.fleet.cluster_id

    @property
    def listings(self) -> Listings:
        """The complete listings of the last minutes."""
        return self.fleet.listings

    @property
    def leased(self) -> Leased:
        """The operator's machines."""
        return self.fleet.leased

    def question(
        self,
        spec: GpuJobSpec,
        quotes: Quotes,
        *,
        namespace: str,
        spent_microusd: int = 0,
        run_seconds_used: float = 0.0,
        avoided_machines: frozenset[int] = frozenset(),
        reserved_microusd: int | None = None,
    ) -> Question:
        """Returns the gate's question about a job; the defaults are for one that has not begun."""
        return Question(
            now=self.now,
            limits=self.limits,
            spec=spec,
            spent_microusd=spent_microusd,
            run_seconds_used=run_seconds_used,
            quotes=quotes,
            leased=self.leased,
            destroys=self.destroys,
            avoided_machines=avoided_machines,
            hosts=self.hosts,
            outbids=self.outbids,
            template=template_of(namespace, spec),
            runs=self.runs,
            reserved_microusd=reserved_microusd,
        )


@dataclass(frozen=True, kw_only=True)
class Pod:
    """The driver pod as the cluster shows it."""

    name: str
    uid: str
    phase: str
    """Of the pod; `Succeeded` also if its driver has succeeded and other containers run on."""
    is_being_deleted: bool
    grace_seconds: float
    """How long it may take to end once it is being deleted; without meaning before."""
    is_outlived: bool = False
    """Whether its driver has ended, and other containers run on."""
    waiting: str
    """Why its driver does not run, in the words of the cluster; empty if it does."""
    outcome: Outcome | None
    """How the workload ended, from the pod's termination message."""


@dataclass(frozen=True)
class PodSight:
    """Since when this process has seen a driver pod as it is. All times are monotonic.

    The times in the pod are the API server's, whose clock may differ from ours by any amount.
    """

    uid: str
    since: float
    leaving_since: float | None = None
    """Since when it has been shown as being deleted."""
    gone_since: float | None = None
    name: str = ""


def sighted(before: PodSight | None, pod: Pod | None, now: float) -> PodSight | None:
    """Returns since when the pod has been seen as it is seen now; None = none was ever seen."""
    if pod is None:
        if before is None or before.gone_since is not None:
            return before
        return replace(before, gone_since=now)
    same = before
    if same is None or same.uid != pod.uid:
        same = PodSight(pod.uid, now, name=pod.name)
    if pod.is_being_deleted and same.leaving_since is None:
        same = replace(same, leaving_since=now)
    return same


@dataclass(frozen=True)
class RentAccepted:
    """The provider's answer named the machine that was rented."""

    instance_id: int


@dataclass(frozen=True)
class RentRefused:
    """The provider refused, or the request was never sent: nothing was rented."""

    reason: Reason
    message: str


@dataclass(frozen=True)
class RentUnanswered:
    """The request may have been accepted; only listings can tell."""

    message: str


@dataclass(frozen=True)
class Heard:
    """A driver's last report."""

    report: DriverReport
    pod_uid: str
    at: float
    """Monotonic time at which it arrived."""


@dataclass(frozen=True)
class BootLog:
    """The container's log of a machine whose host key is not in it yet."""

    digest: int
    """Of its text."""
    since: float
    """Monotonic time since when it has been the same."""
    missing_server: str
    """Why the image has no SSH server, in the log's words; empty if it does not say so."""


@dataclass(frozen=True, kw_only=True)
class NodeMemory:
    """What this process knows of a node beyond its stored status; a restart can do without it."""

    watched_since: float | None = None
    """Monotonic time at which this process first looked at the node."""
    marker_seen_at: float | None = None
    """Monotonic time at which this process first saw that a machine may be leased."""
    rent: RentAccepted | RentRefused | RentUnanswered | None = None
    destroy_sent_at: float | None = None
    """Monotonic time of the first destroy request."""
    destroy_repeated_at: float | None = None
    """Monotonic time of the latest one."""
    destroy_asked_at: datetime | None = None
    """When the first one was handed over to be sent; stored with the next status."""
    public_key: str | None = None
    host_key: str | None = None
    boot_log: BootLog | None = None
    key_tried_at: float | None = None
    """Monotonic time at which the node's key was last sent to the provider for the machine."""
    key_tries: int = 0
    key_attached_at: datetime | None = None
    """When the provider took it; stored with the next status."""
    denied_since: float | None = None
    """Monotonic time since which each listing has shown that the machine does not run."""
    pod_missing_since: float | None = None
    pod_sight: PodSight | None = None
    """Of the driver pod that was seen last."""
    unready_since: float | None = None
    """Monotonic time since which nothing could be rented for it, as no driver was ready."""


@dataclass(frozen=True, kw_only=True)
class NodeObservation:
    """What the plan of a GpuNode rests on."""

    world: World
    node: GpuNode
    job: GpuJob | None
    """None = it certainly does not exist, or there is a `job_problem`."""
    pod: Pod | None
    """The node's pod under its present name; None = it certainly does not exist."""
    report: DriverReport | None
    """The latest report of that pod."""
    driver_silence_seconds: float = 0.0
    """Time since that pod last reported, or was first seen by this process, whichever was last."""
    unheard_seconds: float = 0.0
    """Time since any driver of this node last reported, or this process began to look."""
    taken_name: str = ""
    """A pod's name that the node needs, and that somebody else's pod has; empty = it has not."""
    refusals: Refusals = field(default_factory=dict)
    """What the cluster does not let the operator do for this node."""
    job_problem: str = ""
    """Why the stored job cannot be read; empty = it can be, or does not exist."""
    has_login: bool = False
    """Whether its driver has handed over the login for the image's registry."""
    memory: NodeMemory = NodeMemory()
    quotes: Quotes | Unavailable | None = None
    """None = not asked for."""
    budgets: tuple[Book, ...] | None = None
    """Those of the namespace, read after node and job; None = not asked for."""

    @cached_property
    def stage(self) -> Stage:
        """Where the node stands by its stored status; most steps of a plan ask for it."""
        return stage_of(self.node.status)

    @property
    def mark(self) -> Mark:
        """The mark that this node's machine carries."""
        return Mark(self.world.cluster_id, self.node.metadata.uid, self.node.spec.job_ref.uid)


@dataclass(frozen=True, kw_only=True)
class JobObservation:
    """What the plan of a GpuJob rests on."""

    world: World
    job: GpuJob
    node: GpuNode | None
    """The node of the recorded attempt, else one under the next attempt's name; None = absent."""
    node_absent_since: float | None = None
    """Monotonic time at which this process first missed a recorded node."""
    service_owner: str | None = None
    """Uid of the job that owns the Service for this job's ports; empty = no job owns it;
    None = there is no such Service, or none is wanted."""
    queue_problem: str = ""
    """What keeps the job from its queue of Kueue; empty = nothing is known of that."""
    refusals: Refusals = field(default_factory=dict)
    """What the cluster does not let the operator do for this job."""
    quotes: Quotes | Unavailable | None = None
    budgets: tuple[Book, ...] | None = None
    """Those of the namespace, read after job and node; None = not asked for."""
