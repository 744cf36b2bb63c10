"""What tells the machines of one installation from those of others with the same account.

It is the first part of the mark on each machine: what carries another one is never touched. For an
installation that serves the whole cluster it is the cluster's. One that serves some namespaces does
not see the GpuNodes of the others, so their machines must not seem to be without an owner: it gets
one of its own. What was used once is kept with the release, whatever it serves later.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

FORM = re.compile(r"[A-Za-z0-9][-A-Za-z0-9._]{0,62}")
"""What a mark can carry."""


@dataclass(frozen=True)
class Kept:
    """An identity that was used before."""

    identity: str
    place: str
    """Uid of the namespace in which it was kept. A backup that is restored elsewhere brings it to a
    namespace with another one."""
    served: tuple[str, ...] | None = None
    """The namespaces that the release serves; empty = all, None = not known."""


def own(kept: Kept | None, *, place: str) -> Kept | None:
    """Returns what this installation has kept itself; None if nothing, or not in this place.

    `place` is the uid of the release's namespace.
    """
    if kept is not None and kept.place == place and FORM.fullmatch(kept.identity):
        return kept
    return None


def identity_before(*, given: str, kept: Kept | None, place: str) -> str | None:
    """Returns the identity that an installation has already; None if it needs its first one.

    `given` is what an administrator has set, empty = nothing; `place` is the uid of the release's
    namespace.
    """
    if given:
        return given
    before = own(kept, place=place)
    return before.identity if before else None


def is_changed(kept: Kept | None, *, given: str) -> bool:
    """Whether an administrator has set another identity than the one that is in use."""
    return kept is not None and given not in ("", kept.identity)


def left_out(kept: Kept | None, *, served: tuple[str, ...]) -> tuple[str, ...]:
    """Returns the namespaces that were served and are no longer; an empty text = all others.

    `served` are those to serve now, empty = all. The GpuNodes of what is left out would not be
    seen, so the sweep would destroy their machines, and nobody would end their jobs.
    """
    if kept is None or kept.served is None or not served:
        return ()
    if not kept.served:
        return ("",)
    return tuple(one for one in kept.served if one not in served)


def served_all_before(lease: Mapping[str, Any] | None, *, annotation: str) -> bool:
    """Whether a version led that served the whole cluster and kept no identity.

    `lease` is the release's own, as stored, None = there is none; `annotation` is the one by which
    all later versions say there what they serve.
    """
    if lease is None:
        return False
    return annotation not in (lease["metadata"].get("annotations") or {})


def may_begin(nodes: Iterable[Mapping[str, Any]]) -> bool:
    """Whether an identity may be made for an installation that finds these GpuNodes, as stored.

    With another one than before, machines that run would count as gone.
    """
    statuses = (node.get("status") or {} for node in nodes)
    return not any("rent" in status and "releasedAt" not in status for status in statuses)
