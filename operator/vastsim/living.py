"""A market in which strangers act: they rent, release, and change prices and bids.

It is pure, like the market that it extends, and what strangers do comes from the seed alone: not
from what clients do, and not from how often the time is told. The rates, and what in here is not
fitted but assumed, are in vastsim/FACTS.md, Living market.
"""

import math
import random
from collections import defaultdict
from dataclasses import dataclass, field, replace
from fractions import Fraction
from heapq import heapify, heapreplace
from itertools import count
from typing import Any

from vastsim.market import Ask, Lease, Market, Timing
from vastsim.offers import Facts

AVAILABLE_SHARE = 0.494
TAKEN_PER_HOUR, FREED_PER_HOUR = 0.0142, 0.0138
PRICED_PER_HOUR, PRICE_SPREAD = 0.0181, 0.087
BID_PER_HOUR, BID_SPREAD = 0.0251, 0.061
"""Spreads are those of logarithms, of a Laplace distribution around the captured price."""
FIRST_MACHINE, FIRST_HOST = 40_000, 90_000
ALL_GPUS = 1 + 1e-6


@dataclass(frozen=True)
class Quality:
    """What nobody is told of a host."""

    boot_factor: float
    """Its machines take so many times as long to boot."""
    stuck_probability: float
    """How likely a rented machine never boots."""
    deaths_per_hour: float
    """How often a machine of it is lost while it runs."""


@dataclass
class Machine:
    """A physical machine with all ways in which it is offered."""

    facts: tuple[Facts, ...]
    """At the captured prices."""
    is_taken: bool
    """Whether a stranger has all that nobody else has."""
    price: float
    bid: float
    """Logarithms of the present price and lowest bid over the captured ones."""
    offers: dict[int, Facts] = field(default_factory=dict)
    """What is offered now, at the captured prices, by number."""
    leases: dict[int, Facts] = field(default_factory=dict)
    """What clients have rented of it, likewise."""

    def now(self, facts: Facts) -> Facts:
        """Returns a way in which it is offered, at the present prices."""
        base = float(facts.dph_base) * math.exp(self.price)
        bid = float(facts.min_bid) * math.exp(self.bid)
        return replace(facts, dph_base=f"{base:.6f}", min_bid=f"{bid:.6f}")


