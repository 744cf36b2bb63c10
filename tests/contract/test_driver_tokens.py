"""Drivers' tokens: the API server reviews each once, and what no longer holds is not believed."""

import asyncio
import base64
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from kubernetes.aio import client
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from tests.builders import JOB_UID, KEYED, NOW, a_job, meta, renting, running

from gpujob.adapters.kube import Body, KubeClient
from gpujob.api.meta import TRANSPORT_AUDIENCE
from gpujob.api.transport import SYNC_PATH
from gpujob.controller.cache import Cache
from gpujob.controller.driver_tokens import POD_NAME, POD_UID, DriverTokens
from gpujob.controller.holds import Holds
from gpujob.controller.transport import transport_app
from gpujob.core.limits import Limits
from gpujob.web.listener import http_server, listener_app
from gpujob.web.token_reviews import (
    HELD_MAX,
    KNOWN_WAITING,
    REFUSED_SECONDS,
    STRANGERS_AT_ONCE,
    STRANGERS_WAITING,
    TokenReviews,
)
from localcluster.control_plane import free_port

NAMESPACE = "team"
LIFE_SECONDS = 3600
ANOTHER = {"podName": "train-0-1-driver", "podUID": "pod-before"}


class SetClock:
    """Goes on as it is told to."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.behind_seconds = 0.0

    def now(self) -> datetime:
        return NOW + timedelta(seconds=self.seconds - self.behind_seconds)

    def monotonic(self) -> float:
        return 50_000 + self.seconds


@dataclass
class ApiServer:
    """Reviews tokens as a real one does, as long as the pods are there; notes each review."""

    clock: SetClock
    pods: dict[str, str] = field(default_factory=dict)
    """The uids of the pods that there are, by name."""
    reviewed: list[str] = field(default_factory=list)
    slow: set[str] = field(default_factory=set)
    """Tokens whose review takes until `hurried`."""
    hurried: asyncio.Event = field(default_factory=asyncio.Event)

    def review(self, token: str) -> dict[str, Any]:
        """Returns the status of a TokenReview."""
        self.reviewed.append(token)
        part = token.split(".")[1]
        told = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
        pod, until = told["kubernetes.io"]["pod"], datetime.fromtimestamp(told["exp"], UTC)
        if self.pods.get(pod["name"]) != pod["uid"] or until <= NOW + timedelta(
            seconds=self.clock.seconds
        ):
            return {"authenticated": False}
        return {
            "authenticated": True,
            "audiences": told["aud"],
            "user": {
                "username": f"system:serviceaccount:{NAMESPACE}:default",
                "extra": {POD_NAME: [pod["name"]], POD_UID: [pod["uid"]]},
            },
        }

    async def answer(self, request: Request) -> Response:
        """Answers the request for a review."""
        asked = await request.json()
        found = self.review(asked["spec"]["token"])
        if asked["spec"]["token"] in self.slow:
            await self.hurried.wait()
        audiences = asked["spec"]["audiences"]
        if found["authenticated"]:
            found["audiences"] = [one for one in found["audiences"] if one in audiences]
            found["authenticated"] = bool(found["audiences"])
        return JSONResponse({"kind": "TokenReview", "status": found}, 201)


class Cluster:
    """Nodes, their drivers and the tokens of these; and the controller's side of the transport."""

    def __init__(
        self, kube: KubeClient, server: ApiServer, clock: SetClock, hold_seconds: float
    ) -> None:
        self.server, self.clock = server, clock
        self.authorities = ""
        self.holds = Holds(hold_seconds)
        self.cache = Cache(
            kube,
            lambda _: None,
            dropped=lambda uid: self.tokens.forget(uid),
            changed=self.holds.changed,
        )
        self.cache.take_in("GpuJob", a_job().wire(), gone=False)
        reviews = TokenReviews(kube, clock, believed_seconds=60, audience=TRANSPORT_AUDIENCE)
        self.tokens = DriverTokens(reviews, clock, self.cache.shows)
        unasked: Any = None
        self._app = transport_app(
            reviews=reviews,
            tokens=self.tokens,
            holds=self.holds,
            clock=clock,
            limits=Limits(),
            lookup=self.cache.lookup,
            is_pod_of=self.cache.is_pod_of,
            heard={},
            on_news=lambda _: None,
            world=unasked,
            quotes=unasked,
            logins={},
            authorities=lambda: self.authorities,
        )
        self._sequence = 0

    def add(self, number: int, uid: str = "") -> str:
        """Adds a node with its driver, both seen by the watch; returns the driver's token."""
        name, uid = f"driver-{number}", uid or f"pod-{number}"
        self.server.pods[name] = uid
        driver = {"podName": name, "podUID": uid, "readyAt": "2026-01-01T11:59:00Z"}
        self.show_node(number, {"driver": driver})
        self.cache.take_in("Pod", a_pod(name, uid), gone=False)
        return self.token(name, uid)

    def show_node(
        self,
        number: int,
        status: dict[str, Any],
        version: int = 1,
        before: dict[str, Any] | None = None,
    ) -> None:
        """The watch shows a node whose workload runs, but for what is said of its status."""
        held = self.cache.lookup(f"node-{number}")[0]
        if before is None:
            before = running() if held is None else held.status.wire()
        node = {
            "metadata": meta(
                f"train-0-{number}", uid=f"node-{number}", resourceVersion=str(version)
            ),
            "spec": {
                "jobRef": {"name": "train", "uid": JOB_UID},
                "attempt": 1,
                "reservedUSD": "5.000000",
            },
            "status": before | status,
        }
        self.cache.take_in("GpuNode", node, gone=False)

    def token(self, name: str, uid: str, audience: str = TRANSPORT_AUDIENCE, of: int = 0) -> str:
        """Returns a token of a pod, made now; `of` tells several apart."""
        made = int(NOW.timestamp() + self.clock.seconds)
        claims = {
            **{"aud": [audience], "iat": made, "exp": made + LIFE_SECONDS, "jti": of},
            "kubernetes.io": {"namespace": NAMESPACE, "pod": {"name": name, "uid": uid}},
        }
        raw = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
        return f"e30.{raw}.c2ln"

    async def report(self, token: str, number: int) -> int:
        """Reports for a node, and returns the status of the answer."""
        return (await self.ask(token, number))[0]

    async def ask(
        self, token: str, number: int, *, stays: bool = True, **more: Any
    ) -> tuple[int, bytes]:
        """Reports for a node, and returns status and body of the answer.

        One that does not stay is gone when its report is to be read.
        """
        self._sequence += 1
        told = {"version": 1, "nodeUid": f"node-{number}", "session": 1, "phase": "Running"}
        body = json.dumps(told | {"sequence": self._sequence} | more).encode()
        scope = {
            **{"type": "http", "http_version": "1.1", "method": "POST", "scheme": "http"},
            **{"asgi": {"version": "3.0", "spec_version": "2.4"}, "query_string": b""},
            **{"path": SYNC_PATH, "raw_path": SYNC_PATH.encode(), "root_path": ""},
            "headers": [
                (b"authorization", f"Bearer {token}".encode()),
                (b"content-type", b"application/json"),
            ],
        }
        status, answer = 0, b""

        async def receive() -> dict[str, Any]:
            if not stays:
                return {"type": "http.disconnect"}
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Any) -> None:
            nonlocal status, answer
            status = message.get("status", status)
            answer += message.get("body", b"")

        await self._app(scope, receive, send)
        return status, answer


