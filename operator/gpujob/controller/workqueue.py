"""A keyed work queue in lanes: what spends money waits for nothing that users can multiply.

Events for one key merge, and one worker at a time holds a key. A worker looks through its lanes in
an order of its own, so some serve machines alone. Within a lane the namespaces take turns, and
within a namespace older objects go first: the first of a thousand jobs is not the last to run.
"""

import asyncio
import heapq
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from gpujob.adapters.metrics import LaneFigures

BACKOFF_FIRST_SECONDS = 0.5


class Lane(Enum):
    """What a pass is about; the value is its name in metrics."""

    MACHINES = "machines"
    """Nodes that may hold a machine: their passes enforce what it may cost."""
    NODES = "nodes"
    JOBS = "jobs"

    @property
    def backoff_max_seconds(self) -> float:
        """The longest pause after passes that failed; a machine costs money meanwhile."""
        return 2.0 if self is Lane.MACHINES else 60.0


IN_ORDER = (Lane.MACHINES, Lane.NODES, Lane.JOBS)
APART, JOBS_FIRST = 4, 8
"""One worker in so many serves machines alone, and one looks at jobs first."""


def orders(workers: int) -> list[tuple[Lane, ...]]:
    """Returns in which order each worker looks through the lanes.

    Some serve machines alone, so that no number of jobs or nodes keeps these waiting; some look at
    jobs first, so that no number of nodes keeps jobs waiting for ever.
    """
    if workers < 3:
        return [IN_ORDER] * workers
    apart = [(Lane.MACHINES,)] * -(-workers // APART)
    jobs_first = [IN_ORDER[::-1]] * -(-workers // JOBS_FIRST)
    rest = workers - len(apart) - len(jobs_first)
    return [*apart, *jobs_first, *[IN_ORDER] * rest]


@dataclass(frozen=True, order=True)
class Key:
    """Identifies the object that a pass reconciles."""

    kind: str
    namespace: str
    name: str


class Place(NamedTuple):
    """Where a key waits."""

    lane: Lane
    born: str
    """When its object was created, in the API server's form; older ones go first."""


class WorkQueue:
    """Merges keys, delays them, and backs off by key, as controller-runtime's queue does.

    It is not thread-safe: other threads must use `loop.call_soon_threadsafe`.
    """

    def __init__(self, place_of: Callable[[Key], Place]) -> None:
        self._place_of = place_of
        self._lanes: dict[Lane, dict[str, list[tuple[str, Key]]]] = {one: {} for one in Lane}
        """By namespace, in the order of their turns: heaps of keys, some of which wait no more."""
        self._ready: dict[Key, tuple[Lane, float]] = {}
        """Where each key waits, and since when."""
        self._working: set[Key] = set()
        self._again: set[Key] = set()
        self._due: dict[Key, float] = {}
        self._timers: list[tuple[float, int, Key]] = []
        self._failures: dict[Key, tuple[int, float]] = {}
        """How often in a row a key's passes failed, and before when it gets no other one."""
        self._passes: Counter[Lane] = Counter()
        self._sequence = 0
        self._changed = asyncio.Event()
        self._closed = False

    def add(self, key: Key) -> None:
        """Asks for a pass over the key, as soon as no worker holds it and no back-off holds."""
        if key in self._working:
            self._again.add(key)
            return
        now = asyncio.get_running_loop().time()
        _, not_before = self._failures.get(key, (0, now))
        if not_before > now:
            self.add_after(key, not_before - now)
            return
        self._due.pop(key, None)
        lane, born = self._place_of(key)
        before, since = self._ready.get(key, (None, now))
        if before is not lane:
            self._ready[key] = (lane, since)
            waiting = self._lanes[lane].setdefault(key.namespace, [])
            heapq.heappush(waiting, (born, key))
            self._changed.set()

    def add_after(self, key: Key, seconds: float) -> None:
        """Asks for a pass after a delay; of several delays the one that ends first counts."""
        due = asyncio.get_running_loop().time() + seconds
        if self._due.get(key, float("inf")) <= due:
            return
        self._due[key] = due
        heapq.heappush(self._timers, (due, self._next(), key))
        self._changed.set()

    def close(self) -> None:
        """Makes every `take` return None from now on."""
        self._closed = True
        self._changed.set()

    async def take(self, lanes: Sequence[Lane] = IN_ORDER) -> Key | None:
        """Returns a key of the first of these lanes in which one waits; None means closed.

        No other worker holds it; give it back with `done`.
        """
        loop = asyncio.get_running_loop()
        while not self._closed:
            while self._timers and self._timers[0][0] <= loop.time():
                due, _, key = heapq.heappop(self._timers)
                if self._due.get(key) == due:
                    del self._due[key]
                    self.add(key)
            for lane in lanes:
                if (found := self._first(lane)) is not None:
                    self._working.add(found)
                    self._passes[lane] += 1
                    return found
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
        """Gives a key back. A failure asks for another pass, each time after a longer delay.

        What happens to the object meanwhile does not shorten that delay.
        """
        self._working.discard(key)
        again = key in self._again
        self._again.discard(key)
        if failed:
            count = self._failures.get(key, (0, 0.0))[0] + 1
            most = self._place_of(key).lane.backoff_max_seconds
            delay = min(BACKOFF_FIRST_SECONDS * 2 ** min(count - 1, 16), most)
            # Keys that failed together are not all tried again together.
            delay *= 1 - zlib.crc32(repr((key, count)).encode()) / 2**33
            self._failures[key] = (count, asyncio.get_running_loop().time() + delay)
            self.add_after(key, delay)
        else:
            self._failures.pop(key, None)
            if again:
                self.add(key)

    def figures(self) -> dict[Lane, LaneFigures]:
        """Returns how each lane stands now."""
        now = asyncio.get_running_loop().time()
        ages: dict[Lane, list[float]] = {lane: [] for lane in Lane}
        for lane, since in self._ready.values():
            ages[lane].append(now - since)
        return {
            lane: LaneFigures(
                waiting=len(ages[lane]),
                oldest_seconds=max(ages[lane], default=0.0),
                passes=self._passes[lane],
            )
            for lane in Lane
        }

    def _first(self, lane: Lane) -> Key | None:
        """Takes out the oldest key of the namespace whose turn it is."""
        turns = self._lanes[lane]
        while turns:
            namespace = next(iter(turns))
            waiting = turns.pop(namespace)
            while waiting:
                _, key = heapq.heappop(waiting)
                if self._ready.get(key, (None, 0.0))[0] is lane:
                    del self._ready[key]
                    if waiting:
                        turns[namespace] = waiting
                    return key
        return None

    def _next(self) -> int:
        self._sequence += 1
        return self._sequence
