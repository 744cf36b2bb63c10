"""Compares what is bid for interruptible machines with simple rules, on captured markets.

Each job gets an offer of the capture, in the order of time, and each rule pays for it under the
same luck until it is finished: boots, the work since the last checkpoint that is lost with a
machine, its disk while it is waited for, and the traffic of each boot. Ours is what the operator
calls, and learns as the operator does, from its own machines alone.

Captures show no bidders. So there are five models of them, none of which the operator knows:

* captured: the lowest bid is drawn anew 0.0251 times an hour, as captures show (vastsim/FACTS.md,
  Living market), and a machine is lost that was bid less for;
* displaced: as captured, and whoever rents on demand takes it, whatever was bid: 0.0142 times an
  hour, as the captures show;
* rivals: twice in four hours somebody bids more than the lowest, by 8 % on average (exponential);
* crowded: twice an hour, by 25 % on average;
* spot: machines stay as long as those in traces of spot instances at two clouds, and of their ends
  a bid of x times the lowest survives all but x ** -4.
"""

import argparse
import csv
import gzip
import math
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any

from gpujob.core.cost.bid import at_bid, priced, terms_of
from gpujob.core.cost.estimate import Needs, Reckoning
from gpujob.core.limits import Limits
from gpujob.core.market.offers import Offer
from gpujob.core.market.outbids import OutbidMemory, Stay, percent_of, with_stay

FOLDER = Path(__file__).parents[2] / "shared" / "data"
"""Beside the project; the captures are not part of it."""
OFFERS = "vast_offers_daily.csv.gz"
SPOT = "spot_runs_aws_gcp.csv.gz"
BOOT_HOURS = 180 / 3600
"""Beside the time to load the image."""
IMAGE_GB, DISK_GB = 10, 40
RUN_HOURS = (1 / 6, 1.0, 6.0)
CHECKPOINTS = (None, 600.0, 1800.0)
DEADLINE_TIMES = 1.5
"""Users declare a deadline of so many times what the job takes."""
LOSSES_MAX = 30
"""Whoever was outbid so often takes a machine on demand."""
RULES: dict[str, int | None] = {
    "lowest": 100,
    "x 1.05": 105,
    "x 1.25": 125,
    "x 1.5": 150,
    "on demand": None,
}
DEARER_MAX = 0.05
NEVER = math.inf

Luck = Callable[[float, random.Random], float]
"""Hours until a machine is lost, by the bid over the lowest bid."""


@dataclass(frozen=True)
class Job:
    """What one job needs, and the offers that it finds, one for each attempt."""

    at: datetime
    run_hours: float
    checkpoint: float | None
    offer: Offer
    seed: str


def rows_of(path: Path) -> list[dict[str, str]]:
    """Reads a capture."""
    with gzip.open(path, "rt") as stream:
        return list(csv.DictReader(stream))


def offers_of(rows: Sequence[dict[str, str]]) -> Iterator[tuple[datetime, Offer]]:
    """Yields the offers of a capture that can be bid for, with the time of their snapshot."""
    for row in rows:
        on_demand, lowest = Fraction(row["dph_base"]), Fraction(row["min_bid"] or 0)
        can_load = float(row["inet_down_mbps"]) * 1200 >= 2 * IMAGE_GB * 8000
        if not on_demand or not lowest or row["rentable"] != "True" or not can_load:
            continue
        at = datetime.fromisoformat(row["snapshot_utc"].replace("Z", "+00:00"))
        yield (
            at,
            Offer(
                offer_id=int(row["offer_id"]),
                machine_id=int(row["machine"][1:]),
                host_id=int(row["host"][1:]),
                gpu_model=row["gpu_name"],
                gpu_count=int(row["num_gpus"]),
                gpu_memory_gb=Fraction(row["gpu_ram_mib"]) / 1024,
                cuda_version=Fraction(row["cuda_max_good"] or 0),
                cpu_cores=Fraction(8),
                memory_gb=Fraction(32),
                disk_gb=Fraction(row["disk_space_gb"]),
                location=row["country"],
                country=row["country"],
                is_verified=row["verification"] == "verified",
                is_datacenter=row["hosting_type"] == "1",
                reliability=Fraction(row["reliability2"]),
                has_direct_port=True,
                contract_seconds=Fraction(row["max_duration_s"]),
                gpu_usd_per_hour=on_demand,
                lowest_bid_usd_per_hour=lowest,
                storage_usd_per_gb_month=Fraction(row["storage_cost_gb_month"]),
                download_usd_per_gb=Fraction(row["inet_down_cost_gb"]),
                upload_usd_per_gb=Fraction(row["inet_up_cost_gb"]),
                download_mbps=Fraction(row["inet_down_mbps"]),
                upload_mbps=Fraction(row["inet_up_mbps"]),
            ),
        )


