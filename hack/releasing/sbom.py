"""The bill of materials of an image, as CycloneDX 1.6.

The Python packages come from the lock, with the hashes by which they were installed. The Debian
packages come from the records in the image itself. All else in the image is its own code, which is
the subject of the bill.
"""

import json
import sys
import tarfile
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from email.parser import HeaderParser
from pathlib import Path
from typing import Any

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL
from packaging.utils import canonicalize_name

from localcluster.paths import ROOT
from releasing.programs import ReleaseError, run, tool
from releasing.references import by_digest

Document = dict[str, Any]
LOCKS = {"operator": ROOT / "hack/locks/runtime.txt", "driver": ROOT / "hack/locks/driver.txt"}
"""By the image that holds what the lock names."""

PACKAGES = "var/lib/dpkg/status.d/"
SITE = "opt/gpujob/"


@dataclass(frozen=True)
class Package:
    """A Debian package in the image."""

    name: str
    version: str
    architecture: str
    distribution: str
    """For example `debian-13`."""


@dataclass(frozen=True)
class Contents:
    """What one platform's image holds."""

    debian: frozenset[Package]
    python: frozenset[tuple[str, str]]
    """Name and version."""


def make(target: str, reference: str, version: str) -> Document:
    """Returns the bill of an image in a registry; raises ReleaseError if it is incomplete."""
    if target not in LOCKS:
        raise ReleaseError(f"no image {target!r} is released; choose {' or '.join(LOCKS)}")
    contents = [read_contents(reference, platform) for platform in platforms(reference)]
    bill = compose(from_lock(target), reference, version, contents)
    if faults := schema_faults(bill) + content_faults(bill, contents):
        raise ReleaseError(f"the bill of materials of {reference} is wrong: {'; '.join(faults)}")
    return bill


def text(bill: Document) -> str:
    """Returns the bill as it is published; equal bills give equal bytes."""
    return json.dumps(bill, indent=2, sort_keys=True) + "\n"


def from_lock(target: str) -> Document:
    """Returns what cyclonedx-py makes of an image's lock."""
    program = [sys.executable, "-m", "cyclonedx_py", "requirements", str(LOCKS[target])]
    options = [
        f"--pyproject={ROOT / 'pyproject.toml'}",
        "--mc-type=application",
        "--spec-version=1.6",
        "--output-reproducible",
        "--no-validate",  # the complete bill is validated later
    ]
    bill: Document = json.loads(run([*program, *options]))
    # It has the project's name: the images are called after their programs.
    bill["metadata"]["component"]["name"] = f"gpujob-{target}"
    return bill


def compose(lock: Document, reference: str, version: str, contents: Iterable[Contents]) -> Document:
    """Returns the lock's bill with the image as its subject, and the image's Debian packages."""
    name, digest = by_digest(reference)
    found = {package for held in contents for package in held.debian}
    ordered = sorted(found, key=lambda one: (one.name, one.architecture, one.version))
    address = PackageURL(
        "oci", None, name.rpartition("/")[2], digest, {"repository_url": name}
    ).to_string()
    subject = lock["metadata"]["component"] | {"version": version, "purl": address}
    subject["hashes"] = [{"alg": "SHA-256", "content": digest.removeprefix("sha256:")}]
    return lock | {
        "metadata": lock["metadata"] | {"component": subject},
        "components": [*lock["components"], *(_component(package) for package in ordered)],
    }


def _component(package: Package) -> Document:
    qualifiers = {"arch": package.architecture, "distro": package.distribution}
    address = PackageURL("deb", "debian", package.name, package.version, qualifiers).to_string()
    return {
        "type": "library",
        "name": package.name,
        "version": package.version,
        "purl": address,
        "bom-ref": address,
    }


def schema_faults(bill: Document) -> list[str]:
    """Returns what is wrong with a bill by its schema."""
    invalid = JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(bill))
    return [] if invalid is None else [f"not CycloneDX 1.6: {invalid}"]


def content_faults(bill: Document, contents: Iterable[Contents]) -> list[str]:
    """Returns how a bill differs from what the image of each platform holds."""
    faults = []
    listed = {
        (canonicalize_name(one["name"]), one["version"])
        for one in bill["components"]
        if one.get("purl", "").startswith("pkg:pypi/")
    }
    for held in contents:
        if not held.debian:
            faults.append("the image names no Debian package")
        if missing := held.python - listed:
            faults.append(f"in the image, but not listed: {sorted(missing)}")
        if absent := listed - held.python:
            faults.append(f"listed, but not in the image: {sorted(absent)}")
    return faults


def platforms(reference: str) -> list[str]:
    """Returns the platforms of an image, for example linux/amd64."""
    manifest = json.loads(run([tool("crane"), "manifest", reference]))
    described = manifest.get("manifests")
    if described is None:
        config = json.loads(run([tool("crane"), "config", reference]))
        return [f"{config['os']}/{config['architecture']}"]
    return [f"{one['platform']['os']}/{one['platform']['architecture']}" for one in described]


def read_contents(reference: str, platform: str) -> Contents:
    """Returns what the image of a platform holds, read from its file system."""
    records: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as scratch:
        exported = Path(scratch) / "root.tar"
        run([tool("crane"), "export", f"--platform={platform}", reference, str(exported)])
        with tarfile.open(exported) as archive:
            for member in archive:
                stream = archive.extractfile(member) if _is_record(member.name) else None
                if stream is not None:
                    records[member.name] = stream.read().decode()
    return contents_of(records)


def _is_record(name: str) -> bool:
    python = name.startswith(SITE) and name.endswith(".dist-info/METADATA")
    return python or name.startswith(PACKAGES) or name == "usr/lib/os-release"


def contents_of(records: Mapping[str, str]) -> Contents:
    """Returns what the record files of an image say; `records` holds their text by path."""
    system = dict(
        line.split("=", 1)
        for line in records.get("usr/lib/os-release", "").splitlines()
        if "=" in line
    )
    release = system.get("VERSION_ID", "").strip('"')
    debian, python = set(), set()
    for name, record in records.items():
        # Distroless images keep a list of checksums beside each record.
        fields = HeaderParser().parsestr(record)
        if name.endswith("/METADATA"):
            python.add((canonicalize_name(fields["Name"]), fields["Version"]))
        elif name.startswith(PACKAGES) and fields["Package"]:
            debian.add(
                Package(
                    fields["Package"],
                    fields["Version"],
                    fields["Architecture"],
                    f"debian-{release}" if release else "debian",
                )
            )
    return Contents(frozenset(debian), frozenset(python))
