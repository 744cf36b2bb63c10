"""What is learnt of how long jobs run: when it admits, what it outlives, what makes it forget."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from functools import partial
from math import ceil
from typing import Any

import pytest
from tests.builders import a_node, marker
from tests.simulation.model import Chance, ModelKube
from tests.simulation.process import START, VirtualClock
from tests.simulation.world import NAMESPACE, SETTINGS, Operator, World, play

from gpujob.adapters.errors import ClusterUnavailable, Forbidden
from gpujob.api.gpujob import GpuJob, GpuJobSpec
from gpujob.api.gpujobprofile import GpuJobProfileSpec
from gpujob.api.gpunode import GpuNode
from gpujob.controller import profile_book
from gpujob.controller.profile_book import ProfileBook
from gpujob.core.cost.experience import Bound, Experience
from gpujob.core.cost.profile import profile_name
from gpujob.core.cost.template import stored_template, template_of

RUNS = 20
ALL_JOBS = ("GpuJobProfile", SETTINGS.namespace, "gpujob-all-jobs")
Story = Callable[[World], Awaitable[None]]


async def learnt(runs: int = RUNS, **limits: Any) -> World:
    """A world in which a job of one template has run so often, and that is written."""
    world = World(Chance(0, level=0.0), run_seconds=60.0, learns=True, **limits)
    for first in range(0, runs, 15):
        names = [f"train-{number}" for number in range(first, min(first + 15, runs))]
        for name in names:
            await world.apply(name)
        await world.until(partial(_are_over, world, names), 4000.0)
    await world.go_on(70.0)
    return world


def _are_over(world: World, names: list[str]) -> bool:
    return all(_is_over(world, name) for name in names)


def _is_over(world: World, name: str) -> bool:
    return world.jobs()[name].status.end is not None


def _template(world: World) -> Any:
    return template_of(NAMESPACE, world.jobs()["train-0"].spec)


def _at(world: World) -> tuple[str, str, str]:
    return ("GpuJobProfile", NAMESPACE, profile_name(_template(world)))


def profile(world: World) -> GpuJobProfileSpec | None:
    """What is stored of the template."""
    body = world.kube.objects.get(_at(world))
    return None if body is None else GpuJobProfileSpec.model_validate(body["spec"])


def leader(world: World) -> Operator:
    (found,) = (one for one in world.replicas if one.lock.is_held)
    return found


def bound(world: World) -> Bound:
    """What the leader knows of the template."""
    knows = leader(world).profiles.experience
    assert knows is not None
    return knows.bound(_template(world), leader(world).process.clock.now().timestamp())


async def asked(world: World, name: str, **spec: Any) -> GpuJob:
    """A job without a deadline, once the gate has said yes or no."""
    await world.apply(name, activeDeadlineSeconds=None, **spec)
    await world.until(lambda: _is_judged(world, name), 400.0)
    return world.jobs()[name]


def _is_judged(world: World, name: str) -> bool:
    told = next((c for c in world.jobs()[name].status.conditions if c.type == "Admitted"), None)
    return told is not None and told.reason not in ("AwaitingOffers", "Accepted")


def refused_for(job: GpuJob) -> str:
    """The reason of the gate's no; empty = it said yes."""
    (told,) = (one for one in job.status.conditions if one.type == "Admitted")
    return "" if told.status == "True" else told.reason


async def _restarted(world: World) -> None:
    """All replicas end; what the next one knows, it has read."""
    for replica in world.replicas:
        replica.process.is_killed = True
    later = [asyncio.create_task(world.restart(n, 20.0)) for n in range(len(world.replicas))]
    await world.go_on(20.0)
    await asyncio.gather(*later)
    await world.until(_knows(world), 300.0)


def _knows(world: World) -> Callable[[], bool]:
    def look() -> bool:
        return any(
            one.lock.is_held and one.profiles.experience is not None for one in world.replicas
        )

    return look


async def _restarted_without_nodes(world: World) -> None:
    """Only the profiles are left."""
    for body in world.kube.of_kind("GpuJob"):
        world.kube.delete_now("GpuJob", NAMESPACE, body["metadata"]["name"])
        # The template is still asked for.
        if body["metadata"]["name"] == "train-0":
            await world.until(lambda: "train-0" not in world.jobs(), 100.0)
            await world.apply("train-0", suspend=True)
    await world.until(lambda: not world.kube.of_kind("GpuNode"), 400.0)
    await _restarted(world)


