"""What the provider bills for a lease, exactly, from its history.

GPUs are billed by the second while the container runs; the disk by the second from creation until
the lease is destroyed, but not while the host is lost; traffic by the byte in any state. Loading is
not billed as GPU time
(vastsim/FACTS.md, Billing).
"""

from dataclasses import dataclass
from fractions import Fraction

STORAGE_MONTH_HOURS = 720

RUNNING = "running"
UNBILLED = ("offline", "destroyed")


@dataclass(frozen=True)
class Bill:
    """US dollars, exact."""

    gpu_usd: Fraction
    storage_usd: Fraction
    traffic_usd: Fraction

    @property
    def total_usd(self) -> Fraction:
        """GPUs, disk and traffic together."""
        return self.gpu_usd + self.storage_usd + self.traffic_usd


def bill(
    history: tuple[tuple[float, str], ...],
    *,
    gpu_usd_per_hour: Fraction,
    storage_usd_per_hour: Fraction,
    download_gb: Fraction,
    upload_gb: Fraction,
    download_usd_per_gb: Fraction,
    upload_usd_per_gb: Fraction,
    now: float,
) -> Bill:
    """Returns the bill up to `now`; `history` holds the times at which states began."""
    gpu_seconds = storage_seconds = Fraction(0)
    ends = [at for at, _ in history[1:]] + [now]
    for (began, state), ended in zip(history, ends, strict=True):
        span = Fraction(max(ended - began, 0.0))
        if state == RUNNING:
            gpu_seconds += span
        if state not in UNBILLED:
            storage_seconds += span
    return Bill(
        gpu_usd=gpu_usd_per_hour * gpu_seconds / 3600,
        storage_usd=storage_usd_per_hour * storage_seconds / 3600,
        traffic_usd=download_gb * download_usd_per_gb + upload_gb * upload_usd_per_gb,
    )


def decimal(amount: Fraction) -> str:
    """Returns an amount with nine decimals, to the nearest."""
    scaled = round(amount * 10**9)
    sign = "-" if scaled < 0 else ""
    return f"{sign}{abs(scaled) // 10**9}.{abs(scaled) % 10**9:09d}"
