"""All work that only the holder of the leader lock does."""

import asyncio
import gc
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from itertools import product
from typing import Any

import structlog

from gpujob.adapters.clock import SystemClock
from gpujob.adapters.door import Door
from gpujob.adapters.errors import AdapterError, ClusterError, Conflict, Forbidden
from gpujob.adapters.kube import KubeClient
from gpujob.adapters.metrics import Figures, Run
from gpujob.api.meta import API_VERSION, TRANSPORT_AUDIENCE
from gpujob.api.reasons import Reason
from gpujob.api.transport import RegistryLogin
from gpujob.controller.address import publish_address
from gpujob.controller.budget_book import BudgetBook
from gpujob.controller.cache import WATCHED, Cache
from gpujob.controller.certificates import (
    TransportTls,
    keep_for_ever,
    transport_listener,
    webhook_listener,
)
from gpujob.controller.cluster_check import check_for_ever
from gpujob.controller.destroys import Destroys
from gpujob.controller.driver_tokens import DriverTokens
from gpujob.controller.events import Events
from gpujob.controller.fuse_guard import guard_fuses
from gpujob.controller.heartbeat import Heartbeat
from gpujob.controller.holds import Holds
from gpujob.controller.key_secret import KeySecret
from gpujob.controller.lock_thread import LockThread
from gpujob.controller.machine_book import MachineBook
from gpujob.controller.mark_keys import keep_mark_keys
from gpujob.controller.market_book import MarketBook
from gpujob.controller.market_watch import MarketWatch
from gpujob.controller.price_watch import PriceWatch
from gpujob.controller.profile_book import ProfileBook
from gpujob.controller.provider import provider_client
from gpujob.controller.queues import Queues
from gpujob.controller.readiness import ORDER, Readiness
from gpujob.controller.reconcile import Reconciler
from gpujob.controller.settings import Settings
from gpujob.controller.signed_tokens import SignedTokens
from gpujob.controller.sweep import Sweep
from gpujob.controller.transport import transport_app
from gpujob.controller.watch import PLURALS, Watcher
from gpujob.controller.workqueue import Key, Lane, WorkQueue, orders
from gpujob.core.market.listings import Listing
from gpujob.core.node.news import has_news
from gpujob.core.node.punctuality import latest_seconds, slack_seconds
from gpujob.core.observation import Heard
from gpujob.core.rest import rest_seconds
from gpujob.web.listener import http_server
from gpujob.web.token_reviews import TokenReviews

log = structlog.get_logger("gpujob.controller")

RESYNC_SECONDS = 60.0
CLOSED_LOOK_SECONDS = 300.0
"""How often what is closed is looked at, to delete it in time or see that its user changed it."""
LATENESS_TOLD = timedelta(hours=1)
"""For how long the metrics show that a destroy was late."""
LATE_SECONDS = 5.0
"""How long a machine may wait for its pass until the operator counts as not ready."""
REVIEW_SECONDS = 60.0
"""How long the review of a token of one who asks for estimates is reused."""
WATCH_LOOK_SECONDS = 0.5
CLOSED_NAMESPACE_SECONDS = 15.0
"""So often a namespace that could not be read is tried again."""
RENT_GRACE_SECONDS = 5.0
"""How much longer than its timeout a rent request in flight is waited for at the end."""


async def first_ended(tasks: list[asyncio.Task[Any]]) -> asyncio.Task[Any]:
    """Returns the first of the tasks that ends; of several, the one that is named first."""
    ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    return next(task for task in tasks if task in ended)


