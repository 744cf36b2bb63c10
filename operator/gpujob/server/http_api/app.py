"""The API as an application: routes behind the guard, problems for all that goes wrong."""

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.routing import Route

from gpujob.adapters.clock import Clock
from gpujob.adapters.controller import ControllerClient
from gpujob.adapters.errors import ClusterError, ControllerBusy, ControllerUnavailable
from gpujob.adapters.kube import KubeClient
from gpujob.api.notes import MarketNotes
from gpujob.server.http_api.bodies import NewJob
from gpujob.server.http_api.callers import Callers
from gpujob.server.http_api.guard import Guard
from gpujob.server.http_api.problems import (
    MEDIA_TYPE,
    TITLES,
    Problem,
    ProblemDetails,
    refused,
    unanswered,
)
from gpujob.server.http_api.routes import add_routes
from gpujob.web.rate_limit import RateLimit

PER_SECOND, AT_ONCE = 20.0, 60
"""Requests of one token."""
ALWAYS_WITH = {401: "WWW-Authenticate", 429: "Retry-After", 503: "Retry-After"}
DESCRIPTION = """Runs GpuJobs on rented GPU machines within a ceiling.

Each request carries `Authorization: Bearer TOKEN`: a token of this API, or one of a service account
of the cluster, whose RBAC then decides. What goes wrong is told as problem details (RFC 9457)."""


def api_app(
    *,
    kube: KubeClient,
    clock: Clock,
    callers: Callers,
    notes: Callable[[], MarketNotes | None],
    controller: ControllerClient,
    shows_cause: bool = False,
) -> FastAPI:
    """Returns the application; with `shows_cause` failures tell what is else only in the log."""
    app = FastAPI(
        title="GpuJob API",
        version="v1",
        description=DESCRIPTION,
        openapi_url="/openapi.json",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    limit = RateLimit(clock, per_second=PER_SECOND, at_once=AT_ONCE)
    # It comes before all routes, also such as the library adds of its own.
    app.add_middleware(Guard, callers, limit, shows_cause=shows_cause)
    add_routes(app, kube=kube, clock=clock, callers=callers, notes=notes, controller=controller)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]

    @app.exception_handler(Problem)
    async def on_problem(_: Request, problem: Problem) -> Response:
        return problem.response()

    @app.exception_handler(ClusterError)
    async def on_cluster_error(_: Request, error: ClusterError) -> Response:
        return refused(error, shows_cause=shows_cause).response()

    @app.exception_handler(ControllerUnavailable)
    async def on_silent_controller(_: Request, error: ControllerUnavailable) -> Response:
        return unanswered(error, shows_cause=shows_cause).response()

    @app.exception_handler(ControllerBusy)
    async def on_busy_controller(_: Request, error: ControllerBusy) -> Response:
        return Problem(429, f"{error}; try again", headers={"Retry-After": "5"}).response()

    @app.exception_handler(RequestValidationError)
    async def on_wrong_request(_: Request, error: RequestValidationError) -> Response:
        faults = tuple(
            (".".join(str(part) for part in one["loc"]), str(one["msg"])) for one in error.errors()
        )
        return Problem(400, "the request is not of the schema", faults=faults).response()

    @app.exception_handler(HTTPException)
    async def on_http_exception(request: Request, error: HTTPException) -> Response:
        if error.status_code == 404:
            return Problem(404, "there is no such path").response()
        if error.status_code == 405:
            # A path's methods are routes of their own, of which the library names one.
            allow = {"Allow": ", ".join(_methods(app, request.url.path))}
            return Problem(405, "this path has no such method", headers=allow).response()
        return Problem(400, "the request is not understood").response()

    return app


def _methods(app: FastAPI, path: str) -> list[str]:
    matching = [one for one in app.routes if isinstance(one, Route) and one.path_regex.match(path)]
    return sorted({method for one in matching for method in one.methods or ()})


def _openapi(app: FastAPI) -> dict[str, Any]:
    if app.openapi_schema is not None:
        return app.openapi_schema
    document = get_openapi(
        title=app.title,
        version=app.version,
        description=app.description,
        routes=app.routes,
        openapi_version="3.1.0",
        tags=[
            {"name": "jobs", "description": "What is to run."},
            {"name": "machines", "description": "What is paid for."},
        ],
    )
    parts = document["components"]
    schemas = parts["schemas"]
    for model in (NewJob, ProblemDetails):
        schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
        inner = schema.pop("$defs", {})
        if model is NewJob:
            # Bodies are read so, all the way down.
            inner = {name: {**one, "additionalProperties": False} for name, one in inner.items()}
        schemas |= {model.__name__: schema} | inner
    # Of an answer of FastAPI's own, which none of ours is.
    unused = [schemas.pop(name) for name in ("HTTPValidationError", "ValidationError")]
    assert len(unused) == 2, "it documents what it would answer"
    parts["securitySchemes"] = {"bearer": {"type": "http", "scheme": "bearer"}}
    document["security"] = [{"bearer": []}]
    parts["responses"] = {}
    for path in document["paths"].values():
        for operation in path.values():
            for parameter in operation.get("parameters", ()):
                # One that is absent is none; null would be sent as a word.
                parameter["schema"] = _without_null(parameter["schema"])
            if "HTTPValidationError" in str(operation["responses"].get("422")):
                del operation["responses"]["422"]
            for status, title in TITLES.items():
                if str(status) in operation["responses"]:
                    name = title.title().replace(" ", "")
                    operation["responses"][str(status)] = {"$ref": f"#/components/responses/{name}"}
                    parts["responses"][name] = _documented(status, title)
    app.openapi_schema = document
    return document


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    kinds: list[dict[str, Any]]
    kinds = [one for one in schema.get("anyOf", ()) if one != {"type": "null"}]
    if len(kinds) != 1:
        return schema
    return {key: value for key, value in schema.items() if key != "anyOf"} | kinds[0]


def _documented(status: int, title: str) -> dict[str, Any]:
    schema = {"$ref": f"#/components/schemas/{ProblemDetails.__name__}"}
    documented: dict[str, Any] = {"description": title, "content": {MEDIA_TYPE: {"schema": schema}}}
    if header := ALWAYS_WITH.get(status):
        documented["headers"] = {header: {"required": True, "schema": {"type": "string"}}}
    return documented
