"""When listings prove that the account holds no machine."""

import pytest
from tests.builders import ACCOUNT, INSTANCE, MARK, MONOTONIC, a_lease, a_listing, taken_in

from gpujob.core.market.absence import absence_proved_at
from gpujob.core.market.listings import Listing

FOREIGN = a_lease(instance_id=1, label="other/n/j", env_mark="other/n/j")
HIDDEN = a_lease(instance_id=2, label=None, env_mark=None, is_attributable=False)


def proved(*listings: Listing, instance_id: int | None = INSTANCE) -> bool:
    """Asks for listings later than 100 s ago, a poll apart."""
    at = absence_proved_at(
        taken_in(*listings),
        after=MONOTONIC - 100,
        poll_seconds=15,
        mark=MARK,
        instance_id=instance_id,
        account_id=ACCOUNT,
    )
    return at is not None


@pytest.mark.parametrize(
    ("listings", "gone"),
    [
        pytest.param((), False, id="no listing"),
        pytest.param((a_listing(ago=20),), False, id="one"),
        pytest.param((a_listing(ago=20), a_listing(ago=5)), True, id="two a poll apart"),
        pytest.param((a_listing(ago=15), a_listing(ago=5)), False, id="two, too close"),
        pytest.param((a_listing(ago=120), a_listing(ago=90)), False, id="one of them too early"),
        pytest.param(
            (a_listing(FOREIGN, ago=20), a_listing(FOREIGN, ago=5)), True, id="others are there"
        ),
        pytest.param(
            (a_listing(ago=40), a_listing(ago=20), a_listing(a_lease(), ago=5)),
            False,
            id="seen again later",
        ),
        pytest.param(
            (a_listing(ago=40, account_id=8), a_listing(ago=20, account_id=8)),
            False,
            id="another account's",
        ),
        pytest.param(
            (a_listing(ago=40), a_listing(ago=20, account_id=8), a_listing(ago=5)),
            False,
            id="another account's between",
        ),
    ],
)
def test_absence_takes_two_complete_listings(listings: tuple[Listing, ...], gone: bool) -> None:
    """Of the same account, late enough, a poll apart, and no later sighting."""
    assert proved(*listings) is gone


def test_a_hidden_mark_may_be_ours() -> None:
    """Unless the machine is known by its number."""
    listings = a_listing(HIDDEN, ago=20), a_listing(HIDDEN, ago=5)

    assert proved(*listings)
    assert not proved(*listings, instance_id=None)
