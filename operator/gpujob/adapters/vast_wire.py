"""From the provider's JSON to the operator's own terms; no other module knows the provider's words.

Nothing is guessed: an offer whose price or size is missing, or is not a finite number, is left out
and counted. Secrets in an answer (`instance_api_key`, `jupyter_token`) are not read at all.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from fractions import Fraction
from ipaddress import ip_address
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from gpujob.api.words import in_words
from gpujob.core.market.floors import is_name
from gpujob.core.market.listings import Address, Lease, Line
from gpujob.core.market.offers import Offer
from gpujob.core.money import AmountError, exact

MARK_VARIABLE = "GPUJOB_MARK"
PLACE_LENGTH_MAX = 100
STATUS_LENGTH_MAX = 64
HOURS_OF_MONTH = 720
MESSAGE_LENGTH_MAX = 300
COUNT_MAX = 2**53 - 1
"""Kubernetes stores larger integers, but not every reader of JSON does (RFC 8259, section 6)."""

PAGE_ROWS_MAX = 250
"""Twenty-five are asked for (vastsim/FACTS.md, Listings)."""
LISTED_MAX = 10_000
"""Machines of one account; more are a mistake."""
TOKEN_LENGTH_MAX = 1000
NUMBER_LENGTH_MAX = 1000
TEXT_LENGTH_MAX = 20_000
MESSAGE_READ_MAX = 2000
"""So much of a machine's message is searched for secrets before it is cut to what is shown."""

_HOST_NAME = re.compile(
    r"(?=.{1,253}$)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*",
    re.IGNORECASE,
)
_DIGITS = re.compile(r"[0-9]{1,5}")

Row = Mapping[str, Any]


class Malformed(ValueError):
    """A row lacks something that it must have, or has it in a form that cannot be used."""


def can_be_rented(row: Row) -> bool:
    """Whether an offer is free: answers hold some that are not, although the search asks for free
    ones (vastsim/FACTS.md, Search); raises Malformed.
    """
    if not isinstance(row, Mapping):
        raise Malformed("an offer is no object")
    return row.get("rentable") is not False and row.get("rented") is not True


class Page(NamedTuple):
    """One page of a listing."""

    rows: list[Row]
    total: int
    """Of the machines on all pages."""
    next_token: str | None
    """Names the next page; None = this is the last."""


def page_from(answer: Row) -> Page:
    """Returns a page of a listing (vastsim/FACTS.md, Listings); raises Malformed."""
    rows, token = answer.get("instances"), answer.get("next_token") or None
    if not isinstance(rows, list):
        raise Malformed("a page has no rows")
    if len(rows) > PAGE_ROWS_MAX:
        raise Malformed(f"a page has {len(rows)} rows, more than {PAGE_ROWS_MAX}")
    if not all(isinstance(row, Mapping) for row in rows):
        raise Malformed("a machine is no object")
    if token is not None and not (isinstance(token, str) and len(token) <= TOKEN_LENGTH_MAX):
        raise Malformed("next_token is no text that names a page")
    total = count_in(answer, "total_instances")
    if total > LISTED_MAX:
        raise Malformed(f"total_instances is {total}, more than {LISTED_MAX}")
    return Page(rows, total, token)


