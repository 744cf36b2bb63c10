"""What is leased: machines as complete listings of the account show them, and whose they are.

Prices are exact fractions of US dollars, as the provider wrote them; sizes are in the provider's
GB, which are 1e9 bytes.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction
from functools import cached_property
from typing import NamedTuple, Protocol


class Address(NamedTuple):
    """Where a machine's SSH server listens."""

    host: str
    port: int


class Line(NamedTuple):
    """What a machine's line costs and carries."""

    download_usd_per_gb: Fraction
    upload_usd_per_gb: Fraction
    download_mbps: Fraction
    upload_mbps: Fraction

    @property
    def usd_per_hour(self) -> Fraction:
        """What an hour of traffic costs when the line is full."""
        down = self.download_mbps * self.download_usd_per_gb
        return (down + self.upload_mbps * self.upload_usd_per_gb) * 3600 / 8000


@dataclass(frozen=True, kw_only=True, slots=True)
class Lease:
    """One machine as a listing shows it."""

    instance_id: int
    label: str | None
    env_mark: str | None
    """Value of our entry in its environment; None = it has none."""
    is_attributable: bool
    """False if neither label nor environment could be read."""
    status: str | None
    """The provider's `actual_status`."""
    intended_status: str | None
    started_at: datetime | None
    usd_per_hour: Fraction | None
    """What an hour of it costs while it runs; None = that cannot be read."""
    download_gb: Fraction | None
    upload_gb: Fraction | None
    """What it has moved so far; None = that cannot be read."""
    addresses: tuple[Address, ...]
    """Where it can be reached, in the order in which that is tried: first without the proxy."""
    status_message: str
    line: Line | None = None
    """None = that cannot be read whole."""
    stopped_usd_per_hour: Fraction | None = None
    """What an hour of it costs now that its GPUs cost nothing; None = they do, or it is unknown."""

    @property
    def mark(self) -> str | None:
        """The mark that says whose it is: the environment's, else the label, which may change."""
        return self.env_mark or self.label

    @property
    def is_paused(self) -> bool:
        """Whether the provider has stopped it, which we never ask for."""
        return self.intended_status == "stopped" and self.status != "running"


@dataclass(frozen=True, kw_only=True)
class Listing:
    """One complete listing of the account's machines.

    Complete = every page was answered, unique rows = the stated total, no page left. Anything less
    never becomes a Listing.
    """

    requested_at: float
    """Time on this process's monotonic clock, taken before the first page was requested."""
    answered_at: float
    provider_time: datetime | None
    """The provider's own clock in the last answer; None = that cannot be read."""
    account_id: int
    credit_usd: Fraction | None
    """What is left of the prepaid money; None = the provider did not say."""
    leases: tuple[Lease, ...]

    @cached_property
    def has_unattributable(self) -> bool:
        """Whether a machine is listed that could be anyone's."""
        return any(not lease.is_attributable for lease in self.leases)

    @cached_property
    def by_number(self) -> Mapping[int, Lease]:
        """The machines by their number, so that no pass looks through all of them."""
        return {lease.instance_id: lease for lease in self.leases}

    @cached_property
    def by_mark(self) -> Mapping[str, tuple[Lease, ...]]:
        """The machines by what they carry, lowest number first."""
        found = defaultdict[str, list[Lease]](list)
        for lease in sorted(self.leases, key=lambda lease: lease.instance_id):
            if lease.mark is not None:
                found[lease.mark].append(lease)
        return {mark: tuple(leases) for mark, leases in found.items()}

    @cached_property
    def by_job(self) -> Mapping[tuple[str, str], tuple[tuple[str, Lease], ...]]:
        """The machines by job, see `rows_by_job`."""
        return rows_by_job(self.leases)


@dataclass(frozen=True)
class Mark:
    """What a machine carries so that its owner can be found: `cluster/node uid/job uid`."""

    cluster_id: str
    node_uid: str
    job_uid: str

    def __str__(self) -> str:
        """Returns the form that the machine carries."""
        return f"{self.cluster_id}/{self.node_uid}/{self.job_uid}"

    @classmethod
    def parse(cls, text: str | None) -> "Mark | None":
        """Returns the mark, or None if the text does not have the form of one."""
        parts = (text or "").split("/")
        return cls(*parts) if len(parts) == 3 and all(parts) else None


def rows_by_job(leases: Iterable[Lease]) -> Mapping[tuple[str, str], tuple[tuple[str, Lease], ...]]:
    """Returns the machines whose mark can be read, by cluster id and job uid: each with its node
    uid, lowest number first.
    """
    found = defaultdict[tuple[str, str], list[tuple[str, Lease]]](list)
    for lease in sorted(leases, key=lambda lease: lease.instance_id):
        if (mark := Mark.parse(lease.mark)) is not None:
            found[mark.cluster_id, mark.job_uid].append((mark.node_uid, lease))
    return {job: tuple(rows) for job, rows in found.items()}


class Marked(Protocol):
    """What may carry a mark."""

    @property
    def mark(self) -> str | None:
        """The mark's text, or what stands in its place."""
        ...


def leases_of(listing: Listing, mark: Mark) -> tuple[Lease, ...]:
    """Returns the machines that carry a mark, lowest number first."""
    return listing.by_mark.get(str(mark), ())


def is_anothers(row: Marked, mark: Mark) -> bool:
    """Whether the mark that can be read on a machine is not this one, but another."""
    found = Mark.parse(row.mark)
    return found is not None and found != mark


def recorded(listing: Listing, instance_id: int, mark: Mark) -> Lease | None:
    """Returns the machine with a recorded number; None = it is not listed, or is another's.

    A node that was restored from a backup into another cluster of the same account has the number
    of a machine that is not its own.
    """
    row = listing.by_number.get(instance_id)
    return None if row is None or is_anothers(row, mark) else row
