"""What a hostile body costs a listener: its memory, and how long others wait meanwhile.

Each listener is a process of its own, because what counts is the memory of a process.
"""

import http.client
import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gpujob.api.transport import REPORT_BYTES_MAX, SYNC_PATH
from gpujob.core.api_tokens import token_of
from gpujob.server import admission
from gpujob.server.http_api import bodies
from localcluster.control_plane import free_port

PROGRAM = Path(__file__).with_name("listener_process.py")
TOKEN = token_of(secrets.token_bytes(32))
MEMORY_MIB_MAX = 120
"""What hostile bodies may add. The server has a limit of 256 MiB and begins with less than 100."""
SECONDS_MAX = 1.0
"""Of a processor, for each."""
SPEC = {"image": "python:3.11", "command": ["python3"], "cost": {"ceiling": "1.00"}}
JSON = "application/json"


@dataclass(frozen=True)
class Listener:
    """A listener that runs."""

    name: str
    pid: int
    port: int

    def post(self, body: bytes, media: str = JSON) -> int:
        """Sends a body and returns the status of the answer; 0 = there is none."""
        path = {
            "admission": "/validate-gpujobs",
            "api": "/v1/namespaces/team/jobs",
            "transport": SYNC_PATH,
        }[self.name]
        headers = {"Content-Type": media, "Authorization": f"Bearer {TOKEN}"}
        line = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)
        with closing(line), suppress(OSError):
            line.request("POST", path, body, headers)
            return line.getresponse().status
        return 0

    def memory(self, what: str) -> int:
        """Returns a figure of the process's memory in bytes."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return next(int(one.split()[1]) << 10 for one in lines if one.startswith(f"{what}:"))

    def seconds(self) -> float:
        """Returns how long processors have worked for the process."""
        parts = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(parts[11]) + int(parts[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def running(name: str) -> Iterator[Listener]:
    """Starts a listener and ends it."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, str(PROGRAM), name, str(port), TOKEN],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    listener = Listener(name, process.pid, port)
    try:
        while not listener.post(b""):
            assert process.poll() is None
            time.sleep(0.05)
        yield listener
    finally:
        process.terminate()
        process.wait()


def review(spec: Any, **more: Any) -> dict[str, Any]:
    """A review of a new job."""
    asked = {
        "uid": "1234",
        "kind": {"group": "gpujob.dev", "version": "v1alpha1", "kind": "GpuJob"},
        "operation": "CREATE",
        "object": {"metadata": {"name": "job"}, "spec": spec} | more,
    }
    return {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": asked}


def new_job(spec: Any) -> dict[str, Any]:
    """What is sent to the HTTP API."""
    return {"metadata": {"name": "job"}, "spec": spec}


def report(**more: Any) -> dict[str, Any]:
    """What a driver sends."""
    told = {"version": 1, "nodeUid": "n", "session": 1, "sequence": 1, "phase": "Running"}
    return told | more


Document = Callable[[Any], Any]
DOCUMENTS: dict[str, Document] = {
    "admission": review,
    "api": new_job,
    "transport": lambda spec: report(progress={"metrics": spec}),
}
HONEST = {
    # The last one is a report for a node that nobody knows.
    "admission": (review(SPEC), 200),
    "api": (new_job({}), 400),
    "transport": (report(), 404),
}
SIZES = {
    "admission": (admission.BODY_BYTES_MAX, 8 << 20),
    "api": (bodies.BODY_BYTES_MAX, 1 << 20),
    "transport": (REPORT_BYTES_MAX,),
}
"""As large as each is taken, and as it was taken once."""


def around(document: Any, inner: bytes) -> bytes:
    """Returns a document with these bytes in place of the text `@`."""
    return json.dumps(document).encode().replace(b'"@"', inner)


def filled(name: str, size: int, begin: bytes, one: bytes, end: bytes) -> bytes:
    """Returns a body of so many bytes, with the same thing over and over."""
    frame = len(around(DOCUMENTS[name](SPEC | {"env": "@"}), b""))
    count = (size - frame - len(begin) - len(end)) // len(one)
    inner = begin + one * count + end
    if name == "transport":
        return around(DOCUMENTS[name]("@"), inner)
    return around(DOCUMENTS[name](SPEC | {"env": "@"}), inner)


def keys(name: str, size: int) -> bytes:
    """Members of an object, each with a wrong value."""
    count = size // 13
    members = ",".join(f'"{at:07}":1' for at in range(count))
    spec: Any = "@" if name == "transport" else SPEC | {"driver": {"labels": "@"}}
    return around(DOCUMENTS[name](spec), b"{" + members.encode() + b"}")


REPEATED: dict[str, tuple[bytes, bytes, bytes]] = {
    "empty objects": (b"[", b"{},", b"{}]"),
    "empty lists": (b"[", b"[],", b"[]]"),
    "numbers": (b"[", b"1,", b"1]"),
    "the same member": (b"{", b'"a":1,', b'"b":1}'),
    "open lists": (b"", b"[", b""),
    "one number": (b"", b"9", b""),
    "one fraction": (b"0.", b"1", b""),
    "commas in a text": (b'"', b",", b'"'),
    "escapes in a text": (b'"', b'\\"', b'"'),
    "texts": (b"[", b'"",', b'""]'),
}
"""How what is repeated begins, what it is, and how it ends."""


def hostile(name: str, size: int) -> dict[str, bytes]:
    """Returns bodies of so many bytes, by what is in them."""
    made = {kind: filled(name, size, *parts) for kind, parts in REPEATED.items()}
    return made | {"wrong members": keys(name, size)}


@pytest.mark.parametrize(
    ("name", "size"), [(name, size) for name, sizes in SIZES.items() for size in sizes]
)
def test_no_body_takes_the_memory_or_the_time_of_others(name: str, size: int) -> None:
    """Of each kind, alone and four at a time; the webhook needs no token at all."""
    document, status = HONEST[name]
    # A review may be good, and say that the job is none; a report may be of an unknown node.
    good = {"admission": {200}, "api": set[int](), "transport": {404}}[name]
    with running(name) as listener, ThreadPoolExecutor(4) as pool:
        before = listener.memory("VmRSS")
        for kind, body in hostile(name, size).items():
            began = listener.seconds()
            answers = [listener.post(body), *pool.map(listener.post, [body] * 4)]
            seconds = (listener.seconds() - began) / len(answers)
            added = (listener.memory("VmHWM") - before) >> 20
            told = f"{name}, {kind}, {len(body)} bytes: {seconds:.2f} s each, {added} MiB in all"
            print(told, answers)
            assert seconds < SECONDS_MAX, told
            assert added < MEMORY_MIB_MAX, told
            assert set(answers) <= {0, 400, 413, 503} | good, (told, answers)
        assert listener.post(json.dumps(document).encode()) == status
