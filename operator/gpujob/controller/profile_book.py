"""What was learnt of how long jobs run, and its GpuJobProfiles: what the cost gate asks where no
deadline is declared.

The nodes tell when runs begin and end, and stay for a day at least. The profiles tell what was
learnt before. So a process that begins knows what the last one knew: it reads both, and each run
counts once. As long as they cannot be read nothing is known, and the gate admits no job without a
deadline. What cannot be written now is written later.

A profile that somebody deletes or changes is noticed within a minute: what is stored then is read
anew. What was deleted is forgotten, also as far as nodes still show it.
"""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import structlog
from pydantic import ValidationError

from gpujob.adapters.errors import ClusterError, Conflict, Forbidden, ObjectGone
from gpujob.adapters.kube import Body, KubeClient, pages
from gpujob.api.gpujobprofile import SHARED_RUNS_KEPT, TEMPLATE_RUNS_KEPT, LearntRun
from gpujob.api.gpunode import GpuNode
from gpujob.api.meta import API_VERSION, LABEL_MANAGED_BY, MANAGER
from gpujob.api.notes import RUN_BOUNDS_MAX, RunNote
from gpujob.controller.settings import Settings
from gpujob.core.cost.experience import ERROR, Experience
from gpujob.core.cost.profile import (
    Profile,
    learnt_run,
    lesson_of,
    profile_name,
    profile_of,
    read_profile,
    restore,
    shown_seconds,
    taught_late,
    template_in,
    written,
)
from gpujob.core.cost.run_bound import usable
from gpujob.core.cost.template import Template
from gpujob.core.node.learning import EndedRun, Run, cut_short, run_of

log = structlog.get_logger("gpujob.profiles")

KIND = "GpuJobProfile"
RETRY_SECONDS = 10.0
LEARNT_AT_ONCE = 500
PROFILES_KEPT = 100
"""Of one namespace; the one that was written least lately goes first."""

Place = tuple[str, str]
"""Namespace and name of a profile."""


@dataclass
class _Stored:
    """What the API server holds, as far as this process has read or written it."""

    versions: dict[Place, str] = field(default_factory=dict)
    templates: dict[Place, Template] = field(default_factory=dict)
    used: dict[str, dict[str, datetime]] = field(default_factory=lambda: defaultdict(dict))
    """By namespace and name, when a profile was last written."""


