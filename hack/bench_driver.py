"""Measures what one driver uses, and what many drivers use of the controller.

The driver is a real process, and its machine is one of the simulator, over real SSH. A server in
this process stands in for the controller. The driver is measured with a workload that prints
nothing, with one that prints the time, and with one that prints a lot.

The controller's side is the operator's own transport application and HTTP server in a separate
process. Only the API server is missing: `review_token` answers at once what a TokenReview would say
about a driver pod's token. The load is open: each driver reports at fixed times, and the latency of
a report counts from the time when it was due.
"""

import argparse
import asyncio
import base64
import json
import multiprocessing
import os
import ssl
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import asyncssh
from aiohttp import web
from kubernetes.aio import client
from pydantic import SecretBytes, SecretStr

from gpujob.adapters import pki
from gpujob.adapters.clock import SystemClock
from gpujob.adapters.door import Door
from gpujob.adapters.errors import ControllerUnavailable
from gpujob.adapters.kube import Body, KubeClient
from gpujob.adapters.transport import TransportClient
from gpujob.adapters.vast import VastClient
from gpujob.api.gpujob import GpuJob, GpuJobSpec
from gpujob.api.gpunode import (
    DriverStatus,
    GpuNode,
    GpuNodeSpec,
    GpuNodeStatus,
    JobReference,
    MachineStatus,
    RunStatus,
)
from gpujob.api.meta import TRANSPORT_AUDIENCE, ObjectMeta
from gpujob.api.transport import (
    ASSIGNMENT_BYTES_MAX,
    HOLD_SECONDS,
    SYNC_PATH,
    Assignment,
    DriverReport,
    Instruction,
    LogPosition,
    MachineAddress,
    Progress,
    Usage,
    Work,
    WorkloadPhase,
    read_message,
)
from gpujob.controller.driver_tokens import POD_NAME, POD_UID, DriverTokens
from gpujob.controller.holds import Holds
from gpujob.controller.transport import transport_app
from gpujob.core.certificates import Certificate
from gpujob.core.effects import Rent
from gpujob.core.limits import Limits
from gpujob.core.machine.start_script import host_key_in_log, start_script
from gpujob.core.market.search import search_of
from gpujob.core.observation import Heard
from gpujob.web.listener import http_server
from gpujob.web.tls import ShownCertificate
from gpujob.web.token_reviews import TokenReviews
from localcluster.control_plane import free_port
from localcluster.project_images import SMALL, machine_root

SYNC_SECONDS = HOLD_SECONDS
"""How often a driver reports that has no news."""
SETTLE_SECONDS = 5.0
"""Time after its start in which a driver is not measured."""
PATIENCE_SECONDS = 60.0
KEY = "bench"
NONCE = "ab" * 16
MIB = 2**20

SPEC = GpuJobSpec.model_validate(
    {
        "image": "python:3.11",
        "command": ["python3", "train.py"],
        "activeDeadlineSeconds": 3600,
        "gpu": {"models": ["RTX 4090"], "count": 1},
        "cost": {"ceiling": "2.50"},
    }
)
SILENT = ("sleep", "100000")
CLOCK = """
import time
while True:
    print(time.time(), flush=True)
    time.sleep(0.1)
"""
FLOOD = """
import os, sys, time
rate, seconds = float(sys.argv[1]) * 1e6, float(sys.argv[2])
lines = (b"x" * 99 + b"\\n") * 2000
written, began = 0, time.monotonic()
while (passed := time.monotonic() - began) < seconds:
    if written < passed * rate:
        written += os.write(1, lines)
    else:
        time.sleep(0.002)
"""

_TICKS = os.sysconf("SC_CLK_TCK")


# --- What a process takes ------------------------------------------------------------------------


def cpu_seconds(pid: int) -> float:
    """Returns the CPU seconds that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def memory(pid: int, name: str, file: str = "status") -> float:
    """Returns one figure of a process's memory in MiB."""
    for line in Path(f"/proc/{pid}/{file}").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) / 1024
    raise LookupError(f"no {name} in /proc/{pid}/{file}")


def new_folder(scratch: Path, name: str) -> Path:
    """Creates a folder for a process that the benchmark starts."""
    folder = scratch / name
    folder.mkdir()
    return folder


