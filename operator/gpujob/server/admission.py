"""The admission webhook: AdmissionReviews of GpuJobs in, verdicts out.

Whatever is not exactly such a review is answered with an error. The webhook's failure policy is
Fail, so the API server then refuses the object.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import structlog
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from gpujob.adapters.clock import Clock
from gpujob.api.foreign import Bounds, TooMuch
from gpujob.api.notes import MarketNotes
from gpujob.core.admission import Review, review
from gpujob.core.spec_faults import mark_faults, place_faults
from gpujob.web.bodies import read_body
from gpujob.web.listener import listener_app
from gpujob.web.problems import Problem

PATH = "/validate-gpujobs"
BODY_BYTES_MAX = 4 << 20
"""A review holds the object before and after the change, and etcd stores none of 1.5 MiB."""
BOUNDS = Bounds(values=20_000, depth=64, digits=400)
"""Ten times what a job has with all that its managers have written about it."""
UNPROCESSABLE = 422

log = structlog.get_logger("gpujob.admission")


class _GroupKind(BaseModel):
    group: Literal["gpujob.dev"]
    kind: Literal["GpuJob"]
    version: str


class _User(BaseModel):
    username: str = ""


class _AdmissionRequest(BaseModel):
    model_config = ConfigDict(extra="ignore", populate_by_name=True)
    uid: str = Field(min_length=1, max_length=128)
    kind: _GroupKind
    operation: Literal["CREATE", "UPDATE"]
    object: dict[str, Any]
    namespace: str = ""
    name: str = ""
    user_info: _User = Field(_User(), alias="userInfo")


class _AdmissionReview(BaseModel):
    model_config = ConfigDict(extra="ignore", populate_by_name=True)
    api_version: Literal["admission.k8s.io/v1"] = Field(alias="apiVersion")
    kind: Literal["AdmissionReview"]
    request: _AdmissionRequest


def admission_app(
    clock: Clock,
    market: Callable[[], MarketNotes | None] = lambda: None,
    *,
    own_namespace: str,
    own_account: str = "",
    nobody_leads: Callable[[], bool] = lambda: False,
) -> Starlette:
    """Returns the application that the API server calls; `market` returns the latest notes.

    No job may be in `own_namespace`, the release's; only `own_account` of it, which the HTTP API
    creates jobs as, may mark them as ours. `nobody_leads` says that no controller is there
    to decide on a job.
    """

    def judged(raw: bytes) -> tuple[_AdmissionRequest, Review]:
        asked = _read(raw)
        verdict = review(asked.object, market(), now=clock.now(), nobody_leads=nobody_leads())
        more = place_faults(asked.namespace, own_namespace)
        ours = f"system:serviceaccount:{own_namespace}:{own_account}"
        if asked.operation == "CREATE" and asked.user_info.username != ours:
            more += mark_faults(asked.object.get("metadata"))
        return asked, replace(verdict, faults=(*more, *verdict.faults))

    async def validate(request: Request) -> Response:
        try:
            asked, verdict = await read_body(request, BODY_BYTES_MAX, judged)
        except Problem as problem:
            log.warning("review_rejected", status=problem.status, problem=problem.detail)
            raise
        if verdict.faults:
            log.info(
                "denied",
                namespace=asked.namespace,
                job=asked.name,
                fields=[one.field for one in verdict.faults],
            )
        return JSONResponse(_answer(asked.uid, verdict))

    return listener_app(Route(PATH, validate, methods=["POST"]))


def _read(raw: bytes) -> _AdmissionRequest:
    try:
        BOUNDS.check(raw)
        return _AdmissionReview.model_validate_json(raw).request
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the body"
        words = f"the body is not a review of a GpuJob: {where}: {first['msg']}"
        raise Problem(400, words) from None
    except TooMuch as error:
        raise Problem(400, f"the body is not a review of a GpuJob: {error}") from None


def _answer(uid: str, verdict: Review) -> dict[str, Any]:
    response: dict[str, Any] = {"uid": uid, "allowed": not verdict.faults}
    if verdict.faults:
        response["status"] = {"code": UNPROCESSABLE, "reason": "Invalid", "message": verdict.words}
    if verdict.warnings:
        response["warnings"] = list(verdict.warnings)
    return {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response}
