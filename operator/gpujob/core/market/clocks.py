"""What time it is, by three clocks of which one may be wrong: our wall clock, our monotonic clock,
and the provider's Date in a listing.

Paid time ends attempts and is charged, so no single clock moves it further than the bound. Two that
agree are believed. What they agreed on is carried on by the monotonic clock, and is then the third
witness: whatever of the other two departs from it is the one that is wrong. If both depart, and
agree with each other, the monotonic clock stood still, as that of a suspended machine may.
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from gpujob.core.market.listings import Listing


@dataclass(frozen=True, kw_only=True)
class PaidTime:
    """What the clocks say together at one moment."""

    sure: datetime
    """What two clocks agreed on: no single one has ever moved it."""
    latest: datetime
    """The latest that a clock within the bound has said; so paid time never runs back."""
    monotonic: float
    """The moment of both, on our monotonic clock."""
    is_agreed: bool
    """False if no two clocks have agreed since this process began; then both are the earliest that
    any clock says, so that no end comes early."""
    is_evidence: bool
    """Whether the listing shows what is leased now. One of another time may be an old answer."""
    problem: str = ""
    """What is wrong with which clock, and what to do, for people; empty = the clocks agree."""

    def at(self, monotonic: float) -> datetime:
        """Returns the time at a moment of the monotonic clock that is not earlier."""
        return self.latest + timedelta(seconds=monotonic - self.monotonic)


def joined(
    before: PaidTime | None,
    listing: Listing,
    *,
    wall: datetime,
    monotonic: float,
    bound_seconds: float,
) -> PaidTime:
    """Returns the time as a new listing, and our clocks at this moment, show it.

    The provider's Date lies between the request and its answer, to whole seconds.
    """
    bound = timedelta(seconds=bound_seconds)
    took = timedelta(seconds=listing.answered_at - listing.requested_at)
    theirs = listing.provider_time
    if theirs is not None:
        theirs += timedelta(seconds=monotonic - listing.answered_at)

    def of_now(time: datetime) -> bool:
        return theirs is not None and -bound - took <= theirs - time <= bound

    agree = of_now(wall)
    if before is None or not before.is_agreed:
        if agree and theirs is not None:
            return _believed(wall, theirs, took, monotonic)
        earliest = wall if theirs is None else min(wall, theirs)
        return PaidTime(
            sure=earliest,
            latest=earliest,
            monotonic=monotonic,
            is_agreed=False,
            is_evidence=False,
            problem=_between(wall, theirs, bound),
        )
    passed = timedelta(seconds=monotonic - before.monotonic)
    sure, latest = before.sure + passed, before.latest + passed
    ours_fits, theirs_fits = abs(wall - sure) <= bound, of_now(sure)
    problem = ""
    if theirs is not None and theirs_fits:
        sure, latest = max(sure, min(wall, theirs)) if ours_fits else sure, max(latest, theirs)
    elif theirs is not None and agree:
        found = _believed(wall, theirs, took, monotonic)
        return replace(found, latest=max(found.latest, latest)) if ours_fits else found
    if ours_fits:
        latest = max(latest, wall)
    if not theirs_fits:
        problem = _between(sure, theirs, bound)
    elif not ours_fits:
        problem = (
            f"the operator's clock is {_apart(wall - sure, bound)} the provider's, which has gone "
            "as our monotonic clock has; correct the operator's clock"
        )
    return PaidTime(
        sure=sure,
        latest=latest,
        monotonic=monotonic,
        is_agreed=True,
        is_evidence=theirs_fits,
        problem=problem,
    )


def _believed(wall: datetime, theirs: datetime, took: timedelta, monotonic: float) -> PaidTime:
    return PaidTime(
        sure=min(wall, theirs + took),
        latest=max(wall, theirs),
        monotonic=monotonic,
        is_agreed=True,
        is_evidence=True,
    )


def _between(ours: datetime, theirs: datetime | None, bound: timedelta) -> str:
    if theirs is None:
        return "the provider's answers have no Date that can be read; its listings prove nothing"
    return (
        f"the provider's clock is {_apart(theirs - ours, bound)} the operator's; its listings "
        "prove nothing meanwhile; correct the operator's clock if that is the wrong one"
    )


def _apart(difference: timedelta, bound: timedelta) -> str:
    """Returns how far two clocks are apart; the words stay the same while they stay apart."""
    known = {
        timedelta(days=1): "a day",
        timedelta(hours=1): "an hour",
        timedelta(minutes=1): "60 s",
    }
    shown = next(
        (words for least, words in known.items() if abs(difference) > least),
        f"{bound.total_seconds():.0f} s",
    )
    return f"more than {shown} {'ahead of' if difference > timedelta(0) else 'behind'}"
