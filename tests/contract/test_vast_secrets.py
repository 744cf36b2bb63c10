"""What our client of the provider says when it fails shows no secret: nobody's, in no spelling."""

import base64
import logging
import traceback
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import quote

import pytest
from pydantic import SecretStr
from tests.contract.test_vast_client import (
    CLOCK,
    SPEC,
    Answer,
    account_then,
    client,
    good,
    peer,
    request,
)

from gpujob.adapters.door import Door
from gpujob.adapters.errors import ProviderError, RentDenied
from gpujob.adapters.vast import VastClient
from gpujob.api.transport import RegistryLogin
from gpujob.core.market.search import search_of

TOKEN = "canary-0123456789-abcdef"
OTHER = "0ddba11" * 9 + "f"
"""A key that we have never seen."""

WORDS = {
    "the token": f"user {TOKEN} is not known",
    "the token in base64": f"user {base64.b64encode(b'x' + TOKEN.encode()).decode()} is not known",
    "the token in hex": f"user {TOKEN.encode().hex()} is not known",
    "the token where words are cut": "x" * 190 + TOKEN,
    "the header": f"no route for {{'Authorization': 'Bearer {OTHER}'}}",
    "a machine's key": f"refused: {{'instance_api_key': '{OTHER}'}}",
    "a machine's key, bare": f"the key {OTHER} may not do this",
    "a notebook's token": f"see jupyter_token={OTHER}&x=1",
    "an image's login": f"docker login -u robot -p {OTHER[:20]} docker.io: exit status 1",
    "an address with a query": f"moved to https://s.example/x?sig={OTHER[:20]}&t={quote(TOKEN)}",
}
ASKS: dict[str, Callable[[VastClient], Awaitable[Any]]] = {
    "search": lambda made: made.search(search_of(SPEC)),
    "models": lambda made: made.gpu_models(),
    "list": lambda made: made.list_leases(),
    "log": lambda made: made.read_log(7),
    "destroy": lambda made: made.destroy(7),
}


def told(error: BaseException) -> str:
    """All that a log could hold of an error."""
    return "".join(traceback.format_exception(error)) + repr(error) + repr(vars(error))


def shows(text: str) -> list[str]:
    """Returns what of the secrets stands in a text."""
    encoded = base64.b64encode(b"x" + TOKEN.encode()).decode()[2:-2]
    parts = (*(TOKEN[:at] for at in (7, 12)), TOKEN[-8:], TOKEN.encode().hex(), encoded)
    return [part for part in (*parts, OTHER[:20], "sig=") if part in text]


def refusing(status: int, **body: object) -> Answer:
    """Answers everything with these words."""
    _, headers, raw = good(body)
    return lambda *_: (status, headers, raw)


@pytest.mark.parametrize("words", WORDS)
@pytest.mark.parametrize("ask", ASKS)
async def test_the_provider_s_words_are_told_without_secrets(ask: str, words: str) -> None:
    """Whatever the status, and whichever member holds them."""
    answers = [
        refusing(400, success=False, error="invalid_args", msg=WORDS[words]),
        refusing(500, error=WORDS[words]),
        refusing(404, msg={"detail": [WORDS[words]]}),
        refusing(200, success=False, msg=WORDS[words]),
        refusing(401, msg=WORDS[words]),
        refusing(302, msg=WORDS[words]),
    ]
    for answer in answers:
        async with peer(answer) as (url, _), client(url, TOKEN) as made:
            with pytest.raises(ProviderError) as refused:
                await ASKS[ask](made)

        assert shows(told(refused.value)) == []


@pytest.mark.parametrize("words", WORDS)
async def test_a_refusal_to_rent_is_told_without_secrets(words: str) -> None:
    """It is shown to the job's user, too; why, still is."""
    refusal = refusing(400, error="no_such_ask", msg=f"no offer: {WORDS[words]}")
    async with (
        peer(account_then(refusal)) as (url, _),
        client(url, TOKEN) as made,
        made.rent_line() as line,
    ):
        assert shows(repr(vars(line))) == []
        with pytest.raises(RentDenied, match="400: no offer: ") as refused:
            await line.send(request(7), 5)

    assert shows(told(refused.value)) == []


async def test_a_login_that_is_sent_is_shown_by_nothing() -> None:
    """Neither by an error that quotes it, nor by the line."""
    password = "canary-of-a-registry"
    login = RegistryLogin.model_validate(
        {"registry": "docker.io", "username": "robot", "password": password}
    )
    refusal = refusing(400, error="no_such_ask", msg=f"no: {password} {quote(password)}")
    async with (
        peer(account_then(refusal)) as (url, _),
        client(url, TOKEN) as made,
        made.rent_line() as line,
    ):
        with pytest.raises(RentDenied) as refused:
            await line.send(request(7), 5, login)
        assert password not in repr(vars(line)) + repr(login)

    assert password not in told(refused.value)


