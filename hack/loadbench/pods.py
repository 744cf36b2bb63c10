"""`python -m loadbench.pods`: one process that plays the kubelet and all drivers, cheaply.

It watches driver pods, mints the token that each is bound to, marks it Running, and reports for it
to the controller as `gpujob.driver` does: over TLS and one connection that is kept, what is new at
once, all else with the digest of the answer that was taken last, which the controller may then keep
back. No machine is spoken to: one that is to be measured is a good one, and a workload runs until
its time has come. When each pod was seen is written to a file, as lines of JSON; none is started
before another file is there.
"""

import argparse
import asyncio
import base64
import json
import random
import ssl
import tempfile
import time
from asyncio import sslproto
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import yaml

from gpujob.adapters.transport import ANSWER_SECONDS, trust_in
from gpujob.api.meta import LABEL_COMPONENT, LABEL_JOB, TRANSPORT_AUDIENCE
from gpujob.api.transport import (
    HOLD_SECONDS,
    SYNC_PATH,
    DriverReport,
    Gpu,
    Instruction,
    LogPosition,
    Measured,
    Outcome,
    Progress,
    WatchdogClient,
    WorkloadPhase,
    digest_of_answer,
)

AT_ONCE = 32
"""Pods that are started at the same time."""
NEWS_SECONDS = 0.5
"""As in `gpujob.driver.reporting`: no driver reports more often."""
TOKEN_SECONDS = 3 * 3600
RUNS = "bench/runs"
"""An annotation of pods whose workload runs already."""
TLS_BUFFER_BYTES = 16 << 10
MEASURED = Measured(
    gpus=(Gpu(name="NVIDIA GeForce RTX 4090", memory_mib=24564),),
    cuda_version="13.0",
    cpu_cores=16,
    memory_mib=64_000,
    memory_free_mib=60_000,
    disk_mib=400_000,
    disk_free_mib=380_000,
    disk_write_mbps=900.0,
    watchdog_client=WatchdogClient.CURL,
    watchdog_runs=True,
)

Body = dict[str, Any]


@cache
def trusting(authorities: str) -> ssl.SSLContext:
    """Returns the TLS context of all drivers that trust these."""
    return trust_in(authorities)


class NoAnswer(Exception):
    """The controller gave no answer to a report."""


@dataclass
class Machine:
    """What a driver would find out from its machine."""

    run_seconds: float
    """How long the workload is to run."""
    phase: WorkloadPhase = WorkloadPhase.WAITING
    started_at: float | None = None
    outcome: Outcome | None = None

    def obey(self, instruction: str) -> None:
        """Does what the controller says."""
        now = time.monotonic()
        if instruction == Instruction.MEASURE and self.phase is WorkloadPhase.WAITING:
            self.phase = WorkloadPhase.MEASURED
        if instruction == Instruction.RUN and self.started_at is None:
            self.phase, self.started_at = WorkloadPhase.RUNNING, now
        if instruction == Instruction.STOP and self.outcome is None:
            self.end(143)

    def end(self, code: int) -> None:
        """Ends the workload; there are no files to copy."""
        ran = time.monotonic() - self.started_at if self.started_at is not None else 0.0
        self.phase = WorkloadPhase.FINISHED
        self.outcome = Outcome(exit_code=code, run_seconds=ran)

    @property
    def left_seconds(self) -> float | None:
        """How long the workload runs still; None = it does not run."""
        if self.started_at is None or self.outcome is not None:
            return None
        return max(self.started_at + self.run_seconds - time.monotonic(), 0.0)


