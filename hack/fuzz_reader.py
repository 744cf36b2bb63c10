"""Generates answers of the provider, and checks how the adapter reads each.

An answer is a head and a body: what was asked, the status and the headers, then an empty line, then
whatever the provider sent. Most answers must be read or refused; a listing whose rows have readable
numbers must be read, whatever else is in them. hack/fuzz reader runs this under atheris, which
keeps the answers that reach new code. Of these, the few that together reach all of it are in
tests/contract/answers, and tests/contract/test_kept_answers.py plays them.
"""

import json
import sys
import time
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from random import Random
from types import FrameType
from typing import Any

from pydantic import SecretStr

from fuzz_messages import MARKS, ROOT, SECRET, atheris, bend, printable, text_of
from vastsim.market import Ask, Market, Timing
from vastsim.offers import read_market
from vastsim.wire import Endpoint, instance_row, offer_row

READ_BY = ["gpujob.adapters", "gpujob.core.money", "gpujob.core.market", "gpujob.api"]
"""What reads an answer."""

with atheris.instrument_imports(include=READ_BY) if atheris else nullcontext():
    from gpujob.adapters import vast
    from gpujob.adapters.channel import Answer
    from gpujob.adapters.errors import ProviderError, RentDenied, RentUnclear
    from gpujob.adapters.redact import Scrubber
    from gpujob.adapters.vast_wire import COUNT_MAX, PAGE_ROWS_MAX
    from gpujob.api.gpujob import GpuJobSpec
    from gpujob.core.market.listings import Lease, Listing
    from gpujob.core.market.offers import Offer, Quotes
    from gpujob.core.market.search import search_of
    from gpujob.core.money import micro_up

KEPT = ROOT / "tests/contract/answers"
ANSWER_BYTES = 32 << 10
"""The longest answer that is made; longer ones cost more and say no more."""
SECONDS_MAX = 2.0
"""Of the CPU, for one answer: instrumented, and far beyond what any of them needs."""
SAID_MAX = 1024
NOW = datetime(2026, 11, 29, 12, 0, tzinfo=UTC)
DATE = "Sun, 29 Nov 2026 12:00:00 GMT"
SEARCH = search_of(
    GpuJobSpec.model_validate({"image": "python:3.11", "command": ["a"], "cost": {"ceiling": "2"}})
)
TOKEN = SecretStr(f"{SECRET}0123456789")
ACCOUNT = b'{"id": 7, "credit": 10.5}'
ASKED = ("leases", "offers", "models", "account", "rent", "start")
READ_KEYS = {
    *("id", "machine_id", "host_id", "label", "extra_env", "actual_status", "intended_status"),
    *("status_msg", "start_date", "dph_base", "storage_cost", "disk_space", "instance"),
    *("inet_up_billed", "inet_down_billed", "inet_up_cost", "inet_down_cost", "inet_up"),
    *("inet_down", "ports", "public_ipaddr", "ssh_host", "ssh_port", "num_gpus", "gpu_name"),
    *("cpu_cores", "cpu_cores_effective", "cpu_ram", "gpu_ram", "cuda_max_good", "geolocation"),
    *("verification", "hosting_type", "reliability2", "direct_port_count", "duration"),
    *("dph_total", "rentable", "rented"),
}
"""Of a row; a seed with all that the provider shows would be ten times as long."""


class Broken(AssertionError):
    """An answer was not read, or not refused, as promised."""


class Still:
    """A clock that shows one moment."""

    def now(self) -> datetime:
        """Returns it."""
        return NOW

    def monotonic(self) -> float:
        """Returns no time."""
        return 0.0


@dataclass(frozen=True)
class Given:
    """An answer as it is kept in a file."""

    raw: bytes

    @cached_property
    def _parts(self) -> tuple[list[str], bytes]:
        head, _, body = self.raw.partition(b"\n\n")
        return head.decode("utf-8", "surrogateescape").split("\n"), body

    @property
    def asked(self) -> str:
        """What it answers."""
        word = self._parts[0][0].partition(" ")[0]
        return word if word in ASKED else "leases"

    @property
    def status(self) -> int:
        """Its status."""
        digits = self._parts[0][0].partition(" ")[2]
        return int(digits) if len(digits) == 3 and digits.isascii() and digits.isdigit() else 200

    @property
    def headers(self) -> Mapping[str, str]:
        """Its headers."""
        named = (line.partition(": ") for line in self._parts[0][1:])
        return {name: value for name, _, value in named}

    @property
    def body(self) -> bytes:
        """Its body."""
        return self._parts[1]


