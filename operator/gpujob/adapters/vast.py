"""The client of Vast.ai's HTTP API; it keeps the promises of `adapters.provider`.

Most requests may be repeated by a caller that asks again: they are made by `VastRequests`, over any
`Channel`. The rent request is different: it leaves this process at most once. No layer repeats it,
no redirect is followed, and its connection is opened beforehand. aiohttp by itself repeats a PUT
whose connection closes without an answer (https://github.com/aio-libs/aiohttp/issues/10790), unless
the body can be read only once; so the body is a generator.
"""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from fractions import Fraction
from functools import wraps
from typing import Any, NamedTuple, ParamSpec, TypeVar

import aiohttp
from pydantic import SecretStr
from yarl import URL

from gpujob.adapters.body import json_in, whole_body
from gpujob.adapters.channel import Answer, Channel, PacedChannel
from gpujob.adapters.clock import Clock
from gpujob.adapters.door import Door
from gpujob.adapters.egress import DIRECT, Egress
from gpujob.adapters.errors import (
    CredentialsRejected,
    ProviderError,
    ProviderUnavailable,
    RateLimited,
    RentDenied,
    RentUnclear,
    RentWithheld,
    SearchQuotaExhausted,
)
from gpujob.adapters.log_store import LogStore
from gpujob.adapters.redact import Scrubber
from gpujob.adapters.vast_wire import (
    MARK_VARIABLE,
    Malformed,
    can_be_rented,
    count_in,
    is_local,
    lease_from,
    offer_from,
    page_from,
)
from gpujob.api.reasons import Reason
from gpujob.api.transport import RegistryLogin
from gpujob.api.words import in_words
from gpujob.core.effects import Rent
from gpujob.core.limits import PAGE_LEASES
from gpujob.core.machine.start_script import SETUP_VARIABLE
from gpujob.core.market.floors import MODELS_MAX, is_name
from gpujob.core.market.listings import Lease, Listing
from gpujob.core.market.offers import Offer, Quotes
from gpujob.core.market.pace import Kind
from gpujob.core.market.search import Search
from gpujob.core.money import AmountError, exact

READ_SECONDS = 20.0
PAGE_QUERY = {
    "limit": json.dumps(PAGE_LEASES),
    "order_by": json.dumps([{"col": "id", "dir": "asc"}]),
    "select_filters": "{}",
}
"""What is asked of each page."""
LOG_LOOKS = 4
LOG_LOOK_SECONDS = 0.5
"""How often a log is looked for before whoever asks has to come again."""
LOG_LINES = 5000
LOG_KEPT_SECONDS = 600.0
"""Where the log of a machine that nobody asks about any more would lie is forgotten after this."""
LOG_PATIENCE_SECONDS = 45.0
"""A requested log appears seconds after the answer (vastsim/FACTS.md, Logs). Until then it is
looked for at the same place: each request is one of few that the provider takes."""
ANSWER_BYTES_MAX = 4 << 20
"""A full page of machines, or of offers, has some 300 KB. To read the oddest answer of this size
takes about a second, in which nothing else is done."""
YEARS = range(2020, 2200)
"""No clock of our world shows another; and to reckon with 9999 is an error."""
SAID_LENGTH_MAX = 200
SAID_BYTES_MAX = 4096
SAID_READ_MAX = 20_000
"""So much of what the provider says is searched for secrets before it is cut to what is shown."""
OFFERS_WANTED = 64
"""The provider's own cap on one search answer (vastsim/FACTS.md, Search)."""

_KNOWN_KEY = re.compile(r"duplicate|already (exists|attached|added|associated)", re.IGNORECASE)
"""What is said of a key that a machine has (vastsim/FACTS.md, SSH)."""

_THRESHOLD = re.compile(r"threshold=([0-9]{1,4}(?:\.[0-9]{1,4})?)(?![\w.])", re.ASCII)
_SECONDS = re.compile(r"[0-9]{1,6}", re.ASCII)
_EPOCH = re.compile(r"[0-9]{10}", re.ASCII)

