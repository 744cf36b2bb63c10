"""The HTTP server behind every listener: uvicorn, without signal handlers and with time limits."""

import asyncio
import ssl
from collections.abc import Iterator
from contextlib import contextmanager

import h11
import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.routing import Route
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from gpujob.web.bodies import HeldBodies
from gpujob.web.problems import LastResort, on_http_exception

HEAD_BYTES_MAX = 16 << 10
HEAD_SECONDS = 10.0
"""How long the head of a request may take, counted from the connection or from its first byte."""


def listener_app(*routes: Route) -> Starlette:
    """Returns the application of a listener that only programs call.

    A route may raise Problem, and ClusterError if the cluster cannot be asked. Those and all other
    exceptions are answered with problem details.
    """
    app = Starlette(
        routes=routes,
        middleware=[Middleware(LastResort), Middleware(HeldBodies)],
        exception_handlers={HTTPException: on_http_exception},
    )
    # Starlette would redirect a path with a trailing slash. Here it is a different path: a 404.
    app.router.redirect_slashes = False
    return app


class _Connection(H11Protocol):
    """Closes a connection on which the head of a request does not arrive in time.

    uvicorn itself waits forever, see https://github.com/Kludex/uvicorn/issues/157.
    """

    _patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait_for_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def _wait_for_head(self) -> None:
        if self.conn.their_state is not h11.IDLE:
            self._stop_waiting()
        elif self._patience is None:
            self._patience = self.loop.call_later(HEAD_SECONDS, self.transport.abort)

    def _stop_waiting(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None


class HttpServer(uvicorn.Server):
    """A server without signal handlers, because one process may run several servers."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def http_server(
    app: ASGIApp, host: str, port: int, tls: ssl.SSLContext | None = None
) -> HttpServer:
    """Returns a server of an application, which serves over TLS if there is a context.

    The certificate in the context may be replaced while it is in use.
    """
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        http=_Connection,
        h11_max_incomplete_event_size=HEAD_BYTES_MAX,
        log_config=None,
        access_log=False,
        server_header=False,
        # Else whoever connects from this pod could say in a header that he is somebody else.
        proxy_headers=False,
    )
    if tls is not None:
        # uvicorn accepts certificates only as files, see
        # https://github.com/Kludex/uvicorn/issues/806. So its context is replaced after loading.
        config.load()
        config.ssl = tls
    return HttpServer(config)
