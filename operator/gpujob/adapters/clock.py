"""Time, so that tests can set it."""

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Where time comes from."""

    def now(self) -> datetime:
        """Returns the wall clock in UTC."""
        ...

    def monotonic(self) -> float:
        """Returns seconds that never run back, from an arbitrary start."""
        ...


class SystemClock:
    """The machine's clocks."""

    def now(self) -> datetime:
        """Returns the wall clock in UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Returns seconds that never run back, from an arbitrary start."""
        return time.monotonic()
