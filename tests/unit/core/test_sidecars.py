"""What is decided about a pod in which more than the driver runs, or that somebody has ended."""

from typing import Any

import pytest
from tests.builders import (
    DRIVEN,
    a_lease,
    a_listing,
    a_pod,
    a_world,
    ended,
    leased,
    node_observation,
    running,
    stamp,
)

from gpujob.api.reasons import Reason
from gpujob.core.effects import DeleteDriver
from gpujob.core.node.plan import plan_node

RELEASED = ended(leased(-400)) | {"releasedAt": stamp(-61)}


def test_a_pod_is_deleted_when_its_sidecars_outlive_its_driver() -> None:
    """A mesh's container never ends by itself; without one, the log stays with the node."""
    outlived = a_pod(phase="Succeeded", is_outlived=True)
    plan = plan_node(node_observation(RELEASED, pod=outlived, report=None))
    alone = plan_node(node_observation(RELEASED, pod=a_pod(phase="Succeeded"), report=None))
    gone = a_pod(phase="Succeeded", is_outlived=True, is_being_deleted=True)
    going = plan_node(node_observation(RELEASED, pod=gone, report=None))

    assert DeleteDriver(outlived.name, outlived.uid) in plan.effects
    for other in (alone, going):
        assert not any(isinstance(effect, DeleteDriver) for effect in other.effects)


@pytest.mark.parametrize("status", [DRIVEN, running()], ids=["before the rent", "while it runs"])
def test_why_a_pod_has_ended_is_told(status: dict[str, Any]) -> None:
    """Who reads the message looks for the cause where it is; the machine goes on meanwhile."""
    evicted = a_pod(phase="Failed", waiting="Evicted: The node was low on resource: memory")
    world = a_world(a_listing(a_lease())) if status != DRIVEN else a_world()
    plan = plan_node(node_observation(status, world=world, pod=evicted, report=None))

    assert plan.reason is Reason.AWAITING_DRIVER
    assert plan.effects == (DeleteDriver(evicted.name, evicted.uid),)
    assert plan.message == (
        "the driver pod ended without a result: "
        "Evicted: The node was low on resource: memory; replacing it"
    )
