"""What is bid for an interruptible offer, and which GPU a job takes."""

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


@pytest.mark.parametrize(
    ("written", "model", "memory_gib", "fits"),
    [
        ("rtx_4090", "RTX 4090", 24, True),
        ("rtx_4090", "RTX 4090D", 24, False),
        ("h100", "H100 NVL", 94, True),
        ("h100", "H200", 141, False),
        ("A100-80GB", "A100 PCIE", 80, True),
        ("A100-80GB", "A100 PCIE", 40, False),
        ("A100", "A100 PCIE", 80, False),
        ("RTX 6000", "RTX 6000Ada", 48, False),
        ("new in 2027", "new in 2027", 256, True),
    ],
)
def test_an_offer_is_taken_by_the_name_that_the_job_has_for_it(
    written: str, model: str, memory_gib: int, fits: bool
) -> None:
    """And by the memory in that name. What it leaves open is met by nothing."""
    wanted = GpuJobSpec.model_validate(a_spec(gpu={"models": ["B300", written]}))
    memory_gb = Fraction(memory_gib * 2**30, 10**9)

    assert (mismatch(an_offer(gpu_model=model, gpu_memory_gb=memory_gb), wanted) is None) is fits
