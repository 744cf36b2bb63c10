"""The cluster of the end-to-end tests, and what its API server has heard."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.evidence import RECORD

from demo import Stage
from localcluster.node import Node

ORDER = (
    *("test_demo", "test_namespaced", "test_data", "test_learning"),
    *("test_documents", "test_release", "test_rights"),
)
"""Modules that use the one cluster, one after the other. The first two install the chart in ways of
their own and uninstall it; the last reads what was asked of the API server all the while."""
HERE = Path(__file__).parent


def pytest_addoption(parser: pytest.Parser) -> None:
    """Lets a run take the sizes that were promised."""
    parser.addoption(
        "--whole", action="store_true", help="1 GB of log, 2 GB of files, and 25 jobs before one"
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the tests of the one cluster last and in order, whatever order was drawn."""
    for item in items:
        if item.path.parent == HERE:
            # Clusters change what the others count on this machine, so all are on one worker.
            item.add_marker(pytest.mark.xdist_group("clusters"))
    items.sort(key=lambda item: ORDER.index(item.path.stem) + 1 if item.path.stem in ORDER else 0)


LEFT_OUT = pytest.StashKey[bool]()


@pytest.fixture(scope="session", autouse=True)
def _whole(request: pytest.FixtureRequest) -> None:
    stems = {item.path.stem for item in request.session.items if item.path.parent == HERE}
    there_are = {path.stem for path in HERE.glob("test_*.py")}
    request.config.stash.setdefault(LEFT_OUT, stems != there_are)


def pytest_deselected(items: list[pytest.Item]) -> None:
    """Notes that some tests do not run."""
    for item in items:
        if item.path.parent == HERE:
            item.config.stash[LEFT_OUT] = True


def is_whole(request: pytest.FixtureRequest) -> bool:
    """Whether all end-to-end tests were asked for, and none has failed so far."""
    left_out = request.config.stash.get(LEFT_OUT, True)
    return not left_out and not request.session.testsfailed


@pytest.fixture(scope="session")
def heard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for copies of the audit log."""
    return tmp_path_factory.mktemp("heard")


def keep_heard(stage: Stage, folder: Path) -> None:
    """Keeps what the API server of a cluster has heard; one made by kind has no such log."""
    if isinstance(stage.cluster, Node):
        for path in (stage.cluster.state / "log").glob("audit*.log"):
            # One that was kept earlier may hold what has been rotated away since.
            earlier = len(list(folder.iterdir()))
            shutil.copy(path, folder / f"{earlier}-{path.name}")


@pytest.fixture(scope="session")
def cluster() -> Iterator[Stage]:
    """A cluster with the simulator on it, which keeps all requests; the chart is not installed."""
    made = Stage("gpujob-e2e")
    made.down()
    try:
        made.start(f"--record={RECORD}")
        yield made
    finally:
        made.down()


@pytest.fixture(scope="session")
def stage(cluster: Stage) -> Stage:
    """The cluster with the chart installed, and claims in a namespace."""
    cluster.install()
    for name in ("code", "results", "state", "logs"):
        cluster.apply(_claim(name))
    return cluster


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
