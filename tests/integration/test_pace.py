"""The provider's thresholds in force: jobs that start together, and end together."""

from tests.integration.conftest import World

SCALE = 0.2
"""All intervals are a fifth, on both sides."""
NAMES = [f"train-{number}" for number in range(4)]


def test_equal_jobs_at_once_get_a_machine_each_and_break_no_threshold(stage: World) -> None:
    """None loses a race against another, and all that they ask keeps the pace."""
    world = stage
    world.simulator.ask("PUT", "thresholds", {"scale": SCALE})
    world.operator.start(GPUJOB_REQUEST_SPACING=str(SCALE))
    for name in NAMES:
        world.apply_job(name)
    jobs = [world.await_reason(name, "Complete") for name in NAMES]
    machines = [world.simulator.of(job) for job in jobs]
    asked = [one["path"] for one in world.simulator.requests()]

    assert [job["status"]["attempt"] for job in jobs] == [1] * len(NAMES)
    assert [len(leases) for leases in machines] == [1] * len(NAMES)
    assert len([path for path in asked if path.startswith("/api/v0/asks/")]) == len(NAMES)
    assert world.simulator.ask("GET", "thresholds")["refusals"] == {}
