"""The server: answers the API server's reviews of GpuJobs, and the HTTP API, if it is wanted.

Stateless, any number of replicas.

It holds no account token and asks no provider: what a job would cost, the controller tells it. Its
certificates come from the Secret that the controller keeps; another one is taken up while it
serves.
"""

import asyncio
import base64
import signal
import ssl
import tempfile
from pathlib import Path

import structlog
from fastapi import FastAPI
from fastapi.responses import PlainTextResponse
from pydantic import SecretBytes

from gpujob.adapters import log as logging
from gpujob.adapters.clock import SystemClock
from gpujob.adapters.controller import ControllerClient
from gpujob.adapters.errors import ClusterError
from gpujob.adapters.kube import Body, KubeClient
from gpujob.config import ServerSettings
from gpujob.controller.certificates import secret_name
from gpujob.controller.market_book import MarketReader
from gpujob.core.api_tokens import tokens_secret
from gpujob.server.admission import admission_app
from gpujob.server.http_api.app import api_app
from gpujob.server.http_api.callers import Callers
from gpujob.web.listener import HttpServer, http_server, listener_app

log = structlog.get_logger("gpujob.server")


class Tls:
    """What new connections are shown: the certificate that the Secret holds."""

    def __init__(self, kube: KubeClient, settings: ServerSettings) -> None:
        self._kube = kube
        self._settings = settings
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self._shown: tuple[bytes, SecretBytes] | None = None

    @property
    def is_loaded(self) -> bool:
        """Whether there is a certificate to show."""
        return self._shown is not None

    async def load(self) -> None:
        """Waits until there is a certificate."""
        await self._look()
        while not self.is_loaded:
            await asyncio.sleep(1)
            await self._look()

    async def follow(self) -> None:
        """Takes up other certificates for ever."""
        while True:
            await asyncio.sleep(self._settings.look_seconds)
            await self._look()

    async def _look(self) -> None:
        namespace, name = self._settings.namespace, secret_name(self._settings.name)
        try:
            stored = await self._kube.find("Secret", namespace, name)
        except ClusterError as error:
            log.warning("certificate_unseen", problem=str(error))
            return
        if stored is None:
            if not self.is_loaded:
                log.info("certificate_awaited", secret=f"{namespace}/{name}")
            return
        try:
            self._show(stored)
        except (KeyError, ValueError, ssl.SSLError) as error:
            # What is shown by now stays good for longer than a mistake takes to be seen.
            log.error("certificate_unusable", secret=f"{namespace}/{name}", problem=repr(error))

    def _show(self, stored: Body) -> None:
        data = stored["data"]
        chain, key = (base64.b64decode(data[name]) for name in ("tls.crt", "tls.key"))
        if (shown := (chain, SecretBytes(key))) == self._shown:
            return
        with tempfile.TemporaryDirectory() as folder:
            # Python's TLS reads files only; nobody else can read this folder.
            chain_file, key_file = Path(folder) / "tls.crt", Path(folder) / "tls.key"
            chain_file.write_bytes(chain)
            key_file.write_bytes(key)
            # A pair that does not match would leave the context with neither.
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(chain_file, key_file)
            self.context.load_cert_chain(chain_file, key_file)
        self._shown = shown
        log.info("certificate_shown")


def probes(tls: Tls) -> FastAPI:
    """Returns the application that the kubelet asks."""
    app = listener_app()

    @app.get("/healthz")
    async def healthz() -> PlainTextResponse:
        return PlainTextResponse("ok")

    @app.get("/readyz")
    async def readyz() -> PlainTextResponse:
        if tls.is_loaded:
            return PlainTextResponse("ok")
        return PlainTextResponse("no certificate yet: the controller makes it", 503)

    return app


async def run(settings: ServerSettings) -> int:
    """Serves until it is told to stop; returns the process's exit status."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    kube = await KubeClient.connect()
    tls = Tls(kube, settings)
    asking = http_server(probes(tls), settings.listen_host, settings.probes_port)
    market = MarketReader(kube, namespace=settings.namespace, name=settings.name)
    app = admission_app(SystemClock(), lambda: market.notes)
    admission = http_server(app, settings.listen_host, settings.admission_port, tls.context)

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
    ]
    if settings.api_port:
        callers = Callers(kube, SystemClock(), settings.api_bootstrap_token)
        shows_cause = settings.api_mode == "development"
        if shows_cause:
            log.warning("development_mode", means="callers are told why a request failed")
        routes = api_app(
            kube=kube,
            clock=SystemClock(),
            callers=callers,
            notes=lambda: market.notes,
            controller=ControllerClient(settings.transport_url, Path(settings.token_file)),
            shows_cause=shows_cause,
        )
        api = http_server(routes, settings.listen_host, settings.api_port, tls.context)
        listeners.append(api)
        following = callers.follow(
            settings.namespace, tokens_secret(settings.name), settings.look_seconds
        )
        tasks += [
            asyncio.create_task(serve(api), name="api"),
            asyncio.create_task(following, name="tokens"),
        ]
    log.info("server_started")
    ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    if stopping not in ended:
        (broken, *_) = ended
        problem = broken.exception() if not broken.cancelled() else None
        log.error("server_broke", task=broken.get_name(), problem=repr(problem))
    # Reviews under way are answered; streams are cut.
    for listener in (asking, *listeners):
        listener.should_exit = True
    serving = [task for task in tasks if task.get_name() in ("probes", "admission", "api")]
    await asyncio.wait(serving, timeout=5)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await kube.close()
    log.info("server_stops")
    return 0 if stopping in ended else 1


def main() -> int:
    """Reads the settings, sets up the log, and runs; returns the exit status."""
    settings = ServerSettings.from_environment()
    logging.configure(settings.log_level, (settings.api_bootstrap_token,))
    return asyncio.run(run(settings))
