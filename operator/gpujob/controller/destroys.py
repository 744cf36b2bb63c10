"""Destroy requests: asked for by passes, sent at the provider's pace.

The provider takes one in three seconds. A pass that waited for its turn would hold up all others,
so it only asks, and listings show what came of it.
"""

import asyncio

import structlog

from gpujob.adapters.errors import ProviderError
from gpujob.adapters.provider import Provider

log = structlog.get_logger("gpujob.destroys")


class Destroys:
    """The machines that are to be destroyed, until the provider was asked."""

    def __init__(self, vast: Provider) -> None:
        self._vast = vast
        self._asked: set[int] = set()
        """Numbers whose request has not left yet, or has not been answered."""
        self._new: asyncio.Queue[int] = asyncio.Queue()

    def ask(self, instance_id: int) -> None:
        """Sends the request as soon as the pace allows; once, however often it is asked for."""
        if instance_id not in self._asked:
            self._asked.add(instance_id)
            self._new.put_nowait(instance_id)

    async def run(self) -> None:
        """Sends what is asked for, for ever."""
        async with asyncio.TaskGroup() as sending:
            while True:
                number = await self._new.get()
                sending.create_task(self._send(number))

    async def _send(self, number: int) -> None:
        try:
            await self._vast.destroy(number)
        except ProviderError as error:
            # The answer to a destroy proves nothing. Passes ask again until listings prove that the
            # machine is gone.
            log.warning("destroy_unclear", instance=number, problem=str(error))
        finally:
            self._asked.discard(number)
