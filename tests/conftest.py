"""The parts of the suite as markers, so that `pytest -m unit` runs what `hack/test unit` runs."""

from pathlib import Path

import pytest
from tests.integration.loaded import Loader

HERE = Path(__file__).parent


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks each test with its folder; a folder that `pyproject.toml` does not list is an error."""
    for item in items:
        item.add_marker(item.path.relative_to(HERE).parts[0])


def pytest_sessionfinish() -> None:
    """Ends the processes that start our programs, so that their work is counted."""
    for loader in Loader.every.values():
        loader.close()
