"""Worlds that differ from some call on: what they have in common is played once.

Until its first fault a disturbed life is the calm one, call by call. It is played once for all of
them: at each call that is to be struck the process forks, and the copy goes on with the fault.
"""

import asyncio
import os
import pickle
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Strikes = Mapping[int, str]
"""Fault by the number of the call that it strikes."""


def first(strikes: Strikes) -> int:
    """Returns the first call that is struck."""
    return min(strikes, default=0)


class Branches:
    """The worlds that are still to branch off from the one that is being played."""

    def __init__(self, strikes: Sequence[Strikes]) -> None:
        order = sorted(range(len(strikes)), key=lambda number: first(strikes[number]))
        self._left = [(number, strikes[number]) for number in order]
        self._found: dict[int, bytes] = {}
        self._mine = self._left[-1]
        self._told: int | None = None
        """Where a copy tells what came of its world; None = this is the first process."""

    @property
    def strikes(self) -> Strikes:
        """What strikes the world that this process plays: in the first process the last ones."""
        return self._mine[1]

    def at(self, call: int) -> Strikes:
        """Forks for each world that branches off at this call; returns what strikes this one's."""
        while len(self._left) > 1 and first(self._left[0][1]) == call:
            world = self._left.pop(0)
            reader, writer = os.pipe()
            loop = asyncio.get_running_loop()
            child = os.fork()
            if child == 0:
                os.close(reader)
                self._left, self._mine, self._told = [], world, writer
                # A loop is bound to the process in which it was started.
                asyncio._set_running_loop(loop)
                break
            os.close(writer)
            with os.fdopen(reader, "rb") as pipe:
                self._found[world[0]] = pipe.read()
            os.waitpid(child, 0)
        return self.strikes

    def played(self, play: Callable[["Branches"], Any]) -> list[Any]:
        """Plays all worlds; returns what came of each, in the order of their strikes."""
        try:
            mine = play(self)
            if self._told is not None:
                with os.fdopen(self._told, "wb") as pipe:
                    pickle.dump(mine, pipe)
        finally:
            if self._told is not None:
                # What this process shares with the first one is not this one's to end.
                os._exit(0)
        found = {number: pickle.loads(told) for number, told in self._found.items()}
        # What broke before a world could branch off breaks it as well.
        found |= {number: mine for number, _ in self._left}
        return [found[number] for number in sorted(found)]
