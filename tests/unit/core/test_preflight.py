"""Which machines get no work."""

from typing import Any

import pytest
from tests.builders import NOW, a_spec, marker, measured

from gpujob.api.gpujob import GpuJobSpec
from gpujob.api.gpunode import RentMarker
from gpujob.api.reasons import Reason
from gpujob.api.transport import Gpu, Measured
from gpujob.core.limits import Limits
from gpujob.core.machine.preflight import as_status, refusal

CARD = "NVIDIA GeForce RTX 4090"
GOOD = Gpu(name=CARD, memory_mib=24_564)


def judged(told: Measured, rent: dict[str, Any] | None = None, **spec: Any) -> tuple[Any, str]:
    """What is held against a machine: reason and words."""
    found = refusal(
        told,
        GpuJobSpec.model_validate(a_spec(**spec)),
        RentMarker.model_validate(marker(**(rent or {}))),
        Limits(),
    )
    return (found.reason, found.message) if found else (None, "")


@pytest.mark.parametrize(
    ("told", "rent", "spec"),
    [
        (measured(), {}, {}),
        (measured(gpus=(GOOD, GOOD)), {"gpu": "2x RTX 4090"}, {}),
        (measured(), {}, {"gpu": {"memoryGB": 24, "cudaVersion": "12.8"}}),
        (measured(), {}, {"gpu": {"cudaVersion": "12.4"}}),
        (measured(cuda_version=None), {}, {}),
        (measured(), {}, {"resources": {"diskGB": 20, "memoryGB": 64, "cpu": 16}}),
        (measured(disk_write_mbps=20.0), {}, {}),
        (measured(), {"gpuMemoryGB": None}, {}),
        # Its tools are not those that measure.
        (measured(gpus=(), gpu_problem="nvidia-smi is not there"), {"gpu": "1x InstinctMI50"}, {}),
    ],
)
def test_what_is_good_enough(told: Measured, rent: dict[str, Any], spec: dict[str, Any]) -> None:
    """A card of nominally 24 GB has less, and so has a file system."""
    assert judged(told, rent, **spec) == (None, "")


BROKEN, OTHER = Reason.MACHINE_BROKEN, Reason.MACHINE_MISLABELLED


@pytest.mark.parametrize(
    ("told", "rent", "spec", "reason", "words"),
    [
        (
            measured(gpus=()),
            {},
            {},
            BROKEN,
            "the machine's GPUs do not answer: nvidia-smi lists none",
        ),
        (
            measured(gpus=(GOOD,), gpu_problem="Unable to determine the device handle"),
            {},
            {},
            BROKEN,
            "the machine's GPUs do not answer: Unable to determine the device handle",
        ),
        (measured(), {"gpu": "2x RTX 4090"}, {}, BROKEN, "only 1 of the machine's 2 GPUs answer"),
        (
            measured(gpus=(GOOD, Gpu(name="NVIDIA GeForce RTX 3060", memory_mib=24_564))),
            {"gpu": "2x RTX 4090"},
            {},
            OTHER,
            "the offer says RTX 4090, but the machine's GPU says NVIDIA GeForce RTX 3060",
        ),
        (
            measured(gpus=(Gpu(name=CARD, memory_mib=22_000),)),
            {},
            {},
            OTHER,
            "a GPU of the machine has 22000 MiB of memory, but 24 GB were offered or asked for",
        ),
        (
            measured(),
            {"gpuMemoryGB": None},
            {"gpu": {"memoryGB": 48}},
            OTHER,
            "a GPU of the machine has 24564 MiB of memory, but 48 GB were offered or asked for",
        ),
        (
            measured(),
            {},
            {"gpu": {"cudaVersion": "12.9"}},
            OTHER,
            "the machine's GPU driver supports CUDA 12.8, but gpu.cudaVersion asks for 12.9",
        ),
        (
            measured(cuda_version=None),
            {},
            {"gpu": {"cudaVersion": "11.8"}},
            OTHER,
            "the machine's GPU driver did not report a CUDA version, but gpu.cudaVersion asks for "
            "11.8",
        ),
        (
            measured(disk_mib=17_000),
            {},
            {},
            OTHER,
            "the machine's disk has 17000 MiB, but 20 GB were rented",
        ),
        (
            measured(memory_free_mib=45_000),
            {},
            {"resources": {"memoryGB": 64}},
            Reason.MACHINE_MISLABELLED,
            "only 45000 MiB of the machine's memory are free, but resources.memoryGB asks for 64",
        ),
        (
            measured(memory_mib=50_000),
            {},
            {"resources": {"memoryGB": 64}},
            OTHER,
            "the machine has 50000 MiB of memory, but resources.memoryGB asks for 64",
        ),
        (
            measured(),
            {},
            {"resources": {"cpu": 17}},
            OTHER,
            "the machine has 16 CPU cores, but resources.cpu asks for 17",
        ),
        (
            measured(disk_write_mbps=19.96),
            {},
            {},
            Reason.MACHINE_SLOW,
            "the machine's disk writes 20.0 MB/s, less than the minimum of 20 MB/s",
        ),
        (
            measured(watchdog_client=None),
            {},
            {},
            Reason.NO_WATCHDOG,
            "the machine could not destroy itself: spec.image has none of curl, python3, wget and "
            "perl; add one of them",
        ),
        (
            measured(watchdog_runs=False),
            {},
            {},
            Reason.NO_WATCHDOG,
            "the machine's watchdog is not running",
        ),
    ],
)
def test_what_is_dropped(
    told: Measured, rent: dict[str, Any], spec: dict[str, Any], reason: Reason, words: str
) -> None:
    """The reason is the host's, and says what was found and what was wanted."""
    assert judged(told, rent, **spec) == (reason, words)


def test_what_is_kept_of_it() -> None:
    """Cards of one name are counted; the smallest one's memory is that of all."""
    cards = (GOOD, Gpu(name=CARD, memory_mib=24_000), Gpu(name="B", memory_mib=30_000))
    kept = as_status(measured(gpus=cards), NOW)

    assert (kept.gpu, kept.gpu_memory_mib) == (f"2x {CARD}, 1x B", 24_000)
