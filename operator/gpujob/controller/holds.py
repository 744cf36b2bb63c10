"""Answers to drivers that wait until there is something new to tell.

So a driver hears of a stop at once, although it reports seldom. One answer waits for each node: a
newer report lets the one before go.
"""

import asyncio

from gpujob.api.transport import HOLD_SECONDS


class Holds:
    """The answers that wait."""

    def __init__(self, seconds: float = HOLD_SECONDS) -> None:
        self._seconds = seconds
        self._waiting: dict[str, asyncio.Future[bool]] = {}
        self._is_closed = False

    def until(self) -> float:
        """Returns how long an answer to a report that comes now may wait, by the loop's clock."""
        return asyncio.get_running_loop().time() + self._seconds

    async def change(self, node_uid: str, until: float) -> bool:
        """Waits until something about a node has changed; False = the answer is to go now."""
        self._end(node_uid, by_change=False)
        if self._is_closed:
            return False
        waiting: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting[node_uid] = waiting
        try:
            async with asyncio.timeout_at(until):
                return await waiting
        except TimeoutError:
            return False
        finally:
            if self._waiting.get(node_uid) is waiting:
                del self._waiting[node_uid]

    def changed(self, node_uid: str) -> None:
        """Has the answer for this node looked at again."""
        self._end(node_uid, by_change=True)

    def close(self) -> None:
        """Lets all answers go; none waits any more."""
        self._is_closed = True
        for node_uid in tuple(self._waiting):
            self._end(node_uid, by_change=False)

    def _end(self, node_uid: str, *, by_change: bool) -> None:
        waiting = self._waiting.pop(node_uid, None)
        if waiting is not None and not waiting.done():
            waiting.set_result(by_change)
