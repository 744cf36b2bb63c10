"""A world in one process and in virtual time: a model API server, the market model, drivers.

The operator's own code runs in it unchanged: core, reconcile, queue, market watch, sweep. One seed
is one schedule. The models are small on purpose: what they leave out, the integration tests have.
"""

import asyncio
import json
import random
import re
import selectors
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from gpujob.adapters.errors import (
    ClusterUnavailable,
    Conflict,
    Forbidden,
    ObjectGone,
    ProviderUnavailable,
    RentRefused,
    RentUnclear,
    RentWithheld,
)
from gpujob.adapters.kube import Body, KubeClient
from gpujob.adapters.vast import RentLine, VastClient
from gpujob.adapters.vast_wire import lease_from, offer_from
from gpujob.api.gpujob import GpuJob, GpuJobSpec
from gpujob.api.gpunode import GpuNode
from gpujob.api.meta import FINALIZER
from gpujob.api.transport import DriverReport, Instruction, Outcome, WorkloadPhase
from gpujob.core.assignment import assignment
from gpujob.core.market import Listing, Mark, Quotes
from gpujob.core.observation import Heard
from gpujob.core.plan import Rent
from vastsim.market import Ask, Lease, Market, RefusedError
from vastsim.wire import Endpoint, instance_row, offer_row

START = datetime(2026, 1, 1, tzinfo=UTC)
ACCOUNT = 4711
HOST_KEY = "ssh-ed25519 " + "K" * 68


class _NoWaiting(selectors.SelectSelector):
    """Instead of waiting for the time that it is given, it tells how long that is."""

    def __init__(self) -> None:
        super().__init__()
        self.waited = 0.0

    def select(self, timeout: float | None = None) -> Any:
        if timeout is None:
            raise Broken("nothing is left that could ever happen")
        # Work takes time: else a timer that is due within the clock's resolution never is.
        self.waited += timeout + 1e-6
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop whose time jumps to the next timer whenever nothing is ready."""

    def __init__(self) -> None:
        self._virtual = _NoWaiting()
        super().__init__(self._virtual)

    def time(self) -> float:
        return self._virtual.waited


class VirtualClock:
    """The operator's clocks, from the loop."""

    def now(self) -> datetime:
        return START + timedelta(seconds=self.monotonic())

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()


class Chance:
    """Everything that is left to chance, from one seed; it ends when the world heals."""

    def __init__(self, seed: int, *, level: float | None = None, list_lag: float = 0.0) -> None:
        self._random = random.Random(seed)
        self.healed = False
        self.level, self.list_lag = level or 0.0, list_lag
        if level is None:
            # Each schedule has its own temper: some are calm, some fail everywhere.
            self.level = self._random.choice((0.0, 0.02, 0.1, 0.3))
            self.list_lag = self._random.choice((0.0, 5.0, 50.0))

    def strikes(self, share: float = 1.0) -> bool:
        """Whether a fault happens here; `share` makes it rarer or more frequent."""
        return not self.healed and self._random.random() < self.level * share

    def between(self, low: float, high: float) -> float:
        return self._random.uniform(low, high)

    def choice(self, *options: Any) -> Any:
        return self._random.choice(options)

    async def pause(self) -> None:
        """Lets time pass at an await, so that schedules differ."""
        await asyncio.sleep(self._random.choice((0.001, 0.01, 0.1, 1.0)))


class Broken(AssertionError):
    """An invariant does not hold."""


@dataclass
class Calls:
    """The calls of all replicas in their order, and the faults that strike some of them."""

    strikes: dict[int, str] = field(default_factory=dict)
    """Fault by the call's number."""
    made: list[str] = field(default_factory=list)
    """Names of the calls made so far."""

    def next(self, name: str) -> str | None:
        """Counts a call and returns the fault that strikes it."""
        self.made.append(name)
        return self.strikes.get(len(self.made) - 1)


STOPPED_SECONDS = 400.0
"""How long a stopped process stands: longer than any wait of the rules."""
LATE_SECONDS = 12.0
"""How late a late answer comes: within the time-outs, beyond the lock's retries."""

FAULTS = (
    "crash before",
    "crash after",
    "stop before",
    "stop after",
    "request lost",
    "answer lost",
    "answer late",
)