class ProfileBook:
    """What this process has learnt, and its GpuJobProfiles."""

    def __init__(self, kube: KubeClient, settings: Settings, now: Callable[[], datetime]) -> None:
        self._kube, self._now = kube, now
        self._served = settings.served
        self._shared_at: Place = (settings.namespace, f"{settings.name}-all-jobs")
        self._write_seconds = settings.limits.profile_write_seconds
        self._kept = timedelta(seconds=2 * settings.limits.node_retention_seconds)
        self._stored = _Stored()
        self._read_at: datetime | None = None
        self._over: dict[str, datetime] = {}
        """Nodes whose run this process knows to have ended, and when."""
        self._unwritten: dict[Template, list[LearntRun]] = defaultdict(list)
        self._unwritten_shared: list[LearntRun] = []
        self.experience: Experience | None = None
        """None = not read yet."""
        self.bounds: dict[str, RunNote] = {}
        """Of the templates that were written last, by their key: for the webhook."""

    # --- Facts ------------------------------------------------------------------------------

    def see(self, node: GpuNode) -> None:
        """Learns from a stored node; each run once, however often its node is seen."""
        with self._guarded():
            if self.experience is not None and (run := run_of(node)) is not None:
                self._take(self.experience, run)

    def forget(self, node_uid: str) -> None:
        """Takes the run of a node that is gone for cut short, unless it has ended."""
        with self._guarded():
            if self.experience is not None and (run := self.experience.running(node_uid)):
                self._take(self.experience, cut_short(node_uid, *run, self._now()))

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """Lets no fault reach the passes over a machine, which do not depend on what is learnt:
        that is then read anew, and nothing is known until that succeeds.
        """
        try:
            yield
        except Exception:
            log.exception("run_not_learnt")
            self.experience = None

    def _take(self, experience: Experience, run: Run) -> None:
        if run.node_uid in self._over:
            return
        if not isinstance(run, EndedRun):
            experience.began(run.node_uid, run.template, run.started.timestamp())
            return
        if experience.running(run.node_uid) is None:
            # What had ended before was learnt when the nodes were read, or earlier.
            oldest = self._now() - self._kept
            if self._read_at is None or run.ended <= max(self._read_at, oldest):
                return
        self._learn(experience, run)

    def _learn(self, experience: Experience, run: EndedRun) -> None:
        experience.began(run.node_uid, run.template, run.started.timestamp())
        lesson = experience.ended(run.node_uid, run.seconds, run.outcome, run.ended.timestamp())
        self._over[run.node_uid] = run.ended
        if lesson is None:
            return
        kept = learnt_run(run, lesson)
        # A template's profile lies in its namespace, and need not repeat it.
        self._unwritten[run.template].append(kept.model_copy(update={"namespace": None}))
        self._unwritten_shared.append(kept)

    # --- Reading ----------------------------------------------------------------------------

    async def load(self) -> None:
        """Reads what earlier processes wrote, and what nodes show beyond; a failure is only logged,
        and nothing is known until it succeeds.
        """
        try:
            await self._load()
        except ClusterError as error:
            self.experience = None
            log.warning("profiles_not_read", problem=str(error))

    async def _load(self) -> None:
        read_at, stored = self._now(), _Stored()
        runs = [run async for run in self._runs()]
        profiles: dict[Template, Profile] = {}
        async for body in self._bodies():
            meta = body["metadata"]
            place: Place = (meta["namespace"], meta["name"])
            if place == self._shared_at:
                continue
            stored.versions[place] = meta["resourceVersion"]
            spec = read_profile(body)
            if spec is None or (template := template_in(meta, spec)) is None:
                log.error("profile_unusable", namespace=place[0], profile=place[1])
                continue
            profiles[template] = profile_of(spec)
            stored.templates[place] = template
            stored.used[place[0]][place[1]] = spec.updated_at
        found = await self._kube.find(KIND, *self._shared_at)
        shared = self._shared_in(found)
        if found is not None:
            stored.versions[self._shared_at] = found["metadata"]["resourceVersion"]
        # What is not written yet is learnt all the same.
        waiting = {template: tuple(more) for template, more in self._unwritten.items()}
        for template, more in waiting.items():
            profiles[template] = profiles.get(template, Profile()).with_runs(
                more, TEMPLATE_RUNS_KEPT
            )
        late = {one.node_uid: one for one in self._unwritten_shared}
        shared = shared.with_runs(late.values(), SHARED_RUNS_KEPT)
        late |= {one.node_uid: one for one in taught_late(profiles, shared)}
        experience = Experience()
        for count, _ in enumerate(restore(experience, profiles, shared)):
            if count % LEARNT_AT_ONCE == 0:
                # Nothing urgent may wait for all of them.
                await asyncio.sleep(0)
        for template, runs_now in self._unwritten.items():
            for run in runs_now[len(waiting.get(template, ())) :]:
                experience.learn(lesson_of(template, run))
                experience.learn_shared(lesson_of(template, run))
        late |= {one.node_uid: one for one in self._unwritten_shared}
        self._unwritten_shared = list(late.values())
        self._stored, self._read_at = stored, read_at
        self._catch_up(experience, runs, profiles)
        self.experience = experience
        latest = sorted(
            profiles, key=lambda one: stored.used[one.tenant].get(profile_name(one), read_at)
        )
        self.bounds = {}
        for template in latest[-RUN_BOUNDS_MAX:]:
            self._tell(experience, template)

    def _catch_up(
        self, experience: Experience, runs: Iterable[Run], profiles: dict[Template, Profile]
    ) -> None:
        """Learns, in the order of time, what the nodes show and no profile holds."""
        events: list[tuple[datetime, int, Run]] = []
        # What ended while the profiles were read is learnt already.
        waiting = {one.node_uid for more in self._unwritten.values() for one in more}
        for run in runs:
            if not isinstance(run, EndedRun):
                if run.node_uid not in self._over:
                    events.append((run.started, 1, run))
                continue
            held = profiles.get(run.template, Profile())
            if held.has_learnt(run.node_uid, run.ended) or run.node_uid in waiting:
                self._over[run.node_uid] = run.ended
                continue
            events += [(run.started, 1, run), (run.ended, 0, run)]
        for at, begins, run in sorted(events, key=lambda one: one[:2]):
            if begins:
                experience.began(run.node_uid, run.template, at.timestamp())
            elif isinstance(run, EndedRun):
                self._learn(experience, run)

    async def _runs(self) -> AsyncIterator[Run]:
        async for body in self._bodies("GpuNode"):
            # To read one takes half a millisecond.
            status = body.get("status") or {}
            if not status.get("rent") or not {"run", "interruptions", "stop"} & status.keys():
                continue
            try:
                run = run_of(GpuNode.model_validate(body))
            except ValidationError:
                log.warning("node_unreadable", node=body["metadata"]["name"])
                continue
            if run is not None:
                yield run

    async def _bodies(self, kind: str = KIND) -> AsyncIterator[Body]:
        """Yields all objects of a kind, without those of namespaces that cannot be read any more:
        nothing is rented there, either.
        """
        for namespace in self._served or (None,):
            try:
                async for page in pages(self._kube, kind, namespace=namespace):
                    for body in page:
                        yield body
            except Forbidden as error:
                if namespace is None:
                    raise
                log.warning("profiles_closed", namespace=namespace, problem=str(error))

    def _shared_in(self, body: Body | None) -> Profile:
        spec = None if body is None else read_profile(body)
        if body is not None and spec is None:
            log.error("profile_unusable", namespace=self._shared_at[0], profile=self._shared_at[1])
        return profile_of(spec)

    # --- Writing ----------------------------------------------------------------------------

    async def run(self) -> None:
        """Reads until that succeeds; then writes what was learnt, and looks whether what is stored
        is what was written, for ever.
        """
        while True:
            try:
                if self.experience is None:
                    await self.load()
                else:
                    await self.keep()
            except Exception:
                # Only jobs without a deadline need it, so a bug in it must not end the leader.
                log.exception("profiles_crashed")
                self.experience = None
            await asyncio.sleep(RETRY_SECONDS if self.experience is None else self._write_seconds)

    async def keep(self) -> None:
        """Writes what was learnt, once for each profile; reads all anew if somebody else has
        written or deleted one.
        """
        try:
            if await self._is_changed():
                await self.load()
        except ClusterError as error:
            log.warning("profiles_not_checked", problem=str(error))
            return
        if (experience := self.experience) is None:
            return
        oldest = self._now() - self._kept
        self._over = {uid: at for uid, at in self._over.items() if at > oldest}
        for template in [*self._unwritten]:
            await self._try_to_write(experience, template)
        if self._unwritten_shared:
            new = tuple(self._unwritten_shared)
            if await self._write(experience, self._shared_at, None, new):
                self._unwritten_shared = _without(self._unwritten_shared, new)
            else:
                # No more is held of it than is stored, however long it cannot be written.
                self._unwritten_shared = self._unwritten_shared[-SHARED_RUNS_KEPT:]

    async def _is_changed(self) -> bool:
        """Whether what is stored is not what this process has read or written; what was deleted is
        stored again as empty, so that nodes do not teach it anew.
        """
        shown: dict[Place, str] = {}
        for namespace in self._served or (None,):
            try:
                shown |= await self._kube.versions(KIND, namespace)
            except Forbidden:
                if namespace is None:
                    raise
                shown |= {
                    at: one for at, one in self._stored.versions.items() if at[0] == namespace
                }
        try:
            shown[self._shared_at] = await self._kube.version(KIND, *self._shared_at)
        except ObjectGone:
            shown.pop(self._shared_at, None)
        if shown == self._stored.versions:
            return False
        for place in self._stored.versions.keys() - shown.keys():
            await self._store_forgotten(place)
        return True

    async def _store_forgotten(self, place: Place) -> None:
        now = self._now()
        for template in [one for one in self._unwritten if _place(one) == place]:
            del self._unwritten[template]
        known = self._stored.templates.get(place)
        if place == self._shared_at:
            self._unwritten_shared = []
        elif known is None:
            return
        spec = written(Profile((), now), template=known, bound_seconds=None, now=now)
        try:
            await self._create(place, spec)
        except (Conflict, Forbidden, ObjectGone) as error:
            # Its namespace goes, or somebody was faster.
            log.info("profile_not_emptied", namespace=place[0], profile=place[1], why=str(error))

    async def _try_to_write(self, experience: Experience, template: Template) -> None:
        new = tuple(self._unwritten[template])
        if not await self._write(experience, _place(template), template, new):
            # It may be that its namespace is gone: no more is held of it than is stored.
            self._unwritten[template] = self._unwritten[template][-TEMPLATE_RUNS_KEPT:]
            return
        if left := _without(self._unwritten[template], new):
            self._unwritten[template] = left
        else:
            del self._unwritten[template]

    async def _write(
        self,
        experience: Experience,
        place: Place,
        template: Template | None,
        new: tuple[LearntRun, ...],
    ) -> bool:
        """Adds runs to a profile as it is stored now; returns whether that need not be repeated."""
        kept = SHARED_RUNS_KEPT if template is None else TEMPLATE_RUNS_KEPT
        now = self._now()
        try:
            body = await self._kube.find(KIND, *place)
            held = profile_of(None if body is None else read_profile(body)).with_runs(new, kept)
            bound = None if template is None else self._tell(experience, template)
            spec = written(held, template=template, bound_seconds=bound, now=now)
            if body is not None:
                after = await self._kube.replace(KIND, body | {"spec": spec})
                self._stored.versions[place] = after["metadata"]["resourceVersion"]
            else:
                await self._make_room(place)
                await self._create(place, spec)
        except ObjectGone:
            return True
        except ClusterError as error:
            log.warning("profile_not_written", profile=place[1], problem=str(error))
            return False
        self._stored.used[place[0]][place[1]] = now
        if template is not None:
            self._stored.templates[place] = template
        return True

    def _tell(self, experience: Experience, template: Template) -> float | None:
        """Notes what bounds the next run of a template, and returns it."""
        key, found = template.keys[0], experience.bound(template, self._now().timestamp(), ERROR)
        self.bounds.pop(key, None)
        if (seconds := usable(found)) is not None and found.runs:
            self.bounds[key] = RunNote(seconds=shown_seconds(seconds), runs=found.runs)
        while len(self.bounds) > RUN_BOUNDS_MAX:
            del self.bounds[next(iter(self.bounds))]
        return seconds

    async def _create(self, place: Place, spec: dict[str, object]) -> None:
        body = {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "metadata": {
                "name": place[1],
                "namespace": place[0],
                "labels": {LABEL_MANAGED_BY: MANAGER},
            },
            "spec": spec,
        }
        after = await self._kube.create(KIND, place[0], body)
        self._stored.versions[place] = after["metadata"]["resourceVersion"]

    async def _make_room(self, place: Place) -> None:
        """Deletes the profile of its namespace that was written least lately, if there are many."""
        used = self._stored.used[place[0]]
        if place == self._shared_at or len(used) < PROFILES_KEPT:
            return
        oldest = min(used, key=lambda name: used[name])
        await self._kube.delete(KIND, place[0], oldest)
        del used[oldest]
        self._stored.versions.pop((place[0], oldest), None)
        self._stored.templates.pop((place[0], oldest), None)


def _without(runs: Iterable[LearntRun], done: Iterable[LearntRun]) -> list[LearntRun]:
    """Returns the runs that are not among these, which may be all of a cluster's."""
    uids = {one.node_uid for one in done}
    return [one for one in runs if one.node_uid not in uids]


def _place(template: Template) -> Place:
    return template.tenant, profile_name(template)
