"""GpuBudgets on a real API server: what it admits, who may write them, and what fits into one."""

import json
import re
import time
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from functools import partial

import pytest
from tests.integration.conftest import World
from tests.integration.parts import Kubectl, Object, eventually

JOBS, ROOM = 60, 8
"""Of so many jobs so many fit into the budget."""


def apply_budget(world: World, name: str, **spec: object) -> None:
    """Applies a budget of a month, changed by keyword."""
    manifest = {
        "apiVersion": "gpujob.dev/v1alpha1",
        "kind": "GpuBudget",
        "metadata": {"name": name, "namespace": world.namespace},
        "spec": {"limit": "100", "period": "Month", **spec},
    }
    world.kubectl.client.apply(manifest)


def status(world: World, name: str) -> Object:
    """Returns a budget's status; empty if there is none."""
    found: Object = (world.kubectl.get("gpubudget", name, world.namespace) or {}).get("status", {})
    return found


def await_open(world: World, name: str) -> None:
    """Waits until the operator has opened a budget."""
    eventually(f"{name} is open", lambda: status(world, name).get("phase") == "Open")


def await_spent(world: World, name: str, usd: Decimal) -> None:
    """Waits until a budget was charged exactly so much."""
    eventually(f"{name} is charged", lambda: Decimal(status(world, name)["spentUSD"]) == usd)


def test_the_api_server_admits_what_a_budget_may_be(kubectl: Kubectl, namespace: str) -> None:
    """With defaults; what contradicts itself is refused in words, and all but the limit stays."""

    def applied(**spec: object) -> str:
        manifest = {
            "apiVersion": "gpujob.dev/v1alpha1",
            "kind": "GpuBudget",
            "metadata": {"name": "team", "namespace": namespace},
            "spec": {"limit": "100", "period": "Month", **spec},
        }
        return kubectl.run("apply", "-f", "-", text=json.dumps(manifest)).stderr

    both = [{"key": "team", "operator": "Exists", "values": ["vision"]}]
    refused = (
        ({"limit": "0"}, "limit must be more than 0 US dollars"),
        ({"limit": "-1"}, "spec.limit"),
        ({"period": "Year"}, "supported values"),
        ({"rollingHours": 5}, "rollingHours must be set if period is Rolling, and only then"),
        ({"period": "Rolling"}, "rollingHours must be set if period is Rolling, and only then"),
        ({"period": "Rolling", "rollingHours": 2161}, "less than or equal to 2160"),
        ({"timeZone": "no zone"}, "spec.timeZone"),
        ({"selector": {"matchExpressions": both}}, "values must be set for In and NotIn"),
        ({"selector": {"matchLabels": {"team": "a b"}}}, "spec.selector"),
        ({"limits": "5"}, 'unknown field "spec.limits"'),
    )
    for spec, words in refused:
        assert words in applied(**spec), spec
    assert applied() == ""
    stored = kubectl.get("gpubudget", "team", namespace) or {}
    assert stored["spec"]["timeZone"] == "UTC"
    assert stored["status"]["phase"] == "Waiting"
    assert "period is immutable" in applied(period="Week")
    assert "timeZone is immutable" in applied(timeZone="Europe/Berlin")
    assert applied(selector={}) == ""
    assert applied(limit="200.50") == ""
    listed = kubectl("get", "gb", "-n", namespace)
    columns = "NAME PERIOD LIMITUSD SPENTUSD RESERVEDUSD AVAILABLEUSD OPEN RUNSOUT PERIODEND AGE"
    assert listed.splitlines()[0].split() == columns.split()


