"""The routes of streams: the changes of jobs, and the log of one job."""

import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query
from fastapi.responses import Response, StreamingResponse

from gpujob.adapters.errors import Invalid, ObjectGone
from gpujob.adapters.kube import PAGE_OBJECTS, Body, KubeClient
from gpujob.api.gpujob import ATTEMPTS_MAX
from gpujob.api.meta import LABEL_JOB
from gpujob.core.job.plan import node_name
from gpujob.core.machine.driver_pod import CONTAINER, driver_pod_name
from gpujob.server.http_api.dependencies import (
    JOBS,
    LOGS,
    BackendDep,
    CallerDep,
    JobName,
    Namespace,
    answers,
    may,
)
from gpujob.server.http_api.documents import Job, job_document
from gpujob.server.http_api.jobs import JOB_PATH, stored_job
from gpujob.web.problems import Problem

router = APIRouter(tags=["jobs"])

PAGE_BYTES_MAX = 1 << 19
"""Each stream that is read slowly holds a page of its list."""
STREAM_SECONDS = 600
"""How long a stream lasts at most; a caller who wants more asks again."""


def _event_schema(data: dict[str, Any], *kinds: str) -> dict[str, Any]:
    properties = {
        "event": {"enum": kinds},
        "id": {"type": "string", "pattern": "^[0-9]+$"},
        "data": data,
    }
    return {"type": "object", "required": [*properties], "properties": properties}


_JOB = {
    "type": "string",
    "contentMediaType": "application/json",
    "contentSchema": {"$ref": f"#/components/schemas/{Job.__name__}"},
}
EVENT = {
    "description": "Each event of the stream.",
    "oneOf": [
        _event_schema(_JOB, "added", "modified", "deleted"),
        _event_schema({"const": "{}"}, "listed", "bookmark"),
    ],
}
"""OpenAPI 3.1 cannot describe the items of a stream. By convention this describes one item."""


def _event(kind: str, number: str, document: Body) -> bytes:
    return f"event: {kind}\nid: {number}\ndata: {json.dumps(document)}\n\n".encode()


@asynccontextmanager
async def _job_events(
    kube: KubeClient, namespace: str, version: str
) -> AsyncIterator[AsyncIterator[bytes]]:
    """Watches jobs from a version on; without one, their list comes first.

    The list is read as it is sent, so that no more than a page of it is held.
    """
    if version:
        async with _changes(kube, namespace, version) as changes:
            yield changes
        return
    first = await _page(kube, namespace, "")

    async def all_events() -> AsyncGenerator[bytes, None]:
        items, token, listed = first
        for item in items:
            yield item
        while token:
            items, token, listed = await _page(kube, namespace, token)
            for item in items:
                yield item
        async with _changes(kube, namespace, listed) as changes:
            async for change in changes:
                yield change

    events = all_events()
    try:
        yield events
    finally:
        await events.aclose()


async def _page(kube: KubeClient, namespace: str, token: str) -> tuple[list[bytes], str, str]:
    items, token, version = await kube.page(
        "GpuJob", namespace, limit=PAGE_OBJECTS, token=token, bytes_max=PAGE_BYTES_MAX
    )
    events = [
        _event("added", one["metadata"]["resourceVersion"], job_document(one)) for one in items
    ]
    return events, token, version


@asynccontextmanager
async def _changes(
    kube: KubeClient, namespace: str, version: str
) -> AsyncIterator[AsyncIterator[bytes]]:
    watching = kube.watch("GpuJob", namespace, version=version, seconds=STREAM_SECONDS)
    async with watching as changes:

        async def events() -> AsyncIterator[bytes]:
            yield _event("listed", version, {})
            async for change in changes:
                stored, kind = change["object"], change["type"]
                document = {} if kind == "BOOKMARK" else job_document(stored)
                yield _event(kind.lower(), stored["metadata"]["resourceVersion"], document)

        yield events()


@router.get(
    "/v1/namespaces/{namespace}/watch/jobs",
    response_class=StreamingResponse,
    responses=answers(410) | {200: {"content": {"text/event-stream": {"schema": EVENT}}}},
    dependencies=[may("watch", JOBS)],
)
async def watch_jobs(
    backend: BackendDep,
    caller: CallerDep,
    namespace: Namespace,
    last_event_id: Annotated[
        str | None,
        Header(
            pattern="^[0-9]{1,18}$",
            description="`id` of the last event that was read: continue after it. If the answer "
            "is 410, the id has expired; start again without it.",
        ),
    ] = None,
) -> Response:
    """Streams the jobs of a namespace as server-sent events: `added` for each, `listed`, changes.

    Changes are `added`, `modified` and `deleted` with the job, and `bookmark` without one. The
    stream ends after ten minutes; ask again with `Last-Event-ID`.
    """
    if last_event_id is None:
        # The stream then begins with a list.
        await backend.callers.demand(caller, "list", JOBS, namespace)
    events = _job_events(backend.kube, namespace, last_event_id or "")
    return await backend.streams.answer(caller.name, namespace, events, "text/event-stream")


@router.get(
    f"{JOB_PATH}/log",
    response_class=StreamingResponse,
    responses=answers(404) | {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    dependencies=[may("get", LOGS), may("get", JOBS)],
)
async def read_log(
    backend: BackendDep,
    caller: CallerDep,
    namespace: Namespace,
    name: JobName,
    attempt: Annotated[
        int | None,
        Query(ge=1, le=ATTEMPTS_MAX, description="Number of the attempt; absent: the latest one."),
    ] = None,
    follow: Annotated[bool, Query(description="Whether to wait for more output.")] = False,
    tail_lines: Annotated[
        int | None,
        Query(
            alias="tailLines",
            ge=0,
            le=1_000_000,
            description="How many of the last lines to return; absent: all lines.",
        ),
    ] = None,
) -> Response:
    """Returns what the workload has printed in an attempt, from the log of its driver's pod."""
    stored = await stored_job(backend.kube, namespace, name)
    number = attempt or int((stored.get("status") or {}).get("attempt") or 0)
    absent = Problem(404, f"there is no log of attempt {number} of job {name}")
    if number == 0:
        raise absent
    node = node_name(name, number)
    found, _, _ = await backend.kube.page(
        "GpuNode", namespace, limit=1, fields=f"metadata.name={node}"
    )
    status = (found[0].get("status") if found else None) or {}
    # A pod that was lost has a successor with another name.
    pod_name = (status.get("driver") or {}).get("podName") or driver_pod_name(node)
    pod = await backend.kube.find("Pod", namespace, pod_name)
    if pod is None or (pod["metadata"].get("labels") or {}).get(LABEL_JOB) != name:
        raise absent
    text = backend.kube.pod_log(
        namespace, pod_name, CONTAINER, follow=follow, tail=tail_lines, seconds=STREAM_SECONDS
    )
    try:
        return await backend.streams.answer(
            caller.name, namespace, text, "text/plain; charset=utf-8"
        )
    except (ObjectGone, Invalid):
        raise absent from None
