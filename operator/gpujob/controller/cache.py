"""The objects that passes read, as the watch, our own writes or a quorum read last showed them.

What is held may be old. That cannot do harm, because of three rules:

- An object that is not held is looked up by a quorum read. So nothing counts as gone because the
  watch has not shown it.
- A status is written only on the very version that was read. A stale one costs a conflict.
- A pass acts only after it has read all objects again by quorum reads (`reconcile.py`).

After a write that failed, an object is *doubted* until a quorum read: the write may have arrived.

What we write is taken in when it is answered, and asks then for the passes over other objects that
it concerns. The pass that wrote it says itself when it is to come again. So the event that shows
this very version later asks for nothing.

Of a job that is over no more is held than its version. A pass that needs it reads it. So of one
that is too long, which the next pass ends.

What is closed (`core/rest.py`) is not held at all: watch and lists leave it out. To whoever watches
it seems deleted then, which proves nothing here, as ever.
"""

import asyncio
import json
import sys
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
)
from math import inf
from typing import Any

import structlog
from pydantic import ValidationError

from gpujob.adapters.errors import ClusterError, Invalid
from gpujob.adapters.kube import Body, KubeClient, pages
from gpujob.api.gpujob import SPEC_BYTES_MAX, GpuJob
from gpujob.api.gpunode import GpuNode
from gpujob.api.meta import (
    ANNOTATION_FINISHED,
    LABEL_COMPONENT,
    LABEL_MANAGED_BY,
    LABEL_NODE,
    MANAGER,
)
from gpujob.controller.pods import is_owned_by
from gpujob.controller.readings import Readings
from gpujob.controller.workqueue import Key, Lane, Place
from gpujob.core.cost.leased import Fleet, what_counts
from gpujob.core.job.strays import jobs_with_strays
from gpujob.core.market.history import Listings
from gpujob.core.market.listings import Listing
from gpujob.core.node.stage import stage_of
from gpujob.core.spec_faults import label_faults

WATCHED = {
    "Pod": f"{LABEL_MANAGED_BY}={MANAGER},{LABEL_COMPONENT}=driver",
    "GpuNode": "",
    "GpuJob": "",
}
"""The kinds that are held; only objects that match the label selector are watched. Pods are
compared first, because the token of one is believed until its deletion is seen."""
CLOSED = "status.closed=true"
OPEN = "status.closed!=true"
"""What lacks the field is open: another release, or nobody yet, has written its status."""
SELECTED = ("GpuNode", "GpuJob")
"""The kinds that can be closed."""
CLOSED_PAUSE_SECONDS = 0.1
"""Between two pages of what is closed, which nothing urgent waits for."""
NOTE_LENGTH_MAX = 256
SOUGHT_SECONDS = 60.0
"""A job that has vanished with a stray left is not looked for more often than this."""

log = structlog.get_logger("gpujob.cache")


