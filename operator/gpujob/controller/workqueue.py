"""A keyed work queue: events for one key merge, and one worker at a time holds a key."""

import asyncio
import heapq
from dataclasses import dataclass

BACKOFF_FIRST_SECONDS = 0.5
BACKOFF_MAX_SECONDS = 60.0


@dataclass(frozen=True, order=True)
class Key:
    """Identifies the object that a pass reconciles."""

    kind: str
    namespace: str
    name: str


class WorkQueue:
    """Merges keys, delays them, and backs off by key, as controller-runtime's queue does.

    It is not thread-safe: other threads must use `loop.call_soon_threadsafe`.
    """

    def __init__(self) -> None:
        self._ready: dict[Key, None] = {}
        self._working: set[Key] = set()
        self._again: set[Key] = set()
        self._due: dict[Key, float] = {}
        self._timers: list[tuple[float, int, Key]] = []
        self._failures: dict[Key, int] = {}
        self._sequence = 0
        self._changed = asyncio.Event()
        self._closed = False

    def add(self, key: Key) -> None:
        """Asks for a pass over the key, as soon as no worker holds it."""
        self._due.pop(key, None)
        if key in self._working:
            self._again.add(key)
        else:
            self._ready[key] = None
            self._changed.set()

    def add_after(self, key: Key, seconds: float) -> None:
        """Asks for a pass after a delay; of several delays the one that ends first counts."""
        due = asyncio.get_running_loop().time() + seconds
        if self._due.get(key, float("inf")) <= due:
            return
        self._due[key] = due
        self._sequence += 1
        heapq.heappush(self._timers, (due, self._sequence, key))
        self._changed.set()

    def close(self) -> None:
        """Makes every `take` return None from now on."""
        self._closed = True
        self._changed.set()

    async def take(self) -> Key | None:
        """Returns a key that no other worker holds; give it back with `done`. None means closed."""
        loop = asyncio.get_running_loop()
        while not self._closed:
            while self._timers and self._timers[0][0] <= loop.time():
                due, _, key = heapq.heappop(self._timers)
                if self._due.get(key) == due:
                    self.add(key)
            if self._ready:
                key = next(iter(self._ready))
                del self._ready[key]
                self._working.add(key)
                return key
            self._changed.clear()
            wait = self._timers[0][0] - loop.time() if self._timers else None
            try:
                # `wait_for` can lose a cancellation that comes together with the event, see
                # https://github.com/python/cpython/issues/86296.
                async with asyncio.timeout(wait):
                    await self._changed.wait()
            except TimeoutError:
                continue
        return None

    def done(self, key: Key, *, failed: bool) -> None:
        """Gives a key back. A failure asks for another pass, each time after a longer delay."""
        self._working.discard(key)
        if failed:
            count = self._failures[key] = self._failures.get(key, 0) + 1
            delay = BACKOFF_FIRST_SECONDS * 2 ** min(count - 1, 16)
            self.add_after(key, min(delay, BACKOFF_MAX_SECONDS))
        else:
            self._failures.pop(key, None)
        if key in self._again:
            self._again.discard(key)
            self.add(key)
