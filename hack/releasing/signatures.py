"""Signatures and attestations of images and charts, by cosign.

On GitHub no key is used: a certificate names the workflow that signed. With a key, nothing is sent
to anybody but the registry.
"""

import base64
import json
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from releasing.programs import ReleaseError, run, tool
from releasing.references import by_digest

GITHUB = "https://token.actions.githubusercontent.com"
"""Issuer of the identity tokens of workflow runs."""

SIGNATURE = "https://sigstore.dev/cosign/sign/v1"
"""The type that cosign 3 gives a signature in a bundle."""

OLD_FORMAT = ("--new-bundle-format=false",)
"""The format that Kyverno finds on GHCR, which has no referrers API; cosign 4 will drop it.

See https://github.com/kyverno/kyverno/issues/16664.
"""


@dataclass(frozen=True)
class Workflow:
    """The signer is a workflow file at a tag, which ran for a commit."""

    identity: str
    """https://github.com/OWNER/REPOSITORY/.github/workflows/FILE@refs/tags/TAG"""
    commit: str | None = None
    """Hexadecimal; None: any."""

    def sign_options(self) -> tuple[str, ...]:
        """Returns what makes cosign sign so."""
        return ()

    def old_sign_options(self) -> tuple[str, ...]:
        """Returns the same for the old format, which has no signing configuration."""
        return ("--use-signing-config=false",)

    def verify_options(self) -> tuple[str, ...]:
        """Returns what makes cosign demand it."""
        options = [f"--certificate-identity={self.identity}", f"--certificate-oidc-issuer={GITHUB}"]
        if self.commit:
            options.append(f"--certificate-github-workflow-sha={self.commit}")
        return tuple(options)


@dataclass(frozen=True)
class Key:
    """A key in a file, and a registry on this machine: no certificate, no transparency log."""

    file: Path
    """The private one to sign, the public one to verify."""

    def sign_options(self) -> tuple[str, ...]:
        """Returns what makes cosign sign so."""
        return (f"--key={self.file}", "--tlog-upload=false", "--use-signing-config=false")

    def old_sign_options(self) -> tuple[str, ...]:
        """Returns the same: it signs without a signing configuration anyway."""
        return self.sign_options()

    def verify_options(self) -> tuple[str, ...]:
        """Returns what makes cosign demand it."""
        return (f"--key={self.file}", "--insecure-ignore-tlog=true")


Signer = Workflow | Key


def sign(reference: str, signer: Signer) -> None:
    """Signs an image, and each platform's image in it, in both formats; raises ReleaseError.

    The formats follow one another: on a registry without referrers both write the same index.
    """
    by_digest(reference)
    command = [tool("cosign"), "sign", "--yes", "--recursive"]
    run([*command, *OLD_FORMAT, *signer.old_sign_options(), reference], env=_quiet())
    run([*command, *signer.sign_options(), reference], env=_quiet())


def attest(reference: str, signer: Signer, bill: Path) -> None:
    """Signs a bill of materials as a statement on an image; raises ReleaseError."""
    by_digest(reference)
    command = [tool("cosign"), "attest", "--yes", "--type=cyclonedx", f"--predicate={bill}"]
    run([*command, *signer.sign_options(), reference], env=_quiet())


def verify(reference: str, signer: Signer, bill: Path | None) -> None:
    """Raises ReleaseError unless signed in both formats, with an attested bill if one is given."""
    _, digest = by_digest(reference)
    command = [tool("cosign"), "verify", "--output=json", *signer.verify_options()]
    require_signature(json.loads(run([*command, reference])), digest)
    # In the old format statements are stored elsewhere, so what is found is a signature.
    run([*command, *OLD_FORMAT, reference])
    if bill is not None:
        command = [tool("cosign"), "verify-attestation", "--type=cyclonedx", "--output=json"]
        printed = run([*command, *signer.verify_options(), reference])
        statements = [json.loads(line) for line in printed.splitlines() if line.startswith("{")]
        require_bill(statements, digest, json.loads(bill.read_text()))


def require_signature(verified: Iterable[dict[str, Any]], digest: str) -> None:
    """Raises ReleaseError unless one of what cosign verified is a signature of the digest.

    `cosign verify` accepts any bundle of the right signer, even a statement about the origin of the
    image. That says who built the image, but not that it was released.
    """
    seen = []
    for one in verified:
        critical = one.get("critical", {})
        seen.append(critical.get("type"))
        if (critical.get("type"), critical.get("image", {}).get("docker-manifest-digest")) == (
            SIGNATURE,
            digest,
        ):
            return
    raise ReleaseError(f"{digest} is not signed as {SIGNATURE!r}; cosign verified only {seen}")


def require_bill(statements: Iterable[dict[str, Any]], digest: str, bill: Any) -> None:
    """Raises ReleaseError unless a verified statement attests this bill for the digest."""
    for envelope in statements:
        statement = json.loads(base64.b64decode(envelope["payload"]))
        subjects = {f"sha256:{one['digest']['sha256']}" for one in statement["subject"]}
        if digest in subjects and statement["predicate"] == bill:
            return
    raise ReleaseError(f"no verified statement on {digest} holds this bill of materials")


def make_key(folder: Path) -> tuple[Key, Key]:
    """Makes a key pair without a password, for tests; returns the private and the public key."""
    with tempfile.TemporaryDirectory() as scratch:
        run([tool("cosign"), "generate-key-pair"], cwd=Path(scratch), env=_quiet())
        for file in Path(scratch).iterdir():
            file.replace(folder / file.name)
    return Key(folder / "cosign.key"), Key(folder / "cosign.pub")


def _quiet() -> dict[str, str]:
    return {"COSIGN_PASSWORD": ""}
