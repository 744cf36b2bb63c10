"""The stage of a GpuNode: the part of its life that the stored status is in.

The status is a set of optional groups, and each is stored before the action that follows from it.
`stage_of` gives every combination of them exactly one name, and `NEXT` says which stages may
follow; `STAGES.md` is generated from both.

No pass stores some of the combinations: they come from a partial restore, an edit by hand or a bug.
Each kind of contradiction is a stage of its own. All have the same way out: nothing is rented or
started, the attempt is ended, and its machine is destroyed, proved gone and charged.
"""

from collections.abc import Mapping
from enum import StrEnum

from gpujob.api.gpunode import GpuNodeStatus


class Stage(StrEnum):
    """Where a node stands. The value appears in the log, the phase in `kubectl get`."""

    phase: str
    meaning: str

    def __new__(cls, value: str, phase: str, meaning: str) -> "Stage":
        """Makes a member with the word that users see, and a sentence."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.phase = phase
        member.meaning = meaning
        return member

    AWAITING_KEY = "AwaitingKey", "Pending", "The node has no SSH key yet."
    AWAITING_POD = "AwaitingPod", "Pending", "No driver pod is recorded yet."
    AWAITING_DRIVER = "AwaitingDriver", "Pending", "The driver pod has not reported yet."
    READY_TO_RENT = "ReadyToRent", "Pending", "The driver waits; no rent request was made."
    RENTING = (
        "Renting",
        "Renting",
        "The marker is stored; whether the rent request got a machine is not known yet.",
    )
    BOOTING = "Booting", "Booting", "A machine is leased; its host key is not pinned yet."
    MEASURING = "Measuring", "Booting", "The machine is measured before it gets work."
    STARTING = "Starting", "Booting", "The machine may get work; the workload has not started."
    RUNNING = "Running", "Running", "The workload is running."
    PAUSED = "Paused", "Paused", "Somebody bid more for the machine; it may come back."
    STOPPING = "Stopping", "Stopping", "The workload was asked to end and to save its data."
    DELIVERING = "Delivering", "Delivering", "The workload has ended; its files are copied."
    ENDED_UNRENTED = "EndedUnrented", "Releasing", "The attempt is over; no machine was rented."
    ENDED_UNKNOWN = (
        "EndedUnknown",
        "Releasing",
        "The attempt is over; whether a machine was rented is not known yet.",
    )
    ENDED_LEASED = (
        "EndedLeased",
        "Releasing",
        "The attempt is over; its machine is destroyed until it is proved gone.",
    )
    RELEASED = "Released", "Released", "Nothing is leased, and the cost is final."

    RENT_WITHOUT_DRIVER = (
        "RentWithoutDriver",
        "Releasing",
        "A rent request is stored, but the key or the driver that must come before it is not.",
    )
    REFUSAL_WITHOUT_RENT = (
        "RefusalWithoutRent",
        "Releasing",
        "A rent request was refused, but no rent request is stored.",
    )
    REFUSAL_WITHOUT_END = (
        "RefusalWithoutEnd",
        "Releasing",
        "The rent request was refused, but the attempt has no end.",
    )
    REFUSAL_WITH_LEASE = (
        "RefusalWithLease",
        "Releasing",
        "The rent request was refused, but a machine is recorded.",
    )
    LEASE_WITHOUT_RENT = (
        "LeaseWithoutRent",
        "Releasing",
        "A machine is recorded, but no rent request.",
    )
    MACHINE_WITHOUT_LEASE = (
        "MachineWithoutLease",
        "Releasing",
        "The address of a machine is recorded, but no leased machine.",
    )
    WORK_WITHOUT_MACHINE = (
        "WorkWithoutMachine",
        "Releasing",
        "A measurement, a run or an interruption is stored, but no machine.",
    )
    RUN_WHILE_PAUSED = (
        "RunWhilePaused",
        "Releasing",
        "The workload is recorded as running, but its machine as paused.",
    )
    STOP_WITHOUT_WORK = (
        "StopWithoutWork",
        "Releasing",
        "A stop is stored, but no workload that it could stop.",
    )
    RELEASED_WITHOUT_END = (
        "ReleasedWithoutEnd",
        "Releasing",
        "The node is recorded as released, but the attempt has no end.",
    )

    @property
    def is_contradiction(self) -> bool:
        """Whether the status contradicts itself: nothing may be rented or started on it."""
        return self in CONTRADICTIONS

    @property
    def may_run(self) -> bool:
        """Whether a workload may be running, because the driver may have been asked to start it."""
        return self in _MAY_RUN

    @property
    def may_hold_machine(self) -> bool:
        """Whether a machine with the node's mark may be leased."""
        return self.is_contradiction or self in _MAY_HOLD_MACHINE


CONTRADICTIONS = frozenset(
    {
        Stage.RENT_WITHOUT_DRIVER,
        Stage.REFUSAL_WITHOUT_RENT,
        Stage.REFUSAL_WITHOUT_END,
        Stage.REFUSAL_WITH_LEASE,
        Stage.LEASE_WITHOUT_RENT,
        Stage.MACHINE_WITHOUT_LEASE,
        Stage.WORK_WITHOUT_MACHINE,
        Stage.RUN_WHILE_PAUSED,
        Stage.STOP_WITHOUT_WORK,
        Stage.RELEASED_WITHOUT_END,
    }
)

UNREADY = frozenset({Stage.AWAITING_KEY, Stage.AWAITING_POD, Stage.AWAITING_DRIVER})
"""Nothing can be rented, because no driver is ready."""

_MAY_RUN = frozenset({Stage.STARTING, Stage.RUNNING, Stage.STOPPING, Stage.DELIVERING})

