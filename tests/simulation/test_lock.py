"""What the lock saves besides the marker, and that it is always given back."""

import asyncio
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import pytest
from tests.simulation.model import Chance, ModelKube
from tests.simulation.process import VirtualClock
from tests.simulation.world import CLUSTER, SETTINGS, World, play

from gpujob.adapters.errors import ClusterUnavailable
from gpujob.adapters.kube import Body
from gpujob.api.gpunode import GpuNode
from gpujob.controller.fuse_guard import guard_fuses
from gpujob.controller.leader_lock import LeaderLock, LockLost
from gpujob.controller.other_releases import (
    ANNOTATION_IDENTITY,
    ANNOTATION_SERVED,
    LABELS,
    OtherRelease,
)


async def _tried(seconds: float) -> World:
    world = World(Chance(0, level=0.0))
    await world.apply("train")
    await world.go_on(seconds)
    await world.end()
    return world


def test_a_lock_that_may_run_out_rents_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A marker that is stored and not followed by a request costs an attempt."""
    truly = LeaderLock.is_held_for
    monkeypatch.setattr(
        LeaderLock, "is_held_for", lambda lock, seconds: seconds == 0 and truly(lock, 0)
    )
    world: World = play(lambda: _tried(120.0))

    assert world.living() == []
    assert all("rent" not in node["status"] for node in world.kube.of_kind("GpuNode"))
    assert world.reason("train") == "AwaitingQuote"


class _SentIsSent(ModelKube):
    """A request takes effect though its caller has ended meanwhile; one release fails at first."""

    def __init__(self, chance: Chance, failures: int) -> None:
        super().__init__(chance)
        self._failures = failures

    async def create(self, kind: str, namespace: str, body: Body) -> Body:
        return await asyncio.shield(super().create(kind, namespace, body))

    async def replace(self, kind: str, stored: Mapping[str, Any]) -> Body:
        if not stored["spec"]["holderIdentity"] and self._failures:
            self._failures -= 1
            raise ClusterUnavailable("503")
        return await asyncio.shield(super().replace(kind, stored))


async def _held_after_a_stop(seed: int, failures: int) -> str:
    chance = Chance(seed, level=0.0)
    kube = _SentIsSent(chance, failures)
    lock = LeaderLock(kube, VirtualClock(), SETTINGS, identity="first")

    async def lead() -> None:
        await lock.acquire()
        await lock.hold()

    leading = asyncio.create_task(lead())
    await asyncio.sleep(chance.between(0.0, 8.0))
    leading.cancel()
    await asyncio.gather(leading, return_exceptions=True)
    await lock.release()
    # What is still on its way arrives.
    await asyncio.sleep(5.0)
    held = [body["spec"]["holderIdentity"] for body in kube.of_kind("Lease")]
    return "".join(held)


@pytest.mark.parametrize("failures", [0, 1])
def test_a_lock_is_given_back_whenever_its_holder_is_told_to_stop(failures: int) -> None:
    """Else nobody leads until it runs out. A renewal on its way makes the release a conflict."""

    def held(seed: int) -> str:
        found: str = play(lambda: _held_after_a_stop(seed, failures))
        return found

    assert {seed for seed in range(300) if held(seed)} == set()


class _CutOff(ModelKube):
    """What one process has of an API server: from some moment on no answers, or late ones."""

    is_cut_off = False
    late_seconds = 0.0

    def __init__(self, truly: ModelKube) -> None:
        self.__dict__ = truly.__dict__

    async def find(self, kind: str, namespace: str, name: str) -> Body | None:
        if self.is_cut_off:
            await asyncio.Event().wait()
        return await super().find(kind, namespace, name)

    async def create(self, kind: str, namespace: str, body: Body) -> Body:
        created = await super().create(kind, namespace, body)
        await asyncio.sleep(self.late_seconds)
        return created


async def _renews_no_more(*, is_cut_off: bool) -> None:
    truly, clock = ModelKube(Chance(0, level=0.0)), VirtualClock()
    kube, stalled = _CutOff(truly), False
    lock = LeaderLock(kube, clock, SETTINGS, identity="first", is_stalled=lambda: stalled)
    await lock.acquire()
    holding = asyncio.create_task(lock.hold())
    await asyncio.sleep(4 * SETTINGS.limits.lock_duration_seconds)
    assert lock.is_held, "it is renewed"
    kube.is_cut_off, stalled = is_cut_off, not is_cut_off
    next_one = LeaderLock(truly, clock, SETTINGS, identity="other")
    acquiring = asyncio.create_task(next_one.acquire())
    await asyncio.wait([holding, acquiring], timeout=60.0, return_when="FIRST_COMPLETED")
    assert holding.done(), "it goes on"
    assert not acquiring.done(), "two lead"
    assert isinstance(holding.exception(), LockLost)
    await asyncio.wait_for(acquiring, 60.0)
    assert not lock.is_held


@pytest.mark.parametrize("is_cut_off", [True, False], ids=["cut off", "its passes stand still"])
def test_who_cannot_lead_any_more_ends_before_another_leads(is_cut_off: bool) -> None:
    """No answer says that somebody else leads."""
    play(lambda: _renews_no_more(is_cut_off=is_cut_off))


async def _answered_late(late_seconds: float) -> None:
    truly, clock = ModelKube(Chance(0, level=0.0)), VirtualClock()
    kube = _CutOff(truly)
    kube.late_seconds = late_seconds
    lock = LeaderLock(kube, clock, SETTINGS, identity="first")
    acquiring = asyncio.create_task(lock.acquire())
    while not truly.of_kind("Lease"):
        await asyncio.sleep(0.1)
    await LeaderLock(truly, clock, SETTINGS, identity="other").acquire()
    await acquiring
    assert not lock.is_held, "two lead"


@pytest.mark.parametrize("late_seconds", [0.0, 10.0])
def test_a_lock_counts_from_before_it_was_asked_for(late_seconds: float) -> None:
    """Others count from when they first read it, and that may be before its holder is answered."""
    play(lambda: _answered_late(late_seconds))


class _Asked(ModelKube):
    """Knows one account, and whether it may write every ledger; None = it does not answer."""

    def __init__(self, may_write: Collection[str] | None) -> None:
        super().__init__(Chance(0, level=0.0))
        self._may_write = may_write

    async def may(self, user: Body, *, verb: str, resource: str, namespace: str) -> bool:
        asked = (user["username"], verb, resource)
        assert asked == (
            "system:serviceaccount:team:account",
            "update",
            "gpujob.dev/gpunodes/status",
        )
        if self._may_write is None:
            raise ClusterUnavailable("503")
        return namespace in self._may_write or EVERYWHERE in self._may_write


EVERYWHERE = ""


async def _starts_beside(
    holder: str,
    may_write: Collection[str] | None,
    served: str = "",
    ours: str = "",
    identity: str = "theirs",
) -> bool:
    """`may_write` are the namespaces in which the holder's account may write ledgers; `served` are
    those that its release says it serves, and `ours` those of the one that starts. `identity` is
    what the holder's release says that it has.
    """
    kube = _Asked(may_write)
    settings = replace(SETTINGS, job_namespaces=ours, identity="ours")
    pod = {"metadata": {"name": "pod"}, "spec": {"serviceAccountName": "account"}}
    await kube.create("Pod", "team", pod)
    told = {ANNOTATION_SERVED: served, ANNOTATION_IDENTITY: identity}
    meta = {"name": "any", "labels": LABELS, "annotations": told}
    lease = {"metadata": meta, "spec": {"holderIdentity": holder}}
    await kube.create("Lease", "team", lease)

    async def renew() -> None:
        for number in range(1000):
            await asyncio.sleep(1.0)
            stored = await kube.get("Lease", "team", "any")
            await kube.replace("Lease", stored | {"spec": stored["spec"] | {"renewTime": number}})

    renewing = asyncio.create_task(renew())
    try:
        await LeaderLock(kube, VirtualClock(), settings, identity="first").acquire_alone()
    except OtherRelease:
        return False
    finally:
        renewing.cancel()
    return True


@pytest.mark.parametrize(
    ("holder", "may_write", "starts"),
    [
        ("pod_1f", [EVERYWHERE], False),
        ("pod_1f", None, False),
        ("pod_1f", [], True),
        ("gone_1f", [EVERYWHERE], True),
        ("pod", [EVERYWHERE], True),
        ("_1f", [EVERYWHERE], True),
        ("../pods/pod_1f", [EVERYWHERE], True),
    ],
)
def test_only_a_controllers_lock_keeps_another_release_away(
    holder: str, may_write: Collection[str] | None, starts: bool
) -> None:
    """Many may write a Lease; a controller's pod may write every ledger. Unknown counts as one."""
    assert play(lambda: _starts_beside(holder, may_write)) is starts


