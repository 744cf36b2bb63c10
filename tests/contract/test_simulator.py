"""The simulator's own behaviour over HTTP: thresholds, faults, and what it refuses."""

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import pytest
from tests.integration.parts import KEY, Simulator, environment, eventually

Object = dict[str, Any]


def send(
    url: str, method: str, path: str, body: Object | None = None, key: str = KEY
) -> tuple[int, bytes, Any]:
    """Sends a request and returns status, body and headers of its answer."""
    request = urllib.request.Request(
        url + path,
        method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={"Authorization": f"Bearer {key}"},
    )
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, answer.read(), answer.headers
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read(), error.headers


def listed(simulator: Simulator) -> list[Object]:
    """Returns the rows of a listing."""
    rows: list[Object] = simulator.ask("GET", "/api/v1/instances/")["instances"]
    return rows


def runs(simulator: Simulator, *labels: str) -> list[int]:
    """Rents machines and waits until they run."""
    numbers = [simulator.rent_by_hand(label) for label in labels]
    eventually(
        "they run",
        lambda: [row["actual_status"] for row in listed(simulator)] == ["running"] * len(labels),
    )
    return numbers


def test_calls_that_come_too_often_are_refused_and_counted(simulator: Simulator) -> None:
    """By the same key; controls, machines' own keys and other endpoints are not concerned."""
    (number,) = runs(simulator, "l")
    own_key = simulator.ask("GET", "secrets")["instance_api_keys"][0]
    one = f"/api/v0/instances/{number}/"
    simulator.ask("PUT", "thresholds", {"scale": 100, "retry_after_share": 1})

    statuses = [send(simulator.url, "GET", "/api/v1/instances/")[0] for _ in range(3)]
    by_owner = [send(simulator.url, "PUT", one, {"label": "x"})[0] for _ in range(2)]
    by_machine = [
        send(simulator.url, "PUT", one, {"state": "stopped"}, own_key)[0] for _ in range(2)
    ]
    status, body, headers = send(simulator.url, "GET", "/api/v1/instances/")

    assert (statuses, by_owner, by_machine) == ([200, 429, 429], [200, 429], [200, 429])
    assert (status, json.loads(body)) == (
        429,
        {"detail": "API requests too frequent endpoint threshold=100"},
    )
    assert 1 <= int(headers["Retry-After"]) <= 100
    told = simulator.ask("GET", "thresholds")
    assert told["refusals"] == {
        "GET /api/v[01]/instances": 3,
        "PUT /api/v0/instances/\\d+": 2,
    }
    refused = [one["path"] for one in simulator.requests() if one["status"] == 429]
    assert len(refused) == 5
    (lease,) = simulator.ledger()
    assert lease["state"] == "stopped"


def test_a_refused_rent_rents_nothing_and_a_refused_destroy_destroys_nothing(
    simulator: Simulator,
) -> None:
    """The ledger says so."""
    numbers = runs(simulator, "a", "b")
    query: Object = {"limit": 2, "verified": {"in": [True, False]}}
    offers = simulator.ask("POST", "/api/v0/bundles/", query)["offers"]
    simulator.ask("PUT", "thresholds", {"scale": 100})

    rents = [
        send(simulator.url, "PUT", f"/api/v0/asks/{one['id']}/", {"image": "x"}) for one in offers
    ]
    ends = [send(simulator.url, "DELETE", f"/api/v0/instances/{one}/") for one in numbers]

    assert [one[0] for one in rents] == [200, 429]
    assert rents[1][1] == b"API requests too frequent: endpoint threshold=450"
    assert [one[0] for one in ends] == [200, 429]
    assert json.loads(ends[1][1])["error"] == "rate_limit_exceeded"
    assert sorted(one["state"] for one in simulator.ledger()) == ["destroyed", "loading", "running"]


def test_the_daily_quota_ends_searches(simulator: Simulator) -> None:
    """Even with no thresholds, when so many rows were answered."""
    simulator.ask("PUT", "thresholds", {"daily_search_rows": 65})

    statuses = [send(simulator.url, "POST", "/api/v0/bundles/", {})[0] for _ in range(3)]
    status, body, headers = send(simulator.url, "POST", "/api/v0/bundles/", {})

    assert (statuses, status) == ([200, 200, 429], 429)
    assert json.loads(body) == {"error": "search_quota_exceeded"}
    left = int(headers["X-RateLimit-Reset"]) - time.time()
    assert 0 < left <= 86_400
    assert abs(int(headers["Retry-After"]) - left) < 60


@pytest.mark.parametrize("control", ["faults", "thresholds"])
def test_a_control_that_cannot_be_done_is_refused_with_a_message(
    simulator: Simulator, control: str
) -> None:
    """And says what could be asked for."""
    status, body, _ = send(simulator.url, "PUT", f"/sim/{control}", {"hangs": {}})
    assert status == 400
    assert "'hangs'; known are" in json.loads(body)["detail"]


