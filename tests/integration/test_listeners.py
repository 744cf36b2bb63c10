"""Nobody is answered without a good token: each route of each listener, from their route tables."""

import asyncio
import base64
import http.client
import json
import secrets
import ssl
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from tests.integration.api import BOOTSTRAP, SPEC, TOKENS, Api, api_server, record
from tests.integration.conftest import World
from tests.integration.parts import AUDIENCE, Kubectl, eventually

from gpujob.adapters.clock import SystemClock
from gpujob.api.estimate import ESTIMATE_PATH
from gpujob.api.transport import SYNC_PATH
from gpujob.controller.driver_tokens import DriverTokens
from gpujob.controller.holds import Holds
from gpujob.controller.probes import probes_app
from gpujob.controller.transport import transport_app
from gpujob.core.api_tokens import digest_of, token_of
from gpujob.core.limits import Limits
from gpujob.server.admission import admission_app
from gpujob.server.http_api.app import api_app
from gpujob.server.http_api.callers import Callers
from gpujob.server.http_api.idempotency import MarkKeys
from gpujob.server.main import probes
from gpujob.web.listener import http_server
from gpujob.web.token_reviews import TokenReviews
from localcluster.control_plane import ControlPlane, free_port

# One server, or more, serve all tests of this module.
pytestmark = pytest.mark.xdist_group("listeners")

JOB = json.dumps({"metadata": {"name": "train"}, "spec": SPEC})
NO_ROUTES = ("/", "/v1", "/docs", "/metrics", "/healthz", "/v1/jobs/")

OPEN = {
    ("admission", "/validate-gpujobs"): "the API server shows no token; a verdict changes nothing",
    ("controller's probes", "/healthz"): "the kubelet has no token",
    ("controller's probes", "/readyz"): "the kubelet has no token; it tells what is to be repaired",
    ("server's probes", "/healthz"): "the kubelet has no token",
    ("server's probes", "/readyz"): "the kubelet has no token",
}
"""All routes that answer whoever asks, and why. Any other asks for a token."""

OPEN_TO_ALL_TOKENS = {("HTTP API", "/openapi.json"): "it holds nothing of anybody's"}
"""All routes that answer whoever holds a token, whatever its scope."""


def applications() -> dict[str, Starlette]:
    """Every application that listens; these only tell what their routes are."""
    nobody: Any = None
    clock = SystemClock()
    return {
        "HTTP API": api_app(
            kube=nobody,
            clock=clock,
            callers=Callers(nobody, clock, SecretStr(BOOTSTRAP)),
            notes=lambda: None,
            controller=nobody,
            mark_keys=MarkKeys(SystemClock()),
        ),
        "transport": transport_app(
            reviews=TokenReviews(nobody, clock, believed_seconds=0, audience=AUDIENCE),
            tokens=DriverTokens(nobody, clock, lambda *_: False),
            holds=Holds(),
            clock=clock,
            limits=Limits(),
            lookup=lambda _: (None, None),
            is_pod_of=lambda *_: False,
            heard={},
            on_news=lambda _: None,
            world=nobody,
            quotes=nobody,
            logins={},
            authorities=lambda: "",
        ),
        "controller's probes": probes_app(
            nobody,
            clock,
            is_alive=lambda: True,
            leads=lambda: True,
            problem=lambda: None,
            figures=lambda: nobody,
        ),
        "server's probes": probes(nobody),
        "admission": admission_app(clock, own_namespace="x"),
    }


def routes(app: Starlette) -> list[tuple[str, str]]:
    """Every method and path that an application has."""
    found = []
    for route in app.routes:
        assert isinstance(route, Route), f"{route} is covered by no test"
        found += [(method, route.path) for method in sorted(route.methods or ())]
    return found


@dataclass(frozen=True)
class Tokens:
    """Tokens that a listener must tell apart."""

    good: str
    expired: Mapping[str, str]
    """By what they are; each was good once. So of `wrong`: none ever was."""
    wrong: Mapping[str, str]
    other_scope: str


