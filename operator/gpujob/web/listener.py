"""The HTTP server behind every listener: uvicorn, without signal handlers and with time limits."""

import asyncio
import ssl
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import h11
import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.routing import Route
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from gpujob.web.bodies import HeldBodies
from gpujob.web.client_certificates import ClientCertificates
from gpujob.web.lingering import LingeringClose
from gpujob.web.problems import LastResort, on_http_exception

HEAD_BYTES_MAX = 16 << 10
HANDSHAKE_SECONDS = 10.0
"""How long a client may take until TLS is spoken."""
HEAD_SECONDS = 10.0
"""How long the head of a request may take, counted from the connection or from its first byte."""
NEWCOMERS_MAX = 1024
"""Connections of a listener on which no request has come yet. Each takes some 50 KiB."""


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


class _Newcomers:
    """The connections of a listener on which no request has come yet.

    Whoever can reach it can open them: of an address that has most, the oldest gives way to others.
    """

    def __init__(self) -> None:
        self._addresses: dict[asyncio.Transport, str] = {}
        """The oldest comes first."""

    def enter(self, transport: asyncio.Transport) -> None:
        """Takes a connection in, or closes it at once."""
        address = _address(transport)
        if len(self._addresses) >= NEWCOMERS_MAX:
            counts = Counter(self._addresses.values())
            ((other, most),) = counts.most_common(1)
            if counts[address] + 1 >= most:
                transport.abort()
                return
            oldest = next(one for one, whose in self._addresses.items() if whose == other)
            del self._addresses[oldest]
            oldest.abort()
        self._addresses[transport] = address

    def leave(self, transport: asyncio.Transport) -> None:
        """Lets a connection be: a request has come, or it is closed."""
        self._addresses.pop(transport, None)


def _address(transport: asyncio.Transport) -> str:
    return str((transport.get_extra_info("peername") or ("",))[0])


class _Connection(H11Protocol):
    """Closes a connection on which the head of a request does not arrive in time.

    uvicorn itself waits forever, see https://github.com/Kludex/uvicorn/issues/157.
    """

    _patience: asyncio.TimerHandle | None = None

    def __init__(self, newcomers: _Newcomers, **given: Any) -> None:
        super().__init__(**given)
        self._newcomers = newcomers
        self._below: asyncio.Transport | None = None

    def enter(self, below: asyncio.Transport) -> None:
        """Counts it among the newcomers, by the transport that everything else is on."""
        self._below = below
        self._newcomers.enter(below)

    def leave(self) -> None:
        """Counts it no longer."""
        if self._below is not None:
            self._newcomers.leave(self._below)
            self._below = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if self._below is None:
            self.enter(transport)
        self._wait_for_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self.leave()
        self._stop_waiting()
        super().connection_lost(exc)

    def _wait_for_head(self) -> None:
        if self.conn.their_state is not h11.IDLE:
            self.leave()
            self._stop_waiting()
        elif self._patience is None:
            self._patience = self.loop.call_later(HEAD_SECONDS, self.transport.abort)

    def _stop_waiting(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None


class _Handshake(asyncio.Protocol):
    """A connection until TLS is spoken on it.

    asyncio itself would show it only then: nobody could count those on which nothing is said.
    """

    def __init__(
        self, tls: ssl.SSLContext, inside: _Connection, clients: ClientCertificates | None
    ) -> None:
        self._tls, self._inside, self._clients = tls, inside, clients
        self._early = bytearray()
        self._is_lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begins the handshake."""
        assert isinstance(transport, asyncio.Transport), "TCP has no other"
        self._inside.enter(transport)
        self._shaking = asyncio.create_task(self._shake(transport))

    def data_received(self, data: bytes) -> None:
        """Keeps what comes with the end of the handshake."""
        self._early += data

    def connection_lost(self, exc: Exception | None) -> None:
        """Remembers that there is nothing to hand on."""
        self._is_lost = True

    async def _shake(self, transport: asyncio.Transport) -> None:
        if transport.is_closing():
            self._inside.leave()
            return
        loop = asyncio.get_running_loop()
        try:
            secured = await loop.start_tls(
                transport,
                self,
                self._tls,
                server_side=True,
                ssl_handshake_timeout=HANDSHAKE_SECONDS,
            )
        except OSError as error:  # So are errors of TLS.
            if self._clients is not None:
                self._clients.tell_of(error, _address(transport))
            self._inside.leave()
            transport.abort()
            return
        if secured is None or self._is_lost or not self._lets_in(secured):
            # There is none where the connection was lost as the handshake ended.
            self._inside.leave()
            transport.abort()
            return
        secured.set_protocol(self._inside)
        self._inside.connection_made(secured)
        if self._early:
            self._inside.data_received(bytes(self._early))

    def _lets_in(self, secured: asyncio.Transport) -> bool:
        if self._clients is None:
            return True
        return self._clients.lets_in(secured.get_extra_info("peercert"), _address(secured))


class HttpServer(uvicorn.Server):
    """A server without signal handlers, because one process may run several servers."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def http_server(
    app: ASGIApp,
    host: str,
    port: int,
    tls: ssl.SSLContext | None = None,
    clients: ClientCertificates | None = None,
) -> HttpServer:
    """Returns a server of an application, which serves over TLS if there is a context.

    The certificate in the context may be replaced while it is in use. With `clients`, who may
    connect at all, the context demands their certificates.
    """
    if clients is not None:
        assert tls is not None, "without TLS nobody shows a certificate"
        clients.demanded_by(tls)
    newcomers = _Newcomers()

    def connection(**given: Any) -> asyncio.Protocol:
        plain = _Connection(newcomers, **given)
        return plain if tls is None else _Handshake(tls, plain, clients)

    protocol: Any = connection
    config = uvicorn.Config(
        LingeringClose(app),
        host=host,
        port=port,
        # uvicorn itself takes no context (https://github.com/Kludex/uvicorn/issues/806).
        http=protocol,
        h11_max_incomplete_event_size=HEAD_BYTES_MAX,
        log_config=None,
        access_log=False,
        server_header=False,
        # Else whoever connects from this pod could say in a header that he is somebody else.
        proxy_headers=False,
    )
    return HttpServer(config)
