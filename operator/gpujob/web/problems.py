"""What listeners answer when something goes wrong; nothing of ourselves is in it."""

import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import structlog
from fastapi.responses import JSONResponse

from gpujob.adapters.errors import AdapterError

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

BROKEN = "the request could not be carried out; the log has the cause under this id"
HEADERS = {401: {"WWW-Authenticate": "Bearer"}, 503: {"Retry-After": "5"}}

log = structlog.get_logger("gpujob.http_server")


class Refused(Exception):
    """An answer that is no success, in words for whoever asked."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status


def recorded(error: Exception) -> str:
    """Logs why a request failed, and returns the id under which the log has it."""
    error_id = uuid.uuid4().hex
    if isinstance(error, AdapterError):
        log.warning("request_failed", error_id=error_id, problem=str(error))
    else:
        log.error("request_broke", error_id=error_id, exc_info=error)
    return error_id


class LastResort:
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
                await answer(500, BROKEN, error_id)(scope, receive, send)


def answer(status: int, detail: str, error_id: str = "") -> JSONResponse:
    body = {"detail": detail} | ({"errorId": error_id} if error_id else {})
    return JSONResponse(body, status, HEADERS.get(status))
