"""The operator's replicas in the model world, and the invariants that are checked at every step.

The operator's own code runs unchanged: core, reconcile, queue, market watch, sweep, leader lock.
"""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from decimal import Decimal
from fractions import Fraction
from functools import partial
from typing import Any

from pydantic import SecretStr
from tests.simulation.model import (
    ACCOUNT,
    Chance,
    ModelDrivers,
    ModelKube,
    ModelProvider,
    VirtualLoop,
    matches,
    shown,
)
from tests.simulation.process import (
    CLOCK_WRONG_SECONDS,
    DATE_STEPS_SECONDS,
    FAULTS,
    SWAPPED_SECONDS,
    WATCH_BAD_SECONDS,
    WATCH_LAGS_SECONDS,
    Broken,
    Calls,
    Process,
)
from tests.simulation.watch import Watch, Weather

from gpujob.adapters.errors import AdapterError, ClusterError
from gpujob.adapters.provider import Provider
from gpujob.api.gpubudget import GpuBudget
from gpujob.api.gpujob import GpuJob
from gpujob.api.meta import FINALIZER
from gpujob.api.transport import RegistryLogin
from gpujob.controller.budget_book import BudgetBook
from gpujob.controller.cache import OPEN, SELECTED, WATCHED, Cache
from gpujob.controller.destroys import Destroys
from gpujob.controller.events import Events
from gpujob.controller.fuse_guard import guard_fuses
from gpujob.controller.lead import RESYNC_SECONDS, look_at_closed, resync
from gpujob.controller.leader_lock import LeaderLock, LockLost
from gpujob.controller.machine_book import MachineBook
from gpujob.controller.market_watch import MarketWatch
from gpujob.controller.price_watch import PriceWatch
from gpujob.controller.profile_book import ProfileBook
from gpujob.controller.readiness import Readiness
from gpujob.controller.reconcile import Reconciler
from gpujob.controller.settings import Settings
from gpujob.controller.sweep import Sweep
from gpujob.controller.workqueue import Key, Lane, WorkQueue, orders
from gpujob.core import settling
from gpujob.core.job.end import is_finished
from gpujob.core.limits import Limits
from gpujob.core.market.listings import Mark
from gpujob.core.node.answers import NodePlan
from gpujob.core.node.news import has_news
from gpujob.core.node.plan import plan_node
from gpujob.core.node.stage import NEXT, stage_of
from gpujob.core.observation import NodeObservation
from gpujob.core.rest import rest_seconds
from vastsim.ledger import decimal
from vastsim.market import Lease, Market, Timing
from vastsim.offers import Facts, read_market

REPLICAS = 2
FIELDS = dict.fromkeys(SELECTED, OPEN)
UNLED_STEPS = 3
"""One that wakes up needs a moment to see that it was outlived."""
CLUSTER = "cluster"
NAMESPACE = "team"
CEILING = "6.00"
STEP_SECONDS = 2.0
SHUTDOWN_SECONDS = 5.0
"""From the loss of the lock to the end of the process."""
RESTART_SECONDS = 5.0
"""From the crash of a replica to its next start."""


def _planned(seen: NodeObservation) -> NodePlan:
    """Plans; fails unless the table of a node's stages has this step: it is what the docs show."""
    plan = plan_node(seen)
    old, new = seen.stage, stage_of(plan.status)
    assert new is old or new in NEXT[old], f"{old} was followed by {new}"
    return plan


setattr(settling, plan_node.__name__, _planned)

MARKET = read_market()
"""What every world begins with: nothing in it can change."""

