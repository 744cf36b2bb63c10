"""How images get into the registry."""

import tarfile
from pathlib import Path

from localcluster.images import Image, write_archive, write_layer
from releasing.programs import run, tool


def push_small(registry: str, folder: Path, content: bytes) -> str:
    """Pushes an image that holds one file; returns its name by digest."""
    layer = write_layer(folder / "layer", {"file": content})
    archive = folder / "small.tar"
    write_archive(Image("localhost/small:1", (layer,), ("/file",), "1:1"), archive)
    return push(archive, f"{registry}/gpujob/small", folder)


def push(archive: Path, name: str, scratch: Path) -> str:
    """Pushes an archive, an engine's or ours; returns the image's name by digest."""
    with tarfile.open(archive) as opened:
        by_engine = "manifest.json" in opened.getnames()
        layout = scratch / "layout"
        if not by_engine:
            # Filters have no names yet in Debian's Python 3.11.2.
            opened.extraction_filter = lambda member, _: member
            opened.extractall(layout)
    source = archive if by_engine else layout
    pushed = run([tool("crane"), "push", str(source), f"{name}:1"]).strip()
    assert pushed.startswith(f"{name}@sha256:")
    return pushed


def index_of(image: str) -> tuple[str, str]:
    """Pushes an image for two platforms, the second like the first; returns it and the second."""
    crane, name = tool("crane"), image.partition("@")[0]
    other = run([crane, "mutate", "--set-platform=linux/arm64", image, f"--tag={name}:arm64"])
    second = f"{name}@{run([crane, 'digest', f'{name}:arm64']).strip()}"
    assert second != image, other
    manifests = [f"--manifest={one}" for one in (image, second)]
    run([crane, "index", "append", *manifests, f"--tag={name}:both"])
    return f"{name}@{run([crane, 'digest', f'{name}:both']).strip()}", second