@pytest.mark.shared_world
def test_what_a_job_costs_is_reserved_charged_and_kept(world: World) -> None:
    """To the cent of what the job says; it stays when the job and its node are deleted."""
    apply_budget(world, "team")
    apply_budget(world, "vision", limit="2.00", selector={"matchLabels": {"team": "vision"}})
    for name in ("team", "vision"):
        await_open(world, name)
    world.apply_job("train", {"team": "vision"}, command=world.waits())
    world.await_reason("train", "Running")
    for name in ("team", "vision"):
        (held,) = status(world, name)["reservations"]
        assert (held["nodeName"], held["reservedUSD"]) == ("train-0-1", "2.000000")
    world.apply_job("second", {"team": "vision"})
    job = world.await_reason("second", "BudgetExceeded")
    (ready,) = [one for one in job["status"]["conditions"] if one["type"] == "Ready"]
    assert "GpuBudget vision has $0.000 left of $2.000" in ready["message"]
    assert world.kubectl.get("gpunode", "second-0-1", world.namespace) is None
    patch = ("gpubudget", "team", "-n", world.namespace, "--subresource=status", "--type=merge")
    forged = world.kubectl.run("patch", *patch, "-p", '{"status":{"spentUSD":"0"}}')
    assert "only the operator may write the status" in forged.stderr
    world.let_go()
    done = world.await_reason("train", "Complete")
    cost = Decimal(done["status"]["cost"]["finalUSD"])
    assert cost > 0
    await_spent(world, "vision", cost)
    # The other job fits no more beside what the first one has cost.
    assert world.condition("second", "Ready")["reason"] == "BudgetExceeded"
    raised = '{"spec":{"limit":"20"}}'
    world.kubectl("patch", "gb", "vision", "-n", world.namespace, "--type=merge", "-p", raised)
    after = world.await_reason("second", "Complete")
    both = cost + Decimal(after["status"]["cost"]["finalUSD"])
    for name in ("team", "vision"):
        await_spent(world, name, both)
    for name in ("train", "second"):
        world.kubectl("delete", "gpujob", name, "-n", world.namespace, "--timeout=240s")
    for name in ("team", "vision"):
        told = status(world, name)
        assert (Decimal(told["spentUSD"]), told["reservedUSD"]) == (both, "0.000000")


def test_of_a_burst_exactly_what_fits_is_reserved(stage: World) -> None:
    """The operator is killed three times meanwhile; the rest wait, and say for which budget."""
    # No driver ever starts, so that what is reserved stays so.
    stage.pods.stop()
    slow = {"GPUJOB_GATE_RETRY_SECONDS": "5"}
    stage.operator.start(**slow)
    apply_budget(stage, "team", limit=f"{2 * ROOM + 1}")
    await_open(stage, "team")
    names = [f"job-{number}" for number in range(JOBS)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(stage.apply_job, names))
    began = time.monotonic()
    for _ in range(3):
        time.sleep(1)
        stage.operator.kill()
        stage.operator.start(**slow)
    eventually("the budget is full", lambda: len(holding(stage)) == ROOM)
    seconds = time.monotonic() - began

    def waiting() -> list[Object]:
        found = stage.kubectl.items("gpujobs", "-n", stage.namespace)
        ready = [
            one
            for job in found
            for one in job.get("status", {}).get("conditions", ())
            if one["type"] == "Ready"
        ]
        return [one for one in ready if one["reason"] == "BudgetExceeded"]

    # A leader that was killed may have left a node for which the next one found no money: it says
    # that it may cost nothing.
    eventually("those without a node wait", lambda: len(waiting()) == JOBS - len(nodes_of(stage)))
    print(f"{ROOM} of {JOBS} reserved after {seconds:.1f} s and three kills")
    for one in waiting():
        # What was left when it was looked at: its words are not stored each time.
        told_of = re.match(r"GpuBudget team has \$[01]\.000 left of \$17\.000", one["message"])
        assert told_of is not None, one["message"]
    told = status(stage, "team")
    assert (told["reservedUSD"], told["availableUSD"]) == (f"{2 * ROOM}.000000", "1.000000")
    eventually("each node is held, or may cost nothing", lambda: may_cost(stage) == holding(stage))
    assert len(holding(stage)) == ROOM
    for name in names:
        stage.kubectl.client.delete("gpujobs", name, stage.namespace)
    eventually("all is free", partial(is_free, stage))
    assert status(stage, "team")["spentUSD"] == "0.000000"


def nodes_of(world: World) -> list[Object]:
    """All nodes."""
    return world.kubectl.items("gpunodes", "-n", world.namespace)


def holding(world: World) -> set[str]:
    """The nodes, by their uids, for which the budget holds money."""
    held = status(world, "team").get("reservations", ())
    return {one["nodeUID"] for one in held if Decimal(one["reservedUSD"]) > 0}


def may_cost(world: World) -> set[str]:
    """The nodes, by their uids, that say that they may cost anything."""
    found = set()
    for node in nodes_of(world):
        said = node.get("status", {}).get("reservedUSD", node["spec"]["reservedUSD"])
        if Decimal(said) > 0:
            found.add(node["metadata"]["uid"])
    return found


def is_free(world: World) -> bool:
    """Whether the budget holds nothing any more."""
    told = status(world, "team")
    return (told["open"], told["reservedUSD"]) == (0, "0.000000")
