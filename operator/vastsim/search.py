"""The offer query: filters, order, limit (vastsim/FACTS.md, Search)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from vastsim.gpus import driver_number
from vastsim.market import RefusedError
from vastsim.offers import Facts
from vastsim.wire import QUERY_DISK_GB, offer_row

CONTROLS = frozenset({"order", "limit", "type", "allocated_storage", "disable_bundling", "extra"})
TYPES = ("on-demand", "ondemand", "bid", "reserved")
ALIASES = {"reliability": "reliability2", "ubuntu_version": "os_version"}
UNSORTED = frozenset({"search", "instance", "gpu_ids"})
"""Columns of several values."""
DISK_GB_MAX = 1e6

Row = Mapping[str, Any]
Test = Callable[[Any], bool]


def _number(value: Any) -> Any:
    """Returns a value as a number if it is one: clients send most numbers as strings."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return {"true": True, "false": False}.get(value.lower(), value)
    return value


def _equals(want: Any) -> Test:
    number = _number(want)
    if number is None or isinstance(number, str | list | dict):
        return lambda have: bool(have == want)
    return lambda have: bool(_number(have) == number)


def _ordered(compare: Callable[[Any, Any], bool]) -> Callable[[Any], Test]:
    def operation(want: Any) -> Test:
        right = _number(want)
        if not isinstance(right, int | float):
            return lambda _: False

        def test(have: Any) -> bool:
            left = _number(have)
            return isinstance(left, int | float) and compare(left, right)

        return test

    return operation


def _among(want: Any) -> Test:
    if not isinstance(want, list):
        raise TypeError("Input should be a valid list")
    tests = [_equals(one) for one in want]
    return lambda have: any(test(have) for test in tests)


def _not(operation: Callable[[Any], Test]) -> Callable[[Any], Test]:
    def negated(want: Any) -> Test:
        test = operation(want)
        return lambda have: not test(have)

    return negated


OPERATIONS: Mapping[str, Callable[[Any], Test]] = {
    "eq": _equals,
    "neq": _not(_equals),
    "gt": _ordered(lambda left, right: left > right),
    "gte": _ordered(lambda left, right: left >= right),
    "lt": _ordered(lambda left, right: left < right),
    "lte": _ordered(lambda left, right: left <= right),
    "in": _among,
    "notin": _not(_among),
}
"""By name: from the value that is asked for to the test of a value that a row has.

They raise TypeError for a value that cannot be compared so."""


def _place(row: Row) -> str:
    """Returns the country, which is how the free text of a place ends."""
    return str(row["geolocation"] or "").rpartition(", ")[2]


QUERY_ONLY: Mapping[str, Callable[[Row], Any]] = {
    "verified": lambda row: row["verification"] == "verified",
    "datacenter": lambda row: row["hosting_type"] == 1,
    "geolocation": _place,
    "driver_version": lambda row: row["driver_vers"],
    # The provider was seen to match nothing here; in queries the number has another name.
    "id": lambda _: None,
}
"""What a query means by these names, which is not what a row has under them."""


@dataclass(frozen=True)
class Filter:
    """What is asked of one column."""

    column: str
    tests: tuple[Test, ...]

    def fits(self, row: Row) -> bool:
        """Returns whether a row has what is asked for."""
        made = QUERY_ONLY.get(self.column)
        have = row[self.column] if made is None else made(row)
        return all(test(have) for test in self.tests)


@dataclass(frozen=True)
class Query:
    """A query that can be answered."""

    filters: tuple[Filter, ...]
    order: tuple[tuple[str, bool], ...]
    """Columns, and whether each goes down."""
    limit: int | None
    is_bid: bool
    disk_gb: float

    def chosen(self, rows: list[dict[str, Any]], cap: int) -> list[dict[str, Any]]:
        """Returns the rows that fit, in order, at most `cap`."""
        rows = [row for row in rows if all(one.fits(row) for one in self.filters)]
        for column, down in reversed(self.order):
            rows.sort(key=lambda row: _rank(row[column]), reverse=down)
        found = rows[: min(cap if self.limit is None else self.limit, cap)]
        for number, row in enumerate(found, 1):
            row["rn"] = number
        return found


def _rank(value: Any) -> tuple[bool, Any]:
    return (value is None, 0 if value is None else value)