def a_pod(name: str, uid: str, **metadata: Any) -> dict[str, Any]:
    """A driver pod, as the watch shows it."""
    shown = {"name": name, "namespace": NAMESPACE, "uid": uid, "resourceVersion": "1"}
    return {"metadata": shown | metadata, "status": {"phase": "Running"}}


@asynccontextmanager
async def a_cluster(hold_seconds: float = 30) -> AsyncIterator[Cluster]:
    """An API server that listens, and a controller that asks it."""
    clock, port = SetClock(), free_port()
    server = ApiServer(clock)
    path = "/apis/authentication.k8s.io/v1/tokenreviews"
    app = listener_app(Route(path, server.answer, methods=["POST"]))
    listening = http_server(app, "127.0.0.1", port)
    serving = asyncio.create_task(listening.serve())
    while not listening.started:
        await asyncio.sleep(0.01)
    kube = KubeClient(client.ApiClient(client.Configuration(host=f"http://127.0.0.1:{port}")))
    try:
        yield Cluster(kube, server, clock, hold_seconds)
    finally:
        await kube.close()
        listening.should_exit = True
        await serving


async def test_each_token_is_reviewed_once() -> None:
    """However many drivers there are, more than strangers are remembered, and however long they
    report.
    """
    drivers = HELD_MAX + 200
    async with a_cluster() as cluster:
        tokens = [cluster.add(number) for number in range(drivers)]
        answers = Counter[int]()
        for _ in range(5):
            for number, token in enumerate(tokens):
                answers[await cluster.report(token, number)] += 1
            cluster.clock.seconds += 300

        assert answers == {200: 5 * drivers}
        assert Counter(cluster.server.reviewed) == dict.fromkeys(tokens, 1)


