"""The offer query: filters, order, limit (vastsim/FACTS.md, Search)."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import compress
from operator import itemgetter
from typing import Any, TypeVar

from vastsim.gpus import driver_number
from vastsim.market import RefusedError
from vastsim.offers import Facts
from vastsim.wire import FIGURES, QUERY_DISK_GB, Offered, offer_row

CONTROLS = frozenset({"order", "limit", "type", "allocated_storage", "disable_bundling", "extra"})
TYPES = ("on-demand", "ondemand", "bid", "reserved")
ALIASES = {"reliability": "reliability2", "ubuntu_version": "os_version"}
UNSORTED = frozenset({"search", "instance", "gpu_ids"})
"""Columns of several values."""
DISK_GB_MAX = 1e6

Item = TypeVar("Item")
Row = Mapping[str, Any]
Test = Callable[[Any], bool]
Values = Callable[[list[Item]], Iterable[Any]]
"""What reads a value of each of some items."""


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

    def chosen(self, items: list[Item], values: Values[Item]) -> list[Item]:
        """Returns the items whose value is as asked for."""
        known = _Known(self.tests)
        try:
            return list(compress(items, map(known.__getitem__, values(items))))
        except TypeError:
            # Some values, such as lists, cannot be keys.
            return list(compress(items, map(known.__missing__, values(items))))


class _Known(dict[Any, bool]):
    """Whether values are as asked for: thousands of rows have few different ones in a column."""

    def __init__(self, tests: tuple[Test, ...]) -> None:
        self._tests = tests

    def __missing__(self, have: Any) -> bool:
        fits = all(test(have) for test in self._tests)
        with suppress(TypeError):
            self[have] = fits
        return fits


@dataclass(frozen=True)
class Query:
    """A query that can be answered."""

    filters: tuple[Filter, ...]
    order: tuple[tuple[str, bool], ...]
    """Columns, and whether each goes down."""
    limit: int | None
    is_bid: bool
    disk_gb: float

    def chosen(
        self,
        items: list[Item],
        column: Callable[[str], Values[Item]],
        meant: Callable[[str], Values[Item]],
        cap: int,
    ) -> list[Item]:
        """Returns the items that fit, in order, at most `cap`.

        By its name, `column` returns what reads a column of items, and `meant` what reads what a
        query means by it.
        """
        for one in self.filters:
            items = one.chosen(items, meant(one.column))
        for name, down in reversed(self.order):
            items = _sorted(items, column(name), down=down)
        return items[: min(cap if self.limit is None else self.limit, cap)]


def _sorted(items: list[Item], values: Values[Item], *, down: bool) -> list[Item]:
    """Returns items in the order of their values; None is the highest one."""
    held = list(values(items))
    without = [place for place, value in enumerate(held) if value is None]
    places = [place for place, value in enumerate(held) if value is not None]
    places.sort(key=held.__getitem__, reverse=down)
    return [items[place] for place in ([*without, *places] if down else [*places, *without])]


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
    wanted = read_query(query, frozenset(rows[0]) if rows else frozenset())

    def column(name: str) -> Values[dict[str, Any]]:
        return partial(map, itemgetter(name))

    def meant(name: str) -> Values[dict[str, Any]]:
        return partial(map, QUERY_ONLY.get(name, itemgetter(name)))

    return _numbered(wanted.chosen(rows, column, meant, cap))


def search_offers(
    offers: Mapping[int, Facts], query: Any, now: float, cap: int
) -> list[dict[str, Any]]:
    """Returns the rows of the offers that a query asks for; raises RefusedError.

    Only what is answered is made whole: with thousands of offers, that saves most of the time.
    """
    if not offers:
        return []
    hardware = {number: facts.hardware for number, facts in offers.items()}
    wanted = read_query(query, frozenset(FIGURES) | frozenset(next(iter(hardware.values()))))

    # Numbers, not objects: thousands of these in each search would start the garbage collector.
    def column(name: str) -> Values[int]:
        if figure := FIGURES.get(name):
            terms = (now, wanted.disk_gb, wanted.is_bid)
            return partial(map, lambda number: figure(Offered(number, offers[number], *terms)))
        return of_hardware(itemgetter(name))

    def meant(name: str) -> Values[int]:
        made = QUERY_ONLY.get(name)
        return column(name) if made is None else of_hardware(made)

    def of_hardware(value: Callable[[Row], Any]) -> Values[int]:
        return lambda numbers: map(value, map(hardware.__getitem__, numbers))

    chosen = wanted.chosen(list(offers), column, meant, cap)
    return _numbered(
        [
            offer_row(number, offers[number], now, wanted.disk_gb, is_bid=wanted.is_bid)
            for number in chosen
        ]
    )


def _numbered(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    for number, row in enumerate(rows, 1):
        row["rn"] = number
    return rows
