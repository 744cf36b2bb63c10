"""Our client of the provider against real servers: the simulator, and ones that misbehave."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from urllib.error import HTTPError

import pytest
from pydantic import SecretStr
from tests.builders import a_spec
from tests.integration.parts import KEY, Simulator

from gpujob.adapters.clock import SystemClock
from gpujob.adapters.door import Door
from gpujob.adapters.errors import (
    CredentialsRejected,
    ProviderUnavailable,
    RateLimited,
    RentDenied,
    RentUnclear,
    RentWithheld,
    SearchQuotaExhausted,
)
from gpujob.adapters.log_store import LOG_BYTES_MAX
from gpujob.adapters.vast import VastClient
from gpujob.api.gpujob import GpuJobSpec
from gpujob.api.reasons import Reason
from gpujob.core.effects import Rent
from gpujob.core.machine.start_script import host_key_in_log
from gpujob.core.market.search import search_of
from localcluster.control_plane import free_port

CLOCK = SystemClock()
SPEC = GpuJobSpec.model_validate(a_spec())
Answer = Callable[[str, str], tuple[int, dict[str, str], bytes] | None]
"""From method and path to status, headers and body; None closes the connection unanswered."""


@asynccontextmanager
async def client(url: str, key: str = KEY) -> AsyncIterator[VastClient]:
    """A client that is closed afterwards."""
    made = VastClient(url, SecretStr(key), CLOCK, Door(CLOCK, spacing=0))
    try:
        yield made
    finally:
        await made.close()


def request(offer: int, mark: str = "c/n/j", late_seconds: float = 0.0) -> Rent:
    """A rent request that may still be sent for five seconds."""
    return Rent(
        offer_id=offer,
        image="python:3.11",
        disk_gb=10,
        bid_usd_per_hour=None,
        needs_login=False,
        mark=mark,
        start_script="true",
        setup="",
        not_after=CLOCK.now() + timedelta(seconds=5 - late_seconds),
    )


@asynccontextmanager
async def peer(
    answer: Answer, tls: ssl.SSLContext | None = None
) -> AsyncIterator[tuple[str, list[str]]]:
    """A server that answers as it is told; yields its address and the requests that came."""
    came: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                method, path, _ = line.decode().split(" ", 2)
                length = 0
                while (header := await reader.readline()) not in (b"\r\n", b""):
                    name, _, value = header.decode().partition(":")
                    if name.lower() == "content-length":
                        length = int(value)
                await reader.readexactly(length)
                came.append(f"{method} {path}")
                answered = answer(method, path)
                if answered is None:
                    return
                status, headers, body = answered
                lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}"]
                lines += [f"{name}: {value}" for name, value in headers.items()]
                writer.write("\r\n".join([*lines, "", ""]).encode() + body)
                await writer.drain()
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    port = server.sockets[0].getsockname()[1]
    async with server:
        yield f"{'https' if tls else 'http'}://127.0.0.1:{port}", came


def good(body: object) -> tuple[int, dict[str, str], bytes]:
    """A well-formed answer."""
    headers = {"Content-Type": "application/json", "Date": "Thu, 01 Jan 2026 00:00:00 GMT"}
    return 200, headers, json.dumps(body).encode()


def account_then(answer: Answer) -> Answer:
    """Says whose account it is, and answers everything else as it is told."""

    def answering(method: str, path: str) -> tuple[int, dict[str, str], bytes] | None:
        return good({"id": 1}) if path.startswith("/api/v0/users") else answer(method, path)

    return answering


async def test_offers_of_the_market_are_read(simulator: Simulator) -> None:
    """Prices, sizes and the provider's clock arrive."""
    async with client(simulator.url) as vast:
        quotes = await vast.search(search_of(SPEC))

    assert quotes.offers
    assert quotes.unreadable == 0
    assert {offer.gpu_model for offer in quotes.offers} == {"RTX 4090"}
    assert abs(quotes.clock_skew_seconds) < 5


async def test_the_names_of_the_models_are_read(simulator: Simulator) -> None:
    """Those that the market's offers carry."""
    async with client(simulator.url) as vast:
        names = await vast.gpu_models()
        offers = (await vast.search(search_of(SPEC))).offers

    assert list(names) == sorted(set(names))
    assert {offer.gpu_model for offer in offers} <= set(names)


