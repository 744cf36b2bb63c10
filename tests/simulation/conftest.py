"""Virtual time makes logs long: only a replay of one seed shows them."""

import logging

import pytest
import structlog


@pytest.fixture(autouse=True)
def quiet(request: pytest.FixtureRequest) -> None:
    """Drops the operator's log unless pytest was told to show output with `-s`."""
    level = logging.INFO if request.config.getoption("capture") == "no" else logging.CRITICAL
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(level))


def pytest_addoption(parser: pytest.Parser) -> None:
    """Lets a run take another share of all that there is to simulate."""
    parser.addoption("--seeds", default="0..29", help="storms to play, as A..B, B included")
    parser.addoption(
        "--points", default="6", help="calls of each life that each fault strikes, or all"
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Makes one storm of each seed."""
    if "seed" in metafunc.fixturenames:
        first, _, last = metafunc.config.getoption("seeds").partition("..")
        seeds = range(int(first), int(last or first) + 1)
        metafunc.parametrize("seed", seeds, ids=[f"seed{number}" for number in seeds])


@pytest.fixture
def points(request: pytest.FixtureRequest) -> int | None:
    """How many calls of each life each fault strikes; None = all."""
    given = request.config.getoption("points")
    return None if given == "all" else int(given)
