"""The simulator as a real process, for whoever talks to it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.integration.parts import Simulator


@pytest.fixture
def simulator(tmp_path: Path) -> Iterator[Simulator]:
    """A simulator with a fresh market."""
    running = Simulator(tmp_path)
    running.start()
    yield running
    running.stop()