@pytest.mark.parametrize(
    ("body", "names"),
    [
        ({"gpu_names": ["B", "A", "A", 3, None, "", "x" * 65, "\x1b[2J"]}, ("A", "B")),
        ({"gpu_names": "RTX 4090"}, None),
        ({}, None),
    ],
)
async def test_what_is_no_name_of_a_model_is_dropped(
    body: object, names: tuple[str, ...] | None
) -> None:
    """It would be shown to users; without a list there is no answer."""
    async with peer(lambda *_: good(body)) as (url, _), client(url) as vast:
        if names is None:
            with pytest.raises(ProviderUnavailable):
                await vast.gpu_models()
        else:
            assert await vast.gpu_models() == names


async def test_what_is_rented_is_listed_under_its_mark(simulator: Simulator) -> None:
    """The number of the answer is the number in the listing; the mark is in label and env."""
    async with client(simulator.url) as vast:
        offer = (await vast.search(search_of(SPEC))).offers[0]
        async with vast.rent_line() as line:
            number = await line.send(request(offer.offer_id), 10)
        while not (listing := await vast.list_leases()).leases:
            await asyncio.sleep(0.05)
        await vast.destroy(number)

    (lease,) = listing.leases
    assert (lease.instance_id, lease.label, lease.env_mark) == (number, "c/n/j", "c/n/j")
    assert lease.usd_per_hour == offer.gpu_usd_per_hour + offer.disk_usd_per_hour(10)
    assert listing.account_id == line.account_id


async def test_a_listing_of_many_pages_is_complete(simulator: Simulator) -> None:
    """27 machines are more than one page."""
    numbers = {simulator.rent_by_hand(f"label-{count}") for count in range(27)}
    async with client(simulator.url) as vast:
        while len((listing := await vast.list_leases()).leases) < len(numbers):
            await asyncio.sleep(0.05)

    assert {lease.instance_id for lease in listing.leases} == numbers


async def listed(simulator: Simulator, key: str = KEY) -> list[tuple[int, str | None]]:
    """Returns numbers and labels of one listing, through our client."""
    async with client(simulator.url, key) as vast:
        return [(lease.instance_id, lease.label) for lease in (await vast.list_leases()).leases]


async def appeared(simulator: Simulator, numbers: set[int]) -> None:
    """Waits until machines are listed."""
    while {number for number, _ in await listed(simulator)} != numbers:
        await asyncio.sleep(0.05)


async def test_a_listing_may_lie_once(simulator: Simulator) -> None:
    """It is complete by its own figures, and lacks a machine; the next one has it."""
    one, other = simulator.rent_by_hand("one"), simulator.rent_by_hand("other")
    await appeared(simulator, {one, other})
    simulator.faults(list_omit={})

    assert await listed(simulator) == [(other, "other")]
    assert await listed(simulator) == [(one, "one"), (other, "other")]


async def test_a_machine_that_is_listed_twice_is_one(simulator: Simulator) -> None:
    """By its number."""
    one = simulator.rent_by_hand("one")
    await appeared(simulator, {one})
    simulator.faults(list_duplicate={"count": -1})
    page = simulator.ask("GET", "/api/v1/instances/")

    assert [row["id"] for row in page["instances"]] == [one, one]
    assert await listed(simulator) == [(one, "one")]


async def test_marks_may_be_null(simulator: Simulator) -> None:
    """Label and environment of a machine that has both: it may be anybody's then."""
    one = simulator.rent_by_hand("one")
    await appeared(simulator, {one})
    simulator.faults(null_marks={})
    async with client(simulator.url) as vast:
        unmarked, marked = await vast.list_leases(), await vast.list_leases()

    assert (unmarked.leases[0].mark, unmarked.has_unattributable) == (None, True)
    assert (marked.leases[0].mark, marked.has_unattributable) == ("one", False)


async def test_a_machine_without_marks_is_nobodys() -> None:
    """Its environment can be read, and has no entry of ours: it is surely not ours."""
    row: dict[str, object] = {
        "id": 1,
        "label": None,
        "extra_env": [],
        "machine_id": 2,
        "dph_base": 0.4,
        "storage_cost": 0.18,
        "disk_space": 10,
    }
    answer = listing_answer(instances=[row], total_instances=1)
    async with peer(answer) as (url, _), client(url) as vast:
        listing = await vast.list_leases()

    assert not listing.has_unattributable


