"""When the webhook's certificates are made, trusted, used and forgotten.

A new one is trusted first and used later, and the one before it stays trusted: whichever of two
certificates a replica shows, and however old the trust of an API server is, a review succeeds.

made (trusted beside the one in use) ─ overlap ─ used ─ two thirds of its life ─ the next is made
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import Enum, auto

from pydantic import SecretStr

from gpujob.core.limits import Limits


@dataclass(frozen=True)
class Certificate:
    """A server's certificate with its key, and the authority that signed it and nothing else."""

    authority: str
    """PEM."""
    chain: str
    """PEM."""
    key: SecretStr
    """PEM."""
    made_at: datetime
    ends_at: datetime
    names: frozenset[str]
    """DNS names that it is good for."""

    def __repr__(self) -> str:
        """Tells no key."""
        return f"Certificate({sorted(self.names)}, until {self.ends_at:%Y-%m-%d %H:%M:%S})"


@dataclass(frozen=True)
class Held:
    """What is stored."""

    used: Certificate | None = None
    coming: Certificate | None = None
    former_authority: str = ""
    """Of the certificate that was used before; PEM."""

    @property
    def trusted(self) -> str:
        """What a caller has to trust, as PEM; in a fixed order."""
        known = (
            self.former_authority,
            self.used.authority if self.used else "",
            self.coming.authority if self.coming else "",
        )
        return "".join(dict.fromkeys(one for one in known if one))


class Rotation(Enum):
    """What is to be done now."""

    NOTHING = auto()
    MAKE = auto()
    """Make one and use it at once: there is none that could be used."""
    MAKE_NEXT = auto()
    USE_NEXT = auto()


def due(
    held: Held, *, names: frozenset[str], trusted: str, now: datetime, limits: Limits
) -> Rotation:
    """Returns the next step, given what callers are told to trust at present."""
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
    """Returns what is stored once the coming certificate is in use."""
    assert held.used is not None
    return replace(held, used=held.coming, coming=None, former_authority=held.used.authority)


def secret_name(name: str) -> str:
    """Returns the name of the Secret for a release of this name."""
    return f"{name}-server-tls"