def said(folder: Path) -> str:
    """Returns what such a process printed."""
    return (folder / "err").read_text()


def session(pid: int) -> int:
    """Returns the SSH server's process for the only connection to a machine below a process."""
    tree, titles = [pid], {}
    for one in tree:
        # A process of the machine may have ended in between.
        with suppress(FileNotFoundError, ProcessLookupError):
            tree += map(int, Path(f"/proc/{one}/task/{one}/children").read_text().split())
            titles[one] = Path(f"/proc/{one}/cmdline").read_bytes()
    return max(one for one, title in titles.items() if title.startswith(b"sshd-session: root@"))


def proportional(pid: int) -> float | None:
    """Returns its share of memory (PSS) in MiB, None if that may not be read."""
    with suppress(OSError, LookupError):
        return memory(pid, "Pss", "smaps_rollup")
    return None


@dataclass(frozen=True)
class Taken:
    """What a process used during a measurement."""

    seconds: float
    millicores: float
    start_mib: float
    middle_mib: float
    end_mib: float
    peak_mib: float
    """Maximum over its whole life."""
    private_mib: float
    """Memory at the end that is not backed by a file. All drivers of one image share libraries."""
    pss_mib: float | None


async def watch(pid: int, seconds: float) -> Taken:
    """Measures a process for some seconds."""
    used, began = cpu_seconds(pid), time.monotonic()
    start = memory(pid, "VmRSS")
    await asyncio.sleep(seconds / 2)
    middle = memory(pid, "VmRSS")
    await asyncio.sleep(max(began + seconds - time.monotonic(), 0))
    took = time.monotonic() - began
    return Taken(
        seconds=took,
        millicores=(cpu_seconds(pid) - used) / took * 1000,
        start_mib=start,
        middle_mib=middle,
        end_mib=memory(pid, "VmRSS"),
        peak_mib=memory(pid, "VmHWM"),
        private_mib=memory(pid, "RssAnon"),
        pss_mib=proportional(pid),
    )