SETTINGS = Settings(
    vast_api_key=SecretStr("token"),
    driver_image="image",
    transport_url="https://controller",
    namespace="system",
    pod_name="gpujob",
    pod_ips="192.0.2.1",
    limits=Limits(max_usd_per_hour="100", outbid_patience_seconds=240, closed_after_seconds=60),
)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What came of one simulated world."""

    problem: str = ""
    """What broke; empty = nothing."""
    again: str = ""
    """The command that plays it again."""
    ownerless_seconds: float = 0.0
    unwanted_seconds: float = 0.0
    over_fuse_usd: float = 0.0
    calls: int = 0
    met: Counter[str] = field(default_factory=Counter)
    """How often each kind of event truly happened in it."""


class Operator:
    """One life of a replica's process: what it remembers ends with it."""

    def __init__(
        self,
        kube: ModelKube,
        vast: Provider,
        drivers: ModelDrivers,
        process: Process,
        identity: str,
        settings: Settings,
        met: Counter[str],
        weather: Weather,
        learns: bool,
    ) -> None:
        self._learns = learns
        clock, limits = process.clock, settings.limits
        self._limits = limits
        self.logins: dict[str, RegistryLogin] = {}
        self.process = process
        self._objects = kube
        self._kube = kube = process.view(kube)
        self._cache = Cache(kube, self.nudge, self._rest_seconds)
        self._watches = {
            kind: Watch(kind, self._watched, process, weather, self._on_event, met)
            for kind in WATCHED
        }
        self.queue = WorkQueue(self._cache.place_of)
        self._vast = vast = process.view(vast)
        self.lock = LeaderLock(kube, clock, settings, identity=identity)
        self.readiness = readiness = Readiness()
        door = process.door
        self._market = MarketWatch(vast, clock, limits, readiness, self._on_listing)
        self._prices = PriceWatch(vast, clock, limits, self.queue.add)
        self._destroys = Destroys(vast, clock)
        self._events = Events(kube, instance=identity)
        self._machines = MachineBook(kube, settings)
        self.profiles = ProfileBook(kube, settings, self._market.now)
        self._budgets = BudgetBook(kube, self._cache, self._market.now)
        self._reconciler = Reconciler(
            kube=kube,
            cache=self._cache,
            vast=vast,
            market=self._market,
            prices=self._prices,
            destroys=self._destroys,
            events=self._events,
            door=door,
            clock=clock,
            settings=settings,
            cluster_id=CLUSTER,
            queue=self.queue,
            heard=drivers.heard,
            lock=self.lock,
            machines=self._machines,
            profiles=self.profiles,
            budgets=self._budgets,
            readiness=readiness,
            logins=self.logins,
            authorities=lambda: "authorities",
        )
        self._sweep = Sweep(settings, clock, CLUSTER, door, self._market.take)
        self._sweep.fields = OPEN
        self._listed = asyncio.Event()
        self._life = asyncio.create_task(self._live())
        self._tasks: list[asyncio.Task[None]] = []
        self._sweeps: list[asyncio.Task[None]] = []

    async def _live(self) -> None:
        await self.lock.acquire()
        await self._machines.load()
        todo = [self._market.run(), self._prices.run(), self._destroys.run(), self._machines.run()]
        todo += [self._resync(), self._events.run(), self.lock.hold(), self._look_for_strays()]
        todo += [look_at_closed(self._cache, self.queue), self._budgets.run()]
        todo += [self.profiles.run()] if self._learns else []
        todo += [watch.run() for watch in self._watches.values()]
        todo += [self._work(lanes) for lanes in orders(3)]
        self._tasks = [asyncio.create_task(one) for one in todo]
        self._sweeps = [asyncio.create_task(self._sweep.run(self._kube, self._vast))]
        try:
            await asyncio.gather(*self._tasks, *self._sweeps)
        except LockLost:
            # A process that stands does not even end: what it was about to do is done first.
            await self.process.here()
            await _end(self._tasks)
            await self._guard()
            # Its thread ends only with the process.
            await asyncio.sleep(SHUTDOWN_SECONDS)
            await _end(self._sweeps)

    async def _guard(self) -> None:
        """What the program does between the loss of its lock and its end."""
        self.process.is_guarding = True
        await guard_fuses(
            vast=self._vast,
            await_leader=self.lock.await_leader,
            limits=self._limits,
            cluster_id=CLUSTER,
            nodes=lambda: tuple(self._cache.nodes.values()),
            now=self._market.now,
            stop=asyncio.Event(),
        )
        await self.lock.release()

    def is_behind(self, besides: str) -> bool:
        """Whether it holds a node or a job, but for this one, not as it is stored."""
        nodes, jobs = self._cache.nodes, self._cache.jobs
        held = {uid: one.metadata.resource_version for uid, one in nodes.items()}
        held |= {uid: one.metadata.resource_version for uid, one in jobs.items()}
        held.pop(besides, None)
        return any(
            (stored := self._objects.by_uid(uid)) is None
            or stored["metadata"]["resourceVersion"] != version
            for uid, version in held.items()
        )

    def hold_late(self, body: dict[str, Any]) -> None:
        """Holds an object as it was, as if nothing had shown it since."""
        self._cache._bodies[key_of(body)] = body

    async def crash(self) -> None:
        """Ends it at whatever await it is."""
        self._life.cancel()
        await asyncio.gather(self._life, return_exceptions=True)
        await _end([*self._tasks, *self._sweeps])

    @property
    def acts(self) -> bool:
        """Whether it does a leader's work."""
        return any(not task.done() for task in self._tasks)

    @property
    def can_destroy(self) -> bool:
        """Whether it leads and nothing holds it."""
        process = self.process
        return self.lock.is_held and not process.is_stopped and not process.is_cut_off

    @property
    def has_ended(self) -> bool:
        """Whether it lost the lock and ended; raises what else it died of."""
        if self._life.done() and not self._life.cancelled():
            self._life.result()
        return self._life.done()

    def _on_listing(self) -> None:
        listings = self._market.listings
        self._sweep.show(listings[-1])
        self._market.judge_account(self._cache.nodes.values())
        for node in self._cache.nodes.values():
            if node.status.released_at is None and has_news(listings, node, cluster_id=CLUSTER):
                self.queue.add(Key("GpuNode", node.metadata.namespace, node.metadata.name))
        for key in self._cache.with_strays(listings[-1], CLUSTER):
            self.queue.add(key)
        self._listed.set()

    async def _look_for_strays(self) -> None:
        while True:
            await self._listed.wait()
            self._listed.clear()
            with suppress(ClusterError):
                async for key in self._cache.closed_with_strays():
                    self.queue.add(key)

    def nudge(self, key: Key) -> None:
        """Asks for a pass, as the report of a driver does."""
        self.queue.add(key)

    def _watched(self, kind: str) -> list[dict[str, Any]]:
        stored = self._objects.of_kind(kind)
        return [body for body in stored if matches(body, FIELDS.get(kind, ""))]

    def see(self, kind: str, body: dict[str, Any], gone: bool) -> None:
        """Sends it an event of its watch."""
        self._watches[kind].tell(body, gone=gone)

    def _on_event(self, kind: str, body: dict[str, Any], gone: bool) -> None:
        for key, seconds in self._cache.take_in(kind, body, gone):
            self.queue.add_after(key, seconds)

    def _rest_seconds(self, kind: str, body: dict[str, Any]) -> float | None:
        return rest_seconds(kind, body, now=self._market.now(), limits=self._limits)

    async def _resync(self) -> None:
        while True:
            await asyncio.sleep(RESYNC_SECONDS)
            await resync(self._cache, self.queue)

    async def _work(self, lanes: tuple[Lane, ...]) -> None:
        while (key := await self.queue.take(lanes)) is not None:
            failed = True
            try:
                await self._reconciler.reconcile(key)
                failed = False
            except AdapterError:
                pass
            finally:
                self.queue.done(key, failed=failed)


