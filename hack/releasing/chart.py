"""The chart as it is released: its values name the image by digest."""

import os
import re
import shutil
import tempfile
from pathlib import Path

from localcluster.paths import ROOT
from releasing.programs import ReleaseError, helm, run
from releasing.references import by_digest

REPOSITORY = re.compile(r"^  repository: .*$", re.MULTILINE)
DIGEST = re.compile(r'^  digest: ""$', re.MULTILINE)
PUSHED = re.compile(r"^Digest: (sha256:[0-9a-f]{64})$", re.MULTILINE)


def package(image: str, version: str, committed: int, folder: Path) -> Path:
    """Writes the chart's archive into a folder and returns it.

    Every time in it is `committed`, in seconds since 1970, so that the same commit gives the same
    bytes.
    """
    with tempfile.TemporaryDirectory() as scratch:
        chart = Path(scratch) / "gpujob"
        shutil.copytree(ROOT / "helm/gpujob", chart)
        values = chart / "values.yaml"
        values.write_text(name_image(values.read_text(), image))
        options = [f"--version={version}", f"--app-version={version}", f"--destination={folder}"]
        epoch = {"SOURCE_DATE_EPOCH": str(committed)}
        run([helm(), "package", str(chart), *options], env=epoch)
    return folder / f"gpujob-{version}.tgz"


def name_image(values: str, image: str) -> str:
    """Returns the values with the image, NAME@sha256:…, in them; raises ReleaseError."""
    name, digest = by_digest(image)
    for pattern, line in ((REPOSITORY, f"  repository: {name}"), (DIGEST, f"  digest: {digest}")):
        values, found = pattern.subn(line, values)
        if found != 1:
            raise ReleaseError(
                f"values.yaml has {found} lines like {pattern.pattern!r}: the image's one is needed"
            )
    return values


def push(archive: Path, repository: str, *, plain_http: bool = False) -> str:
    """Pushes the archive and returns the chart's name by digest."""
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