async def either(*awaited: Coroutine[Any, Any, Any]) -> None:
    """Waits until one of these is done, but not forever."""
    tasks = [asyncio.create_task(one) for one in awaited]
    await asyncio.wait(tasks, timeout=PATIENCE_SECONDS, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()


def at(values: list[float], share: float) -> float:
    """Returns the value that this share of them is not above."""
    return sorted(values)[min(int(len(values) * share), len(values) - 1)]


# --- One driver ----------------------------------------------------------------------------------


@asynccontextmanager
async def process(
    *arguments: str, folder: Path, **variables: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    """A Python program with an environment of its own; it ends with the context."""
    paths = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    environment = paths | {"HOME": "/nonexistent", "LANG": "C.UTF-8"}
    with (folder / "err").open("ab") as errors:
        started = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", *arguments),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
            env=environment | variables,
            cwd=folder,
        )
    try:
        yield started
    finally:
        with suppress(ProcessLookupError):
            started.terminate()
        try:
            # It may be waiting for somebody to read what it prints.
            await asyncio.wait_for(started.communicate(), 20)
        except TimeoutError:
            started.kill()
            await started.wait()


@dataclass(frozen=True)
class Rented:
    """A machine that has booted."""

    place: MachineAddress
    key_file: Path
    simulator: int
    """Process id of the simulator, from which all processes of the machine descend."""


@asynccontextmanager
async def rented_machine(folder: Path) -> AsyncIterator[Rented]:
    """A simulator and a machine that was rented there; both end with the context."""
    quick = ["--port", "0", "--seed", "1", "--boot-seconds", "0.3", "0.6", "--threshold-scale", "0"]
    quick += ["--root", str(machine_root())]
    variables = {"VASTSIM_API_KEY": KEY, "TMPDIR": str(folder)}
    async with process("vastsim", *quick, folder=folder, **variables) as simulator:
        assert simulator.stdout is not None, "asked for as a pipe"
        url = json.loads(await simulator.stdout.readline())["url"]
        key_file = folder / "key"
        private = asyncssh.generate_private_key("ssh-ed25519")
        key_file.touch(mode=0o600)
        private.write_private_key(str(key_file))
        vast = VastClient(url, SecretStr(KEY), SystemClock(), Door(SystemClock(), spacing=0))
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                place = await _rent(vast, url, private)
        finally:
            await vast.close()
        yield Rented(place, key_file, simulator.pid)


async def _rent(vast: VastClient, url: str, private: asyncssh.SSHKey) -> MachineAddress:
    """Rents a machine and waits until it has booted."""
    now = datetime.now(UTC)
    started = start_script(
        ssh_public_key=private.export_public_key("openssh").decode().strip(),
        nonce=NONCE,
        provider_url=url,
        born_before=now + timedelta(hours=1),
        money_deadline_seconds=100_000,
        heartbeat_stale_seconds=100_000,
        max_download_gb=1000,
        max_upload_gb=1000,
    )
    rent = Rent(
        offer_id=(await vast.search(search_of(SPEC))).offers[0].offer_id,
        image=SPEC.image,
        disk_gb=10,
        bid_usd_per_hour=None,
        needs_login=False,
        mark="bench/bench/bench",
        start_script=started.script,
        setup=started.setup,
        not_after=now + timedelta(seconds=5),
    )
    async with vast.rent_line() as line:
        number = await line.send(rent, 10)

    async def look() -> MachineAddress | None:
        host_key = host_key_in_log(await vast.read_log(number) or "", NONCE)
        (lease,) = (await vast.list_leases()).leases
        if host_key is None or lease.status != "running" or not lease.addresses:
            return None
        return MachineAddress(host="127.0.0.1", port=lease.addresses[0].port, host_key=host_key)

    while (machine := await look()) is None:  # noqa: ASYNC110 - the provider tells nobody
        await asyncio.sleep(0.1)
    return machine


def a_certificate() -> Certificate:
    """Makes one for the loopback."""
    return pki.make(frozenset({"127.0.0.1"}), now=datetime.now(UTC), life_seconds=86_400)


def listening(made: Certificate) -> ssl.SSLContext:
    """Returns the context of the controller's listener."""
    shown = ShownCertificate(ssl.TLSVersion.TLSv1_3)
    shown.show(made.chain.encode(), SecretBytes(made.key.get_secret_value().encode()))
    return shown.context


class Controller:
    """Tells one driver what to do."""

    def __init__(self) -> None:
        self._runner: web.AppRunner | None = None
        self.certificate = a_certificate()
        self.answer = Assignment(version=1, instruction=Instruction.WAIT)
        self.runs = asyncio.Event()
        """Set once the driver has reported that its workload runs."""
        self.log = LogPosition()
        """How much output it last reported as copied."""

    async def start(self) -> str:
        """Starts to answer, and returns the URL."""
        app = web.Application()
        app.router.add_post(SYNC_PATH, self._sync)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        tls = listening(self.certificate)
        await web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=tls).start()
        return f"https://127.0.0.1:{self._runner.addresses[0][1]}"

    async def stop(self) -> None:
        """Stops answering."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _sync(self, request: web.Request) -> web.Response:
        report = read_message(DriverReport, await request.read())
        if report.phase is WorkloadPhase.RUNNING:
            self.runs.set()
        self.log = report.log or self.log
        return web.json_response(self.answer.wire())


class Output:
    """The output of a driver."""

    def __init__(self, *, tells_time: bool) -> None:
        self._tells_time = tells_time
        self._rest = b""
        self.bytes = 0
        self.lags_ms: list[float] = []

    def begin(self) -> None:
        """Forgets all output so far."""
        self.bytes = 0
        self.lags_ms.clear()

    async def read(self, stream: asyncio.StreamReader) -> None:
        """Reads to the end."""
        while data := await stream.read(MIB):
            self.bytes += len(data)
            if self._tells_time:
                now = time.time()
                *lines, self._rest = (self._rest + data).split(b"\n")
                self.lags_ms += [(now - float(line)) * 1000 for line in lines]


@dataclass(frozen=True)
class Carried:
    """One workload's figures."""

    driver: Taken
    ssh_server: Taken
    megabytes_per_second: float
    lags_ms: list[float]
    behind_megabytes: float
    """Output that only the machine had at the end, by the driver's latest report."""
    breaks: int
    """How often the driver's connection broke and it reconnected."""


