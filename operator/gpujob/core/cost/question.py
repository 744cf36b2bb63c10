"""What the cost gate is asked, and the error by which it refuses."""

from dataclasses import dataclass
from datetime import datetime

from gpujob.api.gpujob import GpuJobSpec
from gpujob.api.reasons import Reason
from gpujob.core.cost.confidence import DestroyRecord
from gpujob.core.cost.experience import Experience
from gpujob.core.cost.leased import Leased
from gpujob.core.cost.template import Template
from gpujob.core.limits import Limits
from gpujob.core.market.hosts import HostMemory
from gpujob.core.market.offers import Quotes
from gpujob.core.market.outbids import OutbidMemory


class CostGateError(Exception):
    """The gate refuses; says why, with the numbers."""

    def __init__(self, reason: Reason, message: str, *, bound_microusd: int | None = None) -> None:
        super().__init__(f"{reason}: {message}")
        self.reason = reason
        self.message = message
        self.bound_microusd = bound_microusd
        """The bound on the cheapest matching offer, plus what was spent; None = unknown."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """All that the gate's answer depends on."""

    now: datetime
    limits: Limits
    spec: GpuJobSpec
    spent_microusd: int
    run_seconds_used: float
    quotes: Quotes
    leased: Leased
    destroys: tuple[DestroyRecord, ...] | None
    """What is known of our own enforcement; None = it could not be read."""
    avoided_machines: frozenset[int]
    """Machines on which earlier attempts of this job ended before their workload did."""
    hosts: HostMemory
    outbids: OutbidMemory
    template: Template
    runs: Experience | None
    """What was learnt of how long jobs run; None = it could not be read."""
    reserved_microusd: int | None = None
    """What is reserved in the attempt's node; None = nothing yet: all that is left may be used."""
