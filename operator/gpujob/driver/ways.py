"""The ways to one machine: its addresses, of which some may be dead, and some be somebody else's.

Which of them works is found out by trying, always with the same pinned host key. An address where
another key is shown leads elsewhere, and learns nothing from us: the library ends the connection
before the node's key is used.
"""

import logging
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from gpujob.adapters.errors import HostKeyMismatch, LoginRefused, MachineError, MachineUnreachable
from gpujob.adapters.ssh import Connection, connect
from gpujob.api.transport import MachineAddress

STRANGE_ROUNDS_MAX = 3
"""In a row. One address shows another key while the machine's own may only be silent for a moment:
so often in a row, it is taken for changed."""

Way = tuple[str, int]

_log = logging.getLogger(__name__)


class Ways:
    """Connects to one machine by whichever of its addresses works."""

    def __init__(self, key_file: Path) -> None:
        self._key_file = key_file
        self._failed_at: dict[Way, float] = {}
        self._present: Way | None = None
        self._strange_rounds = 0

    @asynccontextmanager
    async def connected(self, machine: MachineAddress) -> AsyncIterator[Connection]:
        """Connects by the first address that lets us in; what failed last is tried last.

        Raises LoginRefused if the machine itself refuses the key, HostKeyMismatch if whoever
        answers is another one, and MachineUnreachable otherwise.
        """
        named = [(one.host, one.port) for one in (machine, *machine.others)]
        problems: list[MachineError] = []
        async with AsyncExitStack() as stack:
            for way in sorted(dict.fromkeys(named), key=lambda way: self._failed_at.get(way, 0.0)):
                host, port = way
                line = connect(host, port, machine.user, self._key_file, machine.host_key)
                try:
                    connection = await stack.enter_async_context(line)
                except MachineError as error:
                    self._failed_at[way] = time.monotonic()
                    if len(named) > 1:
                        _log.info("not by %s:%d: %s", host, port, error)
                    problems.append(error)
                    continue
                _log.info("connected to %s:%d", host, port)
                self._present, self._strange_rounds = way, 0
                yield connection
                return
        raise self._verdict(problems)

    def turn(self) -> None:
        """Tries the present address last: its connection was good for nothing."""
        if self._present is not None:
            self._failed_at[self._present] = time.monotonic()

    def _verdict(self, problems: list[MachineError]) -> MachineError:
        """Returns what follows if no address let us in."""
        strange = [one for one in problems if isinstance(one, HostKeyMismatch)]
        refused = [one for one in problems if isinstance(one, LoginRefused)]
        if refused or not strange:
            self._strange_rounds = 0
            return (refused or problems)[0]
        self._strange_rounds += 1
        if len(strange) == len(problems) or self._strange_rounds >= STRANGE_ROUNDS_MAX:
            return strange[0]
        return MachineUnreachable("one address shows another host key, and no other one answers")
