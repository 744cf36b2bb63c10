"""Builds the project's images: with a container engine from operator/Dockerfile, or without one.

hack/localcluster/README.md lists how images that are built without an engine differ.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from localcluster import kind
from localcluster.binaries import ensure_packages
from localcluster.images import Image, write_archive, write_layer
from localcluster.paths import ROOT, cache, environment, locked
from localcluster.patience import told

USER = "10001:10001"
SMALL = {"PYTHONOPTIMIZE": "2", "PYTHONNODEBUGRANGES": "1"}
"""Makes a Python process smaller: no docstrings, and tracebacks name lines, not columns."""
SITE = "opt/gpujob"
PLATFORMS = ("manylinux2014_x86_64", "manylinux_2_28_x86_64", "manylinux_2_34_x86_64")
SUITE = "trixie"
PYTHON = "3.13"
"""The version in Debian trixie, as in the Dockerfile's base."""

BASE_PACKAGES = ("python3", "ca-certificates")
MACHINE_PACKAGES = (
    *BASE_PACKAGES,
    "dash",
    "bash",
    "busybox-static",
    "coreutils",
    "curl",
    "findutils",
    "grep",
    "gzip",
    "mksh",
    "openssh-client",
    "openssh-server",
    "perl",
    "procps",
    "sed",
    "tar",
    "util-linux",
    "wget",
)
"""Rented machines are containers laid over the simulator's own file system: an SSH server, shells,
and the tools of nearly every image."""

UNWANTED = ("debconf", "dpkg", "openssl", "tar")
"""Packages that only maintainer scripts need, which are never run."""

REMOVED = ("usr/share/doc", "usr/share/man", "usr/share/locale", "var/cache", "var/lib/apt", "dev")
MERGED = ("bin", "lib", "lib64", "sbin")
"""Links into usr, which the package base-files brings where another one needs it."""

PACKAGES = "var/lib/dpkg/status.d"
"""One file for each Debian package in the image, with its version, as in distroless images."""

NO_BYTECODE = "without byte code"
"""Of the standard library, which is a layer of its own: sets these roots apart in the cache."""

KEEP_RECORDS = f"""
set -e
mkdir -p "$1/{PACKAGES}"
for deb in "$1"/var/cache/apt/archives/*.deb; do
    name=$(dpkg-deb --field "$deb" Package)
    dpkg-deb --field "$deb" > "$1/{PACKAGES}/$name"
    dpkg-deb --fsys-tarfile "$deb" | tar --list > "$1/$name.files"
done
"""


@dataclass(frozen=True)
class Recipe:
    """How one of the images is made."""

    target: str
    """In operator/Dockerfile."""
    root: tuple[str, tuple[str, ...], tuple[str, ...]]
    """Name of its Debian root, packages in it, and those of them that are removed again."""
    lock: str
    module: str
    """Where Python begins."""
    optimize: int = 0
    """Level of its byte code: 2 has no docstrings and no assertions."""
    title: str = ""
    description: str = ""


OPERATOR = "localhost/gpujob:dev"
DRIVER = "localhost/gpujob-driver:dev"
SIMULATOR = "localhost/vastsim:dev"

ROOT_OF_PROGRAMS = ("operator", BASE_PACKAGES, UNWANTED)
RECIPES = {
    OPERATOR: Recipe(
        target="operator",
        root=ROOT_OF_PROGRAMS,
        lock="runtime",
        module="gpujob",
        title="gpujob-operator",
        description="Runs GpuJobs on rented GPU machines within a ceiling",
    ),
    DRIVER: Recipe(
        target="driver",
        root=ROOT_OF_PROGRAMS,
        lock="driver",
        module="gpujob",
        optimize=2,
        title="gpujob-driver",
        description="Runs one GpuJob's workload on its rented machine",
    ),
    SIMULATOR: Recipe(
        target="simulator",
        root=("machine", MACHINE_PACKAGES, ()),
        lock="runtime",
        module="vastsim",
    ),
}
COPY = re.compile(r"^COPY (?P<sources>operator/[^\n]*) code/(?P<target>\w+)/(?P<place>\S+)$", re.M)


def build(target: Path, tags: tuple[str, ...] = (OPERATOR, DRIVER, SIMULATOR)) -> list[Path]:
    """Writes the images into a folder and returns their archives in that order."""
    target.mkdir(parents=True, exist_ok=True)
    engine = kind.engine()
    if engine is not None:
        return [_by_engine(engine, tag, target) for tag in tags]
    ensure_packages()
    with told("images: preparing what rarely changes"), locked("images"):
        # Two builds at once would make the same layers twice.
        kept = {
            tag: (_root(*RECIPES[tag].root), _standard(RECIPES[tag]), _wheels(RECIPES[tag]))
            for tag in tags
        }
    made = []
    for tag in tags:
        recipe = RECIPES[tag]
        with told(f"images: building {tag}"), tempfile.TemporaryDirectory(dir=target) as scratch:
            archive = target / f"{_name(tag)}.tar"
            code = _code(recipe, Path(scratch))
            write_archive(_image(tag, recipe, (*kept[tag], code)), archive)
            print(f"images: {tag} in {archive}", flush=True)
            made.append(archive)
    return made


