"""What was learnt about machines, images and ourselves, in a ConfigMap: kubectl shows it, and it
survives restarts.

What is known of machines and images only ranks offers and helps to say whose fault an end is, so
nothing waits for it. Without our own record nothing is rented. What cannot be written now is
written with what is learnt next, or within a minute.

Our own record lies in the nodes, too, as long as they are kept: a process that begins reads both.
So it is lost neither with the nodes nor with the ConfigMap, which is written anew if it is deleted.
"""

import asyncio

import structlog
from pydantic import TypeAdapter, ValidationError

from gpujob.adapters.errors import ClusterError
from gpujob.adapters.kube import Body, KubeClient, pages
from gpujob.api.gpunode import GpuNode
from gpujob.api.meta import LABEL_MANAGED_BY, MANAGER
from gpujob.api.notes import DestroyEntry, ImageEntry, MachineEntry, StayEntry
from gpujob.controller.settings import Settings
from gpujob.core.cost.confidence import DestroyRecord, remembered_destroys
from gpujob.core.market.hosts import HostMemory, Record, Trial, remembered
from gpujob.core.market.images import Found, ImageMemory, ImageTrial, remembered_image
from gpujob.core.market.outbids import PERCENTS, OutbidMemory, Seen, Stay, with_stay
from gpujob.core.node.punctuality import destroy_record

log = structlog.get_logger("gpujob.machines")

KEY_PREFIX = "machine-"
"""Before the number of a machine; after it stand a dot and a namespace, where one is known."""
IMAGE_PREFIX = "image-"
"""An image's name cannot be a key: its entries are numbered, oldest first."""
DESTROYS_KEY = "destroys"
OUTBIDS_KEY = "outbids"
OUTBIDS = TypeAdapter(tuple[StayEntry, ...])
DESTROYS = TypeAdapter(tuple[DestroyEntry, ...])
RETRY_SECONDS = 2.0
REWRITE_SECONDS = 60.0


Learnt = Trial | Stay | ImageTrial | DestroyRecord


class MachineBook:
    """What this process knows about machines, and its ConfigMap."""

    def __init__(self, kube: KubeClient, settings: Settings) -> None:
        self._kube = kube
        self._namespace = settings.namespace
        self._name = f"{settings.name}-machines"
        self._limits = settings.limits
        self._unwritten: list[Learnt] = []
        self.memory = HostMemory()
        self.outbids = OutbidMemory()
        self.images = ImageMemory()
        self.destroys: tuple[DestroyRecord, ...] | None = None
        """None = not read yet."""

    async def load(self) -> None:
        """Reads what earlier processes wrote, and what nodes say of their destroys; a failure is
        only logged.
        """
        try:
            stored = await self._stored()
            destroys = _destroys(stored)
            known = {one.node_uid for one in destroys or ()}
            shown = [
                record
                async for page in pages(self._kube, "GpuNode")
                for body in page
                if body["metadata"]["uid"] not in known
                if (record := self._record_of(body)) is not None
            ]
        except ClusterError as error:
            log.warning("machines_not_read", problem=str(error))
            return
        self.memory, self.images = HostMemory(_records(stored)), ImageMemory(_trials(stored))
        self.outbids = _outbids(stored)
        self.destroys = None if destroys is None else remembered_destroys(destroys, shown)

    async def run(self) -> None:
        """Reads until that succeeds, then writes what is not stored, or not any more, for ever."""
        while True:
            await asyncio.sleep(RETRY_SECONDS if self.destroys is None else REWRITE_SECONDS)
            if self.destroys is None:
                await self.load()
            elif self._unwritten or self.destroys:
                # Somebody may have deleted what was written.
                await self._write_all()

    async def remember(self, trial: Trial) -> None:
        """Adds a trial to the ConfigMap as it is stored now; a failure is only logged."""
        self.memory = remembered(self.memory, trial)
        await self._add(trial)

    async def remember_stay(self, stay: Stay) -> None:
        """Adds how often we were outbid; likewise."""
        self.outbids = with_stay(self.outbids, stay)
        await self._add(stay)

    async def remember_image(self, trial: ImageTrial) -> None:
        """Adds what an attempt showed of its image, unless that is known; likewise."""
        if (images := remembered_image(self.images, trial)) == self.images:
            return
        self.images = images
        await self._add(trial)

    async def remember_destroy(self, record: DestroyRecord) -> None:
        """Adds how a machine was destroyed, unless that is known; likewise."""
        if self.destroys is not None:
            if (destroys := remembered_destroys(self.destroys, (record,))) == self.destroys:
                return
            self.destroys = destroys
        await self._add(record)

    async def _add(self, learnt: Learnt) -> None:
        self._unwritten.append(learnt)
        await self._write_all()

    async def _write_all(self) -> None:
        """Adds all that is not written yet to what is stored, which becomes what is known here."""
        new = tuple(self._unwritten)
        try:
            stored = await self._stored()
            if (destroys := _destroys(stored)) is None:
                return
            # Somebody may have deleted the ConfigMap.
            destroys = remembered_destroys(destroys, self.destroys or ())
            memory, images = HostMemory(_records(stored)), ImageMemory(_trials(stored))
            outbids = _outbids(stored)
            for one in new:
                match one:
                    case Trial():
                        memory = remembered(memory, one)
                    case Stay():
                        outbids = with_stay(outbids, one)
                    case ImageTrial():
                        images = remembered_image(images, one)
                    case DestroyRecord():
                        destroys = remembered_destroys(destroys, (one,))
            await self._write(stored, memory, outbids, images, destroys)
        except ClusterError as error:
            log.warning("machines_not_written", problem=str(error))
            return
        self._unwritten = [one for one in self._unwritten if one not in new]
        self.memory, self.outbids = memory, outbids
        self.images, self.destroys = images, destroys

    def _record_of(self, body: Body) -> DestroyRecord | None:
        # Most nodes say nothing of a destroy, and to read one takes half a millisecond.
        if not {"destroyAskedAt", "releasedAt"} <= (body.get("status") or {}).keys():
            return None
        try:
            return destroy_record(GpuNode.model_validate(body), self._limits)
        except ValidationError:
            # The ConfigMap has it, unless somebody has deleted that as well.
            log.warning("node_unreadable", node=body["metadata"]["name"])
            return None

    async def _stored(self) -> Body | None:
        return await self._kube.find("ConfigMap", self._namespace, self._name)

    async def _write(
        self,
        stored: Body | None,
        memory: HostMemory,
        outbids: OutbidMemory,
        images: ImageMemory,
        destroys: tuple[DestroyRecord, ...],
    ) -> None:
        data = {
            f"{KEY_PREFIX}{number}{namespace and '.'}{namespace}": _entry(record).model_dump_json(
                by_alias=True
            )
            for (number, namespace), record in sorted(memory.records.items())
        }
        data |= {
            f"{IMAGE_PREFIX}{number}": _image_entry(trial).model_dump_json(by_alias=True)
            for number, trial in enumerate(images.trials)
        }
        entries = tuple(
            DestroyEntry(node_uid=one.node_uid, at=one.at, was_late=one.was_late)
            for one in destroys
        )
        if outbids.records:
            data[OUTBIDS_KEY] = OUTBIDS.dump_json(_stays(outbids), by_alias=True).decode()
        data[DESTROYS_KEY] = DESTROYS.dump_json(entries, by_alias=True).decode()
        if stored is not None:
            if stored.get("data") == data:
                return
            await self._kube.replace("ConfigMap", stored | {"data": data})
            return
        metadata = {
            "name": self._name,
            "namespace": self._namespace,
            "labels": {LABEL_MANAGED_BY: MANAGER},
        }
        body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}
        await self._kube.create("ConfigMap", self._namespace, body)


