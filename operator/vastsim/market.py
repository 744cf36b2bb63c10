"""The market model: offers, leases and their histories. Pure: time and chance are given to it.

It neither sleeps nor listens; whoever owns it says what time it is, and when a machine that is due
has really started.
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction

from vastsim.ledger import STORAGE_MONTH_HOURS, Bill, bill
from vastsim.offers import Facts

FIRST_OFFER = 21_000_001
FIRST_LEASE = 36_000_001


class RefusedError(Exception):
    """The provider's no, as it words it (provider facts, success and failure)."""

    def __init__(self, status: int, error: str, message: str, **more: object) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"success": False, "error": error, "msg": message, **more}


@dataclass(frozen=True)
class Timing:
    """How long things take, in seconds."""

    boot: tuple[float, float] = (20.0, 60.0)
    list_lag: float = 0.0
    """A new machine is not listed, a destroyed one still is, for this long."""


@dataclass(frozen=True)
class Ask:
    """What a rent request asked for."""

    image: str
    disk_gb: float
    label: str | None
    env: Mapping[str, str]
    onstart: str | None
    runtype: str


@dataclass(frozen=True)
class Lease:
    """One rented machine, also after its end."""

    number: int
    facts: Facts
    ask: Ask
    label: str | None
    history: tuple[tuple[float, str], ...]
    """When each state began: loading, running, stopped, offline, destroyed."""
    due_at: float
    """When it is to run."""
    dies_at: float | None = None
    download_gb: Fraction = Fraction(0)
    upload_gb: Fraction = Fraction(0)

    @property
    def state(self) -> str:
        """The present state."""
        return self.history[-1][1]

    @property
    def created_at(self) -> float:
        """When it was rented."""
        return self.history[0][0]

    def entered(self, state: str) -> float | None:
        """Returns when a state was first entered, None if never."""
        return next((at for at, held in self.history if held == state), None)

    @property
    def storage_usd_per_hour(self) -> Fraction:
        """Price of its disk."""
        disk = Fraction(str(self.ask.disk_gb))
        return Fraction(self.facts.storage_cost) * disk / STORAGE_MONTH_HOURS

    def bill(self, now: float) -> Bill:
        """Returns what it has cost up to now."""
        return bill(
            self.history,
            gpu_usd_per_hour=Fraction(self.facts.dph_base),
            storage_usd_per_hour=self.storage_usd_per_hour,
            download_gb=self.download_gb,
            upload_gb=self.upload_gb,
            download_usd_per_gb=Fraction(self.facts.inet_down_cost),
            upload_usd_per_gb=Fraction(self.facts.inet_up_cost),
            now=now,
        )


@dataclass
class Market:
    """All offers and all leases of one account."""

    facts: tuple[Facts, ...]
    seed: int
    timing: Timing = Timing()
    credit_usd: Fraction = Fraction(100)
    offers: dict[int, Facts] = field(default_factory=dict)
    """What can be rented now, by the offer's number; a number is good for one rent."""
    leases: dict[int, Lease] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._chance = random.Random(self.seed)
        self._next_offer = FIRST_OFFER
        for facts in self.facts:
            self._offer(facts)

    def _offer(self, facts: Facts) -> None:
        self.offers[self._next_offer] = facts
        self._next_offer += 1

    def rent(self, offer: int, ask: Ask, now: float, *, boot_seconds: float | None = None) -> Lease:
        """Rents an offer; raises RefusedError."""
        facts = self.offers.get(offer)
        if facts is None:
            raise RefusedError(
                400,
                "invalid_args",
                f"error 404/3603: no_such_ask  Instance type by id {offer} is not available.",
                ask_id=offer,
            )
        if self.credit(now) <= 0:
            raise RefusedError(400, "insufficient_credit", "Your account lacks credit.")
        if not 1 <= ask.disk_gb <= facts.disk_space:
            raise RefusedError(400, "invalid_args", "error 400/3467: disk is out of range")
        boot = self._chance.uniform(*self.timing.boot) if boot_seconds is None else boot_seconds
        del self.offers[offer]
        lease = Lease(
            number=FIRST_LEASE + len(self.leases),
            facts=facts,
            ask=ask,
            label=ask.label,
            history=((now, "loading"),),
            due_at=now + boot,
        )
        self.leases[lease.number] = lease
        return lease

    def due(self, now: float) -> tuple[Lease, ...]:
        """Returns what should run by now and does not."""
        return tuple(
            lease
            for lease in self.leases.values()
            if lease.state == "loading" and lease.due_at <= now
        )

    def dying(self, now: float) -> tuple[Lease, ...]:
        """Returns what should have lost its host by now and has not."""
        return tuple(
            lease
            for lease in self.leases.values()
            if lease.state == "running" and lease.dies_at is not None and lease.dies_at <= now
        )

    def enter(self, number: int, state: str, now: float) -> Lease:
        """Brings a lease into a state; a destroyed one stays so."""
        lease = self.leases[number]
        if lease.state in (state, "destroyed"):
            return lease
        lease = replace(lease, history=(*lease.history, (now, state)))
        self.leases[number] = lease
        if state == "destroyed":
            self._offer(lease.facts)
        return lease

    def change(self, number: int, **changes: object) -> Lease:
        """Changes what is not a state: label, death, traffic."""
        self.leases[number] = replace(self.leases[number], **changes)  # type: ignore[arg-type]
        return self.leases[number]

    def find(self, number: int) -> Lease:
        """Returns a lease that is not destroyed; raises RefusedError."""
        lease = self.leases.get(number)
        if lease is None or lease.state == "destroyed":
            raise RefusedError(404, "no_such_instance", f"Instance {number} not found.")
        return lease

    def listed(self, now: float) -> tuple[Lease, ...]:
        """Returns what a listing shows: late for new machines, and late for destroyed ones."""
        lag = self.timing.list_lag
        shown = []
        for lease in self.leases.values():
            ended = lease.entered("destroyed")
            if now - lease.created_at < lag or (ended is not None and now - ended >= lag):
                continue
            shown.append(lease)
        return tuple(shown)

    def credit(self, now: float) -> Fraction:
        """Returns the prepaid money that is left."""
        spent = sum((lease.bill(now).total_usd for lease in self.leases.values()), Fraction(0))
        return self.credit_usd - spent
