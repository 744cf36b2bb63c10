"""How a GpuJob looks in each of its states: to kubectl, to kstatus (Flux), to Argo CD by our Lua.

The objects are what the API server holds at that moment.
"""

import re
from pathlib import Path
from typing import Any

import pytest
from lupa.lua51 import LuaRuntime
from tests.integration.conftest import World
from tests.integration.parts import Object, eventually

from localcluster.paths import ROOT

GOLDEN = Path(__file__).parent / "kubectl-get.txt"
HEALTH = ROOT / "helm/gpujob/argocd/health_GpuJob.lua"
AGREEING = {
    "InProgress": {"Progressing", "Suspended"},
    "Terminating": {"Progressing"},
    "Current": {"Healthy"},
    "Failed": {"Degraded"},
}
"""What Argo CD may say where kstatus says so; kstatus has no word for suspended."""


def kstatus(job: Object) -> str:
    """Judges as kstatus does any custom resource (kopf-stack facts, 8.2)."""
    meta, status = job["metadata"], job.get("status", {})
    held = {one["type"]: one["status"] for one in status.get("conditions", [])}
    if "deletionTimestamp" in meta:
        return "Terminating"
    if status.get("observedGeneration", meta["generation"]) != meta["generation"]:
        return "InProgress"
    if held.get("Reconciling") == "True":
        return "InProgress"
    if held.get("Stalled") == "True":
        return "Failed"
    return "Current" if held.get("Ready", "True") == "True" else "InProgress"


def argo(job: Object) -> tuple[str, str]:
    """Judges as Argo CD does: with the object as `obj`, and no library that it has not."""
    lua = LuaRuntime(unpack_returned_tuples=True)
    lua.globals()["obj"] = _table(lua, job)
    judged = lua.execute(HEALTH.read_text())
    return judged["status"], judged["message"]


def _table(lua: LuaRuntime, value: Any) -> Any:
    if isinstance(value, dict):
        return lua.table_from({name: _table(lua, one) for name, one in value.items()})
    if isinstance(value, list):
        return lua.table_from([_table(lua, one) for one in value])
    return value


def judge(job: Object) -> tuple[str, str]:
    """Returns both judgements; they must agree."""
    one, (two, message) = kstatus(job), argo(job)
    assert two in AGREEING[one], f"kstatus says {one}, Argo CD {two}"
    assert message
    return one, two


class Told:
    """What a user is shown of each state, held to the golden lines of `kubectl get` in turn."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._header, *lines = GOLDEN.read_text().splitlines()
        self._lines = iter(lines)

    def judge(self, name: str) -> tuple[str, str]:
        """Waits until a job is shown as the next line says, and returns how it is judged then."""
        wanted = next(self._lines)
        eventually(wanted, lambda: self._shown(name) == wanted)
        return judge(self._world.job(name))

    def _shown(self, name: str) -> str:
        """Returns the columns but the age, and without what is never twice the same."""
        shown = self._world.kubectl("get", "gpujob", name, "-n", self._world.namespace)
        header, line = shown.splitlines()
        # By the header: an empty column must not move the others.
        starts = [match.start() for match in re.finditer(r"\S+", header)]
        *cells, _ = (
            line[start:end].strip() for start, end in zip(starts, [*starts[1:], None], strict=True)
        )
        assert header.split()[:-1] == self._header.split(" | ")
        return " | ".join(re.sub(r"^\d+\.\d{6}$", "N", cell) for cell in cells)


@pytest.mark.timeout(180)
def test_each_state_is_judged_and_shown_right(stage: World) -> None:
    """All rows of the design's table of states."""
    told = Told(stage)
    stage.apply_job("fresh")
    assert told.judge("fresh") == ("InProgress", "Progressing")
    stage.kubectl("delete", "gpujob", "fresh", "-n", stage.namespace)

    stage.operator.start()
    eventually("it is ready", lambda: stage.operator.probe("readyz") == (200, "ok"))
    stage.apply_job("dear", cost={"ceiling": "0.01"})
    stage.apply_job("train", command=["sh", "-c", "sleep 60"])
    stage.apply_job("bad", command=["sh", "-c", "exit 3"], backoffLimit=0)
    stage.await_reason("dear", "CeilingExceeded")
    assert told.judge("dear") == ("InProgress", "Progressing")
    stage.await_reason("train", "Running")
    assert told.judge("train") == ("InProgress", "Progressing")
    stage.await_reason("bad", "BackoffLimitExceeded")
    assert told.judge("bad") == ("Failed", "Degraded")

    patch = '{"spec":{"suspend":true}}'
    stage.kubectl("patch", "gpujob", "train", "-n", stage.namespace, "--type=merge", "-p", patch)
    stage.await_reason("train", "Suspended")
    assert told.judge("train") == ("InProgress", "Suspended")

    stage.apply_job("good")
    stage.await_reason("good", "Complete")
    assert told.judge("good") == ("Current", "Healthy")

    stage.simulator.faults(wrong_key={"count": -1})
    eventually("the key is refused", lambda: stage.operator.probe("readyz")[0] == 503)
    stage.apply_job("waits")
    stage.await_reason("waits", "CredentialsRejected")
    assert told.judge("waits") == ("InProgress", "Progressing")
    stage.simulator.faults()

    stage.apply_job("leaves", command=["sh", "-c", "sleep 60"])
    stage.await_reason("leaves", "Running")
    stage.operator.stop()
    stage.kubectl("delete", "gpujob", "leaves", "-n", stage.namespace, "--wait=false")
    assert told.judge("leaves") == ("Terminating", "Progressing")
