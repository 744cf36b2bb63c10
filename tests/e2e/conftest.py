"""How large the files and logs are that jobs move on a real cluster."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Lets a run take the sizes that were promised."""
    parser.addoption("--whole", action="store_true", help="1 GB of log, 2 GB of files")
