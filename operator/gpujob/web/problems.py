"""What a listener answers when a request does not succeed: problem details (RFC 9457).

An answer shows nothing of the program itself: no trace, path, library or address. If the cause is
inside, the answer carries an error id, and the log has the cause under that id.
"""

import uuid
from collections.abc import Callable, Mapping
from typing import Any

import structlog
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gpujob.adapters.errors import AdapterError, ClusterError

MEDIA_TYPE = "application/problem+json"
TITLES = {
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    409: "Conflict",
    410: "Gone",
    412: "Precondition Failed",
    413: "Content Too Large",
    415: "Unsupported Media Type",
    422: "Unprocessable Content",
    429: "Too Many Requests",
    500: "Internal Server Error",
    503: "Service Unavailable",
}
"""The phrases of RFC 9110, which RFC 9457 demands as titles for the type `about:blank`."""
HEADERS = {
    # Strangers hold no connections.
    401: {"WWW-Authenticate": "Bearer", "Connection": "close"},
    503: {"Retry-After": "5"},
}
"""Headers of every answer with this status, unless a problem sets its own."""
INTERNAL = "the request failed inside the server; its log has the cause under this error id"

log = structlog.get_logger("gpujob.web")


class FieldFault(BaseModel):
    """One thing that is wrong with the request."""

    field: str = Field(description="Path from the root.", examples=["spec.gpu.count"])
    message: str = Field(description="What is wrong, and what would be right.")


class ProblemDetails(BaseModel):
    """Problem details (RFC 9457)."""

    type: str = Field("about:blank", examples=["about:blank"])
    title: str = Field(examples=["Not Found"])
    status: int = Field(ge=400, le=599, examples=[404])
    detail: str = Field(description="What is wrong, and what to do.")
    errors: list[FieldFault] = Field([], description="The faults by field, if there are any.")
    error_id: str | None = Field(
        None, alias="errorId", description="The id under which the server's log has the cause."
    )


class Problem(Exception):
    """Ends a request with an answer other than success."""

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        faults: tuple[tuple[str, str], ...] = (),
        headers: Mapping[str, str] | None = None,
        error_id: str | None = None,
    ) -> None:
        super().__init__(detail)
        self.status, self.detail, self.faults = status, detail, faults
        self.headers = HEADERS.get(status, {}) | dict(headers or {})
        self.error_id = error_id

    def body(self) -> dict[str, Any]:
        """Returns the document."""
        details = ProblemDetails(
            title=TITLES[self.status],
            status=self.status,
            detail=self.detail,
            errors=[FieldFault(field=field, message=words) for field, words in self.faults],
            errorId=self.error_id,
        )
        left_out = set() if self.faults else {"errors"}
        return details.model_dump(by_alias=True, exclude_none=True, exclude=left_out)

    def response(self) -> JSONResponse:
        """Returns the answer."""
        return JSONResponse(self.body(), self.status, self.headers, media_type=MEDIA_TYPE)


def recorded(error: Exception) -> str:
    """Logs why a request failed, and returns the error id of that line."""
    error_id = uuid.uuid4().hex
    if isinstance(error, AdapterError):
        log.warning("request_failed", error_id=error_id, problem=str(error))
    else:
        log.error("request_crashed", error_id=error_id, exc_info=error)
    return error_id


def problem_of(error: Exception) -> Problem:
    """Returns the answer to a request that raised this; logs it unless the caller is at fault."""
    match error:
        case Problem():
            return error
        case ClusterError():
            words = "the cluster cannot be asked now; try again later"
            return Problem(503, words, error_id=recorded(error))
    return Problem(500, INTERNAL, error_id=recorded(error))


async def on_http_exception(request: Request, error: Exception) -> JSONResponse:
    """Answers a path or a method that no route has, for which the library raises this."""
    assert isinstance(error, HTTPException), "it is registered for nothing else"
    if error.status_code == 404:
        return Problem(404, "there is no such path").response()
    if error.status_code == 405:
        # Each method of a path may be a route of its own, of which the library names only one.
        matching = (
            route
            for route in request.app.routes
            if isinstance(route, Route) and route.path_regex.match(request.url.path)
        )
        methods = sorted({method for route in matching for method in route.methods or ()})
        allow = {"Allow": ", ".join(methods)}
        return Problem(405, "this path does not have this method", headers=allow).response()
    return Problem(400, "the request cannot be understood").response()


class LastResort:
    """Turns every exception into an answer, so that the library never makes one of its own.

    It is the outermost part that can fail. `problem_for` decides which problem an exception is.
    """

    def __init__(
        self, app: ASGIApp, problem_for: Callable[[Exception], Problem] = problem_of
    ) -> None:
        self._app, self._problem_for = app, problem_for

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, and answers it if that fails."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        has_begun = False

        async def sent(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        try:
            await self._app(scope, receive, sent)
        except Exception as error:  # noqa: BLE001 - it is logged, and the caller gets its id
            if has_begun:
                # It is too late for another answer; the server cuts the connection.
                recorded(error)
            else:
                await self._problem_for(error).response()(scope, receive, send)
