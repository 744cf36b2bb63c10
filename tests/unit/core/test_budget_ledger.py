"""The ledger of one budget: what each change does to it, and what cannot be read."""

from dataclasses import replace
from datetime import datetime, timedelta
from fractions import Fraction
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.builders import NOW, a_job, a_node, at, ended, leased, renting, stamp

from gpujob.api.gpubudget import PERIODS_MAX, RESERVATIONS_MAX, SLICES_MAX, GpuBudget
from gpujob.core.budget import ledger as ledgers
from gpujob.core.budget.ending import charge_at_end
from gpujob.core.budget.ledger import (
    Claim,
    Ledger,
    Refused,
    Unusable,
    ledger_of,
    opened,
    read_budget,
    reserve,
    settle,
    shrink,
    written,
)
from gpujob.core.budget.outlook import frees_at, runs_out_at
from gpujob.core.money import MICRO

DAY = timedelta(days=1)


def dollars(amount: float) -> int:
    """Whole tenths of cents as micro-USD."""
    return round(amount * 1000) * 1000


def a_budget(status: dict[str, Any] | None = None, **spec: Any) -> GpuBudget:
    """A budget of 100 $ a day, as stored."""
    return GpuBudget.model_validate(
        {
            "metadata": {
                "name": "all",
                "namespace": "team",
                "uid": "b-1",
                "resourceVersion": "1",
                "creationTimestamp": stamp(-60),
            },
            "spec": {"limit": "100", "period": "Day"} | spec,
            "status": status or {},
        }
    )


def a_ledger(**spec: Any) -> Ledger:
    """The ledger of such a budget that has just been opened."""
    return opened(a_budget(**spec), (), NOW)


def a_claim(amount: float, uid: str = "n-1", **changes: Any) -> Claim:
    """An attempt that may cost so many dollars."""
    claim = Claim(
        node_uid=uid, node_name="train-0-1", job_uid="j-1", attempt=1, microusd=dollars(amount)
    )
    return replace(claim, **changes)


def holding(*amounts: float, now: datetime = NOW, **spec: Any) -> Ledger:
    """A ledger that holds these, for the nodes n-1, n-2 and so on."""
    found = a_ledger(**spec)
    for number, amount in enumerate(amounts, 1):
        after = reserve(found, a_claim(amount, f"n-{number}"), now)
        assert isinstance(after, Ledger)
        found = after
    return found


def stored(ledger: Ledger, **spec: Any) -> GpuBudget:
    """The budget that holds a ledger."""
    return a_budget(written(ledger, a_budget().status).wire(), **spec)


def figures(ledger: Ledger | Refused) -> tuple[float, float, float]:
    """Dollars spent, reserved, left."""
    assert isinstance(ledger, Ledger)
    amounts = ledger.spent_microusd, ledger.reserved_microusd, ledger.left_microusd
    spent, reserved, left = (amount / MICRO for amount in amounts)
    return spent, reserved, left


# --- One change ---------------------------------------------------------------------------------


def test_the_last_dollar_is_reserved_once() -> None:
    """To the millionth."""
    found = holding(60)

    last = reserve(found, a_claim(40, "n-2"), NOW)
    assert figures(last) == (0, 100, 0)
    assert isinstance(last, Ledger)
    assert reserve(last, a_claim(0.001, "n-3"), NOW) == Refused(1000)
    above = a_claim(0, "n-2", microusd=dollars(40) + 1)
    assert reserve(found, above, NOW) == Refused(1)


def test_a_reservation_is_made_once() -> None:
    """However often it is asked for; less than is held lowers nothing."""
    found = holding(60)

    assert reserve(found, a_claim(60), at(5)) == found
    assert reserve(found, a_claim(20), at(5)) == found
    more = reserve(found, a_claim(70), at(5))
    assert figures(more) == (0, 70, 30)
    assert isinstance(more, Ledger)
    assert more.held["n-1"].since == NOW