async def _restarted_without_profiles(world: World) -> None:
    """Deleted while nobody leads, and so by nobody's will: the nodes of the last day tell it."""
    for replica in world.replicas:
        replica.process.is_killed = True
    world.kube.delete_now(*_at(world))
    world.kube.delete_now(*ALL_JOBS)
    await _restarted(world)
    await world.go_on(70.0)


async def _restarted_twice(world: World) -> None:
    await _restarted(world)
    await world.go_on(70.0)
    await _restarted(world)


def test_a_known_job_needs_no_deadline_and_a_fresh_one_does() -> None:
    """Before restarts and after them, whatever the next leader has left to read: each run counts
    once, and the bound is the same."""

    async def life() -> None:
        world = await learnt()
        before = bound(world)
        assert before.runs == RUNS
        for story in (
            _restarted,
            _restarted_twice,
            _restarted_without_profiles,
            _restarted_without_nodes,
        ):
            await story(world)
            after = bound(world)
            assert (after.runs, after.own, after.value) == (RUNS, before.own, before.value)

            (told,) = leader(world).profiles.bounds.values()
            assert (told.runs, told.seconds) == (RUNS, ceil(before.value or 0.0))

        job = await asked(world, "without")
        assert refused_for(job) == ""
        cost = job.status.cost
        assert float(cost.confidence or 0) >= 0.95
        assert f"{RUNS} runs of its template" in (cost.confidence_basis or "")
        fresh = await asked(world, "fresh", command=["other"])
        assert refused_for(fresh) == "InsufficientHistory"
        world.kube.delete_now("GpuJob", NAMESPACE, "fresh")
        await world.until(lambda: _is_over(world, "without"), 2000.0)
        await world.go_on(70.0)
        assert bound(world).runs == RUNS + 1
        stored = profile(world)
        assert stored is not None
        assert stored.known == len({one.node_uid for one in stored.runs}) == RUNS + 1
        await world.end()

    play(life)


async def _profile_deleted(world: World) -> None:
    world.kube.delete_now(*_at(world))


async def _profile_changed(world: World) -> None:
    """Somebody makes the runs short."""
    stored = world.kube.objects[_at(world)]["spec"]
    runs = [one | {"seconds": 1} for one in stored["runs"]]
    world.kube.change(*_at(world), runs=runs)


@pytest.mark.parametrize(("story", "known"), [(_profile_deleted, 0), (_profile_changed, RUNS)])
def test_what_is_deleted_is_forgotten_and_what_is_changed_is_not_believed(
    story: Story, known: int
) -> None:
    """Nodes of the last day do not bring back what was deleted; they do what was spoilt."""

    async def life() -> None:
        world = await learnt()
        value = bound(world).value
        await story(world)
        await world.go_on(130.0)
        assert bound(world).runs == known
        assert bound(world).value == (value if known else None)
        await _restarted(world)
        assert bound(world).runs == known
        job = await asked(world, "without")
        assert refused_for(job) == ("" if known else "InsufficientHistory")
        world.kube.delete_now("GpuJob", NAMESPACE, "without")
        await world.end()

    play(life)


def test_jobs_that_run_for_too_long_count_after_a_restart_too() -> None:
    """They are longer than any bound, as long as they run; each leader sees that by itself."""

    async def life() -> None:
        world = await learnt()
        world.drivers.run_seconds = 10.0**6
        for number in range(3):
            await world.apply(f"long-{number}")
        await world.until(lambda: all(_runs(world, f"long-{n}") for n in range(3)), 900.0)
        await world.go_on(120.0)
        before = bound(world)
        book = ProfileBook(world.kube, SETTINGS, leader(world).process.clock.now)
        await book.load()
        assert book.experience is not None
        now = leader(world).process.clock.now().timestamp()
        assert book.experience.bound(_template(world), now) == before, "no pass was needed"
        # One that began when nothing was expected any more is not overdue.
        assert 1 <= before.overdue <= 3
        assert before.value is None
        await _restarted(world)
        assert (bound(world).overdue, bound(world).value) == (before.overdue, None)
        assert refused_for(await asked(world, "without")) == "UnlabelledBurst"
        for name in [*world.jobs()]:
            world.kube.delete_now("GpuJob", NAMESPACE, name)
        await world.until(lambda: not world.jobs(), 900.0)
        assert bound_of(world).overdue == 0
        await world.end()

    play(life)