def offer_from(row: Row) -> Offer:
    """Returns an offer (vastsim/FACTS.md, Offers); raises Malformed."""
    gpus = count_in(row, "num_gpus", least=1)
    cores = _amount(row, "cpu_cores_effective", zero=True)
    machine_cores = _optional_amount(row, "cpu_cores")
    memory = _amount(row, "cpu_ram", zero=True) / 1000
    # cpu_ram is the whole machine's; the offer gets as large a share of it as of the cores.
    share = min(cores / machine_cores, Fraction(1)) if machine_cores else Fraction(0)
    place = _text(row, "geolocation").strip()
    return Offer(
        offer_id=count_in(row, "id"),
        machine_id=count_in(row, "machine_id"),
        host_id=count_in(row, "host_id"),
        gpu_model=_model(row),
        gpu_count=gpus,
        gpu_memory_gb=_amount(row, "gpu_ram", zero=True) / 1024,
        cuda_version=_optional_amount(row, "cuda_max_good") or Fraction(0),
        cpu_cores=cores,
        memory_gb=memory * share,
        disk_gb=_amount(row, "disk_space", zero=True),
        location=in_words(place.strip(", "), PLACE_LENGTH_MAX) or "unknown",
        country=place[-2:] if len(place) >= 2 and place[-2:].isupper() else "",
        is_verified=row.get("verification") == "verified",
        is_datacenter=row.get("hosting_type") == 1,
        reliability=_amount(
            row, "reliability2" if "reliability2" in row else "reliability", zero=True
        ),
        has_direct_port=(_optional_amount(row, "direct_port_count") or 0) >= 1,
        contract_seconds=_amount(row, "duration", zero=True),
        gpu_usd_per_hour=_amount(row, "dph_base"),
        lowest_bid_usd_per_hour=_lowest_bid(row),
        storage_usd_per_gb_month=_amount(row, "storage_cost", zero=True),
        download_usd_per_gb=_amount(row, "inet_down_cost", zero=True),
        upload_usd_per_gb=_amount(row, "inet_up_cost", zero=True),
        download_mbps=_amount(row, "inet_down", zero=True),
        upload_mbps=_amount(row, "inet_up", zero=True),
    )


def _lowest_bid(row: Row) -> Fraction | None:
    """Returns the lowest bid that wins; None = none can be read: it is of no use on demand."""
    try:
        return _optional_amount(row, "min_bid") or None
    except Malformed:
        return None


def lease_from(row: Row, redacted: Callable[[str], str], *, is_local: bool = False) -> Lease:
    """Returns a machine of a listing (vastsim/FACTS.md, Instances).

    Raises Malformed if its number cannot be read. All else that cannot be is unknown: the machine
    is there all the same.

    Users see what the machine says of itself: `redacted` takes secrets out of it. A provider that
    `is_local` may have its machines in a private network.
    """
    environment = _environment(row.get("extra_env"))
    said = _text(row, "status_msg")[:MESSAGE_READ_MAX]
    return Lease(
        instance_id=count_in(row, "id"),
        label=_text(row, "label") or None,
        env_mark=(environment or {}).get(MARK_VARIABLE),
        is_attributable=isinstance(row.get("label"), str) or environment is not None,
        status=in_words(_text(row, "actual_status"), STATUS_LENGTH_MAX) or None,
        intended_status=in_words(_text(row, "intended_status"), STATUS_LENGTH_MAX) or None,
        started_at=_moment(row.get("start_date")),
        usd_per_hour=_price(row),
        download_gb=_moved(row, "inet_down_billed"),
        upload_gb=_moved(row, "inet_up_billed"),
        addresses=tuple(_addresses(row, is_local=is_local)),
        status_message=in_words(redacted(said), MESSAGE_LENGTH_MAX),
        line=_line(row),
        stopped_usd_per_hour=_stopped_price(row),
    )


def _price(row: Row) -> Fraction | None:
    try:
        disk = _amount(row, "storage_cost", zero=True) * _amount(row, "disk_space", zero=True)
        return _amount(row, "dph_base", zero=True) + disk / HOURS_OF_MONTH
    except Malformed:
        return None


def _stopped_price(row: Row) -> Fraction | None:
    """Reads the present price, which is that of a disk (vastsim/FACTS.md, Instances)."""
    prices = row.get("instance")
    if not isinstance(prices, Mapping):
        return None
    try:
        gpus = _amount(prices, "gpuCostPerHour", zero=True)
        return None if gpus else _amount(prices, "totalHour", zero=True)
    except Malformed:
        return None


def _line(row: Row) -> Line | None:
    names = ("inet_down_cost", "inet_up_cost", "inet_down", "inet_up")
    try:
        return Line(*(_amount(row, name, zero=True) for name in names))
    except Malformed:
        return None


def _moved(row: Row, key: str) -> Fraction | None:
    """Reads a counter: cumulative kilobytes (vastsim/FACTS.md, Traffic)."""
    try:
        return (_optional_amount(row, key) or Fraction(0)) / 10**6
    except Malformed:
        return None


