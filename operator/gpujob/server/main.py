"""Starts the server's listeners and keeps their data fresh, until the process is to stop.

Certificates come from the Secret that the controller keeps, and are replaced while connections are
open. Market data comes from the controller's notes.
"""

import asyncio
import signal
from pathlib import Path

import structlog
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from gpujob.adapters.clock import SystemClock
from gpujob.adapters.controller import ControllerClient
from gpujob.adapters.kube import KubeClient
from gpujob.adapters.log import configure_logging
from gpujob.adapters.market_notes import MarketReader
from gpujob.core.api_tokens import tokens_secret
from gpujob.server.admission import admission_app
from gpujob.server.http_api.app import api_app
from gpujob.server.http_api.callers import Callers
from gpujob.server.http_api.idempotency import MarkKeys
from gpujob.server.leadership import Leadership
from gpujob.server.settings import ServerSettings
from gpujob.server.tls import Tls
from gpujob.web.client_certificates import ClientCertificates
from gpujob.web.listener import HttpServer, http_server, listener_app

log = structlog.get_logger("gpujob.server")


def probes(tls: Tls) -> Starlette:
    """Returns the application that the kubelet calls."""

    async def healthz(_: Request) -> Response:
        return PlainTextResponse("ok")

    async def readyz(_: Request) -> Response:
        if tls.is_loaded:
            return PlainTextResponse("ok")
        words = "there is no certificate yet; the controller makes it, so see its log"
        return PlainTextResponse(words, 503)

    return listener_app(Route("/healthz", healthz), Route("/readyz", readyz))


def _admission_clients(settings: ServerSettings) -> ClientCertificates | None:
    """Returns who may call admission; None = whoever can connect."""
    if not settings.admission_client_ca:
        return None
    return ClientCertificates(
        SystemClock(),
        authorities=settings.admission_client_ca,
        names=frozenset(settings.admission_client_names.split(",")),
    )


async def run(settings: ServerSettings) -> int:
    """Serves until the process is to stop; returns its exit status."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    kube = await KubeClient.connect("gpujob-server", settings.served)
    tls = Tls(kube, settings)
    asking = http_server(probes(tls), settings.listen_host, settings.probes_port)
    market = MarketReader(kube, namespace=settings.namespace, name=settings.name)
    leadership = Leadership(kube, SystemClock(), namespace=settings.namespace, name=settings.name)
    app = admission_app(
        SystemClock(),
        lambda: market.notes,
        own_namespace=settings.namespace,
        own_account=settings.service_account,
        nobody_leads=lambda: leadership.is_missing,
    )
    admission = http_server(
        app,
        settings.listen_host,
        settings.admission_port,
        tls.of_admission,
        _admission_clients(settings),
    )

    async def serve(listener: HttpServer) -> None:
        await tls.load()
        await listener.serve()

    stopping = asyncio.create_task(stop.wait(), name="stop")
    listeners = [admission]
    tasks = [
        stopping,
        asyncio.create_task(asking.serve(), name="probes"),
        asyncio.create_task(serve(admission), name="admission"),
        asyncio.create_task(tls.follow(), name="certificates"),
        asyncio.create_task(market.follow(settings.look_seconds), name="market"),
        asyncio.create_task(leadership.follow(settings.look_seconds), name="leadership"),
    ]
    if settings.api_port:
        callers = Callers(
            kube,
            SystemClock(),
            settings.api_bootstrap_token,
            takes_cluster_tokens=settings.api_cluster_tokens,
        )
        mark_keys = MarkKeys(SystemClock())
        shows_cause = settings.api_mode == "development"
        if shows_cause:
            log.warning("development_mode", effect="error answers include the cause")
        routes = api_app(
            kube=kube,
            clock=SystemClock(),
            callers=callers,
            notes=lambda: market.notes,
            controller=ControllerClient(
                settings.transport_url,
                token_file=Path(settings.token_file),
                authorities_file=Path(settings.authorities_file),
            ),
            mark_keys=mark_keys,
            own_namespace=settings.namespace,
            nobody_leads=lambda: leadership.is_missing,
            shows_cause=shows_cause,
        )
        api = http_server(routes, settings.listen_host, settings.api_port, tls.of_api)
        listeners.append(api)
        following = callers.follow(
            settings.namespace, tokens_secret(settings.name), settings.look_seconds
        )
        tasks += [
            asyncio.create_task(serve(api), name="api"),
            asyncio.create_task(following, name="tokens"),
            asyncio.create_task(
                mark_keys.follow(kube, settings.namespace, settings.name, settings.look_seconds),
                name="mark_keys",
            ),
        ]
    log.info("server_started")
    ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    if stopping not in ended:
        (broken, *_) = ended
        problem = broken.exception() if not broken.cancelled() else None
        log.error("server_failed", task=broken.get_name(), problem=repr(problem))
    # Reviews in progress are still answered; streams are cut.
    for listener in (asking, *listeners):
        listener.should_exit = True
    serving = [task for task in tasks if task.get_name() in ("probes", "admission", "api")]
    await asyncio.wait(serving, timeout=5)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await kube.close()
    log.info("server_stopping")
    return 0 if stopping in ended else 1


def main() -> int:
    """Reads the settings, sets up the log, and runs; returns the exit status."""
    settings = ServerSettings.from_environment()
    configure_logging(settings.log_level, (settings.api_bootstrap_token,))
    return asyncio.run(run(settings))
