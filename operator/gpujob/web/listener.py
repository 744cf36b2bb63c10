"""The HTTP server that all our listeners are: uvicorn, in a process that keeps its signals."""

import asyncio
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import h11
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from uvicorn.protocols.http.h11_impl import H11Protocol

from gpujob.adapters.errors import ClusterError
from gpujob.web.problems import LastResort, Refused, answer, recorded

HEAD_BYTES_MAX = 16 << 10
HEAD_SECONDS = 10.0
"""Within which a request's head must have come, from when the line or its first byte is there."""


def listener_app() -> FastAPI:
    """Returns an application for machines to ask, without routes, that tells nothing of itself.

    A route may raise Refused, and ClusterError if the cluster can not be asked. Why the latter,
    and what nobody thought of, is in the log under the answer's id.
    """
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    app.add_middleware(LastResort)

    @app.exception_handler(Refused)
    async def on_refused(_: Request, refused: Refused) -> JSONResponse:
        return answer(refused.status, str(refused))

    @app.exception_handler(ClusterError)
    async def on_cluster_error(_: Request, error: ClusterError) -> JSONResponse:
        return answer(503, "the cluster can not be asked now; try again", recorded(error))

    return app


class _Connection(H11Protocol):
    """Ends when the head of a request does not come; the library would wait for ever."""

    _patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait_for_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._wait_no_more()
        super().connection_lost(exc)

    def _wait_for_head(self) -> None:
        if self.conn.their_state is not h11.IDLE:
            self._wait_no_more()
        elif self._patience is None:
            self._patience = self.loop.call_later(HEAD_SECONDS, self.transport.abort)

    def _wait_no_more(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None


class HttpServer(uvicorn.Server):
    """A server that leaves the signals to its process."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def http_server(app: Any, host: str, port: int, tls: ssl.SSLContext | None = None) -> HttpServer:
    """Returns a server of an ASGI application, over TLS if there is a context for it."""
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        http=_Connection,
        h11_max_incomplete_event_size=HEAD_BYTES_MAX,
        log_config=None,
        access_log=False,
        server_header=False,
    )
    if tls is not None:
        config.load()
        # Ours may be given another certificate while it is in use.
        config.ssl = tls
    return HttpServer(config)
