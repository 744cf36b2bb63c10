"""Two names of one GPU, and one name of two."""

import pytest

from gpujob.api.gpujob import GpuNeeds
from gpujob.core.market.gpu_models import KNOWN, Meant, is_same_model, meant_by

SAME = {
    "A10": ["NVIDIA A10"],
    "A100 PCIE": ["NVIDIA A100-PCIE-40GB", "NVIDIA A100 80GB PCIe", "NVIDIA A100-PCIE-80GB-LC"],
    "A100 SXM4": ["NVIDIA A100-SXM4-80GB", "NVIDIA A100-SXM4-40GB", "NVIDIA A100-SXM-64GB"],
    "A100X": ["NVIDIA A100X"],
    "A800 PCIE": ["NVIDIA A800 80GB PCIe"],
    "B200": ["NVIDIA B200"],
    "B300": ["NVIDIA B300 SXM6 AC"],
    "GH200": ["NVIDIA GH200 480GB", "NVIDIA GH200 144G HBM3e", "NVIDIA GH200 96GB HBM3"],
    "GTX 1660 S": ["NVIDIA GeForce GTX 1660 SUPER"],
    "GTX TITAN X": ["NVIDIA GeForce GTX TITAN X"],
    "H100 NVL": ["NVIDIA H100 NVL"],
    "H100 PCIE": ["NVIDIA H100 PCIe"],
    "H100 SXM": ["NVIDIA H100 80GB HBM3"],
    "H200": ["NVIDIA H200", "NVIDIA H200 141GiB HBM3e"],
    "L4": ["NVIDIA L4"],
    "L40": ["NVIDIA L40"],
    "L40S": ["NVIDIA L40S"],
    "Q RTX 6000": [
        "Quadro RTX 6000",
        "Quadro RTX 6000 with Max-Q Design",
        "Quadro RTX 6000 Passive",
    ],
    "Quadro P4000": ["Quadro P4000"],
    "RTX 2060S": ["NVIDIA GeForce RTX 2060 SUPER"],
    "RTX 2080S": ["NVIDIA GeForce RTX 2080 SUPER", "GeForce RTX 2080 Super with Max-Q Design"],
    "RTX 3060": ["NVIDIA GeForce RTX 3060"],
    "RTX 3060 Ti": ["NVIDIA GeForce RTX 3060 Ti"],
    "RTX 3060 laptop": ["NVIDIA GeForce RTX 3060 Laptop GPU"],
    "RTX 4070": ["NVIDIA GeForce RTX 4070"],
    "RTX 4070 Ti": ["NVIDIA GeForce RTX 4070 Ti"],
    "RTX 4070S": ["NVIDIA GeForce RTX 4070 SUPER"],
    "RTX 4070S Ti": ["NVIDIA GeForce RTX 4070 Ti SUPER"],
    "RTX 4000Ada": ["NVIDIA RTX 4000 Ada Generation", "NVIDIA RTX 4000 SFF Ada Generation"],
    "RTX 4090": [
        "NVIDIA GeForce RTX 4090",
        "NVIDIA GeForce RTX 4090 24GB GDDR6X",
        "GeForce RTX 4090 OC",
    ],
    "RTX 4090D": ["NVIDIA GeForce RTX 4090 D"],
    "RTX 6000Ada": ["NVIDIA RTX 6000 Ada Generation"],
    "RTX A2000": ["NVIDIA RTX A2000", "NVIDIA RTX A2000 12GB"],
    "RTX A6000": ["NVIDIA RTX A6000"],
    "RTX PRO 6000 S": ["NVIDIA RTX PRO 6000 Blackwell Server Edition"],
    "RTX 5090": ["NVIDIA GeForce RTX 5090"],
    "RTX PRO 6000 WS": [
        "NVIDIA RTX PRO 6000 Blackwell Workstation Edition",
        "NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition",
    ],
    "Tesla P4": ["Tesla P4"],
    "Tesla P40": ["Tesla P40"],
    "Tesla T4": ["Tesla T4"],
    "Tesla V100": [
        *("Tesla V100-SXM2-16GB", "Tesla V100-PCIE-32GB", "Tesla V100-SXM3-32GB-H"),
        *("Tesla V100-DGXS-32GB", "Tesla V100-FHHL-16GB"),
    ],
    "Titan V": ["NVIDIA TITAN V"],
    "Titan Xp": ["NVIDIA TITAN Xp"],
}
"""Own names by market names, as far as they are publicly shown, and such as nobody has shown."""

OTHERS = (
    *("NVIDIA GeForce RTX 4090 Laptop GPU", "NVIDIA GeForce RTX 5090 D", "NVIDIA A10G", "NVIDIA"),
    *(
        "NVIDIA Graphics Device",
        "NVIDIA TITAN RTX",
        "NVIDIA H800",
        "NVIDIA GB200",
        "NVIDIA H20",
        "",
    ),
    *("NVIDIA GeForce RTX 3080", "NVIDIA RTX 6000D", "GRID A100D-40C", "NVIDIA L20", "NVIDIA L4S"),
)
"""Own names of none of these models."""