class Leader:
    """Runs the watch, the passes, the sweep and all other loops of the leader."""

    def __init__(
        self,
        kube: KubeClient,
        clock: SystemClock,
        settings: Settings,
        cluster_id: str,
        lock: LockThread,
        heartbeat: Heartbeat,
        key: KeySecret,
    ) -> None:
        self._kube = kube
        self._clock = clock
        self._settings = settings
        self._cluster_id = cluster_id
        self._lock = lock
        self._heartbeat = heartbeat
        self._cache = Cache(
            kube,
            lambda key: self._queue.add(key),
            self._rest_seconds,
            self._forget,
            lambda uid: self._holds.changed(uid),
        )
        self._queue = WorkQueue(self._cache.place_of)
        self._holds = Holds()
        self._heard: dict[str, Heard] = {}
        self._logins: dict[str, RegistryLogin] = {}
        """For the registries of images, by the node's uid, until the rent request is sent."""
        self._door = Door(clock, spacing=settings.limits.request_spacing)
        self._vast = provider_client(settings, clock, self._door)
        self.readiness = Readiness()
        self.market = MarketWatch(
            self._vast,
            clock,
            settings.limits,
            self.readiness,
            self._on_listing,
            key.is_replaced,
        )
        self._prices = PriceWatch(self._vast, clock, settings.limits, self._queue.add)
        self._destroys = Destroys(self._vast, clock)
        self._events = Events(kube, instance=settings.pod_name)
        self._machines = MachineBook(kube, settings)
        self._profiles = ProfileBook(kube, settings, self.market.now)
        self._budgets = BudgetBook(kube, self._cache, self.market.now, settings.served)
        self._tls = TransportTls()
        self._listed = asyncio.Event()
        self._reconciler = Reconciler(
            kube=kube,
            cache=self._cache,
            vast=self._vast,
            market=self.market,
            prices=self._prices,
            destroys=self._destroys,
            events=self._events,
            door=self._door,
            clock=clock,
            settings=settings,
            cluster_id=cluster_id,
            queue=self._queue,
            heard=self._heard,
            lock=lock,
            machines=self._machines,
            profiles=self._profiles,
            budgets=self._budgets,
            readiness=self.readiness,
            logins=self._logins,
            authorities=lambda: self._tls.authorities,
        )
        self._watcher = Watcher(self._on_event)
        self._loop = asyncio.get_running_loop()
        self._sweep = Sweep(settings, clock, cluster_id, self._door, self._on_swept_listing)
        reviews = TokenReviews(
            kube, clock, believed_seconds=REVIEW_SECONDS, audience=TRANSPORT_AUDIENCE
        )
        of_drivers = (
            reviews
            if settings.cluster_rights
            else SignedTokens(kube, clock, audience=TRANSPORT_AUDIENCE)
        )
        self._tokens = DriverTokens(of_drivers, clock, self._cache.shows)
        app = transport_app(
            reviews=reviews,
            tokens=self._tokens,
            holds=self._holds,
            clock=clock,
            limits=settings.limits,
            lookup=self._cache.lookup,
            is_pod_of=self._cache.is_pod_of,
            heard=self._heard,
            on_news=self._queue.add,
            world=self._reconciler.world,
            quotes=self._prices.estimate,
            logins=self._logins,
            authorities=lambda: self._tls.authorities,
        )
        self._transport = http_server(
            app, settings.listen_host, settings.transport_port, self._tls.context
        )
        self.leads = False

    @property
    def is_alive(self) -> bool:
        """False if a thread has ended that should run."""
        return not self.leads or not (self._watcher.has_ended or self._sweep.has_ended)

    def figures(self) -> Figures:
        """Returns the current values of the metrics."""
        leases = self.market.listings[-1].leases if self.market.listings else ()
        credit = self.market.credit_usd
        return Figures(
            leads=self.leads,
            not_ready={reason: reason in self.readiness.reasons for reason in ORDER},
            leased_machines=len(leases),
            leased_usd_per_hour=float(sum(lease.usd_per_hour or 0 for lease in leases)),
            credit_usd=None if credit is None else float(credit),
            unfit_paid_seconds=self._reconciler.unfit_paid_seconds,
            lanes={lane.value: one for lane, one in self._queue.figures().items()},
            longest_stall_seconds=self._heartbeat.longest_stall_seconds,
            destroy_late_seconds=latest_seconds(
                self._cache.nodes.values(), self.market.now() - LATENESS_TOLD
            ),
            destroy_slack_seconds=slack_seconds(self._settings.limits),
            labels=self._settings.labels_to_copy,
            runs=[
                Run(
                    namespace=node.metadata.namespace,
                    job=node.spec.job_ref.name,
                    labels=node.metadata.labels,
                    status=node.status.run,
                )
                for node in self._cache.nodes.values()
                if node.status.run is not None and node.status.end is None
            ],
        )

    async def lead(self, ends: list[asyncio.Task[Any]]) -> asyncio.Task[Any]:
        """Leads until one of its tasks or of `ends` has ended, and returns that one.

        When it returns, all its tasks have ended, so the lock may be released.
        """
        self.leads = True
        self.readiness.say(Reason.WATCH_CLOSED, "the watch has not been opened yet")
        # Passes wait for the first listing, whose pages come one a second: nothing goes before it.
        asking = asyncio.create_task(self.market.run(), name="market")
        self._sweep.start()
        await self._machines.load()
        holding = asyncio.create_task(self._lock.hold(), name="lock")
        serving = asyncio.create_task(self._serve_transport(), name="transport")
        workers = [
            asyncio.create_task(
                _work(self._queue, self._reconciler, lanes), name=f"worker-{number}"
            )
            for number, lanes in enumerate(orders(self._settings.workers))
        ]
        others = [
            asking,
            asyncio.create_task(self._prices.run(), name="prices"),
            asyncio.create_task(self._destroys.run(), name="destroys"),
            asyncio.create_task(self._machines.run(), name="machines"),
            asyncio.create_task(self._profiles.run(), name="profiles"),
            asyncio.create_task(self._budgets.run(), name="budgets"),
            asyncio.create_task(
                _resync_for_ever(self._cache, self._queue, self._settings.served), name="resync"
            ),
            asyncio.create_task(
                look_at_closed(self._cache, self._queue, self._settings.served), name="closed"
            ),
            asyncio.create_task(self._look_for_strays(), name="strays"),
            asyncio.create_task(
                judge_lateness(self._queue, self.readiness, self.market.first_asked),
                name="lateness",
            ),
            asyncio.create_task(_announce(self._kube, self._settings), name="address"),
            asyncio.create_task(self._watch(), name="threads"),
            asyncio.create_task(
                check_for_ever(self._kube, self._settings, self.readiness), name="check"
            ),
            asyncio.create_task(self._events.run(), name="events"),
            asyncio.create_task(
                _tell(self._events, self._settings, self.readiness), name="readiness"
            ),
        ]
        book = MarketBook(
            self._kube,
            self._vast,
            self._prices,
            self._clock,
            namespace=self._settings.namespace,
            name=self._settings.name,
            limits=self._settings.limits,
            runs=lambda: self._profiles.bounds,
        )
        others.append(asyncio.create_task(book.publish_for_ever(), name="market_book"))
        if self._settings.kueue:
            problems = self._reconciler.queue_problems
            queues = Queues(self._kube, self._cache, self._clock, self._queue.add, problems)
            others.append(asyncio.create_task(queues.run(), name="queues"))
        common = (self._kube, self._clock, self._settings)
        transport = transport_listener(self._kube, self._settings)
        keeping = [keep_for_ever(*common, transport, self._tls.take)]
        if self._settings.webhook:
            keeping.append(keep_for_ever(*common, webhook_listener(self._kube, self._settings)))
        others += [asyncio.create_task(one, name="certificates") for one in keeping]
        if self._settings.keeps_mark_keys:
            others.append(asyncio.create_task(keep_mark_keys(*common), name="mark_keys"))
        first = await first_ended([*ends, holding, serving, *others, *workers])
        self._queue.close()
        self._holds.close()
        renting = [worker for worker in workers if worker in self._reconciler.renting]
        idle = [worker for worker in workers if worker not in renting]
        for task in (*others, *idle):
            task.cancel()
        await asyncio.gather(*others, *idle, return_exceptions=True)
        if renting and not holding.done():
            # The lock is still held: the next leader could only wait for the same answer.
            patience = self._settings.limits.rent_timeout_seconds + RENT_GRACE_SECONDS
            await asyncio.wait(renting, timeout=patience)
        for task in (holding, *renting):
            task.cancel()
        await asyncio.gather(holding, *renting, return_exceptions=True)
        self._transport.should_exit = True
        await asyncio.wait([serving], timeout=1)
        self.leads = False
        return first

    async def guard_fuses(self, stop: asyncio.Event) -> None:
        """Destroys machines that pass their money deadline while nobody leads."""
        await guard_fuses(
            vast=self._vast,
            await_leader=self._lock.await_leader,
            limits=self._settings.limits,
            cluster_id=self._cluster_id,
            nodes=lambda: tuple(self._cache.nodes.values()),
            now=self.market.now,
            stop=stop,
        )

    async def _watch(self) -> None:
        """Watches, once all kinds are served; raises RuntimeError when a thread has ended: the
        process must then end and be restarted.
        """
        while (absent := await self._not_served()) is not None:
            self.readiness.say(Reason.WATCH_CLOSED, absent)
            await asyncio.sleep(WATCH_LOOK_SECONDS)
        await self._cache.learn_fields()
        self._sweep.fields = self._cache.fields.get("GpuNode", "")
        self.readiness.say(Reason.WATCH_CLOSED, "the API server has not been heard yet")
        served = self._settings.served
        closed = await closed_namespaces(self._kube, served)
        while served and len(closed) == len(served):
            self.readiness.say(Reason.WATCH_CLOSED, _may_not_watch(closed))
            await asyncio.sleep(WATCH_LOOK_SECONDS)
            closed = await closed_namespaces(self._kube, served, closed)
        self._watcher.start(self._cache.fields, [one for one in served if one not in closed])
        looked_at = self._clock.monotonic()
        while not (self._watcher.has_ended or self._sweep.has_ended):
            if self._watcher.is_open:
                words = _may_not_watch(closed) if closed else None
                self.readiness.say(Reason.WATCH_CLOSED, words)
            await asyncio.sleep(WATCH_LOOK_SECONDS)
            if closed and self._clock.monotonic() - looked_at > CLOSED_NAMESPACE_SECONDS:
                looked_at = self._clock.monotonic()
                if (await closed_namespaces(self._kube, served, closed)) != closed:
                    raise RuntimeError("other namespaces can be watched now")
        raise RuntimeError(self._watcher.problem or "the thread of the sweep ended")

    async def _not_served(self) -> str | None:
        """Returns, in words, which kinds the API server does not serve; None if it serves all."""
        try:
            served = await self._kube.served_resources(API_VERSION)
        except ClusterError as error:
            return str(error)
        needed = (*PLURALS.values(), "gpubudgets")
        if not (absent := [one for one in needed if one not in served]):
            return None
        return (
            f"the API server does not serve {', '.join(absent)}; install the "
            "CustomResourceDefinitions"
        )

    async def _serve_transport(self) -> None:
        await self._tls.is_loaded.wait()
        await self._transport.serve()

    async def close(self) -> None:
        """Closes the connections to the provider."""
        await self._vast.close()

    def end_watch(self) -> None:
        """Stops the watch, which may take seconds."""
        self._watcher.stop()

    def _rest_seconds(self, kind: str, body: dict[str, Any]) -> float | None:
        return rest_seconds(kind, body, now=self.market.now(), limits=self._settings.limits)

    def _forget(self, uid: str) -> None:
        """Drops what is known beside an object that is gone."""
        self._heard.pop(uid, None)
        self._logins.pop(uid, None)
        self._profiles.forget(uid)
        self._tokens.forget(uid)
        self._holds.changed(uid)

    def _on_swept_listing(self, listing: Listing) -> None:
        self._loop.call_soon_threadsafe(self.market.take, listing)

    def _on_listing(self) -> None:
        listings, cluster = self.market.listings, self._cluster_id
        self._sweep.show(listings[-1])
        self.market.judge_account(self._cache.nodes.values())
        for node in self._cache.nodes.values():
            if node.status.released_at is None and has_news(listings, node, cluster_id=cluster):
                self._queue.add(Key("GpuNode", node.metadata.namespace, node.metadata.name))
        for key in self._cache.with_strays(listings[-1], cluster):
            self._queue.add(key)
        self._listed.set()

    async def _look_for_strays(self) -> None:
        """Asks, after each listing, for passes over the closed jobs that may have a machine to
        charge."""
        while True:
            await self._listed.wait()
            self._listed.clear()
            try:
                async for key in self._cache.closed_with_strays():
                    self._queue.add(key)
            except ClusterError as error:
                log.warning("strays_not_sought", problem=str(error))

    def _on_event(self, kind: str, body: dict[str, Any], gone: bool) -> None:
        def take_in() -> None:
            for key, seconds in self._cache.take_in(kind, body, gone):
                self._queue.add_after(key, seconds)

        self._loop.call_soon_threadsafe(take_in)


