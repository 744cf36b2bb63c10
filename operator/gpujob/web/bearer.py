"""The bearer token of a request (RFC 6750)."""

import re

from pydantic import SecretStr
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
