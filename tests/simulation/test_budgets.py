"""Budgets in a world: nothing is rented beyond them, whoever leads, and all of it ends settled."""

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest
from tests.simulation import model, process
from tests.simulation.branches import Strikes
from tests.simulation.model import Chance, ModelKube
from tests.simulation.process import STOPPED_SECONDS, Calls, Process, VirtualClock
from tests.simulation.world import NAMESPACE, World, key_of, play

from gpujob.api.gpubudget import GpuBudget
from gpujob.controller.budget_book import BudgetBook
from gpujob.controller.cache import Cache

JOBS = 8
BUDGET = ("GpuBudget", NAMESPACE, "team")


def reserved_at_most(world: World) -> list[int]:
    """Notes, from now on, the most attempts for which the budget holds money at a time."""
    most = [0]

    def note(kind: str, body: dict[str, Any], gone: bool, before: object) -> None:
        del gone, before
        if kind == "GpuBudget":
            most[0] = max(most[0], len(body.get("status", {}).get("reservations", ())))

    world.kube.on_write.append(note)
    return most


def charged(world: World) -> float:
    """US dollars that the jobs say they have cost."""
    return sum(float(job.status.cost.spent_usd) for job in world.jobs().values())


def test_of_many_jobs_as_many_run_as_the_budget_holds() -> None:
    """The others wait, and say for what; each has its turn, and all that it cost is counted."""

    async def life() -> None:
        world = World(Chance(0, level=0.0), run_seconds=100.0)
        await world.apply_budget("team", limit="20")
        most = reserved_at_most(world)
        for number in range(JOBS):
            await world.apply(f"job-{number}")
        reasons = [f"job-{number}" for number in range(JOBS)]
        await world.until(
            lambda: [world.reason(one) for one in reasons].count("BudgetExceeded") == JOBS - 3, 120
        )
        waiting = next(one for one in reasons if world.reason(one) == "BudgetExceeded")
        ready = next(one for one in world.jobs()[waiting].status.conditions if one.type == "Ready")
        assert "GpuBudget team has $2.000 left of $20.000, and $6.000 are to be" in ready.message
        assert "it fits when attempts that are under way have ended" in ready.message
        await world.until(world.is_over, 3600)
        assert most == [3]
        budget = world.budgets()["team"].status
        assert float(budget.spent_usd or 0) == pytest.approx(charged(world), abs=1e-9)
        assert (budget.reserved_usd, budget.phase) == ("0.000000", "Open")
        world.check_end()
        await world.end()

    play(life)


def test_a_job_waits_without_asking_for_anything() -> None:
    """Neither the market nor the API server is asked more often because money is short."""

    async def life() -> None:
        world = World(Chance(0, level=0.0))
        await world.apply_budget("team", limit="1")
        await world.apply("train")
        await world.until(lambda: world.reason("train") == "BudgetExceeded", 60)
        writes = len([one for one in world.calls.made if one.startswith("write_status Gpu")])
        searches = len([one for one in world.vast.received if "bundles" in one[2]])
        await world.go_on(300)
        again = len([one for one in world.calls.made if one.startswith("write_status Gpu")])
        assert again - writes <= 1
        assert len([one for one in world.vast.received if "bundles" in one[2]]) == searches
        assert "create GpuNode" not in world.calls.made
        await world.end()

    play(life)


def test_a_world_without_budgets_gets_not_one_write_more() -> None:
    """Two quorum reads for each attempt are all: before its rent, and before its node goes."""

    async def life() -> None:
        world = World(Chance(0, level=0.0))
        await world.apply("train")
        await world.until(world.is_over, 600)
        made = world.calls.made
        asked = [one for one in made if "GpuBudget" in one and not one.startswith("versions")]
        assert asked == ["page GpuBudget"] * 2
        await world.end()

    play(life)


