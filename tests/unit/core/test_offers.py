"""What is bid for an interruptible offer."""

from fractions import Fraction

import pytest
from tests.builders import a_spec, an_offer

from gpujob.api.gpujob import GpuJobSpec
from gpujob.core.market.offers import mismatch, with_bid


def spec(**market: object) -> GpuJobSpec:
    """A spec for an interruptible machine; its disk costs 0.005 $/h."""
    return GpuJobSpec.model_validate(a_spec(market={"type": "Interruptible", **market}))


@pytest.mark.parametrize(
    ("market", "bid"),
    [
        ({}, "0.5"),
        ({"maxUSDPerHour": "0.45"}, "0.445"),
        ({"maxUSDPerHour": "0.405"}, "0.4"),
    ],
)
def test_the_bid_leaves_room_above_the_lowest_and_keeps_to_the_cap(
    market: dict[str, object], bid: str
) -> None:
    """A quarter more, but never more than the job allows with its disk."""
    offer = with_bid(an_offer(), spec(**market))

    assert offer.gpu_usd_per_hour == Fraction(bid)
    assert mismatch(offer, spec(**market)) is None


def test_an_offer_that_only_a_bid_above_the_cap_would_win_is_no_match() -> None:
    """It is refused with a reason; nothing lower is bid."""
    wanted = spec(maxUSDPerHour="0.40")

    assert with_bid(an_offer(), wanted).gpu_usd_per_hour == Fraction("0.4")
    assert mismatch(with_bid(an_offer(), wanted), wanted) is not None


def test_bids_are_rounded_up_to_what_the_provider_takes() -> None:
    """Ten-thousandths of a dollar."""
    offer = with_bid(an_offer(gpu_usd_per_hour=Fraction("0.33333")), spec())

    assert offer.gpu_usd_per_hour == Fraction("0.4167")
