"""The account: its user, its money and the records of it (vastsim/FACTS.md, Credit; Records)."""

import base64
import json
from collections.abc import Mapping
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse

from vastsim.market import RefusedError
from vastsim.records import INVOICE_KINDS, charges, payment
from vastsim.requests import Provider, account_of, body_of, integer, json_value, number_of
from vastsim.search import OPERATIONS
from vastsim.state import State

ROWS_DEFAULT, ROWS_MAX = 100, 500
FORMATS = ("table", "tree")
CHARGE_TYPES = ("instance", "volume", "serverless")


def register(provider: Provider, state: State) -> None:
    """Registers the routes."""
    _user(provider, state)
    _records(provider, state)


def _user(provider: Provider, state: State) -> None:
    @provider.route("GET", "/users/current")
    async def current_user(request: Request) -> JSONResponse:
        account = account_of(request, state)
        market, now = state.market, state.now()
        keys = state.account_keys.get(account, [])
        return JSONResponse(
            {
                "id": account,
                "username": "simulated",
                "email": "simulated@example.com",
                "fullname": "Simulated User",
                "credit": float(market.credit(now, account)),
                "balance": 0.0,
                "total_spend": float(market.spent(now, account)),
                "balance_threshold": 0.0,
                "balance_threshold_enabled": False,
                "ssh_key": keys[0].text if keys else "",
                "sid": "",
                "key_id": account,
                "host_agreement_accepted": 0,
            }
        )

    @provider.route("POST", "/contracts/fetch")
    async def contracts(request: Request) -> JSONResponse:
        account = account_of(request, state)
        body = await body_of(request)
        numbers, label = body.get("contract_ids"), body.get("label")
        if set(body) - {"contract_ids", "label"} or not isinstance(numbers, list | None):
            raise RefusedError(400, "invalid_args", "the body may hold contract_ids and label")
        rows = [
            {"id": lease.number, "label": lease.label, "machine_id": lease.facts.machine_id}
            for lease in state.market.leases.values()
            if lease.account == account
            and (numbers is None or lease.number in numbers)
            and (label is None or lease.label == label)
        ]
        return JSONResponse({"success": True, "contracts": rows})


def _records(provider: Provider, state: State) -> None:
    def written() -> float:
        return state.now() - state.market.timing.record_lag

    def charged(account: int) -> list[dict[str, Any]]:
        leases = [one for one in state.market.leases.values() if one.account == account]
        return [row for lease in leases for row in charges(lease, written())]

    def paid(account: int) -> list[dict[str, Any]]:
        at = state.began - 86_400
        return [payment(account, state.market.paid_in(account), at)]

    @provider.route("GET", "/charges")
    async def all_charges(request: Request) -> JSONResponse:
        account = account_of(request, state)
        query = request.query_params
        filters = _filters(query, ("day", "type"))
        if "day" not in filters:
            return JSONResponse({"msg": "select_filters must have a range of day"}, 400)
        if query.get("format", "table") not in FORMATS:
            raise RefusedError(400, "invalid_args", "format must be table or tree")
        rows = _within(charged(account), filters.pop("day"))
        return _page(_of(rows, "type", filters, CHARGE_TYPES), query)

    @provider.route("GET", "/invoices", ("v1",))
    async def invoices(request: Request) -> JSONResponse:
        account = account_of(request, state)
        query = request.query_params
        filters = _filters(query, ("when", "service", "type"))
        if "when" not in filters:
            return JSONResponse({"success": False, "error": "Invalid date range"})
        rows = _within(paid(account), filters.pop("when"))
        rows = [row | {"service": row["source"]} for row in rows]
        rows = _of(rows, "service", filters, INVOICE_KINDS)
        return _page([{k: row[k] for k in row if k != "service"} for row in rows], query)

    @provider.route("GET", "/users/me/invoices")
    async def old_invoices(request: Request) -> JSONResponse:
        account = account_of(request, state)
        query = request.query_params
        since, until = (_epoch(query.get(name)) for name in ("sdate", "edate"))
        rows = [
            {
                "id": number,
                "type": "charge" if row["type"] == "instance" else "payment",
                "description": item["description"],
                "quantity": item["description"].partition(" ")[0] if row["items"] else "1",
                "rate": item["description"].rpartition("$")[2] if row["items"] else "",
                "amount": str(item["amount"]),
                "timestamp": row["end"],
                "instance_id": int(row["source"].rpartition("-")[2]) if row["items"] else None,
            }
            for number, (row, item) in enumerate(
                (
                    (row, item)
                    for row in charged(account) + paid(account)
                    for item in row["items"] or [row]
                ),
                1,
            )
            if since <= row["end"] <= until
        ]
        if query.get("inc_charges") == "false":
            rows = [row for row in rows if row["type"] == "payment"]
        market, now = state.market, state.now()
        current = {
            "charges": float(market.spent(now, account)),
            "service_fee": 0.0,
            "total": float(market.spent(now, account)),
            "credit": float(market.credit(now, account)),
        }
        return JSONResponse({"invoices": rows, "current": current})


