"""Finds the pod of a driver's token without a TokenReview, which takes a right on the cluster.

The API server publishes the keys that it signs the tokens of service accounts with, and every
service account may read them. A token says which pod it is bound to; whether that pod is there is
read from the cluster, as the API server does for a review.
"""

import asyncio
import base64
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

from gpujob.adapters.clock import Clock
from gpujob.adapters.kube import Body, KubeClient
from gpujob.controller.driver_tokens import POD_NAME, POD_UID

TOKEN_CHARACTERS_MAX = 16 << 10
LEEWAY_SECONDS = 60.0
"""How far the clock of the API server may be from ours."""
KEYS_SECONDS = 10.0
"""The keys are read again for a token of an unknown one, and no more often than this."""
KEPT_SECONDS = 300.0
"""No key is believed for longer without being read again."""
CURVES: dict[str, tuple[type[ec.EllipticCurve], hashes.HashAlgorithm]] = {
    "ES256": (ec.SECP256R1, hashes.SHA256()),
    "ES384": (ec.SECP384R1, hashes.SHA384()),
    "ES512": (ec.SECP521R1, hashes.SHA512()),
}
"""By the algorithms that Kubernetes signs with, besides RS256."""

PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True)


class _Header(_Strict):
    alg: str
    kid: str = ""


class _Object(_Strict):
    name: str
    uid: str


class _Bound(_Strict):
    namespace: str
    pod: _Object
    serviceaccount: _Object


class _Claims(_Strict):
    iss: str
    aud: list[str]
    exp: float
    nbf: float = 0.0
    bound: _Bound = Field(alias="kubernetes.io")


class SignedTokens:
    """Checks tokens by their signatures."""

    def __init__(self, kube: KubeClient, clock: Clock, *, audience: str) -> None:
        self._kube, self._clock, self._audience = kube, clock, audience
        self._issuer = ""
        self._keys: dict[str, PublicKey] = {}
        self._read_at: float | None = None
        self._reading = asyncio.Lock()

    async def review(self, token: SecretStr, known_as: str | None = None) -> Body | None:
        """Returns the holder of a token as a TokenReview names it; None if it is not valid.

        Nobody waits for anybody else, whoever he claims to be. Raises ClusterError.
        """
        del known_as
        text = token.get_secret_value()
        if len(text) > TOKEN_CHARACTERS_MAX or text.count(".") != 2:
            return None
        signed, _, signature = text.rpartition(".")
        try:
            head, body = (_decoded(part) for part in signed.split("."))
            header, raw = _Header.model_validate_json(head), _decoded(signature)
            claims = _Claims.model_validate_json(body)
        except (ValueError, ValidationError):
            return None
        key = await self._key(header.kid)
        if key is None or not _is_signed(header.alg, key, signed.encode(), raw):
            return None
        now = self._clock.now().timestamp()
        is_ours = claims.iss == self._issuer and self._audience in claims.aud
        if not is_ours or not claims.nbf - LEEWAY_SECONDS <= now <= claims.exp + LEEWAY_SECONDS:
            return None
        place, pod = claims.bound.namespace, claims.bound.pod
        found = await self._kube.find("Pod", place, pod.name)
        if found is None or found["metadata"]["uid"] != pod.uid:
            return None
        return {
            "username": f"system:serviceaccount:{place}:{claims.bound.serviceaccount.name}",
            "extra": {POD_NAME: [pod.name], POD_UID: [pod.uid]},
        }

    async def _key(self, number: str) -> PublicKey | None:
        async with self._reading:
            now = self._clock.monotonic()
            wait = KEPT_SECONDS if number in self._keys else KEYS_SECONDS
            if self._read_at is None or now - self._read_at >= wait:
                self._issuer, told = await self._kube.token_keys()
                self._keys = {str(one.get("kid", "")): key for one in told if (key := key_in(one))}
                self._read_at = now
        return self._keys.get(number)


def key_in(told: Body) -> PublicKey | None:
    """Returns the key of a JSON Web Key (RFC 7517); None if it is of another kind."""
    try:
        if told.get("kty") == "RSA":
            return rsa.RSAPublicNumbers(_number(told["e"]), _number(told["n"])).public_key()
        for curve, _ in CURVES.values():
            if told.get("kty") == "EC" and told.get("crv") == _name(curve):
                x, y = _number(told["x"]), _number(told["y"])
                return ec.EllipticCurvePublicNumbers(x, y, curve()).public_key()
    except (KeyError, TypeError, ValueError):
        return None
    return None


def _is_signed(algorithm: str, key: PublicKey, signed: bytes, signature: bytes) -> bool:
    """Whether this key made the signature; the key, not the token, says of which kind it is."""
    try:
        if isinstance(key, rsa.RSAPublicKey):
            if algorithm != "RS256":
                return False
            key.verify(signature, signed, padding.PKCS1v15(), hashes.SHA256())
            return True
        curve, digest = CURVES[algorithm]
        half = (key.curve.key_size + 7) // 8
        if not isinstance(key.curve, curve) or len(signature) != 2 * half:
            return False
        first, second = signature[:half], signature[half:]
        parts = encode_dss_signature(int.from_bytes(first), int.from_bytes(second))
        key.verify(parts, signed, ec.ECDSA(digest))
    except (InvalidSignature, KeyError):
        return False
    return True


def _name(curve: type[ec.EllipticCurve]) -> str:
    """Returns a curve's name in JSON Web Keys, such as P-256."""
    return f"P-{curve().key_size}"


def _number(text: Any) -> int:
    return int.from_bytes(_decoded(text))


def _decoded(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
