"""Each stored status of a node has one stage, and none of them lets a machine slip away."""

from dataclasses import replace
from functools import cache
from itertools import cycle, product

import pytest
from tests.builders import (
    INSTANCE,
    MONOTONIC,
    a_lease,
    a_listing,
    a_node,
    a_report,
    a_world,
    at,
    booted,
    node_observation,
    quotes,
    running,
    stamp,
)

from gpujob.api.gpunode import GpuNode, GpuNodeStatus
from gpujob.api.reasons import Reason
from gpujob.core import effects
from gpujob.core.machine.assignment import assignment
from gpujob.core.money import parse_usd
from gpujob.core.node.plan import plan_node
from gpujob.core.node.stage import CONTRADICTIONS, NEXT, Stage, stage_of
from gpujob.core.observation import NodeMemory

PARTS = a_node(
    running()
    | {
        "notRented": {"at": stamp(), "reason": "OfferGone"},
        "interruptions": {"count": 1, "pausedAt": stamp(-3), "runSeconds": 5},
        "stop": {"at": stamp(-2), "reason": "Suspended", "runSeconds": 5},
        "end": {"at": stamp(-1), "reason": "Suspended"},
        "releasedAt": stamp(),
    }
).status
assert PARTS.driver is not None
assert PARTS.interruptions is not None
assert PARTS.stop is not None
CHOICES: dict[str, tuple[object, ...]] = {
    "ssh_public_key": (None, PARTS.ssh_public_key),
    "driver": (None, PARTS.driver.model_copy(update={"ready_at": None}), PARTS.driver),
    "rent": (None, PARTS.rent),
    "not_rented": (None, PARTS.not_rented),
    "lease": (None, PARTS.lease),
    "machine": (None, PARTS.machine),
    "measured": (None, PARTS.measured),
    "run": (None, PARTS.run),
    "interruptions": (
        None,
        PARTS.interruptions,
        PARTS.interruptions.model_copy(update={"paused_at": None, "resumed_at": at(-1)}),
    ),
    "stop": (None, PARTS.stop.model_copy(update={"run_seconds": None}), PARTS.stop),
    "end": (None, PARTS.end),
    "released_at": (None, PARTS.released_at),
}
STARTING = (effects.CreateKey, effects.CreateDriver, effects.Rent, effects.ReadHostKey)
NODE = a_node()


@cache
def statuses() -> tuple[GpuNodeStatus, ...]:
    """Every combination of what a status may hold: 13,824 of them."""
    return tuple(
        GpuNodeStatus.model_construct(**dict(zip(CHOICES, values, strict=True)))  # type: ignore[arg-type]
        for values in product(*CHOICES.values())
    )


LISTED = node_observation(world=a_world(a_listing(a_lease())), quotes=quotes())
"""A machine is listed, and its driver reports."""
ALONE = node_observation(world=a_world(), pod=None, report=None)
"""No machine is listed, and no driver is there."""
SIGHTS = (LISTED, ALONE, replace(LISTED, job=None))


def node_of(status: GpuNodeStatus) -> GpuNode:
    """The node of such a status."""
    return NODE.model_copy(update={"status": status})


def test_every_status_has_a_stage_and_no_pass_raises() -> None:
    """A contradiction is ended and starts nothing; all else goes on as the table says."""
    met: set[Stage] = set()
    for status, sight in zip(statuses(), cycle((*SIGHTS, *SIGHTS[1:])), strict=False):
        stage = stage_of(status)
        met.add(stage)
        seen = replace(sight, node=node_of(status))
        plan = plan_node(seen)
        after = stage_of(plan.status)
        if not stage.is_contradiction:
            assert after is stage or after in NEXT[stage], (stage, after, status)
            continue
        assert not any(isinstance(todo, STARTING) for todo in plan.effects), (stage, plan)
        assert plan.status.end is not None, (stage, plan)
        if status.end is None:
            assert plan.status.end.reason == Reason.STATUS_CONTRADICTORY, (stage, plan)
            assert plan.status.released_at is None, (stage, plan)
        assert assignment(seen.node, seen.job, seen.world.limits).machine is None
    assert met == set(Stage)


@pytest.mark.parametrize("kind", sorted(CONTRADICTIONS))
def test_a_contradiction_ends_without_its_machine_and_charged(kind: Stage) -> None:
    """Whatever was stored: the listed machine is destroyed, proved gone, and paid for."""
    samples = [status for status in statuses() if stage_of(status) is kind]
    for first in samples[:: max(1, len(samples) // 20)]:
        status = first
        leased, seconds, memory = True, 0.0, NodeMemory(marker_seen_at=MONOTONIC)
        destroyed: set[int] = set()
        for _ in range(40):
            seconds += 15.0
            ago = [45.0, 30.0, 15.0, 0.0]
            rows = (a_lease(),) if leased else ()
            listings = tuple(
                a_listing(*rows, requested_at=MONOTONIC + seconds - one) for one in ago
            )
            world = a_world(*listings, now=at(seconds), monotonic=MONOTONIC + seconds)
            seen = node_observation(node=node_of(status), world=world, memory=memory)
            plan = plan_node(seen)
            status = plan.status
            if status.released_at is not None:
                break
            for todo in plan.effects:
                if isinstance(todo, effects.Destroy):
                    destroyed |= set(todo.instance_ids)
                    sent = MONOTONIC + seconds
                    memory = replace(
                        memory,
                        destroy_sent_at=memory.destroy_sent_at or sent,
                        destroy_repeated_at=sent,
                    )
                    leased = False
        assert stage_of(status) is Stage.RELEASED, (kind, status)
        was_refused = first.not_rented is not None and first.rent is not None
        asked = first.rent is not None or first.not_rented is not None
        if first.lease or first.machine or (asked and not was_refused):
            assert INSTANCE in destroyed, (kind, first)
            assert parse_usd(status.accrued_usd or "0") > 0, (kind, first)


def test_a_table_has_every_stage() -> None:
    """Each stage but the contradictions says what may follow, and each is reached."""
    assert set(NEXT) == set(Stage) - CONTRADICTIONS
    reached = {stage for following in NEXT.values() for stage in following}
    assert reached == set(NEXT) - {Stage.AWAITING_KEY}


def test_a_machine_that_came_back_unmeasured_may_be_running() -> None:
    """Its driver was told to start the workload: a suspension stops it before the machine goes."""
    back = {"interruptions": {"count": 1, "resumedAt": stamp(-3), "runSeconds": 5}}
    status = {key: value for key, value in booted().items() if key != "measured"} | back
    suspended = node_observation(status, report=a_report(), world=a_world(a_listing(a_lease())))
    assert suspended.job is not None
    spec = suspended.job.spec.model_copy(update={"suspend": True})
    job = suspended.job.model_copy(update={"spec": spec})

    plan = plan_node(replace(suspended, job=job))

    assert plan.status.stop is not None
    assert plan.status.end is None