def bound_of(world: World) -> Bound:
    """The same once there is no job of the template any more."""
    knows = leader(world).profiles.experience
    assert knows is not None
    spec = GpuJobSpec.model_validate(
        {
            "image": "image",
            "command": ["work"],
            "gpu": {"models": ["RTX 4090"]},
            "cost": {"ceiling": "6.00"},
        }
    )
    return knows.bound(template_of(NAMESPACE, spec), leader(world).process.clock.now().timestamp())


def _runs(world: World, name: str) -> bool:
    return world.reason(name) == "Running"


def test_a_job_that_its_fuse_stops_leaves_no_bound() -> None:
    """It was admitted for what such jobs took, ran on, and cost no more than its ceiling."""

    async def life() -> None:
        world = await learnt()
        world.drivers.run_seconds = 10.0**6
        job = await asked(world, "runaway", cost={"ceiling": "0.40"})
        assert refused_for(job) == ""
        await world.until(lambda: _is_over(world, "runaway"), 20_000.0)
        over = world.jobs()["runaway"].status
        assert over.end is not None
        assert over.end.reason == "BudgetExhausted"
        assert 0.0 < float(over.cost.final_usd or 0) <= 0.40
        await world.go_on(70.0)
        stored = profile(world)
        assert stored is not None
        assert stored.runs[-1].outcome == "Stopped"
        # Of 21 values one is longer than any bound, and so may not be the one that is missed.
        assert bound(world).value is None
        await world.end()

    play(life)


def test_nothing_is_admitted_while_the_profiles_cannot_be_read() -> None:
    """What cannot be read is not empty, and not enough either."""

    async def life() -> None:
        world = await learnt()
        world.kube.refused["list " + NAMESPACE] = ClusterUnavailable("503")
        world.kube.refused["get GpuJobProfile"] = ClusterUnavailable("503")
        await _restarted_unread(world)
        job = await asked(world, "without")
        assert refused_for(job) == "InsufficientHistory"
        world.kube.refused.clear()
        await world.until(lambda: _is_over(world, "without"), 2000.0)
        await world.end()

    play(life)


async def _restarted_unread(world: World) -> None:
    for replica in world.replicas:
        replica.process.is_killed = True
    later = [asyncio.create_task(world.restart(n, 20.0)) for n in range(len(world.replicas))]
    await world.go_on(60.0)
    await asyncio.gather(*later)
    assert not _knows(world)()


def test_writes_come_in_batches() -> None:
    """One profile is written once a minute at most, however many runs end meanwhile."""

    async def life() -> None:
        writes: list[float] = []
        world = World(Chance(0, level=0.0), run_seconds=60.0, learns=True)

        def note(kind: str, *_: Any) -> None:
            if kind == "GpuJobProfile":
                writes.append(asyncio.get_running_loop().time())

        world.kube.on_write.append(note)
        for number in range(10):
            await world.apply(f"train-{number}")
        await world.until(
            lambda: all(_is_over(world, f"train-{number}") for number in range(10)), 2000.0
        )
        await world.go_on(130.0)
        spans = (max(writes) - min(writes)) // 60 + 1
        assert 2 <= len(writes) <= 2 * spans
        await world.end()

    play(life)


# --- The book alone -------------------------------------------------------------------------


def ended_node(number: int, digest: int, namespace: str = NAMESPACE, ago: float = 0.0) -> GpuNode:
    """A node whose workload has just run for a minute."""
    ended = START + timedelta(seconds=asyncio.get_running_loop().time() - ago)
    node = a_node(name=f"job-{number}-0-1", uid=f"node-{number}", namespace=namespace)
    rent = marker(template=f"{digest:016x}/{0:016x}")
    run = {"startedAt": (ended - timedelta(seconds=60)).isoformat(), "seconds": 60}
    end = {"at": ended.isoformat(), "reason": "Completed"}
    status = {"rent": rent, "run": run, "end": end}
    return GpuNode.model_validate(node.model_dump(by_alias=True, mode="json") | {"status": status})


def a_book(kube: ModelKube, *served: str) -> ProfileBook:
    """The book of a process in this world."""
    return ProfileBook(kube, replace(SETTINGS, job_namespaces=",".join(served)), VirtualClock().now)