async def test_a_destroyed_machine_may_be_listed_again(simulator: Simulator) -> None:
    """After it was gone; it cannot be destroyed once more."""
    one = simulator.rent_by_hand("one")
    await appeared(simulator, {one})
    simulator.faults(reappear={"seconds": 0.8, "lasts": -1})
    async with client(simulator.url) as vast:
        await vast.destroy(one)
        await appeared(simulator, set())
        await appeared(simulator, {one})
        with pytest.raises(ProviderUnavailable, match="404"):
            await vast.destroy(one)


async def test_each_key_is_of_one_account(simulator: Simulator) -> None:
    """Machines are seen and destroyed by their own account; a key may be moved to another."""
    one = simulator.rent_by_hand("one")
    await appeared(simulator, {one})
    simulator.ask("PUT", "keys", {KEY: 4711, "second": 12})
    assert await listed(simulator, "second") == []
    async with client(simulator.url, "second") as vast:
        assert (await vast.list_leases()).account_id == 12
        with pytest.raises(ProviderUnavailable, match="404"):
            await vast.destroy(one)
    simulator.ask("PUT", "keys", {KEY: 12})
    assert await listed(simulator) == []
    with pytest.raises(CredentialsRejected):
        await listed(simulator, "second")
    simulator.ask("PUT", "keys", {KEY: 4711})

    assert await listed(simulator) == [(one, "one")]


async def test_bids_are_looked_for_by_the_lowest_that_wins(simulator: Simulator) -> None:
    """The price on demand is shown beside it, and a filter by price means the bid."""
    spec, capped = (
        GpuJobSpec.model_validate(a_spec(market={"type": "Interruptible", **price}))
        for price in ({}, {"maxUSDPerHour": "0.3"})
    )
    async with client(simulator.url) as vast:
        every = (await vast.search(search_of(spec))).offers
        cheap = await vast.search(search_of(capped))
        on_demand = {one.offer_id: one for one in (await vast.search(search_of(SPEC))).offers}
    bids = [one.lowest_bid_usd_per_hour or Fraction(0) for one in every]

    assert bids == sorted(bids)
    assert all(bids)
    both = [one for one in every if one.offer_id in on_demand]
    assert both
    assert all(one == on_demand[one.offer_id] for one in both)
    assert any(one.gpu_usd_per_hour > bid for one, bid in zip(every, bids, strict=True))
    assert len(cheap.offers) == sum(bid <= Fraction("0.3") for bid in bids)
    assert cheap.dearest_usd_per_hour == max(bid for bid in bids if bid <= Fraction("0.3"))


async def test_a_bid_rents_an_interruptible_machine(simulator: Simulator) -> None:
    """It is listed as one, at its bid; too low a bid is refused with a machine's number."""
    query = {"type": "bid", "order": [["dph_total", "desc"]], "limit": 2}
    high, low = simulator.ask("POST", "/api/v0/bundles/", query)["offers"]
    body = {"image": "x", "disk": 10}
    bid = high["min_bid"] + 0.01
    won = simulator.ask("PUT", f"/api/v0/asks/{high['id']}/", body | {"price": bid})
    with pytest.raises(HTTPError) as refused:
        simulator.ask("PUT", f"/api/v0/asks/{low['id']}/", body | {"price": 0.001})
    with refused.value as error:
        answer = json.loads(error.read())
    await appeared(simulator, {won["new_contract"], answer["new_contract"]})
    rows = {row["id"]: row for row in simulator.ask("GET", "/api/v1/instances/")["instances"]}
    row = rows[won["new_contract"]]

    assert (high["is_bid"], high["dph_base"]) == (True, high["min_bid"])
    assert (row["is_bid"], row["dph_base"]) == (True, bid)
    assert answer["success"] is False
    assert rows[answer["new_contract"]]["cur_state"] == "stopped"


async def test_a_wrong_key_is_never_read_as_gone(simulator: Simulator) -> None:
    """404 with auth_error means credentials, for every call."""
    async with client(simulator.url, "wrong") as vast:
        with pytest.raises(CredentialsRejected):
            await vast.list_leases()
        with pytest.raises(CredentialsRejected):
            await vast.destroy(1)


