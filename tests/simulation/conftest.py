"""Virtual time makes logs long: only a replay of one seed shows them."""

import logging

import pytest
import structlog


@pytest.fixture(autouse=True)
def quiet(request: pytest.FixtureRequest) -> None:
    """Drops the operator's log unless pytest was told to show output with `-s`."""
    level = logging.INFO if request.config.getoption("capture") == "no" else logging.CRITICAL
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(level))