def names(kube: ModelKube, namespace: str = NAMESPACE) -> set[str]:
    """The profiles of a namespace."""
    found = kube.of_kind("GpuJobProfile")
    return {m["name"] for one in found if (m := one["metadata"])["namespace"] == namespace}


def test_a_namespace_keeps_the_templates_that_ran_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many its users make up."""
    monkeypatch.setattr(profile_book, "PROFILES_KEPT", 3)

    async def life() -> None:
        kube = ModelKube(Chance(0, level=0.0))
        book = a_book(kube)
        await book.load()
        for number in range(5):
            await asyncio.sleep(60)
            book.see(ended_node(number, digest=number))
            await book.keep()
        assert names(kube) == {f"run-{number:016x}" for number in (2, 3, 4)}
        assert len(names(kube, SETTINGS.namespace)) == 1
        again = a_book(kube)
        await again.load()
        assert again.experience is not None

    play(life)


def test_a_namespace_that_is_gone_or_closed_keeps_no_other_from_being_learnt() -> None:
    """Nothing can be written where it is being deleted, nor read where the rights are gone."""

    async def life() -> None:
        kube = ModelKube(Chance(0, level=0.0))
        book = a_book(kube, "closed", NAMESPACE)
        kube.refused["list closed"] = Forbidden("no")
        await book.load()
        kube.terminate("closed")
        for number in range(20):
            await asyncio.sleep(60)
            book.see(ended_node(2 * number, digest=1, namespace="closed"))
            book.see(ended_node(2 * number + 1, digest=1))
            await book.keep()
        assert names(kube, "closed") == set()
        assert names(kube) == {f"run-{1:016x}"}
        again = a_book(kube, "closed", NAMESPACE)
        await again.load()
        assert again.experience is not None
        template = stored_template(NAMESPACE, f"{1:016x}/{0:016x}")
        assert again.experience.bound(template, 10.0**9).runs == 20

    play(life)


def test_a_write_whose_answer_is_lost_teaches_nothing_twice() -> None:
    """It may have arrived: what is stored is read anew."""

    async def life() -> None:
        kube = ModelKube(Chance(0, level=0.0))
        book = a_book(kube)
        await book.load()
        template = stored_template(NAMESPACE, f"{1:016x}/{0:016x}")
        for number in range(20):
            await asyncio.sleep(60)
            book.see(ended_node(number, digest=1))
            if number % 3 == 0:
                kube.loses_answers = True
            await book.keep()
            kube.loses_answers = False
        await book.keep()
        await book.keep()
        for one in (book, a_book(kube)):
            if one.experience is None:
                await one.load()
            assert one.experience is not None
            assert one.experience.bound(template, 10.0**9).runs == 20
        (body,) = (b for b in kube.of_kind("GpuJobProfile") if b["spec"].get("template"))
        assert body["spec"]["known"] == 20

    play(life)


def test_a_node_that_is_taken_away_was_cut_short() -> None:
    """Nobody will ever say how long it ran."""

    async def life() -> None:
        kube = ModelKube(Chance(0, level=0.0))
        book = a_book(kube)
        await book.load()
        node = ended_node(1, digest=1)
        status = node.status.model_copy(update={"end": None})
        book.see(node.model_copy(update={"status": status}))
        await asyncio.sleep(600)
        book.forget("node-1")
        book.forget("node-1")
        book.see(node)
        await book.keep()
        (body,) = (b for b in kube.of_kind("GpuJobProfile") if b["spec"].get("template"))
        assert [(one["outcome"], one["seconds"]) for one in body["spec"]["runs"]] == [("Cut", 660)]

    play(life)


def test_a_fault_of_the_estimator_ends_no_pass_and_admits_nothing() -> None:
    """Machines are looked at all the same; what was learnt is read anew."""

    class Broken(Experience):
        def began(self, *_: Any) -> Any:
            raise ZeroDivisionError

    async def life() -> None:
        kube = ModelKube(Chance(0, level=0.0))
        book = a_book(kube)
        book.experience = Broken()
        node = ended_node(1, digest=1)
        status = node.status.model_copy(update={"end": None})
        book.see(node.model_copy(update={"status": status}))
        assert book.experience is None
        await book.load()
        book.see(node.model_copy(update={"status": status}))
        assert book.experience is not None

    play(life)