async def closed_namespaces(
    kube: KubeClient, served: Sequence[str], before: Sequence[str] = ()
) -> list[str]:
    """Returns the namespaces to serve that cannot be read, because they are gone or the rights
    there are: the others are watched all the same, for machines are leased there.

    Of one about which nothing is known now, what was known `before` holds.
    """
    closed = []
    for namespace in served:
        try:
            for kind in (*PLURALS, "Pod"):
                await kube.page(kind, namespace, limit=1)
        except Forbidden:
            closed.append(namespace)
        except ClusterError as error:
            # The watch finds out by itself.
            log.warning("namespace_not_checked", namespace=namespace, problem=str(error))
            if namespace in before:
                closed.append(namespace)
    return closed


def _may_not_watch(namespaces: list[str]) -> str:
    return (
        f"the service account may not watch {', '.join(namespaces)}; if they are gone, take them "
        "out of jobNamespaces, else reinstall the chart"
    )


async def _work(queue: WorkQueue, reconciler: Reconciler, lanes: tuple[Lane, ...]) -> None:
    while (key := await queue.take(lanes)) is not None:
        failed = True
        try:
            await reconciler.reconcile(key)
            failed = False
        except Conflict as error:
            # Somebody else has changed the object. The next pass starts from what is stored now.
            log.debug("conflict", **vars(key), problem=str(error))
        except AdapterError as error:
            log.warning("pass_failed", **vars(key), problem=str(error))
        except Exception:
            # A bug that one object triggers must not stop the passes over all others.
            log.exception("pass_crashed", **vars(key))
        finally:
            queue.done(key, failed=failed)


