"""How far a machine is to be trusted, learnt from the attempts that ran on it.

A machine's chance to carry an attempt through is the posterior mean of a Beta distribution. Its
prior is what is known of its host's other machines, and that one's prior is a good machine's
record. Evidence fades, so that a repaired machine comes back by itself.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

HALF_LIFE = timedelta(days=3)
"""After this time a trial counts half."""

HOST_PRIOR_TRIALS, HOST_PRIOR_SUCCESSES = 10.0, 9.0
"""A host that nobody knows counts as one that carried nine of ten attempts through."""
MACHINE_PRIOR_TRIALS = 3.0
"""What is known of the host's other machines counts for this one like so many trials."""

TRUST_MIN = 0.5
"""A machine that more probably fails than not is passed over; three fresh failures do it."""

MACHINES_KEPT = 500


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What one attempt showed of its machine."""

    machine_id: int
    host_id: int
    node_uid: str
    """Of the attempt; the same trial may be told twice."""
    at: datetime
    failed: bool
    reason: str


@dataclass(frozen=True, kw_only=True)
class Record:
    """What is known of one machine."""

    host_id: int
    failures: float
    successes: float
    """Both as they counted at `at`."""
    at: datetime
    last_failure: str
    """Reason; empty = none."""
    last_node_uid: str

    def faded(self, now: datetime) -> "Record":
        """Returns the record as it counts now."""
        share = 0.5 ** (max(now - self.at, timedelta(0)) / HALF_LIFE)
        return replace(
            self, failures=self.failures * share, successes=self.successes * share, at=now
        )


@dataclass(frozen=True)
class HostMemory:
    """What is known of all machines, by machine id."""

    records: Mapping[int, Record] = field(default_factory=dict)

    def trust(self, machine_id: int, host_id: int, now: datetime) -> float:
        """Returns the probability that the machine carries an attempt through."""
        trials, successes = HOST_PRIOR_TRIALS, HOST_PRIOR_SUCCESSES
        for number, record in self.records.items():
            if record.host_id == host_id and number != machine_id:
                faded = record.faded(now)
                trials += faded.failures + faded.successes
                successes += faded.successes
        of_host = successes / trials
        if (own := self.records.get(machine_id)) is None:
            return of_host
        own = own.faded(now)
        known = own.failures + own.successes
        return (own.successes + MACHINE_PRIOR_TRIALS * of_host) / (known + MACHINE_PRIOR_TRIALS)

    def why(self, machine_id: int, host_id: int) -> str:
        """Returns in words what speaks against a machine."""
        own = self.records.get(machine_id)
        if own is not None and own.last_failure:
            return f"machine {machine_id} failed lately, the last time by {own.last_failure}"
        return f"other machines of host {host_id} failed lately"


def remembered(memory: HostMemory, trial: Trial) -> HostMemory:
    """Returns the memory with one more trial; told again, a trial changes nothing."""
    old = memory.records.get(trial.machine_id)
    if old is not None and old.last_node_uid == trial.node_uid:
        return memory
    base = old or Record(
        host_id=trial.host_id,
        failures=0.0,
        successes=0.0,
        at=trial.at,
        last_failure="",
        last_node_uid="",
    )
    base = base.faded(trial.at)
    record = replace(
        base,
        host_id=trial.host_id,
        failures=base.failures + trial.failed,
        successes=base.successes + (not trial.failed),
        last_failure=trial.reason if trial.failed else base.last_failure,
        last_node_uid=trial.node_uid,
    )
    records = {**memory.records, trial.machine_id: record}
    if len(records) > MACHINES_KEPT:
        faintest = min(
            (number for number in records if number != trial.machine_id),
            key=lambda number: _weight(records[number], trial.at),
        )
        del records[faintest]
    return HostMemory(records)


def _weight(record: Record, now: datetime) -> float:
    faded = record.faded(now)
    return faded.failures + faded.successes
