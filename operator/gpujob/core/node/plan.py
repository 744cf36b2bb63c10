"""The life of one rented machine, decided pass by pass.

    key ─ driver pod ─ driver reports ─ quote, gate ─ MARKER ─ rent ─ lease ─ host key ─ measured
                                                                                            │
                                     ┌─ STOP stored ◀─ deadline, fuse, idle, suspend ◀─ running
                                     ▼                                                      │
    released ◀─ proved gone ◀─ destroy ◀─ END stored ◀─ outcome, unfit, lost, deleted ◀─────┘

Stages are asked in the order of `STAGES`; the first that answers decides. The order is meaning: an
end or a stop that is stored is never reconsidered; the user's wish beats an outcome; an outcome
beats the deadline; money beats patience.
"""

from collections.abc import Callable

from gpujob.api.reasons import Reason
from gpujob.core.node import driver, ends, release, rent, run
from gpujob.core.node.answers import NodePlan, wait
from gpujob.core.node.facts import running_message
from gpujob.core.observation import NodeObservation

Stage = Callable[[NodeObservation], NodePlan | None]

STAGES: tuple[Stage, ...] = (
    release.released,
    release.giving_back,
    ends.unwanted,
    ends.stopping,
    ends.finished,
    ends.faulty,
    ends.out_of_money,
    ends.over_caps,
    ends.idle,
    ends.lost,
    ends.interrupted,
    driver.make_key,
    rent.adopt,
    driver.start_driver,
    rent.ask_for_machine,
    run.boot,
    run.measure,
    run.connect,
    run.keep_up,
)


def plan_node(observation: NodeObservation) -> NodePlan:
    """Returns what to store and do now for a GpuNode; total, and pure."""
    for stage in STAGES:
        if (plan := stage(observation)) is not None:
            return plan
    return wait(observation, Reason.RUNNING, running_message(observation), 5.0)