class Process:
    """What a replica's calls pass through: it may be stopped or killed before and after each."""

    def __init__(self, calls: Calls, on_crash: Callable[["Process"], None]) -> None:
        self._calls = calls
        self._on_crash = on_crash
        self._goes_on = asyncio.Event()
        self._goes_on.set()
        self.is_killed = False

    def stop(self) -> None:
        """Stops it as SIGSTOP would; time goes on."""
        self._goes_on.clear()

    def resume(self) -> None:
        self._goes_on.set()

    async def _here(self) -> None:
        await self._goes_on.wait()

    async def _killed(self) -> None:
        self.is_killed = True
        self.stop()
        self._on_crash(self)
        await asyncio.Event().wait()

    def _stopped(self) -> None:
        self.stop()
        asyncio.get_running_loop().call_later(STOPPED_SECONDS, self.resume)

    def view(self, part: Any) -> Any:
        """Returns a part of the world as this process calls it."""
        return _View(self, part)

    async def call(self, part: Any, name: str, made: Callable[[], Any]) -> Any:
        """Makes a call, with the fault that strikes it."""
        fault = self._calls.next(f"{type(part).__name__}.{name}")
        if fault == "crash before":
            await self._killed()
        if fault == "stop before":
            self._stopped()
        await self._here()
        if fault == "request lost":
            raise _unanswered(part)
        answer = await made()
        if fault == "crash after":
            await self._killed()
        if fault == "stop after":
            self._stopped()
        if fault == "answer lost":
            raise _unanswered(part)
        if fault == "answer late":
            await asyncio.sleep(LATE_SECONDS)
        await self._here()
        return answer


def _unanswered(part: Any) -> Exception:
    if isinstance(part, KubeClient):
        return ClusterUnavailable("no answer")
    return RentUnclear("no answer") if isinstance(part, RentLine) else ProviderUnavailable("none")


class _View:
    def __init__(self, process: Process, part: Any) -> None:
        self._process = process
        self._part = part

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._part, name)
        if name == "rent_line":
            return self._rent_line
        if not asyncio.iscoroutinefunction(found):
            return found

        async def call(*arguments: Any, **options: Any) -> Any:
            return await self._process.call(self._part, name, lambda: found(*arguments, **options))

        return call

    @asynccontextmanager
    async def _rent_line(self) -> AsyncIterator[Any]:
        async with AsyncExitStack() as stack:
            opened = self._part.rent_line()
            line = await self._process.call(
                self._part, "rent_line", lambda: stack.enter_async_context(opened)
            )
            yield _View(self._process, line)


