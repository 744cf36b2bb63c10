"""What every request passes, whatever its path: who calls, how often, and what leaves.

It stands before all routes, so that none can be forgotten.
"""

import time
from collections.abc import MutableMapping
from math import ceil
from typing import Any

import structlog
from starlette.datastructures import Headers

from gpujob.server.http_api.callers import Callers
from gpujob.server.http_api.problems import Problem, unforeseen
from gpujob.web.bearer import bearer_token
from gpujob.web.problems import App, Receive, Scope, Send
from gpujob.web.rate_limit import RateLimit

HEADERS = (
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"referrer-policy", b"no-referrer"),
    (b"strict-transport-security", b"max-age=31536000"),
    (b"x-content-type-options", b"nosniff"),
)
"""Answers are nobody's but the caller's, and no page is made of them. No origin is allowed in."""

log = structlog.get_logger("gpujob.http_api.access")


class Guard:
    """Lets requests with a good token through to the routes, and tells of each in the log."""

    def __init__(self, app: App, callers: Callers, limit: RateLimit, *, shows_cause: bool) -> None:
        self._app, self._callers, self._limit = app, callers, limit
        self._shows_cause = shows_cause

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        began, status = time.monotonic(), 0

        async def sent(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", []), *HEADERS]
            await send(message)

        name = ""
        try:
            try:
                caller = await self._callers.caller_of(bearer_token(Headers(scope=scope)))
                name = caller.name
                if wait := self._limit.take(name):
                    words = "this token has asked too often; wait"
                    raise Problem(429, words, headers={"Retry-After": str(ceil(wait))})
                scope.setdefault("state", {})["caller"] = caller
                await self._app(scope, receive, sent)
            except Problem as problem:
                if status:
                    raise
                await problem.response()(scope, receive, sent)
        except Exception as error:  # noqa: BLE001 - it is told in the log, and to the caller
            broken = unforeseen(error, shows_cause=self._shows_cause)
            if not status:
                await broken.response()(scope, receive, sent)
        finally:
            route = scope.get("route")
            log.info(
                "request",
                method=scope["method"],
                # Of the route: what a caller wrote may be anything.
                route=getattr(route, "path", ""),
                status=status,
                caller=name,
                milliseconds=round((time.monotonic() - began) * 1000),
            )
