"""The market model: offers, leases and their histories.

It is pure: it neither sleeps nor listens. The caller says what time it is, and when a machine that
is due has really started; what is random comes from the seed.
"""

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cache, cached_property
from typing import Any

from vastsim.ledger import STORAGE_MONTH_HOURS, Bill, Changes, Rates, bill
from vastsim.offers import Facts

FIRST_OFFER = 21_000_001
FIRST_LEASE = 36_000_001
ACCOUNT = 4711
"""The account that is meant when none is named."""


class RefusedError(Exception):
    """A refusal in the provider's own words (vastsim/FACTS.md, Rent answers)."""

    def __init__(self, status: int, error: str, message: str, **more: object) -> None:
        super().__init__(message)
        self.status = status
        self.body: dict[str, Any] = {"success": False, "error": error, "msg": message, **more}


@cache
def _usd(price: str) -> Fraction:
    """Reads a price of an offer; cached, because each bill needs four of a few prices."""
    return Fraction(price)


@dataclass(frozen=True)
class Timing:
    """How long things take, in seconds."""

    boot: tuple[float, float] = (20.0, 60.0)
    list_lag: float = 0.0
    """For this long a new machine is not listed yet, and a destroyed one is listed still."""
    record_lag: float = 600.0
    """For this long what was used is in no record of charges."""


@dataclass(frozen=True)
class Ask:
    """The contents of a rent request."""

    image: str
    disk_gb: float
    label: str | None
    env: Mapping[str, str]
    onstart: str | None
    runtype: str
    user: str = ""
    """Of the container, in place of the image's."""
    bid_usd_per_hour: Fraction | None = None
    """The bid for an interruptible machine; None rents on demand."""
    args: tuple[str, ...] = ()
    """What follows the command in the run type `args`."""

    @property
    def is_reached_by_ssh(self) -> bool:
        """Whether the provider's launcher runs in it, and not the image's own command."""
        return self.runtype != "args"


@dataclass(frozen=True)
class FailedPull:
    """How the pull of an image fails (vastsim/FACTS.md, Failed pulls)."""

    words: str
    """What the status of the machine says, in Docker's words."""
    gives_up_seconds: float = 420.0
    """After this time the provider stops the machine, which still shows as loading."""
    is_created: bool = False
    """Whether the image is there, and its container could not be started."""


