"""The bearer token of a request (RFC 6750)."""

import base64
import re

from pydantic import BaseModel, Field, SecretStr, field_validator
from starlette.datastructures import Headers

TOKEN_BYTES_MAX = 8_192
TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")


def bearer_token(headers: Headers) -> SecretStr | None:
    """Returns the token of a request; None if it has none, or none of a token's form."""
    given = headers.getlist("authorization")
    # Of two such headers, a proxy could read one and this program the other.
    scheme, _, token = given[0].partition(" ") if len(given) == 1 else ("", "", "")
    sound = len(token) <= TOKEN_BYTES_MAX and TOKEN.fullmatch(token)
    return SecretStr(token) if scheme.lower() == "bearer" and sound else None


class BoundPod(BaseModel):
    """The pod that a token says that it is bound to."""

    name: str
    uid: str


class Binding(BaseModel):
    """What Kubernetes writes into the token of a service account, besides what is in others."""

    namespace: str
    pod: BoundPod | None = None


class Claims(BaseModel):
    """What a JSON Web Token says of itself (RFC 7519); its signature was not verified."""

    aud: tuple[str, ...] = ()
    sub: str = ""
    """Whose it is."""
    iat: int | None = None
    """When it was made, in seconds since 1970."""
    exp: int | None = None
    """When it expires, in seconds since 1970."""
    binding: Binding | None = Field(None, alias="kubernetes.io")

    @field_validator("aud", mode="before")
    @classmethod
    def _several(cls, given: object) -> object:
        return [given] if isinstance(given, str) else given


def claims_in(token: SecretStr) -> Claims:
    """Returns what a token says of itself; of one that is no JSON Web Token, nothing."""
    parts = token.get_secret_value().split(".")
    if len(parts) != 3:
        return Claims()
    try:
        raw = base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4))
        return Claims.model_validate_json(raw)
    except ValueError:
        return Claims()
