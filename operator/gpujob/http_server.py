"""The HTTP server that all our listeners are: uvicorn, in a process that keeps its signals."""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from fastapi import Request
from pydantic import SecretStr

from gpujob.adapters.clock import Clock

TOKEN_BYTES_MAX = 8_192


def bearer_token(request: Request) -> SecretStr | None:
    """Returns the token that a request shows; None = it shows none that could be one."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not 0 < len(token) <= TOKEN_BYTES_MAX:
        return None
    return SecretStr(token)


class HttpServer(uvicorn.Server):
    """A server that leaves the signals to its process."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def http_server(app: Any, host: str, port: int, tls: ssl.SSLContext | None = None) -> HttpServer:
    """Returns a server of an ASGI application, over TLS if there is a context for it."""
    config = uvicorn.Config(
        app, host=host, port=port, log_config=None, access_log=False, server_header=False
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
