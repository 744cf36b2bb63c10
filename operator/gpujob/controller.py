"""The controller: wires watch, queue, reconcile, market and sweep together, and runs them."""

import asyncio
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import structlog
import uvicorn
from fastapi import FastAPI
from fastapi.responses import PlainTextResponse
from pydantic import ValidationError

from gpujob.adapters import log as logging
from gpujob.adapters.clock import SystemClock
from gpujob.adapters.errors import AdapterError, ClusterError, Conflict
from gpujob.adapters.kube import KubeClient
from gpujob.adapters.vast import VastClient
from gpujob.api.gpujob import GpuJob
from gpujob.api.gpunode import GpuNode
from gpujob.api.meta import LABEL_NODE
from gpujob.config import Settings
from gpujob.core.observation import Heard
from gpujob.market_watch import MarketWatch
from gpujob.reconcile import Reconciler
from gpujob.sweep import Sweep
from gpujob.transport import transport_app
from gpujob.watch import Watcher
from gpujob.workqueue import Key, WorkQueue

RESYNC_SECONDS = 60.0
DRAIN_SECONDS = 35.0
"""A rent request in flight may take this long; it is waited for at the end."""

log = structlog.get_logger("gpujob.controller")


@dataclass
class Cache:
    """The latest watched objects: for drivers' questions and for who concerns whom."""

    nodes: dict[str, GpuNode] = field(default_factory=dict)
    """By uid."""
    jobs: dict[str, GpuJob] = field(default_factory=dict)
    """By uid."""

    def lookup(self, node_uid: str) -> tuple[GpuNode | None, GpuJob | None]:
        """Returns a node and its job."""
        node = self.nodes.get(node_uid)
        return node, self.jobs.get(node.spec.job_ref.uid) if node else None

    def take_in(self, kind: str, body: dict[str, Any], gone: bool) -> Iterator[Key]:
        """Stores an event and yields the keys that it concerns."""
        meta = body["metadata"]
        namespace, name, uid = meta["namespace"], meta["name"], meta["uid"]
        if kind == "Pod":
            if node_name := meta.get("labels", {}).get(LABEL_NODE):
                yield Key("GpuNode", namespace, node_name)
            return
        yield Key(kind, namespace, name)
        try:
            if kind == "GpuJob":
                job = GpuJob.model_validate(body)
                self.jobs[uid] = job
                if job.status.node_name:
                    yield Key("GpuNode", namespace, job.status.node_name)
            else:
                node = GpuNode.model_validate(body)
                self.nodes[uid] = node
                yield Key("GpuJob", namespace, node.spec.job_ref.name)
        except ValidationError:
            # The pass over the object says so on the object itself.
            pass
        if gone:
            self.jobs.pop(uid, None)
            self.nodes.pop(uid, None)


class _Server(uvicorn.Server):
    """A server that leaves the signals to the controller."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def run(settings: Settings) -> int:
    """Runs the controller until it is told to stop; returns the process's exit status."""
    clock = SystemClock()
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    kube = await KubeClient.connect()
    cluster_id = await _cluster_id(kube, stop)
    if cluster_id is None:
        return 0
    log.info(
        "controller_started",
        cluster=cluster_id,
        provider=settings.provider_url,
        limits=vars(settings.limits),
    )
    vast = VastClient(settings.provider_url, settings.vast_api_key, clock)
    queue: WorkQueue = WorkQueue()
    cache = Cache()
    heard: dict[str, Heard] = {}

    def on_listing() -> None:
        for node in cache.nodes.values():
            if node.status.released_at is None:
                queue.add(Key("GpuNode", node.metadata.namespace, node.metadata.name))

    market = MarketWatch(vast, clock, settings.limits, on_listing)
    reconciler = Reconciler(
        kube=kube,
        vast=vast,
        market=market,
        clock=clock,
        settings=settings,
        cluster_id=cluster_id,
        queue=queue,
        heard=heard,
    )

    def on_event(kind: str, body: dict[str, Any], gone: bool) -> None:
        def take_in() -> None:
            for key in cache.take_in(kind, body, gone):
                queue.add(key)
            if gone:
                heard.pop(body["metadata"]["uid"], None)

        loop.call_soon_threadsafe(take_in)

    watcher = Watcher(on_event)
    sweep = Sweep(settings, clock, cluster_id)
    transport = _server(
        transport_app(kube=kube, clock=clock, lookup=cache.lookup, heard=heard, on_news=queue.add),
        settings.listen_host,
        settings.transport_port,
    )
    probes = _server(_probes(watcher, sweep, market), settings.listen_host, settings.probes_port)
    servers = [asyncio.create_task(server.serve()) for server in (transport, probes)]
    watcher.start()
    sweep.start()
    workers = [
        asyncio.create_task(_work(queue, reconciler), name=f"worker-{number}")
        for number in range(settings.workers)
    ]
    others = [
        asyncio.create_task(market.run(), name="market"),
        asyncio.create_task(_resync(kube, queue), name="resync"),
        asyncio.create_task(_mind(watcher, sweep), name="mind"),
    ]
    stopping = asyncio.create_task(stop.wait(), name="stop")
    ended, _ = await asyncio.wait(
        [*workers, *others, *servers, stopping], return_when=asyncio.FIRST_COMPLETED
    )
    failure = next((task for task in ended if task is not stopping), None)
    if failure is not None:
        problem = failure.exception() if not failure.cancelled() else None
        log.error("controller_broke", task=failure.get_name(), problem=repr(problem))
    log.info("controller_stops")
    for task in others:
        task.cancel()
    # A pass in flight is finished: it may be waiting for the answer to a rent request.
    queue.close()
    await asyncio.wait(workers, timeout=DRAIN_SECONDS)
    watcher.stop()
    for server in (transport, probes):
        server.should_exit = True
    await asyncio.wait(servers, timeout=5)
    await vast.close()
    await kube.close()
    return 0 if failure is None else 1