def captured(ratio: float, chance: random.Random) -> float:
    """See above: each new lowest bid is a Laplace draw around the captured one."""
    hours = 0.0
    while True:
        hours += chance.expovariate(0.0251)
        new = chance.expovariate(1 / 0.061) * chance.choice((-1, 1))
        if new > math.log(ratio):
            return hours


def displaced(ratio: float, chance: random.Random) -> float:
    """See above."""
    return min(captured(ratio, chance), chance.expovariate(0.0142))


def rivals(often: float, mean: float) -> Luck:
    """See above: `often` an hour somebody bids more, by this share on average."""

    def luck(ratio: float, chance: random.Random) -> float:
        return chance.expovariate(often * math.exp(-(ratio - 1) / mean))

    return luck


MODELS: dict[str, Luck] = {
    "captured": captured,
    "displaced": displaced,
    "rivals": rivals(0.5, 0.08),
    "crowded": rivals(2.0, 0.25),
}


def spot(path: Path) -> Luck:
    """See above: `path` has the runs of up and down times."""
    ups = [
        float(row["length_s"]) / 3600
        for row in rows_of(path)
        if int(row["value"]) > 0 and float(row["length_s"]) > 0
    ]

    def luck(ratio: float, chance: random.Random) -> float:
        hours = 0.0
        while True:
            hours += chance.choice(ups)
            if chance.random() < ratio**-4:
                return hours

    return luck


def needs_of(job: Job) -> Needs:
    """What the operator knows of a job: its deadline, and the caps on its traffic."""
    return Needs(
        disk_gb=DISK_GB,
        max_download_gb=2 * IMAGE_GB,
        max_upload_gb=1,
        run_seconds=job.run_hours * 3600 * DEADLINE_TIMES,
        drain_seconds=30,
    )


def finish(
    job: Job,
    luck: Luck,
    bid: Callable[[], Offer],
    limits: Limits,
    told: Callable[[Stay], None] | None,
) -> float:
    """Returns what a job has cost once it is finished."""
    usd, left, number = 0.0, job.run_hours, 0
    while True:
        offer = bid() if number < LOSSES_MAX else job.offer
        disk = float(offer.disk_usd_per_hour(DISK_GB))
        boot = BOOT_HOURS + IMAGE_GB * 8000 / 3600 / float(offer.download_mbps)
        price, until, ratio = float(offer.gpu_usd_per_hour), NEVER, 0.0
        if offer.bid_usd_per_hour is not None:
            assert offer.lowest_bid_usd_per_hour is not None, "chosen for it"
            ratio = float(offer.bid_usd_per_hour / offer.lowest_bid_usd_per_hour)
            until = luck(ratio, random.Random(f"{job.seed} {number}"))
        usd += float(IMAGE_GB * offer.download_usd_per_gb)
        hours = min(until, boot + left)
        usd += (price + disk) * hours
        lost = until < boot + left
        if ratio and told is not None:
            told(
                Stay(
                    node_uid=f"{job.seed}-{number}",
                    gpu_model=offer.gpu_model,
                    percent=percent_of(ratio),
                    hours=hours,
                    outbids=int(lost),
                    at=job.at,
                )
            )
        if not lost:
            return usd
        if job.checkpoint is not None:
            interval = job.checkpoint / 3600
            left -= max(until - boot, 0.0) // interval * interval
        usd += disk * limits.outbid_patience_seconds / 3600
        number += 1


