"""A world in one process and in virtual time: a model API server, the market model, drivers.

The operator's own code runs in it unchanged: core, reconcile, queue, market watch, sweep. One seed
is one schedule. The models are small on purpose: what they leave out, the integration tests have.
"""

import asyncio
import json
import marshal
import random
import re
import selectors
from base64 import b64decode
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from email.utils import format_datetime
from fractions import Fraction
from functools import cache
from math import inf
from typing import Any, TypeVar

from pydantic import ValidationError
from tests.simulation.process import (
    CALLER,
    PRESENT_FAULT,
    START,
    Broken,
    Process,
    VirtualClock,
)

from gpujob.adapters.channel import Answer, Channel, PacedChannel
from gpujob.adapters.errors import (
    ClusterError,
    ClusterUnavailable,
    Conflict,
    Forbidden,
    Invalid,
    ObjectGone,
    ProviderUnavailable,
    RateLimited,
    RentDenied,
    RentUnclear,
    RentWithheld,
)
from gpujob.adapters.kube import Body, KubeClient
from gpujob.adapters.provider import RentLine
from gpujob.adapters.redact import Scrubber
from gpujob.adapters.vast import OFFERS_WANTED, VastRequests, rate_limited
from gpujob.api.gpujob import GpuJob
from gpujob.api.gpunode import GpuNode
from gpujob.api.meta import FINALIZER
from gpujob.api.transport import (
    Assignment,
    DriverReport,
    Gpu,
    Instruction,
    MachineFault,
    Measured,
    Outcome,
    RegistryLogin,
    WatchdogClient,
    WorkloadPhase,
)
from gpujob.core.effects import Rent
from gpujob.core.limits import PAGE_LEASES, Limits
from gpujob.core.machine.assignment import assignment, may_be_driver
from gpujob.core.market.listings import Mark
from gpujob.core.observation import Heard
from vastsim.market import Ask, FailedPull, Lease, Market, RefusedError
from vastsim.search import search_offers
from vastsim.thresholds import Thresholds
from vastsim.wire import Endpoint, instance_row

MOST_TURNS = 5_000_000
"""Of the event loop in one life: no machine's speed ends one."""
Read = TypeVar("Read", GpuJob, GpuNode)

ACCOUNT = 4711
GUARD_EARLY_SECONDS = 60.0
"""From the marker to the machine: a rent request may arrive so late."""
HOST_KEY = "ssh-ed25519 " + "K" * 68


class _NoWaiting(selectors.SelectSelector):
    """Instead of waiting for the time that it is given, it tells how long that is."""

    def __init__(self) -> None:
        super().__init__()
        self.waited = 0.0
        self._turns = 0

    def select(self, timeout: float | None = None) -> Any:
        if timeout is None:
            raise Broken("nothing is left that could ever happen")
        self._turns += 1
        if self._turns > MOST_TURNS:
            raise Broken("it goes round in circles")
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


class Chance:
    """Everything that is left to chance, from one seed; it ends when the world heals."""

    def __init__(
        self,
        seed: int,
        *,
        level: float | None = None,
        list_lag: float = 0.0,
        pauses: tuple[float, ...] = (0.001, 0.01, 0.1, 1.0),
    ) -> None:
        self._random = random.Random(seed)
        self._pauses = pauses
        self.healed = False
        self.met: Counter[str] = Counter()
        """How often each kind of event has truly happened in this world."""
        self.level, self.list_lag = level or 0.0, list_lag
        if level is None:
            # Each schedule has its own temper: some are calm, some fail everywhere.
            self.level = self._random.choice((0.0, 0.02, 0.1, 0.3))
            self.list_lag = self._random.choice((0.0, 5.0, 50.0))

    def strikes(self, share: float = 1.0) -> bool:
        """Whether a fault happens here; `share` makes it rarer or more frequent."""
        return not self.healed and self._random.random() < self.level * share

    def befalls(self, probability: float) -> bool:
        """Whether something befalls the world, however often calls fail in it; never a calm one."""
        return not self.healed and self.level > 0 and self._random.random() < probability

    def between(self, low: float, high: float) -> float:
        return self._random.uniform(low, high)

    def choice(self, *options: Any) -> Any:
        return self._random.choice(options)

    async def pause(self) -> None:
        """Lets time pass at an await, so that schedules differ."""
        await asyncio.sleep(self._random.choice(self._pauses))