async def _seconds_until_it_leads(leaves_after: float) -> float:
    kube = ModelKube(Chance(0, level=0.0))
    lease = {"metadata": {"name": "any", "labels": LABELS}, "spec": {"holderIdentity": "pod_1f"}}
    stored = await kube.create("Lease", "team", lease)

    async def leave() -> None:
        await asyncio.sleep(leaves_after)
        await kube.delete("Lease", "team", "any", stored["metadata"]["uid"])

    leaving = asyncio.create_task(leave())
    clock = VirtualClock()
    began = clock.monotonic()
    await LeaderLock(kube, clock, SETTINGS, identity="first").acquire_alone()
    seconds = clock.monotonic() - began
    leaving.cancel()
    return seconds


def test_a_lock_that_was_left_behind_is_waited_for_no_longer_than_it_is_there() -> None:
    """Its namespace goes, and nobody can renew it. Else it is waited for as long as it holds."""
    duration = SETTINGS.limits.lock_duration_seconds

    assert play(lambda: _seconds_until_it_leads(1.0)) < duration / 2
    assert play(lambda: _seconds_until_it_leads(1000.0)) >= duration


class _Full(ModelKube):
    """An API server whose etcd has no space: it reads, and refuses each write of this process."""

    def __init__(self, truly: ModelKube) -> None:
        self.__dict__ = truly.__dict__

    async def create(self, kind: str, namespace: str, body: Body) -> Body:
        raise ClusterUnavailable("500 etcdserver: mvcc: database space exceeded")

    async def replace(self, kind: str, stored: Mapping[str, Any]) -> Body:
        raise ClusterUnavailable("500 etcdserver: mvcc: database space exceeded")