async def resync(cache: Cache, queue: WorkQueue, served: Sequence[str] = ()) -> None:
    """Compares the cache with what is stored, and asks for a pass over all that is not over.

    So a lost event only causes a delay. One of the namespaces that are served, empty = all, that
    cannot be read keeps none of the others from it.
    """
    for kind, namespace in product(WATCHED, served or (None,)):
        try:
            listed = cache.listed(kind, namespace)
            async for key, after in cache.compare(kind, listed, namespace):
                queue.add_after(key, after)
        except AdapterError as error:
            log.warning("resync_failed", kind=kind, namespace=namespace, problem=str(error))


async def _resync_for_ever(cache: Cache, queue: WorkQueue, served: Sequence[str]) -> None:
    await asyncio.sleep(RESYNC_SECONDS)
    # Most of what is held by now stays: a search for garbage in it would stop the loop each time.
    gc.freeze()
    while True:
        await resync(cache, queue, served)
        await asyncio.sleep(RESYNC_SECONDS)


async def look_at_closed(cache: Cache, queue: WorkQueue, served: Sequence[str] = ()) -> None:
    """Asks for passes over what has left the watch and needs one: its user has changed it, or its
    time to be deleted comes before the next look.
    """
    while True:
        await asyncio.sleep(CLOSED_LOOK_SECONDS)
        for kind, namespace in product(cache.fields, served or (None,)):
            try:
                async for page in cache.closed(kind, namespace):
                    for key, seconds in cache.needed(kind, page, within=2 * CLOSED_LOOK_SECONDS):
                        queue.add_after(key, seconds)
            except AdapterError as error:
                log.warning("closed_not_listed", kind=kind, namespace=namespace, problem=str(error))


