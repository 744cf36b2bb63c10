"""Starts the controller: probes in every replica, all other work in the one that leads.

A stop is like a crash: it may happen at any await. The one exception is a rent request in flight,
which is waited for.
"""

import asyncio
import gc
import resource
import signal
import uuid
from asyncio import sslproto
from dataclasses import replace

import structlog
from starlette.applications import Starlette

from gpujob.adapters.clock import SystemClock
from gpujob.adapters.kube import KubeClient
from gpujob.adapters.log import configure_logging
from gpujob.controller.heartbeat import Heartbeat
from gpujob.controller.identity import find_identity
from gpujob.controller.key_secret import KeySecret
from gpujob.controller.lead import Leader, first_ended
from gpujob.controller.lock_thread import LockThread
from gpujob.controller.probes import probes_app
from gpujob.controller.settings import Settings
from gpujob.web.listener import http_server

GARBAGE_THRESHOLDS = (700, 10, 100)
"""The last is ten times Python's: a search through all that is held stops everything for 0.1 s and
more, and is hardly ever needed, since nearly all memory is given back without it."""

TLS_BUFFER_BYTES = 16 << 10
"""asyncio keeps a buffer for each connection, of 256 KiB, and each driver has a connection. A TLS
record is about as long as this at most."""

log = structlog.get_logger("gpujob.controller")


async def run(settings: Settings) -> int:
    """Runs the controller until the process is to stop; returns its exit status."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    clock = SystemClock()
    stopping = asyncio.create_task(stop.wait(), name="stop")
    kube = await KubeClient.connect("gpujob-controller", settings.served)
    asking = asyncio.create_task(find_identity(kube, settings))
    if await first_ended([stopping, asking]) is stopping:
        return 0
    cluster_id = asking.result()
    settings = replace(settings, identity=cluster_id)
    log.info(
        "controller_started",
        cluster=cluster_id,
        provider=settings.provider_url,
        limits=vars(settings.limits),
    )
    heartbeat = Heartbeat(clock)
    beating = asyncio.create_task(heartbeat.run(), name="heartbeat")
    identity = f"{settings.pod_name}_{uuid.uuid4().hex}"
    lock = LockThread(clock, settings, identity=identity, is_stalled=lambda: heartbeat.is_stalled)
    await lock.start()
    key = KeySecret(kube, settings)
    # Now, and not once this replica leads: the Secret may be replaced while it waits.
    looking = asyncio.create_task(key.is_replaced())
    if await first_ended([stopping, looking]) is stopping:
        return 0
    leader = Leader(kube, clock, settings, cluster_id, lock, heartbeat, key)
    probes = http_server(_probes(kube, clock, leader), settings.listen_host, settings.probes_port)
    serving = asyncio.create_task(probes.serve(), name="probes")
    acquiring = asyncio.create_task(lock.acquire_alone(), name="lock")
    failure = await first_ended([acquiring, serving, stopping])
    if failure is acquiring and acquiring.exception() is None:
        failure = await leader.lead([serving, stopping])
        if failure is not stopping:
            await leader.guard_fuses(stop)
        await leader.close()
        await lock.release()
        leader.end_watch()
    elif failure is not acquiring:
        # The lock may have been acquired just now, so it is given back.
        acquiring.cancel()
        await asyncio.wait([acquiring])
        await lock.release()
    if failure is not stopping:
        problem = failure.exception() if not failure.cancelled() else None
        log.error("controller_failed", task=failure.get_name(), problem=repr(problem))
    log.info("controller_stopping")
    probes.should_exit = True
    await asyncio.wait([serving], timeout=5)
    beating.cancel()
    await lock.close()
    await kube.close()
    return 0 if failure is stopping else 1


def _probes(kube: KubeClient, clock: SystemClock, leader: Leader) -> Starlette:
    return probes_app(
        kube,
        clock,
        is_alive=lambda: leader.is_alive,
        leads=lambda: leader.leads,
        problem=lambda: leader.readiness.problem,
        figures=leader.figures,
    )


def make_room_for_drivers() -> None:
    """Lets as many drivers connect as the container's limit of open files allows, and keeps the
    memory of their connections small."""
    allowed, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    except (OSError, ValueError) as error:
        # Where a sandbox forbids it, there is room for hundreds of drivers all the same.
        log.warning("open_files_limited", limit=allowed, problem=str(error))
    sslproto.SSLProtocol.max_size = TLS_BUFFER_BYTES


def main() -> int:
    """Reads the settings, sets up the log, and runs; returns the exit status."""
    settings = Settings.from_environment()
    configure_logging(settings.log_level, (settings.vast_api_key, settings.provider_proxy_password))
    make_room_for_drivers()
    gc.set_threshold(*GARBAGE_THRESHOLDS)
    return asyncio.run(run(settings))