@dataclass(frozen=True)
class Listener:
    """A listener, and how it is reached."""

    name: str
    app: Starlette
    port: int
    tokens: Tokens
    tls: ssl.SSLContext | None = None
    host: str = "localhost"
    """The name that its certificate is for."""
    body: str = JOB

    def status(self, method: str, path: str, headers: Mapping[str, str]) -> int:
        """Asks, and returns what it answers; a stream that begins is enough."""
        place = path.replace("{namespace}", "default").replace("{name}", "train")
        line: http.client.HTTPConnection
        if self.tls:
            line = http.client.HTTPSConnection(self.host, self.port, context=self.tls, timeout=30)
        else:
            line = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        with closing(line):
            sent = {"Content-Type": "application/json", **headers}
            line.request(method, place, self.body if method == "POST" else None, sent)
            return line.getresponse().status


def headers_of(tokens: Tokens) -> dict[str, dict[str, str]]:
    """All that is no good token, as a header, by what is wrong with it."""
    good = tokens.good
    shown = {
        "no scheme": good,
        "another scheme": f"Basic {base64.b64encode(b'a:b').decode()}",
        "no token": "Bearer",
        "a space": "Bearer ",
        "two spaces": f"Bearer  {good}",
        "a part": f"Bearer {good[:-5]}",
        "more": f"Bearer {good}A",
        "upper case": f"Bearer {good.upper()}",
        "a token of our form": f"Bearer {token_of(secrets.token_bytes(32))}",
        "a digest": f"Bearer {digest_of(good)}",
        "a JWT of nobody's": "Bearer e30.e30.c2ln",
        "a very long one": f"Bearer {'a' * 9000}",
        "an empty one": "",
        **{name: f"Bearer {token}" for name, token in tokens.wrong.items()},
        **{name: f"Bearer {token}" for name, token in tokens.expired.items()},
    }
    return {"none": {}} | {name: {"Authorization": text} for name, text in shown.items()}


def unguarded(
    listener: Listener, asked: Sequence[tuple[str, str]]
) -> list[tuple[str, str, str, int]]:
    """Asks routes with each token; returns what was answered otherwise than it must be."""
    wrong = headers_of(listener.tokens)
    good, other = (
        {"Authorization": f"Bearer {token}"}
        for token in (listener.tokens.good, listener.tokens.other_scope)
    )
    found = []
    for method, path in asked:
        if (listener.name, path) in OPEN:
            if (status := listener.status(method, path, {})) in (401, 403, 404):
                found.append((method, path, "it is not open", status))
            continue
        for name, headers in wrong.items():
            # After some hundreds of wrong tokens the HTTP API looks at no more from one address.
            if (status := listener.status(method, path, headers)) not in (401, 429):
                found.append((method, path, name, status))
        scope = 403 if (listener.name, path) not in OPEN_TO_ALL_TOKENS else 200
        if (status := listener.status(method, path, other)) != scope:
            found.append((method, path, "another scope", status))
        if (status := listener.status(method, path, good)) in (401, 403):
            found.append((method, path, "a good one", status))
    return found


def test_each_exemption_is_of_a_route() -> None:
    """One that is gone is exempt no longer."""
    there = {(name, path) for name, app in applications().items() for _, path in routes(app)}

    assert set(OPEN) | set(OPEN_TO_ALL_TOKENS) <= there


# --- The listeners as they run ----------------------------------------------------------------


def signed(plane: ControlPlane, token: str, *, ends_in_seconds: int) -> str:
    """Returns a service account's token with another end, signed with the cluster's own key.

    The API server gives none for less than ten minutes.
    """

    def part(raw: bytes) -> str:
        return base64.urlsafe_b64encode(raw).decode().rstrip("=")

    head, claims, _ = token.split(".")
    told = json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))
    end = int(time.time()) + ends_in_seconds
    told |= {"iat": end - 3600, "nbf": end - 3600, "exp": end}
    text = f"{head}.{part(json.dumps(told).encode())}"
    key = serialization.load_pem_private_key(plane.account_key.read_bytes(), None)
    assert isinstance(key, rsa.RSAPrivateKey)
    signature = key.sign(text.encode(), padding.PKCS1v15(), hashes.SHA256())
    return f"{text}.{part(signature)}"