def _epoch(value: str | None) -> float:
    if value is None:
        raise RefusedError(400, "invalid_args", "sdate and edate are needed")
    return number_of(value)


def _filters(query: Mapping[str, str], known: tuple[str, ...]) -> dict[str, Any]:
    filters = json_value(query.get("select_filters") or "{}")
    if not isinstance(filters, dict) or not all(isinstance(one, dict) for one in filters.values()):
        raise RefusedError(400, "invalid_args", "select_filters must be an object of objects")
    for name, wanted in filters.items():
        if name not in known or not set(wanted) <= set(OPERATIONS):
            raise RefusedError(400, "invalid_args", f"cannot filter by {name}")
    return filters


def _within(rows: list[dict[str, Any]], bounds: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns the rows that overlap a time."""
    since = max(number_of(bounds.get(name, 0)) for name in ("gte", "gt"))
    until = min(number_of(bounds.get(name, 9e11)) for name in ("lte", "lt"))
    if set(bounds) - {"gte", "gt", "lte", "lt"}:
        raise RefusedError(400, "invalid_args", "a range of time has gte and lte")
    return [row for row in rows if row["end"] >= since and row["start"] <= until]


def _of(
    rows: list[dict[str, Any]], column: str, filters: Mapping[str, Any], known: tuple[str, ...]
) -> list[dict[str, Any]]:
    for name, wanted in filters.items():
        for operation, value in wanted.items():
            try:
                test = OPERATIONS[operation](value)
            except TypeError as error:
                raise RefusedError(400, "invalid_args", f"{name}: {error}") from None
            if name == column and isinstance(value, list) and not set(map(str, value)) <= {*known}:
                raise RefusedError(400, "invalid_args", f"{name} must be of {', '.join(known)}")
            rows = [row for row in rows if test(row[name])]
    return rows


def _page(rows: list[dict[str, Any]], query: Mapping[str, str]) -> JSONResponse:
    """Returns one page of records, by time."""
    down = query.get("latest_first", "false") in ("true", "True", "1")
    rows.sort(key=lambda row: (row["start"], row["source"]), reverse=down)
    limit = integer(query.get("limit") or ROWS_DEFAULT)
    limit = min(limit, ROWS_MAX) if limit > 0 else ROWS_DEFAULT
    first = 0
    if token := query.get("after_token"):
        try:
            first = int(json.loads(base64.b64decode(token, validate=True))["values"]["row"])
        except (ValueError, KeyError, TypeError, RecursionError):
            raise RefusedError(400, "invalid_token", "The token cannot be read.") from None
    shown = rows[max(first, 0) : max(first, 0) + limit]
    ends = max(first, 0) + len(shown)
    token = base64.b64encode(json.dumps({"values": {"row": ends}}).encode()).decode()
    return JSONResponse(
        {
            "success": True,
            "count": len(shown),
            "total": len(rows),
            "next_token": token if ends < len(rows) else None,
            "results": shown,
        }
    )