def test_the_budgets_end_before_the_job_does() -> None:
    """Spend stays when the jobs are deleted."""

    async def life() -> None:
        world = World(Chance(0, level=0.0))
        await world.apply_budget("team")
        await world.apply("train")
        await world.until(world.is_over, 600)
        spent = charged(world)
        world.kube.delete_now("GpuJob", NAMESPACE, "train")
        await world.go_on(60)
        assert world.jobs() == {}
        assert world.budgets()["team"].status.spent_usd == f"{spent:.6f}"
        await world.end()

    play(life)


@pytest.mark.parametrize(
    ("began", "zone"),
    [
        (datetime(2026, 1, 31, 23, 58, tzinfo=UTC), "UTC"),
        # On the day after, the clocks are set forward.
        (datetime(2026, 3, 28, 22, 58, tzinfo=UTC), "Europe/Berlin"),
    ],
)
def test_what_runs_over_midnight_is_charged_to_the_next_day(
    monkeypatch: pytest.MonkeyPatch, began: datetime, zone: str
) -> None:
    """What is reserved carries over, so that the new day has no more than its limit, either."""
    monkeypatch.setattr(process, "START", began)
    monkeypatch.setattr(model, "START", began)

    async def life() -> None:
        world = World(Chance(0, level=0.0), run_seconds=200.0)
        await world.apply_budget("team", period="Day", timeZone=zone, limit="12")
        for number in range(3):
            await world.apply(f"job-{number}")
        await world.until(lambda: world.reason("job-0") == "Running", 110)
        await world.until(lambda: len(world.budgets()["team"].status.history) == 2, 180)
        first, second = world.budgets()["team"].status.history
        assert (first.spent_usd, first.carried_usd) == ("0.000000", "12.000000")
        assert first.end == second.start
        assert (second.end - second.start).total_seconds() / 3600 == (24 if zone == "UTC" else 23)
        await world.until(world.is_over, 1800)
        last = world.budgets()["team"].status.history[-1]
        assert float(last.spent_usd) == pytest.approx(charged(world), abs=1e-9)
        world.check_end()
        await world.end()

    play(life)


def test_a_lowered_limit_stops_nothing_and_lets_nothing_begin() -> None:
    """Until it is raised again, which is noticed by itself."""

    async def life() -> None:
        world = World(Chance(0, level=0.0), run_seconds=60.0)
        await world.apply_budget("team", limit="20")
        await world.apply("first")
        await world.until(lambda: world.reason("first") == "Running", 600)
        world.kube.change(*BUDGET, limit="1")
        await world.apply("second")
        await world.until(lambda: world.reason("first") == "Complete", 600)
        await world.go_on(60)
        assert world.reason("second") == "BudgetExceeded"
        world.kube.change(*BUDGET, limit="20")
        await world.until(world.is_over, 600)
        assert world.reason("second") == "Complete"
        world.check_end()
        await world.end()

    play(life)


def test_a_budget_that_cannot_be_read_holds_back_and_says_so() -> None:
    """Its sums are not those of its entries: something is lost, and lost money is no money."""

    async def life() -> None:
        world = World(Chance(0, level=0.0))
        await world.apply_budget("team")
        await world.until(lambda: world.budgets()["team"].status.phase == "Open", 60)
        status = world.kube.objects[BUDGET]["status"]
        world.kube.set_status(*BUDGET, {**status, "reservedUSD": "3.000000"})
        await world.go_on(30)
        await world.apply("train")
        await world.until(lambda: world.reason("train") == "BudgetUnusable", 60)
        told = world.budgets()["team"].status
        assert (told.phase, told.reserved_usd) == ("Unusable", "3.000000")
        assert "add up" in told.conditions[0].message
        assert "create GpuNode" not in world.calls.made
        world.kube.set_status(*BUDGET, status)
        await world.until(world.is_over, 600)
        world.check_end()
        await world.end()

    play(life)


