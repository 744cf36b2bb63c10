"""The offer query: filters, order, limit (vastsim/FACTS.md, Search)."""

from collections.abc import Callable, Mapping
from typing import Any

from vastsim.market import RefusedError

CONTROLS = frozenset(
    {"order", "limit", "type", "allocated_storage", "disable_bundling", "extra", "q", "select_cols"}
)
ALIASES = {"reliability": "reliability2", "ubuntu_version": "os_version"}

Row = Mapping[str, Any]


def _number(value: Any) -> Any:
    """Returns a value as a number if it is one: clients send most numbers as strings."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _equal(have: Any, want: Any) -> bool:
    return bool(_number(have) == _number(want))


def _ordered(compare: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    def operation(have: Any, want: Any) -> bool:
        left, right = _number(have), _number(want)
        numeric = isinstance(left, int | float) and isinstance(right, int | float)
        return numeric and compare(left, right)

    return operation


OPERATIONS: Mapping[str, Callable[[Any, Any], bool]] = {
    "eq": _equal,
    "neq": lambda have, want: not _equal(have, want),
    "gt": _ordered(lambda left, right: left > right),
    "gte": _ordered(lambda left, right: left >= right),
    "lt": _ordered(lambda left, right: left < right),
    "lte": _ordered(lambda left, right: left <= right),
    "in": lambda have, want: any(_equal(have, one) for one in want),
    "notin": lambda have, want: not any(_equal(have, one) for one in want),
}

COMPUTED: Mapping[str, Callable[[Row], Any]] = {
    "verified": lambda row: row["verification"] == "verified",
    "datacenter": lambda row: row["hosting_type"] == 1,
    # A country is matched by the end of the free text.
    "geolocation": lambda row: row["geolocation"].rpartition(", ")[2],
    # The provider was seen to match nothing here; in queries the number has another name.
    "id": lambda _: None,
}


def search(rows: list[dict[str, Any]], query: Mapping[str, Any], cap: int) -> list[dict[str, Any]]:
    """Returns the rows that a query asks for; raises RefusedError for a malformed one."""
    filters = {"rentable": {"eq": True}, "verified": {"eq": True}} | {
        name: wanted for name, wanted in query.items() if name not in CONTROLS
    }
    for name, wanted in filters.items():
        if not isinstance(wanted, Mapping) or not set(wanted) <= set(OPERATIONS):
            message = f"q.{name}: Input should be a valid dictionary"
            raise RefusedError(400, "bad_request", message)
    found = [row for row in rows if all(_fits(row, *item) for item in filters.items())]
    for column, direction in reversed(_order(query)):
        found.sort(
            key=lambda row: (row.get(column) is None, row.get(column) or 0),
            reverse=direction == "desc",
        )
    limit = query.get("limit")
    wanted_rows = int(_number(limit)) if limit is not None else cap
    return found[: max(min(wanted_rows, cap), 0)]


def _fits(row: Row, name: str, wanted: Mapping[str, Any]) -> bool:
    name = ALIASES.get(name, name)
    if name in COMPUTED:
        have = COMPUTED[name](row)
    elif name in row:
        have = row[name]
    else:
        # It is not known whether the provider refuses unknown fields; ignoring them is tolerant.
        return True
    return all(OPERATIONS[operation](have, want) for operation, want in wanted.items())


def _order(query: Mapping[str, Any]) -> list[tuple[str, str]]:
    order = query.get("order") or [["score", "desc"]]
    if not isinstance(order, list) or not all(
        isinstance(pair, list) and len(pair) == 2 for pair in order
    ):
        raise RefusedError(400, "bad_request", "q.order: Input should be a list of pairs")
    return [(ALIASES.get(str(column), str(column)), str(way)) for column, way in order]
