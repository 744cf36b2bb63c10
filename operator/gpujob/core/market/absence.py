"""When complete listings prove that the account no longer holds a machine with a mark."""

from bisect import bisect_left, bisect_right
from math import inf

from gpujob.core.market.history import Listings, Moment
from gpujob.core.market.listings import Mark


def absence_proved_at(
    listings: Listings,
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
    if not listings or listings[-1].account_id != account_id:
        return None
    # What was listed up to the last one of these is no proof.
    voids = [listings.marks.get(str(mark), -inf), listings.other_account_at]
    if instance_id is None:
        voids.append(listings.unattributable_at)
    else:
        voids += [run.last for run in listings.sightings_of(instance_id, mark)]
    moments = listings.moments
    begun = bisect_right(moments, max(voids), key=_requested)
    first = bisect_left(moments, after, lo=begun, key=_requested)
    if first == len(moments):
        return None

    def apart(moment: Moment) -> float:
        return moment.requested_at - moments[first].requested_at

    second = bisect_left(moments, poll_seconds, lo=first, key=apart)
    return moments[second].answered_at if second < len(moments) else None


def _requested(moment: Moment) -> float:
    return moment.requested_at
