"""How far a machine is trusted, learnt from the attempts that ran on it.

The probability that a machine completes an attempt is the posterior mean of a Beta distribution.
Its prior is the record of the host's other machines, and the prior of that is the record of a good
machine. Evidence fades, so that a repaired machine is used again without anybody's help.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import cached_property

HALF_LIFE = timedelta(days=3)
"""After this time a trial counts half."""

HOST_PRIOR_TRIALS, HOST_PRIOR_SUCCESSES = 10.0, 9.0
"""An unknown host counts as one whose machines completed nine of ten attempts."""
MACHINE_PRIOR_TRIALS = 3.0
"""Weight of the record of the host's other machines, in trials."""

TRUST_MIN = 0.5
"""A machine that is more likely to fail than not is passed over; three fresh failures suffice."""

MACHINES_KEPT = 500


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What one attempt showed of its machine."""

    machine_id: int
    host_id: int
    node_uid: str
    """Uid of the attempt's node, by which a trial that is reported twice is counted once."""
    at: datetime
    failed: bool
    reason: str


@dataclass(frozen=True, kw_only=True)
class Record:
    """What is known about one machine."""

    host_id: int
    failures: float
    successes: float
    """How much both counted at the time `at`."""
    at: datetime
    last_failure: str
    """Reason of the latest failure; empty = none."""
    last_node_uid: str

    def faded(self, now: datetime) -> "Record":
        """Returns the record as it counts now."""
        share = 0.5 ** (max(now - self.at, timedelta(0)) / HALF_LIFE)
        return replace(
            self, failures=self.failures * share, successes=self.successes * share, at=now
        )


@dataclass(frozen=True)
class HostMemory:
    """What is known about all machines, by machine id."""

    records: Mapping[int, Record] = field(default_factory=dict)

    @cached_property
    def _by_host(self) -> Mapping[int, tuple[tuple[int, Record], ...]]:
        """The machines of each host, so that no offer looks through all of them."""
        found = defaultdict[int, list[tuple[int, Record]]](list)
        for number, record in self.records.items():
            found[record.host_id].append((number, record))
        return {host: tuple(machines) for host, machines in found.items()}

    def trust(self, machine_id: int, host_id: int, now: datetime) -> float:
        """Returns the probability that the machine completes an attempt."""
        trials, successes = HOST_PRIOR_TRIALS, HOST_PRIOR_SUCCESSES
        for number, record in self._by_host.get(host_id, ()):
            if number != machine_id:
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
        """Returns what speaks against a machine, in words."""
        own = self.records.get(machine_id)
        if own is not None and own.last_failure:
            return f"machine {machine_id} failed recently, the last time with {own.last_failure}"
        return f"other machines of host {host_id} failed recently"


def remembered(memory: HostMemory, trial: Trial) -> HostMemory:
    """Returns the memory with one more trial; a trial that is reported again changes nothing."""
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
