"""Who may use the HTTP API with a token of its own, and which texts are such tokens.

Only the digest of a token is stored, so whoever reads the Secret cannot use the API. A fast hash is
enough, because nobody can try all values of 256 random bits.

That a text is random cannot be seen in it. So only texts are accepted that have the form in which
`gpujob token` writes 32 bytes from the system's generator, with a checksum. A password or a
sentence does not have that form; somebody who computes the checksum for bytes of his own can still
give himself a weak token. So the rule shows that a token was not chosen by accident, and never that
its 256 bits are random: only `gpujob token` itself vouches for that.
"""

import base64
import hashlib
import hmac
import re
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from gpujob.api.meta import Model, Time

TOKEN_PREFIX = "gpujob_"  # noqa: S105 - how each token begins
"""Secret scanners recognise by it a token that was published by mistake."""
TOKEN_BYTES = 32
TOKEN_FORM = re.compile(rf"{TOKEN_PREFIX}[A-Za-z0-9_-]{{48}}")
"""48 characters of base64url are the 32 bytes and the 4 bytes of their CRC-32."""
DIFFERENT_BYTES_MIN = 16
"""Among 32 random bytes there are fewer different ones only once in 10^10 tokens."""
EVERYWHERE = "*"

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


def token_of(raw: bytes) -> str:
    """Returns the token that is made of 32 random bytes."""
    return TOKEN_PREFIX + base64.urlsafe_b64encode(raw + _checksum(raw)).decode()


def token_fault(text: str) -> str:
    """Returns why a text is not a token that `gpujob token` made; empty = nothing found."""
    if not TOKEN_FORM.fullmatch(text):
        return f"it is not {TOKEN_PREFIX} with 48 more characters"
    decoded = base64.urlsafe_b64decode(text.removeprefix(TOKEN_PREFIX))
    raw = decoded[:TOKEN_BYTES]
    if decoded[TOKEN_BYTES:] != _checksum(raw):
        return "its checksum is wrong"
    if len(set(raw)) < DIFFERENT_BYTES_MIN:
        return "it repeats itself"
    return ""


def grant_of(token: str, known: Iterable[Known], now: datetime) -> Grant | None:
    """Returns what a token grants now; None = nothing: it is unknown or has expired.

    It is compared with all digests, each in constant time, so the time taken reveals nothing. What
    cannot be a token of ours grants nothing, whatever digest is stored.
    """
    if token_fault(token):
        return None
    digest = digest_of(token)
    found = None
    for one in known:
        if hmac.compare_digest(one.digest, digest):
            found = one.grant
    if found is None or (found.expires is not None and found.expires <= now):
        return None
    return found


def _checksum(raw: bytes) -> bytes:
    return zlib.crc32(raw).to_bytes(4, "big")
