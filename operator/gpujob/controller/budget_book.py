"""The GpuBudgets: what they were last seen to hold, and the only writer of their statuses.

Whatever is asked for a budget is one thing: that it follows a node, as `core.budget.cover.followed`
decides. All that is asked meanwhile is written at once: the budget is read by a quorum read, then
each node and its job, and then one status is written onto that very version. On a conflict it all
begins anew. So nothing is remembered but what is stored, and any process may do this at any time.

Every few seconds the budgets are looked at: a new one is opened with what is under way, a period
that has ended is closed, and what is held for nodes that are gone or over is settled.
"""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import structlog
from pydantic import ValidationError

from gpujob.adapters.errors import ClusterError, ClusterUnavailable, Conflict, Forbidden, ObjectGone
from gpujob.adapters.kube import Body, KubeClient, pages
from gpujob.api.gpujob import GpuJob
from gpujob.api.gpunode import GpuNode
from gpujob.controller.cache import Cache
from gpujob.controller.workqueue import Key
from gpujob.core.budget.cover import Book, Budgets, Expected, book_of, claim_of, followed, under_way
from gpujob.core.budget.ending import is_over
from gpujob.core.budget.ledger import Ledger, Refused, Unusable, at, opened, read_budget
from gpujob.core.budget.told import told, told_unusable
from gpujob.core.job.plan import job_name_in

log = structlog.get_logger("gpujob.budgets")

KIND = "GpuBudget"
LOOK_SECONDS = 10.0
WRITES_MAX = 10
"""If a budget has changed so often while it was to be written, whoever asked begins anew."""
EXPECTED_FOR = timedelta(seconds=60)
"""Whoever was to create a node may have failed, or have followed another one."""
AT_ONCE = 50
"""So many nodes are read at once."""

Place = tuple[str, str]
"""Namespace and name of a budget."""


@dataclass(frozen=True)
class _Seen:
    """A budget as it was last seen."""

    version: int
    book: Book
    is_told: bool
    """Whether its status is of its present spec."""


@dataclass(eq=False)
class _Asked:
    """A node that a budget is to follow."""

    node: Key
    uid: str
    held: asyncio.Future[bool] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )
    """Whether the budget holds what the node says."""


