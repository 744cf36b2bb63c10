"""Each reason is classified once, and every decision follows from its class."""

import pytest

from gpujob.adapters.vast import REFUSALS
from gpujob.api.reasons import Blame, Ends, Limit, Reason, Severity
from gpujob.api.transport import MachineFault
from gpujob.controller.readiness import ORDER

HOSTS = {
    *("BootTimeout", "GpuLost", "HostKeyChanged", "HostKeyUnavailable", "HostLost"),
    *("LoginRefused", "PriceChanged"),
}
MISFITS = {"MachineBroken", "MachineMislabelled", "MachineSlow", "NoWatchdog"}
FATAL = {
    *("DeadlineExceeded", "BudgetExhausted", "TrafficExceeded", "IdleDeadlineExceeded"),
    *("DataUnusable", "PullSecretUnusable", "OutputLost", "PendingDeadlineExceeded"),
}
IMAGES = {"ImageUnusable"}
FAILURES = {"BackoffLimitExceeded", "FailurePolicy", "MaxRentsExceeded", "SpecInvalid"}
REFUSED = {
    *(
        "BudgetExceeded",
        "BudgetUnusable",
        "BudgetRequired",
        "CeilingExceeded",
        "ConfidenceTooLow",
        "EstimatorError",
        "InsufficientHistory",
        "UnlabelledBurst",
        "NoMatchingOffer",
    ),
    *(
        "MachinesDistrusted",
        "InvalidQuote",
        "ImplausibleQuote",
        "StaleQuote",
        "ClockSkew",
        "EnforcementLate",
    ),
    *("ContractTooShort", "DeadlineUsedUp", "DestroyLagTooLong", "LeaseLimit"),
}
RENTS_STOPPED = {"ClockSkew", "EnforcementLate"}
OPERATORS = {
    *("ProviderUnavailable", "CredentialsRejected", "CreditExhausted", "RightsMissing"),
    *("ConfigurationBroken", "WatchClosed", "AccountChanged"),
}
AS_WISHED = {"Suspended", "JobDeleted"}
OWN = {"RentForgotten", "RentLate", "DriverLost", "StatusContradictory"}
OWN_UNPAID = {"RentWithheld", "DriverNotStarted"}
PROVIDERS = {"LeaseVanished", "MachineRestarted", "MachineStopped", "Outbid", "PullFailed"}
RACES = {"OfferGone", "RentNotConfirmed"}
JOBS = {"InputsNotCopied", "NodeDeleted", "NodeVanished"}


def names(**wanted: object) -> set[str]:
    """Returns the reasons whose class has these values."""
    return {
        reason.value
        for reason in Reason
        if all(getattr(reason.kind, field) == value for field, value in wanted.items())
    }


def test_what_each_ends() -> None:
    """An attempt, and with it the job, or nothing at all."""
    unpaid = OWN_UNPAID | RACES
    ends_attempts = HOSTS | MISFITS | OPERATORS | AS_WISHED | OWN | PROVIDERS | JOBS | unpaid
    assert names(ends=Ends.ATTEMPT) == ends_attempts | {"WorkloadFailed", "Completed"}
    assert names(ends=Ends.JOB) == FATAL | IMAGES | FAILURES | {"Complete"}


def test_what_each_counts_to() -> None:
    """A failure of the workload, a rent that came to nothing, or no limit of the user's."""
    assert names(counts_to=Limit.BACKOFF_LIMIT) == {"WorkloadFailed"}
    assert names(counts_to=Limit.MAX_RENTS) == HOSTS | MISFITS | OWN | PROVIDERS | JOBS


def test_whom_each_blames() -> None:
    """Only the host's own faults are remembered against its machines; each end blames one."""
    assert names(blames=Blame.HOST) == HOSTS | MISFITS
    assert names(is_misfit=True) == MISFITS
    assert names(blames=Blame.PROVIDER) == PROVIDERS | RACES
    assert names(blames=Blame.IMAGE) == IMAGES
    assert names(blames=Blame.OPERATOR) == OWN | OWN_UNPAID | OPERATORS
    blamed_on_job = JOBS | FATAL | FAILURES | AS_WISHED | {"WorkloadFailed"}
    assert names(blames=Blame.JOB) == blamed_on_job
    nobodys = names(blames=Blame.NOBODY) - names(ends=Ends.NOTHING)
    assert nobodys == {"Completed", "Complete"}


def test_who_says_no() -> None:
    """The gate's refusals, and what an administrator has to repair, in the order to repair it."""
    assert names(is_refusal=True) == REFUSED
    assert (
        names(is_operators=True) == OPERATORS | RENTS_STOPPED == {reason.value for reason in ORDER}
    )
    assert len(ORDER) == len(OPERATORS | RENTS_STOPPED)


def test_what_is_a_warning() -> None:
    """Whatever did not go as its user wants; and all of that is said."""
    well = {"Completed", "Complete"} | AS_WISHED
    for reason in Reason:
        ended_badly = reason.kind.ends is not Ends.NOTHING and reason.value not in well
        if ended_badly or reason.kind.is_refusal:
            assert reason.kind.severity is Severity.WARNING, reason
        if reason.value in well:
            assert reason.kind.severity is Severity.NORMAL, reason
        if reason.kind.severity is Severity.WARNING and reason.kind.ends is not Ends.ATTEMPT:
            assert reason.kind.is_told, reason


@pytest.mark.parametrize("fault", list(MachineFault))
def test_what_a_driver_finds_ends_the_attempt(fault: MachineFault) -> None:
    """Each of its words is a reason of ours."""
    assert Reason(fault.value).kind.ends is not Ends.NOTHING


@pytest.mark.parametrize("reason", sorted(REFUSALS.values()))
def test_what_the_provider_refuses_ends_the_attempt(reason: Reason) -> None:
    """Nothing was rented; the attempt is over."""
    assert reason.kind.ends is Ends.ATTEMPT


@pytest.mark.parametrize("reason", list(Reason))
def test_each_is_a_sentence(reason: Reason) -> None:
    """It stands in conditions and events when nothing more is known."""
    assert reason.meaning[0].isupper()
    assert reason.meaning.endswith(".")
