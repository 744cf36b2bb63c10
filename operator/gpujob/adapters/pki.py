"""Makes certificates, and reads them back (DECISIONS.md, Our own certificates)."""

import ipaddress
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from pydantic import SecretStr

from gpujob.core.certificates import Authority, Certificate

BACKDATED = timedelta(minutes=5)
"""How far a certificate is backdated, for callers whose clock is behind."""


class PkiError(ValueError):
    """A stored certificate or key cannot be read; the message says which."""


def make_authority(names: frozenset[str], *, now: datetime, life_seconds: float) -> Authority:
    """Makes an authority that can sign for these names alone; none = for any."""
    ends_at = now + timedelta(seconds=life_seconds)
    key = ec.generate_private_key(ec.SECP256R1())
    # Two authorities are trusted during a rotation: their names must differ.
    own_id = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    issuer = _name(f"gpujob authority {own_id.digest.hex()[:16]}")
    builder = _builder(issuer, issuer, key.public_key(), now, ends_at)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_usage(signs=True), critical=True)
    builder = builder.add_extension(own_id, critical=False)
    if names:
        # Whoever trusts it, and has it stolen, is to be deceived about nobody else.
        permitted = [x509.DNSName(name) for name in sorted(names)]
        builder = builder.add_extension(x509.NameConstraints(permitted, None), critical=True)
    certificate = builder.sign(key, hashes.SHA256())
    return Authority(_pem(certificate), _key_pem(key), ends_at, names)


def make(
    names: frozenset[str], *, now: datetime, life_seconds: float, by: Authority | None = None
) -> Certificate:
    """Makes a server's certificate; None = by an authority for it alone, whose key is not kept."""
    by = by or make_authority(frozenset(), now=now, life_seconds=life_seconds)
    ends_at = min(now + timedelta(seconds=life_seconds), by.ends_at)
    authority = x509.load_pem_x509_certificate(by.certificate.encode())
    signer = load_pem_private_key(by.key.get_secret_value().encode(), None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey), "no other is made or read"
    signers_id = authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value

    key = ec.generate_private_key(ec.SECP256R1())
    subject = _name(sorted(names)[0])
    builder = _builder(subject, authority.subject, key.public_key(), now, ends_at)
    extensions: tuple[tuple[x509.ExtensionType, bool], ...] = (
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (_usage(signs=False), True),
        (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False),
        (x509.SubjectAlternativeName([_alternative(name) for name in sorted(names)]), False),
        (x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False),
        (x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(signers_id), False),
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical=critical)
    return Certificate(
        authority=by.certificate,
        chain=_pem(builder.sign(signer, hashes.SHA256())),
        key=_key_pem(key),
        made_at=now,
        ends_at=ends_at,
        names=names,
    )


def check_authorities(text: str) -> None:
    """Raises PkiError unless a text holds certificates of authorities, as PEM, and no key."""
    if "PRIVATE KEY" in text:
        raise PkiError("it holds a private key; take it out, and give that authority up")
    try:
        found = x509.load_pem_x509_certificates(text.encode("ascii"))
    except ValueError as error:
        raise PkiError(f"it is no certificate in PEM: {error}") from None
    for one in found:
        if not _is_authority(one):
            raise PkiError(f"{one.subject.rfc4514_string()!r} is no authority; give who signed it")


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (x509.ExtensionNotFound, ValueError):
        return False


def read_authority(certificate: str, key: SecretStr) -> Authority:
    """Returns a stored authority; raises PkiError if it is unusable."""
    try:
        read = x509.load_pem_x509_certificate(certificate.encode())
        held = load_pem_private_key(key.get_secret_value().encode(), None)
        limits = read.extensions.get_extension_for_class(x509.NameConstraints).value
        read.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.ExtensionNotFound) as error:
        raise PkiError(f"the stored authority cannot be read: {error}") from error
    if not isinstance(held, ec.EllipticCurvePrivateKey) or held.public_key() != read.public_key():
        raise PkiError("the stored key is not that of the authority")
    names = frozenset(str(one.value) for one in limits.permitted_subtrees or ())
    return Authority(certificate, key, read.not_valid_after_utc, names)


def read(*, authority: str, chain: str, key: SecretStr) -> Certificate:
    """Returns a stored certificate with its dates and names; raises PkiError if it is unusable.

    The certificates of an administrator's own authority may come as a chain.
    """
    try:
        certificate, *between = x509.load_pem_x509_certificates(chain.encode())
        extensions = certificate.extensions
        names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        signers = [*between, *x509.load_pem_x509_certificates(authority.encode())]
        held = load_pem_private_key(key.get_secret_value().encode(), None)
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.ExtensionNotFound) as error:
        # The words of the library are about the form, and show nothing of a key.
        raise PkiError(f"the stored certificate cannot be read: {error}") from error
    if held.public_key() != certificate.public_key():
        raise PkiError("the stored key is another certificate's")
    if not any(_is_signed_by(certificate, one) for one in signers):
        raise PkiError("the stored certificate is signed by none of its authorities")
    return Certificate(
        authority=authority,
        chain=chain,
        key=key,
        made_at=certificate.not_valid_before_utc + BACKDATED,
        ends_at=certificate.not_valid_after_utc,
        names=frozenset(str(one.value) for one in names),
    )


def _is_signed_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _name(text: str) -> x509.Name:
    # A common name has at most 64 characters, and nobody reads it.
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text[:64])])


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public: ec.EllipticCurvePublicKey,
    now: datetime,
    ends_at: datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(ends_at)
    )


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )


def _key_pem(key: ec.EllipticCurvePrivateKey) -> SecretStr:
    raw = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return SecretStr(raw.decode())


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(Encoding.PEM).decode()
