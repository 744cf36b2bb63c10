"""DriverTransport's server side: drivers report here and are told what to do.

A driver is known by the token of its pod: only the pod that is recorded in its GpuNode is answered.
What it says is kept as an observation; no money and no state follows from it directly.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import ValidationError

from gpujob.adapters.clock import Clock
from gpujob.adapters.errors import ClusterError
from gpujob.adapters.kube import KubeClient
from gpujob.api.gpujob import GpuJob
from gpujob.api.gpunode import GpuNode
from gpujob.api.meta import TRANSPORT_AUDIENCE
from gpujob.api.transport import (
    REPORT_BYTES_MAX,
    SYNC_PATH,
    Assignment,
    DriverReport,
    message_faults,
    read_message,
)
from gpujob.core.assignment import assignment
from gpujob.core.limits import Limits
from gpujob.core.observation import Heard
from gpujob.http_server import bearer_token
from gpujob.workqueue import Key

REVIEW_SECONDS = 60.0
"""How long a token's review is believed."""

POD_UID = "authentication.kubernetes.io/pod-uid"
POD_NAME = "authentication.kubernetes.io/pod-name"

log = structlog.get_logger("gpujob.transport")

Lookup = Callable[[str], tuple[GpuNode | None, GpuJob | None]]
"""By node uid: the node and its job as last watched."""


class _RefusedError(Exception):
    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status


@dataclass(frozen=True)
class _Caller:
    namespace: str
    pod_uid: str
    believed_until: float


def transport_app(
    *,
    kube: KubeClient,
    clock: Clock,
    limits: Limits,
    lookup: Lookup,
    heard: dict[str, Heard],
    on_news: Callable[[Key], None],
) -> FastAPI:
    """Returns the application that drivers talk to."""
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    callers: dict[str, _Caller] = {}

    async def caller_of(request: Request) -> _Caller:
        if (token := bearer_token(request)) is None:
            raise _RefusedError(401, "a bearer token of the driver pod is needed")
        digest = hashlib.sha256(token.get_secret_value().encode()).hexdigest()
        now = clock.monotonic()
        known = callers.get(digest)
        if known is not None and known.believed_until > now:
            return known
        for stale in [key for key, held in callers.items() if held.believed_until <= now]:
            del callers[stale]
        try:
            review = await kube.review_token(token, TRANSPORT_AUDIENCE)
        except ClusterError:
            raise _RefusedError(503, "tokens can not be checked now; try again") from None
        caller = _pod_of(review, now)
        if caller is None:
            raise _RefusedError(401, "the token is not one of a driver pod for this audience")
        callers[digest] = caller
        return caller

    async def report_of(request: Request) -> DriverReport:
        if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
            raise _RefusedError(415, "the body must be application/json")
        body = b""
        async for chunk in request.stream():
            body += chunk
            if len(body) > REPORT_BYTES_MAX:
                raise _RefusedError(413, f"the body may have {REPORT_BYTES_MAX} bytes")
        try:
            return read_message(DriverReport, body)
        except ValidationError as error:
            raise _RefusedError(400, message_faults(error)) from None

    @app.post(SYNC_PATH)
    async def sync(request: Request) -> JSONResponse:
        try:
            caller = await caller_of(request)
            report = await report_of(request)
            answer = accept(caller, report)
        except _RefusedError as refused:
            headers = {"WWW-Authenticate": "Bearer"} if refused.status == 401 else None
            return JSONResponse({"detail": str(refused)}, refused.status, headers)
        return JSONResponse(answer.wire())

    def accept(caller: _Caller, report: DriverReport) -> Assignment:
        node, job = lookup(report.node_uid)
        if node is None:
            raise _RefusedError(404, "no such node is known here yet")
        driver = node.status.driver
        if (
            driver is None
            or driver.pod_uid != caller.pod_uid
            or node.metadata.namespace != caller.namespace
        ):
            raise _RefusedError(403, "this pod is not recorded as the node's driver")
        held = heard.get(report.node_uid)
        before = held.report if held is not None and held.pod_uid == caller.pod_uid else None
        # What was overtaken on its way, or comes a second time, says nothing about the present.
        if before is None or report.order > before.order:
            heard[report.node_uid] = Heard(report, caller.pod_uid, clock.monotonic())
            if before is None or _is_news(before, report):
                on_news(Key("GpuNode", node.metadata.namespace, node.metadata.name))
        return assignment(node, job, limits)

    return app


def _is_news(before: DriverReport, after: DriverReport) -> bool:
    """Whether a pass over the node could decide otherwise for it."""
    return _deciding(before) != _deciding(after)


def _deciding(report: DriverReport) -> tuple[object, ...]:
    return (
        *(report.phase, report.measured, report.ended, report.outcome),
        *(report.fault, report.data_problem, report.message),
    )


def _pod_of(review: dict[str, Any], now: float) -> _Caller | None:
    """Reads a TokenReview: the pod that a service account token is bound to."""
    if not review.get("authenticated") or TRANSPORT_AUDIENCE not in review.get("audiences", []):
        return None
    user = review.get("user") or {}
    extra = user.get("extra") or {}
    parts = str(user.get("username", "")).split(":")
    uids, names = extra.get(POD_UID) or [], extra.get(POD_NAME) or []
    if parts[:2] != ["system", "serviceaccount"] or len(parts) != 4 or not uids or not names:
        return None
    return _Caller(namespace=parts[2], pod_uid=uids[0], believed_until=now + REVIEW_SECONDS)
