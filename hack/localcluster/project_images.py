"""Builds the project's images: with a container engine from operator/Dockerfile, or without one.

hack/localcluster/README.md lists how images that are built without an engine differ.
"""

import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from collections.abc import Iterable
from pathlib import Path

from localcluster import kind
from localcluster.binaries import ensure_packages
from localcluster.images import Image, write_archive, write_layer
from localcluster.paths import ROOT, cache, environment

USER = "10001:10001"
SITE = "opt/gpujob"
PLATFORMS = ("manylinux2014_x86_64", "manylinux_2_28_x86_64", "manylinux_2_34_x86_64")
SUITE = "trixie"
PYTHON = "3.13"
"""The version in Debian trixie, as in the Dockerfile's base."""

BASE_PACKAGES = ("python3", "ca-certificates")
MACHINE_PACKAGES = (*BASE_PACKAGES, "dash", "coreutils", "findutils", "util-linux")
"""Rented machines run in the simulator's container, so it needs a shell and its tools."""

UNWANTED = ("debconf", "dpkg", "openssl", "tar")
"""Packages that only maintainer scripts need, which are never run."""

REMOVED = ("usr/share/doc", "usr/share/man", "usr/share/locale", "var/cache", "var/lib/apt", "dev")
MERGED = ("bin", "lib", "lib64", "sbin")
"""Links into usr, which the package base-files would create."""

PACKAGES = "var/lib/dpkg/status.d"
"""One file for each Debian package in the image, with its version, as in distroless images."""

KEEP_RECORDS = f"""
set -e
mkdir -p "$1/{PACKAGES}"
for deb in "$1"/var/cache/apt/archives/*.deb; do
    name=$(dpkg-deb --field "$deb" Package)
    dpkg-deb --field "$deb" > "$1/{PACKAGES}/$name"
    dpkg-deb --fsys-tarfile "$deb" | tar --list > "$1/$name.files"
done
"""

OPERATOR, SIMULATOR = "localhost/gpujob:dev", "localhost/vastsim:dev"


def build(target: Path, tags: tuple[str, ...] = (OPERATOR, SIMULATOR)) -> list[Path]:
    """Writes the images into a folder and returns their archives in that order."""
    target.mkdir(parents=True, exist_ok=True)
    engine = kind.engine()
    if engine is not None:
        return [_by_engine(engine, tag, target) for tag in tags]
    ensure_packages()
    wheels = _wheels()
    made = []
    for tag in tags:
        package = _name(tag)
        with tempfile.TemporaryDirectory(dir=target) as scratch:
            source = Path(scratch) / "source"
            no_caches = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / "operator" / package, source / package, ignore=no_caches)
            code = _compiled(Path(scratch) / "code.layer", source)
            archive = target / f"{package}.tar"
            if tag == OPERATOR:
                root = _root("operator", BASE_PACKAGES, UNWANTED)
            else:
                root = _root("machine", MACHINE_PACKAGES, ())
            write_archive(_image(tag, package, (root, wheels, code)), archive)
            print(f"images: {tag} in {archive}", flush=True)
            made.append(archive)
    return made


def _name(tag: str) -> str:
    return tag.removeprefix("localhost/").partition(":")[0]


def _by_engine(engine: str, tag: str, target: Path) -> Path:
    name = _name(tag)
    archive = target / f"{name}.tar"
    print(f"images: {tag} by {engine}", flush=True)
    source = ["--file", str(ROOT / "operator/Dockerfile"), "--target", name]
    _run([engine, "build", "--quiet", *source, "--tag", tag, str(ROOT)])
    _run([engine, "save", "--output", str(archive), tag])
    return archive


def _image(tag: str, package: str, layers: tuple[Path, ...]) -> Image:
    return Image(
        tag=tag,
        layers=layers,
        entrypoint=("/usr/bin/python3", "-m", package),
        user=USER,
        labels=_labels() if package == "gpujob" else {},
        environment={
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "PYTHONPATH": f"/{SITE}",
            "PYTHONUNBUFFERED": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            "HOME": "/tmp",  # noqa: S108 - the one writable folder, if the pod mounts it
            "LANG": "C.UTF-8",
        },
    )


def _labels() -> dict[str, str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return {
        "org.opencontainers.image.title": project["name"],
        "org.opencontainers.image.description": "Runs GpuJobs on rented GPU machines "
        "within a ceiling",
        "org.opencontainers.image.licenses": project["license"],
        "org.opencontainers.image.version": project["version"],
    }


def _root(name: str, packages: tuple[str, ...], unwanted: tuple[str, ...]) -> Path:
    """Returns the layer of a Debian root with a few packages, which is built once."""
    digest = _digest([SUITE, *packages, *unwanted, *REMOVED, *MERGED, KEEP_RECORDS])
    layer = cache() / "images" / f"root-{name}-{digest}.layer"
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
        _compile(root, f"usr/lib/python{PYTHON}")
        return write_layer(layer, {path.name: path for path in root.iterdir()})


def _remove(root: Path, names: list[str]) -> None:
    """Removes the files of a package, and the folders that are then empty."""
    for name in sorted(names, reverse=True):
        path = root / name
        if not path.is_dir() or path.is_symlink():
            path.unlink(missing_ok=True)
        elif not any(path.iterdir()):
            path.rmdir()


def _wheels() -> Path:
    """Returns the layer of the locked wheels, which are checked by hash; built once for a lock."""
    lock = ROOT / "hack/locks/runtime.txt"
    layer = cache() / "images" / f"wheels-{_digest([lock.read_text(), SITE, PYTHON])}.layer"
    if layer.exists():
        return layer
    print("images: installing the locked wheels", flush=True)
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
        return _compiled(layer, target)


def _compiled(layer: Path, source: Path) -> Path:
    """Writes a layer that puts a folder into the image's site folder, with its byte code."""
    with tempfile.TemporaryDirectory(dir=cache()) as scratch:
        root = Path(scratch)
        with tarfile.open(_root("operator", BASE_PACKAGES, UNWANTED)) as archive:
            archive.extractall(root, filter="tar")
        shutil.copytree(source, root / SITE)
        _compile(root, SITE)
        return write_layer(layer, {SITE: root / SITE})


def _compile(root: Path, folder: str) -> None:
    """Compiles with the image's own Python. Otherwise each start would compile everything again."""
    options = ["-q", "--invalidation-mode=unchecked-hash", f"/{folder}"]
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
