"""What is kept current while an attempt is under way: addresses, figures of cost and run."""

from gpujob.api.gpunode import GpuNodeStatus, RunStatus
from gpujob.api.workload import ProgressStatus, UsageStatus
from gpujob.core.money import format_usd, parse_usd
from gpujob.core.node.charge import accrued_microusd
from gpujob.core.node.facts import can_be_reached, due_in, own_lease, present_report, reached
from gpujob.core.node.pauses import pauses_shown
from gpujob.core.node.traffic import traffic_shown, with_traffic
from gpujob.core.observation import NodeObservation

QUIET_SECONDS = 2.0
"""So long before a deadline no figures are stored: its own write would have to wait for theirs."""


def up_to_date(seen: NodeObservation) -> GpuNodeStatus:
    """Returns the status with figures, the addresses at which the machine is listed now, and when
    the provider took the node's key.

    A stop and a start may change the addresses. The machine is known by its host key: a driver goes
    on with what it does, and uses the new addresses when it next connects.
    """
    status, lease = with_figures(seen), own_lease(seen)
    attached = seen.memory.key_attached_at
    if status.lease is not None and status.lease.key_attached_at is None and attached is not None:
        told = status.lease.model_copy(update={"key_attached_at": attached})
        status = status.model_copy(update={"lease": told})
    if status.machine is None or lease is None or not can_be_reached(lease):
        return status
    machine = reached(lease, status.machine.host_key)
    return status.model_copy(update={"machine": machine})


def with_figures(seen: NodeObservation) -> GpuNodeStatus:
    """Returns the status with what the machine has moved, and with figures of the cost and of the
    run that are not too old."""
    world = seen.world
    if seen.node.status.rent is None or 0 < due_in(seen) < QUIET_SECONDS:
        return seen.node.status
    status = with_traffic(seen)
    fresh = (
        status.as_of is not None
        and (world.now - status.as_of).total_seconds() < world.limits.status_seconds
    )
    if fresh:
        return status
    told = parse_usd(status.accrued_usd or "0")
    return status.model_copy(
        update={
            "accrued_usd": format_usd(max(accrued_microusd(seen), told)),
            "as_of": world.now,
            "traffic": traffic_shown(seen),
            "pauses": pauses_shown(seen),
            "run": _run_told(seen),
        }
    )


def _run_told(seen: NodeObservation) -> RunStatus | None:
    """Returns the run with the progress and the usage that the driver reported last."""
    run, report = seen.node.status.run, present_report(seen)
    if run is None or report is None:
        return run
    told: dict[str, object] = {}
    if (progress := report.progress) is not None:
        told["progress"] = ProgressStatus(
            percent=None if progress.percent is None else int(progress.percent),
            step=progress.step,
            remaining_seconds=(
                None if progress.remaining_seconds is None else int(progress.remaining_seconds)
            ),
            metrics={name: f"{value:.6g}" for name, value in progress.metrics.items()},
        )
    if (usage := report.usage) is not None:
        told["usage"] = UsageStatus(
            gpu_percent=int(usage.gpu_percent),
            gpu_memory_mib=usage.gpu_memory_mib,
            idle_seconds=int(usage.idle_seconds),
        )
    return run.model_copy(update=told)