@dataclass(frozen=True)
class Lease:
    """One rented machine; it is kept after its end."""

    number: int
    facts: Facts
    ask: Ask
    label: str | None
    history: tuple[tuple[float, str], ...]
    """When each state began: loading, given up, running, exited, stopped, offline, destroyed."""
    due_at: float
    """When it should run."""
    account: int = ACCOUNT
    dies_at: float | None = None
    returns_at: float | None = None
    """When its lost host comes back, with the disk; None = never."""
    outbid_at: float | None = None
    resumes_at: float | None = None
    is_outbid: bool = False
    """Whether it is stopped because somebody else pays more, and not because its user asked."""
    list_lag: float | None = None
    """In place of the market's."""
    reappears: tuple[float, float] | None = None
    """From when until when it is listed although it was destroyed."""
    failed_pull: FailedPull | None = None
    """Why its image is never pulled; None = it is."""
    rebids: Changes = ()
    """The later bids of an interruptible machine, or the raised prices of another one."""
    increase: tuple[float, Fraction] | None = None
    """From when on its host asks for how many US dollars per hour; the client has not answered."""
    traffic: tuple[tuple[float, Fraction, Fraction], ...] = ()
    """What was downloaded and uploaded up to then, in gigabytes, each time that it was counted."""

    @property
    def download_gb(self) -> Fraction:
        """What was downloaded up to now."""
        return self.traffic[-1][1] if self.traffic else Fraction(0)

    @property
    def upload_gb(self) -> Fraction:
        """What was uploaded up to now."""
        return self.traffic[-1][2] if self.traffic else Fraction(0)

    @property
    def state(self) -> str:
        """The current state."""
        return self.history[-1][1]

    @property
    def created_at(self) -> float:
        """When it was rented."""
        return self.history[0][0]

    def entered(self, state: str) -> float | None:
        """Returns when a state was first entered, or None if it never was."""
        return next((at for at, held in self.history if held == state), None)

    @property
    def gpu_usd_per_hour(self) -> Fraction:
        """The price of its GPUs while it runs: the bid, or the offer's price."""
        if self.rebids:
            return self.rebids[-1][1]
        return self._first_price

    @property
    def _first_price(self) -> Fraction:
        bid = self.ask.bid_usd_per_hour
        return _usd(self.facts.dph_base) if bid is None else bid

    @cached_property
    def storage_usd_per_hour(self) -> Fraction:
        """The price of its disk while it runs."""
        return self._disk(self.facts.storage_cost)

    @cached_property
    def stopped_storage_usd_per_hour(self) -> Fraction:
        """The price of its disk while it does not run."""
        return self._disk(self.facts.stopped_storage_cost or self.facts.storage_cost)

    def _disk(self, usd_per_gb_and_month: str) -> Fraction:
        disk = Fraction(str(self.ask.disk_gb))
        return _usd(usd_per_gb_and_month) * disk / STORAGE_MONTH_HOURS

    @property
    def rates(self) -> Rates:
        """Its prices."""
        return Rates(
            gpu=((self.created_at, self._first_price), *self.rebids),
            storage=self.storage_usd_per_hour,
            stopped_storage=self.stopped_storage_usd_per_hour,
            download=_usd(self.facts.inet_down_cost),
            upload=_usd(self.facts.inet_up_cost),
        )

    def traffic_at(self, at: float) -> tuple[Fraction, Fraction]:
        """Returns what had been downloaded and uploaded by then, in gigabytes."""
        counted = [(down, up) for when, down, up in self.traffic if when < at]
        return counted[-1] if counted else (Fraction(0), Fraction(0))

    def bill(self, now: float, since: float = -math.inf) -> Bill:
        """Returns what the lease has cost from `since` up to now."""
        down, up = self.download_gb, self.upload_gb
        if since > -math.inf:
            (down, up), (before_down, before_up) = self.traffic_at(now), self.traffic_at(since)
            down, up = down - before_down, up - before_up
        return bill(self.history, self.rates, download_gb=down, upload_gb=up, since=since, now=now)

    def spent_usd(self, now: float) -> Fraction:
        """Returns what the lease has cost up to now, in US dollars."""
        return self._final_usd if self.state == "destroyed" else self.bill(now).total_usd

    @cached_property
    def _final_usd(self) -> Fraction:
        ended_at, _ = self.history[-1]
        return self.bill(ended_at).total_usd


