"""Listings of what is rented, in pages (vastsim/FACTS.md, Listings)."""

import base64
import json
from collections.abc import Mapping
from typing import Any

from fastapi.responses import JSONResponse

from vastsim.market import RefusedError
from vastsim.requests import integer, json_value
from vastsim.search import OPERATIONS
from vastsim.state import State

PAGE_MAX = 25
STORED_COLUMNS = frozenset({"id", "label", "actual_status", "gpu_name", "verification"})


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


def page(rows: list[dict[str, Any]], query: Mapping[str, str]) -> JSONResponse:
    """Returns one page of a listing (vastsim/FACTS.md, Listings)."""
    filters = json_value(query.get("select_filters") or "{}")
    limit = integer(json_value(query.get("limit") or str(PAGE_MAX)))
    limit = 5 if limit <= 0 else min(limit, PAGE_MAX)
    for name, wanted in filters.items():
        if name not in STORED_COLUMNS or not isinstance(wanted, Mapping):
            raise RefusedError(400, "invalid_request", f"cannot filter by {name}")
        for operation, value in wanted.items():
            if operation not in OPERATIONS:
                raise RefusedError(400, "invalid_request", f"unknown operator {operation}")
            rows = [row for row in rows if OPERATIONS[operation](row[name], value)]
    order = json_value(query.get("order_by") or '[{"col":"id","dir":"asc"}]')
    if not isinstance(order, list) or any(item.get("col") != "id" for item in order):
        raise RefusedError(
            400, "invalid_request", "not simulated: an order by other columns than id"
        )
    down = any(item.get("dir") == "desc" for item in order)
    rows.sort(key=lambda row: row["id"], reverse=down)
    matching, total = rows, len({row["id"] for row in rows})
    if token := query.get("after_token"):
        last = _last_of(token)
        rows = [row for row in rows if (row["id"] < last if down else row["id"] > last)]
    first, rest = rows[:limit], rows[limit:]
    labels: dict[str, int] = {}
    for row in matching:
        labels[row["label"] or ""] = labels.get(row["label"] or "", 0) + 1
    columns = json_value(query.get("select_cols") or '["*"]')
    if "*" not in columns:
        shown = [{name: row.get(name) for name in columns} for row in first]
    else:
        shown = first
    return JSONResponse(
        {
            "success": True,
            "instances_found": len(first),
            "total_instances": total,
            "label_counts": labels,
            "next_token": _token(first[-1]["id"]) if rest else None,
            "instances": shown,
        }
    )


def _token(number: int) -> str:
    return base64.b64encode(json.dumps({"values": {"id": number}}).encode()).decode()


def _last_of(token: str) -> int:
    try:
        return int(json.loads(base64.b64decode(token, validate=True))["values"]["id"])
    except (ValueError, KeyError, TypeError):
        raise RefusedError(400, "invalid_token", "The token cannot be read.") from None