class ModelKube(KubeClient):
    """Objects with versions, a status of its own, finalizers and uids."""

    def __init__(self, chance: Chance) -> None:
        self.objects: dict[tuple[str, str, str], Body] = {}
        self.on_write: list[Any] = []
        self._chance = chance
        self.forced: set[str] = set()
        """Uids of what users took away by force."""
        self.names: dict[str, tuple[str, str]] = {}
        """Namespace and name of all that was ever created, by uid."""
        self._events: list[Body] = []
        self._read: dict[str, Any] = {}
        self._copies: dict[str, Body] = {}
        """What is sent of each stored version: one copy, which nobody may change."""
        self._clock = VirtualClock()
        self._terminating: set[str] = set()
        self.refused: dict[str, ClusterError] = {}
        """What it says to a verb and kind, as `create Pod`: a quota, a policy, a webhook."""
        self.asked: list[tuple[float, str]] = []
        """When it was asked what it refuses, and what that was."""
        self.is_down = False
        """Whether nobody reaches it."""
        self.loses_answers = False
        """Whether it does what it is asked, and nobody hears of it."""
        self._version = 0
        self._uids = 0

    async def close(self) -> None:
        return

    async def get(self, kind: str, namespace: str, name: str) -> Body:
        await self._unreliable("get", kind)
        key = (kind, namespace, name)
        if key not in self.objects:
            raise ObjectGone(name)
        return self._sent(self.objects[key])

    async def list_all(self, kind: str, selector: str = "", fields: str = "") -> list[Body]:
        await self._unreliable()
        return [self._sent(body) for body in self.of_kind(kind) if matches(body, fields)]

    async def everywhere(self, kind: str, selector: str) -> list[Body]:
        return await self.list_all(kind, selector)

    async def page(
        self,
        kind: str,
        namespace: str | None,
        *,
        limit: int,
        token: str = "",
        selector: str = "",
        fields: str = "",
        bytes_max: int = 0,
    ) -> tuple[list[Body], str, str]:
        """One page holds all. What is refused of one namespace is, for example, `list team`."""
        assert not token, "there is no other page"
        if namespace is not None:
            await self._unreliable("list", namespace)
        found = await self.list_all(kind, selector, fields)
        inside = [one for one in found if namespace in (None, one["metadata"]["namespace"])]
        return inside, "", str(self._version)

    async def versions(self, kind: str, namespace: str | None) -> dict[tuple[str, str], str]:
        found, _, _ = await self.page(kind, namespace, limit=0)
        metas = [one["metadata"] for one in found]
        return {(one["namespace"], one["name"]): one["resourceVersion"] for one in metas}

    async def version(self, kind: str, namespace: str, name: str) -> str:
        return str((await self.get(kind, namespace, name))["metadata"]["resourceVersion"])

    async def create(self, kind: str, namespace: str, body: Body) -> Body:
        await self._unreliable("create", kind)
        if kind == "Event":
            self._events.append(body)
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
            "creationTimestamp": _wire(self._clock.now()),
        }
        self.names[stored["metadata"]["uid"]] = key[1:]
        self._put(key, stored)
        await self._answer_lost()
        return self._sent(stored)

    async def write_status(self, kind: str, stored: Mapping[str, Any], status: Body) -> Body:
        await self._unreliable("write_status", kind)
        body = self._current(kind, stored)
        key = (kind, body["metadata"]["namespace"], body["metadata"]["name"])
        body["status"] = _copy(status)
        self._put(key, body)
        await self._answer_lost()
        return self._sent(body)

    async def set_finalizers(
        self,
        kind: str,
        stored: Mapping[str, Any],
        finalizers: list[str],
        annotations: Mapping[str, str] | None = None,
    ) -> Body:
        await self._unreliable("set_finalizers", kind)
        body = self._current(kind, stored)
        if "deletionTimestamp" in body["metadata"] and set(finalizers) - set(
            body["metadata"].get("finalizers", [])
        ):
            raise Invalid("no new finalizers while it is being deleted")
        body["metadata"]["finalizers"] = list(finalizers)
        if annotations:
            body["metadata"]["annotations"] = {
                **body["metadata"].get("annotations", {}),
                **annotations,
            }
        self._put((kind, body["metadata"]["namespace"], body["metadata"]["name"]), body)
        return self._sent(body)

    async def replace(self, kind: str, stored: Mapping[str, Any]) -> Body:
        await self._unreliable()
        self._current(kind, stored)
        body = _copy(dict(stored))
        self._put((kind, body["metadata"]["namespace"], body["metadata"]["name"]), body)
        await self._answer_lost()
        return self._sent(body)

    async def delete(self, kind: str, namespace: str, name: str, uid: str | None = None) -> None:
        await self._unreliable("delete", kind)
        held = self.objects.get((kind, namespace, name))
        if held is not None and uid is not None and held["metadata"]["uid"] != uid:
            raise Conflict(name)
        self.delete_now(kind, namespace, name)

    # --- What users and the rest of a cluster do, at once and without fail -------------------

    def terminate(self, namespace: str) -> None:
        """Deletes a namespace: nothing new is let in, everything in it is deleted."""
        self._terminating.add(namespace)
        for kind, held, name in list(self.objects):
            if held == namespace:
                self.delete_now(kind, held, name)

    def vanish(self, kind: str, namespace: str, name: str) -> None:
        """Deletes an object by force: its finalizers are taken away first."""
        body = _next(self.objects[kind, namespace, name])
        self.forced.add(body["metadata"]["uid"])
        body["metadata"]["finalizers"] = []
        self._put((kind, namespace, name), body)
        self.delete_now(kind, namespace, name)

    def orphan(self, kind: str, namespace: str, name: str) -> None:
        """Takes an object's owner references away."""
        body = _next(self.objects[kind, namespace, name])
        body["metadata"]["ownerReferences"] = []
        self._put((kind, namespace, name), body)

    def delete_now(self, kind: str, namespace: str, name: str) -> None:
        key = (kind, namespace, name)
        body = self.objects.get(key)
        if body is None:
            return
        body = _next(body)
        body["metadata"].setdefault("deletionTimestamp", _wire(self._clock.now()))
        body["metadata"].setdefault("deletionGracePeriodSeconds", 10)
        self._put(key, body)

    def set_clock(self, ahead_seconds: float) -> None:
        """Sets the clock of the API server, by which it dates objects."""
        self._clock.ahead_seconds = ahead_seconds

    def lose_node(self, pod: str, namespace: str) -> None:
        """The node of a pod dies: nobody there takes the pod away when it is deleted."""
        body = _next(self.objects["Pod", namespace, pod])
        body["metadata"]["finalizers"] = ["a kubelet"]
        self._put(("Pod", namespace, pod), body)

    def change(self, kind: str, namespace: str, name: str, **spec: Any) -> None:
        body = _next(self.objects[kind, namespace, name])
        body["spec"] = body["spec"] | spec
        self._put((kind, namespace, name), body)

    def set_status(self, kind: str, namespace: str, name: str, status: Body) -> None:
        body = _next(self.objects[kind, namespace, name])
        body["status"] = status
        self._put((kind, namespace, name), body)

    def of_kind(self, kind: str) -> list[Body]:
        return [body for (held, *_), body in self.objects.items() if held == kind]

    def events_of(self, reason: str) -> list[Body]:
        """Returns the events that give this reason, oldest first."""
        return [one for one in self._events if one["reason"] == reason]

    def by_uid(self, uid: str) -> Body | None:
        return next((b for b in self.objects.values() if b["metadata"]["uid"] == uid), None)

    def read(self, model: type[Read], body: Body) -> Read:
        """Returns a stored object in the operator's words; each version is read once."""
        version = body["metadata"]["resourceVersion"]
        if version not in self._read:
            self._read[version] = model.model_validate(body)
        found: Read = self._read[version]
        return found

    def _sent(self, body: Body) -> Body:
        """Returns a stored object as whoever calls over a wire gets it: not the very one.

        All get the same copy, since one for each call costs much and nobody may change it.
        """
        version = body["metadata"]["resourceVersion"]
        if version not in self._copies:
            self._copies[version] = _copy(body)
        return self._copies[version]

    def check_sent(self, body: Body) -> None:
        """Fails if somebody has changed what was sent to all of this version."""
        if self._copies.get(body["metadata"]["resourceVersion"], body) != body:
            raise Broken(f"somebody changed what was read: {body['metadata']['name']}")

    def _current(self, kind: str, stored: Mapping[str, Any]) -> Body:
        meta = stored["metadata"]
        held = self.objects.get((kind, meta["namespace"], meta["name"]))
        if held is None:
            raise ObjectGone(meta["name"])
        same = ("uid", "resourceVersion")
        if any(held["metadata"][field] != meta[field] for field in same):
            raise Conflict(meta["name"])
        return _next(held)

    def _put(self, key: tuple[str, str, str], body: Body) -> None:
        before, meta = self.objects.get(key), body["metadata"]
        if before == body:
            # Nothing is written, and nobody is told.
            return
        if before is not None:
            self.check_sent(before)
            leaves = "deletionTimestamp" in meta and "deletionTimestamp" not in before["metadata"]
            changed = before.get("spec") != body.get("spec")
            meta["generation"] = before["metadata"]["generation"] + (leaves or changed)
        self._version += 1
        meta["resourceVersion"] = str(self._version)
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

    async def _unreliable(self, verb: str = "", kind: str = "") -> None:
        await self._chance.pause()
        if (error := self.refused.get(f"{verb} {kind}")) is not None:
            self.asked.append((self._clock.monotonic(), f"{verb} {kind}"))
            raise error
        if self.is_down or self._chance.strikes(0.3):
            raise ClusterUnavailable("503")

    async def _answer_lost(self) -> None:
        if self.loses_answers or self._chance.strikes(0.2):
            raise ClusterUnavailable("the answer was lost")