def test_a_budget_that_is_created_anew_begins_with_what_is_under_way() -> None:
    """Also beyond its limit; nothing more begins before that has ended."""

    async def life() -> None:
        world = World(Chance(0, level=0.0), run_seconds=300.0)
        await world.apply_budget("team", limit="12")
        for name in ("first", "second"):
            await world.apply(name)
        await world.until(lambda: world.reason("first") == world.reason("second") == "Running", 600)
        world.kube.delete_now(*BUDGET)
        await world.apply_budget("team", limit="7")
        await world.apply("third")
        await world.until(lambda: world.budgets()["team"].status.open == 2, 60)
        status = world.budgets()["team"].status
        assert (status.reserved_usd, status.available_usd) == ("12.000000", "0.000000")
        assert status.phase == "Exhausted"
        await world.until(lambda: world.reason("third") == "BudgetExceeded", 60)
        await world.until(world.is_over, 1800)
        assert world.reason("third") == "Complete"
        world.check_end()
        await world.end()

    play(life)


def test_two_budgets_hold_it_or_none_does() -> None:
    """What one of them has no money for takes nothing from the other."""

    async def life() -> None:
        world = World(Chance(0, level=0.0), run_seconds=60.0)
        await world.apply_budget("a")
        await world.apply_budget("b", limit="7")
        for name in ("first", "second"):
            await world.apply(name)
        await world.until(
            lambda: (
                {world.reason("first"), world.reason("second")} == {"BudgetExceeded", "Running"}
            ),
            600,
        )
        assert {one.status.reserved_usd for one in world.budgets().values()} == {"6.000000"}
        await world.until(world.is_over, 1800)
        world.check_end()
        await world.end()

    play(life)


def test_a_raised_ceiling_is_used_only_as_far_as_the_budgets_hold_it() -> None:
    """Its fuse stays what it was until there is money, and grows once there is."""

    async def life() -> None:
        world = World(Chance(0, level=0.0), run_seconds=600.0)
        await world.apply_budget("team", limit="20")
        await world.apply("train")
        await world.until(lambda: world.reason("train") == "Running", 600)
        node = ("GpuNode", NAMESPACE, "train-0-1")
        world.kube.change("GpuJob", NAMESPACE, "train", cost={"ceiling": "30.00"})
        await world.go_on(90)
        held = world.kube.objects[node]
        assert held["status"]["rent"]["fuseUSD"] == "6.000000"
        assert "reservedUSD" not in held["status"]
        assert world.budgets()["team"].status.reserved_usd == "6.000000"
        world.kube.change(*BUDGET, limit="40")
        await world.go_on(90)
        assert world.kube.objects[node]["status"]["rent"]["fuseUSD"] == "30.000000"
        assert world.budgets()["team"].status.reserved_usd == "30.000000"
        await world.until(world.is_over, 3600)
        world.check_end()
        await world.end()

    play(life)


def test_a_job_that_no_budget_covers_waits_where_one_is_required() -> None:
    """Until there is one."""

    async def life() -> None:
        world = World(Chance(0, level=0.0), requires_budget=True)
        await world.apply("train")
        await world.until(lambda: world.reason("train") == "BudgetRequired", 60)
        await world.apply_budget("team")
        await world.until(world.is_over, 900)
        world.check_end()
        await world.end()

    play(life)


def test_a_node_that_waits_for_its_driver_gives_its_money_back() -> None:
    """Another job gets it meanwhile; the first one reserves anew before it rents."""

    async def life() -> None:
        world = World(Chance(0, level=0.0), run_seconds=100.0)
        world.drivers.are_pending = True
        await world.apply_budget("team", limit="7")
        await world.apply("first")
        await world.until(lambda: world.budgets()["team"].status.open == 1, 60)
        await world.apply("second")
        await world.until(lambda: world.reason("second") == "BudgetExceeded", 60)

        def held() -> list[tuple[str, str]]:
            found = world.budgets()["team"].status.reservations
            return sorted((one.node_name, one.reserved_usd) for one in found)

        await world.until(
            lambda: held() == [("first-0-1", "0.000000"), ("second-0-1", "6.000000")], 600
        )
        world.drivers.are_pending = False
        await world.until(world.is_over, 1800)
        assert {world.reason("first"), world.reason("second")} == {"Complete"}
        world.check_end()
        await world.end()

    play(life)


