"""Answers that nobody expects: each is read, or refused with an error of ours."""

import json
import random
from collections.abc import Iterator
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

ROUNDS = 2_500
"""In each, three answers are spoilt."""
NOW = datetime.now(UTC)
ODD: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**63, 10**400, 1e308, -1e-308, float("nan"), float("inf")),
    *("", "0", "-1", "1e999999999", "9" * 5000, "\x00", "\ud800", "é" * 10_000, "null", "running"),
    *([], [[]], {}, [[["x"]]], {"a": {"b": []}}, [None], ["22/tcp"], {"22/tcp": None}),
    *({"22/tcp": [{"HostPort": "9" * 5000}]}, [["GPUJOB_MARK"]], [[1, 2]], "2026-01-01", 4e18),
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
        dates = [format_datetime(NOW, usegmt=True)] * 8
        dates += ["", "Fri, 31 Dec 9999 23:59:59 GMT", "Thu, 01 Jan 0001 00:00:00 -2359", "soon"]
        answers: dict[str, Any] = {
            "/api/v0/users/current": {"id": 7, "credit": 10.5},
            "/api/v0/bundles/": {"offers": self._offers},
            "/api/v0/gpu_names/unique/": {"gpu_names": ["RTX 4090", "H100 SXM"]},
        }
        listing = {"instances": self._leases, "total_instances": 2, "next_token": None}
        whole = json.loads(json.dumps(answers.get(path, listing)))
        return Answer(self._spoilt(whole), {"Date": self._chance.choice(dates)})

    def _spoilt(self, whole: dict[str, Any]) -> dict[str, Any]:
        places = list(_places(whole))
        holder, key = self._chance.choice(places)
        if isinstance(holder, dict) and self._chance.random() < 0.2:
            del holder[key]
        else:
            holder[key] = self._chance.choice(ODD)
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
            with pytest.raises(ProviderUnavailable):
                await ask()


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
    "date", ["Fri, 31 Dec 9999 23:59:59 GMT", "Thu, 01 Jan 0001 00:00:00 GMT", "soon", ""]
)
async def test_a_clock_of_another_age_is_none(date: str) -> None:
    """To reckon with it would end the loop that does; whoever sweeps needs no date."""
    page = {"instances": [], "total_instances": 0, "id": 7, "offers": []}
    body = json.dumps(page).encode()
    async with peer(lambda *_: (200, {"Date": date}, body)) as (url, _), client(url) as vast:
        assert (await vast.list_leases()).provider_time is None
        with pytest.raises(ProviderUnavailable):
            await vast.search(SPEC)