def machine_root() -> Path:
    """Returns a folder with the file system of the simulator's machines, which is made once.

    It is the Debian root of the simulator's image.
    """
    recipe = RECIPES[SIMULATOR].root
    target = cache() / "machines" / _layer_of(*recipe).stem
    if target.exists():
        return target
    ensure_packages()
    # Two at once would make it twice.
    with told("images: preparing the machines' file system"), locked("images"):
        if not target.exists():
            target.parent.mkdir(exist_ok=True)
            with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
                root = Path(scratch) / "root"
                _extract(_root(*recipe), root)
                root.rename(target)
    return target


def shells() -> tuple[str, ...]:
    """Returns the shells that images have as `sh`, as far as they are here."""
    programs = cache() / "machines" / _layer_of(*RECIPES[SIMULATOR].root).stem / "usr/bin"
    static = (programs / "busybox", programs / "mksh-static")
    every = (Path("/usr/bin/dash"), Path("/usr/bin/bash"), *static)
    return tuple(str(one) for one in every if one.exists())


def built(target: Path, tags: tuple[str, ...] = (OPERATOR, DRIVER, SIMULATOR)) -> list[Path]:
    """Returns the archives that `hack/test` has built for all of its parts; else builds them."""
    given = os.environ.get("GPUJOB_IMAGES")
    return [Path(given) / f"{_name(tag)}.tar" for tag in tags] if given else build(target, tags)


def copied_files(target: str) -> dict[str, Path]:
    """Returns the project's files in an image, as operator/Dockerfile copies them, by their place.

    A place is below the image's root.
    """
    dockerfile = (ROOT / "operator/Dockerfile").read_text().replace("\\\n", " ")
    found: dict[str, Path] = {}
    for copy in COPY.finditer(dockerfile):
        if copy["target"] != target:
            continue
        for name in copy["sources"].split():
            source, place = ROOT / name, Path(copy["place"])
            if copy["place"].endswith("/"):
                place /= source.name
            for path in sorted(source.rglob("*")) if source.is_dir() else [source]:
                if path.is_file() and "__pycache__" not in path.parts:
                    found[str(place / path.relative_to(source))] = path
    return found


def _name(tag: str) -> str:
    return tag.removeprefix("localhost/").partition(":")[0]


def _by_engine(engine: str, tag: str, target: Path) -> Path:
    archive = target / f"{_name(tag)}.tar"
    print(f"images: {tag} by {engine}", flush=True)
    source = ["--file", str(ROOT / "operator/Dockerfile"), "--target", RECIPES[tag].target]
    with told(f"images: building {tag}"):
        _run([engine, "build", "--quiet", *source, "--tag", tag, str(ROOT)])
        _run([engine, "save", "--output", str(archive), tag])
    return archive


def _image(tag: str, recipe: Recipe, layers: tuple[Path, ...]) -> Image:
    return Image(
        tag=tag,
        layers=layers,
        entrypoint=("/usr/bin/python3", "-m", recipe.module),
        user=USER,
        labels=_labels(recipe) if recipe.title else {},
        environment={
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "PYTHONPATH": f"/{SITE}",
            **(SMALL if recipe.optimize else {}),
            "PYTHONUNBUFFERED": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            "HOME": "/tmp",  # noqa: S108 - the one writable folder, if the pod mounts it
            "LANG": "C.UTF-8",
        },
    )


