"""What keeps the operator from renting."""

from gpujob.api.reasons import Reason
from gpujob.controller.readiness import Readiness
from gpujob.core.observation import Unavailable


def test_the_first_to_be_repaired_is_told_first() -> None:
    """A refused key before a missing right before an unreachable provider."""
    readiness = Readiness()
    readiness.say(Reason.RIGHTS_MISSING, "no pods")
    readiness.say(Reason.CREDENTIALS_REJECTED, "401")

    assert readiness.problem == Unavailable(Reason.CREDENTIALS_REJECTED, "401")
    readiness.say(Reason.CREDENTIALS_REJECTED, None)
    assert readiness.problem == Unavailable(Reason.RIGHTS_MISSING, "no pods")


def test_it_is_not_ready_before_the_provider_has_answered() -> None:
    """Unknown is not well."""
    readiness = Readiness()

    assert readiness.problem is not None
    readiness.say(Reason.PROVIDER_UNAVAILABLE, None)
    assert readiness.problem is None