_MAY_HOLD_MACHINE = frozenset(
    {
        Stage.RENTING,
        Stage.BOOTING,
        Stage.MEASURING,
        Stage.STARTING,
        Stage.RUNNING,
        Stage.PAUSED,
        Stage.STOPPING,
        Stage.DELIVERING,
        Stage.ENDED_UNKNOWN,
        Stage.ENDED_LEASED,
    }
)

NEXT: Mapping[Stage, frozenset[Stage]] = {
    # After a restored backup a machine may be found before the rent request is made again.
    Stage.AWAITING_KEY: frozenset({Stage.AWAITING_POD, Stage.ENDED_UNRENTED, Stage.ENDED_LEASED}),
    Stage.AWAITING_POD: frozenset(
        {Stage.AWAITING_DRIVER, Stage.ENDED_UNRENTED, Stage.ENDED_LEASED}
    ),
    Stage.AWAITING_DRIVER: frozenset(
        {Stage.READY_TO_RENT, Stage.ENDED_UNRENTED, Stage.ENDED_LEASED}
    ),
    # If the driver is lost before the rent request, the node waits for its replacement.
    Stage.READY_TO_RENT: frozenset(
        {Stage.RENTING, Stage.AWAITING_DRIVER, Stage.ENDED_UNRENTED, Stage.ENDED_LEASED}
    ),
    Stage.RENTING: frozenset({Stage.BOOTING, Stage.ENDED_UNRENTED, Stage.ENDED_UNKNOWN}),
    Stage.BOOTING: frozenset({Stage.MEASURING, Stage.ENDED_LEASED}),
    Stage.MEASURING: frozenset({Stage.STARTING, Stage.PAUSED, Stage.ENDED_LEASED}),
    Stage.STARTING: frozenset(
        {Stage.RUNNING, Stage.PAUSED, Stage.STOPPING, Stage.DELIVERING, Stage.ENDED_LEASED}
    ),
    # After a restart of the machine's container the workload is started there again.
    Stage.RUNNING: frozenset(
        {Stage.STARTING, Stage.PAUSED, Stage.STOPPING, Stage.DELIVERING, Stage.ENDED_LEASED}
    ),
    Stage.PAUSED: frozenset({Stage.STARTING, Stage.ENDED_LEASED}),
    Stage.STOPPING: frozenset({Stage.ENDED_LEASED}),
    Stage.DELIVERING: frozenset({Stage.ENDED_LEASED}),
    Stage.ENDED_UNRENTED: frozenset({Stage.RELEASED}),
    Stage.ENDED_UNKNOWN: frozenset({Stage.ENDED_UNRENTED, Stage.ENDED_LEASED, Stage.RELEASED}),
    Stage.ENDED_LEASED: frozenset({Stage.RELEASED}),
    Stage.RELEASED: frozenset(),
}
"""For each stage, the stages that a step may lead to; one write may store several steps. A
contradiction can only be ended."""


def stage_of(status: GpuNodeStatus) -> Stage:
    """Returns the stage of a stored status: exactly one for any combination of its fields."""
    if status.released_at is not None:
        # A machine that was proved gone and charged stays so, whatever else is stored.
        return Stage.RELEASED if status.end is not None else Stage.RELEASED_WITHOUT_END
    if (found := _contradiction(status)) is not None:
        return found
    if status.end is not None:
        if status.lease is not None:
            return Stage.ENDED_LEASED
        asked = status.rent is not None and status.not_rented is None
        return Stage.ENDED_UNKNOWN if asked else Stage.ENDED_UNRENTED
    if status.stop is not None:
        return Stage.STOPPING if status.stop.run_seconds is None else Stage.DELIVERING
    if status.is_paused:
        return Stage.PAUSED
    if status.run is not None:
        return Stage.RUNNING
    if status.machine is not None:
        # A machine that came back is not measured again.
        may_work = status.measured is not None or status.interruptions is not None
        return Stage.STARTING if may_work else Stage.MEASURING
    if status.lease is not None:
        return Stage.BOOTING
    if status.rent is not None:
        return Stage.RENTING
    if status.ssh_public_key is None:
        return Stage.AWAITING_KEY
    if status.driver is None:
        return Stage.AWAITING_POD
    return Stage.AWAITING_DRIVER if status.driver.ready_at is None else Stage.READY_TO_RENT


def _contradiction(status: GpuNodeStatus) -> Stage | None:
    """Returns the first contradiction in a status, those about money first."""
    worked = (status.measured, status.run, status.interruptions)
    has_driver = status.driver is not None and status.ssh_public_key is not None
    checks = (
        (status.lease is not None and status.rent is None, Stage.LEASE_WITHOUT_RENT),
        (status.not_rented is not None and status.rent is None, Stage.REFUSAL_WITHOUT_RENT),
        (status.not_rented is not None and status.lease is not None, Stage.REFUSAL_WITH_LEASE),
        (status.machine is not None and status.lease is None, Stage.MACHINE_WITHOUT_LEASE),
        (any(worked) and status.machine is None, Stage.WORK_WITHOUT_MACHINE),
        (status.not_rented is not None and status.end is None, Stage.REFUSAL_WITHOUT_END),
        # A machine that was found after a restore ends its attempt at once, before there is any.
        (
            status.rent is not None and not has_driver and status.end is None,
            Stage.RENT_WITHOUT_DRIVER,
        ),
        (status.run is not None and status.is_paused, Stage.RUN_WHILE_PAUSED),
        (
            status.stop is not None and not any(worked),
            Stage.STOP_WITHOUT_WORK,
        ),
    )
    return next((stage for holds, stage in checks if holds), None)