def test_others_can_use_the_account_as_well(simulator: Simulator) -> None:
    """Then there are refusals by nobody's own doing."""
    simulator.faults(too_many_requests={"path": "/instances"})
    statuses = [send(simulator.url, "GET", "/api/v1/instances/")[0] for _ in range(2)]
    assert statuses == [429, 200]


def test_one_date_is_sent_and_it_is_skewed_when_asked(simulator: Simulator) -> None:
    """By hours, and to the year 9999."""
    simulator.faults(date_skew={"seconds": 7200, "path": "/instances"})
    _, _, skewed = send(simulator.url, "GET", "/api/v1/instances/")
    _, _, right = send(simulator.url, "GET", "/api/v1/instances/")
    simulator.faults(date_skew={"seconds": 1e12})
    _, _, far = send(simulator.url, "GET", "/api/v1/instances/")

    for headers, off in ((skewed, 7200), (right, 0)):
        (date,) = headers.get_all("Date")
        assert abs(parsedate_to_datetime(date).timestamp() - off - time.time()) < 30
    assert far.get_all("Date") == ["Fri, 31 Dec 9999 23:59:59 GMT"]


def test_listings_doubt_what_runs_and_it_goes_on(simulator: Simulator) -> None:
    """A flicker in one listing, a null in another; the machine is untouched."""
    (number,) = runs(simulator, "l")
    simulator.faults(flicker={"shows": "offline"}, null_in_row={"field": "dph_base", "count": 2})

    rows = [listed(simulator)[0] for _ in range(3)]

    assert [row["actual_status"] for row in rows] == ["offline", "running", "running"]
    assert [row["dph_base"] is None for row in rows] == [True, True, False]
    (lease,) = simulator.ledger()
    assert (lease["id"], lease["state"]) == (number, "running")


def test_a_flicker_strikes_only_on_the_page_that_shows_the_machine(simulator: Simulator) -> None:
    """So a count is used up by what somebody has seen."""
    runs(simulator, "a", "b", "c")
    simulator.faults(flicker={"shows": "unknown", "count": 1})
    page = '/api/v1/instances/?limit=1&order_by=[{"col":"id","dir":"desc"}]'.replace('"', "%22")

    seen = [simulator.ask("GET", page)["instances"][0] for _ in range(2)]

    assert [row["actual_status"] for row in seen] == ["unknown", "running"]
    assert [row["actual_status"] for row in listed(simulator)] == ["running"] * 3


def test_a_log_comes_late_or_never(simulator: Simulator) -> None:
    """Its address answers 404 until then."""
    (number,) = runs(simulator, "l")

    def log() -> str:
        path = f"/api/v0/instances/request_logs/{number}/"
        url: str = simulator.ask("PUT", path, {})["result_url"]
        return url.removeprefix(simulator.url)

    simulator.faults(log_late={"seconds": 5}, log_never={})
    never, late, usual = log(), log(), log()
    began = time.monotonic()
    eventually("the usual log", lambda: send(simulator.url, "GET", usual)[0] == 200)
    eventually("the late log", lambda: send(simulator.url, "GET", late)[0] == 200)

    assert time.monotonic() - began > 4.5
    assert send(simulator.url, "GET", never)[0] == 404


def test_a_bid_is_too_low_by_chance_and_leaves_a_machine(simulator: Simulator) -> None:
    """Somebody raised the price between search and rent."""
    simulator.faults(bid_too_low={})
    query: Object = {"type": "bid", "limit": 1, "verified": {"in": [True, False]}}
    (offer,) = simulator.ask("POST", "/api/v0/bundles/", query)["offers"]
    body = {"image": "x", "price": offer["min_bid"]}

    status, answer, _ = send(simulator.url, "PUT", f"/api/v0/asks/{offer['id']}/", body)

    assert status == 400
    (lease,) = simulator.ledger()
    assert json.loads(answer)["new_contract"] == lease["id"]
    assert lease["state"] == "stopped"


def test_a_rent_can_load_for_ever_be_listed_late_and_use_up_the_credit(
    simulator: Simulator,
) -> None:
    """Three faults that strike one rent each."""
    simulator.faults(stuck_loading={}, list_lag={"seconds": 1e6}, credit_gone={})
    number = simulator.rent_by_hand("l")

    assert simulator.ask("GET", "/api/v0/users/current/")["credit"] <= 0
    eventually("it is stopped", lambda: simulator.ledger()[0]["state"] == "stopped")
    assert listed(simulator) == []
    assert simulator.ledger()[0]["id"] == number


def test_a_host_is_away_for_a_while_and_comes_back_with_its_disk(simulator: Simulator) -> None:
    """The machine runs again, under its number; while it is away it costs nothing."""
    simulator.faults(host_away={"seconds": 0, "lasts": 1})
    number = simulator.rent_by_hand("l")

    eventually("it is away", lambda: simulator.ledger()[0]["state"] == "offline")
    eventually("it runs again", lambda: simulator.ledger()[0]["state"] == "running")
    assert simulator.ledger()[0]["id"] == number


