"""Who may lead, decided from the record that all replicas read and write.

A holder is never overruled. Another replica waits until the record has not changed for as long as
the holder promised, by its own monotonic clock. Wall clocks are not compared: they may differ.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_IDENTITY = re.compile(r"(?P<pod>[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?)_[0-9a-f]+")


@dataclass(frozen=True, kw_only=True)
class LockRecord:
    """The leader lock as stored."""

    holder: str
    """Empty = the last holder gave the lock back."""
    duration_seconds: int
    transitions: int
    """How often the holder has changed."""


def may_lead(record: LockRecord, *, identity: str, unchanged_seconds: float) -> bool:
    """Whether this replica may write itself into the record, or renew it."""
    if record.holder in ("", identity):
        return True
    return unchanged_seconds >= record.duration_seconds


def is_abandoned(*, holder: str, duration_seconds: int, unchanged_seconds: float) -> bool:
    """Whether nobody leads, to whoever only looks: not even a replica that was to take over."""
    return not holder or unchanged_seconds >= 2 * duration_seconds


def taken(record: LockRecord | None, *, identity: str, duration_seconds: int) -> LockRecord:
    """Returns the record to write so that this replica leads."""
    before = record or LockRecord(holder=identity, duration_seconds=0, transitions=0)
    return LockRecord(
        holder=identity,
        duration_seconds=duration_seconds,
        transitions=before.transitions + (before.holder != identity),
    )


def given_back(record: LockRecord) -> LockRecord:
    """Returns the record to write so that the next replica may lead at once."""
    return LockRecord(holder="", duration_seconds=1, transitions=record.transitions)


@dataclass(frozen=True)
class OtherLock:
    """A held lock of another release, or an object that somebody made look like one."""

    version: str
    """It changes with each write."""
    holder: str
    served: tuple[str, ...] = ()
    """The namespaces that the release serves; empty = all."""
    installation: str = ""
    """Identity in the marks on the release's machines; empty = it does not say, as of an earlier
    version, which serves all namespaces."""


def common_namespaces(ours: Sequence[str], theirs: Sequence[str]) -> tuple[str, ...]:
    """Returns where both releases could serve jobs; empty text = in all namespaces.

    Whoever serves some namespaces may have rights in others, too, so ours are what counts.
    """
    if ours:
        return tuple(ours)
    return ("", *theirs)


def contested_namespaces(
    ours: Sequence[str], other: OtherLock, *, installation: str
) -> tuple[str, ...]:
    """Returns where both releases could touch the same jobs or machines; empty text = in all.

    With the same identity each takes the machines of the other one for its own orphans, whatever
    namespaces they serve. `installation` is our identity.
    """
    shared = common_namespaces(ours, other.served)
    if other.installation != installation:
        return shared
    return tuple(dict.fromkeys((*shared, *other.served)))


def renewed(
    before: Mapping[str, OtherLock], after: Mapping[str, OtherLock]
) -> tuple[tuple[str, OtherLock], ...]:
    """Returns the locks that somebody wrote between two reads, by name."""
    return tuple((name, after[name]) for name in sorted(after) if before.get(name) != after[name])


def holders_pod(holder: str) -> str | None:
    """Returns the name of the pod in which a holder runs; None = no controller calls itself so.

    Anybody may have written it, so text that is not a pod's name must not get into a request path.
    """
    found = _IDENTITY.fullmatch(holder)
    return found["pod"] if found else None