def matches(body: Body, fields: str) -> bool:
    """Whether a selector of one field matches an object; as in the API server, a field that is not
    there is the empty string.
    """
    if not fields:
        return True
    path, is_equal, wanted = _read_selector(fields)
    found: Any = body
    for part in path:
        found = (found or {}).get(part)
    text = "" if found is None else json.dumps(found).strip('"')
    return (text == wanted) is is_equal


@cache
def _read_selector(fields: str) -> tuple[list[str], bool, str]:
    path, wanted = re.split("!?=", fields)
    return path.split("."), "!=" not in fields, wanted


def shown(body: Body, gone: bool, before: Body | None, fields: str) -> tuple[Body, bool] | None:
    """Returns what a watch with this selector shows of a write, and if as deleted; None = nothing.

    What leaves the selector is shown as it was before, with its new version.
    """
    is_in = not gone and matches(body, fields)
    if is_in or before is None:
        return (body, gone) if is_in else None
    if not matches(before, fields):
        return None
    if gone:
        return body, True
    version = body["metadata"]["resourceVersion"]
    return before | {"metadata": before["metadata"] | {"resourceVersion": version}}, True


class _CallersClock(VirtualClock):
    """The clock of the process that makes the present call: all share one model of the client."""

    def now(self) -> datetime:
        process = CALLER.get()
        return super().now() if process is None else process.clock.now()