async def compiled_driver(scratch: Path) -> dict[str, str]:
    """Compiles what a driver imports, as in its image; returns the variables that use it.

    To compile takes memory that a process keeps.
    """
    variables = SMALL | {"PYTHONPYCACHEPREFIX": str(scratch / "bytecode")}
    # Without its settings, a driver ends as soon as it has imported all.
    async with process("gpujob", "driver", folder=scratch, **variables) as driver:
        await driver.wait()
    return variables


async def carry(
    machine: Rented,
    folder: Path,
    seconds: float,
    command: tuple[str, ...],
    output: Output,
    bytecode: dict[str, str],
) -> Carried:
    """Runs a workload with its own driver and measures the driver."""
    (folder / "token").write_text("token\n")
    controller = Controller()
    settings = bytecode | {
        "GPUJOB_TRANSPORT_URL": await controller.start(),
        "GPUJOB_TRANSPORT_AUTHORITIES": controller.certificate.authority,
        "GPUJOB_TOKEN_FILE": str(folder / "token"),
        "GPUJOB_SSH_KEY_FILE": str(machine.key_file),
        "GPUJOB_NODE_NAME": "bench",
        # Each has a run of its own on the machine.
        "GPUJOB_NODE_UID": folder.name,
        "GPUJOB_STATE_DIR": str(folder),
        "GPUJOB_TERMINATION_LOG": str(folder / "termination"),
    }
    controller.answer = Assignment(
        version=1,
        instruction=Instruction.RUN,
        machine=machine.place,
        work=Work(command=command),
    )
    try:
        async with process("gpujob", "driver", folder=folder, **settings) as driver:
            assert driver.stdout is not None, "asked for as a pipe"
            reading = asyncio.create_task(output.read(driver.stdout))
            try:
                await either(controller.runs.wait(), driver.wait())
                if not controller.runs.is_set():
                    raise RuntimeError(f"the driver is not running: {said(folder)[-500:]}")
                await asyncio.sleep(SETTLE_SECONDS)
                output.begin()
                taken, served = await asyncio.gather(
                    watch(driver.pid, seconds), watch(session(machine.simulator), seconds)
                )
                carried = output.bytes / 1e6 / taken.seconds
                behind = controller.log.behind / 1e6
            finally:
                reading.cancel()
                await asyncio.wait([reading])
    finally:
        await controller.stop()
    breaks = said(folder).count("gpujob: connected to") - 1
    return Carried(taken, served, carried, output.lags_ms, behind, breaks)


async def measure_driver(seconds: float, megabytes: float, scratch: Path) -> None:
    """Measures one driver with each workload and prints the table."""
    # It must continue until the driver's output has been measured.
    flood_seconds = seconds + SETTLE_SECONDS * 2
    workloads = {
        "silent": SILENT,
        "10 lines/s": ("python3", "-c", CLOCK),
        f"{megabytes:g} MB/s": ("python3", "-c", FLOOD, f"{megabytes}", f"{flood_seconds}"),
    }
    bytecode = await compiled_driver(scratch)
    print(f"one driver, {seconds:.0f} s each; memory in MiB: resident at start, middle, end")
    memories = ("start", "middle", "end", "peak", "private", "PSS")
    names = (*memories, "mcores", "MB/s", "breaks", "sshd mc")
    print(f"{'workload':<14}" + "".join(f"{name:>9}" for name in names))
    found: list[Carried] = []
    async with rented_machine(new_folder(scratch, "machines")) as machine:
        for number, (name, command) in enumerate(workloads.items()):
            output = Output(tells_time=command[-1] == CLOCK)
            folder = new_folder(scratch, f"driver-{number}")
            one = await carry(machine, folder, seconds, command, output, bytecode)
            found.append(one)
            took = one.driver
            pss = "-" if took.pss_mib is None else f"{took.pss_mib:.1f}"
            print(
                f"{name:<14}{took.start_mib:>9.1f}{took.middle_mib:>9.1f}{took.end_mib:>9.1f}"
                f"{took.peak_mib:>9.1f}{took.private_mib:>9.1f}{pss:>9}{took.millicores:>9.1f}"
                f"{one.megabytes_per_second:>9.1f}{one.breaks:>9}{one.ssh_server.millicores:>9.0f}",
                flush=True,
            )
    _, clock, flood = found
    lags = clock.lags_ms
    print(
        f"lag of {len(lags)} lines: median {at(lags, 0.5):.0f} ms, p99 {at(lags, 0.99):.0f} ms, "
        f"max {at(lags, 1):.0f} ms"
    )
    each = flood.driver.millicores / max(flood.megabytes_per_second, 0.001)
    print(
        f"1 MB/s of output takes {each:.1f} mcores of the driver; at the end it was "
        f"{flood.behind_megabytes:.0f} MB behind"
    )


