"""The offers of the market file: captured facts, and what the capture lacks.

What it lacks is derived, always in the same way for a row: CPU cores (16 for each GPU), memory
(64 GB for each GPU), a public address in a range for documentation, 100 direct ports, software
versions from the newest CUDA that it supports, and what the makers of its GPUs publish.
"""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from vastsim.gpus import MODELS, driver_number, driver_of

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
    stopped_storage_cost: str | None = None
    """Of the disk of a machine that does not run; None = the same as of one that does."""

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

    @property
    def driver(self) -> str:
        """The release of its GPUs' driver."""
        return driver_of(self.cuda_max_good)

    @cached_property
    def hardware(self) -> Mapping[str, Any]:
        """What rows of offers and of instances say of it, and what never changes.

        It is made once, because a search may look at thousands of offers.
        """
        model = MODELS[self.gpu_name]
        up, down = float(self.inet_up_cost), float(self.inet_down_cost)
        return {
            "machine_id": self.machine_id,
            "host_id": self.host_id,
            "bundle_id": 1_800_000_000 + self.machine_id,
            "bundled_results": None,
            "hostname": None,
            "hosting_type": self.hosting_type,
            "resource_type": "gpu",
            "verification": self.verification,
            "vericode": int(self.verification == "verified"),
            "is_vm_deverified": False,
            "vms_enabled": False,
            "external": False,
            "static_ip": True,
            "public_ipaddr": self.address,
            "direct_port_count": 100,
            "geolocation": f"Somewhere, {self.country}",
            "geolocode": None,
            "gpu_name": self.gpu_name,
            "gpu_arch": "nvidia",
            "num_gpus": self.num_gpus,
            "gpu_frac": self.gpu_frac,
            "gpu_ids": [self.machine_id * 100 + index for index in range(self.num_gpus)],
            "gpu_ram": self.gpu_ram_mib,
            "gpu_total_ram": self.gpu_ram_mib * self.num_gpus,
            "gpu_lanes": 16,
            "gpu_mem_bw": model.memory_gb_per_second,
            "gpu_max_power": model.watts,
            "gpu_max_temp": 90.0,
            "gpu_display_active": False,
            "compute_cap": model.compute_cap,
            "cuda_max_good": self.cuda_max_good,
            "driver_version": self.driver,
            "driver_vers": driver_number(self.driver),
            "total_flops": round(model.teraflops * self.num_gpus, 3),
            "dlperf": self.dlperf,
            "bw_nvlink": model.nvlink_gb_per_second if self.num_gpus > 1 else 0.0,
            "cpu_name": "EPYC 7543",
            "cpu_cores": self.cpu_cores,
            "cpu_cores_effective": self.cpu_cores_effective,
            "cpu_ghz": 2.8,
            "cpu_ram": self.cpu_ram,
            "cpu_arch": "amd64",
            "has_avx": 1,
            "disk_bw": 3000.0,
            "disk_name": "nvme",
            "pci_gen": model.pci_gen,
            "pcie_bw": 1.5 * 2**model.pci_gen,
            "mobo_name": "H12SSL-i",
            "os_version": "22.04",
            "inet_up": self.inet_up_mbps,
            "inet_down": self.inet_down_mbps,
            "inet_up_cost": up,
            "inet_down_cost": down,
            "internet_up_cost_per_tb": up * 1024,
            "internet_down_cost_per_tb": down * 1024,
            "storage_cost": float(self.storage_cost),
            "min_bid": float(self.min_bid),
            "discounted_hourly": 0.0,
            "discount_rate": None,
            "credit_discount_max": 0.0,
            "platform_fee": None,
            "reliability": self.reliability,
            "reliability2": self.reliability,
            "reliability_mult": self.reliability,
            "expected_reliability": 0.0,
            "time_remaining": "",
            "time_remaining_isbid": "",
            "cluster_id": None,
            "avail_vol_ask_id": None,
            "avail_vol_dph": None,
            "avail_vol_size": None,
            "nw_disk_min_bw": None,
            "nw_disk_max_bw": None,
            "nw_disk_avg_bw": None,
            "logo": "/static/logos/vastai_small2.png",
            "webpage": None,
        }


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
        if row["gpu_name"] not in MODELS:
            raise ValueError(f"vastsim/gpus.py does not know the model {row['gpu_name']!r}")
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
            stopped_storage_cost=row.get("stopped_storage_cost_gb_month") or None,
        )
    except (KeyError, ValueError, TypeError) as error:
        raise MarketFileError(f"{where}: {type(error).__name__}: {error}") from None
