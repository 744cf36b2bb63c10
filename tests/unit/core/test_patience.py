"""How long a silent machine is waited for."""

import pytest

from gpujob.core.limits import Limits
from gpujob.core.node.facts import silence_seconds


@pytest.mark.parametrize(
    ("paid", "says_running", "seconds"),
    [
        (10, True, 120),
        (10, False, 120),
        (600, True, 600),
        (600, False, 300),
        (86_400, True, 900),
        (86_400, False, 900),
    ],
)
def test_patience(paid: float, says_running: bool, seconds: float) -> None:
    """As long as was paid for; half of it if the provider does not say running; within limits."""
    found = silence_seconds(Limits(), paid_seconds=paid, says_running=says_running)

    assert found == seconds
