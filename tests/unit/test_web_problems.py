"""What listeners answer when a request does not succeed, asked without a network."""

import asyncio
import json
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from structlog.testing import capture_logs

from gpujob.adapters.errors import ClusterUnavailable
from gpujob.adapters.kube import Body
from gpujob.web.listener import listener_app
from gpujob.web.problems import MEDIA_TYPE, TITLES, Problem
from gpujob.web.token_reviews import TokenReviews

SECRET = "what no caller may read"


async def fine(_: Request) -> Response:
    return PlainTextResponse("fine")


async def refused(_: Request) -> Response:
    raise Problem(401, "a bearer token is needed")


async def cut_off(_: Request) -> Response:
    raise ClusterUnavailable(SECRET)


async def broken(_: Request) -> Response:
    raise RuntimeError(SECRET)


async def broken_later(_: Request) -> Response:
    async def chunks() -> Any:
        yield b"begun"
        raise RuntimeError(SECRET)

    return StreamingResponse(chunks())


def an_app() -> Starlette:
    return listener_app(
        Route("/fine", fine),
        Route("/fine", fine, methods=["DELETE"]),
        Route("/refused", refused),
        Route("/cut-off", cut_off),
        Route("/broken", broken),
        Route("/broken-later", broken_later),
    )


def ask(method: str, path: str) -> list[Any]:
    """Returns all that the application sends."""
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(an_app()(a_scope(method, path), receive, send))
    return sent


def a_scope(method: str, path: str, *headers: tuple[bytes, bytes]) -> dict[str, Any]:
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": list(headers),
    }


@pytest.mark.parametrize(
    ("method", "path", "status", "headers"),
    [
        ("GET", "/refused", 401, {"www-authenticate": "Bearer"}),
        ("GET", "/nowhere", 404, {}),
        ("GET", "/fine/", 404, {}),
        ("POST", "/fine", 405, {"allow": "DELETE, GET, HEAD"}),
        ("GET", "/broken", 500, {}),
        ("GET", "/cut-off", 503, {"retry-after": "5"}),
    ],
)
def test_each_failure_is_a_problem(
    method: str, path: str, status: int, headers: dict[str, str]
) -> None:
    """The cause is in the log alone, under the id; there is none where the caller is at fault."""
    with capture_logs() as logged:
        start, body = ask(method, path)
    named = {name.decode(): text.decode() for name, text in start["headers"]}
    document = json.loads(body["body"])
    error_id = document.pop("errorId", None)
    told = [(one["error_id"], one.get("problem") or str(one["exc_info"])) for one in logged]

    assert start["status"] == status
    assert named["content-type"] == MEDIA_TYPE
    assert headers.items() <= named.items()
    assert document.pop("detail")
    assert document == {"type": "about:blank", "title": TITLES[status], "status": status}
    assert told == ([(error_id, SECRET)] if status >= 500 else [])
    assert SECRET not in str([start, body])


def test_an_answer_that_has_begun_is_only_logged() -> None:
    """No second one is put behind its first half."""
    with capture_logs() as logged:
        start, first, *more = ask("GET", "/broken-later")

    assert (start["status"], first["body"], more) == (200, b"begun", [])
    assert [str(one["exc_info"]) for one in logged] == [SECRET]


@pytest.mark.parametrize(("method", "verb"), [("GET", "get"), ("HEAD", "get"), ("POST", "post")])
def test_rbac_is_asked_for_the_method(method: str, verb: str) -> None:
    """HEAD shows less than GET, so whoever may get may send it too."""
    asked = []

    class Cluster:
        """Takes every token, and notes what is wanted."""

        async def review_token(self, *_: Any) -> Body:
            return {"authenticated": True, "user": {"username": "u"}}

        async def may_reach(self, _: Body, path: str, verb: str) -> bool:
            asked.append((path, verb))
            return False

    class Clock:
        """Time stands still."""

        def monotonic(self) -> float:
            return 0.0

    cluster: Any = Cluster()
    clock: Any = Clock()
    request = Request(a_scope(method, "/metrics", (b"authorization", b"Bearer x")))
    reviews = TokenReviews(
        cluster, clock, believed_seconds=1, audience="a", takes_cluster_tokens=True
    )
    with pytest.raises(Problem) as refusal:
        asyncio.run(reviews.demand(request))

    assert refusal.value.status == 403
    assert asked == [("/metrics", verb)]
