"""Whatever comes in whatever order: no budget is overdrawn, and each attempt is charged once.

Several processes read budgets as they are stored, and write later, if at all: in between, others
have written, limits were lowered, periods have ended, budgets were deleted and created again, and
nodes were deleted by force. Only a write onto the version that was read is stored; whether its
answer arrives does not matter, since nothing is remembered but what is stored.
"""

from collections import defaultdict
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.builders import NOW, a_job, a_node, ended, leased, stamp

from gpujob.api.gpubudget import GpuBudget
from gpujob.api.gpujob import GpuJob
from gpujob.api.gpunode import GpuNode, GpuNodeSpec
from gpujob.core.budget.cover import (
    Reserved,
    book_of,
    grow_in_all,
    may_say_more,
    reserve_in_all,
    under_way,
)
from gpujob.core.budget.ending import charge_at_end
from gpujob.core.budget.ledger import (
    Claim,
    Ledger,
    at,
    ledger_of,
    opened,
    read_budget,
    settle,
    shrink,
    written,
)
from gpujob.core.budget.period import rule_of
from gpujob.core.money import format_usd

Bodies = dict[str, dict[str, Any]]
VISION = {"matchLabels": {"team": "vision"}}
SPECS: dict[str, dict[str, Any]] = {
    "day": {"limit": "0.001000", "period": "Day", "timeZone": "America/Santiago"},
    "month": {"limit": "0.003000", "period": "Month", "selector": VISION},
    "window": {"limit": "0.001500", "period": "Rolling", "rollingHours": 48},
}
AMOUNTS = st.integers(1, 500)
"""In micro-USD, so that few attempts fill a budget."""


@dataclass
class Attempt:
    """A node as the API server holds it, and what its job knows."""

    uid: str
    labels: dict[str, str]
    reserved: int
    fuse: int | None = None
    """What it may cost; None = nothing was rented."""
    cost: int | None = None
    """What it has cost, once it is released."""
    is_gone: bool = False
    charged_in: set[str] = field(default_factory=set)
    """Versions of budgets, by their UID, that have settled it."""

    def node(self) -> GpuNode | None:
        """The node that a quorum read shows."""
        if self.is_gone:
            return None
        status: dict[str, Any] = {} if self.fuse is None else leased()
        if self.cost is not None:
            status = ended(status) | {"releasedAt": stamp()}
            if self.fuse is not None:
                status |= {"accruedUSD": format_usd(self.cost)}
        node = a_node(status, uid=self.uid)
        spec = {
            "jobRef": {"name": "train", "uid": f"job of {self.uid}"},
            "attempt": 1,
            "reservedUSD": format_usd(self.reserved),
        }
        return node.model_copy(update={"spec": GpuNodeSpec.model_validate(spec)})

    def job(self) -> GpuJob:
        """Its job: the attempt is recorded before anything is rented, with what it may cost."""
        status = {
            "attempt": 1,
            "nodeName": "train-0-1",
            "nodeUID": self.uid,
            "nodeReservedUSD": format_usd(self.reserved),
        }
        recorded = status if self.fuse is not None and self.cost is None else {}
        return a_job(status=recorded, uid=f"job of {self.uid}", labels=self.labels)

    def claim(self) -> Claim:
        """What is to be reserved for it."""
        return Claim(
            node_uid=self.uid,
            node_name="train-0-1",
            job_uid=f"job of {self.uid}",
            attempt=1,
            microusd=self.reserved,
        )


@dataclass
class Write:
    """A status that a process has decided on, not stored yet."""

    name: str
    uid: str
    version: int
    status: dict[str, object]
    decided_at: datetime
    takes: bool
    """Whether it takes money, so that the limit must hold."""
    settles: tuple[Attempt, int] | None = None


