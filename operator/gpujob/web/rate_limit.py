"""How many requests each caller may send."""

from gpujob.adapters.clock import Clock


class RateLimit:
    """A token bucket for each caller: `at_once` requests in a burst, then `per_second`."""

    def __init__(self, clock: Clock, *, per_second: float, at_once: int) -> None:
        self._clock, self._rate, self._most = clock, per_second, float(at_once)
        self._left: dict[str, tuple[float, float]] = {}
        self._swept_at = 0.0

    def __len__(self) -> int:
        """Returns how many callers are remembered."""
        return len(self._left)

    def take(self, name: str) -> float:
        """Takes one request from a bucket; returns 0, or the seconds until there is one."""
        now = self._clock.monotonic()
        self._forget_full_ones(now)
        left = self._left_now(name, now)
        if left < 1:
            self._left[name] = (left, now)
            return (1 - left) / self._rate
        self._left[name] = (left - 1, now)
        return 0.0

    def _left_now(self, name: str, now: float) -> float:
        left, at = self._left.get(name, (self._most, now))
        return min(self._most, left + (now - at) * self._rate)

    def _forget_full_ones(self, now: float) -> None:
        """Forgets callers whose bucket is full, about as often as an empty one fills up."""
        if now - self._swept_at >= self._most / self._rate:
            self._swept_at = now
            self._left = {
                name: kept
                for name, kept in self._left.items()
                if self._left_now(name, now) < self._most
            }