def test_a_node_that_vanishes_is_charged_in_full() -> None:
    """What it has cost is not known; also if its job is deleted before anybody looks."""

    async def life() -> None:
        world = World(Chance(0, level=0.0), run_seconds=300.0)
        await world.apply_budget("team", limit="20")
        for name in ("kept", "gone"):
            await world.apply(name)
        await world.until(lambda: world.reason("kept") == world.reason("gone") == "Running", 600)
        for name in ("kept", "gone"):
            world.kube.vanish("GpuNode", NAMESPACE, f"{name}-0-1")
        world.kube.vanish("GpuJob", NAMESPACE, "gone")
        await world.until(lambda: world.budgets()["team"].status.open == 0, 120)
        assert world.budgets()["team"].status.spent_usd == "12.000000"
        await world.until(lambda: not world.living(), 600)
        await world.end()

    play(life)


def test_what_a_restore_has_lost_is_reserved_again_before_the_rent() -> None:
    """Right before it, the budget comes back as it was before: what was seen last is too old."""

    async def life() -> None:
        world = World(Chance(0, level=0.0))
        await world.apply_budget("team")
        await world.until(lambda: world.budgets()["team"].status.phase == "Open", 60)
        saved = world.kube.objects[BUDGET]
        restored: list[str] = []

        def restore(kind: str, body: dict[str, Any], gone: bool, before: Any) -> None:
            del gone, before
            runs = kind == "Pod" and body.get("status", {}).get("phase") == "Running"
            if runs and not restored:
                restored.append(body["metadata"]["name"])
                world.kube.delete_now(*BUDGET)
                meta = saved["metadata"] | {"uid": "restored"}
                world.kube._put(BUDGET, saved | {"metadata": meta})

        world.kube.on_write.append(restore)
        await world.apply("train")
        await world.until(world.is_over, 600)
        assert restored
        assert float(world.budgets()["team"].status.spent_usd or 0) == charged(world) > 0
        world.check_end()
        await world.end()

    play(life)


def for_one_of_two(strikes: Strikes) -> list[str]:
    """Plays two jobs for which the budget has room one after the other; returns the calls."""

    async def life() -> list[str]:
        world = World(Chance(0, level=0.0), run_seconds=30.0, calls=Calls(strikes=strikes))
        await world.apply_budget("team", limit="7")
        await world.until(lambda: world.budgets()["team"].status.phase == "Open", 1000)
        for name in ("first", "second"):
            await world.apply(name)
        await world.until(world.is_over, 4 * 3600)
        await world.go_on(STOPPED_SECONDS)
        world.check_end()
        await world.end()
        return world.calls.made

    found: list[str] = play(life)
    return found


def test_a_process_that_stood_while_it_wrote_takes_nothing_back() -> None:
    """It has read the budget and what the node says, and another one leads before it writes."""
    made, read, is_reading = for_one_of_two({}), [], False
    for number, call in enumerate(made):
        is_reading = call == "find GpuBudget" or (is_reading and call != "write_status GpuBudget")
        if is_reading and call == "find GpuJob" and "write_status GpuBudget" in made[number:]:
            read.append(number)

    assert read
    for number in read:
        for_one_of_two({number: "stop after"})


