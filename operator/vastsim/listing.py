"""The paged listing of rented machines (provider facts, v1 list semantics). Pure."""

import base64
import json
from collections.abc import Mapping
from typing import Any

from vastsim.market import RefusedError
from vastsim.parameters import filters, integer, json_value, rank
from vastsim.search import OPERATIONS

PAGE_MAX = 25
PAGE_LEAST = 5
"""Rows of a page if none or fewer are asked for."""
STORED_COLUMNS = frozenset(
    {"id", "label", "actual_status", "gpu_name", "verification", "machine_id", "start_date"}
)

Row = dict[str, Any]
Order = list[tuple[str, bool]]
"""Columns, and whether each goes down."""


def page(rows: list[Row], query: Mapping[str, str]) -> dict[str, Any]:
    """Returns the page that a query asks for; raises RefusedError for a malformed one."""
    asked = {
        name: json_value(query[name], name, "invalid_request")
        for name in ("select_filters", "limit", "order_by", "select_cols")
        if query.get(name)
    }
    limit = integer(asked.get("limit", PAGE_MAX), "limit", "invalid_request")
    order = _order(asked.get("order_by", []))
    columns = _columns(asked.get("select_cols", ["*"]))
    for name, wanted in filters(
        asked.get("select_filters", {}), OPERATIONS, "invalid_request"
    ).items():
        _stored(name, "filter")
        for operation, value in wanted.items():
            rows = [row for row in rows if OPERATIONS[operation](row[name], value)]
    labels: dict[str, int] = {}
    for row in rows:
        labels[row["label"] or ""] = labels.get(row["label"] or "", 0) + 1
    total = len(rows)
    for column, down in reversed(order):
        rows = sorted(rows, key=lambda row: rank(row[column]), reverse=down)
    if token := query.get("after_token"):
        last = _last_of(token, order)
        rows = [row for row in rows if _follows(row, last, order)]
    limit = PAGE_LEAST if limit <= 0 else min(limit, PAGE_MAX)
    shown, rest = rows[:limit], rows[limit:]
    return {
        "success": True,
        "instances_found": len(shown),
        "total_instances": total,
        "label_counts": labels,
        "next_token": _token(shown[-1], order) if rest else None,
        "instances": [
            row if "*" in columns else {name: row.get(name) for name in columns} for row in shown
        ],
    }


def _stored(name: Any, what: str) -> str:
    if isinstance(name, str) and name in STORED_COLUMNS:
        return name
    raise RefusedError(400, "invalid_request", f"can not {what} by {name}: no stored column")


def _order(asked: Any) -> Order:
    if not isinstance(asked, list) or not all(isinstance(item, Mapping) for item in asked):
        raise RefusedError(400, "invalid_request", "order_by: Input should be a list of objects")
    order = []
    for item in asked:
        direction = item.get("dir", "asc")
        if direction not in ("asc", "desc"):
            raise RefusedError(400, "invalid_request", f"order_by: no direction {direction}")
        order.append((_stored(item.get("col"), "order"), direction == "desc"))
    # Without a column that tells all rows apart, a page would not know where the last one ended.
    return order if any(column == "id" for column, _ in order) else [*order, ("id", False)]


def _columns(asked: Any) -> list[str]:
    if not isinstance(asked, list) or not all(isinstance(name, str) for name in asked):
        raise RefusedError(400, "invalid_request", "select_cols: Input should be a list of names")
    return asked


def _follows(row: Row, last: Row, order: Order) -> bool:
    for column, down in order:
        here, there = rank(row[column]), rank(last[column])
        if here != there:
            return here < there if down else here > there
    return False


def _token(row: Row, order: Order) -> str:
    values = {column: row[column] for column, _ in order}
    return base64.b64encode(json.dumps({"values": values}).encode()).decode()


def _last_of(token: str, order: Order) -> Row:
    try:
        values = json.loads(base64.b64decode(token, validate=True))["values"]
        return {column: values[column] for column, _ in order}
    except (ValueError, KeyError, TypeError, RecursionError):
        raise RefusedError(400, "invalid_token", "The token can not be read.") from None