# --- Many drivers --------------------------------------------------------------------------------


class Cluster(KubeClient):
    """An API server that knows each driver's token: the name of its node, and when it ends."""

    def __init__(self) -> None:
        super().__init__(client.ApiClient(client.Configuration()))

    async def review_token(self, token: SecretStr, audience: str | None = None) -> Body:
        name = token.get_secret_value().partition(".")[0]
        return {
            "authenticated": True,
            "audiences": [audience],
            "user": {
                "username": "system:serviceaccount:bench:default",
                "uid": "00000000-0000-4000-8000-000000000000",
                "groups": ["system:serviceaccounts", "system:authenticated"],
                "extra": {POD_NAME: [f"{name}-driver"], POD_UID: [f"pod-{name}"]},
            },
        }


def a_node(name: str, job: GpuJob) -> GpuNode:
    """Returns a node whose workload runs."""
    now = datetime.now(UTC)
    return GpuNode(
        metadata=metadata(name),
        spec=GpuNodeSpec(
            job_ref=JobReference(name=job.metadata.name, uid=job.metadata.uid),
            attempt=1,
            reserved_usd="1",
        ),
        status=GpuNodeStatus(
            driver=DriverStatus(pod_name=f"{name}-driver", pod_uid=f"pod-{name}", ready_at=now),
            machine=MachineStatus(host="192.0.2.1", port=22, host_key="ssh-ed25519 " + "A" * 68),
            run=RunStatus(started_at=now),
        ),
    )


def metadata(name: str) -> ObjectMeta:
    """Returns the metadata of an object."""
    return ObjectMeta(
        name=name,
        namespace="bench",
        uid=name,
        resource_version="1",
        creation_timestamp=datetime.now(UTC),
    )


def a_token(name: str) -> str:
    """Returns the token of a node's driver, good for an hour."""
    now = int(datetime.now(UTC).timestamp())
    claims = json.dumps({"aud": [TRANSPORT_AUDIENCE], "iat": now, "exp": now + 3600}).encode()
    return f"{name}.{base64.urlsafe_b64encode(claims).decode().rstrip('=')}.x"


def a_report(name: str, sequence: int) -> bytes:
    """Returns what the driver of a running workload reports."""
    report = DriverReport(
        version=1,
        node_uid=name,
        session=1,
        sequence=sequence,
        phase=WorkloadPhase.RUNNING,
        machine_contact_age_seconds=0.75,
        run_seconds=float(2 * sequence),
        progress=Progress(
            percent=12.5, step=sequence, remaining_seconds=900.0, metrics={"loss": 0.25}
        ),
        usage=Usage(gpu_percent=97.0, gpu_memory_mib=20_000, idle_seconds=0.0, idle_samples=0),
        log=LogPosition(stdout_carried=1000 * sequence, stdout_written=1000 * sequence + 50),
    )
    return json.dumps(report.wire()).encode()


def serve(port: int, drivers: int, made: Certificate, line: Connection) -> None:
    """Serves until it is told to stop."""

    async def run() -> None:
        job = GpuJob(metadata=metadata("job"), spec=SPEC)
        nodes = {name: a_node(name, job) for name in node_names(drivers)}
        heard: dict[str, Heard] = {}
        unasked: Any = None
        clock = SystemClock()
        reviews = TokenReviews(Cluster(), clock, believed_seconds=60, audience=TRANSPORT_AUDIENCE)
        app = transport_app(
            reviews=reviews,
            tokens=DriverTokens(reviews, clock, lambda *_: True),
            holds=Holds(),
            clock=clock,
            limits=Limits(),
            lookup=lambda uid: (nodes.get(uid), job),
            is_pod_of=lambda *_: False,
            heard=heard,
            on_news=lambda _: None,
            world=unasked,
            quotes=unasked,
            logins={},
            authorities=lambda: made.authority,
        )
        server = http_server(app, "127.0.0.1", port, listening(made))
        serving = asyncio.create_task(server.serve())
        while not server.started:  # noqa: ASYNC110 - it sets no event
            await asyncio.sleep(0.01)
        line.send(None)
        await asyncio.get_running_loop().run_in_executor(None, line.recv)
        server.should_exit = True
        await serving

    asyncio.run(run())


