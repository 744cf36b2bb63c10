"""What the load benches read from the API server's audit log."""

import json
from pathlib import Path
from typing import Any

from loadbench import audit
from localcluster.control_plane import CONTROLLER


def event(verb: str, status: dict[str, Any], user: str = CONTROLLER, **changes: Any) -> str:
    """A line of the audit log about a node."""
    time = "2026-01-01T00:00:00.000000Z"
    about = {"resource": "gpunodes", "name": "train-0-1", "subresource": "status"}
    stored = {"kind": "GpuNode", "metadata": {"name": "train-0-1"}, "status": status}
    told = {
        "stage": "ResponseComplete",
        "stageTimestamp": time,
        "requestReceivedTimestamp": time,
        "user": {"username": user},
        "verb": verb,
        "objectRef": about,
        "responseStatus": {"code": 200},
        "responseObject": stored,
    }
    return json.dumps(told | changes) + "\n"


def test_a_write_shows_which_fields_it_has_changed(tmp_path: Path) -> None:
    """Of conditions each by its type; other users' writes are left out."""
    path = tmp_path / "log"
    path.write_text("what was there before\n")
    log = audit.Log(path)
    ready = {"type": "Ready", "status": "False", "reason": "Booting", "message": "it boots"}
    runs = ready | {"status": "True", "reason": "Running"}
    before = {"conditions": [ready], "run": None}
    after = {"conditions": [runs], "run": {"startedAt": "now"}}
    with path.open("a") as stream:
        stream.write(event("update", before))
        stream.write(event("update", after, user="somebody"))
        stream.write(event("get", before))
        stream.write(event("update", after))
        stream.write(event("update", after)[:-20])

    first, read, last = log.new()
    assert (first.changed, read.is_write) == ((), False)
    assert last.changed == ("Ready.status+reason", "run")
    assert audit.object_writes([first, read, last]) == 2
    assert audit.counts([first, read]) == {"get gpunodes/status": 1, "update gpunodes/status": 1}
    assert log.new() == [], "half a line is read once it is whole"


def test_each_write_has_its_reason(tmp_path: Path) -> None:
    """By what it changed; one that nobody has justified is seen."""
    path = tmp_path / "log"
    path.touch()
    log = audit.Log(path)
    with path.open("a") as stream:
        stream.write(event("update", {}))
        stream.write(event("update", {"lease": {"keyAttachedAt": "now"}, "machine": {"port": 1}}))
        over = {"end": {"at": "now"}, "run": {"seconds": 3}}
        stream.write(event("update", over))
        stream.write(event("update", over | {"surprise": 1}))

    _, pinned, ended, unknown = log.new()
    assert "pinned" in audit.why(pinned)
    assert "destroy" in audit.why(ended)
    assert audit.why(unknown) == "NOT KNOWN"
    assert len(audit.table([pinned, ended])) == 2