class ModelProvider(VastRequests):
    """A `Provider` over the market model, with the provider's lies.

    What may be repeated is asked and read by the operator's own code, over a channel that sends no
    bytes. The log and the rent, whose HTTP is the client's own business, are played here.
    """

    def __init__(self, market: Market, kube: ModelKube, chance: Chance) -> None:
        super().__init__(_CallersChannel(_Channel(self)), _CallersClock(), Scrubber())
        self.market = market
        self.account = ACCOUNT
        """Whose token is in use."""
        self.failed_pulls: dict[str, FailedPull] = {}
        """By image."""
        self.left_standing = 0
        """How many of the next machines stand still until they are told to run."""
        self.deaf = 0
        """How many of the next destroys come to nothing."""
        self.lies: set[str] = set()
        """Lies that are told in each listing."""
        self.word: str | None = "running"
        """How each listing shows machines that run."""
        self.ahead_seconds: float | None = 0.0
        """How far the Date of each answer is from the time; None = it has none."""
        self.is_unled = False
        """Whether nobody leads: then an end that cannot be stored is carried out all the same."""
        self.problems: list[BaseException] = []
        """What must never be asked for, and was."""
        self.leads: Callable[[Process | None], bool] = lambda _: True
        """Whether a process leads now."""
        self.thresholds = Thresholds()
        """All replicas ask from one address."""
        self.received: list[tuple[float, str, str]] = []
        """Provider's time, method and path of each request that it took."""
        self._sent: set[str] = set()
        """Marks of all rent requests that arrived."""
        self._accepted: set[tuple[str, ...]] = set()
        """Attempts by name under which a machine was rented."""
        self.held: dict[int, int] = {}
        """The money deadline that each machine's watchdog holds to, in seconds."""
        self.are_caps_watched = False
        """Whether watchdogs look at the caps on traffic, too."""
        self.overdue: list[int] = []
        """Machines whose watchdogs had to destroy them at that deadline."""
        self.markers: dict[int, dict[str, Any]] = {}
        """The stored rent marker with which each of our machines was asked for, by its number."""
        self._kube = kube
        self._chance = chance
        self._time = VirtualClock()
        self.foreign = frozenset(self._rent_to_others())
        """Machines of the same account that are nothing to this cluster."""

    def _rent_to_others(self) -> list[int]:
        """Another cluster's machine, and one that somebody rented by hand."""
        others = [n for n, facts in self.market.offers.items() if facts.gpu_name != "RTX 4090"]
        rented = []
        for number, label in zip(others, ("other/node/job", None), strict=False):
            ask = Ask("image", 8.0, label, {}, None, "ssh_direc ssh_proxy")
            rented.append(self.market.rent(number, ask, self.now(), boot_seconds=30.0).number)
        return rented

    def forget(self) -> None:
        """A backup of the cluster is restored: the names of attempts may be used again."""
        self._accepted.clear()

    def reprice(self, offer: int) -> None:
        """Its host changes the price of an offer, and the lowest bid for it."""
        facts = self.market.offers[offer]
        price, bid = (self._chance.between(0.8, 1.25) for _ in range(2))
        self.market.offers[offer] = replace(
            facts,
            dph_base=f"{float(facts.dph_base) * price:.6f}",
            min_bid=f"{float(facts.min_bid) * bid:.6f}",
        )
        self._chance.met["price changed"] += 1

    def now(self) -> float:
        """Returns the provider's time."""
        return (START + timedelta(seconds=self._time.monotonic())).timestamp()

    def advance(self) -> None:
        """Boots what is due and loses the hosts that die."""
        now = self.now()
        for lease in self.market.due(now):
            self.market.enter(lease.number, "running", now)
            if self._chance.strikes(0.5):
                dies_at = now + self._chance.between(1, 300)
                self.market.change(lease.number, dies_at=dies_at)
        self.market.give_up_pulls(now)
        for lease in self.market.dying(now):
            self.market.enter(lease.number, "offline", now)
        for lease in self.market.outbids(now):
            self.market.outbid(lease.number, now)
        for lease in self.market.resuming(now):
            self.market.resume(lease.number, now)
        self._watch(now)

    def _watch(self, now: float) -> None:
        """Each machine's own watchdog destroys it at its money deadline, and past its caps.

        It looks only while the machine runs, but counts all the time since its first start; and it
        has looked before a driver can tell it anything.
        """
        for lease in list(self.market.leases.values()):
            if lease.state != "running" or lease.ask.onstart is None:
                continue
            began = lease.entered("running")
            assert began is not None, "it runs"
            if lease.number not in self.held:
                told = re.search(r"money=(\d+)", lease.ask.onstart)
                assert told is not None, "each start script has a watchdog"
                self.held[lease.number] = int(told[1])
            marker = self.markers.get(lease.number, {}) if self.are_caps_watched else {}
            down, up = marker.get("maxDownloadGB", inf), marker.get("maxUploadGB", inf)
            if is_overdue := now - began >= self.held[lease.number]:
                self.overdue.append(lease.number)
            if is_overdue or lease.download_gb > down or lease.upload_gb > up:
                self.market.enter(lease.number, "destroyed", now)
                self._chance.met["destroyed by its watchdog"] += 1

    async def answer(
        self, method: str, path: str, body: Mapping[str, Any], query: Mapping[str, str]
    ) -> Answer:
        """Answers a request as the provider does, or raises."""
        await self._unreliable()
        self.receive(method, path)
        if path == "/api/v0/users/current":
            credit = float(self.market.credit(self.now()))
            answer: dict[str, Any] = {"id": self.account, "credit": credit}
        elif path == "/api/v0/bundles/":
            if "searches refused" in self.lies:
                raise ProviderUnavailable("status 503")
            found = search_offers(self.market.offers, body, self.now(), OFFERS_WANTED)
            answer = {"offers": found}
            if self._chance.strikes():
                self._chance.met["search took long"] += 1
                await asyncio.sleep(self._chance.between(2, 25))
        elif path == "/api/v1/instances/":
            answer = self._listed(query)
        elif method == "PUT":
            answer = self._started(int(path.rstrip("/").rpartition("/")[2]), body)
        elif method == "POST" and path.endswith("/ssh/"):
            answer = self._attached(int(path.split("/")[-3]), body)
        elif method == "DELETE":
            answer = self._destroyed(int(path.rstrip("/").rpartition("/")[2]))
        else:
            raise AssertionError(f"{method} {path} is not modelled")
        await self._chance.pause()
        return Answer(answer, self._dated())

    def _dated(self) -> dict[str, str]:
        if self.ahead_seconds is None:
            return {}
        try:
            shown = self._time.now() + timedelta(seconds=self.ahead_seconds)
        except OverflowError:
            return {"Date": "Fri, 31 Dec 9999 23:59:59 GMT"}
        return {"Date": format_datetime(shown, usegmt=True)}

    def receive(self, method: str, path: str) -> None:
        """Takes a request; raises RateLimited if it comes too early."""
        refused = self.thresholds.judge(method, path, key="", address="", now=self.now())
        if refused is not None:
            raise rate_limited(refused.body.encode(), refused.headers)
        self.received.append((self.now(), method, path))

    def _listed(self, query: Mapping[str, str]) -> dict[str, Any]:
        """One page of all machines, by number; a lie is told on each page."""
        self.advance()
        if "listings refused" in self.lies:
            raise ProviderUnavailable("status 503")
        now, fault = self.now(), PRESENT_FAULT.get()
        shown = sorted(self.market.listed(now), key=lambda lease: lease.number)
        if self.account != ACCOUNT:
            shown = []
        if fault == "machine left out":
            shown = [one for one in shown if one.number in self.foreign]
        after = int(query.get("after_token") or 0)
        rest = [one for one in shown if one.number > after]
        page = [
            instance_row(one, Endpoint("h.example", 22, 10_022), now) for one in rest[:PAGE_LEASES]
        ]
        word = "offline" if fault == "machine denied" else self.word
        page = [
            row | {"actual_status": word} if row["actual_status"] == "running" else row
            for row in page
        ]
        if "marks left out" in (fault, *self.lies):
            page = [row | {"label": None, "extra_env": None} for row in page]
        more = len(rest) > PAGE_LEASES
        return {
            "instances": page * 2 if fault == "row repeated" else page,
            "total_instances": len(shown),
            "next_token": str(page[-1]["id"]) if more else None,
        }

    def _started(self, number: int, body: Mapping[str, Any]) -> dict[str, Any]:
        if body != {"state": "running"}:
            raise AssertionError(f"{body} is not modelled")
        if self.account != ACCOUNT:
            raise ProviderUnavailable("status 404: no_such_instance")
        if PRESENT_FAULT.get() is None and not self.leads(CALLER.get()):
            raise Broken("a machine is told to run by a process that does not lead")
        if self.market.leases[number].state in ("stopped", "given up"):
            self.market.resume(number, self.now())
        return {"success": True}

    def _attached(self, number: int, body: Mapping[str, Any]) -> dict[str, Any]:
        """A node's key may go to its own machine only."""
        if self.account != ACCOUNT or number not in self.market.leases:
            raise ProviderUnavailable("status 404: no_such_instance")
        mark = Mark.parse(self.market.leases[number].label)
        node = self._kube.by_uid(mark.node_uid) if mark is not None else None
        key = node.get("status", {}).get("sshPublicKey") if node is not None else None
        if key is not None and key != body["ssh_key"]:
            raise Broken(f"{number} gets the key of another node")
        if self._chance.strikes():
            raise ProviderUnavailable("the answer was lost")
        return {"success": True}

    def _destroyed(self, number: int) -> dict[str, Any]:
        fault = PRESENT_FAULT.get()
        if fault == "not found" or self.account != ACCOUNT:
            raise ProviderUnavailable("status 404: no_such_instance")
        mark = Mark.parse(self.market.leases[number].ask.label)
        node = self._kube.by_uid(mark.node_uid) if mark is not None else None
        status = node.get("status", {}) if node is not None else {}
        recorded = status.get("lease", {}).get("instanceID") == number
        caller = CALLER.get()
        # Whose node is gone is an orphan, which the sweep ends whoever leads.
        if node is not None and caller is not None and caller.is_guarding and "end" not in status:
            self._check_guarded(number)
        elif recorded and "end" not in status and not self.is_unled:
            raise Broken(f"{number} is to be destroyed, and its attempt was not ended")
        elif status.get("rent") and "lease" not in status and "releasedAt" not in status:
            raise Broken(f"{number} is to be destroyed, and nobody has recorded it")
        if self.deaf:
            self.deaf -= 1
        elif fault != "destroy ignored" and not self._chance.strikes():
            self.market.enter(number, "destroyed", self.now())
        if self._chance.strikes():
            raise ProviderUnavailable("the answer was lost")
        return {"success": True}

    def _check_guarded(self, number: int) -> None:
        """A process that has lost its lock destroys no machine before its first fuse."""
        lived = self.now() - self.market.leases[number].created_at
        if lived < self.markers[number]["moneyDeadlineSeconds"] - GUARD_EARLY_SECONDS:
            raise Broken(f"{number} is destroyed before its money deadline, by nobody who leads")
        self._chance.met["fuse guarded"] += 1

    async def read_log(self, instance_id: int) -> str | None:
        """Returns the machine's log."""
        await self._unreliable()
        if PRESENT_FAULT.get() == "not found" or self.account != ACCOUNT:
            raise ProviderUnavailable("status 404: no_such_instance")
        lease = self.market.leases[instance_id]
        setup = b64decode(lease.ask.env.get("GPUJOB_SETUP", "")).decode()
        nonce = re.search(r"gpujob-host-key ([0-9a-f]+)", setup)
        if lease.state != "running" or nonce is None:
            return None
        return f"noise\ngpujob-host-key {nonce[1]} {HOST_KEY} {nonce[1]}\n"

    @asynccontextmanager
    async def rent_line(self) -> AsyncIterator[RentLine]:
        """Opens the line for one request."""
        await self._unreliable()
        yield ModelLine(self, self._chance)

    def rent(self, request: Rent, account: int) -> int:
        """Rents, and returns the machine's number; the invariants of a rent are checked here, where
        money begins to flow.
        """
        if request.mark in self._sent:
            raise Broken(f"a second rent request under {request.mark}")
        self._sent.add(request.mark)
        mark = Mark.parse(request.mark)
        assert mark is not None, "every request is marked"
        node = self._kube.by_uid(mark.node_uid)
        attempt = (mark.job_uid, *self._kube.names[mark.node_uid])
        if attempt in self._accepted:
            raise Broken(f"a second machine under the attempt {attempt}")
        if node is not None:
            if "rent" not in node.get("status", {}):
                raise Broken("a rent without a stored marker")
            if node["status"]["rent"]["accountID"] != account:
                raise Broken("a rent on an account that the marker does not name")
            if FINALIZER not in node["metadata"]["finalizers"]:
                raise Broken("a rent for a node that may go at any moment")
        if PRESENT_FAULT.get() != "request astray" and not self.leads(CALLER.get()):
            raise Broken("a rent by a process that does not lead")
        if account != ACCOUNT:
            raise RefusedError(400, "insufficient_credit", "Your account lacks credit.")
        ask = Ask(
            image=request.image,
            disk_gb=request.disk_gb,
            label=request.mark,
            env={"GPUJOB_MARK": request.mark, "GPUJOB_SETUP": request.setup},
            onstart=request.start_script,
            runtype="ssh_direc ssh_proxy",
            bid_usd_per_hour=request.bid_usd_per_hour,
        )
        if self._chance.strikes(0.3) and request.offer_id in self.market.offers:
            self.reprice(request.offer_id)
        never = 10.0**9
        boot = never if self._chance.strikes(0.3) else self._chance.between(5, 200)
        failed, stands = self.failed_pulls.get(request.image), self.left_standing > 0
        self.left_standing -= stands
        try:
            number = self.market.rent(
                request.offer_id,
                ask,
                self.now(),
                boot_seconds=boot,
                failed_pull=failed,
                is_left_standing=stands,
            ).number
        except RefusedError as error:
            # A bid that is too low is refused, and leaves a machine (`HttpRentLine`).
            if (left := error.body.get("new_contract")) is None:
                raise
            self._chance.met["bid too low"] += 1
            number = left
        self._accepted.add(attempt)
        if node is not None:
            self.markers[number] = node["status"]["rent"]
        if PRESENT_FAULT.get() == "request astray":
            self._chance.met["rent delivered late"] += 1
        return number

    async def _unreliable(self) -> None:
        await self._chance.pause()
        if self._chance.strikes():
            raise ProviderUnavailable("html")


