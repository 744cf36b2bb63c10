"""Ways to provoke an error, at every listener: none tells anything of ourselves.

What failed inside is told by an error id, under which the log has the cause.
"""

import http.client
import json
import re
import secrets
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, cast

import pytest
import yaml
from tests.canned import answering
from tests.integration.api import BOOTSTRAP, INTERNALS, SPEC, Api
from tests.integration.broken import CAUSE, NAMES, SECRET
from tests.integration.parts import AUDIENCE, environment, eventually, unsigned

from gpujob.api.estimate import ESTIMATE_PATH
from gpujob.api.transport import SYNC_PATH
from gpujob.core.api_tokens import token_of
from gpujob.web.listener import HEAD_BYTES_MAX
from localcluster.control_plane import free_port

# One server, or more, serve all tests of this module.
pytestmark = pytest.mark.xdist_group("errors")

CLASSES = re.compile(r"\b\w+(Error|Exception|Timeout)\b")
TOKEN = token_of(secrets.token_bytes(32))
JOBS = "/v1/namespaces/default/jobs"
JOB = json.dumps({"metadata": {"name": "train"}, "spec": SPEC}).encode()
REVIEW = "/validate-gpujobs"
JSON = "application/json"


@dataclass(frozen=True)
class Answer:
    """What came back; status 0 = nothing that is HTTP."""

    status: int
    headers: dict[str, str]
    text: str

    @property
    def error_id(self) -> str | None:
        """Under which the log has the cause."""
        found = re.search(r'"errorId": ?"([0-9a-f]{32})"', self.text)
        return found[1] if found else None


@dataclass(frozen=True)
class Listener:
    """Where to ask, and what is known of the asked."""

    port: int
    tls: ssl.SSLContext | None = None
    token: str = ""

    def raw(self, sent: bytes, *, ends: bool = False) -> Answer:
        """Sends bytes and returns what came; with `ends` the line is then half closed."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=30) as plain:
            line = plain
            if self.tls is not None:
                line = self.tls.wrap_socket(plain, server_hostname="localhost")
            with closing(line):
                said = b""
                try:
                    line.sendall(sent)
                    if ends:
                        line.shutdown(socket.SHUT_WR)
                    while chunk := line.recv(65536):
                        said += chunk
                except (ConnectionError, ssl.SSLError):
                    pass
        return read(said)

    def ask(
        self, method: str, path: str, body: bytes | None = None, kind: str = JSON, **headers: str
    ) -> Answer:
        """Sends one request, with the token."""
        told = {"Host": "localhost", "Connection": "close"}
        if self.token:
            told["Authorization"] = f"Bearer {self.token}"
        if body is not None:
            told |= {"Content-Type": kind, "Content-Length": str(len(body))}
        told |= {name.replace("_", "-"): text for name, text in headers.items()}
        lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {text}" for name, text in told.items())]
        return self.raw("\r\n".join([*lines, "", ""]).encode() + (body or b""))


class _Said:
    """What a socket received, as the library's reader wants it."""

    def __init__(self, raw: bytes) -> None:
        self._raw = raw

    def makefile(self, *_: Any) -> BytesIO:
        return BytesIO(self._raw)


def read(said: bytes) -> Answer:
    """Reads an answer."""
    answer = http.client.HTTPResponse(cast(socket.socket, _Said(said)))
    try:
        answer.begin()
        body = answer.read()
    except http.client.HTTPException:
        return Answer(0, {}, said.decode("latin-1"))
    named = {name.lower(): text for name, text in answer.getheaders()}
    return Answer(answer.status, named, body.decode())


def head(path: str, *more: str, token: str) -> bytes:
    """The beginning of a POST whose body is for the test to send."""
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", f"Authorization: Bearer {token}"]
    return "\r\n".join([*lines, f"Content-Type: {JSON}", *more, "", ""]).encode()


# --- What callers do wrong --------------------------------------------------------------------

Provocation = Callable[[Listener], Answer]