@pytest.mark.parametrize(
    ("status", "pod", "owner", "expected"),
    [
        pytest.param({}, "train-0-1-driver", "node-1", 200, id="its pod"),
        pytest.param({}, "train-0-1-driver", "node-2", 403, id="of another node"),
        pytest.param({}, "train-0-1-driver-2", "node-1", 403, id="not the present one"),
        pytest.param({"driver": ANOTHER}, "train-0-1-driver", "node-1", 403, id="recorded another"),
        pytest.param(
            renting(), "train-0-1-driver", "node-1", 403, id="once a machine is asked for"
        ),
    ],
)
async def test_a_driver_that_is_not_recorded_yet_is_told_to_wait(
    status: dict[str, Any], pod: str, owner: str, expected: int
) -> None:
    """It is recorded with what follows from its report, and nothing is rented before."""
    async with a_cluster() as cluster:
        cluster.show_node(1, KEYED | status, before={})
        cluster.server.pods[pod] = "pod-1"
        body = a_pod(pod, "pod-1", ownerReferences=[{"kind": "GpuNode", "uid": owner}])
        cluster.cache.take_in("Pod", body, gone=False)
        code, answer = await cluster.ask(cluster.token(pod, "pod-1"), 1)

        assert code == expected
        assert code != 200 or json.loads(answer)["instruction"] == "Wait"


async def test_a_rotated_token_is_reviewed_anew() -> None:
    """Once; the one before is forgotten, so that each pod has one at most."""
    async with a_cluster() as cluster:
        first = cluster.add(1)
        cluster.clock.seconds += 2880
        second = cluster.token("driver-1", "pod-1", of=2)
        for token in (first, first, second, second, first):
            assert await cluster.report(token, 1) == 200

        assert cluster.server.reviewed == [first, second, first]


Change = Callable[[Cluster], Awaitable[None]]


async def deleted_and_shown(cluster: Cluster) -> None:
    del cluster.server.pods["driver-1"]
    cluster.cache.take_in("Pod", a_pod("driver-1", "pod-1", resourceVersion="2"), gone=True)


async def replaced(cluster: Cluster) -> None:
    cluster.server.pods["driver-1"] = "pod-other"
    cluster.cache.take_in("Pod", a_pod("driver-1", "pod-other", resourceVersion="3"), gone=False)


async def missing_in_the_list(cluster: Cluster) -> None:
    del cluster.server.pods["driver-1"]
    _ = [one async for one in cluster.cache.compare("Pod", no_pages())]


async def about_to_go(cluster: Cluster) -> None:
    del cluster.server.pods["driver-1"]
    going = a_pod(
        "driver-1", "pod-1", resourceVersion="2", deletionTimestamp="2026-01-01T12:00:30Z"
    )
    cluster.cache.take_in("Pod", going, gone=False)


async def expired(cluster: Cluster) -> None:
    cluster.clock.seconds += LIFE_SECONDS


async def no_pages() -> AsyncIterator[list[Body]]:
    """A list of nothing."""
    yield []


@pytest.mark.parametrize(
    "change", [deleted_and_shown, replaced, missing_in_the_list, about_to_go, expired]
)
async def test_what_no_longer_holds_is_not_believed(change: Change) -> None:
    """A token that was good is refused by the API server's word as soon as that may be another."""
    async with a_cluster() as cluster:
        token = cluster.add(1)
        before = [await cluster.report(token, 1) for _ in range(3)]
        await change(cluster)
        after = [await cluster.report(token, 1) for _ in range(3)]

        assert (before, after) == ([200] * 3, [401] * 3)