class _Channel:
    """A `Channel` that ends at the model."""

    def __init__(self, provider: ModelProvider) -> None:
        self._provider = provider

    async def request(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        query: Mapping[str, str] | None = None,
    ) -> Answer:
        try:
            return await self._provider.answer(method, path, body or {}, query or {})
        except AssertionError as error:
            # The operator's own code takes it for an answer that cannot be read, and goes on.
            self._provider.problems.append(error)
            raise


class _CallersChannel:
    """The channel of the process that makes the present call, at its pace."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    async def request(self, *asked: Any, **more: Any) -> Answer:
        process = CALLER.get()
        paced = PacedChannel(self._channel, process.door) if process else self._channel
        return await paced.request(*asked, **more)


class ModelLine:
    """A `RentLine`: one rent request, with everything that can become of it."""

    def __init__(self, vast: ModelProvider, chance: Chance) -> None:
        self._vast = vast
        self._chance = chance
        self._clock = _CallersClock()
        self.account_id = vast.account

    async def send(
        self, request: Rent, timeout_seconds: float, login: RegistryLogin | None = None
    ) -> int:
        """Rents, or not; answers, or not."""
        left = (request.not_after - self._clock.now()).total_seconds()
        if PRESENT_FAULT.get() == "request astray":
            # The provider's side may take it until the caller's time-out has passed, if it was
            # sent at the last allowed moment.
            await asyncio.sleep(left + timeout_seconds - 0.1)
            return self._vast.rent(request, self.account_id)
        if left < 0:
            raise RentWithheld("too late")
        await self._chance.pause()
        if self._chance.strikes():
            # Read and thrown away: nothing is rented, no answer comes.
            await asyncio.sleep(timeout_seconds)
            raise RentUnclear("timeout")
        try:
            self._vast.receive("PUT", f"/api/v0/asks/{request.offer_id}/")
            number = self._vast.rent(request, self.account_id)
        except RateLimited as error:
            raise RentUnclear(str(error)) from None
        except RefusedError as error:
            raise RentDenied(str(error)) from None
        await self._chance.pause()
        if self._chance.strikes():
            await asyncio.sleep(timeout_seconds)
            raise RentUnclear("timeout")
        return number


class ModelDrivers:
    """Driver pods that start, report, run their workload, and end by the assignment."""

    def __init__(
        self,
        kube: ModelKube,
        vast: ModelProvider,
        chance: Chance,
        limits: Limits,
        run_seconds: float,
        exit_codes: tuple[int, ...],
    ) -> None:
        self._kube = kube
        self._vast = vast
        self._limits = limits
        self._chance = chance
        self.run_seconds = run_seconds
        self._monotonic = VirtualClock().monotonic
        self._exit_codes = exit_codes
        """By attempt; the last one goes on."""
        self._started: dict[tuple[int, int], tuple[float, float]] = {}
        """When the workload began and its container had, by instance and run: it goes on whatever
        its driver does, as long as the container runs."""
        self._stopped: dict[tuple[int, int], float] = {}
        """When it was told to end."""
        self._sequence = 0
        self.heard: dict[str, Heard] = {}
        self.is_deaf = False
        """Whether no watchdog takes another deadline."""
        self.cut_off: set[str] = set()
        """Uids of pods on nodes that nobody reaches: they neither start nor report."""
        self.are_pending = False
        """Whether no pod starts."""
        self.accusing: set[str] = set()
        """Namespaces in which every driver says that its machine has no GPU."""
        self._deadlines: dict[str, int] = {}
        self._contacts: dict[str, float] = {}
        """When the machine of each node answered its driver last."""
        self._told: dict[str, tuple[WorkloadPhase, Outcome | None]] = {}
        self._jobs: dict[str, GpuJob] = {}
        """The job of each node's assignment, as it was read last."""

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
            if meta["uid"] in self.cut_off:
                continue
            if phase == "Pending" and not self.are_pending and not self._chance.strikes():
                self._kube.set_status(*_key(pod), {"phase": "Running"})
            if phase != "Running":
                continue
            if self._chance.strikes(0.02):
                self._kube.delete_now(*_key(pod))
                continue
            node_name = meta["labels"]["gpujob.dev/node"]
            body = self._kube.objects.get(("GpuNode", meta["namespace"], node_name))
            node = self._kube.read(GpuNode, body) if body else None
            driver = node.status.driver if node else None
            if node is None or meta["ownerReferences"][0]["uid"] != node.metadata.uid:
                continue
            is_recorded = driver is not None and driver.pod_uid == meta["uid"]
            if not is_recorded and not may_be_driver(node, meta["name"]):
                continue
            job_body = self._kube.objects.get(("GpuJob", meta["namespace"], node.spec.job_ref.name))
            try:
                job = self._kube.read(GpuJob, job_body) if job_body else None
            except ValidationError:
                # The controller cannot tell it what to do, so it goes on.
                job = self._jobs.get(node.metadata.uid)
            if job is not None:
                self._jobs[node.metadata.uid] = job
            self._report(pod, node, job)

    def move(self, lease: Lease, seconds: float, share: float) -> None:
        """A machine moves data for a while, at a share of what its line carries."""
        down, up = (
            Fraction(mbps * seconds * share / 8000)
            for mbps in (lease.facts.inet_down_mbps, lease.facts.inet_up_mbps)
        )
        now = self._vast.now()
        self._vast.market.count(lease.number, lease.download_gb + down, lease.upload_gb + up, now)
        self._chance.met["traffic"] += 1

    def _report(self, pod: Body, node: GpuNode, job: GpuJob | None) -> None:
        now = self._monotonic()
        todo = assignment(node, job, self._limits)
        if todo.instruction is Instruction.EXIT:
            self._kube.set_status(*_key(pod), {"phase": "Succeeded"})
            return
        ran: float | None = None
        run_number = 0
        outcome = fault = None
        lease_status = node.status.lease
        lease = self._vast.market.leases.get(lease_status.instance_id) if lease_status else None
        answers = lease is not None and lease.state == "running"
        measured = None
        if todo.instruction is Instruction.MEASURE and answers:
            measured = _measured(node)
            if node.metadata.namespace in self.accusing:
                measured = measured.model_copy(update={"gpus": ()})
        if todo.work is not None and lease is not None and answers:
            run_number = todo.work.run_number
            booted_at = lease.history[-1][0]
            began, born = self._started.setdefault((lease.number, run_number), (now, booted_at))
            ran = now - began
            if born != booted_at:
                # What ran there is gone, and it is for the controller to run it again.
                ran, fault = None, MachineFault.MACHINE_RESTARTED
                self._chance.met["restarted unseen"] += 1
            elif ran >= self.run_seconds:
                attempt = min(node.spec.attempt, len(self._exit_codes))
                code = self._exit_codes[attempt - 1]
                outcome = Outcome(exit_code=code, run_seconds=self.run_seconds)
            elif todo.instruction is Instruction.STOP:
                # Told to end, it does so sooner or later; one in four has to be killed for it.
                told = self._stopped.setdefault((lease.number, run_number), now)
                if now - told >= (10.0 if lease.number % 4 == 0 else 2.0):
                    outcome = Outcome(exit_code=143, run_seconds=ran)
        uid = node.metadata.uid
        if todo.work is None:
            # A machine that was taken away is another one when it comes back.
            self._contacts.pop(uid, None)
        elif ran is not None:
            self._contacts[uid] = now
        contact = self._contacts.get(uid)
        phase = WorkloadPhase.WAITING if ran is None else WorkloadPhase.RUNNING
        phase = WorkloadPhase.MEASURED if measured else phase
        phase = WorkloadPhase.FINISHED if outcome else phase
        self._sequence += 1
        report = DriverReport(
            version=1,
            node_uid=uid,
            session=1,
            sequence=self._sequence,
            measured=measured,
            phase=phase,
            machine_contact_age_seconds=None if contact is None else now - contact,
            run_number=run_number,
            run_seconds=ran,
            outcome=outcome,
            fault=fault,
            money_deadline_seconds=self._told_deadline(uid, todo, lease if answers else None),
        )
        self.heard[uid] = Heard(report, pod["metadata"]["uid"], now)

    def _told_deadline(self, uid: str, todo: Assignment, lease: Lease | None) -> int | None:
        """Returns what the watchdog of a machine that answers holds to, once it was told."""
        if lease and not self.is_deaf and todo.money_deadline_seconds is not None:
            self._deadlines[uid] = todo.money_deadline_seconds
            self._vast.held[lease.number] = todo.money_deadline_seconds
        return self._deadlines.get(uid)


def _measured(node: GpuNode) -> Measured:
    """What the machine of a node tells of itself: what its offer says."""
    assert node.status.rent is not None, "measured once it was rented"
    count, _, model = node.status.rent.gpu.partition("x ")
    gpu = Gpu(name=model, memory_mib=1024 * (node.status.rent.gpu_memory_gb or 0))
    return Measured(
        gpus=(gpu,) * int(count),
        cpu_cores=64,
        memory_mib=10**6,
        memory_free_mib=10**6,
        disk_mib=10**6,
        disk_free_mib=10**6,
        disk_write_mbps=500.0,
        watchdog_client=WatchdogClient.CURL,
        watchdog_runs=True,
    )


def _copy(body: Body) -> Body:
    """Returns a copy, as whoever calls over a wire gets one; much faster than a deep copy."""
    copied: Body = marshal.loads(marshal.dumps(body))
    return copied


def _next(body: Body) -> Body:
    """Returns the next version of a stored object: a copy whose parts may be replaced, not changed.

    Only the metadata are changed in place.
    """
    return body | {"metadata": dict(body["metadata"])}


def _key(body: Body) -> tuple[str, str, str]:
    meta = body["metadata"]
    return "Pod", meta["namespace"], meta["name"]


def _wire(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")
