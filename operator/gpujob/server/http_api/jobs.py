"""The routes of jobs: those of all jobs of a namespace, and those of one job."""

from typing import Annotated

from fastapi import APIRouter, Depends
from fastapi.responses import JSONResponse, Response
from pydantic import ValidationError
from starlette.requests import Request

from gpujob.adapters.errors import Conflict, ObjectGone
from gpujob.adapters.kube import Body, KubeClient
from gpujob.api.gpujob import GpuJob
from gpujob.server.http_api.bodies import NewJob, read_body
from gpujob.server.http_api.dependencies import (
    JOBS,
    Backend,
    BackendDep,
    CallerDep,
    JobName,
    Namespace,
    Paging,
    PagingDep,
    SelectorDep,
    VersionDep,
    answers,
    body_of,
    etag,
    may,
    may_everywhere,
)
from gpujob.server.http_api.documents import (
    Decision,
    Job,
    JobPage,
    decision_document,
    job_document,
    wire,
)
from gpujob.server.http_api.idempotency import Idempotency, idempotency
from gpujob.server.http_api.new_jobs import object_of, warning_header
from gpujob.web.problems import Problem

collection = APIRouter(tags=["jobs"])
items = APIRouter(tags=["jobs"])

ALL_JOBS = "/v1/jobs"
JOBS_PATH = "/v1/namespaces/{namespace}/jobs"
JOB_PATH = JOBS_PATH + "/{name}"


async def stored_job(kube: KubeClient, namespace: str, name: str) -> Body:
    """Returns a job as the cluster stores it; raises Problem if there is none."""
    try:
        return await kube.get("GpuJob", namespace, name)
    except ObjectGone:
        raise _absent(namespace, name) from None


def _absent(namespace: str, name: str) -> Problem:
    return Problem(404, f"there is no job {name} in namespace {namespace}")


def _changed(version: str) -> Problem:
    if version:
        return Problem(412, "the job no longer has this ETag; read it again")
    return Problem(409, "the job has changed in the meantime; try again")


# --- All jobs ---------------------------------------------------------------------------------


async def _page(
    backend: Backend, namespace: str | None, page: Paging, selector: str
) -> JSONResponse:
    async with backend.lists.turn(namespace or ""):
        found, following = await page.fetch(backend.kube, "GpuJob", namespace, selector)
        shown: Body = {"items": [job_document(one) for one in found]}
        return JSONResponse(shown | ({"nextCursor": following} if following else {}))


@collection.get(
    ALL_JOBS,
    response_model=JobPage,
    responses=answers(410),
    dependencies=[may_everywhere("list", JOBS)],
)
async def list_all_jobs(backend: BackendDep, page: PagingDep, selector: SelectorDep) -> Response:
    """Lists the jobs of all namespaces."""
    return await _page(backend, None, page, selector)


@collection.get(
    JOBS_PATH,
    response_model=JobPage,
    responses=answers(410),
    dependencies=[may("list", JOBS)],
)
async def list_jobs(
    backend: BackendDep, namespace: Namespace, page: PagingDep, selector: SelectorDep
) -> Response:
    """Lists the jobs of a namespace."""
    return await _page(backend, namespace, page, selector)


