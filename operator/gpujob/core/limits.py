"""Every cap, interval and timeout that decisions use, with its unit, in one place."""

from dataclasses import dataclass

from gpujob.api.gpujob import GpuJobSpec
from gpujob.core.market.pace import Kind

PAGE_LEASES = 25
"""The most machines that one page of a listing has (vastsim/FACTS.md, Listings)."""
PAGE_ANSWER_SECONDS = 0.5
"""How long the answer to each is reckoned to take."""
STOP_GRACE_SHARE = 1 / 3
"""Share of the drain time in which a workload may exit by itself before it is killed."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The constants of the rules that keep money safe; the defaults suit the real provider."""

    list_lag_seconds: float = 60
    """A new machine may be invisible, a destroyed one still visible, for this long."""
    poll_seconds: float = 15
    sweep_seconds: float = 15
    boot_cap_seconds: float = 1200
    """The longest time from the rent request to the start of the workload."""
    installer_silence_seconds: float = 60
    """If no SSH server could be installed, and the log has said nothing more for this long, the
    image is given up."""
    standstill_seconds: float = 180
    """A machine that stands still before it has booted is told to run, and given up after this."""
    destroy_lag_cap_seconds: float = 120
    """Time from the decision to destroy until the proof: the list lag, two polls, 30 seconds."""
    destroy_lag_per_lease_seconds: float = 3
    """Added for each machine of `max_leases`: the provider accepts one destroy request per this
    interval."""
    max_destroy_lag_seconds: float = 600
    """If destroying one of `max_leases` machines may take longer, nothing is rented."""
    drain_seconds: float = 30
    """How long a workload that is stopped may take to exit and its output to be copied, before the
    machine is destroyed; `spec.data.drainSeconds` overrides it."""
    disk_write_mbps_min: float = 20
    """A machine whose disk writes fewer megabytes per second fails the preflight check."""
    heartbeat_stale_seconds: float = 900
    """A machine that nobody has reached for this long destroys itself."""
    silence_min_seconds: float = 120
    """A machine is never given up after a shorter silence, however little it has cost."""
    outbid_patience_seconds: float = 1800
    """How long a machine may stay away after somebody outbid us; its disk is paid for meanwhile."""
    quote_age_seconds: float = 60
    request_spacing: float = 1.0
    """The provider's least intervals between requests are multiplied by this. If others use the
    account as well, 2 leaves them half of what it may ask."""
    clock_skew_seconds: float = 5
    rent_timeout_seconds: float = 30
    rent_not_after_seconds: float = 5
    driver_pending_seconds: float = 300
    driver_replacement_seconds: float = 300
    driver_exit_seconds: float = 60
    """How long a driver may take to exit by itself once its attempt is over."""
    retry_backoff_seconds: float = 10
    """Wait before the second attempt; doubled for each further one, up to the next limit."""
    retry_backoff_max_seconds: float = 360
    gate_retry_seconds: float = 30
    """Interval between two looks at the market for a job that the gate refused."""
    node_retention_seconds: float = 86_400
    closed_after_seconds: float = 3600
    """What has been over for this long is not watched any more, and looked at every few minutes."""
    status_seconds: float = 60
    """Accrued cost is written at transitions and at most this often."""
    profile_write_seconds: float = 60
    """What was learnt of how long jobs run is written at most this often."""
    words_seconds: float = 5
    """Other words for the same facts are written at most this often."""
    lock_duration_seconds: int = 15
    """How long the other replicas wait for a leader that no longer renews the lock."""
    lock_renew_deadline_seconds: float = 10
    """A leader that could not renew for this long stops, before another one can lead."""
    lock_retry_seconds: float = 2
    token_rejected_seconds: float = 60
    """A leader whose API key is refused for this long exits, to start again with a rotated key."""
    token_restart_seconds: float = 300
    """It exits only after it has run this long, so that it does not restart without pause."""
    cluster_check_seconds: float = 30
    """Interval between two checks of the operator's rights and of what the chart installs."""
    certificate_life_seconds: float = 7_776_000
    """Certificates live 90 days; the next one is made after two thirds of that."""
    certificate_overlap_seconds: float = 86_400
    """A certificate is trusted for this long before it is used."""
    max_leases: int = 20
    max_usd_per_hour: str = "50"
    plausible_low: float = 0.2
    plausible_high: float = 5.0
    """A price below or above these multiples of its model's median is taken for a wrong unit."""

    def drain_seconds_of(self, spec: GpuJobSpec) -> float:
        """Returns how long a job's workload may take to exit and its files to be copied."""
        asked = spec.data.drain_seconds
        return self.drain_seconds if asked is None else asked

    def listing_seconds(self, leases: int) -> float:
        """Returns the most seconds between two listings while `leases` machines are listed."""
        page_seconds = Kind.LIST.interval_seconds * self.request_spacing + PAGE_ANSWER_SECONDS
        return max(self.poll_seconds, (leases // PAGE_LEASES + 1) * page_seconds)

    def fullest_listing_seconds(self, others: int) -> float:
        """Returns the most seconds between two listings while all of `max_leases` machines are
        leased and `others` that are not ours are listed."""
        return self.listing_seconds(self.max_leases + others)

    def destroy_lag_seconds(self, others: int) -> float:
        """Returns how long destroying one machine may take then.

        A deadline is stored before the fleet grows, so it reckons with as many as there may ever
        be. The proof takes two listings, and with many machines each takes longer.
        """
        slower = 2 * (self.fullest_listing_seconds(others) - self.poll_seconds)
        waiting = self.destroy_lag_per_lease_seconds * self.request_spacing * self.max_leases
        return self.destroy_lag_cap_seconds + slower + waiting

    @property
    def not_rented_wait_seconds(self) -> float:
        """How long after the first sight of a marker listings may prove that nothing was rented."""
        return self.rent_not_after_seconds + self.rent_timeout_seconds + self.list_lag_seconds