async def test_a_used_offer_is_refused(simulator: Simulator) -> None:
    """An offer is good for one rent; the second is a definite no."""
    async with client(simulator.url) as vast:
        offer = (await vast.search(search_of(SPEC))).offers[0]
        async with vast.rent_line() as line:
            await line.send(request(offer.offer_id), 10)
        async with vast.rent_line() as line:
            with pytest.raises(RentDenied) as refused:
                await line.send(request(offer.offer_id), 10)

    assert refused.value.reason is Reason.OFFER_GONE


async def test_the_rent_request_leaves_at_most_once() -> None:
    """A server that reads it and closes the connection has seen it once, and nothing more."""
    async with peer(account_then(lambda *_: None)) as (url, came), client(url) as vast:
        async with vast.rent_line() as line:
            with pytest.raises(RentUnclear):
                await line.send(request(1), 10)
        await asyncio.sleep(0.2)

    assert [one for one in came if one.startswith("PUT")] == ["PUT /api/v0/asks/1/"]


async def test_the_rent_request_follows_no_redirect() -> None:
    """A redirect is no answer to a rent request."""
    elsewhere = {"Location": "/api/v0/asks/2/"}
    async with (
        peer(account_then(lambda *_: (307, elsewhere, b""))) as (url, came),
        client(url) as vast,
        vast.rent_line() as line,
    ):
        with pytest.raises(RentUnclear):
            await line.send(request(1), 10)

    assert sum(one.startswith("PUT") for one in came) == 1


async def test_a_late_request_is_withheld() -> None:
    """After its time it is not sent at all."""
    async with (
        peer(account_then(lambda *_: good({"new_contract": 5}))) as (url, came),
        client(url) as vast,
        vast.rent_line() as line,
    ):
        with pytest.raises(RentWithheld):
            await line.send(request(1, late_seconds=6), 10)

    assert not [one for one in came if one.startswith("PUT")]


def json_answer(status: int, body: object) -> Answer:
    """Answers everything so."""
    return account_then(lambda *_: (status, {}, json.dumps(body).encode()))


@pytest.mark.parametrize(
    ("status", "body", "outcome"),
    [
        pytest.param(200, {"success": True, "new_contract": 9}, 9, id="accepted"),
        pytest.param(400, {"success": False, "new_contract": 9}, 9, id="an error with a machine"),
        pytest.param(
            400, {"error": "invalid_args", "msg": "no_such_ask"}, Reason.OFFER_GONE, id="gone"
        ),
        pytest.param(
            410, {"error": "no_such_ask", "msg": "gone"}, Reason.OFFER_GONE, id="gone, documented"
        ),
        pytest.param(
            400, {"error": "insufficient_credit"}, Reason.CREDIT_EXHAUSTED, id="no credit"
        ),
        pytest.param(404, {"error": "auth_error"}, Reason.CREDENTIALS_REJECTED, id="a wrong key"),
        pytest.param(200, {"success": True}, None, id="no number"),
        pytest.param(500, {"error": "x"}, None, id="500"),
        pytest.param(429, {"error": "x"}, None, id="too often"),
        pytest.param(200, ["x"], None, id="no object"),
    ],
)
async def test_what_an_answer_means(status: int, body: object, outcome: object) -> None:
    """A number is a machine, a clear no is none, everything else is unclear."""
    async with (
        peer(json_answer(status, body)) as (url, _),
        client(url) as vast,
        vast.rent_line() as line,
    ):
        seen: object
        try:
            seen = await line.send(request(1), 10)
        except RentDenied as refused:
            seen = refused.reason
        except RentUnclear:
            seen = None

    assert outcome == seen


RUDE = "\x1b[2Jno\r\n" + "x" * 10_000


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (500, {"msg": RUDE}),
        (500, {"error": RUDE}),
        (200, {"success": False, "msg": RUDE}),
        (200, {"instances": [{"id": RUDE}], "total_instances": 1}),
    ],
)
async def test_what_the_provider_says_can_be_shown(status: int, body: object) -> None:
    """One line without control characters, not too long: it ends on people's terminals."""
    async with peer(json_answer(status, body)) as (url, _), client(url) as vast:
        with pytest.raises(ProviderUnavailable) as failed:
            await vast.list_leases()

    assert len(str(failed.value)) < 300
    assert str(failed.value).isprintable()


