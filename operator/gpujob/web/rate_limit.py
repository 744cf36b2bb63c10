"""How often each caller may ask."""

from gpujob.adapters.clock import Clock


class RateLimit:
    """How many requests each caller may still make: so many at once, so many a second."""

    def __init__(self, clock: Clock, *, per_second: float, at_once: int) -> None:
        self._clock, self._rate, self._most = clock, per_second, float(at_once)
        self._left: dict[str, tuple[float, float]] = {}

    def take(self, name: str) -> float:
        """Takes one; returns 0, or the seconds until there is one again."""
        now = self._clock.monotonic()
        left, at = self._left.get(name, (self._most, now))
        left = min(self._most, left + (now - at) * self._rate)
        if left < 1:
            self._left[name] = (left, now)
            return (1 - left) / self._rate
        self._left[name] = (left - 1, now)
        return 0.0