CALLERS_FAULTS: dict[str, tuple[Provocation, int]] = {
    "no JSON": (lambda one: one.ask("POST", JOBS, b"{"), 400),
    "no UTF-8": (lambda one: one.ask("POST", JOBS, b'"\xff\xfe"'), 400),
    "UTF-16": (lambda one: one.ask("POST", JOBS, JOB.decode().encode("utf-16")), 400),
    "a NUL": (lambda one: one.ask("POST", JOBS, b"\0"), 400),
    "too deep": (lambda one: one.ask("POST", JOBS, b"[" * 100_000), 400),
    "a key twice": (lambda one: one.ask("POST", JOBS, b'{"a":1,"a":2}'), 400),
    "a number of many digits": (lambda one: one.ask("POST", JOBS, b"1" * 100_000), 400),
    "too large": (lambda one: one.ask("POST", JOBS, b" " * (8 << 20)), 413),
    "another type": (lambda one: one.ask("POST", JOBS, JOB, "text/html"), 415),
    "compressed": (lambda one: one.ask("POST", JOBS, b"\x1f\x8b", content_encoding="gzip"), 400),
    "no such path": (lambda one: one.ask("GET", "/nowhere/..%2f..%2fetc%2fpasswd"), 404),
    "no such method": (lambda one: one.ask("PUT", JOBS, b"{}"), 405),
    "a method of no standard": (lambda one: one.ask("BREW", JOBS), 405),
    "a wrong parameter": (lambda one: one.ask("GET", f"{JOBS}?limit=1e9"), 400),
    "a wrong cursor": (lambda one: one.ask("GET", f"{JOBS}?cursor=AAAA"), 400),
    "a wrong header": (lambda one: one.ask("DELETE", f"{JOBS}/x", if_match="x"), 400),
    "no such namespace": (lambda one: one.ask("POST", JOBS.replace("default", "none"), JOB), 404),
    "what cannot run": (
        lambda one: one.ask("POST", JOBS, JOB.replace(b"python:3.11", b"-bad-")),
        422,
    ),
    "no HTTP": (lambda one: one.raw(b"\x16\x03\x01\x00\x05hello\r\n\r\n"), 400),
    "HTTP of a later kind": (lambda one: one.raw(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), 401),
    "a header without end": (
        # No byte more than is read: what is left unread would reset the line, and with it the
        # answer.
        lambda one: one.raw(b"GET / HTTP/1.1\r\nA: ".ljust(HEAD_BYTES_MAX + 1, b"a")),
        400,
    ),
    "two lengths": (
        lambda one: one.raw(
            head(JOBS, "Content-Length: 2", "Content-Length: 3", token=one.token) + b"{}"
        ),
        400,
    ),
    "chunks that are none": (
        lambda one: one.raw(
            head(JOBS, "Transfer-Encoding: chunked", token=one.token) + b"zz\r\n{}\r\n"
        ),
        400,
    ),
    "a line that is cut": (
        lambda one: one.raw(
            head(JOBS, "Content-Length: 900", "Connection: close", token=one.token) + b"{",
            ends=True,
        ),
        0,
    ),
    "half a request": (lambda one: one.raw(b"GET / HT", ends=True), 0),
}


@pytest.mark.parametrize("name", CALLERS_FAULTS)
def test_a_callers_mistake_is_answered_without_anything_of_ours(name: str, module_api: Api) -> None:
    """By the server as it runs, over TLS."""
    trusted = ssl.create_default_context(cadata=module_api.authority)
    provoke, status = CALLERS_FAULTS[name]
    answer = provoke(Listener(module_api.port, trusted, BOOTSTRAP))

    # A reader of HTTP may answer half a request, or leave it.
    assert answer.status in ((status,) if status else (0, 400)), answer
    shows_nothing(answer)
    assert answer.error_id is None, "it is the caller's fault: there is nothing to look for"


def shows_nothing(answer: Answer) -> None:
    """Fails if anything of ourselves is in an answer."""
    headers = {name: text for name, text in answer.headers.items() if name != "date"}
    told = f"{answer.text} {headers}"
    assert not INTERNALS.search(told), told
    assert not CLASSES.search(told), told
    assert "server" not in answer.headers
    assert "x-powered-by" not in answer.headers