async def _end(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _ledger(budget: dict[str, Any]) -> dict[str, Decimal] | None:
    """Returns what a stored budget holds in US dollars, by node; None = it is not open."""
    status = budget.get("status") or {}
    if "openedAt" not in status:
        return None
    held = status["reservations"]
    return {one["nodeUID"]: Decimal(one["reservedUSD"]) for one in held}


def _name(body: dict[str, Any]) -> str:
    return f"{body['kind']} {body['metadata']['name']}"


def key_of(body: dict[str, Any]) -> Key:
    """Returns the queue's key of an object."""
    meta = body["metadata"]
    return Key(body["kind"], meta["namespace"], meta["name"])


class World:
    """Everything, and the invariants that are checked at every write and every step."""

    def __init__(
        self,
        chance: Chance,
        *,
        seed: int = 0,
        run_seconds: float = 60.0,
        exit_codes: tuple[int, ...] = (0,),
        calls: Calls | None = None,
        offers: tuple[Facts, ...] = MARKET,
        learns: bool = False,
        requires_budget: bool = False,
        **limits: Any,
    ) -> None:
        """`limits` take the place of those in SETTINGS; only a world that `learns` reads and writes
        GpuJobProfiles."""
        self._learns = learns
        self.chance = chance
        self.settings = replace(
            SETTINGS,
            limits=replace(SETTINGS.limits, **limits),
            requires_budget=requires_budget,
        )
        self.calls = calls or Calls()
        self.market = Market(offers, seed, Timing(list_lag=chance.list_lag))
        self.kube = ModelKube(chance)
        self.vast = ModelProvider(self.market, self.kube, chance)
        self.drivers = ModelDrivers(
            self.kube, self.vast, chance, self.settings.limits, run_seconds, exit_codes
        )
        self.kube.on_write.append(self._on_write)
        self.vast.leads = self._leads
        self.vast.problems = self.calls.problems
        self._unled: dict[int, int] = {}
        """For how many steps each replica has acted without the lock."""
        self.ahead_seconds = 0.0
        """How far the wall clock is ahead on whose machine a process starts."""
        self.twins: set[int] = set()
        """Machines that a rent request got besides another one."""
        self.weather = Weather()
        self.is_charged_late = False
        """Whether nobody could look for so long that a charge, a bound, may pass its ceiling."""
        self._lives = 0
        self._restarts: set[asyncio.Task[None]] = set()
        self.replicas: list[Operator] = []
        for _ in range(REPLICAS):
            self.replicas.append(self._replica())
        self._ceilings: dict[str, Fraction] = {}
        """US dollars that each job may cost, the most that its user ever allowed, by its uid."""
        self._within_caps: tuple[Limits, bool, list[Lease]] | None = None
        """Whose rates were found to be within the caps last."""
        self._settled: defaultdict[str, set[str]] = defaultdict(set)
        """The nodes that each budget, by its uid, has settled, by their uids."""
        self._spent: defaultdict[str, Decimal] = defaultdict(Decimal)
        """What each budget was charged, in US dollars, by its uid."""
        self._ownerless_since: dict[int, float] = {}
        self.longest_ownerless = 0.0
        """Seconds that a machine was leased without a live GpuNode, the longest of all."""
        self._unwanted: dict[int, float] = {}
        """Seconds in which a leader could have destroyed a machine whose attempt is over."""
        self.longest_unwanted = 0.0
        """The longest of all: from the stored end of an attempt to the end of its machine."""
        self.most_over_fuse = Fraction(0)
        """US dollars that a machine has cost beyond its fuse, the most of all."""

    def _replica(self) -> Operator:
        self._lives += 1
        process = Process(self.calls, self._on_crash, self._on_deed)
        process.clock.ahead_seconds = self.ahead_seconds
        name = f"replica-{self._lives}"
        return Operator(
            self.kube,
            self.vast,
            self.drivers,
            process,
            name,
            self.settings,
            self.chance.met,
            self.weather,
            self._learns,
        )

    def _leads(self, process: Process | None) -> bool:
        return any(one.process is process and one.lock.is_held for one in self.replicas)

    def _on_crash(self, process: Process) -> None:
        """A process asks to be killed where it stands."""
        number = next(n for n, one in enumerate(self.replicas) if one.process is process)
        task = asyncio.create_task(self.restart(number))
        self._restarts.add(task)
        task.add_done_callback(self._restarts.discard)

    def _on_deed(self, deed: str) -> None:
        """Somebody lays hands on the nodes, the token, the provider's clock or the watch."""
        if deed.startswith("watch"):
            self._spoil_watch(deed)
            return
        if deed in DATE_STEPS_SECONDS:
            self.vast.ahead_seconds = DATE_STEPS_SECONDS[deed]
            later = asyncio.get_running_loop().call_later
            later(CLOCK_WRONG_SECONDS, setattr, self.vast, "ahead_seconds", 0.0)
            return
        if deed == "account swapped":
            self.vast.account = ACCOUNT + 1
            back = asyncio.get_running_loop().call_later
            back(SWAPPED_SECONDS, setattr, self.vast, "account", ACCOUNT)
            return
        for body in self.kube.of_kind("GpuNode"):
            key = ("GpuNode", body["metadata"]["namespace"], body["metadata"]["name"])
            if deed == "node vanishes":
                self.kube.vanish(*key)
            else:
                self.kube.delete_now(*key)

    def _spoil_watch(self, deed: str) -> None:
        """Spoils it for a while: of which kinds, and how, depends on when."""
        first = len(self.calls.made) % len(WATCHED)
        kinds, weather = [*WATCHED][first:] + [*WATCHED][:first], self.weather
        later = asyncio.get_running_loop().call_later
        if deed == "watch interrupted":
            weather.interrupted.add(kinds[0])
            later(WATCH_BAD_SECONDS, weather.interrupted.discard, kinds[0])
            return
        for kind, seconds in zip(kinds, WATCH_LAGS_SECONDS, strict=True):
            weather.lag_seconds[kind] = seconds
            later(WATCH_BAD_SECONDS, weather.lag_seconds.__setitem__, kind, 0.0)

    async def restart(self, number: int, after_seconds: float = RESTART_SECONDS) -> None:
        """Kills a replica and starts its successor a while later."""
        killed = self.replicas[number]
        await killed.crash()
        await asyncio.sleep(after_seconds)
        if self.replicas[number] is killed:
            self.replicas[number] = self._replica()

    def tell(self, told: Callable[[Operator], None]) -> None:
        """Tells every replica what a driver does: late, never or twice, if chance says so."""
        loop = asyncio.get_running_loop()
        for replica in self.replicas:
            if self.chance.strikes(0.3):
                continue
            late = self.chance.strikes()
            if late or self.chance.strikes():
                loop.call_later(self.chance.between(0, 10), told, replica)
            if not late:
                told(replica)

    def living(self, text: str = CLUSTER) -> list[int]:
        """Returns the machines that are paid for and whose mark contains this."""
        return [
            lease.number
            for lease in self.market.leases.values()
            if lease.state != "destroyed" and text in (lease.ask.label or "")
        ]

    def usd_per_hour(self) -> Fraction:
        """Returns what the operator's living machines cost per hour while they run."""
        leases = [self.market.leases[number] for number in self.living()]
        return sum((x.gpu_usd_per_hour + x.storage_usd_per_hour for x in leases), Fraction(0))

    def rent_twin(self) -> int:
        """Rents again what the latest rent request asked for, as one that arrives twice does."""
        (number,) = self.living()
        lease = self.market.leases[number]
        offers = self.market.offers.items()
        offer = next(one for one, facts in offers if facts.gpu_name == lease.facts.gpu_name)
        twin = self.market.rent(offer, lease.ask, self.vast.now()).number
        self.twins.add(twin)
        return twin

    async def apply(self, name: str, namespace: str = NAMESPACE, /, **spec: Any) -> dict[str, Any]:
        """Creates a job as a user does, again and again if need be; returns it."""
        manifest = {
            "apiVersion": "gpujob.dev/v1alpha1",
            "kind": "GpuJob",
            "metadata": {"name": name},
            "spec": {
                "image": "image",
                "command": ["work"],
                "activeDeadlineSeconds": 1800,
                "gpu": {"models": ["RTX 4090"]},
                "cost": {"ceiling": CEILING},
                **spec,
            },
        }
        while True:
            with suppress(AdapterError):
                return await self.kube.create("GpuJob", namespace, manifest)
            if ("GpuJob", namespace, name) in self.kube.objects:
                return self.kube.objects["GpuJob", namespace, name]

    async def apply_budget(self, name: str, /, **spec: Any) -> None:
        """Creates a GpuBudget as an administrator does; of a month unless something else is said"""
        await self.kube.create(
            "GpuBudget",
            NAMESPACE,
            {
                "apiVersion": "gpujob.dev/v1alpha1",
                "kind": "GpuBudget",
                "metadata": {"name": name},
                "spec": {"limit": "100", "period": "Month", **spec},
            },
        )

    def budgets(self) -> dict[str, GpuBudget]:
        """Returns the budgets by name."""
        return {
            body["metadata"]["name"]: GpuBudget.model_validate(body)
            for body in self.kube.of_kind("GpuBudget")
        }

    async def step(self) -> None:
        """Lets the world go on for a moment, and checks it."""
        await asyncio.sleep(STEP_SECONDS)
        self.vast.advance()
        self.drivers.step()
        self.replicas = [self._replica() if self._is_due(one) else one for one in self.replicas]
        for uid in self.drivers.news():
            if (body := self.kube.by_uid(uid)) is not None:
                self.tell(partial(Operator.nudge, key=key_of(body)))
        self.check()

    def _is_due(self, replica: Operator) -> bool:
        return replica.has_ended and not replica.process.is_killed

    async def until(self, what: Callable[[], bool], seconds: float) -> None:
        """Steps until something holds; raises Broken if it takes longer."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while not what():
            if loop.time() > deadline:
                raise Broken(f"not within {seconds:.0f} s: {self.summary()}")
            await self.step()

    async def go_on(self, seconds: float) -> None:
        """Steps for some time."""
        end = asyncio.get_running_loop().time() + seconds
        while asyncio.get_running_loop().time() < end:
            await self.step()

    async def end(self) -> None:
        """Ends all processes."""
        for task in self._restarts:
            task.cancel()
        for replica in self.replicas:
            await replica.crash()

    def check(self) -> None:
        """The invariants of every moment."""
        if self.calls.problems:
            raise self.calls.problems[0]
        self._check_caps()
        self._check_jobs()
        self._check_held()
        leaders = [one for one in self.replicas if one.lock.is_held and not one.has_ended]
        if len(leaders) > 1:
            raise Broken("two replicas lead")
        for replica in self.replicas:
            alone = replica.acts and not replica.lock.is_held and not replica.process.is_stopped
            self._unled[id(replica)] = self._unled.get(id(replica), 0) + 1 if alone else 0
            if self._unled[id(replica)] > UNLED_STEPS:
                raise Broken("a replica goes on without the lock")
        now = asyncio.get_running_loop().time()
        nodes = {body["metadata"]["uid"]: body for body in self.kube.of_kind("GpuNode")}
        marks: set[str] = set()
        for lease in self.market.leases.values():
            number, label = lease.number, lease.ask.label or ""
            if number in self.vast.foreign:
                if lease.state == "destroyed":
                    raise Broken(f"{number} was not ours to destroy")
                continue
            if lease.state == "destroyed":
                self._ownerless_since.pop(number, None)
                continue
            if label in marks and number not in self.twins:
                raise Broken(f"two machines under the mark {label}")
            marks.add(label)
            mark = Mark.parse(label)
            status = nodes.get(mark.node_uid, {}).get("status", {}) if mark else {}
            if "rent" in status and "releasedAt" not in status:
                self._ownerless_since.pop(number, None)
                self._check_fuse(lease, status)
            else:
                since = self._ownerless_since.setdefault(number, now)
                self.longest_ownerless = max(self.longest_ownerless, now - since)
            if "end" in status and any(one.can_destroy for one in leaders):
                waited = self._unwanted.get(number, 0.0) + STEP_SECONDS
                self._unwanted[number] = waited
                self.longest_unwanted = max(self.longest_unwanted, waited)

    def _check_held(self) -> None:
        """Each budget that is open holds the fuse of each attempt that may cost money."""
        budgets = [one for one in self.kube.of_kind("GpuBudget") if _ledger(one) is not None]
        for body in self.kube.of_kind("GpuNode") if budgets else ():
            status, uid = body.get("status") or {}, body["metadata"]["uid"]
            if "rent" not in status or "releasedAt" in status:
                continue
            for budget in budgets:
                held = (_ledger(budget) or {}).get(uid, Decimal(0))
                if held < Decimal(status["rent"]["fuseUSD"]):
                    name = body["metadata"]["name"]
                    raise Broken(f"{_name(budget)} holds ${held} for {name}, less than its fuse")

    def _check_budget(self, body: dict[str, Any], before: dict[str, Any]) -> None:
        """What is taken fits within the limit, and what was held is charged at least its bill."""
        now, was = _ledger(body), _ledger(before)
        status, earlier = body.get("status") or {}, before.get("status") or {}
        if was is None or now is None or status == earlier:
            # It was opened, with whatever is under way; or an administrator has written it.
            self.chance.met["budget opened"] += was is None and now is not None
            return
        taken = [uid for uid in now if now[uid] > was.get(uid, Decimal(0))]
        spent, reserved = Decimal(status["spentUSD"]), Decimal(status["reservedUSD"])
        if taken and spent + reserved > Decimal(body["spec"]["limit"]):
            limit = body["spec"]["limit"]
            raise Broken(f"{_name(body)} holds ${reserved} and spent ${spent} of ${limit}")
        self.chance.met["reserved"] += len(taken)
        uid = body["metadata"]["uid"]
        for node in was.keys() - now.keys():
            if node in self._settled[uid]:
                raise Broken(f"{_name(body)} has settled {node} twice")
            self._settled[uid].add(node)
        self._spent[uid] = sum((Decimal(one["spentUSD"]) for one in status["history"]), Decimal(0))

    def _check_settled(self) -> None:
        """In the end nothing is held for what is over, and each budget was charged all bills."""
        for body in self.kube.of_kind("GpuBudget"):
            if not self.is_settled:
                raise Broken(f"{_name(body)} holds what is over: {_ledger(body)}")
            uid = body["metadata"]["uid"]
            billed = sum((self._billed(node) for node in self._settled[uid]), Fraction(0))
            # Each charge is in whole millionths.
            least = billed - Fraction(len(self._settled[uid]), 10**6)
            if Fraction(self._spent[uid]) < least:
                raise Broken(f"{_name(body)} was charged ${self._spent[uid]} of ${float(billed)}")

    @property
    def is_settled(self) -> bool:
        """Whether all that budgets hold is for attempts that may cost money yet."""
        under_way = {
            body["metadata"]["uid"]
            for body in self.kube.of_kind("GpuNode")
            if "releasedAt" not in (body.get("status") or {})
        }
        ledgers = [_ledger(body) for body in self.kube.of_kind("GpuBudget")]
        return all(one is not None and one.keys() <= under_way for one in ledgers)

    def _check_caps(self) -> None:
        """A leader that was stopped between marker and rent may overshoot them by one machine."""
        limits = self.settings.limits
        living = [self.market.leases[number] for number in self.living()]
        own = len(living)
        stops = any(name.startswith("stop") for name in self.calls.strikes.values())
        spare = stops or bool(self.chance.met["stopped"])
        if own > limits.max_leases + spare:
            raise Broken(f"{own} machines are leased, more than {limits.max_leases}")
        if self._within_caps == (limits, spare, living):
            # A lease is replaced when anything about it changes: these are the very ones.
            return
        rates = sorted(self._quoted_usd_per_hour(lease) for lease in living)
        if sum(rates[: own - spare], Fraction(0)) > Fraction(limits.max_usd_per_hour):
            raise Broken(f"{own} machines cost more an hour than {limits.max_usd_per_hour}")
        self._within_caps = (limits, spare, living)

    def _quoted_usd_per_hour(self, lease: Lease) -> Fraction:
        """Returns a machine's rate without what its host added after the quote."""
        marker = self.vast.markers.get(lease.number)
        rate = lease.gpu_usd_per_hour + lease.storage_usd_per_hour
        if marker is None:
            return rate
        return min(rate, Fraction(marker["gpuUSDPerHour"]) + Fraction(marker["diskUSDPerHour"]))

    def _check_jobs(self) -> None:
        """No job has cost more than its ceiling, and none has two machines at a time: whether it
        exists, was deleted, or was made again under the same name.

        Design, section 9, allows these exceptions, and they alone are made here:

        - A request that arrives twice rents twice (rule 4): such twins are played by hand, and are
          destroyed in every pass.
        - The machine of a job that was deleted by force, finalizer and all, is the sweep's (rule
          10): a job of the same name may rent meanwhile. It still has no second one itself.
        """
        costs: dict[str, Fraction] = {}
        holders: dict[str, int] = {}
        names: dict[tuple[str, str], int] = {}
        for lease in self.market.leases.values():
            mark = Mark.parse(lease.ask.label)
            if mark is None or mark.cluster_id != CLUSTER:
                continue
            uid = mark.job_uid
            costs[uid] = costs.get(uid, Fraction(0)) + self._most_usd(lease)
            if lease.state == "destroyed" or lease.number in self.twins:
                continue
            if (other := holders.setdefault(uid, lease.number)) != lease.number:
                raise Broken(f"{other} and {lease.number} are leased for one job")
            name = self.kube.names[uid]
            if uid in self.kube.forced:
                continue
            if (other := names.setdefault(name, lease.number)) != lease.number:
                raise Broken(f"{other} and {lease.number} are leased for jobs named {name}")
        for uid, most in costs.items():
            if most > self._ceilings[uid] and (usd := self._billed(uid)) > self._ceilings[uid]:
                most_usd = float(self._ceilings[uid])
                raise Broken(f"job {uid} has cost ${float(usd):.4f} of ${most_usd:.4f}")

    def _most_usd(self, lease: Lease) -> Fraction:
        """Returns what a machine has cost, or at most: an exact bill takes long."""
        if lease.state == "destroyed" or lease.traffic:
            return lease.spent_usd(self.vast.now())
        hours = Fraction(self.vast.now() - lease.created_at) / 3600
        return hours * (lease.gpu_usd_per_hour + lease.storage_usd_per_hour)

    def _billed(self, uid: str) -> Fraction:
        """Returns what the provider bills for all machines under a job's or a node's mark."""
        now = self.vast.now()
        return sum(
            (
                lease.bill(now).total_usd
                for lease in self.market.leases.values()
                if (mark := Mark.parse(lease.ask.label)) and uid in (mark.job_uid, mark.node_uid)
            ),
            Fraction(0),
        )

    def _check_fuse(self, lease: Lease, status: dict[str, Any]) -> None:
        """Spent is what the provider's own ledger says."""
        most = (self.vast.now() - lease.created_at) / 3600 * float(lease.facts.dph_base) * 2
        if most < float(status["rent"]["fuseUSD"]):
            # An exact bill at every step would be a tenth of all work.
            return
        over = lease.bill(self.vast.now()).total_usd - Fraction(status["rent"]["fuseUSD"])
        self.most_over_fuse = max(self.most_over_fuse, over)
        if over > 0 and self.chance.level == 0:
            raise Broken(f"{lease.number} has cost ${float(over):.4f} more than its fuse")

    def check_end(self) -> None:
        """What must hold once everything is over: nothing is leased, and each job paid for all."""
        self.check()
        if left := self.living():
            raise Broken(f"still leased: {left}")
        for body in self.kube.objects.values():
            self.kube.check_sent(body)
        self._check_settled()
        now = self.vast.now()
        for name, job in self.jobs().items():
            bills = [
                lease.bill(now).total_usd
                for lease in self.market.leases.values()
                if (mark := Mark.parse(lease.ask.label)) and mark.job_uid == job.metadata.uid
            ]
            ledger = Decimal(decimal(sum(bills, Fraction(0))))
            ours, ceiling = Decimal(job.status.cost.spent_usd), Decimal(job.spec.cost.ceiling)
            struck = self.calls.strikes.values()
            is_late = self.is_charged_late or any(FAULTS[one].proves_nothing for one in struck)
            bound = ledger if is_late else ours
            # The charge is in whole millionths.
            if not ledger <= ours + Decimal("0.000001") or not ledger <= ceiling >= bound:
                raise Broken(f"{name}: charged {ours} of {ceiling}, cost {ledger}")

    def verdict(self) -> Verdict:
        """Returns the figures of this world."""
        return Verdict(
            ownerless_seconds=self.longest_ownerless,
            unwanted_seconds=self.longest_unwanted,
            over_fuse_usd=float(self.most_over_fuse),
            calls=len(self.calls.made),
            met=self.chance.met,
        )

    def _on_write(self, kind: str, body: Any, gone: bool, before: Any) -> None:
        uid = body["metadata"]["uid"]
        if kind != "Lease":
            self.calls.changes += 1
        held = before is not None and FINALIZER in before["metadata"].get("finalizers", [])
        freed = held and FINALIZER not in body["metadata"].get("finalizers", [])
        freed = freed and uid not in self.kube.forced
        if kind in ("GpuNode", "GpuJob") and freed and (left := self.living(uid)):
            raise Broken(f"{kind} was let go while {left} is leased")
        if kind == "GpuNode":
            name = body["spec"]["jobRef"]["name"]
            job = self.kube.objects.get(("GpuJob", body["metadata"]["namespace"], name))
            self._check_reserved(body, job or {})
            self._check_node(body, before or {})
        if kind == "GpuJob":
            node = self.kube.by_uid((body.get("status") or {}).get("nodeUID", ""))
            if node is not None:
                self._check_reserved(node, body)
            ceiling = Fraction(body["spec"]["cost"]["ceiling"])
            self._ceilings[uid] = max(ceiling, self._ceilings.get(uid, ceiling))
            if freed:
                spent = (body.get("status") or {}).get("cost", {}).get("spentUSD", "0")
                self._check_charged(f"job {body['metadata']['name']}", uid, spent)
        if kind == "GpuBudget":
            self._check_budget(body, before or {})
        if kind in ("GpuNode", "GpuJob") and (body.get("status") or {}).get("closed"):
            self._check_closed(kind, body)
        self.show(kind, body, gone, before)

    def show(self, kind: str, body: dict[str, Any], gone: bool, before: Any) -> None:
        """Sends an event to whoever watches, unless the selector leaves the object out."""
        event = shown(body, gone, before, FIELDS.get(kind, ""))
        if kind in WATCHED and event is not None:
            for replica in self.replicas:
                replica.see(kind, *event)

    def _check_closed(self, kind: str, body: dict[str, Any]) -> None:
        """Nobody looks at it any more, so nothing may be left to do for it."""
        uid, name = body["metadata"]["uid"], body["metadata"]["name"]
        if FINALIZER in body["metadata"].get("finalizers", []):
            raise Broken(f"{kind} {name} is closed and cannot be deleted")
        status = body["status"]
        if left := self.living(uid):
            raise Broken(f"{kind} {name} is closed while {left} is leased")
        if kind == "GpuJob":
            self._check_charged(f"job {name}", uid, status["cost"]["spentUSD"])
        self.chance.met["closed"] += 1

    def _check_node(self, body: dict[str, Any], before: dict[str, Any]) -> None:
        """Each run on a machine has a number of its own, and a release charges the whole bill."""
        uid, name = body["metadata"]["uid"], body["metadata"]["name"]
        now, was = body.get("status") or {}, before.get("status") or {}
        if "rent" in now and "rent" not in was:
            leaders = (one for one in self.replicas if one.lock.is_held)
            self.chance.met["rent behind the watch"] += any(one.is_behind(uid) for one in leaders)
        past, earlier = now.get("interruptions") or {}, was.get("interruptions") or {}
        if past != earlier and past:
            is_new = "pausedAt" in past and "pausedAt" not in earlier
            is_new = is_new or past.get("restarts", 0) > earlier.get("restarts", 0)
            if is_new and past["count"] <= earlier.get("count", 0):
                raise Broken(f"{name} is interrupted again, and run {past['count']} is not new")
            if is_new:
                self.chance.met["interrupted again" if earlier else "interrupted"] += 1
        if "releasedAt" in now and "releasedAt" not in was:
            self._check_charged(name, uid, now.get("accruedUSD") or "0")

    def _check_charged(self, what: str, uid: str, charged_usd: str) -> None:
        # The charge is in whole millionths.
        if (usd := self._billed(uid)) > Fraction(charged_usd) + Fraction(1, 10**6):
            raise Broken(f"{what} is charged ${charged_usd}, and has cost ${float(usd):.6f}")

    def _check_reserved(self, body: dict[str, Any], job: dict[str, Any]) -> None:
        """A job that loses its node charges what it has recorded, so no fuse is above that."""
        meta, rent = body["metadata"], (body.get("status") or {}).get("rent")
        status = job.get("status") or {}
        if rent is None or status.get("nodeUID") != meta["uid"]:
            return
        if Decimal(rent["fuseUSD"]) > Decimal(status["nodeReservedUSD"]):
            raise Broken(f"{meta['name']} may cost more than its job has recorded")

    def jobs(self) -> dict[str, GpuJob]:
        """Returns the jobs by name."""
        return {
            body["metadata"]["name"]: self.kube.read(GpuJob, body)
            for body in self.kube.of_kind("GpuJob")
        }

    def reason(self, name: str) -> str | None:
        """Returns what a job's summary says; None if there is no such job."""
        job = self.jobs().get(name)
        conditions = job.status.conditions if job else ()
        return next((one.reason for one in conditions if one.type == "Ready"), None)

    def is_over(self) -> bool:
        """Whether every job is finished, and nothing is leased or held for what is over."""
        finished = all(is_finished(job.status) for job in self.jobs().values())
        return finished and not self.living() and self.is_settled

    def summary(self) -> str:
        """For people: how the jobs stand and what is leased."""
        reasons = {name: self.reason(name) for name in self.jobs()}
        return f"{reasons}, leased {self.living()}"


def play(story: Callable[[], Any]) -> Any:
    """Runs a coroutine to its end in virtual time and returns what it returns."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(story())
