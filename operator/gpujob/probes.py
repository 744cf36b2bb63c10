"""Probes, open to all, and metrics, which show money: only for whoever may read `/metrics`."""

from collections.abc import Callable

from fastapi import FastAPI, Request
from fastapi.responses import PlainTextResponse, Response

from gpujob.adapters.errors import ClusterError
from gpujob.adapters.kube import KubeClient
from gpujob.adapters.metrics import CONTENT_TYPE, Figures, exposition
from gpujob.core.observation import Unavailable
from gpujob.http_server import bearer_token

METRICS_PATH = "/metrics"


def probes_app(
    kube: KubeClient,
    *,
    is_alive: Callable[[], bool],
    leads: Callable[[], bool],
    problem: Callable[[], Unavailable | None],
    figures: Callable[[], Figures],
) -> FastAPI:
    """Returns the application that the kubelet and Prometheus ask."""
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)

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
        if (token := bearer_token(request)) is None:
            words, headers = "a bearer token is needed", {"WWW-Authenticate": "Bearer"}
            return PlainTextResponse(words, 401, headers)
        try:
            review = await kube.review_token(token)
            if not review.get("authenticated"):
                return PlainTextResponse("the token is not valid", 401)
            may = await kube.may_reach(review.get("user") or {}, METRICS_PATH, "get")
        except ClusterError:
            return PlainTextResponse("tokens can not be checked now; try again", 503)
        if not may:
            return PlainTextResponse(f"get on {METRICS_PATH} is not granted to this account", 403)
        return Response(exposition(figures()), media_type=CONTENT_TYPE)

    return app