class Driver:
    """One driver."""

    def __init__(self, node_uid: str, url: str, authorities: str, token: str, run: float) -> None:
        self._node_uid = node_uid
        self._url = urlsplit(url)
        self._context = trusting(authorities)
        self._head = (
            f"POST {SYNC_PATH} HTTP/1.1\r\nHost: {self._url.netloc}\r\n"
            f"Authorization: Bearer {token}\r\nContent-Type: application/json\r\nContent-Length: "
        )
        self.machine = Machine(run)
        self._sequence = 0
        self._taken: str | None = None
        self._is_stopping = False
        self._line: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def run(self) -> None:
        """Reports until nothing is left to do."""
        failures = 0
        while True:
            began, reported = time.monotonic(), (self.machine.phase, self._taken)
            try:
                told = await self._exchange()
                failures = 0
            except (OSError, NoAnswer, asyncio.IncompleteReadError, TimeoutError):
                self._close()
                failures += 1
                slower = min(HOLD_SECONDS * 2 ** min(failures, 10), 15.0)
                await asyncio.sleep(slower * random.uniform(0.5, 1.0))
                continue
            if told == Instruction.EXIT:
                break
            if told is not None:
                self.machine.obey(told)
            self._end_in_time()
            if reported == (self.machine.phase, self._taken):
                left = self.machine.left_seconds
                pause = began + HOLD_SECONDS - time.monotonic()
                await asyncio.sleep(max(min(pause, pause if left is None else left), 0.0))
                self._end_in_time()
            else:
                await asyncio.sleep(max(began + NEWS_SECONDS - time.monotonic(), 0.0))
        self._close()

    def _end_in_time(self) -> None:
        left = self.machine.left_seconds
        if left is not None and left <= 0:
            self.machine.end(0)

    def _report(self) -> bytes:
        machine = self.machine
        runs = machine.started_at is not None
        ran = time.monotonic() - machine.started_at if machine.started_at is not None else None
        self._sequence += 1
        report = DriverReport(
            version=1,
            node_uid=self._node_uid,
            session=1,
            sequence=self._sequence,
            phase=machine.phase,
            machine_contact_age_seconds=None if machine.phase is WorkloadPhase.WAITING else 1.0,
            measured=None if machine.phase is WorkloadPhase.WAITING else MEASURED,
            run_seconds=ran,
            progress=Progress(percent=min(ran / machine.run_seconds, 1.0) * 100) if ran else None,
            log=LogPosition() if runs else None,
            outcome=machine.outcome,
            taken=self._taken,
        )
        return json.dumps(report.wire()).encode()

    async def _exchange(self) -> str | None:
        """Reports, and returns the instruction; None = there is news before the answer."""
        if self._line is None:
            host, port = self._url.hostname, self._url.port
            self._line = await asyncio.open_connection(host, port, ssl=self._context)
        reader, writer = self._line
        body = self._report()
        writer.write(f"{self._head}{len(body)}\r\n\r\n".encode() + body)
        patience = ANSWER_SECONDS + (0.0 if self._taken is None else HOLD_SECONDS)
        left = self.machine.left_seconds
        try:
            async with asyncio.timeout(patience if left is None else min(patience, left + 0.01)):
                return await self._answer(reader)
        except TimeoutError:
            if left is None or left > patience:
                raise
            self._close()
            return None

    async def _answer(self, reader: asyncio.StreamReader) -> str:
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = next(
            int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"content-length:")
        )
        raw = await reader.readexactly(length)
        if b" 200 " not in head.partition(b"\r\n")[0]:
            raise NoAnswer(head.partition(b"\r\n")[0])
        self._taken = digest_of_answer(raw)
        return str(json.loads(raw)["instruction"])

    def _close(self) -> None:
        if self._line is not None:
            self._line[1].transport.abort()
            self._line = None