REFUSALS = {
    "no_such_ask": Reason.OFFER_GONE,
    "insufficient_credit": Reason.CREDIT_EXHAUSTED,
    "auth_error": Reason.CREDENTIALS_REJECTED,
}


Given = ParamSpec("Given")
Found = TypeVar("Found")


def _guarded(
    method: Callable[Given, Coroutine[Any, Any, Found]],
) -> Callable[Given, Coroutine[Any, Any, Found]]:
    """Makes a ProviderError of whatever else an answer causes.

    Answers come from a stranger: nobody can list all that may be wrong with one, and no loop of
    ours may end by it.
    """

    @wraps(method)
    async def guarded(*given: Given.args, **named: Given.kwargs) -> Found:
        try:
            return await method(*given, **named)
        except ProviderError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, its words may be the stranger's
            kind = type(error).__name__
            raise ProviderUnavailable(f"an answer of the provider cannot be read: {kind}") from None

    return guarded


class VastRequests:
    """The requests that may be repeated, and what their answers say.

    See `Provider` for the promises of each.
    """

    def __init__(
        self, channel: Channel, clock: Clock, scrub: Scrubber, *, is_local: bool = False
    ) -> None:
        self._channel = channel
        self._clock = clock
        self._scrub = scrub
        self._is_local = is_local

    @_guarded
    async def search(self, search: Search) -> Quotes:
        """Returns offers that meet the needs, cheapest first."""
        query, asked_at = _query(search), self._clock.monotonic()
        answer, headers = await self._channel.request("POST", "/api/v0/bundles/", query)
        rows = answer.get("offers")
        if not isinstance(rows, list):
            raise ProviderUnavailable("the search answer has no list of offers")
        offers: list[Offer] = []
        unreadable = 0
        for row in rows:
            try:
                if can_be_rented(row):
                    offers.append(offer_from(row))
            except Malformed:
                unreadable += 1
        now, took = self._clock.now(), self._clock.monotonic() - asked_at
        # The Date lies somewhere between the request and the answer.
        skew = (_date(headers) - now).total_seconds()
        return Quotes(
            offers=tuple(offers),
            unreadable=unreadable,
            fetched_at=now,
            clock_skew_seconds=skew if skew > 0 else min(skew + took, 0.0),
            is_full=len(rows) >= OFFERS_WANTED,
            dearest_usd_per_hour=_dearest(rows, _sorted_by(search)),
        )

    @_guarded
    async def gpu_models(self) -> tuple[str, ...]:
        """Returns the names of all GPU models that the provider knows."""
        answer, _ = await self._channel.request("GET", "/api/v0/gpu_names/unique/")
        names = answer.get("gpu_names")
        if not isinstance(names, list):
            raise ProviderUnavailable("the answer has no list of GPU names")
        found = {name for name in names if isinstance(name, str) and is_name(name)}
        return tuple(sorted(found)[:MODELS_MAX])

    @_guarded
    async def list_leases(self) -> Listing:
        """Returns every machine of the account, or raises."""
        requested_at = self._clock.monotonic()
        user, _ = await self._channel.request("GET", "/api/v0/users/current")
        rows: dict[int, Lease] = {}
        query, totals = PAGE_QUERY, list[int]()
        while True:
            answer, headers = await self._channel.request("GET", "/api/v1/instances/", query=query)
            try:
                page = page_from(answer)
                leases = [
                    lease_from(row, self._scrub.foreign, is_local=self._is_local)
                    for row in page.rows
                ]
            except Malformed as error:
                raise ProviderUnavailable(f"the listing cannot be read: {error}") from None
            totals.append(page.total)
            found = {lease.instance_id: lease for lease in leases}
            if again := rows.keys() & found.keys():
                words = f"machine {min(again)} is on two pages of the listing"
                raise ProviderUnavailable(words)
            rows |= found
            if page.next_token is None:
                break
            if not page.rows or len(rows) >= max(totals):
                # So each further page brings a machine, and their number has an end.
                everything = f"after all {max(totals)} machines a page"
                words = "an empty page" if not page.rows else everything
                raise ProviderUnavailable(f"{words} of the listing announces another one")
            query = PAGE_QUERY | {"after_token": page.next_token}
        # Machines that come or go between two pages change the total, and hide no other one: pages
        # go on from the last number.
        if not min(totals) <= len(rows) <= max(totals):
            words = f"the listing has {len(rows)} machines, but its total says {totals[-1]}"
            raise ProviderUnavailable(words)
        return Listing(
            requested_at=requested_at,
            answered_at=self._clock.monotonic(),
            provider_time=_readable_date(headers),
            account_id=_account(user),
            credit_usd=_credit(user),
            leases=tuple(rows[number] for number in sorted(rows)),
        )

    @_guarded
    async def attach_key(self, instance_id: int, public_key: str) -> None:
        """Lets a key log in to one machine, and to no other; returns if it does already."""
        path = f"/api/v0/instances/{instance_id}/ssh/"
        try:
            await self._channel.request("POST", path, {"ssh_key": public_key})
        except ProviderUnavailable as error:
            if not _KNOWN_KEY.search(str(error)):
                raise

    @_guarded
    async def start(self, instance_id: int) -> None:
        """Asks the provider to run a machine that stands still."""
        path = f"/api/v0/instances/{instance_id}/"
        await self._channel.request("PUT", path, {"state": "running"})

    @_guarded
    async def destroy(self, instance_id: int) -> None:
        """Asks the provider to destroy a machine; no answer proves anything."""
        await self._channel.request("DELETE", f"/api/v0/instances/{instance_id}/", {})


