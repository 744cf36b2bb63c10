"""Clusters of the end-to-end tests, and what their API servers have heard."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from demo import Stage
from localcluster.node import Node

SHARING = ("test_data", "test_release")
"""Modules that use one cluster, one after the other; it is up until the end."""
LAST = "test_rights"
"""Reads what was asked of all clusters."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Lets a run take the sizes that were promised."""
    parser.addoption("--whole", action="store_true", help="1 GB of log, 2 GB of files")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Never are two clusters up that need not be, whatever order was drawn."""
    items.sort(key=lambda item: (item.path.stem == LAST, item.path.stem in SHARING))


LEFT_OUT = pytest.StashKey[bool]()


@pytest.fixture(scope="session", autouse=True)
def _whole(request: pytest.FixtureRequest) -> None:
    stems = {item.path.stem for item in request.session.items}
    here = {path.stem for path in Path(__file__).parent.glob("test_*.py")}
    request.config.stash.setdefault(LEFT_OUT, stems != here)


def pytest_deselected(items: list[pytest.Item]) -> None:
    """Notes that some tests do not run."""
    for item in items[:1]:
        item.config.stash[LEFT_OUT] = True


def is_whole(request: pytest.FixtureRequest) -> bool:
    """Whether all end-to-end tests were asked for, and none has failed so far."""
    left_out = request.config.stash.get(LEFT_OUT, True)
    return not left_out and not request.session.testsfailed


@pytest.fixture(scope="session")
def heard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for the audit logs of clusters that are gone."""
    return tmp_path_factory.mktemp("heard")


def keep_heard(stage: Stage, folder: Path) -> None:
    """Keeps what the API server of a cluster has heard; one made by kind has no such log."""
    if isinstance(stage.cluster, Node):
        for path in (stage.cluster.state / "log").glob("audit*.log"):
            shutil.copy(path, folder / f"{stage.name}-{path.name}")


@pytest.fixture(scope="session")
def stage() -> Iterator[Stage]:
    """A cluster with everything on it, and claims in a namespace."""
    made = Stage("gpujob-data")
    made.down()
    try:
        made.up()
        for name in ("results", "state", "logs"):
            made.apply(_claim(name))
        yield made
    finally:
        made.down()


def _claim(name: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name, "namespace": "demo"},
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "1Gi"}},
        },
    }