@dataclass
class Market:
    """All offers, and all leases of all accounts."""

    facts: tuple[Facts, ...]
    seed: int
    timing: Timing = Timing()
    credit_usd: Fraction = Fraction(100)
    """What each account has paid in, unless `set_credit` changed that."""
    offers: dict[int, Facts] = field(default_factory=dict)
    """What can be rented now, by the number of the offer; a number is good for one rent."""
    leases: dict[int, Lease] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._chance = random.Random(self.seed)
        self._next_offer = FIRST_OFFER
        self._paid_in: dict[int, Fraction] = {}
        self._solvent_until = -math.inf
        """No account's credit is used up before this time, unless something changes."""
        for facts in self.facts:
            self._offer(facts)

    def _offer(self, facts: Facts) -> int:
        self.offers[self._next_offer] = facts
        self._next_offer += 1
        return self._next_offer - 1

    def live(self, now: float) -> None:
        """Lets others act up to now; this market has nobody else."""

    def _take(self, offer: int, _: Lease) -> None:
        """Takes what is rented from the market."""
        del self.offers[offer]

    def _give_back(self, lease: Lease) -> None:
        """Offers what is not rented any more, under a new number."""
        self._offer(lease.facts)

    def rent(
        self,
        offer: int,
        ask: Ask,
        now: float,
        *,
        account: int = ACCOUNT,
        boot_seconds: float | None = None,
        failed_pull: FailedPull | None = None,
        is_left_standing: bool = False,
    ) -> Lease:
        """Rents an offer; raises RefusedError.

        A machine that is left standing stays stopped until its user starts it.

        A bid that is too low is refused and yet leaves a machine: stopped, and its disk is billed
        (vastsim/FACTS.md, Rent answers).
        """
        facts = self.offers.get(offer)
        if facts is None:
            raise RefusedError(
                400,
                "invalid_args",
                f"error 404/3603: no_such_ask  Instance type by id {offer} is not available.",
                ask_id=offer,
            )
        if self.credit(now, account) <= 0:
            raise RefusedError(400, "insufficient_credit", "Your account lacks credit.")
        if not 1 <= ask.disk_gb <= facts.disk_space:
            raise RefusedError(400, "invalid_args", "error 400/3467: disk is out of range")
        boot = self._boot_seconds(facts) if boot_seconds is None else boot_seconds
        bid = ask.bid_usd_per_hour
        too_low = bid is not None and bid < _usd(facts.min_bid)
        lease = Lease(
            number=FIRST_LEASE + len(self.leases),
            facts=facts,
            ask=ask,
            label=ask.label,
            history=((now, "stopped" if too_low or is_left_standing else "loading"),),
            due_at=now + boot,
            account=account,
            is_outbid=too_low,
            failed_pull=failed_pull,
        )
        self._keep(lease)
        self._take(offer, lease)
        if too_low:
            raise RefusedError(
                400,
                "bid_too_low",
                f"The bid is below the lowest that would win, {facts.min_bid}.",
                new_contract=lease.number,
            )
        return lease

    def _boot_seconds(self, _: Facts) -> float:
        return self._chance.uniform(*self.timing.boot)

    def due(self, now: float) -> tuple[Lease, ...]:
        """Returns the leases that should run by now and do not."""
        return tuple(
            lease
            for lease in self.leases.values()
            if lease.state == "loading" and lease.due_at <= now and lease.failed_pull is None
        )

    def give_up_pulls(self, now: float) -> None:
        """Stops the leases whose image could not be pulled for too long."""
        for lease in list(self.leases.values()):
            failed, since = lease.failed_pull, lease.history[-1][0]
            if failed and lease.state == "loading" and now - since >= failed.gives_up_seconds:
                self.enter(lease.number, "given up", now)

    def dying(self, now: float) -> tuple[Lease, ...]:
        """Returns the leases that should have lost their host by now and have not."""
        return tuple(
            lease
            for lease in self.leases.values()
            if lease.state == "running" and lease.dies_at is not None and lease.dies_at <= now
        )

    def outbids(self, now: float) -> tuple[Lease, ...]:
        """Returns the leases that should have been outbid by now and have not been."""
        return tuple(
            lease
            for lease in self.leases.values()
            if lease.state in ("loading", "running")
            and lease.outbid_at is not None
            and lease.outbid_at <= now
        )

    def resuming(self, now: float) -> tuple[Lease, ...]:
        """Returns the leases that should have their GPUs back by now and have not."""
        return tuple(
            lease
            for lease in self.leases.values()
            if lease.state == "stopped" and lease.resumes_at is not None and lease.resumes_at <= now
        )

    def returning(self, now: float) -> tuple[Lease, ...]:
        """Returns the leases whose host should be back by now and is not."""
        return tuple(
            lease
            for lease in self.leases.values()
            if lease.state == "offline" and lease.returns_at is not None and lease.returns_at <= now
        )

    def unpaid(self, now: float) -> tuple[Lease, ...]:
        """Returns the leases that are on although the credit of their account is used up."""
        # To add up all bills takes long, so it is done only when the credit can be used up.
        if now < self._solvent_until:
            return ()
        on = [lease for lease in self.leases.values() if lease.state in ("loading", "running")]
        left = {account: self.credit(now, account) for account in {one.account for one in on}}
        if on and min(left.values()) > 0:
            # What is stopped pays less, and what is destroyed nothing.
            every = self.leases.values()
            most = sum(one.gpu_usd_per_hour + one.storage_usd_per_hour for one in every)
            self._solvent_until = now + float(min(left.values()) / most * 3600)
        return tuple(lease for lease in on if left[lease.account] <= 0)

    def increases(self, now: float, account: int = ACCOUNT) -> tuple[Lease, ...]:
        """Returns the leases of an account whose host asks for more by now."""
        return tuple(
            lease
            for lease in self.leases.values()
            if lease.account == account
            and lease.state != "destroyed"
            and lease.increase is not None
            and lease.increase[0] <= now
        )

    def answer_increase(self, number: int, now: float, *, is_accepted: bool) -> Lease:
        """Raises the price of a lease as its host asks for, or leaves it as it is."""
        lease = self.leases[number]
        if is_accepted and lease.increase is not None:
            lease = self.change(number, rebids=(*lease.rebids, (now, lease.increase[1])))
        return self.change(number, increase=None)

    def outbid(self, number: int, now: float) -> Lease:
        """Takes the GPUs from a lease; its disk stays and is still billed."""
        self.enter(number, "stopped", now)
        return self.change(number, is_outbid=True, outbid_at=None)

    def bid(self, number: int, usd_per_hour: Fraction | None, now: float) -> bool:
        """Changes a bid, None = to the lowest that wins; returns whether it wins.

        A machine that was outbid gets its GPUs back if it wins. Raises RefusedError.
        """
        lease = self.leases[number]
        if lease.ask.bid_usd_per_hour is None:
            raise RefusedError(400, "invalid_args", f"Instance {number} is not interruptible.")
        lowest = _usd(lease.facts.min_bid)
        bid = lowest if usd_per_hour is None else usd_per_hour
        lease = self.change(number, rebids=(*lease.rebids, (now, bid)))
        if bid >= lowest and lease.is_outbid:
            self.resume(number, now)
        return bid >= lowest

    def count(self, number: int, download_gb: Fraction, upload_gb: Fraction, now: float) -> Lease:
        """Counts the traffic of a lease, as it is up to now."""
        traffic = (*self.leases[number].traffic, (now, download_gb, upload_gb))
        return self.change(number, traffic=traffic)

    def recycle(self, number: int, now: float) -> Lease:
        """Lets a running lease pull its image again; it keeps its GPUs."""
        lease = self.enter(number, "loading", now)
        return self.change(number, due_at=now + self._boot_seconds(lease.facts))

    def resume(self, number: int, now: float) -> Lease:
        """Gives a stopped or lost lease its GPUs back; it loads again, with its old disk."""
        lease = self.leases[number]
        is_back = lease.returns_at is not None and lease.returns_at <= now
        if lease.state not in ("stopped", "given up", "exited", *(["offline"] if is_back else [])):
            return lease
        if is_back:
            self.change(number, dies_at=None, returns_at=None)
        self.enter(number, "loading", now)
        due_at = now + self._boot_seconds(lease.facts)
        return self.change(number, is_outbid=False, resumes_at=None, due_at=due_at)

    def enter(self, number: int, state: str, now: float) -> Lease:
        """Brings a lease into a state; a destroyed one stays destroyed."""
        lease = self.leases[number]
        if lease.state in (state, "destroyed"):
            return lease
        lease = self.change(number, history=(*lease.history, (now, state)))
        if state == "destroyed":
            self._give_back(lease)
        return lease

    def change(self, number: int, **changes: object) -> Lease:
        """Changes what is not a state, such as label, time of death or traffic."""
        return self._keep(replace(self.leases[number], **changes))  # type: ignore[arg-type]

    def _keep(self, lease: Lease) -> Lease:
        self.leases[lease.number] = lease
        self._solvent_until = -math.inf
        return lease

    def find(self, number: int, account: int = ACCOUNT) -> Lease:
        """Returns a lease of an account that is not destroyed; raises RefusedError."""
        lease = self.leases.get(number)
        if lease is None or lease.state == "destroyed" or lease.account != account:
            raise RefusedError(404, "no_such_instance", f"Instance {number} not found.")
        return lease

    def listed(self, now: float, account: int = ACCOUNT) -> tuple[Lease, ...]:
        """Returns the leases that a listing shows: new and destroyed ones lag by `list_lag`."""
        leases = [lease for lease in self.leases.values() if lease.account == account]
        return tuple(lease for lease in leases if self._is_shown(lease, now))

    def _is_shown(self, lease: Lease, now: float) -> bool:
        lag = self.timing.list_lag if lease.list_lag is None else lease.list_lag
        ended = lease.entered("destroyed")
        if lease.reappears is not None and lease.reappears[0] <= now < lease.reappears[1]:
            return True
        return now - lease.created_at >= lag and (ended is None or now - ended < lag)

    def credit(self, now: float, account: int = ACCOUNT) -> Fraction:
        """Returns the prepaid money that an account has left."""
        return self.paid_in(account) - self.spent(now, account)

    def set_credit(self, usd: Fraction, now: float, account: int = ACCOUNT) -> None:
        """Sets the money that an account has left."""
        self._paid_in[account] = usd + self.spent(now, account)
        self._solvent_until = -math.inf

    def paid_in(self, account: int) -> Fraction:
        """Returns the money that an account has ever paid in."""
        return self._paid_in.get(account, self.credit_usd)

    def spent(self, now: float, account: int) -> Fraction:
        """Returns what an account has used up."""
        leases = (lease for lease in self.leases.values() if lease.account == account)
        return sum((lease.spent_usd(now) for lease in leases), Fraction(0))
