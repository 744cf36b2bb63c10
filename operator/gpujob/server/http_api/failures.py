"""Turns a failure that a route of the API does not catch itself into a problem."""

from fastapi.exceptions import RequestValidationError
from starlette.requests import Request
from starlette.responses import Response

from gpujob.adapters.errors import (
    ClusterError,
    Conflict,
    ControllerBusy,
    ControllerUnavailable,
    Expired,
    Forbidden,
    Invalid,
    ObjectGone,
)
from gpujob.web.problems import INTERNAL, Problem, recorded


def failure_problem(error: Exception, *, shows_cause: bool) -> Problem:
    """Returns the answer to a request that raised this; logs it unless the caller is at fault.

    With `shows_cause` the answer includes the cause that is otherwise only logged.
    """
    match error:
        case Problem():
            return error
        case ObjectGone():
            return Problem(404, "there is no such object")
        case Conflict():
            return Problem(409, "the name is taken, or the object has changed in the meantime")
        case Expired():
            words = "this cursor or event id has expired; start again without it"
            return Problem(410, words)
        case Invalid(causes=causes) if causes:
            return Problem(422, "the cluster refuses the object", faults=causes)
        case Invalid():
            status, words = 422, "the cluster refuses the object"
        case Forbidden():
            status = 403
            words = "the cluster refuses this: because of a quota, because the namespace is being "
            words += "deleted, or because this server lacks a right"
        case ClusterError():
            status, words = 503, "the cluster does not answer now; try again later"
        case ControllerBusy():
            words = "too many estimates were requested; try again later"
            return Problem(429, words, headers={"Retry-After": "5"})
        case ControllerUnavailable():
            status, words = 503, "the controller does not answer now; try again later"
        case _:
            status, words = 500, INTERNAL
    cause = f": {type(error).__name__}: {error}" if shows_cause else ""
    return Problem(status, words + cause, error_id=recorded(error))


async def on_wrong_parameters(_: Request, error: Exception) -> Response:
    """Answers a request whose path, query or headers are not of the schema."""
    assert isinstance(error, RequestValidationError), "it is registered for nothing else"
    faults = (
        (".".join(str(part) for part in one["loc"]), str(one["msg"])) for one in error.errors()
    )
    # A parameter that two dependencies read is wrong only once.
    unique = tuple(dict.fromkeys(faults))
    return Problem(400, "the request does not match the schema", faults=unique).response()
