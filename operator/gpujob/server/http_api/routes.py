"""The API's routes: each asks whether its caller may, then the cluster; nothing is kept here."""

import asyncio
import base64
import binascii
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any

import structlog
from fastapi import FastAPI, Header, Path, Query, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import ValidationError

from gpujob.adapters.clock import Clock
from gpujob.adapters.controller import ControllerClient
from gpujob.adapters.errors import ClusterError, Conflict, Invalid, ObjectGone
from gpujob.adapters.kube import Body, KubeClient
from gpujob.api.estimate import JobEstimate
from gpujob.api.gpujob import GpuJob
from gpujob.api.gpunode import GpuNode
from gpujob.api.meta import API_VERSION, LABEL_JOB
from gpujob.api.notes import MarketNotes
from gpujob.api.reasons import Reason
from gpujob.core.admission import review
from gpujob.core.api_tokens import digest_of
from gpujob.core.job.plan import node_name
from gpujob.core.machine.driver_pod import driver_pod_name
from gpujob.core.money import format_usd
from gpujob.server.http_api.bodies import NewJob, read_body
from gpujob.server.http_api.callers import Caller, Callers
from gpujob.server.http_api.documents import (
    Decision,
    Job,
    JobPage,
    MachinePage,
    job_document,
    machine_document,
    wire,
)
from gpujob.server.http_api.problems import TITLES, Problem

JOBS, NODES, LOGS = "gpujob.dev/gpujobs", "gpujob.dev/gpunodes", "/pods/log"
KEY_LABEL = "gpujob.dev/idempotency-key"
REQUEST_ANNOTATION = "gpujob.dev/request-digest"
STREAM_SECONDS = 600
"""After which a stream ends; whoever still listens asks again."""
STREAMS_AT_ONCE = 64
PER_CALLER = 8


def _told(data: dict[str, Any], *kinds: str) -> dict[str, Any]:
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
        _told(_JOB, "added", "modified", "deleted"),
        _told({"const": "{}"}, "listed", "bookmark"),
    ],
}
"""OpenAPI 3.1 has no word for the items of a stream: this describes one, as is usual."""

log = structlog.get_logger("gpujob.http_api")

# Kubernetes' grammar of label selectors, but for the length of a key's prefix.
_NAME = "[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
_PREFIX = "[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
_KEY = rf"({_PREFIX}(\.{_PREFIX})*/)?{_NAME}"
_SET = rf"\( *({_NAME})?( *, *({_NAME})?)* *\)"
_TERM = rf"(! *{_KEY}|{_KEY}( *(==?|!=) *({_NAME})?| +(in|notin) *{_SET}| *[<>] *[0-9]{{1,18}})?)"

