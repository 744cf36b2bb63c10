"""The version of a release, and images named by their digest."""

import re
import tomllib

import yaml

from localcluster.paths import ROOT
from releasing.programs import ReleaseError

BY_DIGEST = re.compile(r"(?P<name>[^@\s]+)@(?P<digest>sha256:[0-9a-f]{64})")


def by_digest(reference: str) -> tuple[str, str]:
    """Splits NAME@sha256:… into name and digest; raises ReleaseError for anything else.

    A tag can move to another image, so what is signed by its tag may not be what was built.
    """
    found = BY_DIGEST.fullmatch(reference)
    if found is None:
        raise ReleaseError(f"{reference!r} names no digest; write NAME@sha256:… with 64 digits")
    return found["name"], found["digest"]


def version_of(tag: str, written: dict[str, str]) -> str:
    """Returns the version that a tag releases; raises ReleaseError if a file says another.

    `written` holds the version for each place where one is written.
    """
    version = tag.removeprefix("v")
    if not re.fullmatch(r"v\d+\.\d+\.\d+", tag):
        raise ReleaseError(f"tag {tag!r} is no version; it must look like v1.2.3")
    others = [f"{place} says {other}" for place, other in written.items() if other != version]
    if others:
        raise ReleaseError(f"tag {tag} releases {version}, but {'; '.join(others)}; correct it")
    return version


def written_versions() -> dict[str, str]:
    """Returns the version for each place where one is written."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    chart = yaml.safe_load((ROOT / "helm/gpujob/Chart.yaml").read_text())
    return {
        "pyproject.toml": project["version"],
        "Chart.yaml, version": chart["version"],
        "Chart.yaml, appVersion": chart["appVersion"],
    }