def read_query(query: Any, columns: frozenset[str]) -> Query:
    """Reads a query on rows of these columns; raises RefusedError for what cannot be done.

    Whether the provider refuses a filter that it does not know is not known; ignoring one would
    hide a client's mistake.
    """
    if not isinstance(query, Mapping):
        raise _bad("q: Input should be a valid dictionary")
    # Machines that the caller rents are not among the offers, so there is nothing to add to them.
    filters = {"rentable": {"eq": True}} | {
        name: wanted
        for name, wanted in query.items()
        if name not in CONTROLS and not (name == "rented" and wanted == {"eq": True})
    }
    kind = query.get("type") or "on-demand"
    if kind not in TYPES:
        raise _bad(f"q.type: Input should be one of {', '.join(TYPES)}")
    if query.get("extra") not in (None, "", {}):
        raise _bad("q.extra: Extra inputs are not permitted")
    return Query(
        filters=tuple(_filter(*item, columns) for item in filters.items()),
        order=_order(query.get("order"), columns),
        limit=None if query.get("limit") is None else int(_bounded("limit", query["limit"], 1e9)),
        is_bid=kind == "bid",
        disk_gb=_bounded(
            "allocated_storage", query.get("allocated_storage", QUERY_DISK_GB), DISK_GB_MAX
        ),
    )


def _bad(message: str) -> RefusedError:
    return RefusedError(400, "bad_request", message)


def _bounded(name: str, value: Any, most: float) -> float:
    number = QUERY_DISK_GB if value is None else _number(value)
    if isinstance(number, bool) or not isinstance(number, int | float) or not 0 <= number <= most:
        raise _bad(f"q.{name}: Input should be a number from 0 to {most:.0f}")
    return float(number)


def _filter(name: str, wanted: Any, columns: frozenset[str]) -> Filter:
    if not isinstance(wanted, Mapping):
        raise _bad(f"q.{name}: Input should be a valid dictionary")
    column = ALIASES.get(name, name)
    if column not in columns and column not in QUERY_ONLY:
        raise _bad(f"q.{name}: Extra inputs are not permitted")
    tests = []
    for operation, value in wanted.items():
        if operation not in OPERATIONS:
            raise _bad(f"q.{name}.{operation}: Extra inputs are not permitted")
        try:
            tests.append(OPERATIONS[operation](_meant(column, value)))
        except TypeError as error:
            raise _bad(f"q.{name}.{operation}: {error}") from None
    return Filter(column, tuple(tests))


def _meant(column: str, value: Any) -> Any:
    """Returns what a value of a query means where it is written in another way than in a row."""
    if isinstance(value, list):
        return [_meant(column, one) for one in value]
    if column == "geolocation" and isinstance(value, str):
        return value.rpartition(", ")[2]
    if column == "driver_version" and isinstance(value, str) and value.count(".") == 2:
        try:
            return driver_number(value)
        except ValueError:
            return value
    return value


def _order(order: Any, columns: frozenset[str]) -> tuple[tuple[str, bool], ...]:
    order = order or [["score", "desc"]]
    if not isinstance(order, list) or not all(
        isinstance(pair, list) and len(pair) == 2 for pair in order
    ):
        raise _bad("q.order: Input should be a list of pairs")
    found = []
    for name, way in order:
        column = ALIASES.get(str(name), str(name))
        if column not in columns - UNSORTED or way not in ("asc", "desc"):
            raise _bad(f"q.order: {name} {way} is not known")
        found.append((column, way == "desc"))
    return tuple(found)


def search(rows: list[dict[str, Any]], query: Mapping[str, Any], cap: int) -> list[dict[str, Any]]:
    """Returns the rows that a query asks for; raises RefusedError."""
    columns = frozenset(rows[0]) if rows else frozenset()
    return read_query(query, columns).chosen(rows, cap)


def search_offers(
    offers: Mapping[int, Facts], query: Any, now: float, cap: int
) -> list[dict[str, Any]]:
    """Returns the rows of the offers that a query asks for; raises RefusedError.

    Most offers are ruled out by what never changes, before their rows are made.
    """
    if not offers:
        return []
    first = next(iter(offers.items()))
    columns = frozenset(offer_row(*first, now))
    wanted = read_query(query, columns)
    fixed = frozenset(first[1].hardware) | (frozenset(QUERY_ONLY) - {"id"})
    early = [one for one in wanted.filters if one.column in fixed]
    left = list(offers.items())
    for one in early:
        left = [item for item in left if one.fits(item[1].hardware)]
    rows = [offer_row(*item, now, wanted.disk_gb, is_bid=wanted.is_bid) for item in left]
    late = tuple(one for one in wanted.filters if one not in early)
    return replace(wanted, filters=late).chosen(rows, cap)
