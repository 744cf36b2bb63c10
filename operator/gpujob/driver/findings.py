"""What the driver knows about its machine and its workload.

The loop that works writes it; the loop that reports sends it.
"""

import json
from dataclasses import dataclass, field

from gpujob.api.meta import Model
from gpujob.api.transport import (
    LogPosition,
    MachineFault,
    Measured,
    Outcome,
    Progress,
    WorkloadPhase,
)
from gpujob.driver.output import Sinks, carried
from gpujob.driver.usage import UsageMeter


@dataclass
class Run:
    """What is known about one run of the workload."""

    number: int
    sinks: Sinks
    """Each run has streams of its own, from their first byte on."""
    meter: UsageMeter = field(default_factory=UsageMeter)
    seconds: float | None = None
    alive_at: int = 0
    """When the workload was last seen to run, or when it ended, by the machine's clock in seconds
    since 1970; 0 = unknown."""
    progress: Progress | None = None
    written: tuple[int, int] = (0, 0)
    """Bytes of stdout and stderr on the machine."""
    stopped_at: float | None = None
    """Monotonic time at which the workload was asked to end."""
    is_killed: bool = False
    """The driver killed the workload."""
    is_over: bool = False
    """The workload was seen to have ended."""

    @property
    def log(self) -> LogPosition:
        """How much of the output was carried."""
        out, err = carried(self.sinks)
        return LogPosition(
            stdout_carried=out,
            stdout_written=max(self.written[0], out),
            stderr_carried=err,
            stderr_written=max(self.written[1], err),
        )


@dataclass
class Findings:
    """All that a report says about the machine and the workload."""

    data_problem: str = ""
    """Why the job's files cannot be copied, whatever the machine; known before one is rented."""
    phase: WorkloadPhase = WorkloadPhase.WAITING
    contact_at: float | None = None
    """Monotonic time of the machine's last answer; None = it has not answered yet."""
    measured: Measured | None = None
    run: Run | None = None
    ended: Outcome | None = None
    """How the workload ended, while its files are still being copied."""
    outcome: Outcome | None = None
    """How the workload ended, once nothing is left to copy."""
    money_deadline_seconds: int | None = None
    """What the machine's watchdog was told last and holds to."""
    fault: MachineFault | None = None
    is_replaced: bool = False
    """The machine heeds a later driver alone."""
    message: str = ""
    """The latest problem in words; not scrubbed yet."""


def encoded(message: Model) -> bytes:
    """Returns a message as UTF-8: escapes would make it up to three times as long."""
    return json.dumps(message.wire(), ensure_ascii=False).encode()
