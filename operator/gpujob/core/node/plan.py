"""The life of one rented machine, decided pass by pass.

    key ─ driver pod ─ driver reports ─ quote, gate ─ MARKER ─ rent ─ lease ─ host key ─ measured
                                                                                            │
                                     ┌─ STOP stored ◀─ deadline, fuse, idle, suspend ◀─ running
                                     ▼                                                      │
    released ◀─ proved gone ◀─ destroy ◀─ END stored ◀─ outcome, unfit, lost, deleted ◀─────┘

Steps are asked in the order of `STEPS`; the first that answers decides. The order is meaning: an
end or a stop that is stored is never reconsidered; an outcome beats the wish to suspend, which
would pay for the same work again, and the deadline; money beats patience. Whatever they decide, of
several machines under the node's mark all but one are destroyed.
"""

from collections.abc import Callable
from dataclasses import replace

from gpujob.api.reasons import Reason
from gpujob.core import effects
from gpujob.core.node import (
    deadlines,
    driver,
    ends,
    extension,
    interruption,
    outcome,
    release,
    rent,
    restored,
    run,
    stopping,
)
from gpujob.core.node.answers import NodePlan, wait
from gpujob.core.node.duplicates import duplicates_shown, others
from gpujob.core.node.facts import next_look, running_message
from gpujob.core.node.stage import Stage
from gpujob.core.observation import NodeObservation
from gpujob.core.queue import as_queued
from gpujob.core.refusals import without_refused

Step = Callable[[NodeObservation], NodePlan | None]

STEPS: tuple[Step, ...] = (
    release.let_go,  # Nothing is owed any more: the object may go.
    release.give_back,  # The end is stored: destroy the machine until it is proved gone.
    release.end_if_contradictory,  # No pass of ours stored this: end it, start nothing.
    restored.end_if_rented_before,  # A machine has the mark already: never rent a second one.
    ends.end_if_unwanted,  # The job or the node is being deleted.
    stopping.finish_stopping,  # The stop is stored: copy the files, then end.
    outcome.take_outcome,  # The driver says that the workload has ended.
    ends.stop_if_suspended,  # The job is suspended: its workload is to save what it has.
    outcome.end_if_faulty,  # The driver says that the machine cannot be used.
    deadlines.enforce_pending_deadline,  # It has not begun to run, and was to by now.
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
    run.keep_up,  # Keep the highest price seen and the figures current.
)


def plan_node(observation: NodeObservation) -> NodePlan:
    """Returns what to store and do now for a GpuNode; total, and pure."""
    if observation.job is not None:
        queued = as_queued(observation.job, kueue=observation.world.kueue)
        observation = replace(observation, job=queued)
    plan = driver.without_reservation(observation, _decided(observation))
    plan = without_refused(plan, observation.refusals, observation.world.monotonic)
    return _without_duplicates(observation, plan)


def _decided(seen: NodeObservation) -> NodePlan:
    for step in STEPS:
        if (plan := step(seen)) is not None:
            return plan
    words = running_message(seen) + extension.raise_refusal(seen)
    return wait(seen, Reason.RUNNING, words, next_look(seen))


def _without_duplicates(seen: NodeObservation, plan: NodePlan) -> NodePlan:
    """Returns the plan with the destroys of the node's other machines, and what they have cost."""
    if seen.stage is Stage.RELEASED:
        return plan
    found = duplicates_shown(seen)
    if found != seen.node.status.duplicates:
        plan = replace(plan, status=plan.status.model_copy(update={"duplicates": found}))
    extra = tuple(row.instance_id for row in others(seen))
    if not extra or seen.node.status.end is not None:
        # What is over is destroyed with all that carries its mark.
        return plan
    return replace(plan, effects=(*plan.effects, effects.Destroy(extra)))
