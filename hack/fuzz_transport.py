"""Sends generated messages of drivers to the controller's listener, beside an honest driver.

The controller is a process with the rights of its chart, before a real API server. A hostile tenant
has jobs whose drivers' tokens he uses: what he sends is whole, bent or torn (fuzz_messages.py), and
most of it is about his own nodes, so that it is heard. When he has ended a job of his, he gets
another one. The honest job has a real driver, and must outlive all this without a successor.
"""

import argparse
import itertools
import json
import multiprocessing
import os
import re
import secrets
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass, field
from http.client import HTTPException, HTTPSConnection
from io import StringIO
from pathlib import Path
from queue import Queue
from random import Random
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.integration.conftest import World, control_plane, staged
from tests.integration.loaded import Loader
from tests.integration.parts import AUDIENCE, ROOT, Object, Simulator, authorities, eventually

from fuzz_listeners import (
    AT_ONCE,
    HOSTILE_HOSTS,
    JSON,
    PATIENCE_SECONDS,
    STARTS_SECONDS,
    Beside,
    Figures,
    Program,
    Target,
    bearer,
    faults,
    limit_bytes,
    say,
    table,
    trust_in,
)
from fuzz_messages import SECRET, Messages, complaint, printable, schema_of
from gpujob.api.transport import (
    REPORT_BYTES_MAX,
    SYNC_PATH,
    Assignment,
    DriverReport,
    read_message,
)
from gpujob.web.problems import MEDIA_TYPE

JOBS = 3
"""Of the hostile tenant, at a time."""
REFRESH_SECONDS = 0.5
HEARD_SHARE = 0.85
"""Of the messages; the others speak of whatever node they like."""
ANSWERS = {200, 400, 401, 403, 404, 408, 413, 415, 503}
"""What the protocol knows."""
GONE = {200, 401, 403, 404, 503}
"""What a good message may be answered: his node may have ended meanwhile."""
PROBLEM_BYTES_MAX = 4096
NODE_UID = re.compile(rb'"nodeUid"\s*:\s*"(?:[^"\\]|\\.)*"', re.DOTALL)


@dataclass
class Told:
    """What the sender has seen."""

    answers: Counter[str] = field(default_factory=Counter)
    sent: Counter[str] = field(default_factory=Counter)
    """By what the message is."""
    broken: list[str] = field(default_factory=list)


def wrong_with(what: str, status: int, media: str, raw: bytes) -> str:
    """Returns why an answer to such a message is not of the protocol; empty = it is."""
    if status not in ANSWERS:
        return "no such status"
    if what == "whole" and status not in GONE:
        return "a good message was refused"
    if status == 200:
        if media != JSON:
            return f"an assignment of type {media}"
        read_message(Assignment, raw)
        return complaint(schema_of(Assignment), json.loads(raw)) or ""
    told = json.loads(raw)
    if media != MEDIA_TYPE or told["status"] != status:
        return "no problem details"
    if len(raw) > PROBLEM_BYTES_MAX or not printable(told["detail"]):
        return "words that cannot be shown"
    return "a value is quoted" if SECRET in raw.decode() else ""


def about(raw: bytes, node_uid: str) -> bytes:
    """Returns a message that speaks of this node."""
    return NODE_UID.sub(json.dumps({"nodeUid": node_uid})[1:-1].encode(), raw, count=1)


class Sender:
    """One connection of the hostile tenant, which is opened again whenever it is closed."""

    def __init__(self, target: Target, callers: Path, seed: int, number: int) -> None:
        self._target, self._callers = target, callers
        self._random = Random(f"{seed} {number}")
        self._messages = Messages(DriverReport, seed + number)
        self._host = HOSTILE_HOSTS[number % len(HOSTILE_HOSTS)]
        self._line: HTTPSConnection | None = None
        self._known: list[tuple[str, str]] = []
        self._read_at = 0.0

    def send(self, told: Told) -> None:
        """Sends the next message, and notes what came of it."""
        if time.monotonic() > self._read_at + REFRESH_SECONDS:
            self._known = json.loads(self._callers.read_text())
            self._read_at = time.monotonic()
        what, raw = self._messages.next()
        token, node_uid = self._random.choice(self._known)
        if self._random.random() < HEARD_SHARE:
            raw = about(raw, node_uid)
        told.sent[what] += 1
        try:
            status, media, answer = self._asked(raw, token)
        except (OSError, HTTPException) as error:
            self._line = None
            told.answers[type(error).__name__] += 1
            return
        told.answers[str(status)] += 1
        try:
            wrong = wrong_with(what, status, media, answer)
        except Exception as error:  # noqa: BLE001 - whatever it is, the answer is the reason
            wrong = f"it cannot be read: {error}"
        if wrong:
            told.broken.append(f"{what}, {status}: {wrong}: {raw[:500]!r}: {answer[:500]!r}")

    def _asked(self, raw: bytes, token: str) -> tuple[int, str, bytes]:
        if self._line is None:
            self._line = HTTPSConnection(
                self._target.host,
                self._target.port,
                context=trust_in(self._target.authority),
                timeout=PATIENCE_SECONDS,
                source_address=(self._host, 0),
            )
        self._line.request("POST", SYNC_PATH, raw, bearer(token))
        answer = self._line.getresponse()
        return answer.status, answer.headers.get_content_type(), answer.read()


