"""What is asked of all namespaces is asked of each that is served, or there is no answer."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from kubernetes.aio import client
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from gpujob.adapters.errors import Forbidden, Invalid
from gpujob.adapters.kube import Body, KubeClient
from gpujob.web.listener import http_server, listener_app
from localcluster.control_plane import free_port

SERVED = ("a", "b", "c")
STORED = {"a": ["1", "2", "3"], "b": [], "c": ["4"], "others": ["5"]}


async def answer(request: Request) -> Response:
    """Lists one namespace, two objects a page, as an API server; `secret` may not be read."""
    parts = request.url.path.split("/")
    namespace = parts[5] if parts[4] == "namespaces" else "all"
    if namespace not in STORED:
        return JSONResponse({"kind": "Status", "message": "no"}, 403)
    first = int(request.query_params.get("continue") or 0)
    names = STORED[namespace][first : first + 2]
    more = str(first + 2) if first + 2 < len(STORED[namespace]) else ""
    items = [{"metadata": {"name": name, "namespace": namespace}} for name in names]
    return JSONResponse({"kind": "GpuNodeList", "items": items, "metadata": {"continue": more}})


def asked(served: tuple[str, ...], story: Callable[[KubeClient], Awaitable[None]]) -> None:
    """Asks by a client of these namespaces."""

    async def life() -> None:
        port = free_port()
        server = http_server(listener_app(Route("/{path:path}", answer)), "127.0.0.1", port)
        task = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        where = client.Configuration(host=f"http://127.0.0.1:{port}")
        kube = KubeClient(client.ApiClient(where), served)
        try:
            await story(kube)
        finally:
            await kube.close()
            server.should_exit = True
            await task

    asyncio.run(life())


def names(found: list[Body]) -> list[str]:
    """Returns what the objects are called."""
    return [one["metadata"]["name"] for one in found]


def test_a_list_of_all_is_of_those_that_are_served() -> None:
    """Page after page, one namespace after the other, and no other."""

    async def story(kube: KubeClient) -> None:
        assert names(await kube.list_all("GpuNode")) == ["1", "2", "3", "4"]
        shown, token = [], ""
        for _ in range(4):
            page, token, _version = await kube.page("GpuNode", None, limit=2, token=token)
            shown.append(names(page))
        assert (shown, token) == ([["1", "2"], ["3"], [], ["4"]], "")
        page, _, _version = await kube.page("GpuNode", "others", limit=2)
        assert names(page) == ["5"]

    asked(SERVED, story)


def test_one_that_cannot_be_read_leaves_no_list() -> None:
    """What is missing in a list counts as gone, and its machine is destroyed."""

    async def story(kube: KubeClient) -> None:
        with pytest.raises(Forbidden):
            await kube.list_all("GpuNode")

    asked((*SERVED, "secret"), story)


@pytest.mark.parametrize("token", ["9/", "-1/", "x", "/", "1e3/0"])
def test_a_token_of_no_namespace_is_none(token: str) -> None:
    """Callers of the HTTP API can send any."""

    async def story(kube: KubeClient) -> None:
        with pytest.raises(Invalid):
            await kube.page("GpuNode", None, limit=2, token=token)

    asked(SERVED, story)
