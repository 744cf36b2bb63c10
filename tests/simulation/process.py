"""The replicas' processes, and the faults that strike the calls they make.

Every await of the operator that leaves its process is a call through here, numbered in the order in
which all replicas make them. A fault strikes one call, or the process that makes it.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.simulation.branches import Branches, Strikes

from gpujob.adapters.door import Door
from gpujob.adapters.errors import (
    AdapterError,
    ClusterUnavailable,
    ProviderUnavailable,
    RentUnclear,
)
from gpujob.adapters.kube import KubeClient


class Broken(AssertionError):
    """An invariant does not hold."""


START = datetime(2026, 1, 1, tzinfo=UTC)


class VirtualClock:
    """A process's clocks, from the loop; the wall clock may be wrong."""

    def __init__(self) -> None:
        # To ask for the running loop is a system call each time.
        self.monotonic = asyncio.get_running_loop().time
        self.ahead_seconds = 0.0

    def now(self) -> datetime:
        return START + timedelta(seconds=self.monotonic() + self.ahead_seconds)

    def set_right(self) -> None:
        """Ends a step of the wall clock."""
        self.ahead_seconds = 0.0


STOPPED_SECONDS = 400.0
"""How long a stopped process stands: longer than any wait of the rules."""
BRIEFLY_SECONDS = 17.0
"""So long that the lock has just run out."""
LATE_SECONDS = 12.0
"""How late a late answer comes: within the time-outs, beyond the lock's retries."""
ASTRAY_SECONDS = 14.0
"""How long a request is on its way after its caller has given it up, or that of a second copy."""

CLOCK_STEPS_SECONDS = {"clock ahead": 3600.0, "clock behind": -3600.0}
DATE_STEPS_SECONDS = {"date ahead": 7200.0, "date behind": -7200.0, "date of another age": 3e11}
"""The last is no date that a client can read."""
CLOCK_WRONG_SECONDS = 300.0
"""Until somebody sets it right."""
SWAPPED_SECONDS = 150.0
"""How long the token of another account is in use: longer than any proof takes."""
WATCH_LAGS_SECONDS = (9.0, 0.5, 4.0)
"""By how much a late watch is late, each kind by another time."""
WATCH_BAD_SECONDS = 100.0
"""How long it is late, or interrupted: longer than from one comparison of the cache to the next."""

WRITES = frozenset(
    {"create", "write_status", "set_finalizers", "replace", "delete", "destroy", "send", "start"}
)
"""Calls that change something outside."""


@dataclass(frozen=True)
class Fault:
    """What can happen at a call."""

    strikes: frozenset[str] | None = None
    """Names of the calls that it can happen to; None = all."""
    ends: frozenset[str] = frozenset()
    """How a job may end besides, if this happened to it."""
    blind_seconds: float = 0.0
    """How long nobody can see which machines are ours."""
    proves_nothing: bool = False
    """Whether no listing proves a machine gone for a while; that time is charged, as a bound."""


FAULTS = {
    "crash before": Fault(),
    "crash after": Fault(),
    "stop before": Fault(),
    "stop after": Fault(),
    "stop briefly": Fault(),
    "stop for good": Fault(),
    "request lost": Fault(),
    "request astray": Fault(WRITES),
    # Never of a rent: it leaves at most once, on a line that is good for one request.
    "request repeated": Fault(WRITES - {"send"}),
    "answer lost": Fault(),
    "answer late": Fault(),
    "machine left out": Fault(frozenset({"list_leases"})),
    "marks left out": Fault(frozenset({"list_leases"})),
    "row repeated": Fault(frozenset({"list_leases"})),
    "machine denied": Fault(frozenset({"list_leases"})),
    "not found": Fault(frozenset({"destroy", "read_log"})),
    "destroy ignored": Fault(frozenset({"destroy"})),
    "node deleted": Fault(
        ends=frozenset({"CeilingExceeded", "MachinesDistrusted", "DeadlineUsedUp"})
    ),
    "clock ahead": Fault(),
    "clock behind": Fault(),
    "date ahead": Fault(proves_nothing=True),
    "date behind": Fault(proves_nothing=True),
    "date of another age": Fault(proves_nothing=True),
    # Nothing is rented meanwhile, and then perhaps nothing fits what was changed meanwhile.
    "account swapped": Fault(ends=frozenset({"CeilingExceeded"}), blind_seconds=SWAPPED_SECONDS),
    "node vanishes": Fault(ends=frozenset({"CeilingExceeded"})),
    "watch late": Fault(),
    "watch interrupted": Fault(),
}
"""What strikes, by name.

A *crash* ends the process, another begins a while later; *stopped* it stands, for a while or until
the other one has brought everything to its end, and then goes on where it was. A request that goes
*astray* takes effect at the last moment, when its caller has long given it up and asked again; a
*repeated* one takes effect twice. *Left out*, *repeated*, *denied* (shown as offline), *not found*
and *ignored* are the provider's lies. A node is deleted, or *vanishes* by force, by a user's hand;
for a while the token in use is that of another account, which has no credit. The *clock* of one
process's machine is an hour ahead or behind for a while; what measures intervals goes on. So is the
*date* of all that the provider answers. The *watch* shows each kind late by another time, or one
kind not at all, for a while.
"""