class ModelKube(KubeClient):
    """Objects with versions, a status of its own, finalizers and uids."""

    def __init__(self, chance: Chance) -> None:
        self.objects: dict[tuple[str, str, str], Body] = {}
        self.on_write: list[Any] = []
        self._chance = chance
        self.forced: set[str] = set()
        """Uids of what users took away by force."""
        self._terminating: set[str] = set()
        self._version = 0
        self._uids = 0

    async def close(self) -> None:
        return

    async def get(self, kind: str, namespace: str, name: str) -> Body:
        await self._unreliable()
        key = (kind, namespace, name)
        if key not in self.objects:
            raise ObjectGone(name)
        return _copy(self.objects[key])

    async def list_all(self, kind: str, selector: str = "") -> list[Body]:
        await self._unreliable()
        return [_copy(body) for (held, *_), body in self.objects.items() if held == kind]

    async def create(self, kind: str, namespace: str, body: Body) -> Body:
        await self._unreliable()
        if kind in ("Event", "Secret"):
            return body
        if namespace in self._terminating:
            raise Forbidden(f"namespace {namespace} is being terminated")
        key = (kind, namespace, body["metadata"]["name"])
        if key in self.objects:
            raise Conflict(key[2])
        self._uids += 1
        stored = _copy(body)
        stored["metadata"] |= {
            "namespace": namespace,
            "uid": f"{self._uids:08x}-0000-4000-8000-000000000000",
            "generation": 1,
            "creationTimestamp": _wire(VirtualClock().now()),
        }
        self._put(key, stored)
        await self._answer_lost()
        return _copy(stored)

    async def write_status(self, kind: str, stored: Mapping[str, Any], status: Body) -> Body:
        await self._unreliable()
        body = self._current(kind, stored)
        body["status"] = _copy(status)
        self._put((kind, body["metadata"]["namespace"], body["metadata"]["name"]), body)
        await self._answer_lost()
        return _copy(body)

    async def set_finalizers(
        self, kind: str, stored: Mapping[str, Any], finalizers: list[str]
    ) -> Body:
        await self._unreliable()
        body = self._current(kind, stored)
        body["metadata"]["finalizers"] = list(finalizers)
        self._put((kind, body["metadata"]["namespace"], body["metadata"]["name"]), body)
        return _copy(body)

    async def replace(self, kind: str, stored: Mapping[str, Any]) -> Body:
        await self._unreliable()
        self._current(kind, stored)
        body = _copy(dict(stored))
        self._put((kind, body["metadata"]["namespace"], body["metadata"]["name"]), body)
        await self._answer_lost()
        return _copy(body)

    async def delete(self, kind: str, namespace: str, name: str, uid: str | None = None) -> None:
        await self._unreliable()
        self.delete_now(kind, namespace, name, uid)

    # --- What users and the rest of a cluster do, at once and without fail -------------------

    def terminate(self, namespace: str) -> None:
        """Deletes a namespace: nothing new is let in, everything in it is deleted."""
        self._terminating.add(namespace)
        for kind, held, name in list(self.objects):
            if held == namespace:
                self.delete_now(kind, held, name)

    def vanish(self, kind: str, namespace: str, name: str) -> None:
        """Deletes an object by force: its finalizers are taken away first."""
        body = _copy(self.objects[kind, namespace, name])
        self.forced.add(body["metadata"]["uid"])
        body["metadata"]["finalizers"] = []
        self._put((kind, namespace, name), body)
        self.delete_now(kind, namespace, name)

    def delete_now(self, kind: str, namespace: str, name: str, uid: str | None = None) -> None:
        key = (kind, namespace, name)
        body = self.objects.get(key)
        if body is None or (uid is not None and body["metadata"]["uid"] != uid):
            return
        body = _copy(body)
        body["metadata"].setdefault("deletionTimestamp", _wire(VirtualClock().now()))
        self._put(key, body)

    def change(self, kind: str, namespace: str, name: str, **spec: Any) -> None:
        body = _copy(self.objects[kind, namespace, name])
        body["spec"] |= spec
        body["metadata"]["generation"] += 1
        self._put((kind, namespace, name), body)

    def set_status(self, kind: str, namespace: str, name: str, status: Body) -> None:
        body = _copy(self.objects[kind, namespace, name])
        body["status"] = status
        self._put((kind, namespace, name), body)

    def of_kind(self, kind: str) -> list[Body]:
        return [body for (held, *_), body in self.objects.items() if held == kind]

    def by_uid(self, uid: str) -> Body | None:
        return next((b for b in self.objects.values() if b["metadata"]["uid"] == uid), None)

    def _current(self, kind: str, stored: Mapping[str, Any]) -> Body:
        meta = stored["metadata"]
        held = self.objects.get((kind, meta["namespace"], meta["name"]))
        if held is None:
            raise ObjectGone(meta["name"])
        same = ("uid", "resourceVersion")
        if any(held["metadata"][field] != meta[field] for field in same):
            raise Conflict(meta["name"])
        return _copy(held)

    def _put(self, key: tuple[str, str, str], body: Body) -> None:
        self._version += 1
        body["metadata"]["resourceVersion"] = str(self._version)
        meta = body["metadata"]
        before = self.objects.get(key)
        gone = "deletionTimestamp" in meta and not meta.get("finalizers")
        if gone:
            self.objects.pop(key, None)
            self._collect(meta["uid"])
        else:
            self.objects[key] = body
        for told in self.on_write:
            told(key[0], body, gone, before)

    def _collect(self, owner: str) -> None:
        """Garbage collection by owner, at once."""
        for (kind, namespace, name), body in list(self.objects.items()):
            owners = body["metadata"].get("ownerReferences", [])
            if any(one["uid"] == owner for one in owners):
                self.delete_now(kind, namespace, name)

    async def _unreliable(self) -> None:
        await self._chance.pause()
        if self._chance.strikes(0.3):
            raise ClusterUnavailable("503")

    async def _answer_lost(self) -> None:
        if self._chance.strikes(0.2):
            raise ClusterUnavailable("the answer was lost")


