"""The offers of the market file: captured facts, and what the capture lacks.

What it lacks is derived, always in the same way for a row: CPU cores (16 for each GPU), memory
(64 GB for each GPU), a public address in a range for documentation, 100 direct ports, and software
versions.
"""

import csv
from dataclasses import dataclass
from pathlib import Path

DEFAULT_FILE = Path(__file__).with_name("market.csv")


class MarketFileError(ValueError):
    """The market file cannot be read; the message says where."""


@dataclass(frozen=True)
class Facts:
    """What never changes about a machine's offer. Prices are in US dollars, sizes in GB."""

    machine_id: int
    host_id: int
    gpu_name: str
    num_gpus: int
    gpu_frac: float
    gpu_ram_mib: int
    dph_base: str
    min_bid: str
    storage_cost: str
    inet_up_cost: str
    inet_down_cost: str
    inet_up_mbps: float
    inet_down_mbps: float
    disk_space: float
    reliability: float
    verification: str
    contract_seconds: float
    hosting_type: int
    dlperf: float
    cuda_max_good: float
    country: str

    @property
    def cpu_cores_effective(self) -> float:
        """The CPU cores of this offer."""
        return 16.0 * self.num_gpus

    @property
    def cpu_cores(self) -> int:
        """The CPU cores of the whole machine."""
        return round(self.cpu_cores_effective / max(self.gpu_frac, 1 / 64))

    @property
    def cpu_ram(self) -> int:
        """The memory of the whole machine in MB."""
        return self.cpu_cores * 4000

    @property
    def address(self) -> str:
        """The machine's public address, from a range that is reserved for documentation."""
        return f"203.0.113.{self.machine_id % 254 + 1}"


def read_market(path: Path = DEFAULT_FILE) -> tuple[Facts, ...]:
    """Returns the offers of a market file; raises MarketFileError."""
    try:
        with path.open(newline="") as stream:
            return tuple(
                _facts(row, f"{path}:{number}")
                for number, row in enumerate(csv.DictReader(stream), 2)
            )
    except OSError as error:
        raise MarketFileError(f"{path}: {error.strerror}") from None


def _facts(row: dict[str, str], where: str) -> Facts:
    try:
        return Facts(
            machine_id=40_000 + int(row["machine"]),
            host_id=90_000 + int(row["host"]),
            gpu_name=row["gpu_name"],
            num_gpus=int(row["num_gpus"]),
            gpu_frac=float(row["gpu_frac"]),
            gpu_ram_mib=int(row["gpu_ram_mib"]),
            dph_base=row["dph_base"],
            min_bid=row["min_bid"] or row["dph_base"],
            storage_cost=row["storage_cost_gb_month"],
            inet_up_cost=row["inet_up_cost_gb"],
            inet_down_cost=row["inet_down_cost_gb"],
            inet_up_mbps=float(row["inet_up_mbps"]),
            inet_down_mbps=float(row["inet_down_mbps"]),
            disk_space=float(row["disk_space_gb"]),
            reliability=float(row["reliability2"]),
            verification=row["verification"],
            contract_seconds=float(row["max_duration_s"]),
            hosting_type=int(row["hosting_type"]),
            dlperf=float(row["dlperf"] or 0),
            cuda_max_good=float(row["cuda_max_good"] or 0),
            country=row["country"],
        )
    except (KeyError, ValueError, TypeError) as error:
        raise MarketFileError(f"{where}: {type(error).__name__}: {error}") from None
