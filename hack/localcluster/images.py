"""Writes images without a container engine, as OCI archives."""

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

OCI = "application/vnd.oci.image"


@dataclass(frozen=True)
class Image:
    """The parts of a container image: layer archives, bottom first, and how it starts."""

    tag: str
    layers: tuple[Path, ...]
    entrypoint: tuple[str, ...]
    user: str
    environment: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)


def write_layer(target: Path, files: Mapping[str, Path | bytes], owner: int = 0) -> Path:
    """Writes a layer of `files`, by their path in the image. Equal files give equal bytes."""
    scratch = target.with_suffix(".new")
    scratch.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(scratch, "w", format=tarfile.PAX_FORMAT) as archive:
        for name, source in sorted(files.items()):
            if isinstance(source, bytes):
                _add_bytes(archive, name, source, owner)
            elif source.is_dir() and not source.is_symlink():
                for path in [source, *sorted(source.rglob("*"))]:
                    inner = Path(name) / path.relative_to(source)
                    _add_path(archive, str(inner), path, owner)
            else:
                _add_path(archive, name, source, owner)
    scratch.rename(target)
    return target


def _add_bytes(archive: tarfile.TarFile, name: str, text: bytes, owner: int) -> None:
    entry = _plain(tarfile.TarInfo(name), owner)
    entry.size, entry.mode = len(text), 0o644
    archive.addfile(entry, io.BytesIO(text))


def _add_path(archive: tarfile.TarFile, name: str, path: Path, owner: int) -> None:
    entry = _plain(archive.gettarinfo(path, name), owner)
    # Everybody can read the files, whatever the umask was.
    entry.mode |= 0o555 if path.is_dir() or os.access(path, os.X_OK) else 0o444
    if entry.isreg():
        with path.open("rb") as stream:
            archive.addfile(entry, stream)
    else:
        archive.addfile(entry)


def _plain(entry: tarfile.TarInfo, owner: int) -> tarfile.TarInfo:
    entry.uid = entry.gid = owner
    entry.uname = entry.gname = ""
    entry.mtime = 0
    return entry


def write_archive(image: Image, target: Path) -> None:
    """Writes an OCI archive for `ctr images import` and `kind load image-archive`."""
    blobs: dict[str, bytes | Path] = {}
    layers = []
    for layer in image.layers:
        digest = _digest(layer)
        blobs[digest] = layer
        layers.append(_descriptor("layer.v1.tar", digest, layer.stat().st_size))
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {
            "User": image.user,
            "Entrypoint": list(image.entrypoint),
            "Env": [f"{name}={value}" for name, value in sorted(image.environment.items())],
            "WorkingDir": "/",
            "Labels": dict(image.labels),
        },
        "rootfs": {"type": "layers", "diff_ids": [layer["digest"] for layer in layers]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{OCI}.manifest.v1+json",
        "config": _blob(blobs, "config.v1+json", config),
        "layers": layers,
    }
    described = _blob(blobs, "manifest.v1+json", manifest)
    described |= {
        "platform": {"architecture": "amd64", "os": "linux"},
        "annotations": {
            "io.containerd.image.name": image.tag,
            "org.opencontainers.image.ref.name": image.tag.rpartition(":")[2],
        },
    }
    index = {
        "schemaVersion": 2,
        "mediaType": f"{OCI}.index.v1+json",
        "manifests": [described],
    }
    files: dict[str, bytes | Path] = {
        "oci-layout": b'{"imageLayoutVersion":"1.0.0"}',
        "index.json": json.dumps(index).encode(),
    }
    for digest, held in blobs.items():
        files[f"blobs/sha256/{digest.removeprefix('sha256:')}"] = held
    write_layer(target, files)


def _blob(blobs: dict[str, bytes | Path], kind: str, document: Any) -> dict[str, Any]:
    text = json.dumps(document, sort_keys=True).encode()
    digest = f"sha256:{hashlib.sha256(text).hexdigest()}"
    blobs[digest] = text
    return _descriptor(kind, digest, len(text))


def _descriptor(kind: str, digest: str, size: int) -> dict[str, Any]:
    return {"mediaType": f"{OCI}.{kind}", "digest": digest, "size": size}


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return f"sha256:{hashlib.file_digest(stream, 'sha256').hexdigest()}"


def program_image(tag: str, binary: Path, folder: Path) -> Path:
    """Writes the image of one static program and returns its archive."""
    stamp = hashlib.sha256(_digest(binary).encode()).hexdigest()[:16]
    target = folder / f"{binary.name}-{stamp}.tar"
    if not target.exists():
        layer = write_layer(folder / f"{binary.name}-{stamp}.layer", {binary.name: binary})
        image = Image(tag, (layer,), (f"/{binary.name}",), "65532:65532")
        write_archive(image, target)
    return target
