"""Faults that are asked for: what is refused, how often they strike, and what they show."""

from email.utils import parsedate_to_datetime

import pytest

from vastsim.faults import FLICKERS, OPTIONS, ROW_NULLS, FaultError, Faults

NOW = 1_800_000_000.0
ROW = {"id": 1, "image_uuid": "x", "actual_status": "running", "label": "l", "dph_base": 1.0}


def asked(**wanted: object) -> Faults:
    """Faults that are asked for."""
    faults = Faults(seed=1)
    faults.ask(wanted)
    return faults


@pytest.mark.parametrize("name", sorted(OPTIONS))
def test_every_fault_strikes_as_often_as_it_is_asked_for(name: str) -> None:
    """Once by default."""
    once, thrice, always = asked(**{name: {}}), asked(**{name: {"count": 3}}), Faults()
    always.ask({name: {"count": -1}})

    assert [once.strikes(name) is not None for _ in range(3)] == [True, False, False]
    assert sum(thrice.strikes(name) is not None for _ in range(9)) == 3
    assert all(always.strikes(name) for _ in range(9))
    assert (once.asked(), thrice.asked(), set(always.asked())) == ({}, {}, {name})


def test_a_fault_strikes_by_chance_from_the_seed_whatever_else_is_asked_for() -> None:
    """About as often as it is likely, until it is withdrawn."""

    def strikes(seed: int, *names: str) -> dict[str, list[bool]]:
        faults = Faults(seed)
        faults.ask({name: {"probability": 0.3} for name in names})
        found = [{name: faults.strikes(name) is not None for name in names} for _ in range(1000)]
        assert {one.count for one in faults.asked().values()} == {-1}
        return {name: [one[name] for one in found] for name in names}

    alone, both = strikes(1, "list_omit"), strikes(1, "hang", "list_omit")
    assert alone["list_omit"] == both["list_omit"] != both["hang"]
    assert alone != strikes(2, "list_omit")
    assert 240 < sum(alone["list_omit"]) < 360


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("hangs", {}, "there is no fault 'hangs'"),
        ("hang", [], "hang: must be an object with some of count, probability, path"),
        ("hang", {"seconds": 1}, "hang: unknown option 'seconds'; it takes"),
        ("hang", {"count": 1.5}, "hang: count must be a whole number, not 1.5"),
        ("hang", {"count": -2}, "hang: count must be -1 or more, not -2"),
        ("hang", {"count": True}, "hang: count must be a whole number"),
        ("hang", {"probability": 2}, "hang: probability must be 0 to 1, not 2"),
        ("hang", {"probability": float("nan")}, "hang: probability must be 0 to 1"),
        ("hang", {"path": 1}, "hang: path must be text, not 1"),
        ("slow_boot", {"seconds": "1"}, "slow_boot: seconds must be a number, not '1'"),
        ("slow_boot", {"seconds": -1}, "slow_boot: seconds must be 0 or more, not -1"),
        ("outbid", {"lasts": -2}, "outbid: lasts must be -1 or more"),
        ("flicker", {"shows": "running"}, "flicker: shows must be one of offline, unknown"),
        ("flicker", {"listings": 0}, "flicker: listings must be 1 or more"),
        ("null_in_row", {"field": "id"}, "null_in_row: field must be one of actual_status"),
        ("null_in_offer", {"field": "dph_base"}, "null_in_offer: field must be one of bundled"),
    ],
)
def test_a_fault_that_cannot_be_is_refused_and_the_others_stay(
    name: str, options: object, message: str
) -> None:
    """Nothing of a wrong request is kept."""
    faults = asked(list_omit={"count": -1})
    with pytest.raises(FaultError) as refused:
        faults.ask({"unavailable": {}, name: options})
    assert str(refused.value).startswith(message)
    assert set(faults.asked()) == {"list_omit"}


@pytest.mark.parametrize("shows", FLICKERS)
def test_a_flicker_passes_after_some_listings(shows: str) -> None:
    """Questions for the one machine show it as well, and do not make it pass."""
    faults = asked(flicker={"shows": shows, "listings": 2})
    word = None if shows == "null" else shows

    seen = [faults.row(ROW)["actual_status"]]
    seen += [faults.row(ROW, is_listing=False)["actual_status"] for _ in range(3)]
    seen += [faults.row(ROW)["actual_status"] for _ in range(2)]
    seen += [faults.row(ROW, is_listing=False)["actual_status"]]

    assert seen == [word] * 5 + ["running"] * 2


def test_only_a_machine_that_runs_flickers_and_each_by_itself() -> None:
    """What is down for a reason keeps its word."""
    faults = asked(flicker={"shows": "offline", "count": 2, "image": "x"})
    other = ROW | {"id": 2}

    assert faults.row(ROW | {"actual_status": "exited"})["actual_status"] == "exited"
    assert faults.row(ROW | {"image_uuid": "y"})["actual_status"] == "running"
    assert [faults.row(one)["actual_status"] for one in (ROW, other)] == ["offline"] * 2
    assert [faults.row(one)["actual_status"] for one in (ROW, other)] == ["running"] * 2


def test_every_kind_of_flicker_and_null_comes_by_chance() -> None:
    """When none is named."""
    faults = asked(flicker={"count": -1}, null_in_row={"count": -1})
    shown = [faults.row(dict.fromkeys(ROW_NULLS, 0) | ROW) for _ in range(1000)]

    assert {row["actual_status"] for row in shown} == {*FLICKERS, None} - {"null"}
    assert {name for row in shown for name in ROW_NULLS if row[name] is None} == set(ROW_NULLS)


def test_the_date_of_answers_is_skewed() -> None:
    """By seconds, by hours either way, to the year 9999 at most, or it is no date."""

    def date(**options: object) -> str:
        return asked(date_skew=options).date(NOW, "/api/v0/bundles/")

    def off(**options: object) -> float:
        return parsedate_to_datetime(date(**options)).timestamp() - NOW

    assert (off(seconds=7), off(seconds=7200), off(seconds=-7200)) == (7, 7200, -7200)
    assert date(seconds=1e18) == "Fri, 31 Dec 9999 23:59:59 GMT"
    assert date(seconds=-1e18) == "Mon, 01 Jan 0001 00:00:00 GMT"
    assert date(words="yesterday") == "yesterday"
    assert off(path="/instances", seconds=7) == off() == 0


def test_logs_come_late_or_never() -> None:
    """Five to twenty seconds late unless it is said."""
    late = asked(log_late={"count": -1})
    delays = [late.log_delay("x") or 0 for _ in range(200)]
    assert min(delays) >= 5
    assert max(delays) <= 20
    assert max(delays) - min(delays) > 10
    assert asked(log_late={"seconds": 3}).log_delay("x") == 3
    assert asked(log_never={}).log_delay("x") == float("inf")
    assert asked().log_delay("x") is None
