"""Answers that nobody expects: each is read, or refused with an error of ours."""

import json
import random
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any

import pytest
from tests.contract.test_vast_client import CLOCK, SPEC, client, peer, request

from gpujob.adapters.channel import Answer
from gpujob.adapters.errors import ProviderError, ProviderUnavailable, RentUnclear
from gpujob.adapters.redact import Scrubber
from gpujob.adapters.vast import ANSWER_BYTES_MAX, VastRequests
from gpujob.core.market.listings import Lease
from gpujob.core.market.search import search_of
from gpujob.core.money import micro_up
from vastsim.market import Ask, Market, Timing
from vastsim.offers import read_market
from vastsim.wire import Endpoint, instance_row, offer_row

ROUNDS = 3_400
"""In each, three answers are spoilt."""
NOW = datetime.now(UTC)
DEEP: Any = json.loads("[" * 900 + "]" * 900)
TOKEN = "a-key-of-the-account-0123456789"
DATES = (
    *("", "soon", "Fri, 31 Dec 9999 23:59:59 GMT", "Thu, 01 Jan 0001 00:00:00 -2359"),
    *("Thu, 01 Jan 1970 00:00:00 GMT", "Sat, 29 Nov 2026 25:61:61 GMT", "1" * 5000, "\ud800"),
)
ODD: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**63, 10**400, 1e308, -1e-308, float("nan"), float("inf")),
    *("", "0", "-1", "1e999999999", "9" * 5000, "\x00", "\ud800", "é" * 10_000, "null", "running"),
    *([], [[]], {}, [[["x"]]], {"a": {"b": []}}, [None], ["22/tcp"], {"22/tcp": None}),
    *({"22/tcp": [{"HostPort": "9" * 5000}]}, [["GPUJOB_MARK"]], [[1, 2]], "2026-01-01", 4e18),
    *(DEEP, {"22/tcp": DEEP}, 1e-320, "1e-999999999", f"\x1b[2J\x07{TOKEN}\n\u202e"),
)
"""What may stand where something else is expected."""


def rows() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Machines and offers as the simulator shows them."""
    market = Market(read_market(), 1, Timing(list_lag=0.0))
    numbers = list(market.offers)[:3]
    for number in numbers[:2]:
        ask = Ask("image", 8.0, "c/n/j", {"GPUJOB_MARK": "c/n/j"}, None, "ssh_direc ssh_proxy")
        market.rent(number, ask, NOW.timestamp(), boot_seconds=0.0)
    leases = [
        instance_row(one, Endpoint("h.example", 22, 10_022), NOW.timestamp())
        for one in market.leases.values()
    ]
    offers = [
        offer_row(number, market.offers[number], NOW.timestamp(), is_bid=False)
        for number in list(market.offers)[:3]
    ]
    return leases, offers


class Liar:
    """A `Channel` whose answers are spoilt at one place each."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._leases, self._offers = rows()

    async def request(self, method: str, path: str, *_: Any, **__: Any) -> Answer:
        """Answers as the provider would, but for one value or key, or the date."""
        del method
        dates = [format_datetime(NOW, usegmt=True)] * 2 * len(DATES) + list(DATES)
        answers: dict[str, Any] = {
            "/api/v0/users/current": {"id": 7, "credit": 10.5},
            "/api/v0/bundles/": {"offers": self._offers},
            "/api/v0/gpu_names/unique/": {"gpu_names": ["RTX 4090", "H100 SXM"]},
        }
        listing = {"instances": self._leases, "total_instances": 2, "next_token": None}
        whole = json.loads(json.dumps(answers.get(path, listing)))
        return Answer(spoilt(whole, self._chance), {"Date": self._chance.choice(dates)})


