"""The clocks, behind a Protocol, so that tests can set them."""

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """A wall clock and a monotonic one."""

    def now(self) -> datetime:
        """Returns the wall clock in UTC."""
        ...

    def monotonic(self) -> float:
        """Returns seconds since an arbitrary start; they never go backwards."""
        ...


class SystemClock:
    """The clocks of the machine that this process runs on."""

    def now(self) -> datetime:
        """Returns the wall clock in UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Returns seconds since an arbitrary start; they never go backwards.

        They go on while the machine is suspended, unlike those of `time.monotonic`: a leader that
        slept has lost its lock, and its machines were paid for (clock_gettime(2)).
        """
        return time.clock_gettime(time.CLOCK_BOOTTIME)
