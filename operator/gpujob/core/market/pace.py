"""When a request to the provider may leave: its thresholds hold for the account as a whole.

Each kind of request has a least interval (vastsim/FACTS.md, Rate limits), so each has a queue of
its own: the kinds do not slow one another down. One thing crosses that border: while a destroy
request waits, nothing is rented or searched for. Within a kind the namespaces take turns.

All times are of a monotonic clock, in seconds.
"""

from dataclasses import dataclass, field
from enum import Enum

BACKOFF_SECONDS = 5.0
"""Pause of a kind after a refusal that does not say how long to wait; doubled for each further."""
BACKOFF_MAX_SECONDS = 60.0
"""No refusal, whatever it says, holds a request back for longer: machines have to be destroyed."""

YIELD_SECONDS = 0.05
"""Wait of a request whose turn would be now, but for a destroy request that leaves first."""
WAY_SECONDS = 1.0
"""The longest time that a request is reckoned to be on its way to the provider."""
LATE_SECONDS = 2.0
"""Whoever does not come back for so long after the wait that it was told is passed over: the loop
of the sweep, or that of all others, may hang, and the other one must have its turns."""
THRESHOLD_FACTOR_MAX = 3
"""A threshold that is said is believed up to so many times the documented one."""
REPEAT_SECONDS, REPEAT_MAX_SECONDS = 10.0, 120.0
"""Least time between two destroy requests for one machine; it doubles up to the most."""
ROUNDING_SECONDS = 1e-6
"""A shorter wait is none: sums of seconds are not exact."""


def repeat_seconds(times: int) -> float:
    """Returns how long after its last destroy request a machine may be destroyed again.

    Rents wait for destroys: one that stays, however often it is destroyed, would else keep
    everybody from renting.
    """
    return min(REPEAT_SECONDS * 2 ** min(times - 1, 8), REPEAT_MAX_SECONDS) if times else 0.0


class Kind(Enum):
    """A kind of request with a threshold of its own; the value is its name in logs."""

    DESTROY = "destroy"
    LIST = "list"
    ACCOUNT = "account"
    STATE = "state"
    KEY = "key"
    LOG = "log"
    NAMES = "names"
    RENT = "rent"
    SEARCH = "search"

    @property
    def interval_seconds(self) -> float:
        """The least time between two requests of this kind."""
        return _INTERVALS[self]

    @property
    def waits_for_destroys(self) -> bool:
        """Whether none is sent while a destroy request waits: it leads to more machines."""
        return self in (Kind.RENT, Kind.SEARCH)


_INTERVALS = {
    Kind.DESTROY: 3.0,
    Kind.LIST: 1.0,
    Kind.ACCOUNT: 1.0,
    Kind.STATE: 1.0,
    Kind.KEY: 1.0,
    Kind.LOG: 1.0,
    Kind.NAMES: 1.0,
    Kind.RENT: 5.0,
    Kind.SEARCH: 6.0,
}


@dataclass(frozen=True)
class Ticket:
    """A request that waits for its turn."""

    kind: Kind
    namespace: str
    """For whom it is made; empty = for all."""
    number: int


@dataclass
class _Queue:
    interval: float
    free_at: float
    refusals: int = 0
    waiting: dict[Ticket, float] = field(default_factory=dict)
    """Tickets, and when the holder of each was to come back."""
    served: dict[str, int] = field(default_factory=dict)
    """When each namespace had its last turn, in turns of all."""

    def ordered(self, now: float) -> list[Ticket]:
        """Returns the tickets of those that come back, in the order of their turns.

        The namespace that was served least recently goes first, and then one of each in turn.
        """
        rounds: dict[str, int] = {}
        ranked = []
        for ticket, back_at in self.waiting.items():
            if back_at + LATE_SECONDS < now:
                continue
            turn = rounds[ticket.namespace] = rounds.get(ticket.namespace, -1) + 1
            ranked.append((turn, self.served.get(ticket.namespace, -1), ticket.number, ticket))
        return [ticket for *_, ticket in sorted(ranked, key=lambda one: one[:3])]


class Turns:
    """Whose turn it is. It only reckons: who holds it waits, and sees to threads."""

    def __init__(self, now: float, *, spacing: float = 1.0) -> None:
        # What an earlier process sent just before is not known here, so every kind begins late.
        self._queues = {
            kind: _Queue(kind.interval_seconds * spacing, now + kind.interval_seconds * spacing)
            for kind in Kind
        }
        self._numbers = self._turns = 0

    def join(self, kind: Kind, now: float, namespace: str = "") -> Ticket:
        """Returns a ticket for one request, behind those that wait already."""
        self._numbers += 1
        ticket = Ticket(kind, namespace, self._numbers)
        self._queues[kind].waiting[ticket] = now
        return ticket

    def leave(self, ticket: Ticket) -> None:
        """Gives up a turn; does nothing if the ticket was used."""
        self._queues[ticket.kind].waiting.pop(ticket, None)

    def wait(self, ticket: Ticket, now: float) -> float:
        """Returns after how long the holder of a ticket is to come back; 0 = it is its turn."""
        queue = self._queues[ticket.kind]
        queue.waiting[ticket] = now
        ahead = queue.ordered(now).index(ticket)
        own = max(queue.free_at - now, 0.0) + ahead * queue.interval
        if ticket.kind.waits_for_destroys:
            destroys = self._queues[Kind.DESTROY]
            if before := len(destroys.ordered(now)):
                last = destroys.free_at + (before - 1) * destroys.interval
                own = max(own, last - now, YIELD_SECONDS)
        own = own if own > ROUNDING_SECONDS else 0.0
        queue.waiting[ticket] = now + own
        return own

    def is_free(self, kind: Kind, now: float) -> bool:
        """Whether a request of this kind could leave at once."""
        queue = self._queues[kind]
        return queue.free_at - now <= ROUNDING_SECONDS and not queue.ordered(now)

    def go(self, ticket: Ticket, now: float) -> None:
        """Uses a ticket: its request leaves now."""
        queue = self._queues[ticket.kind]
        del queue.waiting[ticket]
        self._turns += 1
        queue.served[ticket.namespace] = self._turns
        queue.free_at = now + queue.interval

    def answered(self, kind: Kind, sent_at: float, now: float) -> None:
        """Takes note of an answer that is no refusal for the pace."""
        self.arrived(kind, min(now, sent_at + WAY_SECONDS))
        self._queues[kind].refusals = 0

    def arrived(self, kind: Kind, at: float) -> None:
        """Takes note of when a request arrived at the latest: from then on the provider counts."""
        queue = self._queues[kind]
        queue.free_at = max(queue.free_at, at + queue.interval)

    def refused(
        self,
        kind: Kind,
        now: float,
        *,
        threshold_seconds: float | None = None,
        retry_after_seconds: float | None = None,
    ) -> None:
        """Takes note that the provider refused for the pace, and what it said about it.

        A longer threshold than ours is taken over for good.
        """
        queue = self._queues[kind]
        if threshold_seconds is not None:
            most = THRESHOLD_FACTOR_MAX * kind.interval_seconds
            queue.interval = max(queue.interval, min(threshold_seconds, most))
        pause = BACKOFF_SECONDS * 2 ** min(queue.refusals, 8)
        queue.refusals += 1
        pause = max(pause, retry_after_seconds or 0.0, queue.interval)
        queue.free_at = max(queue.free_at, now + min(pause, BACKOFF_MAX_SECONDS))
