"""Why the operator cannot rent: problems for its administrator. No job fails because of them.

Whoever finds a problem reports it here, and withdraws it when it is gone. The readiness probe, a
metric, an event, and the condition of every job that waits all show it.
"""

import structlog

from gpujob.api.reasons import Reason
from gpujob.core.observation import Unavailable

ORDER = (
    Reason.CREDENTIALS_REJECTED,
    Reason.ACCOUNT_CHANGED,
    Reason.RIGHTS_MISSING,
    Reason.CONFIGURATION_BROKEN,
    Reason.WATCH_CLOSED,
    Reason.CLOCK_SKEW,
    Reason.ENFORCEMENT_LATE,
    Reason.CREDIT_EXHAUSTED,
    Reason.PROVIDER_UNAVAILABLE,
)
"""All reasons, in the order in which they should be repaired."""

log = structlog.get_logger("gpujob.readiness")


class Readiness:
    """The current problems."""

    def __init__(self) -> None:
        self._problems = {Reason.PROVIDER_UNAVAILABLE: "the provider has not been asked yet"}

    @property
    def problem(self) -> Unavailable | None:
        """The problem that should be repaired first; None if the operator is ready."""
        for reason in ORDER:
            if reason in self._problems:
                return Unavailable(reason, self._problems[reason])
        return None

    @property
    def reasons(self) -> frozenset[Reason]:
        """The reasons of all current problems."""
        return frozenset(self._problems)

    def say(self, reason: Reason, message: str | None) -> None:
        """Reports a problem; without a message, withdraws the one with this reason."""
        assert reason in ORDER, f"{reason} is not a reason for which the operator is not ready"
        before = self._problems.get(reason)
        if message is None:
            self._problems.pop(reason, None)
            if before is not None:
                log.info("problem_repaired", reason=reason)
            return
        self._problems[reason] = message
        if before != message:
            log.warning("not_ready", reason=reason, problem=message)
