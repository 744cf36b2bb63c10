"""The cluster's certificates and keys, which are made once and kept when it restarts."""

import ipaddress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

LIFETIME = timedelta(days=365)
SERVER, CLIENT = ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH


@dataclass(frozen=True)
class Leaf:
    """A certificate with which a component identifies itself."""

    file: str
    common_name: str
    organization: str | None = None
    usage: x509.ObjectIdentifier = CLIENT
    names: tuple[str, ...] = ()
    authority: str = "ca"


def leaves(node: str, addresses: tuple[str, ...]) -> tuple[Leaf, ...]:
    """Returns all certificates of a cluster with one node."""
    service = "kubernetes.default.svc"
    api = ("kubernetes", "kubernetes.default", service, f"{service}.cluster.local", "localhost")
    return (
        Leaf("apiserver", "kube-apiserver", usage=SERVER, names=(*api, node, *addresses)),
        Leaf("apiserver-kubelet-client", "kube-apiserver-kubelet-client"),
        Leaf("front-proxy-client", "front-proxy-client", authority="front-proxy-ca"),
        Leaf(
            "kubelet-server",
            f"system:node:{node}",
            "system:nodes",
            usage=SERVER,
            names=(node, *addresses),
        ),
        Leaf("kubelet", f"system:node:{node}", "system:nodes"),
        Leaf("controller-manager", "system:kube-controller-manager"),
        Leaf("scheduler", "system:kube-scheduler"),
        Leaf("kube-proxy", "system:kube-proxy"),
        Leaf("admin", "local-admin", "system:masters"),
    )


def make(folder: Path, node: str, addresses: tuple[str, ...]) -> None:
    """Makes all keys, unless they exist: new ones would invalidate every token already issued."""
    if (folder / "complete").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    authorities = {name: _authority(folder, name) for name in ("ca", "front-proxy-ca")}
    for leaf in leaves(node, addresses):
        _leaf(folder, leaf, *authorities[leaf.authority])
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    _write_key(folder / "sa.key", key)
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    (folder / "sa.pub").write_bytes(public)
    (folder / "complete").touch()


Authority = tuple[x509.Certificate, ec.EllipticCurvePrivateKey]


def _authority(folder: Path, name: str) -> Authority:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"kubernetes-{name}")])
    certificate = (
        _builder(subject, subject, key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(_key_usage(signs=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    _write(folder, name, certificate, key)
    return certificate, key


def _leaf(
    folder: Path, leaf: Leaf, issuer: x509.Certificate, signer: ec.EllipticCurvePrivateKey
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    names = [x509.NameAttribute(NameOID.COMMON_NAME, leaf.common_name)]
    if leaf.organization:
        names.append(x509.NameAttribute(NameOID.ORGANIZATION_NAME, leaf.organization))
    public = key.public_key()
    builder = (
        _builder(x509.Name(names), issuer.subject, public)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([leaf.usage]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
        )
    )
    if leaf.names:
        builder = builder.add_extension(
            x509.SubjectAlternativeName([_name(name) for name in leaf.names]), critical=False
        )
    _write(folder, leaf.file, builder.sign(signer, hashes.SHA256()), key)


def _name(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey
) -> x509.CertificateBuilder:
    # Valid from a little in the past, in case the clock is set back.
    start = datetime.now(UTC) - timedelta(minutes=5)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + LIFETIME)
    )


def _key_usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=not signs,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )


def _write(
    folder: Path, name: str, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey
) -> None:
    (folder / f"{name}.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    _write_key(folder / f"{name}.key", key)


def _write_key(path: Path, key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> None:
    path.touch(mode=0o600)
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )


def write_kubeconfig(pki: Path, identity: str, server: str, target: Path) -> None:
    """Writes a kubeconfig that contains its keys, so that it can be copied elsewhere."""
    import base64

    import yaml

    def inline(path: Path) -> str:
        return base64.b64encode(path.read_bytes()).decode()

    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {
                "name": "local",
                "cluster": {
                    "server": server,
                    "certificate-authority-data": inline(pki / "ca.crt"),
                },
            }
        ],
        "users": [
            {
                "name": identity,
                "user": {
                    "client-certificate-data": inline(pki / f"{identity}.crt"),
                    "client-key-data": inline(pki / f"{identity}.key"),
                },
            }
        ],
        "contexts": [{"name": "local", "context": {"cluster": "local", "user": identity}}],
        "current-context": "local",
    }
    target.touch(mode=0o600)
    target.write_text(yaml.safe_dump(document))