class BudgetBook:
    """What the GpuBudgets were last seen to hold; follows nodes in them."""

    def __init__(
        self,
        kube: KubeClient,
        cache: Cache,
        now: Callable[[], datetime],
        served: tuple[str, ...] = (),
    ) -> None:
        """`served` are the namespaces that are served; empty = all."""
        self._kube, self._cache, self._now = kube, cache, now
        self._served = served
        self._known: set[str | None] = set()
        self._held: dict[Place, _Seen] = {}
        self._asked: defaultdict[Place, list[_Asked]] = defaultdict(list)
        self._locks: defaultdict[Place, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._expected: dict[Key, tuple[Expected, datetime]] = {}
        """Nodes that are being created, and since when."""
        self.seen = Budgets({}, frozenset())
        """All budgets, as they were last seen, and what is expected of them."""

    # --- What is seen -----------------------------------------------------------------------

    async def read(self, namespace: str) -> tuple[Book, ...]:
        """Returns the budgets of a namespace by a quorum read; raises ClusterError."""
        shown = [
            body async for page in pages(self._kube, KIND, namespace=namespace) for body in page
        ]
        names = {body["metadata"]["name"] for body in shown}
        for body in shown:
            self._take_in(body)
        for place in [one for one in self._held if one[0] == namespace and one[1] not in names]:
            del self._held[place]
        self._known.add(namespace)
        self._tell()
        return tuple(book_of(body) for body in shown)

    async def _find(self, place: Place) -> Body | None:
        body = await self._kube.find(KIND, *place)
        if body is not None:
            self._take_in(body)
        else:
            self._held.pop(place, None)
        self._tell()
        return body

    def _take_in(self, body: Body) -> None:
        meta = body["metadata"]
        place, version = (meta["namespace"], meta["name"]), int(meta["resourceVersion"])
        before = self._held.get(place)
        if before is None or before.version < version:
            self._held[place] = _Seen(version, book_of(body), _is_told(body))

    def _tell(self) -> None:
        books: defaultdict[str, list[Book]] = defaultdict(list)
        for (namespace, _), seen in sorted(self._held.items()):
            books[namespace].append(seen.book)
        known = None if None in self._known else frozenset(one for one in self._known if one)
        expected: defaultdict[str, list[Expected]] = defaultdict(list)
        for key, (one, _) in self._expected.items():
            expected[key.namespace].append(one)
        self.seen = Budgets(
            {one: tuple(found) for one, found in books.items()},
            known,
            {one: tuple(found) for one, found in expected.items()},
        )

    def expect(self, node: Key, labels: Mapping[str, str], microusd: int) -> None:
        """Reckons with a node that is about to be created, until its budgets have followed it."""
        if self.seen.of(node.namespace):
            self._expected[node] = Expected(node.name, labels, microusd), self._now()
            self._tell()

    def expect_no_more(self, node: Key) -> None:
        """Forgets that a node was expected."""
        if self._expected.pop(node, None) is not None:
            self._tell()

    # --- Following --------------------------------------------------------------------------

    async def follow(self, node: Key, uid: str) -> None:
        """Lets each budget that covers or holds a node hold what it says, or settle it; raises
        ClusterError.

        They are written in the order of their names, up to the first that cannot hold it. Whether
        all do is to be read again: it is not told here, since by then it may not be so any more.
        """
        try:
            for book in self.seen.of(node.namespace) or ():
                if not await self._follow_in((node.namespace, book.name), _Asked(node, uid)):
                    return
        finally:
            self.expect_no_more(node)

    async def _follow_in(self, place: Place, *asked: _Asked) -> bool:
        """Waits until a budget has followed these nodes; returns whether it holds what all say."""
        self._asked[place] += asked
        async with self._locks[place]:
            # Whoever wrote before has done it as well, if it was asked by then.
            if not all(one.held.done() for one in asked):
                await self._write_asked(place)
        return all([await one.held for one in asked])

    async def _write_asked(self, place: Place) -> None:
        taken = self._asked.pop(place, [])
        try:
            held = await self._written(place, taken)
        except BaseException as error:
            failed = error if isinstance(error, ClusterError) else ClusterUnavailable("given up")
            for one in taken:
                one.held.set_exception(failed)
                # Whoever asked may have ended since.
                one.held.exception()
            raise
        for one, holds in zip(taken, held, strict=True):
            one.held.set_result(holds)

    async def _written(self, place: Place, taken: list[_Asked]) -> list[bool]:
        """Writes one status for all that is asked; returns whether it holds what each node says."""
        for _ in range(WRITES_MAX):
            if (body := await self._find(place)) is None:
                return [True] * len(taken)
            book = book_of(body)
            if (before := book.ledger) is None:
                return [False] * len(taken)
            # Only reads that began after the budget's show that what it has settled is over.
            nodes = [
                found
                for start in range(0, len(taken), AT_ONCE)
                for found in await asyncio.gather(
                    *(self._node_and_job(one) for one in taken[start : start + AT_ONCE])
                )
            ]
            now, ledger, held = self._now(), before, []
            for one, found in zip(taken, nodes, strict=True):
                after: Ledger | Refused | None = None
                if found is not None:
                    after = followed(replace(book, ledger=ledger), one.uid, *found, now)
                held.append(isinstance(after, Ledger))
                ledger = after if isinstance(after, Ledger) else ledger
            ledger = at(ledger, now)
            if ledger == before and _is_told(body):
                return held
            budget = read_budget(body)
            with suppress(Conflict, ObjectGone):
                await self._store(body, told(budget, ledger, self._machines(ledger), now).wire())
                return held
        raise Conflict(f"GpuBudget {place[1]} was changed {WRITES_MAX} times while it was written")

    async def _node_and_job(self, asked: _Asked) -> tuple[GpuNode | None, GpuJob | None] | None:
        """Returns a node, and then its job: what a job has recorded of a node that is gone is known
        only after that. None = what they say cannot be told.
        """
        namespace, name = asked.node.namespace, asked.node.name
        body = await self._kube.find("GpuNode", namespace, name)
        try:
            node = None if body is None else GpuNode.model_validate(body)
        except ValidationError:
            return None
        job_name = job_name_in(name) if node is None else node.spec.job_ref.name
        found = await self._kube.find("GpuJob", namespace, job_name)
        try:
            return node, None if found is None else GpuJob.model_validate(found)
        except ValidationError:
            # Its user may have spoilt it. What its node has cost can be settled all the same.
            return None if node is None else (node, None)

    async def _store(self, body: Body, status: dict[str, Any]) -> None:
        self._take_in(await self._kube.write_status(KIND, body, status))
        self._tell()

    def _machines(self, ledger: Ledger) -> Iterable[GpuNode]:
        """Returns the nodes that are held, as far as the cache has them: what is told of them is
        for people."""
        known = self._cache.nodes
        return [known[uid] for uid in ledger.held if uid in known]

    # --- Looking ----------------------------------------------------------------------------

    async def run(self) -> None:
        """Looks at all budgets, for ever."""
        while True:
            try:
                await self.look()
            except Exception:
                # Machines are ended all the same: a bug in this must not end the leader.
                log.exception("budgets_crashed")
            await asyncio.sleep(LOOK_SECONDS)

    async def look(self) -> None:
        """Reads what has changed; opens, closes and settles what is due."""
        for namespace in self._served or (None,):
            try:
                await self._look_at(namespace)
            except ClusterError as error:
                log.warning("budgets_not_read", namespace=namespace, problem=str(error))
                if isinstance(error, Forbidden) and namespace is not None:
                    self._known.discard(namespace)
        late = self._now() - EXPECTED_FOR
        self._expected = {key: one for key, one in self._expected.items() if one[1] > late}
        self._tell()
        for place in [*self._held]:
            try:
                await self._keep(place)
            except ClusterError as error:
                log.warning("budget_not_written", budget=place, problem=str(error))

    async def _look_at(self, namespace: str | None) -> None:
        shown = await self._kube.versions(KIND, namespace)
        gone = [one for one in self._held if namespace in (None, one[0]) and one not in shown]
        for place in gone:
            self._held.pop(place, None)
            if not self._locks[place].locked():
                del self._locks[place]
        for place, version in shown.items():
            seen = self._held.get(place)
            if seen is None or seen.version < int(version):
                await self._find(place)
        self._known.add(namespace)

    async def _keep(self, place: Place) -> None:
        seen = self._held.get(place)
        if seen is None:
            return
        if (ledger := seen.book.ledger) is None:
            await self._open(place)
            return
        due = []
        for uid, held in ledger.held.items():
            node = self._cache.nodes.get(uid)
            if node is None or is_over(node) or claim_of(node).microusd < held.claim.microusd:
                due.append(_Asked(Key("GpuNode", place[0], held.claim.node_name), uid))
        if due or at(ledger, self._now()) != ledger or not seen.is_told:
            await self._follow_in(place, *due) if due else await self._refresh(place)

    async def _refresh(self, place: Place) -> None:
        async with self._locks[place]:
            await self._write_asked(place)

    async def _open(self, place: Place) -> None:
        """Opens a budget that holds nothing yet, with all that is under way; tells why one cannot
        be used."""
        if (body := await self._find(place)) is None:
            return
        try:
            budget = read_budget(body)
            if budget.status.opened_at is not None:
                raise Unusable(book_of(body).problem)
            # Nodes first: what is created after that reads this budget before it rents.
            nodes = [one async for one in self._listed(GpuNode, place[0])]
            jobs = [one async for one in self._listed(GpuJob, place[0])]
            now = self._now()
            ledger = opened(budget, under_way(budget.spec.selector, nodes, jobs), now)
            status = told(budget, ledger, self._machines(ledger), now).wire()
        except Unusable as problem:
            status = told_unusable(body, str(problem), self._now())
        if status != (body.get("status") or {}):
            with suppress(Conflict, ObjectGone):
                await self._store(body, status)

    async def _listed(self, model: Any, namespace: str) -> AsyncIterator[Any]:
        """Yields what is under way in a namespace, by quorum reads; raises Unusable if one cannot
        be read: what it may cost is not known."""
        async for page in self._cache.listed(model.__name__, namespace):
            for body in page:
                try:
                    yield model.model_validate(body)
                except ValidationError:
                    if model is GpuJob and not (body.get("status") or {}).get("nodeUID"):
                        continue
                    name = body["metadata"]["name"]
                    raise Unusable(f"{model.__name__} {name} cannot be read") from None


def _is_told(body: Body) -> bool:
    status = body.get("status") or {}
    return bool(status.get("observedGeneration") == body["metadata"].get("generation"))