def test_the_market_s_names_are_known() -> None:
    """Else the table would speak of nothing."""
    assert set(SAME) <= KNOWN


@pytest.mark.parametrize("market", SAME)
def test_only_its_own_names_are_those_of_a_model(market: str) -> None:
    """Each agrees with its own and with none of the others'."""
    names = [*OTHERS, *(name for names in SAME.values() for name in names)]
    agreeing = {name for name in names if is_same_model(market, name)}

    assert agreeing == set(SAME[market])


WRITTEN: dict[str, tuple[tuple[str, ...], int]] = {
    **dict.fromkeys(
        ("RTX 4090", "RTX_4090", "rtx 4090", "rtx4090", "RTX-4090", "4090", "geforce rtx 4090"),
        (("RTX 4090",), 0),
    ),
    "RTX 4090 48GB": (("RTX 4090",), 48),
    "4090 D": (("RTX 4090D",), 0),
    "h100": (("H100 NVL", "H100 PCIE", "H100 SXM"), 0),
    "H100SXM": (("H100 SXM",), 0),
    "NVIDIA H100 80GB HBM3": (("H100 SXM",), 80),
    "H100-PCIe": (("H100 PCIE",), 0),
    "h200": (("H200",), 0),
    "H200 nvl": (("H200 NVL",), 0),
    "A100-80GB": (("A100 PCIE", "A100 SXM4"), 80),
    "A100_40GB": (("A100 PCIE", "A100 SXM4"), 40),
    "NVIDIA A100-SXM4-80GB": (("A100 SXM4",), 80),
    "V100 32 GB": (("Tesla V100",), 32),
    "A6000": (("RTX A6000",), 0),
    "RTX 6000 Ada Generation": (("RTX 6000Ada",), 0),
    "RTX PRO 6000 Blackwell Workstation Edition": (("RTX PRO 6000 WS",), 0),
    "4070 Ti Super": (("RTX 4070S Ti",), 0),
    "1660 Super": (("GTX 1660 S",), 0),
    "P4000": (("Quadro P4000",), 0),
    "NVIDIA GH200 480GB": (("GH200",), 0),
}
"""What people write, the market's names for it, and the memory that they ask for."""


@pytest.mark.parametrize("written", WRITTEN)
def test_a_gpu_is_understood_as_people_write_it(written: str) -> None:
    """And as its maker's tools print it."""
    models, memory_gb = WRITTEN[written]
    (meant,) = meant_by(GpuNeeds(models=(written,)))

    assert meant == Meant(models=models, memory_gb=memory_gb)


def test_the_market_s_own_name_stands_for_nothing_else() -> None:
    """H200 is not H200 NVL, and A100 PCIE may have any memory."""
    for name in KNOWN:
        assert meant_by(GpuNeeds(models=(name,))) == (Meant(models=(name,)),)


@pytest.mark.parametrize(
    ("written", "there"),
    [
        ("A100", ("'A100 40GB'", "'A100 80GB'", "'A100 PCIE'", "'A100 SXM4'")),
        ("a100 sxm", ("'a100 sxm 40GB'", "'A100 SXM4'")),
        ("V100", ("'V100 16GB'", "'V100 32GB'", "'Tesla V100'")),
        ("RTX 6000", ("'Q RTX 6000'", "'RTX 6000Ada'", "'RTX PRO 6000 S'", "'RTX PRO 6000 WS'")),
        ("4000", ("'Q RTX 4000'", "'RTX 4000Ada'", "'RTX PRO 4000'")),
    ],
)
def test_what_a_name_leaves_open_is_answered_with_what_there_is(
    written: str, there: tuple[str, ...]
) -> None:
    """And no offer meets it, should it get past the webhook."""
    (meant,) = meant_by(GpuNeeds(models=(written,)))

    assert meant.models == (written,)
    assert all(one in meant.doubt for one in there), meant.doubt


def test_the_job_s_own_memory_settles_what_a_name_leaves_open() -> None:
    """As it would for any name."""
    (meant,) = meant_by(GpuNeeds(models=("A100",), memory_gb=80))

    assert meant == Meant(models=("A100 PCIE", "A100 SXM4"))


@pytest.mark.parametrize("written", ["Voodoo", "NVIDIA", "80GB", "H20", "A10G", "H100x8", "MI300X"])
def test_a_name_of_no_model_stands_for_itself(written: str) -> None:
    """It may be new on the market."""
    assert meant_by(GpuNeeds(models=(written,))) == (Meant(models=(written,)),)
