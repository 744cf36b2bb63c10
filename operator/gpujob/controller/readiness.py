"""Why the operator can not act: what its administrator has to repair. No job fails for it.

Whoever finds a problem says so here, and takes it back when it is gone. It is shown where it is
looked for: the readiness probe, a metric, an event, and on every job that waits.
"""

import structlog

from gpujob.api.reasons import Reason
from gpujob.core.observation import Unavailable

ORDER = (
    Reason.CREDENTIALS_REJECTED,
    Reason.ACCOUNT_CHANGED,
    Reason.RIGHTS_MISSING,
    Reason.CONFIGURATION_BROKEN,
    Reason.CREDIT_EXHAUSTED,
    Reason.PROVIDER_UNAVAILABLE,
)
"""All reasons, the one to be repaired first before the others."""

log = structlog.get_logger("gpujob.readiness")


class Readiness:
    """The problems of this moment."""

    def __init__(self) -> None:
        self._problems = {Reason.PROVIDER_UNAVAILABLE: "the provider has not been asked yet"}

    @property
    def problem(self) -> Unavailable | None:
        """The problem to be repaired first; None = ready."""
        for reason in ORDER:
            if reason in self._problems:
                return Unavailable(reason, self._problems[reason])
        return None

    @property
    def reasons(self) -> frozenset[Reason]:
        """All reasons not to be ready."""
        return frozenset(self._problems)

    def say(self, reason: Reason, message: str | None) -> None:
        """Reports a problem, or with None that there is none of this reason."""
        assert reason in ORDER, f"{reason} is no reason of the operator's own"
        before = self._problems.get(reason)
        if message is None:
            self._problems.pop(reason, None)
            if before is not None:
                log.info("repaired", reason=reason)
            return
        self._problems[reason] = message
        if before != message:
            log.warning("not_ready", reason=reason, problem=message)
