"""Both versions of Helm."""

from pathlib import Path

import pytest

from localcluster import binaries


@pytest.fixture(scope="session")
def programs() -> Path:
    """The folder with both versions of Helm."""
    return binaries.ensure(binaries.CHART)