async def test_why_the_provider_does_not_rent_can_be_shown() -> None:
    """Likewise."""
    async with (
        peer(json_answer(400, {"msg": RUDE})) as (url, _),
        client(url) as vast,
        vast.rent_line() as line,
    ):
        with pytest.raises(RentDenied) as refused:
            await line.send(request(1), 10)

    assert str(refused.value) == "400: \ufffd[2Jno " + "x" * 193


HTML = (200, {"Content-Type": "text/html"}, b"<html>")


def listing_answer(**page: object) -> Answer:
    """Answers a listing with this page."""
    return account_then(lambda *_: good({"success": True, "next_token": None} | page))


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        pytest.param(lambda *_: HTML, ProviderUnavailable, id="a web page"),
        pytest.param(lambda *_: (500, {}, b""), ProviderUnavailable, id="500"),
        pytest.param(lambda *_: None, ProviderUnavailable, id="no answer"),
        pytest.param(lambda *_: (429, {}, b"too frequent"), RateLimited, id="too often"),
        pytest.param(lambda *_: (403, {}, b"{}"), CredentialsRejected, id="forbidden"),
        pytest.param(
            listing_answer(instances=[], total_instances=1), ProviderUnavailable, id="a row short"
        ),
        pytest.param(listing_answer(instances=[]), ProviderUnavailable, id="no total"),
        pytest.param(
            listing_answer(instances=[{"id": "x"}], total_instances=1),
            ProviderUnavailable,
            id="a row that cannot be read",
        ),
        pytest.param(
            listing_answer(instances=[], total_instances=0, next_token="x"),
            ProviderUnavailable,
            id="an empty page with another one",
        ),
        pytest.param(
            account_then(lambda *_: good({"success": False, "error": "x"})),
            ProviderUnavailable,
            id="success: false with 200",
        ),
    ],
)
async def test_an_incomplete_listing_is_none(answer: Answer, error: type[Exception]) -> None:
    """Whatever is not a complete listing raises, and proves nothing."""
    async with peer(answer) as (url, _), client(url) as vast:
        with pytest.raises(error):
            await vast.list_leases()


_DATE, _IN_7_S = "Wed, 21 Oct 2037 07:28:00 GMT", "Wed, 21 Oct 2037 07:28:07 GMT"


@pytest.mark.parametrize(
    ("headers", "body", "retry_after", "threshold"),
    [
        ({}, b"API requests too frequent", None, None),
        ({}, b"API requests too frequent: endpoint threshold=4.5", None, 4.5),
        ({}, b'{"detail":"API requests too frequent endpoint threshold=3.0"}', None, 3.0),
        ({}, b'{"success":false,"error":"rate_limit_exceeded","msg":"slow down"}', None, None),
        ({"Retry-After": "7"}, b"", 7.0, None),
        ({"Retry-After": _IN_7_S, "Date": _DATE}, b"\xff\xfe", 7.0, None),
        ({"Retry-After": _DATE, "Date": _IN_7_S}, b"", 0.0, None),
        ({"Retry-After": _IN_7_S, "Date": "soon"}, b"", None, None),
        ({"Retry-After": "Wed, 32 Oct 2037 07:28:00 GMT"}, b"", None, None),
        ({"Retry-After": "-1"}, b"threshold=1e9", None, None),
        ({"Retry-After": "9" * 400}, b"threshold=" + b"9" * 400, None, None),
        ({"Retry-After": "\u0663"}, "threshold=\u0663".encode(), None, None),
        ({}, b"[" * 100_000 + b"threshold=2", None, None),
    ],
)
async def test_all_forms_of_too_many_requests_are_told_apart(
    headers: dict[str, str], body: bytes, retry_after: float | None, threshold: float | None
) -> None:
    """How long to wait is read if it is said; whatever else stands there changes nothing."""
    async with peer(lambda *_: (429, headers, body)) as (url, _), client(url) as vast:
        with pytest.raises(RateLimited) as refused:
            await vast.destroy(1)

    assert refused.value.retry_after_seconds == retry_after
    assert refused.value.threshold_seconds == threshold
    assert not isinstance(refused.value, SearchQuotaExhausted)


