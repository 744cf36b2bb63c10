"""A job without a deadline: admitted for what such jobs took, also by the next controller."""

import json

from tests.integration.conftest import World
from tests.integration.parts import Object, eventually

RUNS = 25
BRIEF = {"command": ["true"]}
OFTEN = {"GPUJOB_PROFILE_WRITE_SECONDS": "2"}


def profiles(world: World) -> list[Object]:
    """What is stored in the test's namespace."""
    return world.kubectl.items("gpujobprofiles", "-n", world.namespace)


def known(world: World) -> int:
    """Of how many runs the profile of the one template says that it knows them."""
    found = profiles(world)
    return found[0]["spec"]["known"] if len(found) == 1 else 0


def test_the_26th_job_of_a_template_needs_no_deadline(stage: World) -> None:
    """It says with which bound and confidence, and on what that rests; a fresh template waits. The
    next controller, which finds only the profiles, says the same."""
    stage.operator.start(**OFTEN)
    for number in range(RUNS):
        stage.apply_job(f"brief-{number}", **BRIEF)
    eventually("all have run", lambda: _complete(stage) == RUNS, 240)
    eventually("that is written", lambda: known(stage) == RUNS)
    (stored,) = profiles(stage)
    assert len({one["nodeUID"] for one in stored["spec"]["runs"]}) == RUNS
    assert stored["spec"]["boundSeconds"] >= max(one["seconds"] for one in stored["spec"]["runs"])
    shown = stage.kubectl("get", "gp", "-n", stage.namespace)
    assert shown.split()[:5] == ["NAME", "TEMPLATE", "RUNS", "BOUNDSECONDS", "UPDATED"]
    assert "true" not in json.dumps(stored["spec"]["runs"][0] | {"shared": None, "held": None})

    _judge(stage, "first", RUNS)
    eventually("it is written as well", lambda: known(stage) == RUNS + 1)
    for job in stage.kubectl.items("gpujobs", "-n", stage.namespace):
        stage.kubectl.client.delete("gpujobs", job["metadata"]["name"], stage.namespace)
    left = ("gpujobs,gpunodes", "-n", stage.namespace)
    eventually("no job and no node is left", lambda: not stage.kubectl.items(*left))
    assert stage.operator.stop() == 0
    stage.operator.start(**OFTEN)
    _judge(stage, "second", RUNS + 1)

    forged = {**stored, "metadata": {"name": "run-forged", "namespace": stage.namespace}}
    done = stage.kubectl.run("create", "--dry-run=server", "-f", "-", text=json.dumps(forged))
    assert "only the operator may write a GpuJobProfile" in done.stderr


def _judge(world: World, name: str, runs: int) -> None:
    """One of the known template is admitted and runs, and one of a fresh template is not."""
    world.apply_job(name, activeDeadlineSeconds=None, **BRIEF)
    fresh = f"fresh-{name}"
    world.apply_job(fresh, activeDeadlineSeconds=None, command=["sh", "-c", f"echo {name}"])
    cost = world.await_reason(name, "Complete")["status"]["cost"]
    assert float(cost["confidence"]) >= 0.95
    assert f"{runs} runs of its template" in cost["confidenceBasis"]
    told = world.condition(name, "Admitted")
    assert told["status"] == "True"
    assert f"{runs} runs of its template" in told["message"]
    assert "with a confidence of 0.9" in told["message"]
    world.await_reason(fresh, "InsufficientHistory")
    assert world.condition(fresh, "Admitted")["status"] == "False"
    words = world.condition(fresh, "Ready")["message"]
    assert "0 runs are known, of the 19 needed" in words
    assert "would admit activeDeadlineSeconds of" in words


def _complete(world: World) -> int:
    jobs = world.kubectl.items("gpujobs", "-n", world.namespace)
    ready = [
        one["reason"]
        for job in jobs
        for one in job.get("status", {}).get("conditions", [])
        if one["type"] == "Ready"
    ]
    return ready.count("Complete")