def tokens_of_the_cluster(plane: ControlPlane, good: str, other_scope: str, **wrong: str) -> Tokens:
    """What there is for a listener that asks the API server."""
    head, claims, _ = good.split(".")
    forged = base64.urlsafe_b64encode(b"x" * 256).decode().rstrip("=")
    return Tokens(
        good=good,
        expired={"an expired one": signed(plane, good, ends_in_seconds=-60)},
        wrong={"another signature": f"{head}.{claims}.{forged}"} | wrong,
        other_scope=other_scope,
    )


def test_the_server_answers_nobody_without_a_good_token(
    module_api: Api, plane: ControlPlane
) -> None:
    """The HTTP API by its own tokens and by the cluster's; its probes and admission are open."""
    apps = applications()
    kubectl, home = module_api.kubectl, ("-n", "gpujob-system")
    stranger = kubectl("create", "token", "default", *home).strip()
    for_drivers = kubectl("create", "token", "default", *home, f"--audience={AUDIENCE}").strip()
    trusted = ssl.create_default_context(cadata=module_api.authority)
    own = Tokens(
        good=BOOTSTRAP,
        expired={"an expired one": TOKENS["old"]},
        wrong={"for drivers": for_drivers},
        other_scope=TOKENS["b"],
    )
    api = Listener("HTTP API", apps["HTTP API"], module_api.port, own, trusted)
    for_api = kubectl("create", "token", "default", *home, "--audience=gpujob.dev/api").strip()
    wrong = {"for the API server": stranger, "for drivers": for_drivers}
    account = tokens_of_the_cluster(plane, for_api, for_api, **wrong)
    by_account = [
        one
        for one in unguarded(replace(api, tokens=account), routes(api.app))
        # It has no right at all.
        if one[2] != "a good one"
    ]
    others = [
        Listener(name, apps[name], port, own, tls)
        for name, port, tls in (
            ("admission", module_api.server.port, trusted),
            ("server's probes", module_api.server.probes_port, None),
        )
    ]

    assert unguarded(api, routes(api.app)) == []
    assert by_account == []
    assert [unguarded(one, routes(one.app)) for one in others] == [[], []]
    for method, path in (("OPTIONS", "/v1/jobs"), *(("GET", path) for path in NO_ROUTES)):
        assert api.status(method, path, {}) in (401, 429), (method, path)


def test_all_that_is_wrong_with_a_token_is_told_alike(plane: ControlPlane, tmp_path: Path) -> None:
    """It tells nobody how near they were."""
    own = Tokens(TOKENS["writer"], {"an expired one": TOKENS["old"]}, {}, TOKENS["b"])
    # A server of its own, to which nobody has sent too many wrong ones.
    entries = {"writer": record(own.good), "old": record(TOKENS["old"], "write", -1)}
    with api_server(plane, tmp_path, entries) as api:
        answers = [
            api("GET", "/v1/jobs", token="", **{name.lower(): text})
            for headers in headers_of(own).values()
            for name, text in (headers or {"accept": "*/*"}).items()
        ]

    assert {answer.status for answer in answers} == {401}
    assert {answer.headers["www-authenticate"] for answer in answers} == {'Bearer realm="gpujob"'}
    assert len({answer.raw for answer in answers}) == 1


