"""What was learnt about machines and images, in a ConfigMap: kubectl shows it, and it survives
restarts.

It only ranks offers and helps to say whose fault an end is, so nothing waits for it: what cannot be
written now is written with the next trial.
"""

import structlog
from pydantic import ValidationError

from gpujob.adapters.errors import ClusterError
from gpujob.adapters.kube import Body, KubeClient
from gpujob.api.meta import LABEL_MANAGED_BY, MANAGER
from gpujob.api.notes import ImageEntry, MachineEntry
from gpujob.controller.settings import Settings
from gpujob.core.market.hosts import HostMemory, Record, Trial, remembered
from gpujob.core.market.images import Found, ImageMemory, ImageTrial, remembered_image

log = structlog.get_logger("gpujob.machines")

KEY_PREFIX = "machine-"
IMAGE_PREFIX = "image-"
"""An image's name cannot be a key: its entries are numbered, oldest first."""


class MachineBook:
    """What this process knows about machines, and its ConfigMap."""

    def __init__(self, kube: KubeClient, settings: Settings) -> None:
        self._kube = kube
        self._namespace = settings.namespace
        self._name = f"{settings.name}-machines"
        self._unwritten: list[Trial | ImageTrial] = []
        self.memory = HostMemory()
        self.images = ImageMemory()

    async def load(self) -> None:
        """Reads what earlier processes wrote; a failure is only logged."""
        try:
            stored = await self._stored()
            self.memory, self.images = HostMemory(_records(stored)), ImageMemory(_trials(stored))
        except ClusterError as error:
            log.warning("machines_not_read", problem=str(error))

    async def remember(self, trial: Trial) -> None:
        """Adds a trial to the ConfigMap as it is stored now; a failure is only logged."""
        self.memory = remembered(self.memory, trial)
        await self._add(trial)

    async def remember_image(self, trial: ImageTrial) -> None:
        """Adds what an attempt showed of its image, unless that is known; likewise."""
        if (images := remembered_image(self.images, trial)) == self.images:
            return
        self.images = images
        await self._add(trial)

    async def _add(self, trial: Trial | ImageTrial) -> None:
        self._unwritten.append(trial)
        try:
            stored = await self._stored()
            memory, images = HostMemory(_records(stored)), ImageMemory(_trials(stored))
            for one in self._unwritten:
                if isinstance(one, Trial):
                    memory = remembered(memory, one)
                else:
                    images = remembered_image(images, one)
            await self._write(stored, memory, images)
        except ClusterError as error:
            log.warning("machines_not_written", problem=str(error))
            return
        self._unwritten.clear()
        self.memory, self.images = memory, images

    async def _stored(self) -> Body | None:
        return await self._kube.find("ConfigMap", self._namespace, self._name)

    async def _write(self, stored: Body | None, memory: HostMemory, images: ImageMemory) -> None:
        data = {
            f"{KEY_PREFIX}{number}": _entry(record).model_dump_json(by_alias=True)
            for number, record in sorted(memory.records.items())
        }
        data |= {
            f"{IMAGE_PREFIX}{number}": _image_entry(trial).model_dump_json(by_alias=True)
            for number, trial in enumerate(images.trials)
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
        if key.startswith(IMAGE_PREFIX):
            continue
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


def _trials(stored: Body | None) -> tuple[ImageTrial, ...]:
    trials = []
    for key, text in ((stored or {}).get("data") or {}).items():
        if not key.startswith(IMAGE_PREFIX):
            continue
        try:
            entry = ImageEntry.model_validate_json(text)
        except ValidationError:
            log.warning("image_unreadable", key=key)
            continue
        trials.append(
            ImageTrial(
                namespace=entry.namespace,
                image=entry.image,
                node_uid=entry.node_uid,
                host_id=entry.host_id,
                at=entry.at,
                found=Found(entry.found),
            )
        )
    return tuple(sorted(trials, key=lambda trial: trial.at))


def _image_entry(trial: ImageTrial) -> ImageEntry:
    return ImageEntry(
        namespace=trial.namespace,
        image=trial.image,
        node_uid=trial.node_uid,
        host_id=trial.host_id,
        at=trial.at,
        found=trial.found,
    )


def _entry(record: Record) -> MachineEntry:
    return MachineEntry(
        host_id=record.host_id,
        failures=round(record.failures, 4),
        successes=round(record.successes, 4),
        at=record.at,
        last_failure=record.last_failure,
        last_node_uid=record.last_node_uid,
    )
