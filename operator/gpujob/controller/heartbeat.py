"""Whether the event loop of the passes turns, and for how long it has stood still."""

import asyncio
from collections import deque

from gpujob.adapters.clock import Clock

BEAT_SECONDS = 0.25
STALLED_SECONDS = 5.0
"""A loop that has stood still for so long enforces nothing, so its process must not lead on."""
KEPT = 240
"""Beats that are remembered: those of a minute."""


class Heartbeat:
    """Beats in the loop that it runs in; any thread may look at it."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._at = clock.monotonic()
        self._stalls: deque[float] = deque([0.0], maxlen=KEPT)

    @property
    def is_stalled(self) -> bool:
        """Whether the loop stands still."""
        return self._clock.monotonic() - self._at > STALLED_SECONDS

    @property
    def longest_stall_seconds(self) -> float:
        """For how long the loop stood still at once in the last minute, at most."""
        return max(self._stalls)

    async def run(self) -> None:
        """Beats for ever."""
        while True:
            await asyncio.sleep(BEAT_SECONDS)
            now = self._clock.monotonic()
            self._stalls.append(max(now - self._at - BEAT_SECONDS, 0.0))
            self._at = now