def test_what_is_held_may_grow() -> None:
    """By what is left, and only the difference counts."""
    found = holding(60, 20)

    assert figures(reserve(found, a_claim(80), NOW)) == (0, 100, 0)
    assert reserve(found, a_claim(90), NOW) == Refused(dollars(10))


def test_shrinking_only_lowers() -> None:
    """And does nothing for what was settled."""
    found = holding(60)

    assert figures(shrink(found, "n-1", dollars(10), NOW)) == (0, 10, 90)
    assert shrink(found, "n-1", dollars(70), NOW) == found
    assert shrink(found, "n-2", 0, NOW) == found


def test_settling_charges_once() -> None:
    """The key that is gone says that it was done."""
    once = settle(holding(60, 20), "n-1", dollars(35), NOW)

    assert figures(once) == (35, 20, 45)
    assert settle(once, "n-1", dollars(35), NOW) == once
    assert figures(settle(once, "n-2", 0, NOW)) == (35, 0, 65)


def test_what_cost_more_than_was_reserved_is_charged_in_full() -> None:
    """No cost is hidden; nothing fits until there is money again."""
    over = settle(holding(60), "n-1", dollars(130), NOW)

    assert figures(over) == (130, 0, -30)
    assert reserve(over, a_claim(1, "n-2"), NOW) == Refused(dollars(31))
    assert stored(over).status.available_usd == "0.000000"


def test_a_limit_that_is_lowered_stops_what_begins_alone() -> None:
    """What is held stays, and can be settled."""
    lower = ledger_of(stored(holding(60), limit="50"))

    assert figures(lower) == (0, 60, -10)
    assert reserve(lower, a_claim(1, "n-2"), NOW) == Refused(dollars(11))
    assert reserve(lower, a_claim(61), NOW) == Refused(dollars(11))
    assert reserve(lower, a_claim(60), NOW) == lower
    assert figures(settle(lower, "n-1", dollars(20), NOW)) == (20, 0, 30)


def test_2000_reservations_are_held_and_no_more() -> None:
    """Whatever money is left; what is held may still grow."""
    full = holding(*[0.01] * RESERVATIONS_MAX)

    assert reserve(full, a_claim(0.01, "one more"), NOW) == Refused(0)
    assert isinstance(reserve(full, a_claim(1), NOW), Ledger)
    assert len(ledger_of(stored(full)).held) == RESERVATIONS_MAX


# --- Periods ------------------------------------------------------------------------------------


def test_a_period_that_begins_has_its_limit_without_what_runs() -> None:
    """What ends in it is charged to it in full, and the period before stays as it was."""
    found = settle(holding(60, 30), "n-2", dollars(25), NOW)
    tomorrow = NOW + DAY

    assert reserve(found, a_claim(40, "n-3"), NOW) == Refused(dollars(25))
    later = reserve(found, a_claim(40, "n-3"), tomorrow)
    assert figures(later) == (0, 100, 0)
    assert isinstance(later, Ledger)
    after = settle(later, "n-1", dollars(50), tomorrow)

    assert [one.microusd / MICRO for one in after.history] == [25, 50]
    assert [one.carried_microusd for one in after.history] == [dollars(60), None]
    assert figures(after) == (50, 40, 10)


@pytest.mark.parametrize(
    ("zone", "begins", "hours"),
    [
        ("Europe/Berlin", "2026-03-28T00:00+01:00", [24, 23, 24]),
        ("Europe/Berlin", "2026-10-24T00:00+02:00", [24, 25, 24]),
        ("America/Santiago", "2026-09-05T00:00-04:00", [24, 23, 24]),
        ("America/Santiago", "2026-04-03T00:00-03:00", [24, 25, 24]),
        ("America/Havana", "2026-10-31T00:00-04:00", [24, 25, 24]),
    ],
)
def test_each_hour_is_charged_to_the_day_of_its_clocks(
    zone: str, begins: str, hours: list[int]
) -> None:
    """A dollar an hour, over a day on which they are set."""
    first = datetime.fromisoformat(begins)
    found = opened(a_budget(timeZone=zone), (), first)
    for hour in range(sum(hours)):
        now = first + timedelta(hours=hour)
        after = reserve(found, a_claim(1), now)
        assert isinstance(after, Ledger)
        found = settle(after, "n-1", dollars(1), now)

    assert [one.microusd / MICRO for one in found.history] == hours


