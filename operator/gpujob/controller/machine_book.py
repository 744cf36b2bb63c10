"""What was learnt about machines, in a ConfigMap: kubectl shows it, and it survives restarts.

It only ranks offers, so nothing waits for it: what cannot be written now is written with the next
trial.
"""

import structlog
from pydantic import ValidationError

from gpujob.adapters.errors import ClusterError
from gpujob.adapters.kube import Body, KubeClient
from gpujob.api.meta import LABEL_MANAGED_BY, MANAGER
from gpujob.api.notes import MachineEntry
from gpujob.controller.settings import Settings
from gpujob.core.market.hosts import HostMemory, Record, Trial, remembered

log = structlog.get_logger("gpujob.machines")

KEY_PREFIX = "machine-"


class MachineBook:
    """What this process knows about machines, and its ConfigMap."""

    def __init__(self, kube: KubeClient, settings: Settings) -> None:
        self._kube = kube
        self._namespace = settings.namespace
        self._name = f"{settings.name}-machines"
        self._unwritten: list[Trial] = []
        self.memory = HostMemory()

    async def load(self) -> None:
        """Reads what earlier processes wrote; a failure is only logged."""
        try:
            self.memory = HostMemory(_records(await self._stored()))
        except ClusterError as error:
            log.warning("machines_not_read", problem=str(error))

    async def remember(self, trial: Trial) -> None:
        """Adds a trial to the ConfigMap as it is stored now; a failure is only logged."""
        self._unwritten.append(trial)
        self.memory = remembered(self.memory, trial)
        try:
            stored = await self._stored()
            memory = HostMemory(_records(stored))
            for one in self._unwritten:
                memory = remembered(memory, one)
            await self._write(stored, memory)
        except ClusterError as error:
            log.warning("machines_not_written", problem=str(error))
            return
        self._unwritten.clear()
        self.memory = memory

    async def _stored(self) -> Body | None:
        return await self._kube.find("ConfigMap", self._namespace, self._name)

    async def _write(self, stored: Body | None, memory: HostMemory) -> None:
        data = {
            f"{KEY_PREFIX}{number}": _entry(record).model_dump_json(by_alias=True)
            for number, record in sorted(memory.records.items())
        }
        if stored is not None:
            await self._kube.replace("ConfigMap", stored | {"data": data})
            return
        metadata = {
            "name": self._name,
            "namespace": self._namespace,
            "labels": {LABEL_MANAGED_BY: MANAGER},
        }
        body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}
        await self._kube.create("ConfigMap", self._namespace, body)


def _records(stored: Body | None) -> dict[int, Record]:
    records = {}
    for key, text in ((stored or {}).get("data") or {}).items():
        try:
            entry = MachineEntry.model_validate_json(text)
            number = int(key.removeprefix(KEY_PREFIX))
        except (ValidationError, ValueError):
            log.warning("machine_unreadable", key=key)
            continue
        records[number] = Record(
            host_id=entry.host_id,
            failures=entry.failures,
            successes=entry.successes,
            at=entry.at,
            last_failure=entry.last_failure,
            last_node_uid=entry.last_node_uid,
        )
    return records


def _entry(record: Record) -> MachineEntry:
    return MachineEntry(
        host_id=record.host_id,
        failures=round(record.failures, 4),
        successes=round(record.successes, 4),
        at=record.at,
        last_failure=record.last_failure,
        last_node_uid=record.last_node_uid,
    )