CRASHES = tuple(name for name in FAULTS if name.startswith("crash"))
ANSWERS = tuple(name for name in FAULTS if name.startswith(("request", "answer", "not", "destroy")))
"""What can become of a call itself."""

PRESENT_FAULT: ContextVar[str | None] = ContextVar("PRESENT_FAULT", default=None)
"""The fault that strikes the present call, for those who play the outside."""


@dataclass
class Calls:
    """The calls of all replicas in their order, and the faults that strike some of them."""

    branches: Branches | None = None
    """The worlds that branch off from this one."""
    strikes: Strikes = field(default_factory=dict)
    """Fault by the call's number."""
    made: list[str] = field(default_factory=list)
    """The calls made so far: `write_status GpuNode`."""
    moments: list[int] = field(default_factory=list)
    """How often the world had changed when each was made."""
    changes: int = 0
    """How often the world has changed."""
    problems: list[BaseException] = field(default_factory=list)
    """What broke where nobody waits for it."""
    _astray: set[asyncio.Task[None]] = field(default_factory=set)

    def next(self, name: str) -> str | None:
        """Counts a call and returns the fault that strikes it."""
        self.made.append(name)
        self.moments.append(self.changes)
        number = len(self.made) - 1
        if self.branches is not None:
            self.strikes = self.branches.at(number)
        return self.strikes.get(number)

    def send_later(self, seconds: float, made: Callable[[], Any], fault: str) -> None:
        """Lets a request take effect a while later, whoever waits for it."""

        async def arrive() -> None:
            PRESENT_FAULT.set(fault)
            await asyncio.sleep(seconds)
            try:
                with suppress(AdapterError):
                    await made()
            except Broken as error:
                self.problems.append(error)

        task = asyncio.ensure_future(arrive())
        self._astray.add(task)
        task.add_done_callback(self._astray.discard)


def can_strike(fault: str, call: str) -> bool:
    """Whether a fault can happen to a call, by its name in `Calls.made`."""
    names = FAULTS[fault].strikes
    return names is None or call.partition(" ")[0] in names


def changes_something(call: str) -> bool:
    """Whether a call has a lasting effect: events are only told, locks renewed all the time."""
    verb, _, kind = call.partition(" ")
    return verb in WRITES and kind not in ("Event", "Lease")


CALLER: ContextVar["Process | None"] = ContextVar("CALLER", default=None)
"""Who makes the present call."""


