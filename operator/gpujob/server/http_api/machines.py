"""The routes of machines."""

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response

from gpujob.api.gpunode import GpuNode
from gpujob.server.http_api.dependencies import (
    NODES,
    Backend,
    BackendDep,
    Namespace,
    Paging,
    PagingDep,
    answers,
    may,
    may_everywhere,
)
from gpujob.server.http_api.documents import MachinePage, machine_document, wire

router = APIRouter(tags=["machines"])


async def _page(backend: Backend, namespace: str | None, page: Paging) -> JSONResponse:
    async with backend.lists.turn(namespace or ""):
        found, following = await page.fetch(backend.kube, "GpuNode", namespace)
        nodes = [GpuNode.model_validate(one) for one in found]
        machines = [machine_document(node) for node in nodes if node.status.may_cost]
        return JSONResponse(wire(MachinePage(items=machines, next_cursor=following)))


@router.get(
    "/v1/machines",
    response_model=MachinePage,
    responses=answers(410),
    dependencies=[may_everywhere("list", NODES)],
)
async def list_all_machines(backend: BackendDep, page: PagingDep) -> Response:
    """Lists the machines of all namespaces that cost something now."""
    return await _page(backend, None, page)


@router.get(
    "/v1/namespaces/{namespace}/machines",
    response_model=MachinePage,
    responses=answers(410),
    dependencies=[may("list", NODES)],
)
async def list_machines(backend: BackendDep, namespace: Namespace, page: PagingDep) -> Response:
    """Lists the machines of a namespace that cost something now."""
    return await _page(backend, namespace, page)