def attack(target: Target, callers: Path, seed: int, most: int, told: "Queue[Told]") -> None:
    """Sends so many messages, several at once; tells that it begins, and then what came of them."""
    told.put(Told())
    numbers = itertools.count()

    def send(number: int) -> Told:
        sender, found = Sender(target, callers, seed, number), Told()
        while next(numbers) < most and len(found.broken) < 20:
            sender.send(found)
        return found

    whole = Told()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for one in pool.map(send, range(AT_ONCE)):
            whole.answers += one.answers
            whole.sent += one.sent
            whole.broken += one.broken
    told.put(whole)


class HostileTenant:
    """Keeps some jobs, and tells the tokens of their drivers, which are not run."""

    def __init__(self, world: World, honest: str, callers: Path) -> None:
        self._world, self._honest, self._callers = world, honest, callers
        self._tokens: dict[str, tuple[str, str]] = {}
        """Token and node of each driver, by its pod's uid."""
        self._over = threading.Event()
        self.jobs = 0
        """So many he has had."""
        self._look()
        self._thread = threading.Thread(target=self._keep)
        self._thread.start()

    def close(self) -> None:
        """Lets the jobs be."""
        self._over.set()
        self._thread.join()

    def _keep(self) -> None:
        while not self._over.wait(REFRESH_SECONDS):
            with suppress(OSError, AssertionError):  # An API server that is busy: the next time.
                self._look()

    def _look(self) -> None:
        kubectl, namespace = self._world.kubectl, self._world.namespace
        jobs = [
            one
            for one in kubectl.items("gpujobs", "-n", namespace)
            if one["metadata"]["name"] != self._honest
        ]
        for job in jobs:
            if is_over(job):
                kubectl.client.delete("gpujobs", job["metadata"]["name"], namespace)
        for _ in range(JOBS - len(jobs)):
            self.jobs += 1
            # Of any kind: he soon makes the machines of one kind distrusted.
            self._world.apply_job(f"hostile-{self.jobs}", command=["sleep", "6000"], gpu=None)
        pods = {
            pod["metadata"]["uid"]: pod
            for pod in kubectl.items("pods", "-n", namespace)
            if not pod["metadata"]["name"].startswith(f"{self._honest}-")
            and "deletionTimestamp" not in pod["metadata"]
        }
        for uid in pods.keys() - self._tokens.keys():
            self._tokens[uid] = self._taken(pods[uid])
        known = [self._tokens[uid] for uid in pods] or list(self._tokens.values())[-1:]
        if known:
            new = self._callers.with_suffix(".new")
            new.write_text(json.dumps(known))
            new.replace(self._callers)

    def _taken(self, pod: Object) -> tuple[str, str]:
        """Says that a driver runs, and returns its token and the uid of its node."""
        name, uid = pod["metadata"]["name"], pod["metadata"]["uid"]
        self._world.pods.tell(self._world.namespace, name, {"phase": "Running"})
        bound = {"kind": "Pod", "apiVersion": "v1", "name": name, "uid": uid}
        token = self._world.kubectl.client.token(
            "default", self._world.namespace, audiences=[AUDIENCE], boundObjectRef=bound
        )
        (owner,) = pod["metadata"]["ownerReferences"]
        return token, owner["uid"]


def is_over(job: Object) -> bool:
    """Whether a job has ended."""
    conditions = job.get("status", {}).get("conditions", [])
    ends = {one["type"] for one in conditions if one["status"] == "True"}
    return bool(ends & {"Complete", "Failed"})


