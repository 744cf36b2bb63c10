"""The sweep: destroys machines of this cluster that no live GpuNode owns.

It has its own thread, event loop and clients, so that a stuck reconcile cannot stop it. What the
market watch lists serves it as well, because the account's requests are few; if nothing comes from
there, it lists by itself. It reads the nodes only once the listing has ended. So it sees a node
that is created in between, and a machine without a node really has no owner.
"""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress

import structlog

from gpujob.adapters.clock import Clock
from gpujob.adapters.door import Door
from gpujob.adapters.errors import AdapterError, ProviderError
from gpujob.adapters.kube import Body, KubeClient
from gpujob.adapters.provider import Provider
from gpujob.api.reasons import Reason
from gpujob.controller.provider import provider_client
from gpujob.controller.settings import Settings
from gpujob.core.market.listings import Listing
from gpujob.core.sweep import Orphans, Owner, orphans

CONFIRM_SECONDS = 60.0
"""Many orphans at once look like a bug. They are destroyed only if still there after this time."""

log = structlog.get_logger("gpujob.sweep")


class Sweep:
    """Looks for orphans until the process ends."""

    def __init__(
        self,
        settings: Settings,
        clock: Clock,
        cluster_id: str,
        door: Door,
        on_listing: Callable[[Listing], None],
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._cluster_id = cluster_id
        self._door = door
        self._on_listing = on_listing
        """Takes the listings that the sweep asked for by itself; called in the sweep's thread."""
        self._shown: Listing | None = None
        self._used: Listing | None = None
        self._news = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._first_seen: dict[int, float] = {}
        self._held_back: dict[int, float] = {}
        self.fields = ""
        """Selects the nodes that are read in each pass; before a destroy all are read."""
        self._thread = threading.Thread(target=self._run, name="sweep", daemon=True)

    def start(self) -> None:
        """Starts the thread, which ends with the process."""
        self._thread.start()

    @property
    def has_ended(self) -> bool:
        """True if the sweep ran once and does so no more."""
        return self._thread.ident is not None and not self._thread.is_alive()

    def show(self, listing: Listing) -> None:
        """Takes a listing that somebody else asked for; any thread may call it."""
        if listing is not self._used:
            self._shown = listing
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._news.set)

    def _run(self) -> None:
        asyncio.run(self._in_thread())

    async def _in_thread(self) -> None:
        kube = await KubeClient.connect("gpujob-controller", self._settings.served)
        await self.run(kube, provider_client(self._settings, self._clock, self._door))

    async def run(self, kube: KubeClient, vast: Provider) -> None:
        """Sweeps after each listing, for ever."""
        self._loop = asyncio.get_running_loop()
        while True:
            try:
                await self.sweep_once(kube, vast)
            except AdapterError as error:
                # After a failed or incomplete read nothing is destroyed.
                log.warning("sweep_failed", problem=str(error))
            except Exception:
                # One answer that nobody thought of must not end the second way to a destroy.
                log.exception("sweep_crashed")

    async def _listing(self, vast: Provider) -> Listing:
        """Returns the next listing that the market watch takes, or one of its own after a while."""
        with suppress(TimeoutError):
            async with asyncio.timeout(2 * self._interval_seconds()):
                await self._news.wait()
        self._news.clear()
        found = self._shown
        if found is None or found is self._used:
            found = await vast.list_leases()
            self._used = found
            self._on_listing(found)
        self._used = found
        return found

    def _interval_seconds(self) -> float:
        limits = self._settings.limits
        leases = len(self._used.leases) if self._used else 0
        return max(limits.sweep_seconds, limits.listing_seconds(leases))

    async def sweep_once(self, kube: KubeClient, vast: Provider) -> None:
        """Makes one pass over the next listing; raises AdapterError if a read failed, having
        destroyed nothing.
        """
        listing = await self._listing(vast)
        nodes = await kube.list_all("GpuNode", fields=self.fields)
        monotonic = self._clock.monotonic()
        listed = {lease.instance_id for lease in listing.leases}
        self._first_seen = {number: self._first_seen.get(number, monotonic) for number in listed}
        confirmed = frozenset(
            number
            for number, since in self._held_back.items()
            if monotonic - since >= CONFIRM_SECONDS
        )

        def judged(nodes: list[Body]) -> Orphans:
            return orphans(
                listing,
                {
                    node["metadata"]["uid"]: Owner("releasedAt" in (node.get("status") or {}))
                    for node in nodes
                },
                cluster_id=self._cluster_id,
                first_seen=self._first_seen,
                monotonic=monotonic,
                limits=self._settings.limits,
                confirmed=confirmed,
            )

        found = judged(nodes)
        if found.to_destroy and self.fields:
            # A list that leaves nodes out proves no absence.
            found = judged(await kube.list_all("GpuNode"))
        self._held_back = {
            number: self._held_back.get(number, monotonic) for number in found.held_back
        }
        if found.held_back:
            log.error(
                "orphans_held_back",
                instances=found.held_back,
                problem=f"so many at once look like a bug; those that are still there after "
                f"{CONFIRM_SECONDS:.0f} s are destroyed",
            )
        marks = {lease.instance_id: lease.mark for lease in listing.leases}
        for number in found.to_destroy:
            log.warning(
                "orphan_destroyed",
                instance=number,
                mark=marks[number],
                reason=Reason.ORPHAN_DESTROYED,
            )
            try:
                await vast.destroy(number)
            except ProviderError as error:
                log.warning("destroy_unclear", instance=number, problem=str(error))