async def _cluster_id(kube: KubeClient, stop: asyncio.Event) -> str | None:
    """Returns the uid of `kube-system`; waits for the API server as long as it takes."""
    while not stop.is_set():
        try:
            namespace = await kube.get("Namespace", "", "kube-system")
        except ClusterError as error:
            log.warning("cluster_awaited", problem=str(error))
            try:
                await asyncio.wait_for(stop.wait(), 2)
            except TimeoutError:
                continue
        else:
            return str(namespace["metadata"]["uid"])
    return None


async def _work(queue: WorkQueue, reconciler: Reconciler) -> None:
    while (key := await queue.take()) is not None:
        failed = True
        try:
            await reconciler.reconcile(key)
            failed = False
        except Conflict as error:
            # Somebody else wrote: start over from what is stored now.
            log.debug("conflict", kind=key.kind, name=key.name, problem=str(error))
        except AdapterError as error:
            log.warning("pass_failed", kind=key.kind, name=key.name, problem=str(error))
        except Exception:
            # Our own mistake must not stop the passes over all other objects.
            log.exception("pass_broke", kind=key.kind, namespace=key.namespace, name=key.name)
        finally:
            queue.done(key, failed=failed)


async def _resync(kube: KubeClient, queue: WorkQueue) -> None:
    """Asks for a pass over everything now and then: no decision hangs on a single event."""
    while True:
        await asyncio.sleep(RESYNC_SECONDS)
        try:
            for kind in ("GpuJob", "GpuNode"):
                for body in await kube.list_all(kind):
                    meta = body["metadata"]
                    queue.add(Key(kind, meta["namespace"], meta["name"]))
        except AdapterError as error:
            log.warning("resync_failed", problem=str(error))


async def _mind(watcher: Watcher, sweep: Sweep) -> None:
    """Ends when a thread has died: the process must then end, and be started anew."""
    while watcher.is_alive and sweep.is_alive:  # noqa: ASYNC110 - threads set no event of ours
        await asyncio.sleep(1)
    raise RuntimeError(watcher.problem or "the sweep ended")


def _probes(watcher: Watcher, sweep: Sweep, market: MarketWatch) -> FastAPI:
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)

    @app.get("/healthz")
    async def healthz() -> PlainTextResponse:
        alive = watcher.is_alive and sweep.is_alive
        return PlainTextResponse("ok" if alive else "a thread has ended", 200 if alive else 500)

    @app.get("/readyz")
    async def readyz() -> PlainTextResponse:
        problem = market.problem
        if problem is None:
            return PlainTextResponse("ok")
        return PlainTextResponse(f"{problem.reason}: {problem.message}", 503)

    return app


def _server(app: FastAPI, host: str, port: int) -> _Server:
    return _Server(
        uvicorn.Config(
            app, host=host, port=port, log_config=None, access_log=False, server_header=False
        )
    )


def main() -> int:
    """Reads the settings, sets up the log, and runs; returns the exit status."""
    settings = Settings.from_environment()
    logging.configure(settings.log_level, (settings.vast_api_key,))
    return asyncio.run(run(settings))
