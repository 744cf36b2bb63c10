"""Listeners with certificates that the tests make: good ones, and false ones of every kind."""

import ssl
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from pydantic import SecretBytes

from gpujob.adapters import pki
from gpujob.core.certificates import Authority, Certificate
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


def cluster_authority(by: Authority | None = None) -> Authority:
    """One that signs for anybody, as a cluster's does; `by` another, as a company's has it."""
    made = pki.make_authority(frozenset(), now=datetime.now(UTC), life_seconds=86_400)
    if by is None:
        return made
    read = x509.load_pem_x509_certificate(made.certificate.encode())
    signed = _builder(read.subject, by, read.public_key()).add_extension(
        x509.BasicConstraints(ca=True, path_length=0), critical=True
    )
    return Authority(_signed(signed, by), made.key, made.ends_at, made.names)


def client_certificate(
    by: Authority,
    *names: str,
    alternative: str = "",
    usage: x509.ObjectIdentifier = ExtendedKeyUsageOID.CLIENT_AUTH,
    ends_in_seconds: float = 3600,
) -> tuple[str, str]:
    """A client's certificate and its key, in PEM, with these common names."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name) for name in names])
    made = _builder(subject, by, key.public_key(), ends_in_seconds)
    made = made.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    if alternative:
        dns = x509.SubjectAlternativeName([x509.DNSName(alternative)])
        made = made.add_extension(dns, critical=False)
    held = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return _signed(made, by), held.decode()


def _builder(
    subject: x509.Name,
    by: Authority,
    public: CertificatePublicKeyTypes,
    ends_in_seconds: float = 3600,
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(x509.load_pem_x509_certificate(by.certificate.encode()).subject)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=2))
        .not_valid_after(now + timedelta(seconds=ends_in_seconds))
    )


def _signed(made: x509.CertificateBuilder, by: Authority) -> str:
    key = load_pem_private_key(by.key.get_secret_value().encode(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return made.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()


def driver_variables() -> dict[str, str]:
    """The variables without which no driver starts."""
    names = ("TRANSPORT_URL", "TOKEN_FILE", "SSH_KEY_FILE", "NODE_UID", "STATE_DIR", "NODE_NAME")
    return {f"GPUJOB_{name}": "https://x" for name in names} | {
        "GPUJOB_TRANSPORT_AUTHORITIES": certificate("x").authority
    }
