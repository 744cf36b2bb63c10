"""How often others outbid us, by GPU model and by how far we bid above the lowest bid that wins.

Seen are our own machines alone: how long they were ours at such a bid, and how often somebody bid
more meanwhile. Evidence fades, since markets change.
"""

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import cached_property
from itertools import product
from math import exp, log

HALF_LIFE = timedelta(days=7)
"""After this time what was seen counts half."""
OTHERS_COUNT = 0.25
"""What machines of other models showed counts so much."""
RECORDS_KEPT = 500

PERCENTS = (100, 102, 105, 110, 115, 120, 125, 135, 150, 175, 200)
"""Bids that are considered, in percent of the lowest bid that wins."""
RATIOS = tuple(percent / 100 for percent in PERCENTS)

OFTEN = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
STEEP = (2.0, 6.0, 16.0, 40.0)
ALWAYS = (0.003, 0.015, 0.1, 0.5)
"""What the market may be like: `ALWAYS` outbids an hour whatever is bid, because somebody rents the
machine on demand, and `OFTEN` more at the lowest bid, of which a bid of x times that leaves
x ** -`STEEP`. The captured market has 0.014 and 0.013 (vastsim/FACTS.md, Living market)."""
PRIOR = 0.5
"""Each hypothesis weighs as much as its rate at the lowest bid to the power of minus this."""

HYPOTHESES = tuple(
    (
        (often + always) ** -PRIOR,
        tuple(always + often * ratio**-steep for ratio in RATIOS),
    )
    for often, steep, always in product(OFTEN, STEEP, ALWAYS)
)
"""The prior's weight of each, and how often a machine is outbid an hour, by the bid's number."""


@dataclass(frozen=True, kw_only=True)
class Stay:
    """What one attempt on a machine that we bid for showed."""

    node_uid: str
    """Uid of the attempt's node, by which a stay that is reported twice is counted once."""
    gpu_model: str
    percent: int
    """One of `PERCENTS`: what was bid, rounded down to the next of them."""
    hours: float
    """How long the machine was ours, but for pauses."""
    outbids: int
    at: datetime


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What is known of one model at one of `PERCENTS`, as it counted at the time `at`."""

    hours: float
    outbids: float
    at: datetime
    last_node_uid: str

    def faded(self, now: datetime) -> "Seen":
        """Returns it as it counts now."""
        share = 0.5 ** (max(now - self.at, timedelta(0)) / HALF_LIFE)
        return replace(self, hours=self.hours * share, outbids=self.outbids * share, at=now)


@dataclass(frozen=True)
class OutbidMemory:
    """All that is known, by GPU model and percent."""

    records: Mapping[tuple[str, int], Seen] = field(default_factory=dict)

    @cached_property
    def _rates(self) -> dict[str, tuple[float, ...]]:
        """The answers given so far: a memory is asked for each offer and does not change."""
        return {}

    def per_hour(self, gpu_model: str) -> tuple[float, ...]:
        """Returns how often a machine of a model is expected to be outbid an hour, for each of
        `PERCENTS`: the mean over `HYPOTHESES` by what was seen.
        """
        if gpu_model not in self._rates:
            self._rates[gpu_model] = self._expected(gpu_model)
        return self._rates[gpu_model]

    def _expected(self, gpu_model: str) -> tuple[float, ...]:
        latest = max((seen.at for seen in self.records.values()), default=None)
        counts = [(0.0, 0.0)] * len(PERCENTS)
        for (model, percent), seen in self.records.items():
            assert latest is not None, "there is a record"
            # Only how old records are beside each other matters here: as all fade, the ranking of
            # what they say would stay the same, and the answers could not be kept.
            now, share = seen.faded(latest), 1.0 if model == gpu_model else OTHERS_COUNT
            number = PERCENTS.index(percent)
            hours, outbids = counts[number]
            counts[number] = (hours + share * now.hours, outbids + share * now.outbids)
        logs = [
            log(weight)
            + sum(
                outbids * log(rates[number]) - rates[number] * hours
                for number, (hours, outbids) in enumerate(counts)
                if hours
            )
            for weight, rates in HYPOTHESES
        ]
        most = max(logs)
        weights = [exp(one - most) for one in logs]
        total = sum(weights)
        return tuple(
            sum(
                weight * rates[number]
                for weight, (_, rates) in zip(weights, HYPOTHESES, strict=True)
            )
            / total
            for number in range(len(PERCENTS))
        )


def percent_of(ratio: float) -> int:
    """Returns the highest of `PERCENTS` that a bid reaches; `ratio` is the bid over the lowest."""
    return PERCENTS[max(bisect_right(PERCENTS, ratio * 100 + 1e-6) - 1, 0)]


def with_stay(memory: OutbidMemory, stay: Stay) -> OutbidMemory:
    """Returns the memory with one more stay; one that is reported again changes nothing."""
    key = (stay.gpu_model, stay.percent)
    old = memory.records.get(key)
    if old is not None and old.last_node_uid == stay.node_uid:
        return memory
    faded = old.faded(stay.at) if old else Seen(hours=0, outbids=0, at=stay.at, last_node_uid="")
    record = Seen(
        hours=faded.hours + stay.hours,
        outbids=faded.outbids + stay.outbids,
        at=stay.at,
        last_node_uid=stay.node_uid,
    )
    records = {**memory.records, key: record}
    if len(records) > RECORDS_KEPT:
        del records[min((one for one in records if one != key), key=lambda one: records[one].at)]
    return OutbidMemory(records)
