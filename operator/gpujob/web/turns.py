"""Turns for what takes much memory: so many at once, and of each caller fewer."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from weakref import WeakValueDictionary

from gpujob.web.problems import Problem


class Turns:
    """Lets so many through at once. Each caller has a line of its own, in which it waits."""

    def __init__(self, *, at_once: int, of_one: int, waiting: int) -> None:
        """`waiting`: how many of one caller may wait; whoever comes then is sent away."""
        self._all = asyncio.Semaphore(at_once)
        self._of_one, self._waiting = of_one, waiting
        self._lines: WeakValueDictionary[str, _Line] = WeakValueDictionary()

    @asynccontextmanager
    async def turn(self, whose: str) -> AsyncIterator[None]:
        """Waits for the caller's turn, which ends with the block; raises Problem."""
        line = self._lines.setdefault(whose, _Line(self._of_one))
        if line.waiting >= self._waiting:
            words = "too many lists are being read now; try again later"
            raise Problem(503, words, headers={"Retry-After": "1"})
        line.waiting += 1
        try:
            await line.turn.acquire()
        finally:
            line.waiting -= 1
        try:
            async with self._all:
                yield
        finally:
            line.turn.release()


class _Line:
    """Those of one caller."""

    def __init__(self, at_once: int) -> None:
        self.turn = asyncio.Semaphore(at_once)
        self.waiting = 0
