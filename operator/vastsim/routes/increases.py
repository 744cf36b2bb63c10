"""Hosts that raise their price (vastsim/FACTS.md, Price increases)."""

from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse

from vastsim.market import Lease, RefusedError
from vastsim.requests import Provider, account_of, body_of, integer
from vastsim.routes.instances import only
from vastsim.state import State


def register(provider: Provider, state: State) -> None:
    """Registers the routes."""

    @provider.route("GET", "/instances/pending-price-increases")
    async def pending(request: Request) -> JSONResponse:
        asked = state.market.increases(state.now(), account_of(request, state))
        rows = [_row(lease) for lease in asked]
        found = {"count": len(rows), "truncated": False, "pending_price_increases": rows}
        return JSONResponse({"success": True, **found})

    @provider.route("PUT", "/instances/accept-price-increase")
    async def accept(request: Request) -> JSONResponse:
        return await answered(request, is_accepted=True)

    @provider.route("PUT", "/instances/reject-price-increase")
    async def reject(request: Request) -> JSONResponse:
        return await answered(request, is_accepted=False)

    async def answered(request: Request, *, is_accepted: bool) -> JSONResponse:
        account, body = account_of(request, state), await body_of(request)
        only(body, {"pending_price_increase_id"})
        number, now = integer(body.get("pending_price_increase_id")), state.now()
        if number not in {lease.number for lease in state.market.increases(now, account)}:
            message = "No such price increase is pending."
            raise RefusedError(404, "no_pending_price_increase", message)
        state.market.answer_increase(number, now, is_accepted=is_accepted)
        return JSONResponse({"success": True})


def _row(lease: Lease) -> dict[str, Any]:
    assert lease.increase is not None, "it was asked for"
    at, usd_per_hour = lease.increase
    seconds = 3600 * lease.facts.num_gpus
    ends_at = lease.created_at + lease.facts.contract_seconds
    unchanged = ("disk_ram_costpersec", "bwu_cost", "bwd_cost", "platform_fee")
    return {
        "pending_price_increase_id": lease.number,
        "contract_id": lease.number,
        "host_id": lease.facts.host_id,
        "new_gpu_costpersec": float(usd_per_hour / seconds),
        "old_gpu_costpersec": float(lease.gpu_usd_per_hour / seconds),
        **{f"{age}_{name}": None for name in unchanged for age in ("new", "old")},
        "contract_end_date": ends_at,
        "ask_end_date": ends_at,
        "created_at": at,
    }