class ModelVast(VastClient):
    """The provider's calls over the market model, with its lies."""

    def __init__(self, market: Market, kube: ModelKube, chance: Chance) -> None:
        self.market = market
        self.sent: list[str] = []
        """Marks of all rent requests, in the order of their arrival."""
        self._kube = kube
        self._chance = chance
        self._time = VirtualClock()

    async def close(self) -> None:
        return

    def now(self) -> float:
        return (START + timedelta(seconds=self._time.monotonic())).timestamp()

    def advance(self) -> None:
        """Boots what is due and loses the hosts that die."""
        for lease in self.market.due(self.now()):
            self.market.enter(lease.number, "running", self.now())
            if self._chance.strikes(0.5):
                dies_at = self.now() + self._chance.between(1, 300)
                self.market.change(lease.number, dies_at=dies_at)
        for lease in self.market.dying(self.now()):
            self.market.enter(lease.number, "offline", self.now())
        for lease in self.market.outbids(self.now()):
            self.market.outbid(lease.number, self.now())
        for lease in self.market.resuming(self.now()):
            self.market.resume(lease.number, self.now())

    async def search(self, spec: GpuJobSpec) -> Quotes:
        await self._unreliable()
        now = self.now()
        is_bid = spec.market.type == "Interruptible"
        rows = (
            offer_row(number, facts, now, is_bid=is_bid)
            for number, facts in self.market.offers.items()
        )
        offers = tuple(offer_from(row) for row in rows)
        return Quotes(
            offers=offers, unreadable=0, fetched_at=self._time.now(), clock_skew_seconds=0.0
        )

    async def list_leases(self) -> Listing:
        requested_at = self._time.monotonic()
        await self._unreliable()
        self.advance()
        now = self.now()
        rows = [instance_row(lease, Endpoint("h", 22), now) for lease in self.market.listed(now)]
        listing = Listing(
            requested_at=requested_at,
            answered_at=self._time.monotonic(),
            provider_time=self._time.now(),
            account_id=ACCOUNT,
            credit_usd=self.market.credit(now),
            leases=tuple(lease_from(row) for row in rows),
        )
        await self._chance.pause()
        return listing

    async def account_id(self) -> int:
        return ACCOUNT

    async def read_log(self, instance_id: int) -> str | None:
        await self._unreliable()
        lease = self.market.leases[instance_id]
        nonce = re.search(r"gpujob-host-key ([0-9a-f]+)", lease.ask.onstart or "")
        if lease.state != "running" or nonce is None:
            return None
        return f"noise\ngpujob-host-key {nonce[1]} {HOST_KEY} {nonce[1]}\n"

    async def destroy(self, instance_id: int) -> None:
        await self._unreliable()
        if not self._chance.strikes():
            self.market.enter(instance_id, "destroyed", self.now())
        if self._chance.strikes():
            raise ProviderUnavailable("the answer was lost")

    @asynccontextmanager
    async def rent_line(self) -> AsyncIterator[RentLine]:
        await self._unreliable()
        yield ModelLine(self, self._kube, self._chance)

    def rent(self, request: Rent) -> Lease:
        """Rents; the invariants of a rent are checked here, where money begins to flow."""
        self.sent.append(request.mark)
        if self.sent.count(request.mark) > 1:
            raise Broken(f"rented twice under {request.mark}")
        mark = Mark.parse(request.mark)
        assert mark is not None, "every request is marked"
        node = self._kube.by_uid(mark.node_uid)
        if node is not None:
            if "rent" not in node.get("status", {}):
                raise Broken("a rent without a stored marker")
            if FINALIZER not in node["metadata"]["finalizers"]:
                raise Broken("a rent for a node that may go at any moment")
        ask = Ask(
            image=request.image,
            disk_gb=request.disk_gb,
            label=request.mark,
            env={"GPUJOB_MARK": request.mark},
            onstart=request.start_script,
            runtype="ssh_direc ssh_proxy",
            bid_usd_per_hour=request.bid_usd_per_hour,
        )
        never = 10.0**9
        boot = never if self._chance.strikes(0.3) else self._chance.between(5, 200)
        return self.market.rent(request.offer_id, ask, self.now(), boot_seconds=boot)

    async def _unreliable(self) -> None:
        await self._chance.pause()
        if self._chance.strikes():
            raise ProviderUnavailable("html")