def test_a_clock_that_goes_back_opens_no_period_again() -> None:
    """What is charged then belongs to the later one."""
    tomorrow = ledgers.at(settle(holding(60, 30), "n-2", dollars(25), NOW), NOW + DAY)

    back = settle(tomorrow, "n-1", dollars(50), NOW)

    assert [one.microusd / MICRO for one in back.history] == [25, 50]
    assert back.history[-1].span.start > NOW


def test_days_and_90_of_them_are_kept() -> None:
    """What was spent in each, whether its jobs exist or not."""
    found = a_ledger()
    for day in range(200):
        now = NOW + day * DAY
        after = reserve(found, a_claim(1, f"n-{day}"), now)
        assert isinstance(after, Ledger)
        found = settle(after, f"n-{day}", dollars(day / 10), now)
        assert len(found.history) <= PERIODS_MAX

    kept = ledger_of(stored(found)).history
    assert [one.microusd for one in kept] == [dollars(day / 10) for day in range(109, 200)]


def test_a_month_that_ended_less_than_90_days_ago_is_kept() -> None:
    """So that its table can be shown."""
    found = a_ledger(period="Month", timeZone="Europe/Berlin", limit="1000")
    for month in range(8):
        now = NOW + month * timedelta(days=30.5)
        after = reserve(found, a_claim(1, f"n-{month}"), now)
        assert isinstance(after, Ledger)
        found = settle(after, f"n-{month}", dollars(month + 1), now)

    assert [one.microusd / MICRO for one in found.history] == [5, 6, 7, 8]


def test_a_rolling_window_forgets_in_steps() -> None:
    """Not before its length has passed, and a 24th of it later at most."""
    found = holding(40, 60, period="Rolling", rollingHours=24)
    found = settle(found, "n-1", dollars(40), at(1800))
    found = settle(found, "n-2", dollars(60), at(2 * 3600))
    last = reserve(found, a_claim(1, "n-3"), at(25 * 3600 - 1))
    first = reserve(found, a_claim(40, "n-3"), at(25 * 3600))

    assert last == Refused(dollars(1))
    assert figures(first) == (60, 40, 0)
    assert figures(ledgers.at(found, at(27 * 3600))) == (0, 0, 100)
    assert [one.microusd / MICRO for one in found.history] == [100]


def test_a_rolling_window_has_so_many_parts_at_most() -> None:
    """Whenever it is charged."""
    found = a_ledger(period="Rolling", rollingHours=1)
    for second in range(0, 9000, 50):
        after = reserve(found, a_claim(0.1), at(second))
        assert isinstance(after, Ledger)
        found = settle(after, "n-1", dollars(0.1), at(second))
        assert len(found.window) <= SLICES_MAX
        since = second - 3600
        inside = sum(1 for one in range(0, second + 1, 50) if one > since)
        assert inside * dollars(0.1) <= found.spent_microusd <= (inside + 3) * dollars(0.1)


def test_a_clock_that_goes_back_charges_the_latest_part() -> None:
    """So that the parts stay in order, and what is spent leaves no earlier than it would have."""
    found = holding(40, 60, period="Rolling", rollingHours=24)
    found = settle(found, "n-1", dollars(40), at(3 * 3600))
    found = settle(found, "n-2", dollars(60), at(0))

    assert [amount / MICRO for _, amount in found.window] == [100]
    assert ledger_of(stored(found, period="Rolling", rollingHours=24)) == found


# --- Opening, and reading -----------------------------------------------------------------------


