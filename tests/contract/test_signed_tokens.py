"""Drivers' tokens by their signatures: what the API server has not signed for us is nobody's."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from kubernetes.aio import client
from pydantic import SecretStr
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from tests.builders import NOW
from tests.contract.test_driver_tokens import SetClock

from gpujob.adapters.kube import KubeClient
from gpujob.api.meta import TRANSPORT_AUDIENCE
from gpujob.controller.driver_tokens import POD_NAME, POD_UID
from gpujob.controller.signed_tokens import KEPT_SECONDS, LEEWAY_SECONDS, SignedTokens
from gpujob.web.listener import http_server, listener_app
from localcluster.control_plane import free_port

ISSUER = "https://kubernetes.default.svc"
RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
STRANGERS = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())
Private = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


def encoded(raw: bytes) -> str:
    """Returns bytes as tokens have them."""
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def number(value: int) -> str:
    """Returns a number as JSON Web Keys have them."""
    return encoded(value.to_bytes((value.bit_length() + 7) // 8))


def published(name: str, key: Private) -> dict[str, str]:
    """Returns a key as the API server publishes it."""
    public = key.public_key()
    if isinstance(public, rsa.RSAPublicKey):
        numbers = public.public_numbers()
        return {"kty": "RSA", "kid": name, "n": number(numbers.n), "e": number(numbers.e)}
    point = public.public_numbers()
    return {"kty": "EC", "kid": name, "crv": "P-256", "x": number(point.x), "y": number(point.y)}


def a_token(
    key: Private = RSA_KEY, name: str = "first", bound: Any = None, **claims: Any
) -> SecretStr:
    """Returns a token of the driver's pod, changed by keyword."""
    now = NOW.timestamp()
    bound = bound or {
        "namespace": "team",
        "pod": {"name": "driver", "uid": "pod-1"},
        "serviceaccount": {"name": "default", "uid": "account-1"},
    }
    told = {"iss": ISSUER, "aud": [TRANSPORT_AUDIENCE], "nbf": now, "exp": now + 3600}
    told |= {"kubernetes.io": bound} | claims
    is_rsa = isinstance(key, rsa.RSAPrivateKey)
    header = {"alg": "RS256" if is_rsa else "ES256", "kid": name}
    signed = ".".join(encoded(json.dumps(one).encode()) for one in (header, told))
    if isinstance(key, rsa.RSAPrivateKey):
        signature = key.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256())
    else:
        first, second = decode_dss_signature(key.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
        signature = first.to_bytes(32) + second.to_bytes(32)
    return SecretStr(f"{signed}.{encoded(signature)}")


@dataclass
class ApiServer:
    """Publishes its keys, and knows one pod."""

    keys: dict[str, Private] = field(default_factory=lambda: {"first": RSA_KEY, "ec": EC_KEY})
    pods: dict[str, str] = field(default_factory=lambda: {"driver": "pod-1"})
    asked: list[str] = field(default_factory=list)

    async def answer(self, request: Request) -> Response:
        """Answers as the real one does."""
        path = request.url.path
        self.asked.append(path)
        if path.startswith("/.well-known"):
            return JSONResponse({"issuer": ISSUER})
        if path == "/openid/v1/jwks":
            return JSONResponse({"keys": [published(*one) for one in self.keys.items()]})
        name = path.rpartition("/")[2]
        if name not in self.pods:
            return JSONResponse({"kind": "Status", "message": "no such pod"}, 404)
        return JSONResponse({"metadata": {"name": name, "uid": self.pods[name]}})


@asynccontextmanager
async def serving(api: ApiServer) -> AsyncIterator[KubeClient]:
    """Serves it, and connects."""
    port = free_port()
    app = listener_app(Route("/{path:path}", api.answer))
    server = http_server(app, "127.0.0.1", port)
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    configuration = client.Configuration(host=f"http://127.0.0.1:{port}")
    kube = KubeClient(client.ApiClient(configuration))
    try:
        yield kube
    finally:
        await kube.close()
        server.should_exit = True
        await task


def tried(story: Callable[[ApiServer, SignedTokens, SetClock], Awaitable[None]]) -> None:
    """Plays a story."""

    async def life() -> None:
        api, clock = ApiServer(), SetClock()
        async with serving(api) as kube:
            await story(api, SignedTokens(kube, clock, audience=TRANSPORT_AUDIENCE), clock)

    asyncio.run(life())


@pytest.mark.parametrize(("key", "name"), [(RSA_KEY, "first"), (EC_KEY, "ec")])
def test_a_drivers_token_names_its_pod(key: Private, name: str) -> None:
    """Whatever the API server signs with, and as a TokenReview would name it."""

    async def story(api: ApiServer, tokens: SignedTokens, _: SetClock) -> None:
        user = await tokens.review(a_token(key, name))
        assert user is not None
        assert user["username"] == "system:serviceaccount:team:default"
        assert user["extra"] == {POD_NAME: ["driver"], POD_UID: ["pod-1"]}
        await tokens.review(a_token(key, name))
        assert api.asked.count("/openid/v1/jwks") == 1

    tried(story)


NOT_BOUND = {"namespace": "team", "serviceaccount": {"name": "default", "uid": "account-1"}}
ANOTHER = {"pod": {"name": "driver", "uid": "pod-0"}}
WRONG = {
    "signed by a stranger": a_token(STRANGERS),
    "under a key of another kind": a_token(RSA_KEY, "ec"),
    "under a key that is not published": a_token(RSA_KEY, "last"),
    "for the API server": a_token(aud=[ISSUER]),
    "of another cluster": a_token(iss="https://elsewhere"),
    "expired": a_token(exp=NOW.timestamp() - LEEWAY_SECONDS - 1),
    "not valid yet": a_token(nbf=NOW.timestamp() + LEEWAY_SECONDS + 1),
    "bound to no pod": a_token(bound=NOT_BOUND),
    "of a former pod of this name": a_token(bound=NOT_BOUND | ANOTHER),
    "without an end": a_token(exp=None),
    "of a number that is none": a_token(exp="never"),
    "no token": SecretStr("a.b"),
    "not encoded": SecretStr("a.b.c"),
    "nothing": SecretStr(""),
    "without end": SecretStr("a." * 100_000),
}


@pytest.mark.parametrize("token", WRONG.values(), ids=WRONG)
def test_what_was_not_signed_for_us_is_nobodys(token: SecretStr) -> None:
    """Nor what was signed for a pod that is not there any more."""

    async def story(_: ApiServer, tokens: SignedTokens, __: SetClock) -> None:
        assert await tokens.review(token) is None

    tried(story)


def test_a_token_without_a_signature_is_nobodys() -> None:
    """The key says how it signs, not the token."""

    async def story(_: ApiServer, tokens: SignedTokens, __: SetClock) -> None:
        head, body, signature = a_token().get_secret_value().split(".")
        header = encoded(json.dumps({"alg": "none", "kid": "first"}).encode())
        for one in (f"{header}.{body}.", f"{header}.{body}.{signature}", f"{head}.{body}."):
            assert await tokens.review(SecretStr(one)) is None

    tried(story)


def test_a_key_that_is_withdrawn_is_believed_for_minutes_at_most() -> None:
    """And a new one is found at once; nobody makes us ask for keys all the time."""

    async def story(api: ApiServer, tokens: SignedTokens, clock: SetClock) -> None:
        assert await tokens.review(a_token()) is not None
        api.keys = {"second": STRANGERS}
        for _ in range(20):
            await tokens.review(a_token(STRANGERS, "second"))
        assert api.asked.count("/openid/v1/jwks") == 1
        clock.seconds += 11
        assert await tokens.review(a_token(STRANGERS, "second")) is not None
        assert await tokens.review(a_token()) is None
        api.keys = {}
        clock.seconds += KEPT_SECONDS
        assert await tokens.review(a_token(STRANGERS, "second")) is None

    tried(story)
