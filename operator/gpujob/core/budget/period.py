"""Which period a moment lies in, by the calendar of a time zone or by a rolling window.

A day lasts from the first time that the clocks show 00:00, or skip it, to the next day's, so that
periods follow each other without a gap, however the clocks are set: a day has 23 to 25 hours.
"""

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from gpujob.api.gpubudget import SLICES, GpuBudgetSpec, Period

_DAY = timedelta(days=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class UnknownZone(ValueError):
    """The time zone is not in the database of time zones."""


@dataclass(frozen=True)
class Span:
    """A period: from its start up to its end, which is not part of it; both in UTC."""

    start: datetime
    end: datetime


@dataclass(frozen=True)
class Rule:
    """How time is divided for a budget."""

    period: Period
    zone: ZoneInfo
    window: timedelta | None
    """Length of a rolling window; None = the calendar's periods."""

    @property
    def slice(self) -> timedelta:
        """Length of the parts of a rolling window."""
        assert self.window is not None, "a period of the calendar has no parts"
        return self.window / SLICES

    def at(self, moment: datetime) -> Span:
        """Returns the period of the calendar in which a moment lies; the day for a window."""
        first = _first_day(self.period, moment.astimezone(self.zone).date())
        # The clocks may show a date again that was over, or leave one out.
        while self._start(first) > moment:
            first = _first_day(self.period, first - _DAY)
        while self._start(following := _next_first(self.period, first)) <= moment:
            first = following
        return Span(self._start(first), self._start(following))

    def slice_start(self, moment: datetime) -> datetime:
        """Returns when the part of a rolling window began in which a moment lies."""
        return moment - (moment - _EPOCH) % self.slice

    def leaves_at(self, slice_start: datetime) -> datetime:
        """Returns when the last of what was spent in a part leaves the window."""
        assert self.window is not None, "in a period of the calendar all leaves at its end"
        return slice_start + self.slice + self.window

    def _start(self, day: date) -> datetime:
        return datetime.combine(day, time(), self.zone).astimezone(UTC)


def rule_of(spec: GpuBudgetSpec) -> Rule:
    """Returns how a budget divides time; raises UnknownZone."""
    try:
        zone = ZoneInfo(spec.time_zone)
    except (ValueError, OSError, KeyError):
        raise UnknownZone(
            f"timeZone {spec.time_zone!r} is not known; use a name like Europe/Berlin"
        ) from None
    hours = spec.rolling_hours
    return Rule(spec.period, zone, None if hours is None else timedelta(hours=hours))


def _first_day(period: Period, day: date) -> date:
    match period:
        case "Month":
            return day.replace(day=1)
        case "Week":
            return day - day.weekday() * _DAY
    return day


def _next_first(period: Period, first: date) -> date:
    match period:
        case "Month":
            return (first + 31 * _DAY).replace(day=1)
        case "Week":
            return first + 7 * _DAY
    return first + _DAY