@pytest.mark.parametrize(("limit", "held"), [("12", ["a-0-1", "b-0-1"]), ("7", ["b-0-1"])])
def test_of_two_writers_neither_overwrites_the_other(limit: str, held: list[str]) -> None:
    """One stands after it has read all that it needs; it begins anew, and finds what is left."""

    async def life() -> None:
        kube, clock = ModelKube(Chance(0, level=0.0)), VirtualClock()
        calls = [Calls(), Calls()]
        processes = [Process(one, lambda _: None, lambda _: None) for one in calls]
        views = [one.view(kube) for one in processes]
        books = [BudgetBook(one, Cache(one, lambda _: None), clock.now) for one in views]
        spec: dict[str, Any] = {"limit": limit, "period": "Month"}
        meta = {"metadata": {"name": "team"}}
        await kube.create("GpuBudget", NAMESPACE, {"kind": "GpuBudget", **meta, "spec": spec})
        for book in books:
            await book.look()
        nodes = {}
        for name in ("a", "b"):
            spec = {"image": "i", "command": ["c"], "gpu": {"models": ["RTX 4090"]}}
            spec |= {"cost": {"ceiling": "6"}}
            body: dict[str, Any] = {"kind": "GpuJob", "metadata": {"name": name}, "spec": spec}
            job = await kube.create("GpuJob", NAMESPACE, body)
            refers = {"name": name, "uid": job["metadata"]["uid"]}
            spec = {"jobRef": refers, "attempt": 1, "reservedUSD": "6.000000"}
            body = {"kind": "GpuNode", "metadata": {"name": f"{name}-0-1"}, "spec": spec}
            made = await kube.create("GpuNode", NAMESPACE, body)
            nodes[name] = key_of(made), made["metadata"]["uid"]
        calls[0].strikes = {len(calls[0].made) + 2: "stop after"}
        slow = asyncio.ensure_future(books[0].follow(*nodes["a"]))
        await asyncio.sleep(30)
        assert calls[0].made[-1] == "find GpuJob"
        assert processes[0].is_stopped
        await books[1].follow(*nodes["b"])
        processes[0].resume()
        await slow
        stored = GpuBudget.model_validate(kube.objects[BUDGET]).status
        assert [one.node_name for one in stored.reservations] == held

    play(life)


@pytest.mark.parametrize("seed", range(6))
def test_a_storm_of_two_leaders_overdraws_no_budget(seed: int) -> None:
    """Calls fail everywhere, processes end and stop, limits and budgets come and go."""

    async def life() -> None:
        world = World(Chance(seed, level=0.05), run_seconds=60.0, max_usd_per_hour="100")
        chance, loop = world.chance, asyncio.get_running_loop()
        chance.healed = True
        await world.apply_budget("team", limit="20")
        await world.apply_budget("window", limit="16", period="Rolling", rollingHours=1)
        chance.healed = False
        for number in range(6):
            await world.apply(f"job-{number}")
        while loop.time() < 900:
            await world.step()
            number = chance.choice(0, 1)
            if chance.befalls(0.02):
                await world.restart(number, chance.between(0, 40))
            if chance.befalls(0.02):
                world.replicas[number].process.stop()
            if chance.befalls(0.1):
                world.replicas[number].process.resume()
            if chance.befalls(0.05) and BUDGET in world.kube.objects:
                world.kube.change(*BUDGET, limit=chance.choice("1", "7", "20", "40"))
            if chance.befalls(0.01) and BUDGET in world.kube.objects:
                world.kube.delete_now(*BUDGET)
                chance.met["budget deleted"] += 1
            elif chance.befalls(0.2) and BUDGET not in world.kube.objects:
                chance.healed = True
                await world.apply_budget("team", limit="20")
                chance.healed = False
            if chance.befalls(0.005):
                nodes = world.kube.of_kind("GpuNode")
                if nodes:
                    meta = chance.choice(*nodes)["metadata"]
                    world.kube.vanish("GpuNode", meta["namespace"], meta["name"])
        chance.healed = True
        for replica in world.replicas:
            replica.process.resume()
        if BUDGET not in world.kube.objects:
            await world.apply_budget("team", limit="20")
        world.kube.change(*BUDGET, limit="100")
        world.kube.change("GpuBudget", NAMESPACE, "window", limit="100")
        stays = {"CeilingExceeded", "ConfidenceTooLow", "MachinesDistrusted"}
        await world.until(
            lambda: (
                not world.living()
                and world.is_settled
                and all(
                    job.status.completion_time is not None or world.reason(name) in stays
                    for name, job in world.jobs().items()
                )
            ),
            8 * 3600,
        )
        assert world.chance.met["reserved"]
        world.check_end()
        await world.end()

    play(life)
