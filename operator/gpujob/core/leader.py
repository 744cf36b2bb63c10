"""Who may lead, decided from the record that all replicas read and write.

A holder is outlived, never overruled: its record counts for as long as it promised, from when the
reader last saw it change, on the reader's own monotonic clock. Nobody's wall clock is compared.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class LockRecord:
    """The leader lock as stored."""

    holder: str
    """Empty = given back."""
    duration_seconds: int
    transitions: int
    """How often the holder has changed."""


def may_lead(record: LockRecord, *, identity: str, unchanged_seconds: float) -> bool:
    """Whether this replica may write itself into the record, or renew it."""
    if record.holder in ("", identity):
        return True
    return unchanged_seconds >= record.duration_seconds


def taken(record: LockRecord | None, *, identity: str, duration_seconds: int) -> LockRecord:
    """Returns the record by which this replica leads."""
    before = record or LockRecord(holder=identity, duration_seconds=0, transitions=0)
    return LockRecord(
        holder=identity,
        duration_seconds=duration_seconds,
        transitions=before.transitions + (before.holder != identity),
    )


def given_back(record: LockRecord) -> LockRecord:
    """Returns the record by which the next replica may lead at once."""
    return LockRecord(holder="", duration_seconds=1, transitions=record.transitions)


def renewed(before: Mapping[str, str], after: Mapping[str, str]) -> tuple[str, ...]:
    """Returns the locks that somebody wrote between two looks, each by name and version."""
    return tuple(sorted(name for name, version in after.items() if before.get(name) != version))
