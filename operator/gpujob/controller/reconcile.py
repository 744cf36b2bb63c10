"""One pass over a GpuJob or a GpuNode: observe, plan, store, act.

A pass reads the object, asks `core` for a plan, stores the planned status on exactly the version
that was read, and only then carries out the effects; what needs nothing stored is done first. What
it reads may be held in the cache, but a plan with effects is made again on what quorum reads show,
unless it only destroys the machine of an attempt whose end is stored. What the cluster does not let
an effect do is told by the object and tried again later; any other failure ends the pass, and the
next one begins anew. No other module carries out effects.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, replace
from math import inf
from typing import Any, Generic, Protocol, TypeVar

import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from pydantic import ValidationError
from structlog.contextvars import bind_contextvars, clear_contextvars

from gpujob.adapters.clock import Clock
from gpujob.adapters.door import Door
from gpujob.adapters.errors import (
    ClusterError,
    Conflict,
    Forbidden,
    Invalid,
    NotServed,
    ProviderError,
    RentDenied,
    RentUnclear,
    RentWithheld,
)
from gpujob.adapters.kube import Body, KubeClient
from gpujob.adapters.provider import Provider, RentLine
from gpujob.adapters.redact import Scrubber
from gpujob.api.gpujob import GpuJob, GpuJobStatus
from gpujob.api.gpunode import GpuNode, GpuNodeStatus
from gpujob.api.meta import (
    ANNOTATION_FINISHED,
    API_VERSION,
    FINALIZER,
    LABEL_MANAGED_BY,
    MANAGER,
    Condition,
)
from gpujob.api.reasons import Reason
from gpujob.api.transport import DriverReport, RegistryLogin
from gpujob.api.words import in_words
from gpujob.controller.budget_book import BudgetBook
from gpujob.controller.cache import Cache
from gpujob.controller.destroys import Destroys
from gpujob.controller.events import Events
from gpujob.controller.machine_book import MachineBook
from gpujob.controller.market_watch import MarketWatch
from gpujob.controller.pods import is_owned_by, pod_from
from gpujob.controller.price_watch import PriceWatch
from gpujob.controller.profile_book import ProfileBook
from gpujob.controller.readiness import Readiness
from gpujob.controller.settings import Settings
from gpujob.controller.workqueue import Key
from gpujob.core import effects
from gpujob.core.budget.cover import Book
from gpujob.core.conditions import only_figures_differ, only_words_differ, tells_of_refusal
from gpujob.core.effects import Plan
from gpujob.core.job.end import is_finished
from gpujob.core.job.plan import node_name
from gpujob.core.job.strays import newly_charged
from gpujob.core.machine.driver_pod import KEY_FILE, driver_pod_name, key_secret_name, owned_by
from gpujob.core.machine.ports import service_name
from gpujob.core.machine.start_script import host_key_in_log
from gpujob.core.market.images import missing_server
from gpujob.core.market.listings import Mark
from gpujob.core.market.pace import Kind
from gpujob.core.money import parse_usd
from gpujob.core.node.contact import denied_since
from gpujob.core.node.stage import UNREADY, stage_of
from gpujob.core.observation import (
    BootLog,
    Heard,
    JobObservation,
    NodeMemory,
    NodeObservation,
    Pod,
    RentAccepted,
    RentRefused,
    RentUnanswered,
    World,
    sighted,
)
from gpujob.core.refusals import Refusal, Refusals, refused
from gpujob.core.settling import Settled, settle_created, settle_job, settle_node
from gpujob.core.spec_faults import shape_faults

SAID_LENGTH_MAX = 200
REFUSED_LENGTH_MAX = 500
ASKING_SECONDS = 2.0
"""What is known while the market is asked is stored with its answer, or after so long. An object
without any status looks as if no controller had seen it.
"""
UNFINISHED_SECONDS = 60.0
"""Passes over an object that fail for so long without a definite answer are told by an event."""
FIGURES_PER_SECOND = 20.0
"""Nodes whose figures are stored in a second, at most; each is followed by the write of its job. So
those of 1,200 machines are stored each minute, and those of more machines more seldom. Nor are all
stored at once when a new leader finds all of them old: facts would wait behind them."""

log = structlog.get_logger("gpujob.reconcile")


class Queue(Protocol):
    """Takes the keys that need another pass."""

    def add(self, key: Key) -> None:
        """Asks for a pass as soon as possible."""
        ...

    def add_after(self, key: Key, seconds: float) -> None:
        """Asks for a pass after a delay."""
        ...


class Lock(Protocol):
    """The leader lock."""

    def is_held_for(self, seconds: float, /) -> bool:
        """Returns True if nobody else can lead within this time."""
        ...


class Read(Protocol):
    """Reads an object: `Cache.find` or `Cache.read`."""

    async def __call__(self, key: Key, uid: str | None = None, /) -> Body | None:
        """Returns the object, None if there is none; `uid` is of the one that is expected."""
        ...


Seen = TypeVar("Seen", JobObservation, NodeObservation)


class _Reads:
    """The quorum reads of one pass, which an act that needs nothing stored does not repeat."""

    def __init__(self, cache: Cache, own: Key) -> None:
        """`own` is the key of the pass: what it writes itself, it need not read."""
        self._cache = cache
        self._own = own
        self._versions: dict[Key, str | None] = {}
        """Of what was read; None = there was nothing."""

    async def now(self, key: Key, uid: str | None = None, /) -> Body | None:
        """Reads an object by a quorum read."""
        found = await self._cache.read(key, uid)
        self._versions[key] = found["metadata"]["resourceVersion"] if found is not None else None
        return found

    async def again(self, key: Key, uid: str | None = None, /) -> Body | None:
        """Returns what this pass has read; what another pass has written since is read again,
        because somebody else may have changed it after that.
        """
        before = self._versions.get(key)
        if key in self._versions and before is None:
            return None
        found = await self._cache.find(key, uid)
        if key == self._own or (found and found["metadata"]["resourceVersion"] == before):
            return found
        return await self.now(key, uid)


@dataclass(frozen=True)
class _Planned(Generic[Seen]):
    """What a pass has read, and what follows from it."""

    stored: Body
    before: Any
    """The object as it is stored."""
    settled: Settled[Seen]

    @property
    def plan(self) -> Plan[Any]:
        return self.settled.plan

    @property
    def after(self) -> Any:
        """The status to store."""
        return self.settled.statuses[-1]


@dataclass(frozen=True, kw_only=True)
class _Pass:
    """The result of a pass: what its line in the log shows."""

    uid: str
    stage: str
    plan: Plan[Any]
    is_change: bool


class Reconciler:
    """Makes passes over GpuJobs and GpuNodes."""

    def __init__(
        self,
        *,
        kube: KubeClient,
        cache: Cache,
        vast: Provider,
        market: MarketWatch,
        prices: PriceWatch,
        destroys: Destroys,
        events: Events,
        door: Door,
        clock: Clock,
        settings: Settings,
        cluster_id: str,
        queue: Queue,
        heard: dict[str, Heard],
        lock: Lock,
        machines: MachineBook,
        profiles: ProfileBook,
        budgets: BudgetBook,
        readiness: Readiness,
        logins: dict[str, RegistryLogin],
        authorities: Callable[[], str],
    ) -> None:
        self._kube = kube
        self._cache = cache
        self._readings = cache.readings
        self._vast = vast
        self._market = market
        self._prices = prices
        self._to_destroy = destroys
        self._events = events
        self._door = door
        self._clock = clock
        self._settings = settings
        self._cluster_id = cluster_id
        self._queue = queue
        self._heard = heard
        self._lock = lock
        self._machines = machines
        self._profiles = profiles
        self._budgets = budgets
        self._readiness = readiness
        self._logins = logins
        self._authorities = authorities
        self.renting: set[asyncio.Task[None] | None] = set()
        """Tasks with a rent request in flight, which must not be cancelled."""
        self.unfit_paid_seconds: defaultdict[str, list[float]] = defaultdict(list)
        """Paid seconds of each machine that failed the preflight check, by reason."""
        self.queue_problems: dict[str, str] = {}
        """What keeps a job from its queue of Kueue, by the job's uid."""
        self._memories: dict[str, NodeMemory] = {}
        self._absent_since: dict[str, float] = {}
        self._unsaid_since: dict[Key, float] = {}
        """Since when the stored words of an object are not those of its passes, monotonic."""
        self._asking_since: dict[Key, float] = {}
        """Since when the market is asked before the status of an object is stored, monotonic."""
        self._figures_at: dict[Key, float] = {}
        """When the figures of a node may be stored, of those that wait for it, monotonic."""
        self._figures_last = -inf
        """The latest of these moments."""
        self._refusals: dict[Key, Refusals] = {}
        """What the cluster does not let an object's passes do."""
        self._unfinished: dict[Key, Refusal] = {}
        """Why the passes over an object cannot read what they need, or store its status."""
        self._unfinished_told: set[Key] = set()
        self._has_seen_all = False

    async def reconcile(self, key: Key) -> None:
        """Makes one pass over an object; raises AdapterError if it could not be finished.

        One line in the log sums up the pass. This and all other lines of the pass carry its
        namespace, job, node and attempt, as far as they are known.
        """
        await self._market.first_asked()
        began = self._clock.monotonic()
        clear_contextvars()
        own = "job" if key.kind == "GpuJob" else "node"
        bind_contextvars(namespace=key.namespace, **{own: key.name})
        try:
            made = await (self._job(key) if key.kind == "GpuJob" else self._node(key))
        except Conflict:
            raise
        except ClusterError as error:
            self._tell_unfinished(key, error)
            raise
        self._unfinished.pop(key, None)
        self._unfinished_told.discard(key)
        if made is None:
            return
        say = log.info if made.is_change or made.plan.effects else log.debug
        say(
            "reconciled",
            **vars(key),
            uid=made.uid,
            stage=made.stage,
            reason=made.plan.reason,
            effects=[type(effect).__name__ for effect in made.plan.effects],
            requeue_seconds=made.plan.requeue_seconds,
            milliseconds=round((self._clock.monotonic() - began) * 1000),
        )

    def world(self) -> World:
        """Returns the part of an observation that is the same for all jobs."""
        return World(
            now=self._market.now(),
            monotonic=self._clock.monotonic(),
            limits=self._settings.limits,
            own_namespace=self._settings.namespace,
            account_id=self._market.account_id,
            provider_url=self._settings.provider_url,
            driver_image=self._settings.driver_image,
            driver_image_pull_policy=self._settings.driver_image_pull_policy,
            driver=self._settings.driver,
            labels_to_copy=self._settings.labels_to_copy,
            kueue=self._settings.kueue,
            transport_url=self._settings.transport_url,
            transport_authorities=self._authorities(),
            fleet=self._cache.fleet(self._market.listings, self._cluster_id),
            not_ready=self._readiness.problem,
            destroys=self._machines.destroys,
            hosts=self._machines.memory,
            outbids=self._machines.outbids,
            images=self._machines.images,
            runs=self._profiles.experience,
            budgets=self._budgets.seen,
            requires_budget=self._settings.requires_budget,
        )

    # --- GpuJob -----------------------------------------------------------------------------

    async def _job(self, key: Key) -> _Pass | None:
        seen, reads = await self._plan_job(key, self._cache.find), _Reads(self._cache, key)
        if seen is not None and (seen.plan.effects or _reserves_other(seen)):
            seen = await self._plan_job(key, reads.now)
        if seen is not None and seen.plan.comes_before_storing:
            for effect in seen.plan.effects:
                await self._try(key, effect, self._act_on_job(effect, key, seen.stored))
            seen = await self._plan_job(key, reads.again)
        if seen is None:
            self._refusals.pop(key, None)
            self._nothing_unsaid(key)
            return None
        job, node = seen.before, seen.settled.observation.node
        if _node_in(seen.plan) is not None:
            seen = await self._with_node(key, seen)
        plan, after = seen.plan, seen.after
        status, uid = job.status, job.metadata.uid
        # The API server itself says of what nobody has seen that it is unseen.
        asks_market = plan.wants_quotes and status.observed_generation < 0
        stored = await self._store(key, seen.stored, after, asks_market=asks_market)
        is_change = stored is not seen.stored
        if is_change and (node is None or after.node_uid is None):
            # While an attempt is under way, the passes over its node record the events.
            conditions = status.conditions
            for step in seen.settled.statuses:
                self._tell(job, conditions, step.conditions)
                conditions = step.conditions
        for words in newly_charged(status, after) if is_change else ():
            self._record("GpuJob", job, Reason.ORPHAN_DESTROYED, words)
        if is_change and plan.refused and not tells_of_refusal(status.conditions):
            self._record("GpuJob", job, Reason.CLUSTER_REFUSED, plan.refused)
        for effect in plan.effects:
            await self._try(key, effect, self._act_on_job(effect, key, stored))
        if status.node_name is not None and plan.status.node_name is None:
            # The node was kept until the job had taken over its cost. Now it can be released.
            self._queue.add(Key("GpuNode", key.namespace, status.node_name))
        if plan.reason is Reason.FORMER_NODE and node is not None:
            # Nobody else may be looking at it any more; its own pass finds that its job is gone.
            self._queue.add(Key("GpuNode", key.namespace, node.metadata.name))
        self._requeue(key, plan)
        return _Pass(uid=uid, stage=after.phase or "", plan=plan, is_change=is_change)

    async def _plan_job(self, key: Key, read: Read) -> _Planned[JobObservation] | None:
        stored = await read(key)
        if stored is None:
            return None
        try:
            job = self._readings.read(GpuJob, key, stored)
        except ValidationError as error:
            await self._refuse_spec(stored, error)
            return None
        status = job.status
        bind_contextvars(attempt=status.attempt)
        if status.node_name is not None:
            bind_contextvars(node=status.node_name)
        name = status.node_name or node_name(key.name, status.attempt + 1)
        node_key = Key("GpuNode", key.namespace, name)
        body = await read(node_key, status.node_uid)
        node = self._readings.read(GpuNode, node_key, body) if body is not None else None
        observation = JobObservation(
            world=self.world(),
            job=job,
            node=node,
            node_absent_since=self._missed(status.node_uid, node),
            service_owner=await self._service_owner(job),
            queue_problem=self.queue_problems.get(job.metadata.uid, ""),
            refusals=self._refusals.get(key, {}),
        )
        settled = settle_job(observation)
        if settled.plan.wants_quotes:
            quotes = self._prices.quotes(job.spec, namespace=key.namespace, key=key)
            seen = replace(settled.observation, world=self.world(), quotes=quotes)
            settled = _after(settled, settle_job(seen))
        if settled.plan.wants_budgets:
            budgets = await self._budgets_by(read, key.namespace)
            seen = replace(settled.observation, world=self.world(), budgets=budgets)
            settled = _after(settled, settle_job(seen))
        return _Planned(stored, job, settled)

    async def _budgets_by(self, read: Read, namespace: str) -> tuple[Book, ...] | None:
        """Returns the budgets of a namespace, read after what a plan rests on besides: as they were
        last seen if that is from the cache, too, else by a quorum read. None = they are not known.
        """
        if read == self._cache.find:
            return self._budgets.seen.of(namespace)
        return await self._budgets.read(namespace)

    async def _with_node(
        self, key: Key, seen: _Planned[JobObservation]
    ) -> _Planned[JobObservation]:
        """Creates the node of an admitted job, and plans on with it: so one write says both that
        the job is admitted and as what it runs.

        A node that its job has not recorded rents nothing, and the next pass records whatever node
        of the job it finds under this name.
        """
        effect = _node_in(seen.plan)
        assert effect is not None, "asked only for a plan that creates one"
        await self._try(key, effect, self._act_on_job(effect, key, seen.stored))
        made = Key("GpuNode", key.namespace, effect.manifest["metadata"]["name"])
        body = await self._cache.find(made)
        node = self._readings.read(GpuNode, made, body) if body is not None else None
        return replace(seen, settled=settle_created(seen.settled, node))

    async def _service_owner(self, job: GpuJob) -> str | None:
        if not job.spec.ports or is_finished(job.status):
            return None
        name = service_name(job.metadata.name)
        body = await self._kube.find("Service", job.metadata.namespace, name)
        if body is None:
            return None
        owners = body["metadata"].get("ownerReferences") or []
        return next((str(one["uid"]) for one in owners if one.get("kind") == "GpuJob"), "")

    def _missed(self, uid: str | None, node: GpuNode | None) -> float | None:
        """Returns since when this process has not found a recorded node; None if it is found."""
        if uid is None:
            return None
        if node is not None and node.metadata.uid == uid:
            self._absent_since.pop(uid, None)
            return None
        return self._absent_since.setdefault(uid, self._clock.monotonic())

    async def _refuse_spec(self, stored: Body, error: ValidationError) -> None:
        """Reports in the conditions that the stored spec cannot be read; does nothing else."""
        words = "; ".join(str(fault) for fault in shape_faults(error))[:1024]
        log.error("spec_unreadable", problem=words)
        now = self._market.now()
        generation = int(stored["metadata"].get("generation", 0))
        verdicts = (("Ready", "False"), ("Reconciling", "False"), ("Stalled", "True"))
        conditions = [
            Condition(
                type=kind,
                status=flag,
                reason=Reason.SPEC_INVALID,
                message=words,
                observed_generation=generation,
                last_transition_time=now,
            ).wire()
            for kind, flag in verdicts
        ]
        status = stored.get("status") or {}
        old: Body = next((c for c in status.get("conditions", []) if c["type"] == "Stalled"), {})
        if old.get("message") != words:
            status = {**status, "conditions": conditions, "observedGeneration": generation}
            await self._cache.write_status("GpuJob", stored, status)

    async def _act_on_job(self, effect: effects.Effect, key: Key, stored: Body) -> None:
        match effect:
            case effects.AddFinalizer():
                await self._add_finalizer("GpuJob", stored)
            case effects.RemoveFinalizer(finished_as):
                noted = {ANNOTATION_FINISHED: finished_as} if finished_as else {}
                await self._remove_finalizer("GpuJob", stored, noted)
            case effects.DeleteJob():
                uid = stored["metadata"]["uid"]
                await self._cache.delete(key, uid)
                log.info("job_deleted")
            case effects.DeleteFormerNode(name, uid):
                await self._cache.delete(Key("GpuNode", key.namespace, name), uid)
                log.info("former_node_deleted", node=name)
            # If there is one of this name already, the next pass sees whose it is.
            case effects.CreateNode(manifest):
                meta, labels = manifest["metadata"], stored["metadata"].get("labels") or {}
                node = Key("GpuNode", key.namespace, meta["name"])
                # In one go with the plan, so that the next job's knows of it.
                said = parse_usd(manifest["spec"]["reservedUSD"])
                self._budgets.expect(node, labels, said)
                try:
                    await self._cache.create("GpuNode", key.namespace, manifest)
                except BaseException:
                    self._budgets.expect_no_more(node)
                    raise
                log.info("node_created", node=manifest["metadata"]["name"])
            case effects.FollowInBudgets(name, uid):
                await self._follow(Key("GpuNode", key.namespace, name), uid)
            case effects.CreateService(manifest):
                await self._kube.create("Service", key.namespace, manifest)
                log.info("service_created", service=manifest["metadata"]["name"])
            case _:
                raise AssertionError(f"{effect} is not an effect of a job")

    async def _follow(self, node: Key, uid: str) -> None:
        await self._budgets.follow(node, uid)
        # What the node and its job are told next hangs on what came of it.
        self._queue.add(node)

    # --- GpuNode ----------------------------------------------------------------------------

    async def _node(self, key: Key) -> _Pass | None:
        seen, reads = await self._plan_node(key, self._cache.find), _Reads(self._cache, key)
        if seen is not None and _rent_in(seen.plan) is not None:
            return await self._rent(key, seen)
        if seen is not None and _needs_quorum(seen):
            seen = await self._plan_node(key, reads.now)
        if seen is not None and seen.plan.comes_before_storing:
            for effect in seen.plan.effects:
                await self._try(
                    key, effect, self._act_on_node(effect, key, seen.before, seen.stored)
                )
            seen = await self._plan_node(key, reads.again)
        if seen is None:
            self._refusals.pop(key, None)
            self._nothing_unsaid(key)
            return None
        if _rent_in(seen.plan) is not None:
            # Only what is stored shows that this node may rent; that has to wait for its turn.
            self._queue.add(key)
            return None
        todo, node = seen.plan.effects, seen.settled.observation.node
        is_decided = node.status == seen.before.status and node.status.end is not None
        if _only_gives_back(seen) and is_decided:
            # This was decided when the end was stored; the status only gets new figures now.
            for effect in todo:
                await self._try(key, effect, self._act_on_node(effect, key, node, seen.stored))
            todo = ()
        asks_market = seen.plan.wants_quotes
        stored = await self._store(key, seen.stored, seen.after, asks_market=asks_market)
        if is_change := stored is not seen.stored:
            self._tell_of_node(seen)
        for effect in todo:
            await self._try(key, effect, self._act_on_node(effect, key, node, stored))
        return self._passed(key, seen, is_change=is_change)

    def _passed(self, key: Key, seen: _Planned[NodeObservation], *, is_change: bool) -> _Pass:
        uid = seen.before.metadata.uid
        if seen.after.rent is not None or seen.after.end is not None:
            # If the watch was behind, the driver was asked once more than needed.
            self._logins.pop(uid, None)
        self._requeue(key, seen.plan)
        stage = seen.settled.observation.stage
        return _Pass(uid=uid, stage=stage, plan=seen.plan, is_change=is_change)

    async def _plan_node(self, key: Key, read: Read) -> _Planned[NodeObservation] | None:
        stored = await read(key)
        if stored is None:
            return None
        node = self._readings.read(GpuNode, key, stored)
        self._profiles.see(node)
        bind_contextvars(job=node.spec.job_ref.name, attempt=node.spec.attempt)
        observation = await self._observe_node(key, node, read)
        settled = settle_node(observation)
        if settled.plan.wants_budgets:
            budgets = await self._nodes_budgets(node, read)
            seen = replace(settled.observation, world=self.world(), budgets=budgets)
            settled = _after(settled, settle_node(seen))
        if settled.plan.wants_quotes and observation.job is not None:
            spec, place = observation.job.spec, key.namespace
            quotes = self._prices.quotes(spec, namespace=place, key=key, is_ready=True)
            seen = replace(settled.observation, world=self.world(), quotes=quotes)
            settled = _after(settled, settle_node(seen))
        return _Planned(stored, node, settled)

    async def _nodes_budgets(self, node: GpuNode, read: Read) -> tuple[Book, ...] | None:
        try:
            return await self._budgets_by(read, node.metadata.namespace)
        except NotServed:
            if node.status.released_at is None:
                raise
            # Whoever has deleted the kind keeps no node by that: nothing is reserved any more.
            return ()

    async def _observe_node(self, key: Key, node: GpuNode, read: Read) -> NodeObservation:
        uid = node.metadata.uid
        job_key = Key("GpuJob", key.namespace, node.spec.job_ref.name)
        job_body = await read(job_key, node.spec.job_ref.uid)
        job, job_problem = self._job_of(node, job_key, job_body)
        pod_name = driver_pod_name(key.name, node.status.pod_number)
        pod_body = await read(Key("Pod", key.namespace, pod_name))
        is_taken = pod_body is not None and not is_owned_by(pod_body, uid)
        pod = pod_from(pod_body) if pod_body is not None and not is_taken else None
        memory = self._memories.get(uid, NodeMemory())
        now = self._clock.monotonic()
        if memory.watched_since is None:
            memory = replace(memory, watched_since=now)
        if stage_of(node.status).may_hold_machine and memory.marker_seen_at is None:
            memory = replace(memory, marker_seen_at=now)
        memory = replace(memory, pod_sight=sighted(memory.pod_sight, pod, now))
        if stage_of(node.status) not in UNREADY:
            memory = replace(memory, unready_since=None)
        elif memory.unready_since is None:
            memory = replace(memory, unready_since=now)
        if pod is not None:
            memory = replace(memory, pod_missing_since=None)
        elif self._readiness.problem is not None or (
            memory.pod_missing_since is None and node.status.ssh_public_key is not None
        ):
            # While the operator itself is not ready, a missing pod does not end an attempt.
            memory = replace(memory, pod_missing_since=now)
        world = self.world()
        listing = world.listings[-1] if world.listings else None
        mark = Mark(self._cluster_id, uid, node.spec.job_ref.uid)
        denied = denied_since(memory.denied_since, node, mark, listing)
        memory = replace(memory, denied_since=denied)
        if node.status.released_at is None:
            self._memories[uid] = memory
        return NodeObservation(
            world=world,
            node=node,
            job=job,
            job_problem=job_problem,
            pod=pod,
            report=self._report(uid, pod),
            driver_silence_seconds=self._driver_silence(uid, pod, memory),
            unheard_seconds=self._unheard(uid, memory),
            taken_name=pod_name if is_taken else "",
            refusals=self._refusals.get(key, {}),
            has_login=uid in self._logins,
            memory=memory,
        )

    def _job_of(self, node: GpuNode, key: Key, body: Body | None) -> tuple[GpuJob | None, str]:
        """Returns a node's job; or None, and why it cannot be read although it is stored."""
        if body is None:
            return None, ""
        try:
            return self._readings.read(GpuJob, key, body), ""
        except ValidationError as error:
            meta = body["metadata"]
            if meta["uid"] != node.spec.job_ref.uid or "deletionTimestamp" in meta:
                return None, ""
            faults = "; ".join(str(fault) for fault in shape_faults(error))
            return None, f"GpuJob {key.name} cannot be read: {faults}"[:1024]

    def _report(self, uid: str, pod: Pod | None) -> DriverReport | None:
        """Returns the last report of this pod.

        The time since then adds to that without copied files; what a machine does is not known.
        """
        heard = self._heard.get(uid)
        if heard is None or pod is None or heard.pod_uid != pod.uid:
            return None
        if (idle := heard.report.copy_idle_seconds) is None:
            return heard.report
        silence = self._clock.monotonic() - heard.at
        return heard.report.model_copy(update={"copy_idle_seconds": idle + silence})

    def _driver_silence(self, uid: str, pod: Pod | None, memory: NodeMemory) -> float:
        if pod is None or memory.pod_sight is None:
            return 0.0
        heard, since = self._heard.get(uid), memory.pod_sight.since
        if heard is not None and heard.pod_uid == pod.uid:
            since = max(since, heard.at)
        return self._clock.monotonic() - since

    def _unheard(self, uid: str, memory: NodeMemory) -> float:
        if memory.watched_since is None:
            return 0.0
        heard, since = self._heard.get(uid), memory.watched_since
        return self._clock.monotonic() - (since if heard is None else max(since, heard.at))

    async def _rent(self, key: Key, planned: _Planned[NodeObservation]) -> _Pass | None:
        """Opens the connection, decides anew, stores the marker, sends the one request.

        Rents go one at a time, at the provider's pace. Returns None if it is not this node's turn,
        or if it is not to rent any more: only what comes before the rent is stored then, and a
        later pass decides anew.
        """
        uid = planned.before.metadata.uid
        if wait := self._door.rent_wait(uid, key.namespace):
            if earlier := planned.settled.statuses[:-1]:
                first = replace(planned, settled=replace(planned.settled, statuses=earlier))
                if await self._store(key, first.stored, first.after) is not first.stored:
                    self._tell_of_node(first)
            self._queue.add_after(key, wait)
            return None
        try:
            await self._see_all()
            async with self._vast.rent_line() as line:
                # The request has to leave soon after its decision, and to open a line takes time.
                seen = await self._plan_node(key, self._cache.read)
                request = _rent_in(seen.plan) if seen is not None else None
                if seen is None or request is None or self._prices.is_taken(request.offer_id):
                    self._queue.add(key)
                    return None
                return await self._rent_now(key, seen, line, request)
        finally:
            self._door.rent_over(uid)

    async def _see_all(self) -> None:
        """Lists, before this process's first rent, all that leaders before it have stored: what
        these have asked for counts against the caps, and the watch may not have shown it yet.
        """
        if self._has_seen_all:
            return
        for kind in ("GpuNode", "GpuJob"):
            async for page in self._cache.listed(kind):
                for body in page:
                    self._cache.take_in(kind, body, gone=False)
        self._has_seen_all = True

    async def _rent_now(
        self, key: Key, seen: _Planned[NodeObservation], line: RentLine, request: effects.Rent
    ) -> _Pass:
        uid, after = seen.before.metadata.uid, seen.after
        if after.rent is None or line.account_id != after.rent.account_id:
            # Nothing has been stored, so a later pass may still rent for this node.
            raise RentWithheld(f"the API key now belongs to account {line.account_id}")
        if not self._lock.is_held_for(self._settings.limits.rent_not_after_seconds):
            raise RentWithheld("the leader lock may be lost before the request is sent")
        task = asyncio.current_task()
        self.renting.add(task)
        try:
            await self._store(key, seen.stored, after)
            self._tell_of_node(seen)
            self._remember(uid, marker_seen_at=self._clock.monotonic())
            self._prices.take(request.offer_id, after.rent.machine_id)
            log.info("rent_requested", offer=request.offer_id, fuse_usd=after.rent.fuse_usd)
            login = self._logins.pop(uid, None)
            self._remember(uid, rent=await self._send(line, request, login))
        finally:
            self.renting.discard(task)
        return self._passed(key, seen, is_change=True)

    async def _send(
        self, line: RentLine, request: effects.Rent, login: RegistryLogin | None
    ) -> RentAccepted | RentRefused | RentUnanswered:
        try:
            if request.needs_login and login is None:
                raise RentWithheld("the login for the image's registry is not here any more")
            number = await line.send(request, self._settings.limits.rent_timeout_seconds, login)
        except RentUnclear as error:
            log.warning("rent_unanswered", problem=str(error))
            return RentUnanswered(str(error))
        except (RentDenied, RentWithheld) as error:
            log.warning("not_rented", reason=error.reason, problem=str(error))
            if error.reason is Reason.CREDIT_EXHAUSTED:
                self._market.credit_refused()
            if error.reason is not Reason.OFFER_GONE:
                self._prices.give_back(request.offer_id)
            return RentRefused(error.reason, str(error))
        log.info("rent_accepted", instance=number)
        return RentAccepted(number)

    async def _act_on_node(
        self, effect: effects.Effect, key: Key, node: GpuNode, stored: Body
    ) -> None:
        uid = node.metadata.uid
        match effect:
            case effects.CreateKey():
                await self._create_key(key, node)
            case effects.CreateDriver(manifest):
                await self._cache.create("Pod", key.namespace, manifest)
            case effects.FollowInBudgets():
                await self._follow(key, uid)
            case effects.DeleteDriver(name, pod_uid):
                await self._cache.delete(Key("Pod", key.namespace, name), pod_uid)
            # A pass that waited at the door for these would hold up all others, so it comes again.
            case effects.ReadHostKey(instance_id, nonce):
                if self._door.is_free(Kind.LOG):
                    await self._read_host_key(uid, instance_id, nonce)
            case effects.AttachKey(instance_id, public_key):
                if self._door.is_free(Kind.KEY):
                    await self._attach_key(uid, instance_id, public_key)
            case effects.Destroy(instance_ids):
                self._destroy(node, instance_ids)
            case effects.RememberDestroy(record):
                await self._machines.remember_destroy(record)
            case effects.RecordUnfit(reason, paid_seconds):
                self.unfit_paid_seconds[reason].append(paid_seconds)
            case effects.RememberMachine(trial):
                await self._machines.remember(trial)
            case effects.RememberStay(stay):
                await self._machines.remember_stay(stay)
            case effects.RememberImage(image_trial):
                await self._machines.remember_image(image_trial)
            case effects.StartMachine(instance_id):
                await self._start_machine(instance_id)
            case effects.RemoveFinalizer():
                await self._remove_finalizer("GpuNode", stored)
                self._memories.pop(uid, None)
                log.info("node_released")
            case effects.DeleteNode():
                await self._cache.delete(key, uid)
            case _:
                raise AssertionError(f"{effect} is not an effect of a node")

    async def _create_key(self, key: Key, node: GpuNode) -> None:
        """Makes the node's key. It replaces one that was made before but not recorded."""
        private = Ed25519PrivateKey.generate()
        name, labels = key_secret_name(node), self.world().copied_labels(node.metadata)
        text = private.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()).decode()
        secret = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {
                "name": name,
                "namespace": key.namespace,
                "labels": {**labels, LABEL_MANAGED_BY: MANAGER},
                "ownerReferences": [owned_by(node)],
            },
            "type": "gpujob.dev/ssh-key",
            "immutable": True,
            "stringData": {KEY_FILE: text},
        }
        try:
            await self._kube.create("Secret", key.namespace, secret)
        except Conflict:
            await self._kube.delete("Secret", key.namespace, name)
            await self._kube.create("Secret", key.namespace, secret)
        public = private.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
        self._remember(node.metadata.uid, public_key=public)

    async def _read_host_key(self, uid: str, instance_id: int, nonce: str) -> None:
        text = await self._vast.read_log(instance_id)
        if text is None:
            return
        try:
            found = host_key_in_log(text, nonce)
        except ValueError as error:
            log.warning("host_key_ambiguous", instance=instance_id, problem=str(error))
            return
        if found is not None:
            self._remember(uid, host_key=found)
            return
        said, digest = missing_server(text) or "", hash(text)
        before = self._memories.get(uid, NodeMemory()).boot_log
        if before is None or before.digest != digest:
            # What a stranger's machine says is shown to users.
            shown = in_words(Scrubber().foreign(said), SAID_LENGTH_MAX)
            log_now = BootLog(digest, self._clock.monotonic(), shown)
            self._remember(uid, boot_log=log_now)

    async def _attach_key(self, uid: str, instance_id: int, public_key: str) -> None:
        tries = self._memories.get(uid, NodeMemory()).key_tries
        self._remember(uid, key_tried_at=self._clock.monotonic(), key_tries=tries + 1)
        try:
            await self._vast.attach_key(instance_id, public_key)
        except ProviderError as error:
            # The start script has put the key there, too; it is tried again later.
            log.warning("key_not_attached", instance=instance_id, problem=str(error))
            return
        log.info("key_attached", instance=instance_id)
        self._remember(uid, key_attached_at=self._market.now())

    async def _start_machine(self, instance_id: int) -> None:
        """Tells a machine to run. That can cost money, so only a leader that stays one does it."""
        if not self._lock.is_held_for(self._settings.limits.rent_not_after_seconds):
            log.warning("start_withheld", instance=instance_id)
            return
        log.info("start_requested", instance=instance_id)
        try:
            await self._vast.start(instance_id)
        except ProviderError as error:
            # Listings will show whether it runs; it is not told again.
            log.warning("start_unclear", instance=instance_id, problem=str(error))

    def _destroy(self, node: GpuNode, instance_ids: tuple[int, ...]) -> None:
        uid, now = node.metadata.uid, self._clock.monotonic()
        if node.status.end is not None:
            # Until then only duplicates are destroyed, which says nothing of the machine itself.
            if self._memories[uid].destroy_sent_at is None:
                self._remember(uid, destroy_sent_at=now, destroy_asked_at=self._market.now())
            self._remember(uid, destroy_repeated_at=now)
        for number in instance_ids:
            log.info("destroy_requested", instance=number)
            self._to_destroy.ask(number)

    # --- Both -------------------------------------------------------------------------------

    async def _try(self, key: Key, effect: effects.Effect, made: Coroutine[Any, Any, None]) -> None:
        """Carries out an effect. What the cluster says against it is told by the next pass, and it
        is tried again when its time has come.
        """
        known, kind = self._refusals.get(key, {}), type(effect)
        try:
            await made
        except ClusterError as error:
            found = self._refused(known.get(kind), error)
            self._refusals[key] = {**known, kind: found}
            log.warning("effect_refused", **vars(key), effect=kind.__name__, problem=found.words)
            self._queue.add(key)
        else:
            if kind in known:
                self._refusals[key] = {one: held for one, held in known.items() if one != kind}

    def _refused(self, before: Refusal | None, error: ClusterError) -> Refusal:
        return refused(
            before,
            # A webhook of a stranger may say anything.
            in_words(Scrubber().foreign(error.said), REFUSED_LENGTH_MAX),
            may_pass=not isinstance(error, Forbidden | Invalid),
            now=self._clock.monotonic(),
        )

    async def _store(
        self,
        key: Key,
        stored: Body,
        after: GpuJobStatus | GpuNodeStatus,
        *,
        asks_market: bool = False,
    ) -> Body:
        """Writes the status if it differs, on exactly this version; returns what is stored then.

        Other words for the same facts are written only once the stored ones have been outdated for
        a while, and figures at a pace that does not grow with the number of machines. What is known
        while the market is asked (`asks_market`) waits for its answer, if that comes at once.
        """
        wire = after.wire()
        if wire == stored.get("status"):
            self._nothing_unsaid(key)
            return stored
        before, now = stored.get("status") or {}, self._clock.monotonic()
        if only_words_differ(before, wire):
            since = self._unsaid_since.setdefault(key, now)
            left = self._settings.limits.words_seconds - (now - since)
        elif asks_market:
            left = ASKING_SECONDS - (now - self._asking_since.setdefault(key, now))
        elif key.kind == "GpuNode" and only_figures_differ(before, wire):
            left = self._figures_turn(key, now) - now
        else:
            left = 0.0
        if left > 0:
            self._queue.add_after(key, left)
            return stored
        body = await self._cache.write_status(key.kind, stored, wire)
        # Not before: a write that is refused backs off by itself.
        self._nothing_unsaid(key)
        return body

    def _nothing_unsaid(self, key: Key) -> None:
        for waiting in (self._unsaid_since, self._asking_since, self._figures_at):
            waiting.pop(key, None)

    def _tell_unfinished(self, key: Key, error: ClusterError) -> None:
        """Records, once, why the passes over an object cannot be finished: no condition can."""
        self._unfinished[key] = held = self._refused(self._unfinished.get(key), error)
        # An API server that is down for a while fails the passes over all objects.
        patience = UNFINISHED_SECONDS if held.may_pass else 0.0
        is_early = self._clock.monotonic() - held.since < patience
        if key in self._unfinished_told or is_early or (uid := self._cache.uid(key)) is None:
            return
        self._unfinished_told.add(key)
        about: Body = {
            "apiVersion": API_VERSION,
            "kind": key.kind,
            "metadata": {"name": key.name, "namespace": key.namespace, "uid": uid},
        }
        words = f"its status could not be decided or stored: {held.words}; it is tried again"
        self._events.tell(about, Reason.CLUSTER_REFUSED, words)

    def _figures_turn(self, key: Key, now: float) -> float:
        """Returns when the figures of a node may be stored, monotonic: in the order of asking."""
        if key not in self._figures_at:
            self._figures_last = max(now, self._figures_last + 1 / FIGURES_PER_SECOND)
            self._figures_at[key] = self._figures_last
        return self._figures_at[key]

    def _tell_of_node(self, seen: _Planned[NodeObservation]) -> None:
        """Records the end of an attempt and its release on the node, everything else on its job."""
        node, job = seen.before, seen.settled.observation.job
        limit = seen.after.contract_limit
        if job is not None and limit is not None and limit != node.status.contract_limit:
            self._record("GpuJob", job, Reason.CONTRACT_TOO_SHORT, limit.message)
        if seen.plan.refused and not tells_of_refusal(node.status.conditions):
            kind = "GpuNode" if job is None else "GpuJob"
            self._record(kind, job or node, Reason.CLUSTER_REFUSED, seen.plan.refused)
        before = node.status
        for after in seen.settled.statuses:
            if before.end is None and after.end is not None:
                self._record("GpuNode", node, Reason(after.end.reason), after.end.message)
            elif before.released_at is None and after.released_at is not None:
                words = f"the machine is gone; the attempt cost at most ${after.accrued_usd}"
                if after.lease is None and not parse_usd(after.accrued_usd or "0"):
                    words = "nothing was rented"
                self._record("GpuNode", node, Reason.RELEASED, words)
            elif job is not None:
                self._tell(job, before.conditions, after.conditions)
            before = after

    def _tell(
        self, job: GpuJob, before: tuple[Condition, ...], after: tuple[Condition, ...]
    ) -> None:
        """Records an event on the job if its new reason is one that a person should know."""
        old, new = _ready(before), _ready(after)
        if new is None or (old is not None and old.reason == new.reason):
            return
        reason = Reason(new.reason)
        # What the cluster refuses is told where it is found out, once.
        if reason.kind.is_told and reason is not Reason.CLUSTER_REFUSED:
            self._record("GpuJob", job, reason, new.message)

    def _record(self, kind: str, about: GpuJob | GpuNode, reason: Reason, note: str) -> None:
        meta = about.metadata
        regarding: Body = {
            "apiVersion": API_VERSION,
            "kind": kind,
            "metadata": {"name": meta.name, "namespace": meta.namespace, "uid": meta.uid},
        }
        self._events.tell(regarding, reason, note)

    async def _add_finalizer(self, kind: str, stored: Body) -> None:
        held = stored["metadata"].get("finalizers", [])
        await self._cache.set_finalizers(kind, stored, [*held, FINALIZER])

    async def _remove_finalizer(
        self, kind: str, stored: Body, annotations: Mapping[str, str] | None = None
    ) -> None:
        kept = [name for name in stored["metadata"].get("finalizers", []) if name != FINALIZER]
        await self._cache.set_finalizers(kind, stored, kept, annotations)

    def _requeue(self, key: Key, plan: Plan[Any]) -> None:
        if plan.requeue_seconds is not None:
            self._queue.add_after(key, plan.requeue_seconds)

    def _remember(self, uid: str, **facts: Any) -> None:
        self._memories[uid] = replace(self._memories.get(uid, NodeMemory()), **facts)


