"""Listings of what is rented, in pages (vastsim/FACTS.md, Listings)."""

import base64
import json
from collections.abc import Mapping
from typing import Any

from fastapi.responses import JSONResponse

from vastsim.faults import Faults
from vastsim.market import RefusedError
from vastsim.requests import integer, json_value
from vastsim.search import OPERATIONS
from vastsim.state import State

PAGE_MAX = 25
STORED_COLUMNS = frozenset(
    {
        "id",
        "label",
        "actual_status",
        "intended_status",
        "cur_state",
        "next_state",
        "gpu_name",
        "verification",
        "machine_id",
        "host_id",
        "image_uuid",
        "start_date",
        "end_date",
    }
)
"""What can be filtered and sorted by; the other columns are computed."""


def rows_of(state: State, account: int) -> list[dict[str, Any]]:
    """Returns the rows of a listing, after the faults that concern listings."""
    rows: list[dict[str, Any]] = []
    for lease in state.market.listed(state.now(), account):
        image = lease.ask.image
        if state.faults.strikes("list_omit", image=image):
            continue
        row = state.row(lease)
        if state.faults.strikes("null_marks", image=image):
            row |= {"label": None, "extra_env": None}
        rows.append(row)
        if state.faults.strikes("list_duplicate", image=image):
            rows.append(row)
    return rows


def page(rows: list[dict[str, Any]], query: Mapping[str, str], faults: Faults) -> JSONResponse:
    """Returns one page of a listing; raises RefusedError."""
    limit = integer(json_value(query.get("limit") or str(PAGE_MAX)))
    limit = 5 if limit <= 0 else min(limit, PAGE_MAX)
    rows = _filtered(rows, json_value(query.get("select_filters") or "{}"))
    order = _order(json_value(query.get("order_by") or "[]"))
    for column, down in reversed(order):
        rows.sort(key=lambda row: _key(row[column]), reverse=down)
    labels: dict[str, int] = {}
    for row in rows:
        labels[row["label"] or ""] = labels.get(row["label"] or "", 0) + 1
    total = len({row["id"] for row in rows})
    if token := query.get("after_token"):
        rows = _after(rows, order, _values(token, order))
    first, rest = rows[:limit], rows[limit:]
    columns = json_value(query.get("select_cols") or '["*"]')
    if not isinstance(columns, list) or not all(isinstance(name, str) for name in columns):
        raise _invalid("select_cols must be a list of names")
    whole = "*" in columns
    shown = [faults.row(row) for row in first]
    return JSONResponse(
        {
            "success": True,
            "instances_found": len(first),
            "total_instances": total,
            "label_counts": labels,
            "next_token": _token(first[-1], order) if rest else None,
            "instances": [row if whole else {n: row.get(n) for n in columns} for row in shown],
        }
    )


def _invalid(message: str) -> RefusedError:
    return RefusedError(400, "invalid_request", message)


def _filtered(rows: list[dict[str, Any]], filters: Any) -> list[dict[str, Any]]:
    if not isinstance(filters, Mapping):
        raise _invalid("select_filters must be an object")
    for name, wanted in filters.items():
        if name not in STORED_COLUMNS or not isinstance(wanted, Mapping):
            raise _invalid(f"cannot filter by {name}")
        for operation, value in wanted.items():
            if operation not in OPERATIONS:
                raise _invalid(f"unknown operator {operation}")
            try:
                test = OPERATIONS[operation](value)
            except TypeError as error:
                raise _invalid(f"{name}.{operation}: {error}") from None
            rows = [row for row in rows if test(row[name])]
    return rows


def _order(asked: Any) -> list[tuple[str, bool]]:
    """Returns columns and whether each goes down; the number breaks ties."""
    if not isinstance(asked, list):
        raise _invalid("order_by must be a list")
    order = []
    for one in asked:
        column, way = (one.get("col"), one.get("dir", "asc")) if isinstance(one, dict) else ("", "")
        if column not in STORED_COLUMNS or way not in ("asc", "desc"):
            raise _invalid(f"cannot sort by {column}")
        order.append((str(column), way == "desc"))
    return order if any(column == "id" for column, _ in order) else [*order, ("id", False)]


def _key(value: Any) -> tuple[bool, Any]:
    return (value is None, 0 if value is None else value)


def _token(row: Mapping[str, Any], order: list[tuple[str, bool]]) -> str:
    values = {column: row[column] for column, _ in order}
    return base64.b64encode(json.dumps({"values": values}).encode()).decode()


def _values(token: str, order: list[tuple[str, bool]]) -> list[tuple[bool, Any]]:
    """Returns the sort keys of the last row of the page before; raises RefusedError."""
    try:
        values = json.loads(base64.b64decode(token, validate=True))["values"]
        keys = [_key(values[column]) for column, _ in order]
        if not all(isinstance(key[1], str | int | float) for key in keys):
            raise TypeError
        return keys
    except (ValueError, KeyError, TypeError, RecursionError):
        raise RefusedError(400, "invalid_token", "The token cannot be read.") from None


def _after(
    rows: list[dict[str, Any]], order: list[tuple[str, bool]], last: list[tuple[bool, Any]]
) -> list[dict[str, Any]]:
    def is_after(row: Mapping[str, Any]) -> bool:
        for (column, down), before in zip(order, last, strict=True):
            here = _key(row[column])
            if here != before:
                return here < before if down else here > before
        return False

    try:
        return [row for row in rows if is_after(row)]
    except TypeError:
        raise RefusedError(400, "invalid_token", "The token is of another listing.") from None
