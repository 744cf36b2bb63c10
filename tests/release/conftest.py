"""A registry on the loopback, this commit's images in it, and a key to sign with."""

import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.release.parts import push, push_small

from localcluster import project_images
from localcluster.control_plane import free_port
from releasing import signatures
from releasing.programs import tool


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of an empty registry."""
    address = f"127.0.0.1:{free_port()}"
    with (tmp_path_factory.mktemp("registry") / "log").open("wb") as log:
        serving = subprocess.Popen(
            [tool("crane"), "registry", "serve", "--address", address], stdout=log, stderr=log
        )
        deadline = time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(f"http://{address}/v2/", timeout=5).close()
                break
            except urllib.error.URLError:
                assert time.monotonic() < deadline, "no registry"
                time.sleep(0.05)
        yield address
        serving.terminate()
        serving.wait()


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The operator's image, built from this work tree."""
    return project_images.built(tmp_path_factory.mktemp("images"), (project_images.OPERATOR,))[0]


@pytest.fixture(scope="session")
def driver_archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The driver's image, built from this work tree."""
    return project_images.built(tmp_path_factory.mktemp("images"), (project_images.DRIVER,))[0]


@pytest.fixture(scope="session")
def image(registry: str, archive: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The operator's image in the registry, by digest."""
    return push(archive, f"{registry}/gpujob/gpujob-operator", tmp_path_factory.mktemp("layout"))


@pytest.fixture(scope="session")
def driver_image(
    registry: str, driver_archive: Path, tmp_path_factory: pytest.TempPathFactory
) -> str:
    """The driver's image in the registry, by digest."""
    scratch = tmp_path_factory.mktemp("layout")
    return push(driver_archive, f"{registry}/gpujob/gpujob-driver", scratch)


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[signatures.Key, signatures.Key]:
    """A private and a public key."""
    return signatures.make_key(tmp_path_factory.mktemp("keys"))


@pytest.fixture
def small(registry: str, tmp_path: Path) -> str:
    """A small image of its own for each test, by digest."""
    return push_small(registry, tmp_path, b"small " + tmp_path.name.encode())
