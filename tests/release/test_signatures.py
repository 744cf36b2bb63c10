"""SR-008: what is released is signed, and what is not signed is refused."""

from pathlib import Path

import pytest
from tests.release.parts import index_of, push_small

from releasing import signatures
from releasing.__main__ import main
from releasing.programs import ReleaseError, run, tool
from releasing.signatures import GITHUB, SIGNATURE, Key, Workflow

Keys = tuple[Key, Key]


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Runs hack/release as a workflow's step does; returns its exit status."""
    monkeypatch.setattr("sys.argv", ["hack/release", *arguments])
    return main()


def test_what_was_signed_is_verified(
    small: str, keys: Keys, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In both formats, by the commands of the workflow."""
    private, public = keys
    assert command(monkeypatch, "verify", small, "--key", str(public.file)) == 1
    assert "no signatures found" in capsys.readouterr().err

    assert command(monkeypatch, "sign", small, "--key", str(private.file)) == 0
    assert command(monkeypatch, "verify", small, "--key", str(public.file)) == 0

    tags = run([tool("crane"), "ls", small.partition("@")[0]]).split()
    bundle = small.partition("@")[2].replace(":", "-")
    assert {bundle, f"{bundle}.sig"} <= set(tags)


def test_each_platform_is_signed(small: str, keys: Keys) -> None:
    """A node pulls the image of its platform, and a policy may ask about that one."""
    private, public = keys
    both, second = index_of(small)
    signatures.sign(both, private)

    for reference in (both, small, second):
        signatures.verify(reference, public, None)


def test_another_key_is_refused(small: str, keys: Keys, tmp_path: Path) -> None:
    """A good signature of somebody else is none."""
    other, _ = signatures.make_key(tmp_path)
    signatures.sign(small, other)

    with pytest.raises(ReleaseError, match="cosign verify"):
        signatures.verify(small, keys[1], None)


def test_a_signature_moved_to_another_image_is_refused(
    small: str, keys: Keys, registry: str, tmp_path: Path
) -> None:
    """Whoever may write to the registry can put it there."""
    private, public = keys
    signatures.sign(small, private)
    (tmp_path / "other").mkdir()
    other = push_small(registry, tmp_path / "other", b"tampered with " + tmp_path.name.encode())
    assert other != small
    for end in ("", ".sig"):
        old, new = (f"{one.replace('@sha256:', ':sha256-')}{end}" for one in (small, other))
        run([tool("crane"), "copy", old, new])

    with pytest.raises(ReleaseError, match="cosign verify"):
        signatures.verify(other, public, None)


def test_one_format_is_not_enough(small: str, keys: Keys) -> None:
    """Without the old one Kyverno would refuse on GHCR what cosign lets pass."""
    private, public = keys
    run(
        [tool("cosign"), "sign", "--yes", *private.sign_options(), small],
        env={"COSIGN_PASSWORD": ""},
    )

    with pytest.raises(ReleaseError, match="no signatures found"):
        signatures.verify(small, public, None)


def test_a_statement_is_no_signature(small: str, keys: Keys, tmp_path: Path) -> None:
    """`cosign verify` itself lets it pass: it is a bundle of the right signer."""
    private, public = keys
    bill = tmp_path / "sbom.json"
    bill.write_text('{"bomFormat": "CycloneDX"}')
    signatures.attest(small, private, bill)
    run([tool("cosign"), "verify", *public.verify_options(), small])

    with pytest.raises(ReleaseError, match="not signed as"):
        signatures.verify(small, public, bill)


def test_the_bill_must_be_the_one_that_was_attested(small: str, keys: Keys, tmp_path: Path) -> None:
    """The file that is published and the statement on the image are the same."""
    private, public = keys
    bill = tmp_path / "sbom.json"
    bill.write_text('{"bomFormat": "CycloneDX"}')
    signatures.sign(small, private)
    with pytest.raises(ReleaseError, match="cosign verify-attestation"):
        signatures.verify(small, public, bill)
    signatures.attest(small, private, bill)
    signatures.verify(small, public, bill)
    bill.write_text('{"bomFormat": "CycloneDX", "components": []}')

    with pytest.raises(ReleaseError, match="no verified statement"):
        signatures.verify(small, public, bill)


@pytest.mark.parametrize("reference", ["ghcr.io/gpujob/x:1", "ghcr.io/gpujob/x@sha256:12", "x"])
def test_nothing_is_signed_by_its_tag(reference: str, keys: Keys) -> None:
    """A tag may name another image by the time it is signed."""
    with pytest.raises(ReleaseError, match="names no digest"):
        signatures.sign(reference, keys[0])


DIGEST, OTHER = f"sha256:{'1' * 64}", f"sha256:{'2' * 64}"


@pytest.mark.parametrize(
    ("kind", "digest", "good"),
    [
        (SIGNATURE, DIGEST, True),
        (SIGNATURE, OTHER, False),
        ("cosign container image signature", DIGEST, False),
        ("https://slsa.dev/provenance/v1", DIGEST, False),
        (None, DIGEST, False),
    ],
)
def test_type_and_digest_are_demanded(kind: str | None, digest: str, good: bool) -> None:
    """Of one and the same entry."""
    verified = [{"critical": {"type": kind, "image": {"docker-manifest-digest": digest}}}]
    if good:
        signatures.require_signature(verified, DIGEST)
    else:
        with pytest.raises(ReleaseError, match="not signed as"):
            signatures.require_signature(verified, DIGEST)


def test_keyless_demands_issuer_identity_and_commit() -> None:
    """Exactly: a pattern would let another workflow of the repository sign."""
    identity = "https://github.com/o/r/.github/workflows/release.yml@refs/tags/v1.0.0"

    assert Workflow(identity, "abc").verify_options() == (
        f"--certificate-identity={identity}",
        f"--certificate-oidc-issuer={GITHUB}",
        "--certificate-github-workflow-sha=abc",
    )
