"""The offer query: filters, order, limit (provider facts, search query grammar)."""

from collections.abc import Callable, Mapping
from typing import Any

from vastsim.market import RefusedError
from vastsim.parameters import filters, integer, rank

CONTROLS = frozenset(
    {"order", "limit", "type", "allocated_storage", "disable_bundling", "extra", "q", "select_cols"}
)
ALIASES = {"reliability": "reliability2", "ubuntu_version": "os_version"}

Row = Mapping[str, Any]


def _number(value: Any) -> Any:
    """Clients send most numbers as strings."""
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
    # Seen to match nothing: the number goes by another name in queries.
    "id": lambda _: None,
}


def search(rows: list[dict[str, Any]], query: Mapping[str, Any], cap: int) -> list[dict[str, Any]]:
    """Returns the rows that a query asks for; raises RefusedError for a malformed one."""
    asked = {name: wanted for name, wanted in query.items() if name not in CONTROLS}
    wanted_fits = {"rentable": {"eq": True}, "verified": {"eq": True}} | dict(
        filters(asked, OPERATIONS, "bad_request")
    )
    limit = query.get("limit")
    most = cap if limit is None else max(min(integer(limit, "q.limit"), cap), 0)
    order = _order(query)
    found = [row for row in rows if all(_fits(row, *item) for item in wanted_fits.items())]
    for column, way in reversed(order):
        found.sort(key=lambda row: rank(row.get(column)), reverse=way == "desc")
    return found[:most]


def _fits(row: Row, name: str, wanted: Mapping[str, Any]) -> bool:
    name = ALIASES.get(name, name)
    if name in COMPUTED:
        have = COMPUTED[name](row)
    elif name in row:
        have = row[name]
    else:
        # Whether unknown fields are refused is not known: ignoring them is the tolerant choice.
        return True
    return all(OPERATIONS[operation](have, want) for operation, want in wanted.items())


def _order(query: Mapping[str, Any]) -> list[tuple[str, str]]:
    order = query.get("order") or [["score", "desc"]]
    if not isinstance(order, list) or not all(
        isinstance(pair, list) and len(pair) == 2 and pair[1] in ("asc", "desc") for pair in order
    ):
        raise RefusedError(400, "bad_request", "q.order: Input should be a list of pairs")
    return [(ALIASES.get(str(column), str(column)), str(way)) for column, way in order]
