"""What is decided about a pod in which more than the driver runs, or that somebody has ended."""

from tests.builders import DRIVEN, a_pod, ended, leased, node_observation, stamp

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


def test_why_a_pod_has_ended_is_told() -> None:
    """Who reads the job's message looks for the cause where it is."""
    evicted = a_pod(phase="Failed", waiting="Evicted: The node was low on resource: memory")
    plan = plan_node(node_observation(DRIVEN, pod=evicted, report=None))

    assert plan.reason is Reason.AWAITING_DRIVER
    assert plan.message == (
        "the driver pod ended without a result: "
        "Evicted: The node was low on resource: memory; replacing it"
    )
