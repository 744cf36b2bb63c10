"""The leader lock in a thread, an event loop and a connection of its own.

Nothing that a pass does delays the lock's renewal. Because of that, the renewal must not go on
without the passes: it stops when their loop stands still. If that loop then cannot even end the
process, this thread does, before another replica may lead.
"""

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import structlog

from gpujob.adapters.clock import Clock
from gpujob.adapters.kube import KubeClient
from gpujob.controller.leader_lock import LeaderLock, LockLost
from gpujob.controller.settings import Settings

log = structlog.get_logger("gpujob.leader")

T = TypeVar("T")


class LockThread:
    """Does what `LeaderLock` does, for one other event loop."""

    def __init__(
        self,
        clock: Clock,
        settings: Settings,
        *,
        identity: str,
        is_stalled: Callable[[], bool],
    ) -> None:
        self._clock, self._settings, self._identity = clock, settings, identity
        self._is_stalled = is_stalled
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="lock", daemon=True)
        self._kube: KubeClient
        self._lock: LeaderLock
        self._is_told = threading.Event()
        """Set once the other loop knows that the lock is lost."""

    async def start(self) -> None:
        """Starts the thread and connects to the API server."""
        self._thread.start()
        self._kube = await self._do(KubeClient.connect("gpujob-controller"))
        self._lock = LeaderLock(
            self._kube,
            self._clock,
            self._settings,
            identity=self._identity,
            is_stalled=self._is_stalled,
        )

    def is_held_for(self, seconds: float) -> bool:
        """As `LeaderLock.is_held_for`."""
        return self._lock.is_held_for(seconds)

    async def acquire_alone(self) -> None:
        """As `LeaderLock.acquire_alone`."""
        await self._do(self._lock.acquire_alone())

    async def hold(self) -> None:
        """As `LeaderLock.hold`; ends the process if the caller's loop does not take notice."""
        try:
            await self._do(self._hold())
        finally:
            self._is_told.set()

    async def _hold(self) -> None:
        try:
            await self._lock.hold()
        except LockLost:
            limits = self._settings.limits
            left = limits.lock_duration_seconds - limits.lock_renew_deadline_seconds
            self._loop.call_later(left / 2, self._end_unless_told)
            raise

    def _end_unless_told(self) -> None:
        if not self._is_told.is_set():
            log.error("process_ended", problem="the lock is lost, and the passes stand still")
            os._exit(1)

    async def await_leader(self) -> None:
        """As `LeaderLock.await_leader`."""
        await self._do(self._lock.await_leader())

    async def release(self) -> None:
        """As `LeaderLock.release`."""
        await self._do(self._lock.release())

    async def close(self) -> None:
        """Closes the connection and ends the thread."""
        await self._do(self._kube.close())
        self._loop.call_soon_threadsafe(self._loop.stop)

    async def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))