def test_a_host_asks_for_more_and_gets_it_once_the_client_accepts(simulator: Simulator) -> None:
    """Rejected, it goes on at the old price; a number is good for one answer."""
    simulator.faults(price_increase={"factor": 3, "count": 2})
    first, second = runs(simulator, "a", "b")
    (before,) = {one["usd_per_hour"] for one in simulator.ledger() if one["id"] == first}
    path = "/api/v0/instances/pending-price-increases/"

    asked = simulator.ask("GET", path)["pending_price_increases"]
    answers = [
        send(
            simulator.url,
            "PUT",
            f"/api/v0/instances/{how}-price-increase/",
            {"pending_price_increase_id": one["pending_price_increase_id"]},
        )[0]
        for one, how in [(asked[0], "accept"), (asked[0], "accept"), (asked[1], "reject")]
    ]

    assert [one["contract_id"] for one in asked] == [first, second]
    for one in asked:
        assert one["new_gpu_costpersec"] == pytest.approx(3 * one["old_gpu_costpersec"])
    assert answers == [200, 404, 200]
    assert simulator.ask("GET", path)["count"] == 0
    after = {one["id"]: float(one["usd_per_hour"]) for one in simulator.ledger()}
    gpu = asked[0]["old_gpu_costpersec"] * 3600
    assert after[first] == pytest.approx(float(before) + 2 * gpu, rel=1e-3)
    assert after[second] < after[first]


@contextmanager
def started(folder: Path, *options: str) -> Iterator[Object]:
    """Runs the simulator with these options and no others; gives the line that it prints."""
    process = subprocess.Popen(
        [sys.executable, "-m", "vastsim", "--port", "0", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(VASTSIM_API_KEY=KEY, TMPDIR=str(folder)),
    )
    with process:
        try:
            assert process.stdout is not None, "asked for as a pipe"
            yield json.loads(process.stdout.readline())
        finally:
            process.terminate()
            process.communicate()


def test_thresholds_are_on_and_the_seed_is_printed_unless_somebody_says_otherwise(
    tmp_path: Path,
) -> None:
    """The one seed is the market's and that of all chances."""
    with started(tmp_path, "--seed", "7") as said:
        url = said["url"]
        statuses = [send(url, "GET", "/api/v1/instances/")[0] for _ in range(2)]
        searches = [send(url, "POST", "/api/v0/bundles/", {})[0] for _ in range(11)]
    assert said["seed"] == 7
    assert statuses == [200, 429]
    assert searches == [200] * 10 + [429]


def test_a_market_of_strangers_lives_in_the_simulator(tmp_path: Path) -> None:
    """Thousands of offers; what is rented takes its siblings with it, and they come back."""
    options = ("--threshold-scale", "0", "--living", "2000", "--search-cap", "9999")
    with started(tmp_path, *options, "--boot-seconds", "1e6", "1e6") as said:
        url = said["url"]

        def offers() -> list[Object]:
            found: list[Object] = json.loads(send(url, "POST", "/api/v0/bundles/", {})[1])["offers"]
            return found

        first = offers()
        machines = Counter(one["machine_id"] for one in first)
        whole = next(
            one for one in first if machines[one["machine_id"]] > 2 and one["gpu_frac"] == 1
        )
        body: Object = {"image": "x", "disk": 8}
        rented = json.loads(send(url, "PUT", f"/api/v0/asks/{whole['id']}/", body)[1])
        between = offers()
        send(url, "DELETE", f"/api/v0/instances/{rented['new_contract']}/")
        after = offers()

    assert len(first) >= 2000
    assert machines[whole["machine_id"]] > 2
    assert not [one for one in between if one["machine_id"] == whole["machine_id"]]
    back = [one for one in after if one["machine_id"] == whole["machine_id"]]
    assert len(back) == machines[whole["machine_id"]]
    assert not {one["id"] for one in back} & {one["id"] for one in first}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--threshold-scale", "-1"], "scale must be 0 to 1e+06, not -1.0"),
        (["--daily-search-rows", "-1"], "daily_search_rows must be 0 to 1e+09, not -1"),
        (["--retry-after-share", "2"], "retry_after_share must be 0 to 1, not 2.0"),
        (["--living", "-1"], "--living must be 0 or more, not -1"),
    ],
)
def test_an_option_that_cannot_be_is_refused_at_the_start(options: list[str], message: str) -> None:
    """Nothing listens then."""
    done = subprocess.run(
        [sys.executable, "-m", "vastsim", "--port", "0", *options],
        capture_output=True,
        text=True,
        env=environment(VASTSIM_API_KEY=KEY),
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
