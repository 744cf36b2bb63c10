"""Drivers' door: only the recorded pod of a node is answered, and only well-formed reports."""

import json
import urllib.error
import urllib.request

import pytest
from tests.integration.conftest import World


def sync(world: World, body: bytes, **headers: str) -> tuple[int, dict[str, str]]:
    """Posts a report and returns status and headers."""
    url = world.operator.transport_url + "/v1/driver/sync"
    headers = {"Content-Type": "application/json"} | {
        name.replace("_", "-"): value for name, value in headers.items()
    }
    request = urllib.request.Request(url, data=body, headers=headers, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=10, context=world.trust()) as answer:
            return answer.status, dict(answer.headers)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, dict(error.headers)


@pytest.mark.shared_world
def test_what_is_answered(world: World) -> None:
    """A good report is; everything else is refused. Who is answered, test_listeners.py tells."""
    world.apply_job("train", command=["sleep", "60"])
    world.await_reason("train", "Running")
    node = world.kubectl.get("gpunode", "train-0-1", world.namespace) or {}
    told = {
        "version": 1,
        "nodeUid": node["metadata"]["uid"],
        "session": 1,
        "sequence": 1,
        "phase": "Running",
    }
    report = json.dumps(told).encode()
    (token_file,) = world.pods.files("token")
    own = f"Bearer {token_file.read_text().strip()}"

    assert sync(world, report, Authorization=own)[0] == 200
    # A newer driver may say more than this controller knows.
    assert sync(world, report[:-1] + b',"extra":1}', Authorization=own)[0] == 200
    status, headers = sync(world, report)
    assert (status, headers["www-authenticate"]) == (401, "Bearer")
    assert sync(world, b"{", Authorization=own)[0] == 400
    for wrong in (
        told | {"phase": "Dancing"},
        told | {"version": 2},
        told | {"sequence": "1"},
        told | {"runSeconds": float("nan")},
        told | {"message": "\x1b[2J"},
        told | {"nodeUid": None},
        [told],
    ):
        assert sync(world, json.dumps(wrong).encode(), Authorization=own)[0] == 400
    assert sync(world, b'{"x":' + b"[" * 30_000, Authorization=own)[0] == 400
    assert sync(world, b" " * 70_000, Authorization=own)[0] == 413
    assert sync(world, report, Authorization=own, Content_Type="text/plain")[0] == 415


@pytest.mark.shared_world
def test_what_is_replayed_or_overtaken_changes_nothing(world: World) -> None:
    """An outcome that is older than the driver's last word, whoever repeats it, ends nothing."""
    world.apply_job("train", command=["sleep", "600"])
    world.await_reason("train", "Running")
    node = world.kubectl.get("gpunode", "train-0-1", world.namespace) or {}
    (token_file,) = world.pods.files("token")
    own = f"Bearer {token_file.read_text().strip()}"
    ended = {
        "version": 1,
        "nodeUid": node["metadata"]["uid"],
        "session": 1,
        "sequence": 1,
        "phase": "Finished",
        "outcome": {"exitCode": 0, "runSeconds": 1.0},
    }
    for _ in range(20):
        assert sync(world, json.dumps(ended).encode(), Authorization=own)[0] == 200
    world.await_listings(8)
    assert world.condition("train", "Ready")["reason"] == "Running"
    # The same word as the newest there is would end it: it was heard, not ignored.
    newest = ended | {"session": 2**31 - 1}
    assert sync(world, json.dumps(newest).encode(), Authorization=own)[0] == 200
    world.await_reason("train", "Complete")


@pytest.mark.shared_world
def test_a_driver_speaks_only_for_its_own_node(world: World) -> None:
    """With a good token of its own it can say nothing of another job of its namespace."""
    world.apply_job("one", command=["sleep", "600"])
    world.await_reason("one", "Running")
    (token_file,) = world.pods.files("token")
    own = f"Bearer {token_file.read_text().strip()}"
    world.apply_job("two", command=["sleep", "600"])
    world.await_reason("two", "Running")
    other = world.kubectl.get("gpunode", "two-0-1", world.namespace) or {}
    ended = {
        "version": 1,
        "nodeUid": other["metadata"]["uid"],
        "session": 2**31 - 1,
        "sequence": 1,
        "phase": "Finished",
        "outcome": {"exitCode": 0, "runSeconds": 1.0},
    }

    assert sync(world, json.dumps(ended).encode(), Authorization=own)[0] == 403
    assert sync(world, json.dumps(ended).encode(), Authorization="Bearer x.y.z")[0] == 401
    world.await_listings(5)
    assert world.condition("two", "Ready")["reason"] == "Running"
