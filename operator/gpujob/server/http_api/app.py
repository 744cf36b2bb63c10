"""The API as an application: routes behind the guard, and a problem for whatever goes wrong."""

from collections.abc import Callable
from functools import partial

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware

from gpujob.adapters.clock import Clock
from gpujob.adapters.controller import ControllerClient
from gpujob.adapters.kube import KubeClient
from gpujob.api.notes import MarketNotes
from gpujob.server.http_api import estimates, jobs, machines, streams
from gpujob.server.http_api.callers import Callers
from gpujob.server.http_api.dependencies import Backend
from gpujob.server.http_api.failures import failure_problem, on_wrong_parameters
from gpujob.server.http_api.guard import AccessLog, Guard
from gpujob.server.http_api.idempotency import MarkKeys
from gpujob.server.http_api.openapi import openapi
from gpujob.web.bodies import HeldBodies
from gpujob.web.problems import LastResort, on_http_exception
from gpujob.web.rate_limit import RateLimit

PER_SECOND, AT_ONCE = 20.0, 60
"""How many requests one token may send."""
WRONG_PER_SECOND, WRONG_AT_ONCE = 5.0, 300
"""How many wrong tokens one address may send."""
DESCRIPTION = """Runs GpuJobs on rented GPU machines within a cost ceiling.

Each request carries `Authorization: Bearer TOKEN`: a token of this API, or one of a service account
of the cluster, whose RBAC then decides. Errors are problem details (RFC 9457)."""
ROUTERS = (jobs.collection, estimates.router, jobs.items, streams.router, machines.router)


def api_app(
    *,
    kube: KubeClient,
    clock: Clock,
    callers: Callers,
    notes: Callable[[], MarketNotes | None],
    controller: ControllerClient,
    mark_keys: MarkKeys,
    own_namespace: str = "",
    nobody_leads: Callable[[], bool] = lambda: False,
    shows_cause: bool = False,
) -> FastAPI:
    """Returns the application.

    With `shows_cause`, error answers include the cause that is otherwise only logged.
    """
    limit = RateLimit(clock, per_second=PER_SECOND, at_once=AT_ONCE)
    wrong = RateLimit(clock, per_second=WRONG_PER_SECOND, at_once=WRONG_AT_ONCE)
    app = FastAPI(
        title="GpuJob API",
        version="v1",
        description=DESCRIPTION,
        openapi_url="/openapi.json",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        # The guard stands before all routes, including those that the library adds.
        middleware=[
            Middleware(AccessLog),
            Middleware(LastResort, partial(failure_problem, shows_cause=shows_cause)),
            Middleware(Guard, callers, limit, wrong),
            Middleware(HeldBodies),
        ],
        exception_handlers={
            HTTPException: on_http_exception,
            RequestValidationError: on_wrong_parameters,
        },
    )
    app.state.backend = Backend(
        kube=kube,
        clock=clock,
        callers=callers,
        notes=notes,
        controller=controller,
        mark_keys=mark_keys,
        own_namespace=own_namespace,
        nobody_leads=nobody_leads,
    )
    for router in ROUTERS:
        # `include_router` would hide the routes from the table by which tests and 405s find them.
        app.router.routes.extend(router.routes)
    app.openapi = partial(openapi, app)  # type: ignore[method-assign]
    return app
