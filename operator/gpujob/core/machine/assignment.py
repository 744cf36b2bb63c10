"""The instruction that a driver gets in answer to its report."""

from gpujob.api.gpujob import GpuJob
from gpujob.api.gpunode import GpuNode
from gpujob.api.transport import Address, Assignment, Instruction, MachineAddress, Work
from gpujob.core.limits import STOP_GRACE_SHARE, Limits
from gpujob.core.node.stage import CONTRADICTIONS, Stage, stage_of

_OVER = CONTRADICTIONS | {
    Stage.ENDED_UNRENTED,
    Stage.ENDED_UNKNOWN,
    Stage.ENDED_LEASED,
    Stage.RELEASED,
}
_BEFORE_RENT = {Stage.AWAITING_DRIVER, Stage.READY_TO_RENT}


def assignment(node: GpuNode | None, job: GpuJob | None, limits: Limits) -> Assignment:
    """Returns the instruction for the driver of a node; None = the object is gone."""
    status = node.status if node else None
    stage = stage_of(status) if status else None
    if status is None or job is None or stage in _OVER:
        return Assignment(version=1, instruction=Instruction.EXIT)
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
        grace_seconds=limits.drain_seconds_of(job.spec) * STOP_GRACE_SHARE if stops else None,
    )
