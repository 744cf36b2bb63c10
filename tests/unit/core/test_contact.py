"""When a machine is given up: the provider and the driver are two witnesses, and both err."""

import pytest
from tests.builders import INSTANCE, MARK, a_lease, a_listing, a_node, running

from gpujob.adapters.transport import ANSWER_SECONDS
from gpujob.api.transport import HOLD_SECONDS
from gpujob.core.limits import Limits
from gpujob.core.node.contact import Health, Witnesses, denied_since, health
from gpujob.core.node.facts import PRESENT_SECONDS

SHORT, LONG = 120, 900
HOUR = 3600
HEALTHY, SUSPECTED, LOST = Health


@pytest.mark.parametrize(
    ("denied", "silent", "paid", "thought"),
    [
        # Nobody says anything against it.
        (None, None, HOUR, HEALTHY),
        (None, 0, HOUR, HEALTHY),
        (None, SHORT - 1, 10, HEALTHY),
        # The driver alone: for as long as was paid for.
        (None, SHORT, 10, LOST),
        (None, SHORT, 600, SUSPECTED),
        (None, 599, 600, SUSPECTED),
        (None, 600, 600, LOST),
        (None, LONG - 1, 24 * HOUR, SUSPECTED),
        (None, LONG, 24 * HOUR, LOST),
        # Both: for half as long.
        (15, SHORT - 1, 10, SUSPECTED),
        (15, SHORT, 10, LOST),
        (15, 299, 600, SUSPECTED),
        (15, 300, 600, LOST),
        (15, LONG, 24 * HOUR, LOST),
        # The provider, and no driver that could say otherwise.
        (0, None, 10, SUSPECTED),
        (SHORT - 1, None, 10, SUSPECTED),
        (SHORT, None, 10, LOST),
        (299, None, 600, SUSPECTED),
        (300, None, 600, LOST),
        # The provider alone, against the driver.
        (0, 0, 10, SUSPECTED),
        (LONG - 1, 2, 10, SUSPECTED),
        (LONG, 2, 10, LOST),
        (LONG, 2, 24 * HOUR, LOST),
    ],
)
def test_health(denied: float | None, silent: float | None, paid: float, thought: Health) -> None:
    """One witness alone is a suspicion, and each suspicion has its patience."""
    said = Witnesses(denied_seconds=denied, silent_seconds=silent, paid_seconds=paid)

    assert health(said, Limits()) is thought


def test_patience_ends_at_the_watchdogs() -> None:
    """Whatever was paid: then the machine destroys itself, and nothing is left to wait for."""
    for paid in range(0, 100_000, 777):
        for denied in (None, 0):
            said = Witnesses(denied_seconds=denied, silent_seconds=LONG, paid_seconds=paid)
            assert health(said, Limits()) is Health.LOST


@pytest.mark.parametrize(
    ("before", "shown", "since"),
    [
        (None, "running", None),
        (70.0, "running", None),
        (70.0, "loading", None),
        (70.0, "offline", 70.0),
        (70.0, "unknown", 70.0),
        (70.0, None, 70.0),
        (None, None, None),
        (None, "exited", "now"),
        (None, "stopped", "now"),
    ],
)
def test_the_provider_denies_it_since(
    before: float | None, shown: str | None, since: float | str | None
) -> None:
    """Only a listing that shows otherwise takes it back; one without the machine says nothing."""
    listing = a_listing(*((a_lease(status=shown),) if shown else ()))
    found = denied_since(before, a_node(running()), MARK, listing)

    assert found == (listing.answered_at if since == "now" else since)


def test_another_machine_says_nothing_of_ours() -> None:
    """A second one may carry the same mark."""
    listing = a_listing(a_lease(), a_lease(instance_id=INSTANCE + 1, status="offline"))

    assert denied_since(None, a_node(running()), MARK, listing) is None
    assert denied_since(None, a_node(running()), MARK, None) is None


def test_a_driver_that_loses_a_whole_exchange_is_present_all_the_same() -> None:
    """Its answer was kept back, the next report is lost and given up, and it tries again."""
    pause, to_connect = 4.0, 5.0
    lost = HOLD_SECONDS + HOLD_SECONDS + ANSWER_SECONDS + pause + to_connect

    assert lost < PRESENT_SECONDS
    assert Limits().silence_min_seconds > PRESENT_SECONDS
