"""The route of estimates, which the controller answers."""

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response
from starlette.requests import Request

from gpujob.api.estimate import JobEstimate
from gpujob.server.http_api.bodies import NewJob, read_body
from gpujob.server.http_api.dependencies import JOBS, BackendDep, Namespace, answers, body_of, may
from gpujob.server.http_api.new_jobs import object_of, warning_header

router = APIRouter(tags=["jobs"])


@router.post(
    "/v1/namespaces/{namespace}/estimates",
    response_model=JobEstimate,
    responses=answers(408, 413, 415, 422),
    openapi_extra=body_of(NewJob),
    dependencies=[may("create", JOBS)],
)
async def estimate_job(request: Request, backend: BackendDep, namespace: Namespace) -> Response:
    """Returns what the cost gate would decide on a job now, and on which offers. Creates nothing.

    It does not check whether the name is taken, quotas, or missing files.
    """
    asked = await read_body(request, NewJob)
    _, warnings = object_of(asked, namespace, backend)
    told = await backend.controller.estimate(namespace, asked.spec)
    return JSONResponse(told.wire(), 200, warning_header(warnings))
