"""What spends money waits for nothing: not for other jobs, and not for a slow API server."""

import asyncio
from datetime import datetime

import pytest
from tests.simulation.model import Chance
from tests.simulation.world import World, play

from gpujob.adapters.errors import ClusterUnavailable
from gpujob.api.reasons import Reason
from gpujob.controller.lead import judge_lateness
from gpujob.controller.readiness import Readiness
from gpujob.controller.workqueue import Key, Lane, Place, WorkQueue

CALL_SECONDS = 0.5
DEADLINE_SECONDS = 300
WAITING = 60
IGNORED = 3


def seconds(wire: str) -> float:
    """Returns a stored time."""
    return datetime.fromisoformat(wire).timestamp()


def test_a_machine_is_destroyed_when_it_is_due_whatever_waits() -> None:
    """Its deadline is seen at once; then come one write and the request.

    Meanwhile very many jobs wait, and each call of the API server takes half a second.
    """

    async def life() -> None:
        world = World(Chance(0, level=0.0, pauses=(CALL_SECONDS / 2,)), run_seconds=10.0**5)
        await world.apply("train", activeDeadlineSeconds=DEADLINE_SECONDS)
        await world.until(lambda: world.reason("train") == "Running", 600)
        for number in range(WAITING):
            await world.apply(f"waits-{number}", cost={"ceiling": "0.01"})
        await world.until(lambda: not world.living(), 1000)
        nodes = [body["status"] for body in world.kube.of_kind("GpuNode")]
        (status,) = [one for one in nodes if "rent" in one]
        due = seconds(status["run"]["startedAt"]) + DEADLINE_SECONDS
        sent = next(at for at, how, _ in world.vast.received if how == "DELETE")

        assert seconds(status["stop"]["at"]) - due < 0.1
        assert sent - seconds(status["end"]["at"]) < CALL_SECONDS + 0.1
        await world.end()

    play(life)


def test_machines_that_wait_for_their_passes_stop_all_rents() -> None:
    """As long as they do, and not before the first pass can have begun."""

    async def life() -> None:
        queue, readiness = WorkQueue(lambda _: Place(Lane.MACHINES, "")), Readiness()
        readiness.say(Reason.PROVIDER_UNAVAILABLE, None)
        begun = asyncio.Event()
        judging = asyncio.create_task(judge_lateness(queue, readiness, begun.wait))
        queue.add(Key("GpuNode", "team", "train-0-1"))
        await asyncio.sleep(20)
        assert readiness.problem is None
        begun.set()
        await asyncio.sleep(2)
        problem = readiness.problem
        assert problem is not None
        assert problem.reason is Reason.ENFORCEMENT_LATE
        await queue.take()
        await asyncio.sleep(2)
        assert readiness.problem is None
        judging.cancel()

    play(life)


@pytest.mark.parametrize("call", ["write_status GpuNode", "get GpuNode"])
def test_what_has_ended_is_destroyed_whatever_the_cluster_refuses(call: str) -> None:
    """The provider ignores the first requests; meanwhile the machine's figures cannot be stored, or
    its node not read.
    """

    async def life() -> None:
        world = World(Chance(0, level=0.0), run_seconds=10.0**5)
        await world.apply("train", activeDeadlineSeconds=DEADLINE_SECONDS)
        await world.until(lambda: world.reason("train") == "Running", 600)
        world.vast.deaf = IGNORED
        await world.until(lambda: world.vast.deaf < IGNORED, 1000)
        world.kube.refused[call] = ClusterUnavailable("503")
        await world.until(lambda: not world.living(), 300)
        world.kube.refused.clear()
        await world.end()

    play(life)
