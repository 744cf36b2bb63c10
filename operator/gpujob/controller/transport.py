"""The server side of the transport: drivers report here, and the answer says what to do.

A driver knows the controller by its certificate, and the controller a driver by the token of its
pod. Only the pod that the GpuNode records gets an answer. A report is kept as an observation for
the next pass; nothing is stored or spent right away.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from gpujob.adapters.clock import Clock
from gpujob.adapters.kube import KubeClient
from gpujob.api.gpujob import GpuJob
from gpujob.api.gpunode import GpuNode
from gpujob.api.meta import TRANSPORT_AUDIENCE
from gpujob.api.transport import (
    REPORT_BYTES_MAX,
    SYNC_PATH,
    Assignment,
    DriverReport,
    RegistryLogin,
    message_faults,
    read_message,
)
from gpujob.controller.estimates import QuotesFor, WorldNow, estimates_route
from gpujob.controller.workqueue import Key
from gpujob.core.limits import Limits
from gpujob.core.machine.assignment import assignment
from gpujob.core.observation import Heard
from gpujob.web.bearer import bearer_token
from gpujob.web.bodies import json_body
from gpujob.web.listener import listener_app
from gpujob.web.problems import Problem
from gpujob.web.token_reviews import TokenReviews

REVIEW_SECONDS = 60.0
"""How long the review of a token is reused."""

POD_UID = "authentication.kubernetes.io/pod-uid"
POD_NAME = "authentication.kubernetes.io/pod-name"

Lookup = Callable[[str], tuple[GpuNode | None, GpuJob | None]]
"""Finds a node by its uid, and its job, both as last seen by the watch."""


@dataclass(frozen=True)
class _Caller:
    namespace: str
    pod_uid: str


def transport_app(
    *,
    kube: KubeClient,
    clock: Clock,
    limits: Limits,
    lookup: Lookup,
    heard: dict[str, Heard],
    on_news: Callable[[Key], None],
    world: WorldNow,
    quotes: QuotesFor,
    logins: dict[str, RegistryLogin],
    authorities: Callable[[], str],
) -> Starlette:
    """Returns the application that drivers report to, and that the server asks for estimates."""
    reviews = TokenReviews(
        kube, clock, believed_seconds=REVIEW_SECONDS, audience=TRANSPORT_AUDIENCE
    )

    async def caller_of(request: Request) -> _Caller:
        if (token := bearer_token(request.headers)) is None:
            raise Problem(401, "the bearer token of the driver's pod is needed")
        user = await reviews.user_of(token)
        if user is None or (caller := _pod_of(user)) is None:
            raise Problem(401, "the token is not valid for this audience, or is not bound to a pod")
        return caller

    async def sync(request: Request) -> Response:
        caller = await caller_of(request)
        raw = await json_body(request, REPORT_BYTES_MAX)
        try:
            report = read_message(DriverReport, raw)
        except ValidationError as error:
            raise Problem(400, message_faults(error)) from None
        return JSONResponse(accept(caller, report).wire())

    def accept(caller: _Caller, report: DriverReport) -> Assignment:
        node, job = lookup(report.node_uid)
        if node is None:
            raise Problem(404, "the controller has not seen this GpuNode yet; try again")
        driver = node.status.driver
        if (
            driver is None
            or driver.pod_uid != caller.pod_uid
            or node.metadata.namespace != caller.namespace
        ):
            raise Problem(403, "this pod is not the driver that the GpuNode records")
        told = assignment(node, job, limits)
        if report.login is not None:
            # It is kept apart from all else that is heard, and until the rent only.
            if told.wants_login and logins.get(report.node_uid) != report.login:
                logins[report.node_uid] = report.login
                on_news(Key("GpuNode", node.metadata.namespace, node.metadata.name))
            report = report.model_copy(update={"login": None})
        held = heard.get(report.node_uid)
        before = held.report if held is not None and held.pod_uid == caller.pod_uid else None
        # A report that arrives twice, or after a newer one, says nothing about the present.
        if before is None or report.order > before.order:
            heard[report.node_uid] = Heard(report, caller.pod_uid, clock.monotonic())
            if before is None or _is_news(before, report):
                on_news(Key("GpuNode", node.metadata.namespace, node.metadata.name))
        if job is None and node.status.end is None:
            # It cannot be read, or is gone: the pass over the node decides what the driver does.
            raise Problem(503, "the controller cannot read the node's GpuJob; go on, and ask again")
        return told.model_copy(update={"authorities": authorities()})

    return listener_app(
        Route(SYNC_PATH, sync, methods=["POST"]),
        estimates_route(clock=clock, reviews=reviews, world=world, quotes=quotes),
    )


def _is_news(before: DriverReport, after: DriverReport) -> bool:
    """True if a pass over the node could decide differently because of the new report."""
    return _deciding(before) != _deciding(after)


def _deciding(report: DriverReport) -> tuple[object, ...]:
    return (
        *(report.phase, report.measured, report.ended, report.outcome),
        report.money_deadline_seconds,
        *(report.fault, report.data_problem, report.login_problem, report.message),
    )


def _pod_of(user: Mapping[str, Any]) -> _Caller | None:
    """Returns the pod that a service account's token is bound to, or None."""
    extra = user.get("extra") or {}
    parts = str(user.get("username", "")).split(":")
    uids, names = extra.get(POD_UID) or [], extra.get(POD_NAME) or []
    if parts[:2] != ["system", "serviceaccount"] or len(parts) != 4 or not uids or not names:
        return None
    return _Caller(namespace=parts[2], pod_uid=uids[0])