def test_the_controller_answers_nobody_without_a_good_token(
    world: World, plane: ControlPlane, tmp_path: Path
) -> None:
    """Drivers by the token of their pod, scrapers by theirs, both real ones."""
    world.apply_job("train", command=["sleep", "60"])
    world.await_reason("train", "Running")
    apps = applications()
    kubectl, operator = world.kubectl, world.operator
    (token_file,) = (tmp_path / "pods").glob("*/token")
    own = token_file.read_text().strip()
    create = ("create", "token", "default", "-n", world.namespace)
    for_drivers = (*create, f"--audience={AUDIENCE}")
    bound = ("--bound-object-kind=Pod", "--bound-object-name=other")
    copy_pod(kubectl, world.namespace, "train-0-1-driver", "other")
    other = kubectl(*for_drivers, *bound).strip()
    gone = copy_pod(kubectl, world.namespace, "train-0-1-driver", "gone")
    of_a_gone_pod = kubectl(*for_drivers, *bound[:1], "--bound-object-name=gone").strip()
    kubectl("delete", "pod", gone, "-n", world.namespace, "--grace-period=0", "--force")
    stranger = kubectl(*create).strip()
    assert world.metrics(), "there is an account that may"
    scraper = ("create", "token", "scraper", "-n", "gpujob-system")
    transport = tokens_of_the_cluster(
        plane,
        own,
        other,
        **{"of no pod": kubectl(*for_drivers).strip(), "for the API server": stranger},
        **{"of a pod that is gone": of_a_gone_pod},
    )
    for_metrics = kubectl(*scraper, "--audience=gpujob.dev/metrics").strip()
    metrics = tokens_of_the_cluster(
        plane,
        for_metrics,
        stranger,
        **{"for drivers": kubectl(*scraper, f"--audience={AUDIENCE}").strip()},
    )
    node = kubectl.get("gpunode", "train-0-1", world.namespace) or {}
    report = {"version": 1, "nodeUid": node["metadata"]["uid"], "session": 1, "sequence": 1}
    port, body = operator.transport_port, json.dumps(report | {"phase": "Running"})
    drivers = Listener(
        "transport", apps["transport"], port, transport, world.trust(), "127.0.0.1", body
    )
    # The server's own, bound to none of its pods, since it runs as a process here.
    server = ("create", "token", "gpujob-server", "-n", "gpujob-system")
    asks = tokens_of_the_cluster(
        plane,
        kubectl(*server, f"--audience={AUDIENCE}").strip(),
        own,
        **{"for the API server": kubectl(*server).strip()},
    )
    question = json.dumps({"version": 1, "namespace": "team", "spec": SPEC})
    asking = replace(drivers, tokens=asks, body=question)
    name = "controller's probes"
    probing = Listener(name, apps[name], operator.probes_port, metrics)
    # A token is refused for its end, not for who signed it.
    renewed = signed(plane, own, ends_in_seconds=600)
    answer = drivers.status("POST", SYNC_PATH, {"Authorization": f"Bearer {renewed}"})

    assert answer == 200
    of_drivers = [one for one in routes(drivers.app) if one[1] != ESTIMATE_PATH]
    of_the_server = [one for one in routes(drivers.app) if one[1] == ESTIMATE_PATH]
    assert unguarded(drivers, of_drivers) == []
    assert unguarded(asking, of_the_server) == []
    assert unguarded(probing, routes(probing.app)) == []


def copy_pod(kubectl: Kubectl, namespace: str, name: str, copy: str) -> str:
    """Makes another pod like one, and returns its name."""
    pod = json.loads(kubectl("get", "pod", name, "-n", namespace, "-o", "json"))
    pod["metadata"] = {"name": copy, "namespace": namespace}
    del pod["status"]
    kubectl.apply(pod)
    return copy


# --- A route that somebody adds ---------------------------------------------------------------


@contextmanager
def serving(app: Starlette) -> Iterator[int]:
    """Serves an application on the loopback, in a thread; gives the port."""
    port = free_port()
    server = http_server(app, "127.0.0.1", port)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()), daemon=True)
    thread.start()
    eventually("it listens", lambda: server.started)
    try:
        yield port
    finally:
        server.should_exit = True
        thread.join(timeout=30)


async def more(_: Request) -> PlainTextResponse:
    """A route that asks for nothing."""
    return PlainTextResponse("more")


@pytest.mark.parametrize("name", applications())
def test_a_route_that_asks_for_no_token_is_found(name: str) -> None:
    """Somebody adds one to a listener: it is asked like all others, and found."""
    app = applications()[name]
    before = routes(app)
    app.routes.append(Route("/v1/more", more))
    added = sorted(set(routes(app)) - set(before))
    with serving(app) as port:
        listener = Listener(name, app, port, Tokens(BOOTSTRAP, {}, {}, other_scope=BOOTSTRAP))
        found = unguarded(listener, added)

    # The API's guard is before all routes; what else a token may is each route's own question.
    missing = "another scope" if name == "HTTP API" else "none"
    assert ("GET", "/v1/more", missing, 200) in found