class Process:
    """What a replica's calls pass through: it may be stopped or killed before and after each."""

    def __init__(
        self,
        calls: Calls,
        on_crash: Callable[["Process"], None],
        on_deed: Callable[[str], None],
    ) -> None:
        self._calls = calls
        self._on_crash = on_crash
        self._on_deed = on_deed
        self._goes_on = asyncio.Event()
        self._goes_on.set()
        self.clock = VirtualClock()
        self.door = Door(self.clock)
        """Its pace towards the provider."""
        self.is_killed = False
        self.is_cut_off = False
        """Whether the API server cannot be reached from it."""
        self.is_guarding = False
        """Whether it has lost its lock, and only guards fuses."""

    @property
    def is_stopped(self) -> bool:
        """Whether it stands."""
        return not self._goes_on.is_set()

    def stop(self) -> None:
        """Stops it as SIGSTOP would; time goes on."""
        self._goes_on.clear()

    def resume(self) -> None:
        """Lets it go on where it was."""
        if not self.is_killed:
            self._goes_on.set()

    async def here(self) -> None:
        """Comes back once it does not stand."""
        await self._goes_on.wait()

    async def _killed(self) -> None:
        self.is_killed = True
        self.stop()
        self._on_crash(self)
        await asyncio.Event().wait()

    def _stopped(self, fault: str) -> None:
        self.stop()
        if fault != "stop for good":
            seconds = BRIEFLY_SECONDS if fault == "stop briefly" else STOPPED_SECONDS
            asyncio.get_running_loop().call_later(seconds, self.resume)

    def view(self, part: Any) -> Any:
        """Returns a part of the world as this process calls it."""
        return _View(self, part)

    async def call(self, part: Any, name: str, made: Callable[[], Any]) -> Any:
        """Makes a call, with the fault that strikes it."""
        try:
            return await self._call(part, name, made)
        except Broken as error:
            # Who made the call may be about to end, and say nothing.
            self._calls.problems.append(error)
            raise

    async def _call(self, part: Any, name: str, made: Callable[[], Any]) -> Any:
        fault = self._calls.next(name)
        CALLER.set(self)
        if self.is_cut_off and isinstance(part, KubeClient):
            await asyncio.sleep(LATE_SECONDS)
            raise _unanswered(part, name)
        if fault is None:
            await self.here()
            answer = await made()
            await self.here()
            return answer
        if fault == "crash before":
            await self._killed()
        if fault == "stop before":
            self._stopped(fault)
        await self.here()
        if fault == "request lost":
            raise _unanswered(part, name)
        if fault == "request astray":
            # A rent knows its own last moment.
            seconds = 0.0 if name == "send" else ASTRAY_SECONDS
            self._calls.send_later(seconds, made, fault)
            raise _unanswered(part, name)
        PRESENT_FAULT.set(fault)
        try:
            answer = await made()
        finally:
            PRESENT_FAULT.set(None)
        await self._answered(fault, part, name, made)
        return answer

    async def _answered(self, fault: str, part: Any, name: str, made: Callable[[], Any]) -> None:
        if fault == "crash after":
            await self._killed()
        if fault in ("stop after", "stop briefly", "stop for good"):
            self._stopped(fault)
        if fault == "request repeated":
            self._calls.send_later(ASTRAY_SECONDS, made, fault)
        if fault == "answer lost":
            raise _unanswered(part, name)
        if fault == "answer late":
            await asyncio.sleep(LATE_SECONDS)
        if fault in CLOCK_STEPS_SECONDS:
            self.clock.ahead_seconds = CLOCK_STEPS_SECONDS[fault]
            asyncio.get_running_loop().call_later(CLOCK_WRONG_SECONDS, self.clock.set_right)
        if fault.startswith(("node", "account", "date", "watch")):
            self._on_deed(fault)
        await self.here()


def _unanswered(part: Any, name: str) -> Exception:
    if isinstance(part, KubeClient):
        return ClusterUnavailable("no answer")
    return RentUnclear("no answer") if name == "send" else ProviderUnavailable("no answer")


class _View:
    """A part of the world whose calls pass through a process."""

    def __init__(self, process: Process, part: Any) -> None:
        self._process = process
        self._part = part

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._part, name)
        if name == "rent_line":
            return self._rent_line
        if not asyncio.iscoroutinefunction(found):
            return found
        of_kind = isinstance(self._part, KubeClient)

        async def call(*arguments: Any, **options: Any) -> Any:
            told = f"{name} {arguments[0]}" if of_kind else name
            return await self._process.call(self._part, told, lambda: found(*arguments, **options))

        # The next call goes straight there.
        self.__dict__[name] = call
        return call

    @asynccontextmanager
    async def _rent_line(self) -> AsyncIterator[Any]:
        async with AsyncExitStack() as stack:
            opened = self._part.rent_line()
            line = await self._process.call(
                self._part, "rent_line", lambda: stack.enter_async_context(opened)
            )
            yield _View(self._process, line)
