"""What a leader's watch shows, and when: in order, but late, and with gaps.

Within a kind events come in the order of the writes. Between kinds they do not: each has its own
connection, and each is late by another time. A connection that breaks off loses what was on its
way; after it the objects are listed again, and nothing tells what was deleted meanwhile.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.simulation.process import Process

from gpujob.adapters.kube import Body
from gpujob.controller.cache import WATCHED

RECONNECT_SECONDS = 1.0
"""From the end of a connection, or of what keeps it down, to the next list."""
LATE_SECONDS = 1.0
"""An event that comes so late counts as late."""


@dataclass
class Weather:
    """How the API server serves the watches of all processes at the moment."""

    lag_seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(WATCHED, 0.0))
    """How late each kind's events come."""
    interrupted: set[str] = field(default_factory=set)
    """Kinds that nobody can watch."""


class Watch:
    """One kind, as one process is shown it."""

    def __init__(
        self,
        kind: str,
        listed: Callable[[str], list[Body]],
        process: Process,
        weather: Weather,
        show: Callable[[str, Body, bool], None],
        met: Counter[str],
    ) -> None:
        """`listed` returns what is stored of a kind; `show` takes in an event."""
        self._kind = kind
        self._listed = listed
        self._process = process
        self._weather = weather
        self._show = show
        self._met = met
        self._time = asyncio.get_running_loop().time
        self._broken = asyncio.Event()
        self._broken.set()
        self._connection = 0
        self._on_its_way: deque[tuple[float, Body, bool]] = deque()
        """When each event was sent, and the event."""
        self._arrival = 0.0
        """Of the last one: none overtakes it."""

    @property
    def _is_reachable(self) -> bool:
        process = self._process
        return not (
            self._kind in self._weather.interrupted or process.is_stopped or process.is_cut_off
        )

    async def run(self) -> None:
        """Lists, and shows what is written from then on, for ever."""
        while True:
            while not self._is_reachable:
                await asyncio.sleep(RECONNECT_SECONDS)
            self._connection += 1
            self._on_its_way.clear()
            self._arrival = 0.0
            self._broken.clear()
            for body in self._listed(self._kind):
                self.tell(body, gone=False)
            await self._broken.wait()
            self._met["watch broken off"] += 1
            await asyncio.sleep(RECONNECT_SECONDS)

    def tell(self, body: Body, *, gone: bool) -> None:
        """Sends an event, unless nothing is connected."""
        if not self._is_reachable:
            self._broken.set()
        if self._broken.is_set():
            self._met["deleted unseen"] += gone and self._connection > 0
            return
        now = self._time()
        self._arrival = max(self._arrival, now + self._weather.lag_seconds[self._kind])
        if self._arrival <= now and not self._on_its_way:
            self._show(self._kind, body, gone)
            return
        self._on_its_way.append((now, body, gone))
        arrive = asyncio.get_running_loop().call_at
        arrive(self._arrival, self._arrive, self._connection)

    def _arrive(self, connection: int) -> None:
        if not self._is_reachable:
            self._broken.set()
        if connection != self._connection or self._broken.is_set():
            return
        sent, body, gone = self._on_its_way.popleft()
        self._met["shown late"] += self._time() - sent >= LATE_SECONDS
        self._show(self._kind, body, gone)