def spoilt(whole: dict[str, Any], chance: random.Random) -> dict[str, Any]:
    """Returns an answer with one value or key of it changed."""
    places = list(_places(whole))
    if not places:
        return whole
    holder, key = chance.choice(places)
    if isinstance(holder, dict) and chance.random() < 0.2:
        del holder[key]
    else:
        holder[key] = chance.choice(ODD)
    return whole


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yields every place in a document, as what holds it and its key."""
    members = value.items() if isinstance(value, dict) else enumerate(value)
    for key, held in list(members):
        yield value, key
        if isinstance(held, dict | list):
            yield from _places(held)


def check_readable(lease: Lease) -> None:
    """What is read of a machine can be used as it is: no later step stumbles over it."""
    assert isinstance(lease.instance_id, int)
    hash((lease.label, lease.env_mark, lease.status, lease.intended_status))
    for amount in (lease.usd_per_hour, lease.download_gb, lease.upload_gb):
        assert amount is None or micro_up(amount) >= 0
    assert all(0 < port < 65536 for _, port in lease.addresses)


async def test_spoilt_answers_are_read_or_refused() -> None:
    """Nothing else than a ProviderError ever comes out: the loops that ask live on."""
    chance = random.Random(20_261_129)
    vast = VastRequests(Liar(chance), CLOCK, Scrubber())
    read = refused = 0
    for _ in range(ROUNDS):
        for ask in (vast.list_leases, lambda: vast.search(search_of(SPEC)), vast.gpu_models):
            try:
                found = await ask()
            except ProviderError:
                refused += 1
            else:
                read += 1
                for lease in getattr(found, "leases", ()):
                    check_readable(lease)

    assert min(read, refused) > ROUNDS / 5, "both happened often"


@pytest.mark.parametrize(
    "spoilt",
    [
        {"dph_base": None},
        {"storage_cost": "NaN"},
        {"disk_space": -1},
        {"inet_up_billed": "9" * 5000},
        {"inet_down_billed": -3},
        {"machine_id": None},
        {"actual_status": {"a": []}},
        {"intended_status": []},
        {"start_date": "soon"},
        {"ports": {"22/tcp": [{"HostPort": "9" * 5000}]}},
        {"status_msg": ["x"] * 1000},
    ],
)
async def test_a_row_that_is_read_in_part_voids_no_listing(spoilt: dict[str, Any]) -> None:
    """The machine is there, and whose it is; what is unknown of it is no more than that."""
    leases, _ = rows()

    class Channel:
        async def request(self, method: str, path: str, *_: Any, **__: Any) -> Answer:
            del method
            listing = {"instances": [leases[0], leases[1] | spoilt], "total_instances": 2}
            answer = {"id": 7, "credit": 1} if path.endswith("current") else listing
            return Answer(answer, {"Date": format_datetime(NOW, usegmt=True)})

    listing = await VastRequests(Channel(), CLOCK, Scrubber()).list_leases()

    assert [one.mark for one in listing.leases] == ["c/n/j", "c/n/j"]
    check_readable(listing.leases[1])


BODIES = [
    b"",
    b"\xff\xfe\x00",
    b"[" * 100_000,
    b'{"a":' * 100_000,
    b'{"id": ' + b"9" * 10_000 + b"}",
    b'{"new_contract": "\\ud800"}',
    b'{"new_contract": NaN}',
    b'{"new_contract": -1}',
    b'{"new_contract": 9007199254740992}',
    b'{"instances": [7], "total_instances": 1, "id": 7}',
    b'{"instances": [], "total_instances": 0, "id": -1}',
    b'{"instances": [], "total_instances": 0, "id": 9007199254740992}',
    b"null",
    b'"x"',
    b"<html>",
    b'{"a": "' + b"x" * ANSWER_BYTES_MAX + b'"}',
]


@pytest.mark.parametrize("body", BODIES, ids=lambda body: str(body[:12]))
async def test_a_body_that_cannot_be_read_tells_nothing(body: bytes) -> None:
    """Over HTTP: no answer of any size or depth ends more than its request."""
    date = {"Date": format_datetime(NOW, usegmt=True)}
    async with peer(lambda *_: (200, date, body)) as (url, _), client(url) as vast:
        for ask in (
            vast.list_leases,
            lambda: vast.search(search_of(SPEC)),
            lambda: vast.read_log(1),
        ):
            with pytest.raises(ProviderUnavailable) as refused:
                await ask()
            # No more than its kind is known of an error that nobody has foreseen.
            assert "an answer of the provider cannot be read" not in str(refused.value)


@pytest.mark.parametrize("body", BODIES, ids=lambda body: str(body[:12]))
async def test_a_rent_whose_answer_cannot_be_read_is_unclear(body: bytes) -> None:
    """It may have been accepted."""

    def answer(method: str, path: str) -> tuple[int, dict[str, str], bytes]:
        del path
        return (200, {}, body if method == "PUT" else b'{"id": 7}')

    async with peer(answer) as (url, _), client(url) as vast, vast.rent_line() as line:
        with pytest.raises(RentUnclear):
            await line.send(request(1), 10)


@pytest.mark.parametrize(
    "number", [-1, 2**53, "1234", 1234.0, True, [1234]], ids=lambda number: str(number)
)
async def test_a_refusal_that_names_a_machine_oddly_is_unclear(number: object) -> None:
    """Something was rented, as it seems: it is looked for by its mark, and none is rented again."""
    body = json.dumps({"success": False, "error": "no_such_ask", "new_contract": number}).encode()

    def answer(method: str, path: str) -> tuple[int, dict[str, str], bytes]:
        del path
        return (400, {}, body) if method == "PUT" else (200, {}, b'{"id": 7}')

    async with peer(answer) as (url, _), client(url) as vast, vast.rent_line() as line:
        with pytest.raises(RentUnclear):
            await line.send(request(1), 10)


@pytest.mark.parametrize(
    "date", ["Fri, 31 Dec 9999 23:59:59 GMT", "Thu, 01 Jan 0001 00:00:00 GMT", "soon", ""]
)
async def test_a_clock_of_another_age_is_none(date: str) -> None:
    """To reckon with it would end the loop that does; whoever sweeps needs no date."""
    page = {"instances": [], "total_instances": 0, "id": 7, "offers": []}
    body = json.dumps(page).encode()
    async with peer(lambda *_: (200, {"Date": date}, body)) as (url, _), client(url) as vast:
        assert (await vast.list_leases()).provider_time is None
        with pytest.raises(ProviderUnavailable):
            await vast.search(search_of(SPEC))


class Pages:
    """A `Channel` whose listing has the pages that a test makes."""

    def __init__(self, answer: Callable[[str | None], dict[str, Any]]) -> None:
        self._answer = answer
        self.asked = 0

    async def request(
        self, method: str, path: str, body: object = None, query: Mapping[str, str] | None = None
    ) -> Answer:
        """Answers as the account, or with the page that a token names."""
        del method, body
        date = {"Date": format_datetime(datetime.now(UTC), usegmt=True)}
        if path.endswith("current"):
            return Answer({"id": 7, "credit": 1}, date)
        self.asked += 1
        assert self.asked < 1000, "it goes on for ever"
        return Answer(self._answer((query or {}).get("after_token")), date)


def some(first: int, count: int, total: object, token: object = None) -> dict[str, Any]:
    """A page of the machines of somebody else, of which only number and marks can be read."""
    rows = [{"id": n, "label": f"other {n}", "dph_base": None} for n in range(first, first + count)]
    return {"instances": rows, "total_instances": total, "next_token": token}


async def test_a_listing_of_thousands_is_read() -> None:
    """3,000 rows on 120 pages, each of which is as the provider makes them."""

    def page(token: str | None) -> dict[str, Any]:
        first = int(token or 0)
        return some(first, 25, 3000, str(first + 25) if first < 2975 else None)

    pages = Pages(page)
    listing = await VastRequests(pages, CLOCK, Scrubber()).list_leases()

    assert (len(listing.leases), pages.asked) == (3000, 120)
    assert [one.label for one in listing.leases[::2999]] == ["other 0", "other 2999"]


@pytest.mark.parametrize(
    ("page", "asked", "words"),
    [
        pytest.param(
            lambda token: some(int(token or 0), 25, 10**4, str(int(token or 0) + 25)),
            400,
            "after all 10000 machines",
            id="a chain of pages without an end",
        ),
        pytest.param(lambda _: some(0, 25, 100, "again"), 2, "machine 0 is on two", id="a circle"),
        pytest.param(
            lambda token: some(24 if token else 0, 25, 49, None if token else "x"),
            2,
            "machine 24 is on two",
            id="pages overlap",
        ),
        pytest.param(
            lambda token: some(25 if token else 0, 22, 50 if token else 48, None if token else "x"),
            2,
            "has 44 machines",
            id="no total fits",
        ),
        pytest.param(lambda _: some(0, 0, 9, "x"), 1, "an empty page", id="an empty page"),
        pytest.param(lambda _: some(0, 3, 4), 1, "has 3 machines", id="a row short"),
        pytest.param(lambda _: some(0, 5, 4), 1, "has 5 machines", id="a row long"),
        pytest.param(lambda _: some(0, 251, 251), 1, "251 rows", id="a page of too many rows"),
        pytest.param(lambda _: some(0, 2, 10**6), 1, "1000000", id="too many machines"),
        pytest.param(lambda _: some(0, 2, -1), 1, "total_instances", id="fewer than none"),
        pytest.param(lambda _: some(0, 2, True), 1, "total_instances", id="no number"),
        pytest.param(lambda _: some(0, 2, 2.0), 1, "total_instances", id="no count"),
        pytest.param(lambda _: some(0, 2, 4, ["x"]), 1, "next_token", id="a token of tokens"),
        pytest.param(lambda _: some(0, 2, 4, "x" * 1001), 1, "next_token", id="a long token"),
    ],
)
async def test_a_listing_that_does_not_add_up_is_none(
    page: Callable[[str | None], dict[str, Any]], asked: int, words: str
) -> None:
    """It has an end, and says what is wrong."""
    pages = Pages(page)
    with pytest.raises(ProviderUnavailable, match=words):
        await VastRequests(pages, CLOCK, Scrubber()).list_leases()

    assert pages.asked == asked


@pytest.mark.parametrize(
    "spoilt",
    [
        *({key: DEEP} for key in ("status_msg", "actual_status", "label", "extra_env", "ports")),
        *({key: DEEP} for key in ("dph_base", "inet_up_billed", "start_date", "intended_status")),
        {"ports": {"22/tcp": [{"HostPort": DEEP}]}},
        {"extra_env": {"X": DEEP, "GPUJOB_MARK": "other/n/j"}},
        {"extra_env": [["GPUJOB_MARK", DEEP]]},
        {"dph_base": "9" * 10**6},
        {"label": "x" * 10**6, "status_msg": "http://" * 10**5},
        {"digits": "DIGITS"},
        {"text": "BYTES"},
    ],
    ids=lambda spoilt: str(spoilt)[:30],
)
async def test_nothing_in_a_foreign_row_blinds_us(spoilt: dict[str, Any]) -> None:
    """Over HTTP: our own machine is seen whatever stands in the row of another."""
    leases, _ = rows()
    listing = {"id": 7, "instances": [leases[0], {"id": 1} | spoilt], "total_instances": 2}
    body = json.dumps(listing).encode()
    body = body.replace(b'"DIGITS"', b"9" * 5000).replace(b"BYTES", b"\xff\xfe\xc3")
    date = {"Date": format_datetime(NOW, usegmt=True)}
    async with peer(lambda *_: (200, date, body)) as (url, _), client(url) as vast:
        found = await vast.list_leases()

    assert [one.instance_id for one in found.leases if one.mark == "c/n/j"] == [
        leases[0]["id"],
    ]


N = ANSWER_BYTES_MAX - 100


@pytest.mark.parametrize(
    "body",
    [
        *(b"[" * N, b'{"a":' * (N // 5), b"[" + b"[]," * (N // 3) + b"[]]", b"9" * N),
        *(b'{"a":' + b"9" * N + b"}", b"[" + b"1e5," * (N // 4) + b"1]", b"\xff" * N),
        *(b'{"msg":"' + b"http://" * (N // 7) + b'"}', b'{"msg":"' + b"eyJ" * (N // 3) + b'"}'),
        *(b'{"msg":' + b"[" * 900 + b"]" * 900 + b"}", b"{" + b'"":{},' * (N // 6) + b'"":0}'),
    ],
    ids=lambda body: str(body[:20]),
)
async def test_no_answer_holds_up_the_others_for_long(body: bytes) -> None:
    """By what the parser of JSON takes for its own worst, whatever the speed of this processor."""
    began = time.thread_time()
    json.loads(b"[" + b"[]," * (N // 3) + b"[]]")
    worst = time.thread_time() - began
    async with peer(lambda *_: (500, {}, body)) as (url, _), client(url) as vast:
        began = time.thread_time()
        with pytest.raises(ProviderUnavailable):
            await vast.destroy(1)

        assert time.thread_time() - began < 3 * worst


async def test_spoilt_bytes_are_read_or_refused() -> None:
    """Over HTTP: bytes changed, cut off or added, under any status and date."""
    chance, places = random.Random(20_261_130), list[str]()
    leases, offers = rows()
    whole = {
        **{"id": 7, "credit": 1, "instances": leases, "total_instances": 2, "offers": offers},
        **{"gpu_names": ["RTX 4090"], "success": True, "next_token": None},
    }

    def answer(method: str, path: str) -> tuple[int, dict[str, str], bytes]:
        del method
        raw = json.dumps(whole | {"result_url": f"{places[0]}/log"}).encode()
        place = chance.randrange(len(raw))
        turn = chance.randrange(4)
        if turn == 0:
            raw = raw[:place] + chance.randbytes(chance.choice((1, 4))) + raw[place + 1 :]
        if turn == 1:
            raw = chance.choice((raw[:place], raw + raw[:place], b"\xef\xbb\xbf" + raw))
        status = chance.choice((200, 200, 200, 204, 404, 500, 999))
        date = chance.choice((format_datetime(NOW, usegmt=True), *DATES[:-1]))
        return status, {"Date": date}, raw

    read = refused = 0
    async with peer(answer) as (url, _), client(url) as vast:
        places.append(url)
        for number in range(250):
            for ask in (vast.list_leases, lambda: vast.search(search_of(SPEC)), vast.gpu_models):
                try:
                    await ask()
                    read += 1
                except ProviderError:
                    refused += 1
            for tell in (vast.destroy, vast.start, vast.read_log):
                try:
                    await tell(number)
                    read += 1
                except ProviderError:
                    refused += 1

    assert min(read, refused) > 250