async def _guarded(world: World, kube: ModelKube) -> asyncio.Task[None]:
    """Runs a job until its leader dies, and the guard that this one ends as."""
    await world.apply("train", **SMALL)
    await world.until(lambda: world.reason("train") == "Running", 900.0)
    (leader,) = (one for one in world.replicas if one.lock.is_held)
    held = str(world.kube.of_kind("Lease")[0]["spec"]["holderIdentity"])
    for replica in world.replicas:
        replica.process.is_killed = True
    await world.end()
    world.vast.is_unled = True
    guard = guard_fuses(
        vast=world.vast,
        await_leader=LeaderLock(kube, leader.process.clock, SETTINGS, identity=held).await_leader,
        limits=SETTINGS.limits,
        cluster_id=CLUSTER,
        nodes=lambda: [world.kube.read(GpuNode, one) for one in world.kube.of_kind("GpuNode")],
        now=leader.process.clock.now,
        stop=asyncio.Event(),
    )
    return asyncio.create_task(guard)


SMALL = {
    "activeDeadlineSeconds": 20,
    "cost": {"ceiling": "0.18"},
    "data": {"maxDownloadGB": 1, "maxUploadGB": 1},
}
"""With a fuse that is soon used up."""


async def _while_nobody_writes() -> None:
    world = World(Chance(0, level=0.0), run_seconds=10.0**6)
    guard = await _guarded(world, _Full(world.kube))
    await world.go_on(2000.0)
    assert world.living() == [], "nobody led, and the machine ran on"
    assert world.vast.overdue == [], "it had to end itself"
    assert not guard.done(), "nobody leads yet"
    other = LeaderLock(world.kube, VirtualClock(), SETTINGS, identity="other")
    await other.acquire()
    await asyncio.sleep(30.0)
    assert not guard.done(), "a holder that does not renew may be dead"
    await other.acquire()
    await asyncio.wait([guard], timeout=30.0)
    assert guard.done()
    guard.result()


def test_a_fuse_holds_while_nobody_can_write() -> None:
    """An answer to a read is no leader: the guard ends only when another one renews the lock."""
    play(_while_nobody_writes)


async def _while_another_leads() -> None:
    world = World(Chance(0, level=0.0), run_seconds=10.0**6)
    guard = await _guarded(world, world.kube)
    await asyncio.wait([guard], timeout=30.0)
    assert guard.done(), "its own lock can be renewed: it is to end, and to lead again"
    assert len(world.living()) == 1, "no machine was late"


def test_who_could_lead_again_guards_no_longer() -> None:
    """Of a single replica, nobody else would ever lead."""
    play(_while_another_leads)


@pytest.mark.parametrize(
    ("ours", "theirs", "may_write", "starts"),
    [
        pytest.param("a", "b", ["b"], True, id="each its own"),
        pytest.param("a,b", "b,c", ["b", "c"], False, id="one in common"),
        pytest.param("a", "b", ["a", "b"], False, id="it says less than it may"),
        pytest.param("a", "", [EVERYWHERE], False, id="the other one serves all"),
        pytest.param("", "b", ["b"], False, id="this one serves all"),
        pytest.param("", "b", [], True, id="somebody who only says so"),
    ],
)
def test_releases_share_no_namespace(
    ours: str, theirs: str, may_write: list[str], starts: bool
) -> None:
    """Two that serve different ones may both lead; what counts is what the other one may do."""
    assert play(lambda: _starts_beside("pod_1f", may_write, theirs, ours)) is starts


@pytest.mark.parametrize(
    ("identity", "may_write", "starts"),
    [
        pytest.param("theirs", ["b"], True, id="each its own"),
        pytest.param("ours", ["b"], False, id="the same one"),
        pytest.param("ours", None, False, id="the same one, and unclear what it may do"),
        pytest.param("ours", [], True, id="somebody who only says so"),
    ],
)
def test_two_releases_of_one_identity_do_not_both_lead(
    identity: str, may_write: list[str] | None, starts: bool
) -> None:
    """Though they have no namespace in common: each would sweep the other's machines."""
    assert play(lambda: _starts_beside("pod_1f", may_write, "b", "a", identity)) is starts


async def _says_which_identity() -> Any:
    kube = ModelKube(Chance(0, level=0.0))
    settings = replace(SETTINGS, identity="ours")
    await LeaderLock(kube, VirtualClock(), settings, identity="first").acquire()
    (lease,) = kube.of_kind("Lease")
    return lease["metadata"]["annotations"][ANNOTATION_IDENTITY]


def test_a_leader_says_which_identity_it_has() -> None:
    """Else no other release could keep from it."""
    assert play(_says_which_identity) == "ours"
