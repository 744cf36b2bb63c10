"""How far a machine is trusted, learnt from the attempts that ran on it.

The probability that a machine completes an attempt is the posterior mean of a Beta distribution.
Its prior is the record of the host's other machines, and the prior of that is the record of a good
machine. Evidence fades, so that a repaired machine is used again without anybody's help.

Whose attempts they were counts: a workload is root on its machine, and its driver is a pod of its
user's namespace, so whatever ends an attempt may be that user's doing. Each namespace believes
itself. Of all others, the one that says most is left out, be it good or bad: so one alone can keep
nobody else from a machine.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
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

RECORDS_KEPT = 1000


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What one attempt showed of its machine."""

    machine_id: int
    host_id: int
    namespace: str
    """The namespace of the job."""
    node_uid: str
    """Uid of the attempt's node, by which a trial that is reported twice is counted once."""
    at: datetime
    failed: bool
    reason: str


@dataclass(frozen=True, kw_only=True)
class Record:
    """What the attempts of one namespace have shown of one machine."""

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
    """What is known about all machines."""

    records: Mapping[tuple[int, str], Record] = field(default_factory=dict)
    """By machine id and namespace. Without a namespace it counts for all: releases that did not
    keep one wrote it, or an administrator.
    """

    @cached_property
    def _by_host(self) -> Mapping[int, tuple[tuple[int, str, Record], ...]]:
        """The machines of each host, so that no offer looks through all of them."""
        found = defaultdict[int, list[tuple[int, str, Record]]](list)
        for (number, namespace), record in self.records.items():
            found[record.host_id].append((number, namespace, record))
        return {host: tuple(machines) for host, machines in found.items()}

    @cached_property
    def _by_machine(self) -> Mapping[int, Mapping[str, Record]]:
        """The records of each machine, by namespace."""
        found = defaultdict[int, dict[str, Record]](dict)
        for (number, namespace), record in self.records.items():
            found[number][namespace] = record
        return found

    def trust(self, machine_id: int, host_id: int, namespace: str, now: datetime) -> float:
        """Returns the probability that the machine completes an attempt of this namespace."""
        others = [
            (whose, record.faded(now))
            for number, whose, record in self._by_host.get(host_id, ())
            if number != machine_id
        ]
        failures, successes = _believed(others, namespace)
        trials = HOST_PRIOR_TRIALS + failures + successes
        of_host = (HOST_PRIOR_SUCCESSES + successes) / trials
        known = self._by_machine.get(machine_id, {})
        own = [(whose, record.faded(now)) for whose, record in known.items()]
        failures, successes = _believed(own, namespace)
        if not failures + successes:
            return of_host
        trials = MACHINE_PRIOR_TRIALS + failures + successes
        return (successes + MACHINE_PRIOR_TRIALS * of_host) / trials

    def why(self, machine_id: int, host_id: int, namespace: str) -> str:
        """Returns what speaks against a machine, in words; not in which other namespace."""
        known = self._by_machine.get(machine_id, {})
        for whose in (namespace, ""):
            if (own := known.get(whose)) is not None and own.last_failure:
                reason = own.last_failure
                return f"machine {machine_id} failed recently, the last time with {reason}"
        if sum(bool(record.last_failure) for record in known.values()) > 1:
            return f"machine {machine_id} failed recently in several other namespaces"
        return f"other machines of host {host_id} failed recently"


def _believed(told: Iterable[tuple[str, Record]], namespace: str) -> tuple[float, float]:
    """Returns how many failures and successes count for a namespace, of what each one tells."""
    failures, successes = defaultdict[str, float](float), defaultdict[str, float](float)
    for whose, record in told:
        failures[whose] += record.failures
        successes[whose] += record.successes
    return _heard(failures, namespace), _heard(successes, namespace)


def _heard(told: Mapping[str, float], namespace: str) -> float:
    """Returns what counts of numbers by namespace: its own, and of all others all but the most."""
    believed = {namespace, ""}
    others = sorted(number for whose, number in told.items() if whose not in believed)
    return sum(told.get(whose, 0.0) for whose in believed) + sum(others[:-1])


def remembered(memory: HostMemory, trial: Trial) -> HostMemory:
    """Returns the memory with one more trial; a trial that is reported again changes nothing."""
    key = (trial.machine_id, trial.namespace)
    old = memory.records.get(key)
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
    records = {**memory.records, key: record}
    if len(records) > RECORDS_KEPT:
        faintest = min(
            (other for other in records if other != key),
            key=lambda other: _weight(records[other], trial.at),
        )
        del records[faintest]
    return HostMemory(records)


def _weight(record: Record, now: datetime) -> float:
    faded = record.faded(now)
    return faded.failures + faded.successes
