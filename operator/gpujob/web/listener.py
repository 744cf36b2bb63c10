"""The HTTP server that all our listeners are: uvicorn, in a process that keeps its signals.

And what their applications do alike: read a token and a body, and tell what goes wrong without
telling anything of ourselves.
"""

import asyncio
import re
import ssl
import uuid
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any

import h11
import structlog
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import SecretStr
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from uvicorn.protocols.http.h11_impl import H11Protocol

from gpujob.adapters.clock import Clock
from gpujob.adapters.errors import AdapterError, ClusterError

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

TOKEN_BYTES_MAX = 8_192
TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")
HEAD_BYTES_MAX = 16 << 10
HEAD_SECONDS = 10.0
"""Within which a request's head must have come, from when the line or its first byte is there."""
BODY_SECONDS = 30.0
"""Within which a body must have come."""
DISCARDED_BYTES_MAX = 16 << 20
"""Of a body that is too large: who still sends when the line is closed does not see the answer."""
BROKEN = "the request could not be carried out; the log has the cause under this id"
HEADERS = {401: {"WWW-Authenticate": "Bearer"}, 503: {"Retry-After": "5"}}

log = structlog.get_logger("gpujob.http_server")


class Refused(Exception):
    """An answer that is no success, in words for whoever asked."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status


def bearer_token(headers: Headers) -> SecretStr | None:
    """Returns the token that a request shows; None = it shows none that could be one."""
    given = headers.getlist("authorization")
    # Two would let two readers disagree.
    scheme, _, token = given[0].partition(" ") if len(given) == 1 else ("", "", "")
    sound = len(token) <= TOKEN_BYTES_MAX and TOKEN.fullmatch(token)
    return SecretStr(token) if scheme.lower() == "bearer" and sound else None


async def json_body(request: Request, bytes_max: int) -> bytes:
    """Returns a body that is called JSON, unread; raises Refused."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != (
        "application/json"
    ):
        raise Refused(415, "the body must be application/json")
    raw, size = bytearray(), 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.stream():
                size += len(chunk)
                if size <= bytes_max:
                    raw += chunk
                elif size > bytes_max + DISCARDED_BYTES_MAX:
                    break
    except TimeoutError:
        raise Refused(408, f"the body did not come within {BODY_SECONDS:g} s") from None
    except ClientDisconnect:
        # Nobody hears this answer; that the line was cut is no fault of ours to be looked for.
        raise Refused(400, "the body did not come whole") from None
    if size > bytes_max:
        raise Refused(413, f"the body may have {bytes_max} bytes")
    return bytes(raw)


def recorded(error: Exception) -> str:
    """Logs why a request failed, and returns the id under which the log has it."""
    error_id = uuid.uuid4().hex
    if isinstance(error, AdapterError):
        log.warning("request_failed", error_id=error_id, problem=str(error))
    else:
        log.error("request_broke", error_id=error_id, exc_info=error)
    return error_id


def listener_app() -> FastAPI:
    """Returns an application for machines to ask, without routes, that tells nothing of itself.

    A route may raise Refused, and ClusterError if the cluster can not be asked. Why the latter,
    and what nobody thought of, is in the log under the answer's id.
    """
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    app.add_middleware(_LastResort)

    @app.exception_handler(Refused)
    async def on_refused(_: Request, refused: Refused) -> JSONResponse:
        return _answer(refused.status, str(refused))

    @app.exception_handler(ClusterError)
    async def on_cluster_error(_: Request, error: ClusterError) -> JSONResponse:
        return _answer(503, "the cluster can not be asked now; try again", recorded(error))

    return app


class _LastResort:
    """Answers what nobody thought of; the library's own answer has no id."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        has_begun = False

        async def sent(message: MutableMapping[str, Any]) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        try:
            await self._app(scope, receive, sent)
        except Exception as error:  # noqa: BLE001 - it is told in the log, and to the caller
            error_id = recorded(error)
            if not has_begun:
                await _answer(500, BROKEN, error_id)(scope, receive, send)


def _answer(status: int, detail: str, error_id: str = "") -> JSONResponse:
    body = {"detail": detail} | ({"errorId": error_id} if error_id else {})
    return JSONResponse(body, status, HEADERS.get(status))


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


class RateLimit:
    """How many requests each caller may still make: so many at once, so many a second."""

    def __init__(self, clock: Clock, *, per_second: float, at_once: int) -> None:
        self._clock, self._rate, self._most = clock, per_second, float(at_once)
        self._left: dict[str, tuple[float, float]] = {}

    def take(self, name: str) -> float:
        """Takes one; returns 0, or the seconds until there is one again."""
        now = self._clock.monotonic()
        left, at = self._left.get(name, (self._most, now))
        left = min(self._most, left + (now - at) * self._rate)
        if left < 1:
            self._left[name] = (left, now)
            return (1 - left) / self._rate
        self._left[name] = (left - 1, now)
        return 0.0