def _labels(recipe: Recipe) -> dict[str, str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return {
        "org.opencontainers.image.title": recipe.title,
        "org.opencontainers.image.description": recipe.description,
        "org.opencontainers.image.licenses": project["license"],
        "org.opencontainers.image.version": project["version"],
    }


def _layer_of(name: str, packages: tuple[str, ...], unwanted: tuple[str, ...]) -> Path:
    digest = _digest([SUITE, *packages, *unwanted, *REMOVED, *MERGED, KEEP_RECORDS, NO_BYTECODE])
    return cache() / "images" / f"root-{name}-{digest}.layer"


def _root(name: str, packages: tuple[str, ...], unwanted: tuple[str, ...]) -> Path:
    """Returns the layer of a Debian root with a few packages, which is built once."""
    layer = _layer_of(name, packages, unwanted)
    if layer.exists():
        return layer
    print(f"images: building a root file system from {', '.join(packages)}", flush=True)
    with tempfile.TemporaryDirectory(dir=cache()) as scratch:
        root = Path(scratch) / "root"
        how = ["--variant=extract", "--mode=root", "--quiet", f"--include={','.join(packages)}"]
        _run(["mmdebstrap", *how, f"--extract-hook={KEEP_RECORDS}", SUITE, str(root)])
        for record in root.glob("*.files"):
            if record.stem in unwanted:
                _remove(root, record.read_text().splitlines())
                (root / PACKAGES / record.stem).unlink()
            record.unlink()
        for folder in REMOVED:
            shutil.rmtree(root / folder, ignore_errors=True)
        for folder in MERGED:
            if not (root / folder).is_symlink():
                (root / folder).symlink_to(f"usr/{folder}")
        (root / "etc/passwd").write_text(
            "root:x:0:0:root:/root:/usr/sbin/nologin\n"
            "gpujob:x:10001:10001:gpujob:/tmp:/usr/sbin/nologin\n"
        )
        (root / "etc/group").write_text("root:x:0:\ngpujob:x:10001:\n")
        authorities = sorted((root / "usr/share/ca-certificates/mozilla").glob("*.crt"))
        bundle = "".join(path.read_text() for path in authorities)
        (root / "etc/ssl/certs").mkdir(parents=True, exist_ok=True)
        (root / "etc/ssl/certs/ca-certificates.crt").write_text(bundle)
        return write_layer(layer, {path.name: path for path in root.iterdir()})


def _remove(root: Path, names: list[str]) -> None:
    """Removes the files of a package, and the folders that are then empty."""
    for name in sorted(names, reverse=True):
        path = root / name
        if not path.is_dir() or path.is_symlink():
            path.unlink(missing_ok=True)
        elif not any(path.iterdir()):
            path.rmdir()


def _standard(recipe: Recipe) -> Path:
    """Returns the layer of the standard library's byte code, made once for each level."""
    base = _root(*recipe.root)
    layer = cache() / "images" / f"standard-{_digest([base.name, str(recipe.optimize)])}.layer"
    if layer.exists():
        return layer
    library = f"usr/lib/python{PYTHON}"
    with tempfile.TemporaryDirectory(dir=cache()) as scratch:
        root = Path(scratch)
        _extract(base, root)
        _compile(root, library, recipe.optimize)
        caches = (root / library).rglob("__pycache__")
        return write_layer(layer, {str(path.relative_to(root)): path for path in caches})


def _wheels(recipe: Recipe) -> Path:
    """Returns the layer of the locked wheels, hash-checked, made once for each lock."""
    lock = ROOT / "hack/locks" / f"{recipe.lock}.txt"
    made_from = _digest([lock.read_text(), SITE, PYTHON, str(recipe.optimize)])
    layer = cache() / "images" / f"wheels-{made_from}.layer"
    if layer.exists():
        return layer
    print(f"images: installing the wheels of {lock.name}", flush=True)
    with tempfile.TemporaryDirectory(dir=cache()) as scratch:
        target = Path(scratch) / "site"
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--require-hashes"]
        command += ["--only-binary=:all:", "--implementation=cp", f"--python-version={PYTHON}"]
        command += [f"--platform={platform}" for platform in PLATFORMS]
        _run([*command, "--no-compile", f"--target={target}", "-r", str(lock)])
        shutil.rmtree(target / "bin", ignore_errors=True)
        for record in target.glob("*.dist-info/RECORD"):
            # It lists the scripts in bin, which are not kept, and their hashes differ by machine.
            record.unlink()
        return _compiled(layer, target, recipe.optimize)


def _code(recipe: Recipe, scratch: Path) -> Path:
    """Writes the layer of the project's own code."""
    source = scratch / "source"
    for place, path in copied_files(recipe.target).items():
        copy = source / Path(place).relative_to(SITE)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
    return _compiled(scratch / "code.layer", source, recipe.optimize)


def _compiled(layer: Path, source: Path, optimize: int) -> Path:
    """Writes a layer of a folder's files, for the image's site folder, with their byte code."""
    with tempfile.TemporaryDirectory(dir=cache()) as scratch:
        root = Path(scratch)
        _extract(_root(*ROOT_OF_PROGRAMS), root)
        shutil.copytree(source, root / SITE)
        _compile(root, SITE, optimize)
        return write_layer(layer, {SITE: root / SITE})


def _extract(layer: Path, root: Path) -> None:
    with tarfile.open(layer) as archive:
        # What the filter of the name "tar" does, which Debian's Python 3.11.2 does not have yet.
        for member in archive.getmembers():
            member.mode &= 0o755
        archive.extraction_filter = lambda member, _: member
        archive.extractall(root)  # noqa: S202 - we made the archive


def _compile(root: Path, folder: str, optimize: int) -> None:
    """Compiles with the image's own Python. Otherwise each start would compile everything again."""
    options = ["-q", "-o", str(optimize), "--invalidation-mode=unchecked-hash", f"/{folder}"]
    _run(["chroot", str(root), "/usr/bin/python3", "-m", "compileall", *options])


def _digest(parts: Iterable[str]) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _run(command: list[str]) -> None:
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=environment()
    )
    if done.returncode != 0:
        words = (done.stderr or done.stdout)[-4000:]
        raise SystemExit(f"images: {' '.join(command[:6])} … failed:\n{words}")


if __name__ == "__main__":
    build(Path(sys.argv[1]).resolve())
