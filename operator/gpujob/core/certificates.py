"""When certificates are made, trusted, used and forgotten: the webhook's, and the transport's.

A new certificate is trusted first and used later, and the one before it stays trusted. So a call
succeeds whichever of the two a listener presents, even if the caller has not yet read the latest
authorities.

made (trusted beside the one in use) ─ overlap ─ used ─ two thirds of its life ─ the next is made

The transport's callers are told of new authorities by itself. Clients of the HTTP API are told by
people: so the authority of the server's certificates stays, and can sign for its names alone.
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import Enum, auto

from pydantic import SecretStr

from gpujob.core.limits import Limits

AUTHORITY_LIFE = timedelta(days=3650)


@dataclass(frozen=True)
class Authority:
    """What signs the certificates of a listener, one after the other."""

    certificate: str
    """PEM."""
    key: SecretStr
    """PEM."""
    ends_at: datetime
    names: frozenset[str]
    """DNS names that it can sign for; empty = it was made for one certificate alone."""

    def __repr__(self) -> str:
        """Leaves out the key, so that it cannot get into a log."""
        return f"Authority({sorted(self.names)}, until {self.ends_at:%Y-%m-%d %H:%M:%S})"

    def can_sign(self, names: frozenset[str], until: datetime) -> bool:
        """Whether a certificate for these names would be good until then."""
        return names <= self.names and until <= self.ends_at


@dataclass(frozen=True)
class Certificate:
    """A server's certificate with its key, and the authority that signed it."""

    authority: str
    """PEM."""
    chain: str
    """PEM."""
    key: SecretStr
    """PEM."""
    made_at: datetime
    ends_at: datetime
    names: frozenset[str]
    """DNS names and IP addresses that the certificate covers."""

    def __repr__(self) -> str:
        """Leaves out the key, so that it cannot get into a log."""
        return f"Certificate({sorted(self.names)}, until {self.ends_at:%Y-%m-%d %H:%M:%S})"


@dataclass(frozen=True)
class Held:
    """The certificates that the Secret holds."""

    used: Certificate | None = None
    coming: Certificate | None = None
    former_authority: str = ""
    """The authority of the certificate that was used before; PEM."""

    @property
    def trusted(self) -> str:
        """The authorities that a caller has to trust, as PEM, in a fixed order."""
        known = (
            self.former_authority,
            self.used.authority if self.used else "",
            self.coming.authority if self.coming else "",
        )
        return "".join(dict.fromkeys(one for one in known if one))


class Rotation(Enum):
    """The next step of the rotation."""

    NOTHING = auto()
    MAKE = auto()
    """Make one and use it at once, because no stored certificate can be used."""
    MAKE_NEXT = auto()
    USE_NEXT = auto()


def due(
    held: Held, *, names: frozenset[str], trusted: str, now: datetime, limits: Limits
) -> Rotation:
    """Returns the next step; `trusted` is what callers are configured to trust at present."""
    used, coming = held.used, held.coming
    if used is None or not used.made_at <= now < used.ends_at or not names <= used.names:
        return Rotation.MAKE
    if coming is None:
        life = used.ends_at - used.made_at
        return Rotation.MAKE_NEXT if now >= used.made_at + life * 2 / 3 else Rotation.NOTHING
    overlap = timedelta(seconds=limits.certificate_overlap_seconds)
    if coming.authority in trusted and now >= coming.made_at + overlap:
        return Rotation.USE_NEXT
    return Rotation.NOTHING


def used_next(held: Held) -> Held:
    """Returns what to store when the coming certificate is put into use."""
    assert held.used is not None
    return replace(held, used=held.coming, coming=None, former_authority=held.used.authority)


def secret_name(name: str) -> str:
    """Returns the name of the Secret with the server's certificates, for a release of this name."""
    return f"{name}-server-tls"


def authority_secret_name(name: str) -> str:
    """Returns the name of the Secret with the authority of these; the server cannot read it."""
    return f"{name}-server-ca"


def transport_secret_name(name: str) -> str:
    """Returns the name of the Secret with the transport's certificates; the server reads it not."""
    return f"{name}-transport-tls"


def transport_authorities_name(name: str) -> str:
    """Returns the name of the ConfigMap with the authorities that the transport's callers trust."""
    return f"{name}-transport-ca"
