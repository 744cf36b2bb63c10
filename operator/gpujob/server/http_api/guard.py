"""What every request passes before the routes, so that no route can forget it."""

import time
from ipaddress import IPv6Address, ip_address, ip_network
from math import ceil

import structlog
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gpujob.server.http_api.callers import Caller, Callers
from gpujob.web.bearer import bearer_token
from gpujob.web.problems import Problem
from gpujob.web.rate_limit import RateLimit

HEADERS = (
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"referrer-policy", b"no-referrer"),
    (b"strict-transport-security", b"max-age=31536000"),
    (b"x-content-type-options", b"nosniff"),
)
"""Answers are for the caller alone and are not web pages. No other origin may read them."""

log = structlog.get_logger("gpujob.http_api.access")


class AccessLog:
    """Logs each request, and adds the headers that every answer has. It is outermost."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes one request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.monotonic(), 0

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", []), *HEADERS]
            await send(message)

        try:
            await self._app(scope, receive, sent)
        finally:
            log.info(
                "request",
                method=scope["method"],
                # The path of the route. The path that the caller sent could contain anything.
                route=getattr(scope.get("route"), "path", ""),
                status=status,
                caller=getattr(scope.get("state", {}).get("caller"), "name", ""),
                milliseconds=round((time.monotonic() - began) * 1000),
            )


def network_of(scope: Scope) -> str:
    """Returns from where a request comes: one household or one pod, as far as addresses show it.

    Whoever has an IPv6 address has all of its /64.
    """
    host = (scope.get("client") or ("", 0))[0]
    try:
        address = ip_address(host)
    except ValueError:
        return str(host)
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is None:
            return str(ip_network((int(address) >> 64 << 64, 64)))
        address = address.ipv4_mapped
    return str(address)


class Guard:
    """Lets requests with a valid token through to the routes, and not too many of one caller.

    Nor too many wrong tokens of one address. Behind one that many share, whoever has a good token
    is let through whatever the others send.
    """

    def __init__(self, app: ASGIApp, callers: Callers, limit: RateLimit, wrong: RateLimit) -> None:
        self._app, self._callers, self._limit, self._wrong = app, callers, limit, wrong

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes one request on; raises Problem. `state.caller` is who sent it."""
        if scope["type"] == "http":
            caller = await self._caller_of(scope)
            scope.setdefault("state", {})["caller"] = caller
            if wait := self._limit.take(caller.name):
                words = f"this token has sent too many requests; try again in {ceil(wait)} s"
                raise Problem(429, words, headers={"Retry-After": str(ceil(wait))})
        elif scope["type"] != "lifespan":
            # WebSockets are not served, and none may get past the guard.
            return
        await self._app(scope, receive, send)

    async def _caller_of(self, scope: Scope) -> Caller:
        token, network = bearer_token(Headers(scope=scope)), network_of(scope)
        wait = self._wrong.wait(network)
        if wait and not self._callers.is_known(token):
            words = f"too many wrong tokens came from this address; try again in {ceil(wait)} s"
            raise Problem(429, words, headers={"Retry-After": str(ceil(wait))})
        try:
            return await self._callers.caller_of(token)
        except Problem as problem:
            if problem.status == 401:
                self._wrong.take(network)
            raise
