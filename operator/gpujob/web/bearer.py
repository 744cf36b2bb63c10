"""The bearer token that a request shows."""

import re

from pydantic import SecretStr
from starlette.datastructures import Headers

TOKEN_BYTES_MAX = 8_192
TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")


def bearer_token(headers: Headers) -> SecretStr | None:
    """Returns the token that a request shows; None = it shows none that could be one."""
    given = headers.getlist("authorization")
    # Two would let two readers disagree.
    scheme, _, token = given[0].partition(" ") if len(given) == 1 else ("", "", "")
    sound = len(token) <= TOKEN_BYTES_MAX and TOKEN.fullmatch(token)
    return SecretStr(token) if scheme.lower() == "bearer" and sound else None
