"""The sweep: destroys machines of this cluster that no live GpuNode owns.

It has its own thread, event loop and clients, so that a stuck reconcile cannot stop it. It lists
the machines first, and the nodes only once that has ended. So it sees a node that is created in
between, and a machine without a node really has no owner.
"""

import asyncio
import threading

import structlog

from gpujob.adapters.clock import Clock
from gpujob.adapters.errors import AdapterError, ProviderError
from gpujob.adapters.kube import KubeClient
from gpujob.adapters.provider import Provider
from gpujob.adapters.vast import VastClient
from gpujob.api.reasons import Reason
from gpujob.controller.settings import Settings
from gpujob.core.sweep import Owner, orphans

CONFIRM_SECONDS = 60.0
"""Many orphans at once look like a bug. They are destroyed only if still there after this time."""

log = structlog.get_logger("gpujob.sweep")


class Sweep:
    """Looks for orphans until the process ends."""

    def __init__(self, settings: Settings, clock: Clock, cluster_id: str) -> None:
        self._settings = settings
        self._clock = clock
        self._cluster_id = cluster_id
        self._first_seen: dict[int, float] = {}
        self._held_back: dict[int, float] = {}
        self._thread = threading.Thread(target=self._run, name="sweep", daemon=True)

    def start(self) -> None:
        """Starts the thread, which ends with the process."""
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """True while the sweep runs."""
        return self._thread.is_alive()

    def _run(self) -> None:
        asyncio.run(self._for_ever())

    async def _for_ever(self) -> None:
        limits = self._settings.limits
        kube = await KubeClient.connect()
        vast = VastClient(self._settings.provider_url, self._settings.vast_api_key, self._clock)
        while True:
            try:
                await self.sweep_once(kube, vast)
            except AdapterError as error:
                # After a failed or incomplete read nothing is destroyed.
                log.warning("sweep_failed", problem=str(error))
            await asyncio.sleep(limits.sweep_seconds)

    async def sweep_once(self, kube: KubeClient, vast: Provider) -> None:
        """Makes one pass; raises AdapterError if a read failed, having destroyed nothing."""
        listing = await vast.list_leases()
        nodes = await kube.list_all("GpuNode")
        monotonic = self._clock.monotonic()
        listed = {lease.instance_id for lease in listing.leases}
        self._first_seen = {number: self._first_seen.get(number, monotonic) for number in listed}
        confirmed = frozenset(
            number
            for number, since in self._held_back.items()
            if monotonic - since >= CONFIRM_SECONDS
        )
        found = orphans(
            listing,
            {
                node["metadata"]["uid"]: Owner("releasedAt" in (node.get("status") or {}))
                for node in nodes
            },
            cluster_id=self._cluster_id,
            first_seen=self._first_seen,
            monotonic=monotonic,
            now=self._clock.now(),
            limits=self._settings.limits,
            confirmed=confirmed,
        )
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