@collection.post(
    JOBS_PATH,
    response_model=Job,
    status_code=201,
    responses=answers(404, 408, 409, 413, 415, 422)
    | {200: {"model": Job, "description": "An earlier request with this key created the job."}},
    openapi_extra=body_of(NewJob),
    dependencies=[may("create", JOBS)],
)
async def create_job(
    request: Request,
    backend: BackendDep,
    caller: CallerDep,
    namespace: Namespace,
    once: Annotated[Idempotency | None, Depends(idempotency)],
) -> Response:
    """Creates a job; the cost gate decides when and whether a machine is rented for it.

    The body is the manifest that kubectl takes, in JSON or YAML. What its user may regret stands in
    `Warning`.
    """
    body, warnings = object_of(await read_body(request, NewJob), namespace, backend)
    try:
        if once is None:
            made = await backend.kube.create_strictly("GpuJob", namespace, body)
        else:
            made, is_new = await once.create(
                backend.kube, backend.mark_keys, caller, namespace, body
            )
            if not is_new:
                return JSONResponse(job_document(made), 200, etag(made))
    except ObjectGone:
        raise Problem(404, f"there is no namespace {namespace}") from None
    except Conflict:
        name = body["metadata"].get("name", "of the name that was made up")
        words = f"there is already a job {name} in namespace {namespace}"
        raise Problem(409, words) from None
    place = {"Location": JOB_PATH.format(namespace=namespace, name=made["metadata"]["name"])}
    return JSONResponse(job_document(made), 201, etag(made) | place | warning_header(warnings))


# --- One job ----------------------------------------------------------------------------------


@items.get(JOB_PATH, response_model=Job, responses=answers(404), dependencies=[may("get", JOBS)])
async def get_job(backend: BackendDep, namespace: Namespace, name: JobName) -> Response:
    """Returns a job."""
    stored = await stored_job(backend.kube, namespace, name)
    return JSONResponse(job_document(stored), 200, etag(stored))


@items.delete(
    JOB_PATH,
    status_code=202,
    response_model=Job,
    responses=answers(404, 409, 412),
    dependencies=[may("delete", JOBS)],
)
async def delete_job(
    backend: BackendDep, namespace: Namespace, name: JobName, version: VersionDep
) -> Response:
    """Deletes a job. The job is gone once its machine is proved to be gone."""
    stored = await stored_job(backend.kube, namespace, name)
    uid = stored["metadata"]["uid"]
    try:
        if version:
            await backend.kube.delete_version("GpuJob", namespace, name, uid=uid, version=version)
        else:
            await backend.kube.delete("GpuJob", namespace, name, uid)
    except Conflict:
        raise _changed(version) from None
    return JSONResponse(job_document(stored), 202)


def _suspension(verb: str, description: str, *, suspends: bool) -> None:
    """Adds the route that sets `spec.suspend` to one value."""

    @items.post(
        f"{JOB_PATH}/{verb}",
        name=f"{verb}_job",
        description=description,
        response_model=Job,
        responses=answers(404, 409, 412, 422),
        dependencies=[may("patch", JOBS)],
    )
    async def set_suspended(
        backend: BackendDep, namespace: Namespace, name: JobName, version: VersionDep
    ) -> Response:
        stored = await stored_job(backend.kube, namespace, name)
        # The uid holds the patch to this job. Another one may have taken its name meanwhile.
        metadata = {"uid": stored["metadata"]["uid"]}
        if version:
            metadata["resourceVersion"] = version
        patch: Body = {"metadata": metadata, "spec": {"suspend": suspends}}
        try:
            changed = await backend.kube.merge("GpuJob", namespace, name, patch)
        except Conflict:
            raise _changed(version) from None
        except ObjectGone:
            raise _absent(namespace, name) from None
        return JSONResponse(job_document(changed), 200, etag(changed))


_suspension(
    "suspend",
    "Stops a job: its machine is given back, and none is rented for it until it is resumed.",
    suspends=True,
)
_suspension("resume", "Lets a suspended job run again.", suspends=False)


@items.get(
    f"{JOB_PATH}/decision",
    response_model=Decision,
    responses=answers(404, 422),
    dependencies=[may("get", JOBS)],
)
async def explain_decision(backend: BackendDep, namespace: Namespace, name: JobName) -> Response:
    """Returns the latest decision of the cost gate on a job, and why it was taken."""
    stored = await stored_job(backend.kube, namespace, name)
    try:
        job = GpuJob.model_validate(stored)
    except ValidationError:
        raise Problem(422, "the stored job cannot be read; see its conditions") from None
    return JSONResponse(wire(decision_document(job)))
