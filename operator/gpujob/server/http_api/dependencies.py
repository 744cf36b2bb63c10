"""What the routes share: their parameters, and who may use them.

FastAPI calls the dependencies of a decorator before those of the signature, and checks parameters
last. So a caller without the right learns nothing of what else is wrong.
"""

import base64
import binascii
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any

from fastapi import Depends, Header, Path, Query, Request, params

from gpujob.adapters.clock import Clock
from gpujob.adapters.controller import ControllerClient
from gpujob.adapters.errors import Invalid
from gpujob.adapters.kube import Body, KubeClient
from gpujob.api.notes import MarketNotes
from gpujob.server.http_api.bodies import YAML, NewJob
from gpujob.server.http_api.callers import Caller, Callers
from gpujob.server.http_api.idempotency import MarkKeys
from gpujob.server.http_api.open_streams import OpenStreams
from gpujob.web.bodies import JSON
from gpujob.web.problems import TITLES, Problem
from gpujob.web.turns import Turns

JOBS, NODES, LOGS = "gpujob.dev/gpujobs", "gpujob.dev/gpunodes", "/pods/log"
"""Resources, as RBAC names them."""


@dataclass(frozen=True, kw_only=True)
class Backend:
    """What the routes ask; the API itself stores nothing."""

    kube: KubeClient
    clock: Clock
    callers: Callers
    notes: Callable[[], MarketNotes | None]
    controller: ControllerClient
    nobody_leads: Callable[[], bool]
    mark_keys: MarkKeys
    own_namespace: str
    """The release's, in which no job may be."""
    streams: OpenStreams = field(default_factory=OpenStreams)
    lists: Turns = field(default_factory=lambda: Turns(at_once=4, of_one=1, waiting=16))
    """Of each namespace; a page of large objects takes tens of megabytes until it is sent."""


async def _backend(request: Request) -> Backend:
    backend: Backend = request.app.state.backend
    return backend


async def _caller(request: Request) -> Caller:
    caller: Caller = request.state.caller
    return caller


BackendDep = Annotated[Backend, Depends(_backend)]
CallerDep = Annotated[Caller, Depends(_caller)]

# --- Parameters -------------------------------------------------------------------------------

# The grammar of label selectors in Kubernetes, except for the length of a key's prefix.
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


async def _selector(
    selector: Annotated[
        str,
        Query(
            alias="labelSelector",
            max_length=1024,
            pattern=f"^ *({_TERM}( *, *{_TERM})* *)?$",
            description="Label selector, as for kubectl's --selector.",
            examples=["team=vision,!draft"],
        ),
    ] = "",
) -> str:
    return selector


SelectorDep = Annotated[str, Depends(_selector)]


@dataclass(frozen=True)
class Paging:
    """Which page of a list is wanted."""

    limit: int
    token: str
    """The API server's token of this page; empty for the first page."""

    async def fetch(
        self, kube: KubeClient, kind: str, namespace: str | None, selector: str = ""
    ) -> tuple[list[Body], str | None]:
        """Returns the objects of the page, and the cursor of the next page if there is one.

        Without a namespace they are those of all namespaces. Raises Problem.
        """
        try:
            items, token, _ = await kube.page(
                kind, namespace, limit=self.limit, token=self.token, selector=selector
            )
        except Invalid:
            raise Problem(400, "the cursor or the label selector is not valid") from None
        following = base64.urlsafe_b64encode(token.encode()).decode().rstrip("=")
        return items, following or None


async def _paging(
    limit: Annotated[
        int, Query(ge=1, le=500, description="The largest number of items in the answer.")
    ] = 100,
    cursor: Annotated[
        str | None,
        Query(
            max_length=4096,
            pattern="^([A-Za-z0-9_-]{4})*([A-Za-z0-9_-]{2,3})?$",
            description="`nextCursor` of the previous page; absent: the first page.",
        ),
    ] = None,
) -> Paging:
    if cursor is None:
        return Paging(limit, "")
    try:
        raw = cursor.encode() + b"=" * (-len(cursor) % 4)
        return Paging(limit, base64.b64decode(raw, altchars=b"-_", validate=True).decode())
    except (binascii.Error, ValueError):
        words = "the cursor is not valid; send `nextCursor` of the previous page"
        raise Problem(400, words) from None


PagingDep = Annotated[Paging, Depends(_paging)]


async def _version(
    if_match: Annotated[
        str | None,
        Header(
            pattern=r'^("[0-9]{1,18}"|\*)$',
            description="An ETag with its quotation marks: apply the change only if the job still "
            "has it. `*` matches any version.",
        ),
    ] = None,
) -> str:
    return "" if if_match is None else if_match.strip('"*')


VersionDep = Annotated[str, Depends(_version)]
"""The version that a job must still have; empty if any will do."""


def etag(stored: Body) -> dict[str, str]:
    """Returns the header with a stored object's version."""
    return {"ETag": f'"{stored["metadata"]["resourceVersion"]}"'}


# --- Rights -----------------------------------------------------------------------------------


def may(verb: str, resource: str) -> params.Depends:
    """Returns a dependency that raises Problem unless the caller may do this in the namespace."""

    async def demand(backend: BackendDep, caller: CallerDep, namespace: Namespace) -> None:
        await backend.callers.demand(caller, verb, resource, namespace)

    return params.Depends(demand)


def may_everywhere(verb: str, resource: str) -> params.Depends:
    """Returns a dependency that raises Problem unless the caller may do this in all namespaces."""

    async def demand(backend: BackendDep, caller: CallerDep) -> None:
        await backend.callers.demand(caller, verb, resource, "")

    return params.Depends(demand)


# --- What the document says of routes ---------------------------------------------------------


def answers(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Documents the problems a route may answer with, besides those that every route has."""
    named = sorted({400, 401, 403, 429, 500, 503, *statuses})
    return {status: {"description": TITLES[status]} for status in named}


def body_of(kind: type[NewJob]) -> dict[str, Any]:
    """Documents the body of a route, which the route reads itself, more strictly than FastAPI."""
    schema = {"$ref": f"#/components/schemas/{kind.__name__}"}
    content = {one: {"schema": schema} for one in (JSON, YAML[0])}
    return {"requestBody": {"required": True, "content": content}}
