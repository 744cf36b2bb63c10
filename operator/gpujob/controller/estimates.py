"""The route that estimates a job's cost: the server has no market data, so it asks the controller.

RBAC decides who may ask, by the verb `post` on the path.
"""

from collections.abc import Awaitable, Callable
from math import ceil

from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from gpujob.adapters.clock import Clock
from gpujob.api.estimate import ESTIMATE_BYTES_MAX, ESTIMATE_PATH, EstimateQuestion
from gpujob.api.foreign import Bounds, TooMuch
from gpujob.api.gpujob import GpuJobSpec
from gpujob.core.cost.forecast import forecast
from gpujob.core.market.offers import Quotes
from gpujob.core.observation import Unavailable, World
from gpujob.core.spec_faults import shape_faults
from gpujob.web.bodies import read_body
from gpujob.web.problems import Problem
from gpujob.web.rate_limit import RateLimit
from gpujob.web.token_reviews import TokenReviews

PER_SECOND, AT_ONCE = 0.5, 10
"""The limit of one namespace. An estimate may need a search, and so do waiting jobs."""

BOUNDS = Bounds(values=10_000, depth=32, digits=400)

WorldNow = Callable[[], World]
QuotesFor = Callable[[GpuJobSpec, str], Awaitable[Quotes | Unavailable]]


def estimates_route(
    *, clock: Clock, reviews: TokenReviews, world: WorldNow, quotes: QuotesFor
) -> Route:
    """Returns the route; `reviews` finds the account of a token."""
    limit = RateLimit(clock, per_second=PER_SECOND, at_once=AT_ONCE)

    async def estimate(request: Request) -> Response:
        await reviews.demand(request)
        asked = await read_body(request, ESTIMATE_BYTES_MAX, _read)
        if wait := limit.take(asked.namespace):
            words = f"too many estimates were requested; try again in {ceil(wait)} s"
            raise Problem(429, words, headers={"Retry-After": str(ceil(wait))})
        found = await quotes(asked.spec, asked.namespace)
        told = forecast(world(), asked.spec, found, namespace=asked.namespace)
        return JSONResponse(told.wire())

    return Route(ESTIMATE_PATH, estimate, methods=["POST"])


def _read(raw: bytes) -> EstimateQuestion:
    try:
        BOUNDS.check(raw)
        return EstimateQuestion.model_validate_json(
            raw, strict=True, extra="forbid", by_alias=True, by_name=False
        )
    except TooMuch as error:
        raise Problem(400, f"the question is not acceptable: {error}") from None
    except ValidationError as error:
        words = "; ".join(str(fault) for fault in shape_faults(error))[:1024]
        raise Problem(400, words) from None
