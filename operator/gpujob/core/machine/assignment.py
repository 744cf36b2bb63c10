"""The instruction that a driver gets in answer to its report."""

from gpujob.api.gpujob import GpuJob
from gpujob.api.gpunode import ExtensionStatus, GpuNode, RentMarker
from gpujob.api.transport import Address, Assignment, Instruction, MachineAddress, Work
from gpujob.core.limits import STOP_GRACE_SHARE, Limits
from gpujob.core.machine.driver_pod import driver_pod_name
from gpujob.core.money import parse_usd
from gpujob.core.node.stage import CONTRADICTIONS, Stage, stage_of

_OVER = CONTRADICTIONS | {
    Stage.ENDED_UNRENTED,
    Stage.ENDED_UNKNOWN,
    Stage.ENDED_LEASED,
    Stage.RELEASED,
}
_BEFORE_RENT = {Stage.AWAITING_POD, Stage.AWAITING_DRIVER, Stage.READY_TO_RENT}


def may_be_driver(node: GpuNode, pod_name: str) -> bool:
    """Whether a node's pod of this name may become its driver although none is recorded yet.

    Until one is, nothing is rented, and whoever reports is told to wait.
    """
    is_next = pod_name == driver_pod_name(node.metadata.name, node.status.pod_number)
    return is_next and stage_of(node.status) is Stage.AWAITING_POD


def assignment(node: GpuNode | None, job: GpuJob | None, limits: Limits) -> Assignment:
    """Returns the instruction for the driver of a node; None = the object is gone."""
    if node is None or job is None or (stage := stage_of(node.status)) in _OVER:
        return Assignment(version=1, instruction=Instruction.EXIT)
    status = node.status
    if status.machine is None or stage is Stage.PAUSED:
        wants = job.spec.image_pull_secret is not None and stage in _BEFORE_RENT
        return Assignment(version=1, instruction=Instruction.WAIT, wants_login=wants)
    place = status.machine
    others = tuple(Address(host=one.host, port=one.port) for one in place.other_addresses)
    machine = MachineAddress(
        host=place.host, port=place.port, others=others, host_key=place.host_key
    )
    if stage is Stage.MEASURING:
        return Assignment(version=1, instruction=Instruction.MEASURE, machine=machine)
    stops = stage in (Stage.STOPPING, Stage.DELIVERING)
    return Assignment(
        version=1,
        instruction=Instruction.STOP if stops else Instruction.RUN,
        machine=machine,
        work=Work(
            command=job.spec.command + job.spec.args,
            working_dir=job.spec.working_dir,
            run_number=status.run_number,
        ),
        money_deadline_seconds=None if stops else deadline_to_tell(node, job),
        grace_seconds=limits.drain_seconds_of(job.spec) * STOP_GRACE_SHARE if stops else None,
    )


def deadline_to_tell(node: GpuNode, job: GpuJob) -> int | None:
    """Returns the watchdog's new deadline, once the job has recorded that the attempt may cost so
    much; None = there is none."""
    asked, recorded = node.status.extension, job.status.node_reserved_usd
    if asked is None or recorded is None or job.status.node_uid != node.metadata.uid:
        return None
    is_recorded = parse_usd(recorded) >= parse_usd(asked.fuse_usd)
    return watchdog_deadline(asked) if is_recorded else None


def watchdog_deadline(one: RentMarker | ExtensionStatus) -> int:
    """Returns the watchdog's deadline in a rent request or an extension of it.

    It counts from the machine's first start, by the machine's clock, and pauses in full.
    """
    held = one.watchdog_seconds
    return one.money_deadline_seconds if held is None else held