class Response:
    """What the HTTP library makes of an answer, as far as the adapter looks at it."""

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.status, self.headers, self._body = status, headers, body

    @property
    def content(self) -> "Response":
        """Its body, as a stream."""
        return self

    async def iter_any(self) -> AsyncIterator[bytes]:
        """Yields the body in two pieces."""
        middle = len(self._body) // 2
        yield self._body[:middle]
        yield self._body[middle:]


class OneAnswer:
    """A `Channel` whose peer gives one answer, and else the account."""

    def __init__(self, given: Given) -> None:
        self._given = given

    async def request(self, method: str, path: str, *_: Any, **__: Any) -> Answer:
        """Reads what the peer sends."""
        del method
        about_account = path.endswith("/users/current")
        if about_account and self._given.asked != "account":
            given = Response(200, {"Date": DATE}, ACCOUNT)
        elif self._given.asked == "account" and not about_account:
            page = b'{"instances": [], "total_instances": 0}'
            given = Response(200, {"Date": DATE}, page)
        else:
            given = Response(self._given.status, self._given.headers, self._given.body)
        library: Any = given
        return Answer(await vast._json(library, SCRUB), given.headers)


SCRUB = Scrubber([TOKEN])


def read(given: Given) -> Any:
    """Returns what the adapter makes of an answer, or raises what it raises."""
    if given.asked == "rent":
        return vast._rented(given.status, given.body, SCRUB)
    requests = vast.VastRequests(OneAnswer(given), Still(), SCRUB)
    match given.asked:
        case "offers":
            return _now(requests.search(SEARCH))
        case "models":
            return _now(requests.gpu_models())
        case "start":
            return _now(requests.start(1))
    return _now(requests.list_leases())


def _now(waiting: Coroutine[Any, Any, Any]) -> Any:
    """Returns the result of what waits for nothing."""
    try:
        waiting.send(None)
    except StopIteration as done:
        return done.value
    raise Broken("it waits for something")


# --- What must hold ---


def played(raw: bytes) -> object:
    """Reads an answer, and returns what came of it; raises Broken if that is not as promised."""
    given, began = Given(raw), time.thread_time()
    try:
        found = read(given)
    except (ProviderError, RentDenied, RentUnclear) as error:
        if wrong := _wrong_words(str(error)):
            raise Broken(f"{type(error).__name__} says {wrong}: {str(error)!r:.300}") from error
        if must_be_read(given):
            raise Broken(f"what can be read was refused: {error}") from error
        if isinstance(error, RentDenied) and _json(given.body).get("new_contract") is not None:
            raise Broken("a machine is named, and none is said to be rented") from error
        return error
    if (took := time.thread_time() - began) > SECONDS_MAX:
        raise Broken(f"{len(raw)} bytes took {took:.1f} s")
    match found:
        case Listing():
            _check_listing(found)
        case Quotes():
            _check_quotes(found)
        case bool() | None:
            pass
        case int():
            _check(0 <= found <= COUNT_MAX, "a machine has a number that nobody can store")
        case tuple():
            _check(all(printable(name) and 0 < len(name) < 200 for name in found), "odd names")
    return found


def _wrong_words(said: str) -> str:
    """Returns what is wrong with the words of an error; empty = nothing."""
    if len(said) > SAID_MAX or not printable(said):
        return "more than can be shown"
    if TOKEN.get_secret_value() in said:
        return "a secret"
    # `vast._guarded` is a net below what is foreseen. Nothing should have to fall into it.
    return "what nobody has foreseen" if "cannot be read: " in said and _is_net(said) else ""


def _is_net(said: str) -> bool:
    return said.startswith("an answer of the provider cannot be read: ")


def must_be_read(given: Given) -> bool:
    """Whether this is a listing, on one page, in which each row has a number of its own."""
    if given.asked != "leases" or given.status != 200:
        return False
    told = _json(given.body)
    if told.get("success") is False or "error" in told:
        return False
    rows = told.get("instances")
    if not isinstance(rows, list) or len(rows) > PAGE_ROWS_MAX or told.get("next_token"):
        return False
    numbers = [row.get("id") if isinstance(row, dict) else None for row in rows]
    whole = [one for one in numbers if type(one) is int and 0 <= one <= COUNT_MAX]
    total = told.get("total_instances")
    return type(total) is int and len(set(whole)) == len(rows) == total and not _is_deep(told)


