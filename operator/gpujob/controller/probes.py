"""The probes, which need no token, and the metrics, which need one because they show spending."""

from collections.abc import Callable

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from gpujob.adapters.clock import Clock
from gpujob.adapters.kube import KubeClient
from gpujob.adapters.metrics import CONTENT_TYPE, Figures, exposition
from gpujob.api.meta import METRICS_AUDIENCE
from gpujob.core.observation import Unavailable
from gpujob.web.listener import listener_app
from gpujob.web.token_reviews import TokenReviews

METRICS_PATH = "/metrics"
REVIEW_SECONDS = 10.0
"""How long the review of a token is reused. RBAC is asked for each request."""


def probes_app(
    kube: KubeClient,
    clock: Clock,
    *,
    is_alive: Callable[[], bool],
    leads: Callable[[], bool],
    problem: Callable[[], Unavailable | None],
    figures: Callable[[], Figures],
) -> Starlette:
    """Returns the application that the kubelet and Prometheus call."""
    # Prometheus is usually given a token of its account for the API server.
    reviews = TokenReviews(
        kube,
        clock,
        believed_seconds=REVIEW_SECONDS,
        audience=METRICS_AUDIENCE,
        takes_cluster_tokens=True,
    )

    async def healthz(_: Request) -> Response:
        if is_alive():
            return PlainTextResponse("ok")
        return PlainTextResponse("the watch or the sweep has ended; the log says why", 500)

    async def readyz(_: Request) -> Response:
        if not leads():
            return PlainTextResponse("ok: another replica leads")
        if (found := problem()) is None:
            return PlainTextResponse("ok")
        return PlainTextResponse(f"{found.reason}: {found.message}", 503)

    async def metrics(request: Request) -> Response:
        await reviews.demand(request)
        return Response(exposition(figures()), media_type=CONTENT_TYPE)

    return listener_app(
        Route("/healthz", healthz), Route("/readyz", readyz), Route(METRICS_PATH, metrics)
    )
