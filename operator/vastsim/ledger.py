"""What the provider bills for a lease, exactly, from its history.

GPUs are billed by the second while the container runs or is frozen; the disk by the second from
creation until the lease is destroyed, but not while the host is lost, and at a rate of its own
while the machine does not run; traffic by the byte in any state. Loading is not billed as GPU time
(vastsim/FACTS.md, Billing).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

STORAGE_MONTH_HOURS = 720

ACTIVE = ("running", "frozen")
UNBILLED = ("offline", "destroyed")
STOPPED = ("stopped", "given up", "exited")
"""States in which the disk has the rate of a machine that does not run."""

Changes = tuple[tuple[float, Fraction], ...]
"""Values, and when each of them began."""


@dataclass(frozen=True)
class Rates:
    """What a lease costs, in US dollars: GPUs and disk by the hour, traffic by the gigabyte."""

    gpu: Changes
    storage: Fraction
    stopped_storage: Fraction
    download: Fraction
    upload: Fraction


@dataclass(frozen=True)
class Line:
    """One line of a bill: hours of GPUs or disk, or gigabytes of traffic, at one rate."""

    kind: str
    """`gpu`, `disk`, `bwd` or `bwu`, as the provider calls them."""
    quantity: Fraction
    usd_each: Fraction

    @property
    def usd(self) -> Fraction:
        """US dollars, exact."""
        return self.quantity * self.usd_each


@dataclass(frozen=True)
class Bill:
    """US dollars, exact."""

    lines: tuple[Line, ...]

    def _sum(self, *kinds: str) -> Fraction:
        return sum((line.usd for line in self.lines if line.kind in kinds), Fraction(0))

    @property
    def gpu_usd(self) -> Fraction:
        """For the GPUs."""
        return self._sum("gpu")

    @property
    def storage_usd(self) -> Fraction:
        """For the disk."""
        return self._sum("disk")

    @property
    def traffic_usd(self) -> Fraction:
        """For what was downloaded and uploaded."""
        return self._sum("bwd", "bwu")

    @property
    def total_usd(self) -> Fraction:
        """GPUs, disk and traffic together."""
        return self._sum("gpu", "disk", "bwd", "bwu")


def bill(
    history: tuple[tuple[float, str], ...],
    rates: Rates,
    *,
    download_gb: Fraction = Fraction(0),
    upload_gb: Fraction = Fraction(0),
    since: float = -math.inf,
    now: float,
) -> Bill:
    """Returns the bill from `since` up to `now`; `history` holds when states began.

    The traffic is what falls into that time.
    """
    seconds: dict[tuple[str, int], Fraction] = {}
    for state, began, ended in _spans(history, since, now):
        if state in ACTIVE:
            for index, begins, ends in _priced(rates.gpu, began, ended):
                key = ("gpu", index)
                seconds[key] = seconds.get(key, Fraction(0)) + Fraction(ends - begins)
        if state not in UNBILLED:
            key = ("disk", state in STOPPED)
            seconds[key] = seconds.get(key, Fraction(0)) + Fraction(ended - began)
    lines = []
    for (kind, index), held in sorted(seconds.items(), reverse=True):
        disk = rates.stopped_storage if index else rates.storage
        lines.append(Line(kind, held / 3600, rates.gpu[index][1] if kind == "gpu" else disk))
    for kind, gigabytes, rate in (
        ("bwd", download_gb, rates.download),
        ("bwu", upload_gb, rates.upload),
    ):
        if gigabytes:
            lines.append(Line(kind, gigabytes, rate))
    return Bill(tuple(lines))


def _spans(
    history: tuple[tuple[float, str], ...], since: float, now: float
) -> Iterator[tuple[str, float, float]]:
    ends = [at for at, _ in history[1:]] + [now]
    for (began, state), ended in zip(history, ends, strict=True):
        begins, stops = max(began, since), min(ended, now)
        if stops > begins:
            yield state, begins, stops


def _priced(prices: Changes, began: float, ended: float) -> Iterator[tuple[int, float, float]]:
    """Yields the parts of a time in which each price held; the first one held from the start."""
    if len(prices) == 1:
        yield 0, began, ended
        return
    changes = [-math.inf, *(at for at, _ in prices[1:]), math.inf]
    for index in range(len(prices)):
        begins, ends = max(began, changes[index]), min(ended, changes[index + 1])
        if ends > begins:
            yield index, begins, ends


def decimal(amount: Fraction) -> str:
    """Returns an amount with nine decimals, to the nearest."""
    scaled = round(amount * 10**9)
    sign = "-" if scaled < 0 else ""
    return f"{sign}{abs(scaled) // 10**9}.{abs(scaled) % 10**9:09d}"
