"""Every cap, interval and patience that decisions use, with its unit, in one place."""

from dataclasses import dataclass

from gpujob.api.gpujob import GpuJobSpec

STOP_GRACE_SHARE = 1 / 3
"""Of the time to drain, what a workload has to end by itself before it is killed."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The constants of the rules that keep money safe; defaults are those for the real provider."""

    list_lag_seconds: float = 60
    """A new machine may be invisible, a destroyed one still visible, for this long."""
    poll_seconds: float = 15
    sweep_seconds: float = 15
    boot_cap_seconds: float = 1200
    """From the rent request to the start of the workload."""
    destroy_lag_cap_seconds: float = 120
    """From the decision to destroy to the proof; what the gate reckons with for one machine."""
    destroy_lag_per_lease_seconds: float = 3
    """More for each machine now leased: the provider takes one destroy per this interval."""
    max_destroy_lag_seconds: float = 600
    """Above it nothing is rented."""
    drain_seconds: float = 30
    """For a workload that is told to end, and for what is left of its output, until the machine is
    given back; a job may ask for more or less."""
    disk_write_mbps_min: float = 20
    """A machine whose disk takes fewer megabytes per second is dropped before it gets work."""
    heartbeat_stale_seconds: float = 900
    """A machine that nobody has reached for so long destroys itself."""
    silence_min_seconds: float = 120
    """A machine that is silent for less is not given up, however little it has cost."""
    outbid_patience_seconds: float = 1800
    """How long a machine that was taken away is waited for; its disk is paid meanwhile."""
    quote_age_seconds: float = 60
    clock_skew_seconds: float = 5
    rent_timeout_seconds: float = 30
    rent_not_after_seconds: float = 5
    driver_pending_seconds: float = 300
    driver_replacement_seconds: float = 300
    driver_exit_seconds: float = 60
    """How long a driver may take to leave by itself once its attempt is over."""
    retry_backoff_seconds: float = 10
    """Before the second attempt; doubled for each further one, up to the next limit."""
    retry_backoff_max_seconds: float = 360
    gate_retry_seconds: float = 30
    """Between two looks at the market for a job that the gate refused."""
    node_retention_seconds: float = 86_400
    status_seconds: float = 60
    """Accrued cost is written at transitions and at most this often."""
    lock_duration_seconds: int = 15
    """How long a leader that is not heard of any more is waited for."""
    lock_renew_deadline_seconds: float = 10
    """A leader that could not renew for so long stops, before another one can lead."""
    lock_retry_seconds: float = 2
    token_rejected_seconds: float = 60
    """A leader whose key is refused for so long ends, so that it starts with a rotated one."""
    token_restart_seconds: float = 300
    """But it has to have run for so long."""
    cluster_check_seconds: float = 30
    """Between two looks at our rights and at what the chart has installed."""
    certificate_life_seconds: float = 7_776_000
    """Of the webhook's certificates, 90 days; the next is made after two thirds of it."""
    certificate_overlap_seconds: float = 600
    """A certificate is trusted for so long before it is used."""
    max_leases: int = 20
    max_usd_per_hour: str = "50"
    plausible_low: float = 0.2
    plausible_high: float = 5.0
    """A rate outside this range of the model's median is taken for an error of units."""

    def drain_seconds_of(self, spec: GpuJobSpec) -> float:
        """Returns the time that a job's workload may take to end and its files to be copied."""
        asked = spec.data.drain_seconds
        return self.drain_seconds if asked is None else asked

    def destroy_lag_seconds(self, leases: int) -> float:
        """Returns the time that destroying one machine may take while so many are leased."""
        return self.destroy_lag_cap_seconds + self.destroy_lag_per_lease_seconds * leases

    @property
    def not_rented_wait_seconds(self) -> float:
        """From the first sight of a marker until listings may prove that nothing was rented."""
        return self.rent_not_after_seconds + self.rent_timeout_seconds + self.list_lag_seconds
