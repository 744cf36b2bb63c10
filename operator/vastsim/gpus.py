"""What the makers of GPUs publish about each model, by its name on the market.

`compute_cap` is CUDA's compute capability times 100, as the provider writes it (NVIDIA, CUDA GPU
Compute Capability); the rest is from the makers' data sheets, for one GPU, without tensor cores.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Model:
    """One model of GPU."""

    compute_cap: int
    teraflops: float
    """With 32-bit numbers."""
    memory_gb_per_second: float
    watts: float
    nvlink_gb_per_second: float = 0.0
    pci_gen: float = 4.0


MODELS = {
    "A10": Model(860, 31.2, 600.0, 150.0),
    "A100 PCIE": Model(800, 19.5, 1555.0, 250.0),
    "A100 SXM4": Model(800, 19.5, 2039.0, 400.0, 600.0),
    "A40": Model(860, 37.4, 696.0, 300.0),
    "B200": Model(1000, 75.0, 8000.0, 1000.0, 1800.0, 5.0),
    "GTX 1070": Model(610, 6.5, 256.0, 150.0, pci_gen=3.0),
    "GTX 1080": Model(610, 8.9, 320.0, 180.0, pci_gen=3.0),
    "GTX 1080 Ti": Model(610, 11.3, 484.0, 250.0, pci_gen=3.0),
    "GTX 1660 S": Model(750, 5.0, 336.0, 125.0, pci_gen=3.0),
    "H100 NVL": Model(900, 60.0, 3900.0, 400.0, 600.0, 5.0),
    "H100 PCIE": Model(900, 51.2, 2000.0, 350.0, pci_gen=5.0),
    "H100 SXM": Model(900, 66.9, 3350.0, 700.0, 900.0, 5.0),
    "H200": Model(900, 66.9, 4800.0, 700.0, 900.0, 5.0),
    "H200 NVL": Model(900, 60.0, 4800.0, 600.0, 900.0, 5.0),
    "L4": Model(890, 30.3, 300.0, 72.0),
    "L40": Model(890, 90.5, 864.0, 300.0),
    "L40S": Model(890, 91.6, 864.0, 350.0),
    "Q RTX 6000": Model(750, 16.3, 672.0, 260.0, pci_gen=3.0),
    "Q RTX 8000": Model(750, 16.3, 672.0, 260.0, pci_gen=3.0),
    "RTX 2060": Model(750, 6.5, 336.0, 160.0, pci_gen=3.0),
    "RTX 2070": Model(750, 7.5, 448.0, 175.0, pci_gen=3.0),
    "RTX 2080": Model(750, 10.1, 448.0, 215.0, pci_gen=3.0),
    "RTX 2080 Ti": Model(750, 13.4, 616.0, 250.0, pci_gen=3.0),
    "RTX 3060": Model(860, 12.7, 360.0, 170.0),
    "RTX 3060 Ti": Model(860, 16.2, 448.0, 200.0),
    "RTX 3070": Model(860, 20.3, 448.0, 220.0),
    "RTX 3070 Ti": Model(860, 21.7, 608.0, 290.0),
    "RTX 3080": Model(860, 29.8, 760.0, 320.0),
    "RTX 3080 Ti": Model(860, 34.1, 912.0, 350.0),
    "RTX 3090": Model(860, 35.6, 936.0, 350.0),
    "RTX 3090 Ti": Model(860, 40.0, 1008.0, 450.0),
    "RTX 4060": Model(890, 15.1, 272.0, 115.0),
    "RTX 4060 Ti": Model(890, 22.1, 288.0, 165.0),
    "RTX 4070": Model(890, 29.1, 504.0, 200.0),
    "RTX 4070 Ti": Model(890, 40.1, 504.0, 285.0),
    "RTX 4070S": Model(890, 35.5, 504.0, 220.0),
    "RTX 4070S Ti": Model(890, 44.1, 672.0, 285.0),
    "RTX 4080": Model(890, 48.7, 717.0, 320.0),
    "RTX 4080S": Model(890, 52.2, 736.0, 320.0),
    "RTX 4090": Model(890, 82.6, 1008.0, 450.0),
    "RTX 4090D": Model(890, 73.5, 1008.0, 425.0),
    "RTX 5060 Ti": Model(1200, 23.7, 448.0, 180.0, pci_gen=5.0),
    "RTX 5070": Model(1200, 30.9, 672.0, 250.0, pci_gen=5.0),
    "RTX 5070 Ti": Model(1200, 43.9, 896.0, 300.0, pci_gen=5.0),
    "RTX 5080": Model(1200, 56.3, 960.0, 360.0, pci_gen=5.0),
    "RTX 5090": Model(1200, 104.8, 1792.0, 575.0, pci_gen=5.0),
    "RTX 6000Ada": Model(890, 91.1, 960.0, 300.0),
    "RTX A4000": Model(860, 19.2, 448.0, 140.0),
    "RTX A5000": Model(860, 27.8, 768.0, 230.0),
    "RTX A6000": Model(860, 38.7, 768.0, 300.0),
    "RTX PRO 6000 WS": Model(1200, 126.0, 1792.0, 600.0, pci_gen=5.0),
    "Tesla P100": Model(600, 9.3, 732.0, 250.0, pci_gen=3.0),
    "Tesla P4": Model(610, 5.5, 192.0, 75.0, pci_gen=3.0),
    "Tesla P40": Model(610, 11.8, 346.0, 250.0, pci_gen=3.0),
    "Tesla T4": Model(750, 8.1, 320.0, 70.0, pci_gen=3.0),
    "Tesla V100": Model(700, 15.7, 900.0, 300.0, 300.0, 3.0),
}

DRIVERS = ((13.0, "580.65.06"), (12.8, "570.86.15"), (12.4, "550.54.14"), (12.0, "525.60.13"))
"""The first release of the driver that supports a version of CUDA, newest first (NVIDIA, CUDA
Toolkit Release Notes)."""
OLDEST_DRIVER = "470.57.02"


def driver_of(cuda: float) -> str:
    """Returns a release of the driver whose newest supported CUDA is the one given."""
    return next((driver for version, driver in DRIVERS if cuda >= version), OLDEST_DRIVER)


def driver_number(release: str) -> int:
    """Returns a driver's release as the number that queries compare."""
    major, minor, patch = release.split(".")
    return int(major) * 1_000_000 + int(minor) * 1_000 + int(patch)
