"""Who may use the HTTP API with a token of its own, and which tokens are too weak.

Only the digest of a token is stored, so whoever reads the Secret cannot use the API. A fast hash is
enough, because nobody can try all values of 256 random bits.
"""

import base64
import binascii
import hashlib
import hmac
import math
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from gpujob.api.meta import Model, Time

TOKEN_PREFIX = "gpujob_"  # noqa: S105 - how each token begins
"""Secret scanners recognise by it a token that was published by mistake."""
TOKEN_BYTES = 32
SHORTEST = len(TOKEN_PREFIX) + math.ceil(TOKEN_BYTES * 4 / 3)
EVERYWHERE = "*"
ADVICE = "make a good one: python3 -c 'import secrets; print(secrets.token_urlsafe(32))'"

Access = Literal["read", "write"]
NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?")


class TokenRecord(Model):
    """What the Secret holds about one token, under the token's name."""

    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    namespaces: Annotated[
        tuple[Annotated[str, Field(pattern=r"^(\*|[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)$")], ...],
        Field(min_length=1, max_length=100),
    ]
    """Namespaces in which it may be used; `*` = all."""
    access: Access
    """Write includes read."""
    expires: Time


@dataclass(frozen=True, kw_only=True)
class Grant:
    """What the bearer of a token may do."""

    name: str
    namespaces: frozenset[str]
    access: Access
    expires: datetime | None
    """None = it is valid until its Secret is deleted."""

    def allows(self, *, namespace: str, writes: bool) -> bool:
        """Whether the grant covers a namespace; an empty one asks for all of them."""
        reaches = EVERYWHERE in self.namespaces or (
            bool(namespace) and namespace in self.namespaces
        )
        return reaches and (self.access == "write" or not writes)


@dataclass(frozen=True)
class Known:
    """A grant, and the digest of the token that it is for."""

    digest: str
    grant: Grant


def tokens_secret(name: str) -> str:
    """Returns the name of the Secret that holds the digests of a release of this name."""
    return f"{name}-api-tokens"


def digest_of(token: str) -> str:
    """Returns the digest under which a token is stored."""
    return hashlib.sha256(token.encode()).hexdigest()


def known_tokens(data: Mapping[str, bytes]) -> tuple[tuple[Known, ...], tuple[str, ...]]:
    """Returns the tokens in a Secret's data, and the names of entries that cannot be read."""
    known, wrong = [], []
    for name, raw in sorted(data.items()):
        try:
            record = TokenRecord.model_validate_json(raw)
        except ValidationError:
            wrong.append(name)
            continue
        grant = Grant(
            name=name,
            namespaces=frozenset(record.namespaces),
            access=record.access,
            expires=record.expires,
        )
        known.append(Known(record.sha256, grant))
    return tuple(known), tuple(wrong)


def grant_of(token: str, known: Iterable[Known], now: datetime) -> Grant | None:
    """Returns what a token grants now; None = nothing: it is unknown or has expired.

    It is compared with all digests, each in constant time, so the time taken reveals nothing.
    """
    digest = digest_of(token)
    found = None
    for one in known:
        if hmac.compare_digest(one.digest, digest):
            found = one.grant
    if found is None or (found.expires is not None and found.expires <= now):
        return None
    return found


def weakness(text: str) -> str:
    """Returns why a token that an administrator made could be guessed; empty = nothing found.

    A text cannot show that it is random, only that it is not: by too few bytes, repetition or
    sequences.
    """
    raw = _decoded(text)
    if raw is None:
        return "it must be base64, base64url or hexadecimal"
    if len(raw) < TOKEN_BYTES:
        return f"it has {len(raw)} bytes, but at least {TOKEN_BYTES} are needed"
    if _is_sequence(raw) or _is_sequence(text.removeprefix(TOKEN_PREFIX).encode()):
        return "it is a plain sequence"
    if any(raw == (raw[:size] * len(raw))[: len(raw)] for size in range(1, len(raw) // 2 + 1)):
        return "it repeats itself"
    # Among 32 random bytes there are fewer than 16 different ones only once in 10^10 tokens.
    if len(set(raw)) < 16 or len(zlib.compress(raw, 9)) < len(raw):
        return "it repeats itself"
    if _looks_typed(raw):
        return "it is readable text, not random bytes"
    return ""


def _is_sequence(values: bytes) -> bool:
    """Whether most values differ from the one before by the same step."""
    steps = Counter((after - before) % 256 for before, after in pairwise(values))
    return steps.most_common(1)[0][1] > len(values) / 2


def _looks_typed(raw: bytes) -> bool:
    """Whether all bytes are printable characters; of 10^13 random tokens only one is like that."""
    return all(32 <= byte < 127 for byte in raw)


def _decoded(text: str) -> bytes | None:
    plain = text.removeprefix(TOKEN_PREFIX)
    if re.fullmatch(r"([0-9a-fA-F]{2})+", plain):
        return bytes.fromhex(plain)
    if not re.fullmatch(r"[A-Za-z0-9+/_-]+={0,2}", plain):
        return None
    padded = plain.rstrip("=").replace("+", "-").replace("/", "_")
    try:
        return base64.urlsafe_b64decode(padded + "=" * (-len(padded) % 4))
    except (binascii.Error, ValueError):
        return None
