"""The project's two images without a container engine: the same wheels and entry points.

What differs from operator/Dockerfile is listed in hack/localcluster/README.md.
"""

import hashlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from localcluster.binaries import ensure_packages
from localcluster.images import Image, write_archive, write_layer
from localcluster.paths import ROOT, cache, environment

USER = "10001:10001"
SITE = "opt/gpujob"
PLATFORMS = ("manylinux2014_x86_64", "manylinux_2_28_x86_64", "manylinux_2_34_x86_64")
PYTHON = "3.11"
"""Of Debian bookworm, whose packages the root is made from."""

BASE_PACKAGES = ("python3", "ca-certificates")
MACHINE_PACKAGES = (*BASE_PACKAGES, "dash", "coreutils", "findutils", "util-linux")
"""Rented machines run in the simulator's container: they need a shell and its tools."""

REMOVED = ("usr/share/doc", "usr/share/man", "usr/share/locale", "var/cache", "var/lib/apt")

OPERATOR, SIMULATOR = "localhost/gpujob:dev", "localhost/vastsim:dev"


def build(target: Path) -> tuple[Path, Path]:
    """Writes both images and returns their archives: operator and simulator."""
    ensure_packages()
    target.mkdir(parents=True, exist_ok=True)
    wheels = _wheels()
    with tempfile.TemporaryDirectory(dir=target) as scratch:
        installed = _own_packages(Path(scratch))
        made = []
        for tag, package, root in (
            (OPERATOR, "gpujob", _root("operator", BASE_PACKAGES)),
            (SIMULATOR, "vastsim", _root("machine", MACHINE_PACKAGES)),
        ):
            code = write_layer(
                Path(scratch) / f"{package}.layer", {f"{SITE}/{package}": installed / package}
            )
            archive = target / f"{package}.tar"
            write_archive(_image(tag, package, (root, wheels, code)), archive)
            print(f"images: {tag} in {archive}", flush=True)
            made.append(archive)
    return made[0], made[1]


def _image(tag: str, package: str, layers: tuple[Path, ...]) -> Image:
    return Image(
        tag=tag,
        layers=layers,
        entrypoint=("/usr/bin/python3", "-m", package),
        user=USER,
        environment={
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "PYTHONPATH": f"/{SITE}",
            "PYTHONUNBUFFERED": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            "HOME": "/tmp",  # noqa: S108 - the one writable folder, if the pod mounts it
            "LANG": "C.UTF-8",
        },
    )


def _root(name: str, packages: tuple[str, ...]) -> Path:
    """Returns the layer of a Debian root with a few packages, made once."""
    digest = _digest([*packages, *REMOVED])
    layer = cache() / "images" / f"root-{name}-{digest}.layer"
    if layer.exists():
        return layer
    print(f"images: making a root of {', '.join(packages)}", flush=True)
    with tempfile.TemporaryDirectory(dir=cache()) as scratch:
        root = Path(scratch) / "root"
        _run(
            [
                "mmdebstrap",
                "--variant=extract",
                "--mode=root",
                f"--include={','.join(packages)}",
                "--quiet",
                "bookworm",
                str(root),
            ]
        )
        for folder in REMOVED:
            shutil.rmtree(root / folder, ignore_errors=True)
        shutil.rmtree(root / "dev", ignore_errors=True)
        (root / "etc/passwd").write_text(
            "root:x:0:0:root:/root:/usr/sbin/nologin\n"
            "gpujob:x:10001:10001:gpujob:/tmp:/usr/sbin/nologin\n"
        )
        (root / "etc/group").write_text("root:x:0:\ngpujob:x:10001:\n")
        authorities = sorted((root / "usr/share/ca-certificates/mozilla").glob("*.crt"))
        bundle = "".join(path.read_text() for path in authorities)
        (root / "etc/ssl/certs/ca-certificates.crt").write_text(bundle)
        return write_layer(layer, {path.name: path for path in root.iterdir()})


def _wheels() -> Path:
    """Returns the layer of the locked wheels, hash-checked, made once for each lock."""
    lock = ROOT / "hack/locks/runtime.txt"
    layer = cache() / "images" / f"wheels-{_digest([lock.read_text(), SITE])}.layer"
    if layer.exists():
        return layer
    print("images: installing the locked wheels", flush=True)
    with tempfile.TemporaryDirectory(dir=cache()) as scratch:
        target = Path(scratch) / "site"
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--require-hashes"]
        command += ["--only-binary=:all:", "--implementation=cp", f"--python-version={PYTHON}"]
        command += [f"--platform={platform}" for platform in PLATFORMS]
        _run([*command, f"--target={target}", "-r", str(lock)])
        shutil.rmtree(target / "bin", ignore_errors=True)
        _compile(target)
        return write_layer(layer, {SITE: target})


def _own_packages(scratch: Path) -> Path:
    """Returns a folder with this project's packages as its wheel installs them."""
    pip = [sys.executable, "-m", "pip", "--quiet"]
    _run([*pip, "wheel", "--no-deps", "--no-build-isolation", f"--wheel-dir={scratch}", str(ROOT)])
    wheel = next(scratch.glob("*.whl"))
    target = scratch / "site"
    _run([*pip, "install", "--no-deps", "--no-index", f"--target={target}", str(wheel)])
    _compile(target)
    return target


def _compile(folder: Path) -> None:
    """Compiles ahead, if this Python's byte code is that of the image's."""
    for stale in folder.rglob("__pycache__"):
        shutil.rmtree(stale)
    if f"{sys.version_info.major}.{sys.version_info.minor}" == PYTHON:
        options = ["-q", "-j0", "--invalidation-mode=unchecked-hash", "-s", str(folder)]
        _run([sys.executable, "-m", "compileall", *options, str(folder)], check=False)


def _digest(parts: Iterable[str]) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _run(command: list[str], *, check: bool = True) -> None:
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=environment()
    )
    if check and done.returncode != 0:
        words = (done.stderr or done.stdout)[-4000:]
        raise SystemExit(f"images: {' '.join(command[:6])} … failed:\n{words}")


if __name__ == "__main__":
    build(Path(sys.argv[1]).resolve())
