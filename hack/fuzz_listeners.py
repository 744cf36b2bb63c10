"""Sends generated hostile bodies to each listener, several at once, beside an honest caller.

Server and controller are processes with the rights of their chart, before a real API server; what
they may take is read from the chart. A body is a function of the seed, the listener and its
number: the same seed sends the same bodies, in about the same order.
"""

import argparse
import itertools
import json
import math
import multiprocessing
import os
import secrets
import ssl
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, redirect_stdout, suppress
from dataclasses import dataclass, field
from functools import cache
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from io import StringIO
from pathlib import Path
from queue import Queue
from random import Random
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.contract.test_foreign_bytes import REPEATED, around, report, review
from tests.integration.api import api_server, authorities_file, record, token_file
from tests.integration.conftest import control_plane
from tests.integration.loaded import Loader
from tests.integration.parts import (
    AUDIENCE,
    ROOT,
    Kubectl,
    Operator,
    Simulator,
    authorities,
    eventually,
    operators_config,
)
from tests.integration.test_driver_pods import a_driver

from gpujob.api.estimate import ESTIMATE_BYTES_MAX, ESTIMATE_PATH
from gpujob.api.transport import REPORT_BYTES_MAX, SYNC_PATH
from gpujob.core.api_tokens import token_of
from gpujob.server import admission
from gpujob.server.http_api import bodies
from gpujob.server.http_api.yaml_bodies import YAML_BYTES_MAX

AT_ONCE = 8
"""So many hostile callers send at the same time."""
HONEST_PER_SECOND = 4.0
HONEST_AT_ONCE = 8
LOOKS_PER_SECOND = 20.0
GOAL_SECONDS = 1.0
PATIENCE_SECONDS = 30.0
STARTS_SECONDS = 240.0
"""By when a process has begun, or the last answers have come; else it has failed."""
NAMES = ("HTTP API", "admission", "driver transport", "estimates")
HONEST_HOST, *HOSTILE_HOSTS = (f"127.0.0.{number}" for number in range(2, 6))
"""A share is a caller's, and one without a token is known by his address alone."""
JSON = "application/json"
SPEC = {
    "image": "python:3.11",
    "command": ["python3"],
    "activeDeadlineSeconds": 60,
    "cost": {"ceiling": "0.01"},
}

Sent = tuple[str, bytes, dict[str, str]]
"""Path, body and headers of a request."""


@dataclass(frozen=True)
class Target:
    """A listener, and what is sent to it. Another process is given it, so it holds data only."""

    name: str
    host: str
    """By which its certificate names it."""
    port: int
    authority: str
    paths: tuple[str, ...]
    tokens: tuple[str, ...]
    """Good ones, of whoever sends hostile bodies; none where the listener asks for none."""
    bytes_max: int
    document: dict[str, Any]
    """What an honest caller would send."""
    expected: int = 200
    """What an honest caller is answered."""


# --- The bodies -------------------------------------------------------------------------------


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """All places in a document: what holds them, and the name or number there."""
    at = value.items() if isinstance(value, dict) else enumerate(value)
    for name, one in list(at):
        yield value, name
        if isinstance(one, dict | list):
            yield from places(one)


def with_inside(random: Random, document: Any, inner: bytes) -> bytes:
    """Returns the document with these bytes as one of its values, or as one more."""
    copy = json.loads(json.dumps(document))
    holder, name = random.choice(list(places(copy)))
    if isinstance(holder, dict) and random.random() < 0.3:
        name = "other"
    holder[name] = "@"
    return around(copy, inner)