@pytest.mark.parametrize(
    ("reset", "when"),
    [
        ("1795996800", datetime(2026, 11, 30, tzinfo=UTC)),
        ("", None),
        ("soon", None),
        ("9" * 30, None),
        ("-1", None),
    ],
)
async def test_a_quota_that_is_used_up_says_when_it_ends(reset: str, when: datetime | None) -> None:
    """It is no limit of pace: asking a little later is of no use."""
    said = (429, {"X-RateLimit-Reset": reset}, b'{"error":"search_quota_exceeded"}')
    async with peer(lambda *_: said) as (url, _), client(url) as vast:
        with pytest.raises(SearchQuotaExhausted) as refused:
            await vast.search(search_of(SPEC))

    assert refused.value.resets_at == when
    assert refused.value.reason is Reason.SEARCH_QUOTA_EXHAUSTED


async def test_a_provider_where_nobody_listens_is_unavailable() -> None:
    """A refused connection proves nothing, either."""
    async with client(f"http://127.0.0.1:{free_port()}") as vast:
        with pytest.raises(ProviderUnavailable):
            await vast.list_leases()


@pytest.mark.parametrize("field", ["dph_base", "storage_cost", "inet_down_cost", "duration"])
@pytest.mark.parametrize("value", [None, "NaN", -1, True, "x"])
async def test_a_malformed_offer_is_left_out(field: str, value: object) -> None:
    """A price or size that is missing or no number is counted, never guessed."""
    row = {
        "id": 1,
        "machine_id": 2,
        "host_id": 3,
        "gpu_name": "RTX 4090",
        "num_gpus": 1,
        "gpu_ram": 24564,
        "cpu_cores": 64,
        "cpu_cores_effective": 16,
        "cpu_ram": 257800,
        "disk_space": 800,
        "geolocation": "Quebec, CA",
        "verification": "verified",
        "hosting_type": 0,
        "reliability2": 0.99,
        "direct_port_count": 5,
        "duration": 1e6,
        "dph_base": 0.4,
        "storage_cost": 0.18,
        "inet_down_cost": 0.002,
        "inet_up_cost": 0.002,
        "inet_down": 900,
        "inet_up": 900,
    }
    async with (
        peer(lambda *_: good({"offers": [row, row | {field: value}]})) as (url, _),
        client(url) as vast,
    ):
        quotes = await vast.search(search_of(SPEC))

    assert (len(quotes.offers), quotes.unreadable) == (1, 1)


NONCE = "ab" * 16


def key_line(key: str) -> bytes:
    """What a start script prints of its host key."""
    return f"gpujob-host-key {NONCE} ssh-ed25519 {key} {NONCE}\n".encode()


async def log_of(log: bytes) -> str | None:
    """Returns a machine's log, through our client, from where the provider says that it lies."""
    places: list[str] = []

    def answer(method: str, _: str) -> tuple[int, dict[str, str], bytes]:
        return good({"result_url": f"{places[0]}/log"}) if method == "PUT" else (200, {}, log)

    async with peer(answer) as (url, _), client(url) as vast:
        places.append(url)
        return await vast.read_log(1)


async def test_a_log_is_read_to_its_end() -> None:
    """It comes in parts: the host key may be in the last one, and another key after the first."""
    noise = b"pulling a layer of the image\n" * 50_000
    one, other = key_line("A" * 68), key_line("B" * 68)

    assert host_key_in_log(await log_of(noise + one) or "", NONCE) == "ssh-ed25519 " + "A" * 68
    with pytest.raises(ValueError, match="2 different host keys"):
        host_key_in_log(await log_of(one + noise + other) or "", NONCE)


async def test_a_log_that_is_too_long_tells_nothing() -> None:
    """Another key may stand in what is not read."""
    with pytest.raises(ProviderUnavailable, match="more than 4000000 bytes"):
        await log_of(key_line("A" * 68).ljust(LOG_BYTES_MAX + 1))

    assert await log_of(b"x" * LOG_BYTES_MAX) == "x" * LOG_BYTES_MAX


def test_a_client_prints_no_token() -> None:
    """Its repr shows the address only."""
    assert KEY not in repr(VastClient("http://x", SecretStr(KEY), CLOCK, Door(CLOCK, spacing=0)))
