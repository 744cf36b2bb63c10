"""The leader lock: of all replicas, only its holder acts.

The lock is not a fence: a leader that is suspended between two calls may make the second one after
another has taken over. Money is safe even then, because of the marker that is stored before each
rent and the version that each write is made on. The lock only saves useless attempts.
"""

import asyncio
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from typing import Any

import structlog

from gpujob.adapters.clock import Clock
from gpujob.adapters.errors import ClusterError, Conflict
from gpujob.adapters.kube import Body, KubeClient
from gpujob.controller.other_releases import (
    ANNOTATION_IDENTITY,
    ANNOTATION_SERVED,
    LABELS,
    OtherRelease,
    OtherReleases,
)
from gpujob.controller.settings import Settings
from gpujob.core.leader_lock import (
    LockRecord,
    given_back,
    may_lead,
    taken,
)

log = structlog.get_logger("gpujob.leader")


class LockLost(Exception):
    """This process may no longer lead, so it must end."""


class LeaderLock:
    """One replica's hold on the lock."""

    def __init__(
        self,
        kube: KubeClient,
        clock: Clock,
        settings: Settings,
        *,
        identity: str,
        is_stalled: Callable[[], bool] = lambda: False,
    ) -> None:
        """`is_stalled` says whether this process leads in name only; then nothing is renewed."""
        self._is_stalled = is_stalled
        self._kube = kube
        self._clock = clock
        self._namespace, self._name = settings.namespace, settings.name
        self._annotations = {
            ANNOTATION_SERVED: settings.job_namespaces,
            ANNOTATION_IDENTITY: settings.identity,
        }
        self._limits = settings.limits
        self._identity = identity
        self._others = OtherReleases(kube, settings)
        self._version = ""
        self._holder = ""
        """Who held the lock when `_version` was read."""
        self._changed_at = 0.0
        """Monotonic time at which this process first read `_version`."""
        self._renewed_at: float | None = None
        """Monotonic time just before the last successful write was sent."""
        self._write: asyncio.Task[Body] | None = None
        """The last write by which this process wanted to lead. It is not cancelled with its caller:
        the API server may store it after a read that did not show it."""

    @property
    def is_held(self) -> bool:
        """True while this process leads."""
        return self.is_held_for(0)

    def is_held_for(self, seconds: float) -> bool:
        """True if nobody else can lead within this time, whatever happens to the API server."""
        if self._renewed_at is None:
            return False
        until = self._renewed_at + self._limits.lock_duration_seconds
        return self._clock.monotonic() + seconds < until

    async def acquire_alone(self) -> None:
        """Waits until this process leads; raises OtherRelease if another release leads already."""
        known = await self._others.held()
        until = self._clock.monotonic() + self._limits.lock_duration_seconds
        # A lock that nobody renews for this long was left by a release that no longer runs.
        while known and self._clock.monotonic() < until:
            await asyncio.sleep(self._limits.lock_retry_seconds)
            known = await self._others.unless_renewed(known)
        await self.acquire()
        try:
            # Two releases may have started at the same time.
            await self._others.unless_renewed(known)
        except OtherRelease:
            await self.release()
            raise

    async def acquire(self) -> None:
        """Waits until this process leads, without regard to other releases."""
        while not await self._attempt():  # noqa: ASYNC110 - another process sets no event of ours
            # Twice as often as the holder renews, so that a released lock is taken soon.
            await asyncio.sleep(self._limits.lock_retry_seconds / 2)
        log.info("lock_acquired", identity=self._identity)

    async def await_leader(self) -> None:
        """Waits until somebody leads: this replica could again, or another renews the lock."""
        before = ("", "")
        while not await self._attempt():
            seen = (self._holder, self._version)
            if seen[0] == before[0] not in ("", self._identity) and seen != before:
                return
            before = seen
            await asyncio.sleep(self._limits.lock_retry_seconds)

    async def hold(self) -> None:
        """Renews the lock; raises LockLost if that fails for too long or another replica leads."""
        while True:
            await asyncio.sleep(self._limits.lock_retry_seconds)
            assert self._renewed_at is not None, "a lock is acquired before it is held"
            until = self._renewed_at + self._limits.lock_renew_deadline_seconds
            left = until - self._clock.monotonic()
            try:
                async with asyncio.timeout(left):
                    renewed = not self._is_stalled() and await self._attempt()
            except TimeoutError:
                renewed = False
            if not renewed and self._clock.monotonic() >= until:
                self._renewed_at = None
                raise LockLost("the leader lock could not be renewed in time")

    async def release(self) -> None:
        """Lets another replica lead at once. Call it only after all work has ended."""
        self._renewed_at = None
        if self._write is None:
            return
        try:
            async with asyncio.timeout(self._limits.lock_renew_deadline_seconds):
                await asyncio.gather(self._write, return_exceptions=True)
                while not await self._given_back():  # noqa: ASYNC110 - the API server sets no event
                    await asyncio.sleep(self._limits.lock_retry_seconds / 2)
        except TimeoutError:
            log.warning("lock_not_released", problem="the next leader must wait until it expires")

    async def _given_back(self) -> bool:
        """True once the stored record certainly does not name this replica."""
        try:
            stored = await self._kube.find("Lease", self._namespace, self._name)
            if stored is None or (record := _record(stored)).holder != self._identity:
                return True
            spec = _spec(given_back(record), acquired_at=None)
            await self._kube.replace("Lease", stored | {"spec": spec})
        except ClusterError as error:
            log.warning("lock_unreachable", problem=str(error))
            return False
        log.info("lock_released")
        return True

    async def _attempt(self) -> bool:
        """Takes or renews the lock; returns False if another holds it or if a call fails."""
        try:
            stored = await self._kube.find("Lease", self._namespace, self._name)
            asked_at = self._clock.monotonic()
            duration = self._limits.lock_duration_seconds
            if stored is None:
                record = taken(None, identity=self._identity, duration_seconds=duration)
                await self._send(self._kube.create("Lease", self._namespace, self._body(record)))
                self._renewed_at = asked_at
                return True
            version = stored["metadata"]["resourceVersion"]
            if version != self._version:
                self._version, self._changed_at = version, asked_at
            record = _record(stored)
            self._holder = record.holder
            unchanged = asked_at - self._changed_at
            if not may_lead(record, identity=self._identity, unchanged_seconds=unchanged):
                if self._renewed_at is not None:
                    self._renewed_at = None
                    raise LockLost(f"{record.holder} leads now")
                return False
            kept = stored["spec"].get("acquireTime") if record.holder == self._identity else None
            record = taken(record, identity=self._identity, duration_seconds=duration)
            spec = _spec(record, acquired_at=kept)
            body = stored | {"spec": spec}
            told = stored["metadata"].get("annotations") or {}
            body["metadata"] = stored["metadata"] | {"annotations": told | self._annotations}
            await self._send(self._kube.replace("Lease", body))
        except Conflict:
            return False
        except ClusterError as error:
            log.warning("lock_unreachable", problem=str(error))
            return False
        self._renewed_at = asked_at
        return True

    async def _send(self, write: Coroutine[Any, Any, Body]) -> None:
        self._write = asyncio.ensure_future(write)
        await asyncio.shield(self._write)

    def _body(self, record: LockRecord) -> Body:
        return {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {
                "name": self._name,
                "namespace": self._namespace,
                "labels": LABELS,
                "annotations": self._annotations,
            },
            "spec": _spec(record, acquired_at=None),
        }


def _record(stored: Body) -> LockRecord:
    spec = stored.get("spec") or {}
    return LockRecord(
        holder=spec.get("holderIdentity") or "",
        duration_seconds=int(spec.get("leaseDurationSeconds") or 0),
        transitions=int(spec.get("leaseTransitions") or 0),
    )


def _spec(record: LockRecord, *, acquired_at: str | None) -> dict[str, Any]:
    # The API server rejects a MicroTime that has not exactly six digits after the point, see
    # https://github.com/kubernetes/kubernetes/issues/89156.
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return {
        "holderIdentity": record.holder,
        "leaseDurationSeconds": record.duration_seconds,
        "leaseTransitions": record.transitions,
        "renewTime": now,
        "acquireTime": acquired_at or now,
    }
