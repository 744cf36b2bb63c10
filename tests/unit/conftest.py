"""How generated cases are run, and what no unit test may use."""

import os

import pytest
from hypothesis import settings

# No case may fail for being slow, and what decides about landing must not be left to luck.
settings.register_profile("ours", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("ours")


@pytest.fixture(autouse=True)
def _no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes every use of the cache fail at once: a unit test needs nothing that has to be built."""
    monkeypatch.setenv("GPUJOB_CACHE", "/dev/null/no-unit-test-uses-the-cache")
