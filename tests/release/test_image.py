"""The images: the same bytes each time, and Dockerfile and local builder in step."""

import json
import os
import re
import tarfile
from pathlib import Path
from typing import Any

import pytest
from tests.release.parts import index_of, push_small

from localcluster import kind, project_images
from localcluster.paths import ROOT
from releasing.image import TARGETS, Source, build, build_command, build_twice, push
from releasing.programs import ReleaseError, run, tool

DOCKERFILE = (ROOT / "operator/Dockerfile").read_text()

Archives = dict[str, Path]

by_ourselves = pytest.mark.skipif(
    kind.engine() is not None,
    reason="a container engine builds it here: `hack/release image --twice` compares its builds",
)


@pytest.fixture(scope="module")
def archives(archive: Path, driver_archive: Path) -> Archives:
    """What is released, by its target in the Dockerfile."""
    return {"operator": archive, "driver": driver_archive}


@by_ourselves
def test_two_builds_are_the_same(archives: Archives, tmp_path: Path) -> None:
    """Byte by byte, in another folder and with other times."""
    tags = (project_images.OPERATOR, project_images.DRIVER)
    again = project_images.build(tmp_path, tags)

    for one, target in zip(again, TARGETS, strict=True):
        assert one.read_bytes() == archives[target].read_bytes()


@by_ourselves
def test_the_drivers_image_is_the_smaller_one(archives: Archives) -> None:
    """Each node pulls it: half the size, and no code of the other programs."""
    names = _files(archives["driver"])

    assert archives["driver"].stat().st_size < archives["operator"].stat().st_size / 2
    assert "opt/gpujob/gpujob/driver/main.py" in names
    for folder in ("gpujob/core", "gpujob/controller", "gpujob/server", "kopf", "kubernetes"):
        assert not [name for name in names if name.startswith(f"opt/gpujob/{folder}/")]


@pytest.mark.parametrize("target", TARGETS)
def test_the_image_has_no_shell_and_no_package_manager(target: str, archives: Archives) -> None:
    """Nor a compiler, nor anything else to run but Python."""
    programs = {
        Path(name).name
        for name in _files(archives[target])
        if re.match(r"(usr/)?(local/)?s?bin/.", name) and not name.endswith((".py", ".pyc"))
    }

    assert {name for name in programs if "python3" in name} == {"python3", "python3.13"}
    assert not programs & {"sh", "dash", "bash", "busybox", "apt", "dpkg", "pip", "gcc"}


@by_ourselves
@pytest.mark.parametrize("target", TARGETS)
def test_both_builders_make_the_same_of_it(target: str, archives: Archives) -> None:
    """User, variables, entry point, Python and labels."""
    config = _config(archives[target])["config"]
    stage = _stage(target)
    (line,) = re.findall(r"^ENV (.*)$", stage.replace("\\\n", " "), re.MULTILINE)
    variables = dict(re.findall(r"(\w+)=(\S+)", line))
    made = dict(one.split("=", 1) for one in config["Env"])

    assert f"USER {config['User']}\n" in stage
    assert re.fullmatch(r"[1-9]\d{4,}:[1-9]\d{4,}", config["User"])
    assert made == variables | {"PATH": made["PATH"]}
    assert f"ENTRYPOINT {json.dumps(config['Entrypoint'])}\n" in stage
    assert set(re.findall(r"--python-version=(\S+)", DOCKERFILE)) == {project_images.PYTHON}
    assert set(re.findall(r"debian(\d+)", DOCKERFILE)) == {"13"}
    for name, value in config["Labels"].items():
        if not name.endswith("version"):
            assert f'{name}="{value}"' in stage


def test_bases_are_named_by_digest_and_nothing_is_fetched_but_by_hash() -> None:
    """And for what is released, no tool of the distribution is asked for more."""
    bases = re.findall(r"^FROM (?:--platform=\S+ )?(\S+)", DOCKERFILE, re.MULTILINE)
    stages = set(re.findall(r"^FROM .* AS (\w+)$", DOCKERFILE, re.MULTILINE))
    installs = re.findall(r"pip install (?:[^&]|\\\n)*", DOCKERFILE)

    assert all(re.search(r"@sha256:[0-9a-f]{64}$", one) for one in bases if one not in stages)
    assert installs
    assert all("--require-hashes" in one and "--only-binary=:all:" in one for one in installs)
    released = DOCKERFILE.replace(_stage("simulator"), "")
    assert not re.search(r"\b(apt|apt-get|curl|wget|ADD)\b", released)
    assert "# syntax=" not in DOCKERFILE  # would be another image, named by a tag


