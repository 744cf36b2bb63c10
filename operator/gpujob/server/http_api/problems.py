"""What is answered when something is not as asked: problem details (RFC 9457).

Nothing of ourselves is in them: no trace, path, library or address. What went wrong inside is in
the log, under the error's id.
"""

from collections.abc import Mapping
from typing import Any

from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from gpujob.adapters.errors import (
    ClusterError,
    Conflict,
    ControllerUnavailable,
    Expired,
    Forbidden,
    Invalid,
    ObjectGone,
)
from gpujob.web.problems import BROKEN, recorded

MEDIA_TYPE = "application/problem+json"
TITLES = {
    400: "Bad request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not found",
    405: "Method not allowed",
    408: "Too slow",
    409: "Conflict",
    410: "Gone",
    412: "Precondition failed",
    413: "Too large",
    415: "Unsupported media type",
    422: "Not a job that could run",
    429: "Too many requests",
    500: "Internal error",
    503: "Not now",
}


class FieldFault(BaseModel):
    """One thing that is wrong with what was sent."""

    field: str = Field(description="Path from the root.", examples=["spec.gpu.count"])
    message: str = Field(description="What is wrong, and what would be right.")


class ProblemDetails(BaseModel):
    """Problem details (RFC 9457)."""

    type: str = Field("about:blank", examples=["about:blank"])
    title: str = Field(examples=["Not found"])
    status: int = Field(ge=400, le=599, examples=[404])
    detail: str = Field(description="What is wrong, and what to do.")
    errors: list[FieldFault] = Field([], description="Each fault by its field, if there are any.")
    error_id: str | None = Field(
        None, alias="errorId", description="Under which the cause is in the server's log."
    )


class Problem(Exception):
    """An answer that is no success."""

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
        self.headers, self.error_id = dict(headers or {}), error_id

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


def unforeseen(error: Exception, *, shows_cause: bool) -> Problem:
    """Logs what nobody thought of, and returns what is answered."""
    cause = f": {type(error).__name__}: {error}" if shows_cause else ""
    return Problem(500, f"{BROKEN}{cause}", error_id=recorded(error))


def refused(error: ClusterError, *, shows_cause: bool) -> Problem:
    """Returns what is answered when the cluster did not do what was asked."""
    match error:
        case ObjectGone():
            return Problem(404, "there is no such object")
        case Conflict():
            return Problem(409, "the name is taken, or the object has changed meanwhile")
        case Expired():
            return Problem(410, "this is too old to be gone on with; begin anew")
        case Invalid(causes=causes) if causes:
            return Problem(422, "the cluster refuses the object", faults=causes)
    error_id = recorded(error)
    cause = f": {error}" if shows_cause else ""
    if isinstance(error, Invalid):
        return Problem(422, f"the cluster refuses the object{cause}", error_id=error_id)
    if isinstance(error, Forbidden):
        words = (
            "the cluster does not allow it: a quota, a namespace that ends, or a right that the "
        )
        return Problem(403, f"{words}server lacks{cause}", error_id=error_id)
    words = f"the cluster does not answer now; try again{cause}"
    return Problem(503, words, error_id=error_id, headers={"Retry-After": "5"})


def unanswered(error: ControllerUnavailable, *, shows_cause: bool) -> Problem:
    """Returns what is answered when the controller was needed and gave no answer."""
    cause = f": {error}" if shows_cause else ""
    words = f"the controller does not answer this now; try again{cause}"
    return Problem(503, words, error_id=recorded(error), headers={"Retry-After": "5"})
