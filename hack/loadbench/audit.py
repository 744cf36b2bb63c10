"""What the controller asks of the API server, from the API server's own audit log."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from localcluster.control_plane import CONTROLLER

WRITES = ("create", "update", "patch", "delete")

Body = dict[str, Any]

WHY = (
    ("gpujobs", "metadata.annotations", "all is charged and stored: the job may go, and says so"),
    ("gpujobs", "metadata.finalizers", "no job vanishes while it may cost: before its node"),
    ("gpunodes", "metadata.finalizers", "the job has charged the attempt: its node may go"),
    ("gpujobs/status", "completionTime", "charges the attempt, before the finalizers go"),
    ("gpujobs/status", "nodeUID", "only a recorded node rents; else nobody would miss its machine"),
    ("gpujobs/status", "usdPerHour", "people see what is paid for, and that it boots"),
    ("gpujobs/status", "startTime", "people see that it runs"),
    ("gpujobs/status", "Running.status", "people see that the work is over, and how it ended"),
    ("gpujobs/status", "cost.asOf", "figures, at most once a minute"),
    ("gpujobs/status", "Ready.", "other words, once the old ones are outdated for some seconds"),
    ("gpujobs/status", "", "first words, if the market keeps silent: else nobody seems to look"),
    ("gpunodes/status", "sshPublicKey", "before the pod that mounts this key: it has no other"),
    ("gpunodes/status", "releasedAt", "the proof and the final cost, before the job charges it"),
    ("gpunodes/status", "end", "an end is never taken back: before the destroy"),
    ("gpunodes/status", "run", "deadlines count from it, and it may have to be charged"),
    ("gpunodes/status", "measured", "a machine gets work only once it is found fit: before that"),
    ("gpunodes/status", "machine", "the host key is pinned before anything is sent there"),
    ("gpunodes/status", "lease", "the machine's number, by which it is found without its mark"),
    ("gpunodes/status", "rent", "the marker: before the one request, so that none is repeated"),
    ("gpunodes/status", "driver", "a driver is ready, and the rent has to wait"),
    ("gpunodes/status", "destroyAskedAt", "evidence of our own punctuality"),
    ("gpunodes/status", "traffic", "the counters are in listings alone, and may go down"),
    ("gpunodes/status", "asOf", "figures, at most once a minute"),
    ("gpunodes/status", "Ready.", "other words, once the old ones are outdated for some seconds"),
    ("gpunodes", "", "names the machine: before anything is rented; its uid is the mark"),
    ("pods", "", "the driver: it reports before anything is rented"),
    ("secrets", "", "the node's SSH key, which all its drivers share"),
    ("services", "", "leads to the job's ports"),
)
"""Why each write of a life is made: by its kind and a field that it changes, empty = any. The first
that fits is the reason."""


@dataclass(frozen=True)
class Asked:
    """One request of the controller."""

    at: datetime
    verb: str
    kind: str
    """The plural, with the subresource, such as `gpunodes/status`."""
    name: str
    code: int
    changed: tuple[str, ...] = ()
    """Paths of the fields that a write has changed, if the log has bodies."""

    @property
    def is_write(self) -> bool:
        """Whether it may have changed something."""
        return self.verb in WRITES


class Log:
    """Reads the audit log from where it was last read to."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read = path.stat().st_size if path.exists() else 0
        self._known: dict[tuple[str, str], Body] = {}
        """What each object looked like after the last write that was seen."""

    def new(self) -> list[Asked]:
        """Returns the controller's requests since the last time, in their order."""
        with self._path.open("rb") as stream:
            stream.seek(self._read)
            raw = stream.read()
        lines, _, rest = raw.rpartition(b"\n")
        self._read += len(raw) - len(rest)
        events = (json.loads(line) for line in lines.splitlines())
        ended = [one for one in events if one["stage"] == "ResponseComplete"]
        ended.sort(key=lambda one: one["stageTimestamp"])
        return [
            self._asked(one)
            for one in ended
            if one["user"]["username"] == CONTROLLER and "objectRef" in one
        ]

    def _asked(self, event: Body) -> Asked:
        about = event["objectRef"]
        kind = about["resource"]
        if "subresource" in about:
            kind += f"/{about['subresource']}"
        answer = event.get("responseObject") or {}
        name = about.get("name") or answer.get("metadata", {}).get("name", "")
        changed: tuple[str, ...] = ()
        if event["verb"] in WRITES and answer.get("kind") not in (None, "Status"):
            place = (about["resource"], name)
            before = self._known.get(place)
            changed = tuple(differing(before, answer)) if before is not None else ()
            self._known[place] = answer
        return Asked(
            at=datetime.fromisoformat(event["requestReceivedTimestamp"]),
            verb=event["verb"],
            kind=kind,
            name=name,
            code=event.get("responseStatus", {}).get("code", 0),
            changed=changed,
        )


def differing(before: Any, after: Any, path: str = "") -> Iterator[str]:
    """Yields the paths of what differs, but for what the API server itself counts up."""
    if before == after or path in ("metadata.resourceVersion", "metadata.managedFields"):
        return
    if isinstance(before, dict) and isinstance(after, dict):
        for name in sorted(before.keys() | after.keys()):
            inside = f"{path}.{name}" if path else name
            yield from differing(before.get(name), after.get(name), inside)
        return
    if path.endswith("conditions") and isinstance(after, list):
        old = {one["type"]: one for one in before or ()}
        for one in after:
            parts = (k for k in ("status", "reason", "message") if _of(old, one).get(k) != one[k])
            if found := "+".join(parts):
                yield f"{one['type']}.{found}"
        return
    yield path.removeprefix("status.")


def _of(old: dict[str, Body], one: Body) -> Body:
    return old.get(one["type"], {})


def table(asked: list[Asked]) -> list[str]:
    """Returns each write of one life as a line, with what it changed."""
    writes = [one for one in asked if one.is_write]
    if not writes:
        return []
    began = writes[0].at
    return [
        f"{(one.at - began).total_seconds():7.2f} s  {one.verb:6} {one.kind:22} {one.code}  "
        + (", ".join(one.changed) or "")
        + (f"\n{'':12}why: {why(one)}" if is_of_object(one) else "")
        for one in writes
    ]


def why(write: Asked) -> str:
    """Returns why a write is made; one whose reason is not known may not be needed."""
    for kind, field, reason in WHY:
        fits = not field or any(one.startswith(field) for one in write.changed)
        if kind == write.kind and fits:
            return reason
    return "NOT KNOWN"


def counts(asked: list[Asked]) -> dict[str, int]:
    """Returns how many requests there were of each verb and kind."""
    return dict(sorted(Counter(f"{one.verb} {one.kind}" for one in asked).items()))


def object_writes(asked: list[Asked]) -> int:
    """Returns how many writes of objects there were, status included: all but events, reviews, and
    what the release itself needs, such as its lock.
    """
    return sum(one.is_write and is_of_object(one) for one in asked)


def is_of_object(one: Asked) -> bool:
    """Whether a request is about an object of a job's life."""
    kinds = ("gpujobs", "gpunodes", "pods", "secrets", "services")
    return one.kind.partition("/")[0] in kinds