class Cache:
    """Holds what was last seen of each watched object; answers drivers and figures from it."""

    def __init__(
        self,
        kube: KubeClient,
        wake: Callable[[Key], None],
        rest: Callable[[str, Body], float | None] = lambda *_: None,
        dropped: Callable[[str], None] = lambda _: None,
        changed: Callable[[str], None] = lambda _: None,
    ) -> None:
        """`wake` asks for a pass because of what we wrote; `rest` says for how long an object needs
        none unless it changes; None = it does. `dropped` is told the uid of what is held no
        longer, and `changed` that of a node whenever it or its job was taken in.
        """
        self._kube = kube
        self._wake = wake
        self._rest = rest
        self._dropped = dropped
        self._changed = changed
        self._bodies: dict[Key, Body] = {}
        self._over: set[Key] = set()
        """Jobs of which only the version is held."""
        self._doubted: set[Key] = set()
        self._unshown: dict[Key, set[int]] = {}
        """Versions that we wrote, until the watch shows them."""
        self._shown_meanwhile: dict[Key, set[int]] = {}
        """Versions that the watch has shown while a write of ours is not answered."""
        self.readings = Readings(lambda key: key in self._bodies and key not in self._over)
        self.nodes: dict[str, GpuNode] = {}
        """Nodes by uid."""
        self.jobs: dict[str, GpuJob] = {}
        """Jobs by uid."""
        self._fleet: Fleet | None = None
        """None = something has changed that it counts."""
        self.fields: Mapping[str, str] = dict.fromkeys(SELECTED, OPEN)
        """By which fields the watch and the lists select each kind."""
        self._to_seek: set[str] = set()
        """Uids of jobs with strays that are to be looked for among those that are closed."""
        self._sought: dict[str, tuple[Key | None, float]] = {}
        """What came of that, and when, by the loop's clock; None = there is no such job."""

    async def learn_fields(self) -> None:
        """Asks whether the API server selects by our fields; if not, all is watched and listed."""
        try:
            for kind in SELECTED:
                await self._kube.page(kind, None, limit=1, fields=OPEN)
        except Invalid as error:
            self.fields = {}
            log.warning(
                "closed_objects_watched",
                problem=f"{error}; finished jobs and released nodes take memory: update the "
                "CustomResourceDefinitions and, below 1.31, Kubernetes",
            )
        except ClusterError as error:
            # It does as a rule. If not, the watch fails, and the next process asks again.
            log.warning("fields_not_learnt", problem=str(error))

    def lookup(self, node_uid: str) -> tuple[GpuNode | None, GpuJob | None]:
        """Returns the node with this uid, and its job."""
        node = self.nodes.get(node_uid)
        return node, self.jobs.get(node.spec.job_ref.uid) if node else None

    def fleet(self, listings: Listings, cluster_id: str) -> Fleet:
        """Returns what is stored beside the listings; the same one until that or they change."""
        if self._fleet is None or self._fleet.listings is not listings:
            self._fleet = Fleet(
                listings=listings,
                nodes=tuple(self.nodes.values()),
                jobs=tuple(self.jobs.values()),
                cluster_id=cluster_id,
            )
        return self._fleet

    def uid(self, key: Key) -> str | None:
        """Returns the uid of an object as it was last seen; None = it is not held."""
        held = self._bodies.get(key)
        return None if held is None else str(held["metadata"]["uid"])

    def shows(self, key: Key, uid: str) -> bool:
        """Whether an object is held that is this one, is not doubted and is not being deleted.

        If not, it may be there all the same.
        """
        held = self._bodies.get(key)
        if held is None or key in self._doubted or held["metadata"]["uid"] != uid:
            return False
        return held["metadata"].get("deletionTimestamp") is None

    def is_pod_of(self, key: Key, uid: str, owner_uid: str) -> bool:
        """Whether a pod is held that is this one (`shows`), and is owned by this object."""
        return self.shows(key, uid) and is_owned_by(self._bodies[key], owner_uid)

    def place_of(self, key: Key) -> Place:
        """Returns where a key waits for its pass."""
        held = self._bodies.get(key)
        meta = held["metadata"] if held is not None else {}
        born = meta.get("creationTimestamp", "")
        if key.kind == "GpuJob":
            return Place(Lane.JOBS, born)
        node = self.nodes.get(meta.get("uid", ""))
        if held is None or (node is not None and not stage_of(node.status).may_hold_machine):
            return Place(Lane.NODES, born)
        return Place(Lane.MACHINES, born)

    # --- Reads ------------------------------------------------------------------------------

    async def find(self, key: Key, uid: str | None = None) -> Body | None:
        """Returns an object as it was last seen, or else, or if it has another uid, by `read`."""
        held = self._bodies.get(key)
        if held is None or key in self._doubted or key in self._over:
            return await self.read(key)
        return held if uid in (None, held["metadata"]["uid"]) else await self.read(key)

    async def read(self, key: Key, uid: str | None = None) -> Body | None:
        """Returns an object by a quorum read; None if the API server says that there is none."""
        del uid  # What is stored under this name is the answer, whatever its uid.
        before = self._bodies.get(key)
        found = await self._kube.find(key.kind, key.namespace, key.name)
        held = self._bodies.get(key)
        if held is before:
            self._doubted.discard(key)
            self._drop(key) if found is None else self._hold(key, found)
        elif found is not None and held is not None and _version(held) < _version(found):
            # The event that came meanwhile was of what had been stored before.
            self._hold(key, found)
        return found

    # --- What the watch and the lists show --------------------------------------------------

    def take_in(self, kind: str, body: Body, gone: bool) -> Iterable[tuple[Key, float]]:
        """Takes in the object of an event, and returns the keys to reconcile because of it.

        With each comes after how many seconds.
        """
        key, version = _key(kind, body), _version(body)
        asked = self._asked_by(key, body, gone=gone)
        held = self._bodies.get(key)
        if held is None or _version(held) <= version:
            self._hold(key, body)
            if gone:
                self._drop(key)
        return asked

    def _asked_by(self, key: Key, body: Body, *, gone: bool) -> Iterator[tuple[Key, float]]:
        """Returns the keys to reconcile because of an event: none if it shows what we wrote."""
        version, concerned = _version(body), self._concerned(key.kind, body, gone=gone)
        # What we close leaves the watch as if it was deleted, with the version of that write; only
        # an object that has waited for its finalizer to go is deleted with one of ours.
        is_deleted = gone and "deletionTimestamp" in body["metadata"]
        if is_deleted or key in self._doubted:
            return concerned
        if version in self._unshown.get(key, ()):
            # Events come in order: what was written before is not shown any more.
            if later := {one for one in self._unshown.pop(key) if one > version}:
                self._unshown[key] = later
            return iter(())
        if (shown := self._shown_meanwhile.get(key)) is not None:
            # Whether we wrote this is known once our write is answered.
            shown.add(version)
            return ((one, seconds) for one, seconds in concerned if one != key)
        return concerned

    async def compare(
        self, kind: str, listed: AsyncIterable[Iterable[Body]], namespace: str | None = None
    ) -> AsyncIterator[tuple[Key, float]]:
        """Doubts what is held but not as a list shows it; yields the keys to reconcile.

        The list is of one namespace, None = of all that are served. With each key comes after how
        many seconds. What the pages show is looked at as they come.

        The watch does not tell what was deleted while it was interrupted.
        """
        unlisted = {
            key for key in self._bodies if key.kind == kind and namespace in (None, key.namespace)
        }
        async for page in listed:
            for body in page:
                key = _key(kind, body)
                unlisted.discard(key)
                held = self._bodies.get(key)
                is_known = held is not None and _version(held) == _version(body)
                if held is not None and not is_known:
                    self._doubted.add(key)
                for concerned, seconds in self._concerned(kind, body, gone=False):
                    # What was seen before was told to others then, and if it rests, to itself.
                    if not is_known or (concerned == key and not seconds):
                        yield concerned, seconds
        for key in unlisted:
            if (held := self._bodies.get(key)) is not None:
                self._doubted.add(key)
                for one in _concerned(kind, held):
                    yield one, 0.0

    def listed(self, kind: str, namespace: str | None = None) -> AsyncIterator[list[Body]]:
        """Yields the pages of all objects of a kind that are not closed, by quorum reads.

        Of one namespace, None = of all that are served.
        """
        return pages(self._kube, kind, WATCHED[kind], self.fields.get(kind, ""), namespace)

    async def closed(self, kind: str, namespace: str | None = None) -> AsyncIterator[list[Body]]:
        """Yields the pages of all objects of a kind that are closed, by quorum reads, slowly.

        Of one namespace, None = of all that are served.
        """
        selected = CLOSED if kind in self.fields else ""
        async for page in pages(self._kube, kind, fields=selected, namespace=namespace):
            yield page
            await asyncio.sleep(CLOSED_PAUSE_SECONDS)

    def needed(
        self, kind: str, page: Iterable[Body], *, within: float
    ) -> Iterator[tuple[Key, float]]:
        """Yields the keys of the objects that need a pass within so many seconds, and when."""
        for body in page:
            if (seconds := self._rest(kind, body) or 0.0) < within:
                yield _key(kind, body), seconds

    def with_strays(self, listing: Listing, cluster_id: str) -> list[Key]:
        """Returns the jobs, those included that are over, that may have a machine to charge.

        Those that are not held are looked for by `closed_with_strays`, also if the machine is gone
        by then.
        """
        owners = {uid for uid, node in self.nodes.items() if node.status.released_at is None}
        if not (found := jobs_with_strays(listing, owners, cluster_id)):
            return []
        held = {
            body["metadata"]["uid"]: key
            for key, body in self._bodies.items()
            if key.kind == "GpuJob" and body["metadata"]["uid"] in found
        }
        now = asyncio.get_running_loop().time()
        self._sought = {
            uid: (key, at)
            for uid, (key, at) in self._sought.items()
            if now - at < SOUGHT_SECONDS or (key is not None and uid in found)
        }
        self._to_seek |= found - held.keys() - self._sought.keys()
        closed = [self._sought[uid][0] for uid in found & self._sought.keys() - held.keys()]
        return [*held.values(), *(key for key in closed if key is not None)]

    async def closed_with_strays(self) -> AsyncIterator[Key]:
        """Yields the closed jobs that `with_strays` did not find; raises ClusterError.

        After an error they are looked for again by the next call.
        """
        if not (left := set(self._to_seek)):
            return
        async for page in self.closed("GpuJob"):
            for body in page:
                if (uid := body["metadata"]["uid"]) in left:
                    left.discard(uid)
                    self._note_search(uid, key := _key("GpuJob", body))
                    yield key
            if not left:
                return
        for uid in left:
            self._note_search(uid, None)

    def _note_search(self, uid: str, key: Key | None) -> None:
        self._to_seek.discard(uid)
        self._sought[uid] = key, asyncio.get_running_loop().time()

    # --- Our own writes ---------------------------------------------------------------------

    async def create(self, kind: str, namespace: str, body: Body) -> Body:
        """Creates an object; raises as `KubeClient.create`."""
        key = Key(kind, namespace, body["metadata"]["name"])
        return await self._written(key, self._kube.create(kind, namespace, body), on=None)

    async def write_status(self, kind: str, stored: Mapping[str, Any], status: Body) -> Body:
        """Replaces the status of exactly this version; raises as `KubeClient.write_status`."""
        write = self._kube.write_status(kind, stored, status)
        return await self._written(_key(kind, stored), write, on=stored)

    async def set_finalizers(
        self,
        kind: str,
        stored: Mapping[str, Any],
        finalizers: list[str],
        annotations: Mapping[str, str] | None = None,
    ) -> Body:
        """Replaces the finalizers of exactly this version; raises as the KubeClient's."""
        write = self._kube.set_finalizers(kind, stored, finalizers, annotations)
        return await self._written(_key(kind, stored), write, on=stored)

    async def _written(
        self, key: Key, write: Awaitable[Body], *, on: Mapping[str, Any] | None
    ) -> Body:
        """Waits for a write on this version, None = of a new object, and takes in its answer."""
        self._shown_meanwhile.setdefault(key, set())
        try:
            body = await write
        except BaseException:
            if self._shown_meanwhile.pop(key, None) and key.kind != "Pod":
                self._wake(key)
            self._doubted.add(key)
            raise
        shown, version = self._shown_meanwhile.pop(key, set()), _version(body)
        self._doubted.discard(key)
        held = self._bodies.get(key)
        if held is None or _version(held) <= version:
            self._hold(key, body)
        # A write that changed nothing is answered with the version that somebody else wrote.
        ours = set() if on is not None and _version(on) == version else {version}
        if unshown := ours - shown:
            self._unshown.setdefault(key, set()).update(unshown)
        is_news = on is None or bool(shown - ours)
        for concerned, _ in self._concerned(key.kind, body, gone=False):
            # The event has asked for the others, if it came before the answer. The pass that wrote
            # this looks again only at what is not its own.
            if is_news if concerned == key else version not in shown:
                self._wake(concerned)
        return body

    async def delete(self, key: Key, uid: str) -> None:
        """Deletes this very object; raises as `KubeClient.delete`."""
        if key in self._bodies:
            self._doubted.add(key)
        await self._kube.delete(key.kind, key.namespace, key.name, uid)

    def _concerned(self, kind: str, body: Body, *, gone: bool) -> Iterator[tuple[Key, float]]:
        """Yields the keys to reconcile when this object changes, and after how many seconds."""
        if not gone and (seconds := self._rest(kind, body)) is not None:
            if seconds < inf:
                yield _key(kind, body), seconds
            return
        phase = (body.get("status") or {}).get("phase")
        is_over = kind == "Pod" and phase in ("Succeeded", "Failed")
        for key in _concerned(kind, body):
            # A node that the watch has not shown yet asks for itself when it comes.
            if gone or not is_over or key in self._bodies:
                yield key, 0.0

    def _hold(self, key: Key, body: Body) -> None:
        uid, held = body["metadata"]["uid"], self._bodies.get(key)
        if held is not None and held["metadata"]["uid"] != uid:
            self._drop(key)
        if key.kind in self.fields and (body.get("status") or {}).get("closed"):
            self._drop(key)
            return
        if key.kind == "GpuJob" and (self._rest(key.kind, body) is not None or _is_too_big(body)):
            self._drop(key)
            self._over.add(key)
            names = ("namespace", "name", "uid", "resourceVersion")
            self._bodies[key] = {"metadata": {one: body["metadata"][one] for one in names}}
            return
        self._over.discard(key)
        self._bodies[key] = part = _needed_part(key.kind, body)
        before = what_counts(self.nodes.get(uid) or self.jobs.get(uid))
        try:
            if key.kind == "GpuJob":
                self.jobs[uid] = self.readings.read(GpuJob, key, part)
            elif key.kind == "GpuNode":
                self.nodes[uid] = self.readings.read(GpuNode, key, part)
        except ValidationError:
            # The pass over the object reports this in its status.
            pass
        if what_counts(self.nodes.get(uid) or self.jobs.get(uid)) != before:
            self._fleet = None
        if key.kind == "GpuNode":
            self._changed(uid)
        elif key.kind == "GpuJob" and (node := (body.get("status") or {}).get("nodeUID")):
            self._changed(node)

    def _drop(self, key: Key) -> None:
        self._over.discard(key)
        self._unshown.pop(key, None)
        held = self._bodies.pop(key, None)
        if held is not None:
            uid = held["metadata"]["uid"]
            self.readings.forget(key)
            if self.jobs.pop(uid, None) or self.nodes.pop(uid, None):
                self._fleet = None
            self._dropped(uid)


