"""The provider's JSON shapes, with their oddities.

See vastsim/FACTS.md, Offers; vastsim/FACTS.md, Instances; vastsim/FACTS.md, Instance states.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, NamedTuple

from vastsim.market import Ask, Lease
from vastsim.offers import Facts

QUERY_DISK_GB = 8.0
"""The disk size in GB that prices are computed with if the query names none."""


class Offered(NamedTuple):
    """An offer in the terms of a search: when, for which disk, and whether for bids."""

    number: int
    facts: Facts
    now: float
    disk_gb: float
    is_bid: bool
    """For bids an offer is priced at the lowest one that would win."""

    @property
    def base(self) -> float:
        """The price of the GPUs in US dollars per hour."""
        return float(self.facts.min_bid if self.is_bid else self.facts.dph_base)

    @property
    def disk_hour(self) -> float:
        """The price of the disk in US dollars per hour."""
        price: float = self.facts.hardware["storage_cost"]
        return price * self.disk_gb / 720

    @property
    def total(self) -> float:
        """Both prices."""
        return self.base + self.disk_hour


FIGURES: Mapping[str, Callable[[Offered], Any]] = {
    "id": lambda one: one.number,
    "ask_contract_id": lambda one: one.number,
    "rn": lambda _: 1,
    "rentable": lambda _: True,
    "rented": lambda _: False,
    "is_bid": lambda one: one.is_bid,
    "start_date": lambda _: None,
    "end_date": lambda one: one.now + one.facts.contract_seconds,
    "duration": lambda one: one.facts.contract_seconds,
    "dph_base": lambda one: one.base,
    "dph_total": lambda one: one.total,
    "discounted_dph_total": lambda one: one.total,
    "dph_total_adj": lambda one: (
        one.total + one.facts.hardware["inet_up_cost"] + one.facts.hardware["inet_down_cost"]
    ),
    "dlperf_per_dphtotal": lambda one: one.facts.dlperf / max(one.total, 0.001),
    "flops_per_dphtotal": lambda one: one.facts.hardware["total_flops"] / max(one.total, 0.001),
    "vram_costperhour": lambda one: one.base / (one.facts.hardware["gpu_total_ram"] / 1024),
    "storage_total_cost": lambda one: one.disk_hour,
    "disk_space": lambda one: one.facts.disk_space,
    "score": lambda one: one.facts.dlperf / max(one.total, 0.001),
}
"""The columns of an offer that its hardware does not have, but for the two objects.

