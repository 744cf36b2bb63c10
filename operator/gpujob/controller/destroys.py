"""Destroy requests: asked for by passes, sent at the provider's pace.

The provider takes one in three seconds. A pass that waited for its turn would hold up all others,
so it only asks, and listings show what came of it.
"""

import asyncio

import structlog

from gpujob.adapters.clock import Clock
from gpujob.adapters.errors import ProviderError
from gpujob.adapters.provider import Provider
from gpujob.core.market.pace import repeat_seconds

AT_ONCE = 4
"""Requests that wait at the door or for their answers; the others wait here, in order."""
FORGOTTEN_SECONDS = 3600.0

log = structlog.get_logger("gpujob.destroys")


class Destroys:
    """The machines that are to be destroyed, until the provider was asked."""

    def __init__(self, vast: Provider, clock: Clock) -> None:
        self._vast, self._clock = vast, clock
        self._asked: set[int] = set()
        """Numbers whose request has not left yet, or has not been answered."""
        self._new: asyncio.Queue[int] = asyncio.Queue()
        self._sent: dict[int, tuple[int, float]] = {}
        """How often each was asked for, and when the last answer came."""

    def ask(self, instance_id: int) -> None:
        """Sends the request as soon as the pace allows, however often it is asked for."""
        times, last = self._sent.get(instance_id, (0, 0.0))
        pause = repeat_seconds(times)
        if instance_id not in self._asked and self._clock.monotonic() >= last + pause:
            self._asked.add(instance_id)
            self._new.put_nowait(instance_id)

    async def run(self) -> None:
        """Sends what is asked for, for ever."""
        async with asyncio.TaskGroup() as senders:
            for _ in range(AT_ONCE):
                senders.create_task(self._send_for_ever())

    async def _send_for_ever(self) -> None:
        while True:
            await self._send(await self._new.get())

    async def _send(self, number: int) -> None:
        try:
            await self._vast.destroy(number)
        except ProviderError as error:
            # The answer to a destroy proves nothing. Passes ask again until listings prove that the
            # machine is gone.
            log.warning("destroy_unclear", instance=number, problem=str(error))
        finally:
            self._asked.discard(number)
            now = self._clock.monotonic()
            times, _ = self._sent.get(number, (0, 0.0))
            self._sent = {
                one: held for one, held in self._sent.items() if now - held[1] < FORGOTTEN_SECONDS
            } | {number: (times + 1, now)}
