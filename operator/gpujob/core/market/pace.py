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
ROUNDING_SECONDS = 1e-6
"""A shorter wait is none: sums of seconds are not exact."""


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
    waiting: list[Ticket] = field(default_factory=list)
    served: dict[str, int] = field(default_factory=dict)
    """When each namespace had its last turn, in turns of all."""

    def ordered(self) -> list[Ticket]:
        """Returns the tickets in the order of their turns.

        The namespace that was served least recently goes first, and then one of each in turn.
        """
        rounds: dict[str, int] = {}
        ranked = []
        for ticket in self.waiting:
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

    def join(self, kind: Kind, namespace: str = "") -> Ticket:
        """Returns a ticket for one request, behind those that wait already."""
        self._numbers += 1
        ticket = Ticket(kind, namespace, self._numbers)
        self._queues[kind].waiting.append(ticket)
        return ticket

    def leave(self, ticket: Ticket) -> None:
        """Gives up a turn; does nothing if the ticket was used."""
        waiting = self._queues[ticket.kind].waiting
        if ticket in waiting:
            waiting.remove(ticket)

    def wait(self, ticket: Ticket, now: float) -> float:
        """Returns how long a ticket has to wait at least; 0 = it is its turn."""
        queue = self._queues[ticket.kind]
        ahead = queue.ordered().index(ticket)
        own = max(queue.free_at - now, 0.0) + ahead * queue.interval
        destroys = self._queues[Kind.DESTROY]
        if ticket.kind.waits_for_destroys and destroys.waiting:
            last = destroys.free_at + (len(destroys.waiting) - 1) * destroys.interval
            own = max(own, last - now, YIELD_SECONDS)
        return own if own > ROUNDING_SECONDS else 0.0

    def go(self, ticket: Ticket, now: float) -> None:
        """Uses a ticket: its request leaves now."""
        queue = self._queues[ticket.kind]
        queue.waiting.remove(ticket)
        self._turns += 1
        queue.served[ticket.namespace] = self._turns
        queue.free_at = now + queue.interval

    def answered(self, kind: Kind, sent_at: float, now: float) -> None:
        """Takes note of an answer. The provider counts from when a request arrived, which may have
        been as late as now.
        """
        queue = self._queues[kind]
        queue.free_at = max(queue.free_at, min(now, sent_at + WAY_SECONDS) + queue.interval)
        queue.refusals = 0

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
            queue.interval = min(max(queue.interval, threshold_seconds), BACKOFF_MAX_SECONDS)
        pause = BACKOFF_SECONDS * 2 ** min(queue.refusals, 8)
        queue.refusals += 1
        pause = max(pause, retry_after_seconds or 0.0, queue.interval)
        queue.free_at = max(queue.free_at, now + min(pause, BACKOFF_MAX_SECONDS))
