"""What the API server says, or who is in its place: nothing is gone but by its own word."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from kubernetes.aio import client
from pydantic import SecretStr
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from tests.canned import answering

from gpujob.adapters.errors import (
    AnswerTooLarge,
    ClusterError,
    ClusterUnavailable,
    Conflict,
    Forbidden,
    Invalid,
    NotServed,
    ObjectGone,
)
from gpujob.adapters.kube import ANSWER_BYTES_MAX, PAGE_BYTES_MAX, KubeClient
from gpujob.web.listener import http_server, listener_app
from localcluster.control_plane import free_port

Ask = Callable[[KubeClient], Awaitable[Any]]


def asked(status: int, body: bytes, question: Ask) -> Any:
    """Asks by the client while everything is answered alike."""
    port = free_port()

    async def run() -> Any:
        where = client.Configuration(host=f"http://127.0.0.1:{port}")
        asking = KubeClient(client.ApiClient(where))
        try:
            return await question(asking)
        finally:
            await asking.close()

    with answering(port, status, body):
        return asyncio.run(run())


STATUS = b'{"kind": "Status", "message": "no"}'


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (200, b"", ClusterUnavailable),
        (200, b"{", ClusterUnavailable),
        (200, b"[]", ClusterUnavailable),
        (200, b"<html></html>", ClusterUnavailable),
        (404, STATUS, ObjectGone),
        (404, b"404 page not found", NotServed),
        (404, b"{}", NotServed),
        (404, b"[]", NotServed),
        (409, STATUS, Conflict),
        (401, STATUS, Forbidden),
        (403, b"<html></html>", Forbidden),
        (422, b'{"kind": "Status", "details": []}', Invalid),
        (429, STATUS, ClusterUnavailable),
        (500, b"[]", ClusterUnavailable),
        (503, b"", ClusterUnavailable),
    ],
)
def test_an_object_is_gone_only_by_the_api_servers_word(
    status: int, body: bytes, expected: type[ClusterError]
) -> None:
    """Another's 404 is none of an object; nothing but ClusterError leaves the adapter."""
    with pytest.raises(ClusterError) as refused:
        asked(status, body, lambda cluster: cluster.get("GpuNode", "team", "train-0-1"))

    assert type(refused.value) is expected


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b'{"items": []}',
        b'{"kind": "GpuNodeList"}',
        b'{"kind": "GpuNodeList", "items": null}',
        b'{"kind": "GpuJobList", "items": []}',
        b'{"kind": "Status", "items": []}',
    ],
)
def test_only_a_list_of_the_kind_is_one(body: bytes) -> None:
    """The sweep destroys the machine of a node that is in no list: an empty one must be real."""
    with pytest.raises(ClusterUnavailable):
        asked(200, body, lambda cluster: cluster.list_all("GpuNode"))
    with pytest.raises(ClusterUnavailable):
        asked(200, body, lambda cluster: cluster.page("GpuNode", None, limit=5))


@pytest.mark.parametrize("body", [b"{}", b'{"kind": "Status"}', b'{"kind": "TokenReview"}'])
def test_a_review_that_is_none_is_no_verdict(body: bytes) -> None:
    """Neither a no, which would be told as a wrong token, nor a yes."""
    for question in (
        lambda cluster: cluster.review_token(SecretStr("x")),
        lambda cluster: cluster.may_reach({}, "/metrics", "get"),
    ):
        with pytest.raises(ClusterUnavailable):
            asked(201, body, question)


NO_METADATA = b'{"kind": "PartialObjectMetadataList", "metadata": {}, "items": null}'


@pytest.mark.parametrize("body", [b"{}", b'{"kind": "GpuNodeList", "items": null}', STATUS])
def test_only_a_list_of_metadata_is_one(body: bytes) -> None:
    """What is in no list counts as deleted, and is forgotten."""
    with pytest.raises(ClusterUnavailable):
        asked(200, body, lambda cluster: cluster.versions("GpuNode", None))