Namespace = Annotated[
    str, Path(max_length=63, pattern="^[a-z0-9]([a-z0-9-]*[a-z0-9])?$", examples=["team-a"])
]
JobName = Annotated[
    str, Path(max_length=63, pattern=r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$", examples=["train"])
]
Limit = Annotated[int, Query(ge=1, le=500, description="How many at most.")]
Cursor = Annotated[
    str | None,
    Query(
        max_length=4096,
        pattern="^([A-Za-z0-9_-]{4})*([A-Za-z0-9_-]{2,3})?$",
        description="`nextCursor` of the page before; absent: from the start.",
    ),
]
Selector = Annotated[
    str,
    Query(
        alias="labelSelector",
        max_length=1024,
        pattern=f"^ *({_TERM}( *, *{_TERM})* *)?$",
        description="As kubectl's --selector.",
        examples=["team=vision,!draft"],
    ),
]
IfMatch = Annotated[
    str | None,
    Header(
        pattern=r'^("[0-9]{1,18}"|\*)$',
        description="ETag, with its quotation marks: do it only if the job is still of this "
        "version. `*`: of whichever.",
    ),
]


@dataclass
class Streams:
    """How many answers without an end are being given, and to whom."""

    by_caller: dict[str, int] = field(default_factory=dict)

    def enter(self, name: str) -> None:
        """Counts one more; raises Problem if there are too many."""
        if sum(self.by_caller.values()) >= STREAMS_AT_ONCE:
            raise Problem(503, "too many streams are open", headers={"Retry-After": "30"})
        if self.by_caller.get(name, 0) >= PER_CALLER:
            words = f"this token has {PER_CALLER} streams open; end one"
            raise Problem(429, words, headers={"Retry-After": "30"})
        self.by_caller[name] = self.by_caller.get(name, 0) + 1

    def leave(self, name: str) -> None:
        """Counts one less."""
        self.by_caller[name] -= 1
        if not self.by_caller[name]:
            del self.by_caller[name]


class Stream(StreamingResponse):
    """An answer without an end of its own: it ends with its source, or with whoever listens."""

    def __init__(
        self, chunks: AsyncIterator[bytes], media_type: str, opened: AsyncExitStack
    ) -> None:
        super().__init__(self._until_it_breaks(chunks), media_type=media_type)
        self._opened = opened

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Carries it; what was opened for it is closed whatever happens."""
        async with self._opened:
            answering = asyncio.create_task(super().__call__(scope, receive, send))
            leaving = asyncio.create_task(_has_left(receive))
            try:
                await asyncio.wait([answering, leaving], return_when=asyncio.FIRST_COMPLETED)
                if answering.done():
                    answering.result()
            finally:
                answering.cancel()
                leaving.cancel()
                await asyncio.gather(answering, leaving, return_exceptions=True)

    @staticmethod
    async def _until_it_breaks(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        try:
            async for chunk in chunks:
                yield chunk
        except ClusterError as error:
            # Too late for a status: the stream ends, and whoever wants more asks again.
            log.warning("stream_broke", problem=str(error))


async def _has_left(receive: Any) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _answers(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Documents what else a route may answer; what the guard answers, all may."""
    named = sorted({400, 401, 403, 429, 500, 503, *statuses})
    return {status: {"description": TITLES[status]} for status in named}


def _etag(stored: Body) -> dict[str, str]:
    return {"ETag": f'"{stored["metadata"]["resourceVersion"]}"'}


def _version_in(if_match: str | None) -> str:
    """Returns the version that must still hold; empty = any."""
    return "" if if_match is None else if_match.strip('"*')


def _token_in(cursor: str | None) -> str:
    if cursor is None:
        return ""
    try:
        raw = cursor.encode() + b"=" * (-len(cursor) % 4)
        return base64.b64decode(raw, altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        raise Problem(400, "the cursor is none of ours") from None


def _cursor_of(token: str) -> str | None:
    return base64.urlsafe_b64encode(token.encode()).decode().rstrip("=") if token else None


def add_routes(
    app: FastAPI,
    *,
    kube: KubeClient,
    clock: Clock,
    callers: Callers,
    notes: Callable[[], MarketNotes | None],
    controller: ControllerClient,
) -> None:
    """Adds the routes to the application."""
    streams = Streams()

    async def demand(request: Request, verb: str, resource: str, namespace: str) -> Caller:
        caller: Caller = request.state.caller
        await callers.demand(caller, verb, resource, namespace)
        return caller

    async def stored_job(namespace: str, name: str) -> Body:
        try:
            return await kube.get("GpuJob", namespace, name)
        except ObjectGone:
            raise Problem(404, f"there is no job {name} in namespace {namespace}") from None

    async def page(
        namespace: str | None, limit: int, cursor: str | None, selector: str, kind: str
    ) -> tuple[list[Body], str | None]:
        try:
            items, token, _ = await kube.page(
                kind, namespace, limit=limit, token=_token_in(cursor), selector=selector
            )
        except Invalid:
            raise Problem(400, "the cursor or the label selector is not understood") from None
        return items, _cursor_of(token)

    async def jobs_page(
        namespace: str | None, limit: int, cursor: str | None, selector: str
    ) -> JSONResponse:
        items, following = await page(namespace, limit, cursor, selector, "GpuJob")
        shown: Body = {"items": [job_document(one) for one in items]}
        return JSONResponse(shown | ({"nextCursor": following} if following else {}))

    async def machines_page(namespace: str | None, limit: int, cursor: str | None) -> JSONResponse:
        items, following = await page(namespace, limit, cursor, "", "GpuNode")
        nodes = [GpuNode.model_validate(one) for one in items]
        machines = [machine_document(node) for node in nodes if node.status.may_cost]
        return JSONResponse(wire(MachinePage(items=machines, next_cursor=following)))

    def could_run(asked: NewJob) -> Body:
        """Returns the object that is asked for; raises Problem if it could not run as it is."""
        body: Body = {
            "apiVersion": API_VERSION,
            "kind": "GpuJob",
            "metadata": asked.metadata.model_dump(),
            "spec": asked.spec.wire(),
        }
        verdict = review(body, notes(), now=clock.now())
        if verdict.faults:
            faults = tuple((fault.field, fault.message) for fault in verdict.faults)
            raise Problem(422, "the job could not run as it is", faults=faults)
        return body

    # --- Jobs -------------------------------------------------------------------------------

    @app.get("/v1/jobs", response_model=JobPage, responses=_answers(410), tags=["jobs"])
    async def list_all_jobs(
        request: Request, limit: Limit = 100, cursor: Cursor = None, selector: Selector = ""
    ) -> Response:
        """Jobs of all namespaces."""
        await demand(request, "list", JOBS, "")
        return await jobs_page(None, limit, cursor, selector)

    @app.get(
        "/v1/namespaces/{namespace}/jobs",
        response_model=JobPage,
        responses=_answers(410),
        tags=["jobs"],
    )
    async def list_jobs(
        request: Request,
        namespace: Namespace,
        limit: Limit = 100,
        cursor: Cursor = None,
        selector: Selector = "",
    ) -> Response:
        """Jobs of a namespace."""
        await demand(request, "list", JOBS, namespace)
        return await jobs_page(namespace, limit, cursor, selector)

    @app.post(
        "/v1/namespaces/{namespace}/jobs",
        response_model=Job,
        status_code=201,
        responses=_answers(404, 408, 409, 413, 415, 422)
        | {200: {"model": Job, "description": "It was created by an earlier request like this."}},
        openapi_extra=_body_of(NewJob),
        tags=["jobs"],
    )
    async def create_job(
        request: Request,
        namespace: Namespace,
        idempotency_key: Annotated[
            str | None,
            Header(
                min_length=1,
                max_length=255,
                description="Sent again with the same key, a request creates nothing again.",
            ),
        ] = None,
    ) -> Response:
        """Creates a job; the cost gate decides when and whether a machine is rented for it."""
        caller = await demand(request, "create", JOBS, namespace)
        asked = await read_body(request, NewJob)
        body = could_run(asked)
        key = ""
        if idempotency_key is not None:
            key = digest_of(f"{caller.name}\n{idempotency_key}")[:40]
            digest = digest_of(json.dumps(body, sort_keys=True))
            if (earlier := await _earlier(kube, namespace, key, digest)) is not None:
                return JSONResponse(job_document(earlier), 200, _etag(earlier))
            body["metadata"]["labels"] = asked.metadata.labels | {KEY_LABEL: key}
            body["metadata"]["annotations"] = asked.metadata.annotations | {
                REQUEST_ANNOTATION: digest
            }
        try:
            made = await kube.create_strictly("GpuJob", namespace, body)
        except ObjectGone:
            raise Problem(404, f"there is no namespace {namespace}") from None
        except Conflict:
            if key and (earlier := await _earlier(kube, namespace, key, digest)) is not None:
                return JSONResponse(job_document(earlier), 200, _etag(earlier))
            words = f"there is a job {asked.metadata.name} already in namespace {namespace}"
            raise Problem(409, words) from None
        place = {"Location": f"/v1/namespaces/{namespace}/jobs/{asked.metadata.name}"}
        return JSONResponse(job_document(made), 201, _etag(made) | place)

    @app.post(
        "/v1/namespaces/{namespace}/estimates",
        response_model=JobEstimate,
        responses=_answers(408, 413, 415, 422),
        openapi_extra=_body_of(NewJob),
        tags=["jobs"],
    )
    async def estimate_job(request: Request, namespace: Namespace) -> Response:
        """What the cost gate would say of a job now, and on which offers; nothing is created.

        It says nothing of names that are taken, quotas, or files that are missing.
        """
        await demand(request, "create", JOBS, namespace)
        asked = await read_body(request, NewJob)
        could_run(asked)
        return JSONResponse((await controller.estimate(asked.spec)).wire())

    @app.get(
        "/v1/namespaces/{namespace}/jobs/{name}",
        response_model=Job,
        responses=_answers(404),
        tags=["jobs"],
    )
    async def get_job(request: Request, namespace: Namespace, name: JobName) -> Response:
        """One job."""
        await demand(request, "get", JOBS, namespace)
        stored = await stored_job(namespace, name)
        return JSONResponse(job_document(stored), 200, _etag(stored))

    @app.delete(
        "/v1/namespaces/{namespace}/jobs/{name}",
        status_code=202,
        response_model=Job,
        responses=_answers(404, 409, 412),
        tags=["jobs"],
    )
    async def delete_job(
        request: Request, namespace: Namespace, name: JobName, if_match: IfMatch = None
    ) -> Response:
        """Deletes a job. It is gone once its machine is proved gone."""
        await demand(request, "delete", JOBS, namespace)
        stored = await stored_job(namespace, name)
        version = _version_in(if_match)
        try:
            uid = stored["metadata"]["uid"]
            if version:
                await kube.delete_version("GpuJob", namespace, name, uid=uid, version=version)
            else:
                await kube.delete("GpuJob", namespace, name, uid)
        except Conflict:
            raise _changed(version) from None
        return JSONResponse(job_document(stored), 202)

    async def set_suspended(
        namespace: str, name: str, if_match: str | None, *, suspends: bool
    ) -> Response:
        stored = await stored_job(namespace, name)
        version = _version_in(if_match)
        # The uid holds it to this very job; one of the same name may have come meanwhile.
        named = {"uid": stored["metadata"]["uid"]}
        patch: Body = {"metadata": named, "spec": {"suspend": suspends}}
        if version:
            patch["metadata"]["resourceVersion"] = version
        try:
            changed = await kube.merge("GpuJob", namespace, name, patch)
        except Conflict:
            raise _changed(version) from None
        except ObjectGone:
            raise Problem(404, f"there is no job {name} in namespace {namespace}") from None
        return JSONResponse(job_document(changed), 200, _etag(changed))

    @app.post(
        "/v1/namespaces/{namespace}/jobs/{name}/suspend",
        response_model=Job,
        responses=_answers(404, 409, 412, 422),
        tags=["jobs"],
    )
    async def suspend_job(
        request: Request, namespace: Namespace, name: JobName, if_match: IfMatch = None
    ) -> Response:
        """Stops a job: its machine is given back, nothing is rented for it."""
        await demand(request, "patch", JOBS, namespace)
        return await set_suspended(namespace, name, if_match, suspends=True)

    @app.post(
        "/v1/namespaces/{namespace}/jobs/{name}/resume",
        response_model=Job,
        responses=_answers(404, 409, 412, 422),
        tags=["jobs"],
    )
    async def resume_job(
        request: Request, namespace: Namespace, name: JobName, if_match: IfMatch = None
    ) -> Response:
        """Lets a suspended job go on."""
        await demand(request, "patch", JOBS, namespace)
        return await set_suspended(namespace, name, if_match, suspends=False)

    @app.get(
        "/v1/namespaces/{namespace}/jobs/{name}/decision",
        response_model=Decision,
        responses=_answers(404, 422),
        tags=["jobs"],
    )
    async def explain_decision(request: Request, namespace: Namespace, name: JobName) -> Response:
        """What the cost gate said of a job at last, and why."""
        await demand(request, "get", JOBS, namespace)
        stored = await stored_job(namespace, name)
        try:
            job = GpuJob.model_validate(stored)
        except ValidationError:
            raise Problem(422, "the stored job can not be read: see its conditions") from None
        return JSONResponse(wire(_decision(job)))

    # --- Streams ----------------------------------------------------------------------------

    async def streamed(
        caller: Caller, opened: AbstractAsyncContextManager[AsyncIterator[bytes]], media_type: str
    ) -> Response:
        """Answers with what comes; only what fails before it is opened has a status."""
        async with AsyncExitStack() as stack:
            streams.enter(caller.name)
            stack.callback(streams.leave, caller.name)
            chunks = await stack.enter_async_context(opened)
            return Stream(chunks, media_type, stack.pop_all())

    @asynccontextmanager
    async def job_events(namespace: str, version: str) -> AsyncIterator[AsyncIterator[bytes]]:
        known: list[bytes] = []
        token, begins = "", not version
        while begins or token:
            items, token, version = await kube.page("GpuJob", namespace, limit=500, token=token)
            known += [
                _event("added", one["metadata"]["resourceVersion"], job_document(one))
                for one in items
            ]
            begins = False
        watching = kube.watch("GpuJob", namespace, version=version, seconds=STREAM_SECONDS)
        async with watching as events:

            async def told() -> AsyncIterator[bytes]:
                for event in (*known, _event("listed", version, {})):
                    yield event
                async for seen in events:
                    stored, kind = seen["object"], seen["type"]
                    document = {} if kind == "BOOKMARK" else job_document(stored)
                    number = stored["metadata"]["resourceVersion"]
                    yield _event(kind.lower(), number, document)

            yield told()

    @app.get(
        "/v1/namespaces/{namespace}/watch/jobs",
        response_class=StreamingResponse,
        responses=_answers(410) | {200: {"content": {"text/event-stream": {"schema": EVENT}}}},
        tags=["jobs"],
    )
    async def watch_jobs(
        request: Request,
        namespace: Namespace,
        last_event_id: Annotated[
            str | None,
            Header(
                pattern="^[0-9]{1,18}$",
                description="`id` of the last event that was read: go on from there. 410: it is "
                "too old, begin anew.",
            ),
        ] = None,
    ) -> Response:
        """Jobs of a namespace as server-sent events: `added` for each, `listed`, then changes.

        Events are `added`, `modified`, `deleted` with the job, `bookmark` without. After ten
        minutes the stream ends: ask again with `Last-Event-ID`.
        """
        caller = await demand(request, "watch", JOBS, namespace)
        if last_event_id is None:
            await demand(request, "list", JOBS, namespace)
        events = job_events(namespace, last_event_id or "")
        return await streamed(caller, events, "text/event-stream")

    @app.get(
        "/v1/namespaces/{namespace}/jobs/{name}/log",
        response_class=StreamingResponse,
        responses=_answers(404)
        | {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
        tags=["jobs"],
    )
    async def read_log(
        request: Request,
        namespace: Namespace,
        name: JobName,
        attempt: Annotated[
            int | None, Query(ge=1, le=1000, description="Absent: the latest one.")
        ] = None,
        follow: Annotated[bool, Query(description="Whether to wait for more.")] = False,
        tail_lines: Annotated[
            int | None,
            Query(alias="tailLines", ge=0, le=1_000_000, description="Only so many of the last."),
        ] = None,
    ) -> Response:
        """What a job's workload has printed in an attempt, as its driver's pod has it."""
        caller = await demand(request, "get", LOGS, namespace)
        await demand(request, "get", JOBS, namespace)
        stored = await stored_job(namespace, name)
        number = attempt or int((stored.get("status") or {}).get("attempt") or 0)
        pod_name = driver_pod_name(node_name(name, number))
        nothing = Problem(404, f"there is no log of attempt {number} of job {name}")
        if number == 0:
            raise nothing
        pod = await kube.find("Pod", namespace, pod_name)
        if pod is None or (pod["metadata"].get("labels") or {}).get(LABEL_JOB) != name:
            raise nothing
        text = kube.pod_log(
            namespace, pod_name, follow=follow, tail=tail_lines, seconds=STREAM_SECONDS
        )
        try:
            return await streamed(caller, text, "text/plain; charset=utf-8")
        except (ObjectGone, Invalid):
            raise nothing from None

    # --- Machines ---------------------------------------------------------------------------

    @app.get("/v1/machines", response_model=MachinePage, responses=_answers(410), tags=["machines"])
    async def list_all_machines(
        request: Request, limit: Limit = 100, cursor: Cursor = None
    ) -> Response:
        """What is paid for now, in all namespaces."""
        await demand(request, "list", NODES, "")
        return await machines_page(None, limit, cursor)

    @app.get(
        "/v1/namespaces/{namespace}/machines",
        response_model=MachinePage,
        responses=_answers(410),
        tags=["machines"],
    )
    async def list_machines(
        request: Request, namespace: Namespace, limit: Limit = 100, cursor: Cursor = None
    ) -> Response:
        """What is paid for now, in a namespace."""
        await demand(request, "list", NODES, namespace)
        return await machines_page(namespace, limit, cursor)


def _body_of(kind: type[NewJob]) -> dict[str, Any]:
    schema = {"$ref": f"#/components/schemas/{kind.__name__}"}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def _changed(version: str) -> Problem:
    if version:
        return Problem(412, "the job is not of this version any more: read it again")
    return Problem(409, "the job has changed meanwhile: try again")


async def _earlier(kube: KubeClient, namespace: str, key: str, digest: str) -> Body | None:
    """Returns what an earlier request with this key created; raises Problem if it was another."""
    found, _, _ = await kube.page("GpuJob", namespace, limit=1, selector=f"{KEY_LABEL}={key}")
    if not found:
        return None
    marks = found[0]["metadata"].get("annotations") or {}
    if marks.get(REQUEST_ANNOTATION) != digest:
        raise Problem(422, "this Idempotency-Key was used for another request")
    return found[0]


def _decision(job: GpuJob) -> Decision:
    said = next((one for one in job.status.conditions if one.type == "Admitted"), None)
    cost = job.status.cost
    reason = said.reason if said else Reason.ACCEPTED.value
    return Decision(
        admitted={"True": True, "False": False}.get(said.status) if said else None,
        reason=reason,
        meaning=Reason(reason).meaning,
        message=said.message if said else "",
        decided_at=said.last_transition_time if said else None,
        ceiling_usd=job.spec.cost.ceiling,
        confidence_asked=job.spec.cost.confidence,
        estimate_usd=cost.estimate_usd,
        confidence=cost.confidence,
        accrued_usd=cost.accrued_usd or format_usd(0),
    )


def _event(kind: str, number: str, document: Body) -> bytes:
    return f"event: {kind}\nid: {number}\ndata: {json.dumps(document)}\n\n".encode()