def _json(body: bytes) -> dict[str, Any]:
    """Returns the members of a JSON object; none if it is something else."""
    try:
        told = json.loads(body.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return {}
    return told if isinstance(told, dict) else {}


def _is_deep(value: object, depth: int = 0) -> bool:
    if depth > 100:
        return True
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return any(_is_deep(one, depth + 1) for one in inner)


def _check(holds: bool, words: str) -> None:
    if not holds:
        raise Broken(words)


def _check_listing(found: Listing) -> None:
    _check(0 <= found.account_id <= COUNT_MAX, "an account has a number that nobody can store")
    _check(found.credit_usd is None or abs(found.credit_usd) < 10**20, "credit without end")
    for lease in found.leases:
        _check_lease(lease)


def _check_lease(lease: Lease) -> None:
    _check(0 <= lease.instance_id <= COUNT_MAX, "a machine has a number that nobody can store")
    hash((lease.label, lease.env_mark, lease.status, lease.intended_status))
    amounts = (lease.usd_per_hour, lease.stopped_usd_per_hour, lease.download_gb, lease.upload_gb)
    _check(all(one is None or micro_up(one) >= 0 for one in amounts), "a negative amount")
    shown = (lease.status or "", lease.intended_status or "", lease.status_message)
    _check(all(printable(one) and len(one) <= 300 for one in shown), "words that cannot be shown")
    _check(TOKEN.get_secret_value() not in lease.status_message, "a secret is shown")
    for address in lease.addresses:
        _check(0 < address.port < 65536, "a port that is none")
        _check(address.host.isascii() and printable(address.host), "a host that is none")


def _check_quotes(found: Quotes) -> None:
    for offer in found.offers:
        _check_offer(offer)


def _check_offer(offer: Offer) -> None:
    numbers = (offer.offer_id, offer.machine_id, offer.host_id)
    _check(all(0 <= one <= COUNT_MAX for one in numbers), "a number that nobody can store")
    _check(printable(offer.gpu_model) and printable(offer.location), "odd names")
    prices = (
        *(offer.gpu_usd_per_hour, offer.storage_usd_per_gb_month),
        *(offer.download_usd_per_gb, offer.upload_usd_per_gb),
    )
    _check(all(micro_up(one) >= 0 for one in prices), "a negative price")
    sizes = (offer.gpu_memory_gb, offer.memory_gb, offer.disk_gb, offer.cpu_cores)
    _check(all(float(one) >= 0 for one in sizes), "a negative size")


# --- Answers to begin with ---


def seeds() -> Iterator[bytes]:
    """Yields answers as the provider gives them, of each kind, and what it says when it refuses."""
    market = Market(read_market(), 1, Timing(list_lag=0.0))
    numbers = list(market.offers)[:2]
    for number in numbers:
        ask = Ask("image", 8.0, "c/n/j", {"GPUJOB_MARK": "c/n/j"}, None, "ssh_direc ssh_proxy")
        market.rent(number, ask, NOW.timestamp(), boot_seconds=0.0)
    place = Endpoint("h.example", 22, 10_022)
    machines = [instance_row(one, place, NOW.timestamp()) for one in market.leases.values()]
    offers = [
        offer_row(number, market.offers[number], NOW.timestamp(), is_bid=False)
        for number in list(market.offers)[:2]
    ]
    listing = {"instances": _short(machines), "total_instances": 2, "next_token": None}
    yield _written("leases", 200, listing)
    yield _written("leases", 200, {**listing, "total_instances": 9, "next_token": "x"})
    yield _written("offers", 200, {"offers": _short(offers)})
    yield _written("models", 200, {"gpu_names": ["RTX 4090", "H100 SXM"]})
    yield _written("account", 200, {"id": 7, "credit": 10.5})
    yield _written("rent", 200, {"success": True, "new_contract": 1234})
    yield _written("rent", 400, {"success": False, "error": "no_such_ask", "msg": "gone"})
    yield _written("start", 200, {"success": True})
    for asked in ASKED:
        refusal = {"success": False, "error": "auth_error", "msg": f"no {TOKEN.get_secret_value()}"}
        yield _written(asked, 404, refusal)
        yield _written(asked, 429, {"msg": "threshold=2.5"}, "Retry-After: 3")
        yield _written(
            asked, 429, {"msg": "search_quota_exceeded"}, "X-RateLimit-Reset: 1796000000"
        )
        yield _written(asked, 429, {}, f"Retry-After: {DATE}")


def _short(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: row[name] for name in row if name in READ_KEYS} for row in rows]


def _written(asked: str, status: int, body: dict[str, Any], *headers: str) -> bytes:
    head = "\n".join((f"{asked} {status}", f"Date: {DATE}", *headers))
    return head.encode() + b"\n\n" + json.dumps(body).encode()


# --- Under atheris ---

