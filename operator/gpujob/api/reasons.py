"""Every reason that a condition, an event, an attempt or a log line may give, with its meaning."""

from enum import StrEnum


class Reason(StrEnum):
    """Why something is as it is. The value is what users and programs see."""

    def __new__(cls, value: str, meaning: str = "") -> "Reason":
        """Makes a member that carries its meaning."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.__doc__ = meaning
        return member

    # Waiting for a decision, a price or a machine.
    ACCEPTED = "Accepted", "The job was seen; nothing was decided yet."
    AWAITING_OFFERS = "AwaitingOffers", "The market has not answered yet."
    ADMITTED = "Admitted", "The cost gate passed: the bound fits within the ceiling."
    AWAITING_NODE = "AwaitingNode", "The intention to rent a machine is being recorded."
    AWAITING_DRIVER = (
        "AwaitingDriver",
        "The driver pod is not running yet; nothing is rented before.",
    )
    AWAITING_QUOTE = "AwaitingQuote", "The driver waits; a fresh price is being asked for."
    RENT_REQUESTED = "RentRequested", "The rent request was recorded and is being sent."
    RENT_UNANSWERED = "RentUnanswered", "The rent request got no clear answer; listings will tell."
    RENTED = "Rented", "The provider lists the machine under this attempt's mark."
    BOOTING = "Booting", "The machine is starting."
    CONNECTING = "Connecting", "The driver is connecting to the machine."
    MEASURING = "Measuring", "The machine is being measured before it gets work."
    RUNNING = "Running", "The workload is running."
    STOPPING = "Stopping", "The workload was told to end; what is left of its output is carried."
    DELIVERING = "Delivering", "The workload has ended; its files are being copied."
    PAUSED = "Paused", "Somebody bids more for the machine; it stands still and may come back."
    RETRYING = "Retrying", "The last attempt ended without success; another one follows."
    SUSPENDED = "Suspended", "The user suspended the job; nothing is rented for it."
    FORMER_NODE = "FormerNode", "A GpuNode of an earlier job of this name is still being released."
    SERVICE_NOT_CREATED = (
        "ServiceNotCreated",
        "The Service for the job's ports could not be created; nothing is rented before.",
    )

    # The cost gate says no.
    CEILING_EXCEEDED = "CeilingExceeded", "No offer's bound fits within the ceiling."
    CONFIDENCE_TOO_LOW = (
        "ConfidenceTooLow",
        "Own destroys were late too often to be sure of any bound.",
    )
    INSUFFICIENT_HISTORY = (
        "InsufficientHistory",
        "Without activeDeadlineSeconds too little is known about the run time.",
    )
    NO_MATCHING_OFFER = "NoMatchingOffer", "No offer on the market meets the job's needs."
    MACHINES_DISTRUSTED = (
        "MachinesDistrusted",
        "All matching offers stand on machines that failed lately.",
    )
    INVALID_QUOTE = "InvalidQuote", "A price or size is missing, zero, negative or not a number."
    IMPLAUSIBLE_QUOTE = (
        "ImplausibleQuote",
        "A price is far from what the market asks for this model.",
    )
    STALE_QUOTE = "StaleQuote", "The price is older than a decision may rest on."
    CLOCK_SKEW = "ClockSkew", "Our clock and the provider's differ by more than may be."
    CONTRACT_TOO_SHORT = "ContractTooShort", "The host's contract ends before the attempt could."
    DESTROY_LAG_TOO_LONG = (
        "DestroyLagTooLong",
        "With so many machines leased, destroying one could take longer than allowed.",
    )
    LEASE_LIMIT = (
        "LeaseLimit",
        "The operator's cap on machines or on their price per hour is reached.",
    )

    # The operator can not act.
    PROVIDER_UNAVAILABLE = "ProviderUnavailable", "The provider does not answer as it should."
    CREDENTIALS_REJECTED = "CredentialsRejected", "The provider refuses the account's key."
    CREDIT_EXHAUSTED = "CreditExhausted", "The account has not enough credit to rent."
    READY = "Ready", "The operator can rent again."
    RIGHTS_MISSING = "RightsMissing", "The operator's service account lacks a right that it needs."
    CONFIGURATION_BROKEN = (
        "ConfigurationBroken",
        "Something that the chart installs is missing from the cluster.",
    )
    ACCOUNT_CHANGED = "AccountChanged", "The machine was rented with another account's key."

    # An attempt is over.
    COMPLETED = "Completed", "The workload ended with exit code 0."
    WORKLOAD_FAILED = "WorkloadFailed", "The workload ended with another exit code."
    DEADLINE_EXCEEDED = "DeadlineExceeded", "The workload ran for activeDeadlineSeconds."
    BUDGET_EXHAUSTED = "BudgetExhausted", "The fuse: another second could have crossed the ceiling."
    TRAFFIC_EXCEEDED = "TrafficExceeded", "The machine moved more data than the job allows."
    IDLE_DEADLINE_EXCEEDED = (
        "IdleDeadlineExceeded",
        "No GPU was busy for idleDeadlineSeconds.",
    )
    MACHINE_MISLABELLED = (
        "MachineMislabelled",
        "The machine is not what its offer says, or less than the job needs.",
    )
    MACHINE_BROKEN = "MachineBroken", "The machine's GPUs do not answer."
    MACHINE_SLOW = "MachineSlow", "The machine's disk is too slow to work with."
    NO_WATCHDOG = "NoWatchdog", "The machine could not destroy itself if all else failed."
    DATA_UNUSABLE = "DataUnusable", "The job's files can not be copied; nothing was rented."
    INPUTS_NOT_COPIED = "InputsNotCopied", "The machine did not take the job's files."
    OUTPUT_LOST = (
        "OutputLost",
        "The workload ended well, but not all of its files could be copied in time.",
    )
    GPU_LOST = "GpuLost", "The workload failed because a GPU of the machine was gone."
    OFFER_GONE = "OfferGone", "The provider refused the rent request; nothing was rented."
    RENT_WITHHELD = "RentWithheld", "The rent request was never sent; nothing was rented."
    RENT_NOT_CONFIRMED = "RentNotConfirmed", "Complete listings show that nothing was rented."
    RENT_LATE = "RentLate", "The machine was born later than the request was allowed to be sent."
    BOOT_TIMEOUT = "BootTimeout", "The workload did not start within the boot cap."
    HOST_KEY_UNAVAILABLE = "HostKeyUnavailable", "The machine's host key could not be read in time."
    HOST_KEY_CHANGED = "HostKeyChanged", "The machine showed another host key than its log."
    HOST_LOST = "HostLost", "The machine died, or the provider lost it."
    OUTBID = "Outbid", "Somebody bids more for the machine, and it did not come back in time."
    LEASE_VANISHED = "LeaseVanished", "The provider lists the machine no longer, without our doing."
    PRICE_CHANGED = "PriceChanged", "The machine costs more than was quoted."
    LOGIN_REFUSED = "LoginRefused", "The machine refused the node's SSH key."
    DRIVER_LOST = "DriverLost", "The driver pod went and could not be replaced in time."
    DRIVER_NOT_STARTED = (
        "DriverNotStarted",
        "The driver pod did not run in time; nothing was rented.",
    )
    NODE_DELETED = "NodeDeleted", "The GpuNode was deleted by hand."
    NODE_VANISHED = "NodeVanished", "The GpuNode went without being released; charged in full."
    JOB_DELETED = "JobDeleted", "The job was deleted."

    # The job is over.
    COMPLETE = "Complete", "The job finished well."
    BACKOFF_LIMIT_EXCEEDED = "BackoffLimitExceeded", "The workload failed more often than allowed."
    FAILURE_POLICY = (
        "FailurePolicy",
        "The workload ended with an exit code that failurePolicy lets fail the job.",
    )
    MAX_RENTS_EXCEEDED = (
        "MaxRentsExceeded",
        "Too many attempts ended through no fault of the workload.",
    )
    SPEC_INVALID = (
        "SpecInvalid",
        "The stored spec can not be carried out; nothing is rented for it.",
    )

    # Giving back.
    RELEASING = "Releasing", "The machine is being destroyed; it counts as ours until proved gone."
    RELEASED = "Released", "Nothing is leased and nothing is owed."
    NOTHING_LEASED = "NothingLeased", "No machine has been rented."
    ORPHAN_DESTROYED = "OrphanDestroyed", "A machine without a live owner was destroyed."

    @property
    def meaning(self) -> str:
        """One sentence for people."""
        return self.__doc__ or ""
