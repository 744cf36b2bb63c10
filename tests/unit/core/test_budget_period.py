"""The periods of budgets: by the calendar of a time zone, and by a rolling window."""

from datetime import UTC, datetime, timedelta
from zoneinfo import available_timezones

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpujob.api.gpubudget import SLICES, GpuBudgetSpec
from gpujob.core.budget.period import Rule, UnknownZone, rule_of

ZONES = sorted(one for one in available_timezones() if one[0].isupper() and one != "Factory")
HOUR = timedelta(hours=1)
MOMENTS = st.integers(0, 60 * 366 * 86_400 * 10**6).map(
    lambda number: datetime(2000, 1, 1, tzinfo=UTC) + timedelta(microseconds=number)
)
"""From 2000 to 2060."""


def rule(period: str, zone: str = "UTC", hours: int | None = None) -> Rule:
    """The rule of a budget with this period."""
    spec = {"limit": "1", "period": period, "timeZone": zone, "rollingHours": hours}
    return rule_of(GpuBudgetSpec.model_validate(spec))


def utc(text: str) -> datetime:
    """A moment that is written without its zone, which is UTC."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("zone", "within", "start", "hours"),
    [
        ("Europe/Berlin", "2026-03-29T12:00", "2026-03-28T23:00", 23),
        ("Europe/Berlin", "2026-10-25T12:00", "2026-10-24T22:00", 25),
        # Clocks go from 24:00 to 01:00, so that there is no midnight.
        ("America/Santiago", "2026-09-06T12:00", "2026-09-06T04:00", 23),
        # They go back at 24:00 to 23:00, so that the evening comes twice.
        ("America/Santiago", "2026-04-05T03:30", "2026-04-04T03:00", 25),
        # They go back at 01:00 to 00:00, so that midnight comes twice.
        ("America/Havana", "2026-11-01T05:30", "2026-11-01T04:00", 25),
        # By half an hour.
        ("Australia/Lord_Howe", "2026-10-04T00:00", "2026-10-03T13:30", 23.5),
        ("Australia/Lord_Howe", "2026-04-05T00:00", "2026-04-04T13:00", 24.5),
        # It left out the 30th.
        ("Pacific/Apia", "2011-12-30T09:59", "2011-12-29T10:00", 24),
        ("Pacific/Apia", "2011-12-30T10:00", "2011-12-30T10:00", 24),
        ("Asia/Kathmandu", "2026-01-01T18:15", "2026-01-01T18:15", 24),
    ],
)
def test_a_day_is_as_long_as_the_clocks_make_it(
    zone: str, within: str, start: str, hours: float
) -> None:
    """Also where they are set at midnight."""
    found = rule("Day", zone).at(utc(within))

    assert (found.start, found.end - found.start) == (utc(start), timedelta(hours=hours))


@pytest.mark.parametrize("minute", range(0, 180, 7))
def test_a_date_that_comes_back_opens_no_day_again(minute: int) -> None:
    """St John's went back at 00:01 to 23:01 of the day before."""
    moment = utc("2010-11-07T01:30") + timedelta(minutes=minute)
    midnight = utc("2010-11-07T02:30")

    found = rule("Day", "America/St_Johns").at(moment)

    assert (found.start == midnight) is (moment >= midnight)
    assert (found.end == midnight) is (moment < midnight)


@pytest.mark.parametrize(
    ("period", "within", "start", "end"),
    [
        ("Month", "2028-02-29T22:59:59.999999", "2028-01-31T23:00", "2028-02-29T23:00"),
        ("Month", "2027-12-31T23:00", "2027-12-31T23:00", "2028-01-31T23:00"),
        ("Month", "2026-03-31T21:59", "2026-02-28T23:00", "2026-03-31T22:00"),
        ("Month", "2026-10-31T22:59", "2026-09-30T22:00", "2026-10-31T23:00"),
        ("Week", "2026-11-30T12:00", "2026-11-29T23:00", "2026-12-06T23:00"),
        ("Week", "2026-03-29T21:59", "2026-03-22T23:00", "2026-03-29T22:00"),
        ("Week", "2027-01-01T00:00", "2026-12-27T23:00", "2027-01-03T23:00"),
    ],
)
def test_months_and_weeks_begin_at_midnight(period: str, within: str, start: str, end: str) -> None:
    """A week on Monday; both in Berlin's time, whatever that is then."""
    found = rule(period, "Europe/Berlin").at(utc(within))

    assert (found.start, found.end) == (utc(start), utc(end))


@given(
    st.sampled_from(ZONES),
    st.sampled_from(["Day", "Week", "Month"]),
    MOMENTS,
)
def test_each_moment_lies_in_one_period(zone: str, period: str, moment: datetime) -> None:
    """Wherever, and periods follow each other without a gap."""
    divided = rule(period, zone)

    found = divided.at(moment)

    assert found.start <= moment < found.end
    assert divided.at(found.start) == found
    assert divided.at(found.end).start == found.end
    assert divided.at(found.start - timedelta(microseconds=1)).end == found.start
    most = {"Day": 49, "Week": 8 * 24, "Month": 32 * 24}[period]
    assert found.end - found.start <= most * HOUR


@given(
    st.integers(1, 2160),
    MOMENTS,
)
def test_what_is_spent_leaves_a_window_a_little_late(hours: int, moment: datetime) -> None:
    """By a 24th of its length at most, and never early."""
    divided = rule("Rolling", hours=hours)
    start = divided.slice_start(moment)

    assert start <= moment < start + divided.slice
    assert divided.slice_start(start) == start
    late = divided.leaves_at(start) - (moment + hours * HOUR)
    assert timedelta(0) < late <= hours * HOUR / SLICES


@pytest.mark.parametrize("zone", ["Europe/Atlantis", "Europe", "A/B", "UTC-x", "Europe/Berlin/x"])
def test_a_time_zone_that_is_not_known_divides_nothing(zone: str) -> None:
    """It says what is wrong, and what to write."""
    with pytest.raises(UnknownZone, match=f"timeZone '{zone}' is not known; use a name like"):
        rule("Day", zone)
