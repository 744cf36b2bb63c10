"""How many requests each caller may send."""

from gpujob.adapters.clock import Clock


class RateLimit:
    """A token bucket for each caller: `at_once` requests in a burst, then `per_second`.

    Of more than `callers_max`, those are forgotten who have asked for nothing for longest.
    """

    def __init__(
        self, clock: Clock, *, per_second: float, at_once: int, callers_max: int = 10_000
    ) -> None:
        self._clock, self._rate, self._most = clock, per_second, float(at_once)
        self._callers_max = callers_max
        self._left: dict[str, tuple[float, float]] = {}
        self._swept_at = 0.0

    def __len__(self) -> int:
        """Returns how many callers are remembered."""
        return len(self._left)

    def take(self, name: str) -> float:
        """Takes one request from a bucket; returns 0, or the seconds until there is one."""
        now = self._clock.monotonic()
        self._forget_full_ones(now)
        wait = self.wait(name)
        left = self._left_now(name, now) - (0 if wait else 1)
        self._left.pop(name, None)
        self._left[name] = (left, now)
        if len(self._left) > self._callers_max:
            del self._left[next(iter(self._left))]
        return wait

    def wait(self, name: str) -> float:
        """Returns the seconds until a bucket has a request left; 0 = it has one."""
        left = self._left_now(name, self._clock.monotonic())
        return 0.0 if left >= 1 else (1 - left) / self._rate

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
