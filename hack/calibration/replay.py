"""Lets an estimator live through a trace."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from heapq import heappop, heappush
from typing import Protocol

from calibration.traces import Job
from gpujob.core.cost.experience import ERROR, Experience

END, START = 0, 1


class Estimator(Protocol):
    """Bounds the seconds that a job will run, and learns."""

    def predict(self, job: Job, now: float) -> float | None:
        """Returns the bound on a job that is submitted now; None = too little is known."""

    def start(self, place: int, job: Job, now: float) -> None:
        """Notes that a job starts."""

    def end(self, place: int, job: Job, now: float) -> None:
        """Learns how long a job ran."""


class Gate:
    """The estimator that the cost gate asks, unchanged."""

    def __init__(self, error: Fraction = ERROR) -> None:
        self._error = error
        self.experience = Experience()

    def predict(self, job: Job, now: float) -> float | None:
        """Returns the bound."""
        return self.experience.bound(job.template, now, self._error).value

    def start(self, place: int, job: Job, now: float) -> None:
        """Notes that a job starts."""
        self.experience.began(str(place), job.template, now)

    def end(self, place: int, job: Job, now: float) -> None:
        """Learns how long a job ran."""
        self.experience.ended(str(place), job.seconds, job.outcome, now)


@dataclass(frozen=True)
class Prediction:
    """What was said of a job at its submission."""

    job: Job
    seconds: float | None
    """None = no bound."""


def replay(jobs: Sequence[Job], estimator: Estimator) -> list[Prediction]:
    """Returns what is predicted of each job, in the order of submission.

    What ends or starts at the moment of a submission is known by then.
    """
    events: list[tuple[float, int, int]] = []
    found = []
    for place, job in enumerate(jobs):
        while events and events[0][0] <= job.submitted:
            at, kind, other = heappop(events)
            if kind == START:
                estimator.start(other, jobs[other], at)
            else:
                estimator.end(other, jobs[other], at)
        found.append(Prediction(job, estimator.predict(job, job.submitted)))
        if job.started <= job.submitted:
            estimator.start(place, job, job.started)
        else:
            heappush(events, (job.started, START, place))
        # The source's own end may be later: what was queued counts there.
        heappush(events, (max(job.ended, job.started), END, place))
    return found
