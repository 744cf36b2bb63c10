"""The provider's JSON shapes, with their oddities.

See vastsim/FACTS.md, Offers; vastsim/FACTS.md, Instances; vastsim/FACTS.md, Instance states.
"""

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from vastsim.market import Lease
from vastsim.offers import Facts

QUERY_DISK_GB = 8.0
"""The disk size in GB that prices are computed with if the query names none."""


def offer_row(
    number: int,
    facts: Facts,
    now: float,
    disk_gb: float = QUERY_DISK_GB,
    *,
    is_bid: bool = False,
) -> dict[str, Any]:
    """Returns an offer as a search shows it; for bids, at the lowest bid that would win."""
    disk_hour = float(facts.storage_cost) * disk_gb / 720
    base = float(facts.min_bid if is_bid else facts.dph_base)
    total = base + disk_hour
    return {
        "id": number,
        "ask_contract_id": number,
        "bundle_id": 1_800_000_000 + facts.machine_id,
        "rentable": True,
        "rented": False,
        "external": False,
        "is_bid": is_bid,
        "resource_type": "gpu",
        "start_date": None,
        "end_date": now + facts.contract_seconds,
        "duration": facts.contract_seconds,
        "dph_total": total,
        "discounted_dph_total": total,
        "dph_total_adj": total + float(facts.inet_up_cost) + float(facts.inet_down_cost),
        "storage_total_cost": disk_hour,
        "disk_space": facts.disk_space,
        "score": facts.dlperf / max(total, 0.001),
        "search": _prices(base, disk_hour),
        "instance": _prices(0.0, disk_hour),
        **_hardware(facts),
        "dph_base": base,
    }


def _prices(gpu: float, disk: float) -> dict[str, float]:
    return {
        "gpuCostPerHour": gpu,
        "diskHour": disk,
        "totalHour": gpu + disk,
        "discountTotalHour": 0,
        "discountedTotalPerHour": gpu + disk,
    }


def _hardware(facts: Facts) -> dict[str, Any]:
    return {
        "machine_id": facts.machine_id,
        "host_id": facts.host_id,
        "hosting_type": facts.hosting_type,
        "verification": facts.verification,
        "static_ip": True,
        "public_ipaddr": facts.address,
        "direct_port_count": 100,
        "geolocation": f"Somewhere, {facts.country}",
        "geolocode": None,
        "gpu_name": facts.gpu_name,
        "gpu_arch": "nvidia",
        "num_gpus": facts.num_gpus,
        "gpu_frac": facts.gpu_frac,
        "gpu_ram": facts.gpu_ram_mib,
        "cuda_max_good": facts.cuda_max_good,
        "compute_cap": 800,
        "driver_version": "570.86.15",
        "driver_vers": 570086015,
        "dlperf": facts.dlperf,
        "cpu_name": "EPYC 7543",
        "cpu_cores": facts.cpu_cores,
        "cpu_cores_effective": facts.cpu_cores_effective,
        "cpu_ram": facts.cpu_ram,
        "cpu_arch": "amd64",
        "disk_bw": 3000.0,
        "inet_up": facts.inet_up_mbps,
        "inet_down": facts.inet_down_mbps,
        "inet_up_cost": float(facts.inet_up_cost),
        "inet_down_cost": float(facts.inet_down_cost),
        "storage_cost": float(facts.storage_cost),
        "min_bid": float(facts.min_bid),
        "reliability": facts.reliability,
        "reliability2": facts.reliability,
        "time_remaining": "",
        "time_remaining_isbid": "",
    }


@dataclass(frozen=True)
class Endpoint:
    """Where a running machine listens."""

    host: str
    port: int
    proxy_port: int


STATUS = {
    # state: actual_status, intended_status, cur_state, next_state
    "loading": ("loading", "running", "running", "running"),
    # The provider has stopped a machine whose image could not be pulled.
    "given up": ("loading", "stopped", "stopped", "stopped"),
    "running": ("running", "running", "running", "running"),
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
    base = float(lease.gpu_usd_per_hour)
    running = lease.state == "running" and endpoint is not None
    image = lease.ask.image.replace("/", "_").replace(":", "_")
    port = endpoint.port if endpoint else 0
    says = f"success, running {image}/ssh" if running else ""
    if lease.failed_pull is not None and lease.state in ("loading", "given up"):
        says = f"{lease.failed_pull.words}\n"
    row = _hardware(lease.facts)
    row |= {
        "id": lease.number,
        "label": lease.label,
        "actual_status": actual,
        "intended_status": intended,
        "cur_state": current,
        "next_state": following,
        "status_msg": says,
        "bundle_id": 1_800_000_000 + lease.facts.machine_id,
        "start_date": lease.created_at,
        "end_date": lease.created_at + lease.facts.contract_seconds,
        "duration": lease.created_at + lease.facts.contract_seconds - now,
        "uptime_mins": None,
        "image_uuid": lease.ask.image,
        "image_args": [],
        "image_runtype": lease.ask.runtype,
        "extra_env": [[name, value] for name, value in lease.ask.env.items()],
        "onstart": lease.ask.onstart,
        "template_id": None,
        "template_hash_id": None,
        "ssh_host": endpoint.host if endpoint else "",
        "ssh_idx": "1",
        "ssh_port": endpoint.proxy_port if endpoint else None,
        "public_ipaddr": endpoint.host if endpoint else lease.facts.address,
        "local_ipaddrs": "172.17.0.3 \n",
        "direct_port_start": port or -1,
        "direct_port_end": port or -1,
        "ports": {"22/tcp": [{"HostIp": "0.0.0.0", "HostPort": str(port)}]} if running else {},  # noqa: S104
        "gpu_totalram": lease.facts.gpu_ram_mib * lease.facts.num_gpus,
        "gpu_util": 0.0 if running else None,
        "disk_space": lease.ask.disk_gb,
        "disk_usage": 1.0,
        "is_bid": lease.ask.bid_usd_per_hour is not None,
        "dph_base": base,
        "dph_total": base + disk_hour,
        "storage_total_cost": disk_hour,
        "search": _prices(base, disk_hour),
        "instance": _prices(base if running else 0.0, disk_hour),
        "inet_up_billed": _kilobytes(lease.upload_gb),
        "inet_down_billed": _kilobytes(lease.download_gb),
        "rentable": False,
        "external": False,
        "country_code": lease.facts.country,
        "volume_info": [],
    }
    return row


def _kilobytes(gb: Fraction) -> float:
    return float(gb * 10**6)