def _query(search: Search) -> dict[str, Any]:
    """Returns a search in the provider's words (vastsim/FACTS.md, Search)."""
    prices = {"lte": search.max_usd_per_hour, "gte": search.from_usd_per_hour}
    bounds = {name: float(price) for name, price in prices.items() if price is not None}
    least = {
        # The provider counts in MiB and MB, and the memory of the whole machine.
        "gpu_ram": search.gpu_memory_gb * 1024,
        "cuda_max_good": search.cuda_version,
        "cpu_cores_effective": search.cpu_cores,
        "cpu_ram": search.memory_gb * 1000,
    }
    filters: dict[str, Any] = {
        "rentable": {"eq": True},
        "rented": {"eq": False},
        "num_gpus": {"eq": search.gpu_count},
        "disk_space": {"gte": search.disk_gb},
        "reliability2": {"gte": float(search.min_reliability)},
        "direct_port_count": {"gte": 1},
        **{name: {"gte": float(value)} for name, value in least.items() if value},
    }
    price = _sorted_by(search)
    if bounds:
        filters[price] = bounds
    if search.models:
        filters["gpu_name"] = {"in": list(search.models)}
    if search.hosts != "Any":
        filters["verified"] = {"eq": True}
    if search.hosts == "Datacenter":
        filters["datacenter"] = {"eq": True}
    if search.regions:
        filters["geolocation"] = {"in": list(search.regions)}
    return filters | {
        "order": [[price, "asc"]],
        # A search for bids shows no price on demand, and the other one shows the lowest bid, too.
        "type": "on-demand",
        "limit": OFFERS_WANTED,
        "allocated_storage": search.disk_gb,
    }


def _sorted_by(search: Search) -> str:
    """Returns the price by which the offers are asked for; the lowest bid is one without a disk."""
    return "min_bid" if search.is_bid else "dph_total"


def _dearest(rows: list[Any], price: str) -> Fraction | None:
    found = []
    for row in rows:
        with suppress(AmountError, KeyError, TypeError):
            found.append(exact(row[price]))
    return max(found, default=None)


