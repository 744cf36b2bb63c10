"""Whether a controller leads, as the server sees it: it is asked before anything is decided."""

import asyncio

import structlog

from gpujob.adapters.clock import Clock
from gpujob.adapters.errors import ClusterError
from gpujob.adapters.kube import Body, KubeClient
from gpujob.core.leader_lock import is_abandoned

log = structlog.get_logger("gpujob.leadership")


class Leadership:
    """The leader lock, as of the last look."""

    def __init__(self, kube: KubeClient, clock: Clock, *, namespace: str, name: str) -> None:
        self._kube, self._clock, self._namespace, self._name = kube, clock, namespace, name
        self._seen: tuple[str, float] | None = None
        """The version of the lock, and since when it has been that one, monotonic."""
        self.is_missing = False
        """Whether nobody leads; also False while that is not known."""

    async def follow(self, seconds: float) -> None:
        """Looks for ever; without an answer what was known stays."""
        while True:
            try:
                self._take(await self._kube.find("Lease", self._namespace, self._name))
            except ClusterError as error:
                log.warning("leader_unseen", problem=str(error))
            await asyncio.sleep(seconds)

    def _take(self, stored: Body | None) -> None:
        now = self._clock.monotonic()
        if stored is None:
            missing = True
        else:
            version = stored["metadata"]["resourceVersion"]
            if self._seen is None or self._seen[0] != version:
                self._seen = version, now
            spec = stored.get("spec") or {}
            missing = is_abandoned(
                holder=spec.get("holderIdentity") or "",
                duration_seconds=int(spec.get("leaseDurationSeconds") or 0),
                unchanged_seconds=now - self._seen[1],
            )
        if missing != self.is_missing:
            log.warning("nobody_leads") if missing else log.info("somebody_leads")
        self.is_missing = missing
