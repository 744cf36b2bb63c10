"""How the workload ended, as the driver reports it, and what follows for the attempt."""

from math import ceil

from gpujob.api.gpunode import StopStatus
from gpujob.api.reasons import Reason
from gpujob.api.transport import Cause, MachineFault, Outcome
from gpujob.core.node.answers import NodePlan, end, progress
from gpujob.core.node.facts import (
    outcome_of,
    present_report,
)
from gpujob.core.observation import NodeObservation

_CAUSES = {
    Cause.OUT_OF_MEMORY: ": the machine ran out of memory; raise resources.memoryGB",
    Cause.DISK_FULL: ": the machine's disk was full; raise resources.diskGB",
}


def with_losses(reason: Reason, words: str, lost: str) -> tuple[Reason, str]:
    """Returns reason and message with what was lost; a success that lost output is OutputLost."""
    if not lost:
        return reason, words
    return Reason.OUTPUT_LOST if reason is Reason.COMPLETED else reason, f"{words}; {lost}"


def take_outcome(seen: NodeObservation) -> NodePlan | None:
    """Ends the attempt, or delivers its files, once the driver reports that the workload ended."""
    status = seen.node.status
    if status.machine is None:
        return None
    if (outcome := outcome_of(seen)) is not None:
        counted = counted_seconds(seen, outcome)
        reason, words, code = _verdict(seen, outcome)
        reason, words = with_losses(reason, words, outcome.lost)
        return end(seen, reason, words, exit_code=code, run_seconds=counted)
    report = present_report(seen)
    if report is not None and report.ended is not None and seen.stage.may_run:
        reason, words, code = _verdict(seen, report.ended)
        told = StopStatus(
            at=seen.world.now,
            reason=reason,
            message=words,
            exit_code=code,
            run_seconds=ceil(counted_seconds(seen, report.ended) or 0),
        )
        return progress(status.model_copy(update={"stop": told}), Reason.DELIVERING, words)
    return None


def end_if_faulty(seen: NodeObservation) -> NodePlan | None:
    """Ends the attempt if the driver reports that it cannot work with this machine.

    A restart is no such fault: see `interruption.run_again`.
    """
    report = seen.report
    if seen.node.status.machine is None or report is None or report.fault is None:
        return None
    if report.fault is MachineFault.MACHINE_RESTARTED:
        return None
    return end(seen, Reason(report.fault.value), report.message)


def _verdict(seen: NodeObservation, outcome: Outcome) -> tuple[Reason, str, int | None]:
    """Returns reason, message and exit code of an attempt whose workload ended with `outcome`."""
    rent, code = seen.node.status.rent, outcome.exit_code
    if outcome.was_killed and rent is not None and rent.bid_usd_per_hour is not None:
        # Somebody outbid us, and the machine came back, between two listings: there is nobody to
        # blame, and nothing to wait for.
        words = "somebody bid more for a moment, and the machine came back without the workload"
        return Reason.OUTBID, words, None
    if code == 0:
        return Reason.COMPLETED, "the workload ended with exit code 0", code
    if outcome.cause is Cause.GPU_LOST:
        words = f"a GPU of the machine was lost; the workload ended with exit code {code}"
        return Reason.GPU_LOST, words, None
    why = _CAUSES.get(outcome.cause, "") if outcome.cause else ""
    return Reason.WORKLOAD_FAILED, f"the workload ended with exit code {code}{why}", code


def counted_seconds(seen: NodeObservation, outcome: Outcome) -> float | None:
    """Returns the reported run time, at most what our clock allows; None = the pause counted it."""
    run = seen.node.status.run
    longest = (seen.world.now - run.started_at).total_seconds() if run else outcome.run_seconds
    return None if seen.node.status.is_paused else min(outcome.run_seconds, max(longest, 0.0))
