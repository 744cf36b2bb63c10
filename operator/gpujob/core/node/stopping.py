"""A workload that must stop, or has ended: its files are copied before the machine is destroyed."""

from dataclasses import replace

from gpujob.api.reasons import Reason
from gpujob.core.node.answers import NodePlan, end, wait
from gpujob.core.node.driver import start_driver
from gpujob.core.node.ends import enforce_caps, give_up_lost
from gpujob.core.node.facts import (
    outcome_of,
    stop_seconds_left,
)
from gpujob.core.node.interruption import run_again
from gpujob.core.node.outcome import counted_seconds, end_if_faulty, with_losses
from gpujob.core.node.run import keep_up
from gpujob.core.observation import NodeObservation


def finish_stopping(seen: NodeObservation) -> NodePlan | None:
    """Copies the files of a workload that must stop or has ended, while there is time for it.

    Whatever interrupts that, the attempt ends with the reason that is stored for the stop.
    """
    told = seen.node.status.stop
    if told is None:
        return None
    reason, code, ran = Reason(told.reason), told.exit_code, told.run_seconds
    if (outcome := outcome_of(seen)) is not None:
        if ran is None:
            code = None if outcome.was_killed else outcome.exit_code
        seconds = counted_seconds(seen, outcome) if ran is None else ran
        reason, words = with_losses(reason, told.message, outcome.lost)
        return end(seen, reason, words, exit_code=code, run_seconds=seconds)
    log = seen.report.log if seen.report else None
    missing = f"{log.behind} bytes of its output" if log and log.behind else "the latest files"
    left = stop_seconds_left(seen)
    if left <= 0:
        late = f"{missing} may be lost: the time to copy files was over, see data.drainSeconds"
        reason, words = with_losses(reason, told.message, late)
        return end(seen, reason, words, exit_code=code, run_seconds=ran)
    shown = Reason.STOPPING if ran is None else Reason.DELIVERING
    for step in (end_if_faulty, run_again, enforce_caps, give_up_lost, start_driver, keep_up):
        if (plan := step(seen)) is None:
            continue
        if plan.status.end is None:
            return replace(plan, reason=shown)
        reason, words = with_losses(reason, told.message, f"{missing} may be lost: {plan.message}")
        return end(seen, reason, words, exit_code=code, run_seconds=ran)
    return wait(seen, shown, told.message, left)