A search computes only those that it looks at: it looks at thousands of offers.
"""


def offer_row(
    number: int,
    facts: Facts,
    now: float,
    disk_gb: float = QUERY_DISK_GB,
    *,
    is_bid: bool = False,
) -> dict[str, Any]:
    """Returns an offer as a search shows it."""
    offered = Offered(number, facts, now, disk_gb, is_bid)
    stopped = float(facts.stopped_storage_cost or facts.storage_cost) * disk_gb / 720
    return {
        **facts.hardware,
        **{name: figure(offered) for name, figure in FIGURES.items()},
        "search": _prices(offered.base, offered.disk_hour),
        "instance": _prices(0.0, stopped),
    }


def _prices(gpu: float, disk: float) -> dict[str, float]:
    return {
        "gpuCostPerHour": gpu,
        "diskHour": disk,
        "totalHour": gpu + disk,
        "discountTotalHour": 0,
        "discountedTotalPerHour": gpu + disk,
    }


@dataclass(frozen=True)
class Endpoint:
    """Where a running machine listens."""

    host: str
    port: int
    proxy_port: int
    mapped: Mapping[str, int] = field(default_factory=dict)
    """Of the other ports that were asked for: outside by inside, such as `8000/tcp`."""


STATUS = {
    # state: actual_status, intended_status, cur_state, next_state
    "loading": ("loading", "running", "running", "running"),
    # The provider has stopped a machine whose image could not be pulled.
    "given up": ("loading", "stopped", "stopped", "stopped"),
    "running": ("running", "running", "running", "running"),
    # Its process has ended by itself; the GPUs are held.
    "exited": ("exited", "running", "running", "running"),
    "frozen": ("frozen", "frozen", "running", "running"),
    # A machine that its user stopped really shows `exited`, and so does an outbid one.
    "stopped": ("exited", "stopped", "stopped", "stopped"),
    "offline": ("offline", "running", "running", "running"),
    # It is listed after its end only because listings lag.
    "destroyed": ("running", "running", "running", "running"),
}


def instance_row(lease: Lease, endpoint: Endpoint | None, now: float) -> dict[str, Any]:
    """Returns a rented machine as a listing shows it."""
    actual, intended, current, following = STATUS[lease.state]
    disk_hour = float(lease.storage_usd_per_hour)
    stopped_disk_hour = float(lease.stopped_storage_usd_per_hour)
    base = float(lease.gpu_usd_per_hour)
    running = lease.state == "running" and endpoint is not None
    image = lease.ask.image.replace("/", "_").replace(":", "_")
    says = f"success, running {image}/{'ssh' if lease.ask.is_reached_by_ssh else 'args'}"
    failed = lease.failed_pull
    if failed is not None and lease.state in ("loading", "given up"):
        says = f"{failed.words}\n"
        actual = "created" if failed.is_created else actual
    elif not running:
        says = ""
    ports = _ports(lease.ask, endpoint) if running and endpoint else {}
    outside = sorted(ports.values()) or [-1]
    return {
        **lease.facts.hardware,
        "id": lease.number,
        "label": lease.label,
        "actual_status": actual,
        "intended_status": intended,
        "cur_state": current,
        "next_state": following,
        "status_msg": says,
        "start_date": lease.created_at,
        "end_date": lease.created_at + lease.facts.contract_seconds,
        "duration": lease.created_at + lease.facts.contract_seconds - now,
        "uptime_mins": None,
        "image_uuid": lease.ask.image,
        "image_args": list(lease.ask.args),
        "image_runtype": lease.ask.runtype,
        "extra_env": [[name, value] for name, value in lease.ask.env.items()],
        "onstart": lease.ask.onstart,
        "template_id": None,
        "template_hash_id": None,
        "template_name": None,
        "ssh_host": endpoint.host if endpoint else "",
        "ssh_idx": "1",
        "ssh_port": endpoint.proxy_port if endpoint else None,
        "machine_dir_ssh_port": endpoint.port if endpoint else None,
        "public_ipaddr": endpoint.host if endpoint else lease.facts.address,
        "local_ipaddrs": "172.17.0.3 \n",
        "direct_port_start": outside[0],
        "direct_port_end": outside[-1],
        "ports": {inside: _binding(port) for inside, port in ports.items()},
        "gpu_totalram": lease.facts.gpu_ram_mib * lease.facts.num_gpus,
        "gpu_util": 0.0 if running else None,
        "gpu_temp": 40.0 if running else None,
        "cpu_util": 0.0 if running else None,
        "mem_limit": lease.facts.cpu_cores_effective * 4.0 if running else None,
        "mem_usage": 0.5 if running else None,
        "vmem_usage": 0.0 if running else None,
        "disk_space": lease.ask.disk_gb,
        "disk_usage": 1.0,
        "disk_util": 1.0 / lease.ask.disk_gb,
        "is_bid": lease.ask.bid_usd_per_hour is not None,
        "dph_base": base,
        "dph_total": base + disk_hour,
        "storage_total_cost": disk_hour,
        "discounted_dph_total": base + disk_hour,
        "search": _prices(base, disk_hour),
        "instance": _prices(base, disk_hour) if running else _prices(0.0, stopped_disk_hour),
        "credit_balance": None,
        "credit_discount": None,
        "client_run_time": 1.1,
        "host_run_time": 2592000.0,
        "score": lease.facts.dlperf / max(base + disk_hour, 0.001),
        "inet_up_billed": _kilobytes(lease.upload_gb),
        "inet_down_billed": _kilobytes(lease.download_gb),
        "rentable": False,
        "country_code": lease.facts.country,
        "volume_info": [],
    }


def _ports(ask: Ask, endpoint: Endpoint) -> dict[str, int]:
    """Returns the ports that are reached at the machine's own address, outside by inside."""
    own = {"22/tcp": endpoint.port} if "ssh_direc" in ask.runtype else {}
    return {**own, **endpoint.mapped}


def _binding(port: int) -> list[dict[str, str]]:
    """Returns a port as Docker shows it, as text."""
    return [{"HostIp": "0.0.0.0", "HostPort": str(port)}, {"HostIp": "::", "HostPort": str(port)}]  # noqa: S104


def _kilobytes(gb: Fraction) -> float:
    return float(gb * 10**6)