def _is_too_big(body: Body) -> bool:
    """Whether a job is so long that nothing is begun for it (`core/spec_faults.py`).

    What runs already is needed whole.
    """
    if (body.get("status") or {}).get("nodeName"):
        return False
    spec = json.dumps(body.get("spec"), ensure_ascii=False, separators=(",", ":"))
    return len(spec) > SPEC_BYTES_MAX or bool(label_faults(body["metadata"].get("labels") or {}))


def _needed_part(kind: str, body: Body) -> Body:
    """Returns an object without what no pass reads, which is half of its memory: who has managed
    which field, what others have noted on a job, and what a driver's pod was made of. A write
    without them changes none of it.
    """
    meta = {name: value for name, value in body["metadata"].items() if name != "managedFields"}
    if kind == "GpuJob" and (notes := meta.get("annotations")):
        # What we write there is a name and a uid.
        told = str(notes.get(ANNOTATION_FINISHED, ""))[:NOTE_LENGTH_MAX]
        meta["annotations"] = {ANNOTATION_FINISHED: told} if told else {}
    spec: Body = {"spec": {}} if kind == "Pod" else {}
    part: Body = _sharing({**body, "metadata": meta, **spec})
    return part


def _sharing(value: Any) -> Any:
    """Returns an equal document whose names and words are held once for all objects."""
    match value:
        case dict():
            return {sys.intern(name): _sharing(held) for name, held in value.items()}
        case list():
            return [_sharing(held) for held in value]
        case str() if value.isalpha():
            return sys.intern(value)
    return value


def _key(kind: str, body: Mapping[str, Any]) -> Key:
    meta = body["metadata"]
    return Key(kind, meta["namespace"], meta["name"])


def _concerned(kind: str, body: Body) -> Iterator[Key]:
    """Yields the keys of the objects that are to be reconciled when this one changes."""
    meta = body["metadata"]
    namespace = meta["namespace"]
    if kind == "Pod":
        if node := meta.get("labels", {}).get(LABEL_NODE):
            yield Key("GpuNode", namespace, node)
        return
    yield _key(kind, body)
    if kind == "GpuNode":
        yield Key("GpuJob", namespace, body["spec"]["jobRef"]["name"])
    elif node := (body.get("status") or {}).get("nodeName"):
        yield Key("GpuNode", namespace, node)


def _version(body: Mapping[str, Any]) -> int:
    """Returns an object's version, which the API server counts up over all objects of a kind.

    https://kubernetes.io/docs/reference/using-api/api-concepts/#resource-versions
    """
    return int(body["metadata"]["resourceVersion"])