class HttpChannel:
    """The provider over HTTP, as one account."""

    def __init__(
        self, url: str, token: SecretStr, scrub: Scrubber, egress: Egress = DIRECT
    ) -> None:
        self._url = url
        self._token = token
        self._scrub = scrub
        self._egress = egress
        self._opened: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Closes the connections."""
        if self._opened is not None:
            await self._opened.close()

    async def request(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        query: Mapping[str, str] | None = None,
    ) -> Answer:
        """Makes one request as the account and returns its answer."""
        async with (
            _translated(),
            self._session().request(
                method,
                self._url + path,
                json=body,
                params=query,
                headers=_headers(self._token),
                allow_redirects=False,
            ) as response,
        ):
            return Answer(await _json(response, self._scrub), response.headers)

    def _session(self) -> aiohttp.ClientSession:
        if self._opened is None:
            timeout = aiohttp.ClientTimeout(total=READ_SECONDS)
            self._opened = self._egress.session(timeout)
        return self._opened


class _AskedLog(NamedTuple):
    """Where a log that was requested will lie."""

    place: URL
    at: float
    """Monotonic time of the request."""


class VastClient(VastRequests):
    """A `Provider`: Vast.ai over HTTP, as one account."""

    def __init__(
        self, url: str, token: SecretStr, clock: Clock, door: Door, egress: Egress = DIRECT
    ) -> None:
        self._url = url.rstrip("/")
        self._token = token
        self._egress = egress
        self._http = HttpChannel(self._url, token, Scrubber([token]), egress)
        self._door = door
        self._store = LogStore(self._url, egress)
        self._asked: dict[int, _AskedLog] = {}
        """Logs that were requested and have not appeared yet, by the machine's number."""
        paced = PacedChannel(self._http, door)
        super().__init__(paced, clock, Scrubber([token]), is_local=is_local(self._url))

    def __repr__(self) -> str:
        """Shows the address only: a client prints no token."""
        return f"VastClient({self._url})"

    async def close(self) -> None:
        """Closes the connections."""
        await self._http.close()

    @_guarded
    async def read_log(self, instance_id: int) -> str | None:
        """Returns a machine's last lines, or None if they are not available yet."""
        asked = self._asked.pop(instance_id, None)
        if asked is not None:
            if (log := await self._store.read(asked.place)) is not None:
                return log.decode("utf-8", "replace")
            if self._clock.monotonic() - asked.at < LOG_PATIENCE_SECONDS:
                self._asked[instance_id] = asked
                return None
        path = f"/api/v0/instances/request_logs/{instance_id}/"
        answer, _ = await self._channel.request("PUT", path, {"tail": str(LOG_LINES)})
        place = self._store.place(answer.get("result_url"))
        for _ in range(LOG_LOOKS):
            if (log := await self._store.read(place)) is not None:
                return log.decode("utf-8", "replace")
            await asyncio.sleep(LOG_LOOK_SECONDS)
        now = self._clock.monotonic()
        recent = {n: one for n, one in self._asked.items() if now - one.at < LOG_KEPT_SECONDS}
        self._asked = recent | {instance_id: _AskedLog(place, now)}
        return None

    @asynccontextmanager
    async def rent_line(self) -> AsyncIterator["HttpRentLine"]:
        """Opens the connection for one rent request, and learns whose account it is."""
        await self._door.enter(Kind.ACCOUNT)
        async with self._egress.session(limit=1, keepalive_timeout=30) as session:
            async with (
                _translated(),
                session.get(
                    f"{self._url}/api/v0/users/current",
                    headers=_headers(self._token),
                    allow_redirects=False,
                    timeout=aiohttp.ClientTimeout(total=READ_SECONDS),
                ) as response,
            ):
                account = _account(await _json(response, self._scrub))
            yield HttpRentLine(session, self._url, self._token, self._clock, self._door, account)


