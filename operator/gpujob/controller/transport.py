"""The server side of the transport: drivers report here, and the answer says what to do.

A driver knows the controller by its certificate, and the controller a driver by the token of its
pod. Only the pod that the GpuNode records gets an answer, or, as long as it records none, the pod
that is to be recorded. A report is kept as an observation for the next pass; nothing is stored or
spent right away. An answer waits until it says something new.
"""

from collections.abc import Callable

from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from gpujob.adapters.clock import Clock
from gpujob.api.gpujob import GpuJob
from gpujob.api.gpunode import GpuNode
from gpujob.api.transport import (
    REPORT_BYTES_MAX,
    SYNC_PATH,
    Assignment,
    DriverReport,
    Instruction,
    RegistryLogin,
    digest_of_answer,
    message_faults,
    read_message,
)
from gpujob.controller.driver_tokens import DriverPod, DriverTokens
from gpujob.controller.estimates import QuotesFor, WorldNow, estimates_route
from gpujob.controller.holds import Holds
from gpujob.controller.workqueue import Key
from gpujob.core.limits import Limits
from gpujob.core.machine.assignment import assignment, may_be_driver
from gpujob.core.observation import Heard
from gpujob.web.bearer import bearer_token
from gpujob.web.bodies import read_body
from gpujob.web.listener import listener_app
from gpujob.web.problems import Problem
from gpujob.web.token_reviews import TokenReviews

Lookup = Callable[[str], tuple[GpuNode | None, GpuJob | None]]
"""Finds a node by its uid, and its job, both as last seen by the watch."""


def transport_app(
    *,
    reviews: TokenReviews,
    tokens: DriverTokens,
    holds: Holds,
    clock: Clock,
    limits: Limits,
    lookup: Lookup,
    is_pod_of: Callable[[Key, str, str], bool],
    heard: dict[str, Heard],
    on_news: Callable[[Key], None],
    world: WorldNow,
    quotes: QuotesFor,
    logins: dict[str, RegistryLogin],
    authorities: Callable[[], str],
) -> Starlette:
    """Returns the application that drivers report to, and that the server asks for estimates.

    `is_pod_of` says whether the cluster was last seen with the pod of this uid, owned by the object
    of another uid.
    """

    async def sync(request: Request) -> Response:
        # The driver's patience begins now, and the review of its token may take its time.
        until = holds.until()
        if (token := bearer_token(request.headers)) is None:
            raise Problem(401, "the bearer token of the driver's pod is needed")
        if (caller := await tokens.pod_of(token)) is None:
            raise Problem(401, "the token is not valid for this audience, or is not bound to a pod")
        report = await read_body(request, REPORT_BYTES_MAX, _read)
        told = accept(caller, report)
        answer = JSONResponse(told.wire())
        while may_wait(told, answer, report) and await holds.change(report.node_uid, until):
            told = tell(caller, report.node_uid)
            answer = JSONResponse(told.wire())
        return answer

    def found(caller: DriverPod, node_uid: str) -> tuple[GpuNode, GpuJob | None]:
        node, job = lookup(node_uid)
        if node is None:
            raise Problem(404, "the controller has not seen this GpuNode yet; try again")
        pod = Key("Pod", caller.namespace, caller.name)
        is_its = caller.namespace == node.metadata.namespace and (
            _is_driver(caller, node)
            or (may_be_driver(node, caller.name) and is_pod_of(pod, caller.uid, node_uid))
        )
        if not is_its:
            raise Problem(403, "this pod is not the driver that the GpuNode records")
        return node, job

    def tell(caller: DriverPod, node_uid: str) -> Assignment:
        node, job = found(caller, node_uid)
        if job is None and node.status.end is None:
            # It cannot be read, or is gone: the pass over the node decides what the driver does.
            raise Problem(503, "the controller cannot read the node's GpuJob; go on, and ask again")
        return assignment(node, job, limits).model_copy(update={"authorities": authorities()})

    def accept(caller: DriverPod, report: DriverReport) -> Assignment:
        node, job = found(caller, report.node_uid)
        if report.login is not None:
            # It is kept apart from all else that is heard, and until the rent only.
            wants = assignment(node, job, limits).wants_login
            if wants and logins.get(report.node_uid) != report.login:
                logins[report.node_uid] = report.login
                on_news(Key("GpuNode", node.metadata.namespace, node.metadata.name))
            report = report.model_copy(update={"login": None})
        held = heard.get(report.node_uid)
        before = held.report if held is not None and held.pod_uid == caller.uid else None
        # A report that arrives twice, or after a newer one, says nothing about the present.
        if before is None or report.order > before.order:
            heard[report.node_uid] = Heard(report, caller.uid, clock.monotonic())
            if before is None or report.news != before.news:
                on_news(Key("GpuNode", node.metadata.namespace, node.metadata.name))
        return tell(caller, report.node_uid)

    def may_wait(told: Assignment, answer: Response, report: DriverReport) -> bool:
        # How a stop goes on is counted in seconds, so drivers report it often.
        if report.taken is None or told.instruction is Instruction.STOP:
            return False
        newest = heard.get(report.node_uid)
        is_newest = newest is not None and newest.report.order == report.order
        return is_newest and digest_of_answer(bytes(answer.body)) == report.taken

    return listener_app(
        Route(SYNC_PATH, sync, methods=["POST"]),
        estimates_route(clock=clock, reviews=reviews, world=world, quotes=quotes),
    )


def _read(raw: bytes) -> DriverReport:
    try:
        return read_message(DriverReport, raw)
    except ValidationError as error:
        raise Problem(400, message_faults(error)) from None


def _is_driver(pod: DriverPod, node: GpuNode) -> bool:
    recorded = node.status.driver
    return recorded is not None and recorded.pod_uid == pod.uid