def test_a_budget_that_is_not_open_holds_nothing() -> None:
    """Neither a fresh one, nor one whose status a backup dropped."""
    with pytest.raises(Unusable, match="the operator has not counted yet what is under way"):
        ledger_of(a_budget())


def test_a_budget_is_opened_with_what_is_under_way() -> None:
    """Beyond its limit: the machines may cost money already. Then it is held as any other."""
    found = opened(a_budget(), [a_claim(70), a_claim(70, "n-2")], NOW)

    assert figures(found) == (0, 140, -40)
    assert reserve(found, a_claim(1, "n-3"), NOW) == Refused(dollars(41))
    assert figures(settle(found, "n-1", dollars(10), NOW)) == (10, 70, 20)
    many = (a_claim(1, f"n-{number}") for number in range(RESERVATIONS_MAX + 1))
    with pytest.raises(Unusable, match=r"2001 attempts are under way, and it has room for 2000"):
        opened(a_budget(), many, NOW)


def test_what_is_stored_is_what_was_held() -> None:
    """By each kind of period; what people are told besides stays."""
    for spec in (
        {"period": "Month", "timeZone": "Europe/Berlin"},
        {"period": "Rolling", "rollingHours": 100},
    ):
        found = settle(holding(60, 30, **spec), "n-2", 25_000_001, at(90))
        status = written(found, a_budget({"phase": "Ready"}).status)

        assert ledger_of(a_budget(status.wire(), **spec)) == found
        assert (status.phase, status.open) == ("Ready", 1)
        assert (status.spent_usd, status.reserved_usd) == ("25.000001", "60.000000")


def spoilt(**changes: Any) -> dict[str, Any]:
    """The body of a budget that holds something, with another status."""
    body = stored(settle(holding(60, 30, 5), "n-2", dollars(25), NOW)).wire()
    held = body["status"]
    assert isinstance(held, dict)
    status = {key: value for key, value in (held | changes).items() if value is not None}
    return body | {"status": status}


ENTRY: Any = stored(holding(60)).wire()["status"]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"reservations": []}, "as many entries as it tells"),
        ({"reservations": [], "open": 0}, "does not add up"),
        ({"reservations": [], "open": 0, "reservedUSD": None}, "does not add up"),
        ({"reservations": ENTRY["reservations"] * 2}, "as many entries as it tells"),
        ({"reservedUSD": "64.999999"}, "does not add up"),
        ({"spentUSD": "0.000000"}, "does not add up"),
        ({"spentUSD": None}, "does not add up"),
        ({"spentUSD": "NaN"}, "cannot be read: NaN is not finite"),
        ({"spentUSD": "-1"}, "cannot be read: '-1' is less than 0"),
        ({"history": []}, "as many entries as it tells"),
        ({"history": None}, "as many entries as it tells"),
        ({"open": None}, "as many entries as it tells"),
        ({"history": [{"start": stamp(), "end": stamp(1)}]}, "field status.history.0.spentUSD"),
        ({"reservations": [{}]}, "field status.reservations.0.nodeUID cannot be read: Field req"),
        ({"reservations": "x"}, "field status.reservations cannot be read"),
        ({"openedAt": None}, "has not counted yet"),
    ],
    ids=str,
)
def test_what_is_not_whole_holds_nothing(changes: dict[str, Any], why: str) -> None:
    """Something is missing, and unknown money is no money."""
    with pytest.raises(Unusable, match=why):
        ledger_of(read_budget(spoilt(**changes)))


def test_a_time_zone_that_is_not_known_holds_nothing() -> None:
    """The API server cannot refuse it."""
    body = spoilt() | {"spec": {"limit": "100", "period": "Day", "timeZone": "Europe/Atlantis"}}

    with pytest.raises(Unusable, match="timeZone 'Europe/Atlantis' is not known"):
        ledger_of(read_budget(body))
    with pytest.raises(Unusable, match="timeZone 'Europe/Atlantis' is not known"):
        opened(a_budget(timeZone="Europe/Atlantis"), (), NOW)


# --- Any order of changes -----------------------------------------------------------------------