class HttpRentLine:
    """A `RentLine`: one open connection, good for one rent request."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        url: str,
        token: SecretStr,
        clock: Clock,
        door: Door,
        account_id: int,
    ) -> None:
        self._session = session
        self._url = url
        self._token = token
        self._clock = clock
        self._door = door
        self._used = False
        self.account_id = account_id

    async def send(
        self, request: Rent, timeout_seconds: float, login: RegistryLogin | None = None
    ) -> int:
        """Sends the one request and returns the machine's number.

        Raises RentDenied, RentWithheld or RentUnclear.
        """
        assert not self._used, "a line is good for one request"
        self._used = True
        bid = request.bid_usd_per_hour
        payload = json.dumps(
            {
                "client_id": "me",
                "image": request.image,
                "image_login": None if login is None else _image_login(login),
                "env": {MARK_VARIABLE: request.mark, SETUP_VARIABLE: request.setup},
                "price": None if bid is None else float(bid),
                "disk": request.disk_gb,
                "label": request.mark,
                "onstart": request.start_script,
                "runtype": "ssh_direc ssh_proxy",
                # Only root can start an SSH server, whatever user the image names.
                "user": "root",
                "cancel_unavail": True,
                "force": False,
            }
        ).encode()
        left = (request.not_after - self._clock.now()).total_seconds()
        if left <= 0:
            raise RentWithheld(f"the rent request was {-left:.1f} s too late to be sent")

        async def once() -> AsyncIterator[bytes]:
            yield payload

        try:
            async with self._session.put(
                f"{self._url}/api/v0/asks/{request.offer_id}/",
                data=once(),
                headers={
                    **_headers(self._token),
                    "Content-Type": "application/json",
                    "Content-Length": str(len(payload)),
                },
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=timeout_seconds),
            ) as response:
                raw = await whole_body(response, ANSWER_BYTES_MAX)
                status, headers = response.status, response.headers
        except aiohttp.ClientConnectorError as error:
            # The connection could not even be made: nothing was sent.
            raise RentWithheld(f"no connection: {type(error).__name__}") from None
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise RentUnclear(f"no answer: {type(error).__name__}") from None
        if status == 429:
            now = self._clock.monotonic()
            self._door.answered(Kind.RENT, now, rate_limited(raw or b"", headers))
        secrets = [self._token, *([login.password] if login else [])]
        return _rented(status, raw or b"", Scrubber(secrets))


def _image_login(login: RegistryLogin) -> str:
    """Returns a login in the provider's form, arguments of `docker login`.

    Nothing is quoted: its characters need no quotes, and nobody knows whether they would be read
    (vastsim/FACTS.md, Private images).
    """
    user, password = (one.get_secret_value() for one in (login.username, login.password))
    return f"-u {user} -p {password} {login.registry}"


def _rented(status: int, raw: bytes, scrub: Scrubber) -> int:
    """Reads the answer to a rent request (vastsim/FACTS.md, Rent answers)."""
    try:
        answer = json_in(raw)
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict):
        raise RentUnclear(f"the answer with status {status} cannot be read")
    if answer.get("new_contract") is not None:
        # Also in an error body: the machine exists, and must be found and destroyed.
        try:
            return count_in(answer, "new_contract")
        except Malformed as error:
            raise RentUnclear(f"the answer with status {status}: {error}") from None
    if status in (408, 409, 425, 429) or not 400 <= status < 500:
        raise RentUnclear(f"the answer with status {status} names no machine")
    known = next((why for code, why in REFUSALS.items() if code.encode() in raw), Reason.OFFER_GONE)
    raise RentDenied(f"{status}: {_said(answer, scrub)}", known)


@asynccontextmanager
async def _translated() -> AsyncIterator[None]:
    try:
        yield
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        # The library's words, also in the traceback of a cause, may hold an address or our headers.
        raise ProviderUnavailable(_why_silent(error)) from None


def _why_silent(error: Exception) -> str:
    match error:
        case TimeoutError():
            return "the provider did not answer in time"
        case aiohttp.ClientConnectorError():
            return "the provider cannot be reached"
        case _:
            return "the connection was lost, or the answer was not HTTP"


async def _json(response: aiohttp.ClientResponse, scrub: Scrubber) -> dict[str, Any]:
    """Returns the body of a 2xx answer; raises by the provider's conventions for all others."""
    raw = await whole_body(response, ANSWER_BYTES_MAX)
    status = response.status
    if status == 429:
        raise rate_limited(raw or b"", response.headers)
    if raw is None:
        words = f"an answer with status {status} has more than {ANSWER_BYTES_MAX} bytes"
        raise ProviderUnavailable(words)
    try:
        body = json_in(raw)
    except (ValueError, RecursionError):
        raise ProviderUnavailable(f"an answer with status {status} is not JSON") from None
    if not isinstance(body, dict):
        raise ProviderUnavailable(f"an answer with status {status} is not a JSON object")
    if status in (401, 403) or body.get("error") == "auth_error":
        # A wrong key is answered with 404 (vastsim/FACTS.md, Credentials): it never means "gone".
        raise CredentialsRejected(f"the provider refuses the account's key (status {status})")
    if not 200 <= status < 300:
        raise ProviderUnavailable(f"status {status}: {_said(body, scrub)}")
    if body.get("success") is False:
        raise ProviderUnavailable(f"refused: {_said(body, scrub)}")
    return body


