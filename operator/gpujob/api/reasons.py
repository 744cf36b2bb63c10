"""Every reason that a condition, an event, an attempt or a log line may give.

Each reason is classified once, here, beside its meaning: what it ends, to which limit it counts,
whom it blames, how severe its event is and whether the job gets one. Whoever needs such a set asks
the class; `REASONS.md` shows them all.
"""

from dataclasses import dataclass, replace
from enum import StrEnum


class Severity(StrEnum):
    """The type of the event."""

    NORMAL = "Normal"
    WARNING = "Warning"


class Ends(StrEnum):
    """What is over when this reason is stored as an end."""

    NOTHING = "nothing"
    ATTEMPT = "attempt"
    JOB = "job"


class Limit(StrEnum):
    """The limit in the job's spec to which an attempt that ended so counts."""

    NONE = "none"
    BACKOFF_LIMIT = "backoffLimit"
    MAX_RENTS = "maxRents"


class Blame(StrEnum):
    """Whose fault it is. Only the host's own faults are remembered against its machines.

    The class of a reason says whom it blames as a rule; `core.node.blame` decides by the evidence.
    What is the fault of nobody that the evidence could name goes with the provider's.
    """

    NOBODY = "nobody"
    IMAGE = "image"
    JOB = "job"
    HOST = "host"
    PROVIDER = "provider"
    OPERATOR = "operator"


@dataclass(frozen=True, kw_only=True)
class ReasonClass:
    """What follows from a reason wherever it appears."""

    severity: Severity = Severity.NORMAL
    ends: Ends = Ends.NOTHING
    counts_to: Limit = Limit.NONE
    blames: Blame = Blame.NOBODY
    is_told: bool = False
    """The job gets an event when this becomes its reason. The end of an attempt, whatever its
    reason, and its release get an event on the GpuNode."""
    is_refusal: bool = False
    """The cost gate says no."""
    is_operators: bool = False
    """The operator cannot act: its administrator has to repair something."""
    is_misfit: bool = False
    """The machine was dropped by its preflight check, before it got work."""


STEP = ReasonClass()
"""One step on the way: the conditions show it, and no event is needed."""
MILESTONE = ReasonClass(is_told=True)
HINDRANCE = ReasonClass(severity=Severity.WARNING, is_told=True)
"""The job waits for something that a person may have to repair."""
REFUSAL = ReasonClass(severity=Severity.WARNING, is_told=True, is_refusal=True)
RENTS_STOPPED = replace(REFUSAL, is_operators=True)
"""It stops all rents, and ends nothing."""
OPERATORS = ReasonClass(
    severity=Severity.WARNING,
    ends=Ends.ATTEMPT,
    blames=Blame.OPERATOR,
    is_told=True,
    is_operators=True,
)
"""It stops all rents, and may end an attempt; that counts to no limit of the job."""


def _attempt(
    blames: Blame,
    *,
    counts_to: Limit = Limit.MAX_RENTS,
    severity: Severity = Severity.WARNING,
    is_misfit: bool = False,
) -> ReasonClass:
    return ReasonClass(
        severity=severity,
        ends=Ends.ATTEMPT,
        counts_to=counts_to,
        blames=blames,
        is_misfit=is_misfit,
    )


AS_WISHED = _attempt(Blame.JOB, counts_to=Limit.NONE, severity=Severity.NORMAL)
"""The user asked for the end."""
WORKLOADS = _attempt(Blame.JOB, counts_to=Limit.BACKOFF_LIMIT)
HOSTS = _attempt(Blame.HOST)
MISFIT = _attempt(Blame.HOST, is_misfit=True)
PROVIDERS = _attempt(Blame.PROVIDER)
RACE = _attempt(Blame.PROVIDER, counts_to=Limit.NONE)
"""Nothing was rented, and nobody can help it: it is tried again."""
OWN = _attempt(Blame.OPERATOR)
OWN_UNPAID = _attempt(Blame.OPERATOR, counts_to=Limit.NONE)
"""Nothing was rented, so it counts to no limit of the user's."""
JOBS = _attempt(Blame.JOB)
VANISHED = replace(JOBS, is_told=True)
SUCCESS = _attempt(Blame.NOBODY, counts_to=Limit.NONE, severity=Severity.NORMAL)
FATAL = ReasonClass(severity=Severity.WARNING, ends=Ends.JOB, blames=Blame.JOB, is_told=True)
"""The attempt's end is the job's end: another attempt would end in the same way."""
IMAGES = replace(FATAL, blames=Blame.IMAGE)
SUSPENSION = ReasonClass(ends=Ends.ATTEMPT, blames=Blame.JOB, is_told=True)
COMPLETION = ReasonClass(ends=Ends.JOB, is_told=True)
FAILURE = ReasonClass(severity=Severity.WARNING, ends=Ends.JOB, blames=Blame.JOB, is_told=True)


