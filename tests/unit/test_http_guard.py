"""What stands before all routes of the HTTP API, in a time that is set."""

import asyncio
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import SecretStr

from gpujob.adapters.clock import SystemClock
from gpujob.core.api_tokens import token_of
from gpujob.server.http_api import app
from gpujob.server.http_api.app import AT_ONCE, PER_SECOND, api_app
from gpujob.server.http_api.callers import Callers
from gpujob.server.http_api.idempotency import MarkKeys
from gpujob.web.rate_limit import RateLimit

TOKEN = token_of(bytes(range(0, 96, 3)))


class Clock:
    """A clock that is set."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC)

    def monotonic(self) -> float:
        return self.seconds


class Api:
    """The application, asked without a network; there is no cluster behind it."""

    def __init__(self) -> None:
        self.clock = Clock()
        nobody: Any = None
        callers = Callers(nobody, self.clock, SecretStr(TOKEN))
        self._app = api_app(
            kube=nobody,
            clock=self.clock,
            callers=callers,
            notes=lambda: None,
            controller=nobody,
            mark_keys=MarkKeys(SystemClock()),
        )

    def ask(
        self, path: str, *headers: tuple[bytes, bytes], address: str = "10.0.0.1"
    ) -> tuple[int, dict[str, str], Any]:
        """Returns status, headers and document of an answer."""
        said: list[Any] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Any) -> None:
            said.append(message)

        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "GET",
            "scheme": "https",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": list(headers),
            "client": (address, 1),
        }
        asyncio.run(self._app(scope, receive, send))
        start, *parts = said
        named = {name.decode(): text.decode() for name, text in start["headers"]}
        return start["status"], named, json.loads(b"".join(part["body"] for part in parts))


BEARER = (b"authorization", f"Bearer {TOKEN}".encode())


def test_who_asks_too_often_waits() -> None:
    """As many at once as are allowed, then no faster than they come back."""
    api = Api()
    first = [api.ask("/openapi.json", BEARER)[0] for _ in range(AT_ONCE)]
    status, headers, body = api.ask("/openapi.json", BEARER)

    assert first == [200] * AT_ONCE
    assert (status, headers["retry-after"]) == (429, "1")
    assert body["title"] == "Too Many Requests"
    assert api.ask("/nowhere", BEARER)[0] == 429, "whatever the path"
    assert api.ask("/openapi.json")[0] == 401, "a stranger learns nothing of it"
    api.clock.seconds += 1
    later = [api.ask("/openapi.json", BEARER)[0] for _ in range(int(PER_SECOND) + 1)]
    assert later == [200] * int(PER_SECOND) + [429]


WRONG = (b"authorization", b"Bearer " + TOKEN.encode()[:-4] + b"AAAA")


@pytest.mark.parametrize(
    ("address", "neighbour", "stranger"),
    [
        ("10.0.0.1", "::ffff:10.0.0.1", "10.0.0.2"),
        ("2001:db8:0:1::1", "2001:db8:0:1:ffff::", "2001:db8:0:2::1"),
    ],
)
def test_an_address_sends_so_many_wrong_tokens(
    address: str, neighbour: str, stranger: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then no more are looked at, but good ones from there are: many may share an address."""
    monkeypatch.setattr(app, "WRONG_AT_ONCE", 5)
    monkeypatch.setattr(app, "WRONG_PER_SECOND", 1.0)
    api = Api()
    sent = [api.ask("/openapi.json", WRONG, address=address)[0] for _ in range(6)]

    assert sent == [401] * 5 + [429]
    status, headers, body = api.ask("/openapi.json", address=neighbour)
    assert (status, headers["retry-after"]) == (429, "1")
    assert "wrong tokens" in body["detail"]
    assert api.ask("/openapi.json", BEARER, address=address)[0] == 200
    assert api.ask("/openapi.json", WRONG, address=stranger)[0] == 401
    api.clock.seconds += 1
    again = [api.ask("/openapi.json", WRONG, address=address)[0] for _ in range(2)]
    assert again == [401, 429]


def test_addresses_without_end_take_no_more_memory() -> None:
    """Whoever has a network of addresses uses each once; the oldest are forgotten."""
    clock = Clock()
    limit = RateLimit(clock, per_second=1.0, at_once=2, callers_max=100)
    for number in range(1000):
        limit.take(str(number))
        clock.seconds += 0.001

    assert len(limit) == 100
    assert limit.take("999") == 0.0
    assert limit.take("999") > 0.0
    assert [limit.take("0") for _ in range(2)] == [0.0, 0.0]


def test_each_caller_has_a_budget_of_his_own() -> None:
    """One that has none left takes nothing from another; none grows beyond its size."""
    clock = Clock()
    limit = RateLimit(clock, per_second=2.0, at_once=3)

    assert [limit.take("a") for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]
    assert limit.take("b") == 0.0
    clock.seconds += 3600
    assert [limit.take("a") for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]


def test_whoever_has_stopped_asking_is_forgotten() -> None:
    """Otherwise each name would be kept for ever. Whose budget is full again loses nothing."""
    clock = Clock()
    limit = RateLimit(clock, per_second=2.0, at_once=3)
    for number in range(1000):
        limit.take(f"once-{number}")
    assert [limit.take("greedy") for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]
    assert len(limit) == 1001
    clock.seconds += 1.5

    assert [limit.take("greedy") for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]
    assert len(limit) == 1
    clock.seconds += 0.5
    assert [limit.take("greedy") for _ in range(2)] == [0.0, 0.5], "it is remembered"


def test_two_tokens_are_none() -> None:
    """Two readers could take one each."""
    api = Api()

    assert api.ask("/openapi.json", BEARER, BEARER)[0] == 401
    assert api.ask("/openapi.json", BEARER)[0] == 200


def test_what_nobody_thought_of_is_told_by_an_id() -> None:
    """There is no cluster to ask: a mistake of ours, as far as the API knows."""
    status, headers, body = Api().ask("/v1/jobs", BEARER)

    assert status == 500
    assert headers["content-type"] == "application/problem+json"
    assert headers["x-content-type-options"] == "nosniff"
    assert set(body) == {"type", "title", "status", "detail", "errorId"}
    assert "NoneType" not in json.dumps(body)