def rate_limited(raw: bytes, headers: Mapping[str, str]) -> RateLimited:
    """Returns what an answer with status 429 says (vastsim/FACTS.md, Rate limits).

    It need not be JSON.
    """
    text = raw[:SAID_BYTES_MAX].decode("utf-8", "replace")
    if "search_quota_exceeded" in text:
        reset = headers.get("X-RateLimit-Reset", "")
        resets_at = datetime.fromtimestamp(int(reset), UTC) if _EPOCH.fullmatch(reset) else None
        when = (
            "" if resets_at is None else f"; it may search again at {resets_at:%Y-%m-%d %H:%M} UTC"
        )
        words = f"the provider lets the account search no more today{when}"
        return SearchQuotaExhausted(words, resets_at)
    wait = _retry_after_seconds(headers)
    said = _THRESHOLD.search(text)
    threshold = float(said[1]) if said else None
    return RateLimited("the provider's limit for requests was exceeded", wait, threshold)


def _retry_after_seconds(headers: Mapping[str, str]) -> float | None:
    """Returns how long to wait: Retry-After is a number of seconds, or a date by their clock."""
    after = headers.get("Retry-After", "")
    if _SECONDS.fullmatch(after):
        return float(after)
    until, now = _readable_date(headers, "Retry-After"), _readable_date(headers)
    return max((until - now).total_seconds(), 0.0) if until and now else None


def _said(body: Mapping[str, Any], scrub: Scrubber) -> str:
    """Returns the provider's own words for what is wrong.

    They are scrubbed before they are cut: a part of a secret would not be recognised.
    """
    said = body.get("msg") or body.get("error")
    text = said[:SAID_READ_MAX] if isinstance(said, str) else ""
    return in_words(scrub.foreign(text), SAID_LENGTH_MAX) or "no reason given"


def _headers(token: SecretStr) -> dict[str, str]:
    bearer = f"Bearer {token.get_secret_value()}"
    return {"Authorization": bearer, "Accept": "application/json"}


def _account(body: Mapping[str, Any]) -> int:
    try:
        return count_in(body, "id")
    except Malformed as error:
        raise ProviderUnavailable(f"the answer about the account: {error}") from None


def _credit(body: Mapping[str, Any]) -> Fraction | None:
    try:
        return exact(body["credit"])
    except (KeyError, AmountError):
        return None


def _date(headers: Mapping[str, str]) -> datetime:
    """Returns the provider's clock; an answer without a usable one is of no use for money."""
    if (found := _readable_date(headers)) is None:
        raise ProviderUnavailable("an answer has no readable Date header")
    return found


def _readable_date(headers: Mapping[str, str], name: str = "Date") -> datetime | None:
    """Returns the provider's clock; None = the answer does not show it, or shows another age."""
    try:
        found = parsedate_to_datetime(headers[name]).astimezone(UTC)
    except (KeyError, ValueError, TypeError, OverflowError):
        return None
    return found if found.year in YEARS else None
