"""The watch shows what we wrote ourselves: that asks for nothing, and nothing waits for it."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from tests.builders import a_job, a_node
from tests.simulation.lives import LIVES, live
from tests.simulation.model import Chance, ModelKube
from tests.simulation.world import NAMESPACE, World, play

from gpujob.adapters.errors import ClusterUnavailable, Conflict
from gpujob.adapters.kube import Body
from gpujob.api.meta import LABEL_NODE
from gpujob.controller import reconcile
from gpujob.controller.cache import Cache
from gpujob.controller.reconcile import Reconciler
from gpujob.controller.workqueue import Key
from gpujob.core import settling
from gpujob.core.conditions import job_status, node_status
from gpujob.core.effects import Plan
from gpujob.core.job.plan import plan_job
from gpujob.core.node.plan import plan_node

JOB = Key("GpuJob", NAMESPACE, "train")
NODE = Key("GpuNode", NAMESPACE, "train-0-1")


class Watched:
    """An API server, and a cache whose watch shows events when it is told to."""

    def __init__(self) -> None:
        self.kube = ModelKube(Chance(0, level=0.0))
        self.asked: Counter[Key] = Counter()
        """How often a pass was asked for since `taken`."""
        self.cache = Cache(self.kube, self._ask)
        self._events: list[tuple[str, Body, bool]] = []
        self.shows_at_once = False
        self.kube.on_write.append(self._on_write)

    def _ask(self, key: Key) -> None:
        self.asked[key] += 1

    def _on_write(self, kind: str, body: Body, gone: bool, _: Any) -> None:
        self._events.append((kind, body, gone))
        if self.shows_at_once:
            self.show()

    def show(self) -> None:
        """Shows what was written and not shown yet."""
        events, self._events = self._events, []
        for event in events:
            self.asked.update(key for key, _ in self.cache.take_in(*event))

    def show_again(self, kind: str) -> None:
        """Lists again, as after an interruption."""
        for body in self.kube.of_kind(kind):
            self.asked.update(key for key, _ in self.cache.take_in(kind, body, gone=False))

    def taken(self) -> dict[Key, int]:
        """Returns what was asked for since, and forgets it."""
        taken, self.asked = dict(self.asked), Counter()
        return taken

    async def begin(self) -> Body:
        """Stores a job and its node as a user and an earlier process have; returns the node."""
        job = a_job().model_dump(by_alias=True, mode="json")
        job["metadata"]["name"] = JOB.name
        stored = await self.kube.create("GpuJob", NAMESPACE, job)
        node = a_node().model_dump(by_alias=True, mode="json")
        node["metadata"]["name"] = NODE.name
        node["spec"]["jobRef"] = {"name": JOB.name, "uid": stored["metadata"]["uid"]}
        self.kube.set_status(*_place(JOB), {"nodeName": NODE.name})
        found = await self.kube.create("GpuNode", NAMESPACE, node)
        self.show()
        self.taken()
        return found


def tried(story: Callable[[Watched], Awaitable[None]], *, shows_at_once: bool = False) -> None:
    """Plays a story with a job and its node."""

    async def life() -> None:
        watched = Watched()
        watched.shows_at_once = shows_at_once
        await story(watched)

    play(life)


@pytest.mark.parametrize("shows_at_once", [True, False], ids=["event first", "answer first"])
def test_a_write_asks_for_the_others_once_and_its_event_for_nobody(shows_at_once: bool) -> None:
    """A node's for its job, a job's for its node; several in a row, whichever comes first."""

    async def story(watched: Watched) -> None:
        node = await watched.begin()
        for number in range(3):
            node = await watched.cache.write_status("GpuNode", node, {"phase": f"{number}"})
        watched.show()
        assert watched.taken() == {JOB: 3}

        job = watched.kube.objects[_place(JOB)]
        await watched.cache.write_status("GpuJob", job, {"nodeName": NODE.name, "phase": "x"})
        watched.show()
        assert watched.taken() == {NODE: 1}

    tried(story, shows_at_once=shows_at_once)


@pytest.mark.parametrize("shows_at_once", [True, False], ids=["event first", "answer first"])
def test_what_is_created_gets_its_first_pass_at_once(shows_at_once: bool) -> None:
    """A node and its job; the node of a driver pod."""

    async def story(watched: Watched) -> None:
        body = await watched.begin()
        other = body | {"metadata": {"name": "train-0-2"}}
        await watched.cache.create("GpuNode", NAMESPACE, other)
        watched.show()
        assert watched.taken() == {Key("GpuNode", NAMESPACE, "train-0-2"): 1, JOB: 1}

        pod = {"metadata": {"name": "driver", "labels": {LABEL_NODE: NODE.name}}}
        await watched.cache.create("Pod", NAMESPACE, pod)
        watched.show()
        assert watched.taken() == {NODE: 1}

    tried(story, shows_at_once=shows_at_once)


@pytest.mark.parametrize("is_told_late", [True, False], ids=["told after ours", "told at once"])
def test_what_somebody_else_writes_is_never_taken_for_ours(is_told_late: bool) -> None:
    """Neither before our write nor after it, nor of an object that is gone."""

    async def story(watched: Watched) -> None:
        await watched.begin()
        watched.kube.set_status(*_place(NODE), {"phase": "theirs"})
        if not is_told_late:
            watched.show()
        node = watched.kube.objects[_place(NODE)]
        await watched.cache.write_status("GpuNode", node, {"phase": "ours"})
        if not is_told_late:
            watched.show()
        assert watched.kube.objects[_place(NODE)]["status"] == {"phase": "ours"}
        watched.kube.set_status(*_place(NODE), {"phase": "theirs again"})
        watched.show()
        taken = watched.taken()
        assert taken[NODE] == 2, "one for each of theirs"
        assert taken[JOB] == 3, "one for each of all"

        watched.kube.vanish(*_place(NODE))
        watched.show()
        assert watched.taken().keys() == {NODE, JOB}

    tried(story)


def test_what_is_written_while_we_write_is_looked_at_afterwards() -> None:
    """Its event comes before our answer, and may itself have been our write."""

    async def story(watched: Watched) -> None:
        node = await watched.begin()

        def change_again(kind: str, body: Body, *_: Any) -> None:
            if kind == "GpuNode" and body["status"] == {"phase": "ours"}:
                watched.kube.set_status(*_place(NODE), {"phase": "theirs"})

        watched.kube.on_write.append(change_again)
        await watched.cache.write_status("GpuNode", node, {"phase": "ours"})
        assert watched.taken() == {NODE: 1, JOB: 2}

    tried(story, shows_at_once=True)


@pytest.mark.parametrize("shows_at_once", [True, False], ids=["event first", "answer first"])
def test_a_write_that_changes_nothing_hides_nothing(shows_at_once: bool) -> None:
    """It is answered with the version that somebody else has written."""

    async def story(watched: Watched) -> None:
        await watched.begin()
        watched.kube.set_status(*_place(NODE), {"phase": "theirs"})
        node = watched.kube.objects[_place(NODE)]
        await watched.cache.write_status("GpuNode", node, {"phase": "theirs"})
        watched.taken()
        watched.show_again("GpuNode")
        assert watched.taken() == {NODE: 1, JOB: 1}

    tried(story, shows_at_once=shows_at_once)


@pytest.mark.parametrize("problem", [Conflict("exists"), ClusterUnavailable("no answer")])
def test_what_a_write_that_failed_may_have_stored_is_no_echo(problem: Exception) -> None:
    """Nobody knows whose it is, and the pass that wrote it knows least."""

    async def story(watched: Watched) -> None:
        node = await watched.begin()

        def lost(*_: Any) -> None:
            raise problem

        watched.kube.on_write.append(lost)
        with pytest.raises(type(problem)):
            await watched.cache.write_status("GpuNode", node, {"phase": "ours"})
        watched.kube.on_write.remove(lost)
        watched.show()
        assert watched.taken() == {NODE: 1, JOB: 1}

    for shows_at_once in (True, False):
        tried(story, shows_at_once=shows_at_once)


def test_what_is_listed_again_asks_for_a_pass_again() -> None:
    """After an interruption nobody knows what was missed, so all that is open is looked at."""

    async def story(watched: Watched) -> None:
        node = await watched.begin()
        await watched.cache.write_status("GpuNode", node, {"phase": "ours"})
        watched.show()
        watched.taken()
        watched.show_again("GpuNode")
        assert watched.taken() == {NODE: 1, JOB: 1}

    tried(story)


# --- Nothing waits for an echo --------------------------------------------------------------


def _facts(status: Any) -> dict[str, Any]:
    return {name: told for name, told in status.wire().items() if name != "conditions"}


@pytest.mark.parametrize("name", LIVES)
def test_a_plan_that_does_not_go_on_at_once_has_nothing_left_to_do(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it stores would change nothing in the next plan; else no event asks for that one."""
    left: set[str] = set()

    def checked(plans: Callable[[Any], Plan[Any]], kind: str) -> Callable[[Any], Plan[Any]]:
        with_conditions: Any = {"job": job_status, "node": node_status}[kind]

        def planned(seen: Any) -> Plan[Any]:
            plan, about = plans(seen), getattr(seen, kind)
            after = with_conditions(about, plan, seen.world.now)
            if plan.requeue_seconds == 0 or after == about.status or plan.wants_quotes:
                return plan
            then = about.model_copy(update={"status": after})
            following = plans(replace(seen, **{kind: then}))
            changes = _facts(with_conditions(then, following, seen.world.now)) != _facts(after)
            new = {type(one) for one in following.effects} - {type(one) for one in plan.effects}
            if following.requeue_seconds == 0 or changes or new:
                left.add(f"{plan.reason} is followed by {following.reason}")
            return plan

        return planned

    monkeypatch.setattr(settling, "plan_job", checked(plan_job, "job"))
    monkeypatch.setattr(settling, "plan_node", checked(plan_node, "node"))
    live(name)
    assert not left