class Reason(StrEnum):
    """Why something is as it is. The value is what users and programs see."""

    kind: ReasonClass
    meaning: str

    def __new__(cls, value: str, kind: ReasonClass = STEP, meaning: str = "") -> "Reason":
        """Makes a member that carries its class, and one sentence for people."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.kind = kind
        member.meaning = meaning
        return member

    # Waiting for a decision, a price or a machine.
    UNSEEN = (
        "Unseen",
        STEP,
        "No controller has looked at it yet. If that stays so, none leads: `kubectl get leases -A "
        "-l app.kubernetes.io/managed-by=gpujob-operator` shows who does.",
    )
    ACCEPTED = "Accepted", STEP, "The operator has seen the job and has decided nothing yet."
    AWAITING_OFFERS = "AwaitingOffers", STEP, "The market has not answered yet."
    ADMITTED = (
        "Admitted",
        MILESTONE,
        "The cost gate passed: the bound of the cost fits within the ceiling.",
    )
    AWAITING_NODE = (
        "AwaitingNode",
        STEP,
        "The operator is recording its intention to rent a machine.",
    )
    AWAITING_DRIVER = (
        "AwaitingDriver",
        STEP,
        "The driver pod is not running yet; nothing is rented before it runs.",
    )
    AWAITING_QUOTE = (
        "AwaitingQuote",
        STEP,
        "The driver is ready; the operator asks for a fresh price.",
    )
    RENT_REQUESTED = "RentRequested", STEP, "The rent request was recorded and is being sent."
    RENT_UNANSWERED = (
        "RentUnanswered",
        STEP,
        "The rent request got no clear answer; the next listings will show what was rented.",
    )
    RENTED = "Rented", MILESTONE, "The provider lists the machine under this attempt's mark."
    BOOTING = "Booting", STEP, "The machine is starting."
    CONNECTING = "Connecting", STEP, "The driver is connecting to the machine."
    MEASURING = "Measuring", STEP, "The machine is being measured before it gets work."
    RUNNING = "Running", MILESTONE, "The workload is running."
    STOPPING = (
        "Stopping",
        STEP,
        "The workload was asked to end; the rest of its output is being copied.",
    )
    DELIVERING = "Delivering", STEP, "The workload has ended; its files are being copied."
    PAUSED = (
        "Paused",
        MILESTONE,
        "Somebody bid more for the machine; it is stopped and may come back.",
    )
    RETRYING = "Retrying", HINDRANCE, "The last attempt did not succeed; another one follows."
    SUSPENDED = "Suspended", SUSPENSION, "The job is suspended; nothing is rented for it."
    FORMER_NODE = (
        "FormerNode",
        HINDRANCE,
        "A GpuNode of an earlier job with this name is still being released.",
    )
    SERVICE_NOT_CREATED = (
        "ServiceNotCreated",
        HINDRANCE,
        "The name of the Service for the job's ports is taken; nothing is rented before it is the "
        "job's.",
    )
    CLUSTER_REFUSED = (
        "ClusterRefused",
        HINDRANCE,
        "The cluster does not let the operator do what the job needs; it is tried again.",
    )

    # The cost gate says no.
    CEILING_EXCEEDED = "CeilingExceeded", REFUSAL, "No offer's bound fits within the ceiling."
    BUDGET_EXCEEDED = (
        "BudgetExceeded",
        REFUSAL,
        "A GpuBudget that covers the job has too little left to reserve what it may cost.",
    )
    BUDGET_UNUSABLE = (
        "BudgetUnusable",
        REFUSAL,
        "A GpuBudget that covers the job cannot be read, or the operator has not opened it yet.",
    )
    BUDGET_REQUIRED = (
        "BudgetRequired",
        REFUSAL,
        "No GpuBudget covers the job, and the operator rents nothing without one.",
    )
    CONFIDENCE_TOO_LOW = (
        "ConfidenceTooLow",
        REFUSAL,
        "The operator destroyed machines too late too often to guarantee any bound.",
    )
    INSUFFICIENT_HISTORY = (
        "InsufficientHistory",
        REFUSAL,
        "There is no activeDeadlineSeconds, and too few runs of such jobs are known to tell how "
        "long this one takes.",
    )
    UNLABELLED_BURST = (
        "UnlabelledBurst",
        REFUSAL,
        "There is no activeDeadlineSeconds, and so many jobs of this kind run for longer than was "
        "expected that nobody knows how long this one takes.",
    )
    ESTIMATOR_ERROR = (
        "EstimatorError",
        REFUSAL,
        "How long the job takes could not be estimated, because of a fault of the operator.",
    )
    DEADLINE_USED_UP = (
        "DeadlineUsedUp",
        REFUSAL,
        "Earlier attempts have used up activeDeadlineSeconds.",
    )
    NO_MATCHING_OFFER = "NoMatchingOffer", REFUSAL, "No offer on the market meets the job's needs."
    MACHINES_DISTRUSTED = (
        "MachinesDistrusted",
        REFUSAL,
        "All matching offers are on machines that failed recently.",
    )
    INVALID_QUOTE = (
        "InvalidQuote",
        REFUSAL,
        "A price or size is missing, zero, negative or not a number.",
    )
    IMPLAUSIBLE_QUOTE = (
        "ImplausibleQuote",
        REFUSAL,
        "A price is far from what the market asks for this model.",
    )
    SEARCH_QUOTA_EXHAUSTED = (
        "SearchQuotaExhausted",
        HINDRANCE,
        "The provider lets the account search no more today; the job waits for the next quota.",
    )
    STALE_QUOTE = "StaleQuote", REFUSAL, "The price is too old to decide on."
    CLOCK_SKEW = (
        "ClockSkew",
        RENTS_STOPPED,
        "The operator's clock and the provider's differ by more than the limit.",
    )
    ENFORCEMENT_LATE = (
        "EnforcementLate",
        RENTS_STOPPED,
        "The operator looks at its machines too late, so nothing more is rented.",
    )
    CONTRACT_TOO_SHORT = (
        "ContractTooShort",
        REFUSAL,
        "The host's contract ends before the attempt would.",
    )
    DESTROY_LAG_TOO_LONG = (
        "DestroyLagTooLong",
        REFUSAL,
        "With as many machines as `limits.maxLeases` allows, destroying one could take too long.",
    )
    LEASE_LIMIT = (
        "LeaseLimit",
        REFUSAL,
        "The operator's cap on machines or on their price per hour is reached.",
    )

    # The operator cannot act.
    PROVIDER_UNAVAILABLE = (
        "ProviderUnavailable",
        OPERATORS,
        "The provider does not answer, or its answer cannot be used.",
    )
    CREDENTIALS_REJECTED = (
        "CredentialsRejected",
        OPERATORS,
        "The provider refuses the account's API key.",
    )
    CREDIT_EXHAUSTED = (
        "CreditExhausted",
        OPERATORS,
        "The account does not have enough credit to rent.",
    )
    READY = "Ready", STEP, "The operator can rent machines again."
    RIGHTS_MISSING = (
        "RightsMissing",
        OPERATORS,
        "The operator's service account lacks a permission that it needs.",
    )
    CONFIGURATION_BROKEN = (
        "ConfigurationBroken",
        OPERATORS,
        "Something that the chart installs is missing from the cluster.",
    )
    WATCH_CLOSED = (
        "WatchClosed",
        OPERATORS,
        "The API server does not show the operator what changes.",
    )
    ACCOUNT_CHANGED = (
        "AccountChanged",
        OPERATORS,
        "The machine was rented with the API key of another account.",
    )

    # An attempt is over.
    COMPLETED = "Completed", SUCCESS, "The workload ended with exit code 0."
    WORKLOAD_FAILED = (
        "WorkloadFailed",
        WORKLOADS,
        "The workload ended with an exit code other than 0.",
    )
    DEADLINE_EXCEEDED = (
        "DeadlineExceeded",
        FATAL,
        "The workload ran for as long as activeDeadlineSeconds allows.",
    )
    PENDING_DEADLINE_EXCEEDED = (
        "PendingDeadlineExceeded",
        FATAL,
        "The workload did not begin to run within pendingDeadlineSeconds.",
    )
    BUDGET_EXHAUSTED = (
        "BudgetExhausted",
        FATAL,
        "The fuse stopped the attempt: running longer could have cost more than the ceiling.",
    )
    TRAFFIC_EXCEEDED = "TrafficExceeded", FATAL, "The machine moved more data than the job allows."
    IDLE_DEADLINE_EXCEEDED = (
        "IdleDeadlineExceeded",
        FATAL,
        "No GPU was busy for as long as idleDeadlineSeconds allows.",
    )
    MACHINE_MISLABELLED = (
        "MachineMislabelled",
        MISFIT,
        "The machine is not what its offer says, or has less than the job needs.",
    )
    MACHINE_BROKEN = "MachineBroken", MISFIT, "The machine's GPUs do not answer."
    MACHINE_SLOW = "MachineSlow", MISFIT, "The machine's disk is too slow to work with."
    NO_WATCHDOG = (
        "NoWatchdog",
        MISFIT,
        "The machine has no working watchdog that could destroy it if all else fails.",
    )
    DATA_UNUSABLE = "DataUnusable", FATAL, "The job's files cannot be copied; nothing was rented."
    PULL_SECRET_UNUSABLE = (
        "PullSecretUnusable",
        FATAL,
        "The job's pull secret has no usable credentials for its image; nothing was rented.",
    )
    INPUTS_NOT_COPIED = (
        "InputsNotCopied",
        JOBS,
        "The job's input files could not be copied to the machine.",
    )
    OUTPUT_LOST = (
        "OutputLost",
        FATAL,
        "The workload succeeded, but an output has no file, or not all could be copied in time.",
    )
    GPU_LOST = "GpuLost", HOSTS, "The workload failed because a GPU of the machine was lost."
    IMAGE_UNUSABLE = (
        "ImageUnusable",
        IMAGES,
        "The image cannot be pulled or started, lets nobody in, or booted on none of two hosts.",
    )
    PULL_FAILED = (
        "PullFailed",
        PROVIDERS,
        "The image was not pulled in time, for a cause that may pass.",
    )
    OFFER_GONE = (
        "OfferGone",
        RACE,
        "The provider refused the rent request; nothing was rented.",
    )
    RENT_WITHHELD = (
        "RentWithheld",
        OWN_UNPAID,
        "The rent request was never sent; nothing was rented.",
    )
    RENT_NOT_CONFIRMED = (
        "RentNotConfirmed",
        RACE,
        "Complete listings prove that nothing was rented.",
    )
    RENT_LATE = "RentLate", OWN, "The machine started after its rent request had expired."
    BOOT_TIMEOUT = "BootTimeout", HOSTS, "The machine did not come up in time, or its workload."
    HOST_KEY_UNAVAILABLE = (
        "HostKeyUnavailable",
        HOSTS,
        "The machine's host key could not be read in time.",
    )
    HOST_KEY_CHANGED = (
        "HostKeyChanged",
        HOSTS,
        "The machine showed a host key other than the one in its log.",
    )
    HOST_LOST = "HostLost", HOSTS, "The machine died, or the provider lost it."
    MACHINE_STOPPED = (
        "MachineStopped",
        PROVIDERS,
        "The provider's side stopped the machine, which the operator did not ask for.",
    )
    MACHINE_RESTARTED = (
        "MachineRestarted",
        PROVIDERS,
        "The machine's container was restarted again and again, or while files were copied.",
    )
    OUTBID = (
        "Outbid",
        PROVIDERS,
        "Somebody bid more for the machine, and it did not come back in time.",
    )
    LEASE_VANISHED = (
        "LeaseVanished",
        PROVIDERS,
        "The provider no longer lists the machine, although the operator did not destroy it.",
    )
    PRICE_CHANGED = "PriceChanged", HOSTS, "The machine costs more than was quoted."
    LOGIN_REFUSED = "LoginRefused", HOSTS, "The machine refused the node's SSH key."
    DRIVER_LOST = "DriverLost", OWN, "The driver pod was lost and could not be replaced in time."
    DRIVER_NOT_STARTED = (
        "DriverNotStarted",
        OWN_UNPAID,
        "The driver pod did not start in time; nothing was rented. Releases since then wait.",
    )
    STATUS_CONTRADICTORY = (
        "StatusContradictory",
        OWN,
        "The GpuNode's stored status contradicts itself; its machine is destroyed and charged.",
    )
    RENT_FORGOTTEN = (
        "RentForgotten",
        OWN,
        "A machine is leased under the GpuNode's mark, but no rent request is stored, as after a "
        "restored backup; the machine is destroyed and charged.",
    )
    NODE_DELETED = "NodeDeleted", JOBS, "The GpuNode was deleted by hand."
    NODE_VANISHED = (
        "NodeVanished",
        VANISHED,
        "The GpuNode was deleted before its release; its reservation is charged in full.",
    )
    JOB_DELETED = "JobDeleted", AS_WISHED, "The job was deleted."

    # The job is over.
    COMPLETE = "Complete", COMPLETION, "The job completed successfully."
    BACKOFF_LIMIT_EXCEEDED = (
        "BackoffLimitExceeded",
        FAILURE,
        "The workload failed more often than allowed.",
    )
    FAILURE_POLICY = (
        "FailurePolicy",
        FAILURE,
        "The workload ended with an exit code for which failurePolicy fails the job.",
    )
    MAX_RENTS_EXCEEDED = (
        "MaxRentsExceeded",
        FAILURE,
        "Too many attempts ended for reasons other than the workload.",
    )
    SPEC_INVALID = (
        "SpecInvalid",
        FAILURE,
        "The stored spec cannot be used; nothing is rented for it.",
    )

    # Releasing the machine.
    RELEASING = (
        "Releasing",
        STEP,
        "The machine is being destroyed; it counts as leased until it is proved gone.",
    )
    RELEASED = "Released", STEP, "No machine is leased and nothing is owed."
    NOTHING_LEASED = "NothingLeased", STEP, "No machine has been rented."
    ORPHAN_DESTROYED = "OrphanDestroyed", STEP, "A machine without a live owner was destroyed."
