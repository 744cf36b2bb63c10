"""The provider's thresholds, by times that a pencil gives."""

import json

import pytest

from vastsim.thresholds import ENDPOINTS, ThresholdError, Thresholds, TooMany

NOON = 1_800_014_400.0
MIDNIGHT = 1_800_057_600
LIST = ("GET", "/api/v1/instances/")
CREATE = ("PUT", "/api/v0/asks/21000001/")
SEARCH = ("POST", "/api/v0/bundles/")


def call(
    thresholds: Thresholds,
    what: tuple[str, str],
    at: float,
    *,
    key: str = "k",
    address: str = "192.0.2.1",
) -> TooMany | None:
    """Calls an endpoint so many seconds after noon."""
    return thresholds.judge(*what, key=key, address=address, now=NOON + at)


@pytest.mark.parametrize(
    ("method", "path", "seconds"),
    [
        ("GET", "/api/v1/instances", 1.0),
        ("GET", "/api/v0/instances/7/", 2.0),
        ("PUT", "/api/v0/instances/7/", 1.0),
        ("DELETE", "/api/v0/instances/7/", 3.0),
        ("PUT", "/api/v0/asks/7/", 4.5),
        ("PUT", "/api/v0/instances/bid_price/7/", 5.5),
        ("DELETE", "/api/v0/instances/7/ssh/1/", 2.0),
    ],
)
def test_an_endpoint_has_its_least_interval(method: str, path: str, seconds: float) -> None:
    """One call is early by a hundredth, for whatever instance; the same one in time is answered."""
    early, in_time = Thresholds(), Thresholds()

    assert call(early, (method, path), 0) is None
    assert call(in_time, (method, path), 0) is None
    assert call(early, (method, path.replace("7", "8")), seconds - 0.01) is not None
    assert call(in_time, (method, path.replace("7", "8")), seconds) is None


def test_methods_keys_and_addresses_are_counted_apart() -> None:
    """So a machine that stops itself with its own key disturbs nobody."""
    thresholds = Thresholds()

    assert call(thresholds, ("GET", "/api/v0/instances/7/"), 0) is None
    assert call(thresholds, ("PUT", "/api/v0/instances/7/"), 0) is None
    assert call(thresholds, ("PUT", "/api/v0/instances/7/"), 0, key="of the machine") is None
    assert call(thresholds, ("PUT", "/api/v0/instances/7/"), 0, address="192.0.2.2") is None
    assert call(thresholds, ("PUT", "/api/v0/instances/7/"), 0) is not None


def test_what_has_no_documented_threshold_is_never_refused() -> None:
    """Neither are the simulator's own controls."""
    thresholds = Thresholds()
    for path in ("/sim/ledger", "/storage/logs/x", "/api/v0/users/current"):
        assert [call(thresholds, ("GET", path), 0) for _ in range(3)] == [None] * 3


def test_a_refused_call_does_not_put_off_the_next_but_for_rents() -> None:
    """A rent that comes too early shuts rents for twelve seconds."""
    thresholds = Thresholds()

    assert call(thresholds, LIST, 0) is None
    assert call(thresholds, LIST, 0.9) is not None
    assert call(thresholds, LIST, 1.0) is None

    assert call(thresholds, CREATE, 0) is None
    assert call(thresholds, CREATE, 4.0) is not None
    assert call(thresholds, CREATE, 15.9) is not None
    assert call(thresholds, CREATE, 15.9 + 12.1) is None


def test_ten_searches_a_minute_are_answered_for_each_address() -> None:
    """Whatever the key and the form of the search; the eleventh waits for the first to be old."""
    thresholds = Thresholds()
    forms = [SEARCH, ("GET", "/api/v0/bundles/"), ("PUT", "/api/v0/search/asks/")]

    first = [call(thresholds, forms[at % 3], at, key=str(at)) for at in range(10)]

    assert first == [None] * 10
    assert call(thresholds, SEARCH, 59.9) is not None
    assert call(thresholds, SEARCH, 59.9, address="192.0.2.2") is None
    assert call(thresholds, SEARCH, 60) is None
    assert call(thresholds, SEARCH, 60.5) is not None