def is_local(url: str) -> bool:
    """Whether a provider is no public one, as a simulator is: it is in the cluster, or nearby."""
    host = urlsplit(url).hostname or ""
    try:
        return not ip_address(host).is_global
    except ValueError:
        return _is_near(host)


def _addresses(row: Row, *, is_local: bool) -> Iterator[Address]:
    """Yields where a machine is reached: directly, if port 22 is mapped, then through the proxy.

    See vastsim/FACTS.md, SSH. What cannot be an address of somebody else's machine is left out.
    """
    ports = row.get("ports")
    mapped = ports.get("22/tcp") if isinstance(ports, Mapping) else None
    first = mapped[0] if isinstance(mapped, list) and mapped else None
    direct = first.get("HostPort") if isinstance(first, Mapping) else None
    places = ((row.get("public_ipaddr"), direct), (row.get("ssh_host"), row.get("ssh_port")))
    for host, port in dict.fromkeys((_host(host, is_local), _port(port)) for host, port in places):
        if host is not None and port is not None:
            yield Address(host, port)


def _host(value: object, is_local: bool) -> str | None:
    text = value.strip() if isinstance(value, str) else ""
    try:
        address = ip_address(text)
    except ValueError:
        # What ends in a number would be read as an address after all.
        is_name = bool(_HOST_NAME.fullmatch(text)) and not text.rpartition(".")[2].isdecimal()
        return text if is_name and (is_local or not _is_near(text)) else None
    is_public = address.is_global and not address.is_multicast
    return text if is_public or (is_local and not address.is_unspecified) else None


def _is_near(name: str) -> bool:
    """Whether a name means something only in our own network; so does `null`."""
    return "." not in name or name.lower().endswith((".svc", ".local", ".localhost", ".internal"))


def _port(value: object) -> int | None:
    text = str(value) if isinstance(value, str | int) else ""
    return int(text) if _DIGITS.fullmatch(text) and 0 < int(text) < 65536 else None


def _environment(value: object) -> dict[str, str] | None:
    if isinstance(value, Mapping):
        pairs = list(value.items())
    elif isinstance(value, list) and all(isinstance(one, list) and len(one) == 2 for one in value):
        pairs = value
    else:
        return None
    texts = [(key, held) for key, held in pairs if isinstance(key, str) and isinstance(held, str)]
    return {key: held[:TEXT_LENGTH_MAX] for key, held in texts}


def _text(row: Row, key: str) -> str:
    """Returns a text of bounded length; empty if it is none.

    What is nested can be too deep to be shown, and must not make other rows unreadable.
    """
    value = row.get(key)
    return value[:TEXT_LENGTH_MAX] if isinstance(value, str) else ""


def _moment(value: object) -> datetime | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return datetime.fromtimestamp(value, UTC)
    except (OverflowError, ValueError, OSError):
        return None


def _amount(row: Row, key: str, *, zero: bool = False) -> Fraction:
    value = _optional_amount(row, key)
    if value is None:
        raise Malformed(f"{key} is missing")
    if value == 0 and not zero:
        raise Malformed(f"{key} is zero")
    return value


def _optional_amount(row: Row, key: str) -> Fraction | None:
    value = row.get(key)
    if value is None:
        return None
    if not isinstance(value, int | float | str) or len(str(value)) > NUMBER_LENGTH_MAX:
        raise Malformed(f"{key} is no number")
    try:
        number = exact(value)
    except AmountError as error:
        raise Malformed(f"{key}: {error}") from None
    if number < 0:
        raise Malformed(f"{key} is negative")
    return number


def count_in(row: Row, key: str, least: int = 0) -> int:
    """Returns an integer that can be stored; raises Malformed."""
    value = row.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= COUNT_MAX:
        raise Malformed(f"{key} must be an integer from {least} to {COUNT_MAX}")
    return value


def _model(row: Row) -> str:
    name = row.get("gpu_name")
    if not isinstance(name, str) or not is_name(name.strip()):
        raise Malformed("gpu_name is missing, or cannot be shown")
    return name.strip()
