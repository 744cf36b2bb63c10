"""The HTTP server that all our listeners are: uvicorn, in a process that keeps its signals."""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from fastapi import Request
from pydantic import SecretStr

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
