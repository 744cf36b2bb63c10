"""The controller's answers to what a job would cost: the server asks, which knows no market.

Who may ask is for RBAC to say: `post` on the path.
"""

from collections.abc import Awaitable, Callable

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import ValidationError

from gpujob.adapters.clock import Clock
from gpujob.api.estimate import ESTIMATE_BYTES_MAX, ESTIMATE_PATH, EstimateQuestion
from gpujob.api.gpujob import GpuJobSpec
from gpujob.core.cost.forecast import forecast
from gpujob.core.market.offers import Quotes
from gpujob.core.observation import Unavailable, World
from gpujob.core.spec_faults import shape_faults
from gpujob.web.bodies import json_body
from gpujob.web.problems import Refused
from gpujob.web.rate_limit import RateLimit
from gpujob.web.token_reviews import TokenReviews

PER_SECOND, AT_ONCE = 0.5, 10
"""Of all who ask together: each question may be a search at the provider, which jobs need too."""

WorldNow = Callable[[], World]
QuotesFor = Callable[[GpuJobSpec], Awaitable[Quotes | Unavailable]]


def add_estimates(
    app: FastAPI,
    *,
    clock: Clock,
    reviews: TokenReviews,
    world: WorldNow,
    quotes: QuotesFor,
) -> None:
    """Adds the route to an application; `reviews` tells whose a token is."""
    limit = RateLimit(clock, per_second=PER_SECOND, at_once=AT_ONCE)

    @app.post(ESTIMATE_PATH)
    async def estimate(request: Request) -> JSONResponse:
        await reviews.demand(request)
        raw = await json_body(request, ESTIMATE_BYTES_MAX)
        try:
            asked = EstimateQuestion.model_validate_json(
                raw, strict=True, extra="forbid", by_alias=True, by_name=False
            )
        except ValidationError as error:
            words = "; ".join(str(fault) for fault in shape_faults(error))[:1024]
            raise Refused(400, words) from None
        if limit.take("all"):
            raise Refused(429, "too much is asked; wait")
        found = await quotes(asked.spec)
        return JSONResponse(forecast(world(), asked.spec, found).wire())
