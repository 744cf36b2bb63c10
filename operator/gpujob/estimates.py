"""The controller's answers to what a job would cost: the server asks, which knows no market.

It stands on the transport's listener. Who may ask is for RBAC to say: `post` on the path.
"""

from collections.abc import Awaitable, Callable

import structlog
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import ValidationError

from gpujob.adapters.clock import Clock
from gpujob.adapters.errors import ClusterError
from gpujob.adapters.kube import KubeClient
from gpujob.api.estimate import ESTIMATE_BYTES_MAX, ESTIMATE_PATH, EstimateQuestion
from gpujob.api.gpujob import GpuJobSpec
from gpujob.api.meta import TRANSPORT_AUDIENCE
from gpujob.core.cost.forecast import forecast
from gpujob.core.market import Quotes
from gpujob.core.observation import Unavailable, World
from gpujob.core.spec_faults import shape_faults
from gpujob.http_server import RateLimit, bearer_token

PER_SECOND, AT_ONCE = 0.5, 10
"""Of all who ask together: each question may be a search at the provider, which jobs need too."""

log = structlog.get_logger("gpujob.estimates")


def add_estimates(
    app: FastAPI,
    *,
    kube: KubeClient,
    clock: Clock,
    world: Callable[[], World],
    quotes: Callable[[GpuJobSpec], Awaitable[Quotes | Unavailable]],
) -> None:
    """Adds the route to the transport's application."""
    limit = RateLimit(clock, per_second=PER_SECOND, at_once=AT_ONCE)

    @app.post(ESTIMATE_PATH)
    async def estimate(request: Request) -> JSONResponse:
        if (token := bearer_token(request)) is None:
            return _refused(401, "a bearer token is needed")
        try:
            review = await kube.review_token(token, TRANSPORT_AUDIENCE)
            if not review.get("authenticated"):
                return _refused(401, "the token is not valid here")
            may = await kube.may_reach(review.get("user") or {}, ESTIMATE_PATH, "post")
        except ClusterError:
            return _refused(503, "tokens can not be checked now; try again")
        if not may:
            return _refused(403, f"post on {ESTIMATE_PATH} is not granted to this account")
        raw = bytearray()
        async for chunk in request.stream():
            raw += chunk
            if len(raw) > ESTIMATE_BYTES_MAX:
                return _refused(413, f"the body may have {ESTIMATE_BYTES_MAX} bytes")
        try:
            asked = EstimateQuestion.model_validate_json(
                bytes(raw), strict=True, extra="forbid", by_alias=True, by_name=False
            )
        except ValidationError as error:
            return _refused(400, "; ".join(str(fault) for fault in shape_faults(error))[:1024])
        if limit.take("all"):
            return _refused(429, "too much is asked; wait")
        found = await quotes(asked.spec)
        return JSONResponse(forecast(world(), asked.spec, found).wire())


def _refused(status: int, words: str) -> JSONResponse:
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else None
    return JSONResponse({"detail": words}, status, headers)