class ModelLine(RentLine):
    """One rent request, with everything that can become of it."""

    def __init__(self, vast: ModelVast, kube: ModelKube, chance: Chance) -> None:
        self._vast = vast
        self._chance = chance
        self.account_id = ACCOUNT

    async def send(self, request: Rent, timeout_seconds: float) -> int:
        if VirtualClock().now() > request.not_after:
            raise RentWithheld("too late")
        await self._chance.pause()
        if self._chance.strikes():
            # Read and thrown away: nothing is rented, no answer comes.
            await asyncio.sleep(timeout_seconds)
            raise RentUnclear("timeout")
        try:
            lease = self._vast.rent(request)
        except RefusedError as error:
            raise RentRefused(str(error)) from None
        await self._chance.pause()
        if self._chance.strikes():
            await asyncio.sleep(timeout_seconds)
            raise RentUnclear("timeout")
        return lease.number


class ModelDrivers:
    """Driver pods that start, report, run their workload, and end by the assignment."""

    def __init__(
        self,
        kube: ModelKube,
        vast: ModelVast,
        chance: Chance,
        run_seconds: float,
        exit_codes: tuple[int, ...],
    ) -> None:
        self._kube = kube
        self._vast = vast
        self._chance = chance
        self._run_seconds = run_seconds
        self._exit_codes = exit_codes
        """By attempt; the last one goes on."""
        self._started: dict[tuple[int, int], float] = {}
        """When the workload began, by instance and run: it goes on whatever its driver does."""
        self.heard: dict[str, Heard] = {}
        self._told: dict[str, tuple[WorkloadPhase, Outcome | None]] = {}

    def news(self) -> list[str]:
        """Returns the uids of nodes whose driver said something new since the last call."""
        said = {uid: (one.report.phase, one.report.outcome) for uid, one in self.heard.items()}
        fresh = [uid for uid, words in said.items() if self._told.get(uid) != words]
        self._told = said
        return fresh

    def step(self) -> None:
        """Every driver reports once."""
        for pod in self._kube.of_kind("Pod"):
            meta = pod["metadata"]
            status = pod.get("status", {})
            phase = status.get("phase", "Pending")
            if phase == "Pending" and not self._chance.strikes():
                self._kube.set_status(*_key(pod), {"phase": "Running"})
            if phase != "Running":
                continue
            if self._chance.strikes(0.02):
                self._kube.delete_now(*_key(pod))
                continue
            node_name = meta["labels"]["gpujob.dev/node"]
            body = self._kube.objects.get(("GpuNode", meta["namespace"], node_name))
            node = GpuNode.model_validate(body) if body else None
            driver = node.status.driver if node else None
            if node is None or driver is None or driver.pod_uid != meta["uid"]:
                continue
            job_body = self._kube.objects.get(("GpuJob", meta["namespace"], node.spec.job_ref.name))
            job = GpuJob.model_validate(job_body) if job_body else None
            self._report(pod, node, job)

    def _report(self, pod: Body, node: GpuNode, job: GpuJob | None) -> None:
        now = VirtualClock().monotonic()
        todo = assignment(node, job)
        if todo.instruction is Instruction.EXIT:
            self._kube.set_status(*_key(pod), {"phase": "Succeeded"})
            return
        ran: float | None = None
        run_number = 0
        outcome = None
        lease_status = node.status.lease
        lease = self._vast.market.leases.get(lease_status.instance_id) if lease_status else None
        if todo.instruction is Instruction.RUN and lease is not None and lease.state == "running":
            assert todo.work is not None, "told with the instruction"
            run_number = todo.work.run_number
            began = self._started.setdefault((lease.number, run_number), now)
            ran = now - began
            if ran >= self._run_seconds:
                attempt = min(node.spec.attempt, len(self._exit_codes))
                code = self._exit_codes[attempt - 1]
                outcome = Outcome(exit_code=code, run_seconds=self._run_seconds)
        phase = WorkloadPhase.WAITING if ran is None else WorkloadPhase.RUNNING
        phase = WorkloadPhase.FINISHED if outcome else phase
        report = DriverReport(
            node_uid=node.metadata.uid,
            phase=phase,
            machine_contact_age_seconds=None if ran is None else 0.0,
            run_number=run_number,
            run_seconds=ran,
            outcome=outcome,
        )
        self.heard[node.metadata.uid] = Heard(report, pod["metadata"]["uid"], now)


def _copy(body: Body) -> Body:
    """Returns a copy as it would come over the wire; faster than a deep copy."""
    copied: Body = json.loads(json.dumps(body))
    return copied


def _key(body: Body) -> tuple[str, str, str]:
    meta = body["metadata"]
    return "Pod", meta["namespace"], meta["name"]


def _wire(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")
