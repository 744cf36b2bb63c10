"""What a stored node says of how long its workload runs, or ran: what the cost gate learns from.

It rests on stored facts alone, so that it can be told again after a restart. How long a job runs is
counted over all its attempts, because another job may have to do all of it in one. A pause counts
only while it lasts, since nobody knows what follows.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from gpujob.api.gpunode import GpuNode
from gpujob.api.reasons import Reason
from gpujob.core.cost.experience import Outcome, outcome_by_itself
from gpujob.core.cost.template import Template, stored_template

_BY_ITSELF: frozenset[str] = frozenset({Reason.COMPLETED, Reason.OUTPUT_LOST})
_STOPPED: frozenset[str] = frozenset(
    {
        Reason.BUDGET_EXHAUSTED,
        Reason.DEADLINE_EXCEEDED,
        Reason.IDLE_DEADLINE_EXCEEDED,
        Reason.TRAFFIC_EXCEEDED,
    }
)
"""A limit ended it: it would have run longer, nobody knows how long."""
_NEVER_RAN: frozenset[str] = frozenset({Reason.IMAGE_UNUSABLE, Reason.PULL_FAILED})


@dataclass(frozen=True, kw_only=True)
class Run:
    """The run of an attempt."""

    node_uid: str
    template: Template
    started: datetime
    """When it would have started if it had run without an interruption, nor in earlier attempts."""


@dataclass(frozen=True, kw_only=True)
class EndedRun(Run):
    """One that is over."""

    ended: datetime
    seconds: int
    """How long the job ran up to its end, over all attempts."""
    outcome: Outcome


def run_of(node: GpuNode) -> Run | None:
    """Returns the run of a node's workload; None = it has not begun, is paused, or another release
    rented its machine.
    """
    status, rent = node.status, node.status.rent
    if rent is None or rent.template is None:
        return None
    uid, template = node.metadata.uid, stored_template(node.metadata.namespace, rent.template)
    earlier = rent.earlier_run_seconds + status.earlier_run_seconds
    if (over := _end(node)) is not None:
        at, reason, ran = over
        outcome = _outcome(reason, earlier + ran)
        if outcome is Outcome.CUT and not earlier + ran:
            return None
        seconds = max(earlier + ran, 1)
        return EndedRun(
            node_uid=uid,
            template=template,
            started=at - timedelta(seconds=seconds),
            ended=at,
            seconds=seconds,
            outcome=outcome,
        )
    if status.end is not None or status.run is None:
        return None
    started = status.run.started_at - timedelta(seconds=earlier)
    return Run(node_uid=uid, template=template, started=started)


def cut_short(node_uid: str, template: Template, started: float, now: datetime) -> EndedRun:
    """Returns the run of a node that is gone before its end was stored: nobody will ever say how
    long it ran. `started` is a timestamp.
    """
    seconds = max(int(now.timestamp() - started), 1)
    return EndedRun(
        node_uid=node_uid,
        template=template,
        started=now - timedelta(seconds=seconds),
        ended=now,
        seconds=seconds,
        outcome=Outcome.CUT,
    )


def _end(node: GpuNode) -> tuple[datetime, str, int] | None:
    """Returns when the run ended, why, and after how long on this machine since its last
    interruption. Copying the files of a workload that has ended is no part of it.
    """
    status, run = node.status, node.status.run
    stop, end = status.stop, status.end
    if stop is not None and stop.run_seconds is not None:
        return stop.at, stop.reason, stop.run_seconds
    if end is None or (run is None and status.interruptions is None):
        return None
    return end.at, end.reason, (run.seconds or 0) if run else 0


def _outcome(reason: str, seconds: int) -> Outcome:
    """Returns what a reason says of the run; one of another release says that it ran so long."""
    if reason in _NEVER_RAN:
        return Outcome.VOID
    if reason in _STOPPED:
        return Outcome.STOPPED
    if reason in _BY_ITSELF:
        return Outcome.ENDED
    if reason == Reason.WORKLOAD_FAILED:
        return outcome_by_itself(failed=True, run_seconds=seconds)
    return Outcome.CUT
