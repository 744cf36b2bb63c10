"""Whether a rented machine is what its offer says and what the job needs, before it gets work.

The machine measures itself. A machine that lies gains nothing by it: it gets the work, as it would
have got it without this check.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction

from gpujob.api.gpujob import GpuJobSpec
from gpujob.api.gpunode import MeasuredStatus, RentMarker
from gpujob.api.reasons import Reason
from gpujob.api.transport import Measured
from gpujob.core.limits import Limits
from gpujob.core.market.gpu_models import is_same_model
from gpujob.core.market.offers import NOMINAL

SPARE = Fraction(9, 10)
"""A file system keeps a part of the disk for itself, and a kernel a part of the memory."""

FREE = Fraction(3, 4)
"""Share of the requested memory that must be free: the host and the container's start use some."""

UNMEASURED = ("Instinct",)
"""Models that cannot be measured, because they do not come with NVIDIA's tools."""


@dataclass(frozen=True)
class Refusal:
    """Why the machine gets no work."""

    reason: Reason
    message: str


def refusal(
    measured: Measured, spec: GpuJobSpec, rent: RentMarker, limits: Limits
) -> Refusal | None:
    """Returns the first fault of a machine; None = it is good enough."""
    return next(_refusals(measured, spec, rent, limits), None)


def _refusals(
    measured: Measured, spec: GpuJobSpec, rent: RentMarker, limits: Limits
) -> Iterator[Refusal]:
    if measured.watchdog_client is None:
        words = "spec.image has none of curl, python3, wget and perl; add one of them"
        yield Refusal(Reason.NO_WATCHDOG, f"the machine could not destroy itself: {words}")
    if not measured.watchdog_runs:
        yield Refusal(Reason.NO_WATCHDOG, "the machine's watchdog is not running")
    count, _, model = rent.gpu.partition("x ")
    if not model.startswith(UNMEASURED):
        yield from _gpu_refusals(measured, spec, rent, int(count), model)
    needs = spec.resources
    mib_per_gb = Fraction(10**9, 2**20)
    if measured.disk_mib < needs.disk_gb * mib_per_gb * SPARE:
        words = f"the machine's disk has {measured.disk_mib} MiB, but {needs.disk_gb} GB were "
        yield Refusal(Reason.MACHINE_MISLABELLED, f"{words}rented")
    if needs.memory_gb is not None and measured.memory_mib < needs.memory_gb * mib_per_gb * SPARE:
        words = f"the machine has {measured.memory_mib} MiB of memory, but resources.memoryGB asks "
        yield Refusal(Reason.MACHINE_MISLABELLED, f"{words}for {needs.memory_gb}")
    if needs.memory_gb is not None and (
        measured.memory_free_mib < needs.memory_gb * mib_per_gb * FREE
    ):
        words = f"only {measured.memory_free_mib} MiB of the machine's memory are free, "
        asked = f"but resources.memoryGB asks for {needs.memory_gb}"
        yield Refusal(Reason.MACHINE_MISLABELLED, words + asked)
    if needs.cpu is not None and measured.cpu_cores < needs.cpu:
        words = f"the machine has {measured.cpu_cores} CPU cores, but resources.cpu asks for "
        yield Refusal(Reason.MACHINE_MISLABELLED, f"{words}{needs.cpu}")
    if measured.disk_write_mbps < limits.disk_write_mbps_min:
        words = f"the machine's disk writes {measured.disk_write_mbps:.1f} MB/s"
        least = f"less than the minimum of {limits.disk_write_mbps_min:g} MB/s"
        yield Refusal(Reason.MACHINE_SLOW, f"{words}, {least}")


def _gpu_refusals(
    measured: Measured, spec: GpuJobSpec, rent: RentMarker, count: int, model: str
) -> Iterator[Refusal]:
    gpus = measured.gpus
    if measured.gpu_problem or not gpus:
        words = measured.gpu_problem or "nvidia-smi lists none"
        yield Refusal(Reason.MACHINE_BROKEN, f"the machine's GPUs do not answer: {words}"[:1024])
        return
    if len(gpus) < count:
        words = f"only {len(gpus)} of the machine's {count} GPUs answer"
        yield Refusal(Reason.MACHINE_BROKEN, words)
    if other := next((gpu.name for gpu in gpus if not is_same_model(model, gpu.name)), None):
        words = f"the offer says {model}, but the machine's GPU says {other}"
        yield Refusal(Reason.MACHINE_MISLABELLED, words)
    least = min(gpu.memory_mib for gpu in gpus)
    claimed = max(rent.gpu_memory_gb or 0, spec.gpu.memory_gb or 0)
    if Fraction(least, 1024) < claimed * NOMINAL:
        words = f"a GPU of the machine has {least} MiB of memory, but {claimed} GB were offered or "
        yield Refusal(Reason.MACHINE_MISLABELLED, f"{words}asked for")
    wanted = spec.gpu.cuda_version
    if wanted is not None and _version(measured.cuda_version or "0.0") < _version(wanted):
        version = measured.cuda_version
        words = f"supports CUDA {version}" if version else "did not report a CUDA version"
        asked = f"gpu.cudaVersion asks for {wanted}"
        yield Refusal(Reason.MACHINE_MISLABELLED, f"the machine's GPU driver {words}, but {asked}")


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))


def as_status(measured: Measured, now: datetime) -> MeasuredStatus:
    """Returns what the status keeps of a measurement."""
    named = Counter(gpu.name for gpu in measured.gpus)
    return MeasuredStatus(
        at=now,
        gpu=", ".join(f"{count}x {name}" for name, count in named.items())[:200],
        gpu_memory_mib=min((gpu.memory_mib for gpu in measured.gpus), default=0),
        cuda_version=measured.cuda_version,
        cpu_cores=measured.cpu_cores,
        memory_mib=measured.memory_mib,
        disk_mib=measured.disk_mib,
        disk_write_mbps=int(measured.disk_write_mbps),
    )
