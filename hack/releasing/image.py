"""The images of operator and driver, by docker from operator/Dockerfile."""

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

from localcluster.paths import ROOT
from releasing.programs import ReleaseError, run

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


def push(source: Source, target: str, repository: str) -> str:
    """Builds and pushes an image; returns its name by digest."""
    name = repository.lower()
    digest = _build(
        source, target, f"type=image,name={name}:{source.version},push=true,oci-mediatypes=true"
    )
    return f"{name}@{digest}"


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
