"""The chart as it is released: its values name both images by digest."""

import hashlib
import os
import re
import shutil
import tempfile
from pathlib import Path

from localcluster.paths import ROOT
from releasing.programs import ReleaseError, helm, run
from releasing.references import by_digest

PUSHED = re.compile(r"^Digest: (sha256:[0-9a-f]{64})$", re.MULTILINE)


def package(operator: str, driver: str, version: str, committed: int, folder: Path) -> Path:
    """Writes the chart's archive, with both images in it, into a folder and returns it.

    Every time in it is `committed`, in seconds since 1970, so that the same commit gives the same
    bytes.
    """
    with tempfile.TemporaryDirectory() as scratch:
        chart = Path(scratch) / "gpujob"
        shutil.copytree(ROOT / "helm/gpujob", chart)
        values = chart / "values.yaml"
        values.write_text(name_images(values.read_text(), operator, driver))
        options = [f"--version={version}", f"--app-version={version}", f"--destination={folder}"]
        epoch = {"SOURCE_DATE_EPOCH": str(committed)}
        run([helm(), "package", str(chart), *options], env=epoch)
    return folder / f"gpujob-{version}.tgz"


def name_images(values: str, operator: str, driver: str) -> str:
    """Returns the values with both images, NAME@sha256:…, in them; raises ReleaseError."""
    for image, indent in ((operator, "  "), (driver, "    ")):
        name, digest = by_digest(image)
        registry, _, repository = name.partition("/")
        for key, old, new in (
            ("registry", ".*", registry),
            ("repository", ".*", repository),
            ("digest", '""', digest),
        ):
            line = f"^{indent}{key}: {old}$"
            values, found = re.subn(line, f"{indent}{key}: {new}", values, flags=re.MULTILINE)
            if found != 1:
                raise ReleaseError(f"values.yaml has {found} lines like {line!r}: one is needed")
    return values


def checksum(archive: Path) -> str:
    """Returns the digest of the archive's bytes, sha256:…"""
    return f"sha256:{hashlib.sha256(archive.read_bytes()).hexdigest()}"


def push(archive: Path, repository: str, built: str, *, plain_http: bool = False) -> str:
    """Pushes the archive and returns the chart's name by digest.

    Raises ReleaseError if its bytes do not have the digest `built`.
    """
    if (given := checksum(archive)) != built:
        raise ReleaseError(f"{archive.name} is {given}, but {built} was built")
    folder = repository.lower()
    command = [helm(), "push", str(archive), f"oci://{folder}"]
    # `docker login` wrote this file. Helm itself would look elsewhere.
    login = Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker") / "config.json"
    if login.exists():
        command.append(f"--registry-config={login}")
    if plain_http:
        command.append("--plain-http")
    printed = run(command, joined=True)
    found = PUSHED.search(printed)
    if found is None:
        raise ReleaseError(f"helm push printed no digest:\n{printed}")
    return f"{folder}/gpujob@{found[1]}"
