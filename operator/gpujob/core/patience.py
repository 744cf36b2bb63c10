"""How long a machine is waited for that should be there and is not heard of."""

from gpujob.core.limits import Limits


def silence_seconds(limits: Limits, *, paid_seconds: float, says_running: bool) -> float:
    """Returns how long a silent machine is waited for before another one is rented.

    Giving it up loses what was paid for it, waiting costs its price per second: so long as was
    already paid for, which at worst doubles the loss. A provider that says something else than
    running halves that. Silence alone is not death, so never less than the least; and never more
    than the machine's own watchdog waits for us.
    """
    seconds = paid_seconds if says_running else paid_seconds / 2
    most = limits.heartbeat_stale_seconds
    return min(max(seconds, limits.silence_min_seconds), most)