HEADS = (
    *(f"Date: {one}" for one in (DATE, "soon", "Fri, 31 Dec 9999 23:59:59 GMT", "1" * 5000)),
    *(f"Retry-After: {one}" for one in ("0", "-1", "9" * 30, "1e9", DATE, "\u0665")),
    *(f"X-RateLimit-Reset: {one}" for one in ("0", "9999999999", "1796000000", "\u0665" * 10)),
)
STATUSES = (200, 201, 204, 301, 400, 401, 403, 404, 408, 409, 410, 425, 429, 500, 503, 999, 100)


def mutated(raw: bytes, most: int, seed: int) -> bytes:
    """Returns a changed answer: its bytes, its content, or its head."""
    random = Random(seed)
    head, _, body = raw.partition(b"\n\n")
    chance = random.random()
    if chance < 0.65:
        try:
            document = json.loads(body)
            for _ in range(random.choice((1, 1, 1, 2, 4))):
                document = bend(document, random)
            if random.random() < 0.1:
                document = _marked(document, random)
            body = text_of(document, random)
        except (ValueError, RecursionError):
            body = bytes(atheris.Mutate(body, len(body)))
    elif chance < 0.8:
        lines = [f"{random.choice(ASKED)} {random.choice(STATUSES)}", f"Date: {DATE}"]
        lines += [random.choice(HEADS)] * random.choice((0, 1, 2))
        head = "\n".join(lines).encode()
    else:
        return bytes(atheris.Mutate(raw, len(raw)))[:most]
    changed = head + b"\n\n" + body
    return changed if len(changed) <= most else raw


def _marked(document: Any, random: Random) -> Any:
    """Puts what nobody may show into the words for people."""
    words = TOKEN.get_secret_value() + random.choice(MARKS) + "\x1b[2J"
    names = ("msg", "error", "status_msg", "actual_status", "next_token", "ssh_host")
    rows = document.get("instances") if isinstance(document, dict) else None
    for holder in (document, *(rows if isinstance(rows, list) else ())):
        if isinstance(holder, dict):
            holder[random.choice(names)] = words * random.choice((1, 1, 900))
    return document


# --- The corpus that is kept ---


def reached(raw: bytes) -> set[tuple[str, int, int]]:
    """Returns the steps, from line to line, that reading an answer takes in our code."""
    steps = set[tuple[str, int, int]]()
    roots = tuple(str(ROOT / "operator" / one.replace(".", "/")) for one in READ_BY)

    def local(last: int) -> Any:
        def step(frame: FrameType, event: str, _: object) -> Any:
            nonlocal last
            if event == "line":
                steps.add((frame.f_code.co_filename, last, frame.f_lineno))
                last = frame.f_lineno
            return step

        return step

    def enter(frame: FrameType, _: str, __: object) -> Any:
        return local(0) if frame.f_code.co_filename.startswith(roots) else None

    with _traced(enter):
        played(raw)
    return steps


@contextmanager
def _traced(trace: Any) -> Iterator[None]:
    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)


def keep(found: Path) -> None:
    """Adds to the kept answers the shortest ones that take a step which none of these takes."""
    KEPT.mkdir(exist_ok=True)
    kept = sorted(KEPT.iterdir())
    steps = set[tuple[str, int, int]]().union(*(reached(one.read_bytes()) for one in kept))
    begun = len(steps)
    new = 0
    for one in sorted(found.iterdir(), key=lambda one: (one.stat().st_size, one.name)):
        raw = one.read_bytes()
        if more := reached(raw) - steps:
            steps |= more
            new += 1
            (KEPT / f"{Given(raw).asked}-{one.name[:8]}").write_bytes(raw)
    size = sum(one.stat().st_size for one in KEPT.iterdir())
    print(
        f"{len(kept) + new} answers of {size} bytes are kept in {KEPT.relative_to(ROOT)}, {new} of "
        f"them new; they take {len(steps)} steps, {begun} before"
    )


def main() -> None:
    """Plays for so many seconds by coverage, or keeps what was found; see hack/fuzz."""
    if sys.argv[1] == "keep":
        keep(Path(sys.argv[2]))
        return
    seconds, folder, seed = int(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    corpus = folder / "corpus"
    corpus.mkdir()
    for number, raw in enumerate(seeds()):
        (corpus / f"seed-{number}").write_bytes(raw)
    for one in KEPT.glob("*"):
        (corpus / one.name).write_bytes(one.read_bytes())
    options = {
        "max_total_time": seconds,
        "max_len": ANSWER_BYTES,
        "seed": seed,
        "timeout": 20,
        "rss_limit_mb": 1024,
        "print_final_stats": 1,
        "artifact_prefix": f"{folder}/",
    }
    arguments = [f"-{name}={value}" for name, value in options.items()]

    def play(raw: bytes) -> None:
        played(raw)

    atheris.Setup([sys.argv[0], *arguments, str(corpus)], play, custom_mutator=mutated)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