def test_the_release_is_built_without_caches_and_with_one_time() -> None:
    """The commit's: else each build would be another image."""
    command = build_command(SOURCE, "driver", "type=image,push=true", Path("m.json"))
    with pytest.raises(ReleaseError, match="operator and driver are"):
        build_command(SOURCE, "simulator", "type=image,push=true", Path("m.json"))

    assert "SOURCE_DATE_EPOCH=1700000000" in command
    assert "type=image,push=true,rewrite-timestamp=true" in command
    assert {"--no-cache", "--provenance=false", "--sbom=false"} <= set(command)
    assert "linux/amd64,linux/arm64" in command
    given = {one.partition("=")[0] for one in command[command.index("--build-arg") :]}
    assert {"VERSION", "REVISION", "SOURCE"} <= given
    assert command[command.index("--target") + 1] == "driver"
    assert set(re.findall(r"^ARG (VERSION|REVISION|SOURCE)=$", _stage("driver"), re.M)) <= given


DOCKER = """#!/bin/sh
# Pushes nothing: writes the next digest of a list where it is told to.
while [ "$1" != --metadata-file ]; do shift; done
digest=$(head -n 1 "$DIGESTS"); sed -i 1d "$DIGESTS"
printf '{"containerimage.digest": "%s"}' "$digest" > "$2"
"""
SOURCE = Source("1.2.3", "abc", 1_700_000_000, "https://github.com/o/r")


@pytest.fixture
def digests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a docker that only names digests takes them from."""
    (tmp_path / "docker").write_text(DOCKER)
    (tmp_path / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("DIGESTS", str(tmp_path / "digests"))
    return tmp_path / "digests"


def test_what_was_built_is_told_by_digest(digests: Path, tmp_path: Path) -> None:
    """The registry is not known where it is built."""
    digests.write_text("sha256:1\n")

    assert build(SOURCE, "operator", tmp_path / "new/operator.tar") == "sha256:1"


def test_only_what_was_built_is_pushed(registry: str, tmp_path: Path) -> None:
    """An index of two platforms keeps its digest; what came in its place is not even sent."""
    one = push_small(registry, tmp_path, b"two platforms")
    both, _ = index_of(one)
    name, digest = f"{registry}/GpuJob/pushed", both.partition("@")[2]
    layout, archive = tmp_path / "layout-of-both", tmp_path / "both.tar"
    run([tool("crane"), "pull", "--format=oci", both, str(layout)])
    with tarfile.open(archive, "w") as written:
        written.add(layout, arcname=".")
    other = f"sha256:{'0' * 64}"

    assert push(archive, f"{name}@{digest}", "1.2.3") == f"{name.lower()}@{digest}"
    with pytest.raises(ReleaseError, match=f"holds {digest}, but {other} was built"):
        push(archive, f"{name}-other@{other}", "1.2.3")
    manifest = layout / "blobs" / digest.replace(":", "/")
    manifest.write_bytes(manifest.read_bytes() + b" ")
    with tarfile.open(archive, "w") as written:
        written.add(layout, arcname=".")
    with pytest.raises(ReleaseError, match="was built"):
        push(archive, f"{name}-other@{digest}", "1.2.3")
    with pytest.raises(ReleaseError, match="NAME_UNKNOWN"):
        run([tool("crane"), "ls", f"{name.lower()}-other"])


@pytest.mark.parametrize("member", ["../x", "/x"])
def test_an_archive_writes_nothing_elsewhere(member: str, tmp_path: Path) -> None:
    """It comes from another job."""
    archive = tmp_path / "a.tar"
    with tarfile.open(archive, "w") as written:
        written.addfile(tarfile.TarInfo(member))

    with pytest.raises(ReleaseError, match="does not belong"):
        push(archive, f"localhost/x@sha256:{'0' * 64}", "1.2.3")
    assert not (tmp_path.parent / "x").exists()


def test_two_builds_that_differ_are_refused(digests: Path) -> None:
    """The commit is named, both digests are."""
    digests.write_text("sha256:1\nsha256:1\n")
    assert build_twice(SOURCE, "driver") == "sha256:1"
    digests.write_text("sha256:1\nsha256:2\n")

    with pytest.raises(ReleaseError, match="driver at abc differ: sha256:1 and sha256:2"):
        build_twice(SOURCE, "driver")


def _stage(target: str) -> str:
    """Returns the Dockerfile's part that makes an image."""
    _, _, rest = DOCKERFILE.partition(f" AS {target}\n")
    return rest.partition("\nFROM ")[0]


def _config(archive: Path) -> dict[str, Any]:
    with tarfile.open(archive) as opened:

        def blob(digest: str) -> Any:
            stream = opened.extractfile(f"blobs/{digest.replace(':', '/')}")
            assert stream is not None
            return json.loads(stream.read())

        index = opened.extractfile("index.json")
        assert index is not None
        manifest = blob(json.loads(index.read())["manifests"][0]["digest"])
        config: dict[str, Any] = blob(manifest["config"]["digest"])
        return config


def _files(archive: Path) -> list[str]:
    names: list[str] = []
    with tarfile.open(archive) as opened:
        for member in opened:
            stream = opened.extractfile(member)
            if stream is not None and member.size > 100_000:
                with tarfile.open(fileobj=stream) as layer:
                    names += [one.name for one in layer if not one.isdir()]
    return names
