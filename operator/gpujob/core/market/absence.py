"""When complete listings prove that the account no longer holds a machine with a mark."""

from gpujob.core.market.listings import Listing, Mark, is_anothers


def absence_proved_at(
    listings: tuple[Listing, ...],
    *,
    after: float,
    poll_seconds: float,
    mark: Mark,
    instance_id: int | None,
    account_id: int,
) -> float | None:
    """Returns the monotonic time from which the account is proved to hold no machine with this mark
    or number; None = it may hold one.

    The proof takes two complete listings of the same account without it, both requested later than
    `after` (monotonic), at least one poll apart, and no later sighting. An answer to a destroy
    request, or a 404, proves nothing: the machine may run on. A machine that cannot be attributed
    may be ours, so while one is listed only a known number can be proved absent.
    """
    label = str(mark)
    first: float | None = None
    proved_at: float | None = None
    for listing in listings:
        seen = any(
            lease.mark == label
            or (lease.instance_id == instance_id and not is_anothers(lease, mark))
            for lease in listing.leases
        )
        doubtful = listing.has_unattributable and instance_id is None
        if seen or doubtful or listing.account_id != account_id:
            first, proved_at = None, None
        elif listing.requested_at >= after:
            if first is None:
                first = listing.requested_at
            if proved_at is None and listing.requested_at - first >= poll_seconds:
                proved_at = listing.answered_at
    return proved_at
