"""How busy the GPUs are, from samples: a GPU that pauses for a moment is not idle."""

from collections import deque
from dataclasses import dataclass, field

from gpujob.api.transport import Usage

WINDOW_SECONDS = 60.0
BUSY_PERCENT = 2
"""A GPU without work may show less than this."""


@dataclass
class UsageMeter:
    """The samples of one run."""

    _recent: deque[tuple[float, float]] = field(default_factory=deque)
    """Time and mean load of each sample in the last minute."""
    _busy_at: float | None = None
    """When a GPU was last seen busy, or the first sample was taken."""
    _idle_samples: int = 0
    _memory_mib: int = 0

    def take(self, gpus: tuple[tuple[int, int], ...], at: float) -> None:
        """Adds a sample: load in percent and MiB in use of each GPU, at a monotonic time."""
        if not gpus:
            return
        self._recent.append((at, sum(load for load, _ in gpus) / len(gpus)))
        while self._recent[0][0] < at - WINDOW_SECONDS:
            self._recent.popleft()
        self._memory_mib = sum(memory for _, memory in gpus)
        is_busy = any(load >= BUSY_PERCENT for load, _ in gpus)
        self._idle_samples = 0 if is_busy else self._idle_samples + 1
        if is_busy or self._busy_at is None:
            self._busy_at = at

    def usage(self) -> Usage | None:
        """Returns what the samples show; None = there are none yet."""
        if self._busy_at is None:
            return None
        return Usage(
            gpu_percent=sum(load for _, load in self._recent) / len(self._recent),
            gpu_memory_mib=self._memory_mib,
            # Until the last sample: nothing is known about the time since then.
            idle_seconds=self._recent[-1][0] - self._busy_at,
            idle_samples=self._idle_samples,
        )