UIDS = st.sampled_from(["n-1", "n-2", "n-3", "n-4"])
AMOUNTS = st.integers(1, 70 * MICRO)
CHANGES = st.one_of(
    st.tuples(st.just("reserve"), UIDS, AMOUNTS),
    st.tuples(st.just("reserve"), UIDS, AMOUNTS),
    st.tuples(st.just("shrink"), UIDS, AMOUNTS),
    st.tuples(st.just("settle"), UIDS, AMOUNTS),
    st.tuples(st.just("limit"), st.just(""), AMOUNTS),
    # Up to 30 hours on, and up to 12 back.
    st.tuples(st.just("clock"), st.just(""), st.integers(-43_200, 108_000)),
)
PERIODS: tuple[dict[str, Any], ...] = (
    {"period": "Day", "timeZone": "America/Havana"},
    {"period": "Week"},
    {"period": "Rolling", "rollingHours": 36},
)


@given(st.sampled_from(PERIODS), st.lists(CHANGES, max_size=60))
def test_no_order_of_changes_overdraws_a_budget(
    period: dict[str, Any], changes: list[tuple[str, str, int]]
) -> None:
    """Each is made twice, on what is stored, as after an answer that was lost."""
    spec = {"limit": "100"} | period
    found, now, charged = opened(a_budget(**spec), (), NOW), NOW, 0
    for what, uid, amount in changes:
        before = found
        match what:
            case "reserve":
                after = reserve(found, a_claim(0, uid, microusd=amount), now)
                if isinstance(after, Refused):
                    assert after.lacking_microusd > 0
                    continue
                found = after
                assert found.held[uid].claim.microusd >= amount
                if found.reserved_microusd > before.reserved_microusd:
                    assert found.spent_microusd + found.reserved_microusd <= found.limit_microusd
                assert reserve(found, a_claim(0, uid, microusd=amount), now) == found
            case "shrink":
                found = shrink(found, uid, amount, now)
                assert uid not in found.held or found.held[uid].claim.microusd <= amount
                assert found.reserved_microusd <= before.reserved_microusd
            case "settle":
                charged += amount if uid in found.held else 0
                found = settle(found, uid, amount, now)
                assert uid not in found.held
                assert settle(found, uid, amount, now) == found
            case "limit":
                spec["limit"] = f"{amount // MICRO + 1}"
            case "clock":
                now += timedelta(seconds=amount)
        assert sum(one.microusd for one in found.history) == charged
        assert found.spent_microusd <= charged
        assert ledger_of(stored(found, **spec)).held == found.held
        found = ledger_of(stored(found, **spec))

    for uid in found.held:
        found = settle(found, uid, 0, now)
    assert found.reserved_microusd == 0
    ends = [(one.span.end, two.span.start) for one, two in pairwise(found.history)]
    assert all(end <= start for end, start in ends)


# --- What is charged ----------------------------------------------------------------------------

HELD = holding(5).held["n-1"]
OWN: dict[str, Any] = {"name": "train-0-1", "uid": "n-1"}
RELEASED = {"releasedAt": stamp(-1)}


@pytest.mark.parametrize(
    ("status", "charged"),
    [
        ({}, None),
        (renting(), None),
        (ended(leased()) | {"accruedUSD": "2.000000"}, None),
        # It is ended first: only then is its cost final.
        (leased() | RELEASED | {"accruedUSD": "2.000000"}, None),
        (ended(leased()) | RELEASED | {"accruedUSD": "2.000000"}, 2),
        (ended(leased()) | RELEASED | {"accruedUSD": "7.000000"}, 7),
        (ended(leased()) | RELEASED, 5),
        (ended(renting()) | RELEASED, 5),
        (
            ended(renting()) | RELEASED | {"notRented": {"at": stamp(), "reason": "OfferGone"}},
            0,
        ),
        (ended({}) | RELEASED, 0),
    ],
)
def test_a_node_is_charged_once_it_is_released(status: dict[str, Any], charged: int | None) -> None:
    """What it has cost, and all that is reserved if that is not known."""
    wanted = None if charged is None else dollars(charged)

    assert charge_at_end(HELD, a_node(status, **OWN), a_job(uid="j-1")) == wanted


