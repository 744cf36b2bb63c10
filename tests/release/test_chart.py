"""The chart as it is released."""

import os
import tarfile
from pathlib import Path

import pytest

from localcluster.paths import ROOT
from releasing import chart, signatures
from releasing.programs import ReleaseError, helm, run
from releasing.references import version_of
from releasing.signatures import Key

OPERATOR = f"ghcr.io/gpujob/gpujob-operator@sha256:{'1' * 64}"
DRIVER = f"ghcr.io/gpujob/gpujob-driver@sha256:{'2' * 64}"
WRITTEN = {"pyproject.toml": "1.2.3", "Chart.yaml, version": "1.2.3"}


def test_the_same_commit_gives_the_same_chart(tmp_path: Path) -> None:
    """Whenever its files were written here."""
    made = []
    for folder in (tmp_path / "one", tmp_path / "two"):
        folder.mkdir()
        made.append(chart.package(OPERATOR, DRIVER, "1.2.3", 1_700_000_000, folder).read_bytes())
        os.utime(ROOT / "helm/gpujob/Chart.yaml")

    assert made[0] == made[1]


def test_the_pushed_chart_is_signed_and_installs_the_images_by_digest(
    registry: str, keys: tuple[Key, Key], tmp_path: Path
) -> None:
    """What is pulled by digest renders both images' digests, and a changed one is not signed."""
    private, public = keys
    archive = chart.package(OPERATOR, DRIVER, "1.2.3", 1_700_000_000, tmp_path)
    charts = f"{registry}/GpuJob/charts"
    pushed = chart.push(archive, charts, chart.checksum(archive), plain_http=True)
    signatures.sign(pushed, private)
    signatures.verify(pushed, public, None)
    pulled = ["pull", f"oci://{pushed}", "--plain-http", f"--destination={tmp_path / 'pulled'}"]
    (tmp_path / "pulled").mkdir()
    run([helm(), *pulled])
    (again,) = (tmp_path / "pulled").iterdir()
    rendered = run([helm(), "template", "g", str(again), "--set", "vast.existingSecret=vast"])
    other = chart.package(OPERATOR, DRIVER, "1.2.4", 1_700_000_000, tmp_path)

    assert f"image: {OPERATOR}" in rendered.replace('"', "")
    assert f"value: {DRIVER}" in rendered
    assert again.read_bytes() == archive.read_bytes()
    with pytest.raises(ReleaseError, match="was built"):
        chart.push(other, charts, chart.checksum(archive), plain_http=True)
    changed = chart.push(other, charts, chart.checksum(other), plain_http=True)
    with pytest.raises(ReleaseError, match="no signatures found"):
        signatures.verify(changed, public, None)


def test_values_that_can_not_name_the_image_are_refused() -> None:
    """A chart that would install a tag is not released."""
    values = (ROOT / "helm/gpujob/values.yaml").read_text()
    named = chart.name_images(values, OPERATOR, DRIVER)
    assert f"\n  digest: sha256:{'1' * 64}\n" in named
    assert f"\n    digest: sha256:{'2' * 64}\n" in named

    for lacking in ('\n  digest: ""', '\n    digest: ""'):
        with pytest.raises(ReleaseError, match="has 0 lines"):
            chart.name_images(values.replace(lacking, ""), OPERATOR, DRIVER)


def test_a_tag_releases_the_version_that_the_files_say() -> None:
    """Else image, chart and release would bear different numbers."""
    assert version_of("v1.2.3", WRITTEN) == "1.2.3"
    with pytest.raises(ReleaseError, match=r"releases 1\.2\.4, but pyproject\.toml says 1\.2\.3"):
        version_of("v1.2.4", WRITTEN)


@pytest.mark.parametrize(
    "tag", ["1.2.3", "v1.2", "v1.2.3-rc.1", "v1.2.3;id", "v1.2.3/../x", "v1.2.3\n"]
)
def test_a_tag_that_is_no_version_is_refused(tag: str) -> None:
    """It goes on into commands and names."""
    with pytest.raises(ReleaseError, match="is no version"):
        version_of(tag, {})


def test_the_chart_has_no_file_that_the_archive_lacks(tmp_path: Path) -> None:
    """What is in git is in the release."""
    archive = chart.package(OPERATOR, DRIVER, "1.2.3", 1_700_000_000, tmp_path)
    known = run(["git", "-C", str(ROOT / "helm/gpujob"), "ls-files"]).split()
    with tarfile.open(archive) as opened:
        packed = {name.removeprefix("gpujob/") for name in opened.getnames()}

    assert set(known) - packed <= {".helmignore"}