def _after(first: Settled[Seen], then: Settled[Seen]) -> Settled[Seen]:
    """Returns what was planned with prices, after what was planned before they were asked for."""
    return replace(then, statuses=(*first.statuses[:-1], *then.statuses))


def _only_gives_back(seen: _Planned[NodeObservation]) -> bool:
    """Whether a plan only destroys the machine of an attempt whose end is stored, or is before.

    That end is never taken back, so no newer reading could show anything else.
    """
    is_over = seen.after.end is not None
    return is_over and all(isinstance(one, effects.Destroy) for one in seen.plan.effects)


def _needs_quorum(seen: _Planned[NodeObservation]) -> bool:
    return (bool(seen.plan.effects) and not _only_gives_back(seen)) or _says_more(seen)


def _reserves_other(seen: _Planned[JobObservation]) -> bool:
    """Whether less is to be recorded for an attempt, or more: what was reserved anew is never taken
    back, and by what is recorded its machine is told how long it may run.

    Quorum reads that are later than the job's version show what its node has reserved since, and
    what the budgets hold.
    """
    before, after = seen.before.status, seen.after
    if before.node_uid is None or before.node_uid != after.node_uid:
        return False
    told = [parse_usd(one.node_reserved_usd or "0") for one in (before, after)]
    return told[1] != told[0]


def _says_more(seen: _Planned[NodeObservation]) -> bool:
    """Whether a node is to say that it may cost more: only if the budgets, as they are stored, hold
    what it says now.
    """
    return parse_usd(seen.after.reserved_usd or "0") > parse_usd(seen.before.reserved_usd)


def _rent_in(plan: Plan[Any]) -> effects.Rent | None:
    return next((todo for todo in plan.effects if isinstance(todo, effects.Rent)), None)


def _node_in(plan: Plan[Any]) -> effects.CreateNode | None:
    return next((todo for todo in plan.effects if isinstance(todo, effects.CreateNode)), None)


def _ready(conditions: tuple[Condition, ...]) -> Condition | None:
    return next((condition for condition in conditions if condition.type == "Ready"), None)