async def judge_lateness(
    queue: WorkQueue, readiness: Readiness, begun: Callable[[], Awaitable[object]]
) -> None:
    """Reports, once passes have begun, when machines wait for theirs: nothing is rented then."""
    await begun()
    words = (
        f"machines wait for more than {LATE_SECONDS:.0f} s until the controller looks at them; "
        "nothing more is rented meanwhile"
    )
    while True:
        await asyncio.sleep(1)
        waited = queue.figures()[Lane.MACHINES].oldest_seconds
        readiness.say(Reason.ENFORCEMENT_LATE, words if waited > LATE_SECONDS else None)


async def _announce(kube: KubeClient, settings: Settings) -> None:
    """Directs the Service to this replica, and corrects what others write."""
    while True:
        try:
            await publish_address(kube, settings)
        except ClusterError as error:
            log.warning("address_not_published", problem=str(error))
            await asyncio.sleep(1)
        else:
            await asyncio.sleep(RESYNC_SECONDS)


async def _tell(events: Events, settings: Settings, readiness: Readiness) -> None:
    """Records an event on the controller's pod whenever the operator becomes ready or not ready."""
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": settings.pod_name,
            "namespace": settings.namespace,
            "uid": settings.pod_uid,
        },
    }
    told = readiness.problem
    while True:
        await asyncio.sleep(1)
        if (found := readiness.problem) != told:
            told = found
            reason = found.reason if found else Reason.READY
            events.tell(pod, reason, found.message if found else "")