RECORD = {"attempt": 1, "nodeName": "train-0-1", "nodeUID": "n-1", "endedAt": stamp(-1)}


@pytest.mark.parametrize(
    ("job", "charged"),
    [
        (None, 5),
        # One of the same name is another job.
        (a_job(uid="j-2"), 5),
        (a_job(uid="j-1"), 0),
        (a_job(status={"attempt": 1, "nodeName": "train-0-1", "nodeUID": "n-1"}, uid="j-1"), 5),
        (a_job(status={"attempt": 1}, uid="j-1"), 5),
        (a_job(status={"attempt": 2, "nodeUID": "n-9"}, uid="j-1"), 5),
        (
            a_job(
                status={
                    "attempt": 1,
                    "attempts": [RECORD | {"reason": "Completed", "costUSD": "3.000000"}],
                },
                uid="j-1",
            ),
            3,
        ),
    ],
)
def test_a_node_that_is_gone_is_charged_in_full(job: Any, charged: int) -> None:
    """Unless its job has charged it, or never recorded it: then it cannot have rented."""
    assert charge_at_end(HELD, None, job) == dollars(charged)
    # A node of the same name with another UID says nothing.
    other = a_node(ended({}) | RELEASED, name="train-0-1", uid="n-2")
    assert charge_at_end(HELD, other, job) == dollars(charged)


# --- Outlook ------------------------------------------------------------------------------------


def test_money_frees_when_the_period_ends() -> None:
    """But not what is held then."""
    found = settle(holding(60, 30), "n-2", dollars(30), NOW)

    assert frees_at(found, dollars(10), NOW) == NOW
    assert frees_at(found, dollars(40), NOW) == at(12 * 3600)
    assert frees_at(found, dollars(41), NOW) is None


def test_money_frees_when_it_leaves_the_window() -> None:
    """Part by part."""
    found = holding(40, 50, period="Rolling", rollingHours=24)
    found = settle(found, "n-1", dollars(40), at(1800))
    found = settle(found, "n-2", dollars(50), at(2 * 3600))
    now = at(3 * 3600)

    assert frees_at(found, dollars(10), now) == now
    assert frees_at(found, dollars(50), now) == at(25 * 3600)
    assert frees_at(found, dollars(51), now) == at(27 * 3600)
    assert frees_at(found, dollars(101), now) is None


@pytest.mark.parametrize(
    ("rate", "accrued", "hours"),
    [(0, 0, None), (10, 10, 6), (5, 0, None), (5, 10, None), (7, 0, 10), (70, 0, 1), (1, 70, 0)],
)
def test_a_budget_runs_out_at_the_present_rate(
    rate: int, accrued: float, hours: float | None
) -> None:
    """With 70 $ that are not spent; what is reserved and not used yet runs out, too."""
    found = settle(holding(60, 30), "n-2", dollars(30), NOW)

    end = runs_out_at(
        found, accrued_microusd=dollars(accrued), usd_per_hour=Fraction(rate), now=NOW
    )

    assert end == (None if hours is None else at(hours * 3600))


@pytest.mark.parametrize(
    ("rate", "hours"), [(1, None), (2, 10), (Fraction(5, 4), 16), (Fraction(100, 99), None)]
)
def test_a_window_runs_out_unless_enough_leaves_it(rate: Any, hours: float | None) -> None:
    """With 20 $ left, and 80 $ that leave it after 17 hours."""
    found = holding(80, period="Rolling", rollingHours=24)
    found = settle(found, "n-1", dollars(80), at(0))
    now = at(8 * 3600)

    end = runs_out_at(found, accrued_microusd=0, usd_per_hour=Fraction(rate), now=now)

    assert end == (None if hours is None else now + timedelta(hours=hours))
