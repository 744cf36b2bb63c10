"""Which GPU a job takes."""

from fractions import Fraction

import pytest
from tests.builders import a_spec, an_offer

from gpujob.api.gpujob import GpuJobSpec
from gpujob.core.market.offers import Demand


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

    offer = an_offer(gpu_model=model, gpu_memory_gb=memory_gb)
    assert (Demand(wanted).mismatch(offer) is None) is fits
