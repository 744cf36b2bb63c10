"""Measures admission reviews at a fixed rate over loopback TLS, and a route that does nothing.

The server is the operator's own code in a separate process. It has no kubeconfig, so its
certificate is created here. The load is open: each request is due at a fixed time, whether or not
the earlier ones were answered, and its latency counts from that time.
"""

import argparse
import asyncio
import json
import multiprocessing
import resource
import ssl
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import aiohttp
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from gpujob.adapters import pki
from gpujob.adapters.clock import SystemClock
from gpujob.server.admission import PATH, admission_app
from gpujob.web.listener import http_server
from localcluster.control_plane import free_port

NAME = "gpujob-server.gpujob-system.svc"
NOTHING = "/nothing"
SPEC = {
    "image": "pytorch/pytorch:2.4.0-cuda12.4-cudnn9-runtime",
    "command": ["python3", "train.py"],
    "args": ["--epochs", "10"],
    "env": [{"name": f"SETTING_{number}", "value": "x" * 40} for number in range(20)],
    "activeDeadlineSeconds": 3600,
    "gpu": {"models": ["RTX 4090", "RTX 3090"], "count": 1},
    "cost": {"ceiling": "2.50"},
}
REVIEW = json.dumps(
    {
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {
            "uid": "0",
            "kind": {"group": "gpujob.dev", "version": "v1alpha1", "kind": "GpuJob"},
            "operation": "CREATE",
            "object": {"metadata": {"name": "train", "namespace": "team"}, "spec": SPEC},
        },
    }
).encode()


def serve(port: int, folder: Path, line: Connection) -> None:
    """Serves until it is told to stop; on request, it sends the CPU seconds that it has used."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "tls.crt", folder / "tls.key")
    app = admission_app(SystemClock(), own_namespace="x")

    async def nothing(_: Request) -> PlainTextResponse:
        return PlainTextResponse("")

    app.routes.append(Route(NOTHING, nothing, methods=["POST"]))

    async def run() -> None:
        server = http_server(app, "127.0.0.1", port, context)
        serving = asyncio.create_task(server.serve())
        while not server.started:  # noqa: ASYNC110 - it sets no event
            await asyncio.sleep(0.01)
        line.send(None)
        loop = asyncio.get_running_loop()
        while (await loop.run_in_executor(None, line.recv)) != "end":
            used = resource.getrusage(resource.RUSAGE_SELF)
            line.send(used.ru_utime + used.ru_stime)
        server.should_exit = True
        await serving

    asyncio.run(run())


@dataclass(frozen=True)
class Figures:
    """The result of one load."""

    path: str
    answers: int
    failures: int
    p50_ms: float
    p99_ms: float
    worst_ms: float
    cores: float


async def load(
    session: aiohttp.ClientSession,
    url: str,
    path: str,
    rate: float,
    seconds: float,
    line: Connection,
) -> Figures:
    """Sends a load and measures it."""
    latencies: list[float] = []
    failures = 0
    headers = {"Content-Type": "application/json"}

    async def ask(due: float) -> None:
        nonlocal failures
        try:
            async with session.post(url + path, data=REVIEW, headers=headers) as answer:
                body = await answer.read()
                well = answer.status == 200 and (path == NOTHING or b'"allowed":true' in body)
        except aiohttp.ClientError:
            well = False
        failures += not well
        latencies.append(time.monotonic() - due)

    await asyncio.gather(*(ask(time.monotonic()) for _ in range(50)))
    latencies.clear()
    line.send("used")
    before, began = line.recv(), time.monotonic()
    asked = []
    for number in range(int(rate * seconds)):
        due = began + number / rate
        if (wait := due - time.monotonic()) > 0:
            await asyncio.sleep(wait)
        asked.append(asyncio.create_task(ask(due)))
    await asyncio.gather(*asked)
    took = time.monotonic() - began
    line.send("used")
    cores = (line.recv() - before) / took
    latencies.sort()

    def at(share: float) -> float:
        return latencies[min(int(len(latencies) * share), len(latencies) - 1)] * 1000

    return Figures(path, len(latencies), failures, at(0.5), at(0.99), at(1), cores)


async def measure(rate: float, seconds: float, port: int, authority: str, line: Connection) -> None:
    """Measures both routes, one after the other, and prints the table."""
    context = ssl.create_default_context(cadata=authority)
    connector = aiohttp.TCPConnector(ssl=context, limit=64)
    print(f"{rate:.0f} requests/s for {seconds:.0f} s, {len(REVIEW)} bytes each, one replica, TLS")
    names = ("answers", "failed", "p50 ms", "p99 ms", "worst", "cores")
    print(f"{'route':<20}" + "".join(f"{name:>9}" for name in names))
    rows: list[Figures] = []
    async with aiohttp.ClientSession(connector=connector) as session:
        for path in (NOTHING, PATH):
            url = f"https://localhost:{port}"
            found = await load(session, url, path, rate, seconds, line)
            rows.append(found)
            print(
                f"{found.path:<20}{found.answers:>9}{found.failures:>9}{found.p50_ms:>9.2f}"
                f"{found.p99_ms:>9.2f}{found.worst_ms:>9.1f}{found.cores:>9.2f}",
                flush=True,
            )
    nothing, review = rows
    print(f"a review takes {review.cores / nothing.cores:.2f} times the CPU of an empty request")


def main() -> int:
    """Starts the server, puts load on it, and prints the figures."""
    parser = argparse.ArgumentParser(prog="hack/bench admission", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="duration of each measurement")
    parser.add_argument("--rate", type=float, default=200, help="requests per second")
    given: Any = parser.parse_args()
    port = free_port()
    names = frozenset({NAME, "localhost"})
    made = pki.make(names, now=datetime.now(UTC), life_seconds=86_400)
    with tempfile.TemporaryDirectory(prefix="gpujob-bench-") as scratch:
        folder = Path(scratch)
        (folder / "tls.crt").write_text(made.chain)
        (folder / "tls.key").write_text(made.key.get_secret_value())
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        server = context.Process(target=serve, args=(port, folder, theirs))
        server.start()
        ours.recv()
        try:
            asyncio.run(measure(given.rate, given.seconds, port, made.authority, ours))
        finally:
            ours.send("end")
            server.join(10)
    return 0


if __name__ == "__main__":
    sys.exit(main())