class LivingMarket(Market):
    """A market of many machines like the captured ones."""

    def __init__(self, captured: tuple[Facts, ...], offers: int, seed: int, timing: Timing) -> None:
        """Opens with so many offers, or a few more."""
        self._life = random.Random(f"{seed}/life")
        self._machines: dict[int, Machine] = {}
        self._make(captured, offers)
        super().__init__((), seed, timing)
        self.facts = tuple(facts for one in self._machines.values() for facts in one.facts)
        for machine in self._machines.values():
            self._list(machine)
        self._began: float | None = None
        self._events = [
            (self._life.expovariate(rate), number, what)
            for number, machine in self._machines.items()
            for what, rate in (
                ("occupancy", FREED_PER_HOUR if machine.is_taken else TAKEN_PER_HOUR),
                ("price", PRICED_PER_HOUR),
                ("bid", BID_PER_HOUR),
            )
        ]
        """Hours since it began, the machine, and what happens: the next one first."""
        heapify(self._events)

    def live(self, now: float) -> None:
        """Lets strangers act up to now."""
        if self._began is None:
            self._began = now
        hours = (now - self._began) / 3600
        while self._events and self._events[0][0] <= hours:
            at, number, what = self._events[0]
            rate = self._happens(self._machines[number], what, now)
            heapreplace(self._events, (at + self._life.expovariate(rate), number, what))

    def rent(self, offer: int, ask: Ask, now: float, **more: Any) -> Lease:
        """Rents an offer, of a host that may be slow, or fail; raises RefusedError."""
        lease = super().rent(offer, ask, now, **more)
        quality = self.quality(lease.facts)
        due_at, dies_at = lease.due_at, math.inf
        if self._chance.random() < quality.stuck_probability:
            due_at = math.inf
        if quality.deaths_per_hour:
            dies_at = due_at + self._chance.expovariate(quality.deaths_per_hour) * 3600
        return self.change(lease.number, due_at=due_at, dies_at=dies_at)

    def quality(self, facts: Facts) -> Quality:
        """Returns what nobody is told of an offer's host."""
        chance = random.Random(f"{self.seed}/host/{facts.host_id}")
        boot_factor = chance.lognormvariate(0, 0.5)
        stuck = min(chance.lognormvariate(math.log(0.01), 1.2), 0.5)
        care = chance.lognormvariate(0, 1)
        return Quality(boot_factor, stuck, (1 - facts.reliability) / 24 * care)

    def _make(self, captured: tuple[Facts, ...], offers: int) -> None:
        by_machine: dict[int, list[Facts]] = defaultdict(list)
        for facts in captured:
            by_machine[facts.machine_id].append(facts)
        models = list(by_machine.values())
        new_host = len({facts.host_id for facts in captured}) / len(models)
        host, open_offers = FIRST_HOST, 0
        for number in count(FIRST_MACHINE):
            if open_offers >= offers:
                return
            host += self._life.random() < new_host
            machine = Machine(
                facts=tuple(
                    replace(facts, machine_id=number, host_id=host)
                    for facts in self._life.choice(models)
                ),
                is_taken=self._life.random() >= AVAILABLE_SHARE,
                price=self._deviation(PRICE_SPREAD),
                bid=self._deviation(BID_SPREAD),
            )
            self._machines[number] = machine
            open_offers += 0 if machine.is_taken else len(machine.facts)

    def _deviation(self, spread: float) -> float:
        return self._life.choice((-1, 1)) * self._life.expovariate(1 / spread)

    def _happens(self, machine: Machine, what: str, now: float) -> float:
        """Lets one thing happen, and returns the rate of the next of its kind."""
        match what:
            case "occupancy":
                machine.is_taken = not machine.is_taken
                self._list(machine)
                return FREED_PER_HOUR if machine.is_taken else TAKEN_PER_HOUR
            case "price":
                machine.price = self._deviation(PRICE_SPREAD)
                self._reprice(machine)
                return PRICED_PER_HOUR
        machine.bid = self._deviation(BID_SPREAD)
        self._reprice(machine)
        for number, facts in machine.leases.items():
            self._outbid(self.leases[number], machine.now(facts).min_bid, now)
        return BID_PER_HOUR

    def _outbid(self, lease: Lease, min_bid: str, now: float) -> None:
        """Ends or gives back what a machine's bid is worth, at the new lowest one."""
        lease = self.change(lease.number, facts=replace(lease.facts, min_bid=min_bid))
        bid = lease.ask.bid_usd_per_hour
        if bid is None:
            return
        if lease.is_outbid:
            resumes_at = now if bid >= Fraction(min_bid) else None
            self.change(lease.number, resumes_at=resumes_at)
        elif bid < Fraction(min_bid):
            self.change(lease.number, outbid_at=now)

    def _list(self, machine: Machine) -> None:
        """Offers what is left of a machine, under new numbers."""
        for number in machine.offers:
            self.offers.pop(number, None)
        machine.offers = {}
        if machine.is_taken:
            return
        held = sum(facts.gpu_frac for facts in machine.leases.values())
        for facts in machine.facts:
            if held + facts.gpu_frac <= ALL_GPUS:
                machine.offers[self._offer(machine.now(facts))] = facts

    def _reprice(self, machine: Machine) -> None:
        for number, facts in machine.offers.items():
            # An offer that a fault has taken away stays away.
            if number in self.offers:
                self.offers[number] = machine.now(facts)

    def _take(self, offer: int, lease: Lease) -> None:
        machine = self._machines[lease.facts.machine_id]
        machine.leases[lease.number] = machine.offers[offer]
        self._list(machine)

    def _give_back(self, lease: Lease) -> None:
        machine = self._machines[lease.facts.machine_id]
        del machine.leases[lease.number]
        self._list(machine)

    def _boot_seconds(self, facts: Facts) -> float:
        return super()._boot_seconds(facts) * self.quality(facts).boot_factor