def tree(random: Random, values: int, depth: int) -> Any:
    """Returns a value with so many others in it at most."""
    if values < 2 or depth == 0:
        odd = ("", "\x00", "\ud800", "a" * 300, "-1", -0.0, 1e308, 10**30, None, True, "\u202e")
        return random.choice((*odd, random.random(), random.getrandbits(64)))
    count = random.randint(1, min(values, 200))
    inner = [tree(random, values // count, depth - 1) for _ in range(count)]
    if random.random() < 0.5:
        return inner
    return {f"{random.getrandbits(24):x}": one for one in inner}


def repeated(random: Random, size: int) -> bytes:
    """The same thing over and over."""
    begin, one, end = random.choice(list(REPEATED.values()))
    return begin + one * max(1, (size - len(begin) - len(end)) // len(one)) + end


def members(random: Random, size: int) -> bytes:
    """An object of very many members, of which nobody has heard."""
    value = random.choice(("1", '""', "null", "[]", "{}", '{"a":1}'))
    first = random.getrandbits(32)
    text = ",".join(f'"{first + at:x}":{value}' for at in range(1 + size // 14))
    return b"{" + text.encode() + b"}"


def nested(random: Random, size: int) -> bytes:
    """One thing in another, and all of it whole."""
    opened, closed = random.choice(((b"[", b"]"), (b'{"a":', b"}"), (b'[{"":[', b"]}]")))
    times = random.choice((30, 33, 64, 65, 900, size // (len(opened) + len(closed))))
    return opened * times + b"1" + closed * times


def number(random: Random, size: int) -> bytes:
    """A number that is none, or that nobody can hold."""
    digits = b"9" * random.choice((20, 399, 401, 4301, size))
    forms = (b"-%b", b"1e%b", b"0.%b", b"1E-%b", b"-0e+%b", b"%b.0", b"NaN%.0b", b"-Infinity%.0b")
    return random.choice(forms) % digits


def odd_text(random: Random, size: int) -> bytes:
    """A text of letters that readers take differently, or for which they need very much."""
    one = random.choice(
        (b"\\ud800", b"\\u0000", b"\xff", b"\xf0\x9f\x98\x80", b"\\", b"\x00", b"*")
    )
    return b'"' + one * max(1, size // len(one)) + b'"'


def yaml_text(random: Random, size: int) -> bytes:
    """YAML that is more than it seems."""
    names = [f"a{at}" for at in range(random.randint(2, 30))]
    nine = "\n".join(
        f"{one}: &{one} [{','.join([f'*{before}'] * 9)}]"
        for before, one in itertools.pairwise(names)
    )
    kinds = (
        f"a0: &a0 [x,x,x,x,x,x,x,x,x]\n{nine}\n",
        "[" * size,
        "{a: " * (size // 4),
        "- " * (size // 2) + "x",
        "? " * (size // 2),
        "- &a x\n" + "- *a\n" * (size // 5),
        "---\n" * (size // 4),
        "x: !!python/object/apply:os.system [id]\n",
        "x: |\n" + " y\n" * (size // 3),
        "'" + "''" * (size // 2),
        "%TAG ! tag:x,2000:\n" * (size // 20) + "---\nx",
        "#" * size,
        "x: " + "9" * size,
        "".join(f"k{at}: 1\n" for at in range(size // 9)),
        "&a [*a]",
        "<<: *x",
    )
    return random.choice(kinds).encode()


def bent(random: Random, raw: bytes) -> bytes:
    """A document with some of its bytes changed, doubled or cut."""
    changed = bytearray(raw)
    for _ in range(random.randint(1, 8)):
        at = random.randrange(len(changed))
        match random.randrange(4):
            case 0:
                changed[at] = random.randrange(256)
            case 1:
                changed[at:at] = changed[: random.randrange(200)]
            case 2:
                del changed[at : at + random.randrange(1, 40)]
            case _:
                changed[at:at] = random.choice((b"\x00", b'"', b"{", b"]", b",", b"\\u", b"null"))
        if not changed:
            break
    return bytes(changed)


INSIDES: tuple[Callable[[Random, int], bytes], ...] = (
    repeated,
    members,
    nested,
    number,
    odd_text,
)


def body_of(random: Random, target: Target, bytes_max: int) -> bytes:
    """Returns a body: mostly up to the size that is taken, at times beyond it."""
    most = random.choice((200, 5_000, 20_000, bytes_max // 2, bytes_max, bytes_max))
    size = random.choice((most, random.randint(1, most)))
    room = max(1, size - len(json.dumps(target.document)) - 20)
    kind = random.randrange(10)
    if kind < 6:
        return with_inside(random, target.document, random.choice(INSIDES)(random, room))
    if kind == 6:
        inner = json.dumps(tree(random, min(room // 10, 50_000), random.choice((3, 8, 40))))
        return with_inside(random, target.document, inner.encode())
    if kind == 7:
        return bent(random, json.dumps(target.document).encode())
    if kind == 8:
        text = json.dumps(target.document)
        code = random.choice(("utf-16", "utf-32", "utf-8-sig", "utf-7"))
        return text.encode(code) * random.choice((1, 1, 2))
    return random.choice(
        (
            random.randbytes(size),
            b"",
            b" " * size,
            b"\x1f\x8b\x08" + bytes(size),
            repeated(random, size),
            b"9" * (2 * bytes_max),
            b"[" * (size + bytes_max),
        )
    )


def made(target: Target, seed: int, at: int) -> tuple[Sent, str]:
    """Returns a request by its number, and how it is sent."""
    random = Random(f"{seed} {target.name} {at}")
    media, raw = JSON, b""
    if target.name == "HTTP API" and random.random() < 0.25:
        media = random.choice(sorted(bodies.YAML))
        raw = yaml_text(random, random.choice((10, 3_000, YAML_BYTES_MAX, YAML_BYTES_MAX + 9)))
    else:
        raw = body_of(random, target, target.bytes_max)
    headers = {"Content-Type": media}
    if random.random() < 0.05:
        headers["Content-Type"] = random.choice(
            ("text/plain", "", "application/json;" * 50, "\xff")
        )
    if random.random() < 0.05:
        headers["Content-Encoding"] = random.choice(("gzip", "br", "zstd", "deflate"))
    if target.tokens:
        token = random.choice(target.tokens)
        shown = random.choices(
            (token, "", token[:-4], "a" * 9_000, token_of(random.randbytes(32))),
            (94, 2, 2, 1, 1),
        )[0]
        if shown:
            headers["Authorization"] = f"Bearer {shown}"
    ways = ("whole", "chunked", "in pieces", "slowly", "cut")
    way = random.choices(ways, (78, 8, 6, 4, 4))[0]
    return (random.choice(target.paths), raw, headers), way


# --- Who sends them ---------------------------------------------------------------------------


@cache
def trust_in(authority: str) -> ssl.SSLContext:
    """Returns what a client needs that believes one authority alone."""
    return ssl.create_default_context(cadata=authority)


def asked(target: Target, host: str, sent: Sent, way: str = "whole") -> tuple[int, bytes]:
    """Sends a request from an address; returns status and body of the answer, 0 = there is none."""
    path, raw, headers = sent
    line = HTTPSConnection(
        target.host,
        target.port,
        context=trust_in(target.authority),
        timeout=PATIENCE_SECONDS,
        source_address=(host, 0),
    )
    with closing(line), suppress(OSError, HTTPException):
        if way == "chunked":
            step = 1 + len(raw) // 50
            chunks = [raw[at : at + step] for at in range(0, len(raw), step)]
            line.request("POST", path, iter(chunks), headers, encode_chunked=True)
        else:
            line.putrequest("POST", path)
            for name, text in headers.items():
                line.putheader(name, text)
            line.putheader("Content-Length", str(len(raw)))
            line.endheaders()
            middle = len(raw) // 2
            with suppress(OSError):  # It may have been refused before it was whole.
                line.send(raw[:middle])
                if way == "cut":
                    return 0, b""
                if way == "slowly":
                    time.sleep(2)
                if way == "in pieces":
                    for at in range(middle, len(raw), 1 + len(raw) // 20):
                        line.send(raw[at : at + 1 + len(raw) // 20])
                else:
                    line.send(raw[middle:])
        answer = line.getresponse()
        return answer.status, answer.read()
    return 0, b""


@dataclass
class Hostile:
    """What came of the hostile bodies."""

    answers: Counter[str] = field(default_factory=Counter)
    broken: list[tuple[int, int, bytes]] = field(default_factory=list)
    """Number, status and answer of each that shows a fault of ours."""


def attack(target: Target, seed: int, seconds: float, most: int, told: "Queue[Hostile]") -> None:
    """Sends bodies, several at once, until the time is over or enough were sent.

    Tells that it begins, and then what came of them.
    """
    told.put(Hostile())
    numbers, until = itertools.count(), time.monotonic() + seconds
    lock, found = threading.Lock(), Hostile()

    def send() -> None:
        while time.monotonic() < until and (at := next(numbers)) < most:
            sent, way = made(target, seed, at)
            host = HOSTILE_HOSTS[at % len(HOSTILE_HOSTS)]
            status, answer = asked(target, host, sent, way)
            shown = str(status) if status else "cut by us" if way == "cut" else "none"
            with lock:
                found.answers[shown] += 1
                if is_fault(status):
                    found.broken.append((at, status, answer))

    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(lambda _: send(), range(AT_ONCE)))
    told.put(found)


def is_fault(status: int) -> bool:
    """Whether no body may be answered so."""
    return status >= 500 and status != 503


# --- What is seen meanwhile -------------------------------------------------------------------


@dataclass(frozen=True)
class Program:
    """A program that listens, as a process."""

    pid: int
    probes_port: int
    memory_bytes_max: int
    """The chart's limit."""
    runs: Callable[[], bool]

    def peak_bytes(self) -> int:
        """Returns the most memory that was resident since the last `forget_peak`."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return next(int(one.split()[1]) << 10 for one in lines if one.startswith("VmHWM:"))

    def forget_peak(self) -> None:
        """Begins anew."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")


@dataclass(frozen=True)
class Figures:
    """The row of a listener."""

    name: str
    answers: Counter[str]
    peak_bytes: int
    memory_bytes_max: int
    honest: tuple[float, ...]
    """Seconds until each answer, in order; infinite = there was none, or a refusal."""
    refusals: Counter[str]
    """What the honest caller was answered instead."""
    stall_seconds: float
    """The longest that the program's own loop let a probe wait."""
    runs: bool

    def honest_at(self, share: float) -> float:
        """Returns a quantile of the honest caller's latency in seconds."""
        return self.honest[min(int(len(self.honest) * share), len(self.honest) - 1)]


def faults(row: Figures, *, judges_time: bool) -> list[str]:
    """Returns what is wrong with a listener."""
    found = []
    if not row.runs:
        found.append("the process has ended")
    if row.peak_bytes > row.memory_bytes_max:
        found.append(f"{row.peak_bytes >> 20} MiB are more than the chart allows")
    if broken := sorted(one for one in row.answers if one.isdecimal() and is_fault(int(one))):
        found.append(f"bodies were answered {', '.join(broken)}")
    if judges_time and row.honest_at(0.99) > GOAL_SECONDS:
        found.append(f"the honest caller waited more than {GOAL_SECONDS:g} s at p99")
    return found


class Beside:
    """The honest caller, and a probe of the loop; both ask at fixed times, whatever is answered."""

    def __init__(self, target: Target, program: Program, honest: Callable[[int], Sent]) -> None:
        self._target, self._program, self._honest = target, program, honest
        self._over = threading.Event()
        self.latencies: list[float] = []
        self.refusals: Counter[str] = Counter()
        self.stall_seconds = 0.0
        self._threads = [
            threading.Thread(target=one, daemon=True) for one in (self._ask, self._look)
        ]
        for thread in self._threads:
            thread.start()

    def figures(self, answers: Counter[str], *, runs: bool) -> Figures:
        """Returns what came of it, with what the others were answered."""
        program = self._program
        return Figures(
            name=self._target.name,
            answers=answers,
            peak_bytes=program.peak_bytes() if program.runs() else 0,
            memory_bytes_max=program.memory_bytes_max,
            honest=tuple(sorted(self.latencies)),
            refusals=self.refusals,
            stall_seconds=self.stall_seconds,
            runs=runs,
        )

    def _ask(self) -> None:
        def ask(at: int, due: float) -> None:
            status, _ = asked(self._target, HONEST_HOST, self._honest(at))
            well = status == self._target.expected
            self.latencies.append(time.monotonic() - due if well else math.inf)
            if not well:
                self.refusals[str(status or "none")] += 1

        began = time.monotonic()
        with ThreadPoolExecutor(HONEST_AT_ONCE) as pool:
            for at in itertools.count():
                due = began + at / HONEST_PER_SECOND
                if self._over.wait(max(0.0, due - time.monotonic())):
                    break
                pool.submit(ask, at, due)

    def _look(self) -> None:
        while not self._over.wait(1 / LOOKS_PER_SECOND):
            began = time.monotonic()
            lives(self._program.probes_port)
            self.stall_seconds = max(self.stall_seconds, time.monotonic() - began)

    def close(self) -> None:
        """Waits for the last answers."""
        self._over.set()
        for thread in self._threads:
            thread.join()


def lives(port: int) -> bool:
    """Asks a program whether it lives."""
    line = HTTPConnection("127.0.0.1", port, timeout=PATIENCE_SECONDS)
    with closing(line), suppress(OSError, HTTPException):
        line.request("GET", "/healthz")
        return line.getresponse().status == 200
    return False


# --- The listeners ----------------------------------------------------------------------------


def bearer(token: str) -> dict[str, str]:
    """Returns the headers of an honest request."""
    return {"Content-Type": JSON, "Authorization": f"Bearer {token}"}


def pod_token(kubectl: Kubectl, name: str) -> str:
    """Makes a pod that the controller takes for a driver's, and returns a token bound to it."""
    pod = a_driver("default")
    pod["metadata"]["name"] = name
    # There is no node that it belongs to, so it would be collected.
    del pod["metadata"]["ownerReferences"]
    kubectl.client.apply(pod)
    made_pod = kubectl.get("pod", name, "default") or {}
    bound = {"kind": "Pod", "apiVersion": "v1", "name": name, "uid": made_pod["metadata"]["uid"]}
    return kubectl.client.token("default", "default", audiences=[AUDIENCE], boundObjectRef=bound)


def limit_bytes(resources: dict[str, Any]) -> int:
    """Returns the limit of memory that the chart sets."""
    told = str(resources["limits"]["memory"])
    return int(told.removesuffix("Mi")) << 20


Listener = tuple[Target, Program, Callable[[int], Sent]]


@contextmanager
def listeners(folder: Path) -> Iterator[list[Listener]]:
    """Starts both programs, and gives each listener with what an honest caller sends it."""
    values = yaml.safe_load((ROOT / "helm/gpujob/values.yaml").read_text())
    simulator = Simulator(folder)
    simulator.start()
    with control_plane(folder / "plane") as plane:
        kubectl = Kubectl(plane, plane.kubeconfig)
        config = operators_config(plane, folder / "operator.kubeconfig")
        operator = Operator(folder, config, simulator.url)
        operator.start()
        authority = authorities(kubectl)
        owned = [token_of(secrets.token_bytes(32)) for _ in range(100)]
        entries = {f"token-{at}": record(one) for at, one in enumerate(owned)}
        with api_server(
            plane,
            folder,
            entries,
            GPUJOB_TRANSPORT_URL=operator.transport_url,
            GPUJOB_TOKEN_FILE=str(token_file(kubectl, "gpujob-server", folder)),
            GPUJOB_AUTHORITIES_FILE=str(authorities_file(kubectl, folder)),
        ) as api:
            most = limit_bytes(values["webhook"]["resources"])
            server = Program(api.server.pid, api.server.probes_port, most, lambda: api.server.runs)
            most = limit_bytes(values["resources"])
            controller = Program(operator.pid, operator.probes_port, most, lambda: operator.runs)
            own, *stolen = (pod_token(kubectl, name) for name in ("honest", "one", "another"))
            asks = kubectl.client.token("gpujob-server", "gpujob-system", audiences=[AUDIENCE])
            job = {"metadata": {"name": "train"}, "spec": SPEC}
            question = {"version": 1, "namespace": "hostile", "spec": SPEC}

            def target(name: str, *paths: str, **more: Any) -> Target:
                if name in ("admission", "HTTP API"):
                    where = ("localhost", api.port, api.authority)
                    if name == "admission":
                        where = ("localhost", api.server.port, api.authority)
                else:
                    where = ("127.0.0.1", operator.transport_port, authority)
                return Target(name, *where, paths, **more)

            in_hostile = "/v1/namespaces/hostile"
            yield [
                (
                    target(
                        "admission",
                        admission.PATH,
                        tokens=(),
                        bytes_max=admission.BODY_BYTES_MAX,
                        document=review(SPEC),
                    ),
                    server,
                    lambda _: (
                        admission.PATH,
                        json.dumps(review(SPEC)).encode(),
                        {"Content-Type": JSON},
                    ),
                ),
                (
                    target(
                        "HTTP API",
                        f"{in_hostile}/jobs",
                        f"{in_hostile}/estimates",
                        tokens=tuple(owned[1:]),
                        bytes_max=bodies.BODY_BYTES_MAX,
                        document=job,
                    ),
                    server,
                    lambda _: (
                        "/v1/namespaces/default/jobs",
                        json.dumps(job).encode(),
                        bearer(owned[0]) | {"Idempotency-Key": "honest"},
                    ),
                ),
                (
                    target(
                        "driver transport",
                        SYNC_PATH,
                        tokens=tuple(stolen),
                        bytes_max=REPORT_BYTES_MAX,
                        document=report(progress={"metrics": {"loss": 0.5}}),
                        expected=404,  # His node is not known yet.
                    ),
                    controller,
                    lambda _: (SYNC_PATH, json.dumps(report()).encode(), bearer(own)),
                ),
                (
                    target(
                        "estimates",
                        ESTIMATE_PATH,
                        tokens=(asks,),
                        bytes_max=ESTIMATE_BYTES_MAX,
                        document=question,
                    ),
                    controller,
                    # An estimate is one of few in its namespace.
                    lambda at: (
                        ESTIMATE_PATH,
                        json.dumps(question | {"namespace": f"honest-{at % 40}"}).encode(),
                        bearer(asks),
                    ),
                ),
            ]
        operator.stop()
    simulator.stop()


def fuzzed(listener: Listener, seed: int, seconds: float, most: int) -> tuple[Figures, Hostile]:
    """Sends hostile bodies to a listener, and returns what was seen."""
    target, program, honest = listener
    # The first one makes what the others find.
    eventually(
        f"{target.name} answers the honest caller",
        lambda: asked(target, HONEST_HOST, honest(0))[0] == target.expected,
    )
    program.forget_peak()
    spawned = multiprocessing.get_context("spawn")
    told = spawned.Queue()
    attacker = spawned.Process(target=attack, args=(target, seed, seconds, most, told), daemon=True)
    attacker.start()
    told.get(timeout=STARTS_SECONDS)  # Else he would be measured while a process only starts.
    beside = Beside(target, program, honest)
    found: Hostile = told.get(timeout=seconds + STARTS_SECONDS)
    attacker.join()
    runs = program.runs() and lives(program.probes_port)
    beside.close()
    return beside.figures(found.answers, runs=runs), found


def say(words: str) -> None:
    """Prints a line: what the parts of a test print is not wanted here."""
    print(words, file=sys.__stdout__, flush=True)


def table(rows: list[Figures]) -> Iterator[str]:
    """Returns the lines of the table."""
    head = ("listener", "bodies", "RSS MiB", "limit", "honest", "p50 s", "p99 s", "stall s")
    widths = (18, 8, 9, 7, 8, 8, 8, 9)
    yield "".join(f"{name:>{width}}" for name, width in zip(head, widths, strict=True))
    for row in rows:
        cells = (
            row.name,
            str(row.answers.total()),
            str(row.peak_bytes >> 20),
            str(row.memory_bytes_max >> 20),
            str(len(row.honest)),
            f"{row.honest_at(0.5):.3f}",
            f"{row.honest_at(0.99):.3f}",
            f"{row.stall_seconds:.3f}",
        )
        yield "".join(f"{one:>{width}}" for one, width in zip(cells, widths, strict=True))
    for row in rows:
        answers = ", ".join(f"{one}: {count}" for one, count in sorted(row.answers.items()))
        yield f"{row.name}: {answers}"
        if row.refusals:
            yield f"{row.name}, the honest caller instead: {dict(row.refusals)}"


def main() -> int:
    """Reads the options, sends the bodies, and prints the figures; 1 = something is wrong."""
    parser = argparse.ArgumentParser(prog="hack/fuzz listeners", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0, help="for each listener")
    parser.add_argument("--bodies", type=int, default=1_000_000, help="the most for each listener")
    parser.add_argument("--seed", type=int, default=secrets.randbits(32))
    parser.add_argument("--listener", choices=NAMES, help="this one alone")
    options = parser.parse_args()
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    judges_time = load <= cores
    judged = "judged" if judges_time else "printed only"
    say(f"fuzz: seed {options.seed}; load {load:.1f} on {cores} cores before: times are {judged}")
    wrong = False
    rows: list[Figures] = []
    try:
        with (
            tempfile.TemporaryDirectory(prefix="gpujob-fuzz-") as folder,
            redirect_stdout(StringIO()),
            listeners(Path(folder)) as chosen,
        ):
            for listener in chosen:
                name = listener[0].name
                if options.listener in (None, name):
                    say(f"fuzz: {name}: {options.seconds:g} s")
                    row, found = fuzzed(listener, options.seed, options.seconds, options.bodies)
                    rows.append(row)
                    for at, status, answer in found.broken[:20]:
                        raw = made(listener[0], options.seed, at)[0][1]
                        say(f"fuzz: {name}: body {at}, {raw[:200]!r}, {status}: {answer[:500]!r}")
    finally:
        for loader in Loader.every.values():
            loader.close()
    for line in table(rows):
        say(line)
    for row in rows:
        for fault in faults(row, judges_time=judges_time):
            wrong = True
            say(f"fuzz: FAILED: {row.name}: {fault}")
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main())
