"""Probes, open to all, and metrics, which show money: only for whoever may read `/metrics`."""

from collections.abc import Callable

from fastapi import FastAPI, Request
from fastapi.responses import PlainTextResponse, Response

from gpujob.adapters.clock import Clock
from gpujob.adapters.kube import KubeClient
from gpujob.adapters.metrics import CONTENT_TYPE, Figures, exposition
from gpujob.core.observation import Unavailable
from gpujob.web.listener import listener_app
from gpujob.web.token_reviews import TokenReviews

METRICS_PATH = "/metrics"
REVIEW_SECONDS = 10.0
"""How long a token's review is believed; what its account may is asked each time."""


def probes_app(
    kube: KubeClient,
    clock: Clock,
    *,
    is_alive: Callable[[], bool],
    leads: Callable[[], bool],
    problem: Callable[[], Unavailable | None],
    figures: Callable[[], Figures],
) -> FastAPI:
    """Returns the application that the kubelet and Prometheus ask."""
    app = listener_app()
    reviews = TokenReviews(kube, clock, believed_seconds=REVIEW_SECONDS)

    @app.get("/healthz")
    async def healthz() -> PlainTextResponse:
        alive = is_alive()
        return PlainTextResponse("ok" if alive else "a thread has ended", 200 if alive else 500)

    @app.get("/readyz")
    async def readyz() -> PlainTextResponse:
        if not leads():
            return PlainTextResponse("ok: another replica leads")
        if (found := problem()) is None:
            return PlainTextResponse("ok")
        return PlainTextResponse(f"{found.reason}: {found.message}", 503)

    @app.get(METRICS_PATH)
    async def metrics(request: Request) -> Response:
        await reviews.demand(request)
        return Response(exposition(figures()), media_type=CONTENT_TYPE)

    return app
