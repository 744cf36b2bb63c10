"""What a driver is told when it reports."""

from gpujob.api.gpujob import GpuJob
from gpujob.api.gpunode import GpuNode
from gpujob.api.transport import Assignment, Instruction, Machine, Work


def assignment(node: GpuNode | None, job: GpuJob | None) -> Assignment:
    """Returns the instruction for the driver of a node; None = the object is gone."""
    if node is None or job is None or node.status.end is not None:
        return Assignment(instruction=Instruction.EXIT)
    machine = node.status.machine
    if machine is None or node.status.is_paused:
        return Assignment(instruction=Instruction.WAIT)
    return Assignment(
        instruction=Instruction.RUN,
        machine=Machine(host=machine.host, port=machine.port, host_key=machine.host_key),
        work=Work(
            command=job.spec.command + job.spec.args,
            working_dir=job.spec.working_dir,
            run_number=node.status.run_number,
        ),
    )