class Races(RuleBasedStateMachine):
    """The API server, the attempts, and what several processes have in hand."""

    def __init__(self) -> None:
        super().__init__()
        self.now: datetime = NOW
        self.stored: Bodies = {}
        self.versions = 0
        self.attempts: list[Attempt] = []
        self.pending: list[list[Write]] = []
        self.charges: dict[str, list[tuple[datetime, int]]] = defaultdict(list)
        """What each budget, by its UID, was charged: when, and how much."""

    # --- The API server -------------------------------------------------------------------

    def put(self, name: str, spec: dict[str, Any], status: dict[str, object], uid: str) -> None:
        """Stores a budget as a new version."""
        self.versions += 1
        meta = {
            "name": name,
            "namespace": "team",
            "uid": uid,
            "resourceVersion": str(self.versions),
            "creationTimestamp": stamp(),
        }
        self.stored[name] = {"metadata": meta, "spec": spec, "status": status}

    def store(self, write: Write) -> bool:
        """Stores a status onto the version that it was decided on; False = a conflict."""
        body = self.stored.get(write.name)
        if body is None or body["metadata"]["resourceVersion"] != str(write.version):
            return False
        self.put(write.name, body["spec"], write.status, write.uid)
        if write.takes:
            ledger = self.ledger(write.name)
            assert ledger.spent_microusd + ledger.reserved_microusd <= ledger.limit_microusd
        if write.settles is not None:
            attempt, charge = write.settles
            assert write.uid not in attempt.charged_in, "it was charged twice"
            attempt.charged_in.add(write.uid)
            self.charges[write.uid].append((write.decided_at, charge))
        return True

    def ledger(self, name: str) -> Ledger:
        """The ledger as stored."""
        return ledger_of(read_budget(self.stored[name]))

    def decide(
        self,
        name: str,
        after: Ledger,
        *,
        takes: bool = False,
        settles: tuple[Attempt, int] | None = None,
    ) -> Write:
        """A write onto the version that is stored now."""
        body = self.stored[name]
        meta = body["metadata"]
        status = written(after, GpuBudget.model_validate(body).status).wire()
        version = int(meta["resourceVersion"])
        return Write(name, meta["uid"], version, status, self.now, takes, settles)

    def then(self, data: st.DataObject, writes: list[Write]) -> None:
        """Stores what was decided, at once or later: up to a conflict, or the process's end."""
        if data.draw(st.sampled_from(["at once", "at once", "later"])) == "later":
            self.pending.append(writes)
            return
        self.store_some(data, writes)

    def store_some(self, data: st.DataObject, writes: list[Write]) -> None:
        """Stores all of these, or stops on the way."""
        last = data.draw(st.sampled_from([len(writes)] * 3 + [1]))
        for write in writes[:last]:
            if not self.store(write):
                break

    # --- What happens ---------------------------------------------------------------------

    @initialize()
    def begin(self) -> None:
        """All budgets exist and are open."""
        for name in SPECS:
            self.create(name)
            self.store(self.ends_of(name)[0])

    def create(self, name: str) -> None:
        """Creates a budget; nothing has opened it yet."""
        self.put(name, SPECS[name], {}, f"{name}-{self.versions}")

    def running(self) -> list[Attempt]:
        """The attempts whose machines may be paid for."""
        return [one for one in self.unfinished() if one.fuse is not None]

    def unfinished(self) -> list[Attempt]:
        """The attempts that are not over."""
        return [one for one in self.attempts if one.cost is None and not one.is_gone]

    @rule(seconds=st.sampled_from([1, 1800, 5 * 3600, 86_400, 3 * 86_400]))
    def wait(self, seconds: int) -> None:
        """Time passes, over the ends of days, of months and of summer time."""
        self.now += timedelta(seconds=seconds)

    @rule(data=st.data(), amounts=st.lists(AMOUNTS, min_size=1, max_size=4))
    def begin_attempts(self, data: st.DataObject, amounts: list[int]) -> None:
        """Their nodes exist; a process reserves for each, and looks whether it may rent."""
        for amount in amounts:
            labels = {"team": "vision"} if amount % 2 else {}
            attempt = Attempt(f"n-{len(self.attempts)}", labels, amount)
            self.attempts.append(attempt)
            self.reserve(data, attempt)
            self.reserve(data, attempt)

    @precondition(lambda self: self.unfinished())
    @rule(data=st.data())
    def try_again(self, data: st.DataObject) -> None:
        """A process reserves for one that waits, or that could not be stored everywhere."""
        attempt = data.draw(st.sampled_from(self.unfinished()))
        if attempt.fuse is None:
            self.reserve(data, attempt)

    def reserve(self, data: st.DataObject, attempt: Attempt) -> None:
        """Reads the budgets and decides; if all hold it already, the marker is stored."""
        books = [book_of(body) for body in self.stored.values()]
        answer = reserve_in_all(books, attempt.labels, attempt.claim(), self.now, is_required=False)
        if answer == Reserved({}):
            attempt.fuse = attempt.reserved
        elif isinstance(answer, Reserved):
            ledgers = answer.ledgers.items()
            self.then(data, [self.decide(name, one, takes=True) for name, one in ledgers])

    @precondition(lambda self: self.pending)
    @rule(data=st.data(), is_repeated=st.booleans())
    def write_late(self, data: st.DataObject, is_repeated: bool) -> None:
        """A process goes on that had stopped before it wrote; the write may be sent again."""
        number = data.draw(st.integers(0, len(self.pending) - 1))
        self.store_some(data, self.pending[number])
        if not is_repeated:
            del self.pending[number]

    @precondition(lambda self: self.running())
    @rule(data=st.data(), more=AMOUNTS)
    def raise_ceiling(self, data: st.DataObject, more: int) -> None:
        """The budgets hold more, and once all do, the fuse is raised."""
        attempt = data.draw(st.sampled_from(self.running()))
        node = attempt.node()
        assert attempt.fuse is not None
        assert node is not None
        if may_say_more(map(book_of, self.stored.values()), node):
            attempt.reserved = max(attempt.reserved, attempt.fuse + more)
        for _ in range(2):
            books = [book_of(body) for body in self.stored.values()]
            answer = grow_in_all(books, attempt.labels, attempt.claim(), self.now)
            if answer == Reserved({}):
                attempt.fuse = attempt.reserved
            elif isinstance(answer, Reserved):
                ledgers = answer.ledgers.items()
                self.then(data, [self.decide(name, one, takes=True) for name, one in ledgers])

    @precondition(lambda self: self.running())
    @rule(data=st.data())
    def lower_fuse(self, data: st.DataObject) -> None:
        """The fuse is lowered first, and the budgets follow what it is then."""
        attempt = data.draw(st.sampled_from(self.running()))
        assert attempt.fuse is not None
        attempt.fuse = attempt.reserved = data.draw(st.integers(1, attempt.fuse))
        for name, body in self.stored.items():
            if (ledger := book_of(body).ledger) is not None:
                self.then(
                    data, [self.decide(name, shrink(ledger, attempt.uid, attempt.fuse, self.now))]
                )

    @precondition(lambda self: self.unfinished())
    @rule(data=st.data(), share=st.sampled_from([1, 60, 100, 130]))
    def end_attempt(self, data: st.DataObject, share: int) -> None:
        """The attempt is over, and what it has cost is stored in its node; it may be too much."""
        attempt = data.draw(st.sampled_from(self.unfinished()))
        attempt.cost = -(-(attempt.fuse or 0) * share // 100)
        self.settle(data)

    @precondition(lambda self: self.unfinished())
    @rule(data=st.data())
    def force(self, data: st.DataObject) -> None:
        """Somebody deletes a node by force."""
        data.draw(st.sampled_from(self.unfinished())).is_gone = True

    @rule(data=st.data())
    def settle(self, data: st.DataObject) -> None:
        """A process reads the budgets, then the nodes, and settles what has ended."""
        for name in self.stored:
            for write in self.ends_of(name)[:2]:
                self.then(data, [write])

    def ends_of(self, name: str) -> list[Write]:
        """What is to be opened or settled in a budget as it is stored."""
        body = self.stored[name]
        by_uid = {one.uid: one for one in self.attempts}
        if (ledger := book_of(body).ledger) is None:
            budget = read_budget(body)
            nodes = [node for one in self.attempts if (node := one.node()) is not None]
            claims = under_way(budget.spec.selector, nodes, [one.job() for one in self.attempts])
            return [self.decide(name, opened(budget, claims, self.now))]
        writes = []
        for uid, held in ledger.held.items():
            attempt = by_uid[uid]
            if (charge := charge_at_end(held, attempt.node(), attempt.job())) is not None:
                after = settle(ledger, uid, charge, self.now)
                writes.append(self.decide(name, after, settles=(attempt, charge)))
        return writes

    @rule(name=st.sampled_from(sorted(SPECS)), limit=st.integers(1, 4000))
    def set_limit(self, name: str, limit: int) -> None:
        """An administrator raises or lowers a limit."""
        if (body := self.stored.get(name)) is not None:
            spec = body["spec"] | {"limit": format_usd(limit)}
            self.put(name, spec, body["status"], body["metadata"]["uid"])

    @rule(name=st.sampled_from(sorted(SPECS)), is_there=st.sampled_from([False, True, True]))
    def delete_or_create(self, name: str, is_there: bool) -> None:
        """An administrator deletes a budget, or creates it again."""
        if not is_there:
            self.stored.pop(name, None)
        elif name not in self.stored:
            self.create(name)

    # --- What always holds ----------------------------------------------------------------

    @invariant()
    def what_runs_is_held(self) -> None:
        """Each attempt that may cost money is held with its fuse, in all that are open and did."""
        for name, body in self.stored.items():
            if (ledger := book_of(body).ledger) is None:
                continue
            for attempt in self.attempts:
                uid = body["metadata"]["uid"]
                is_open = attempt.cost is None and not attempt.is_gone
                if attempt.fuse is None or not is_open or uid in attempt.charged_in:
                    continue
                if name in ("day", "window") or attempt.labels:
                    assert ledger.held[attempt.uid].claim.microusd >= attempt.fuse

    @invariant()
    def each_period_holds_what_was_charged_in_it(self) -> None:
        """To the millionth, also after the limit, the period and the nodes have changed."""
        for body in self.stored.values():
            if (ledger := book_of(body).ledger) is None:
                continue
            charges = self.charges[body["metadata"]["uid"]]
            for spent in ledger.history:
                inside = [
                    cost for when, cost in charges if spent.span.start <= when < spent.span.end
                ]
                assert spent.microusd == sum(inside)
            divided = rule_of(read_budget(body).spec)
            if (length := divided.window) is not None:
                since = self.now - length
                recent = sum(cost for when, cost in charges if when > since)
                late = sum(cost for when, cost in charges if when > since - divided.slice)
                assert recent <= at(ledger, self.now).spent_microusd <= late

    def teardown(self) -> None:
        """Once all attempts are over, nothing is held anywhere."""
        self.pending.clear()
        for attempt in self.attempts:
            if attempt.cost is None:
                attempt.cost = attempt.fuse or 0
        for name in self.stored:
            while writes := self.ends_of(name):
                assert self.store(writes[0])
                if not self.ledger(name).held:
                    break
            assert self.ledger(name).reserved_microusd == 0


TestRaces = Races.TestCase
TestRaces.settings = settings(max_examples=50, stateful_step_count=60, deadline=None)
