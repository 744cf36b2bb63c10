"""The images of operator and driver, by docker from operator/Dockerfile."""

import hashlib
import json
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

from localcluster.paths import ROOT
from releasing.programs import ReleaseError, run, tool
from releasing.references import by_digest

PLATFORMS = ("linux/amd64", "linux/arm64")
TARGETS = ("operator", "driver")
"""In operator/Dockerfile: what is released of it."""


@dataclass(frozen=True)
class Source:
    """The commit that an image is built from."""

    version: str
    commit: str
    """Hexadecimal."""
    committed: int
    """Seconds since 1970. Every time in the image is set to this, so that two builds are equal."""
    address: str
    """URL of the repository."""


def read_source(version: str, address: str) -> Source:
    """Returns the commit of the work tree; raises ReleaseError if they differ."""
    git = ["git", "-C", str(ROOT)]
    if changed := run([*git, "status", "--porcelain"]).strip():
        raise ReleaseError(f"commit these changes of the work tree first:\n{changed}")
    commit, committed = run([*git, "show", "-s", "--format=%H %ct", "HEAD"]).split()
    return Source(version, commit, int(committed), address)


def build_command(source: Source, target: str, output: str, metadata: Path) -> list[str]:
    """Returns the command that builds an image for all platforms; raises ReleaseError.

    It uses no cache, which could hold what another run has left, and none of the builder's own
    attestations, which hold the time of the build.
    """
    if target not in TARGETS:
        raise ReleaseError(f"no image {target!r} is released: {' and '.join(TARGETS)} are")
    arguments = {
        "SOURCE_DATE_EPOCH": str(source.committed),
        "VERSION": source.version,
        "REVISION": source.commit,
        "SOURCE": source.address,
    }
    return [
        *("docker", "buildx", "build", "--file", "operator/Dockerfile", "--target", target),
        *("--platform", ",".join(PLATFORMS), "--no-cache", "--provenance=false", "--sbom=false"),
        *(part for name, value in arguments.items() for part in ("--build-arg", f"{name}={value}")),
        *("--metadata-file", str(metadata), "--output", f"{output},rewrite-timestamp=true", "."),
    ]


def build(source: Source, target: str, archive: Path) -> str:
    """Builds an image into an OCI archive, and returns its digest. What builds may not push."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    return _build(source, target, f"type=oci,dest={archive}")


def push(archive: Path, reference: str, version: str) -> str:
    """Pushes an image from its OCI archive and returns its name by digest, NAME@sha256:…

    Raises ReleaseError if the archive holds another image than the reference names.
    """
    name, digest = by_digest(reference.lower())
    with tempfile.TemporaryDirectory() as scratch:
        with tarfile.open(archive) as opened:
            members = [_harmless(member) for member in opened]
            # Filters have no names yet in Debian's Python 3.11.2.
            opened.extraction_filter = lambda member, _: member
            opened.extractall(scratch, members)  # noqa: S202 - each was looked at
        held = json.loads((Path(scratch) / "index.json").read_text())["manifests"]
        found = [one["digest"] for one in held]
        if found != [digest] or _digest_of(Path(scratch), digest) != digest:
            raise ReleaseError(f"{archive.name} holds {', '.join(found)}, but {digest} was built")
        pushed = run([tool("crane"), "push", scratch, f"{name}:{version}"]).strip()
    if pushed != f"{name}@{digest}":
        raise ReleaseError(f"{pushed} was pushed, but {digest} was built")
    return pushed


def _harmless(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Returns a member that stays within the folder; raises ReleaseError."""
    parts = Path(member.name).parts
    if not (member.isfile() or member.isdir()) or member.name.startswith("/") or ".." in parts:
        raise ReleaseError(f"{member.name} does not belong in an image's archive")
    return member


def _digest_of(layout: Path, digest: str) -> str:
    blob = layout / "blobs" / digest.replace(":", "/")
    return f"sha256:{hashlib.sha256(blob.read_bytes()).hexdigest()}"


def build_twice(source: Source, target: str) -> str:
    """Builds an image twice, pushes nothing; returns the digest, raises ReleaseError if two."""
    with tempfile.TemporaryDirectory() as scratch:
        outputs = [f"type=oci,dest={scratch}/{number}.tar" for number in (1, 2)]
        first, second = (_build(source, target, output) for output in outputs)
    if first != second:
        raise ReleaseError(
            f"two builds of the {target} at {source.commit} differ: {first} and {second}"
        )
    return first


def _build(source: Source, target: str, output: str) -> str:
    with tempfile.TemporaryDirectory() as scratch:
        metadata = Path(scratch) / "metadata.json"
        run(build_command(source, target, output, metadata), cwd=ROOT)
        digest: str = json.loads(metadata.read_text())["containerimage.digest"]
    return digest