def compare(luck: Luck, jobs: Sequence[Job]) -> list[float]:
    """Returns what all jobs have cost by each rule in turn, and last by the operator's."""
    limits, memory = Limits(), OutbidMemory()

    def learn(stay: Stay) -> None:
        nonlocal memory
        memory = with_stay(memory, stay)

    def chosen(job: Job) -> Offer:
        needs = needs_of(job)
        run, cap = needs.run_seconds, Fraction(1000)
        reckoning = Reckoning(needs, limits, others=0)
        terms = terms_of(job.offer, reckoning, limits, run_seconds=run, checkpoint=job.checkpoint)
        return priced(job.offer, terms, memory, most_usd_per_hour=cap).offer

    def ruled(job: Job, percent: int | None) -> Offer:
        lowest = job.offer.lowest_bid_usd_per_hour
        assert lowest is not None, "chosen for it"
        return job.offer if percent is None else at_bid(job.offer, lowest * percent / 100)

    found = [
        sum(finish(job, luck, partial(ruled, job, percent), limits, None) for job in jobs)
        for percent in RULES.values()
    ]
    return [*found, sum(finish(job, luck, partial(chosen, job), limits, learn) for job in jobs)]


def jobs_of(offers: Sequence[tuple[datetime, Offer]], count: int, seed: int) -> list[Job]:
    """Returns jobs that meet the offers of a capture, in the order of time."""
    chance = random.Random(seed)
    met = sorted((chance.choice(offers) for _ in range(count)), key=itemgetter(0))
    return [
        Job(at, chance.choice(RUN_HOURS), chance.choice(CHECKPOINTS), offer, f"{seed} {number}")
        for number, (at, offer) in enumerate(met)
    ]


def main() -> int:
    """Compares, and prints the table; returns 1 if ours is too dear, and 2 without captures."""
    parser = argparse.ArgumentParser(prog="hack/bench bids", description=__doc__)
    parser.add_argument(
        "files", nargs="*", type=Path, metavar="FILE", default=[FOLDER / OFFERS],
        help=f"offers of several snapshots, as {OFFERS} (default: in {FOLDER})",
    )  # fmt: skip
    parser.add_argument("--spot", type=Path, default=FOLDER / SPOT, help="traces of spot instances")
    parser.add_argument("--jobs", type=int, default=1000, help="jobs in each market")
    parser.add_argument("--seed", type=int, default=1)
    given: Any = parser.parse_args()
    try:
        offers = [one for path in given.files for one in offers_of(rows_of(path))]
        models = MODELS | {"spot": spot(given.spot)}
    except (OSError, KeyError, ValueError) as fault:
        print(f"hack/bench bids: no capture can be read: {fault!r}", file=sys.stderr)
        return 2
    jobs = jobs_of(offers, given.jobs, given.seed)
    print(f"{len(offers)} offers, {len(jobs)} jobs, seed {given.seed}; $ for each finished job")
    print(f"{'market':<12}{''.join(f'{name:>11}' for name in RULES)}{'ours':>11}  over the best")
    total, is_too_dear = [0.0] * (len(RULES) + 1), False
    for name, luck in models.items():
        costs = compare(luck, jobs)
        total = [before + cost for before, cost in zip(total, costs, strict=True)]
        is_too_dear |= show(name, costs, len(jobs)) > DEARER_MAX
    return int((show("all", total, len(jobs) * len(models)) >= 0) or is_too_dear)


def show(name: str, costs: Sequence[float], jobs: int) -> float:
    """Prints the line of a market; returns by which share ours is above the best rule."""
    over = costs[-1] / min(costs[:-1]) - 1
    print(f"{name:<12}{''.join(f'{usd / jobs:>11.4f}' for usd in costs)}{over:>+13.1%}", flush=True)
    return over


if __name__ == "__main__":
    sys.exit(main())