def node_names(drivers: int) -> list[str]:
    """Returns the names of the nodes; they are their uids and begin their drivers' tokens too."""
    return [f"node-{number:04}" for number in range(drivers)]


@dataclass
class Heartbeats:
    """The results of reports."""

    failures: int = 0
    latencies_ms: list[float] = field(default_factory=list)


async def heartbeat(url: str, authority: str, name: str, first: float, found: Heartbeats) -> None:
    """Reports like a driver, over one connection, from a given time until it is cancelled."""
    client, token = TransportClient(url, authority), a_token(name)
    sequence = 0
    try:
        while True:
            due = first + sequence * SYNC_SECONDS
            sequence += 1
            await asyncio.sleep(max(due - time.monotonic(), 0))
            report = a_report(name, sequence)
            try:
                answer = await client.post(
                    SYNC_PATH, report, token=token, bytes_max=ASSIGNMENT_BYTES_MAX
                )
                read_message(Assignment, answer)
                well = True
            except (ControllerUnavailable, ValueError):
                well = False
            found.failures += not well
            found.latencies_ms.append((time.monotonic() - due) * 1000)
    finally:
        client.close()


async def measure_controller(
    seconds: float, drivers: int, pid: int, port: int, authority: str
) -> None:
    """Lets the drivers report, and prints the table."""
    print(
        f"the controller's transport, {drivers} drivers, one report every {SYNC_SECONDS:g} s for "
        f"{seconds:.0f} s; memory in MiB"
    )
    before = memory(pid, "VmRSS")
    began = time.monotonic()
    found = Heartbeats()
    beating = [
        asyncio.create_task(
            heartbeat(
                f"https://127.0.0.1:{port}",
                authority,
                name,
                began + SYNC_SECONDS * number / drivers,
                found,
            )
        )
        for number, name in enumerate(node_names(drivers))
    ]
    try:
        await asyncio.sleep(SETTLE_SECONDS)
        found.failures = 0
        found.latencies_ms.clear()
        taken = await watch(pid, seconds)
    finally:
        for one in beating:
            one.cancel()
        await asyncio.wait(beating)
    names = ("reports", "failed", "p50 ms", "p99 ms", "max ms", "mcores", "before", "start")
    print("".join(f"{name:>9}" for name in (*names, "middle", "end")))
    latencies = found.latencies_ms
    print(
        f"{len(latencies):>9}{found.failures:>9}{at(latencies, 0.5):>9.2f}"
        f"{at(latencies, 0.99):>9.2f}{at(latencies, 1):>9.1f}{taken.millicores:>9.1f}"
        f"{before:>9.1f}{taken.start_mib:>9.1f}{taken.middle_mib:>9.1f}{taken.end_mib:>9.1f}"
    )
    print(f"100 drivers use {taken.millicores / drivers * 100:.0f} mcores of the controller")


def main() -> int:
    """Measures one driver, and then the controller."""
    parser = argparse.ArgumentParser(prog="hack/bench driver", description=__doc__)
    parser.add_argument(
        "--megabytes", type=float, default=50, help="output per second, in megabytes (1e6 bytes)"
    )
    parser.add_argument(
        "--drivers", type=int, default=100, help="number of drivers that report to the controller"
    )
    parser.add_argument("--seconds", type=float, default=60, help="duration of each measurement")
    given: Any = parser.parse_args()
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory(prefix="gpujob-bench-") as scratch:
        asyncio.run(measure_driver(given.seconds, given.megabytes, Path(scratch)))
    port, made = free_port(), a_certificate()
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    server = context.Process(target=serve, args=(port, given.drivers, made, theirs))
    server.start()
    ours.recv()
    try:
        assert server.pid is not None, "it was started"
        asyncio.run(
            measure_controller(given.seconds, given.drivers, server.pid, port, made.authority)
        )
    finally:
        ours.send("end")
        server.join(10)
    print(f"load {os.getloadavg()[0]:.1f} at the end")
    return 0


if __name__ == "__main__":
    sys.exit(main())