class Even(Chance):
    """Chance that gives each machine the same time to boot."""

    def between(self, low: float, high: float) -> float:
        del low, high
        return 60.0


def test_a_life_takes_few_passes_and_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one plain job: 60 s until its machine has booted, 60 s of work, and the proof."""
    passes: Counter[str] = Counter()
    reconciled = Reconciler.reconcile

    async def counted(self: Reconciler, key: Key) -> None:
        passes[key.kind] += 1
        await reconciled(self, key)

    monkeypatch.setattr(Reconciler, "reconcile", counted)

    async def life() -> Counter[str]:
        world = World(Even(0, level=0.0, pauses=(0.01,)), run_seconds=60.0)
        await world.apply("train")
        await world.until(lambda: world.reason("train") == "Complete", 1000)
        await world.go_on(10)
        assert all(
            not body["metadata"].get("finalizers")
            for kind in ("GpuJob", "GpuNode")
            for body in world.kube.of_kind(kind)
        ), "the last passes were made, too"
        await world.end()
        return Counter(world.calls.made)

    calls: Counter[str] = play(life)
    read = sum(calls[f"find {kind}"] for kind in ("GpuJob", "GpuNode", "Pod"))
    writes = ("create", "replace", "write_status", "set_finalizers")
    kinds = ("GpuJob", "GpuNode", "Pod", "Secret", "ConfigMap")
    written = sum(calls[f"{write} {kind}"] for write in writes for kind in kinds)
    # With a pass for each echo, a write for each step, and the same reads again after an act that
    # changes none of them, these were 55, 101, 32 and 58. Twice the cache is compared meanwhile,
    # kind after kind.
    made = (passes["GpuJob"], passes["GpuNode"], read, written)
    assert all(one <= most for one, most in zip(made, (24, 83, 26, 32), strict=True)), made


def test_a_running_node_is_looked_at_once_in_a_poll(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing about it changes: its figures are stored once a minute, and its deadlines are far."""
    passes: list[float] = []
    reconciled = Reconciler.reconcile

    async def counted(self: Reconciler, key: Key) -> None:
        passes.extend([asyncio.get_running_loop().time()] if key.kind == "GpuNode" else [])
        await reconciled(self, key)

    monkeypatch.setattr(Reconciler, "reconcile", counted)

    async def story() -> float:
        world = World(Even(0, level=0.0, pauses=(0.01,)), run_seconds=3000.0)
        await world.apply("train", activeDeadlineSeconds=3600)
        await world.until(lambda: world.reason("train") == "Running", 1000)
        await world.go_on(60)
        passes.clear()
        began = asyncio.get_running_loop().time()
        await world.go_on(600)
        took = asyncio.get_running_loop().time() - began
        await world.end()
        return took

    seconds: float = play(story)
    # With a look every five seconds and one for each listing there were 140. Once a minute figures
    # are stored, and the cache is compared.
    assert len(passes) <= seconds / 15 + 2 * seconds / 60, (len(passes), seconds)
    assert max(later - at for at, later in pairwise(passes)) <= 15.5, "but it is looked at"


