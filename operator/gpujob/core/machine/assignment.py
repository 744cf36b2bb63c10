"""What a driver is told when it reports."""

from gpujob.api.gpujob import GpuJob
from gpujob.api.gpunode import GpuNode
from gpujob.api.transport import Assignment, Instruction, Machine, Work
from gpujob.core.limits import STOP_GRACE_SHARE, Limits


def assignment(node: GpuNode | None, job: GpuJob | None, limits: Limits) -> Assignment:
    """Returns the instruction for the driver of a node; None = the object is gone."""
    if node is None or job is None or node.status.end is not None:
        return Assignment(version=1, instruction=Instruction.EXIT)
    status = node.status
    if status.machine is None or status.is_paused:
        return Assignment(version=1, instruction=Instruction.WAIT)
    place = status.machine
    machine = Machine(host=place.host, port=place.port, host_key=place.host_key)
    if status.measured is None and status.run is None and status.interruptions is None:
        return Assignment(version=1, instruction=Instruction.MEASURE, machine=machine)
    stops = status.stop is not None
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