@contextmanager
def beside_an_honest_job(folder: Path) -> Iterator[World]:
    """A world in which a job called `honest` runs, with a real driver; no further one starts."""
    simulator = Simulator(folder)
    simulator.start()
    try:
        with control_plane(folder / "plane") as plane, staged(plane, simulator, folder) as world:
            world.operator.start()
            budget = {"activeDeadlineSeconds": 7200, "cost": {"ceiling": "20.00"}}
            world.apply_job("honest", command=["sleep", "7000"], **budget)
            world.await_reason("honest", "Running")
            world.pods.are_held.set()
            yield world
    finally:
        simulator.stop()


def fuzzed(world: World, folder: Path, seed: int, most: int) -> tuple[Figures, Told, int]:
    """Sends messages beside the honest driver; returns what was seen, and the hostile jobs."""
    callers = folder / "callers.json"
    node = world.kubectl.get("gpunode", "honest-0-1", world.namespace) or {}
    (token_file,) = world.pods.files("token")
    own = token_file.read_text().strip()
    # Older than what the real driver says, so it is answered, and changes nothing.
    old = {"version": 1, "nodeUid": node["metadata"]["uid"], "session": 1, "sequence": 1}
    honest = SYNC_PATH, json.dumps(old | {"phase": "Running"}).encode(), bearer(own)
    operator = world.operator
    target = Target(
        name="driver transport",
        host="127.0.0.1",
        port=operator.transport_port,
        authority=authorities(world.kubectl),
        paths=(SYNC_PATH,),
        tokens=(),
        bytes_max=REPORT_BYTES_MAX,
        document={},
    )
    values = yaml.safe_load((ROOT / "helm/gpujob/values.yaml").read_text())
    program = Program(
        operator.pid, operator.probes_port, limit_bytes(values["resources"]), lambda: operator.runs
    )
    tenant = HostileTenant(world, "honest", callers)
    try:
        eventually("the hostile tenant has a driver", callers.exists)
        program.forget_peak()
        spawned = multiprocessing.get_context("spawn")
        told = spawned.Queue()
        attacker = spawned.Process(
            target=attack, args=(target, callers, seed, most, told), daemon=True
        )
        attacker.start()
        told.get(timeout=STARTS_SECONDS)
        beside = Beside(target, program, lambda _: honest)
        found: Told = told.get(timeout=STARTS_SECONDS + most / 10)
        attacker.join()
        beside.close()
    finally:
        tenant.close()
    return beside.figures(found.answers, runs=program.runs()), found, tenant.jobs


def harm(world: World, before: list[Any]) -> Iterator[str]:
    """Yields what the honest job has suffered."""
    if lived(world) != before:
        yield f"the honest job was {before}, and is {lived(world)}"
    for line in world.operator.log.splitlines():
        if "request_crashed" in line:
            yield line


def lived(world: World) -> list[Any]:
    """Returns what must stay as it is: the honest job's phase, its driver and its machines."""
    pods = world.kubectl.items("pods", "-n", world.namespace)
    drivers = [
        one["metadata"]["uid"] for one in pods if one["metadata"]["name"].startswith("honest-")
    ]
    reason = world.condition("honest", "Ready").get("reason")
    return [reason, drivers, len(world.simulator.of(world.job("honest")))]


def main() -> int:
    """Reads the options, sends the messages, and prints the figures; 1 = something is wrong."""
    parser = argparse.ArgumentParser(prog="hack/fuzz transport", description=__doc__)
    parser.add_argument("--messages", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=secrets.randbits(32))
    options = parser.parse_args()
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    judges_time = load <= cores
    judged = "judged" if judges_time else "printed only"
    say(f"fuzz: seed {options.seed}; load {load:.1f} on {cores} cores before: times are {judged}")
    began = time.monotonic()
    try:
        with (
            tempfile.TemporaryDirectory(prefix="gpujob-fuzz-") as name,
            redirect_stdout(StringIO()),
            beside_an_honest_job(Path(name)) as world,
        ):
            before = lived(world)
            row, found, jobs = fuzzed(world, Path(name), options.seed, options.messages)
            wrong = [*faults(row, judges_time=judges_time), *found.broken, *harm(world, before)]
    finally:
        for loader in Loader.every.values():
            loader.close()
    took, load = time.monotonic() - began, os.getloadavg()[0]
    sent = ", ".join(f"{count} {what}" for what, count in sorted(found.sent.items()))
    say(f"fuzz: messages: {sent}; of {jobs} hostile jobs; {took:.0f} s; load {load:.1f} after")
    for line in table([row]):
        say(line)
    for fault in wrong:
        say(f"fuzz: FAILED: {fault}")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
