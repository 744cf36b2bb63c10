"""Fits the rates of the living market to captures, and prints them.

The captures are CSV files: the offers of several days, one row per offer and snapshot, and counts
of rented and available GPUs (operator/vastsim/FACTS.md, Living market).
"""

import argparse
import csv
import gzip
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from datetime import datetime
from itertools import combinations, pairwise
from pathlib import Path

Row = Mapping[str, str]
Snapshots = dict[float, list[Row]]

ANSWER_CAP = 64
"""A model with so many offers in a snapshot may have more; its answers are a part."""
PRICES_WITHIN_HOURS = 5.0
"""Longer apart, an offer's price may have changed more than once."""


def rows_of(path: Path) -> list[Row]:
    """Reads a capture."""
    with gzip.open(path, "rt") as stream:
        return list(csv.DictReader(stream))


def snapshots_of(rows: list[Row]) -> Snapshots:
    """Returns the offers by their snapshots' times in hours, in order."""
    found: Snapshots = defaultdict(list)
    for row in rows:
        at = datetime.fromisoformat(row["snapshot_utc"].replace("Z", "+00:00"))
        found[at.timestamp() / 3600].append(row)
    return dict(sorted(found.items()))


def available_share(stats: list[Row]) -> float:
    """Returns the share of all GPUs that can be rented."""
    counts = dict.fromkeys(("available", "rented"), 0)
    for row in stats:
        if row["verification"] == "all" and row["status"] in counts:
            counts[row["status"]] += int(row["count"])
    return counts["available"] / sum(counts.values())


def fit_occupancy(snapshots: Snapshots, share: float) -> tuple[float, float]:
    """Returns the share of offers that an answer shows, and the rate per hour of forgetting.

    What is seen again after t hours is seen * (share + (1 - share) * exp(-rate * t)).
    """
    offers: dict[str, int] = defaultdict(int)
    for rows in snapshots.values():
        counts: dict[str, int] = defaultdict(int)
        for row in rows:
            counts[row["gpu_name"]] += 1
        for model, count in counts.items():
            offers[model] = max(offers[model], count)
    whole = {model for model, most in offers.items() if most < ANSWER_CAP}
    there = {
        at: {(row["machine"], row["num_gpus"]) for row in rows if row["gpu_name"] in whole}
        for at, rows in snapshots.items()
    }
    pairs = [
        (after - at, len(there[at] & there[after]), len(there[at]))
        for at, after in combinations(there, 2)
    ]

    def miss(seen: float, rate: float) -> float:
        return sum(
            count * (again / count - seen * (share + (1 - share) * math.exp(-rate * hours))) ** 2
            for hours, again, count in pairs
        )

    grid = ((seen / 200, rate / 500) for seen in range(100, 201) for rate in range(1, 200))
    return min(grid, key=lambda one: miss(*one))


def changes(snapshots: Snapshots, column: str) -> Iterator[tuple[float, float]]:
    """Yields, for each offer seen twice in a row, the hours between and its price's log ratio."""
    for (at, before), (then, after) in pairwise(snapshots.items()):
        old = {row["offer_id"]: row[column] for row in before if row[column]}
        for row in after:
            if then - at < PRICES_WITHIN_HOURS and row["offer_id"] in old and row[column]:
                yield then - at, math.log(float(row[column]) / float(old[row["offer_id"]]))


def main() -> None:
    """Prints the rates."""
    parser = argparse.ArgumentParser(prog="hack/fit_market.py", description=__doc__)
    parser.add_argument("offers", type=Path, help="the offers of several days")
    parser.add_argument("stats", type=Path, help="counts of rented and available GPUs")
    given = parser.parse_args()
    snapshots = snapshots_of(rows_of(given.offers))
    share = available_share(rows_of(given.stats))
    seen, rate = fit_occupancy(snapshots, share)
    print(f"available share {share:.3f}, an answer shows {seen:.2f} of the offers")
    print(f"taken {rate * (1 - share):.4f} per hour, freed {rate * share:.4f} per hour")
    for column in ("dph_base", "min_bid"):
        found = list(changes(snapshots, column))
        moved = [abs(ratio) for _, ratio in found if ratio]
        hours = sum(hours for hours, _ in found)
        size = sum(moved) / len(moved)
        print(
            f"{column}: {len(moved)} changes in {hours:.0f} offer-hours, {len(moved) / hours:.4f} "
            f"per hour, mean size {size:.3f} in logarithms"
        )


if __name__ == "__main__":
    main()