# --- What fails inside ------------------------------------------------------------------------


@dataclass(frozen=True)
class Servers:
    """The listeners of the broken process."""

    ports: dict[str, int]
    log: Path
    cluster_port: int
    """Where they think the API server is."""

    def __getitem__(self, name: str) -> Listener:
        token = unsigned(AUDIENCE) if name.startswith("transport") else TOKEN
        return Listener(self.ports[name], None, token)


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """The process of `broken.py`, with a cluster where nobody listens."""
    folder = tmp_path_factory.mktemp("broken")
    config = folder / "config"
    cluster_port = free_port()
    context = {"name": "x", "context": {"cluster": "x", "user": "x"}}
    cluster = {"name": "x", "cluster": {"server": f"http://127.0.0.1:{cluster_port}"}}
    user = {"name": "x", "user": {"token": "x"}}
    told = {"clusters": [cluster], "users": [user], "contexts": [context], "current-context": "x"}
    config.write_text(yaml.safe_dump({"apiVersion": "v1", "kind": "Config", **told}))
    ports = {name: free_port() for name in NAMES}
    program = str(Path(__file__).with_name("broken.py"))
    command = [sys.executable, program, json.dumps({"ports": ports, "token": TOKEN})]
    servers = Servers(ports, folder / "log", cluster_port)
    with servers.log.open("wb") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment(KUBECONFIG=str(config)),
            cwd=folder,
        )
    try:
        for name in NAMES:
            eventually(f"{name} listens", partial(is_there, servers[name]))
        yield servers
    finally:
        process.terminate()
        process.wait(timeout=120)
        print(f"--- log\n{servers.log.read_text()[-5000:]}")


def is_there(listener: Listener) -> bool:
    """Whether somebody listens."""
    try:
        return listener.ask("GET", "/nowhere").status == 404
    except OSError:
        return False


def review(listener: Listener) -> Answer:
    """Asks admission about a job."""
    job = {"apiVersion": "gpujob.dev/v1alpha1", "kind": "GpuJob", "spec": SPEC}
    asked = {
        "uid": "u",
        "kind": {"group": "gpujob.dev", "version": "v1alpha1", "kind": "GpuJob"},
        "resource": {"group": "gpujob.dev", "version": "v1alpha1", "resource": "gpujobs"},
        "operation": "CREATE",
        "namespace": "default",
        "object": job | {"metadata": {"name": "train"}},
    }
    told = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": asked}
    return listener.ask("POST", REVIEW, json.dumps(told).encode())


INSIDE: dict[str, tuple[Callable[[Servers], Answer], int]] = {
    "a fault in the API": (lambda all_: all_["api"].ask("GET", "/v1/jobs"), 500),
    "a fault in the API's writing": (lambda all_: all_["api"].ask("POST", JOBS, JOB), 500),
    "a fault in an estimate": (
        lambda all_: all_["api"].ask("POST", JOBS.replace("jobs", "estimates"), JOB),
        500,
    ),
    "a fault before a stream": (
        lambda all_: all_["api"].ask("GET", "/v1/namespaces/default/watch/jobs"),
        500,
    ),
    "a fault in the transport": (lambda all_: all_["transport"].ask("POST", SYNC_PATH, b"{}"), 500),
    "a fault in the controller's estimates": (
        lambda all_: all_["transport"].ask("POST", ESTIMATE_PATH, b"{}"),
        500,
    ),
    "a fault in the metrics": (lambda all_: all_["probes"].ask("GET", "/metrics"), 500),
    "a fault in a probe": (lambda all_: all_["probes"].ask("GET", "/healthz"), 500),
    "a fault in the server's probe": (
        lambda all_: all_["server's probes"].ask("GET", "/readyz"),
        500,
    ),
    "a fault in admission": (lambda all_: review(all_["admission"]), 500),
    "no cluster for the API": (lambda all_: all_["api cut off"].ask("GET", "/v1/jobs"), 503),
    "no controller for an estimate": (
        lambda all_: all_["api cut off"].ask("POST", JOBS.replace("jobs", "estimates"), JOB),
        503,
    ),
    "no cluster for the transport": (
        lambda all_: all_["transport cut off"].ask("POST", SYNC_PATH, b"{}"),
        503,
    ),
    "no cluster for the metrics": (
        lambda all_: all_["probes cut off"].ask("GET", "/metrics"),
        503,
    ),
}