def test_the_daily_quota_counts_rows_until_midnight() -> None:
    """The answer says when it is midnight (UTC), in two ways."""
    thresholds = Thresholds(daily_search_rows=100)
    thresholds.answered(99, address="192.0.2.1", now=NOON)
    assert call(thresholds, SEARCH, 1) is None
    thresholds.answered(1, address="192.0.2.1", now=NOON)

    refused = call(thresholds, SEARCH, 2)

    assert refused is not None
    assert json.loads(refused.body) == {"error": "search_quota_exceeded"}
    assert refused.headers["X-RateLimit-Reset"] == str(MIDNIGHT)
    assert refused.headers["Retry-After"] == str(MIDNIGHT - int(NOON) - 2)
    assert call(thresholds, SEARCH, 2, address="192.0.2.2") is None
    assert call(thresholds, SEARCH, MIDNIGHT - NOON) is None
    assert thresholds.refusals == {"search quota": 1}


def test_a_refusal_comes_in_three_forms() -> None:
    """Of which one is not JSON."""
    thresholds = Thresholds()
    said = {}
    for what in (CREATE, LIST, ("DELETE", "/api/v0/instances/7/")):
        call(thresholds, what, 0)
        refused = call(thresholds, what, 0.5)
        assert refused is not None
        assert "Retry-After" not in refused.headers
        said[what[0]] = (refused.headers["Content-Type"].partition(";")[0], refused.body)

    assert said == {
        "PUT": ("text/plain", "API requests too frequent: endpoint threshold=4.5"),
        "GET": (
            "application/json",
            '{"detail": "API requests too frequent endpoint threshold=1"}',
        ),
        "DELETE": (
            "application/json",
            '{"success": false, "error": "rate_limit_exceeded", '
            '"msg": "API requests too frequent endpoint threshold=3"}',
        ),
    }


def test_some_refusals_say_when_to_come_again() -> None:
    """As many as were asked for, and the same ones from the same seed."""

    def told(seed: int) -> list[bool]:
        thresholds = Thresholds(seed, retry_after_share=0.5)
        call(thresholds, LIST, 0)
        refused = [call(thresholds, LIST, 0.5) for _ in range(100)]
        assert {one.headers.get("Retry-After") for one in refused if one} == {None, "1"}
        return [one is not None and "Retry-After" in one.headers for one in refused]

    assert told(1) == told(1) != told(2)
    assert 30 < sum(told(1)) < 70


def test_all_times_scale_and_zero_is_off() -> None:
    """Also while it runs."""
    thresholds = Thresholds(scale=0.1)
    assert call(thresholds, CREATE, 0) is None
    assert call(thresholds, CREATE, 0.46) is None
    assert call(thresholds, CREATE, 0.47) is not None
    thresholds.set({"scale": 0})
    assert [call(thresholds, CREATE, 0.48) for _ in range(5)] == [None] * 5
    assert thresholds.refusals == {"PUT /api/v0/asks/\\d+": 1}


@pytest.mark.parametrize(
    "wanted",
    [
        {"scale": -1},
        {"scale": "1"},
        {"scale": True},
        {"scale": float("nan")},
        {"scale": float("inf")},
        {"scales": 1},
        {"retry_after_share": 1.1},
        {"scale": 0, "daily_search_rows": -1},
    ],
)
def test_a_setting_that_cannot_be_is_refused_whole(wanted: dict[str, object]) -> None:
    """The message names it, and nothing is changed."""
    thresholds = Thresholds()
    before = thresholds.settings()
    with pytest.raises(ThresholdError, match=list(wanted)[-1]):
        thresholds.set(wanted)
    assert thresholds.settings() == before


def test_counts_are_kept_for_each_endpoint_apart() -> None:
    """No two have the same name."""
    assert len({one.name for one in ENDPOINTS}) == len(ENDPOINTS)
