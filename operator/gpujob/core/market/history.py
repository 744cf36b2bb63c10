"""What the complete listings of the last minutes have shown of each machine.

A pass asks of earlier listings whether they showed a machine, what it had moved, and whether it was
paused. That is noted as each listing comes, by number and by mark. So no pass looks through
listings, however many machines they show, and the rows are kept of the latest ones only, and the
last one of each machine that is gone.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from math import inf
from typing import NamedTuple

from gpujob.core.market.listings import Lease, Listing, Mark, is_anothers, rows_by_job

LISTINGS_KEPT = 64
"""So many listings are evidence."""
ROWS_KEPT = 3
"""The rows of so many are kept: no decision looks at a whole row further back."""


class Moment(NamedTuple):
    """When a listing was taken."""

    requested_at: float
    """Monotonic time, as in the listing."""
    answered_at: float
    machines: int
    """How many it shows."""


class Sighting(NamedTuple):
    """One machine in listings in a row that show it with the same mark and state."""

    mark: str | None
    is_paused: bool
    stopped_usd_per_hour: Fraction | None
    """What an hour of the pause costs; None = it is unknown, or the machine is not paused."""
    first: float
    """When the first of these listings was requested, in monotonic time."""
    last: float
    download_gb: Fraction | None
    """The highest count of those that can be read; None = none can be."""
    upload_gb: Fraction | None
    counted: float | None
    """When the last of these listings with readable counts was requested; None = none has them."""

    def shows(self, moment: Moment) -> bool:
        """Whether a listing is one of these."""
        return self.first <= moment.requested_at <= self.last


@dataclass(frozen=True, kw_only=True)
class Listings:
    """The complete listings of the last minutes; as a sequence, the latest few with all rows."""

    latest: tuple[Listing, ...] = ()
    """Oldest first."""
    moments: tuple[Moment, ...] = ()
    """Of all listings that are evidence, oldest first."""
    sightings: Mapping[int, tuple[Sighting, ...]] = field(default_factory=dict)
    """Those in these listings, by the machine's number, oldest first."""
    marks: Mapping[str, float] = field(default_factory=dict)
    """By each mark, when the last of these listings that shows it was requested."""
    unattributable_at: float = -inf
    """When the last listing was requested that shows a machine that could be anyone's."""
    other_account_at: float = -inf
    """When the last listing was requested that is of another account than the latest."""
    gone: Mapping[int, Lease] = field(default_factory=dict)
    """By its number, the last row of each machine that these listings show, but the latest."""

    def __len__(self) -> int:
        """Returns the number of listings whose rows are kept."""
        return len(self.latest)

    def __getitem__(self, index: int) -> Listing:
        """Returns one of the listings whose rows are kept; raises IndexError."""
        return self.latest[index]

    def and_then(self, listing: Listing) -> "Listings":
        """Returns these with one more, which was requested later than all of them."""
        at, before = listing.requested_at, self.moments[-1].requested_at if self.moments else -inf
        assert at > before, "a listing is taken in once, in the order of the requests"
        moment = Moment(at, listing.answered_at, len(listing.leases))
        moments = (*self.moments, moment)[-LISTINGS_KEPT:]
        oldest = moments[0].requested_at
        marks = {mark: last for mark, last in self.marks.items() if last >= oldest}
        sightings = {
            number: runs if runs[0].last >= oldest else _since(runs, oldest)
            for number, runs in self.sightings.items()
            if runs[-1].last >= oldest
        }
        for row in listing.leases:
            if row.mark is not None:
                marks[row.mark] = at
            runs = sightings.get(row.instance_id, ())
            sightings[row.instance_id] = _with_row(runs, row, at, before)
        last = self.latest[-1].by_number if self.latest else {}
        gone = {
            number: row
            for number, row in {**self.gone, **last}.items()
            if number in sightings and number not in listing.by_number
        }
        changed = bool(self.latest) and self.latest[-1].account_id != listing.account_id
        return Listings(
            latest=(*self.latest, listing)[-ROWS_KEPT:],
            moments=moments,
            sightings=sightings,
            marks=marks,
            unattributable_at=at if listing.has_unattributable else self.unattributable_at,
            other_account_at=before if changed else self.other_account_at,
            gone=gone,
        )

    @cached_property
    def gone_by_job(self) -> Mapping[tuple[str, str], tuple[tuple[str, Lease], ...]]:
        """The machines that the latest listing does not show any more, see `rows_by_job`."""
        return rows_by_job(self.gone.values())

    def sightings_of(self, instance_id: int, mark: Mark) -> tuple[Sighting, ...]:
        """Returns how a recorded machine was shown, oldest first, but for where it is another's."""
        runs = self.sightings.get(instance_id, ())
        return tuple(run for run in runs if not is_anothers(run, mark))

    def was_anothers(self, instance_id: int, mark: Mark) -> bool:
        """Whether one of the listings shows this number under the mark of another node."""
        return any(is_anothers(run, mark) for run in self.sightings.get(instance_id, ()))


def _since(runs: tuple[Sighting, ...], oldest: float) -> tuple[Sighting, ...]:
    return tuple(run for run in runs if run.last >= oldest)


def _with_row(
    runs: tuple[Sighting, ...], row: Lease, at: float, before: float
) -> tuple[Sighting, ...]:
    """Returns a machine's sightings with that of a listing; `before` is when the one before was
    requested.
    """
    state = (row.mark, row.is_paused, row.stopped_usd_per_hour if row.is_paused else None)
    run = runs[-1] if runs and runs[-1].last == before and runs[-1][:3] == state else None
    down, up, counted = (None, None, None) if run is None else run[-3:]
    if row.download_gb is not None and row.upload_gb is not None:
        down = row.download_gb if down is None else max(down, row.download_gb)
        up = row.upload_gb if up is None else max(up, row.upload_gb)
        counted = at
    if run is None:
        return (*runs, Sighting(*state, at, at, down, up, counted))
    return (*runs[:-1], Sighting(*state, run.first, at, down, up, counted))
