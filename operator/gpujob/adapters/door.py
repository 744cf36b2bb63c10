"""The one door through which this process asks the provider: it keeps to the provider's pace.

The sweep has a thread and a loop of its own, and shares the account's thresholds with all others.
So whoever asks takes a ticket under a lock, and sleeps in its own loop until its turn.
"""

import asyncio
import threading

import structlog

from gpujob.adapters.clock import Clock
from gpujob.adapters.errors import ProviderError, RateLimited
from gpujob.core.market.pace import Kind, Ticket, Turns

RENT_PATIENCE_SECONDS = 10.0
"""A rent that does not ask again for so long after the wait that it was told loses its place."""

log = structlog.get_logger("gpujob.door")


class Door:
    """Lets the account's requests out one after the other, each kind at its own pace."""

    def __init__(self, clock: Clock, *, spacing: float = 1.0) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._turns = Turns(clock.monotonic(), spacing=spacing)
        self._rents: dict[str, tuple[Ticket, float]] = {}
        """Tickets by the node's uid, and until when they are kept."""
        self._renting: str | None = None

    async def enter(self, kind: Kind) -> float:
        """Returns, when a request of this kind may leave, the monotonic time; it leaves at once."""
        with self._lock:
            ticket = self._turns.join(kind, self._clock.monotonic())
        try:
            while wait := self._go(ticket):  # noqa: ASYNC110 - threads set no event of ours
                await asyncio.sleep(wait)
            return self._clock.monotonic()
        finally:
            with self._lock:
                self._turns.leave(ticket)

    def _go(self, ticket: Ticket) -> float:
        with self._lock:
            now = self._clock.monotonic()
            wait = self._turns.wait(ticket, now)
            if not wait:
                self._turns.go(ticket, now)
            return wait

    def is_free(self, kind: Kind) -> bool:
        """Whether `enter` would return at once; for what can as well be asked a little later."""
        with self._lock:
            return self._turns.is_free(kind, self._clock.monotonic())

    def rent_wait(self, uid: str, namespace: str) -> float:
        """Returns how long the rent for a node has to wait; 0 = it may be sent: say `rent_over`.

        Nobody is held up meanwhile: whoever is told to wait asks again, and keeps its place.
        """
        with self._lock:
            now = self._clock.monotonic()
            for other, (ticket, until) in list(self._rents.items()):
                if until < now:
                    self._turns.leave(ticket)
                    del self._rents[other]
            known = self._rents.get(uid)
            ticket = known[0] if known else self._turns.join(Kind.RENT, now, namespace)
            wait = self._turns.wait(ticket, now)
            if self._renting is not None:
                wait = max(wait, Kind.RENT.interval_seconds)
            if wait:
                self._rents[uid] = (ticket, now + wait + RENT_PATIENCE_SECONDS)
                return wait
            self._rents.pop(uid, None)
            self._turns.go(ticket, now)
            self._renting = uid
            return 0.0

    def rent_over(self, uid: str) -> None:
        """Lets the next rent have its turn: this one was sent, or never will be."""
        with self._lock:
            if self._renting == uid:
                self._renting = None
                self._turns.arrived(Kind.RENT, self._clock.monotonic())

    def answered(self, kind: Kind, sent_at: float, error: ProviderError | None) -> None:
        """Learns from what the provider said to a request."""
        with self._lock:
            now = self._clock.monotonic()
            if not isinstance(error, RateLimited):
                self._turns.answered(kind, sent_at, now)
                return
            log.warning("too_many_requests", kind=kind.value, problem=str(error))
            self._turns.refused(
                kind,
                now,
                threshold_seconds=error.threshold_seconds,
                retry_after_seconds=error.retry_after_seconds,
            )
