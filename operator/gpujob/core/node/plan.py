"""The life of one rented machine, decided pass by pass.

    key ─ driver pod ─ driver reports ─ quote, gate ─ MARKER ─ rent ─ lease ─ host key ─ measured
                                                                                            │
                                     ┌─ STOP stored ◀─ deadline, fuse, idle, suspend ◀─ running
                                     ▼                                                      │
    released ◀─ proved gone ◀─ destroy ◀─ END stored ◀─ outcome, unfit, lost, deleted ◀─────┘

Steps are asked in the order of `STEPS`; the first that answers decides. The order is meaning: an
end or a stop that is stored is never reconsidered; an outcome beats the wish to suspend, which
would pay for the same work again, and the deadline; money beats patience.
"""

from collections.abc import Callable

from gpujob.api.reasons import Reason
from gpujob.core.node import (
    deadlines,
    driver,
    ends,
    extension,
    interruption,
    outcome,
    release,
    rent,
    run,
    stopping,
)
from gpujob.core.node.answers import NodePlan, wait
from gpujob.core.node.facts import running_message
from gpujob.core.observation import NodeObservation

Step = Callable[[NodeObservation], NodePlan | None]

STEPS: tuple[Step, ...] = (
    release.let_go,  # Nothing is owed any more: the object may go.
    release.give_back,  # The end is stored: destroy the machine until it is proved gone.
    release.end_if_contradictory,  # No pass of ours stored this: end it, start nothing.
    ends.end_if_unwanted,  # The job or the node is being deleted.
    stopping.finish_stopping,  # The stop is stored: copy the files, then end.
    outcome.take_outcome,  # The driver says that the workload has ended.
    ends.stop_if_suspended,  # The job is suspended: its workload is to save what it has.
    outcome.end_if_faulty,  # The driver says that the machine cannot be used.
    extension.extend_fuse,  # The ceiling was raised: the fuse follows once the machine knows.
    deadlines.enforce_fuse,  # Another second could cost more than is allowed.
    deadlines.enforce_active_deadline,  # The workload ran for activeDeadlineSeconds.
    interruption.run_again,  # The machine's container was restarted: run the workload again.
    ends.enforce_caps,  # The machine moves more data, or costs more, than was agreed.
    deadlines.enforce_idle_deadline,  # No GPU was busy for idleDeadlineSeconds.
    ends.give_up_lost,  # The machine or its driver is gone, or never came up.
    interruption.wait_while_paused,  # Somebody bids more; the machine may come back.
    driver.make_key,  # The SSH key exists before the driver pod that mounts it.
    rent.adopt,  # The marker is stored: find out what the request rented; never send another.
    driver.start_driver,  # The driver reports before anything is rented.
    rent.ask_for_machine,  # The gate on a fresh quote, the marker, the one rent request.
    run.boot,  # The host key is read before anything is sent to the machine.
    run.measure,  # A machine that is not what its offer says gets no work.
    run.connect,  # The run begins when the driver says so.
    run.keep_up,  # Keep one machine, the highest price seen, and the figures current.
)


def plan_node(observation: NodeObservation) -> NodePlan:
    """Returns what to store and do now for a GpuNode; total, and pure."""
    for step in STEPS:
        if (plan := step(observation)) is not None:
            return plan
    return wait(observation, Reason.RUNNING, running_message(observation), 5.0)