def test_an_empty_list_of_the_kind_is_empty() -> None:
    """So the API server says it."""
    body = b'{"kind": "GpuNodeList", "metadata": {}, "items": []}'

    assert asked(200, body, lambda cluster: cluster.list_all("GpuNode")) == []
    assert asked(200, NO_METADATA, lambda cluster: cluster.versions("GpuNode", None)) == {}
    assert asked(404, b"404 page not found", lambda cluster: cluster.served_resources("x/v1")) == (
        frozenset()
    )


async def test_a_list_comes_in_pages_that_fit() -> None:
    """Of objects as large as etcd takes them, a page of five hundred would be most of a gigabyte.

    Whoever asks for so many gets as many as fit, and where the next page begins.
    """
    stored = [{"metadata": {"name": f"job-{at:02}"}, "spec": "x" * (5 << 17)} for at in range(15)]
    asked: list[int] = []

    async def answer(request: Request) -> Response:
        limit, begin = (int(request.query_params.get(key, 0)) for key in ("limit", "continue"))
        asked.append(limit)
        items = stored[begin : begin + limit]
        meta = {"continue": str(begin + limit) if begin + limit < len(stored) else ""}
        return JSONResponse({"kind": "GpuJobList", "metadata": meta, "items": items})

    port = free_port()
    server = http_server(
        listener_app(Route("/apis/gpujob.dev/v1alpha1/gpujobs", answer)), "127.0.0.1", port
    )
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    kube = KubeClient(client.ApiClient(client.Configuration(host=f"http://127.0.0.1:{port}")))
    try:
        found: list[Any] = []
        token = ""
        while token or not found:
            page, token, _ = await kube.page("GpuJob", None, limit=500, token=token)
            assert len(page) * (5 << 17) < PAGE_BYTES_MAX
            found += page
    finally:
        await kube.close()
        server.should_exit = True
        await serving

    assert [one["metadata"]["name"] for one in found] == [f"job-{at:02}" for at in range(15)]


def test_a_longer_object_than_there_can_be_is_no_answer() -> None:
    """It is not read to its end."""
    body = b'{"kind": "GpuJob", "x": "' + b"x" * ANSWER_BYTES_MAX + b'"}'
    with pytest.raises(AnswerTooLarge):
        asked(200, body, lambda cluster: cluster.get("GpuJob", "team", "train"))


async def test_an_answer_that_is_too_long_holds_no_connection() -> None:
    """Whoever answers without an end is hung up on."""
    hung_up = asyncio.Event()

    async def answer(_: asyncio.StreamReader, out: asyncio.StreamWriter) -> None:
        try:
            out.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n")
            while True:
                out.write(b" " * 65_536)
                await out.drain()
        except ConnectionError:
            hung_up.set()
        finally:
            out.close()

    server = await asyncio.start_server(answer, "127.0.0.1", port := free_port())
    kube = KubeClient(client.ApiClient(client.Configuration(host=f"http://127.0.0.1:{port}")))
    try:
        with pytest.raises(AnswerTooLarge):
            await kube.get("GpuJob", "team", "train")
        async with asyncio.timeout(60):
            await hung_up.wait()
    finally:
        await kube.close()
        server.close()
        await server.wait_closed()


def test_the_api_server_is_reached_as_its_configuration_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A login in a netrc takes no place beside our token, and no proxy of a platform is asked."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
        monkeypatch.setenv(name.lower(), f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("NO_PROXY", "10.0.0.0/8,127.0.0.0/8")
    port = free_port()
    config = {
        "current-context": "x",
        "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
        "clusters": [{"name": "x", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
        "users": [{"name": "x", "user": {"token": "ours"}}],
    }
    (tmp_path / "config").write_text(json.dumps(config))
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login somebody password else\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    place = "kubernetes.aio.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION"
    monkeypatch.setattr(place, str(tmp_path / "config"))

    async def run() -> Any:
        asking = await KubeClient.connect("gpujob-controller")
        try:
            return await asking.get("GpuNode", "team", "train-0-1")
        finally:
            await asking.close()

    with answering(port, 200, b'{"kind": "GpuNode"}'):
        assert asyncio.run(run()) == {"kind": "GpuNode"}