async def test_a_row_that_shows_a_login_is_read_without_it() -> None:
    """No capture shows one, but nobody has promised that none will."""
    row = {"id": 7, "machine_id": 3, "dph_base": 1, "storage_cost": 0, "disk_space": 1}
    secret = {"image_login": f"-u robot -p {OTHER} docker.io"}
    listing = account_then(lambda *_: good({"instances": [row | secret], "total_instances": 1}))
    async with peer(listing) as (url, _), client(url, TOKEN) as made:
        (lease,) = (await made.list_leases()).leases

    assert shows(repr(lease)) == []


@pytest.mark.parametrize("words", WORDS)
async def test_what_a_machine_says_is_listed_without_secrets(words: str) -> None:
    """Its status is shown on the node."""
    row = {"id": 7, "machine_id": 3, "dph_base": 1, "storage_cost": 0, "disk_space": 1}
    secret = {"status_msg": WORDS[words], "instance_api_key": OTHER, "jupyter_token": OTHER}
    listing = account_then(lambda *_: good({"instances": [row | secret], "total_instances": 1}))
    async with peer(listing) as (url, _), client(url, TOKEN) as made:
        (lease,) = (await made.list_leases()).leases

    assert lease.status_message
    assert shows(repr(lease)) == []


@pytest.mark.parametrize("value", [TOKEN, OTHER + "x", f"Bearer {OTHER}"])
async def test_a_price_that_can_not_be_read_is_kept_nowhere(value: str) -> None:
    """It stands where a number should."""
    row = {"id": 7, "machine_id": 3, "dph_base": value, "storage_cost": 0, "disk_space": 1}
    listing = account_then(lambda *_: good({"instances": [row], "total_instances": 1}))
    async with peer(listing) as (url, _), client(url, TOKEN) as made:
        (lease,) = (await made.list_leases()).leases

    assert lease.usd_per_hour is None
    assert shows(repr(lease)) == []


@pytest.mark.parametrize("value", [TOKEN, OTHER + "x", f"Bearer {OTHER}"])
async def test_a_row_without_a_number_is_told_without_secrets(value: str) -> None:
    """Which machine it is, nobody knows: the listing is none."""
    listing = account_then(lambda *_: good({"instances": [{"id": value}], "total_instances": 1}))
    async with peer(listing) as (url, _), client(url, TOKEN) as made:
        with pytest.raises(ProviderError, match="id must be") as refused:
            await made.list_leases()

    assert shows(told(refused.value)) == []


@pytest.mark.parametrize(
    "place",
    [
        "http://[half?sig={secret}",
        "http://{secret}:x@127.0.0.1:1/log?sig={secret}",
        "http://127.0.0.1:1/log?sig={secret}",
        "http://x:port/?sig={secret}",
        "//{secret}",
        "{own}/elsewhere?sig={secret}",
    ],
)
async def test_where_a_log_lies_is_told_to_nobody(place: str) -> None:
    """The address is signed, and the HTTP library's errors hold it whole."""
    held: list[str] = []

    def answer(_: str, path: str) -> tuple[int, dict[str, str], bytes] | None:
        if "elsewhere" in path:
            return 500, {}, OTHER.encode()
        return good({"success": True, "result_url": place.format(secret=OTHER, own=held[0])})

    async with peer(answer) as (url, _), client(url, TOKEN) as made:
        held.append(url)
        with pytest.raises(ProviderError) as refused:
            await made.read_log(7)

    assert shows(told(refused.value)) == []


@pytest.mark.parametrize("ask", ASKS)
@pytest.mark.parametrize(
    "answer",
    [
        lambda *_: None,
        lambda *_: (200, {"Content-Encoding": "gzip"}, TOKEN.encode()),
        lambda *_: (200, {"Content-Type": "text/html"}, f"<b>{TOKEN} {OTHER}".encode()),
        lambda *_: (429, {"Retry-After": OTHER}, TOKEN.encode()),
        lambda *_: (200, {"Transfer-Encoding": f"chunked, {OTHER}"}, TOKEN.encode()),
    ],
)
async def test_a_broken_answer_is_told_without_secrets(
    ask: str, answer: Answer, caplog: pytest.LogCaptureFixture
) -> None:
    """Nor does any library note them, at its most talkative."""
    caplog.set_level(logging.DEBUG)
    async with peer(answer) as (url, _), client(url, TOKEN) as made:
        with pytest.raises(ProviderError) as refused:
            await ASKS[ask](made)

    assert shows(told(refused.value)) == []
    assert shows(caplog.text) == []


def test_a_client_shows_no_token() -> None:
    """Neither itself nor what it is made of."""
    made = VastClient("http://x", SecretStr(TOKEN), CLOCK, Door(CLOCK, spacing=0))

    assert shows(f"{made} {made!r} {made.__dict__!r}") == []
