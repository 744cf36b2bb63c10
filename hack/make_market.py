"""Selects the newest offer of each machine from a capture, at most 50 for each GPU model.

The capture is a CSV file with one row per offer and snapshot: prices in US dollars, sizes in GB.
"""

import csv
import gzip
import sys
from collections import defaultdict
from pathlib import Path

COLUMNS = (
    "gpu_name",
    "num_gpus",
    "gpu_frac",
    "gpu_ram_mib",
    "dph_base",
    "min_bid",
    "storage_cost_gb_month",
    "inet_up_cost_gb",
    "inet_down_cost_gb",
    "inet_up_mbps",
    "inet_down_mbps",
    "disk_space_gb",
    "reliability2",
    "verification",
    "max_duration_s",
    "hosting_type",
    "dlperf",
    "cuda_max_good",
    "country",
)
PER_MODEL = 50
TARGET = Path(__file__).resolve().parent.parent / "operator/vastsim/market.csv"


def main(capture: str) -> None:
    """Writes the market file."""
    newest: dict[tuple[str, str], dict[str, str]] = {}
    with gzip.open(capture, "rt") as stream:
        for row in csv.DictReader(stream):
            if row["rentable"] == "True" and row["rented"] == "False" and row["is_bid"] == "False":
                newest[row["machine"], row["num_gpus"]] = row
    by_model: dict[str, list[dict[str, str]]] = defaultdict(list)
    for row in newest.values():
        by_model[row["gpu_name"]].append(row)
    with TARGET.open("w", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(("machine", "host", *COLUMNS))
        for model in sorted(by_model):
            for row in by_model[model][:PER_MODEL]:
                identity = (row["machine"][1:], row["host"][1:])
                writer.writerow((*identity, *(row[column] for column in COLUMNS)))


if __name__ == "__main__":
    main(sys.argv[1])
