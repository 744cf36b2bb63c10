"""Listeners with certificates that the tests make: good ones, and false ones of every kind."""

import ssl
from datetime import UTC, datetime, timedelta

from pydantic import SecretBytes

from gpujob.adapters import pki
from gpujob.core.certificates import Certificate
from gpujob.web.tls import ShownCertificate


def certificate(*names: str, ends_in_seconds: float = 86_400) -> Certificate:
    """A certificate for these names, with an authority of its own; negative seconds = expired."""
    made_at = datetime.now(UTC) - timedelta(days=2)
    life = timedelta(days=2).total_seconds() + ends_in_seconds
    return pki.make(frozenset(names or {"127.0.0.1"}), now=made_at, life_seconds=life)


def shown(made: Certificate, lowest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> ShownCertificate:
    """What a server shows, which may be replaced."""
    certificate = ShownCertificate(lowest)
    show(certificate, made)
    return certificate


def show(certificate: ShownCertificate, made: Certificate) -> None:
    """Replaces what is shown."""
    certificate.show(made.chain.encode(), SecretBytes(made.key.get_secret_value().encode()))


def listening(made: Certificate, lowest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> ssl.SSLContext:
    """The context of a server that shows a certificate."""
    return shown(made, lowest).context


def driver_variables() -> dict[str, str]:
    """The variables without which no driver starts."""
    names = ("TRANSPORT_URL", "TOKEN_FILE", "SSH_KEY_FILE", "NODE_UID", "STATE_DIR", "NODE_NAME")
    return {f"GPUJOB_{name}": "https://x" for name in names} | {
        "GPUJOB_TRANSPORT_AUTHORITIES": certificate("x").authority
    }