def test_figures_are_stored_at_a_pace_and_facts_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here once in 200 s, for all machines together; the end is stored when it comes."""
    monkeypatch.setattr(reconcile, "FIGURES_PER_SECOND", 1 / 200)

    async def story() -> tuple[int, float]:
        world = World(Even(0, level=0.0, pauses=(0.01,)), run_seconds=900.0)
        await world.apply("train")
        await world.until(lambda: world.reason("train") == "Running", 1000)
        before = world.calls.made.count("write_status GpuNode")
        await world.go_on(800)
        stored = world.calls.made.count("write_status GpuNode") - before
        began = asyncio.get_running_loop().time()
        await world.until(lambda: world.reason("train") != "Running", 1000)
        waited = asyncio.get_running_loop().time() - began
        await world.end()
        return stored, waited

    stored, waited = play(story)
    assert 3 <= stored <= 5, "without a pace there were 13"
    assert waited <= 120


def test_figures_of_many_are_stored_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """All are looked at in the same moments, so each keeps a turn until it is stored."""
    monkeypatch.setattr(reconcile, "FIGURES_PER_SECOND", 1 / 20)
    machines = 5

    async def story() -> dict[str, list[float]]:
        world = World(Even(0, level=0.0, pauses=(0.01,)), run_seconds=10_000.0)
        for number in range(machines):
            await world.apply(f"train-{number}", activeDeadlineSeconds=20_000)
        running = [f"train-{number}" for number in range(machines)]
        await world.until(lambda: all(world.reason(name) == "Running" for name in running), 1000)
        stored: dict[str, list[float]] = {}

        def note(kind: str, body: dict[str, Any], *_: Any) -> None:
            if kind == "GpuNode":
                now = asyncio.get_running_loop().time()
                stored.setdefault(body["metadata"]["name"], []).append(now)

        world.kube.on_write.append(note)
        await world.go_on(1800)
        await world.end()
        return stored

    stored = play(story)
    assert len(stored) == machines
    waits = [later - at for times in stored.values() for at, later in pairwise(times)]
    # A figure is a minute old when it asks, and before its turn come those of all others.
    assert max(waits) <= 60 + 15 + machines * 20


def _place(key: Key) -> tuple[str, str, str]:
    return key.kind, key.namespace, key.name