async def test_what_was_known_of_a_pod_goes_with_it() -> None:
    """Even if a backup brings back the very same one."""
    async with a_cluster() as cluster:
        token = cluster.add(1)
        assert await cluster.report(token, 1) == 200
        cluster.cache.take_in("Pod", a_pod("driver-1", "pod-1", resourceVersion="2"), gone=True)
        cluster.add(1)
        assert await cluster.report(token, 1) == 200

        assert cluster.server.reviewed == [token, token]


async def test_a_review_outlives_the_patience_of_its_driver() -> None:
    """Else many drivers at a slow API server would have it asked again and again, for nothing."""
    async with a_cluster() as cluster:
        token = cluster.add(1)
        await cluster.ask(token, 1, stays=False)
        assert await cluster.report(token, 1) == 200

        assert cluster.server.reviewed == [token]


async def test_a_clock_that_was_ahead_costs_one_review_more() -> None:
    """The token seemed to have expired; it is remembered again once the clock is right."""
    async with a_cluster() as cluster:
        token = cluster.add(1)
        cluster.clock.behind_seconds = -LIFE_SECONDS - 60
        assert await cluster.report(token, 1) == 200
        cluster.clock.behind_seconds = 0
        assert [await cluster.report(token, 1) for _ in range(3)] == [200] * 3

        assert cluster.server.reviewed == [token, token]


async def test_only_the_tokens_of_pods_that_are_shown_are_remembered() -> None:
    """Whoever can make tokens makes no memory of ours grow: they are asked about again."""
    async with a_cluster() as cluster:
        own = cluster.add(1)
        assert await cluster.report(own, 1) == 200
        cluster.add(2)
        cluster.server.pods["pod-of-a-user"] = "user-pod"
        strangers = {
            cluster.token("pod-of-a-user", "user-pod"): 403,
            cluster.token("driver-1", "pod-before"): 401,
        }
        not_for_us = {
            cluster.token("driver-1", "pod-1", audience="https://kubernetes.default.svc"): 401,
            cluster.token("driver-1", "pod-1", audience="another"): 401,
            "a.b.c": 401,
            "opaque": 401,
        }
        for token, status in (strangers | not_for_us).items():
            assert [await cluster.report(token, 1) for _ in range(3)] == [status] * 3

        of_a_user, of_a_pod_before = strangers
        assert Counter(cluster.server.reviewed) == {of_a_user: 3, of_a_pod_before: 1, own: 1}
        assert len(cluster.tokens) == 1
        cluster.clock.seconds += REFUSED_SECONDS
        assert await cluster.report(of_a_pod_before, 1) == 401
        assert cluster.server.reviewed.count(of_a_pod_before) == 2


async def test_a_driver_never_waits_behind_strangers() -> None:
    """Nor behind those who claim to be another driver, or who can make tokens without end."""
    async with a_cluster() as cluster:
        own, _ = cluster.add(1), cluster.add(2)
        pods = {"unknown": "pod-x", "driver-2": "pod-2"}
        forged = [cluster.token(name, uid, of=n) for name, uid in pods.items() for n in range(200)]
        cluster.server.slow = set(forged)
        asking = [asyncio.create_task(cluster.report(token, 1)) for token in forged]
        while len(cluster.server.reviewed) < STRANGERS_AT_ONCE + 1:
            await asyncio.sleep(0.01)
        try:
            async with asyncio.timeout(60):
                assert await cluster.report(own, 1) == 200
        finally:
            cluster.server.hurried.set()
        answers = Counter(await asyncio.gather(*asking))

        # Of those who claim to be the second driver all but a few are strangers, too.
        served = STRANGERS_AT_ONCE + STRANGERS_WAITING + 1 + KNOWN_WAITING
        assert answers[503] == 400 - served
        assert answers[200] == 0


async def test_a_driver_pod_of_another_node_is_known_and_refused() -> None:
    """That it is a pod of ours says nothing about whose it is."""
    async with a_cluster() as cluster:
        cluster.add(1)
        other = cluster.add(2)
        assert [await cluster.report(other, 1) for _ in range(3)] == [403] * 3

        assert cluster.server.reviewed == [other]


async def test_a_clock_that_is_behind_makes_no_token_last_longer() -> None:
    """It would be believed for two hours more, although nobody says that it is still good."""
    async with a_cluster() as cluster:
        token = cluster.add(1)
        cluster.clock.behind_seconds = 7200
        assert await cluster.report(token, 1) == 200
        cluster.clock.seconds += LIFE_SECONDS
        assert await cluster.report(token, 1) == 401