class Kubelet:
    """Starts and ends the drivers of all pods."""

    def __init__(
        self, session: aiohttp.ClientSession, seen: Path, go: Path, run_seconds: float
    ) -> None:
        self._session = session
        self._seen = seen.open("a", buffering=1)
        self._go = go
        self._run_seconds = run_seconds
        self._drivers: dict[str, asyncio.Task[None]] = {}
        self._slots = asyncio.Semaphore(AT_ONCE)

    async def run(self) -> None:
        """Watches pods, for ever."""
        while True:
            with suppress(aiohttp.ClientError, TimeoutError, OSError):
                async for kind, pod in self._events():
                    self._take(kind, pod)
            await asyncio.sleep(0.2)

    async def _events(self) -> AsyncIterator[tuple[str, Body]]:
        path, query = "/api/v1/pods", {"labelSelector": f"{LABEL_COMPONENT}=driver"}
        async with self._session.get(path, params=query) as answer:
            listed = await answer.json()
        for pod in listed["items"]:
            yield "ADDED", pod
        for uid in self._drivers.keys() - {pod["metadata"]["uid"] for pod in listed["items"]}:
            yield "DELETED", {"metadata": {"uid": uid}}
        query |= {"watch": "true", "resourceVersion": listed["metadata"]["resourceVersion"]}
        async with self._session.get(path, params=query) as answer:
            async for line in answer.content:
                event = json.loads(line)
                if event["type"] == "ERROR":
                    return
                yield event["type"], event["object"]

    def _take(self, kind: str, pod: Body) -> None:
        uid = pod["metadata"]["uid"]
        if kind == "DELETED" or "deletionTimestamp" in pod["metadata"]:
            if (driver := self._drivers.pop(uid, None)) is not None:
                driver.cancel()
        elif uid not in self._drivers:
            seen = {"job": pod["metadata"]["labels"][LABEL_JOB], "at": time.time()}
            self._seen.write(json.dumps(seen) + "\n")
            self._drivers[uid] = asyncio.create_task(self._live(pod))

    async def _live(self, pod: Body) -> None:
        """Runs the driver of a pod until it exits, and says so in its status."""
        while not self._go.exists():  # noqa: ASYNC110 - a file tells nobody
            await asyncio.sleep(0.5)
        meta = pod["metadata"]
        place = f"/api/v1/namespaces/{meta['namespace']}"
        given = {one["name"]: one.get("value", "") for one in pod["spec"]["containers"][0]["env"]}
        async with self._slots:
            bound = {"apiVersion": "v1", "kind": "Pod", "name": meta["name"], "uid": meta["uid"]}
            spec = {"audiences": [TRANSPORT_AUDIENCE], "boundObjectRef": bound}
            asked = {"spec": spec | {"expirationSeconds": TOKEN_SECONDS}}
            path = f"{place}/serviceaccounts/default/token"
            async with self._session.post(path, json=asked) as answer:
                token = (await answer.json())["status"]["token"]
            await self._say(place, meta["name"], {"phase": "Running"})
        self._seen.write(json.dumps({"started": meta["uid"]}) + "\n")
        driver = Driver(
            given["GPUJOB_NODE_UID"],
            given["GPUJOB_TRANSPORT_URL"],
            given["GPUJOB_TRANSPORT_AUTHORITIES"],
            token,
            self._run_seconds,
        )
        if RUNS in (meta.get("annotations") or {}):
            driver.machine.obey(Instruction.RUN)
        await driver.run()
        container = {
            "name": "driver",
            "image": pod["spec"]["containers"][0]["image"],
            "imageID": "",
            "ready": False,
            "restartCount": 0,
            "state": {"terminated": {"exitCode": 0}},
        }
        done = {"phase": "Succeeded", "containerStatuses": [container]}
        await self._say(place, meta["name"], done)

    async def _say(self, place: str, name: str, status: Body) -> None:
        headers = {"Content-Type": "application/merge-patch+json"}
        path = f"{place}/pods/{name}/status"
        body = json.dumps({"status": status})
        async with self._session.patch(path, data=body, headers=headers) as answer:
            await answer.read()


async def play(kubeconfig: Path, seen: Path, go: Path, run_seconds: float) -> None:
    """Plays until it is cancelled."""
    config = yaml.safe_load(kubeconfig.read_text())  # noqa: ASYNC240 - once, at the start
    user, cluster = config["users"][0]["user"], config["clusters"][0]["cluster"]
    authority = base64.b64decode(cluster["certificate-authority-data"]).decode()
    context = ssl.create_default_context(cadata=authority)
    with tempfile.NamedTemporaryFile() as pair:
        for part in ("certificate", "key"):
            pair.write(base64.b64decode(user[f"client-{part}-data"]) + b"\n")
        pair.flush()
        context.load_cert_chain(pair.name)
    lines = aiohttp.TCPConnector(ssl=context, limit=AT_ONCE + 8)
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=10)
    async with aiohttp.ClientSession(
        cluster["server"], connector=lines, timeout=timeout, read_bufsize=1 << 20
    ) as session:
        await Kubelet(session, seen, go, run_seconds).run()


def main() -> None:
    """Plays until it is ended."""
    parser = argparse.ArgumentParser(prog="loadbench.pods")
    parser.add_argument("--kubeconfig", type=Path, required=True)
    parser.add_argument("--seen", type=Path, required=True)
    parser.add_argument("--go", type=Path, required=True)
    parser.add_argument("--run-seconds", type=float, required=True)
    options = parser.parse_args()
    # Else each connection takes 256 KiB in this process.
    sslproto.SSLProtocol.max_size = TLS_BUFFER_BYTES
    asyncio.run(play(options.kubeconfig, options.seen, options.go, options.run_seconds))


if __name__ == "__main__":
    main()
