"""The keys with which the HTTP API marks the jobs that it creates, so that nobody else can.

A mark says that a job was created for a caller's `Idempotency-Key`. Whoever could make one could
have the API answer with a job of his own. The leader makes a key, and a new one every three months;
the one before stays, so that what was marked with it is found.
"""

import base64
import binascii
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from pydantic import SecretBytes

KEY_BYTES = 32
NAME = "key-%Y%m%dT%H%M%SZ"
"""Of a key in its Secret: when it was made."""
LIFE = timedelta(days=90)
"""A repeated request is known as such for at least so long."""
OVERLAP = timedelta(minutes=2)
"""A new key is used only after so long, when every replica of the server has read it."""


@dataclass(frozen=True)
class MarkKey:
    """One key."""

    made_at: datetime
    secret: SecretBytes

    def mark(self, *parts: str) -> str:
        """Returns the mark of these texts, in hexadecimal."""
        # With their lengths, so that no other texts have the same mark.
        told = b"".join(b"%d:%s," % (len(raw), raw) for raw in map(str.encode, parts))
        return hmac.digest(self.secret.get_secret_value(), told, "sha256").hex()


def mark_keys_secret(name: str) -> str:
    """Returns the name of the Secret with the keys of a release of this name."""
    return f"{name}-api-marks"


def keys_in(data: Mapping[str, str]) -> tuple[MarkKey, ...]:
    """Returns the keys in a Secret's data, the newest first; what cannot be read is none."""
    found = []
    for name, text in data.items():
        try:
            made_at = datetime.strptime(name, NAME).replace(tzinfo=UTC)
            raw = base64.b64decode(text, validate=True)
        except (ValueError, binascii.Error):
            continue
        if len(raw) == KEY_BYTES:
            found.append(MarkKey(made_at, SecretBytes(raw)))
    return tuple(sorted(found, key=lambda key: key.made_at, reverse=True))


def data_of(keys: tuple[MarkKey, ...]) -> dict[str, str]:
    """Returns what a Secret with these keys holds."""
    return {
        key.made_at.astimezone(UTC).strftime(NAME): base64.b64encode(
            key.secret.get_secret_value()
        ).decode()
        for key in keys
    }


def with_new_key(
    keys: tuple[MarkKey, ...], made: SecretBytes, now: datetime
) -> tuple[MarkKey, ...] | None:
    """Returns the keys to store, with one that was made just now; None = none is due."""
    if keys and now - keys[0].made_at < LIFE:
        return None
    return (MarkKey(now.replace(microsecond=0), made), *keys[:1])


def key_to_use(keys: tuple[MarkKey, ...], now: datetime) -> MarkKey | None:
    """Returns the key to mark new jobs with; None = there is none."""
    return next((key for key in keys if now - key.made_at >= OVERLAP), keys[-1] if keys else None)