@pytest.mark.parametrize("name", INSIDE)
def test_what_fails_inside_is_an_id_and_its_cause_is_in_the_log(name: str, broken: Servers) -> None:
    """Nothing else is told; and no secret is in the log either."""
    provoke, status = INSIDE[name]
    answer = provoke(broken)

    assert answer.status == status, answer
    shows_nothing(answer)
    assert answer.error_id, answer
    log = broken.log.read_text()
    (line,) = [one for one in log.splitlines() if answer.error_id in one]
    record = json.loads(line)
    cause = record["exception"] if status == 500 else record["problem"]
    assert cause if status == 503 else CAUSE in cause
    assert SECRET not in log
    assert TOKEN not in log


@pytest.mark.parametrize(
    ("name", "path"), [("api", JOBS), ("admission", REVIEW)], ids=["API", "admission"]
)
def test_a_body_that_does_not_come_is_not_waited_for(name: str, path: str, broken: Servers) -> None:
    """The process waits five seconds instead of half a minute."""
    listener = broken[name]
    answer = listener.raw(head(path, "Content-Length: 900", token=TOKEN) + b"{")

    assert answer.status == 408, answer
    shows_nothing(answer)


def test_a_head_that_does_not_come_is_not_waited_for(broken: Servers) -> None:
    """At no listener: neither one that is not begun, nor one without an end, nor a second one."""
    begun = b"GET / HTTP/1.1\r\nHost: localhost\r\n"
    with ExitStack() as all_:
        lines = []
        for listener in map(broken.__getitem__, NAMES):
            for first in (b"", begun, begun + b"\r\n"):
                line = socket.create_connection(("127.0.0.1", listener.port), timeout=30)
                lines.append(all_.enter_context(line))
                line.sendall(first)
                if first.endswith(b"\r\n\r\n"):
                    assert line.recv(65536).startswith(b"HTTP/1.1 ")
                    line.sendall(begun)
        for line in lines:
            # A line that stays open is a timeout, which fails.
            with suppress(ConnectionResetError):
                while line.recv(65536):
                    pass


UPSTREAM: dict[str, tuple[int, bytes]] = {
    "an error of its own": (500, b'{"message": "etcd at 10.0.0.9 is gone"}'),
    "a page": (502, b"<html><h1>nginx/1.2.3 at 10.0.0.9</h1></html>"),
    "no JSON": (200, b"{"),
    "no object": (200, b"[]"),
    "nothing": (200, b""),
    "an empty object": (200, b"{}"),
    "no list": (200, b'{"kind": "GpuJobList", "items": {}}'),
    "a page of somebody else's": (404, b"<h1>nginx/1.2.3: not found</h1>"),
    "too many requests": (429, b'{"message": "10.0.0.9 has had enough"}'),
    "a refusal": (403, b'{"message": "x at /apis/x is forbidden"}'),
}


@pytest.mark.parametrize("name", UPSTREAM)
def test_what_the_cluster_says_in_its_trouble_is_passed_on_to_nobody(
    name: str, broken: Servers
) -> None:
    """It may name its own insides; who asked us learns the id."""
    asked = {
        "api cut off": ("GET", "/v1/jobs"),
        "transport cut off": ("POST", SYNC_PATH),
        "probes cut off": ("GET", "/metrics"),
    }
    with answering(broken.cluster_port, *UPSTREAM[name]):
        answers = [
            broken[listener].ask(method, path, b"{}" if method == "POST" else None)
            for listener, (method, path) in asked.items()
        ]
    log = broken.log.read_text()
    for answer in answers:
        assert answer.status in (403, 503), answer
        shows_nothing(answer)
        assert answer.error_id, answer
        (line,) = [one for one in log.splitlines() if answer.error_id in one]
        assert json.loads(line)["problem"]
