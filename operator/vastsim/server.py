"""The provider's HTTP API over the market model, and the simulator's own controls."""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.exceptions import HTTPException as StarletteHTTPException

from vastsim.market import RefusedError
from vastsim.requests import CutError, Provider, refusal_of
from vastsim.routes import (
    account,
    controls,
    elsewhere,
    increases,
    instances,
    keys,
    offers,
    page,
    rents,
)
from vastsim.state import State

TICK_SECONDS = 0.1
PRICES_SECONDS = 15.0
"""How often prices are noted for the page, in real time."""

Scope = dict[str, Any]
Asgi = Callable[[Scope, Any, Any], Awaitable[None]]


def simulator(state: State) -> Asgi:
    """Returns the ASGI application."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        ticking = asyncio.create_task(_tick(state))
        try:
            yield
        finally:
            ticking.cancel()
            await state.machines.end_all()

    app = FastAPI(
        lifespan=lifespan, openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False
    )
    provider = Provider(app)
    # In the order in which they are asked for most.
    instances.register(provider, app, state)
    offers.register(provider, state)
    rents.register(provider, state)
    account.register(provider, state)
    keys.register(provider, state)
    increases.register(provider, state)
    controls.register(app, state)
    page.register(app, state)
    elsewhere.register(app, state)

    @app.exception_handler(StarletteHTTPException)
    async def unknown(_: Request, error: StarletteHTTPException) -> JSONResponse:
        body = RefusedError(error.status_code, "bad_request", error.detail).body
        return JSONResponse(body, error.status_code)

    @app.exception_handler(RefusedError)
    async def refused(_: Request, error: RefusedError) -> JSONResponse:
        return JSONResponse(error.body, error.status)

    return _Outermost(app, state)


async def _tick(state: State) -> None:
    noted_at = -math.inf
    while True:
        await state.advance()
        if time.monotonic() - noted_at >= PRICES_SECONDS:
            noted_at = time.monotonic()
            state.prices.note(state.now(), state.market.offers.values())
        await asyncio.sleep(TICK_SECONDS)


class _Outermost:
    """Records requests, refuses what comes too often, and applies the faults of any request."""

    def __init__(self, app: FastAPI, state: State) -> None:
        self._app = app
        self._state = state

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or scope["path"].startswith("/sim/"):
            await self._app(scope, receive, send)
            return
        path = scope["path"]
        faults = self._state.faults
        record = {"time": self._state.now(), "method": scope["method"], "path": path, "status": 0}
        self._state.requests.append(record)

        async def recorded(message: Mapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                record["status"] = message["status"]
                date = faults.date(self._state.now(), path).encode()
                message = {**message, "headers": [*message["headers"], (b"date", date)]}
            await send(message)

        if faults.strikes("hang", path=path):
            await asyncio.sleep(3600)
        refusal = refusal_of(Request(scope), self._state)
        if refusal is not None:
            answer: Response = Response(refusal.body, 429, refusal.headers)
            await answer(scope, receive, recorded)
        elif faults.strikes("server_error", path=path):
            answer = PlainTextResponse("Internal Server Error", 500)
            await answer(scope, receive, recorded)
        elif faults.strikes("unavailable", path=path):
            answer = PlainTextResponse("Service Unavailable", 503)
            await answer(scope, receive, recorded)
        elif faults.strikes("html", path=path):
            await HTMLResponse("<html>Down for maintenance</html>")(scope, receive, recorded)
        else:
            known = {**scope, "path": path.rstrip("/") or "/"}
            try:
                await self._app(known, receive, recorded)
            except CutError:
                # uvicorn's `send` is a method of the object that holds the connection.
                send.__self__.transport.abort()