def _records(stored: Body | None) -> dict[tuple[int, str], Record]:
    records = {}
    for key, text in ((stored or {}).get("data") or {}).items():
        if key.startswith(IMAGE_PREFIX) or key in (DESTROYS_KEY, OUTBIDS_KEY):
            continue
        try:
            entry = MachineEntry.model_validate_json(text)
            number, _, namespace = key.removeprefix(KEY_PREFIX).partition(".")
            place = (int(number), namespace)
        except (ValidationError, ValueError):
            log.warning("machine_unreadable", key=key)
            continue
        records[place] = Record(
            host_id=entry.host_id,
            failures=entry.failures,
            successes=entry.successes,
            at=entry.at,
            last_failure=entry.last_failure,
            last_node_uid=entry.last_node_uid,
        )
    return records


def _outbids(stored: Body | None) -> OutbidMemory:
    """Returns how often we were outbid; what cannot be read is forgotten, since it only ranks."""
    text = ((stored or {}).get("data") or {}).get(OUTBIDS_KEY, "[]")
    try:
        entries = OUTBIDS.validate_json(text)
    except ValidationError as error:
        log.warning("outbids_unreadable", key=OUTBIDS_KEY, problem=str(error)[:500])
        return OutbidMemory()
    return OutbidMemory(
        {
            (one.gpu_model, one.percent): Seen(
                hours=one.hours, outbids=one.outbids, at=one.at, last_node_uid=one.last_node_uid
            )
            for one in entries
            # Another version may have considered other bids.
            if one.percent in PERCENTS
        }
    )


def _stays(memory: OutbidMemory) -> tuple[StayEntry, ...]:
    return tuple(
        StayEntry(
            gpu_model=model,
            percent=percent,
            hours=seen.hours,
            outbids=seen.outbids,
            at=seen.at,
            last_node_uid=seen.last_node_uid,
        )
        for (model, percent), seen in sorted(memory.records.items())
    )


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


def _destroys(stored: Body | None) -> tuple[DestroyRecord, ...] | None:
    """Returns our own record; None = somebody has spoilt it, and it may have said the worst."""
    text = ((stored or {}).get("data") or {}).get(DESTROYS_KEY, "[]")
    try:
        entries = DESTROYS.validate_json(text)
    except ValidationError as error:
        log.error("destroys_unreadable", key=DESTROYS_KEY, problem=str(error)[:500])
        return None
    return tuple(DestroyRecord(one.node_uid, one.at, one.was_late) for one in entries)


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
